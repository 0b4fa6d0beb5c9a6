"""An image of any DICOM series, chosen by what the files hold: CT in Hounsfield units, PT and NM in their own units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError

from .attributes import FilePath, lenient, text_of
from .ct import read_dicom_ct, whole_series
from .nm.header import RECONSTRUCTED, type_of
from .nm.images import unit_of
from .nm.reading import read_dicom_nm_image
from .pet import read_dicom_pet
from .series import headers_of, is_localizer, modality_of
from .units import IMAGE_UNITS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

Reader = Callable[..., tuple[np.ndarray, ImageGrid]]


def _pet(path: FilePath, **choice: object) -> tuple[np.ndarray, ImageGrid]:
    image, grid, _ = read_dicom_pet(path, **choice)  # type: ignore[arg-type]  # checked by the reader
    return image, grid


def _nm(path: FilePath, **choice: object) -> tuple[np.ndarray, ImageGrid]:
    given = {name: value for name, value in choice.items() if value is not None}
    image, grid, *_ = read_dicom_nm_image(path, **given)
    return image, grid


READERS: dict[str, Reader] = {"CT": read_dicom_ct, "PT": _pet, "NM": _nm}
"""What reads the images of a modality."""


def read_dicom_image(
    path: FilePath, *, series: str | int | None = None, frame: int | None = None
) -> tuple[np.ndarray, ImageGrid]:
    """Return (image (x, y, z), grid in LPS mm) of a folder with a CT or PT series, or of one of its files.

    Args:
        path : a folder, with its subfolders; or a file, which stands for all of its series in the same folder.
        series : SeriesInstanceUID or series number, where several series are there.
        frame : 1, 2, ... in order of time, where the series holds several.

    CT is in Hounsfield units, PT and NM (RECON TOMO) in the units of the file (`read_dicom_pet` and
    `read_dicom_nm_image` say which).

    Raises FormatError as `read_dicom_pet`, and where the files are of another modality or of several.
    """
    files = whole_series(path)
    with lenient():
        headers, _ = headers_of(files)
        images = [header for _, header in headers if not is_localizer(header)]
        if series is not None:
            wanted = [item for item in images if str(series) in (_uid(item), text_of(item, "SeriesNumber"))]
            images = wanted or images
        found = Counter(_kind(header) for header in images)
        known = [name for name in found if name in READERS]
    if len(known) == 1:
        return READERS[known[0]](files, series=series, frame=frame)
    kinds = ", ".join(f"{n} {kind}" for kind, n in found.items()) or "no DICOM images"
    if known:
        raise FormatError(f"{path} holds images of several modalities ({kinds}); choose a series by series=")
    raise FormatError(f"{path} holds {kinds}; images are read of {', '.join(READERS)}")


def _kind(header: Dataset) -> str:
    """The modality; projections and planar images of NM are no images in this sense."""
    modality, kind = modality_of(header), type_of(header)
    return modality if modality != "NM" or kind in RECONSTRUCTED else f"NM {kind}".strip()


def _uid(header: Dataset) -> str | None:
    return text_of(header, "SeriesInstanceUID")


_PET_UNITS = {unit.pet: name for name, unit in IMAGE_UNITS.items() if unit.pet is not None}


def dicom_unit(path: FilePath, *, series: str | int | None = None) -> str | None:
    """Return the unit of the values that `read_dicom_image` returns, such as "HU", "Bq/mL" or "SUV"; None if not said.

    Units of PET that have no name here are returned as DICOM writes them.
    """
    with lenient():
        found, _ = headers_of(whole_series(path))
        images = [(file, header) for file, header in found if not is_localizer(header)]
        chosen = [item for item in images if str(series) in (_uid(item[1]), text_of(item[1], "SeriesNumber"))]
        if not images:
            return None
        file, header = (chosen or images)[0]
        kind = modality_of(header)
        if kind == "NM":
            return unit_of(file, header)
        said = text_of(header, "Units")
    return "HU" if kind == "CT" else _PET_UNITS.get(said or "", said) or None
