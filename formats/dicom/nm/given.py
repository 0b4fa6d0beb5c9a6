"""Values that a caller gives instead of those of a file of nuclear medicine."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from emrecon.projectors.core.errors import FormatError

from ...interfile.header import count, number, numbers, one_of, positive, short, text

T = TypeVar("T")

SCAN_OVERRIDES: Mapping[str, str] = {
    "series": "SeriesInstanceUID or series number, where a folder holds several",
    "n_heads": "detector heads whose views follow each other in the file",
    "n_views": "views of each head (and rotation)",
    "start_angle": "degrees as DICOM counts them, one or one for each head",
    "direction": "cw or ccw, seen from the feet",
    "extent": "degrees that a head turns, so a view is extent / n_views from the next",
    "angles": "degrees of all views, one head after the other",
    "radius": "mm, one, one for each head, or one for each view of all heads",
    "shift": "mm of the detector's centre along the bins, one or one for each head",
    "axial_shift": "mm of each bed along z",
    "pixel_size": "mm (bin, row), or one number",
    "spacing_is_zoomed": "no: PixelSpacing is that of zoom 1 and is divided by ZoomFactor",
    "row_order": "head or feet: the end of the patient that the first row is at",
    "position": "detector, corner or centre: what ImagePositionPatient is the position of",
    "placement": "mm (x, y, z) in LPS of the middle of the scan on the axis of rotation",
    "angle_reference": "patient (as DICOM says) or gantry (as for a patient who lies HFS, whoever lies there)",
    "patient_position": "HFS, HFP, HFDR, HFDL, FFS, FFP, FFDR or FFDL",
    "rotations": "frames or views: whether rotations at one place are time frames, or more views of one scan",
    "parallel_holes": "yes: the file is wrong about a converging collimator",
    "detector_tilt": "0: the detector is not tilted, whatever the file says",
    "collimator": "name, as in the file or of projectors.collimators()",
    "duration": "s per view",
    "gate_seconds": "s that each gate was measured in a view",
    "frames": 'time frames such as "10x10,300" (s)',
    "radionuclide": "name",
    "energy_windows": "LOWER:UPPER of each window in keV",
    "energy_window": "LOWER, UPPER in keV of the only window",
    "window": "name or number of one energy window to read",
    "bed": "number of one bed to read",
    "frame": "number of one time frame to read",
    "gate": "number of one gate to read",
    "rr_interval": "number of one R-R interval to read",
    "scale": "what the stored numbers are multiplied with",
    "description": "free text",
    "injected": "MBq",
    "weight": "kg",
    "height": "m",
    "calibration": "counts/s/MBq of one head",
}
"""Values of projections that can be replaced, and what each of them is."""

PLANAR_OVERRIDES = ("series", "pixel_size", "energy_window", "energy_windows", "duration", "radionuclide", "scale")
IMAGE_OVERRIDES: Mapping[str, str] = {
    "series": "SeriesInstanceUID or series number, where a folder holds several",
    "orientation": "six direction cosines, of the rows and of the columns, in LPS",
    "position": "mm (x, y, z) in LPS of the centre of the first pixel",
    "pixel_size": "mm (column, row), or one number",
    "slice_spacing": "mm from slice to slice, negative where they are stacked against the normal",
    "gate": "number of one gate to read",
    "rr_interval": "number of one R-R interval to read",
    "scale": "what the stored numbers are multiplied with",
    "unit": "of the values then",
}
"""Values of reconstructed images that can be replaced."""

_YES = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


@dataclass(frozen=True)
class Given:
    """Overrides by name; None counts as not given."""

    path: Path
    values: Mapping[str, object]

    def has(self, name: str) -> bool:
        """Whether a value was given."""
        return self.values.get(name) is not None

    def get(self, name: str, convert: Callable[[object], T]) -> T | None:
        """Return a value, None where it was not given; raises FormatError for one that cannot be understood."""
        value = self.values.get(name)
        if value is None:
            return None
        try:
            return convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise FormatError(f"{self.path}: {name}= is {short(value)}, {error}") from error

    def number(self, name: str) -> float | None:
        """Return a finite number."""
        return self.get(name, number)

    def positive(self, name: str) -> float | None:
        """Return a number above zero."""
        return self.get(name, positive)

    def count(self, name: str) -> int | None:
        """Return a whole number above zero."""
        return self.get(name, count)

    def numbers(self, name: str, *sizes: int) -> np.ndarray | None:
        """Return a list of numbers, of one of the sizes where any are given."""
        values = self.get(name, numbers)
        if values is not None and sizes and values.size not in sizes:
            wanted = " or ".join(map(str, sorted(set(sizes))))
            raise FormatError(f"{self.path}: {name}= has {values.size} entries, expected {wanted}")
        return values

    def text(self, name: str) -> str | None:
        """Return a text."""
        return self.get(name, text)

    def choice(self, name: str, *choices: str) -> str | None:
        """Return one of several words."""
        return self.get(name, one_of({word.lower(): word for word in choices}))

    def flag(self, name: str) -> bool | None:
        """Return True for yes, False for no."""
        return self.get(name, lambda value: one_of(_YES)(str(value)))

    def pixel_size(self) -> tuple[float, float] | None:
        """Return (bin, row) mm."""
        values = self.numbers("pixel_size", 1, 2)
        if values is not None and values.min() <= 0:
            raise FormatError(f"{self.path}: pixel_size= must be positive mm, got {values.tolist()}")
        return None if values is None else (float(values[0]), float(values[-1]))


def check_names(overrides: Mapping[str, object], known: Collection[str]) -> None:
    """Raise TypeError for names that the reader does not know."""
    for name in overrides:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}=?" if close else f"choose from {', '.join(known)}"
            raise TypeError(f"reading DICOM of nuclear medicine takes no argument {name}=; {hint}")
