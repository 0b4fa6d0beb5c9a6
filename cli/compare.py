"""`emrecon compare`: two images against one another, as a picture and in numbers."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from emrecon import figures, formats
from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.progress import stage
from emrecon.projectors.core.resampling import resample
from emrecon.recon import Agreement, agreement_of

from .images import Shown, different_patients, in_unit_of, load, named, point
from .outputs import check_outputs, writing
from .printing import note, plain_console, quietly

IMAGES, REGION, LOOK, OUTPUT = "Images", "Region", "Look", "Output"


@dataclass(frozen=True, eq=False)
class Region:
    """The voxels that are compared, and how they were chosen in words."""

    mask: np.ndarray | None
    words: str


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The reference: an image of any format, or a DICOM folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The image that is compared; resampled onto the grid of A.")],
    out: Annotated[Path, typer.Option(rich_help_panel=OUTPUT, help="Picture to write: .png, .svg or .pdf.")],
    region: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=REGION,
            help="Compare within a mask: RTSTRUCT, SEG, or an image of labels (default: all voxels).",
        ),
    ] = None,
    region_name: Annotated[
        str | None,
        typer.Option(rich_help_panel=REGION, help="Which of the regions of --region (default: all of them together)."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(rich_help_panel=REGION, help="Compare where A is above this part of its maximum, such as 0.1."),
    ] = None,
    scale: Annotated[
        bool,
        typer.Option("--scale", rich_help_panel=IMAGES, help="Multiply B by the number that brings it closest to A."),
    ] = False,
    frame: Annotated[
        int | None,
        typer.Option(rich_help_panel=IMAGES, help="Frame 1, 2, ... of images with several (default: the mean)."),
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(rich_help_panel=LOOK, help="Bq/mL, SUV, counts ...; converted where the files say their own."),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=LOOK, metavar="X,Y,Z", help="Point of the slices in mm, middle, or max of A (default)."
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            rich_help_panel=LOOK,
            help="Line of the profile: x, y or z through the point, or X,Y,Z:X,Y,Z in mm.",
        ),
    ] = "x",
    window: Annotated[
        str | None,
        typer.Option(rich_help_panel=LOOK, metavar="LOW,HIGH", help="Window of both images, as for emrecon view."),
    ] = None,
    colour: Annotated[
        str | None, typer.Option(rich_help_panel=LOOK, help=f"{', '.join(figures.COLOURS)}, or a map of matplotlib.")
    ] = None,
    labels: Annotated[
        str, typer.Option(rich_help_panel=LOOK, metavar="A,B", help="What the two images are called on the picture.")
    ] = "A,B",
    title: Annotated[str | None, typer.Option(rich_help_panel=LOOK, help="A line above (default: none).")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", rich_help_panel=OUTPUT, help="File for the numbers, as JSON.")
    ] = None,
    dpi: Annotated[
        float, typer.Option(min=20, max=1200, rich_help_panel=OUTPUT, help="Pixels of an inch of PNG.")
    ] = 150,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=OUTPUT, help="Print nothing but errors.")
    ] = False,
) -> None:
    """Compare image B with the reference A: slices, difference, profile, histogram; NRMSE, SSIM, bias in a region."""
    console = plain_console(quiet=quiet)
    if region is None and region_name is not None:
        raise typer.BadParameter("it is used along with --region only", param_hint="--region-name")
    if region is not None and threshold is not None:
        raise typer.BadParameter("give --region or --threshold, not both", param_hint="--threshold")
    names = _labels(labels)
    with named("--out"):
        figures.picture_kind(out)
    check_outputs({"picture": out, "--json": json_file}, (a, b, region))
    with quietly(quiet):
        with stage("reading"):
            first, second = (load(path, frame=frame, unit=unit) for path in (a, b))
        for name, shown in zip(names, (first, second)):
            for text in shown.notes:
                note(f"{name}: {text}", console)
        moments = [_moment_of(path) for path in (a, b)]
        if None not in moments and moments[0] != moments[1]:
            note(f"{names[0]} is decay corrected to {moments[0]}, {names[1]} to {moments[1]}", console)
        second, covered, said = _on_grid_of(first, second, names, scale)
        said += different_patients((names[0], a), (names[1], b))
        chosen = _region(first, region, region_name, threshold, formats.study_of_file(a))
        chosen, more = _within(chosen, covered, names)
        for text in (*said, *more):
            note(text, console)
        factor = _closest(first, second, chosen) if scale else None
        if factor is not None:
            second = replace(second, image=second.image * factor)
        found = agreement_of(second.image, first.image, chosen.mask)
        units = first.unit, second.unit
        if any(units) and not all(units):
            a_or_b = names[0 if second.unit else 1]
            note(
                f"{a_or_b} does not say its unit: unless it is {first.unit or second.unit}, too, bias, ratios and "
                "differences of the two have no meaning",
                console,
            )
        lines = _lines(found, units, chosen, names, factor)
        console.print("\n".join(lines))
        look, more = first.look(colour, window, False)
        for text in more:
            note(text, console)
        drawing: dict[str, Any] = {"names": names, "mask": chosen.mask, "title": title or "", "line": _profile(profile)}
        with stage("drawing"):
            place = _place(at, first, chosen)
            with named("--profile"):
                figure = figures.comparison(
                    first.image, second.image, first.grid, look, at=place, footer=_short(lines), **drawing
                )
        with writing():
            figures.save(figure, out, dpi)
            if json_file is not None:
                _write(json_file, found, first, chosen, factor)
    also = f" and {json_file}" if json_file is not None else ""
    console.print(f"wrote {out}{also}")


def _moment_of(path: Path) -> str | None:
    """The moment that an image is decay corrected to, as its record says; None where it says none."""
    with suppress(formats.FormatError, OSError):
        for line in formats.read_provenance(path).calibration:
            found = re.search(r"decay corrected to ([^(;]*(\([^)]*\))?)", line)
            if found:
                return found[1].strip()
    return None


def _labels(text: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise typer.BadParameter(f"{text!r} is not two names with a comma between", param_hint="--labels")
    return parts[0], parts[1]


def _on_grid_of(
    first: Shown, second: Shown, names: tuple[str, str], scale: bool
) -> tuple[Shown, np.ndarray | None, list[str]]:
    """B in the unit and on the grid of A, where A is covered by it (None: everywhere), and what to say."""
    said: list[str] = []
    converted = in_unit_of(second, first)
    if converted is None and not scale:
        raise ValueError(
            f"{names[0]} is in {first.unit} and {names[1]} in {second.unit}; give --unit, or --scale to compare shapes"
        )
    if converted is not None and converted.unit != second.unit:
        said.append(f"{names[1]} was converted from {second.unit} to {first.unit}")
    second = converted or second
    same = second.grid.shape == first.grid.shape and np.allclose(second.grid.affine, first.grid.affine, atol=1e-4)
    if same:
        return second, None, said
    if not np.isfinite(second.image).all():
        raise ValueError(f"{names[1]} holds NaN or infinite values, and cannot be brought onto the grid of {names[0]}")
    moved = np.asarray(resample(np.asarray(second.image, np.float32), second.grid, first.grid))
    covered = np.asarray(resample(np.ones(second.grid.shape, np.float32), second.grid, first.grid)) > 0.999
    said.append(f"{names[1]} ({second.grid}) was resampled onto the grid of {names[0]} ({first.grid})")
    return Shown(moved, first.grid, second.unit), None if covered.all() else covered, said


def _region(first: Shown, path: Path | None, name: str | None, threshold: float | None, study: Study | None) -> Region:
    if path is not None:
        masks = formats.read_masks(path, first.grid, study)
        if name is not None and name not in masks:
            raise typer.BadParameter(
                f"there is no {name!r}; choose from {', '.join(masks)}", param_hint="--region-name"
            )
        used = {name: masks[name]} if name is not None else masks
        return Region(np.logical_or.reduce(list(used.values())), f"region {', '.join(used)}")
    if threshold is None:
        return Region(None, "all voxels")
    if not 0 <= threshold < 1:
        raise typer.BadParameter(f"must be from 0 to below 1, got {threshold:g}", param_hint="--threshold")
    largest = float(np.nanmax(first.image))
    if not largest > 0:
        raise typer.BadParameter("the reference has no positive values", param_hint="--threshold")
    return Region(first.image > threshold * largest, f"voxels above {threshold:g} of the maximum")


def _within(region: Region, covered: np.ndarray | None, names: tuple[str, str]) -> tuple[Region, list[str]]:
    """The region where both images are."""
    if covered is None:
        return region, []
    whole = np.ones(covered.shape, bool) if region.mask is None else region.mask
    inside = whole & covered
    lost = int(whole.sum() - inside.sum())
    if not inside.any():
        raise ValueError(f"no voxel of the region is covered by {names[1]}")
    if not lost:
        return region, []
    return Region(inside, region.words), [f"{lost} voxels of the region lie outside of {names[1]} and are left out"]


def _closest(first: Shown, second: Shown, region: Region) -> float:
    found = agreement_of(second.image, first.image, region.mask).scale
    if not (np.isfinite(found) and found > 0):
        raise typer.BadParameter("no positive number brings B closer to A", param_hint="--scale")
    return found


def _place(at: str | None, first: Shown, region: Region) -> Any:
    place = point(at, "max")
    inside = first.image if region.mask is None or place != "max" else np.where(region.mask, first.image, -np.inf)
    with named("--at"):
        i, j, k = figures.indices_at(inside, first.grid, place)
    return tuple(o + d * n for o, d, n in zip(first.grid.origin, first.grid.voxel_size, (i, j, k)))


def _profile(text: str) -> Any:
    if text in ("x", "y", "z"):
        return text
    try:
        start, end = ([float(part) for part in point_.split(",")] for point_ in text.split(":"))
    except ValueError:
        start, end = [], []
    if len(start) != 3 or len(end) != 3:
        raise typer.BadParameter(f"{text!r} is not x, y, z or X,Y,Z:X,Y,Z in mm", param_hint="--profile")
    return start, end


def _lines(
    found: Agreement, units: tuple[str, str], region: Region, names: tuple[str, str], factor: float | None
) -> list[str]:
    """The numbers in words, one a line; where one of the images says no unit, that is said of it."""
    a, b = names
    own, other = (f" {unit}" if unit else " (no unit)" if any(units) else "" for unit in units)
    of = own if own == other else " (no unit)"
    own = "" if own == other else own
    scaled = [] if factor is None else [f"{b} was multiplied by {factor:.6g}"]
    numbers = {
        "means": f"{a} {found.reference_mean:.5g}{own}, {b} {found.mean:.5g}{other}",
        "bias": _percent(found.bias),
        "NRMSE": _number(found.nrmse),
        "SSIM": _number(found.ssim),
        "correlation": _number(found.correlation),
        "largest difference": f"{found.largest_difference:.5g}{of}",
        "best scale": f"{b} x {_number(found.scale)}",
    }
    head = f"{b} against {a}, {region.words}: {found.n_voxels} voxels"
    return [*scaled, head, *(f"{name:18} {value}" for name, value in numbers.items())]


def _short(lines: list[str]) -> str:
    """The numbers below the picture, in fewer lines."""
    start = next(i for i, line in enumerate(lines) if " against " in line)
    head, rest = lines[: start + 1], [" ".join(line.split()) for line in lines[start + 1 : start + 6]]
    return "\n".join((*head, "; ".join(rest)))


def _number(value: float) -> str:
    return "not defined" if value != value else f"{value:.4f}"


def _percent(value: float) -> str:
    return "not defined" if value != value else f"{100 * value:+.2f} %"


def _write(path: Path, found: Agreement, first: Shown, region: Region, factor: float | None) -> None:
    grid: ImageGrid = first.grid
    content = {
        **found.as_dict(),
        "unit": first.unit or None,
        "region": region.words,
        "scaled_by": factor,
        "shape": grid.shape,
        "voxel_size_mm": grid.voxel_size,
    }
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
