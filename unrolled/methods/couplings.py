"""Couplings between an image and its denoised one, and the units in which they are the same for every scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, divide_where, is_torch, like, to_numpy
from emrecon.recon.likelihoods import Likelihood, sensitivity_like, start_image

from ..networks.guides import IMAGE_AXES
from ..networks.scaling import of_counts

Coupling = float | Array | Callable[[int], float | Array]
"""A coupling: a number, an array that broadcasts to images, or a function of the iterations done."""

_FAINT = 0.01  # of the counts: the least share that is taken for activity where the background explains them all


@dataclass(frozen=True)
class Growing:
    """A coupling that grows: after k iterations min(first * growth^k, last); for half-quadratic splitting."""

    first: float
    growth: float = 1.2
    last: float = math.inf

    def __post_init__(self) -> None:
        if not (0 < self.first < math.inf and 1 <= self.growth < math.inf and self.last >= self.first):
            raise ValueError(f"Growing needs first > 0, growth >= 1 and last >= first, got {self}")

    def __call__(self, iteration: int) -> float:
        return min(self.first * math.exp(min(iteration * math.log(self.growth), 600.0)), self.last)


def matched_sigma(rho: float | Array) -> float | Array:
    """Return 1 / sqrt(rho): with it a proximal map is the z-step of f(x) + U(z) + rho / 2 ``|x - z + mu|^2``."""
    return rho**-0.5


def activity_scale(likelihood: Likelihood | Sequence[Likelihood], x: Array | None = None) -> float | Array:
    """Return a typical activity, sum(y - background) / sum(s): a number, or one for each item, (B, 1, 1, 1).

    It doubles with counts and background. At least 1 % of the counts are taken for activity. The background of
    list-mode data is taken for activity too, since single events do not tell its sum.

    Args:
        x : an image whose library, device and precision arrays shall have (default: those of the data).

    Raises TypeError for a likelihood that does not know its counts.
    """
    parts = listed(likelihood)
    x = start_image(parts[0]) if x is None else x
    signal = sum((_signal(part, x) for part in parts[1:]), _signal(parts[0], x))
    xp = array_namespace(x)
    sensitivity = xp.sum(_sensitivity(parts, x), axis=IMAGE_AXES)
    return _for_items(divide_where(signal, sensitivity))


def coupling_unit(
    likelihood: Likelihood | Sequence[Likelihood], scale: float | Array | None = None, x: Array | None = None
) -> float | Array:
    """Return mean(s) / scale, by which a coupling without unit becomes one in units of s / x; the mean is over s > 0::

        pnp_em(f, denoiser, rho=0.1 * coupling_unit(f))

    is then equally strong whatever the counts, their unit and the size of the voxels are.

    Args:
        scale : a typical activity, a number or (B, 1, 1, 1) (default: `activity_scale`).
        x : as there.
    """
    parts = listed(likelihood)
    x = start_image(parts[0]) if x is None else x
    s = _sensitivity(parts, x)
    xp = array_namespace(x)
    seen = xp.sum(xp.where(s > 0, xp.ones_like(s), xp.zeros_like(s)), axis=IMAGE_AXES)
    mean = _for_items(divide_where(xp.sum(s, axis=IMAGE_AXES), seen))
    return mean / (activity_scale(parts, x) if scale is None else value_like(scale, x))


def listed(likelihood: Likelihood | Sequence[Likelihood]) -> list[Likelihood]:
    """Return the likelihoods of the subsets that are given, or of the one whole."""
    return list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]


def value_like(value: float | Array, x: Array) -> float | Array:
    """Return a number as it is (NumPy's would change the precision), and an array like x."""
    if isinstance(value, (int, float, np.integer, np.floating)):
        return float(value)
    return like(value, x)


def strength_at(rho: Coupling, iteration: int) -> float | Array:
    """Return the coupling of an iteration."""
    return rho(iteration) if callable(rho) else rho


def scaled(rho: Coupling, unit: float | Array) -> Coupling:
    """Return unit * rho, for a rho that may be a function of the iterations."""
    if callable(rho):
        return lambda iteration: unit * rho(iteration)
    return unit * rho


def require_positive(rho: Coupling, iteration: int) -> None:
    """Raise ValueError for a coupling that is not positive and finite in an iteration."""
    now = strength_at(rho, iteration)
    value = np.asarray(to_numpy(now) if hasattr(now, "shape") else now, float)
    if not ((value > 0).all() and np.isfinite(value).all()):
        raise ValueError(f"rho must be positive and finite, got {rho if value.ndim == 0 else 'other values'}")


def _sensitivity(parts: Sequence[Likelihood], x: Array) -> Array:
    total = sensitivity_like(parts[0], x)
    for part in parts[1:]:
        total = total + sensitivity_like(part, x)
    return total.detach() if is_torch(total) else total


def _signal(part: Likelihood, x: Array) -> Array:
    """The counts of each item that the background does not explain, but at least a few of them."""
    counted = of_counts(part, "a typical activity", "give a start, relative=False and rho in units of s / x")
    xp, bins = array_namespace(x), tuple(range(-len(counted.model.projector.out_shape), 0))
    if not counted.sensitivity_has_factors:
        return xp.sum(xp.zeros_like(x), axis=IMAGE_AXES) + counted.total_counts(x)
    y = counted.counts_like(x)
    counts = xp.sum(y, axis=bins)
    signal = xp.maximum(xp.sum(y - counted.model.background_like(y), axis=bins), _FAINT * counts)
    signal = signal.detach() if is_torch(signal) else signal
    return xp.where(signal > 0, signal, xp.ones_like(signal))


def _for_items(values: Array) -> float | Array:
    """Return a number, or (B, 1, 1, 1) from (B,)."""
    return values[..., None, None, None] if values.ndim else float(values)
