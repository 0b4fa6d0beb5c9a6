"""What `emrecon reconstruct` reads: the scan or its events, and the corrections that belong to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import typer

from emrecon import formats
from emrecon.projectors import AttenuationMap, ImageGrid, PETSinogram, Scan
from emrecon.recon import Problem, pet_grid, pet_problem, spect_problem
from emrecon.recon.problem import checked_grid, cubes

from .. import options
from .settings import DataTable, PhysicsTable

Source = Scan | formats.PETLink


def open_source(table: DataTable) -> Source:
    """Return the scan, or the list-mode file whose events are not read yet."""
    path, values = table.path, options.header_values(table.header)
    if _is_listmode(path):
        return formats.read_petlink(path, **values)
    found = formats.read_scan(path, **values)
    if not isinstance(found, Scan):
        raise typer.BadParameter(
            f"{path} holds a {type(found).__name__}, and one scan is reconstructed; choose one by --header window=, "
            "bed=, frame= or gate=",
            param_hint="PROJECTIONS",
        )
    return found


def beside(table: DataTable) -> options.Beside:
    """Return what gives the axes of Interfile images: those of the projections, as their header or the user says."""

    def axes(image: Path) -> formats.ImageAxes | None:
        known = image.name.lower().endswith((".h5", ".hdf5", ".nii", ".nii.gz"))
        return None if known else formats.axes_beside(table.path, **options.header_values(table.header))

    return axes


def files_of(source: Source) -> tuple[Path, ...]:
    """Return the files of a source besides its header."""
    return () if isinstance(source, Scan) else (source.path,)


def make_problem(source: Source, data: DataTable, physics: PhysicsTable, subsets: int) -> Problem:
    """Return the problem of a scan or of events; options have been checked to belong to its kind."""
    spect = isinstance(source, Scan) and not isinstance(source.geometry, PETSinogram)
    with options.named_by_option():
        problem = (_of_spect if spect else _of_pet)(source, data, physics, subsets)  # type: ignore[arg-type]
    if physics.multiplicative is None or (physics.mu is None and physics.mu_cylinder is None):
        return problem
    twice = "attenuation is modelled from the map besides the factors of --multiplicative; do these hold it already?"
    return replace(problem, notes=(*problem.notes, twice))


def _of_spect(scan: Scan, data: DataTable, physics: PhysicsTable, subsets: int) -> Problem:
    grid = _grid(scan.default_grid(), physics.voxel, min(subsets, scan.geometry.n_views))
    return spect_problem(
        _with_terms(scan, physics),
        mu=attenuation(scan, data, physics, grid),
        response=options.response(physics.collimator, physics.response, _energy(scan, physics), physics.intrinsic),
        grid=grid,
        subsets=subsets,
    )


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


def _energy(scan: Scan, physics: PhysicsTable) -> float:
    """The energy of the photons in keV; it is asked for where a collimator needs it and the scan does not tell."""
    if physics.energy is not None or physics.collimator is None:
        return physics.energy or 0.0
    try:
        return scan.photon_energy()
    except ValueError as error:
        why = f"{error}; give --energy KEV, or --header radionuclide=NAME"
        raise typer.BadParameter(why, param_hint="--collimator") from None


def _of_pet(source: Source, data: DataTable, physics: PhysicsTable, subsets: int) -> Problem:
    difference, background = data.max_ring_difference, physics.background
    sinogram: PETSinogram = source.geometry if isinstance(source, Scan) else source.sinogram  # type: ignore[assignment]
    grid = _grid(pet_grid(source, difference), physics.voxel, min(subsets, sinogram.n_views))
    return pet_problem(
        _with_terms(source, physics) if isinstance(source, Scan) else source,
        mu=attenuation(source, data, physics, grid),
        norm=None if physics.norm is None else formats.read_siemens_norm(physics.norm, sinogram.scanner),
        scatter=None if isinstance(source, Scan) else background,
        psf=physics.psf,
        grid=grid,
        subsets=subsets,
        max_ring_difference=difference,
    )


def _grid(grid: ImageGrid, voxel: float | None, subsets: int) -> ImageGrid:
    return checked_grid(None, grid, subsets) if voxel is None else cubes(grid, voxel, subsets)


def _with_terms(scan: Scan, physics: PhysicsTable) -> Scan:
    """The scan with the factors m and the background of the files: m additive + randoms + scatter + background."""
    factors, background = scan.factors, scan.background if physics.background is None else physics.background
    if physics.multiplicative is not None:
        factors = _term("multiplicative", physics.multiplicative, scan)
    if physics.additive is not None:
        background = background + factors * _term("additive", physics.additive, scan)
    for name, path in (("randoms", physics.randoms), ("scatter", physics.scatter)):
        if path is not None:
            background = background + _term(name, path, scan)
    return replace(scan, factors=factors, background=background)


def _term(name: str, path: Path, scan: Scan) -> np.ndarray:
    """The values of a file for every bin; they must not be negative."""
    values = formats.read_term(path, scan)
    if values.min() < 0:
        why = f"{path}: {int((values < 0).sum())} values are negative, down to {values.min():.4g}"
        raise typer.BadParameter(why, param_hint=options.option_of(name))
    return values


def _is_listmode(path: Path) -> bool:
    return path.suffix.lower() not in (".h5", ".hdf5") and formats.is_petlink(path)
