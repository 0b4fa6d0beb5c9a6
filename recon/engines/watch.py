"""What keeps engines from rising: a look at the objective before an image is handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, device, is_torch, like

from ..likelihoods.listmode import ListmodeLikelihood
from ..likelihoods.protocol import image_shape, knows_counts, sensitivity_like
from ..likelihoods.unexplained import read_together
from .loop import Iterate, State, counts_needed, is_image_alone

_RISE = 0.01  # of the fall since the start: so far above the lowest objective met an image may lie
_NOISE = 1e-7  # of the objective: what float32 cannot tell
_STILL = 1e-3  # of the expected counts: what changes less is not looked at
_FEW_VIEWS = 5  # of a subset: with as many, passes of EM over subsets do not rise
_FEW_EVENTS = 10  # of a subset, for each line of voxels along y: the same
_NEAR = 0.2  # of the expected counts: a first pass that changes less began near the solution


class Watch(NamedTuple):
    """The objective at the start and the lowest that was met, one number for each item of a batch.

    An image is worse where its objective is above  lowest + 0.01 (first - lowest)  by more than float32 can tell.
    """

    first: Array
    lowest: Array

    @classmethod
    def resumed(cls, value: Array, first: Array | None, lowest: Array | None) -> Watch:
        """Return what an iterate remembers, or begin at a value where it remembers nothing."""
        if first is None or lowest is None:
            return cls(value, value)
        return cls(like(first, value), like(lowest, value))

    def met(self, value: Array) -> Watch:
        """Return the watch after an image of this value was accepted."""
        return Watch(self.first, array_namespace(value).minimum(self.lowest, value))

    def look(self, objective: Callable[[Array], Array], x: Array, before: Array, scale: Array) -> tuple[Array, Watch]:
        """Return which items are worse, as booleans (..., 1, 1, 1), and the watch after this look.

        Args:
            objective : of an image, one number for each item; a ValueError says that it has no bound.
            before : the image that x was made from.
            scale : the sensitivity s. Items whose sum(s |x - before|) is below 1e-3 of sum(s before) are taken as they
                are; where there are no others the objective is not asked.
        """
        xp, axes = array_namespace(x), (-3, -2, -1)
        change = xp.sum(scale * xp.abs(x - before), axis=axes, keepdims=True)
        far = change > _STILL * xp.sum(scale * before, axis=axes, keepdims=True)
        if not bool(xp.any(far)):
            return far, self
        try:
            value = objective(x)
        except ValueError:
            return far, self
        worse = far & self.worse(value)
        met = (far & ~worse)[..., 0, 0, 0]
        return worse, Watch(self.first, xp.where(met, xp.minimum(value, self.lowest), self.lowest))

    def worse(self, value: Array) -> Array:
        """Which items' objectives are too high, as booleans (..., 1, 1, 1); one that is not a number is."""
        fall = array_namespace(value).maximum(self.first - self.lowest, 0 * self.lowest)
        return ~(value <= self.lowest + _RISE * fall + _NOISE * abs(self.lowest))[..., None, None, None]


def is_worse(now: Array, before: Array) -> Array:
    """Which items' objectives have risen, as booleans (..., 1, 1, 1)."""
    return ~(now <= before + _NOISE * abs(before))[..., None, None, None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Watched(State):
    """What is remembered of the objective: that of the start, and the lowest that was met."""

    first: Array | None = None
    lowest: Array | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class TakenBack(Watched):
    """What EM over few views remembers: `own` is the image it goes on from, where another one was handed out."""

    own: Array | None = None

    @classmethod
    def known(cls, at: Iterate) -> TakenBack:
        """Return what an iterate remembers; nothing, where it is an image alone or another engine made it."""
        return cls(**at.state) if is_image_alone(at.state) else cls()


def hand_out(made: Iterate, before: Iterate, value: Callable[[Array], Array], now: Array | None = None) -> Iterate:
    """Return what an engine made, with the image that it handed out before in place of a worse one.

    Args:
        made : its state is a `Watched`, or empty.
        before : the iterate that was handed out before, or the start.
        value : the objective of an image, one number for each item; a ValueError says that it has none. Such an image
            is worse than any; where the start has none the watch begins at the image after it.
            In a batch an image of which one item has none is worse for all items.
        now : the objective of what was made, if it is known.
    """
    watch, x, xp = _watch(before, value), made.image, array_namespace(made.image)
    if watch is None:
        return made
    now = _value(value, x) if now is None else _number(now, x)
    worse = xp.ones_like(x[..., :1, :1, :1]) > 0 if now is None else watch.worse(now)
    if now is not None:
        watch = Watch(watch.first, xp.where(worse[..., 0, 0, 0], watch.lowest, xp.minimum(now, watch.lowest)))
    state = made.state if isinstance(made.state, Watched) else TakenBack()
    own = {"own": x if bool(xp.any(worse)) else None} if hasattr(state, "own") else {}
    return Iterate(made.iteration, xp.where(worse, before.image, x), replace(state, **watch._asdict(), **own))


def taken_back(
    iterates: Iterator[Iterate], parts: Sequence[Any], before: Iterate, prior: Any = None, *, always: bool = False
) -> Iterator[Iterate]:
    """Return the iterates of EM over subsets, with `hand_out` where passes may rise.

    That is with small subsets (`may_rise`), and from a start that is so near the solution that the first pass changes
    less than a fifth of what is expected and does not lower the objective. Other passes are not looked at.

    Args:
        before : the iterate to go on from, or the start.
        prior : U of f + U; where it has no value nothing is watched.
        always : also with subsets of any size, or one.
    """
    value = partial(total, parts, prior)
    if not has_value(prior, before.image):
        return iterates
    if always or may_rise(parts) or before.state:
        return _taken_back(iterates, before, value)
    if len(parts) == 1 or before.iteration:
        return iterates
    return _begun(iterates, before, value, partial(_change, parts))


def _taken_back(iterates: Iterator[Iterate], before: Iterate, value: Callable[[Array], Array]) -> Iterator[Iterate]:
    for iterate in iterates:
        before = hand_out(iterate, before, value)
        yield before


def _begun(
    iterates: Iterator[Iterate],
    start: Iterate,
    value: Callable[[Array], Array],
    change: Callable[[Array, Array], Array],
) -> Iterator[Iterate]:
    """Watch where the first pass makes a start worse that is better than any image of the engine's cycle."""
    first = next(iterates)
    if not bool(array_namespace(first.image).any(change(first.image, start.image) < _NEAR)):
        yield first
        yield from iterates
        return
    made = hand_out(first, start, value)
    risen = "lowest" in made.state and bool((~(made.state["lowest"] < made.state["first"])).any())
    yield made if risen else first
    yield from _taken_back(iterates, made, value) if risen else iterates


def _change(parts: Sequence[Any], x: Array, before: Array) -> Array:
    """By how much of what is expected images differ, one number for each item."""
    xp, axes = array_namespace(x), (-3, -2, -1)
    scale = add_up(sensitivity_like(part, x) for part in parts)
    change: Array = xp.sum(scale * xp.abs(x - before), axis=axes) / xp.sum(scale * before, axis=axes)
    return change


def total(parts: Sequence[Any], prior: Any, x: Array) -> Array:
    """Return f(x) + U(x), one number for each item."""
    with read_together():
        value = add_up(part.value(x) for part in parts)
    return value if prior is None else value + prior.value(x)


def may_rise(parts: Sequence[Any]) -> bool:
    """Whether passes of EM over these parts may raise f: they hold few views or events, or are of a kind not known."""
    if not all(knows_counts(part) for part in parts):
        return True
    if len(parts) == 1:
        return False
    views = min(getattr(part, "n_data", part.model.projector.out_shape[0]) for part in parts)  # of all ranks
    if isinstance(getattr(parts[0], "local", parts[0]), ListmodeLikelihood):
        return bool(views < _FEW_EVENTS * counts_needed(image_shape(parts[0])))
    return bool(views < _FEW_VIEWS)


def _watch(before: Iterate, value: Callable[[Array], Array]) -> Watch | None:
    """The watch of an iterate, or one that begins there; None where there is no objective."""
    first, lowest = before.state.get("first"), before.state.get("lowest")
    if first is not None and lowest is not None:
        return Watch(_number(first, before.image), _number(lowest, before.image))
    begun = _value(value, before.image)
    return None if begun is None else Watch(begun, begun)


def _value(value: Callable[[Array], Array], x: Array) -> Array | None:
    """The objective, cut off from autograd; None where an image has none."""
    try:
        return _number(value(x.detach() if is_torch(x) else x), x)
    except ValueError:
        return None


def _number(value: Any, x: Array) -> Array:
    """One number for each item, in float64, in the library and on the device of x."""
    xp = array_namespace(x)
    return xp.asarray(value.detach() if is_torch(value) else value, dtype=xp.float64, device=device(x))


def has_value(prior: Any, x: Array) -> bool:
    """Whether U(x) is known: a median root prior has none."""
    try:
        return prior is None or prior.value(x) is not None
    except (NotImplementedError, AttributeError):
        return False
