"""Reconstructed images as DICOM: NM for SPECT and PT for PET, in the patient's axes, with the facts of their study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    GatedScan,
    ImageGrid,
    Scan,
    ScanSeries,
    SPECTGeometry,
    Study,
    WindowedScan,
    WindowedSeries,
    peak_window,
)
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.files import check_target

from ..times import ImageTimes
from .attributes import FilePath, lenient
from .facts import PETFacts, known_half_life
from .nm.writing_images import ReconFacts, moment_of_frame, recon_dataset
from .units import image_unit
from .writing import check_folder, decimal, new_folder, put_slice, save, series_dataset, when, writable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

AnyScan = Scan | WindowedScan | WindowedSeries | BedScan | ScanSeries
KINDS = ("NM", "PT")
_DECAY = {"none": "NONE", "start": "START", "time": "START", "injection": "ADMIN"}
_BEAT = 1000.0  # ms of an R-R interval, where nothing says how long it is


@dataclass(frozen=True)
class ImageFacts:
    """What a DICOM image says besides its values and grid; all of it may be left out.

    Args:
        kind : "NM" (SPECT) or "PT" (PET).
        study : of the scan: patient, study, tracer, times and frame of reference go with the image.
        unit : of the values: "counts", "Bq/mL", "SUV", "1/cm", "Gy", ...
        method : how it was made, for DerivationDescription: "OSEM, 8 subsets, 4 iterations, attenuation".
        description : SeriesDescription.
        radionuclide : a name that `isotope` knows.
        energy_window : (lower, upper) keV of SPECT.
        duration : s of the whole scan.
        corrections : terms of CorrectedImage: "ATTN", "SCAT", "DTIM", "RAN", "NORM", ...; DECY is added where the
            values are decay corrected.
        decay_to : "none" (mean activity during the scan), "start", "injection" or "time", as `recon.Quantity` has it.
        reference : that moment, where it is known.
        times : `ImageTimes` of frames or gates.

    Raises ValueError for unknown kinds, units and moments.
    """

    kind: str = "NM"
    study: Study | None = None
    unit: str = "counts"
    method: str = ""
    description: str = ""
    radionuclide: str | None = None
    energy_window: tuple[float, float] | None = None
    duration: float | None = None
    corrections: tuple[str, ...] = ()
    decay_to: str = "none"
    reference: datetime | None = None
    times: ImageTimes | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r} of DICOM image; choose from {', '.join(KINDS)}")
        image_unit(self.unit)
        if self.decay_to not in _DECAY:
            raise ValueError(f"unknown decay_to {self.decay_to!r}; choose from {', '.join(_DECAY)}")

    @classmethod
    def of(cls, scan: AnyScan) -> Self:
        """Return what a scan says of the images that are made of it: kind, study, tracer, duration and times."""
        first = scan.beds[0] if isinstance(scan, BedScan) else scan
        own = first.series[0] if isinstance(first, WindowedSeries) else first
        series = isinstance(own, ScanSeries)
        return cls(
            kind="NM" if isinstance(own.geometry, SPECTGeometry) else "PT",
            study=own.study,
            description=own.description,
            radionuclide=own.radionuclide,
            energy_window=_window(first),
            duration=_seconds(scan),
            times=ImageTimes.of(own) if series else None,  # type: ignore[arg-type]  # these are the two kinds
        )

    @property
    def is_folder(self) -> bool:
        """Whether the image is written as a folder of files: PT, and time frames of NM."""
        return self.kind == "PT" or (self.times is not None and self.times.starts is not None)

    def check_place(self, path: FilePath) -> None:
        """Raise OSError where the image cannot be written to a path, because of what is there."""
        if self.is_folder:
            check_folder(Path(path))
        else:
            check_target(path)

    @property
    def all_corrections(self) -> tuple[str, ...]:
        """The terms of CorrectedImage, with DECY where it belongs."""
        own = tuple(term for term in self.corrections if term != "DECY")
        return own if self.decay_to == "none" else (*own, "DECY")


def _window(scan: Scan | WindowedScan | WindowedSeries | ScanSeries) -> tuple[float, float] | None:
    """The limits of the photopeak window, None where they are not known."""
    if not isinstance(scan, (WindowedScan, WindowedSeries)):
        return scan.energy_window
    with suppress(ValueError):
        return peak_window(scan).limits
    return None


def _seconds(scan: AnyScan) -> float | None:
    """How long a scan took, None where nothing says so."""
    if isinstance(scan, WindowedSeries):
        return _seconds(scan.series[0])
    if isinstance(scan, BedScan):
        parts = [_seconds(bed) for bed in scan]
        return None if None in parts else sum(filter(None, parts))
    if isinstance(scan, GatedScan):
        return float(scan.seconds.mean(1).sum()) * _per_head(scan)
    if isinstance(scan, DynamicScan):
        return float(scan.frames.durations.sum())
    seconds = None if isinstance(scan, ScanSeries) else scan.duration  # of which there are the two above
    return None if seconds is None else seconds * _per_head(scan)


def _per_head(scan: Scan | WindowedScan | ScanSeries) -> int:
    """How many views a head takes one after another; a PET scanner measures all at once."""
    camera = scan.geometry
    return int(np.unique(camera.head, return_counts=True)[1].max()) if isinstance(camera, SPECTGeometry) else 1


def write_dicom_image(
    path: FilePath,
    image: Array,
    grid: ImageGrid,
    *,
    facts: ImageFacts | None = None,
    overwrite: bool = True,
    **changes: object,
) -> None:
    """Write a reconstructed image as DICOM.

    Args:
        path : NM: one multi-frame file (of time frames a folder with one file each). PT: a folder with one file per
            slice, because PET Image Storage has one frame per file. 3D Slicer and dcm2niix read both.
        image : (x, y, z), or frames or gates (F, x, y, z) with `times`.
        grid : in the scan's own coordinates, which `study.placement` puts into the patient's; without a study, or
            without a placement, it is taken for the patient's LPS axes.
        facts : what there is to say, `ImageFacts`; `ImageFacts.of(scan)` says what the scan does.
        changes : fields of `ImageFacts` that differ: study=scan.study, kind="PT", unit="Bq/mL", method="OSEM", ...

    NM files are RECON TOMO, gates RECON GATED TOMO, slices from the feet up. Values have 16 bits: they are rounded by
    at most half a step of the image's largest magnitude / 65535 (/ 32767 where there are negative values); for PT the
    same by slice. The step stands in RealWorldValueMappingSequence, with the unit, and in RescaleSlope, which viewers
    look for: use one of them. Series and images get new UIDs. A folder that exists is replaced only where it holds
    nothing but such files.

    Raises ValueError where image, grid and times do not fit, for values that are not finite, and for units that PET
    has no term for; OSError naming the file that cannot be written.

    Source: DICOM PS3.3, A.5, A.21, C.8.4.15 and C.8.9.
    """
    facts = replace(facts or ImageFacts(), **changes)  # type: ignore[arg-type]  # checked by ImageFacts
    study = facts.study or Study()
    parts = _parts(image, grid, facts.times)
    x, y, z = study.placement or (0.0, 0.0, 0.0)
    placed = ImageGrid(grid.shape, grid.voxel_size, (grid.origin[0] + x, grid.origin[1] + y, grid.origin[2] + z))
    with lenient():
        if facts.kind == "PT":
            _write_folder(path, _pet_slices(parts, placed, study, facts), overwrite)
        elif facts.times is None or not facts.is_folder:
            save(_nm(parts, placed, study, facts, study.start, facts.duration), path, overwrite)
        else:
            _write_folder(path, _nm_frames(parts, placed, study, facts, facts.times), overwrite)


def _parts(image: Array, grid: ImageGrid, times: ImageTimes | None) -> np.ndarray:
    """The image as (F, x, y, z) float64."""
    values = np.asarray(to_numpy(image))
    if times is None:
        return writable(values, grid, "write_dicom_image")[None]
    if values.shape != (len(times), *grid.shape):
        raise ValueError(
            f"write_dicom_image: an image of shape {values.shape} does not fit {times} on a grid of {grid.shape}"
        )
    return np.stack([writable(part, grid, "write_dicom_image") for part in values])


def _write_folder(path: FilePath, datasets: Iterator[Dataset], overwrite: bool) -> None:
    with new_folder(path, overwrite) as folder:
        for number, dataset in enumerate(datasets, 1):
            save(dataset, folder / f"{number:04d}.dcm")


# ---- NM --------------------------------------------------------------------------------------------------------------


def _nm(
    parts: np.ndarray, grid: ImageGrid, study: Study, facts: ImageFacts, begin: datetime | None, seconds: float | None
) -> Dataset:
    gates = facts.times.durations if facts.times is not None and facts.times.starts is None else ()
    about = ReconFacts(
        facts.unit,
        facts.method,
        facts.description,
        facts.radionuclide,
        facts.energy_window,
        seconds,
        facts.all_corrections,
        begin,
        gates,
    )
    return recon_dataset(parts if gates else parts[0], grid, study, about)


def _nm_frames(
    parts: np.ndarray, grid: ImageGrid, study: Study, facts: ImageFacts, times: ImageTimes
) -> Iterator[Dataset]:
    """A file for each frame, all of one series."""
    first: Dataset | None = None
    for number, (part, start, seconds) in enumerate(zip(parts, times.starts or (), times.durations), 1):
        made = _nm(part[None], grid, study, facts, moment_of_frame(study.start, start), seconds)
        made.InstanceNumber = made.AcquisitionNumber = number
        first = first or made
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(made, name, first[name].value)
        yield made


# ---- PT --------------------------------------------------------------------------------------------------------------


def _pet_slices(parts: np.ndarray, grid: ImageGrid, study: Study, facts: ImageFacts) -> Iterator[Dataset]:
    """A file for each slice, frames or gates one after another."""
    about, n_slices, times = _pet_facts(study, facts), grid.shape[2], facts.times
    shared = series_dataset(about, grid, bool((parts < 0).any()), facts.method)
    signed = bool(shared.PixelRepresentation)
    for p, part in enumerate(parts):
        if times is not None:
            _put_part(shared, p, times, about)
        for k in range(n_slices):
            put_slice(shared, part[:, :, k], grid, k, signed)
            shared.InstanceNumber = shared.ImageIndex = p * n_slices + k + 1
            yield shared


def _put_part(shared: Dataset, p: int, times: ImageTimes, about: PETFacts) -> None:
    """The times of frame or gate p."""
    if times.starts is None:
        shared.SeriesType = ["GATED", "IMAGE"]
        shared.NumberOfRRIntervals, shared.NumberOfTimeSlots = 1, len(times)
        before = sum(times.durations[:p]) / sum(times.durations)
        shared.TriggerTime = decimal(_BEAT * before)
        shared.FrameTime = decimal(_BEAT * times.durations[p] / sum(times.durations))
        shared.BeatRejectionFlag = ""
        shared.ActualFrameDuration = round(1000 * times.durations[p])
        return
    shared.SeriesType = ["DYNAMIC", "IMAGE"]
    shared.NumberOfTimeSlices = len(times)
    begin = (about.frame_start or datetime.now()) + timedelta(seconds=times.starts[p])
    for name, value in when("Acquisition", begin).items():
        setattr(shared, name, value)
    seconds = times.durations[p]
    frame = replace(about, frame_start=begin, frame_duration=seconds)
    own = series_dataset(frame, ImageGrid((1, 1, 1), (1.0, 1.0, 1.0)), False)
    shared.ActualFrameDuration = round(1000 * seconds)
    shared.FrameReferenceTime = own.FrameReferenceTime
    if "DecayFactor" in own:
        shared.DecayFactor = own.DecayFactor


def _pet_facts(study: Study, facts: ImageFacts) -> PETFacts:
    unit = image_unit(facts.unit)
    if unit.pet is None:
        raise ValueError(f"write_dicom_image: PET images have no term for the unit {facts.unit!r}; write kind='NM'")
    start = study.start or datetime.now()
    decay = _DECAY[facts.decay_to]
    attributes = {name: value for name, value in study.attributes.items() if name != "PatientPosition"}
    if study.frame_of_reference:
        attributes["FrameOfReferenceUID"] = study.frame_of_reference
    return PETFacts(
        units=unit.pet,
        suv_type=unit.suv_type,
        decay_correction=decay,
        corrections=facts.all_corrections,
        radionuclide=facts.radionuclide,
        half_life=known_half_life(facts.radionuclide),
        injected_dose=study.injected,
        injection_time=study.injection,
        series_time=start,
        acquisition_time=start,
        frame_start=start,
        frame_duration=facts.duration,
        decay_reference=(facts.reference or start) if decay == "START" else None,
        weight=study.weight,
        height=study.height,
        sex=study.sex,
        patient_position=study.patient_position,
        series_description=facts.description,
        manufacturer=study.manufacturer,
        model=study.model,
        study=attributes,
    )
