"""DICOM: series of PET and CT images, their facts, SUV, and writing them."""

from .pet import PETFacts, PETImage, decay_reference_time, read_dicom_ct, read_dicom_pet, suv_factor, write_dicom_pet

__all__ = [
    "PETFacts",
    "PETImage",
    "decay_reference_time",
    "read_dicom_ct",
    "read_dicom_pet",
    "suv_factor",
    "write_dicom_pet",
]
