"""Ordered subsets that fit an attenuation map to a transmission scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from emrecon.projectors.core.arrays import (
    Array,
    array_namespace,
    as_real,
    device,
    divide_where,
    like,
    to_numpy,
)

from ..likelihoods.protocol import only_seen
from ..likelihoods.transmission import TransmissionLikelihood
from ..priors.prior import Objective, SmoothPrior
from .loop import Iterate, repeat, taken_apart
from .schedules import sequential
from .watch import TakenBack, taken_back


class _Part(NamedTuple):
    """One subset of the views: its likelihood, the lengths of its lines, and the constant curvatures if there are."""

    likelihood: TransmissionLikelihood
    lengths: Array
    curvature: Array | None


def ostr(
    likelihood: TransmissionLikelihood | Objective,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    penalty: SmoothPrior | None = None,
    curvature: str = "optimal",
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass over `n_subsets` subsets of the views, for ever; stop by leaving the loop.

    Args:
        likelihood : f, or `f + U`, whose prior is then the penalty.

    Minimises f(mu) + U(mu) over mu >= 0 by separable parabolas that touch the objective at the current map::

        mu <- max(0, mu - (n grad f_k + grad U) / (n A_k'(c a) / 100 + curvature of U)),   a = A_k 1

    Args:
        start : mu in 1/cm, not negative (default: zeros, in the library and on the device of the data).
        penalty : U, a prior with a curvature such as `beta * Huber(delta, neighbours=8)`; None for maximum likelihood.
        curvature : c of every bin. "optimal" is made anew for every update, the least one for which the parabolas lie
            above the objective: with n_subsets=1 it never increases. "precomputed" is (y - background)^2 / y, once for
            all: one back projection instead of two in each update, longer steps, and no guarantee.
        iteration : how many passes `start` has behind it already, when resuming.

    Passing the last iterate as `start` goes on exactly. With subsets the first passes are faster, but the maps end up
    in a small cycle around the minimum. With subsets, and with precomputed curvatures, no map is handed out that lies
    above the lowest objective met by more than 1 % of the fall since the start: the one before is, and the loop goes on
    from its own (a look at the objective after each pass, half a pass). Voxels that no line crosses are 0.

    Raises ValueError for a start with negative, NaN or infinite values, more subsets than views, unknown curvatures.

    Source: Erdogan & Fessler 1999, Phys Med Biol 44:2835 (ordered subsets), and IEEE Trans Med Imaging 18:801 (the
    parabolas).
    """
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, got {n_subsets}")
    if curvature not in ("optimal", "precomputed"):
        raise ValueError(f'curvature must be "optimal" or "precomputed", got {curvature!r}')
    f, penalty = taken_apart(likelihood, penalty)
    if isinstance(start, Iterate):
        iteration = start.iteration
    image = start.image if isinstance(start, Iterate) else start
    known = TakenBack.known(start) if isinstance(start, Iterate) else TakenBack()
    image = image if known.own is None else known.own
    mu = _zeros(f) if image is None else as_real(image)
    _check_start(mu, f)
    parts = [f] if n_subsets == 1 else [f.subset(k, n_subsets) for k in range(n_subsets)]
    prepared = [_prepared(part, mu, curvature) for part in parts]

    def step(mu: Array, part: _Part) -> Array:
        return only_seen(_step(mu, part, len(prepared), penalty), parts)

    at = (iteration, only_seen(mu, parts))
    shown = at[1] if not isinstance(start, Iterate) else only_seen(like(as_real(start.image), mu), parts)
    iterates: Iterator[Iterate] = repeat(at, prepared, sequential, step)
    falls = n_subsets == 1 and curvature == "optimal"
    return iterates if falls else taken_back(iterates, [f], Iterate(iteration, shown, known), penalty, always=True)


def _step(mu: Array, part: _Part, n: int, penalty: SmoothPrior | None) -> Array:
    xp, f = array_namespace(mu), part.likelihood
    depth = f.depth(mu)
    gradient, curvature = n * f._back(f._slope(depth)), part.curvature
    if curvature is None:
        curvature = f._back(xp.astype(f._least_curvature(depth), depth.dtype) * part.lengths)
    curvature = n * curvature
    if penalty is not None:
        gradient, curvature = gradient + penalty.gradient(mu), curvature + penalty.curvature(mu)
    return xp.maximum(mu - divide_where(gradient, curvature, 0.0), xp.zeros_like(mu))


def _prepared(likelihood: TransmissionLikelihood, mu: Array, curvature: str) -> _Part:
    lengths = likelihood.depth(array_namespace(mu).ones_like(mu))
    if curvature == "optimal":
        return _Part(likelihood, lengths, None)
    return _Part(likelihood, lengths, likelihood._back(likelihood._curvature_at_minimum(lengths) * lengths))


def _zeros(likelihood: TransmissionLikelihood) -> Array:
    y, projector = as_real(likelihood.data), likelihood.projector
    batch = y.shape[: y.ndim - len(projector.out_shape)]
    return array_namespace(y).zeros((*batch, *projector.in_shape), dtype=y.dtype, device=device(y))


def _check_start(mu: Array, likelihood: TransmissionLikelihood) -> None:
    shape = likelihood.projector.in_shape
    if tuple(mu.shape[-len(shape) :]) != shape:
        raise ValueError(f"start of shape {tuple(mu.shape)} does not fit images of {shape}")
    host = to_numpy(mu)
    if not (host >= 0).all() or not (host < float("inf")).all():
        raise ValueError("start must be finite and not negative; clip a filtered back projection at 0")
