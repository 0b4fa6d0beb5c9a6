"""EM stopped early: how the noise of the data comes through the iterations, to first order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, divide_where, dtype_name, like

from ..engines.em import em_step
from ..engines.loop import Iterate, begin
from ..engines.schedules import Order, sequential
from ..likelihoods.protocol import CountsLikelihood, require_counts, sensitivity_like
from .linearised import LinearisedEstimate

COUNTS = ("expected", "measured")


@dataclass(frozen=True, eq=False, init=False)
class IteratedEstimate(LinearisedEstimate):
    """The image of OSEM (MLEM for one subset) after some passes, linearised in the noise of the counts.

    Every update x -> x A'(y / ybar) / s of a subset carries a change of its image and of its counts on::

        dx <- (x_next / x) dx - (x / s) A'( y / ybar^2 A dx ) + (x / s) A'( dy / ybar )

    from dx = 0 at the start: dx = J dy after the last, and Cov(x) = J Cov(y) J' with Cov(y) = diag(y), or what the last
    image makes expected. J and J' are these updates forth and back; a product with Cov(x) takes as long as four
    reconstructions.

    Args:
        likelihood, start, n_subsets, order : as in `recon.osem`; of Poisson counts or events.
        n_iterations : passes over the data.
        counts : "expected" takes ybar of the last image for the variance of a bin, "measured" the counts themselves, as
            always for events.

    It runs the reconstruction first, and keeps its image before every update. `image` is the result.

    Raises TypeError for likelihoods of other data, ValueError as `osem` and for numbers that make no sense.

    Source: Barrett, Wilson & Tsui 1994; Qi 2003; Polson et al. 2025 (regions by the transposed updates).
    """

    parts: tuple[Any, ...]
    updates: tuple[int, ...]
    before: tuple[Array, ...] = field(repr=False)
    image: Array
    counts: str

    def __init__(
        self,
        likelihood: CountsLikelihood | Sequence[CountsLikelihood],
        start: Array | Iterate | None = None,
        n_subsets: int = 8,
        n_iterations: int = 4,
        *,
        order: Order = sequential,
        counts: str = "expected",
    ) -> None:
        if counts not in COUNTS:
            raise ValueError(f"unknown counts {counts!r}; choose from {', '.join(COUNTS)}")
        if n_iterations < 1 or n_iterations != int(n_iterations):
            raise ValueError(f"n_iterations must be a whole number, at least 1, got {n_iterations}")
        at, parts = begin(likelihood, start, n_subsets)
        for part in parts:
            require_counts(part, "the uncertainty of OSEM")
        x, before, updates = at.image, [], []
        for iteration in range(at.iteration, at.iteration + int(n_iterations)):
            for k in order(iteration, len(parts)):
                before.append(x)
                updates.append(k)
                x = em_step(x, parts[k])
        for name, value in (
            ("parts", tuple(parts)),
            ("updates", tuple(updates)),
            ("before", tuple(before)),
            ("image", x),
            ("counts", counts),
        ):
            object.__setattr__(self, name, value)

    @property
    def free(self) -> Array:
        """The voxels that are not 0."""
        return self.image > 0

    @property
    def bins(self) -> int:
        return sum(math.prod(variance.shape) for variance in self._variances)

    @cached_property
    def _variances(self) -> tuple[Array, ...]:
        """Var(y) of every subset's bins."""
        found = []
        for part in self.parts:
            ybar = part.model(self.image)
            measured = self.counts == "measured" or not part.sensitivity_has_factors
            found.append(part.counts_like(ybar) + 0 * ybar if measured else ybar)
        return tuple(found)

    def covariance_vector(self, v: Array) -> Array:
        return self._forth([variance * u for variance, u in zip(self._variances, self._back(v), strict=True)])

    def inner_products(self, v: Array) -> Array:
        xp, found = array_namespace(self.image), []
        for part, variance, u in zip(self.parts, self._variances, self._back(v), strict=True):
            axes = tuple(range(-len(part.model.projector.out_shape), 0))
            rows = [xp.sum(variance * u * u[k : k + 1, ...], axis=axes, dtype=xp.float64) for k in range(u.shape[0])]
            found.append(xp.moveaxis(xp.stack(rows), (0, 1), (-2, -1)))
        return add_up(found)

    def samples(self, n: int, generator: np.random.Generator) -> Array:
        """Return n drawings of J dy, dy normal with the variances of the counts."""
        xp, drawn = array_namespace(self.image), []
        for variance in self._variances:
            normal = generator.standard_normal((n, *variance.shape), np.dtype(dtype_name(variance)))
            drawn.append(xp.sqrt(variance) * like(normal, variance))
        return self._forth(drawn)

    def _forth(self, changes: Sequence[Array]) -> Array:
        """J dy, dy given for every subset, (K, ``*views``)."""
        xp = array_namespace(self.image)
        d = xp.zeros((changes[0].shape[0], *self.image.shape), dtype=self.image.dtype, device=self.image.device)
        for k, growth, ratio, slope, inverse in self._steps():
            model = self.parts[k].model
            d = growth * d + ratio * model.adjoint(changes[k] * inverse - slope * model.linear(d))
        return d

    def _back(self, v: Array) -> list[Array]:
        """J' v for every subset."""
        found: list[Any] = [None] * len(self.parts)
        for k, growth, ratio, slope, inverse in reversed(self._steps()):
            model = self.parts[k].model
            seen = model.linear(ratio * v)
            found[k] = inverse * seen if found[k] is None else found[k] + inverse * seen
            v = growth * v - model.adjoint(slope * seen)
        return found

    def _steps(self) -> _Steps:
        return _Steps(self)


class _Steps(Sequence[tuple[int, Array, Array, Array, Array]]):
    """For every update: its subset, x_next / x, x / s, y / ybar^2 and 1 / ybar; made when they are asked for."""

    def __init__(self, estimate: IteratedEstimate) -> None:
        self.estimate = estimate

    def __len__(self) -> int:
        return len(self.estimate.updates)

    def __getitem__(self, i: Any) -> Any:
        estimate = self.estimate
        k, x = estimate.updates[i], estimate.before[i]
        following = estimate.before[i + 1] if i + 1 < len(estimate.before) else estimate.image
        part = estimate.parts[k]
        _, slope = part.ratio_and_slope(x)
        ybar = part.model(x)
        xp = array_namespace(ybar)
        s = sensitivity_like(part, x)
        ratio = xp.where(s > 0, divide_where(x, s, 0.0), xp.zeros_like(x))
        growth = xp.where(s > 0, divide_where(following, x, 0.0), xp.ones_like(x))
        return k, growth, ratio, slope, divide_where(xp.ones_like(ybar), ybar, 0.0)
