"""Likelihoods whose views or events are dealt out to ranks: projected there, summed over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from emrecon.projectors import Projector
from emrecon.projectors.core.arrays import Array, array_namespace, is_torch
from emrecon.projectors.scan.acquisition import take_views

from ..likelihoods import GaussianLikelihood, ListmodeLikelihood, PoissonLikelihood
from ..likelihoods.protocol import image_shape, knows_counts, require_likelihood, start_image, value_and_gradient
from .group import RankGroup

T = TypeVar("T")


class ShardedProjector(Projector):
    """One scan on several processes: every rank holds a share of the views or events, and the whole image::

        A x : this rank's views of A x, without communication
        A' y = sum over ranks of A_k' y_k : the whole back projection on every rank, one all-reduce

    Args:
        local : the projector of this rank's share; None for a rank without one.
        ranks : all of them.
        whole : the projector of all views, for the shapes of a rank without a share.

    What is the same on all ranks (images, weights of networks) stays the same, bit for bit, and so do its gradients:
    the backward pass of A is the summed A', that of A' is the local A.

    Raises ValueError for a projector whose attenuation map asks for gradients.
    """

    def __init__(self, local: Projector | None, ranks: RankGroup, whole: Projector | None = None) -> None:
        known = whole if local is None else local
        if known is None:
            raise ValueError("ShardedProjector needs a projector: of this rank's share, or of all views")
        if known.has_parameters:
            raise ValueError(f"{known!r}: ranks do not share the gradient of its attenuation map; give a constant map")
        self.local, self.ranks, self.whole = local, ranks, known
        self.in_shape = known.in_shape
        self.out_shape = known.out_shape if local is not None else (0, *known.out_shape[1:])

    @property
    def n_items(self) -> int | None:
        return self.whole.n_items

    def subset(self, k: int, n: int) -> ShardedProjector:
        """Return the projector of the views k, k + n, ... of this rank's share."""
        return ShardedProjector(None if self.local is None else self.local.subset(k, n), self.ranks, self.whole)

    def _forward(self, x: Array) -> Array:
        return self._nothing(x, self.out_shape) if self.local is None else self.local._forward(x)

    def _adjoint(self, y: Array) -> Array:
        own = self._nothing(y, self.in_shape) if self.local is None else self.local._adjoint(y)
        return self._summed(own)

    def _forward_batch(self, x: Array) -> Array:
        if self.local is None:
            return self._nothing(x, (x.shape[0], *self.out_shape))
        return self.local._forward_batch(x)

    def _adjoint_batch(self, y: Array) -> Array:
        if self.local is None:
            return self._summed(self._nothing(y, (y.shape[0], *self.in_shape)))
        return self._summed(self.local._adjoint_batch(y))

    def _nothing(self, like_: Array, shape: tuple[int, ...]) -> Array:
        zeros: Array = array_namespace(like_).zeros(shape, dtype=like_.dtype, device=like_.device)
        return zeros

    def _summed(self, own: Any) -> Any:
        writable = getattr(getattr(own, "flags", None), "writeable", True)
        return self.ranks.sum_own(own if writable else own.copy())


@dataclass(frozen=True, eq=False)
class ShardedLikelihood:
    """A likelihood of counts or events of which this rank holds a share; a `CountsLikelihood` of all of them.

    Args:
        local : of this rank's share; the A of its model is a `ShardedProjector`.
        ranks : all of them.
        n_data : how many views or events all ranks hold.
        whole : the likelihood of all views, None where each rank has only its own.

    Value, gradient, sensitivity, Hessian and total counts are those of all data, the same bits on all ranks; ratios,
    counts and the model's projections are those of this rank's share. An error that one rank meets in its share is
    raised on all. Made by `shard`, `spect_problem(..., ranks=)` and `pet_problem(..., ranks=)`.
    """

    local: Any
    ranks: RankGroup
    n_data: int
    whole: Any = None

    @property
    def model(self) -> Any:
        """The acquisition model of this rank's share, whose transpose sums over all ranks."""
        return self.local.model

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, (x, y, z)."""
        return image_shape(self.local)

    @property
    def is_events(self) -> bool:
        """Whether the data are single events."""
        return isinstance(self.local, ListmodeLikelihood)

    @property
    def is_empty(self) -> bool:
        """Whether no rank holds an event."""
        return not self.n_data

    @property
    def sensitivity(self) -> Array:
        """The sensitivity image of all data."""
        found: Array = self.local.sensitivity
        return found

    @property
    def sensitivity_has_factors(self) -> bool:
        """Whether the sensitivity is A'1 of the model."""
        return bool(self.local.sensitivity_has_factors)

    def sensitivity_like(self, x: Array) -> Array:
        """Return the sensitivity of all data in the library, device and precision of x."""
        found: Array = self.local.sensitivity_like(x)
        return found

    def ones_image(self) -> Array:
        """Return an image of ones where something is seen, 0 elsewhere."""
        return start_image(self.local)

    def value(self, x: Array) -> Array:
        """Return f(x) of all data."""
        return self._value_of(x, self._all(lambda: self.local.value(x)))

    def value_at(self, x: Array, ybar: Array) -> Array:
        """Return f(x) of all data, where ybar = model(x) is known of this rank's share."""
        return self._value_of(x, self._all(lambda: self.local.value_at(x, ybar)))

    def gradient(self, x: Array) -> Array:
        """Return the gradient of f at x."""
        if not knows_counts(self.local):
            return self.local.gradient(x)
        return self.sensitivity_like(x) - self.model.adjoint(self.ratio(x))

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and its gradient, with one projection forth and back."""
        if not knows_counts(self.local):
            value, slope = value_and_gradient(self.local, x)
            return self.ranks.sum(value), slope
        ybar = self.model(x)
        value = self.value_at(x, ybar)
        return value, self.gradient(x)

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x applied to v."""
        if not knows_counts(self.local):
            return self.local.hessian_vector(x, v)
        return self.model.adjoint(self.ratio_and_slope(x)[1] * self.model.linear(v))

    def ratio(self, x: Array) -> Array:
        """Return y / ybar of this rank's share."""
        return self._all(lambda: self.local.ratio(x))

    def ratio_and_slope(self, x: Array) -> tuple[Array, Array]:
        """Return y / ybar and y / ybar^2 of this rank's share."""
        return self._all(lambda: self.local.ratio_and_slope(x))

    def information(self, x: Array) -> Array:
        """Return the Fisher information of every bin of this rank's share about what is expected in it."""
        return self._all(lambda: self.local.information(x))

    def counts_like(self, ybar: Array) -> Array:
        """Return the counts of this rank's share like ybar."""
        found: Array = self.local.counts_like(ybar)
        return found

    def total_counts(self, x: Array) -> Array | int:
        """Return the sum of the counts of each item over all ranks, (..., 1, 1, 1), like x."""
        own = self.local.total_counts(x)
        return int(self.ranks.sum_own(_number(own))[0]) if isinstance(own, int) else self.ranks.sum(own)

    def unexplained(self, x: Array) -> tuple[int, float]:
        """Return how many bins of all ranks hold counts that x cannot explain, and the counts."""
        bins, counts = self.local.unexplained(x)
        return int(self.ranks.sum_own(_number(bins))[0]), float(self.ranks.sum_own(_number(counts))[0])

    def over_ranks(self, sums: Array) -> Array:
        """Return sums over the bins of all ranks from those over the bins of each."""
        return self.ranks.sum(sums)

    def highest(self, number: float) -> float:
        """Return the highest of numbers that the ranks found in their shares."""
        return self.ranks.highest(number)

    def converted(self, convert: Callable[[Array], Array]) -> ShardedLikelihood:
        """Return the likelihood with its arrays as `convert` makes them, on another device, say."""
        whole = None if self.whole is None else self.whole.converted(convert)
        return ShardedLikelihood(self.local.converted(convert), self.ranks, self.n_data, whole)

    def subset(self, k: int, n: int) -> ShardedLikelihood:
        """Return the likelihood of the views k, k + n, ... of all, dealt out anew; of events, those of every share."""
        if self.whole is not None:
            return _of_views(self.whole.subset(k, n), self.ranks)
        part = self.local.subset(k, n)
        size = int(self.ranks.sum_own(_number(int(part.model.projector.out_shape[0])))[0])
        return ShardedLikelihood(part, self.ranks, size)

    def _value_of(self, x: Array, own: Array) -> Array:
        """The value of all data from that of a share; the sensitivity's part of events is in the share of rank 0."""
        if self.is_events and self.ranks.rank:
            xp, axes = array_namespace(x), tuple(range(-len(self.image_shape), 0))
            own = own - xp.sum(self.sensitivity_like(x) * x, axis=axes, dtype=xp.float64)
        return self.ranks.sum(own)

    def _all(self, work: Callable[[], T]) -> T:
        """What a rank finds in its share; a ValueError of one is raised on all."""
        try:
            found, error = work(), None
        except ValueError as raised:
            error = raised
        self.ranks.agree(error)
        return found


@dataclass(frozen=True, eq=False)
class SummedLikelihood:
    """Any `Likelihood` of which this rank holds the part `local`; the four of the protocol, summed over the ranks.

    local : None for a rank without a part, where the likelihood cannot be divided into so many.
    """

    local: Any
    ranks: RankGroup
    whole: Any

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image."""
        return image_shape(self.whole)

    def start_image(self) -> Array:
        """Return the image to start from: that of all data."""
        return start_image(self.whole)

    def value(self, x: Array) -> Array:
        """Return f(x)."""
        return self.ranks.sum(self._no_value(x) if self.local is None else _double(self.local.value(x), x))

    def gradient(self, x: Array) -> Array:
        """Return the gradient at x."""
        return self.ranks.sum(0 * x if self.local is None else self.local.gradient(x))

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        """Return f(x) and its gradient."""
        both = (self._no_value(x), 0 * x) if self.local is None else value_and_gradient(self.local, x)
        return self.ranks.sum(_double(both[0], x)), self.ranks.sum(both[1])

    def hessian_vector(self, x: Array, v: Array) -> Array:
        """Return the Hessian at x applied to v."""
        return self.ranks.sum(0 * v if self.local is None else self.local.hessian_vector(x, v))

    @property
    def sensitivity(self) -> Array:
        """The scale of steps, of all data."""
        found: Array = self.whole.sensitivity
        return found

    def subset(self, k: int, n: int) -> SummedLikelihood:
        """Return the likelihood of the k-th of n parts of all data, dealt out anew."""
        return _of_any(self.whole.subset(k, n), self.ranks)

    def _no_value(self, x: Array) -> Array:
        xp, axes = array_namespace(x), tuple(range(-len(self.image_shape), 0))
        nothing: Array = xp.sum(0 * x, axis=axes, dtype=xp.float64)
        return nothing


def shard(what: Any, ranks: RankGroup) -> Any:
    """Return a likelihood, a list of them or a problem with its data dealt out to ranks: rank k of n holds every n-th::

        with recon.join_ranks() as ranks:
            for it in recon.bsrem(recon.shard(parts, ranks), prior): ...

    Args:
        what : a `PoissonLikelihood` or `GaussianLikelihood` (views are dealt out), a `ListmodeLikelihood` (events), any
            other `Likelihood` (by its `subset`), a list of those, or a `Problem`; the same on all ranks.
        ranks : of `join_ranks`; with one rank all is returned as it is.

    Engines that ask for no more than the `Likelihood` or `CountsLikelihood` protocol run on the result, on all ranks at
    once, and find what one process finds, to the rounding of sums. A subset may have fewer views than there are ranks;
    some of them have nothing to project then.

    Raises TypeError for what is no likelihood, ValueError where ranks have other data.
    """
    if ranks.size == 1:
        return what
    if isinstance(what, (ShardedLikelihood, SummedLikelihood)):
        return what
    if is_dataclass(what) and hasattr(what, "parts") and hasattr(what, "signature"):
        ranks.require_same(str(what.signature), "these have another problem; are files or options not the same?")
        return replace(what, parts=tuple(shard(part, ranks) for part in what.parts))  # type: ignore[type-var]
    if isinstance(what, Sequence):
        return [shard(part, ranks) for part in what]
    require_likelihood(what, "shard")
    if isinstance(what, (PoissonLikelihood, GaussianLikelihood)):
        return _of_views(what, ranks)
    return _of_events(what, ranks) if isinstance(what, ListmodeLikelihood) else _of_any(what, ranks)


def _of_views(whole: Any, ranks: RankGroup) -> ShardedLikelihood:
    """The share of this rank of counts in views."""
    n = int(whole.model.projector.out_shape[0])
    if ranks.rank < n:
        return of_share(whole.subset(ranks.rank, min(ranks.size, n)), ranks, n, whole)
    axis = -len(whole.model.projector.out_shape)
    names = ("factors", "background")
    terms = {name: take_views(getattr(whole.model, name), n, 1, axis) for name in names}
    model = replace(whole.model, projector=ShardedProjector(None, ranks, whole.model.projector), **terms)
    own = {"data": take_views(whole.data, n, 1, axis)}
    if isinstance(whole, GaussianLikelihood):
        own["variance"] = take_views(whole.variance, n, 1, axis)
    return ShardedLikelihood(type(whole)(model=model, **own), ranks, n, whole)


def of_share(mine: Any, ranks: RankGroup, n_data: int, whole: Any = None) -> ShardedLikelihood:
    """Return the likelihood of all data from that of this rank's share, whose projector is not sharded yet."""
    model = replace(mine.model, projector=ShardedProjector(mine.model.projector, ranks))
    if isinstance(mine, ListmodeLikelihood):
        return ShardedLikelihood(ListmodeLikelihood(model, mine.sensitivity, mine.weights), ranks, n_data)
    own = {"data": mine.data} | ({"variance": mine.variance} if isinstance(mine, GaussianLikelihood) else {})
    return ShardedLikelihood(type(mine)(model=model, **own), ranks, n_data, whole)


def _of_events(whole: ListmodeLikelihood, ranks: RankGroup) -> ShardedLikelihood:
    """The share of this rank of single events; the sensitivity stays that of all bins."""
    projector = whole.model.projector
    n_events = int(projector.out_shape[0])
    k, n = (ranks.rank, min(ranks.size, n_events)) if ranks.rank < n_events else (n_events, 1)  # or none of them
    names = ("factors", "background")
    terms = {name: take_views(getattr(whole.model, name), k, n, -1) for name in names}
    local = projector.subset(k, n) if k < n_events else None
    model = replace(whole.model, projector=ShardedProjector(local, ranks, projector), **terms)
    weights = None if whole.weights is None else whole.weights[..., k::n]
    return ShardedLikelihood(ListmodeLikelihood(model, whole.sensitivity, weights), ranks, n_events)


def _of_any(whole: Any, ranks: RankGroup) -> SummedLikelihood:
    """The part of this rank of any likelihood; of fewer parts where it cannot be divided into so many."""
    for n in range(ranks.size, 1, -1):
        with suppress(ValueError):
            whole.subset(n - 1, n)
            return SummedLikelihood(whole.subset(ranks.rank, n) if ranks.rank < n else None, ranks, whole)
    return SummedLikelihood(whole if ranks.rank == 0 else None, ranks, whole)


def _double(value: Any, x: Array) -> Array:
    """A value in float64 in the library of x: all ranks sum numbers of one kind."""
    xp = array_namespace(x)
    found: Array = value.double() if is_torch(value) else xp.asarray(value, dtype=xp.float64)
    return found


def _number(value: float) -> np.ndarray:
    return np.array([value])
