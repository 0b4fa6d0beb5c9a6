"""Expectation maximisation: one pure step, and the loops that repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from emrecon.projectors.core.arrays import Array, array_namespace, as_real, is_torch, to_numpy

from ..likelihoods.listmode import ListmodeLikelihood
from ..likelihoods.poisson import PoissonLikelihood
from .plain_steps import plain_step
from .schedules import Order, sequential

Likelihood = PoissonLikelihood | ListmodeLikelihood


class Iterate(NamedTuple):
    """Where an algorithm stands: the number of passes over the data, the image, and whatever else it remembers.

    Handing an iterate back as `start` goes on exactly.
    """

    iteration: int
    image: Any
    state: Mapping[str, Any] = MappingProxyType({})


def em_step(x: Array, likelihood: Likelihood) -> Array:
    """Return one EM update, x * A'(y / ybar) / A'1.

    x : (..., x, y, z) activity >= 0.  Returns the same shape; voxels that no line crosses keep their value.
    torch tensors carry gradients to the image and to the factors and background of the model, twice; a step keeps one
    array of the size of the data for them.
    Raises ValueError where counts were measured but none are expected.
    Source: Shepp & Vardi 1982, eq. 2.13; Lange & Carson 1984.
    """
    if is_torch(x):
        from .autograd import em_update

        return em_update(x, likelihood)
    return plain_step(x, likelihood)


def mlem(
    likelihood: Likelihood | Sequence[Likelihood], start: Array | Iterate | None = None, *, iteration: int = 0
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each EM update, for ever; stop by leaving the loop.

    start : first image, not negative, or an `Iterate` to go on from (default: ones, in the library and on the device of
        the data).
    iteration : how many updates an image has behind it already, when resuming.
    """
    return osem(likelihood, start, 1, iteration=iteration)


def osem(
    likelihood: Likelihood | Sequence[Likelihood],
    start: Array | Iterate | None = None,
    n_subsets: int = 8,
    *,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass over `n_subsets` subsets of the views, for ever; stop by leaving the loop.

    Subset k holds the views (of list-mode data: the events) k, k + n, ... A list of likelihoods is a set of subsets of
    your own; n_subsets is then not used.
    order : in which order the subsets are visited, such as `herman_meyer`; see `recon.schedules`.
    The loop has no memory but the image: passing the last image as `start` (and its number as `iteration`), or the last
    iterate, goes on exactly.
    Raises ValueError for a start with negative, NaN or infinite values, or more subsets than views.
    Source: Hudson & Larkin 1994.
    """
    return _repeat(*begin(likelihood, start, n_subsets, iteration), order)


def _repeat(at: Iterate, parts: list[Likelihood], order: Order) -> Iterator[Iterate]:
    iteration, x, _ = at
    while True:
        for k in order(iteration, len(parts)):
            x = em_step(x, parts[k])
        iteration += 1
        yield Iterate(iteration, x)


def begin(
    likelihood: Likelihood | Sequence[Likelihood],
    start: Array | Iterate | None,
    n_subsets: int = 1,
    iteration: int = 0,
) -> tuple[Iterate, list[Likelihood]]:
    """Return where an engine starts and the likelihoods of its subsets, for the arguments that all engines share.

    A given list of likelihoods is taken as it is. The start is an image, an iterate to go on from, or ones where
    anything is seen.
    Raises ValueError for an image that does not fit, holds negative, NaN or infinite values or nothing but zeros, more
    subsets than views, and subsets without events; TypeError for what is no likelihood or no array.
    """
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, got {n_subsets}")
    given = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    if not given:
        raise ValueError("got an empty list of likelihoods")
    if not all(isinstance(part, (PoissonLikelihood, ListmodeLikelihood)) for part in given):
        raise TypeError(
            f"engines take a likelihood, or a list of them, and the prior apart; got {type(given[0]).__name__}"
        )
    if isinstance(start, (list, tuple)) and not isinstance(start, Iterate):
        raise TypeError("start must be an array, or an iterate to go on from; use numpy.asarray(...)?")
    if isinstance(start, Iterate):
        at = start._replace(image=as_real(start.image))
    else:
        at = Iterate(iteration, _ones(given) if start is None else as_real(start))
    _check_start(at.image, given[0])
    whole = isinstance(likelihood, Sequence) or n_subsets == 1
    parts = given if whole else [given[0].subset(k, n_subsets) for k in range(n_subsets)]
    if any(isinstance(part, ListmodeLikelihood) and not part.model.projector.out_shape[0] for part in parts):
        raise ValueError("a subset holds no events, and would erase the image; use fewer subsets")
    return at, parts


def _ones(parts: Sequence[Likelihood]) -> Array:
    """Ones where any of the parts sees something."""
    ones = parts[0].ones_image()
    xp = array_namespace(ones)
    for part in parts[1:]:
        ones = xp.maximum(ones, part.ones_image())
    return ones


def _check_start(x: Array, likelihood: Likelihood) -> None:
    shape = likelihood.model.projector.in_shape
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"start of shape {tuple(x.shape)} does not fit images of {shape}")
    host = to_numpy(x)
    if not (host >= 0).all() or not (host < float("inf")).all():
        raise ValueError("start must be finite and not negative: EM keeps signs and zeros")
    if host.size and not host.any():
        raise ValueError("start is zero everywhere, and would stay so")
