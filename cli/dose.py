"""`emrecon dose`: absorbed dose of a therapy, from images in Bq/mL at one time or several."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from emrecon import formats
from emrecon.formats.dicom.nm import nm_kind
from emrecon.formats.dicom.series import headers_of
from emrecon.formats.dicom.summary import is_dicom
from emrecon.projectors import ImageGrid, Study, isotope
from emrecon.projectors.core.progress import stage
from emrecon.projectors.core.resampling import resample
from emrecon.recon.dosimetry import (
    MODELS,
    Treatment,
    attenuation_to_density,
    emissions_of,
    hounsfield_to_density,
    treatment_dose,
)
from emrecon.recon.dosimetry.dose import AIR

from .dose_methods import METHODS, check_use, dose_method
from .images import different_patients, in_patient, known, named
from .outputs import check_outputs, writing
from .printing import note, plain_console, printable, quietly

_BECQUERELS = {"Bq/mL": 1.0, "kBq/mL": 1e3, "MBq/mL": 1e6}
_DENSITY_UNITS = ("hu", "g/mL", "1/cm")
_MOMENTS = ("scan", "injection")
_MODELS = (*MODELS, "physical", "auto")
SCANS, CURVE, BODY, FILE = "Scans", "Curve", "Body", "File"


@dataclass
class _Said:
    """Notes: printed at once, and kept for the record and the table."""

    console: Console
    notes: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> None:
        self.notes.append(text)
        note(text, self.console)


@dataclass(frozen=True)
class _Images:
    """Concentrations in Bq/mL at the times of the scans, on one grid in the patient's coordinates."""

    stack: np.ndarray
    grid: ImageGrid


def dose(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Images in Bq/mL, one per scan, in the order of --times: NIfTI, HDF5, Interfile or DICOM; a file may "
            "hold several scans as frames.",
        ),
    ],
    nuclide: Annotated[str, typer.Option(rich_help_panel=SCANS, help="lu177, y90 or i131, in any spelling.")],
    times: Annotated[
        list[str],
        typer.Option(
            rich_help_panel=SCANS,
            metavar="HOURS",
            help="Hours from injection to each scan: 4,24,96, or a number for each --times, or numbers after one.",
        ),
    ],
    unit: Annotated[
        str | None,
        typer.Option(rich_help_panel=SCANS, help="Of images whose files do not say it: Bq/mL, kBq/mL or MBq/mL."),
    ] = None,
    corrected_to: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=SCANS,
            help="The moment that the values belong to: scan (default: what the files say, else scan) or injection, "
            "whose decay correction is taken back.",
        ),
    ] = None,
    injected: Annotated[
        float | None, typer.Option(rich_help_panel=SCANS, help="MBq, for time-integrated activity coefficients.")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            rich_help_panel=CURVE,
            help=f"{', '.join(_MODELS)}. physical is decay alone, for one scan or more; auto (--fit organ) chooses.",
        ),
    ] = "mono",
    fit: Annotated[
        str, typer.Option(rich_help_panel=CURVE, help="A curve in every voxel, or one for each organ (with --masks).")
    ] = "voxel",
    half_life: Annotated[
        float | None,
        typer.Option(rich_help_panel=CURVE, help="Effective half-life of everything in h, where it is known."),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(rich_help_panel=BODY, help="Organs and lesions: RTSTRUCT, SEG, or an image of labels; repeat."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=BODY, metavar="NUMBER=NAME", help="Name of a label of --masks; repeat."),
    ] = None,
    density: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=BODY, help="CT (a DICOM folder, or an image in HU), or an image of density or attenuation."
        ),
    ] = None,
    density_unit: Annotated[
        str | None,
        typer.Option(rich_help_panel=BODY, help="Of --density, where the file does not say it: hu, g/mL or 1/cm."),
    ] = None,
    density_energy: Annotated[
        float | None,
        typer.Option(rich_help_panel=BODY, help="--density-unit 1/cm: keV of the map (default: the nuclide's line)."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            rich_help_panel=BODY,
            help="kernel: voxel S values; local: electrons are absorbed in the voxel that they arise in; monte-carlo: "
            "histories in tissue; network: a trained one (--weights), with --density.",
        ),
    ] = "kernel",
    histories: Annotated[
        int | None,
        typer.Option(
            min=10, rich_help_panel=BODY, help="--method monte-carlo: decays that are followed (default: 1000000)."
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(rich_help_panel=BODY, help="--method network: trained weights, .safetensors with its card."),
    ] = None,
    threshold: Annotated[
        list[float] | None,
        typer.Option(rich_help_panel=BODY, metavar="GY", help="Table: share of each volume that gets more; repeat."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(rich_help_panel=FILE, help="Image of the dose in Gy: .nii.gz, .h5 or .hv.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(rich_help_panel=FILE, help="Table of organs (with --masks): .csv or .json.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=FILE, help="Print nothing but errors.")
    ] = False,
) -> None:
    """Absorbed dose of Lu-177, Y-90 or I-131: `emrecon dose A.nii.gz B.nii.gz --times 24,96 --nuclide lu177 ...`.

    Curves are fitted to the scans' activities, their integrals convolved with voxel S values, and divided by density.
    """
    console = plain_console(quiet=quiet)
    said = _Said(console)
    files, hours = _files_and_times(images, times)
    _check_choices(nuclide, model, fit, method, corrected_to, density_unit)
    _check_use(masks, fit, table, label, density, density_unit, density_energy, half_life, injected)
    check_use(method, weights, density, histories)
    check_outputs({"--out": out, "--table": table}, (*files, *(masks or ()), density, weights))
    with quietly(quiet):
        with stage("reading the images"):
            found = _read(files, hours, nuclide, unit, corrected_to, said)
        for path in (*files[1:], *([] if density is None else [density])):
            for text in different_patients((path.name, path), (files[0].name, files[0])):
                said(text)
        regions = _masks(masks or (), label or (), found.grid, said, formats.study_of_file(files[0]))
        body = None if density is None else _density(density, density_unit, density_energy, nuclide, found, said)
        made_by, about = dose_method(method, weights, histories, nuclide, found.grid)
        with stage("fitting curves and making the dose"), named("--model"):
            result = treatment_dose(
                hours,
                list(found.stack),
                found.grid,
                nuclide,
                masks=regions or None,
                density=body,
                model=model,
                fit=fit,
                method=made_by,
                injected=injected,
                half_life=half_life,
                thresholds=threshold or (),
            )
        for text in result.notes:
            said(text)
        _show(result, console)
        with writing():
            if out is not None:
                parameters = {"nuclide": result.dose.nuclide, "times": ", ".join(f"{t:g} h" for t in hours)}
                parameters |= {"model": model, "fit": fit, **about}
                outputs = [("--out", out)] + ([("--table", table)] if table is not None else [])
                record = _record(
                    files,
                    masks or (),
                    {"--density": density, "--weights": weights},
                    outputs,
                    parameters,
                    said.notes,
                    result,
                )
                formats.write_image(out, result.dose.image.astype(np.float32), found.grid, unit="Gy", provenance=record)
            if table is not None and result.organs is not None:
                result.organs.write(table)
    for written in (out, table):
        if written is not None:
            console.print(f"wrote {written}")


def _files_and_times(images: Sequence[Path], times: Sequence[str]) -> tuple[list[Path], list[float]]:
    """The images and hours; numbers among the images that are no files belong to --times."""
    texts = [part for text in times for part in text.split(",") if part.strip()]
    files = []
    for path in images:
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", str(path)) and not path.exists():
            texts += [str(path)]
        else:
            files.append(path)
    try:
        hours = [float(text) for text in texts]
    except ValueError:
        raise typer.BadParameter(f"{', '.join(texts)} are not hours", param_hint="--times") from None
    if not files:
        raise typer.BadParameter("name the images of the scans", param_hint="IMAGE...")
    if not (all(math.isfinite(h) and h >= 0 for h in hours) and all(b > a for a, b in pairwise(hours))):
        raise typer.BadParameter("hours after injection must not be negative, and increase", param_hint="--times")
    return files, hours


def _check_choices(
    nuclide: str, model: str, fit: str, method: str, corrected_to: str | None, density_unit: str | None
) -> None:
    with named("--nuclide"):
        emissions_of(nuclide)
    for option, value, choices in (
        ("--model", model, _MODELS),
        ("--fit", fit, ("voxel", "organ")),
        ("--method", method, METHODS),
        ("--corrected-to", corrected_to, _MOMENTS),
        ("--density-unit", density_unit, _DENSITY_UNITS),
    ):
        if value is not None and value not in choices:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(choices)}", param_hint=option)


def _check_use(
    masks: Sequence[Path] | None,
    fit: str,
    table: Path | None,
    label: Sequence[str] | None,
    density: Path | None,
    density_unit: str | None,
    density_energy: float | None,
    half_life: float | None,
    injected: float | None,
) -> None:
    """Refuse options that would be ignored, and numbers without a meaning."""
    for option, used, needed in (
        ("--fit", fit == "organ" and not masks, "--masks"),
        ("--table", table is not None and not masks, "--masks"),
        ("--label", label and not masks, "--masks"),
        ("--injected", injected is not None and not masks, "--masks"),
        ("--density-unit", density_unit is not None and density is None, "--density"),
        ("--density-energy", density_energy is not None and density_unit != "1/cm", "--density-unit 1/cm"),
    ):
        if used:
            raise typer.BadParameter(f"it is used along with {needed} only", param_hint=option)
    for option, value in (("--half-life", half_life), ("--injected", injected), ("--density-energy", density_energy)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise typer.BadParameter(f"must be positive, got {value}", param_hint=option)
    if table is not None and table.suffix.lower() not in (".csv", ".json"):
        raise typer.BadParameter(f"a table of organs is .csv or .json, not {table.name!r}", param_hint="--table")


# ---- what is read ----------------------------------------------------------------------------------------------------


def _read(
    files: Sequence[Path],
    hours: Sequence[float],
    nuclide: str,
    unit: str | None,
    corrected_to: str | None,
    said: _Said,
) -> _Images:
    """Return all scans in Bq/mL at their own times, on the grid of the first."""
    volumes: list[np.ndarray] = []
    grid: ImageGrid | None = None
    half_life = isotope(nuclide).half_life / 3600
    for path in files:
        image, own = formats.read_image(path)
        own = in_patient(path, own)
        scale = _to_becquerels(path, unit)
        parts = image if image.ndim == 4 else image[None]
        start = len(volumes)
        if start + len(parts) > len(hours):
            raise _uneven(files, hours)
        if grid is not None and not _same(own, grid):
            said(f"{path.name} is on another grid and is brought to that of {files[0].name}; images are not registered")
            with named(path.name):
                parts = np.asarray(resample(parts, own, grid))
        grid = own if grid is None else grid
        _check_study(path, hours[start], nuclide, said)
        back = _taken_back(path, corrected_to, said)
        volumes += [
            np.asarray(part, float) * scale * (2 ** (-hours[start + i] / half_life) if back else 1.0)
            for i, part in enumerate(parts)
        ]
        if not np.isfinite(volumes[-1]).all():
            raise formats.FormatError(f"{path}: the image holds NaN or infinite values")
    if len(volumes) != len(hours):
        raise _uneven(files, hours)
    assert grid is not None
    return _Images(np.stack(volumes), grid)


def _uneven(files: Sequence[Path], hours: Sequence[float]) -> typer.BadParameter:
    shapes = [formats.read_image(path)[0].shape for path in files]
    n = sum(shape[0] if len(shape) == 4 else 1 for shape in shapes)
    return typer.BadParameter(
        f"there are {len(hours)} times, and {n} images; give one time per image", param_hint="--times"
    )


def _same(one: ImageGrid, other: ImageGrid) -> bool:
    return one.shape == other.shape and np.allclose(one.affine, other.affine, atol=1e-3)


def _to_becquerels(path: Path, unit: str | None) -> float:
    own = known(formats.image_unit(path))
    given = known(unit)
    if given and given not in _BECQUERELS:
        raise typer.BadParameter(f"{unit!r} is not one of {', '.join(_BECQUERELS)}", param_hint="--unit")
    if own and own not in _BECQUERELS:
        raise typer.BadParameter(
            f"{path.name} is in {own}, and a dose needs Bq/mL; calibrate the image (emrecon reconstruct --calibration)",
            param_hint="IMAGE...",
        )
    if own and given and own != given:
        raise typer.BadParameter(f"{path.name} says that it is in {own}, not in {given}", param_hint="--unit")
    if not (own or given):
        raise typer.BadParameter(f"{path.name} does not say its unit; is it in Bq/mL?", param_hint="--unit")
    return _BECQUERELS[own or given]


def _taken_back(path: Path, corrected_to: str | None, said: _Said) -> bool:
    """Whether the values are decay corrected to injection, as the option or the file says."""
    stated = _correction(path)
    if corrected_to is None and stated == "injection":
        said(f"{path.name} is decay corrected to injection; its values are brought to the time of the scan")
    elif corrected_to is None and stated == "unknown":
        raise typer.BadParameter(
            f"{path.name} is decay corrected, but not to the time of the scan or of the injection as far as it says; "
            "say which, scan or injection, or reconstruct it with --decay-to start",
            param_hint="--corrected-to",
        )
    elif corrected_to == "scan" and stated == "injection":
        said(f"{path.name} says that it is decay corrected to injection, and is taken as --corrected-to says")
    return (corrected_to or stated) == "injection"


def _correction(path: Path) -> str | None:
    """What a file says that its values are corrected to: "injection", "scan", "unknown"; None where it is mute."""
    with suppress(formats.FormatError, OSError):
        record = formats.read_provenance(path)
        for line in (*record.calibration, *record.physics, *record.notes):
            found = re.search(r"decay corrected to (the start of the scan|the injection)?", line)
            if found:
                return {"the start of the scan": "scan", "the injection": "injection"}.get(found[1] or "", "unknown")
    if path.is_dir() or is_dicom(path):
        _, header = headers_of(path)[0][0]
        terms = {"ADMIN": "injection", "START": "scan", "NONE": "scan"}
        stated = str(header.get("DecayCorrection", "") or "").strip().upper()
        if stated:
            return terms.get(stated, "unknown")
        said = str(header.get("DerivationDescription", "") or "")
        for words, moment in (("the start of the scan", "scan"), ("the injection", "injection")):
            if f"decay corrected to {words}" in said:
                return moment
        return "unknown" if "DECY" in str(header.get("CorrectedImage", "")) else None
    return None


def _check_study(path: Path, hours: float, nuclide: str, said: _Said) -> None:
    """Say where a file of nuclear medicine contradicts the nuclide or the time that was given."""
    if not is_dicom(path) or nm_kind(path) != "image":
        return
    found = formats.read_dicom_nm_image(path)
    if found.radionuclide is not None and found.radionuclide != isotope(nuclide).name:
        said(f"{path.name} is an image of {found.radionuclide}, and the dose is that of {isotope(nuclide).name}")
    injection, start = found.study.injection, found.study.start
    if injection is not None and start is not None and (injection.tzinfo is None) == (start.tzinfo is None):
        own = (start - injection).total_seconds() / 3600
        if abs(own - hours) > max(0.5, 0.02 * hours):
            said(f"{path.name} was measured {own:.4g} h after the injection by its header, and not {hours:g} h")


def _masks(
    paths: Sequence[Path], labels: Sequence[str], grid: ImageGrid, said: _Said, study: Study | None
) -> dict[str, np.ndarray]:
    names = _label_names(labels)
    masks: dict[str, np.ndarray] = {}
    for path in paths:
        taken = names if names and not (path.is_dir() or is_dicom(path)) else None
        for name, mask in formats.read_masks(path, grid, study, names=taken).items():
            if not mask.any():
                said(f"{name} of {path.name} lies outside of the image and is left out")
            elif name in masks:
                raise typer.BadParameter(f"two files hold a region {name!r}", param_hint="--masks")
            else:
                masks[name] = mask
    return masks


def _label_names(labels: Sequence[str]) -> dict[int, str]:
    names = {}
    for text in labels:
        number, found, name = text.partition("=")
        if not (found and number.strip().isdigit() and name.strip()):
            raise typer.BadParameter(f"{text!r} is not NUMBER=NAME", param_hint="--label")
        names[int(number)] = name.strip()
    return names


def _density(
    path: Path, unit: str | None, energy: float | None, nuclide: str, found: _Images, said: _Said
) -> np.ndarray:
    """Density in g/mL on the images' grid, air where the file does not reach."""
    with stage("reading the density"):
        image, own = formats.read_image(path)
    if image.ndim != 3:
        raise formats.FormatError(f"{path} holds several volumes, shape {image.shape}; save one as its own file")
    own = in_patient(path, own)
    unit = _density_unit(path, image, unit, said)
    with named("--density"):
        if unit == "hu":
            values = hounsfield_to_density(image)
        elif unit == "1/cm":
            with named("--density-energy"):
                keV = energy or isotope(nuclide).main_energy
            values = attenuation_to_density(image, keV)
        else:
            values = np.asarray(image, float)
        on_grid = np.maximum(np.asarray(resample(values, own, found.grid), float), 0)
    weight = np.maximum(found.stack.sum(0), 0)
    outside = float(weight[on_grid < AIR].sum() / max(weight.sum(), 1e-300))
    if outside > 0.001:
        said(f"{outside:.1%} of the activity lies in air, or where {path.name} does not reach, and gets no dose there")
    return on_grid


def _density_unit(path: Path, image: np.ndarray, unit: str | None, said: _Said) -> str:
    stated = (formats.image_unit(path) or "").lower()
    own = {"hu": "hu", "g/ml": "g/mL", "g/cm3": "g/mL", "1/cm": "1/cm"}.get(stated)
    if own and unit and own != unit:
        raise typer.BadParameter(f"{path.name} says that it is in {own}, not in {unit}", param_hint="--density-unit")
    if own or unit:
        return own or str(unit)
    if np.nanmin(image) < -500 and np.nanmax(image) < 40000:
        said(f"{path.name} is taken for a CT in Hounsfield units by its values")
        return "hu"
    raise typer.BadParameter(f"{path.name} does not say its unit: hu, g/mL or 1/cm?", param_hint="--density-unit")


# ---- what is said and written ----------------------------------------------------------------------------------------


def _show(result: Treatment, console: Console) -> None:
    console.print(str(result.dose))
    if result.organs is None:
        return
    console.print(printable(str(result.organs)))
    for name, fit in result.fits.items():
        console.print(printable(f"{name}: {fit} (MBq h)"))


def _record(
    files: Sequence[Path],
    masks: Sequence[Path],
    others: Mapping[str, Path | None],
    outputs: Sequence[tuple[str, Path]],
    parameters: dict[str, str],
    notes: Sequence[str],
    result: Treatment,
) -> formats.Provenance:
    inputs = [("image", path) for path in files] + [("--masks", path) for path in masks]
    inputs += [(option, path) for option, path in others.items() if path is not None]
    clean = record_words([path for role, path in inputs if role != "--weights"], [*inputs, *outputs])
    with stage("digests of the inputs"):
        used = tuple(formats.used_file(role, path) for role, path in inputs)
    return formats.Provenance(
        command=shlex.join(["emrecon", *(clean(last_part(word)) for word in sys.argv[1:])]),
        method="voxel dosimetry",
        parameters=parameters,
        unit="Gy",
        inputs=used,
        physics=(str(result.dose),),
        notes=tuple(map(clean, notes)),
    )


def record_words(paths: Sequence[Path], files_named: Sequence[tuple[str, Path]]) -> Callable[[str], str]:
    """Return what takes the names of patients and files out of the words of a record.

    paths : of DICOM files, where the patients' names are.  files_named : (role, file) of what words may name.
    """
    hidden = _patient_words(paths)
    return lambda text: formats.without_words(formats.without_files(text, files_named), hidden)


def last_part(word: str) -> str:
    """Return a word of the command line without folders, which may be called as people."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return f"{option}{equals}{Path(value).name or value}"


def _patient_words(paths: Sequence[Path]) -> tuple[str, ...]:
    """The words of the names in DICOM inputs, which the record must not hold."""
    found: set[str] = set()
    for path in paths:
        if path.is_dir() or is_dicom(path):
            with suppress(formats.FormatError, OSError):
                _, header = headers_of(path)[0][0]
                said = {word: str(header.get(word, "")) for word in ("PatientName", "PatientID", "PatientBirthName")}
                found |= set(formats.patient_words(Study(attributes=said)))
    return tuple(sorted(found))
