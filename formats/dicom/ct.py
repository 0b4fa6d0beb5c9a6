"""DICOM CT series: the image in Hounsfield units, and what the header says that an attenuation map needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.errors import FormatError

from .attributes import FilePath, lenient, number_of, patient_position_of, text_of, texts_of
from .series import (
    check_number_of_slices,
    check_stack,
    choose_frame,
    frames_of,
    headers_of,
    modality_of,
    slices_of_series,
    volume_of,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


@dataclass(frozen=True)
class CTFacts:
    """What a CT series says about itself, each None where it does not.

    Args:
        kvp : tube voltage in kV.
        model : of the scanner.
        frame_of_reference : UID of the patient's coordinates that the grid is in.
        patient_position : such as "HFS".
        isocentre : LPS mm, (x, y) of the gantry's axis.
        table_height : mm, of the top of the table below the gantry's axis.
        rescale_type : what the values are, "HU" unless the file says otherwise.
        contrast : whether a contrast agent is named.
        patient : DICOM keyword -> text, to compare with those of a scan; never printed.
    """

    kvp: float | None = None
    model: str | None = None
    frame_of_reference: str | None = None
    patient_position: str | None = None
    isocentre: tuple[float, float] | None = None
    table_height: float | None = None
    rescale_type: str = "HU"
    contrast: bool = False
    patient: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


class CTImage(NamedTuple):
    """A CT (x, y, z) in Hounsfield units on its grid (LPS, mm), with the facts of its series."""

    image: np.ndarray
    grid: ImageGrid
    facts: CTFacts


def read_dicom_ct(
    path: FilePath | Iterable[FilePath], *, series: str | int | None = None, frame: int | None = None
) -> tuple[np.ndarray, ImageGrid]:
    """Return (image (x, y, z) in Hounsfield units, grid) of a CT series; everything else as `read_dicom_pet`.

    Localizers are passed over. `read_mu` makes an attenuation map of a CT, `projectors.hounsfield_to_mu` converts the
    values alone.
    """
    image, grid, _ = read_ct(path, series, frame)
    return image, grid


def read_ct(
    path: FilePath | Iterable[FilePath],
    series: str | int | None = None,
    frame: int | None = None,
    chosen_by: str = "series=",
) -> CTImage:
    """Return a CT series with its facts, see `read_dicom_ct`.

    Args:
        chosen_by : how a user chooses a series, for messages.
    """
    with lenient():
        slices, folder = slices_of_series(path, "CT", series, chosen_by)
        frames = frames_of(slices)
        number = choose_frame(slices, frames, frame)
        chosen = frames[number - 1]
        check_stack(chosen)
        check_number_of_slices(frames, number, folder)
        return CTImage(*volume_of(chosen), _facts(chosen[0].path, [item.header for item in chosen]))


def whole_series(path: FilePath) -> FilePath | list[Path]:
    """Return the files of the series that a file belongs to, in its folder; a folder comes back as it is."""
    path = Path(path)
    if path.is_dir():
        return path
    with lenient():
        ((_, own),), _ = headers_of(path)
        uid = text_of(own, "SeriesInstanceUID")
        if uid is None:
            return [path]
        beside, _ = headers_of(path.parent)
        return [file for file, header in beside if text_of(header, "SeriesInstanceUID") == uid]


def is_ct(path: FilePath) -> bool:
    """Whether a DICOM file is CT, or a folder holds any."""
    with lenient():
        return any(modality_of(header) == "CT" for _, header in headers_of(path)[0])


def _facts(path: Path, headers: list[Dataset]) -> CTFacts:
    header = headers[0]
    voltages = {number_of(item, "KVP") for item in headers}
    if len(voltages) > 1:
        shown = ", ".join("none" if value is None else f"{value:g}" for value in sorted(voltages, key=str))
        raise FormatError(f"{path.parent}: the slices have different tube voltages (KVP): {shown} kV; two scans?")
    (kvp,) = voltages
    centre = texts_of(header, "DataCollectionCenterPatient")
    kind = text_of(header, "RescaleType") or "HU"
    return CTFacts(
        kvp=kvp or None,
        model=text_of(header, "ManufacturerModelName"),
        frame_of_reference=text_of(header, "FrameOfReferenceUID"),
        patient_position=patient_position_of(header),
        isocentre=_place(centre),
        table_height=number_of(header, "TableHeight"),
        rescale_type="HU" if kind.upper() in ("HU", "US", "UNSPECIFIED") else kind,
        contrast=text_of(header, "ContrastBolusAgent") is not None,
        patient={name: text for name in ("PatientID", "PatientName") if (text := text_of(header, name))},
    )


def _place(values: tuple[str, ...]) -> tuple[float, float] | None:
    try:
        x, y, _ = (float(value) for value in values)
    except ValueError:
        return None
    return (x, y) if np.isfinite([x, y]).all() else None
