"""What `emrecon reconstruct` makes of PET data: sinograms, and list-mode with its delays."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer

from emrecon import formats
from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    ListmodeProjector,
    Normalisation,
    PETProjector,
    PETSinogram,
    Projector,
    Scan,
    attenuation_factors,
    crystal_rates,
    events_product,
)
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood

from . import options


class Options(NamedTuple):
    """The command's options that concern PET."""

    mu: Path | None
    mu_cylinder: str | None
    norm: Path | None
    psf: float | None
    max_ring_difference: int | None
    voxel: float | None
    subsets: int
    background: float | None


class Problem(NamedTuple):
    """Everything the loop needs: a likelihood for each subset, and what belongs to them."""

    parts: list[Any]
    grid: ImageGrid
    summary: str
    signature: str
    start: np.ndarray


def from_sinogram(scan: Scan, sinogram: PETSinogram, chosen: Options) -> Problem:
    """Return the reconstruction of a sinogram: one likelihood for each subset of views."""
    if chosen.max_ring_difference is not None:
        raise typer.BadParameter("is for list-mode only", param_hint="--max-ring-difference")
    grid = options.cubes(scan.default_grid(), chosen.voxel)
    mu, norm = _corrections(sinogram, grid, chosen)
    whole = np.ndim(scan.factors) > 0  # the file's factors hold crystal pairs and normalisation already
    if whole and norm is not None:
        raise typer.BadParameter("the file has factors of its own, which hold the normalisation", param_hint="--norm")
    parts: list[Any] = []
    for k in range(chosen.subsets):
        part = scan.subset(k, chosen.subsets)
        views = sinogram.subset(k, chosen.subsets)
        factors = part.factors * _timeless(_factors(views, grid, mu, norm, whole), views)
        parts.append(PoissonLikelihood(part, AcquisitionModel(_system(grid, views, chosen), factors, part.background)))
    content = digest(scan.counts, scan.background, scan.factors, mu, grid.affine, *_bins(sinogram), *_components(norm))
    signature = f"{PETProjector(grid, sinogram)!r}, {sinogram}, {sinogram.tof}, {chosen}, contents {content}"
    summary = f"{PETProjector(grid, sinogram)}\n{_notes(chosen)}"
    start = (sum(part.sensitivity for part in parts) > 0).astype(np.float32)
    return Problem(parts, grid, summary, signature, start)


def from_events(scan: formats.PETLink, chosen: Options) -> Problem:
    """Return the reconstruction of list-mode: subsets are the events of interleaved views, and their sensitivity."""
    difference = chosen.max_ring_difference
    sinogram = PETSinogram(
        scan.sinogram.scanner,
        scan.sinogram.max_ring_difference if difference is None else difference,
        n_radial=scan.sinogram.n_radial,
    )
    grid = options.cubes(_coarse(sinogram), chosen.voxel)
    mu, norm = _corrections(sinogram, grid, chosen)
    found = scan.read()
    view = sinogram.bins_of(found.prompts)[:, 0]
    prompts, view = found.prompts[view >= 0], view[view >= 0]
    if not len(prompts):
        raise ValueError(f"{scan.path} holds no prompts within these ring differences")
    singles = _singles(sinogram, found.delays, norm)
    empty = chosen.subsets - np.unique(view % chosen.subsets).size
    if empty:
        raise typer.BadParameter(
            f"{empty} of {chosen.subsets} subsets of views hold no prompts; use fewer", param_hint="--subsets"
        )
    parts: list[Any] = []
    for k in range(chosen.subsets):
        mine, views = prompts[view % chosen.subsets == k], sinogram.subset(k, chosen.subsets)
        lines = ListmodeProjector(grid, sinogram.scanner, mine)
        own = _event_factors(sinogram, lines, mu, norm)
        randoms = events_product(mine, singles) + (chosen.background or 0)
        model = AcquisitionModel(_blurred(lines, grid, chosen), own, randoms)
        sensitivity = _system(grid, views, chosen).T(_factors(views, grid, mu, norm))
        parts.append(ListmodeLikelihood(model, sensitivity))
    start = (sum(part.sensitivity for part in parts) > 0).astype(np.float32)
    summary = f"{ListmodeProjector(grid, sinogram.scanner, prompts)}\n  delays   {len(found.delays)}\n{_notes(chosen)}"
    content = digest(prompts, singles, mu, grid.affine, *_bins(sinogram), *_components(norm))
    signature = f"{sinogram}, {chosen}, contents {content}"
    return Problem(parts, grid, summary, signature, start)


def digest(*arrays: Any) -> str:
    """Return a short checksum of the contents of arrays and numbers."""
    content = hashlib.sha256()
    for values in arrays:
        content.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    return content.hexdigest()[:16]


def _corrections(
    sinogram: PETSinogram, grid: ImageGrid, chosen: Options
) -> tuple[np.ndarray | None, Normalisation | None]:
    if chosen.subsets > sinogram.n_views:
        raise typer.BadParameter(f"the scan has only {sinogram.n_views} views", param_hint="--subsets")
    mu = options.attenuation(chosen.mu, chosen.mu_cylinder, grid)
    return mu, formats.read_siemens_norm(chosen.norm, sinogram.scanner) if chosen.norm else None


def _system(grid: ImageGrid, sinogram: PETSinogram, chosen: Options) -> Projector:
    return _blurred(PETProjector(grid, sinogram), grid, chosen)


def _blurred(system: Projector, grid: ImageGrid, chosen: Options) -> Any:
    return system if chosen.psf is None else system @ GaussianBlur(grid, chosen.psf)


def _factors(
    sinogram: PETSinogram,
    grid: ImageGrid,
    mu: np.ndarray | None,
    norm: Normalisation | None,
    known: bool = False,
) -> np.ndarray:
    """Attenuation x normalisation of every bin, without TOF: without a norm file, the number of real crystal pairs.

    known : leave out normalisation and crystal pairs, which are known otherwise.
    """
    plain = sinogram.without_tof()
    if known:
        factors = np.ones(plain.shape, np.float32)
    else:
        factors = plain.multiplicity() if norm is None else norm.factors(plain)
    if mu is None:
        return factors
    survival: np.ndarray = factors * attenuation_factors(PETProjector(grid, plain), mu.astype(np.float32))
    return survival


def _event_factors(
    sinogram: PETSinogram, lines: ListmodeProjector, mu: np.ndarray | None, norm: Normalisation | None
) -> Any:
    own: Any = 1.0 if norm is None else norm.of_events(sinogram, lines.events)
    return own if mu is None else own * attenuation_factors(lines, mu.astype(np.float32))


def _singles(sinogram: PETSinogram, delays: np.ndarray, norm: Normalisation | None) -> np.ndarray:
    """The square roots of the randoms; zero where the file has no delays of these ring differences."""
    if not len(delays) or (sinogram.bins_of(delays)[:, 0] < 0).all():
        return np.zeros(sinogram.scanner.virtual.shape)
    return crystal_rates(sinogram, delays, None if norm is None else norm.crystal, n_iterations=30)


def _bins(sinogram: PETSinogram) -> tuple[np.ndarray, ...]:
    return sinogram.scanner.crystals, sinogram.scanner.virtual, sinogram.views


def _components(norm: Normalisation | None) -> tuple[Any, ...]:
    return () if norm is None else (norm.crystal, norm.geometric, norm.interference, norm.axial, norm.dead_time)


def _timeless(factors: np.ndarray, sinogram: PETSinogram) -> np.ndarray:
    """Factors that broadcast over TOF bins."""
    return factors if sinogram.tof is None else factors[:, :, None]


def _coarse(sinogram: PETSinogram) -> ImageGrid:
    """Twice the bins' size across: list-mode scans are short more often than not."""
    grid = sinogram.default_grid()
    return options.cubes(grid, 2 * grid.voxel_size[0])


def _notes(chosen: Options) -> str:
    given = {"mu": chosen.mu or chosen.mu_cylinder, "norm": chosen.norm, "psf": chosen.psf}
    return "\n".join(f"  {name:8} {value or 'none'}" for name, value in given.items())
