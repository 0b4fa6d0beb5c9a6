"""Priors on pairs of neighbouring voxels: quadratic, log-cosh, Huber, hyperbolic, relative difference, Bowsher."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    dtype_name,
    from_host,
    is_cuda,
    read_only,
    require_array,
    require_constant,
    to_host,
    to_numpy,
)
from emrecon.projectors.core.threads import share

from ..likelihoods.protocol import Likelihood
from . import pair_kernels as kernels
from . import pair_launches
from .prior import SmoothPrior

_REACH = {4: (1, False), 6: (1, True), 8: (2, False), 18: (2, True), 26: (3, True)}  # axes a step may move on, in space
_HALF = [
    (dx, dy, dz) for dx in (0, 1) for dy in (-1, 0, 1) for dz in (-1, 0, 1) if (dx, dy, dz) > (0, 0, 0)
]  # one of each pair of opposite steps


@dataclass(frozen=True, eq=False)
class Similarity:
    """Weights from an anatomical guide g: w_jk = 1 / (1 + ((g_j - g_k) / width)^2).

    Args:
        guide : (x, y, z), such as an MR or CT image on the grid of the reconstruction.
        width : the difference, in the unit of the guide, at which the weight is a half; for a map of labels choose it
            much smaller than 1, and only pairs within one label count.

    Raises ValueError for a guide that is not finite or not 3-D, and a width that is not positive.

    Source: the second edge function of Perona & Malik 1990, on the guide.
    """

    guide: Array
    width: float

    def __post_init__(self) -> None:
        _check_guide(self.guide, "Similarity")
        if not 0 < self.width < math.inf:
            raise ValueError(f"Similarity width must be positive and finite, got {self.width}")


@dataclass(frozen=True, eq=False)
class BowsherWeights:
    """Weights from an anatomical guide: every voxel chooses the neighbours that look most like it, ``|g_j - g_k|``.

    Args:
        guide : (x, y, z), such as an MR or CT image on the grid of the reconstruction.
        n_chosen : how many of its neighbours a voxel chooses (of 6, 18 or 26 those of the prior). Among equals the
            nearer ones are chosen.
        symmetric : a pair counts once where either voxel chooses the other; otherwise half for each voxel that does, so
            that mutual choices weigh twice as much as one-sided ones.

    Both have a value, and gradients that belong to it. (The rule that lets a voxel feel its own choices only, not those
    of its neighbours, is the gradient of no function.)

    Raises ValueError for a guide that is not finite or not 3-D, and n_chosen below 1.

    Source: Bowsher et al. 2004; Vunckx & Nuyts 2010.
    """

    guide: Array
    n_chosen: int = 7
    symmetric: bool = False

    def __post_init__(self) -> None:
        _check_guide(self.guide, "BowsherWeights")
        if not 1 <= self.n_chosen <= 26:
            raise ValueError(f"BowsherWeights n_chosen must be 1 to 26, got {self.n_chosen}")


@dataclass(frozen=True, eq=False, kw_only=True)
class PairPrior(SmoothPrior):
    """A penalty on pairs of neighbours, every pair once: U(x) = sum w_jk psi(x_j, x_k)::

        w_jk = (smallest voxel size / distance) * kappa_j kappa_k * anatomy_jk

    Args:
        neighbours : 6, 18 or 26 in space, or 4 or 8 in the (x, y) plane.
        voxel_size : (x, y, z) mm; only the ratios matter.
        kappa : (x, y, z), not negative, makes the prior as strong as the data are; see `spatial_weights`.
        anatomy : `Similarity` or `BowsherWeights`, weights from a guide image.

    Values, gradients, curvatures and Hessians belong to each other. Working memory is one image for the result, and
    at most one volume each for kappa, the guide, and its choices.

    Raises ValueError for other neighbours, and for sizes, kappa or guides that make no sense or do not fit.
    """

    neighbours: int = 26
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    kappa: Array | None = None
    anatomy: Similarity | BowsherWeights | None = None
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.neighbours not in _REACH:
            raise ValueError(
                f"{type(self).__name__} neighbours must be 6, 18, 26 (in space), 4 or 8 (in the plane), "
                f"got {self.neighbours}"
            )
        if self.anatomy is not None and not isinstance(self.anatomy, (Similarity, BowsherWeights)):
            got = type(self.anatomy).__name__
            raise TypeError(f"{type(self).__name__} anatomy must be a Similarity or a BowsherWeights, got {got}")
        size = tuple(float(s) for s in self.voxel_size)
        if len(size) != 3 or not all(0 < s < math.inf for s in size):
            raise ValueError(f"{type(self).__name__} voxel_size must be three positive numbers (mm), got {size}")
        object.__setattr__(self, "voxel_size", size)
        if self.kappa is not None:
            _check_guide(self.kappa, f"{type(self).__name__} kappa")
            if to_numpy(self.kappa).min() < 0:
                raise ValueError(f"{type(self).__name__} kappa must not be negative")
        if self.kappa is not None and self.anatomy is not None and self.kappa.shape != self.anatomy.guide.shape:
            raise ValueError(
                f"{type(self).__name__}: kappa of shape {tuple(self.kappa.shape)} and a guide of "
                f"{tuple(self.anatomy.guide.shape)} differ"
            )
        if isinstance(self.anatomy, BowsherWeights) and self.anatomy.n_chosen > self.neighbours:
            raise ValueError(
                f"BowsherWeights chooses {self.anatomy.n_chosen} of {self.neighbours} neighbours: too many"
            )

    @abstractmethod
    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        """Return psi as a potential of the kernels, with numbers of the type `real`."""

    def _value(self, x: Array) -> Array:
        return self._gather(kernels.Slope, x, x, keep=False)[0]

    def _gradient(self, x: Array) -> Array:
        return self._gather(kernels.Slope, x, x)[1]

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        return self._gather(kernels.Product, x, v)[1]

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._gather(kernels.Diagonal, x, x)[1]

    def _curvature(self, x: Array) -> Array:
        return self._gather(kernels.Above, x, x)[1]

    def _curvature_transposed(self, x: Array, v: Array) -> Array:
        return self._gather(kernels.Bend, x, v)[1]

    def _shape(self) -> tuple[int, ...] | None:
        fixed = self.kappa if self.anatomy is None else self.anatomy.guide
        return None if fixed is None else tuple(fixed.shape)

    def __repr__(self) -> str:
        own = [f"{name}={getattr(self, name):g}" for name in ("gamma", "epsilon", "delta") if hasattr(self, name)]
        extra = ["kappa"] if self.kappa is not None else []
        extra += [type(self.anatomy).__name__] if self.anatomy is not None else []
        return f"{type(self).__name__}({', '.join([*own, f'neighbours={self.neighbours}', *extra])})"

    @property
    def _cuda_plan(self) -> pair_launches.CudaPlan:
        once = isinstance(self.anatomy, BowsherWeights) and self.anatomy.symmetric
        return pair_launches.CudaPlan(
            self._potential, lambda real: (*pair_steps(self), *anatomy_arrays(self, real)), once, self._plans
        )

    def _gather(self, wanted: type, x: Array, v: Array, keep: bool = True) -> tuple[Array, Array]:
        """Return the values (B,) and, to keep, what is wanted of every voxel."""
        if is_cuda(x):
            return pair_launches.gather(self._cuda_plan, wanted, x, v, keep)
        plan = self._plans.get(x, lambda: _host_plan(self, np.dtype(dtype_name(x))))
        flat = x.shape[3] == 1
        values, out = _on_host(self, wanted, _lanes(to_host(x, self)), _lanes(to_host(v, self)), flat, plan, keep)
        return from_host(values, x), from_host(out.reshape(tuple(x.shape) if keep else (0,)), x)


@dataclass(frozen=True, eq=False, repr=False)
class Quadratic(PairPrior):
    """psi = (x_j - x_k)^2 / 2."""

    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        return kernels.Quadratic(real(0.5), real(1))


@dataclass(frozen=True, eq=False, repr=False)
class LogCosh(PairPrior):
    """psi = delta^2 log cosh((x_j - x_k) / delta).

    Args:
        delta : in the unit of the image; larger differences are taken for edges.

    Source: Green 1990.
    """

    delta: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_delta(self)

    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        return kernels.LogCosh(real(self.delta), real(1))


@dataclass(frozen=True, eq=False, repr=False)
class Huber(PairPrior):
    """psi = d^2 / 2 where ``|d|`` <= delta, and delta ``|d|`` - delta^2 / 2 beyond, with d = x_j - x_k.

    Args:
        delta : in the unit of the image; larger differences are taken for edges.

    Source: Huber 1964.
    """

    delta: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_delta(self)

    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        return kernels.Huber(real(self.delta), real(0.5), real(1))


@dataclass(frozen=True, eq=False, repr=False)
class Hyperbolic(PairPrior):
    """psi = delta^2 (sqrt(1 + ((x_j - x_k) / delta)^2) - 1).

    Args:
        delta : in the unit of the image; larger differences are taken for edges.

    Source: Charbonnier et al. 1997.
    """

    delta: float = field(kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_delta(self)

    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        return kernels.Hyperbolic(real(self.delta), real(1))


@dataclass(frozen=True, eq=False, repr=False)
class RelativeDifference(PairPrior):
    """psi = (x_j - x_k)^2 / (x_j + x_k + gamma ``|x_j - x_k|`` + epsilon), for images x >= 0.

    Args:
        gamma : not negative; the larger, the better edges are kept. 2 is the usual choice.
        epsilon : positive, in the unit of the image, a thousandth of its maximum or less; it keeps psi smooth near 0.

    `curvature` needs gamma >= 1 (below that psi may grow faster than any parabola that touches it).

    Source: Nuyts et al. 2002.
    """

    gamma: float = field(default=2.0, kw_only=False)
    epsilon: float = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"RelativeDifference gamma must be finite and not negative, got {self.gamma}")
        if not 0 < self.epsilon < math.inf:
            raise ValueError(
                f"RelativeDifference epsilon must be positive, got {self.epsilon}; a thousandth of the image's "
                "maximum is usual"
            )

    def _potential(self, real: type[np.floating]) -> tuple[np.floating, ...]:
        return kernels.RelativeDifference(real(self.gamma), real(self.epsilon), real(2))

    def _curvature(self, x: Array) -> Array:
        if self.gamma < 1:
            raise NotImplementedError(f"{self!r} has parabolas above it only for gamma >= 1; use bsrem, svrg or saga")
        return super()._curvature(x)


def bowsher(guide: Array, n_chosen: int = 7, *, symmetric: bool = False, **options: Any) -> Quadratic:
    """Return the quadratic prior on the neighbours that look most alike in a guide: `BowsherWeights`, `PairPrior`.

    Any other potential: `RelativeDifference(epsilon=..., anatomy=BowsherWeights(guide))`.
    """
    return Quadratic(anatomy=BowsherWeights(guide, n_chosen, symmetric), **options)


def spatial_weights(likelihood: Likelihood, x: Array) -> Array:
    """Return kappa = sqrt(H(x) 1), H the Hessian of the likelihood: where the data are strong, so is the prior.

    Args:
        x : an early image, such as one pass of OSEM. With these weights resolution is nearly the same everywhere, and
            beta has no unit. The rows' sums stand for the diagonal, which would take a projection for every voxel.

    Raises TypeError for a likelihood without `hessian_vector`.

    Source: Fessler & Rogers 1996 (the idea).
    """
    xp, product = array_namespace(x), getattr(likelihood, "hessian_vector", None)
    if product is None:
        raise TypeError(
            f"spatial_weights needs a likelihood with hessian_vector, and {type(likelihood).__name__} has none"
        )
    return xp.sqrt(product(x, xp.ones_like(x)))


class HostPlan(NamedTuple):
    """What the kernels need besides the images."""

    steps: np.ndarray
    weights: np.ndarray
    kappa: np.ndarray
    guide: np.ndarray
    chosen: np.ndarray


def pair_steps(prior: PairPrior) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps (S, 3) from the first voxel of a pair to the second, and the weights (S,)."""
    most, in_space = _REACH[prior.neighbours]
    steps = np.array([s for s in _HALF if np.count_nonzero(s) <= most and (in_space or s[2] == 0)], np.int64)
    return steps, min(prior.voxel_size) / np.linalg.norm(steps * prior.voxel_size, axis=1)


def anatomy_arrays(prior: PairPrior, real: np.dtype) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kappa, the guide in units of its width, and the bits of chosen neighbours; empty without."""
    nothing = np.zeros((0, 0, 0), real)
    kappa = nothing if prior.kappa is None else np.ascontiguousarray(to_numpy(prior.kappa), real)
    guide, chosen = nothing, nothing.astype(np.uint32)
    if isinstance(prior.anatomy, Similarity):
        guide = np.ascontiguousarray(np.asarray(to_numpy(prior.anatomy.guide), float) / prior.anatomy.width, real)
    if isinstance(prior.anatomy, BowsherWeights):
        chosen = _choices(prior, prior.anatomy)
    return kappa, guide, chosen


def _choices(prior: PairPrior, anatomy: BowsherWeights) -> np.ndarray:
    """Return the neighbours each voxel chooses, as bits: step s is bit s, the step back bit s + 13."""
    half, weights = pair_steps(prior)
    steps, bits = np.concatenate([half, -half]), np.arange(len(half))
    order = np.argsort(-np.tile(weights, 2), kind="stable")  # the nearer first
    guide = np.ascontiguousarray(to_numpy(anatomy.guide), np.float32)
    chosen = np.zeros(guide.shape, np.uint32)
    numbers = np.concatenate([bits, bits + 13])[order].astype(np.uint32)
    share(
        lambda t, n: kernels.choose(read_only(guide), steps[order], numbers, anatomy.n_chosen, t, n, chosen),
        guide.shape[0],
    )
    return chosen


def _host_plan(prior: PairPrior, real: np.dtype) -> HostPlan:
    steps, weights = pair_steps(prior)
    arrays = (_lanes(values[None])[0] if values.size else values for values in anatomy_arrays(prior, real))
    return HostPlan(steps, weights.astype(real), *map(read_only, arrays))


def _lanes(x: np.ndarray) -> np.ndarray:
    """Return (B, x, y, z) as it is, and flat images (B, x, y, 1) as (B, x, 1, y): rows must be long."""
    x = np.ascontiguousarray(x)
    return read_only(x if x.shape[3] > 1 else x.reshape(*x.shape[:2], 1, x.shape[2]))


def _on_host(
    prior: PairPrior, wanted: type, x: np.ndarray, v: np.ndarray, flat: bool, plan: HostPlan, keep: bool
) -> tuple[np.ndarray, np.ndarray]:
    real = x.dtype.type
    # in the one memory order that kernels are compiled for
    steps = np.ascontiguousarray(plan.steps[:, [0, 2, 1]]) if flat else plan.steps
    out = np.zeros(x.shape if keep else (0, 0, 0, 0), x.dtype)
    sums = np.zeros(x.shape[:2])
    once = isinstance(prior.anatomy, BowsherWeights) and prior.anatomy.symmetric

    def work(t: int, n: int) -> None:
        pairs = kernels.PairWeights(plan.kappa, plan.guide, plan.chosen, once, np.zeros(x.shape[3], x.dtype))
        sink = np.zeros((2, *x.shape[2:]), x.dtype)
        kernels.gather(wanted(real(1)), prior._potential(real), x, v, steps, plan.weights, pairs, t, n, sink, sums, out)

    share(work, x.shape[1])
    return sums.sum(1), out


def _check_guide(guide: Array, who: str) -> None:
    require_array(guide, who)
    require_constant(guide, who)
    if guide.ndim != 3:
        raise ValueError(f"{who} expects an image (x, y, z), got shape {tuple(guide.shape)}")
    if not np.isfinite(to_numpy(guide)).all():
        raise ValueError(f"{who}: the image holds NaN or infinite values")


def _check_delta(prior: Any) -> None:
    if not 0 < prior.delta < math.inf:
        raise ValueError(f"{type(prior).__name__} delta must be positive and finite, got {prior.delta}")
