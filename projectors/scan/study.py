"""What a file of a camera says besides the counts: patient, tracer, times, camera, and where all this lies in space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType

_POSITIONS = ("HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL")
_POSITIVE = ("injected", "weight", "height", "calibration")


@dataclass(frozen=True, eq=False)
class Study:
    """The circumstances of a scan, each None where the file does not say it.

    Args:
        placement : (x, y, z) mm in the patient's LPS axes, of the point (0, 0, 0) of the scan's own coordinates: a grid
            of the scan lies at its `origin` + placement.
        frame_of_reference : UID of the coordinates that placement is in; images with the same one are aligned.
        patient_position : DICOM's HFS, HFP, FFS, ... as the patient lay; the scan's axes are the patient's already.
        injected : MBq of activity at the time `injection`.
        injection : when it was injected, local time.
        start : when the acquisition began, local time.
        weight : kg.
        height : m.
        sex : "M", "F" or "O".
        collimator : its name in the file.
        manufacturer, model : of the camera.
        calibration : counts/s/MBq of one head, where the file holds it.
        attributes : DICOM keyword -> text of the patient and the study, to carry over to images; never printed.

    Raises ValueError for values out of range.
    """

    placement: tuple[float, float, float] | None = None
    frame_of_reference: str | None = None
    patient_position: str | None = None
    injected: float | None = None
    injection: datetime | None = None
    start: datetime | None = None
    weight: float | None = None
    height: float | None = None
    sex: str | None = None
    collimator: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    calibration: float | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.placement is not None:
            placement = tuple(float(value) for value in self.placement)
            if len(placement) != 3 or not all(map(math.isfinite, placement)):
                raise ValueError(f"Study placement must be three finite mm, got {self.placement}")
            object.__setattr__(self, "placement", placement)
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"Study {name} must be positive, got {value}")
        if self.patient_position is not None and self.patient_position not in _POSITIONS:
            raise ValueError(f"unknown patient position {self.patient_position!r}; choose from {', '.join(_POSITIONS)}")
        object.__setattr__(self, "attributes", MappingProxyType(dict(self.attributes)))

    def __reduce__(self) -> tuple[object, ...]:  # a read-only mapping cannot be pickled
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return _made, (values | {"attributes": dict(self.attributes)},)


def _made(values: dict[str, object]) -> Study:
    return Study(**values)  # type: ignore[arg-type]
