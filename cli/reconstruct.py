"""`emrecon reconstruct`: from a file of projections to an image."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from emrecon import formats
from emrecon.projectors import ImageGrid, Scan, SPECTProjector, isotope
from emrecon.recon import Checkpoint, Log, PoissonLikelihood, ProgressBar, RelativeChange, osem, run
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
        float | None, typer.Option(help="Photon energy in keV (default: the radionuclide's, or 140.5).")
    ] = None,
    intrinsic: Annotated[
        float | None, typer.Option(help="Intrinsic resolution, FWHM in mm (default: 3.8 at 140 keV).")
    ] = None,
    background: Annotated[
        float | None, typer.Option(help="Expected scatter in every bin, counts (default: the file's).")
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
    check_outputs(out, picture, log, checkpoint)
    scan = formats.read_scan(projections, **options.header_values(header or []))
    if background is not None:
        scan = replace(scan, background=background)
    grid = _grid(scan, voxel)
    keV = energy or (isotope(scan.radionuclide).main_energy if scan.radionuclide else 140.5)
    blur = options.response(collimator, response, keV, intrinsic)
    system = SPECTProjector(grid, scan.geometry, options.attenuation(mu, mu_cylinder, grid), blur)
    console.print(system, highlight=False, markup=False)
    saved = None
    if checkpoint is not None:
        settings = (
            f"{projections.resolve()} {system} {background} {subsets} subsets, sum {float(np.sum(scan.counts)):.9g}"
        )
        keeper = Checkpoint(checkpoint, signature=settings)
        saved = keeper.load()
        if saved is not None:
            console.print(f"going on after iteration {saved.iteration}")
    start, done = (saved.image, saved.iteration) if saved else (system.ones_image(), 0)
    begun = time.perf_counter()
    image = start
    if done < iterations:
        likelihood = PoissonLikelihood(scan, scan.model(system))
        callbacks: list[Any] = [] if quiet else [ProgressBar(iterations - done, likelihood.value)]
        callbacks += [Log(log, likelihood.value, resume=saved is not None)] if log else []
        callbacks += [keeper] if checkpoint is not None else []
        callbacks += [RelativeChange(tolerance)] if tolerance else []
        image = run(osem(likelihood, _to_device(start, device), subsets, iteration=done), iterations - done, *callbacks)
        image = image.get() if hasattr(image, "get") else image
    console.print(f"{iterations} iterations of {subsets} subsets in {time.perf_counter() - begun:.1f} s")
    with writing():
        formats.write_image(out, image, grid)
        if picture is not None:
            save_orthoviews(picture, image, grid, title=projections.name)
    console.print(f"wrote {out}" + (f" and {picture}" if picture is not None else ""), highlight=False)


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


def _to_device(image: np.ndarray, device: str) -> Any:
    if device == "cpu":
        return image
    if device == "cuda":
        from emrecon.projectors._gpu import import_cupy

        return import_cupy().asarray(image)
    raise typer.BadParameter('must be "cpu" or "cuda"', param_hint="--device")
