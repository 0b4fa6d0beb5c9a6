"""How a method comes to its image: the objective and the change of the image, pass by pass."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, to_numpy

from .running import Objective, Row, Standing


class History:
    """Keep iteration, seconds, objective and change of the image, as a callback of `run` and `reconstruct`::

        history = History(problem.value)
        image = reconstruct(problem, "osem", callbacks=[history])
        history.rows  # [{"iteration": 1, "seconds": 0.4, "objective": 1234.5, "change": None}, ...]

    The change is ``|x - previous| / |previous|``, over all voxels. The objective costs a projection of all views, so it
    is computed at the iterations 1, 2, 3, 4, 6, 8, 12, 16, 24, ... (at most two for each doubling) and at the last one.

    Args:
        objective : f(image), None to leave it out.
        every : compute the objective at every iteration.
    """

    def __init__(self, objective: Objective | None = None, *, every: bool = False) -> None:
        self.objective, self.every = objective, every
        self.rows: list[Row] = []
        self._start = time.perf_counter()
        self._previous: Array | None = None

    def __call__(self, iterate: Standing) -> None:
        row: Row = {
            "iteration": int(iterate.iteration),
            "seconds": round(time.perf_counter() - self._start, 4),
            "objective": None,
            "change": None if self._previous is None else _change(iterate.image, self._previous),
        }
        self._previous = iterate.image
        self.rows.append(row)
        if self.every or _is_milestone(row["iteration"]):
            self._look(row)

    def close(self) -> None:
        """Compute the objective of the last image, where that is not done."""
        if self.rows and self.rows[-1]["objective"] is None and self._previous is not None:
            self._look(self.rows[-1])
        self._previous = None

    def _look(self, row: Row) -> None:
        objective, image = self.objective, self._previous
        if objective is not None and image is not None:
            value = float(np.sum(to_numpy(objective(image))))
            row["objective"] = value if math.isfinite(value) else None


def _is_milestone(iteration: int) -> bool:
    """Whether a number is a power of two, or three times one."""
    odd = iteration // (iteration & -iteration) if iteration else 0
    return odd in (1, 3)


def _change(image: Any, previous: Any) -> float | None:
    if tuple(image.shape) != tuple(previous.shape):
        return None
    xp = array_namespace(image)
    before = float(xp.sqrt(xp.sum(previous**2)))
    change = float(xp.sqrt(xp.sum((image - previous) ** 2)))
    return change / before if before > 0 and math.isfinite(change) else None
