"""Primal-dual algorithms for priors without gradients: PDHG, and SPDHG on random subsets of the data."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, clipped, divide_where, like, to_numpy
from emrecon.projectors.core.progress import tracked

from ..likelihoods.protocol import CountsLikelihood, image_shape, only_seen, require_counts, start_image
from ..priors.prior import Objective, ProximablePrior, ScaledProximable, SmoothPrior
from ..priors.total_variation import DualBallPrior
from .loop import Iterate, begin, detached, is_image_alone, taken_apart
from .watch import TakenBack, hand_out, has_value, total

_SAFETY = 0.999  # rho: the products of step sizes stay below what convergence needs by this factor
_FAINT = 1e-6  # lines with less of the image than this fraction of the longest take its steps: no overflow
_UNSEEN = 1e-3  # voxels with less sensitivity than this fraction of the highest take its steps: no amplified rounding


def pdhg(
    likelihood: CountsLikelihood | Objective | Sequence[CountsLikelihood],
    prior: ProximablePrior | None = None,
    start: Array | Iterate | None = None,
    *,
    iteration: int = 0,
    gamma: Array | float | None = None,
) -> Iterator[Iterate]:
    """Yield an iterate after each step that minimises f(x) + U(x) over x >= 0, for ever; stop by leaving the loop::

        x <- max(0, x - T z_ahead)
        p <- prox of S f*(p + S A x),   q <- prox of S0 U*(q + S0 K x)
        z_ahead <- 2 z - z before,      z = s + A'p + K'q

    Args:
        likelihood : a `PoissonLikelihood` or a `ListmodeLikelihood`, or a list of them, which are added up; or `f + U`.
        prior : U, any `ProximablePrior` such as `beta * TotalVariation()`, or None. Those on gradients are treated
            exactly, by the ball of their dual; any other one by its proximal map.
        start : first image, not negative (default: one EM step from a uniform image), or an `Iterate` of the same
            problem, which goes on bit for bit: its state holds "data_0", ... (the duals -y / ybar), "prior" (the dual
            q), "gradient" (z) and "ahead" (z_ahead).
        iteration : how many iterations an image as `start` has behind it already.
        gamma : 1 / the typical value of the image, the balance between dual and primal steps; a number or one for each
            item of a batch (default: from one EM step, sum x / sum x^2). Any positive value converges.

    One iteration is one projection and one back projection of all data. An image whose objective lies above the lowest
    one met by more than 1 % of the fall since the start is not handed out: the one before it is yielded again, and the
    iteration goes on from its own, `state["own"]`.

    Raises ValueError for a start that does not fit, is negative or not finite, and for counts where no line crosses the
    image and no background is expected; TypeError for a prior with a gradient only.

    Source: Chambolle & Pock 2011; step sizes of Pock & Chambolle 2011.
    """
    return _begin(likelihood, prior, 1, start, iteration, gamma, None)


def spdhg(
    likelihood: CountsLikelihood | Objective | Sequence[CountsLikelihood],
    prior: ProximablePrior | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 8,
    *,
    iteration: int = 0,
    seed: int = 0,
    gamma: Array | float | None = None,
) -> Iterator[Iterate]:
    """Yield an iterate after each epoch of stochastic PDHG, which minimises f(x) + U(x) over x >= 0; for ever.

    Each step draws one dual block: a subset of the views (of list-mode data: of the events) with probability 1 / n, or,
    where there is a prior, 1 / (2 n), and the prior with probability 1 / 2. An epoch is as many steps as visit each
    subset once on average: n, or 2 n. The steps are those of the module's `pdhg`, for the block that was drawn, with::

        S_i = gamma rho / (A_i 1),  T = min over blocks of p_i rho / (gamma A_i'1)
        S_0 = gamma rho s / |K|^2,  T_0 = p_0 rho / (gamma s),  s half the mean sensitivity of the voxels that are seen
        z_ahead = z + (the change of z) / p_i

    and rho = 0.999.

    Args:
        likelihood : as in `pdhg`; a list is a set of subsets of your own, and n_subsets is then not used.
        seed : the blocks of an epoch depend on it and on the number of the epoch alone.

    The other arguments are those of `pdhg`, and worse images are taken back as there, for which every epoch ends with a
    projection of all data. All duals are kept: as much memory as the data, twice.

    Raises ValueError as `pdhg`, and for more subsets than views.

    Source: Chambolle, Ehrhardt, Richtarik & Schonlieb 2018, SIAM J Optim 28:2783; Ehrhardt, Markiewicz & Schonlieb
    2019, Phys Med Biol 64:225019; for events Schramm & Holler 2022, Phys Med Biol 67:155020.
    """
    return _begin(likelihood, prior, n_subsets, start, iteration, gamma, seed)


@dataclass(frozen=True, eq=False)
class Duals(TakenBack):
    """The duals of each data subset and of the prior; z = s + A'p + K'q, and the same extrapolated; the objective.

    In checkpoints the duals of the data are "data_0", "data_1", ...
    """

    data: tuple[Array, ...]
    prior: Any
    gradient: Array
    ahead: Array

    def named(self) -> dict[str, Any]:
        """Return the arrays by name."""
        others = super().named()
        return {f"data_{k}": p for k, p in enumerate(others.pop("data"))} | others

    @classmethod
    def of(cls, at: Iterate) -> Duals | None:
        """Return what an iterate of this engine, or a checkpoint of one, remembers; None for an image alone."""
        if is_image_alone(at.state):
            return None
        if "ahead" not in at.state or "gradient" not in at.state:
            raise ValueError(
                f"start is an iterate of another engine: it remembers {', '.join(at.state)}; to begin anew from its "
                "image pass start.image"
            )
        data = tuple(at.state[f"data_{k}"] for k in range(sum(name.startswith("data_") for name in at.state)))
        watched = {name: at.state.get(name) for name in ("first", "lowest", "own")}
        return cls(data, at.state.get("prior"), at.state["gradient"], at.state["ahead"], **watched)


class _Problem(NamedTuple):
    """The blocks of f(x) + U(x): subsets of the data, and perhaps a prior; `stochastic` where they take turns."""

    parts: Sequence[CountsLikelihood]
    prior: Any
    dual: _Ball | _Identity | None
    stochastic: bool

    def value(self, x: Array) -> Array:
        return total(self.parts, self.prior, x)

    def with_prior(self, values: Sequence[Array | None], x: Array) -> Array | None:
        """The objective from the values of the parts."""
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        try:
            return add_up(known) if self.prior is None else add_up(known) + self.prior.value(x)
        except NotImplementedError:
            return None

    @property
    def prior_chance(self) -> float:
        return 0.5 if self.stochastic else 1.0

    @property
    def data_chance(self) -> float:
        return (1.0 if self.dual is None else 0.5) / len(self.parts) if self.stochastic else 1.0


def _begin(
    likelihood: Any, prior: Any, n_subsets: int, start: Any, iteration: int, gamma: Any, seed: int | None
) -> Iterator[Iterate]:
    f, prior = taken_apart(likelihood, prior)
    at, parts = begin(f, start, n_subsets, iteration)
    for part in parts:
        require_counts(part, "pdhg" if seed is None else "spdhg")
    at = detached(at)
    x, known = at.image, Duals.of(at)
    problem = _Problem(parts, prior, _dual_of(prior, image_shape(parts[0])), seed is not None)
    steps, sensitivity, em_image = _prepare(problem, x, gamma)
    x = em_image if start is None else x
    state = _first_state(problem, x, sensitivity) if known is None else _resumed(problem, known, x)
    return _epochs(problem, steps, Iterate(at.iteration, x, state), seed)


def _epochs(problem: _Problem, steps: _Steps, at: Iterate, seed: int | None) -> Iterator[Iterate]:
    own, is_watched = at.state.get("own"), has_value(problem.prior, at.image)
    state: Any = at.state
    x, value = at.image if own is None else like(own, at.image), None
    while True:
        if seed is None:
            x, state, value = _together(problem, steps, x, state)
        else:
            x, state = _in_turns(problem, steps, x, state, np.random.default_rng((seed, at.iteration)))
        made = Iterate(at.iteration + 1, x, state)
        at = hand_out(made, at, problem.value, value) if is_watched else made
        yield at


def _together(problem: _Problem, steps: _Steps, x: Array, state: Duals) -> tuple[Array, Duals, Array | None]:
    """One step of all blocks, and the objective where it is known: all data are projected anyway."""
    x = _descend(x, steps.image, state.ahead)
    duals, changes, values = [], [], []
    blocks = zip(problem.parts, state.data, steps.data, strict=True)
    for part, dual, step in tracked(blocks, "subsets", len(problem.parts)):
        p, change, ybar = _update_data(part, dual, step, x)
        duals.append(p)
        changes.append(change)
        values.append(_value_at(part, x, ybar))
    change, q = add_up(changes), state.prior
    if problem.dual is not None:
        q, more = problem.dual.update(q, steps.prior, x)
        change = change + more
    gradient = state.gradient + change
    return x, Duals(tuple(duals), q, gradient, gradient + change), problem.with_prior(values, x)


def _value_at(part: CountsLikelihood, x: Array, ybar: Array) -> Array | None:
    """The value of a likelihood that needs no projection for it; None where x has none."""
    try:
        return part.value_at(x, ybar) if hasattr(part, "value_at") else part.value(x)
    except ValueError:
        return None


def _in_turns(
    problem: _Problem, steps: _Steps, x: Array, state: Duals, rng: np.random.Generator
) -> tuple[Array, Duals]:
    """As many steps of random blocks as visit all data once on average."""
    q, gradient, ahead, n = state.prior, state.gradient, state.ahead, len(problem.parts)
    duals, blocks = list(state.data), n if problem.dual is None else 2 * n
    for block in tracked(rng.integers(blocks, size=blocks), "subsets"):
        x = _descend(x, steps.image, ahead)
        if block < n or problem.dual is None:
            duals[block], change, _ = _update_data(problem.parts[block], duals[block], steps.data[block], x)
        else:
            q, change = problem.dual.update(q, steps.prior, x)
        gradient = gradient + change
        ahead = gradient + change / (problem.data_chance if block < n else problem.prior_chance)
    return x, Duals(tuple(duals), q, gradient, ahead)


def _descend(x: Array, step: Array, gradient: Array) -> Array:
    return clipped(x - step * gradient, low=0)


def _update_data(part: CountsLikelihood, p: Array, step: Array, x: Array) -> tuple[Array, Array, Array]:
    """The new dual of a subset, the change of A'p, and what is expected."""
    ybar = part.model(x)
    new = _poisson_prox(p + step * ybar, step * part.counts_like(ybar))
    return new, part.model.adjoint(new - p), ybar


def _first_state(problem: _Problem, x: Array, sensitivity: Array) -> Duals:
    """The duals -y / ybar of an image, but no lower than -2, and 0 for the prior."""
    xp, data = array_namespace(x), []
    gradient = sensitivity + xp.zeros_like(x)
    for part in problem.parts:
        ybar = part.model(x)
        y = part.counts_like(ybar)
        p = -clipped(y / xp.where(ybar > 0, ybar, y / 2 + (y <= 0)), high=2)
        gradient = gradient + part.model.adjoint(p)
        data.append(p)
    return Duals(tuple(data), None if problem.dual is None else problem.dual.first(x), gradient, gradient)


def _resumed(problem: _Problem, known: Duals, x: Array) -> Duals:
    """The state of an iterate, like x; ValueError where it belongs to a problem with other blocks."""
    n, mine = len(known.data), len(problem.parts)
    if n != mine or (known.prior is not None) != (problem.dual is not None):
        raise ValueError(
            f"start has the duals of {n} subsets and {'no' if known.prior is None else 'a'} prior, this problem has "
            f"{mine} and {'no' if problem.dual is None else 'a'} prior; to start anew from its image pass start.image"
        )
    own = None if known.prior is None else like(known.prior, x)
    duals = tuple(like(p, x) for p in known.data)
    return replace(known, data=duals, prior=own, gradient=like(known.gradient, x), ahead=like(known.ahead, x))


class _Ball:
    """The dual of weight * U for U = max <p, K x> over a ball."""

    def __init__(self, prior: DualBallPrior, weight: float, shape: tuple[int, ...]) -> None:
        self.prior, self.weight, self.operator = prior, weight, prior.operator(shape)
        self.norm_bound = self.operator.norm_bound

    def first(self, x: Array) -> Array:
        return array_namespace(x).zeros_like(self.operator(x))

    def update(self, q: Array, step: Array, x: Array) -> tuple[Array, Array]:
        """The new dual, and the change of K'q."""
        new = self.prior.project(q + step[..., None, :, :, :] * self.operator(x), self.weight)
        return new, self.operator.T(new - q)


class _Identity:
    """The dual of weight * U for any U with a proximal map, by Moreau's identity; K = 1."""

    norm_bound = 1.0

    def __init__(self, prior: ProximablePrior, weight: float) -> None:
        self.prior, self.weight = prior, weight

    def first(self, x: Array) -> Array:
        return array_namespace(x).zeros_like(x)

    def update(self, q: Array, step: Array, x: Array) -> tuple[Array, Array]:
        moved = q + step * x
        steps = array_namespace(x).broadcast_to(self.weight / step, tuple(x.shape))
        new = moved - step * self.prior.prox(moved / step, steps)
        return new, new - q


class _Steps(NamedTuple):
    """T for the image, S for each data subset, S0 for the prior."""

    image: Array
    data: tuple[Array, ...]
    prior: Any


def _prepare(problem: _Problem, x: Array, given: Array | float | None) -> tuple[_Steps, Array, Array]:
    """The step sizes, the sensitivity and one EM step from a uniform image with the total of the counts."""
    xp, parts, safety = array_namespace(x), problem.parts, _SAFETY
    ones = xp.ones_like(like(start_image(parts[0]), x))
    lines = [part.model.linear(ones) for part in parts]
    seen = [part.model.adjoint(xp.ones_like(values)) for part, values in zip(parts, lines, strict=True)]
    sensitivity = add_up(
        own if part.sensitivity_has_factors else part.sensitivity_like(x) for part, own in zip(parts, seen, strict=True)
    )
    em_image = _one_em_step(parts, ones, sensitivity)
    gamma = _gamma(em_image, given)
    data = tuple(
        safety * _for_data(gamma, part) / _not_faint(own, part) for part, own in zip(parts, lines, strict=True)
    )
    widest = functools.reduce(xp.maximum if problem.stochastic else xp.add, seen)
    inverse, own = gamma / (safety * problem.data_chance) * widest, None
    if problem.dual is not None:
        level = _cast(_sum(sensitivity) / _sum(_cast(sensitivity > 0, x)), x) / 2
        own = safety * gamma * level / problem.dual.norm_bound**2
        less = gamma / (safety * problem.prior_chance) * level
        inverse = xp.maximum(inverse, less) if problem.stochastic else inverse + less
    highest = xp.max(inverse, axis=(-3, -2, -1), keepdims=True)
    steps = only_seen(1 / xp.maximum(inverse, _UNSEEN * highest), parts)  # 0 where nothing is seen
    return _Steps(steps, data, own), sensitivity, only_seen(em_image, parts)


def _one_em_step(parts: Sequence[CountsLikelihood], ones: Array, sensitivity: Array) -> Array:
    """One EM step of all data; also the check that all counts can be explained."""
    xp, total = array_namespace(ones), _sum(sensitivity)
    if not bool(xp.all(total > 0)):
        raise ValueError("no voxel is seen: the sensitivity is 0 everywhere")
    x = _cast(sum(part.total_counts(ones) for part in parts) / total * ones, ones)
    back = add_up(part.model.adjoint(part.ratio(x)) for part in parts)
    return x * divide_where(back, sensitivity, 1.0)


def _gamma(x: Array, given: Array | float | None) -> Array:
    """gamma, (..., 1, 1, 1): as it is given, or sum x / sum x^2, 1 / a mean value where the activity is."""
    if given is None:
        return _cast(divide_where(_sum(x), _sum(x * x), 1.0), x)
    if not (to_numpy(given) > 0).all():
        raise ValueError(f"gamma must be positive, got {given}")
    return like(np.asarray(to_numpy(given))[..., None, None, None], x)


def _for_data(gamma: Array, part: CountsLikelihood) -> Array:
    """gamma with as many axes as the data of a part."""
    shape = (*gamma.shape[:-3], *[1] * len(part.model.projector.out_shape))
    return array_namespace(gamma).reshape(gamma, shape)


def _not_faint(lines: Array, part: CountsLikelihood) -> Array:
    xp = array_namespace(lines)
    highest = float(xp.max(lines)) if math.prod(lines.shape) else 0.0  # a rank may hold no line of a part
    highest = part.highest(highest) if hasattr(part, "highest") else highest
    return clipped(lines, low=_FAINT * highest or 1.0)


def _poisson_prox(a: Array, b: Array) -> Array:
    """(a - sqrt(a^2 + 4 b)) / 2, without cancellation: the dual of -y log(ybar), with a = p + S ybar and b = S y."""
    xp = array_namespace(a)
    root = xp.sqrt(a * a + 4 * b)
    whole = xp.where(a > 0, a + root, xp.ones_like(a))
    return xp.where(a > 0, -2 * b / whole, (a - root) / 2)


def _dual_of(prior: object, shape: tuple[int, ...]) -> _Ball | _Identity | None:
    weight = 1.0
    while isinstance(prior, ScaledProximable):
        weight, prior = weight * prior.beta, prior.prior
    if prior is None or weight == 0:
        return None
    if isinstance(prior, DualBallPrior):
        return _Ball(prior, weight, shape)
    if isinstance(prior, ProximablePrior):
        return _Identity(prior, weight)
    advice = "it has a gradient: use an algorithm for smooth priors" if isinstance(prior, SmoothPrior) else ""
    raise TypeError(f"pdhg and spdhg take a ProximablePrior or None, got {prior!r}; {advice}".rstrip("; "))


def _sum(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.sum(x, axis=(-3, -2, -1), dtype=xp.float64, keepdims=True)


def _cast(values: Array, x: Array) -> Array:
    return array_namespace(x).astype(values, x.dtype)
