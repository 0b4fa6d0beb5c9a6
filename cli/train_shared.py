"""What trainings of every kind share: the folder that is theirs, the schedule, and how they say where they are."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.progress import listening
from emrecon.projectors.core.texts import read_json

from .outputs import OutputError
from .train_tables import TrainingTable

if TYPE_CHECKING:
    import torch

_RECIPE = "recipe.json"


class Described(Protocol):
    """A training that can say every number of itself and of its data."""

    @property
    def folder(self) -> Path | None: ...
    def describe(self) -> dict[str, Any]: ...


def schedule(optimiser: torch.optim.Optimizer, table: TrainingTable) -> torch.optim.lr_scheduler.LambdaLR:
    """Return the learning rate's schedule of a recipe."""
    from emrecon.unrolled.training.schedules import warmup_cosine, warmup_steps

    if table.schedule == "cosine":
        return warmup_cosine(optimiser, table.steps, table.warmup)
    return warmup_steps(optimiser, table.milestones, table.factor, table.warmup)


def check_folder(plan: Described, out: Path) -> None:
    """Raise OutputError where the folder is that of the samples."""
    if plan.folder is not None and out.resolve() == plan.folder.resolve():
        raise OutputError(errno.EEXIST, "the folder holds the samples; choose another one for the weights", str(out))


def claim(plan: Described, out: Path) -> None:
    """Make the folder this training's, or find that it is.

    Raises ValueError, with what differs, where it is another's; OutputError where it cannot be written.
    """
    here = _comparable(plan)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / _RECIPE).exists():
            there = read_json(out / _RECIPE, "the recipe of a training")
            if there != here:
                raise ValueError(f"{out} belongs to another training ({_difference(there, here)}); use another folder")
            return
        with atomic_path(out / _RECIPE) as path:
            path.write_text(json.dumps(here, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), str(out)) from error


def _comparable(plan: Described) -> dict[str, object]:
    """What must be the same when a training goes on; its length may change, and the warmup with it."""
    described = json.loads(json.dumps(plan.describe()))
    kept = {key: value for key, value in described["training"].items() if key not in ("steps", "patience", "warmup")}
    return {**described, "training": kept}


def _difference(there: object, here: object, at: str = "") -> str:
    """The first difference of two descriptions."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in [*here, *(key for key in there if key not in here)]:
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{at}.{key}" if at else key)
    return f"{at} is {there} there and {here} here"


def digest(plan: Described) -> str:
    """Return what a checkpoint must have been written with."""
    return hashlib.sha256(json.dumps(_comparable(plan), sort_keys=True).encode()).hexdigest()


@contextmanager
def progress(console: Console, rank: int, steps: int) -> Iterator[Callable[..., None]]:
    """Show steps done, loss, NRMSE, rate and remaining time; only rank 0 has a bar, and where it goes on a terminal.

    Elsewhere the lines of the training on the log are enough.
    """
    if not console.is_terminal:
        yield lambda done, **values: None
        return
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[said]}")
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with listening(lambda work: None), Progress(*columns, *times, console=console, disable=rank > 0) as bars:
        task = bars.add_task("training", total=steps, said="")
        seen: dict[str, float] = {}

        def tell(done: int, **values: float) -> None:
            seen.update(values)
            speed = bars.tasks[0].speed if bars.tasks else None
            rate = "" if speed is None else f", {speed:.2g} steps/s"
            numbers = "".join(f", {name.replace('nrmse', 'NRMSE')} {value:.4g}" for name, value in seen.items())
            bars.update(task, completed=done, said=f"{done} of {steps}{numbers}{rate}")

        yield tell
