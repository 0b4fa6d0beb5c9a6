"""Priors on patches and on medians: non-local regularisation, with and without a guide image, and the median root."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from importlib import import_module
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    from_host,
    is_cuda,
    is_torch,
    like,
    read_only,
    require_array,
    require_constant,
    to_host,
    to_numpy,
)
from emrecon.projectors.core.threads import share

from . import patch_kernels as kernels
from .prior import SmoothPrior

_KINDS = {
    "quadratic": kernels.QUADRATIC,
    "huber": kernels.HUBER,
    "hyperbolic": kernels.HYPERBOLIC,
    "lange": kernels.LANGE,
}
_TINY = 1e-10  # of delta: the bend of Lange's potential is infinite at 0, where nothing is left for it to bend

Window = int | tuple[int, int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class NonLocal(SmoothPrior):
    """A penalty on pairs of voxels in a search window that counts for more, the more alike their patches are.

    With a guide g, the weights are fixed; every pair {j, k} once::

        U(x) = sum w_jk psi(x_j - x_k),   w_jk = exp(-|P_j g - P_k g|^2 / (2 width^2))

    Without, the patches are those of the image itself, and all pairs have the same weight::

        U(x) = sum w_jk psi(|P_j x - P_k x|),   w_jk = 1

    ``|P_j - P_k|^2`` is the mean of the squared differences over the voxels of the two patches, so that width and delta
    have the unit of the guide or the image, whatever the size of the patch. Beyond its borders a guide goes on with the
    values at its edge; of the patches of the image, the voxels count that both have inside.

    Args:
        potential : psi(t) = t^2 / 2 ("quadratic"), t^2 / 2 where ``|t|`` <= delta, delta ``|t|`` - delta^2 / 2 beyond
            ("huber"), delta^2 (sqrt(1 + (t / delta)^2) - 1) ("hyperbolic"), delta^2 (``|t|`` / delta - log(1 + ``|t|``
            / delta)) ("lange", also known as "fair").
        delta : in the unit of the image, for all but "quadratic"; larger differences are taken for edges.
        guide : (x, y, z), an MR or CT image, or an earlier reconstruction, on the grid of the reconstruction.
        width : in the unit of the guide; about its noise.
        window, patch : voxels, odd, one number or (x, y, z); a window of 7 reaches 3 voxels to either side. Axes of one
            voxel have neither.
        inverse_distance : multiply w_jk by smallest voxel size / distance, with `voxel_size` (x, y, z) mm, of which
            only the ratios matter.

    U is convex. Weights are not kept: each call finds them again, for one step of the window and a tile of the image at
    a time (CuPy and CUDA arrays: for one step and the whole image, ten volumes or so). With a guide one padded copy of
    it is kept.

    Raises ValueError for sizes, widths and potentials that make no sense, and for a guide that is not 3-D and finite.

    Source: Buades et al. 2005 (the weights); Chen et al. 2008 (in a prior); Wang & Qi 2012 (patches of the image, and
    the parabolas above them); Lange 1990 (his potential).
    """

    potential: str = "hyperbolic"
    delta: float | None = None
    guide: Array | None = None
    width: float | None = None
    window: Window = 7
    patch: Window = 3
    inverse_distance: bool = False
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.potential not in _KINDS:
            raise ValueError(f"NonLocal potential must be one of {', '.join(_KINDS)}, got {self.potential!r}")
        if (self.potential == "quadratic") != (self.delta is None):
            raise ValueError(
                f"NonLocal delta is for all potentials but 'quadratic': got {self.delta} for {self.potential!r}"
            )
        if (self.guide is None) != (self.width is None):
            raise ValueError("NonLocal guide and width belong together: give both, or neither for the image's patches")
        for name in ("delta", "width"):
            if not 0 < (1.0 if getattr(self, name) is None else getattr(self, name)) < math.inf:
                raise ValueError(f"NonLocal {name} must be positive and finite, got {getattr(self, name)}")
        for name in ("window", "patch"):
            object.__setattr__(self, name, _odd(getattr(self, name), f"NonLocal {name}"))
        if self.window == (1, 1, 1):
            raise ValueError("NonLocal window must hold more than one voxel")
        size = tuple(float(s) for s in self.voxel_size)
        if len(size) != 3 or not all(0 < s < math.inf for s in size):
            raise ValueError(f"NonLocal voxel_size must be three positive numbers (mm), got {size}")
        object.__setattr__(self, "voxel_size", size)
        if self.guide is not None:
            _check_image(self.guide, "NonLocal guide")

    def _value(self, x: Array) -> Array:
        return self._gather(kernels.VALUE, x, x)

    def _gradient(self, x: Array) -> Array:
        return self._gather(kernels.GRADIENT, x, x)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        return self._gather(kernels.PRODUCT, x, v)

    def _curvature(self, x: Array) -> Array:
        return self._gather(kernels.ABOVE, x, x)

    def _hessian_diagonal(self, x: Array) -> Array:
        return self._gather(kernels.DIAGONAL, x, x)

    def _shape(self) -> tuple[int, ...] | None:
        return None if self.guide is None else tuple(self.guide.shape)

    def __repr__(self) -> str:
        delta = "" if self.delta is None else f", delta={self.delta:g}"
        guide = "" if self.guide is None else f", guide, width={self.width:g}"
        return f"NonLocal({self.potential}{delta}{guide}, window={_compact(self.window)}, patch={_compact(self.patch)})"

    def _gather(self, wanted: int, x: Array, v: Array) -> Array:
        if is_cuda(x):
            return by_steps(self, wanted, x, v)
        return from_host(_on_host(self, wanted, to_host(x, self), to_host(v, self)), x)


@dataclass(frozen=True, eq=False, kw_only=True)
class MedianRoot(SmoothPrior):
    """The median root prior: images that are their own median. It has a gradient, but no value::

        gradient = (x - M) / M,   M = the median of x in a window around each voxel

    This is what one-step-late EM adds to the sensitivity. It is no function's gradient, because M moves along with x:
    `value` and `hessian_vector` raise NotImplementedError. `at(x)` is the prior that belongs to it while M is held
    fixed, with everything a `SmoothPrior` has; made anew at each iteration it leads to the same images, and engines
    that need a value can use it.

    Args:
        size : voxels, odd, one number or (x, y, z). At the borders the window goes on with the values at the edge.
        floor : where M is smaller than floor times the maximum of x, that is what divides. So a voxel of x = M = 0 has
            the gradient 0, and a single bright voxel amid zeros a large one, which removes it.

    Medians come from SciPy, those of CUDA arrays and tensors from CuPy.

    Raises ValueError for sizes that are not odd and positive, and a floor that is not between 0 and 1.

    Source: Alenius & Ruotsalainen 1997. (Hsiao et al. 2003 make a true, convex objective of the idea by optimising
    the median as an auxiliary image; that is another prior and not here.)
    """

    size: Window = 3
    floor: float = 1e-6

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _odd(self.size, "MedianRoot size"))
        if not 0 < self.floor < 1:
            raise ValueError(f"MedianRoot floor must be between 0 and 1, got {self.floor}")

    def median(self, x: Array) -> Array:
        """Return the median around each voxel, of the shape of x."""
        return self._at_batch(self._median, _detached(self._checked(x)))

    def at(self, x: Array) -> MedianRootSurrogate:
        """Return the prior of images near the median of x, (x, y, z); at x it has the gradient of this one."""
        x = _detached(self._checked(x))
        if x.ndim != 3:
            raise ValueError(f"{self!r}.at expects one image (x, y, z), got {tuple(x.shape)}")
        median = self._median(x[None, ...])
        return MedianRootSurrogate(median[0, ...], self._divisor(x[None, ...], median)[0, ...])

    def _value(self, x: Array) -> Array:
        raise NotImplementedError(f"{self!r} has a gradient but no value; {type(self).__name__}.at(x) has both")

    def _gradient(self, x: Array) -> Array:
        median = self._median(x)
        return (x - median) / self._divisor(x, median)

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        raise NotImplementedError(f"{self!r} has no Hessian; {type(self).__name__}.at(x) has one")

    def _median(self, x: Array) -> Array:
        if is_cuda(x):
            from emrecon.projectors.core.cuda import on_device, returned_like

            with on_device(x) as (_, values):
                filtered = import_module("cupyx.scipy.ndimage").median_filter(
                    values, (1, *_triple(self.size)), mode="nearest"
                )
            return returned_like(filtered, x)
        return from_host(ndimage.median_filter(to_host(x, self), (1, *_triple(self.size)), mode="nearest"), x)

    def _divisor(self, x: Array, median: Array) -> Array:
        """Return the median, but at least `floor` times the maximum of each image, and 1 in an empty image."""
        xp = array_namespace(x)
        least = self.floor * xp.max(x, axis=(-3, -2, -1), keepdims=True)
        least = xp.where(least > 0, least, xp.ones_like(least))
        return xp.where(median > least, median, least)

    def __repr__(self) -> str:
        return f"MedianRoot(size={_compact(self.size)})"


@dataclass(frozen=True, eq=False)
class MedianRootSurrogate(SmoothPrior):
    """U(x) = sum (x - M)^2 / (2 D) with a fixed median image M and divisor D (M itself, where it is not too small).

    Args:
        median, divisor : (x, y, z), the divisor positive; `MedianRoot.at` makes them from an image.

    Raises ValueError where they are not 3-D, differ in shape or are not finite, and for a divisor that is not positive.
    """

    median: Array
    divisor: Array
    _plans: tuple[PlanCache, PlanCache] = field(
        default_factory=lambda: (PlanCache(), PlanCache()), init=False, repr=False
    )

    def __post_init__(self) -> None:
        _check_image(self.median, "MedianRootSurrogate median")
        _check_image(self.divisor, "MedianRootSurrogate divisor")
        if tuple(self.median.shape) != tuple(self.divisor.shape):
            raise ValueError(
                f"MedianRootSurrogate: a median of shape {tuple(self.median.shape)} and a divisor of "
                f"{tuple(self.divisor.shape)} differ"
            )
        if not (to_numpy(self.divisor) > 0).all():
            raise ValueError("MedianRootSurrogate divisor must be positive")

    def _value(self, x: Array) -> Array:
        xp, (median, divisor) = array_namespace(x), self._matched(x)
        return xp.sum((x - median) ** 2 / (2 * divisor), axis=(-3, -2, -1), dtype=xp.float64)

    def _gradient(self, x: Array) -> Array:
        median, divisor = self._matched(x)
        return (x - median) / divisor

    def _hessian_vector(self, x: Array, v: Array) -> Array:
        return v / self._matched(x)[1]

    def _hessian_diagonal(self, x: Array) -> Array:
        return array_namespace(x).ones_like(x) / self._matched(x)[1]

    def _curvature(self, x: Array) -> Array:
        return self._hessian_diagonal(x)

    def _shape(self) -> tuple[int, ...] | None:
        return tuple(self.median.shape)

    def _matched(self, x: Array) -> tuple[Array, Array]:
        of_median, of_divisor = self._plans
        return of_median.get(x, lambda: like(self.median, x)), of_divisor.get(x, lambda: like(self.divisor, x))

    def __repr__(self) -> str:
        return f"MedianRootSurrogate({_compact(self.median.shape)})"


# ---- non-local: the search window, and the kernels -----------------------------------------------------------------


class Layout(NamedTuple):
    """Half of the search window, (S, 3) and weights (S,), and how far a patch reaches to either side."""

    steps: np.ndarray
    weights: np.ndarray
    reach: tuple[int, int, int]

    @property
    def share(self) -> float:
        """1 / the number of voxels of a patch."""
        return 1 / math.prod(2 * r + 1 for r in self.reach)


def layout(prior: NonLocal, shape: tuple[int, ...]) -> Layout:
    """Return the steps that lead from voxel to voxel of an image (x, y, z), one of each pair of opposite ones."""
    most = [min(w // 2, n - 1) for w, n in zip(_triple(prior.window), shape)]
    grid = np.stack(np.meshgrid(*(np.arange(-m, m + 1) for m in most), indexing="ij"), -1).reshape(-1, 3)
    steps = grid[len(grid) // 2 + 1 :]  # those after (0, 0, 0) in the order of the axes
    weights = np.ones(len(steps))
    if prior.inverse_distance:
        weights = min(prior.voxel_size) / np.linalg.norm(steps * prior.voxel_size, axis=1)
    px, py, pz = (p // 2 if n > 1 else 0 for p, n in zip(_triple(prior.patch), shape))
    return Layout(steps, weights, (px, py, pz))


def _guide(prior: NonLocal, plan: Layout, x: Array) -> Array | None:
    """Return the guide with its edges repeated, scaled so that w = exp(-sum over the patch of squared differences)."""
    given = prior.guide
    if given is None:
        return None

    def build() -> Array:
        guide = to_numpy(given).astype(float) * (math.sqrt(plan.share / 2) / (prior.width or math.inf))
        return like(np.pad(guide, [(r, r) for r in plan.reach], mode="edge")[None], x)

    return prior._plans.get(x, build)


def _on_host(prior: NonLocal, wanted: int, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return what is wanted of (B, x, y, z), by the numba kernels."""
    plan, flat, real = layout(prior, x.shape[1:]), x.shape[3] == 1, x.dtype.type
    images, directions = _rows(x), _rows(v)
    order = [0, 2, 1] if flat else [0, 1, 2]
    px, py, pz = (plan.reach[axis] for axis in order)
    steps = kernels.Steps(np.ascontiguousarray(plan.steps[:, order]), plan.weights.astype(x.dtype))
    patch = kernels.Patch(px, py, pz, real(plan.share))
    delta = 1.0 if prior.delta is None else prior.delta
    potential = kernels.Potential(_KINDS[prior.potential], real(delta), real(1), real(_TINY * delta))
    padded = _guide(prior, plan, x)
    guide = None if padded is None else _rows(to_numpy(padded))[0]
    sums = np.zeros((len(x), kernels.n_tiles(images.shape[1:])))
    out = np.zeros(images.shape if wanted != kernels.VALUE else (0, 0, 0, 0), x.dtype)
    longest = np.abs(steps.step).max(0, initial=0)

    def work(t: int, n: int) -> None:
        room = kernels.scratch(images.shape[1:], longest, patch, x.dtype)
        if guide is None:
            kernels.own(wanted, potential, patch, images, directions, steps, room, t, n, sums, out)
        else:
            kernels.guided(wanted, potential, guide, patch, images, directions, steps, room, t, n, sums, out)

    share(work, sums.shape[1])
    return sums.sum(1) if wanted == kernels.VALUE else out.reshape(x.shape)


def _rows(x: np.ndarray) -> np.ndarray:
    """Return (B, x, y, z) as it is, and flat images (B, x, y, 1) as (B, x, 1, y): rows must be long."""
    x = np.ascontiguousarray(x)
    return read_only(x if x.shape[3] > 1 else x.reshape(*x.shape[:2], 1, x.shape[2]))


# ---- non-local: by the array library, on whole images ---------------------------------------------------------------


def by_steps(prior: NonLocal, wanted: int, x: Array, v: Array) -> Array:
    """Return what the kernels do of (B, x, y, z), one step of the window after the other, for any array library."""
    xp, plan = array_namespace(x), layout(prior, tuple(x.shape[1:]))
    guide = _guide(prior, plan, x)
    out = xp.zeros((x.shape[0],), dtype=xp.float64, device=x.device) if wanted == kernels.VALUE else xp.zeros_like(x)
    for step, weight in zip(plan.steps.tolist(), plan.weights.tolist()):
        first, second = _ends(step, tuple(x.shape[1:]))
        pair = _Pair(prior, plan, step, weight, x[first] - x[second], v[first] - v[second])
        terms = pair.own_terms(wanted) if guide is None else pair.guided_terms(wanted, guide)
        if wanted == kernels.VALUE:
            out += xp.sum(terms, axis=(1, 2, 3), dtype=xp.float64)
            continue
        out[first] += terms
        out[second] += -terms if wanted in (kernels.GRADIENT, kernels.PRODUCT) else terms
        if wanted == kernels.DIAGONAL and guide is None:
            pair.add_overlaps(out[first])
    return out


class _Pair(NamedTuple):
    """All pairs of one step: t = x_j - x_k and s = v_j - v_k, stored at j."""

    prior: NonLocal
    plan: Layout
    step: list[int]
    weight: float
    t: Array
    s: Array

    def guided_terms(self, wanted: int, guide: Array) -> Array:
        """Return what each pair gives to its first voxel, its weight being found in the guide."""
        xp, t = array_namespace(self.t), self.t
        first, second = _ends(self.step, tuple(guide.shape[1:]))
        inner = (slice(None), *(slice(r, -r or None) for r in self.plan.reach))
        w = self.weight * xp.exp(-_box((guide[first] - guide[second]) ** 2, *self._patch())[inner])
        if wanted == kernels.VALUE:
            return w * _psi(self.prior, t * t)
        omega, second_derivative, _ = _rates(self.prior, t * t)
        if wanted == kernels.GRADIENT:
            return w * omega * t
        if wanted == kernels.ABOVE:
            return 2 * w * omega
        return w * second_derivative * (self.s if wanted == kernels.PRODUCT else 1)

    def own_terms(self, wanted: int) -> Array:
        """Return what each pair gives to its first voxel, its distance being that of the patches of the image."""
        t, s = self.t, self.s
        q = self._mean(t * t)
        if wanted == kernels.VALUE:
            return self.weight * _psi(self.prior, q)
        omega, _, bend = _rates(self.prior, q)
        w = self.weight * self._mean(omega)
        if wanted == kernels.GRADIENT:
            return w * t
        if wanted == kernels.ABOVE:
            return 2 * w
        if wanted == kernels.PRODUCT:
            return w * s + self.weight * t * self._mean(bend * self._mean(t * s))
        return w + self.weight * self.plan.share * t * t * self._mean(bend)

    def add_overlaps(self, out: Array) -> None:
        """Add what is due to patches that hold both pairs of a voxel, that with j + d and that with j - d."""
        if any(abs(d) > 2 * r for d, r in zip(self.step, self.plan.reach)):
            return
        low, high = zip(*((max(-r, -r - d), min(r, r - d)) for d, r in zip(self.step, self.plan.reach)))
        earlier, later = _ends(self.step, tuple(self.t.shape[1:]))
        bend = _rates(self.prior, self._mean(self.t**2))[2]
        crossed = self.t[earlier] * self.t[later] * _box(bend, low, high)[later]
        out[later] -= 2 * self.weight * self.plan.share**2 * crossed

    def _patch(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return tuple(-r for r in self.plan.reach), self.plan.reach

    def _mean(self, field: Array) -> Array:
        return self.plan.share * _box(field, *self._patch())


def _ends(step: list[int], shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the first voxels of a step's pairs are, and where the second ones."""
    first = (slice(max(-d, 0), max(n - max(d, 0), 0)) for d, n in zip(step, shape))
    second = (slice(max(d, 0), max(n + min(d, 0), 0)) for d, n in zip(step, shape))
    return (slice(None), *first), (slice(None), *second)


def _box(field: Array, low: tuple[int, ...], high: tuple[int, ...]) -> Array:
    """Return the sums from low to high (x, y, z) around each voxel of (B, x, y, z)."""
    xp = array_namespace(field)
    for axis in range(3):
        total = xp.zeros_like(field)
        for d in range(low[axis], high[axis] + 1):
            to, source = _ends([d if a == axis else 0 for a in range(3)], tuple(field.shape[1:]))
            total[to] += field[source]
        field = total
    return field


def _psi(prior: NonLocal, q: Array) -> Array:
    """Return psi as a function of q = t^2, in float64."""
    xp, delta = array_namespace(q), prior.delta or 1.0
    q = xp.astype(q, xp.float64)
    if prior.potential == "quadratic":
        return q / 2
    if prior.potential == "huber":
        return xp.where(q <= delta**2, q / 2, delta * xp.sqrt(q) - delta**2 / 2)
    if prior.potential == "hyperbolic":
        return q / (1 + xp.sqrt(1 + q / delta**2))
    r = xp.sqrt(q) / delta
    return delta**2 * (r - xp.log1p(r))


def _rates(prior: NonLocal, q: Array) -> tuple[Array, Array, Array]:
    """Return psi'(t) / t, psi''(t), and their difference over t^2, as functions of q = t^2."""
    xp, delta = array_namespace(q), prior.delta or 1.0
    one, zero = xp.ones_like(q), xp.zeros_like(q)
    if prior.potential == "quadratic":
        return one, one, zero
    if prior.potential == "huber":
        beyond = q > delta**2
        q = xp.where(beyond, q, delta**2 * one)
        omega = delta / xp.sqrt(q)
        return omega, xp.where(beyond, zero, one), xp.where(beyond, -omega / q, zero)
    if prior.potential == "hyperbolic":
        omega = 1 / xp.sqrt(1 + q / delta**2)
        return omega, omega**3, -(omega**3) / delta**2
    t = xp.sqrt(q)
    omega = delta / (delta + t)
    return omega, omega**2, -(omega**2) / (delta * xp.where(t > _TINY * delta, t, _TINY * delta * one))


# ---- checks --------------------------------------------------------------------------------------------------------


def _odd(size: Window, who: str) -> tuple[int, int, int]:
    x, y, z = size if isinstance(size, tuple | list) and len(size) == 3 else (size, size, size)
    if not all(isinstance(n, int | np.integer) and n > 0 and n % 2 == 1 for n in (x, y, z)):
        raise ValueError(f"{who} must be odd and positive, one number of voxels or three, got {size}")
    return int(x), int(y), int(z)


def _triple(size: Window) -> tuple[int, int, int]:
    return (size, size, size) if isinstance(size, int) else size


def _compact(size: int | tuple[int, ...]) -> str:
    return "x".join(map(str, (size, size, size) if isinstance(size, int) else size))


def _check_image(image: Array, who: str) -> None:
    require_array(image, who)
    require_constant(image, who)
    if image.ndim != 3:
        raise ValueError(f"{who} must be an image (x, y, z), got shape {tuple(image.shape)}")
    if not np.isfinite(to_numpy(as_real(image))).all():
        raise ValueError(f"{who} holds NaN or infinite values")


def _detached(x: Array) -> Array:
    return x.detach() if is_torch(x) else x
