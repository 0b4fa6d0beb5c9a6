"""Expectation maximisation: one pure step, and the loops that repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emrecon.projectors.core.arrays import Array, is_torch, like

from ..likelihoods.protocol import Likelihood, knows_counts
from .loop import Iterate, begin, living, repeat
from .plain_steps import plain_step
from .schedules import Order, sequential
from .watch import TakenBack, taken_back


def em_step(x: Array, likelihood: Likelihood) -> Array:
    """Return one EM update, x * A'(y / ybar) / A'1, which is x - x / s * grad f(x) with the sensitivity s = A'1.

    Args:
        x : (..., x, y, z) activity >= 0.
        likelihood : of Poisson counts; for any other `Likelihood` the step is x - x / s * grad f(x), kept at 0 or
            above, which has the same fixed points but need not be monotone.

    Returns the same shape; voxels that no line crosses keep their value, which engines begin with 0.
    torch tensors carry gradients to the image and to the factors and background of the model, twice; a step keeps one
    array of the size of the data for them.

    Counts where none are expected count for nothing: their quotient y / ybar is 0, as in STIR; see `PoissonLikelihood`.

    Raises ValueError where they are many.

    Source: Shepp & Vardi 1982, eq. 2.13; Lange & Carson 1984.
    """
    if is_torch(x) and knows_counts(likelihood):
        from .autograd import em_update

        return em_update(x, likelihood)
    return plain_step(x, likelihood)


def mlem(
    likelihood: Likelihood | Sequence[Likelihood], start: Array | Iterate | None = None, *, iteration: int = 0
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each EM update, for ever; stop by leaving the loop.

    Args:
        start : first image, not negative, or an `Iterate` to go on from (default: ones, in the library and on the
            device of the data). Voxels that nothing sees (`seen_voxels`) are 0 from the start on, whatever it holds.
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

    Args:
        order : in which order the subsets are visited, such as `herman_meyer`; see `recon.schedules`.

    Voxels that nothing sees (`seen_voxels`) are 0 from the start on.
    Passing the last iterate as `start` goes on exactly; so does passing its image, and its number as `iteration`,
    unless something was taken back. An image that lies above the lowest objective met by more than 1 % of the fall
    since the start is not handed out: the one before it is yielded again, and the loop goes on from its own, which the
    iterate's state holds as "own" beside the "first" and "lowest" objective. Passes are looked at, for half a pass more
    each, where they may rise: with subsets of fewer than five views, or ten events for each line of voxels along y, and
    from a start (`iteration` 0) that is better than what the subsets end up with.

    A subset with few counts sets voxels with activity to 0, and they stay so: the log warns where one holds less than
    a count for each line of voxels along y.

    Raises ValueError for a start with negative, NaN or infinite values, more subsets than views, subsets without
    counts, and where the image has become 0 for that reason.

    Source: Hudson & Larkin 1994.
    """
    at, parts = begin(likelihood, start, n_subsets, iteration)
    known = TakenBack.known(at)
    x = at.image if known.own is None else like(known.own, at.image)
    iterates = living(repeat((at.iteration, x), parts, order, em_step), parts, x)
    return taken_back(iterates, parts, at._replace(state=known))
