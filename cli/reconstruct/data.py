"""What `emrecon reconstruct` reads: the scan or its events, and the corrections that belong to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import typer

from emrecon import formats
from emrecon.projectors import (
    AttenuationMap,
    BedScan,
    ImageGrid,
    PETSinogram,
    Scan,
    ScanSeries,
    WindowedScan,
    WindowedSeries,
    peak_window,
)
from emrecon.projectors.core.arrays import Array
from emrecon.projectors.spect.collimation import Response
from emrecon.recon import Problem, RankGroup, pet_grid, pet_problem, spect_problem
from emrecon.recon.problem import checked_grid, cubes
from emrecon.recon.ranks import ALONE

from .. import options
from .scatter import method_of, pet_scatter, scatter_file, spect_scatter
from .settings import DataTable, PhysicsTable

AnyScan = Scan | WindowedScan | ScanSeries
Source = AnyScan | WindowedSeries | BedScan | formats.PETLink


def open_source(table: DataTable) -> Source:
    """Return the scan, or the list-mode file whose events are not read yet."""
    path, values = table.path, options.header_values(table.header)
    if _is_listmode(path):
        return formats.read_petlink(path, **values)
    return formats.read_acquisition(path, **values)


def beside(table: DataTable) -> options.Beside:
    """Return what gives the axes of Interfile images: those of the projections, as their header or the user says."""

    def axes(image: Path) -> formats.ImageAxes | None:
        known = image.name.lower().endswith((".h5", ".hdf5", ".nii", ".nii.gz", ".dcm"))
        return None if known else formats.axes_beside(table.path, **options.header_values(table.header))

    return axes


def files_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a source besides its header."""
    return (source.path,) if isinstance(source, formats.PETLink) else ()


def with_factors(source: AnyScan | formats.PETLink, physics: PhysicsTable) -> AnyScan | formats.PETLink:
    """Return the source with the factors of --multiplicative instead of its own."""
    if physics.multiplicative is None or isinstance(source, formats.PETLink):
        return source
    return replace(source, factors=_term("multiplicative", physics.multiplicative, source))


def grid_of(source: AnyScan | formats.PETLink, data: DataTable, physics: PhysicsTable, subsets: int) -> ImageGrid:
    """Return the grid of the image of a source that is no scan of several beds."""
    if isinstance(source, formats.PETLink) or isinstance(source.geometry, PETSinogram):
        sinogram = source.sinogram if isinstance(source, formats.PETLink) else source.geometry
        own = pet_grid(source, data.max_ring_difference)
        return _grid(own, physics.voxel, min(subsets, sinogram.n_views))
    return _grid(source.geometry.default_grid(), physics.voxel, min(subsets, source.geometry.n_views))


def one_by_one(physics: PhysicsTable) -> bool:
    """Whether the physics are those of one image, so that frames and gates are not reconstructed in one batch."""
    return method_of(physics) in ("esse", "sss")


def make_problem(
    source: AnyScan | formats.PETLink,
    data: DataTable,
    physics: PhysicsTable,
    subsets: int,
    grid: ImageGrid | None = None,
    *,
    ranks: RankGroup = ALONE,
    scratch: Path | None = None,
) -> Problem:
    """Return the problem of a scan, of frames or gates, or of events; options have been checked to belong to its kind.

    grid : of the image (default: what the data and --voxel say).  ranks : which share it.
    scratch : a folder for events.
    """
    spect = not isinstance(source, formats.PETLink) and not isinstance(source.geometry, PETSinogram)
    with options.named_by_option():
        own = grid_of(source, data, physics, subsets) if grid is None else grid
        problem = (
            _of_spect(source, data, physics, subsets, own, ranks)  # type: ignore[arg-type]
            if spect
            else _of_pet(source, data, physics, subsets, own, ranks, scratch)  # type: ignore[arg-type]
        )
    if physics.multiplicative is None or (physics.mu is None and physics.mu_cylinder is None):
        return problem
    twice = "attenuation is modelled from the map besides the factors of --multiplicative; do these hold it already?"
    return replace(problem, notes=(*problem.notes, twice))


def response_of(scan: Scan | ScanSeries, physics: PhysicsTable) -> Response | None:
    """Return the response of --collimator or --response."""
    return options.response(physics.collimator, physics.response, _energy(scan, physics), physics.intrinsic)


def _of_spect(
    scan: Scan | WindowedScan | ScanSeries,
    data: DataTable,
    physics: PhysicsTable,
    subsets: int,
    grid: ImageGrid,
    ranks: RankGroup,
) -> Problem:
    scatter, single = spect_scatter(physics), photopeak(scan, physics.peak)
    terms = replace(single, background=_background(single, physics))
    windowed = isinstance(scan, WindowedScan)
    return spect_problem(
        scan if windowed else terms,
        mu=attenuation(single, data, physics, grid),
        response=response_of(single, physics),
        scatter="none" if scatter_file(physics) is not None and windowed else scatter,
        background=terms.background if windowed else 0.0,
        peak=physics.peak,
        grid=grid,
        subsets=subsets,
        ranks=ranks,
    )


def photopeak(scan: AnyScan, peak: str | None) -> Scan | ScanSeries:
    """Return the scan of the photopeak among several windows; raises typer.BadParameter where it is not known."""
    if not isinstance(scan, WindowedScan):
        return scan
    with options.naming("--peak"):
        return scan.scan(peak_window(scan, peak).name)


def attenuation(
    source: Source, data: DataTable, physics: PhysicsTable, grid: ImageGrid
) -> AttenuationMap | np.ndarray | None:
    """Return the attenuation map of the options, None without one."""
    choice = options.MuChoice(
        series=physics.mu_series,
        unit=physics.mu_unit,
        kvp=physics.mu_kvp,
        shift=physics.mu_shift,
        remove_bed=physics.mu_remove_bed,
        energy=physics.energy,
    )
    found = options.attenuation(physics.mu, physics.mu_cylinder, grid, beside(data), source, choice)
    is_map = isinstance(found, AttenuationMap) and found.energy is None
    if is_map and physics.energy is not None and physics.collimator is None:
        raise typer.BadParameter("it is used for a collimator or a CT, and --mu is a map", param_hint="--energy")
    return found


def _energy(scan: Scan | ScanSeries, physics: PhysicsTable) -> float:
    """The energy of the photons in keV; it is asked for where a collimator needs it and the scan does not tell."""
    if physics.energy is not None or (physics.collimator or "none").lower() == "none":
        return physics.energy or 0.0
    try:
        return scan.photon_energy()
    except ValueError as error:
        why = f"{error}; give --energy KEV, or --header radionuclide=NAME"
        raise typer.BadParameter(why, param_hint="--collimator") from None


def _of_pet(
    source: Scan | ScanSeries | formats.PETLink,
    data: DataTable,
    physics: PhysicsTable,
    subsets: int,
    grid: ImageGrid,
    ranks: RankGroup,
    scratch: Path | None,
) -> Problem:
    measured: Any = source  # with its background
    if not isinstance(source, formats.PETLink):
        measured = replace(source, background=_background(source, physics))
    sinogram = source.sinogram if isinstance(source, formats.PETLink) else source.geometry
    scanner: Any = getattr(sinogram, "scanner", None)
    return pet_problem(
        measured,
        mu=attenuation(source, data, physics, grid),
        norm=None if physics.norm is None else formats.read_siemens_norm(physics.norm, scanner),
        scatter=physics.background if isinstance(source, formats.PETLink) else pet_scatter(physics),
        psf=physics.psf,
        grid=grid,
        subsets=subsets,
        max_ring_difference=data.max_ring_difference,
        ranks=ranks,
        scratch=scratch,
    )


def _grid(grid: ImageGrid, voxel: float | None, subsets: int) -> ImageGrid:
    return checked_grid(None, grid, subsets) if voxel is None else cubes(grid, voxel, subsets)


def _background(scan: Scan | ScanSeries, physics: PhysicsTable) -> Array | float:
    """The background of the files, factors x additive + randoms + scatter + background."""
    background = scan.background if physics.background is None else physics.background
    if physics.additive is not None:
        background = background + _timed_factors(scan) * _term("additive", physics.additive, scan)
    for name, path in (("randoms", physics.randoms), ("scatter", scatter_file(physics))):
        if path is not None:
            background = background + _term(name, path, scan)
    return background


def _timed_factors(scan: Scan | ScanSeries) -> np.ndarray | float:
    """The factors; of frames and gates times their seconds and decay, as their models have it."""
    if not isinstance(scan, ScanSeries):
        return scan.factors  # type: ignore[return-value]  # of files
    time = scan.seconds * getattr(scan, "decay", 1.0)
    return np.asarray(scan.factors) * time.reshape(*time.shape, *[1] * (len(scan.geometry.shape) - 1))


def _term(name: str, path: Path, scan: AnyScan) -> np.ndarray:
    """The values of a file for every bin; they must not be negative."""
    values = formats.read_term(path, scan)  # type: ignore[arg-type]  # which refuses several windows
    if name in ("randoms", "scatter") and isinstance(scan, ScanSeries) and values.ndim == len(scan.geometry.shape):
        why = f"{path} holds the counts of one scan, and these are {len(scan)} frames or gates; give a file of as many"
        raise typer.BadParameter(why, param_hint=options.option_of(name))
    if values.min() < 0:
        why = f"{path}: {int((values < 0).sum())} values are negative, down to {values.min():.4g}"
        raise typer.BadParameter(why, param_hint=options.option_of(name))
    return values


def _is_listmode(path: Path) -> bool:
    return path.suffix.lower() not in (".h5", ".hdf5") and formats.is_petlink(path)
