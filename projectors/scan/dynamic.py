"""Dynamic and gated data: when the frames and gates of a scan were, their decay, and the counts of all of them."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np

from ..core.arrays import Array, array_namespace, as_real, like, require_array
from ..core.grid import FrozenArrays
from ..core.operator import Projector
from ..pet.sinogram import PETSinogram
from ..physics.nuclides import isotope
from ..spect.camera import SPECTGeometry
from .acquisition import AcquisitionModel, take_views
from .scan import Scan

_OVERLAP = 1e-6  # s that frames may overlap by: sums of durations are rounded


@dataclass(frozen=True, eq=False)
class Frames(FrozenArrays):
    """The time frames of a dynamic scan, in order; gaps between them are allowed.

    starts : (F,) s from the start of the clock (the first time tag, or the injection).  durations : (F,) s.
    Raises ValueError for durations that are not positive, and frames that overlap or are not in order.
    """

    starts: np.ndarray
    durations: np.ndarray

    def __post_init__(self) -> None:
        for name in ("starts", "durations"):
            object.__setattr__(self, name, _numbers(getattr(self, name), f"Frames {name} (s)"))
        if self.starts.size != self.durations.size:
            raise ValueError(f"Frames has {self.starts.size} starts and {self.durations.size} durations")
        if self.durations.min() <= 0:
            raise ValueError(f"Frames durations must be positive seconds, the shortest is {self.durations.min():g}")
        overlap = self.ends[:-1] - self.starts[1:]
        if np.any(overlap > _OVERLAP):
            i = int(np.argmax(overlap))
            raise ValueError(
                f"frame {i} ends at {self.ends[i]:g} s, after frame {i + 1} starts at {self.starts[i + 1]:g} s; "
                "not in order, or durations that are not in seconds?"
            )

    @classmethod
    def from_durations(cls, durations: Any, start: float = 0.0) -> Self:
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
            found = re.fullmatch(r"\s*(?:(\d+)\s*[xX*]\s*)?(\d+\.?\d*|\.\d+)\s*(?:s\s*)?", part)
            if not found:
                raise ValueError(f'a protocol reads like "10x10,5x60,300" (frames x seconds), got {protocol!r}')
            durations += [float(found[2])] * int(found[1] or 1)
        return cls.from_durations(durations, start)

    @property
    def ends(self) -> np.ndarray:
        """The ends of the frames in s, (F,)."""
        return self.starts + self.durations

    @property
    def middle(self) -> np.ndarray:
        """The middle of the frames in s, (F,)."""
        return self.starts + self.durations / 2

    def index_of(self, times: Any) -> np.ndarray:
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
    """Return the mean of the decay during every frame, relative to the activity at `reference` s, (F,).

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

    edges : (m + 1,) s, never falling.  labels : (m,) gates from 0 on, or -1 where events are rejected.
    n_gates : number of gates.  cyclic : whether gate 0 follows the last one, as in heart beats.
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
                f"Gates need edges in order and one whole number between two of them, got {edges.size} edges and "
                f"labels {labels.dtype} {labels.shape}"
            )
        if self.n_gates < 1 or labels.min() < -1 or labels.max() >= self.n_gates:
            raise ValueError(f"Gates labels run from {labels.min()} to {labels.max()}, {self.n_gates} gates exist")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "labels", labels)

    @classmethod
    def phase(cls, triggers: Any, n_gates: int, window: tuple[float, float] | None = None) -> Self:
        """Return gates that divide the time between two triggers, such as R waves, into `n_gates` equal parts.

        triggers : (m,) s, rising.  window : (shortest, longest) s between triggers that are accepted; other beats are
        rejected as a whole, and so is all before the first and after the last trigger.
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
                "milliseconds?"
            )
        edges = triggers[:-1, None] + length[:, None] * np.arange(n_gates) / n_gates
        labels = np.where(accepted[:, None], np.arange(n_gates), -1)
        return cls(np.append(edges, triggers[-1]), labels.ravel(), int(n_gates))

    @classmethod
    def amplitude(cls, times: Any, trace: Any, n_gates: int, accepted: tuple[float, float] = (0.0, 1.0)) -> Self:
        """Return gates of equal time by the amplitude of a trace, such as that of breathing; gate 0 is the lowest.

        times : (m,) s, rising.  trace : (m,) amplitudes in any unit; each holds until halfway to its neighbours.
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
            raise ValueError(f"a gate gets no time: the trace has too few different amplitudes for {n_gates} gates")
        return gates

    @property
    def durations(self) -> np.ndarray:
        """The time spent in every gate in s, (n_gates,)."""
        taken = self.labels >= 0
        return np.bincount(self.labels[taken], np.diff(self.edges)[taken], self.n_gates)

    def between(self, start: float, stop: float) -> Gates:
        """Return the gates of a scan that ran from `start` to `stop` s only."""
        return replace(self, edges=np.clip(self.edges, start, stop))

    def index_of(self, times: Any) -> np.ndarray:
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

    events : (m, ...), or anything else that belongs to them.  index : (m,) from `Frames.index_of` or `Gates.index_of`.
    """
    if np.size(index) and np.max(index) >= n:
        raise ValueError(f"events belong to parts up to number {np.max(index)}, there are {n}")
    order = np.argsort(index, kind="stable")
    bounds = np.searchsorted(index[order], np.arange(n + 1))
    return [events[order[first:last]] for first, last in pairwise(bounds)]


def histogram_events(
    sinogram: PETSinogram, events: Any, index: Any, n: int, out: np.ndarray | None = None
) -> np.ndarray:
    """Return the counts of every bin in every frame or gate, (n, *sinogram.shape) float32.

    events : (m, 2) crystal numbers, or (m, 3) with the TOF bin (left unread where the sinogram has none); those outside
        of the sinogram are left out.
    index : (m,) frame or gate of every event, -1 for none.
    out : counts to add to, for events in chunks; contiguous. float32 counts to 2^24 in a bin, int32 to 2^31.
    Raises ValueError where lengths differ, an index is too large, or `out` does not fit.
    """
    events, index = np.asarray(events), np.asarray(index)
    if len(events) != len(index):
        raise ValueError(f"{len(events)} events have {len(index)} times or indices")
    if index.size and index.max() >= n:
        raise ValueError(f"events belong to parts up to number {index.max()}, there are {n}")
    counts = np.zeros((n, *sinogram.shape), np.float32) if out is None else out
    if counts.shape != (n, *sinogram.shape) or not counts.flags.c_contiguous:
        raise ValueError(f"out of shape {counts.shape} must be a contiguous array of {(n, *sinogram.shape)}")
    if counts.dtype.kind not in "fiu" or counts.dtype.itemsize < 4:
        raise ValueError(f"out of {counts.dtype} cannot hold many counts; use float32 or int32")
    bins = sinogram.bins_of(events[:, : 2 if sinogram.tof is None else 3])
    inside = (bins[:, 0] >= 0) & (index >= 0)
    np.add.at(counts.reshape(-1), np.ravel_multi_index((index[inside], *bins[inside].T), counts.shape), 1)
    return counts


@dataclass(frozen=True, eq=False)
class ScanSeries(ABC):
    """What dynamic and gated scans share: counts (F, *geometry.shape) of one geometry, reconstructed as one batch.

    `series[i]` is the `Scan` of one part, `series[a:b]` a shorter series.
    """

    counts: Array
    geometry: SPECTGeometry | PETSinogram
    _: KW_ONLY
    background: Any = 0.0
    factors: Any = 1.0
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    description: str = ""

    def __post_init__(self) -> None:
        who = type(self).__name__
        require_array(self.counts, f"{who} counts")
        expected = (self._n_parts(), *self.geometry.shape)
        if tuple(self.counts.shape) != expected:
            raise ValueError(f"{who} counts of shape {tuple(self.counts.shape)} do not fit {expected}, parts first")
        about = (None, self.radionuclide, self.energy_window, self.description)
        checked = Scan(self.counts, self.geometry, self.background, self.factors, *about)
        for name in ("radionuclide", "energy_window"):
            object.__setattr__(self, name, getattr(checked, name))

    @property
    @abstractmethod
    def seconds(self) -> np.ndarray:
        """How long every part was measured in s, (F, 1), or (F, views) where views differ."""

    @abstractmethod
    def _n_parts(self) -> int:
        """How many frames or gates there are."""

    @abstractmethod
    def _own(self, parts: slice, views: slice) -> dict[str, Any]:
        """The fields of the subclass for some parts and views."""

    @abstractmethod
    def _time(self, decay: bool) -> np.ndarray:
        """What time multiplies the factors with, (F, 1) or (F, views)."""

    def model(self, projector: Projector, decay: bool = True) -> AcquisitionModel:
        """Return the expected counts of all parts under one projector: images (F, x, y, z) to counts."""
        time = self._time(decay)
        if time.shape[1] == 1:
            weights = time.reshape(len(self), *[1] * len(self.geometry.shape))
            return AcquisitionModel(projector, self.factors, self.background, weights)
        return AcquisitionModel(projector, self._weighted(self.factors, time), self.background)

    def summed(self, first: int = 0, last: int | None = None, decay: bool = True) -> Scan:
        """Return the scan of the parts first, ..., last - 1 together: a static image, or a composite frame.

        Its factors are the sum of those of the parts, so that an activity that does not change (but for decay) has the
        same image in it as in each part. Where frames do not follow one another directly its duration is None, because
        its decay is not that of so much time in one piece.
        """
        part = self[first:last]
        n = len(part)
        factors = part._weighted(part.factors, part._time(decay))
        counts = array_namespace(self.counts).sum(part.counts, axis=0)
        scan = self._scan(counts, part._total(part.background, n), part._total(factors, n), part.seconds.sum(0))
        return scan if part._is_joined() else replace(scan, duration=None)

    def subset(self, k: int, n: int) -> Self:
        """Return the series of views k, k + n, ..."""
        axis = -len(self.geometry.shape)
        values = {name: take_views(getattr(self, name), k, n, axis) for name in ("counts", "background", "factors")}
        own = self._own(slice(None), slice(k, None, n))
        return replace(self, geometry=self.geometry.subset(k, n), **values, **own)

    def _is_joined(self) -> bool:
        """Whether the parts follow one another without a gap."""
        return True

    def __len__(self) -> int:
        return self._n_parts()

    def __iter__(self) -> Iterator[Scan]:
        return (self._part(i) for i in range(len(self)))

    def __getitem__(self, part: Any) -> Any:
        if not isinstance(part, slice):
            return self._part(part)
        values = {name: self._take(getattr(self, name), part) for name in ("counts", "background", "factors")}
        if not values["counts"].shape[0]:
            raise ValueError(f"no frames or gates are left of {len(self)} in {part}")
        return replace(self, **values, **self._own(part, slice(None)))

    def _part(self, i: int, decay: bool = True) -> Scan:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{type(self).__name__} has no part {i}, there are {len(self)}")
        i = int(i) % len(self)
        factors = self._weighted(self._take(self.factors, i), self._time(decay)[i])
        return self._scan(self.counts[i, ...], self._take(self.background, i), factors, self.seconds[i])

    def _scan(self, counts: Array, background: Any, factors: Any, seconds: np.ndarray) -> Scan:
        duration = float(seconds[0]) if np.allclose(seconds, seconds[0], rtol=1e-9) else None
        about = (duration, self.radionuclide, self.energy_window, self.description)
        return Scan(counts, self.geometry, background, factors, *about)

    def _take(self, values: Any, part: Any) -> Any:
        """Some parts of values that have an axis for them; others stay as they are."""
        if not self._has_parts(values):
            return values
        if values.shape[0] == 1:
            return values if isinstance(part, slice) else values[0, ...]
        return values[part, ...]

    def _has_parts(self, values: Any) -> bool:
        return getattr(values, "ndim", 0) > len(self.geometry.shape)

    def _total(self, values: Any, n: int) -> Any:
        if self._has_parts(values) and values.shape[0] == n:
            return array_namespace(values).sum(values, axis=0)
        return (values[0, ...] if self._has_parts(values) else values) * n

    def _weighted(self, factors: Any, time: np.ndarray) -> Any:
        """factors x time, with axes after the views."""
        weights = time.reshape(*time.shape, *[1] * (len(self.geometry.shape) - 1))
        if getattr(factors, "ndim", 0) == 0:
            return float(factors) * weights
        factors = as_real(factors)
        return factors * like(weights, factors)


@dataclass(frozen=True, eq=False)
class DynamicScan(ScanSeries):
    """A scan in time frames: SPECT projections, or PET sinograms with or without TOF.

    counts : (F, *geometry.shape) measured counts.
    geometry : the camera or the sinogram, the same in all frames.
    frames : when they were, `Frames`.
    background : expected counts outside of the model in each frame: a number, an array of a frame's shape for all, or
        (F, ...); whatever broadcasts.
    factors : calibration x normalisation (x attenuation, crystal pairs), likewise, but for time and decay: these come
        from the frames.
    radionuclide : what decays, None for no decay.  reference : s, the time that activities are those of.
    schedule : (views, 2) or (F, views, 2), when each view begins and ends as fractions of the frame. Default: PET
        measures all views all the time; a SPECT camera turns once in every frame, and each head takes its views one
        after another in the order of the geometry. `all_views_at_once(geometry)` is for cameras that stand still.
    energy_window : (lower, upper) keV.  description : free text.

        ybar[f, v] = factors * seconds[f, v] * decay[f, v] * (A x[f])[v] + background

    so an image x[f] is in counts/s per unit of the factors, at the reference time: decay corrected. With the factor
    and the branching of a `Calibration.from_phantom` it becomes Bq/mL, x * factor / branching; of SPECT
    `spect_calibration(sensitivity, grid, scan)` does it all.
    Raises ValueError where counts, frames and geometry do not fit together.
    """

    frames: Frames
    _: KW_ONLY
    reference: float = 0.0
    schedule: np.ndarray = None  # type: ignore[assignment]  # None only as an argument

    def __post_init__(self) -> None:
        if not isinstance(self.frames, Frames):
            raise TypeError(f"DynamicScan frames must be Frames, got {self.frames!r}; Frames.from_durations(...)?")
        if not np.isfinite(self.reference):
            raise ValueError(f"DynamicScan reference must be finite seconds, got {self.reference}")
        super().__post_init__()
        schedule = _default_schedule(self.geometry) if self.schedule is None else np.array(self.schedule, float)
        shape = (len(self.frames), self.geometry.n_views, 2)
        if schedule.shape not in (shape, shape[1:]):
            raise ValueError(f"DynamicScan schedule of shape {schedule.shape} does not fit {shape} or {shape[1:]}")
        begin, end = schedule[..., 0], schedule[..., 1]
        if not (np.all(begin >= 0) and np.all(begin < end) and np.all(end <= 1 + 1e-9)):
            raise ValueError("DynamicScan schedule must hold fractions of the frame, 0 <= begin < end <= 1")
        schedule = np.broadcast_to(schedule, shape).copy()
        schedule.flags.writeable = False
        object.__setattr__(self, "schedule", schedule)
        object.__setattr__(self, "reference", float(self.reference))

    def _is_joined(self) -> bool:
        return bool(np.allclose(self.frames.ends[:-1], self.frames.starts[1:], atol=1e-3))

    @classmethod
    def from_events(cls, sinogram: PETSinogram, events: Any, times: Any, frames: Frames, **more: Any) -> Self:
        """Return the sinograms of list-mode events (n, 2) or (n, 3), measured at `times` (n,) s.

        more : background, factors, radionuclide, ... of the scan.
        """
        return cls(histogram_events(sinogram, events, frames.index_of(times), len(frames)), sinogram, frames, **more)

    @property
    def n_frames(self) -> int:
        """The number of frames."""
        return len(self.frames)

    @property
    def seconds(self) -> np.ndarray:
        """How long the views of every frame were measured in s, (F, 1), or (F, views) where they differ."""
        return _same(np.diff(self.schedule)[..., 0]) * self.frames.durations[:, None]

    @property
    def decay(self) -> np.ndarray:
        """The mean decay while a view is measured, relative to the reference time, (F, 1) or (F, views)."""
        if self.radionuclide is None:
            return np.ones((len(self.frames), 1))
        start = self.frames.starts[:, None] + _same(self.schedule[..., 0]) * self.frames.durations[:, None]
        return _mean_decay(start, self.seconds, self.radionuclide, self.reference)

    def frame(self, i: int, decay: bool = True) -> Scan:
        """Return the scan of one frame; its factors hold time and decay, as those of the model do."""
        return self._part(i, decay)

    def _n_parts(self) -> int:
        return len(self.frames)

    def _own(self, parts: slice, views: slice) -> dict[str, Any]:
        return {"frames": self.frames[parts], "schedule": self.schedule[parts, views]}

    def _time(self, decay: bool) -> np.ndarray:
        return self.seconds * self.decay if decay else self.seconds


@dataclass(frozen=True, eq=False)
class GatedScan(ScanSeries):
    """A scan in gates of the heart beat or of breathing: SPECT projections, or PET sinograms.

    counts : (G, *geometry.shape) measured counts.
    geometry : the camera or the sinogram, the same in all gates.
    durations : (G,) s that were spent in each gate (per view for SPECT), or (G, views); `Gates.durations`.
    cyclic : whether gate 0 follows the last one.
    background, factors, radionuclide, energy_window, description : as for `DynamicScan`.
    All gates are spread over the same time and decay alike: a decay correction is one number, for the factors.

        ybar[g, v] = factors * durations[g, v] * (A x[g])[v] + background
    """

    durations: np.ndarray
    _: KW_ONLY
    cyclic: bool = True

    def __post_init__(self) -> None:
        durations = np.array(self.durations, float)
        if durations.ndim not in (1, 2) or not durations.size or not np.isfinite(durations).all():
            raise ValueError(f"GatedScan durations must be (gates,) or (gates, views) s, got {self.durations!r}")
        if durations.min() <= 0:
            raise ValueError(f"gate {np.unravel_index(durations.argmin(), durations.shape)[0]} has no time in it")
        if durations.ndim == 2 and durations.shape[1] not in (1, self.geometry.n_views):
            raise ValueError(f"GatedScan durations of shape {durations.shape} do not fit {self.geometry.n_views} views")
        durations.flags.writeable = False
        object.__setattr__(self, "durations", durations)
        super().__post_init__()

    @classmethod
    def from_events(cls, sinogram: PETSinogram, events: Any, times: Any, gates: Gates, **more: Any) -> Self:
        """Return the sinograms of list-mode events (n, 2) or (n, 3), measured at `times` (n,) s.

        gates : of the time of the scan and no more, see `Gates.between`.  more : background, factors, ... of the scan.
        """
        counts = histogram_events(sinogram, events, gates.index_of(times), len(gates))
        return cls(counts, sinogram, gates.durations, cyclic=gates.cyclic, **more)

    @property
    def n_gates(self) -> int:
        """The number of gates."""
        return len(self.durations)

    @property
    def seconds(self) -> np.ndarray:
        """How long every gate was measured in s, (G, 1) or (G, views)."""
        return self.durations if self.durations.ndim == 2 else self.durations[:, None]

    def gate(self, i: int) -> Scan:
        """Return the scan of one gate; its factors hold the time, as those of the model do."""
        return self._part(i)

    def _n_parts(self) -> int:
        return len(self.durations)

    def _own(self, parts: slice, views: slice) -> dict[str, Any]:
        taken = self.durations[parts]
        cyclic = self.cyclic and len(taken) == len(self.durations)
        return {"durations": taken[:, views] if taken.ndim == 2 and taken.shape[1] > 1 else taken, "cyclic": cyclic}

    def _time(self, decay: bool) -> np.ndarray:
        return self.seconds


def all_views_at_once(geometry: SPECTGeometry | PETSinogram) -> np.ndarray:
    """Return the schedule (views, 2) of a scanner that measures every view during the whole frame."""
    return np.tile([0.0, 1.0], (geometry.n_views, 1))


def _default_schedule(geometry: SPECTGeometry | PETSinogram) -> np.ndarray:
    if not isinstance(geometry, SPECTGeometry):
        return all_views_at_once(geometry)
    schedule = np.empty((geometry.n_views, 2))
    for head in np.unique(geometry.head):
        mine = np.flatnonzero(geometry.head == head)
        schedule[mine, 0] = np.arange(mine.size) / mine.size
        schedule[mine, 1] = (np.arange(mine.size) + 1) / mine.size
    return schedule


def _same(values: np.ndarray) -> np.ndarray:
    """(F, views) as (F, 1) where all views are alike."""
    return values[:, :1] if np.allclose(values, values[:, :1], rtol=1e-12, atol=1e-12) else values


def _numbers(values: Any, what: str) -> np.ndarray:
    array = np.atleast_1d(np.array(values, float))
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{what} must be a list of finite numbers, got {values!r}")
    array.flags.writeable = False
    return array


def _whole(value: Any, name: str) -> None:
    if value != int(value) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value}")
