"""How well an image explains single events: value, gradient, curvature and sensitivity."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import Array, PlanCache, array_namespace, as_real, like, require_array, to_numpy

from .unexplained import LEAST, count, lost_bins


@dataclass(frozen=True, eq=False)
class ListmodeLikelihood:
    """The negative Poisson log-likelihood of single events, f(x) = sum(s x) - sum over events of w_e log(ybar_e)::

        ybar_e = factors_e * (A x)_e + background_e

    Args:
        model : an `AcquisitionModel` around a `ListmodeProjector`; factors and background of every event, as they are
            in the event's bin. (Only background / factors matters for the steps; both are counts per bin.)
        sensitivity : A'factors over all bins that could have been hit, not only those that were, (``*image``); for
            example `PETProjector(grid, sinogram).T(factors)`. With it, f equals the `PoissonLikelihood` of the sinogram
            of the same events, up to a constant.
        weights : w, how often each event counts, (..., events), such as those of `recon.bootstrap`; leading axes are a
            batch. None: once.

    `subset(k, n)` takes the events k, k + n, ... and 1 / n of the sensitivity. For subsets by views give `osem` a list
    of likelihoods, each with the events and the sensitivity of its views.

    Events that are not expected at all are treated as the counts of such bins by `PoissonLikelihood`: their quotient is
    0, and the log says how many there are.

    Raises ValueError for a sensitivity that does not fit or is negative, and, when it meets an image, where more than a
    fifth of the events are not expected (usual cause: an image that ends inside the object, with background 0).

    Source: Barrett, White & Parra 1997; Parra & Barrett 1998.
    """

    model: AcquisitionModel
    sensitivity: Array
    weights: Array | None = None
    _plans: PlanCache = field(default_factory=PlanCache, init=False, repr=False)
    _reach: PlanCache = field(default_factory=PlanCache, init=False, repr=False)
    _weights: PlanCache = field(default_factory=PlanCache, init=False, repr=False)
    _told: set[str] = field(default_factory=set, init=False, repr=False)  # shared with subsets

    def __post_init__(self) -> None:
        require_array(self.sensitivity, "ListmodeLikelihood sensitivity")
        shape = self.model.projector.in_shape
        if tuple(self.sensitivity.shape) != shape:
            given = tuple(self.sensitivity.shape)
            raise ValueError(f"ListmodeLikelihood sensitivity of shape {given} does not fit images of {shape}")
        host = to_numpy(self.sensitivity)
        if not (np.isfinite(host).all() and host.min() >= 0):
            raise ValueError("ListmodeLikelihood sensitivity must be finite and not negative")
        if self.weights is not None:
            require_array(self.weights, "ListmodeLikelihood weights")
            weights = to_numpy(self.weights)
            if tuple(weights.shape[-1:]) != self.model.projector.out_shape:
                raise ValueError(
                    f"ListmodeLikelihood weights of shape {tuple(weights.shape)} do not fit {self.model.projector!r}"
                )
            if weights.size and not (np.isfinite(weights).all() and weights.min() >= 0):
                raise ValueError("ListmodeLikelihood weights must be finite and not negative")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, (x, y, z)."""
        return self.model.projector.in_shape

    @property
    def is_empty(self) -> bool:
        """Whether there are no events."""
        return not self.model.projector.out_shape[0]

    def ones_image(self) -> Array:
        """Return an image of ones where something can be seen, like the sensitivity; 0 elsewhere."""
        sensitivity = as_real(self.sensitivity)
        xp = array_namespace(sensitivity)
        ones = xp.where(sensitivity > 0, xp.ones_like(sensitivity), xp.zeros_like(sensitivity))
        batch = () if self.weights is None else tuple(self.weights.shape[:-1])
        return ones * xp.ones((*batch, *ones.shape), dtype=ones.dtype, device=ones.device) if batch else ones

    def value(self, x: Array) -> Array:
        """Return f(x), summed in float64: one number for each item of a batch."""
        return self.value_at(x, self.model(x))

    def value_at(self, x: Array, ybar: Array) -> Array:
        """Return f(x) where ybar = model(x) is known."""
        return self._value(x, self._expected(x, ybar)[0])

    def ratio(self, x: Array) -> Array:
        """Return w / ybar for every event, 0 where it is not expected."""
        return self._weighted(self._inverse(x))

    def ratio_and_slope(self, x: Array) -> tuple[Array, Array]:
        """Return w / ybar and w / ybar^2 for every event."""
        inverse = self._inverse(x)
        return self._weighted(inverse), self._weighted(inverse**2)

    @property
    def sensitivity_has_factors(self) -> bool:
        """Whether the sensitivity is that of the model's factors: no, it is given."""
        return False

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and its gradient, with one projection forth and back."""
        ybar, ratio = self._expected(x)
        return self._value(x, ybar), self.sensitivity_like(x) - self.model.adjoint(self._weighted(ratio))

    def gradient(self, x: Array) -> Array:
        """Return s - A'(w / ybar), of the shape of x."""
        return self.sensitivity_like(x) - self.model.adjoint(self.ratio(x))

    def sensitivity_like(self, x: Array) -> Array:
        """Return the sensitivity in the library, device and precision of x."""
        return self._plans.get(x, lambda: like(self.sensitivity, x))

    def unexplained(self, x: Array) -> tuple[int, float]:
        """Return how many events x cannot explain, twice; no projection if there were none yet."""
        if not self._told:
            return 0, 0.0
        ybar = self.model(x)
        return count(self.counts_like(ybar), ybar)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x applied to v, A'( w A v / ybar^2 )."""
        return self.model.adjoint(self.model.linear(v) * self.ratio_and_slope(x)[1])

    def information(self, x: Array) -> Array:
        """Return w / ybar^2 for every event: A' diag(w / ybar^2) A is the observed Fisher information of the image."""
        return self.ratio_and_slope(x)[1]

    def converted(self, convert: Callable[[Array], Array]) -> ListmodeLikelihood:
        """Return the likelihood with its sensitivity as `convert` makes it: in another library, on another device."""
        weights = None if self.weights is None else convert(self.weights)
        return ListmodeLikelihood(self.model, convert(self.sensitivity), weights)

    def counts_like(self, ybar: Array) -> Array:
        """Return w for every event, 1 without weights, like ybar."""
        return self._weighted(array_namespace(ybar).ones_like(ybar))

    def total_counts(self, x: Array) -> int | Array:
        """Return the number of events, as they count: with weights (..., 1, 1, 1), like x."""
        if self.weights is None:
            return self.model.projector.out_shape[0]
        xp = array_namespace(x)
        total = xp.sum(like(self.weights, x), axis=-1, dtype=xp.float64)
        return xp.reshape(total, (*tuple(self.weights.shape[:-1]), 1, 1, 1))

    def subset(self, k: int, n: int) -> ListmodeLikelihood:
        """Return the likelihood of the events k, k + n, ..."""
        weights = None if self.weights is None else self.weights[..., k::n]
        part = ListmodeLikelihood(self.model.subset(k, n), self.sensitivity / n, weights)
        object.__setattr__(part, "_told", self._told)
        return part

    def _value(self, x: Array, ybar: Array) -> Array:
        xp = array_namespace(ybar)
        image = tuple(range(-len(self.model.projector.in_shape), 0))
        explained = xp.sum(self._weighted(xp.log(ybar)), axis=-1, dtype=xp.float64)
        return xp.sum(self.sensitivity_like(x) * x, axis=image, dtype=xp.float64) - explained

    def _weighted(self, values: Array) -> Array:
        """The values of every event times w."""
        if self.weights is None:
            return values
        own: Array = self._weights.get(values, lambda: like(self.weights, values))
        return own * values

    def _inverse(self, x: Array) -> Array:
        """Return 1 / ybar for every event, 0 where it is not expected."""
        return self._lost_and_inverse(self.model(x))[1]

    def _expected(self, x: Array, ybar: Array | None = None) -> tuple[Array, Array]:
        """Return what stands for ybar in logarithms (1 leaves an event out), and 1 / ybar."""
        ybar = self.model(x) if ybar is None else ybar
        xp, (lost, inverse) = array_namespace(ybar), self._lost_and_inverse(ybar)
        if lost is None:
            return ybar, inverse
        within = self._reach.get(x, lambda: self.model(array_namespace(x).ones_like(x)) > LEAST)
        one = xp.ones_like(ybar)
        return xp.where(lost & within, LEAST * one, xp.where(lost, one, ybar)), inverse

    def _lost_and_inverse(self, ybar: Array) -> tuple[Array | None, Array]:
        """Return which events are not expected, None where all are, and 1 / ybar, 0 for those."""
        xp = array_namespace(ybar)
        one = xp.ones_like(ybar)
        lost = lost_bins(one, ybar, 1, "events", self._told)
        if lost is None:
            return None, 1 / ybar
        return lost, xp.where(lost, 0 * one, 1 / xp.where(lost, one, ybar))
