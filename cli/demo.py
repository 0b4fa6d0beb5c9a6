"""`emrecon demo`: simulate a SPECT scan of a phantom, reconstruct it three ways, show what each correction is worth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from rich.table import Table

from emrecon import figures, formats
from emrecon.projectors import AcquisitionModel, ImageGrid, Scan, SPECTGeometry, SPECTProjector, collimator
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.progress import stage
from emrecon.recon import PoissonLikelihood, ProgressBar, nrmse, osem, run
from emrecon.sims import Phantom, poisson, scale_to_counts, spect_cylinder

from . import demo_brain, demo_pet
from .errors import interruptible
from .outputs import writing
from .printing import plain_console, quietly

_ENERGY = 140.511
_GRID = ImageGrid((128, 128, 64), (3.32, 3.32, 3.32))
_CAMERA = SPECTGeometry.circular(n_views=120, radius=150, n_bins=(128, 64), pixel_size=3.32)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the figure, the scan and the images.")] = Path("demo"),
    counts: Annotated[float, typer.Option(min=1, max=1e12, help="Total number of counts in the scan.")] = 40e6,
    iterations: Annotated[int, typer.Option(min=1, help="OSEM iterations of 8 subsets.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the counting noise.")] = 0,
    pet: Annotated[bool, typer.Option("--pet", help="PET of the NEMA body phantom, with time of flight.")] = False,
    brain: Annotated[bool, typer.Option("--brain", help="Only the slice of brain PET.")] = False,
) -> None:
    """Simulate a Tc-99m scan of a cylinder with hot rods and cold spheres, and reconstruct it with OSEM.

    Three times: without corrections, with attenuation, and with attenuation and the collimator's response. Then a slice
    of brain PET with its MR image: OSEM, MAP and, where torch is installed, an unrolled network.
    With --pet: list-mode of the NEMA body phantom, with and without time of flight.
    """
    if pet and brain:
        raise typer.BadParameter("give --pet or --brain, not both", param_hint="--brain")
    with interruptible(lambda: f"{out} holds what was finished"), quietly(False):
        if brain:
            demo_brain.demo_brain(out, seed)
        elif pet:
            demo_pet.demo_pet(out, counts, iterations, seed)
        else:
            _demo_spect(out, counts, iterations, seed)
            demo_brain.demo_brain(out, seed)


def _demo_spect(out: Path, counts: float, iterations: int, seed: int) -> None:
    console = plain_console()
    console.width = max(console.width, 110)
    begun = time.perf_counter()
    with writing():
        out.mkdir(parents=True, exist_ok=True)
    phantom = spect_cylinder()
    truth = phantom.activity(_GRID)
    with stage("simulation"):
        scan = simulate(phantom, counts, seed)
    console.print(f"simulated {scan.geometry}, {scan.counts.sum():.3g} counts, in {time.perf_counter() - begun:.1f} s")
    mu, response = phantom.attenuation(_GRID, _ENERGY), collimator("siemens-lehr").response(_ENERGY)
    systems = {
        "no correction": SPECTProjector(_GRID, _CAMERA),
        "attenuation": SPECTProjector(_GRID, _CAMERA, mu),
        "attenuation + response": SPECTProjector(_GRID, _CAMERA, mu, response),
    }
    results = {name: _reconstruct(scan, system, iterations, truth) for name, system in systems.items()}
    console.print(_table(results, phantom, truth))
    images = {"truth": truth} | {name: result.image for name, result in results.items()}
    figure = figures.side_by_side(
        {name: _cropped(image) for name, image in images.items()},
        {"hot rods": (18, 4.0), "cold spheres": (42, 1.4)},
        {name: f"NRMSE {_error(result.image, truth):.2f}" for name, result in results.items()},
        voxel_size=_GRID.voxel_size,
    )
    with writing():
        figures.save(figure, out / "demo.png")
        formats.write_scan(out / "scan.h5", scan)
        for name, result in results.items():
            formats.write_image(out / f"{name.replace(' + ', '-').replace(' ', '-')}.nii.gz", result.image, _GRID)
    console.print(f"wrote {out}/demo.png, scan.h5 and the images; {time.perf_counter() - begun:.1f} s in all")


def simulate(phantom: Phantom, counts: float, seed: int) -> Scan:
    """Return a scan of 120 views, projected on a grid twice as fine as the one to reconstruct on."""
    shape, voxel_size = tuple(2 * n for n in _GRID.shape), tuple(size / 2 for size in _GRID.voxel_size)
    fine = ImageGrid(shape, voxel_size)  # type: ignore[arg-type]
    system = SPECTProjector(
        fine, _CAMERA, phantom.attenuation(fine, _ENERGY), collimator("siemens-lehr").response(_ENERGY)
    )
    expected = system(phantom.activity(fine)) / 8  # a voxel of the coarse grid is 8 fine ones
    factor = scale_to_counts(expected, counts)
    return Scan(
        poisson(factor * expected, seed), _CAMERA, factors=factor, radionuclide="Tc-99m", description="emrecon demo"
    )


class Result(NamedTuple):
    """An image and how long it took."""

    image: np.ndarray
    seconds: float


def _reconstruct(scan: Scan, system: SPECTProjector, iterations: int, truth: np.ndarray) -> Result:
    begun = time.perf_counter()
    likelihood = PoissonLikelihood(scan, AcquisitionModel(system, scan.factors, background=1e-3))
    image = run(osem(likelihood, n_subsets=8), iterations, ProgressBar(iterations, lambda x: nrmse(x, truth)))
    return Result(to_numpy(image), time.perf_counter() - begun)


def _table(results: dict[str, Result], phantom: Phantom, truth: np.ndarray) -> Table:
    """Errors against the truth; contrast recovery is 1 for a perfect image."""
    table = Table(title="OSEM, 8 subsets")
    for column in ("model", "NRMSE", "uniformity", "noise", "sphere 32", "sphere 9.5", "rods 9.5", "time (s)"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    spheres = [name for name in phantom.names if name.startswith("sphere")]
    for name, (image, seconds) in results.items():
        background = image[_uniform()]
        contrasts = [1 - _mean(image, phantom, sphere) / background.mean() for sphere in (spheres[0], spheres[-1])]
        values = (
            _error(image, truth),
            image[_core()].mean() / image[_rim()].mean(),
            background.std() / background.mean(),
            *contrasts,
            _mean(image, phantom, "rods 9.5 mm") / background.mean() / 4,
        )
        table.add_row(name, *(f"{value:.3f}" for value in values), f"{seconds:.1f}")
    table.caption = "uniformity: centre / rim; spheres and rods (mm): contrast recovered; 1 is perfect"
    return table


def _cropped(image: np.ndarray) -> np.ndarray:
    border = 7 * _GRID.shape[0] // 32
    return image[border:-border, border:-border]


def _error(image: np.ndarray, truth: np.ndarray) -> float:
    """NRMSE without a scale factor, since every model has its own unit of activity."""
    scale = float(np.vdot(image, truth) / np.vdot(image, image))
    return float(nrmse(scale * image, truth))


def _mean(image: np.ndarray, phantom: Phantom, name: str) -> float:
    weight = phantom.fraction(_GRID, name)
    return float((image * weight).sum() / weight.sum())


def _distance() -> np.ndarray:
    x, y, _ = _GRID.coordinates()
    return np.hypot(x, y)


def _slab() -> np.ndarray:
    """The uniform slices above the spheres."""
    z = _GRID.coordinates()[2]
    return (z > 60) & (z < 82)


def _uniform() -> np.ndarray:
    return (_distance() < 90) & _slab()


def _core() -> np.ndarray:
    return (_distance() < 25) & _slab()


def _rim() -> np.ndarray:
    return (_distance() > 80) & (_distance() < 98) & _slab()
