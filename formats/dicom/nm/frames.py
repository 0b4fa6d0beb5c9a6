"""The frames of a tomographic file: energy window, head, rotation, gate and view of each, counted from 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ..attributes import items_of, number_of
from .given import Given
from .header import tag, whole_of
from .notes import Notes
from .vectors import OF_TOMO, vectors_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TURN = 360.0


@dataclass(frozen=True, eq=False)
class FrameTable:
    """What each frame of a file is, (frames,) integers from 0.

    Args:
        rotation : item of RotationInformationSequence.  turn : how often the head has turned before: the same, unless
            each head has rotations of its own.
        n_heads : heads, with items in DetectorInformationSequence or not.
        n_views : of each head in a rotation.
        stacked : whether one item of that sequence stands for several heads, the others being opposite.
    """

    window: np.ndarray
    head: np.ndarray
    rotation: np.ndarray
    turn: np.ndarray
    interval: np.ndarray
    slot: np.ndarray
    time: np.ndarray
    view: np.ndarray
    n_heads: int
    n_views: int
    stacked: bool


def frames_of(path: Path, header: Dataset, n_frames: int, given: Given, notes: Notes) -> FrameTable:
    """Return what the frames are; raises FormatError where the file contradicts itself."""
    vectors = vectors_of(path, header, n_frames, OF_TOMO, notes)
    outer = np.stack([np.asarray(vectors[name]) for name in ("window", "rotation", "interval", "slot", "time")])
    detector, view, n_heads, stacked = _heads(path, header, vectors["detector"], vectors["view"], outer, given, notes)
    for head in np.unique(detector):
        mine = detector == head
        first = int(view[mine].min())
        if first != 1:
            notes.add(path, f"the views of head {head} begin with {first} ({tag('AngularViewVector')}), taken as 1")
            view = np.where(mine, view - first + 1, view)
    _check_distinct(path, np.concatenate([outer, detector[None], view[None]]))
    n_views = _views_of(path, header, detector, view, outer, n_heads, given)
    window, rotation, interval, slot, time = (numbers - 1 for numbers in outer)
    turn = np.zeros_like(rotation)
    for head in np.unique(detector):
        mine = detector == head
        turn[mine] = np.searchsorted(np.unique(rotation[mine]), rotation[mine])
    return FrameTable(window, detector - 1, rotation, turn, interval, slot, time, view - 1, n_heads, n_views, stacked)


def _heads(
    path: Path,
    header: Dataset,
    detector: np.ndarray | None,
    view: np.ndarray | None,
    outer: np.ndarray,
    given: Given,
    notes: Notes,
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """The detector and view of each frame, how many heads there are, and whether one item stands for several."""
    described = len(items_of(header, "DetectorInformationSequence"))
    announced = whole_of(path, header, "NumberOfDetectors") or described or 1
    used = 0 if detector is None else len(np.unique(detector))
    groups = [np.flatnonzero((outer == group[:, None]).all(0)) for group in np.unique(outer, axis=1).T]
    n_heads = given.count("n_heads")
    why = "n_heads= was given"
    if n_heads is None:
        n_heads, why = _implied_heads(path, header, detector, view, groups, max(announced, described))
    if used > 1 and n_heads != used:
        raise FormatError(
            f"{path}: {tag('DetectorVector')} tells {used} heads apart, and there are {n_heads} (n_heads= or "
            f"{tag('NumberOfDetectors')})"
        )
    if used > 1 or n_heads == 1:
        ones = np.ones(outer.shape[1], int)
        detector = ones if detector is None else detector
        return detector, _running(outer, detector) if view is None else view, max(used, announced, 1), False
    detector, running = np.empty(outer.shape[1], int), np.empty(outer.shape[1], int)
    for group in groups:
        if group.size % n_heads:
            raise FormatError(
                f"{path}: {group.size} frames of one window and rotation cannot be those of {n_heads} heads; pass "
                f"n_heads= where {tag('NumberOfDetectors')} is wrong"
            )
        each = group.size // n_heads
        numbers = np.arange(group.size) if view is None else view[group]
        # views numbered 1 to n for every head, or on and on
        order = np.argsort(numbers, kind="stable") if len(np.unique(numbers)) == group.size else np.arange(group.size)
        detector[group[order]] = np.repeat(np.arange(n_heads) + 1, each)
        running[group[order]] = np.tile(np.arange(each) + 1, n_heads)
    notes.add(
        path,
        f"{tag('DetectorVector')} does not tell the heads apart: the views of {n_heads} heads are taken to follow each "
        f"other ({why}); pass n_heads= to say otherwise",
    )
    return detector, running, n_heads, described < n_heads


def _implied_heads(
    path: Path,
    header: Dataset,
    detector: np.ndarray | None,
    view: np.ndarray | None,
    groups: list[np.ndarray],
    announced: int,
) -> tuple[int, str]:
    """How many heads there must be, and why; for files whose vector does not tell them apart."""
    used = 0 if detector is None else len(np.unique(detector))
    if used > 1:
        return used, ""
    rotations = items_of(header, "RotationInformationSequence")
    first = rotations[0] if rotations else None
    size = max(group.size for group in groups)
    in_rotation = None if first is None else whole_of(path, first, "NumberOfFramesInRotation")
    if announced > 1:
        repeated = view is not None and len(np.unique(view[groups[0]])) * announced == groups[0].size
        if detector is None or repeated or (in_rotation and size == announced * in_rotation):
            return announced, f"{tag('NumberOfDetectors')} or the detectors described are {announced}"
        return 1, ""
    step = None if first is None else number_of(first, "AngularStep")
    if step and size % 2 == 0 and size * step > _TURN + step / 2:
        if size * step / 2 <= _TURN + step / 2:
            return 2, f"{size} views of {step:g} degrees are more than one turn, so two heads, the second opposite"
        raise FormatError(
            f"{path}: {size} views of {step:g} degrees ({tag('AngularStep')}) are {size * step / _TURN:.3g} turns; the "
            "views of several heads in a row? Pass n_heads= and start_angle=[...], or extent="
        )
    return 1, ""


def _running(outer: np.ndarray, detector: np.ndarray) -> np.ndarray:
    """The number of each frame among those of its group, in the order of the file."""
    keys = np.concatenate([outer, detector[None]])
    _, group = np.unique(keys, axis=1, return_inverse=True)
    return _counted(group.ravel())


def _counted(group: np.ndarray) -> np.ndarray:
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    running = np.empty(group.size, int)
    running[order] = np.arange(group.size) - starts + 1
    return running


def counted(vectors: list[np.ndarray]) -> np.ndarray:
    """Return the number of each frame, from 1, among those with the same entries of other vectors."""
    _, group = np.unique(np.stack(vectors), axis=1, return_inverse=True)
    return _counted(group.ravel())


def _check_distinct(path: Path, keys: np.ndarray) -> None:
    _, first, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    if first.size == keys.shape[1]:
        return
    inverse = inverse.ravel()
    second = next(i for i in range(keys.shape[1]) if first[inverse[i]] != i)
    names = ("EnergyWindowVector", "RotationVector", "TimeSlotVector", "DetectorVector", "AngularViewVector")
    raise FormatError(
        f"{path}: frames {first[inverse[second]] + 1} and {second + 1} are the same view by "
        f"{', '.join(map(tag, names))}; damaged vectors, or heads that they do not tell apart (pass n_heads=)?"
    )


def _views_of(
    path: Path,
    header: Dataset,
    detector: np.ndarray,
    view: np.ndarray,
    outer: np.ndarray,
    n_heads: int,
    given: Given,
) -> int:
    """The views of each head in a rotation, the same everywhere; raises FormatError where they are not."""
    _, sizes = np.unique(np.concatenate([outer, detector[None]]), axis=1, return_counts=True)
    n_views = int(sizes[0])
    if (sizes != n_views).any():
        raise FormatError(
            f"{path}: {sizes.min()} to {sizes.max()} views of a head in a rotation of an energy window; views are "
            f"missing, or {tag('DetectorVector')} and {tag('AngularViewVector')} are wrong"
        )
    if view.max() > n_views:
        raise FormatError(
            f"{path}: {tag('AngularViewVector')} goes up to {view.max()}, but a head has {n_views} views; frames lost?"
        )
    wanted = given.count("n_views")
    if wanted is not None:
        if wanted != n_views:
            raise FormatError(f"{path}: n_views= is {wanted}, but each head has {n_views} views in a rotation")
        return n_views
    for item in items_of(header, "RotationInformationSequence"):
        said = whole_of(path, item, "NumberOfFramesInRotation")
        if said and said not in (n_views, n_heads * n_views):
            raise FormatError(
                f"{path}: {tag('NumberOfFramesInRotation')} is {said}, but the vectors give {n_views} views of each of "
                f"{n_heads} head{'s' if n_heads > 1 else ''}; pass n_views={n_views} if the vectors are right"
            )
    return n_views
