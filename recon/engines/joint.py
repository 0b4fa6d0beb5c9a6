"""Activity and attenuation together from emission data with time of flight: MLAA and MLACF."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, as_real, device, divide_where, like, to_numpy

from ..likelihoods.joint import JointLikelihood, joint_likelihoods
from ..priors.prior import SmoothPrior
from .known_scale import KnownScale, checked_region
from .loop import Iterate, State, repeat, require_smooth
from .plain_steps import positive_root
from .schedules import Order, sequential

_LOG = logging.getLogger("emrecon")
WATER = 0.096  # 1/cm at 511 keV: where mu starts


@dataclass(frozen=True, eq=False, kw_only=True)
class JointState(State):
    """What MLAA remembers besides the activity: mu, the attenuation map in 1/cm."""

    mu: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class FactorState(State):
    """What MLACF remembers besides the activity: `factors`, exp(-l) of every line, (..., views, radial, planes)."""

    factors: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class JointOptions:
    """What `mlaa` and `mlacf` are told besides the data.

    Args:
        known : what fixes the scale, which the data leave open; None leaves it to the start and the bounds.
        body : (x, y, z) of booleans; mu is 0 outside, and lines that miss it are not attenuated (default: everywhere).
        bounds : of mu, 1/cm.
        prior : U of the activity, with a curvature, such as `beta * Quadratic()`: De Pierro's step in place of EM.
        penalty : U of mu, with a curvature.
        updates : of the activity and of the attenuation, for each subset in turn.
        without_tof : go on with data without time of flight, which do not determine both.

    Raises ValueError for bounds that are none, and numbers of updates that are negative, or all 0.
    """

    known: KnownScale | None = None
    body: Array | None = None
    bounds: tuple[float, float] = (0.0, 0.2)
    prior: SmoothPrior | None = None
    penalty: SmoothPrior | None = None
    updates: tuple[int, int] = (1, 1)
    without_tof: bool = False

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not 0 <= low < high < float("inf"):
            raise ValueError(f"bounds of mu must be two numbers of 1/cm, 0 <= low < high, got {self.bounds}")
        if min(self.updates) < 0 or max(self.updates) < 1:
            raise ValueError(f"updates must be two numbers of at least 0, one of them positive, got {self.updates}")
        known = self.known
        if known is not None and not known.is_of_activity and not low <= known.value <= high:
            raise ValueError(f"{known!r} is not within the bounds of mu, {low:g} to {high:g} /cm")
        require_smooth(self.prior)
        require_smooth(self.penalty)


class _Carried(NamedTuple):
    """The activity, mu or the factors of all lines, and how many steps still leave the first factors alone."""

    x: Array
    other: Array
    left: int = 0


class _Part(NamedTuple):
    """One subset: its likelihood, which one of how many it is, and the lengths of its lines in what may change."""

    f: JointLikelihood
    k: int
    n: int
    lengths: Array


def mlaa(
    likelihood: Any,
    start: Array | Iterate | None = None,
    mu: Array | None = None,
    n_subsets: int = 1,
    *,
    options: JointOptions | None = None,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of joint activity and attenuation reconstruction, for ever (MLAA)::

        x  <- x / A'(n a) * A'(n a y / ybar),                      a = exp(-L mu / 10),  ybar = a n A x + r
        mu <- clip(mu - grad f(mu) / curvature of f at mu)         (separable parabolas above f, as in `ostr`)

    for the subsets in turn. `iterate.image` is the activity, `iterate.state["mu"]` the attenuation map in 1/cm.

    Args:
        likelihood : of a PET sinogram with time of flight whose factors hold no attenuation: a `PoissonLikelihood`,
            `pet_problem(scan).parts`, or a `JointLikelihood`.
        start : first activity (default: ones where something is seen), or an `Iterate` to go on from, exactly.
        mu : first map, (x, y, z) in 1/cm (default: 0.096 within `options.body`, 0 without one).
        n_subsets : subsets k, k + n, ... of the views of one likelihood; a list is taken as it is.
        options : see `JointOptions`: what fixes the scale, the body, bounds and priors.
        order : in which order the subsets are visited.
        iteration : how many passes the start has behind it already.

    With one subset, and no known activity, each pass lowers f(x, mu) + priors or leaves it: the activity step is EM (or
    De Pierro's with a prior), and the parabolas of the other lie above f. With a known total or mean activity the image
    is scaled after each activity step, which moves along the direction that the data do not see.

    Raises ValueError for data without time of flight unless `options.without_tof` (a note in the log then says that
    activity and attenuation are mixed up), for starts that do not fit, and where counts are measured and none expected.

    Source: Nuyts et al. 1999, IEEE Trans Med Imaging 18:393; Rezaei et al. 2012, IEEE Trans Med Imaging 31:2224.
    """
    options = options or JointOptions()
    parts = _subsets(joint_likelihoods(likelihood), n_subsets)
    _check_tof(parts, options, "MLAA")
    _check_regions(parts, options)
    at = _activity_start(parts, start, iteration)
    known = JointState.of(at) if isinstance(start, Iterate) else None
    first = like(known.mu, at.image) if known is not None else _first_map(parts, at.image, mu, options)
    free, first = _free_voxels(parts, first, options)
    prepared = [_Part(f, k, len(parts), f.lengths_like(free)) for k, f in enumerate(parts)]
    seen = _seen(parts, at.image)

    def step(carried: _Carried, part: _Part) -> _Carried:
        x, map_, _ = carried
        for _ in range(options.updates[0]):
            x = _activity_step(x, part, part.f.survival(map_), seen, options)
        if options.updates[1]:
            p = part.f.trues(x)
            for _ in range(options.updates[1]):
                map_ = _attenuation_step(map_, p, part, free, options)
        return _Carried(x, map_)

    def show(n: int, carried: _Carried) -> Iterate:
        return Iterate(n, carried.x, JointState(mu=carried.other))

    return repeat((at.iteration, _Carried(at.image, first)), prepared, order, step, show)


def mlacf(
    likelihood: Any,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    options: JointOptions | None = None,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of joint reconstruction of activity and attenuation factors (MLACF)::

        a_i <- sum_t y_it / sum_t (n A x)_it          (with a background r: the minimiser of f, by Newton's method)
        x   <- x / A'(n a) * A'(n a y / ybar),        ybar = a n A x + r

    for the subsets in turn, a one factor for every line. `iterate.image` is the activity, `iterate.state["factors"]`
    the factors (..., views, radial, planes), which are those of water within `options.body` for the first pass;
    `attenuation_of_factors` makes a map of them.

    Args:
        likelihood, start, n_subsets, order, iteration : as in `mlaa`.
        options : see `JointOptions`; `bounds` and `penalty` are not used, and `known` must be of the activity. Of lines
            that miss `body` the factor stays 1.

    No model of the object's attenuation and no projections of it: faster than MLAA, and noisier where counts are few.
    With one subset each pass lowers f or leaves it, also with a known activity: a factor for x is one for a.

    Raises ValueError as `mlaa`, and for a known mu.

    Source: Rezaei, Defrise & Nuyts 2014, IEEE Trans Med Imaging 33:1563.
    """
    options = options or JointOptions()
    if options.known is not None and not options.known.is_of_activity:
        raise ValueError(f"mlacf has no map of mu that {options.known!r} could fix; give a total or a mean activity")
    parts = _subsets(joint_likelihoods(likelihood), n_subsets)
    _check_tof(parts, options, "MLACF")
    _check_regions(parts, options)
    at = _activity_start(parts, start, iteration)
    known = FactorState.of(at) if isinstance(start, Iterate) else None
    n_views = sum(f.lines.out_shape[0] for f in parts)
    shape = (*at.image.shape[:-3], n_views, *parts[0].lines.out_shape[1:])
    ones = array_namespace(at.image).ones(shape, dtype=at.image.dtype, device=device(at.image))
    first = like(known.factors, at.image) if known is not None else _first_factors(parts, ones, options)
    if tuple(first.shape) != shape:
        raise ValueError(f"start has factors of {tuple(first.shape)}, and the data have lines of {shape}")
    prepared = [_Part(f, k, len(parts), _lengths_in_body(f, at.image, options)) for k, f in enumerate(parts)]
    seen = _seen(parts, at.image)

    begun = len(parts) if known is None or at.iteration == 0 else 0  # steps that take the first factors as they are

    def step(carried: _Carried, part: _Part) -> _Carried:
        x, factors, left = carried
        xp = array_namespace(x)
        if options.updates[1] and left == 0:  # before the activity: old factors would pull it back to where it was
            found = part.f.best_factors(part.f.trues(x), factors[..., part.k :: part.n, :, :])
            factors = _with_views(factors, xp.where(part.lengths > 0, found, xp.ones_like(found)), part)
        before, mine = x, factors[..., part.k :: part.n, :, :]
        for _ in range(options.updates[0]):
            before = _activity_step(x, part, mine, seen, replace(options, known=None))
            x = before if options.known is None else options.known.scaled(before)
        if options.known is not None and left == 0:  # what the image gains the factors lose
            gain = xp.sum(x, axis=(-3, -2, -1), keepdims=True) / xp.sum(before, axis=(-3, -2, -1), keepdims=True)
            factors = xp.where(crossed, factors / gain, factors)
        return _Carried(x, factors, max(left - 1, 0))

    def show(n: int, carried: _Carried) -> Iterate:
        return Iterate(n, carried.x, FactorState(factors=carried.other))

    crossed = array_namespace(first).zeros_like(first)
    for part in prepared:
        crossed[..., part.k :: part.n, :, :] = part.lengths
    crossed = crossed > 0
    return repeat((at.iteration, _Carried(at.image, first, begun)), prepared, order, step, show)


def attenuation_of_factors(
    likelihood: Any,
    activity: Array,
    n_iterations: int = 20,
    *,
    mu: Array | None = None,
    options: JointOptions | None = None,
) -> Array:
    """Return the attenuation map (..., x, y, z) in 1/cm that explains the data best with a given activity.

    The activity of `mlacf` gives the map of its factors; a known activity gives that of a transmission scan with the
    patient as its source.

    Args:
        likelihood : as in `mlaa`, one or the list of subsets.
        activity : held as it is.
        mu : first map (default: as in `mlaa`).
        options : body, bounds, penalty, and a known mu.
    """
    own = replace(options or JointOptions(), updates=(0, 1), without_tof=True, known=_of_mu(options))
    iterates = mlaa(likelihood, activity, mu, options=own)
    for iterate in iterates:
        if iterate.iteration >= n_iterations:
            break
    found: Array = iterate.state["mu"]
    return found


def joint_value(likelihood: Any, iterate: Iterate, options: JointOptions | None = None) -> Array:
    """Return f, plus the priors of the options, at an iterate of `mlaa` or `mlacf`: one number for each item."""
    options, x = options or JointOptions(), iterate.image
    parts = joint_likelihoods(likelihood)
    if "mu" in iterate.state:
        mu = like(iterate.state["mu"], x)
        value = add_up(f.value(x, mu) for f in parts)
        value = value if options.penalty is None else value + options.penalty.value(mu)
    else:
        factors = like(iterate.state["factors"], x)
        value = add_up(f.value_of(f.trues(x), factors[..., k :: len(parts), :, :]) for k, f in enumerate(parts))
    return value if options.prior is None else value + options.prior.value(x)


# ---- steps -----------------------------------------------------------------------------------------------------------


def _activity_step(x: Array, part: _Part, survival: Array, seen: Array, options: JointOptions) -> Array:
    xp = array_namespace(x)
    back, sensitivity = part.f.activity_terms(part.f.trues(x), survival)
    em = x * divide_where(back, sensitivity, 1.0)
    if options.prior is not None:
        slope = options.prior.gradient(x) / part.n
        curvature = options.prior.curvature(x) / part.n
        em = positive_root(curvature, sensitivity + slope - curvature * x, sensitivity * em)
    em = xp.where(seen, em, xp.zeros_like(em))
    return em if options.known is None else options.known.scaled(em)


def _attenuation_step(mu: Array, trues: Array, part: _Part, free: Array, options: JointOptions) -> Array:
    xp = array_namespace(mu)
    gradient, curvature = (part.n * values for values in part.f.attenuation_terms(trues, mu, part.lengths))
    if options.penalty is not None:
        gradient, curvature = gradient + options.penalty.gradient(mu), curvature + options.penalty.curvature(mu)
    low, high = options.bounds
    moved = xp.clip(mu - divide_where(gradient, curvature, 0.0), min=low, max=high)
    return xp.where(free > 0, moved, mu)


def _with_views(whole: Array, mine: Array, part: _Part) -> Array:
    """The factors of all lines with those of a subset in place, as a new array: iterates keep theirs."""
    changed = array_namespace(whole).asarray(whole, copy=True)
    changed[..., part.k :: part.n, :, :] = mine
    return changed


# ---- where they start ------------------------------------------------------------------------------------------------


def _subsets(given: Sequence[JointLikelihood], n_subsets: int) -> list[JointLikelihood]:
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, got {n_subsets}")
    if len(given) > 1 or n_subsets == 1:
        return list(given)
    return [given[0].subset(k, n_subsets) for k in range(n_subsets)]


def _check_tof(parts: Sequence[JointLikelihood], options: JointOptions, who: str) -> None:
    if all(part.has_tof for part in parts):
        if options.known is None:
            _LOG.warning(
                "%s: nothing fixes the scale of the activity, which time of flight leaves open; give a KnownScale "
                "(a total, or the activity or mu of a region)",
                who,
            )
        return
    if not options.without_tof:
        raise ValueError(
            f"{who} needs data with time of flight: without it activity and attenuation are not determined together "
            "(JointOptions(without_tof=True), on the command line --without-tof, goes on all the same)"
        )
    _LOG.warning(
        "%s without time of flight: the data do not determine activity and attenuation together, and each shows up in "
        "the image of the other",
        who,
    )


def _check_regions(parts: Sequence[JointLikelihood], options: JointOptions) -> None:
    shape = tuple(parts[0].lines.in_shape)
    if options.body is not None:
        checked_region(options.body, "body", shape)
    if options.known is not None and options.known.region is not None:
        checked_region(options.known.region, repr(options.known), shape)


def _activity_start(parts: Sequence[JointLikelihood], start: Array | Iterate | None, iteration: int) -> Iterate:
    y = as_real(parts[0].emission.data)
    xp, shape = array_namespace(y), parts[0].emission.model.projector.in_shape
    if isinstance(start, Iterate):
        at = start._replace(image=as_real(start.image))
    elif start is not None:
        at = Iterate(iteration, as_real(start))
    else:
        batch = y.shape[: y.ndim - len(parts[0].emission.model.projector.out_shape)]
        at = Iterate(iteration, xp.ones((*batch, *shape), dtype=y.dtype, device=device(y)))
    host = to_numpy(at.image)
    if tuple(host.shape[-3:]) != shape:
        raise ValueError(f"start of shape {tuple(host.shape)} does not fit images of {shape}")
    if not ((host >= 0).all() and (host < float("inf")).all() and host.any()):
        raise ValueError("start must be finite, not negative and not zero everywhere: EM keeps signs and zeros")
    xp, seen = array_namespace(at.image), _seen(parts, at.image)
    return at._replace(image=xp.where(seen, at.image, xp.zeros_like(at.image)))


def _first_map(parts: Sequence[JointLikelihood], x: Array, mu: Array | None, options: JointOptions) -> Array:
    xp = array_namespace(x)
    if mu is not None:
        first = like(mu, x)
        host = to_numpy(first)
        if tuple(host.shape[-3:]) != tuple(parts[0].lines.in_shape):
            raise ValueError(f"mu of shape {tuple(host.shape)} does not fit images of {parts[0].lines.in_shape}")
        if not ((host >= 0).all() and (host < float("inf")).all()):
            raise ValueError("mu must be finite and not negative, in 1/cm")
        return xp.clip(first, min=options.bounds[0], max=options.bounds[1]) + xp.zeros_like(x)
    if options.body is None:
        return xp.zeros_like(x)
    low, high = options.bounds
    return like(options.body, x) * min(max(WATER, low), high) + xp.zeros_like(x)


def _first_factors(parts: Sequence[JointLikelihood], ones: Array, options: JointOptions) -> Array:
    """Those of a body of water; 1 without one."""
    if options.body is None:
        return ones
    xp = array_namespace(ones)
    for k, part in enumerate(parts):
        ones[..., k :: len(parts), :, :] = xp.exp(-WATER * part.lengths_like(like(options.body, ones)) / 10)
    return ones


def _free_voxels(parts: Sequence[JointLikelihood], mu: Array, options: JointOptions) -> tuple[Array, Array]:
    """Which voxels of mu may change, 1 or 0, and mu with those that may not as they are known."""
    xp = array_namespace(mu)
    free = _seen_by_lines(parts, mu)
    if options.body is not None:
        free = free & (like(options.body, mu) > 0)
    mu = xp.where(free, mu, xp.zeros_like(mu))
    held = None if options.known is None else options.known.held(mu)
    if held is not None:
        mu = xp.where(held, options.known.value + xp.zeros_like(mu), mu)  # type: ignore[union-attr]
        free = free & ~held
    return xp.astype(free, mu.dtype), mu


def _lengths_in_body(f: JointLikelihood, x: Array, options: JointOptions) -> Array:
    """The length of every line in the body; of all lines more than 0 without one."""
    if options.body is None:
        return array_namespace(x).ones(f.lines.out_shape, dtype=x.dtype, device=device(x))
    return f.lengths_like(like(options.body, x))


def _seen(parts: Sequence[JointLikelihood], x: Array) -> Array:
    """Which voxels of the activity the data see."""
    found = parts[0].emission.sensitivity_like(x) > 0
    for part in parts[1:]:
        found = found | (part.emission.sensitivity_like(x) > 0)
    return found


def _seen_by_lines(parts: Sequence[JointLikelihood], mu: Array) -> Array:
    found = parts[0].seen_like(mu)
    for part in parts[1:]:
        found = found | part.seen_like(mu)
    return found & (mu > -1)


def _of_mu(options: JointOptions | None) -> KnownScale | None:
    known = None if options is None else options.known
    return None if known is None or known.is_of_activity else known
