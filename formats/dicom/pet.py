"""DICOM PET series: read as LPS images with their facts, turned into SUV, and written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array

from .attributes import FilePath, lenient
from .facts import PETFacts, PETImage, facts_like, facts_of
from .series import (
    check_number_of_slices,
    check_stack,
    check_units,
    choose_frame,
    frames_of,
    slices_of_series,
    volume_of,
)
from .suv import decay_reference_time, suv_factor
from .writing import new_folder, put_slice, save, series_dataset, writable

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = [
    "PETFacts",
    "PETImage",
    "decay_reference_time",
    "read_dicom_pet",
    "suv_factor",
    "write_dicom_pet",
]


def read_dicom_pet(
    path: FilePath | Iterable[FilePath], *, series: str | int | None = None, frame: int | None = None
) -> PETImage:
    """Return the image, grid and facts of a PET series: value = stored * RescaleSlope + RescaleIntercept, by slice.

    Args:
        path : a folder (with its subfolders; files that are not PET images are passed over), a list of files, or one
            file.
        series : SeriesInstanceUID or series number, where several series are there.
        frame : 1, 2, ... in order of time (or gate), where the series holds several.

    Slices are put in order by ImagePositionPatient along the slice normal; other orientations along the patient's axes
    are turned to LPS. Settings of pydicom and warning filters are as before afterwards.

    Raises FileNotFoundError; FormatError (a ValueError) naming the file and the fact: not DICOM, truncated, NM or
    another modality, missing attributes, several series or frames (listed), slices missing, doubled, unevenly spaced or
    oblique, compression that needs a package, absurd size.

    Source: DICOM PS3.3, Image Plane and PET Image modules.
    """
    with lenient():
        slices, folder = slices_of_series(path, "PT", series)
        check_units(slices)
        frames = frames_of(slices)
        number = choose_frame(slices, frames, frame)
        chosen = frames[number - 1]
        check_stack(chosen)
        check_number_of_slices(frames, number, folder)
        facts = facts_of([item.header for item in chosen], [item.header for item in slices])
        return PETImage(*volume_of(chosen), replace(facts, n_frames=len(frames), frame=number))


def write_dicom_pet(
    folder: FilePath,
    image: Array,
    grid: ImageGrid,
    like: PETFacts | PETImage | Dataset | None = None,
    *,
    overwrite: bool = False,
    **changes: object,
) -> None:
    """Write an image (x, y, z) on `grid` as a PET series, one file per slice, 0001.dcm, 0002.dcm, ... from the feet up.

    Args:
        like : `PETFacts`, a `PETImage` or a pydicom dataset of PT whose patient, study, tracer and times the series
            shares.
        changes : fields of `PETFacts` that are different, such as units="BQML" (the default without `like`),
            series_description="MAP-EM", corrections=("ATTN", "SCAT", "DECY").

    Values are stored with 16 bits and a RescaleSlope by slice, so they are rounded by at most half a step, the largest
    value of the slice / 131070 (/ 65534 where the image has negative values). Series and images get new UIDs, and
    nothing private is copied. The folder appears complete or not at all; what was in it stays unless `overwrite`, and
    then only a series written by this function is replaced.

    Raises ValueError for an image that does not fit the grid or has values that are not finite, where the units are not
    known, and for a `like` of another modality (SPECT is no PT image); FileExistsError;
    OSError naming the folder where it cannot be written.
    """
    values = writable(image, grid)
    facts = replace(facts_like(like), **changes)  # type: ignore[arg-type]  # fields are checked by what is written
    signed = bool((values < 0).any())
    with lenient(), new_folder(folder, overwrite) as temporary:
        dataset = series_dataset(facts, grid, signed)
        for k in range(grid.shape[2]):
            put_slice(dataset, values[:, :, k], grid, k, signed)
            save(dataset, temporary / f"{k + 1:04d}.dcm")
