"""A method on a problem: its prior or kernel made, where it starts, and its iterates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from ..engines import Iterate, JointOptions, RandomOrder, osem
from ..kernels.matrix import KernelOperator, kernel_matrix
from ..priors import (
    DirectionalTotalVariation,
    Huber,
    Hyperbolic,
    LogCosh,
    MedianRoot,
    NonLocal,
    Quadratic,
    RelativeDifference,
    SmoothedTotalVariation,
    TotalVariation,
    bowsher,
    spatial_weights,
)
from ..priors.prior import SmoothPrior
from ..problem.problem import ArgumentError, Problem
from .choice import Method, Prior, PriorChoice
from .joint import JointEngine, joint_engine
from .names import either
from .table import JOINT, METHODS, ORDERS


@dataclass(frozen=True, eq=False)
class MethodEngine:
    """A method on a problem, from `at` on; `prior` and `kernel` where it has them."""

    method: Method
    problem: Problem
    at: Iterate
    prior: Prior | None = None
    kernel: KernelOperator | None = None

    def iterates(self) -> Iterator[Iterate]:
        """Return the engine's iterates from `at` on, for ever."""
        name, at = self.method.name, self.at
        more = {"osem": (), "kem": (self.kernel,)}.get(name, (self.prior,))
        start = at if at.state else at.image  # what remembers only the image takes any engine's
        parts = list(self.problem.parts)
        return METHODS[name].engine(parts, *more, start=start, iteration=at.iteration, **_order(self.method))

    def objective(self, x: Array) -> Array:
        """Return what is minimised, likelihood + prior; the likelihood alone for a prior without a value (median)."""
        likelihood = self.problem.value(x)
        try:
            return likelihood if self.prior is None else likelihood + self.prior.value(x)
        except NotImplementedError:
            return likelihood

    def __str__(self) -> str:
        title = self.method.title(self.problem.n_subsets)
        if self.kernel is not None:
            return f"{title}, {self.kernel.n_neighbours.max()} neighbours"
        return title if self.prior is None else f"{title}, {self.prior!r}"


def prepare(
    method: Method,
    problem: Problem,
    guide: np.ndarray | None = None,
    start: Array | None = None,
    at: Iterate | None = None,
    joint: JointOptions | None = None,
) -> MethodEngine | JointEngine:
    """Return a method's engine on a problem, to go on from an iterate, or to start as the table of methods says.

    Args:
        guide : (x, y, z) on the problem's grid, for methods and priors that follow one.
        start : the image to start from (default: the problem's); methods with a `first_pass` make one pass of OSEM on
            it.
        at : the iterate to go on from. Epsilon, kappa and weights that come from the first pass are found again then:
            they are the same.
        joint : what `mlaa` and `mlacf` are told besides, whose engine is a `JointEngine`.
    """
    if joint is not None and not METHODS[method.name].joint:
        raise ArgumentError("joint", f"joint is for the methods {either(JOINT)}, not for {method.name}")
    start, first, parts = problem.start if start is None else start, None, list(problem.parts)
    if METHODS[method.name].first_pass and (at is None or method.prior_needs_first):
        first = next(osem(parts, start)).image
    own, at = at, at or Iterate(0, start if first is None else first)
    prior = method.prior
    if isinstance(prior, PriorChoice):
        prior = make_prior(method, prior, problem, guide, first)
    if METHODS[method.name].joint:
        return joint_engine(method, problem, start, own, joint, prior)  # type: ignore[arg-type]  # smooth, as checked
    return MethodEngine(method, problem, at, prior, _kernel(method, problem, guide))


class Pairs(TypedDict, total=False):
    """The options of priors on pairs of neighbours."""

    neighbours: int
    voxel_size: tuple[float, float, float]
    kappa: np.ndarray


def make_prior(
    method: Method, choice: PriorChoice, problem: Problem, guide: np.ndarray | None, first: Array | None
) -> Prior:
    """Return a prior by name, times its beta.

    Args:
        guide : (x, y, z) on the grid.
        first : the image of the first pass, where `method.prior_needs_first`.
    """
    (beta, *values), size = choice.values, problem.grid.voxel_size
    if first is not None and first.ndim > 3:
        _check_batch(method, choice, guide)
    pairs = Pairs(neighbours=method.neighbours, voxel_size=size)
    if method.kappa:
        pairs["kappa"] = np.sqrt(
            sum(to_numpy(spatial_weights(part, _needed(first, "a first pass"))) ** 2 for part in problem.parts)
        )
    match choice.name:
        case "rdp":
            epsilon = values[1] if len(values) > 1 else 1e-3 * float(_needed(first, "a first pass").max())
            return beta * RelativeDifference(values[0], epsilon=epsilon, **pairs)
        case "quadratic":
            return beta * Quadratic(**pairs)
        case "log-cosh":
            return beta * LogCosh(values[0], **pairs)
        case "huber":
            return beta * Huber(values[0], **pairs)
        case "hyperbolic":
            return beta * Hyperbolic(values[0], **pairs)
        case "bowsher":
            return beta * bowsher(_needed(guide, "a guide"), int(choice.n_chosen), **pairs)
        case "smooth-tv":
            return beta * SmoothedTotalVariation(values[0], size)
        case "non-local" if len(values) == 1:
            return beta * NonLocal(delta=values[0])
        case "non-local":
            shown = to_numpy(_needed(first, "a first pass")) if guide is None else guide
            return beta * NonLocal(delta=values[0], guide=shown, width=values[1])
        case "tv":
            return beta * TotalVariation(voxel_size=size)
        case "dtv":
            return beta * DirectionalTotalVariation(_needed(guide, "a guide"), values[0] if values else None, size)
        case "median":
            return beta * MedianRoot()
    raise ValueError(f"the prior {choice.name!r} is in the table of priors, but nothing makes it")


def named_prior(choice: PriorChoice, grid: ImageGrid) -> SmoothPrior:
    """Return a prior by name on a grid, times its beta, for an image of which nothing is known yet.

    Raises ValueError for one that needs a guide, or a first image.
    """
    problem = Problem((), grid, np.zeros(grid.shape, np.float32), "PET", "", "")
    return make_prior(Method("map-em", choice), choice, problem, None, None)  # type: ignore[return-value]


def _check_batch(method: Method, choice: PriorChoice, guide: np.ndarray | None) -> None:
    """Refuse what is made from one image only; an epsilon of rdp is that of the whole batch."""
    if method.kappa:
        raise ArgumentError("kappa", "kappa is made from one image: reconstruct frames or gates one by one with it")
    if choice.name == "non-local" and len(choice.values) > 1 and guide is None:
        raise ArgumentError(
            "prior", "non-local without a guide follows one image: reconstruct frames or gates one by one with it"
        )


def _needed(image: Array | None, what: str) -> Array:
    """Return the image that a prior is made from."""
    if image is None:
        raise ValueError(f"this prior needs {what}")
    return image


def _kernel(method: Method, problem: Problem, guide: np.ndarray | None) -> KernelOperator | None:
    choice = method.kernel
    if choice is None or isinstance(choice, KernelOperator):
        return choice
    return kernel_matrix(
        _needed(guide, "a guide image"),
        problem.grid,
        n_neighbours=choice.n_neighbours,
        window=choice.window,
        sigma=choice.sigma,
    )


def _order(method: Method) -> dict[str, object]:
    """The order as the engine's keyword; nothing where it is the engine's own."""
    if method.order is None:
        return {}
    if not isinstance(method.order, str):
        return {"order": method.order}
    seed = int(method.order.partition(":")[2] or 0)
    if method.name == "spdhg":
        return {"seed": seed}
    return {"order": ORDERS.get(method.order) or RandomOrder(seed)}
