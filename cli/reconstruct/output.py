"""What `emrecon reconstruct` writes and shows: images, pictures, logs and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from emrecon import figures, formats
from emrecon.projectors import GaussianBlur, ImageGrid, ScanSeries, WindowedSeries
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.progress import stage
from emrecon.projectors.physics.ct_maps import shifted_grid
from emrecon.projectors.physics.quantities import COUNTS
from emrecon.recon import Checkpoint, History, Log, ProgressBar, Quantity, RankGroup, RelativeChange
from emrecon.recon.ranks import ALONE
from emrecon.recon.running import Callback

from ..outputs import writing
from ..printing import messages
from .data import Source, beside
from .engine import Engine
from .quantities import study_of
from .record import Journal
from .scatter import scatter_file
from .settings import Settings
from .shared import Followed

_LOST = 0.002  # of the activity; what a filter may take out of an image without a word


def callbacks_of(
    settings: Settings,
    engine: Engine,
    iterations: int,
    keeper: Checkpoint | None,
    history: History,
    ranks: RankGroup = ALONE,
) -> list[Callback]:
    """Return what looks at every iterate: progress, log, checkpoint, the record, and the rule that stops early.

    Of several ranks the first one shows and writes; all of them look at the objective and the rule together.
    """
    done, log, tolerance = engine.at.iteration, settings.output.log, settings.method.tolerance
    found: list[Callback] = []
    if not settings.run.quiet:
        alone = engine.objective if ranks.size == 1 else None
        found += [ProgressBar(iterations - done, alone, console=messages())]
    if log:
        found += [Log(log, engine.objective, resume=done > 0) if ranks.rank == 0 else Followed(engine.objective)]
    found += [keeper] if keeper and ranks.rank == 0 else []
    found += [history]
    found += [RelativeChange(tolerance)] if tolerance is not None else []
    return found


def filtered(image: np.ndarray, grid: ImageGrid, fwhm: float | None, journal: Journal) -> np.ndarray:
    """Return the image after the Gaussian filter, where one is wanted, and say so."""
    if fwhm is None:
        return image
    flat = [axis for axis, n in zip("xyz", grid.shape) if n == 1]
    besides = f", not along {' and '.join(flat)}, where the image is one voxel" if flat else ""
    journal.console.print(f"filtered with a Gaussian of {fwhm:g} mm FWHM{besides}")
    soft = to_numpy(GaussianBlur(grid, fwhm)(image))
    before = float(image.sum(dtype=float))
    lost = 1 - float(soft.sum(dtype=float)) / before if before > 0 else 0.0
    if lost > _LOST:
        journal.note(f"the filter carries {100 * lost:.1f} % of the activity out of the image at its sides")
    return soft


def write_results(
    settings: Settings,
    image: np.ndarray,
    grid: ImageGrid,
    console: Console,
    provenance: formats.Provenance,
    quantity: Quantity | None = None,
    times: formats.ImageTimes | None = None,
    source: Source | None = None,
) -> None:
    """Write the image in the unit of a quantity (default: counts) with its record, and the picture if wanted.

    times : of frames or gates (F, x, y, z), whose picture is that of their mean.
    source : what was reconstructed, for DICOM.
    """
    table, quantity = settings.output, quantity or Quantity()
    said = () if quantity.unit == COUNTS else tuple(str(quantity).splitlines())
    unit = unit_of(quantity, source)
    image = to_numpy(quantity(image))
    provenance = replace(provenance, unit=unit, calibration=said)
    drawn = grid if provenance.placement is None else shifted_grid(grid, provenance.placement)
    grid = in_patient(table.out, grid, provenance)
    axes = beside(settings.data)(table.out)
    facts = dicom_facts(settings, source, times, quantity, provenance.physics)
    with writing(), stage(f"writing {table.out.name}"):
        more = {"unit": unit, "provenance": provenance, "times": times, "facts": facts}
        formats.write_image(table.out, image, grid, beside=axes, **more)  # type: ignore[arg-type]
        if table.picture is not None:
            figures.save(picture_of(_mean(image), drawn, unit), table.picture)
    also = f" and {table.picture}" if table.picture is not None else ""
    also += f", which shows the mean of {len(image)} frames or gates" if also and image.ndim == 4 else ""
    of = "frame" if facts is not None and facts.kind == "NM" else "slice"
    what = f", a folder with a file for each {of}" if facts is not None and facts.is_folder else ""
    console.print(f"wrote {table.out}{what}{also}")


def unit_of(quantity: Quantity, source: Source | None) -> str:
    """The unit of an image: the models of frames and gates hold their time, so that theirs are counts per second."""
    timed = isinstance(source, (ScanSeries, WindowedSeries))
    return "counts/s" if timed and quantity.unit == COUNTS else quantity.unit


def dicom_facts(
    settings: Settings,
    source: Source | None,
    times: formats.ImageTimes | None,
    quantity: Quantity | None = None,
    modelled: Sequence[str] = (),
) -> formats.ImageFacts | None:
    """Return what a DICOM image says of the scan it is made of, None for other formats.

    times : of the image's frames or gates.  modelled : lines of the problem's summary.
    """
    if formats.image_kind(settings.output.out) != "dicom":
        return None
    quantity, physics = quantity or Quantity(), settings.physics
    made = {
        "ATTN": physics.mu is not None or physics.mu_cylinder is not None,
        "NORM": physics.norm is not None,
        "RAN": physics.randoms is not None or isinstance(source, formats.PETLink),
        "SCAT": scatter_file(physics) is not None or any(line.split()[:1] == ["scatter"] for line in modelled),
        "DTIM": settings.quantity.dead_time is not None,
    }
    if source is None or isinstance(source, formats.PETLink):
        facts = formats.ImageFacts(kind="PT", duration=None if source is None else source.duration())
    else:
        facts = formats.ImageFacts.of(source)
    return replace(
        facts,
        times=times,
        study=None if source is None else study_of(source, settings.quantity),  # type: ignore[arg-type]
        unit=unit_of(quantity, source),
        corrections=tuple(name for name, applied in made.items() if applied),
        decay_to=quantity.decay_to,
        reference=quantity.reference,
        description=f"{facts.description} {settings.method.method}".strip(),
    )


def check_image_place(settings: Settings, source: Source, times: formats.ImageTimes | None) -> None:
    """Raise OutputError where a DICOM image cannot be written, before hours of work."""
    facts = dicom_facts(settings, source, times)
    if facts is not None:
        with writing():
            facts.check_place(settings.output.out)


def in_patient(out: Path, grid: ImageGrid, provenance: formats.Provenance) -> ImageGrid:
    """The grid as the format of a file has it: NIfTI in the patient's coordinates, others in those of the scan."""
    if provenance.placement is None or not out.name.lower().endswith((".nii", ".nii.gz")):
        return grid
    return shifted_grid(grid, provenance.placement)


def write_overlay(
    settings: Settings, image: np.ndarray, mu: np.ndarray | None, grid: ImageGrid, console: Console
) -> None:
    """Write the picture of the attenuation map over the image, where one is wanted."""
    path = settings.output.mu_picture
    if path is None or mu is None:
        return
    look = figures.Look(quantity="activity")
    with writing(), stage(f"writing {path.name}"):
        figures.save(figures.attenuation_control(_mean(image), mu, grid, look), path)
    console.print(f"wrote {path}")


def _mean(image: np.ndarray) -> np.ndarray:
    """An image, or the mean of several."""
    return image if image.ndim == 3 else image.mean(0)


def picture_of(image: np.ndarray, grid: ImageGrid, unit: str) -> Any:
    """Return the picture of an image; of no name, which may be a patient's."""
    return figures.orthoviews(image, grid, figures.Look(unit, quantity="activity"))


def n_passes(n: int) -> str:
    """Return the number of passes in words."""
    return "1 pass" if n == 1 else f"{n} passes"
