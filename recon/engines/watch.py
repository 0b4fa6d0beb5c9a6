"""What keeps gradient engines from rising: a look at the objective before an image is handed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from emrecon.projectors.core.arrays import Array, array_namespace, like

_RISE = 0.01  # of the fall since the start: so far above the lowest objective met an image may lie
_NOISE = 1e-7  # of the objective: what float32 cannot tell
_STILL = 1e-3  # of the expected counts: what changes less is not looked at


class Watch(NamedTuple):
    """The objective at the start and the lowest that was met, one number for each item of a batch.

    An image is worse where its objective is above  lowest + 0.01 (first - lowest)  by more than float32 can tell.
    """

    first: Array
    lowest: Array

    @classmethod
    def resumed(cls, value: Array, first: Array | None, lowest: Array | None) -> Watch:
        """Return what an iterate remembers, or begin at a value where it remembers nothing."""
        if first is None or lowest is None:
            return cls(value, value)
        return cls(like(first, value), like(lowest, value))

    def met(self, value: Array) -> Watch:
        """Return the watch after an image of this value was accepted."""
        return Watch(self.first, array_namespace(value).minimum(self.lowest, value))

    def look(self, objective: Callable[[Array], Array], x: Array, before: Array, scale: Array) -> tuple[Array, Watch]:
        """Return which items are worse, as booleans (..., 1, 1, 1), and the watch after this look.

        Args:
            objective : of an image, one number for each item; a ValueError says that it has no bound.
            before : the image that x was made from.
            scale : the sensitivity s. Items whose sum(s |x - before|) is below 1e-3 of sum(s before) are taken as they
                are; where there are no others the objective is not asked.
        """
        xp, axes = array_namespace(x), (-3, -2, -1)
        change = xp.sum(scale * xp.abs(x - before), axis=axes, keepdims=True)
        far = change > _STILL * xp.sum(scale * before, axis=axes, keepdims=True)
        if not bool(xp.any(far)):
            return far, self
        try:
            value = objective(x)
        except ValueError:
            return far, self
        fall, noise = xp.maximum(self.first - self.lowest, 0 * self.lowest), _NOISE * abs(self.lowest)
        worse = far & ~(value <= self.lowest + _RISE * fall + noise)[..., None, None, None]
        met = (far & ~worse)[..., 0, 0, 0]
        return worse, Watch(self.first, xp.where(met, xp.minimum(value, self.lowest), self.lowest))


def is_worse(now: Array, before: Array) -> Array:
    """Which items' objectives have risen, as booleans (..., 1, 1, 1)."""
    return ~(now <= before + _NOISE * abs(before))[..., None, None, None]
