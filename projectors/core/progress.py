"""How far long work has got: on the log `emrecon`, a line now and then, and to whoever listens.

    for part in tracked(parts, "subsets"):            # steps that can be counted
        ...
    with stage("normalisation"):                      # one step
        ...

Pieces of work may lie in one another: a reconstruction, its iterations, their subsets. The time that is left is that of
the outermost. What takes less than two seconds says nothing on the log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

_LOG = logging.getLogger(__name__)
_FIRST, _OFTEN, _SELDOM = 2.0, 5.0, 60.0  # s: when the log hears of a piece of work, and how often after that

T = TypeVar("T")


@dataclass(eq=False)
class Stage:
    """A piece of work.

    Args:
        what : it is, as a noun.
        total : how many steps it has, None where nobody knows.
        outer : the piece that it is a part of.
        done : steps that are behind it.
        before : those of them that an earlier run has done.
        note : what else to say, such as an objective.
        inner : the piece inside that is at work, or was until now and counts as part of the step.
    """

    what: str
    total: float | None = None
    outer: Stage | None = None
    done: float = 0.0
    before: float = 0.0
    note: str = ""
    inner: Stage | None = None
    over: bool = False
    began: float = field(default_factory=lambda: time.perf_counter())
    heard: float = 0.0
    """When the log heard of it, as seconds of it."""

    @property
    def seconds(self) -> float:
        """How long it has been at work."""
        return time.perf_counter() - self.began

    @property
    def fraction(self) -> float | None:
        """The part of it that is behind it, 0 to 1, None where nobody knows; pieces inside count as part of a step."""
        if not self.total:
            return None
        inside = (self.inner.fraction or 0.0) if self.inner is not None else 0.0
        return min(1.0, (self.done + inside) / self.total)

    @property
    def remaining(self) -> float | None:
        """How many seconds are left at the mean speed until now; of the piece inside where no length is known."""
        if not self.total:
            return None if self.inner is None else self.inner.remaining
        fraction, before = self.fraction or 0.0, self.before / self.total
        return self.seconds * (1 - fraction) / (fraction - before) if fraction > before else None

    def chain(self) -> list[Stage]:
        """Return the piece and those inside it that are at work, from the outermost."""
        return [self, *(self.inner.chain() if self.inner is not None and not self.inner.over else [])]

    def __str__(self) -> str:
        parts = "; ".join(stage._counted() for stage in self.chain())
        left = "" if self.over or self.remaining is None else f", about {in_words(self.remaining)} left"
        return f"{parts}: {in_words(self.seconds)}{left}"

    def _counted(self) -> str:
        counted = f", {self.done:g} of {self.total:g}" if self.total and self.total > 1 else ""
        return self.what + counted + (f" ({self.note})" if self.note else "")


Listener = Callable[[Stage], None]
"""What is called with the outermost piece of work whenever something begins, has done a step, or is over."""

_CURRENT: ContextVar[Stage | None] = ContextVar("emrecon_stage", default=None)


def tracked(items: Iterable[T], what: str, total: float | None = None) -> Iterator[T]:
    """Yield the items, and say how far one has got.

    For loops that run to their end or are left by `break`, `return` and errors, not for generators that hand the items
    on: what the body of the loop does counts as inside this piece of work.

    Args:
        what : the work is, as a noun: "subsets", "events of scan.l".
        total : how many items there are, where `len` does not say.
    """
    n = total if total is not None else len(items) if isinstance(items, Sized) else None
    with stage(what, n) as own:
        for item in items:
            yield item
            step(own)


@contextmanager
def stage(what: str, total: float | None = None) -> Iterator[Stage]:
    """Say that the body is a piece of work; `step(stage)` says that it has done a step of `total`."""
    own = Stage(what, total, outer := _live(_CURRENT.get()))
    if outer is not None:
        outer.inner = own
    _CURRENT.set(own)
    try:
        _tell(own)
        yield own
    finally:
        finish(own)
        # a generator that was left may end here after pieces that began later; those stay current
        _CURRENT.set(_live(_CURRENT.get()))


def _live(own: Stage | None) -> Stage | None:
    """The innermost piece of work around that is not over."""
    while own is not None and own.over:
        own = own.outer
    return own


def step(own: Stage, n: float = 1.0) -> None:
    """Say that n steps are done."""
    own.done, own.inner = own.done + n, None
    _tell(own)


def finish(own: Stage) -> None:
    """Say that a piece of work is over, one that was made by hand: generators, which yield in between, have no body."""
    own.over = True
    _tell(own)


def note(text: str) -> None:
    """Say something about the piece of work around the caller, such as an objective; outside of any nobody hears it."""
    own = _live(_CURRENT.get())
    if own is not None:
        own.note = text


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let `listener` hear of the work in the body, instead of the log."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def is_heard() -> bool:
    """Whether someone other than the log listens."""
    return _LISTENER.get() is not _to_log


def in_words(seconds: float) -> str:
    """Return a length of time as people say it: "35 s", "3 min 10 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _tell(own: Stage) -> None:
    while own.outer is not None:
        own = own.outer
    _LISTENER.get()(own)


def _to_log(whole: Stage) -> None:
    """Say it now and then: seldom in long work, and at the end where something was said before or it took long."""
    seconds = whole.seconds
    pause = min(max(_OFTEN, 0.3 * whole.heard), _SELDOM) if whole.heard else _FIRST
    if seconds - whole.heard >= pause or (whole.over and seconds >= _FIRST):
        whole.heard = seconds
        _LOG.info("%s", str(whole))  # text now: the work goes on


_LISTENER: ContextVar[Listener] = ContextVar("emrecon_listener", default=_to_log)
