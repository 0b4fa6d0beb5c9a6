"""NM images of scans: projections, gates, time frames, several beds and planar images, as cameras write them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import BedScan, SPECTGeometry, Study

from ..attributes import FilePath, lenient
from ..units import real_world_mapping
from ..writing import code_item, decimal, new_folder, save
from .writing_frames import Acquisition, AnyScan, Frames, Orbit, Rotation, acquisition_of, frames_of, stored
from .writing_habits import NMHabits, habits_of
from .writing_modules import (
    ascii_text,
    energy_windows,
    image_pixel,
    item,
    milliseconds,
    patient_and_study,
    put,
    series_and_equipment,
    tracer,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_TABLE = 1000.0  # mm, the table position where the scan's own z = 0 lies in the centre of the detectors
_GE = "GEMS_GENIE_1"
_POINTERS = {
    "TOMO": ("window", "detector", "rotation", "view"),
    "GATED TOMO": ("window", "detector", "rotation", "interval", "slot", "view"),
    "DYNAMIC": ("window", "detector", "phase", "slice"),
    "GATED": ("window", "detector", "interval", "slot"),
    "STATIC": ("window", "detector"),
    "WHOLE BODY": ("window", "detector"),
}
_VECTORS = {
    "window": ("EnergyWindowVector", "NumberOfEnergyWindows"),
    "detector": ("DetectorVector", "NumberOfDetectors"),
    "phase": ("PhaseVector", "NumberOfPhases"),
    "rotation": ("RotationVector", "NumberOfRotations"),
    "interval": ("RRIntervalVector", "NumberOfRRIntervals"),
    "slot": ("TimeSlotVector", "NumberOfTimeSlots"),
    "view": ("AngularViewVector", None),
    "slice": ("TimeSliceVector", None),
}
# x, y, z of the gantry along the patient's axes: L, P, H of a patient who lies head first and supine
_GANTRY = {"HFS": (1, 1, 1), "HFP": (-1, -1, 1), "FFS": (-1, 1, -1), "FFP": (1, -1, -1)}


def write_dicom_nm(
    path: FilePath,
    scan: AnyScan,
    *,
    vendor: str | None = None,
    kind: str | None = None,
    description: str | None = None,
    rescale: bool = False,
    heart_rate: float = 60.0,
    overwrite: bool = True,
    **habits: object,
) -> None:
    """Write SPECT projections as the DICOM NM file that a camera would write: for tests, simulations and exchange.

    Args:
        path : the file; where `beds="files"`, the folder of one file per bed, 0001.dcm, 0002.dcm, ... from the feet up.
        scan : `Scan` and `WindowedScan` give TOMO, or STATIC where each head has one view; `BedScan` one rotation for
            each bed, with its TableTraverse; `GatedScan` GATED TOMO (GATED); `DynamicScan` TOMO with one rotation for
            each frame, or DYNAMIC where each head has one view; `WindowedSeries` these in several windows. Without
            background and factors: files hold counts.
        vendor : "siemens", "ge", "philips", "mediso" or "spectrum" write it with that maker's `VENDOR_HABITS`; None
            follows the standard.
        kind : value 3 of ImageType where it is not the one above: "WHOLE BODY" for "STATIC".
        description : SeriesDescription; default, the scan's.
        rescale : allow counts that are not whole numbers or beyond 65535: rounded to steps of the largest / 65535, with
            a RealWorldValueMappingSequence that says so.
        heart_rate : beats per minute of gates.
        habits : fields of `NMHabits` that differ, such as radial_position="missing".

    Conventions: frames show the patient's head up, columns run along u (see `SPECTGeometry`); StartAngle is 0 at the
    patient's back and grows counter-clockwise seen from the feet. Each head is a detector with its own StartAngle,
    RadialPosition (one number per view; of several rotations one after another) and CenterOfRotationOffset (positive
    where the axis is to the right of the image's centre: minus `shift`). ImagePositionPatient is in the coordinates of
    `study.frame_of_reference`, by `study.placement`; without one it is left out. TableTraverse grows as the table moves
    in: z = z0 - TableTraverse head first, z0 + TableTraverse feet first, in one file and over several. Durations are
    whole ms: of a view, of a frame of DYNAMIC; that of the view is shared equally by the gates
    unless TimeSlotTime has that of each gate in one view.

    Raises ValueError for what an NM file cannot hold: counts as above, views of a head that are not equally spaced,
    heads that turn unlike, an `axial_shift` without placement, frames with gaps in a dynamic TOMO; OSError naming the
    file that cannot be written.

    Source: DICOM PS3.3, A.5 and C.8.4.
    """
    chosen = habits_of(vendor, habits)
    if isinstance(scan, BedScan) and chosen.beds == "files":
        with lenient(), new_folder(path, overwrite) as folder:
            shared = [_dataset(acquisition_of(bed, kind), chosen, description, rescale, heart_rate) for bed in scan]
            for k, dataset in enumerate(shared, 1):
                for name in ("StudyInstanceUID", "FrameOfReferenceUID"):
                    setattr(dataset, name, shared[0][name].value)
                dataset.InstanceNumber = k
                save(dataset, folder / f"{k:04d}.dcm")
        return
    acquisition = acquisition_of(scan, kind)
    with lenient():
        save(_dataset(acquisition, chosen, description, rescale, heart_rate), path, overwrite)


def _dataset(
    acquisition: Acquisition, habits: NMHabits, description: str | None, rescale: bool, heart_rate: float
) -> Dataset:
    from pydicom.dataset import Dataset

    scan, study = acquisition.scan, acquisition.scan.study or Study()
    geometry = acquisition.rotations[0].geometry
    _check_place(acquisition, study)
    frames = frames_of(acquisition, habits, _turns(study, habits))
    pixels, step = stored(frames.pixels, rescale)
    size = habits.zoom if habits.pixel_spacing == "before zoom" else 1.0
    du, dz = geometry.pixel_size
    text = description if description is not None else getattr(scan, "description", "") or acquisition.kind
    made = Dataset()
    put(made, patient_and_study(study, habits.patient_position))
    put(
        made,
        series_and_equipment(
            study, ascii_text(text), study.manufacturer or habits.manufacturer, study.model or habits.model
        ),
    )
    put(made, image_pixel(pixels.shape[1], pixels.shape[2], (dz * size, du * size), len(pixels)))
    put(made, _vectors(acquisition, frames))
    put(made, _image(acquisition, pixels, step))
    made.EnergyWindowInformationSequence = energy_windows(acquisition.windows)
    made.RadiopharmaceuticalInformationSequence = tracer(study, scan.radionuclide, habits.dose_unit)
    made.DetectorInformationSequence = _detectors(acquisition, study, habits)
    if "TOMO" in acquisition.kind:
        made.RotationInformationSequence = _rotations(acquisition, study, habits)
        made.TypeOfDetectorMotion = "STEP AND SHOOT"
    if "GATED" in acquisition.kind:
        made.GatedInformationSequence = [_gates(acquisition, heart_rate)]
        made.TriggerSourceOrType = "EKG"
    if acquisition.kind == "DYNAMIC":
        made.PhaseInformationSequence = _phases(acquisition)
    if habits.radius_offset:
        _put_radius_offset(made, acquisition, habits.radius_offset)
    made.PixelData = np.ascontiguousarray(pixels).tobytes() + b"\0" * (pixels.nbytes % 2)
    made["PixelData"].VR = "OW"
    return made


def _check_place(acquisition: Acquisition, study: Study) -> None:
    shift = acquisition.rotations[0].geometry.axial_shift
    if study.placement is None and shift and not acquisition.moved and not isinstance(acquisition.scan, BedScan):
        raise ValueError(
            f"write_dicom_nm: where an axial_shift of {shift:g} mm lies is not known without a placement; give the "
            "scan a Study(placement=(0, 0, 0))"
        )


def _vectors(acquisition: Acquisition, frames: Frames) -> dict[str, object]:
    """The module NM Multi-frame."""
    from pydicom.datadict import tag_for_keyword

    names = _POINTERS[acquisition.kind]
    made: dict[str, object] = {"FrameIncrementPointer": [tag_for_keyword(_VECTORS[name][0]) for name in names]}
    for name in names:
        vector, number = _VECTORS[name]
        made[vector] = frames.vectors[name].tolist()
        if number:
            made[number] = int(frames.vectors[name].max())
    return made


def _image(acquisition: Acquisition, pixels: np.ndarray, step: float) -> dict[str, object]:
    """The modules General Image and NM Image."""
    total = int(pixels.sum(dtype=np.int64))
    rotation = acquisition.rotations[0]
    still = acquisition.kind in ("STATIC", "WHOLE BODY")
    return {
        "ImageType": ["ORIGINAL", "PRIMARY", acquisition.kind, "EMISSION"],
        "LossyImageCompression": "00",
        "CountsAccumulated": total if step == 1 and total < 2**31 else "",
        "AcquisitionTerminationCondition": "TIME",
        "ActualFrameDuration": milliseconds(rotation.seconds)
        if still and rotation.seconds
        else ("" if still else None),
        "ScanVelocity": "" if acquisition.kind == "WHOLE BODY" else None,
        "ScanLength": "" if acquisition.kind == "WHOLE BODY" else None,
        "RealWorldValueMappingSequence": None
        if step == 1
        else [real_world_mapping(step, 0, int(pixels.max()), "counts")],
    }


def _duration(rotation: Rotation) -> int:
    if rotation.seconds is None:
        raise ValueError("write_dicom_nm: an NM file needs the seconds of a view; give the scan its duration")
    return max(1, milliseconds(rotation.seconds))


# ---- where heads and rotations are -----------------------------------------------------------------------------------


def _turns(study: Study, habits: NMHabits) -> bool:
    """Whether images show the feet up: a gantry does not know which way a patient lies."""
    return habits.axes == "gantry" and _gantry(study)[2] < 0


def _gantry(study: Study) -> tuple[int, int, int]:
    position = study.patient_position or "HFS"
    if position not in _GANTRY:
        raise ValueError(f"write_dicom_nm: axes of the gantry are known for {', '.join(_GANTRY)}, not for {position}")
    return _GANTRY[position]


def _file_angle(angle: float, study: Study, habits: NMHabits) -> float:
    """StartAngle of a patient's gantry angle."""
    if habits.axes == "gantry":
        x, y, _ = _gantry(study)
        a = np.deg2rad(angle)
        angle = float(np.rad2deg(np.arctan2(x * np.sin(a), y * np.cos(a))))
    angle += habits.zero_angle
    return float(np.round(angle % 360, 9) % 360)


def _clockwise(step: float, study: Study, habits: NMHabits) -> bool:
    turns = habits.axes == "gantry" and _gantry(study)[0] * _gantry(study)[1] < 0
    return (step < 0) ^ turns ^ (habits.rotation_direction == "reversed")


def _detectors(acquisition: Acquisition, study: Study, habits: NMHabits) -> list[Dataset]:
    """The items of DetectorInformationSequence."""
    tomo = "TOMO" in acquisition.kind
    first = acquisition.rotations[0]
    stacked = habits.detectors == "stacked"
    items = []
    for d, orbit in enumerate(first.orbits[:1] if stacked else first.orbits):
        radii = [_radii(rotation, None if stacked else d) for rotation in _turned(acquisition)]
        made = item(
            CollimatorGridName=(study.collimator or "")[:16] or None,
            CollimatorType="PARA",
            FocalDistance=0,
            ZoomFactor=[decimal(habits.zoom)] * 2,
            CenterOfRotationOffset=decimal(0.0 + (orbit.shift if _turns(study, habits) else -orbit.shift)),
            StartAngle=decimal(_file_angle(orbit.start, study, habits))
            if habits.start_angle == "detector" or not tomo
            else None,
            RadialPosition=_radial_position(np.concatenate(radii), habits)
            if habits.radial_position == "detector"
            else None,
            **_place(first.geometry, orbit, study, habits, tomo),
        )
        if not tomo:
            made.ViewCodeSequence = _view_code(orbit.start)
        items.append(made)
    return items


def _turned(acquisition: Acquisition) -> tuple[Rotation, ...]:
    """The rotations whose radii differ: time frames share theirs."""
    return acquisition.rotations if acquisition.moved else acquisition.rotations[:1]


def _radii(rotation: Rotation, d: int | None) -> np.ndarray:
    orbits = rotation.orbits if d is None else rotation.orbits[d : d + 1]
    return np.concatenate([orbit.radius for orbit in orbits])


def _radial_position(radii: np.ndarray, habits: NMHabits) -> object:
    radii = radii - habits.radius_offset
    return decimal(float(radii.mean())) if habits.radii == "average" else [decimal(radius) for radius in radii.tolist()]


def _put_radius_offset(made: Dataset, acquisition: Acquisition, offset: float) -> None:
    """What GE workstations note beside RadialPosition: triples per view of all heads, the last one mm to add to it."""
    radii = np.concatenate([_radii(rotation, None) for rotation in _turned(acquisition)])
    xeleris = item()
    xeleris.private_block(0x0013, _GE, create=True).add_new(0x1E, "FD", [0.0, 0.0, offset] * radii.size)
    made.private_block(0x0055, _GE, create=True).add_new(0x22, "SQ", [xeleris])


def _place(geometry: SPECTGeometry, orbit: Orbit, study: Study, habits: NMHabits, tomo: bool) -> dict[str, object]:
    """ImagePositionPatient and ImageOrientationPatient of a detector."""
    if study.placement is None or habits.image_position == "missing":
        return {"ImagePositionPatient": [], "ImageOrientationPatient": []}
    (nu, nz), (du, dz) = geometry.n_bins, geometry.pixel_size
    a = np.deg2rad(orbit.start)
    normal, along = np.array([np.sin(a), np.cos(a), 0.0]), np.array([-np.cos(a), np.sin(a), 0.0])
    up, centre = np.array([0.0, 0.0, 1.0]), np.array([*study.placement[:2], study.placement[2] + geometry.axial_shift])
    sign = -1.0 if _turns(study, habits) else 1.0
    width, height = sign * (nu - 1) / 2 * du, sign * (nz - 1) / 2 * dz
    axes = (along, -up)
    if habits.image_position == "face" or not tomo:
        first = centre + orbit.radius[0] * normal + (orbit.shift - width) * along + height * up
    elif habits.image_position == "corner":
        first = centre + np.array([-width, -(nu - 1) / 2 * du, height])
        axes = (np.array([1.0, 0.0, 0.0]), -up)
    else:
        first = np.array([centre[0], 0.0, centre[2] + height])
        axes = (np.array([1.0, 0.0, 0.0]), -up)
    cosines = sign * np.concatenate(axes)
    return {
        "ImagePositionPatient": [decimal(float(value) + 0.0) for value in first],
        "ImageOrientationPatient": [decimal(float(value) + 0.0) for value in np.round(cosines, 9)],
    }


def _view_code(angle: float) -> list[Dataset]:
    """The projection of a planar image, where it has a name."""
    from pydicom.sr.codedict import codes

    names = {
        0: codes.cid26.PosteriorProjection,
        90: codes.cid26.LeftLateralEmissiveProjection,
        180: codes.cid26.AnteriorProjection,
        270: codes.cid26.RightLateralEmissiveProjection,
    }
    nearest = round(angle / 90) * 90
    return [code_item(names[nearest % 360])] if abs(angle - nearest) < 1e-6 else []


def _rotations(acquisition: Acquisition, study: Study, habits: NMHabits) -> list[Dataset]:
    """The items of RotationInformationSequence."""
    items = []
    for rotation in acquisition.rotations:
        if habits.detectors == "rotations":
            items += [_rotation(acquisition, rotation, d, study, habits) for d in range(len(rotation.orbits))]
        else:
            items.append(_rotation(acquisition, rotation, None, study, habits))
    return items


def _rotation(acquisition: Acquisition, rotation: Rotation, d: int | None, study: Study, habits: NMHabits) -> Dataset:
    """One rotation, of all heads (d None) or of one."""
    orbit = rotation.orbits[d or 0]
    stacked, n = habits.detectors == "stacked", orbit.views.size
    step = abs(orbit.step)
    n_frames = n * len(rotation.orbits) if stacked else n
    radii = _radii(rotation, 0 if d is None and not stacked else d)
    return item(
        StartAngle=decimal(_file_angle(orbit.start, study, habits)),
        AngularStep=decimal(step),
        RotationDirection="CW" if _clockwise(orbit.step, study, habits) else "CC",
        ScanArc=decimal(step * (n_frames - 1) if stacked else step * n),
        ActualFrameDuration=_duration(rotation),
        RadialPosition=_radial_position(radii, habits) if habits.radial_position == "rotation" else None,
        NumberOfFramesInRotation=n_frames,
        TableTraverse=decimal(_traverse(rotation.geometry, study)),
        TableHeight=decimal(0.0 - study.placement[1])
        if habits.image_position == "centre" and study.placement is not None
        else None,
    )


def _traverse(geometry: SPECTGeometry, study: Study) -> float:
    """TableTraverse: the further a head-first patient is moved in, the nearer to the feet is what is seen."""
    feet_first = (study.patient_position or "HFS").startswith("FF")
    return _TABLE + (geometry.axial_shift if feet_first else -geometry.axial_shift)


def _gates(acquisition: Acquisition, heart_rate: float) -> Dataset:
    """The item of GatedInformationSequence, of one R-R interval."""
    interval, n = 60_000 / heart_rate, len(acquisition.slot_seconds)
    # gates of one duration need no list; dciodvfy, which looks for the pointer in the item, takes it for an error
    alike = np.allclose(acquisition.slot_seconds, acquisition.slot_seconds[0], rtol=1e-6)
    slots = None if alike else [item(TimeSlotTime=decimal(1000 * seconds)) for seconds in acquisition.slot_seconds]
    data = item(FrameTime=decimal(interval / n), NominalInterval=round(interval), TimeSlotInformationSequence=slots)
    return item(DataInformationSequence=[data])


def _phases(acquisition: Acquisition) -> list[Dataset]:
    """The items of PhaseInformationSequence."""
    return [
        item(
            PhaseDelay=milliseconds(gap),
            ActualFrameDuration=milliseconds(seconds),
            PauseBetweenFrames=0,
            NumberOfFramesInPhase=n,
        )
        for n, seconds, gap in acquisition.phases
    ]
