"""Dynamic and gated scans: the counts of all frames or gates of one geometry, and their model as one batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Self, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from ..core.arrays import Array, array_namespace, as_real, like, require_array
from ..core.grid import ImageGrid
from ..core.html import brief_range
from ..core.operator import Projector
from ..pet.sinogram import PETSinogram
from ..spect.camera import SPECTGeometry
from .acquisition import AcquisitionModel, take_views
from .frames import Frames, Gates, _mean_decay, histogram_events
from .scan import Scan
from .showing import shown_scan
from .study import Study

_ARRAYS = ("counts", "background", "factors")


class _Circumstances(TypedDict, total=False):
    """What is known besides events and times, as in `GatedScan`."""

    background: Array | float
    factors: Array | float
    radionuclide: str | None
    energy_window: tuple[float, float] | None
    description: str
    study: Study | None


class _FrameCircumstances(_Circumstances, total=False):
    """The same, as in `DynamicScan`."""

    reference: float
    schedule: np.ndarray


@dataclass(frozen=True, eq=False)
class ScanSeries(ABC):
    """What dynamic and gated scans share: counts (F, ``*geometry.shape``) of one geometry, reconstructed as one batch.

    `series[i]` is the `Scan` of one part, `series[a:b]` a shorter series.
    """

    counts: Array
    geometry: SPECTGeometry | PETSinogram
    _: KW_ONLY
    background: Array | float = 0.0
    factors: Array | float = 1.0
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    description: str = field(default="", repr=False)  # free text, which may name the patient
    study: Study | None = None

    def __post_init__(self) -> None:
        who = type(self).__name__
        require_array(self.counts, f"{who} counts")
        expected = (self._n_parts(), *self.geometry.shape)
        if tuple(self.counts.shape) != expected:
            raise ValueError(
                f"{who} counts must have shape {expected} (frames or gates first), got {tuple(self.counts.shape)}"
            )
        about = (None, self.radionuclide, self.energy_window, self.description, self.study)
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

    def default_grid(self) -> ImageGrid:
        """Return the grid most reconstructions use: voxels of the size of the detector's or the sinogram's bins."""
        return self.geometry.default_grid()

    def photon_energy(self) -> float:
        """Return the energy in keV of the photons in the energy window, as `Scan.photon_energy` does."""
        return self._part(0, decay=False).photon_energy()

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
        values: dict[str, Any] = {
            name: take_views(getattr(self, name), k, n, axis) for name in ("counts", "background", "factors")
        }
        own = self._own(slice(None), slice(k, None, n))
        return replace(self, geometry=self.geometry.subset(k, n), **values, **own)

    def _repr_html_(self) -> str:
        frames = getattr(self, "frames", None)
        rows = {"parts": len(self) if frames is None else frames, "seconds per view": brief_range(self.seconds)}
        return shown_scan(type(self).__name__, self, **rows)

    def _is_joined(self) -> bool:
        """Whether the parts follow one another without a gap."""
        return True

    def __len__(self) -> int:
        return self._n_parts()

    def __iter__(self) -> Iterator[Scan]:
        return (self._part(i) for i in range(len(self)))

    @overload
    def __getitem__(self, part: int) -> Scan: ...
    @overload
    def __getitem__(self, part: slice) -> Self: ...
    def __getitem__(self, part: int | slice) -> Scan | Self:
        if not isinstance(part, slice):
            return self._part(part)
        values: dict[str, Any] = {
            name: self._take(getattr(self, name), part) for name in ("counts", "background", "factors")
        }
        if not values["counts"].shape[0]:
            raise ValueError(f"{part} selects none of the {len(self)} frames or gates")
        return replace(self, **values, **self._own(part, slice(None)))

    def _part(self, i: int, decay: bool = True) -> Scan:
        if not -len(self) <= i < len(self):
            raise IndexError(f"{type(self).__name__} has no part {i}; it has {len(self)} parts, counted from 0")
        i = int(i) % len(self)
        factors = self._weighted(self._take(self.factors, i), self._time(decay)[i])
        return self._scan(self.counts[i, ...], self._take(self.background, i), factors, self.seconds[i])

    def _scan(self, counts: Array, background: Array | float, factors: Array | float, seconds: np.ndarray) -> Scan:
        duration = float(seconds[0]) if np.allclose(seconds, seconds[0], rtol=1e-9) else None
        about = (duration, self.radionuclide, self.energy_window, self.description, self.study)
        return Scan(counts, self.geometry, background, factors, *about)

    def _take(self, values: Any, part: int | slice) -> Any:
        """Some parts of values that have an axis for them; others stay as they are."""
        if not self._has_parts(values):
            return values
        if values.shape[0] == 1:
            return values if isinstance(part, slice) else values[0, ...]
        return values[part, ...]

    def _has_parts(self, values: Array | float) -> bool:
        return getattr(values, "ndim", 0) > len(self.geometry.shape)

    def _total(self, values: Any, n: int) -> Any:
        if self._has_parts(values) and values.shape[0] == n:
            return array_namespace(values).sum(values, axis=0)
        return (values[0, ...] if self._has_parts(values) else values) * n

    def _weighted(self, factors: Any, time: np.ndarray) -> Array:
        """factors x time, with axes after the views."""
        weights = time.reshape(*time.shape, *[1] * (len(self.geometry.shape) - 1))
        if getattr(factors, "ndim", 0) == 0:
            return float(factors) * weights
        factors = as_real(factors)
        return factors * like(weights, factors)


@dataclass(frozen=True, eq=False)
class DynamicScan(ScanSeries):
    """A scan in time frames: SPECT projections, or PET sinograms with or without TOF.

    Args:
        counts : (F, ``*geometry.shape``) measured counts.
        geometry : the camera or the sinogram, the same in all frames.
        frames : when they were, `Frames`.
        background : expected counts outside of the model in each frame: a number, an array of a frame's shape for all,
            or (F, ...); whatever broadcasts.
        factors : calibration x normalisation (x attenuation, crystal pairs), likewise, without time and decay, which
            come from the frames.
        radionuclide : what decays, None for no decay.
        reference : s, the time that activities are those of.
        schedule : (views, 2) or (F, views, 2), when each view begins and ends as fractions of the frame. Default: PET
            measures all views all the time; a SPECT camera turns once in every frame, and each head takes its views one
            after another in the order of the geometry. `all_views_at_once(geometry)` is for cameras that stand still.
        energy_window : (lower, upper) keV.  description : free text.  study : as in `Scan`.

    ::

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
            raise TypeError(f"DynamicScan frames must be Frames, got {self.frames!r}; use Frames.from_durations(...)")
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
    def from_events(
        cls,
        sinogram: PETSinogram,
        events: ArrayLike,
        times: ArrayLike,
        frames: Frames,
        **more: Unpack[_FrameCircumstances],
    ) -> Self:
        """Return the sinograms of list-mode events (n, 2) or (n, 3), measured at `times` (n,) s.

        Args:
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

    Args:
        counts : (G, ``*geometry.shape``) measured counts.
        geometry : the camera or the sinogram, the same in all gates.
        durations : (G,) s that were spent in each gate (per view for SPECT), or (G, views); `Gates.durations`.
        cyclic : whether gate 0 follows the last one.
        background, factors, radionuclide, energy_window, description, study : as for `DynamicScan`.

    All gates are spread over the same time and decay alike: a decay correction is one number, for the factors::

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
            raise ValueError(
                f"GatedScan durations must be positive seconds, got {durations.min():g} in gate "
                f"{np.unravel_index(durations.argmin(), durations.shape)[0]}"
            )
        if durations.ndim == 2 and durations.shape[1] not in (1, self.geometry.n_views):
            raise ValueError(f"GatedScan durations of shape {durations.shape} do not fit {self.geometry.n_views} views")
        durations.flags.writeable = False
        object.__setattr__(self, "durations", durations)
        super().__post_init__()

    @classmethod
    def from_events(
        cls, sinogram: PETSinogram, events: ArrayLike, times: ArrayLike, gates: Gates, **more: Unpack[_Circumstances]
    ) -> Self:
        """Return the sinograms of list-mode events (n, 2) or (n, 3), measured at `times` (n,) s.

        Args:
            gates : those within the time of the scan only, see `Gates.between`.
            more : background, factors, ... of the scan.
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
