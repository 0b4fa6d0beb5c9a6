"""Drive an algorithm: progress, log, checkpoints and stopping rules around any loop of iterates."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from emrecon.projectors.core.archives import read_arrays
from emrecon.projectors.core.arrays import Array, array_namespace, device, to_numpy
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path, atomic_stream
from emrecon.projectors.core.progress import is_heard, note, tracked
from emrecon.projectors.core.texts import read_json, read_text

from .engines.em import Iterate


class Standing(Protocol):
    """What callbacks look at: an `Iterate`, or whatever has its number and image."""

    @property
    def iteration(self) -> int: ...
    @property
    def image(self) -> Array: ...


Row = dict[str, Any]
Callback = Callable[[Any], Any]
_COLUMNS = ("iteration", "seconds", "objective")
_STATE = "state_"  # before the names of what an engine remembers, in a checkpoint
Objective = Callable[[Array], Array | float]


def run(iterates: Iterator[Standing], n_iterations: int, *callbacks: Callback) -> Array:
    """Take `n_iterations` iterates, show each to the callbacks and return the last image.

    A callback that returns True ends the run. Callbacks with a `close` method have it called at the end, also when the
    run is interrupted.

    Raises ValueError unless n_iterations is at least 1 and there are iterates to take.
    """
    last = None
    try:
        if n_iterations < 1:
            raise ValueError(f"n_iterations must be at least 1, got {n_iterations}")
        for last in tracked(islice(iterates, n_iterations), "iterations", n_iterations):
            answers = [callback(last) for callback in callbacks]  # all of them, before any may end the run
            if any(_is_true(answer) for answer in answers):
                break
        if last is None:
            raise ValueError("the algorithm yields no iterates: is it used up?")
        return last.image
    finally:
        for callback in callbacks:
            getattr(callback, "close", lambda: None)()


def _is_true(answer: Any) -> bool:
    """Whether a callback answered True, as a comparison of arrays says it too (a NumPy or torch truth value)."""
    return answer is True or ("bool" in str(getattr(answer, "dtype", "")) and answer.shape == () and bool(answer))


class ProgressBar:
    """A progress bar with iteration, objective, time and what is left of it; silent where the output is no terminal.

    Under `show_progress` it adds the objective to the bars that are there.

    Args:
        n_iterations : for the bar's length.
        objective : f(image), shown when given (costs a projection per iteration).
    """

    def __init__(
        self, n_iterations: int, objective: Objective | None = None, *, console: Console | None = None
    ) -> None:
        console = console or Console(stderr=True)
        times = TimeElapsedColumn(), TimeRemainingColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
        self.objective = objective
        self._progress = Progress(
            *columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("iteration", total=n_iterations, note="")

    def __call__(self, iterate: Standing) -> None:
        if self._progress.disable:
            return
        said = "" if self.objective is None else f"objective {_total(self.objective, iterate.image):.8g}"
        if is_heard():
            note(said)
            return
        self._progress.start()
        self._progress.update(self._task, advance=1, note=said)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()


class Log:
    """Write iteration, seconds and objective of every iterate to a .csv or .json file, complete at any moment.

    Args:
        resume : keep the rows the file has already, when a run goes on; seconds count on from the last of them.

    Raises ValueError for another suffix, or a file to resume that is no log.
    """

    def __init__(self, path: str | Path, objective: Objective | None = None, *, resume: bool = False) -> None:
        self.path, self.objective = Path(path), objective
        if self.path.suffix not in (".csv", ".json"):
            raise ValueError(f"Log writes .csv or .json, not {self.path.name!r}")
        self._rows: list[Row] = _read_log(self.path) if resume and self.path.exists() else []
        self._start = time.perf_counter() - (float(self._rows[-1]["seconds"]) if self._rows else 0.0)

    def __call__(self, iterate: Standing) -> None:
        row: Row = {"iteration": iterate.iteration, "seconds": round(time.perf_counter() - self._start, 4)}
        if self.objective is not None:
            row["objective"] = _total(self.objective, iterate.image)
        # A kill between this file and a checkpoint leaves rows that the resumed run writes again.
        self._rows = [*(r for r in self._rows if r["iteration"] < iterate.iteration), row]
        with atomic_path(self.path) as path, path.open("w", newline="", encoding="utf-8") as stream:
            if self.path.suffix == ".json":
                json.dump(self._rows, stream, indent=1)
                return
            writer = csv.DictWriter(stream, list(self._rows[0] | row))
            writer.writeheader()
            writer.writerows(self._rows)


@dataclass(frozen=True)
class Checkpoint:
    """Save every `every`-th iterate to an .npz file, so that a run can go on after a kill as if nothing had happened::

        saved = Checkpoint(path).load()
        done = saved.iteration if saved else 0
        run(svrg(f, prior, saved, 8), 20 - done, Checkpoint(path))

    What an engine remembers besides the image is saved too.

    Args:
        signature : anything that must be the same when resuming, such as the settings as text.

    The file is complete at any moment, and loaded without unpickling.
    """

    path: str | Path
    every: int = 1
    signature: str = ""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"Checkpoint every must be at least 1, got {self.every}")

    def __call__(self, iterate: Standing) -> None:
        if iterate.iteration % self.every:
            return
        with atomic_stream(self.path) as stream:
            np.savez(
                stream,
                iteration=np.int64(iterate.iteration),
                image=to_numpy(iterate.image),
                signature=np.str_(self.signature),
                **{_STATE + name: _host(value) for name, value in getattr(iterate, "state", {}).items()},  # type: ignore[arg-type]
            )

    def load(self, like: Array | None = None) -> Iterate | None:
        """Return the saved iterate, or None where there is no file yet.

        Args:
            like : an array whose library and device the saved ones shall have (default: NumPy); with it a run on
                tensors goes on exactly.

        Raises FormatError (a ValueError) for a file that is damaged, ValueError for one with another signature.
        """
        if not Path(self.path).exists():
            return None
        try:
            saved = read_arrays(self.path)
            image, iteration, signature = (saved[name] for name in ("image", "iteration", "signature"))
            if iteration.shape or iteration.dtype.kind not in "iu" or iteration < 0 or image.dtype.kind not in "fiu":
                raise FormatError("its iteration and image are not a whole number and numbers")
            if signature.shape or signature.dtype.kind != "U":
                raise FormatError("its signature is not a text")
        except (FormatError, KeyError) as error:
            raise FormatError(f"{self.path} is not a checkpoint, or is damaged: {error}") from error
        state = {name.removeprefix(_STATE): value for name, value in saved.items() if name.startswith(_STATE)}
        if str(signature) != self.signature:
            raise ValueError(
                f"{self.path} belongs to another run ({str(signature)!r}, not {self.signature!r}); use another file"
            )
        if like is None:
            return Iterate(int(iteration), image, state)
        return Iterate(
            int(iteration), _moved(image, like), {name: _moved(value, like) for name, value in state.items()}
        )


@dataclass(frozen=True)
class RelativeChange:
    """Stop when ``|image - previous| / |previous|`` falls below `tolerance`.

    0 never stops. Raises ValueError for a tolerance that is negative, infinite or not a number.
    """

    tolerance: float
    _previous: list[Array] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"RelativeChange tolerance must be a number of at least 0, got {self.tolerance}")

    def __call__(self, iterate: Standing) -> bool:
        previous = self._previous.pop() if self._previous else None
        self._previous.append(iterate.image)
        if previous is None:
            return False
        xp = array_namespace(previous)
        change = xp.sqrt(xp.sum((iterate.image - previous) ** 2) / xp.sum(previous**2))
        return bool(change < self.tolerance)


def _moved(value: np.ndarray, like: Array) -> Array:
    """Return an array in the library and on the device of another, in its own precision; numbers stay as they are."""
    return array_namespace(like).asarray(value, device=device(like)) if value.ndim else value


def _host(value: Any) -> np.ndarray:
    if isinstance(value, tuple):
        return np.stack([to_numpy(part) for part in value])
    return to_numpy(value) if hasattr(value, "shape") else np.asarray(value)


def _read_log(path: Path) -> list[Row]:
    """The rows of a log; raises FormatError naming the file for another one."""
    rows = read_json(path, "a log to go on with") if path.suffix == ".json" else _csv_rows(path)
    try:
        if any(set(row) - {*_COLUMNS} for row in rows):
            raise ValueError(f"its columns are not {', '.join(_COLUMNS)}")
        return [dict(row) | {"iteration": int(row["iteration"]), "seconds": float(row["seconds"])} for row in rows]
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise FormatError(f"{path} is not a log to go on with ({error}); choose another file") from error


def _csv_rows(path: Path) -> list[Row]:
    try:
        return list(csv.DictReader(read_text(path).splitlines()))
    except csv.Error as error:
        raise FormatError(f"{path} is not a log to go on with ({error}); choose another file") from error


def _total(objective: Objective, image: Array) -> float:
    return float(np.sum(to_numpy(objective(image))))
