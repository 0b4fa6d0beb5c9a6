"""Counts that nothing explains: how many are few enough to be left out, and what is said about them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, is_cuda, to_numpy

LEAST = 1e-30
"""Expected counts up to this are none: y / ybar would leave the range of float32."""

MANY = 0.2
"""The share of the counts beyond which model and data do not belong together."""

_LOG = logging.getLogger("emrecon")


def lost_bins(y: Array, ybar: Array, n_axes: int, what: str, told: set[str]) -> Array | None:
    """Return in which bins counts were measured and none are expected, as booleans; None where there are no such bins.

    Args:
        y, ybar : counts and expected counts, (..., ``*data``), data of n_axes axes.
        what : the name of one of them in the plural, such as "bins".
        told : what was said before. That counts are lost is said once, in the log.

    Inside of `read_together` nothing waits for a CUDA device: the answer is then never None, and what is wrong is said
    at the end.

    Raises ValueError where expected counts are negative, NaN or infinite, and where the bins hold more than a fifth of
    the counts of an item.
    """
    together = _open.get()
    if together is not None and is_cuda(ybar):
        return together.note(y, ybar, n_axes, what, told)
    if _expects_all(y, ybar):
        return None
    xp, axes = array_namespace(ybar), tuple(range(-n_axes, 0))
    lost = (y > 0) & (ybar <= LEAST)
    counts, all_counts = (xp.sum(values, axis=axes, dtype=xp.float64) for values in (y * lost, y + 0 * ybar))
    bins = to_numpy(lost)
    _tell(int(bins.sum()), bins.size, to_numpy(counts), to_numpy(all_counts), what, told)
    return lost


def _expects_all(y: Array, ybar: Array) -> bool:
    """Whether something is expected wherever counts were measured."""
    xp = array_namespace(ybar)
    if bool(xp.all(((ybar > LEAST) & (ybar < float("inf"))) | ((ybar >= 0) & (ybar <= LEAST) & (y <= 0)))):
        return True
    host = to_numpy(ybar)
    _refuse(int((~((host >= 0) & (host < np.inf))).sum()), host.size)
    return False


def _refuse(wrong: int, size: int) -> None:
    if wrong:
        raise ValueError(
            f"expected counts are negative, NaN or infinite in {wrong} of {size} bins: does the image hold such values?"
        )


def _tell(n: int, size: int, counts: np.ndarray, all_counts: np.ndarray, what: str, told: set[str]) -> None:
    """Say what was left out; raise ValueError where it is much.

    Args:
        n, size : bins left out, and all.
        counts, all_counts : of each item.
    """
    if not n:
        return
    if np.any(counts > MANY * all_counts):
        where = f"{n} of {size} {what}"
        lead = f"counts were measured in {where} where none are" if what == "bins" else f"{where} are not"
        raise ValueError(
            f"{lead} expected at all: usual causes are background=0 outside the object (give the model a little; "
            "--background on the command line), zeros in the image, an image that ends inside the object, a mu map or "
            "geometry that does not belong to the data, or more subsets than so few counts can fill"
        )
    if "lost" not in told:
        told.add("lost")
        _LOG.warning(
            "%d of %d %s hold %g counts that the image cannot explain; they count for nothing (a background, "
            "--background on the command line, would explain them); this is said once",
            n,
            size,
            what,
            float(np.sum(counts)),
        )


class _Noted(NamedTuple):
    """What one look found, as numbers on the device: wrong and lost bins, then counts lost and all, of each item."""

    numbers: Array
    size: int
    what: str
    told: set[str]

    def read(self, numbers: np.ndarray) -> None:
        """Say it."""
        items = (numbers.size - 2) // 2
        _refuse(int(numbers[0]), self.size)
        _tell(int(numbers[1]), self.size, numbers[2 : 2 + items], numbers[2 + items :], self.what, self.told)


class Together:
    """What is to be read from a CUDA device in one copy."""

    def __init__(self) -> None:
        self._asked: list[tuple[Array, Callable[[np.ndarray], None]]] = []

    def note(self, y: Array, ybar: Array, n_axes: int, what: str, told: set[str]) -> Array:
        """Return the bins that are lost, and keep for later how many there are."""
        xp, axes = array_namespace(ybar), tuple(range(-n_axes, 0))
        lost = (y > 0) & (ybar <= LEAST)
        wrong = ~((ybar >= 0) & (ybar < float("inf")))
        found = [xp.sum(values, dtype=xp.float64) for values in (wrong, lost)]
        found += [xp.sum(values, axis=axes, dtype=xp.float64) for values in (y * lost, y + 0 * ybar)]
        numbers = xp.concat([xp.reshape(values, (-1,)) for values in found])
        self.ask(numbers, _Noted(numbers, math.prod(ybar.shape), what, told).read)
        return lost

    def ask(self, values: Array, then: Callable[[np.ndarray], None]) -> None:
        """Call `then` with the values at the end; at once where they are on the host."""
        if not is_cuda(values):
            then(to_numpy(values))
            return
        self._asked.append((values, then))

    def read(self) -> None:
        """Copy everything to the host at once, and hand it out in the order of the questions."""
        asked, self._asked = self._asked, []
        if not asked:
            return
        xp = array_namespace(asked[0][0])
        flat = [xp.reshape(xp.asarray(values, dtype=xp.float64), (-1,)) for values, _ in asked]
        host, first = to_numpy(xp.concat(flat)), 0
        for values, then in asked:
            size = math.prod(values.shape)
            then(host[first : first + size].reshape(tuple(values.shape)))
            first += size


_open: ContextVar[Together | None] = ContextVar("open", default=None)


@contextmanager
def read_together() -> Iterator[Together]:
    """Read what likelihoods find on a CUDA device once at the end, instead of waiting for it at every projection.

    Inside of another `read_together` nothing is read until the outer one ends. On the host everything is as without.
    Raises what the likelihoods would have raised; what was worked out inside is then worthless.
    """
    outer = _open.get()
    if outer is not None:
        yield outer
        return
    made = Together()
    token = _open.set(made)
    try:
        yield made
    finally:
        _open.reset(token)
    made.read()


def count(y: Array, ybar: Array) -> tuple[int, float]:
    """Return how many bins hold counts where none are expected, and how many counts these are."""
    lost = to_numpy((y > 0) & (ybar <= LEAST))
    return int(lost.sum()), float(to_numpy(y + 0 * ybar)[lost].sum())


def say_once(parts: Sequence[Any]) -> None:
    """Let likelihoods of the same data, made one by one, say only once that counts are left out."""
    told: set[str] = set()
    for part in parts:
        object.__setattr__(getattr(part, "local", part), "_told", told)  # of shares, too
