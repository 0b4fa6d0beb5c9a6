"""DICOM: series of PET and CT images, their facts, SUV, and writing images of PET and SPECT."""

from .ct import CTFacts, CTImage, is_ct, read_ct, read_dicom_ct, whole_series
from .ct_writing import write_dicom_ct
from .image_writing import ImageFacts, write_dicom_image
from .images import read_dicom_image
from .pet import PETFacts, PETImage, decay_reference_time, read_dicom_pet, suv_factor, write_dicom_pet

__all__ = [
    "CTFacts",
    "CTImage",
    "ImageFacts",
    "PETFacts",
    "PETImage",
    "read_ct",
    "decay_reference_time",
    "is_ct",
    "read_dicom_ct",
    "read_dicom_image",
    "read_dicom_pet",
    "suv_factor",
    "whole_series",
    "write_dicom_ct",
    "write_dicom_image",
    "write_dicom_pet",
]
