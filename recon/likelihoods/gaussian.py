"""How well an image explains data of known variance that are not Poisson, such as predicted or corrected counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    clipped,
    device,
    divide_where,
    like,
    require_array,
)
from emrecon.projectors.core.operator import broadcasts_to
from emrecon.projectors.scan.acquisition import take_views


@dataclass(frozen=True, eq=False)
class GaussianLikelihood:
    """The negative log-likelihood of data y with variances v, f(x) = sum( (ybar - y)^2 / (2 v) ), ybar = model(x).

    Args:
        data : (..., views, bins, rows), any finite values; leading axes are a batch.
        model : what is expected, an `AcquisitionModel`.
        variance : of every bin, like the data, or an array that broadcasts to them; a bin of variance 0 or infinity
            counts for nothing.

    Every engine that takes a `Likelihood` takes it; `osem` steps by x / s times the gradient, with s = A'(A 1 / v).

    Raises ValueError for values that are not finite, negative variances, and shapes that do not fit.

    Source: Fessler 1994, IEEE Trans Med Imaging 13:290 (penalised weighted least squares).
    """

    data: Array
    model: AcquisitionModel
    variance: Array
    _plans: dict[str, PlanCache] = field(
        default_factory=lambda: {name: PlanCache() for name in ("data", "weight", "sensitivity")},
        init=False,
        repr=False,
    )

    def __post_init__(self) -> None:
        views = self.model.projector.out_shape
        for name in ("data", "variance"):
            values = getattr(self, name)
            xp = require_array(values, f"GaussianLikelihood {name}")
            if not broadcasts_to(tuple(values.shape[-len(views) :]), tuple(views)):
                raise ValueError(
                    f"GaussianLikelihood {name} of shape {tuple(values.shape)} do not fit {self.model.projector!r}"
                )
            if bool(xp.any(xp.isnan(values))) or (name == "data" and not bool(xp.all(xp.isfinite(values)))):
                raise ValueError(f"GaussianLikelihood: {name} must be finite numbers")
            if name == "variance" and bool(xp.any(values < 0)):
                raise ValueError("GaussianLikelihood: a variance must not be negative")
        if tuple(self.data.shape[-len(views) :]) != tuple(views):
            raise ValueError(
                f"GaussianLikelihood data of shape {tuple(self.data.shape)} do not fit {self.model.projector!r}"
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, (x, y, z)."""
        return self.model.projector.in_shape

    def ones_image(self) -> Array:
        """Return an image of ones where something is seen, 0 elsewhere; it suits the data."""
        y = as_real(self.data)
        xp, batch = array_namespace(y), y.shape[: y.ndim - len(self.model.projector.out_shape)]
        ones = xp.ones((*batch, *self.model.projector.in_shape), dtype=y.dtype, device=device(y))
        return xp.where(self.sensitivity_like(ones) > 0, ones, xp.zeros_like(ones))

    def value(self, x: Array) -> Array:
        """Return f(x), summed in float64: one number for each item of a batch."""
        residual, weight = self._residual(x)
        return self._total(weight * residual * residual / 2)

    def gradient(self, x: Array) -> Array:
        """Return A'( (ybar - y) / v ), of the shape of x."""
        residual, weight = self._residual(x)
        return self.model.adjoint(weight * residual)

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and its gradient, with one projection forth and back."""
        residual, weight = self._residual(x)
        return self._total(weight * residual * residual / 2), self.model.adjoint(weight * residual)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian applied to v, A'( A v / v ); it does not depend on x."""
        projected = self.model.linear(v)
        return self.model.adjoint(self._weight_like(projected) * projected)

    @property
    def sensitivity(self) -> Array:
        """s = A'(A 1 / v): steps x / s grad f have the scale of x where x is near 1; see `sensitivity_like`."""
        return self.sensitivity_like(as_real(self.data))

    def sensitivity_like(self, x: Array) -> Array:
        """Return s = A'( y+ / v ), y+ the data without background and not negative, in the library of x; made once.

        With v = y it is the A'1 of Poisson counts, and the step x - x / s grad f is then scaled as theirs.
        """
        return self._plans["sensitivity"].get(x, lambda: self._make_sensitivity(x))

    def subset(self, k: int, n: int) -> GaussianLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        axis = -len(self.model.projector.out_shape)
        data, variance = (take_views(values, k, n, axis) for values in (self.data, self.variance))
        return GaussianLikelihood(data, self.model.subset(k, n), variance)

    def converted(self, convert: Callable[[Array], Array]) -> GaussianLikelihood:
        """Return the likelihood with its data as `convert` makes them: in another library, on another device."""
        return GaussianLikelihood(convert(self.data), self.model, convert(self.variance))

    def _residual(self, x: Array) -> tuple[Array, Array]:
        ybar = self.model(x)
        return ybar - self._plans["data"].get(ybar, lambda: like(self.data, ybar)), self._weight_like(ybar)

    def _weight_like(self, y: Array) -> Array:
        """1 / v, 0 where the bin counts for nothing."""

        def made() -> Array:
            v = like(self.variance, y)
            return divide_where(array_namespace(v).ones_like(v), v)

        return self._plans["weight"].get(y, made)

    def _make_sensitivity(self, x: Array) -> Array:
        y = like(self.data, x)
        above = clipped(y - self.model.background_like(y), low=0.0)
        return self.model.adjoint(self._weight_like(y) * above)

    def _total(self, terms: Array) -> Array:
        xp = array_namespace(terms)
        return xp.sum(terms, axis=tuple(range(-len(self.model.projector.out_shape), 0)), dtype=xp.float64)
