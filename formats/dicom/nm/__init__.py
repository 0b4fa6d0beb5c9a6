"""DICOM Nuclear Medicine images: projections and planar images of gamma cameras, and images reconstructed of them."""

from .assembling import NMScan
from .given import IMAGE_OVERRIDES as NM_IMAGE_OVERRIDES
from .given import SCAN_OVERRIDES as NM_OVERRIDES
from .images import NMImage
from .planar import PlanarImages
from .reading import is_nm, nm_kind, read_dicom_nm, read_dicom_nm_image, read_planar
from .writing import write_dicom_nm
from .writing_habits import VENDOR_HABITS, NMHabits

__all__ = [
    "NM_IMAGE_OVERRIDES",
    "NM_OVERRIDES",
    "VENDOR_HABITS",
    "NMHabits",
    "NMImage",
    "NMScan",
    "PlanarImages",
    "is_nm",
    "nm_kind",
    "read_dicom_nm",
    "read_dicom_nm_image",
    "read_planar",
    "write_dicom_nm",
]
