"""What a report is made of: an image with its record, a CT and regions, read from files and put in the same place."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from emrecon import formats
from emrecon.formats.dicom.summary import dicom_patient, is_dicom
from emrecon.projectors import ImageGrid, Study
from emrecon.projectors.physics.ct_maps import shifted_grid

FilePath = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Run:
    """An image with all that a report says about it.

    Args:
        name : of the image.
        image : (x, y, z), or (F, x, y, z) of frames or gates.
        grid : in the patient's LPS coordinates, as far as they are known.
        record : where the image comes from.
        ct : (image in HU, grid), or None.
        masks : name -> bool (x, y, z) on the grid.
        times : of frames or gates, or None.
        remarks : what was assumed when this was read.
    """

    name: str
    image: np.ndarray
    grid: ImageGrid
    record: formats.Provenance
    ct: tuple[np.ndarray, ImageGrid] | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    times: formats.ImageTimes | None = None
    remarks: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Of the values: "Bq/mL", "SUV", "counts"."""
        return self.record.unit or "counts"

    @property
    def shown(self) -> np.ndarray:
        """The image (x, y, z) that pictures show: of frames and gates the mean over their time."""
        if self.image.ndim == 3:
            return self.image
        weights = np.ones(len(self.image)) if self.times is None else np.asarray(self.times.durations)
        return np.asarray(np.tensordot(weights / weights.sum(), self.image, 1))


def read_run(
    run: FilePath,
    *,
    ct: FilePath | None = None,
    ct_series: str | None = None,
    masks: Sequence[FilePath] = (),
    names: Mapping[int, str] | None = None,
    study: Study | None = None,
) -> Run:
    """Return an image with its record, and what a report shows beside it.

    Args:
        run : the image, the JSON file beside it, or a folder with one such file.
        ct : folder or file of a CT in HU, in the patient's coordinates.
        ct_series : UID or number of the series, where the folder holds several.
        masks : RTSTRUCT, SEG or label images, see `formats.read_masks`.
        names : of the numbers of label images.
        study : of the scan, whose patient and frame of reference are compared with those of CT and masks (default:
            those of the image, where it is DICOM).

    Raises FileNotFoundError, FormatError (a ValueError) where there is no image or no record.
    """
    path, record = _image_of(Path(run))
    image, grid = formats.read_image(path)
    remarks = []
    if record.placement is not None and path.suffix.lower() in (".h5", ".hdf5", ".hv", ".h33"):
        grid = shifted_grid(grid, record.placement)  # these formats have the coordinates of the scan
    elif ct is not None and record.placement is None:
        remarks.append(
            "the scan does not say where it lies in the patient; image and CT are shown where their files put them"
        )
    # the grid is in the coordinates of the patient already
    known = formats.study_of_file(path) if study is None else replace(study, placement=None)
    who = None if ct is None else formats.patient_note("CT", "image", formats.study_of_file(ct), known)
    remarks += [who] if who is not None else []
    regions: dict[str, np.ndarray] = {}
    for file in masks:
        own = names if names and not (Path(file).is_dir() or is_dicom(file)) else None  # DICOM names its regions
        for name, mask in formats.read_masks(file, grid, known, names=own).items():
            if mask.any():
                regions[_free(name, regions)] = mask
            else:
                remarks.append(f"the region {name} lies outside of the image and is left out")
    return Run(
        name=path.name,
        image=np.asarray(image),
        grid=grid,
        record=record,
        ct=None if ct is None else formats.read_image(ct, **({} if ct_series is None else {"series": ct_series})),
        masks=regions,
        times=formats.read_times(path) if image.ndim == 4 else None,
        remarks=tuple(remarks),
    )


def _image_of(path: Path) -> tuple[Path, formats.Provenance]:
    """The file of the image and its record."""
    record = formats.read_provenance(path)
    if path.suffix.lower() != ".json" and not (path.is_dir() and record.image and not _is_series(path)):
        return path, record
    image = (path if path.is_dir() else path.parent) / record.image
    if not record.image or not image.exists():
        raise formats.FormatError(f"{path} is the record of {record.image or 'an image'}, which is not beside it")
    return image, formats.read_provenance(image)


def _is_series(folder: Path) -> bool:
    """Whether a folder is an image itself, a DICOM series with its record beside it."""
    return formats.sidecar_of(folder).is_file()


def _free(name: str, taken: Mapping[str, object]) -> str:
    return name if name not in taken else next(n for i in range(2, 10**6) if (n := f"{name} ({i})") not in taken)


def patient_of(path: FilePath) -> str:
    """Return the patient's name and number in a file of a scan or a DICOM file, as a report may show them.

    Raises FileNotFoundError; FormatError where the file names nobody.
    """
    if Path(path).is_dir() or is_dicom(path):
        name, number = dicom_patient(path)
    else:
        study = getattr(formats.read_acquisition(path), "study", None)
        said = dict(study.attributes) if study is not None else {}
        name, number = said.get("PatientName", ""), said.get("PatientID", "")
    parts = [part for part in (" ".join(name.replace("^", " ").split()), number) if part]
    if not parts:
        raise formats.FormatError(f"{path} names no patient")
    return ", ".join(parts)
