"""Quasi-Newton engines: a preconditioned L-BFGS with bounds that follows the array, and SciPy's as a reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, like, to_numpy

from ..likelihoods.protocol import Likelihood, image_shape, only_seen, seen_like, sensitivity_like, value_and_gradient
from ..priors.prior import Objective, SmoothPrior
from .loop import Iterate, State, begin, detached, require_smooth, taken_apart
from .schedules import Preconditioner, PriorAware

_SUFFICIENT = 1e-4  # of the fall that the slope promises (Armijo)
_SHORTER = 20  # how often a step is halved before the engine gives up


@dataclass(frozen=True, eq=False)
class Curved(State):
    """What L-BFGS remembers: the root of the preconditioner, and the last changes of image and gradient."""

    root: Array
    moves: Sequence[Array]
    turns: Sequence[Array]


def lbfgsb(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    *,
    memory: int = 10,
    preconditioner: Preconditioner = PriorAware(floor=0.01),
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each step of a projected, preconditioned L-BFGS, for ever; stop by leaving the loop.

    Args:
        likelihood, prior : f and U, smooth, or None; or `f + U` alone.

    Minimises f + U over x >= 0, on any array library. Voxels that are 0 and would go below stay; the others take the
    step  -D^1/2 H D^1/2 g, H from the last `memory` changes of image and gradient in the variables x / sqrt(D), halved
    until the objective falls (every try costs a pass over the data). D is that of the start.
    Every item of a batch goes its own way. Where no step helps any more (float32 has no more digits) the image stays.
    An iterate remembers the changes; handed back as `start`, it goes on exactly.

    Source: Liu & Nocedal 1989; Bertsekas 1982 (the projection); Tsai et al. 2018 (the preconditioner, for PET).
    """
    if memory < 1 or memory != int(memory):
        raise ValueError(f"lbfgsb memory must be a whole number, at least 1, got {memory}")
    f, prior = taken_apart(likelihood, prior)
    at, parts = begin(f, start, 1, iteration)
    return _lbfgsb(detached(at), _Smooth(parts, prior), memory, preconditioner)


def lbfgsb_scipy(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    *,
    n_iterations: int = 200,
    tolerance: float = 1e-9,
    preconditioner: Preconditioner = PriorAware(floor=0.01),
) -> np.ndarray:
    """Return the minimiser of f + U over x >= 0 that SciPy's L-BFGS-B finds in the variables x / sqrt(D).

    The reference for tests and benchmarks: one image, in float64 on the host.

    Args:
        tolerance : on the relative fall of the objective.

    Raises RuntimeError where SciPy gives up.

    Source: Byrd, Lu, Nocedal & Zhu 1995.
    """
    f, prior = taken_apart(likelihood, prior)
    at, parts = begin(f, start)
    problem = _Smooth(parts, prior)
    if at.image.ndim > len(image_shape(parts[0])):
        raise ValueError(f"lbfgsb_scipy finds one image, not a batch of shape {tuple(at.image.shape)}; loop over it")
    x = to_numpy(at.image).astype(np.float64)
    root = np.sqrt(np.maximum(problem.diagonal(x, preconditioner), 1e-30))

    def objective(u: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(u.reshape(x.shape) * root)
        return float(value), np.ravel(gradient * root)

    options = {"maxiter": n_iterations, "maxfun": 2 * n_iterations, "maxcor": 20, "ftol": tolerance, "gtol": 0.0}
    seen = np.broadcast_to(seen_like(parts, x), x.shape)
    bounds = scipy.optimize.Bounds(0.0, np.where(seen, np.inf, 0.0).ravel())
    found = scipy.optimize.minimize(
        objective, (x / root).ravel(), jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    if not np.isfinite(found.fun) or found.status == 2:
        raise RuntimeError(f"SciPy's L-BFGS-B gave up: {found.message}")
    image: np.ndarray = found.x.reshape(x.shape) * root
    return image


@dataclass(frozen=True, eq=False)
class _Smooth:
    """f + U of all the data."""

    parts: list[Likelihood]
    prior: SmoothPrior | None

    def __post_init__(self) -> None:
        require_smooth(self.prior)

    def value_and_gradient(self, x: Array) -> tuple[Array, Array]:
        values, gradients = zip(*(value_and_gradient(part, x) for part in self.parts), strict=True)
        value, gradient = sum(values), sum(gradients)
        if self.prior is None:
            return value, gradient
        return value + self.prior.value(x), gradient + self.prior.gradient(x)

    def diagonal(self, x: Array, preconditioner: Preconditioner) -> Array:
        """D, 0 in the voxels that nothing sees, which stay at 0 then."""
        sensitivity = add_up(sensitivity_like(part, x) for part in self.parts)
        return only_seen(preconditioner(x, sensitivity, self.prior), self.parts)


def _lbfgsb(at: Iterate, problem: _Smooth, memory: int, preconditioner: Preconditioner) -> Iterator[Iterate]:
    iteration, x = at.iteration, at.image
    xp = array_namespace(x)
    state = Curved.of(at)
    root = xp.sqrt(problem.diagonal(x, preconditioner)) if state is None else like(state.root, x)
    moves = [like(s, x) for s in ([] if state is None else state.moves)]
    turns = [like(t, x) for t in ([] if state is None else state.turns)]
    value, slope = problem.value_and_gradient(x)
    while True:
        bound = (x <= 0) & (slope > 0)
        free = xp.where(bound, xp.zeros_like(x), xp.ones_like(x))
        step = -root * free * _inverse(root * slope * free, [m * free for m in moves], [t * free for t in turns])
        uphill = _dot(step, slope) >= 0
        step = xp.where(uphill, -root * root * free * slope, step)
        there = _search(problem, x, value, slope, step)
        moves = [*moves, (there[0] - x) / _safe(root)][-memory:]
        turns = [*turns, (there[2] - slope) * root][-memory:]
        x, value, slope = there
        iteration += 1
        yield Iterate(iteration, x, Curved(root, tuple(moves), tuple(turns)))


def _inverse(slope: Array, moves: list[Array], turns: list[Array]) -> Array:
    """Return H g by the two loops; pairs without positive curvature count for nothing."""
    xp, found = array_namespace(slope), list[tuple[Array, ...]]()
    scale: Array = xp.ones_like(_dot(slope, slope))
    for move, turn in zip(reversed(moves), reversed(turns), strict=True):
        along = _dot(move, turn)
        good = along > 1e-10 * xp.sqrt(_dot(move, move) * _dot(turn, turn))
        rho = xp.where(good, 1 / xp.where(good, along, xp.ones_like(along)), xp.zeros_like(along))
        if not found:
            scale = xp.where(good, along / _safe(_dot(turn, turn)), scale)
        alpha = rho * _dot(move, slope)
        slope = slope - alpha * turn
        found.append((move, turn, rho, alpha))
    slope = scale * slope
    for move, turn, rho, alpha in reversed(found):
        slope = slope + (alpha - rho * _dot(turn, slope)) * move
    return slope


def _search(problem: _Smooth, x: Array, value: Array, slope: Array, step: Array) -> tuple[Array, Array, Array]:
    """Return image, value and gradient after the longest of the steps 1, 1/2, ... that lowers each item's objective."""
    xp, size = array_namespace(x), 1.0
    best, settled = (x, value, slope), xp.zeros_like(_dot(x, x)) > 0
    for _ in range(_SHORTER):
        trial = xp.maximum(x + size * step, xp.zeros_like(x))
        try:
            new_value, new_slope = problem.value_and_gradient(trial)
        except ValueError:  # counts that this image does not explain at all: its objective has no bound
            size /= 2
            continue
        promised = _SUFFICIENT * _dot(slope, trial - x)[..., 0, 0, 0]
        enough = (new_value <= value + promised)[..., None, None, None] & ~settled
        best = (
            xp.where(enough, trial, best[0]),
            xp.where(enough[..., 0, 0, 0], new_value, best[1]),
            xp.where(enough, new_slope, best[2]),
        )
        settled = settled | enough
        if bool(xp.all(settled)):
            break
        size /= 2
    return best


def _dot(a: Array, b: Array) -> Array:
    """The inner product of each item, (..., 1, 1, 1)."""
    xp = array_namespace(a)
    return xp.sum(a * b, axis=(-3, -2, -1), keepdims=True)


def _safe(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.where(x > 0, x, xp.ones_like(x))
