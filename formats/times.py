"""When the frames or gates of an image were measured: beside NIfTI as BIDS writes it, in HDF5 as attributes."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from emrecon.projectors import DynamicScan, Frames, GatedScan
from emrecon.projectors.core.errors import FormatError, naming
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

_ATTRIBUTES = ("frame_durations", "frame_starts", "decay_reference")
_EVEN = 1e-6  # s by which the times of frames may differ that follow one another evenly


@dataclass(frozen=True)
class ImageTimes:
    """The times of the frames or gates of an image (F, x, y, z).

    Args:
        durations : s of each; of SPECT gates the mean of a view.
        starts : s from the start of the clock, None for gates.
        reference : s on the same clock to which the image is corrected for decay, None where it is not.

    Raises ValueError where numbers or lengths do not fit.
    """

    durations: tuple[float, ...]
    starts: tuple[float, ...] | None = None
    reference: float | None = None

    def __post_init__(self) -> None:
        for name in ("durations", "starts"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.durations or not all(math.isfinite(d) and d > 0 for d in self.durations):
            raise ValueError(f"ImageTimes durations must be positive seconds, got {self.durations}")
        if self.reference is not None and not math.isfinite(self.reference):
            raise ValueError(f"ImageTimes reference must be finite seconds, got {self.reference}")
        if self.starts is not None:
            Frames(np.array(self.starts), np.array(self.durations))  # which checks them

    @classmethod
    def of(cls, scan: DynamicScan | GatedScan, decay: bool = True) -> Self:
        """Return the times of the image of a scan.

        Args:
            decay : whether the image is corrected to the scan's reference time; without a radionuclide it is not.
        """
        if isinstance(scan, GatedScan):
            return cls(tuple(scan.seconds.mean(1)))
        corrected = decay and scan.radionuclide is not None
        return cls(tuple(scan.frames.durations), tuple(scan.frames.starts), scan.reference if corrected else None)

    @property
    def frames(self) -> Frames | None:
        """The time frames, None for gates."""
        return None if self.starts is None else Frames(np.array(self.starts), np.array(self.durations))

    @property
    def even(self) -> tuple[float, float] | None:
        """(start of the first frame, from one frame to the next) in s where frames are even, else None."""
        if self.starts is None or not np.ptp(self.durations) <= _EVEN:
            return None
        steps = np.diff(self.starts)
        step = self.durations[0] if not steps.size else float(steps[0])
        return (self.starts[0], step) if not steps.size or np.ptp(steps) <= _EVEN else None

    def as_bids(self) -> dict[str, object]:
        """Return the keys of the PET part of BIDS for frames; gates have `GateDuration`."""
        if self.starts is None:
            return {"GateDuration": list(self.durations)}
        corrected = self.reference is not None
        found: dict[str, object] = {
            "FrameTimesStart": list(self.starts),
            "FrameDuration": list(self.durations),
            "ImageDecayCorrected": corrected,
        }
        return found | ({"ImageDecayCorrectionTime": self.reference} if corrected else {})

    def __len__(self) -> int:
        return len(self.durations)

    def __str__(self) -> str:
        if self.frames is not None:
            return str(self.frames)
        low, high = min(self.durations), max(self.durations)
        return f"{len(self)} gates of {f'{low:.4g}' if low == high else f'{low:.4g} to {high:.4g}'} s"


def sidecar_of(path: str | os.PathLike[str]) -> Path:
    """Return the JSON file beside a NIfTI image: image.json of image.nii.gz."""
    path = Path(path)
    name = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else path.name
    return path.with_name(name).with_suffix(".json")


def write_sidecar(path: str | os.PathLike[str], times: ImageTimes) -> None:
    """Write the times of an image into the JSON file beside it, complete or not at all."""
    with atomic_path(sidecar_of(path)) as temporary:
        temporary.write_text(json.dumps(times.as_bids(), indent=1) + "\n", "utf-8")


def read_sidecar(path: str | os.PathLike[str], n: int) -> ImageTimes | None:
    """Return the times of an image of n frames or gates from the JSON file beside it, None where there are none.

    Raises FormatError, which names the JSON file, where it does not fit.
    """
    beside = sidecar_of(path)
    if not beside.is_file():
        return None
    found = read_json(beside, "the times of an image")
    if not isinstance(found, dict):
        raise FormatError(f"{beside} is not the times of an image; another kind of file?")
    durations = found.get("FrameDuration", found.get("GateDuration"))
    if durations is None:
        return None
    return _checked(beside, durations, found.get("FrameTimesStart"), found.get("ImageDecayCorrectionTime"), n)


def as_attributes(times: ImageTimes | None) -> dict[str, object]:
    """Return times as the attributes of an image in HDF5."""
    if times is None:
        return {}
    found = zip(_ATTRIBUTES, (times.durations, times.starts, times.reference))
    return {name: value for name, value in found if value is not None}


def from_attributes(path: str | os.PathLike[str], values: dict[str, object], n: int) -> ImageTimes | None:
    """Return the times that `as_attributes` made, None where there are none."""
    durations = values.get("frame_durations")
    if durations is None:
        return None
    return _checked(Path(path), durations, values.get("frame_starts"), values.get("decay_reference"), n)


def with_times(path: str | os.PathLike[str], facts: dict[str, object]) -> dict[str, object]:
    """Return the facts about an image in HDF5 with its times in words in place of their attributes."""
    times = from_attributes(path, facts, int(str(facts.get("frames", 1))))
    kept = {name: value for name, value in facts.items() if name not in _ATTRIBUTES}
    return kept if times is None else kept | {"times": str(times)}


def _checked(path: Path, durations: object, starts: object, reference: object, n: int) -> ImageTimes:
    listed = [None if values is None else _listed(path, values) for values in (durations, starts)]
    if any(values is not None and len(values) != n for values in listed):
        lengths = " and ".join(str(len(values)) for values in listed if values is not None)
        raise FormatError(f"{path}: it has {lengths} times for an image of {n} frames; does it belong to the image?")
    with naming(path):
        if not isinstance(reference, (int, float, type(None))):
            raise ValueError(f"the time of the decay correction is {reference!r}")
        return ImageTimes(listed[0] or (), listed[1], reference)


def _listed(path: Path, values: object) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
        raise FormatError(f"{path}: the times of its frames are no list of numbers; edited by hand?")
    return tuple(float(value) for value in values)
