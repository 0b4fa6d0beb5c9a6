"""Bars on a terminal for long work: a line for each piece that is at work, gone when it is over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .progress import Stage, in_words, listening

_PATIENCE = 0.5  # s; work that is over before shows nothing


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[None]:
    """Show bars, with the time that is left, for the work in the body: reading, subsets, iterations, training.

    On standard error, unless another console is given; where that is no terminal, lines on the log `emrecon` are all
    there is (`logging.basicConfig(level=logging.INFO)` shows them)::

        with show_progress():
            image = recon.reconstruct(problem, "osem", iterations=4)
    """
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    bars = _Bars(console)
    try:
        with listening(bars):
            yield
    finally:
        bars.close()


class _Bars:
    """The bars of the work that one thread does; a timer shows them once it takes a while."""

    def __init__(self, console: Console) -> None:
        self._console, self._lock = console, threading.RLock()
        self._progress: Progress | None = None
        self._timer: threading.Timer | None = None
        self._tasks: dict[Stage, TaskID] = {}
        self._whole: Stage | None = None

    def __call__(self, whole: Stage) -> None:
        with self._lock:
            if whole.over:
                self.close()
                if whole.seconds >= 2:
                    self._console.print(str(whole), style="dim", markup=False, emoji=False, highlight=False)
                return
            self._whole = whole
            if self._progress is not None:
                self._refresh()
            elif self._timer is None:
                self._timer = threading.Timer(_PATIENCE, self._begin)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Take the bars away."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._progress is not None:
                self._progress.stop()
            self._progress = self._timer = self._whole = None
            self._tasks.clear()

    def _begin(self) -> None:
        with self._lock:
            if self._whole is None or self._progress is not None:
                return
            columns = TextColumn("{task.description}", markup=False), BarColumn(), _Times()
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._refresh()
            self._progress.start()

    def _refresh(self) -> None:
        assert self._progress is not None
        assert self._whole is not None
        shown = self._whole.chain()
        for stage in [stage for stage in self._tasks if stage not in shown]:
            self._progress.remove_task(self._tasks.pop(stage))
        for stage in shown:
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task("", total=None, stage=stage)
            counted = f" {stage.done:g} of {stage.total:g}" if stage.total and stage.total > 1 else ""
            fraction = stage.fraction
            self._progress.update(
                self._tasks[stage],
                description=stage.what + counted + (f", {stage.note}" if stage.note else ""),
                completed=fraction or 0.0,
                total=None if fraction is None else 1.0,
            )


class _Times(TextColumn):
    """Seconds behind, and seconds left; looked up whenever the bars are drawn."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: object) -> object:  # type: ignore[override]
        """Return the text of a task."""
        from rich.text import Text

        stage: Stage = task.fields["stage"]  # type: ignore[attr-defined]
        left = stage.remaining
        return Text(in_words(stage.seconds) + ("" if left is None else f", about {in_words(left)} left"), "cyan")
