"""`emrecon reconstruct`: from a file of projections to an image."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from emrecon import formats
from emrecon.projectors import ImageGrid, Scan, SPECTProjector, isotope
from emrecon.recon import Checkpoint, Iterate, Log, PoissonLikelihood, ProgressBar, RelativeChange, osem, run
from rich.console import Console

from . import options
from .figures import save_orthoviews
from .outputs import check_outputs, writing


def reconstruct(
    projections: Annotated[Path, typer.Argument(help="Interfile header (.hs, .hdr, .h00 ...) or emrecon HDF5 file.")],
    mu: Annotated[Path | None, typer.Option(help="Attenuation map in 1/cm: NIfTI, HDF5 or Interfile image.")] = None,
    mu_cylinder: Annotated[
        str | None, typer.Option(metavar="RADIUS:MU", help="Uniform cylinder around the axis instead: mm and 1/cm.")
    ] = None,
    collimator: Annotated[str | None, typer.Option(help="Collimator by name, such as siemens-lehr.")] = None,
    response: Annotated[
        str | None,
        typer.Option(metavar="SLOPE,INTERCEPT", help="Width of a point instead: sigma = slope d + intercept, mm."),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Photon energy in keV (default: the radionuclide's, or Tc-99m's).")
    ] = None,
    intrinsic: Annotated[
        float | None, typer.Option(help="Intrinsic resolution, FWHM in mm (default: 3.8 at 140 keV).")
    ] = None,
    background: Annotated[
        float | None,
        typer.Option(
            help="Expected scatter in every bin, counts (default: the file's); a little of it keeps counts explained."
        ),
    ] = None,
    voxel: Annotated[float | None, typer.Option(help="Voxel size in mm (default: the bins').")] = None,
    subsets: Annotated[int, typer.Option(min=1, help="Ordered subsets; 1 is MLEM.")] = 8,
    iterations: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 4,
    tolerance: Annotated[
        float | None, typer.Option(help="Stop early when the image changes by less than this.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Image to write: .nii, .nii.gz, .h5 or .hv.")] = Path("image.nii.gz"),
    picture: Annotated[Path | None, typer.Option(help="PNG with three views of the image.")] = None,
    log: Annotated[Path | None, typer.Option(help=".csv or .json with iteration, seconds and objective.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File to save every iteration in, and to go on from.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Replace a value of the header; repeat.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Reconstruct SPECT projections by OSEM, with attenuation and collimator response where they are given."""
    console = Console(quiet=quiet, soft_wrap=True)
    check_outputs(out, picture, log, checkpoint, inputs=(projections, mu))
    _check_device(device)
    scan = formats.read_scan(projections, **options.header_values(header or []))
    if background is not None:
        scan = replace(scan, background=background)
    grid = _grid(scan, voxel)
    if subsets > scan.geometry.n_views:
        raise typer.BadParameter(f"the scan has only {scan.geometry.n_views} views", param_hint="--subsets")
    keV = energy if energy is not None else isotope(scan.radionuclide or "Tc-99m").main_energy
    blur = options.response(collimator, response, keV, intrinsic)
    system = SPECTProjector(grid, scan.geometry, options.attenuation(mu, mu_cylinder, grid), blur)
    console.print(system, highlight=False, markup=False)
    likelihood = PoissonLikelihood(scan, scan.model(system))
    keeper = None if checkpoint is None else Checkpoint(checkpoint, signature=_signature(scan, system, subsets))
    at = (keeper.load() if keeper else None) or Iterate(0, system.ones_image())
    if at.iteration > iterations:
        raise typer.BadParameter(f"{checkpoint} has {at.iteration} behind it already", param_hint="--iterations")
    if at.iteration:
        console.print(f"going on after iteration {at.iteration}")
    callbacks: list[Any] = [] if quiet else [ProgressBar(iterations - at.iteration, likelihood.value)]
    callbacks += [Log(log, likelihood.value, resume=at.iteration > 0)] if log else []
    callbacks += [keeper] if keeper else []
    callbacks += [RelativeChange(tolerance)] if tolerance is not None else []
    begun = time.perf_counter()
    image = _iterate(likelihood, at, subsets, iterations, device, callbacks)
    console.print(f"OSEM with {subsets} subsets, {time.perf_counter() - begun:.1f} s")
    with writing():
        formats.write_image(out, image, grid)
        if picture is not None:
            save_orthoviews(picture, image, grid, title=projections.name)
    console.print(f"wrote {out}" + (f" and {picture}" if picture is not None else ""), highlight=False)


def _iterate(
    likelihood: PoissonLikelihood, at: Iterate, subsets: int, iterations: int, device: str, callbacks: list[Any]
) -> np.ndarray:
    """Go on from `at` until `iterations` are done in all; return the image on the host."""
    start = _to_device(at.image, device)
    if at.iteration >= iterations:
        return at.image
    iterates = osem(likelihood, start, subsets, iteration=at.iteration)
    image = run(iterates, iterations - at.iteration, *callbacks)
    return image.get() if hasattr(image, "get") else image


def _signature(scan: Scan, system: SPECTProjector, subsets: int) -> str:
    """What must be the same when a run goes on: every number that shapes the image."""
    geometry, content = scan.geometry, hashlib.sha256()
    orbit = (geometry.angles, geometry.radius, geometry.shift, np.array([geometry.axial_shift, *geometry.pixel_size]))
    for values in (scan.counts, scan.background, scan.factors, system.attenuation, system.grid.affine, *orbit):
        content.update(b"none" if values is None else np.ascontiguousarray(values).tobytes())
    return f"{system!r}, {system.response}, {subsets} subsets, contents {content.hexdigest()[:16]}"


def _grid(scan: Scan, voxel: float | None) -> ImageGrid:
    """The bins' own grid, or one of cubes of another size over the same field of view."""
    grid = scan.default_grid()
    if voxel is None:
        return grid
    if not voxel > 0:
        raise typer.BadParameter("must be positive mm", param_hint="--voxel")
    shape = tuple(max(1, round(n * size / voxel)) for n, size in zip(grid.shape, grid.voxel_size))
    origin = tuple(c - (n - 1) / 2 * voxel for c, n in zip(grid.centre, shape))
    return ImageGrid(shape, (voxel, voxel, voxel), origin)  # type: ignore[arg-type]


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter('must be "cpu" or "cuda"', param_hint="--device")
    _to_device(np.zeros(1, np.float32), device)


def _to_device(image: np.ndarray, device: str) -> Any:
    if device == "cpu":
        return image
    from emrecon.projectors._gpu import import_cupy

    return import_cupy().asarray(image)
