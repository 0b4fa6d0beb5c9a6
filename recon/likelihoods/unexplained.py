"""Counts that nothing explains: how many are few enough to be left out, and what is said about them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, to_numpy

LEAST = 1e-30
"""Expected counts up to this are none: y / ybar would leave the range of float32."""

MANY = 0.2
"""The share of the counts beyond which model and data do not belong together."""

_LOG = logging.getLogger("emrecon")


def expects_all(y: Array, ybar: Array) -> bool:
    """Whether something is expected wherever counts were measured.

    Raises ValueError where expected counts are negative, NaN or infinite.
    """
    xp = array_namespace(ybar)
    if bool(xp.all(((ybar > LEAST) & (ybar < float("inf"))) | ((ybar >= 0) & (ybar <= LEAST) & (y <= 0)))):
        return True
    host = to_numpy(ybar)
    wrong = ~((host >= 0) & (host < np.inf))
    if wrong.any():
        raise ValueError(
            f"expected counts are negative, NaN or infinite in {int(wrong.sum())} of {host.size} bins: does the image "
            "hold such values?"
        )
    return False


def left_out(y: Array, ybar: Array, n_axes: int, what: str, told: set[str]) -> Array:
    """Return in which bins counts were measured and none are expected, as booleans; say so once in the log.

    Args:
        y, ybar : counts and expected counts, (..., ``*data``), data of n_axes axes.
        what : the name of one of them in the plural, such as "bins".
        told : what was said before.

    Raises ValueError where they hold more than a fifth of the counts of an item.
    """
    xp, axes = array_namespace(ybar), tuple(range(-n_axes, 0))
    lost = (y > 0) & (ybar <= LEAST)
    counts, all_counts = (xp.sum(values, axis=axes, dtype=xp.float64) for values in (y * lost, y + 0 * ybar))
    n, size, total = int(to_numpy(lost).sum()), to_numpy(lost).size, float(to_numpy(counts).sum())
    if bool(xp.any(counts > MANY * all_counts)):
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
            total,
        )
    return lost


def count(y: Array, ybar: Array) -> tuple[int, float]:
    """Return how many bins hold counts where none are expected, and how many counts these are."""
    lost = to_numpy((y > 0) & (ybar <= LEAST))
    return int(lost.sum()), float(to_numpy(y + 0 * ybar)[lost].sum())


def say_once(parts: Sequence[Any]) -> None:
    """Let likelihoods of the same data, made one by one, say only once that counts are left out."""
    told: set[str] = set()
    for part in parts:
        object.__setattr__(part, "_told", told)
