"""MLAA and MLACF on a problem: what they start from, and the two images that they find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from emrecon.projectors.core.arrays import Array, like, to_numpy

from ..engines import (
    FactorState,
    Iterate,
    JointOptions,
    JointState,
    RandomOrder,
    attenuation_of_factors,
    joint_value,
)
from ..engines.joint import WATER
from ..engines.schedules import Order
from ..likelihoods import JointLikelihood, Likelihood, PoissonLikelihood
from ..priors.prior import SmoothPrior
from ..problem.problem import ArgumentError, Problem
from .choice import Method
from .table import METHODS, ORDERS


@dataclass(frozen=True, eq=False)
class JointEngine:
    """A method that finds activity and attenuation, on a problem, from `at` on.

    Args:
        parts : the likelihoods of both, for each subset; an attenuation map of the problem is taken out of its factors
            and is where mu starts (of `mlacf`: the factors).
        options : see `JointOptions`.
    """

    method: Method
    problem: Problem
    at: Iterate
    parts: tuple[JointLikelihood, ...]
    options: JointOptions
    _shown: list[Iterate] = field(default_factory=list, init=False, repr=False)

    def iterates(self) -> Iterator[Iterate]:
        """Return the engine's iterates from `at` on, for ever; each has the map or the factors in its state."""
        found = METHODS[self.method.name].engine(
            list(self.parts), start=self.at, options=self.options, **order_of(self.method)
        )
        for iterate in found:
            self._shown[:] = [iterate]
            yield iterate

    def objective(self, x: Array) -> Array:
        """Return f(x, mu) and the priors, mu that of the last iterate (of `mlacf`: with its factors)."""
        last = self._shown[0] if self._shown else self.at
        return joint_value(list(self.parts), last._replace(image=x), self.options)

    def attenuation(self, last: Iterate) -> Array:
        """Return the attenuation map (x, y, z) in 1/cm of an iterate; of `mlacf` the one that fits its activity."""
        if "mu" in last.state:
            found: Array = last.state["mu"]
            return found
        return attenuation_of_factors(list(self.parts), last.image, mu=self.problem.mu, options=self.options)

    def __str__(self) -> str:
        said = [self.method.title(self.problem.n_subsets)]
        said += [repr(self.options.prior)] if self.options.prior is not None else []
        said += ["scale not fixed" if self.options.known is None else f"{self.options.known!r}"]
        return ", ".join(said)


def joint_engine(
    method: Method,
    problem: Problem,
    start: Array,
    at: Iterate | None = None,
    options: JointOptions | None = None,
    prior: SmoothPrior | None = None,
) -> JointEngine:
    """Return MLAA or MLACF on a problem, from a start image, or to go on from an iterate.

    Args:
        start : first activity.
        options : see `JointOptions`.
        prior : U of the activity, in place of that of the options.

    Raises ArgumentError for data without time of flight (unless the options allow them), and for a known mu of `mlacf`.
    """
    options = options or JointOptions()
    options = options if prior is None else replace(options, prior=prior)
    parts = tuple(_without_attenuation(part, problem) for part in problem.parts)
    if not options.without_tof and not all(part.has_tof for part in parts):
        raise ArgumentError(
            "method",
            f"{method.name} needs data with time of flight: without it activity and attenuation are not determined "
            "together; JointOptions(without_tof=True), on the command line --without-tof, goes on all the same",
        )
    if method.name == "mlacf" and options.known is not None and not options.known.is_of_activity:
        raise ArgumentError("known", f"mlacf has no map of mu that {options.known!r} could fix; use total or activity")
    return JointEngine(
        method, problem, at or Iterate(0, start, _first(method, problem, parts, start, options)), parts, options
    )


def order_of(method: Method) -> dict[str, Order]:
    """Return the order of the subsets as the engine's keyword; nothing where it is the engine's own."""
    if method.order is None:
        return {}
    if not isinstance(method.order, str):
        return {"order": method.order}
    return {"order": ORDERS.get(method.order) or RandomOrder(int(method.order.partition(":")[2] or 0))}


def _without_attenuation(part: Likelihood, problem: Problem) -> JointLikelihood:
    """The likelihood of both images of a part, whose factors may hold the attenuation of the problem's map."""
    try:
        joint = JointLikelihood(part)  # type: ignore[arg-type]  # which is checked
    except (TypeError, ValueError) as error:
        raise ArgumentError("method", str(error)) from error
    if problem.mu is None:
        return joint
    model = joint.emission.model
    survival = to_numpy(joint.survival(np.asarray(to_numpy(problem.mu), np.float32)))
    survival = survival[..., None, :] if joint.has_tof else survival
    plain = replace(model, factors=to_numpy(model.factors) / survival)
    return JointLikelihood(PoissonLikelihood(joint.emission.data, plain), joint.lines)


def _first(
    method: Method, problem: Problem, parts: tuple[JointLikelihood, ...], start: Array, options: JointOptions
) -> JointState | FactorState:
    """The first map, or the first factors: those of the problem's map where it has one."""
    mu = None if problem.mu is None else np.asarray(to_numpy(problem.mu), np.float32)
    if method.name == "mlaa":
        body = np.zeros(problem.grid.shape, np.float32) if options.body is None else WATER * to_numpy(options.body)
        first = body if mu is None else mu
        return JointState(mu=like(np.broadcast_to(first, start.shape), start))
    n = len(parts)
    factors = np.ones((sum(p.lines.out_shape[0] for p in parts), *parts[0].lines.out_shape[1:]), np.float32)
    if mu is None and options.body is not None:
        mu = np.asarray(WATER * to_numpy(options.body), np.float32)
    if mu is not None:
        for k, part in enumerate(parts):
            factors[k::n] = to_numpy(part.survival(mu))
    return FactorState(factors=like(np.broadcast_to(factors, (*start.shape[:-3], *factors.shape)), start))
