"""Learned preconditioning: small kernels in place of step sizes for the first passes of SVRG and SAGA."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, clipped, is_torch, like, require_array, to_numpy
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

from ..priors.prior import SmoothPrior
from .schedules import PriorAware
from .step_kernels import stencil

KINDS, FREQUENCIES = 2, 6
_FORMAT = "emrecon-kernel-steps"
_SHIPPED = "kernel_steps_pet.json"


class Metric(NamedTuple):
    """A symmetric positive definite matrix, P = sum_i B_i C_i B_i: images B_i, and the gains of the kernels C_i."""

    roots: tuple[Array, ...]
    gains: tuple[Array, ...]

    def __call__(self, g: Array) -> Array:
        """Return P g, of the shape of g."""
        out = 0 * g
        for root, gains in zip(self.roots, self.gains, strict=True):
            out = out + root * kernel(root * g, gains)
        return out

    def step(self, x: Array, g: Array, length: Array | float = 1.0, upper: float | None = None) -> Array:
        """Return x - length P g of the voxels that are free, kept between 0 and `upper`.

        A voxel at a bound whose gradient pushes it further out is not free: its gradient counts as 0, for it and for
        its neighbours. So an image that satisfies the conditions of an optimum stays as it is, exactly.
        """
        xp = array_namespace(x)
        held = (x <= 0) & (g > 0)
        if upper is not None:
            held = held | ((x >= upper) & (g < 0))
        return clipped(x - length * self(xp.where(held, xp.zeros_like(g), g)), 0.0, upper)


def kernel(u: Array, gains: Array) -> Array:
    """Return C u, C a symmetric kernel of 3 x 3 x 3 voxels given by its gains at the corners of the band::

        C = sum over corners of  gain * (product over axes of  S  where the frequency is 0,  1 - S  where it is Nyquist)

    with S = [1/4, 1/2, 1/4] along an axis and 0 outside of the image. All S commute and have eigenvalues between 0 and
    1, so those of C lie between the smallest and the largest gain, the edges of the image included.

    Args:
        u : (..., x, y, z).
        gains : (6,) at z frequency 0: none, one, both of x and y at Nyquist; then the same at z Nyquist.
    """
    if isinstance(u, np.ndarray):
        return stencil(u, to_numpy(gains))
    low, high = gains[:3], gains[3:]
    sx = _smooth(u, -3)
    either, both = sx + _smooth(u, -2), _smooth(sx, -2)

    def in_plane(g: Any) -> Array:
        return g[2] * u + (g[1] - g[2]) * either + (g[0] - 2 * g[1] + g[2]) * both

    return in_plane(high) + _smooth(in_plane(low - high), -1)


@dataclass(frozen=True, eq=False)
class KernelSteps:
    """The preconditioner of the first passes of `svrg` or `saga`, learned; another one follows::

        x <- max(0, x - P g),   P = sum_i B_i C_i B_i,   B_i^2 = D m_i,   D = x / (s + w diag(H_U) x)
        m_1 = 1 / (1 + r),   m_2 = r / (1 + r),   r = diag(H_U) x / s

    C_1 serves where the data decide, C_2 where the prior does. Each is a kernel of 3 x 3 x 3 voxels with positive gains
    (see `recon.engines.kernel_steps.kernel`), one for each pass, that takes the place of a step size: `step` of the
    engine does not count until they are used up. P is symmetric and positive definite on the voxels with D > 0, at most
    the largest gain times D, so -P g leads downhill; a voxel that is 0 and held there counts as if its gradient
    were 0. The conditions of an optimum, and so the solutions, are those of the plain engine. The engine's watch over
    the objective stays, and after the last kernels the plain engine with `then` goes on, so that it converges as that
    does. P scales as it must with counts (x stays) and with the unit of the activity.

    Args:
        gains : (passes, 2, 6), positive.
        weights : (passes,), w, positive.
        then : the preconditioner of later passes.
        about : how the numbers came about, kept in files.

    Raises ValueError for other shapes, and numbers that are not positive and finite.

    Source: preconditioners learned as kernels after Fahy, Golbabaee & Ehrhardt 2024; their use with variance reduction
    in the PETRIC 2 challenge. The form by gains and the two kinds of voxels are ours.
    """

    gains: Array
    weights: Array
    then: PriorAware = field(default_factory=lambda: PriorAware(floor=1e-3))
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_array(self.gains, "KernelSteps gains")
        n = len(self.gains)
        if tuple(self.gains.shape) != (n, KINDS, FREQUENCIES) or tuple(self.weights.shape) != (n,):
            raise ValueError(
                f"KernelSteps takes gains (passes, {KINDS}, {FREQUENCIES}) and weights (passes,), got "
                f"{tuple(self.gains.shape)} and {tuple(self.weights.shape)}"
            )
        for values in (to_numpy(self.gains), to_numpy(self.weights)):
            if not ((values > 0).all() and np.isfinite(values).all()):
                raise ValueError("KernelSteps gains and weights must be positive and finite: kernels go downhill then")

    @property
    def n_passes(self) -> int:
        """For how many passes there are kernels."""
        return len(self.gains)

    def __call__(self, x: Array, sensitivity: Array, prior: SmoothPrior | None) -> Array:
        """Return the diagonal of the passes after the last kernels."""
        return self.then(x, sensitivity, prior)

    def metric(self, x: Array, sensitivity: Array, prior: SmoothPrior | None, n: int) -> Metric | None:
        """Return P at x for pass number n (from 0), or None where there are no more kernels.

        Args:
            x : (..., x, y, z).
            sensitivity : s; P is 0 where it is 0.
        """
        if n >= self.n_passes:
            return None
        xp, gains, w = array_namespace(x), self._like(self.gains[n], x), self._like(self.weights[n], x)
        x = xp.maximum(x, self.then.floor * xp.max(x, axis=(-3, -2, -1), keepdims=True))
        bend = xp.zeros_like(x) if prior is None else prior.hessian_diagonal(x) * x
        seen = sensitivity > 0
        s = xp.where(seen, sensitivity, xp.ones_like(sensitivity))
        share = bend / (s + bend)
        diagonal = x / (s + w * bend)
        roots = (_root(diagonal * (1 - share), seen), _root(diagonal * share, seen))
        return Metric(roots, (gains[0], gains[1]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the numbers as JSON, for `load`."""
        numbers = {name: to_numpy(getattr(self, name)).astype(float).round(5).tolist() for name in ("gains", "weights")}
        kept = {"format": _FORMAT, "version": 1, "floor": self.then.floor, "about": dict(self.about), **numbers}
        with atomic_path(Path(path)) as temporary:
            temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> KernelSteps:
        """Return the steps that `save` wrote.

        Raises FileNotFoundError, and FormatError, naming the file, for one that is another or damaged.
        """
        kept = read_json(path, "a file of learned steps")
        if not isinstance(kept, dict) or kept.get("format") != _FORMAT:
            raise FormatError(f"{path} is not a file of learned steps (KernelSteps.save)")
        try:
            gains, weights = (np.asarray(kept[name], np.float32) for name in ("gains", "weights"))
            return cls(gains, weights, PriorAware(floor=float(kept["floor"])), dict(kept["about"]))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is a damaged file of learned steps: {error}") from error

    @staticmethod
    def _like(values: Array, x: Array) -> Array:
        return values if is_torch(values) and is_torch(x) and values.dtype == x.dtype else like(values, x)


@cache
def trained_steps() -> KernelSteps:
    """Return the learned steps that come with the library, trained on simulated PET scans: see their `about`."""
    return KernelSteps.load(Path(str(files(__package__) / _SHIPPED)))


def _smooth(u: Array, axis: int) -> Array:
    """u by [1/4, 1/2, 1/4] along an axis, 0 outside."""
    out = 0.5 * u
    one, rest = [slice(None)] * u.ndim, [slice(None)] * u.ndim
    one[axis], rest[axis] = slice(1, None), slice(None, -1)
    first, last = tuple(one), tuple(rest)
    out[first] += 0.25 * u[last]
    out[last] += 0.25 * u[first]
    return out


def _root(squares: Array, where: Array) -> Array:
    """The root of what is positive, 0 elsewhere; its derivatives stay finite."""
    xp = array_namespace(squares)
    good = where & (squares > 0)
    return xp.where(good, xp.sqrt(xp.where(good, squares, xp.ones_like(squares))), xp.zeros_like(squares))
