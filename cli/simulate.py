"""`emrecon simulate`: training data from a recipe, resumable, on as many processes as there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from emrecon.projectors import AcquisitionModel, GaussianBlur, PETProjector, SPECTProjector
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.progress import Stage, finish, step
from emrecon.recon import PoissonLikelihood, osem
from emrecon.sims import Simulation, SPECTSimulator, recipes
from emrecon.sims.datasets import rank_and_size, write_dataset

from .errors import interruptible
from .outputs import writing
from .printing import plain_console


def simulate(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a recipe that comes with emrecon, or a TOML file.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the data set; the same command continues where it stopped.")
    ] = None,
    n: Annotated[int | None, typer.Option(min=1, max=10**9, help="How many samples (default: the recipe's).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the simulation (default: the recipe's).")] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine.")] = 1,
    shard_size: Annotated[int | None, typer.Option(min=1, help="Samples in a file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Check and print the recipe, then stop.")] = False,
) -> None:
    """Simulate a data set: `emrecon simulate spectnet --n 1000 --out DIR --workers 2`.

    Under torchrun, and in SLURM and PBS job arrays, every rank makes its share of the files. Without a recipe, lists
    those that come with emrecon.
    """
    console = plain_console()
    if recipe is None:
        _list(console)
        return
    found = recipes.load_recipe(recipe)
    found = found if seed is None else found.model_copy(update={"seed": seed})
    source = recipes.source_of(found, n or 0, reconstruct)
    if show:
        console.print_json(data=source.describe())
        return
    if out is None:
        raise typer.BadParameter("name the folder to write the data set to", param_hint="--out")
    if shard_size is not None and shard_size % source.batch:
        fits = source.batch * -(-shard_size // source.batch)
        message = f"files hold whole batches of {source.batch} samples; use {fits}, not {shard_size}"
        raise typer.BadParameter(message, param_hint="--shard-size")
    rank, n_ranks = rank_and_size()
    advice = f"files in {out} that are complete are kept, and the same command goes on with the others"
    with interruptible(lambda: advice), _progress(console, rank) as progress, writing():
        written = write_dataset(
            source, out, shard_size=shard_size, workers=workers, rank=rank, n_ranks=n_ranks, progress=progress
        )
    rate = written.n_made / max(written.seconds, 1e-9)
    share = f" (rank {rank} of {n_ranks})" if n_ranks > 1 else ""
    console.print(f"{out}: {written.n_samples} samples{share}, {written.n_bytes / 1e6:.1f} MB, {rate:.1f} samples/s")
    if not written.complete:
        console.print(
            f"{len(written.missing)} files are still missing; other ranks will make them, or run the same command again"
        )


def reconstruct(simulations: Sequence[Simulation], table: recipes.ReconstructionTable) -> np.ndarray:
    """Return the images of a recipe's table [reconstruction], (levels, nx, ny, nz) in kBq/mL.

    simulations : one scan at several levels, which are reconstructed as one batch. Voxels that no line crosses are 0.
    """
    first = simulations[0]
    projector = first.projector() if table.response else _sharp(first)
    levels = np.array([s.scan.duration / first.scan.duration for s in simulations], np.float32)  # type: ignore[operator]
    levels = levels.reshape(-1, *[1] * len(projector.out_shape))
    model = AcquisitionModel(projector, first.scan.factors, levels * first.scan.background, levels)
    likelihood = PoissonLikelihood(np.stack([s.scan.counts for s in simulations]), model)
    start = np.full((len(simulations), *projector.in_shape), max(float(first.truth.mean()), 1e-3), np.float32)
    iterates = osem(likelihood, start, n_subsets=table.subsets)
    image: Any = next(i.image for i in iterates if i.iteration == table.iterations)
    image = np.where(likelihood.sensitivity > 0, image, 0).astype(np.float32)
    grid = first.expectation.simulator.grid
    return to_numpy(GaussianBlur(grid, table.filter_fwhm)(image)) if table.filter_fwhm else image


def _sharp(simulation: Simulation) -> Any:
    """The projector without a model of the resolution."""
    simulator = simulation.expectation.simulator
    if isinstance(simulator, SPECTSimulator):
        return SPECTProjector(simulator.grid, simulator.geometry, simulation.mu)
    return PETProjector(simulator.grid, simulator.geometry)  # type: ignore[arg-type]


def _list(console: Console) -> None:
    table = Table("recipe", "samples", "what", box=None)
    for name, (n, description) in recipes.recipe_titles().items():
        table.add_row(name, str(n), description)
    console.print(table)


@contextmanager
def _progress(console: Console, rank: int) -> Iterator[Callable[[int, int, float, int], None]]:
    """Show samples done, rate and remaining time; only rank 0 has a bar, or lines where it goes to no terminal."""
    if rank == 0 and not console.is_terminal:
        with _lines() as tell:
            yield tell
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=rank > 0) as bars:
        task = bars.add_task("simulating", total=None, rate="")
        at_start: list[int] = []

        def tell(done: int, total: int, seconds: float, n_bytes: int) -> None:
            at_start.append(done)
            rate = (done - at_start[0]) / seconds if seconds > 0 else 0.0
            shown = f"{done} of {total}, {rate:.1f}/s, {n_bytes / 1e6:.0f} MB"
            bars.update(task, completed=done, total=total, rate=shown)

        yield tell


@contextmanager
def _lines() -> Iterator[Callable[[int, int, float, int], None]]:
    """Say now and then on the log how many samples are made."""
    work = Stage("simulating")

    def tell(done: int, total: int, seconds: float, n_bytes: int) -> None:
        if work.total is None:
            work.total, work.before = total, done
        work.note = f"{n_bytes / 1e6:.0f} MB"
        step(work, done - work.done)

    try:
        yield tell
    finally:
        finish(work)
