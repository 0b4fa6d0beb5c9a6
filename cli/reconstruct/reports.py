"""The report of `emrecon reconstruct --report`: that of `emrecon report`, over the CT of the same run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from emrecon import figures
from emrecon.formats.dicom.ct import is_ct
from emrecon.formats.dicom.summary import is_dicom
from emrecon.projectors import Study
from emrecon.projectors.core.progress import stage
from emrecon.projectors.physics.ct_maps import shifted_grid

from .. import options
from ..outputs import writing
from .settings import PhysicsTable, Settings


def write_report(settings: Settings, console: Console, study: Study | None) -> None:
    """Write the report of the image that is there already, where one is wanted.

    study : of the scan, which CT and masks have to be of, too.
    """
    path, physics = settings.output.report, settings.physics
    if path is None:
        return
    with stage("report"):
        run = figures.read_run(
            settings.output.out,
            ct=_ct(physics),
            ct_series=physics.mu_series,
            masks=settings.output.masks,
            study=study,
        )
        if run.ct is not None:  # where the attenuation map was put
            hu, grid = run.ct
            run = replace(run, ct=(hu, shifted_grid(grid, options.shift_of(physics.mu_shift))))
    with writing(), stage(f"writing {path.name}"):
        figures.write_report(path, run)
    console.print(f"wrote {path}")


def _ct(physics: PhysicsTable) -> Path | None:
    """The CT in HU that --mu names, None for a map of attenuation."""
    path = physics.mu
    if path is None or physics.mu_unit == "hu":
        return path
    return path if (path.is_dir() or is_dicom(path)) and is_ct(path) else None
