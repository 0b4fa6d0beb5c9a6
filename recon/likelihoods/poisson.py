"""How well an image explains Poisson counts: value, gradient, curvature and sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from emrecon.projectors import AcquisitionModel, Scan, ScanSeries
from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    device,
    like,
    require_array,
)
from emrecon.projectors.scan.acquisition import take_views
from emrecon.projectors.scan.scan import check_counts

from .unexplained import LEAST, count, lost_bins


class _Explained(NamedTuple):
    """Expected counts, what stands for them in logarithms and quotients, counts in quotients, and the bins left out."""

    ybar: Array
    safe: Array
    used: Array
    lost: Array | None


@dataclass(frozen=True, eq=False)
class PoissonLikelihood:
    """The negative Poisson log-likelihood of counts y under a model, f(x) = sum(ybar - y log ybar), ybar = model(x).

    Args:
        data : counts (..., views, bins, rows), or a scan; any array library, leading axes are a batch.
        model : what is expected, an `AcquisitionModel`.

    A bin with y = 0 contributes ybar, also where ybar = 0. Data and sensitivity follow the images they meet.

    Where counts were measured and none are expected their quotient y / ybar is 0: they count for nothing in ratio,
    gradient and steps. A warning in the log (`emrecon`) says once how many there are. Bins that no image can explain,
    background and A 1 both 0, are left out of f as if y were 0; in others, where the image has become 0 along the whole
    line, f counts ybar as 1e-30 at least, so that such an image is never the better one.

    Raises ValueError for negative or non-finite counts and shapes that do not fit, and, when it meets an image, where
    more than a fifth of the counts are such (usual causes: background = 0 outside the object, an image with zeros, a mu
    map or geometry that does not belong to the data).
    """

    data: Array
    model: AcquisitionModel
    _plans: dict[str, PlanCache] = field(
        default_factory=lambda: {name: PlanCache() for name in ("data", "sensitivity", "reach")},
        init=False,
        repr=False,
    )
    _told: set[str] = field(default_factory=set, init=False, repr=False)  # shared with subsets

    if TYPE_CHECKING:  # a scan stands for its counts

        def __init__(self, data: Array | Scan | ScanSeries, model: AcquisitionModel) -> None: ...

    def __post_init__(self) -> None:
        if isinstance(self.data, (Scan, ScanSeries)):
            object.__setattr__(self, "data", self.data.counts)
        require_array(self.data, "PoissonLikelihood data")
        views = self.model.projector.out_shape
        if tuple(self.data.shape[-len(views) :]) != views:
            raise ValueError(
                f"PoissonLikelihood data of shape {tuple(self.data.shape)} do not fit {self.model.projector!r}"
            )
        check_counts(self.data, "PoissonLikelihood")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, (x, y, z)."""
        return self.model.projector.in_shape

    def ones_image(self) -> Array:
        """Return an image of ones where something is seen, 0 elsewhere; it suits the data.

        Library, device and batch are theirs; float32 unless they are float64.
        """
        y, projector = as_real(self.data), self.model.projector
        xp, batch = array_namespace(y), y.shape[: y.ndim - len(projector.out_shape)]
        ones = xp.ones((*batch, *projector.in_shape), dtype=y.dtype, device=device(y))
        return xp.where(self.sensitivity_like(ones) > 0, ones, xp.zeros_like(ones))

    def value(self, x: Array) -> Array:
        """Return f(x), summed in float64: one number for each item of a batch."""
        return self.value_at(x, self.model(x))

    def value_at(self, x: Array, ybar: Array) -> Array:
        """Return f(x) where ybar = model(x) is known."""
        return self._value(x, *self._explained(x, ybar))

    def ratio(self, x: Array) -> Array:
        """Return y / ybar, 0 where nothing is measured or expected."""
        found = self._explained(x)
        return found.used / found.safe

    def ratio_and_slope(self, x: Array) -> tuple[Array, Array]:
        """Return y / ybar and y / ybar^2, its derivative by -ybar."""
        found = self._explained(x)
        return found.used / found.safe, found.used / found.safe**2

    @property
    def sensitivity_has_factors(self) -> bool:
        """Whether the sensitivity is that of the model's factors: A'1 with them."""
        return True

    def gradient(self, x: Array) -> Array:
        """Return A'(1 - y / ybar), of the shape of x."""
        return self.sensitivity_like(x) - self.model.adjoint(self.ratio(x))

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and its gradient, with one projection forth and back."""
        found = self._explained(x)
        return self._value(x, *found), self.sensitivity_like(x) - self.model.adjoint(found.used / found.safe)

    @property
    def sensitivity(self) -> Array:
        """The sensitivity image A'1, in the library and on the device of the data; made once."""
        return self.sensitivity_like(as_real(self.data))

    def sensitivity_like(self, x: Array) -> Array:
        """Return A'1 in the library, device and precision of x; made once for each; (``*image``) or (B, ``*image``)."""
        learned = any(getattr(values, "requires_grad", False) for values in (self.model.factors, self.model.scale))
        if learned or self.model.projector.has_parameters:
            return self._make_sensitivity(x)  # it is a part of this graph and of no other
        return self._plans["sensitivity"].get(x, lambda: self._make_sensitivity(x))

    def unexplained(self, x: Array) -> tuple[int, float]:
        """Return how many bins hold counts that x cannot explain, and the counts; no projection if none did yet."""
        if not self._told:
            return 0, 0.0
        ybar = self.model(x)
        return count(self.counts_like(ybar), ybar)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x applied to v, A'( y / ybar^2 * A v )."""
        found = self._explained(x)
        return self.model.adjoint(found.used / found.safe**2 * self.model.linear(v))

    def information(self, x: Array) -> Array:
        """Return the Fisher information of every bin about what is expected in it, 1 / ybar; 0 where nothing is.

        The Fisher information of the image is A' diag(1 / ybar) A: no counts are in it.
        """
        ybar = self.model(x)
        xp = array_namespace(ybar)
        some = ybar > LEAST
        return xp.where(some, 1 / xp.where(some, ybar, xp.ones_like(ybar)), xp.zeros_like(ybar))

    def subset(self, k: int, n: int) -> PoissonLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        axis = -len(self.model.projector.out_shape)
        part = PoissonLikelihood(take_views(self.data, k, n, axis), self.model.subset(k, n))
        object.__setattr__(part, "_told", self._told)
        return part

    def _explained(self, x: Array, ybar: Array | None = None) -> _Explained:
        ybar = self.model(x) if ybar is None else ybar
        xp, y = array_namespace(ybar), self.counts_like(ybar)
        safe = xp.where(ybar > 0, ybar, xp.ones_like(ybar))
        lost = lost_bins(y, ybar, len(self.model.projector.out_shape), "bins", self._told)
        if lost is None:
            return _Explained(ybar, safe, y, lost)
        nothing = xp.zeros_like(y + 0 * ybar)
        return _Explained(ybar, xp.where(lost, LEAST + nothing, safe), xp.where(lost, nothing, y), lost)

    def _value(self, x: Array, ybar: Array, safe: Array, used: Array, lost: Array | None) -> Array:
        """f(x); counts that some image can explain, but not this one, count with LEAST expected."""
        xp, y = array_namespace(ybar), used
        if lost is not None:
            y = xp.where(lost & self._within_reach(x), self.counts_like(ybar), used)
        return self._total(ybar - y * xp.log(safe))

    def _within_reach(self, x: Array) -> Array:
        """Which bins some image can explain, made once for each kind of array."""
        return self._plans["reach"].get(x, lambda: self.model(array_namespace(x).ones_like(x)) > LEAST)

    def converted(self, convert: Callable[[Array], Array]) -> PoissonLikelihood:
        """Return the likelihood with its counts as `convert` makes them: in another library, on another device."""
        return PoissonLikelihood(convert(self.data), self.model)

    def counts_like(self, ybar: Array) -> Array:
        """Return the counts in the library, device and precision of ybar; made once for each."""
        return self._plans["data"].get(ybar, lambda: like(self.data, ybar))

    def total_counts(self, x: Array) -> Array:
        """Return the sum of the counts of each item, (..., 1, 1, 1) in float64, in the library of x."""
        y, axes = self.counts_like(x), tuple(range(-len(self.model.projector.out_shape), 0))
        xp = array_namespace(y)
        return xp.reshape(xp.sum(y, axis=axes, dtype=xp.float64), (*y.shape[: axes[0]], 1, 1, 1))

    def _total(self, terms: Array) -> Array:
        """Sum over the bins of each item, in float64."""
        xp = array_namespace(terms)
        return xp.sum(terms, axis=tuple(range(-len(self.model.projector.out_shape), 0)), dtype=xp.float64)

    def _make_sensitivity(self, x: Array) -> Array:
        projector = self.model.projector
        shape = projector.out_shape if projector.n_items is None else (projector.n_items, *projector.out_shape)
        return self.model.adjoint(array_namespace(x).ones(shape, dtype=x.dtype, device=x.device))
