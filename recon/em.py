"""Expectation maximisation: one pure step, and the loops that repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from emrecon.projectors._arrays import Array, array_namespace, as_real, to_numpy

from .likelihood import ListmodeLikelihood, PoissonLikelihood

Likelihood = PoissonLikelihood | ListmodeLikelihood


class Iterate(NamedTuple):
    """Where an algorithm stands: the number of passes over the data, and the image."""

    iteration: int
    image: Any


def em_step(x: Array, likelihood: Likelihood) -> Array:
    """Return one EM update, x * A'(y / ybar) / A'1.

    x : (..., x, y, z) activity >= 0.  Returns the same shape; voxels that no line crosses keep their value.
    Raises ValueError where counts were measured but none are expected.
    Source: Shepp & Vardi 1982, eq. 2.13; Lange & Carson 1984.
    """
    sensitivity = likelihood.sensitivity_like(x)
    xp = array_namespace(x)
    seen = sensitivity > 0
    update = likelihood.model.adjoint(likelihood.ratio(x)) / xp.where(seen, sensitivity, xp.ones_like(sensitivity))
    return x * xp.where(seen, update, xp.ones_like(update))


def mlem(likelihood: Likelihood, start: Array | None = None, *, iteration: int = 0) -> Iterator[Iterate]:
    """Yield an `Iterate` after each EM update, for ever; stop by leaving the loop.

    start : first image, not negative (default: ones, in the library and on the device of the data).
    iteration : how many updates `start` has behind it already, when resuming.
    """
    return osem(likelihood, start, 1, iteration=iteration)


def osem(
    likelihood: Likelihood | Sequence[Likelihood], start: Array | None = None, n_subsets: int = 8, *, iteration: int = 0
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass over `n_subsets` subsets of the views, for ever; stop by leaving the loop.

    Subset k holds the views (of list-mode data: the events) k, k + n, ...; they are visited in this order. A list of
    likelihoods is a set of subsets of your own, in the order of visit; n_subsets is then not used.
    The loop has no memory but the image: passing the last image as `start` (and its number as `iteration`) goes on
    exactly.
    Raises ValueError for a start with negative, NaN or infinite values, or more subsets than views.
    Source: Hudson & Larkin 1994.
    """
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, got {n_subsets}")
    given = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    if not given:
        raise ValueError("osem got an empty list of likelihoods")
    x = given[0].ones_image() if start is None else as_real(start)
    _check_start(x, given[0])
    whole = isinstance(likelihood, Sequence) or n_subsets == 1
    parts = given if whole else [given[0].subset(k, n_subsets) for k in range(n_subsets)]
    if any(isinstance(part, ListmodeLikelihood) and not part.model.projector.out_shape[0] for part in parts):
        raise ValueError("a subset holds no events, and would erase the image; use fewer subsets")
    return _repeat(x, parts, iteration)


def _repeat(x: Array, parts: list[Likelihood], iteration: int) -> Iterator[Iterate]:
    while True:
        for part in parts:
            x = em_step(x, part)
        iteration += 1
        yield Iterate(iteration, x)


def _check_start(x: Array, likelihood: Likelihood) -> None:
    shape = likelihood.model.projector.in_shape
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"start of shape {tuple(x.shape)} does not fit images of {shape}")
    host = to_numpy(x)
    if not (host >= 0).all() or not (host < float("inf")).all():
        raise ValueError("start must be finite and not negative: EM keeps signs and zeros")
