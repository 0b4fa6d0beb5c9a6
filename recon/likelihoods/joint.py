"""How well an activity and an attenuation map together explain a PET scan: the likelihood of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from emrecon.projectors import ImageGrid, PETProjector, Projector
from emrecon.projectors.core.arrays import Array, PlanCache, array_namespace, device, divide_where, like

from .poisson import PoissonLikelihood
from .protocol import require_counts
from .unexplained import LEAST, lost_bins

_THIN = 1e-3  # depths below this have the curvature at 0


@dataclass(frozen=True, eq=False)
class JointLikelihood:
    """The negative log-likelihood of PET counts as a function of activity x and attenuation mu::

        f(x, mu) = sum over lines i and TOF bins t of  ybar - y log ybar
        ybar_it = exp(-l_i) p_it + r_it,    p = n A x,    l = L mu / 10

    Args:
        emission : y, n, A and r as a `PoissonLikelihood` whose factors n hold no attenuation, such as the parts of
            `pet_problem(scan)` without mu; data (..., views, radial, [TOF,] planes).
        lines : L, line integrals in mm along the same lines without TOF (default: those of the projector of
            `emission`).

    x is (..., x, y, z), mu (..., x, y, z) in 1/cm on the grid of `lines`.

    Without time of flight the data do not determine both: activity in one place and attenuation in another explain
    the same counts (`has_tof` says which).  With it they do, up to one number: x times s and all l plus log s.

    Raises TypeError for what is not a likelihood of counts, ValueError where `lines` cannot be found or do not fit.

    Source: Nuyts et al. 1999; Rezaei et al. 2012, IEEE Trans Med Imaging 31:2224; Defrise et al. 2012.
    """

    emission: PoissonLikelihood
    lines: Projector = None  # type: ignore[assignment]  # None only as an argument
    _plans: dict[str, PlanCache] = field(
        default_factory=lambda: {"lengths": PlanCache(), "seen": PlanCache()}, init=False, repr=False
    )

    def __post_init__(self) -> None:
        require_counts(self.emission, "JointLikelihood")
        if self.lines is None:
            object.__setattr__(self, "lines", _lines_of(self.emission.model.projector))
        views, own = self.emission.model.projector.out_shape, self.lines.out_shape
        if len(views) - len(own) not in (0, 1) or (*views[:2], views[-1]) != (*own[:2], own[-1]):
            raise ValueError(f"lines {self.lines!r} are not those of the data {views}")

    @property
    def has_tof(self) -> bool:
        """Whether the data have time of flight."""
        return self._n_axes > len(self.lines.out_shape)

    @property
    def _n_axes(self) -> int:
        return len(self.emission.model.projector.out_shape)

    # ---- what is expected -------------------------------------------------------------------------------------------

    def depth(self, mu: Array) -> Array:
        """Return l = L mu / 10 of every line, without unit, (..., views, radial, planes)."""
        return self.lines(mu) / 10

    def survival(self, mu: Array) -> Array:
        """Return exp(-l) of every line, (..., views, radial, planes): the attenuation correction factors inverted."""
        return array_namespace(mu).exp(-self.depth(mu))

    def trues(self, x: Array) -> Array:
        """Return p = n A x, what would be counted without attenuation."""
        return self.emission.model.linear(x)

    def expected(self, x: Array, mu: Array) -> Array:
        """Return ybar."""
        p = self.trues(x)
        return self._per_bin(self.survival(mu)) * p + self.emission.model.background_like(p)

    def value(self, x: Array, mu: Array) -> Array:
        """Return f(x, mu), summed in float64: one number for each item of a batch."""
        return self.value_of(self.trues(x), self.survival(mu))

    def value_of(self, trues: Array, survival: Array) -> Array:
        """Return f for p (`trues`) and exp(-l) of every line, or any other factor of the lines."""
        y, ybar, _ = self._explained(trues, survival)
        xp = array_namespace(ybar)
        terms = ybar - y * xp.log(xp.where(ybar > LEAST, ybar, LEAST + xp.zeros_like(ybar)))
        return xp.sum(terms, axis=tuple(range(-self._n_axes, 0)), dtype=xp.float64)

    def gradients(self, x: Array, mu: Array) -> tuple[Array, Array]:
        """Return the gradients of f by x and by mu."""
        p, survival = self.trues(x), self.survival(mu)
        back, sensitivity = self.activity_terms(p, survival)
        return sensitivity - back, self.lines.T(self._slope(p, survival)) / 10

    def subset(self, k: int, n: int) -> JointLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        return JointLikelihood(self.emission.subset(k, n), self.lines.subset(k, n))

    # ---- what the engines use ---------------------------------------------------------------------------------------

    def activity_terms(self, trues: Array, survival: Array) -> tuple[Array, Array]:
        """Return A'(n a y / ybar) and the sensitivity A'(n a), a the factors of the lines (`survival`)."""
        _, _, ratio = self._explained(trues, survival)
        a = self._per_bin(survival)
        model = self.emission.model
        return model.adjoint(a * ratio), model.adjoint(a + array_namespace(ratio).zeros_like(ratio))

    def attenuation_terms(self, trues: Array, mu: Array, lengths: Array) -> tuple[Array, Array]:
        """Return the gradient of f by mu, and the curvature of separable parabolas that touch f at mu and lie above::

            L'(h') / 10  and  L'(c lengths) / 100,     lengths = L 1 of the voxels that may change

        with c the sum over TOF bins of the least curvatures for l >= 0.

        Source: Erdogan & Fessler 1999, IEEE Trans Med Imaging 18:801 (the optimal curvature of one bin).
        """
        depth = self.depth(mu)
        survival = array_namespace(mu).exp(-depth)
        gradient = self.lines.T(self._slope(trues, survival)) / 10
        curvature = like(self._curvature(trues, depth), lengths)
        return gradient, self.lines.T(curvature * lengths) / 100

    def best_factors(self, trues: Array, factors: Array, n_steps: int = 6) -> Array:
        """Return for every line the factor a >= 0 that minimises sum over its TOF bins of ybar - y log ybar::

            a = sum_t y / sum_t p   without a background; with one, Newton's method on  sum_t p (1 - y / (a p + r)) = 0

        Args:
            trues : p, (..., views, radial, [TOF,] planes).
            factors : (..., views, radial, planes), kept where nothing is expected, and what Newton's method starts at.

        Source: Rezaei, Defrise & Nuyts 2014, IEEE Trans Med Imaging 33:1563.
        """
        xp = array_namespace(trues)
        y = self.emission.counts_like(trues)
        r = self.emission.model.background_like(trues)
        total = self._per_line(trues)
        known = total > LEAST
        if isinstance(r, float) and r == 0:
            found = divide_where(self._per_line(y + 0 * trues), total, 0.0)
            return xp.where(known, found, factors)
        a = factors
        for _ in range(n_steps):
            quotient = divide_where(trues, self._per_bin(a) * trues + r, 0.0)
            share = self._per_line(y * quotient)
            em = a * divide_where(share, total, 0.0)  # stays on its side of the root
            newton = a - divide_where(total - share, self._per_line(y * quotient**2), a)  # ends up below the root
            rising = share >= total
            a = xp.where(rising, xp.maximum(newton, em), xp.where(newton >= a / 2, newton, em))
        return xp.where(known, a, factors)

    def lengths_like(self, free: Array) -> Array:
        """Return L 1 in mm of the voxels in `free` (1 or 0), like it."""
        return self.lines(free)

    def seen_like(self, x: Array) -> Array:
        """Return which voxels of x the lines cross, as booleans, in its library."""
        return self._plans["seen"].get(x, lambda: self._make_seen(x))

    def _make_seen(self, x: Array) -> Array:
        return self.lines.T(array_namespace(x).ones(self.lines.out_shape, dtype=x.dtype, device=device(x))) > 0

    def _explained(self, trues: Array, survival: Array) -> tuple[Array, Array, Array]:
        """Return y, ybar and y / ybar, 0 where nothing is expected."""
        ybar = self._per_bin(survival) * trues + self.emission.model.background_like(trues)
        y = self.emission.counts_like(ybar)
        lost_bins(y, ybar, self._n_axes, "bins", self.emission._told)
        some = ybar > LEAST
        xp = array_namespace(ybar)
        return y, ybar, xp.where(some, y / xp.where(some, ybar, xp.ones_like(ybar)), xp.zeros_like(ybar))

    def _slope(self, trues: Array, survival: Array) -> Array:
        """The derivative of f by the depth of every line, sum_t (y / ybar - 1) a p."""
        _, _, ratio = self._explained(trues, survival)
        return self._per_line((ratio - 1) * self._per_bin(survival) * trues)

    def _curvature(self, trues: Array, depth: Array) -> Array:
        """The sum over TOF bins of  2 (h(0) - h(l) + l h'(l)) / l^2, of h''(0) where l is next to 0; float64."""
        xp = array_namespace(depth)
        l, p = (self._per_bin(xp.astype(depth, xp.float64)), xp.astype(trues, xp.float64))
        y, r = self.emission.counts_like(p), self.emission.model.background_like(p)
        through = xp.exp(-l) * p
        without, ybar = p + r, through + r
        dead = ybar <= LEAST
        one = xp.ones_like(ybar)
        without, ybar = xp.where(dead, one, without), xp.where(dead, one, ybar)
        slope = (y / ybar - 1) * through
        drop = without - ybar - y * xp.log(without / ybar)
        thin = (l < _THIN) & (one > 0)
        steep = 2 * (drop + l * slope) / xp.where(thin, one, l) ** 2
        at_zero = p * (1 - y * r / without**2)
        found = xp.maximum(xp.where(thin, at_zero, steep), 0 * one)
        return self._per_line(xp.where(dead, 0 * one, found))

    def _per_bin(self, values: Array) -> Array:
        """Values of lines (..., views, radial, planes) with an axis for the TOF bins."""
        return values[..., None, :] if self.has_tof else values

    def _per_line(self, values: Array) -> Array:
        """The sum over the TOF bins."""
        return array_namespace(values).sum(values, axis=-2) if self.has_tof else values


def joint_likelihoods(likelihood: Any, lines: Projector | None = None) -> list[JointLikelihood]:
    """Return the `JointLikelihood` of a likelihood of counts, or of each of a list of them, such as `problem.parts`.

    Args:
        lines : as in `JointLikelihood`, for one likelihood.
    """
    given = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    if not given:
        raise ValueError("got an empty list of likelihoods")
    if lines is not None and len(given) > 1:
        raise ValueError("lines belong to one likelihood; give a list of JointLikelihood(part, its lines)")
    return [part if isinstance(part, JointLikelihood) else JointLikelihood(part, lines) for part in given]  # type: ignore[arg-type]


def _lines_of(projector: Any) -> Projector:
    """The plain lines of a PET projector, also of one after a resolution model."""
    inner = projector
    while hasattr(inner, "outer"):
        inner = inner.outer
    if not isinstance(inner, PETProjector):
        raise ValueError(
            f"joint estimation of activity and attenuation takes sinograms of PET, and {projector!r} is no projector "
            "of one; histogram list-mode events, or give lines=, the projector without TOF"
        )
    return PETProjector(_without_margin(inner.grid, projector.in_shape), inner.sinogram.without_tof())


def _without_margin(wide: ImageGrid, shape: tuple[int, ...]) -> ImageGrid:
    """The grid of the image, around which a blur before the projector has made room along x and y."""
    margin = [(n - own) // 2 for n, own in zip(wide.shape, shape)]
    origin = tuple(o + m * size for o, m, size in zip(wide.origin, margin, wide.voxel_size))
    return ImageGrid(shape, wide.voxel_size, origin)  # type: ignore[arg-type]  # three
