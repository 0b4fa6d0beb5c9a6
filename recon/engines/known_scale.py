"""What fixes the scale that time of flight leaves open when activity and attenuation are found together."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, like, to_numpy

KINDS = ("total", "activity", "mu")


@dataclass(frozen=True, eq=False)
class KnownScale:
    """A number that is known of the solution of a joint estimation::

        KnownScale("total", 3e6)                 the sum of the activity image
        KnownScale("activity", 5.0, region)      the mean activity of a region
        KnownScale("mu", 0.096, region)          the attenuation of a region, 1/cm, which is held at it

    Args:
        kind : "total", "activity" or "mu".
        value : positive.
        region : (x, y, z) of booleans (or 1 and 0) on the grid, for "activity" and "mu".

    Raises ValueError for another kind, values that are not positive, and a region that is missing, empty or too
    much.

    Source: Defrise, Rezaei & Nuyts 2012, Phys Med Biol 57:885 (TOF data determine attenuation up to a constant).
    """

    kind: str
    value: float
    region: Array | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind of KnownScale {self.kind!r}; choose from {', '.join(KINDS)}")
        if not (math.isfinite(self.value) and self.value > 0):
            raise ValueError(f"KnownScale {self.kind} must be a positive number, got {self.value}")
        if (self.region is None) != (self.kind == "total"):
            needs = "takes no region" if self.kind == "total" else "needs a region, (x, y, z) of booleans"
            raise ValueError(f"KnownScale {self.kind!r} {needs}")
        if self.region is not None:
            checked_region(self.region, f"KnownScale {self.kind}")

    @property
    def is_of_activity(self) -> bool:
        """Whether it is a number of the activity image."""
        return self.kind != "mu"

    def scaled(self, x: Array) -> Array:
        """Return the activity image (..., x, y, z) times the number that makes it agree; as it is for "mu"."""
        if not self.is_of_activity:
            return x
        xp, axes = array_namespace(x), (-3, -2, -1)
        if self.region is None:
            found = xp.sum(x, axis=axes, keepdims=True, dtype=xp.float64)
        else:
            inside = like(self.region, x)
            found = xp.sum(x * inside, axis=axes, keepdims=True, dtype=xp.float64) / xp.sum(inside, dtype=xp.float64)
        factor = xp.where(found > 0, self.value / xp.where(found > 0, found, xp.ones_like(found)), xp.ones_like(found))
        return x * xp.astype(factor, x.dtype)

    def held(self, mu: Array) -> Array | None:
        """Return which voxels of mu are held at `value`, as booleans in its library; None where none are."""
        return None if self.is_of_activity else like(self.region, mu) > 0

    def __repr__(self) -> str:
        return f"KnownScale({self.kind!r}, {self.value:g})"


def checked_region(region: Array, who: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Return a region as booleans on the host; raises ValueError for one that is empty, no mask, or does not fit."""
    host = to_numpy(region)
    if not np.isin(host, (0, 1)).all():
        raise ValueError(f"the region of {who} must be booleans, or 1 and 0")
    if not host.any():
        raise ValueError(f"the region of {who} is empty")
    if shape is not None and tuple(host.shape) != shape:
        raise ValueError(f"the region of {who} has shape {tuple(host.shape)}, and images have {shape}")
    return host > 0
