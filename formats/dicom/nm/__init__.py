"""DICOM Nuclear Medicine images: projections and planar images of gamma cameras."""

from .writing import write_dicom_nm
from .writing_habits import VENDOR_HABITS, NMHabits

__all__ = ["VENDOR_HABITS", "NMHabits", "write_dicom_nm"]
