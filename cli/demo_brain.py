"""`emrecon demo --brain`: a brain PET scan with an MR image by OSEM, MAP and an unrolled network, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from emrecon import figures, formats
from emrecon.projectors import ImageGrid, Scan
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import stage
from emrecon.recon import PoissonLikelihood, RelativeDifference, nrmse, osem, run, ssim, svrg
from emrecon.sims import RecipeSource, SimulatedDataset, load_recipe

from . import learned
from .outputs import writing
from .printing import plain_console

_RECIPE, _SAMPLE, _OTHER = "brain-pet", 9, 4  # of the part of the recipe that no training has seen
_NETWORK = "fbsem-net-brain-pet"
_SUBSETS, _ITERATIONS = 6, 6
_FILTERED, _FWHM = 12, 5.0  # iterations of OSEM before a Gaussian of so many mm
_LEARNED, _WRONG = "FBSEM-Net", "FBSEM-Net, wrong MR"
_BETA, _GAMMA, _PASSES = 0.4, 2.0, 12  # of MAP; beta in counts/(kBq/mL)


class Result(NamedTuple):
    """An image, how long it took, and how many numbers of it were learned."""

    image: np.ndarray
    seconds: float
    parameters: int = 0


@dataclass(frozen=True, eq=False)
class Brain:
    """A scan of one slice, with what its reconstructions are given and compared with; images in kBq/mL.

    mr : (nx, ny, 1), any unit.  other_mr : that of another brain.
    """

    scan: Scan
    likelihood: PoissonLikelihood
    mr: np.ndarray
    other_mr: np.ndarray
    truth: np.ndarray
    grid: ImageGrid


def demo_brain(out: Path, seed: int) -> None:
    """Run the demonstration: a slice takes seconds, most of which torch needs to start."""
    console, begun = plain_console(), time.perf_counter()
    console.width = max(console.width, 110)
    with writing():
        out.mkdir(parents=True, exist_ok=True)
    with stage("simulation"):
        brain = simulate(seed)
    console.print(f"simulated a brain, {brain.scan.counts.sum():.3g} counts in a slice, with its MR image")
    results = reconstructed(brain, console)
    console.print(_table(brain, results))
    with writing():
        figures.save(_figure(brain, results), out / "brain.png")
        formats.write_scan(out / "scan-brain.h5", brain.scan)
    console.print(f"wrote {out}/brain.png and scan-brain.h5; {time.perf_counter() - begun:.1f} s")


def simulate(seed: int) -> Brain:
    """Return a scan of a held-out brain of the recipe; the seed is that of the noise."""
    source = RecipeSource(load_recipe(_RECIPE))
    numbers = SimulatedDataset(source, "test").numbers
    index, other = numbers[_SAMPLE], numbers[_OTHER]
    simulation = source.simulations(index)[0]
    scan = replace(simulation.scan, counts=simulation.expectation.measure(seed), description="emrecon demo, brain")
    likelihood = PoissonLikelihood(scan, scan.model(simulation.projector()))
    grid = source.simulator.grid
    mr, other_mr = (source.draw(i).image("guide", grid) for i in (index, other))
    return Brain(scan, likelihood, mr, other_mr, simulation.truth, grid)


def reconstructed(brain: Brain, console: Console) -> dict[str, Result]:
    """Return the images of all methods by name; without torch the network is left out, with a line that says so."""
    results = {"OSEM": _timed(lambda: run(osem(brain.likelihood, n_subsets=_SUBSETS), _ITERATIONS))}
    results["OSEM + Gaussian"] = _timed(
        lambda: _smoothed(run(osem(brain.likelihood, n_subsets=_SUBSETS), _FILTERED), brain.grid)
    )
    results["MAP-RDP"] = _timed(lambda: _map(brain))
    try:
        network, count = _network()
    except ImportError:
        how = 'FBSEM-Net is left out because it needs torch and safetensors: pip install "emrecon[learned]"'
        console.print(how)
        return results
    for name, mr in ((_LEARNED, brain.mr), (_WRONG, brain.other_mr)):
        results[name] = _timed(partial(_applied, network, brain, mr))._replace(parameters=count)
    return results


def _timed(make: Callable[[], Array]) -> Result:
    begun = time.perf_counter()
    return Result(to_numpy(make()), time.perf_counter() - begun)


def _smoothed(image: Array, grid: ImageGrid) -> np.ndarray:
    sigma = [_FWHM / 2.355 / size for size in grid.voxel_size[:2]]
    return np.asarray(gaussian_filter(image, [*sigma, 0]))


def _map(brain: Brain) -> np.ndarray:
    start = run(osem(brain.likelihood, n_subsets=_SUBSETS), 1)
    prior = _BETA * RelativeDifference(_GAMMA, epsilon=1e-3 * float(start.max()), neighbours=8)
    return np.asarray(run(svrg(brain.likelihood, prior, start, _SUBSETS), _PASSES))


def _network() -> tuple[Any, int]:
    """The trained network, and its number of parameters; raises ImportError where torch or safetensors is missing."""
    learned.require("torch")
    learned.require("safetensors.torch")
    from emrecon.unrolled.training.shipped import pretrained

    network, card = pretrained(_NETWORK)
    return network, card.parameters


def _applied(network: Any, brain: Brain, mr: np.ndarray) -> np.ndarray:
    import torch

    (likelihood,) = learned.moved([brain.likelihood], torch.device("cpu"))
    guide = torch.from_numpy(np.asarray(mr, np.float32))
    with torch.no_grad():
        return to_numpy(network(likelihood, guide=guide))


def _table(brain: Brain, results: dict[str, Result]) -> Table:
    table = Table(title="One slice of brain PET, against the truth")
    for column in ("method", "NRMSE", "SSIM", "time (s)", "parameters"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for name, (image, seconds, parameters) in results.items():
        numbers = f"{nrmse(image, brain.truth):.3f}", f"{ssim(image, brain.truth):.3f}", f"{seconds:.2f}"
        table.add_row(name, *numbers, f"{parameters:,}" if parameters else "")
    table.caption = (
        "MAP-RDP has a relative difference prior and sees no MR. FBSEM-Net does, and leans on it: it learned from "
        "brains whose MR tells much of the activity; with the MR of another brain it is worse than MAP-RDP"
    )
    return table


def _figure(brain: Brain, results: dict[str, Result]) -> Any:
    """Truth, MR and results in a row, all but the MR in one scale of grey."""
    black = 0.8 * float(brain.truth.max())  # lesions are the hottest, and few
    images = {"truth": brain.truth, "MR": black * (1 - brain.mr / brain.mr.max())}  # fat and white matter are white
    images |= {name: image for name, (image, *_) in results.items()}
    head = brain.mr > 0.2 * brain.mr.max()
    inside = _extent(head.any((1, 2))), _extent(head.any((0, 2)))
    notes = {"MR": "scale of its own"}
    notes |= {name: f"NRMSE {nrmse(image, brain.truth):.2f}" for name, (image, *_) in results.items()}
    shown = {name: image[inside] for name, image in images.items()}
    return figures.side_by_side(shown, {"": (0, black)}, notes, voxel_size=brain.grid.voxel_size, unit="kBq/mL")


def _extent(seen: np.ndarray) -> slice:
    """From the first to the last that is seen, and two more on either side."""
    where = np.flatnonzero(seen)
    return slice(max(int(where[0]) - 2, 0), int(where[-1]) + 3)
