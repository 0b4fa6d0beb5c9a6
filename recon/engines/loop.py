"""The loop that engines share: where one stands, how it begins, what it remembers, and passes over subsets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, as_real, is_torch, to_numpy
from emrecon.projectors.core.progress import tracked

from ..likelihoods.protocol import Likelihood, image_shape, only_seen, require_likelihood, start_image
from ..likelihoods.unexplained import read_together
from ..priors.prior import Objective, SmoothPrior
from .schedules import Order

_LOG = logging.getLogger("emrecon")

Part = TypeVar("Part")
Carried = TypeVar("Carried")
Shown = TypeVar("Shown")


@dataclass(frozen=True, eq=False)
class State(Mapping[str, Any]):
    """What an engine remembers besides the image: an engine's own class adds typed fields.

    The fields that are set can also be read by name, `state["anchor"]`: these are the names in checkpoints.
    """

    def named(self) -> dict[str, Any]:
        """Return the fields that are set, by name."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in own.items() if value is not None}

    @classmethod
    def of(cls, at: Iterate) -> Self | None:
        """Return what an iterate of this engine, or a checkpoint of one, remembers; None for an image alone.

        Raises ValueError for the iterate of another engine.
        """
        if is_image_alone(at.state):
            return None
        names = {field.name: field.default is MISSING for field in fields(cls)}
        missing = [name for name, needed in names.items() if needed and name not in at.state]
        if missing or not set(at.state) <= set(names):
            raise ValueError(
                f"start is an iterate of another engine: it remembers {', '.join(at.state)}, and this one "
                f"{', '.join(names)}; to begin anew from its image pass start.image"
            )
        return cls(**at.state)

    def __getitem__(self, name: str) -> Any:
        return self.named()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.named())

    def __len__(self) -> int:
        return len(self.named())


def is_image_alone(state: Mapping[str, Any]) -> bool:
    """Whether an iterate remembers no more than the image, and how good images were: any engine goes on from it."""
    return set(state) <= {"first", "lowest", "own"}


class Iterate(NamedTuple):
    """Where an algorithm stands: the number of passes over the data, the image, and whatever else it remembers.

    Handing an iterate back as `start` goes on exactly.
    """

    iteration: int
    image: Any
    state: Mapping[str, Any] = State()


def repeat(
    at: tuple[int, Carried],
    parts: Sequence[Part],
    order: Order,
    step: Callable[[Carried, Part], Carried],
    show: Callable[[int, Carried], Shown] = Iterate,  # type: ignore[assignment]
) -> Iterator[Shown]:
    """Yield after each pass over the parts, for ever: `x = step(x, parts[k])` for k in the order of the pass.

    Args:
        at : passes done, and what is carried from step to step, an image or more.
        show : makes of both what is yielded.
    """
    iteration, carried = at
    while True:
        with read_together():
            for k in tracked(order(iteration, len(parts)), f"iteration {iteration + 1}", len(parts)):
                carried = step(carried, parts[k])
        iteration += 1
        yield show(iteration, carried)


def begin(
    likelihood: Likelihood | Sequence[Likelihood],
    start: Array | Iterate | None,
    n_subsets: int = 1,
    iteration: int = 0,
    *,
    coefficients: bool = False,
) -> tuple[Iterate, list[Any]]:
    """Return where an engine starts and the likelihoods of its subsets, for the arguments that all engines share.

    A given list of likelihoods is taken as it is. The start is an image, an iterate to go on from, or the likelihood's
    own start image: ones where anything is seen. Voxels that none of the data see start at 0, whatever is given, unless
    the start holds `coefficients` instead of voxels.

    Raises ValueError for an image that does not fit, holds negative, NaN or infinite values or nothing but zeros, more
    subsets than views, and subsets without events; TypeError for what is not a likelihood or not an array.
    """
    if n_subsets < 1:
        raise ValueError(f"n_subsets must be at least 1, got {n_subsets}")
    given: list[Any] = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    if not given:
        raise ValueError("got an empty list of likelihoods")
    for part in given:
        if isinstance(part, Objective):
            raise TypeError(
                "this engine has no place for the prior of an Objective; give it objective.likelihood, or use an "
                "engine with a prior, such as map_em, bsrem, svrg or lbfgsb"
            )
        require_likelihood(part)
    if isinstance(start, (list, tuple)) and not isinstance(start, Iterate):
        raise TypeError("start must be an array, or an iterate to go on from; use numpy.asarray(...)?")
    if isinstance(start, Iterate):
        at = start._replace(image=as_real(start.image))
    else:
        at = Iterate(iteration, _first_image(given) if start is None else as_real(start))
    _check_start(at.image, given[0])
    whole = isinstance(likelihood, Sequence) or n_subsets == 1
    parts = given if whole else [given[0].subset(k, n_subsets) for k in range(n_subsets)]
    if any(getattr(part, "is_empty", False) for part in parts):
        raise ValueError("a subset holds no events, and would erase the image; use fewer subsets")
    return (at if coefficients else at._replace(image=_seen_start(at.image, parts))), parts


def taken_apart(likelihood: Any, prior: Any) -> tuple[Any, Any]:
    """Return the likelihood and the prior of what an engine is given: f and U, or `f + U` as one `Objective`.

    A prior beside an objective is added to the objective's own.
    """
    if not isinstance(likelihood, Objective):
        return likelihood, prior
    return likelihood.likelihood, likelihood.prior if prior is None else likelihood.prior + prior


def detached(at: Iterate) -> Iterate:
    """Return the iterate with its image cut off from autograd: no gradients pass through the engines that use it."""
    return at._replace(image=at.image.detach()) if is_torch(at.image) else at


def require_smooth(prior: object) -> None:
    """Raise TypeError for what is not a smooth prior."""
    if prior is not None and not isinstance(prior, SmoothPrior):
        raise TypeError(
            f"this engine needs a prior with a gradient (a SmoothPrior), got {type(prior).__name__}; "
            "for priors with a proximal map use pdhg or spdhg"
        )


def counts_needed(shape: Sequence[int]) -> float:
    """Return how many counts a subset needs for EM to keep the activity of images (x, y, z): one for each line along y.

    With fewer a voxel with activity meets no count in some subset, becomes 0, and stays so.
    """
    return float(shape[0] * shape[-1])


def living(iterates: Iterator[Iterate], parts: Sequence[Any], x: Array) -> Iterator[Iterate]:
    """Return the iterates of a loop over subsets that multiplies images, as long as it does not lose all activity.

    Args:
        x : where it starts.

    Raises ValueError as `require_filled`, and where the image of an item with counts has become 0 everywhere.
    """
    if len(parts) == 1 or not all(hasattr(part, "total_counts") for part in parts):
        return iterates
    require_filled(parts, x)
    return _living(iterates, parts, _counts_of_parts(parts, x))


def _living(iterates: Iterator[Iterate], parts: Sequence[Any], counts: np.ndarray) -> Iterator[Iterate]:
    total = np.sum(counts, 0)

    def check(largest: np.ndarray) -> None:
        if np.any((largest <= 0) & (total > 0)):
            raise ValueError(
                f"the image has become 0 everywhere: {len(parts)} subsets are too many for {total[total > 0].min():g} "
                "counts; use fewer, or one"
            )

    while True:
        with read_together() as together:
            iterate = next(iterates)  # an engine's loop never ends by itself
            xp = array_namespace(iterate.image)
            together.ask(xp.max(iterate.image, axis=(-3, -2, -1), keepdims=True), check)
        yield iterate


def require_filled(parts: Sequence[Any], x: Array) -> None:
    """Raise ValueError for subsets that hold no counts of an item with counts; warn in the log of those with few.

    Args:
        x : an image, whose library and shape count.
    """
    if not all(hasattr(part, "total_counts") for part in parts):
        return
    counts = _counts_of_parts(parts, x)
    counts = counts.reshape(len(parts), -1)
    counts = counts[:, counts.sum(0) > 0]
    if not counts.size:
        return
    empty = int((counts == 0).any(1).sum())
    if empty:
        raise ValueError(
            f"{empty} of {len(parts)} subsets hold no counts, and would erase the image; use fewer subsets"
        )
    needed = counts_needed(tuple(x.shape[-3:]))
    mean = counts.sum(0).min() / len(parts)
    if mean < needed:
        most = max(1, int(counts.sum(0).min() / needed))
        _LOG.warning(
            "a subset holds %.3g counts, and EM may lose activity with fewer than %g; use at most %d subset%s",
            mean,
            needed,
            most,
            "s" * (most > 1),
        )


def _counts_of_parts(parts: Sequence[Any], x: Array) -> np.ndarray:
    """The counts of every part and item, (parts, ..., 1, 1, 1) or, if more, its bins with counts; on the host."""
    found = [np.atleast_3d(np.asarray(to_numpy(part.total_counts(x)), float)) for part in parts]
    for k, part in enumerate(parts):
        data = getattr(getattr(part, "local", part), "data", None)  # of a share, or of all
        if data is not None:
            host = to_numpy(data)
            filled = (host > 0).sum(tuple(range(-len(part.model.projector.out_shape), 0)))
            filled = np.asarray(part.over_ranks(filled) if hasattr(part, "over_ranks") else filled)
            found[k] = np.maximum(found[k], np.reshape(filled, (*filled.shape, 1, 1, 1)))
    return np.stack(found)


def _first_image(parts: Sequence[Likelihood]) -> Array:
    """The start image, where any of the parts sees something."""
    image = start_image(parts[0])
    xp = array_namespace(image)
    for part in parts[1:]:
        image = xp.maximum(image, start_image(part))
    return image


def _seen_start(x: Array, parts: Sequence[Likelihood]) -> Array:
    """The start with 0 where nothing is seen; raises ValueError where nothing else is left."""
    seen = only_seen(x, parts)
    if not bool(array_namespace(seen).any(seen > 0)):
        raise ValueError("no voxel of the start is seen: do the data and the image belong together?")
    return seen


def _check_start(x: Array, likelihood: Likelihood) -> None:
    shape = image_shape(likelihood)
    if tuple(x.shape[-len(shape) :]) != shape:
        raise ValueError(f"start of shape {tuple(x.shape)} does not fit images of {shape}")
    host = to_numpy(x)
    if not (host >= 0).all() or not (host < float("inf")).all():
        raise ValueError("start must be finite and not negative: EM keeps signs and zeros")
    if host.size and not host.any():
        raise ValueError("start is zero everywhere, and would stay so: is any voxel seen?")
