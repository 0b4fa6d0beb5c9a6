"""CT series of synthetic cases: one file for each slice, in the coordinates of the scan that they belong to."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.arrays import Array

from .attributes import FilePath, lenient
from .nm.writing_modules import patient_and_study, put
from .writing import decimal, derivation, new_folder, save, when, writable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
_AIR = -1024  # HU, which a stored 0 stands for


def write_dicom_ct(
    folder: FilePath,
    hu: Array,
    grid: ImageGrid,
    *,
    study: Study | None = None,
    kvp: float = 120.0,
    description: str = "CT",
    overwrite: bool = True,
) -> None:
    """Write an image in Hounsfield units as a CT series, one file for each slice, 0001.dcm, 0002.dcm, ... feet up.

    Args:
        hu : (x, y, z), rounded to whole HU, from -1024 to 64511.
        grid : in the coordinates of the scan that the CT belongs to; `study.placement` puts it into the patient's, as
            for `write_dicom_image`.
        study : patient, study, frame of reference and how the patient lay (default: head first, supine).
        kvp : tube voltage in kV.

    Files of one study share StudyInstanceUID (of `study.attributes`) and the frame of reference, which aligns CT and
    SPECT.

    Raises ValueError for images that do not fit the grid, and values out of range; OSError naming the folder.

    Source: DICOM PS3.3, A.3 and C.8.2.
    """
    if not 10 <= kvp <= 500:
        raise ValueError(f"write_dicom_ct kvp must be the tube voltage in kV, got {kvp}")
    values = np.rint(writable(hu, grid, "write_dicom_ct")) - _AIR
    if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
        raise ValueError(
            f"write_dicom_ct: values from {values.min() + _AIR:g} to {values.max() + _AIR:g} are no Hounsfield units "
            f"of {_AIR} to {65535 + _AIR}; an attenuation map in 1/cm?"
        )
    study = study or Study()
    x, y, z = study.placement or (0.0, 0.0, 0.0)
    placed = ImageGrid(grid.shape, grid.voxel_size, (grid.origin[0] + x, grid.origin[1] + y, grid.origin[2] + z))
    with lenient(), new_folder(folder, overwrite) as temporary:
        shared = _series(placed, study, kvp, description)
        for k in range(grid.shape[2]):
            _put_slice(shared, values[:, :, k], placed, k)
            save(shared, temporary / f"{k + 1:04d}.dcm")


def _series(grid: ImageGrid, study: Study, kvp: float, description: str) -> Dataset:
    """Return what all slices share."""
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    made = Dataset()
    (nx, ny, _), (dx, dy, dz) = grid.shape, grid.voxel_size
    about = patient_and_study(study)
    for name in ("PatientOrientationCodeSequence", "PatientGantryRelationshipCodeSequence"):
        about.pop(name)
    put(made, about)
    put(
        made,
        {
            "SpecificCharacterSet": "ISO_IR 192",
            "SOPClassUID": CT_STORAGE,
            "Modality": "CT",
            "SeriesInstanceUID": generate_uid(None),
            "SeriesNumber": 2,
            "SeriesDescription": description[:64],
            "PatientPosition": study.patient_position or "HFS",
            "Manufacturer": study.manufacturer or "emrecon",
            "ManufacturerModelName": study.model or "synthetic CT",
            **when("Series", study.start),
            **when("Acquisition", study.start),
            **when("Content", study.start or datetime.now()),
            "AcquisitionNumber": 1,
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "DerivationDescription": derivation(grid),
            "KVP": decimal(kvp),
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [decimal(dy), decimal(dx)],
            "SliceThickness": decimal(dz),
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": ny,
            "Columns": nx,
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleIntercept": str(_AIR),
            "RescaleSlope": "1",
            "RescaleType": "HU",
        },
    )
    return made


def _put_slice(made: Dataset, values: np.ndarray, grid: ImageGrid, k: int) -> None:
    """Put slice k (columns, rows) of stored values into the dataset."""
    from pydicom.uid import generate_uid

    x, y, z = grid.origin
    z += k * grid.voxel_size[2]
    made.SOPInstanceUID = generate_uid(None)
    made.InstanceNumber = k + 1
    made.ImagePositionPatient = [decimal(x), decimal(y), decimal(z)]
    made.SliceLocation = decimal(z)
    made.PixelData = np.ascontiguousarray(values.T).astype("<u2").tobytes()
    made["PixelData"].VR = "OW"
