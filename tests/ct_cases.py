"""Synthetic CT series in DICOM: a phantom on any grid, in any orientation of the slices."""

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from emrecon.projectors import ImageGrid

CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
FRAME, STUDY = generate_uid(), generate_uid()
GRID = ImageGrid((80, 72, 34), (2.5, 2.5, 4.0), (-98.0, -310.0, 972.0))
CENTRE = (3.0, -220.0, 1038.0)
"""Of the cylinder, in the patient's LPS mm."""


def cylinder(grid=GRID, radius=60.0, height=1e9, centre=CENTRE, water=0.0, air=-1000.0):
    """Hounsfield units of a water cylinder along z with bone on its left."""
    x, y, z = grid.coordinates()
    x, y, z = x - centre[0], y - centre[1], z - centre[2]
    body = (x**2 + y**2 < radius**2) & (np.abs(z) < height / 2)
    bone = ((x - radius / 2) ** 2 + y**2 < (radius / 5) ** 2) & (np.abs(z) < height / 2)
    return np.where(bone, 1000.0, np.where(body, water, air))


def write_ct(folder, hu, grid=GRID, axes=(0, 1, 2), signs=(1, 1, 1), **changes):
    """Write HU (x, y, z) as a CT series; columns, rows and files run along patient axes `axes`, turned by `signs`."""
    folder.mkdir(exist_ok=True)
    image, corner, unit, series = np.asarray(hu).transpose(axes), np.array(grid.origin), np.eye(3), generate_uid()
    for stored, (axis, sign) in enumerate(zip(axes, signs)):
        if sign < 0:
            image = np.flip(image, stored)
            corner[axis] += (grid.shape[axis] - 1) * grid.voxel_size[axis]
    start = len(list(folder.iterdir()))
    for k in range(image.shape[2]):
        position = corner + k * signs[2] * grid.voxel_size[axes[2]] * unit[axes[2]]
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CT_STORAGE, generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = CT_STORAGE
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "CT", series, STUDY
        dataset.PatientName, dataset.PatientID, dataset.FrameOfReferenceUID = "Doe^Jane", "007", FRAME
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.StudyID = ""
        dataset.ReferringPhysicianName = ""
        dataset.SeriesNumber, dataset.KVP, dataset.PatientPosition = 3, "120", "HFS"
        dataset.ImageType, dataset.StudyDate, dataset.StudyTime = ["ORIGINAL", "PRIMARY", "AXIAL"], "20240301", "1030"
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = image.shape[1], image.shape[0], 1
        dataset.PixelSpacing = [str(grid.voxel_size[axes[1]]), str(grid.voxel_size[axes[0]])]
        dataset.SliceThickness = str(grid.voxel_size[axes[2]])
        dataset.ImageOrientationPatient = [*(signs[0] * unit[axes[0]]), *(signs[1] * unit[axes[1]])]
        dataset.ImagePositionPatient = [f"{x:.6f}" for x in position]
        dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", "-1024", "HU"
        dataset.InstanceNumber = image.shape[2] - k
        dataset.PixelData = np.rint(image[:, :, k].T + 1024).astype("<u2").tobytes()
        dataset["PixelData"].VR = "OW"
        for name, value in changes.items():
            if value is None:
                dataset.pop(name, None)
            else:
                setattr(dataset, name, value)
        dataset.save_as(folder / f"IM{start + k:04d}", enforce_file_format=True)
    return folder
