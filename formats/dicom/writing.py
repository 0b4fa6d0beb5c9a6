"""PET images as DICOM series: attributes, one file for each slice, and a folder that appears complete or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon import __version__
from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.files import atomic_path, cannot_write, temporary_beside

from .attributes import PET_STORAGE, FilePath
from .facts import PETFacts, radionuclide_code
from .suv import decay_reference_time, mean_activity_time, required_fact

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

EMPTY_WHERE_UNKNOWN = (
    *("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator"),
)


def writable(image: Array, grid: ImageGrid, who: str = "write_dicom_pet") -> np.ndarray:
    """Return an image as float64; raises ValueError for what cannot be written on the grid."""
    values = np.asarray(to_numpy(image))
    if values.shape != grid.shape:
        raise ValueError(f"{who}: an image of shape {values.shape} does not fit a grid of {grid.shape}; pass one frame")
    if values.dtype.kind not in "buif":
        raise ValueError(f"{who}: an image holds real numbers, got {values.dtype}")
    values = values.astype(np.float64)
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise ValueError(f"{who}: the image has values that are NaN, infinite or beyond float32")
    if max(grid.shape[:2]) > 65535:
        raise ValueError(f"{who}: DICOM has at most 65535 rows and columns, got {grid.shape[:2]}")
    return values


def derivation(grid: ImageGrid, method: str = "") -> str:
    """Return what was done to make an image, and its grid in full precision: decimals of DICOM are shorter."""
    sizes, origin = (" ".join(map(repr, numbers)) for numbers in (grid.voxel_size, grid.origin))
    place = f"image on a grid of {sizes} mm from {origin} mm"
    said = " ".join(method.split())
    if said and "emrecon" not in said:
        said += f", emrecon {__version__}"
    longest = 1022 - len(place)
    if len(said) > longest:
        said = f"{said[: longest - 4]} ..."
    return f"{said}; {place}" if said else place


def series_dataset(facts: PETFacts, grid: ImageGrid, signed: bool, method: str = "") -> Dataset:
    """Return what all slices share: the patient, study, series, equipment and geometry."""
    from pydicom.dataset import Dataset

    dataset = Dataset()
    values = _study_attributes(facts) | _series_attributes(facts) | _image_attributes(grid, signed, method)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    return dataset


def _study_attributes(facts: PETFacts) -> dict[str, object]:
    """The modules Patient, General Study, Patient Study and Frame of Reference."""
    from pydicom.uid import generate_uid

    attributes: dict[str, object] = dict.fromkeys(EMPTY_WHERE_UNKNOWN, "")
    attributes["StudyInstanceUID"], attributes["FrameOfReferenceUID"] = generate_uid(None), generate_uid(None)
    return {
        **attributes,
        **facts.study,
        "PatientSex": facts.sex or "",
        "PatientWeight": decimal(facts.weight),
        "PatientSize": decimal(facts.height),
        **patient_orientation(facts.patient_position),
        "Laterality": None if facts.study.get("BodyPartExamined") else "",
    }


def _series_attributes(facts: PETFacts) -> dict[str, object]:
    """The modules General Series, General Equipment, PET Series and PET Isotope, and the times of PET Image."""
    from pydicom.uid import generate_uid

    series_time, corrected = _series_time(facts), facts.decay_correction in ("START", "ADMIN")
    return {
        "Modality": "PT",
        "Manufacturer": "emrecon",
        "SoftwareVersions": __version__,
        "SeriesInstanceUID": generate_uid(None),
        "SeriesNumber": (facts.series_number or 0) + 1000,  # beside the series it comes from
        "SeriesDescription": (facts.series_description or "")[:64],
        **when("Series", series_time),
        **when("Acquisition", facts.frame_start),
        **when("Content", datetime.now()),
        "SeriesType": ["WHOLE BODY" if facts.series_type == "WHOLE BODY" else "STATIC", "IMAGE"],
        "Units": _known_units(facts),
        "SUVType": facts.suv_type,
        "CountsSource": "EMISSION",
        "CollimatorType": "NONE",
        "CorrectedImage": [*(c for c in facts.corrections if c != "DECY"), *(["DECY"] if corrected else [])],
        "DecayCorrection": facts.decay_correction or "NONE",
        "DecayFactor": decimal(_decay_factor(facts)) if corrected else None,
        "FrameReferenceTime": decimal(1000 * _frame_reference_time(facts, series_time)),
        "ActualFrameDuration": "" if facts.frame_duration is None else round(1000 * facts.frame_duration),
        "RadiopharmaceuticalInformationSequence": [_tracer_item(facts)],
    }


def _known_units(facts: PETFacts) -> str:
    """The units of the values; a PT image without them would be read as anything."""
    if not facts.units:
        raise ValueError(
            'write_dicom_pet: the units of the values are not known; pass units="BQML" or what they are in'
        )
    return facts.units


def _image_attributes(grid: ImageGrid, signed: bool, method: str) -> dict[str, object]:
    """The modules General Image, Image Plane, Image Pixel and SOP Common, as far as slices share them."""
    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.voxel_size
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": PET_STORAGE,
        "ImageType": ["DERIVED", "PRIMARY"],
        "DerivationDescription": derivation(grid, method),
        "LossyImageCompression": "00",
        "NumberOfSlices": nz,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [decimal(dy), decimal(dx)],
        "SliceThickness": decimal(dz),
        "SpacingBetweenSlices": decimal(dz),
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": ny,
        "Columns": nx,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "RescaleIntercept": "0",
    }


def put_slice(dataset: Dataset, values: np.ndarray, grid: ImageGrid, k: int, signed: bool) -> None:
    """Put slice k (columns, rows) into the dataset: stored = values / RescaleSlope, rounded."""
    from pydicom.uid import generate_uid

    largest = 32767 if signed else 65535
    slope = decimal(max(float(np.abs(values).max()) / largest, np.finfo(np.float64).tiny) if values.any() else 1.0)
    # the slope is rounded to 16 characters first, so the values that are read are off by half a step at most
    stored = np.clip(np.rint(values / float(slope or 1)), -largest, largest)
    x, y, z = grid.origin
    z += k * grid.voxel_size[2]
    dataset.SOPInstanceUID = generate_uid(None)
    dataset.InstanceNumber = dataset.ImageIndex = k + 1
    dataset.ImagePositionPatient = [decimal(x), decimal(y), decimal(z)]
    dataset.SliceLocation = decimal(z)
    dataset.RescaleSlope = slope
    dataset.PixelData = np.ascontiguousarray(stored.T).astype("<i2" if signed else "<u2").tobytes()
    dataset["PixelData"].VR = "OW"


def save(dataset: Dataset, path: FilePath, overwrite: bool = True) -> None:
    """Write a dataset as a file, complete or not at all: explicit little endian, identified as what it says it is."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.SOPClassUID)
    dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.SOPInstanceUID)
    with atomic_path(path, overwrite) as file:
        dataset.save_as(file, enforce_file_format=True)


def decimal(number: float | None) -> str | None:
    from pydicom.valuerep import format_number_as_ds

    return None if number is None else format_number_as_ds(float(number))


def when(what: str, moment: datetime | None) -> dict[str, str]:
    return {
        f"{what}Date": f"{moment:%Y%m%d}" if moment else "",
        f"{what}Time": f"{moment:%H%M%S.%f}" if moment else "",
    }


def _series_time(facts: PETFacts) -> datetime:
    """SeriesTime: with START it is what the values are corrected to, whatever notes the original series had of that."""
    if facts.decay_correction == "START":
        return decay_reference_time(facts)
    return facts.series_time or facts.acquisition_time or datetime.now()


def _frame_reference_time(facts: PETFacts, series_time: datetime) -> float:
    """Seconds from the series to the mean activity of the frame, as far as the facts tell."""
    with suppress(ValueError):
        return (mean_activity_time(facts) - series_time).total_seconds()
    return facts.frame_reference_time or 0.0


def _decay_factor(facts: PETFacts) -> float:
    """What the activity during the frame was multiplied by, as far as the facts tell."""
    with suppress(ValueError):
        elapsed = (mean_activity_time(facts) - decay_reference_time(facts)).total_seconds()
        return float(2 ** (elapsed / required_fact(facts.half_life, "half_life")))
    return facts.decay_factor or 1.0


def _tracer_item(facts: PETFacts) -> Dataset:
    from pydicom.dataset import Dataset

    item, code = Dataset(), radionuclide_code(facts.radionuclide)
    item.RadionuclideCodeSequence = [code_item(code)] if code else []
    values = {
        "Radiopharmaceutical": facts.radiopharmaceutical,
        "RadionuclideTotalDose": decimal(None if facts.injected_dose is None else 1e6 * facts.injected_dose),
        "RadionuclideHalfLife": decimal(facts.half_life),
        "RadiopharmaceuticalStartTime": facts.injection_time and f"{facts.injection_time:%H%M%S.%f}",
        "RadiopharmaceuticalStartDateTime": facts.injection_time and f"{facts.injection_time:%Y%m%d%H%M%S.%f}",
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(item, keyword, value)
    return item


def code_item(code: Code) -> Dataset:
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def patient_orientation(position: str | None) -> dict[str, object]:
    """The codes of a patient position such as HFS: recumbent, supine, head first; empty for others."""
    from pydicom.sr.codedict import codes

    first = {"HF": codes.cid21.Headfirst, "FF": codes.cid21.FeetFirst}.get((position or "")[:2])
    lying = {
        "S": codes.cid20.Supine,
        "P": codes.cid20.Prone,
        "DR": codes.cid20.RightLateralDecubitus,
        "DL": codes.cid20.LeftLateralDecubitus,
    }.get((position or "")[2:])
    if first is None or lying is None:
        return {"PatientOrientationCodeSequence": [], "PatientGantryRelationshipCodeSequence": []}
    recumbent = code_item(codes.cid19.Recumbent)
    recumbent.PatientOrientationModifierCodeSequence = [code_item(lying)]
    return {
        "PatientOrientationCodeSequence": [recumbent],
        "PatientGantryRelationshipCodeSequence": [code_item(first)],
    }


@contextmanager
def new_folder(folder: FilePath, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes its place, on any exception it is removed."""
    target = Path(os.path.realpath(folder))
    check_folder(target, overwrite)
    temporary = temporary_beside(target)
    try:
        temporary.mkdir()
    except OSError as error:
        reason = "its parent folder does not exist" if error.errno == errno.ENOENT else error.strerror
        raise OSError(error.errno, f"cannot write the series, {reason}", str(target)) from error
    try:
        yield temporary
        check_folder(target, overwrite)
        _move_into_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and str(error.filename).startswith(str(temporary)):
            raise cannot_write(error, target) from error
        raise


def check_folder(target: Path, overwrite: bool = True) -> None:
    """Raise FileExistsError where a series must not be written to a path: a file, or a folder with other things."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "cannot write the series, the path is a file; name a folder", str(target))
    names = sorted(os.listdir(target))
    if names and not overwrite:
        raise FileExistsError(
            errno.EEXIST,
            "cannot write the series, the folder is not empty; pass overwrite=True to replace it",
            str(target),
        )
    other = next((name for name in names if not re.fullmatch(r"\d{4,}\.dcm", name)), None)
    if other is not None:
        raise FileExistsError(
            errno.EEXIST,
            f"cannot replace the folder, {other} is not of a series that emrecon wrote",
            str(target),
        )


def _move_into_place(temporary: Path, target: Path) -> None:
    if not target.exists():
        os.rename(temporary, target)
        return
    old = target.with_name(f".{secrets.token_hex(6)}-old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except BaseException:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
