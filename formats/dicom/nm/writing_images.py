"""NM images of reconstructions: RECON TOMO, and RECON GATED TOMO of gates, as multi-frame files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid, Study

from ..units import real_world_mapping
from ..writing import decimal, derivation, when
from .writing_modules import (
    energy_windows,
    image_pixel,
    item,
    patient_and_study,
    put,
    series_and_equipment,
    tracer,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_BEAT = 1000.0  # ms of an R-R interval, where nothing says how long it is


@dataclass(frozen=True)
class ReconFacts:
    """What an NM image of a reconstruction says besides its values.

    Args:
        unit : of the values.
        method, description : for DerivationDescription and SeriesDescription.
        radionuclide, energy_window : of the scan.
        duration : s, of the scan or frame, or None.
        corrections : terms of CorrectedImage.
        begin : when the scan or frame began.
        gates : s of each gate, empty for an image (x, y, z).
    """

    unit: str
    method: str = ""
    description: str = ""
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    duration: float | None = None
    corrections: tuple[str, ...] = ()
    begin: datetime | None = None
    gates: Sequence[float] = ()


def recon_dataset(values: np.ndarray, grid: ImageGrid, study: Study, facts: ReconFacts) -> Dataset:
    """Return the file of an image (x, y, z), or of gates (G, x, y, z), on a grid in the patient's axes.

    Slices run from the feet up.  stored = values / step, rounded; the step is the largest magnitude / 65535, / 32767
    where there are negative values.
    """
    from pydicom.dataset import Dataset

    gates = values.reshape(-1, *grid.shape)
    stored, step = _stored(gates)
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.voxel_size
    made = Dataset()
    put(made, patient_and_study(study))
    put(made, series_and_equipment(study, facts.description, "emrecon", "emrecon"))
    put(made, {**when("Acquisition", facts.begin), **when("Content", datetime.now()), "SeriesNumber": 1000})
    put(made, image_pixel(ny, nx, (dy, dx), len(gates) * nz))
    signed, lowest = stored.dtype.kind == "i", int(stored.min(initial=0))
    put(
        made,
        {
            "PixelRepresentation": int(signed),
            **_vectors(len(gates), nz, gated=bool(facts.gates)),
            "ImageType": ["DERIVED", "PRIMARY", "RECON GATED TOMO" if facts.gates else "RECON TOMO", "EMISSION"],
            "DerivationDescription": derivation(grid, _method(facts)),
            "LossyImageCompression": "00",
            "CountsAccumulated": "",
            "AcquisitionDuration": facts.duration,
            "CorrectedImage": list(facts.corrections) or None,
            "SpacingBetweenSlices": decimal(dz),
            "SliceThickness": decimal(dz),
            # what many viewers look at, besides the mapping that the standard has
            "RescaleIntercept": "0",
            "RescaleSlope": decimal(step),
            "RealWorldValueMappingSequence": [real_world_mapping(step, lowest, int(stored.max(initial=0)), facts.unit)],
            "EnergyWindowInformationSequence": energy_windows((("photopeak", facts.energy_window),)),
            "RadiopharmaceuticalInformationSequence": tracer(study, facts.radionuclide),
            "DetectorInformationSequence": [_place(grid, study)],
            "RotationInformationSequence": [],
        },
    )
    if facts.gates:
        made.GatedInformationSequence = [_gates(len(facts.gates))]
        made.TriggerSourceOrType = "EKG"
    made.PixelData = np.ascontiguousarray(stored.transpose(0, 3, 2, 1)).tobytes()
    made["PixelData"].VR = "OW"
    return made


def _method(facts: ReconFacts) -> str:
    """What was done; NM files have no place for the times of gates of a reconstruction."""
    gates = f"gates of {', '.join(f'{seconds:g}' for seconds in facts.gates)} s" if facts.gates else ""
    return ", ".join(filter(None, (facts.method, gates)))


def _stored(values: np.ndarray) -> tuple[np.ndarray, float]:
    signed = bool((values < 0).any())
    most = 32767 if signed else 65535
    largest = float(np.abs(values).max(initial=0.0))
    # the step is rounded to the decimal of the file first, so what is read is off by half a step at most
    step = float(decimal(max(largest / most, float(np.finfo(np.float64).tiny))) or 1) if largest else 1.0
    stored = np.clip(np.rint(values / step), -most, most)
    return stored.astype("<i2" if signed else "<u2"), step


def _vectors(n_gates: int, n_slices: int, gated: bool) -> dict[str, object]:
    """The module NM Multi-frame."""
    slices = list(range(1, n_slices + 1)) * n_gates
    numbers: dict[str, object] = {"NumberOfEnergyWindows": 1, "NumberOfDetectors": 1, "NumberOfRotations": 1}
    numbers |= {"SliceVector": slices, "NumberOfSlices": n_slices}
    if not gated:
        return {"FrameIncrementPointer": [0x00540080], **numbers}
    return {
        "FrameIncrementPointer": [0x00540060, 0x00540070, 0x00540080],
        "RRIntervalVector": [1] * len(slices),
        "NumberOfRRIntervals": 1,
        "TimeSlotVector": np.repeat(np.arange(1, n_gates + 1), n_slices).tolist(),
        "NumberOfTimeSlots": n_gates,
        **numbers,
    }


def _place(grid: ImageGrid, study: Study) -> Dataset:
    """The item of DetectorInformationSequence, which has the place of the first slice."""
    return item(
        CollimatorGridName=(study.collimator or "")[:16] or None,
        CollimatorType="PARA",
        FocalDistance=0,
        ImagePositionPatient=[decimal(value) for value in grid.origin],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
    )


def _gates(n: int) -> Dataset:
    """The item of GatedInformationSequence."""
    return item(DataInformationSequence=[item(FrameTime=decimal(_BEAT / n))])


def moment_of_frame(begin: datetime | None, seconds: float) -> datetime | None:
    """Return when a frame began that starts `seconds` after the scan."""
    return None if begin is None else begin + timedelta(seconds=seconds)
