"""What a file of an image says before its values are read: whether it is one, and their unit."""

from __future__ import annotations

import os
from pathlib import Path

from .dicom.images import dicom_unit
from .dicom.nm import nm_kind
from .dicom.summary import is_dicom
from .hdf5 import files as native
from .interfile.header import load_header
from .interfile.images import interfile_unit
from .nifti import nifti_unit
from .registry import _is_pet, _kind_of
from .siemens import is_petlink


def holds_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file or folder holds an image, and no scan, list-mode or other data; its values are not read.

    Of DICOM: reconstructed NM, PT or CT, and not planar images.
    """
    kind = _kind_of(path)
    if kind == "dicom":
        return nm_kind(path) in (None, "image")
    if kind == "hdf5":
        return native.kind_of(path) == "image"
    if kind == "interfile":
        keys = load_header(path, {}, ()).keys
        return not (is_petlink(path) or _is_pet(path) or "number of projections" in keys)
    return kind == "nifti"


def image_unit(path: str | os.PathLike[str]) -> str | None:
    """Return the unit of the values of an image file that says it, such as "Bq/mL", or None; see `write_image`."""
    if Path(path).is_dir() or is_dicom(path):
        return dicom_unit(path)
    kind = _kind_of(path)
    if kind == "interfile":
        return interfile_unit(path)
    return native.image_unit(path) if kind == "hdf5" else nifti_unit(path)
