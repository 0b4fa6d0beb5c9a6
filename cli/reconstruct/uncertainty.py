"""`--uncertainty`: the standard deviation of every voxel beside the image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import typer
from rich.console import Console

from emrecon import formats
from emrecon.projectors import BedScan, GaussianBlur, ImageGrid
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.progress import stage
from emrecon.recon import ArgumentError, Iterate, MethodEngine, Quantity
from emrecon.recon.methods import check_uncertainty, uncertainty_of

from ..outputs import writing
from .data import Source, beside
from .engine import Choice, Engine, to_device
from .output import in_patient, unit_of
from .record import Journal
from .settings import Settings

_TOLERANCE = 0.05  # relative error of a deviation, rms over the voxels
_OPTION = "--uncertainty"


def check(settings: Settings, choice: Choice, source: Source) -> None:
    """Raise typer.BadParameter where the method or the data have no map of uncertainty."""
    if settings.output.uncertainty is None:
        return
    try:
        check_uncertainty(choice.method)
    except ArgumentError as error:
        raise typer.BadParameter(str(error), param_hint=_OPTION) from None
    if isinstance(source, BedScan) and settings.data.beds != "joint":
        raise typer.BadParameter(
            "beds that are stitched have no map of uncertainty; use --beds joint, or one bed", param_hint=_OPTION
        )


def deviation(made: Engine, last: Iterate, settings: Settings, journal: Journal) -> np.ndarray | None:
    """Return the map of a piece of the data, after the filter; None where it is not wanted."""
    if settings.output.uncertainty is None or not isinstance(made, MethodEngine):
        return None
    device, fwhm = settings.run.device, settings.method.filter
    at = last._replace(image=to_device(last.image, device))
    with stage("uncertainty"):
        estimate = uncertainty_of(made, at)
        whole = estimate if fwhm is None else estimate.filtered(GaussianBlur(made.problem.grid, fwhm))
        try:
            found = whole.standard_deviation(tolerance=_TOLERANCE)
        except RuntimeError as error:
            raise typer.BadParameter(f"no map of uncertainty: {error}", param_hint=_OPTION) from None
    journal.console.print(str(found))
    journal.note(
        "the map of uncertainty holds the noise of the counts alone, not that of estimated scatter and randoms, of the "
        "attenuation map or of the calibration, and no bias"
        + ("" if made.method.name == "osem" else "; it is that of the minimiser, which the image must be near to")
    )
    return to_numpy(found.image)


def write(
    settings: Settings,
    image: np.ndarray,
    grid: ImageGrid,
    console: Console,
    provenance: formats.Provenance,
    quantity: Quantity,
    times: formats.ImageTimes | None,
    source: Source,
) -> None:
    """Write the map in the unit of the image, with its record."""
    path = settings.output.uncertainty
    assert path is not None
    unit = unit_of(quantity, source)
    what = "this image is the standard deviation of every voxel over the noise of the counts"
    record = replace(provenance, unit=unit, notes=(*provenance.notes, what))
    with writing(), stage(f"writing {path.name}"):
        formats.write_image(
            path,
            to_numpy(quantity(image)),
            in_patient(path, grid, record),
            beside=beside(settings.data)(path),
            unit=unit,
            provenance=record,
            times=times,
        )
    console.print(f"wrote {path}, the standard deviation of every voxel")
