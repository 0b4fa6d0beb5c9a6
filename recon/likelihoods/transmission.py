"""How well an attenuation map explains a transmission scan."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emrecon.projectors import Projector
from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    device,
    divide_where,
    is_torch,
    like,
    require_array,
    to_numpy,
)
from emrecon.projectors.core.operator import broadcasts_to
from emrecon.projectors.scan.acquisition import take_views
from emrecon.projectors.scan.scan import check_counts

from .unexplained import MANY

_LOG = logging.getLogger("emrecon")
_WATER = 0.1  # 1/cm: what `sensitivity` takes for a typical value
_THIN = 1e-3  # depths below this have the curvature at 0


@dataclass(frozen=True, eq=False)
class TransmissionLikelihood:
    """The negative log-likelihood of a transmission scan, f(mu) = sum(ybar - y log ybar)::

        ybar = blank * exp(-A mu / 10) + background

    Args:
        data : counts y, (..., views, bins, planes); any array library, leading axes are a batch.
        blank : expected counts without an object, scaled to the time of the scan; a number or an array like the data.
            Bins of blank = 0 count for nothing.
        projector : A, line integrals in mm, such as a `ParallelBeamProjector`.
        background : expected scatter, randoms and emission; counts, a number or an array.

    mu is in 1/cm, (..., nx, ny, nz).

    Bins with counts that have neither blank nor background are left out, and the log says how many.

    Raises ValueError for negative or non-finite values, shapes that do not fit, and where more than a fifth of the
    counts are in such bins (usual causes: detectors that were dead in the blank scan, blank and data exchanged).

    Source: Lange & Carson 1984; Erdogan & Fessler 1999, Phys Med Biol 44:2835.
    """

    data: Array
    blank: Array | float
    projector: Projector
    background: Array | float = 0.0
    _plans: dict[str, PlanCache] = field(
        default_factory=lambda: {name: PlanCache() for name in ("data", "blank", "background", "sensitivity", "seen")},
        init=False,
        repr=False,
    )

    def __post_init__(self) -> None:
        require_array(self.data, "TransmissionLikelihood data")
        views = self.projector.out_shape
        if tuple(self.data.shape[-len(views) :]) != views:
            raise ValueError(
                f"TransmissionLikelihood data of shape {tuple(self.data.shape)} do not fit {self.projector!r}"
            )
        check_counts(self.data, "TransmissionLikelihood")
        blank, background = (_checked(getattr(self, name), name, self.data) for name in ("blank", "background"))
        self._leave_out((blank == 0) & (background == 0))

    def depth(self, mu: Array) -> Array:
        """Return l = A mu / 10, without unit: exp(-l) is the transmission."""
        return self.projector(mu) / 10

    def expected(self, mu: Array) -> Array:
        """Return ybar."""
        depth = self.depth(mu)
        return self._through(depth) + self._match("background", depth)

    def value(self, mu: Array) -> Array:
        """Return f(mu), summed in float64: one number for each item of a batch."""
        ybar = self.expected(mu)
        xp, y = array_namespace(ybar), self._match("data", ybar)
        terms = ybar - y * xp.log(xp.where(ybar > 0, ybar, xp.finfo(ybar.dtype).tiny * xp.ones_like(ybar)))
        return xp.sum(terms, axis=tuple(range(-len(self.projector.out_shape), 0)), dtype=xp.float64)

    def gradient(self, mu: Array) -> Array:
        """Return A'((y / ybar - 1) blank exp(-A mu / 10)) / 10, of the shape of mu."""
        return self._back(self._slope(self.depth(mu)))

    def value_and_gradient(self, mu: Array) -> tuple[Array, Array]:
        """Return f(mu) and its gradient."""
        return self.value(mu), self.gradient(mu)

    def hessian_vector(self, mu: Array, v: Array) -> Array:
        """Return the Hessian at mu applied to v, A'(h'' A v) / 100 with h'' = through (1 - y background / ybar^2)."""
        depth = self.depth(mu)
        through = self._through(depth)
        background = self._match("background", depth)
        ybar = through + background
        share = divide_where(self._match("data", depth) * background, ybar**2)
        return self._back(through * (1 - share) * self.depth(v))

    def fisher_vector(self, mu: Array, v: Array) -> Array:
        """Return the Fisher information at mu applied to v, A'(through^2 / ybar A v) / 100: no counts are in it."""
        depth = self.depth(mu)
        through = self._through(depth)
        return self._back(divide_where(through**2, through + self._match("background", depth), 0.0) * self.depth(v))

    @property
    def sensitivity(self) -> Array:
        """See `sensitivity_like`; in the library and on the device of the data."""
        return self.sensitivity_like(as_real(self.data))

    def sensitivity_like(self, mu: Array) -> Array:
        """Return s = 0.1 A'(c A 1) / 100 with the curvatures c = (y - background)^2 / y, like mu; made once for each.

        It gives engines that scale a gradient by mu / s the length of a Newton step where mu is near that of water,
        0.1 /cm.
        """
        return self._plans["sensitivity"].get(mu, lambda: self._make_sensitivity(mu))

    def seen_like(self, mu: Array) -> Array:
        """Return which voxels a line with a blank crosses, as booleans, in the library of mu; made once for each."""
        return self._plans["seen"].get(mu, lambda: self._make_seen(mu))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of a map, (x, y, z)."""
        return self.projector.in_shape

    def start_image(self) -> Array:
        """Return the default start of engines: 0.01 /cm where a line crosses, in the library of the data."""
        y, shape = as_real(self.data), self.projector.out_shape
        xp, batch = array_namespace(y), y.shape[: y.ndim - len(shape)]
        low = xp.full((*batch, *self.projector.in_shape), 0.01, dtype=y.dtype, device=device(y))
        return xp.where(self.seen_like(low), low, xp.zeros_like(low))

    def subset(self, k: int, n: int) -> TransmissionLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        axis = -len(self.projector.out_shape)
        data, blank, background = (
            take_views(values, k, n, axis) for values in (self.data, self.blank, self.background)
        )
        return TransmissionLikelihood(data, blank, self.projector.subset(k, n), background)

    # ---- one bin as a function of its depth l: h(l) = ybar - y log ybar ---------------------------------------------

    def _through(self, depth: Array) -> Array:
        return self._match("blank", depth) * array_namespace(depth).exp(-depth)

    def _slope(self, depth: Array) -> Array:
        """h'(l) = (y / ybar - 1) blank exp(-l)."""
        through = self._through(depth)
        ybar = through + self._match("background", depth)
        share = divide_where(through, ybar, 1.0)
        return self._match("data", depth) * share - through

    def _least_curvature(self, depth: Array) -> Array:
        """The least curvature of a parabola that touches h at l and lies above it wherever l >= 0; float64.

        2 (h(0) - h(l) + l h'(l)) / l^2, and h''(0) for l = 0; 0 where that is negative.

        Source: Erdogan & Fessler 1999, IEEE Trans Med Imaging 18:801 (optimal curvature).
        """
        xp = array_namespace(depth)
        depth = xp.astype(depth, xp.float64)  # differences of large numbers
        y, blank, background = (self._match(name, depth) for name in ("data", "blank", "background"))
        one = xp.ones_like(depth)
        without = (blank + background) * one  # ybar without an object
        dead = without == 0
        without, ybar = xp.where(dead, one, without), xp.where(dead, one, self._through(depth) + background)
        drop = without - ybar - y * xp.log(without / ybar)
        thin = depth < _THIN
        steep = 2 * (drop + depth * self._slope(depth)) / xp.where(thin, one, depth) ** 2
        at_zero = blank * (1 - y * background / without**2)
        return xp.maximum(xp.where(thin, at_zero, steep), 0 * one)

    def _curvature_at_minimum(self, depth: Array) -> Array:
        """(y - background)^2 / y, the curvature of h where its slope is 0; 0 where it has no minimum."""
        xp, y = array_namespace(depth), self._match("data", depth)
        net = y - self._match("background", depth)
        return xp.where(net > 0, net**2 / xp.where(net > 0, y, xp.ones_like(y)), xp.zeros_like(y))

    def _make_sensitivity(self, mu: Array) -> Array:
        xp = array_namespace(mu)
        lengths = self.depth(xp.ones(self.projector.in_shape, dtype=mu.dtype, device=device(mu)))
        return _WATER * self._back(self._curvature_at_minimum(lengths) * lengths)

    def _leave_out(self, dead: np.ndarray) -> None:
        """Set the counts of bins to 0 where nothing can be expected, and say so; ValueError where they are many."""
        host = to_numpy(self.data)
        lost = (host > 0) & dead
        if not lost.any():
            return
        n, counts = int(lost.sum()), float(host[lost].sum())
        if counts > MANY * float(host.sum()):
            raise ValueError(
                f"TransmissionLikelihood: {n} bins have counts but no blank and no background: usual causes are "
                "detectors that were dead in the blank scan (set their counts to 0), or blank and data exchanged"
            )
        _LOG.warning("%d of %d bins hold %g counts without blank or background; left out", n, lost.size, counts)
        xp = array_namespace(self.data)
        keep = xp.asarray(~np.broadcast_to(lost, host.shape), device=device(self.data))
        object.__setattr__(self, "data", xp.where(keep, self.data, xp.zeros_like(self.data)))

    def _make_seen(self, mu: Array) -> Array:
        y = array_namespace(mu).ones(self.projector.out_shape, dtype=mu.dtype, device=device(mu))
        return self._back(y * (self._match("blank", y) > 0)) > 0

    def _back(self, y: Array) -> Array:
        return self.projector.T(y) / 10

    def _match(self, name: str, y: Array) -> Any:
        values = getattr(self, name)
        if isinstance(values, (int, float)):
            return float(values)
        return like(values, y) if is_torch(values) else self._plans[name].get(y, lambda: like(values, y))


def _checked(values: Array | float, name: str, data: Array) -> np.ndarray:
    who = f"TransmissionLikelihood {name}"
    if not hasattr(values, "shape") and not isinstance(values, (int, float)):
        raise TypeError(f"{who} must be a number or an array, got {type(values).__name__}")
    host = np.asarray(to_numpy(values))
    if not broadcasts_to(host.shape, tuple(data.shape)):
        raise ValueError(f"{who} of shape {host.shape} does not broadcast to data of {tuple(data.shape)}")
    if not (np.isfinite(host).all() and (host >= 0).all()):
        raise ValueError(f"{who} must be finite and not negative everywhere")
    return host
