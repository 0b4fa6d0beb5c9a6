"""Masks of organs and lesions for an image: RT structure sets, DICOM segmentations and label images."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.physics.ct_maps import shifted_grid

from .attenuation import in_patient
from .dicom.attributes import lenient
from .dicom.regions import box_shares
from .dicom.rtstruct import require_some, structure_masks, unique_names
from .dicom.segmentation import segment_masks
from .dicom.series import headers_of, modality_of
from .dicom.summary import is_dicom
from .registry import read_image
from .subjects import patient_note, study_of_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_LOG = logging.getLogger("emrecon")
_READERS = {"RTSTRUCT": structure_masks, "SEG": segment_masks}
_MOST_LABELS = 1000


def read_masks(
    path: str | os.PathLike[str],
    grid: ImageGrid,
    study: Study | None = None,
    *,
    names: Mapping[int, str] | None = None,
) -> dict[str, np.ndarray]:
    """Return the regions of a file on a grid, name -> bool (x, y, z).

    Args:
        path : an RTSTRUCT or SEG file, a folder with one of them, or a label image (NIfTI, HDF5, Interfile) whose
            voxels hold the number of the region, 0 for none.
        grid : of the masks, in the patient's LPS coordinates; with `study` in those of its scan.
        study : `scan.study`, whose placement says where the scan lies in the patient; or `study_of_file(image)` of a
            DICOM image. Another patient or another frame of reference than the study's is logged as a warning.
        names : of the numbers of a label image (default: "label 1", ...).

    A voxel belongs to a region that holds half of it or more. Contours are closed curves on parallel axial, coronal or
    sagittal slices, each standing for a slab as thick as their distance; curves inside each other make holes. Regions
    of the same name get a number. What is left out, empty or cut off is logged as a warning.

    Raises FileNotFoundError; FormatError (a ValueError) naming the file and the fact: another kind of file, no contours
    or segments, oblique ones, truncated data, values that are no labels, regions that all lie outside of the grid.

    Source: DICOM PS3.3, ROI Contour and Segmentation Image modules.
    """
    if study is not None and not isinstance(study, Study):
        raise TypeError(f"study must be a Study, such as scan.study, got {type(study).__name__}")
    place = None if study is None else study.placement
    here = grid if place is None or not in_patient(path) else shifted_grid(grid, place)
    if not (Path(path).is_dir() or is_dicom(path)):
        return _labels(Path(path), here, names or {})
    if names is not None:
        raise FormatError(f"{path} names its regions itself; names= is for label images")
    with lenient():
        file, header = _only(path)
        who = patient_note(f"{file.name}", "the image", study_of_file(file), study)
        if who is not None:
            _LOG.warning("%s", who)
        return _READERS[modality_of(header)](file, header, here, None if study is None else study.frame_of_reference)


def _only(path: str | os.PathLike[str]) -> tuple[Path, Dataset]:
    """The one file that holds regions."""
    headers, _ = headers_of(path)
    found = [(file, header) for file, header in headers if modality_of(header) in _READERS]
    if len(found) == 1:
        return found[0]
    if not found:
        kinds = ", ".join(sorted({modality_of(header) for _, header in headers})) or "no DICOM"
        raise FormatError(f"{path} holds {kinds}, and masks are read of {', '.join(_READERS)} and label images")
    names = ", ".join(str(file) for file, _ in found[:9])
    raise FormatError(f"{path} holds {len(found)} files with regions; name one of them: {names}")


def _labels(path: Path, grid: ImageGrid, names: Mapping[int, str]) -> dict[str, np.ndarray]:
    values, own = read_image(path)
    if values.ndim != 3:
        raise FormatError(f"{path} holds several volumes, shape {values.shape}; save one of them as its own file")
    rounded = np.rint(values)
    if not np.isfinite(values).all() or np.abs(values - rounded).max() > 1e-3 or values.min() < 0:
        raise FormatError(f"{path} is no label image: its values are not whole numbers from 0")
    numbers = [int(n) for n in np.unique(rounded) if n]
    if not numbers or len(numbers) > _MOST_LABELS:
        raise FormatError(f"{path} is no label image: it holds {len(numbers)} different labels")
    unknown = sorted(set(names) - set(numbers))
    if unknown:
        raise FormatError(f"{path} has no label {unknown[0]}; it holds {', '.join(map(str, numbers[:20]))}")
    said = unique_names([names.get(number, f"label {number}") for number in numbers])
    masks = {name: box_shares(rounded == number, own, grid) >= 0.5 for number, name in zip(numbers, said)}
    for number, name in zip(numbers, said):
        if masks[name].any() and _goes_on(rounded == number, own, grid):
            _LOG.warning("%s: %s goes on beyond the grid, where it is cut off", path.name, name)
    require_some(path, masks, grid)
    return masks


def _goes_on(mask: np.ndarray, own: ImageGrid, grid: ImageGrid) -> bool:
    """Whether the centre of a voxel of a mask lies outside of another grid."""
    for axis in range(3):
        there = np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis})))
        place = own.origin[axis] + there[[0, -1]] * own.voxel_size[axis]
        half = grid.voxel_size[axis] / 2
        low, high = grid.origin[axis] - half, grid.origin[axis] + grid.shape[axis] * grid.voxel_size[axis] - half
        if place[0] < low or place[1] > high:
            return True
    return False
