"""When dynamic and gated scans were measured: frames, gates, and which events belong to them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from ..core.grid import FrozenArrays
from ..pet.sinogram import PETSinogram
from ..physics.nuclides import isotope

_MOST = 100_000
# possessive, so that a wrong protocol is refused in one go over it
_PROTOCOL = re.compile(r"(?:(\d++)\s*+[xX*]\s*+)?(\d++(?:\.\d*+)?|\.\d++)\s*+s?")
_OVERLAP = 1e-6  # s that frames may overlap by: sums of durations are rounded


@dataclass(frozen=True, eq=False)
class Frames(FrozenArrays):
    """The time frames of a dynamic scan, in order; gaps between them are allowed.

    Args:
        starts : (F,) s from the start of the clock (the first time tag, or the injection).
        durations : (F,) s.

    Raises ValueError for durations that are not positive, and frames that overlap or are not in order.
    """

    starts: np.ndarray
    durations: np.ndarray

    def __post_init__(self) -> None:
        for name in ("starts", "durations"):
            object.__setattr__(self, name, _numbers(getattr(self, name), f"Frames {name} (s)"))
        if self.starts.size != self.durations.size:
            raise ValueError(
                f"Frames needs as many durations as starts, got {self.starts.size} starts and "
                f"{self.durations.size} durations"
            )
        if self.durations.min() <= 0:
            raise ValueError(f"Frames durations must be positive seconds, the shortest is {self.durations.min():g}")
        overlap = self.ends[:-1] - self.starts[1:]
        if np.any(overlap > _OVERLAP):
            i = int(np.argmax(overlap))
            raise ValueError(
                f"frame {i} ends at {self.ends[i]:g} s, after frame {i + 1} starts at {self.starts[i + 1]:g} s; "
                "are frames out of order, or durations not in seconds?"
            )

    @classmethod
    def from_durations(cls, durations: ArrayLike, start: float = 0.0) -> Self:
        """Return frames that follow each other without gaps from `start` s."""
        durations = _numbers(durations, "Frames durations (s)")
        return cls(np.cumsum([start, *durations[:-1]]), durations)

    @classmethod
    def parse(cls, protocol: str, start: float = 0.0) -> Self:
        """Return the frames of a protocol such as "10x10,5x60,300": ten of 10 s, five of 60 s, one of 300 s.

        Raises ValueError for anything else.
        """
        durations: list[float] = []
        for part in protocol.split(","):
            found = _PROTOCOL.fullmatch(part.strip())
            times = int(found[1] or 1) if found and len(found[1] or "") < 10 else 0
            if not found or len(durations) + times > _MOST:
                most = f", at most {_MOST} frames" if found else ""
                raise ValueError(
                    f'a protocol must look like "10x10,5x60,300" (frames x seconds){most}, got {protocol!r}'
                )
            durations += [float(found[2])] * times
        return cls.from_durations(durations, start)

    @property
    def ends(self) -> np.ndarray:
        """The ends of the frames in s, (F,)."""
        return self.starts + self.durations

    @property
    def middle(self) -> np.ndarray:
        """The middle of the frames in s, (F,)."""
        return self.starts + self.durations / 2

    def index_of(self, times: ArrayLike) -> np.ndarray:
        """Return the frame of every time, -1 outside of all; a frame holds its start and not its end."""
        times = np.asarray(times, float)
        index = np.searchsorted(self.starts, times, side="right") - 1
        following = np.append(self.starts[1:], np.inf)
        ends = np.where(following - self.ends <= _OVERLAP, following, self.ends)
        return np.where((index >= 0) & (times < ends[index]), index, -1)

    def merge(self, sizes: Sequence[int] | int) -> Frames:
        """Return frames that join `sizes` neighbours each: one number for all, or a list with the sum F.

        Raises ValueError where sizes do not add up, or a gap would be joined.
        """
        each = [sizes] * (len(self) // sizes) if isinstance(sizes, int) and sizes > 0 else sizes
        if isinstance(each, int) or sum(each) != len(self) or min(each) < 1:
            raise ValueError(f"{len(self)} frames cannot be joined in groups of {sizes}")
        last = np.cumsum(each) - 1
        first = last - np.asarray(each) + 1
        gaps = self.starts[1:] - self.ends[:-1] > _OVERLAP
        inside = np.setdiff1d(np.flatnonzero(gaps), last)
        if inside.size:
            raise ValueError(f"frames {inside[0]} and {inside[0] + 1} have a gap between them and cannot be joined")
        return Frames(self.starts[first], self.ends[last] - self.starts[first])

    def __len__(self) -> int:
        return int(self.starts.size)

    def __getitem__(self, part: slice) -> Frames:
        return Frames(self.starts[part], self.durations[part])

    def __str__(self) -> str:
        low, high = self.durations.min(), self.durations.max()
        each = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        return f"{len(self)} frames of {each} s from {self.starts[0]:g} to {self.ends[-1]:g} s"


def decay_factors(frames: Frames, radionuclide: str, reference: float = 0.0) -> np.ndarray:
    """Return the mean of the decay during every frame, relative to the activity at `reference` s, (F,)::

        d = (1 - exp(-k T)) / (k T) exp(-k (t - reference)),   k = ln 2 / half-life

    for a frame of T s from t on. Counts divided by d are those of an activity that does not decay.

    Raises ValueError for an unknown radionuclide.
    """
    return _mean_decay(frames.starts, frames.durations, radionuclide, reference)


def _mean_decay(start: np.ndarray, duration: np.ndarray, radionuclide: str, reference: float) -> np.ndarray:
    k = math.log(2) / isotope(radionuclide).half_life
    mean: np.ndarray = -np.expm1(-k * duration) / (k * duration) * np.exp(-k * (start - reference))
    return mean


@dataclass(frozen=True, eq=False)
class Gates(FrozenArrays):
    """Which gate a scan was in at every time: gate labels[i] from edges[i] to edges[i + 1].

    Args:
        edges : (m + 1,) s, never falling.
        labels : (m,) gates from 0 on, or -1 where events are rejected.
        n_gates : number of gates.
        cyclic : whether gate 0 follows the last one, as in heart beats.
    """

    edges: np.ndarray
    labels: np.ndarray
    n_gates: int
    cyclic: bool = True

    def __post_init__(self) -> None:
        edges, labels = _numbers(self.edges, "Gates edges (s)"), np.array(self.labels)
        labels.flags.writeable = False
        if labels.dtype.kind not in "iu" or labels.shape != (edges.size - 1,) or np.any(np.diff(edges) < 0):
            raise ValueError(
                f"Gates need edges that never fall and one integer label between two edges, got {edges.size} edges and "
                f"labels {labels.dtype} {labels.shape}"
            )
        if self.n_gates < 1 or labels.min() < -1 or labels.max() >= self.n_gates:
            raise ValueError(
                f"{self.n_gates} gates need labels from -1 to {self.n_gates - 1}, got {labels.min()} to {labels.max()}"
            )
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def phase(cls, triggers: ArrayLike, n_gates: int, window: tuple[float, float] | None = None) -> Self:
        """Return gates that divide the time between two triggers, such as R waves, into `n_gates` equal parts.

        Args:
            triggers : (m,) s, rising.
            window : (shortest, longest) s between triggers that are accepted; other beats are rejected as a whole, and
                so is all before the first and after the last trigger.

        Raises ValueError for fewer than two triggers, or none accepted.
        """
        triggers = _numbers(triggers, "triggers (s)")
        _whole(n_gates, "n_gates")
        length = np.diff(triggers)
        if triggers.size < 2 or length.min() <= 0:
            raise ValueError(f"phase gates need two triggers or more in rising order, got {triggers.size}")
        low, high = window or (0.0, np.inf)
        accepted = (length >= low) & (length <= high)
        if not accepted.any():
            raise ValueError(
                f"triggers are {length.min():.4g} to {length.max():.4g} s apart, none within {low:g} to {high:g} s; "
                "are they in milliseconds?"
            )
        edges = triggers[:-1, None] + length[:, None] * np.arange(n_gates) / n_gates
        labels = np.where(accepted[:, None], np.arange(n_gates), -1)
        return cls(np.append(edges, triggers[-1]), labels.ravel(), int(n_gates))

    @classmethod
    def amplitude(
        cls, times: ArrayLike, trace: ArrayLike, n_gates: int, accepted: tuple[float, float] = (0.0, 1.0)
    ) -> Self:
        """Return gates of equal time by the amplitude of a trace, such as that of breathing; gate 0 is the lowest.

        Args:
            times : (m,) s, rising.
            trace : (m,) amplitudes in any unit; each holds until halfway to its neighbours.
            accepted : which part of all time is kept, as quantiles of the amplitude: (0, 0.35) keeps the lowest 35 %.

        Raises ValueError where the trace has too few different amplitudes for so many gates.
        """
        times, trace = _numbers(times, "times (s)"), _numbers(trace, "trace")
        _whole(n_gates, "n_gates")
        low, high = accepted
        if times.size != trace.size or times.size < 2 or np.diff(times).min() <= 0 or not 0 <= low < high <= 1:
            raise ValueError(
                f"amplitude gates need rising times, as many amplitudes, and quantiles 0 <= low < high <= 1; got "
                f"{times.size} times, {trace.size} amplitudes and {accepted}"
            )
        edges = np.concatenate([times[:1], (times[1:] + times[:-1]) / 2, times[-1:]])
        bounds = _quantiles(trace, np.diff(edges), np.linspace(low, high, n_gates + 1))
        labels = np.searchsorted(bounds[1:-1], trace, side="right")
        outside = (trace < bounds[0]) & (low > 0) | (trace >= bounds[-1]) & (high < 1)
        gates = cls(edges, np.where(outside, -1, labels), int(n_gates), cyclic=False)
        if gates.durations.min() <= 0:
            raise ValueError(f"a gate would be empty: the trace has too few different amplitudes for {n_gates} gates")
        return gates

    @property
    def durations(self) -> np.ndarray:
        """The time spent in every gate in s, (n_gates,)."""
        taken = self.labels >= 0
        return np.bincount(self.labels[taken], np.diff(self.edges)[taken], self.n_gates)

    def between(self, start: float, stop: float) -> Gates:
        """Return the gates of a scan that ran from `start` to `stop` s only."""
        return replace(self, edges=np.clip(self.edges, start, stop))

    def index_of(self, times: ArrayLike) -> np.ndarray:
        """Return the gate of every time, -1 where there is none."""
        index = np.searchsorted(self.edges, np.asarray(times, float), side="right") - 1
        within = (index >= 0) & (index < self.labels.size)
        return np.where(within, self.labels[np.where(within, index, 0)], -1)

    def __len__(self) -> int:
        return self.n_gates


def _quantiles(values: np.ndarray, weights: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """The smallest values that have at least these fractions of the weight below them."""
    order = np.argsort(values, kind="stable")
    below = np.concatenate([[0], np.cumsum(weights[order])])[:-1] / weights.sum()
    return values[order][np.minimum(np.searchsorted(below, fractions - 1e-12), values.size - 1)]


def split_events(events: np.ndarray, index: np.ndarray, n: int) -> list[np.ndarray]:
    """Return the events of every frame or gate, in their order; those with index -1 are left out.

    Args:
        events : (m, ...), or anything else that belongs to them.
        index : (m,) from `Frames.index_of` or `Gates.index_of`.
    """
    if np.size(index) and np.max(index) >= n:
        raise ValueError(f"index must be less than {n}, the number of frames or gates, got {np.max(index)}")
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(n + 1))
    return [events[order[first:last]] for first, last in pairwise(bounds)]


def histogram_events(
    sinogram: PETSinogram, events: ArrayLike, index: ArrayLike, n: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the counts of every bin in every frame or gate, (n, ``*sinogram.shape``) float32.

    Args:
        events : (m, 2) crystal numbers, or (m, 3) with the TOF bin (left unread where the sinogram has none); those
            outside of the sinogram are left out.
        index : (m,) frame or gate of every event, -1 for none.
        out : counts to add to, for events in chunks; contiguous. float32 counts to 2^24 in a bin, int32 to 2^31.

    Raises ValueError where lengths differ, an index is too large, or `out` does not fit.
    """
    events, index = np.asarray(events), np.asarray(index)
    if len(events) != len(index):
        raise ValueError(f"every event needs one time or index, got {len(events)} events and {len(index)} times")
    if index.size and index.max() >= n:
        raise ValueError(f"index must be less than {n}, the number of frames or gates, got {index.max()}")
    counts = np.zeros((n, *sinogram.shape), np.float32) if out is None else out
    if counts.shape != (n, *sinogram.shape) or not counts.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous array of shape {(n, *sinogram.shape)}, got shape {counts.shape}")
    if counts.dtype.kind not in "fiu" or counts.dtype.itemsize < 4:
        raise ValueError(f"out has dtype {counts.dtype}, which cannot hold many counts; use float32 or int32")
    bins = sinogram.bins_of(events[:, : 2 if sinogram.tof is None else 3])
    inside = (bins[:, 0] >= 0) & (index >= 0)
    np.add.at(counts.reshape(-1), np.ravel_multi_index((index[inside], *bins[inside].T), counts.shape), 1)
    return counts


def _numbers(values: ArrayLike, what: str) -> np.ndarray:
    array = np.atleast_1d(np.array(values, float))
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{what} must be a list of finite numbers, got {values!r}")
    array.flags.writeable = False
    return array


def _whole(value: float, name: str) -> None:
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value}")
