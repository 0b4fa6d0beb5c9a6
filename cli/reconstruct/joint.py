"""MLAA and MLACF on the command line: what fixes the scale, the body, and the attenuation map beside the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import typer
from rich.console import Console

from emrecon import formats
from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.progress import stage
from emrecon.recon import Iterate, JointOptions, KnownScale, Problem, SmoothPrior
from emrecon.recon.methods import JOINT, JointEngine, PriorChoice, choose, named_prior

from ..outputs import writing
from .data import beside
from .engine import Choice, Engine
from .output import in_patient
from .record import Journal
from .settings import MethodTable, Settings

_KINDS = ("total", "activity", "mu")
_UNIT = "1/cm"


def with_map(settings: Settings, choice: Choice) -> Settings:
    """Return the settings with the name of the attenuation map: IMAGE_mu beside the image unless --mu-out says it."""
    own = settings.output
    if choice.name not in JOINT or own.mu_out is not None:
        return settings
    return settings.model_copy(update={"output": own.model_copy(update={"mu_out": map_beside(own.out)})})


def map_beside(out: Path) -> Path:
    """Return where the map of an image goes: image_mu.nii.gz of image.nii.gz; of DICOM as .nii.gz."""
    suffix = ".nii.gz" if out.name.lower().endswith(".nii.gz") else out.suffix
    stem = out.name[: len(out.name) - len(suffix)] if suffix else out.name
    return out.with_name(f"{stem}_mu{'.nii.gz' if suffix.lower() in ('.dcm', '') else suffix}")


def check(settings: Settings, choice: Choice) -> None:
    """Raise typer.BadParameter, which names the option, for what cannot be understood before the data are read."""
    if choice.name in JOINT:
        _known_text(settings.method)
        _penalty_choice(settings.method.mu_prior)
        out = settings.output.mu_out
        if out is not None and formats.image_kind(out) == "dicom":
            raise typer.BadParameter("an attenuation map is not written as DICOM; use .nii.gz", param_hint="--mu-out")


def options_of(
    settings: Settings, choice: Choice, problem: Problem, study: Study | None, journal: Journal
) -> JointOptions | None:
    """Return what the options tell a joint method, with regions on the grid of the problem; None for other methods."""
    if choice.name not in JOINT:
        return None
    table, grid = settings.method, problem.grid
    kind, value = _known_text(table) or (None, 0.0)
    known = None
    if kind is not None:
        region = None if table.known_region is None else _region(table.known_region, "--known-region", grid, study)
        known = _made(kind, value, region)
    else:
        journal.note(
            f"nothing fixes the scale of {choice.name}, which time of flight leaves open: regions compare with each "
            "other, but the activity may be too high or too low by one factor; --known fixes it"
        )
    if table.without_tof:
        journal.note(
            "--without-tof: data without time of flight do not determine activity and attenuation together, and each "
            "shows up in the image of the other"
        )
    body = None if table.body is None else _region(table.body, "--body", grid, study)
    options = JointOptions(known=known, body=body, penalty=_penalty(table, grid), without_tof=table.without_tof)
    if known is not None and not known.is_of_activity and choice.name == "mlacf":
        raise typer.BadParameter("mlacf has no map of mu to fix; give total or activity", param_hint="--known")
    return options


def attenuation(made: Engine, last: Iterate) -> np.ndarray | None:
    """Return the attenuation map of an iterate, None for engines that find none."""
    if not isinstance(made, JointEngine):
        return None
    with stage("attenuation map"):
        return to_numpy(made.attenuation(last))


def write(
    settings: Settings,
    mu: np.ndarray,
    grid: ImageGrid,
    console: Console,
    provenance: formats.Provenance,
    times: formats.ImageTimes | None,
) -> None:
    """Write the map in 1/cm, with its record."""
    path = settings.output.mu_out
    assert path is not None
    what = "this image is the attenuation map in 1/cm at 511 keV that was found along with the activity"
    record = replace(provenance, unit=_UNIT, notes=(*provenance.notes, what))
    with writing(), stage(f"writing {path.name}"):
        formats.write_image(
            path,
            mu,
            in_patient(path, grid, record),
            beside=beside(settings.data)(path),
            unit=_UNIT,
            provenance=record,
            times=times,
        )
    console.print(f"wrote {path}, the attenuation map in 1/cm")


def _known_text(table: MethodTable) -> tuple[str, float] | None:
    """The kind and value of --known, after checking that a region is given where it is needed."""
    if table.known is None:
        if table.known_region is not None:
            raise typer.BadParameter("it is used along with --known only", param_hint="--known-region")
        return None
    kind, _, text = table.known.partition(":")
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if kind not in _KINDS or not 0 < value < float("inf"):
        form = "total:SUM, activity:MEAN or mu:VALUE (1/cm), a positive number"
        raise typer.BadParameter(f"{table.known!r} is not of the form {form}", param_hint="--known")
    if (kind == "total") != (table.known_region is None):
        why = (
            "total is of the whole image and takes no region"
            if kind == "total"
            else f"{kind} needs --known-region MASK"
        )
        raise typer.BadParameter(why, param_hint="--known")
    return kind, value


def _made(kind: str, value: float, region: np.ndarray | None) -> KnownScale:
    try:
        return KnownScale(kind, value, region)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--known") from None


def _region(path: Path, option: str, grid: ImageGrid, study: Study | None) -> np.ndarray:
    """The union of the regions of a file."""
    masks = formats.read_masks(path, grid, study)
    region: np.ndarray = np.any(list(masks.values()), axis=0)
    if not region.any():
        raise typer.BadParameter(f"{path} has no voxel on the grid of the image", param_hint=option)
    return region


def _penalty_choice(text: str | None) -> PriorChoice | None:
    if text is None:
        return None
    try:
        found = choose("map-em", text).prior
    except ValueError as error:
        raise typer.BadParameter(f"{error}", param_hint="--mu-prior") from None
    assert isinstance(found, PriorChoice)
    if found.name == "rdp" and len(found.values) == 2:
        raise typer.BadParameter("rdp of a map of mu needs its EPSILON, in 1/cm", param_hint="--mu-prior")
    return found


def _penalty(table: MethodTable, grid: ImageGrid) -> SmoothPrior | None:
    found = _penalty_choice(table.mu_prior)
    return None if found is None else named_prior(found, grid)
