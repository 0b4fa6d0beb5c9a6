"""Whether files are of one patient, and in which coordinates they are: who it is, is compared and never said."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from emrecon.projectors import Study
from emrecon.projectors.core.errors import FormatError

from .dicom.attributes import lenient, text_of
from .dicom.series import first_header
from .dicom.summary import is_dicom

_KNOWN = ("PatientID", "PatientName")


def study_of_file(path: str | os.PathLike[str]) -> Study | None:
    """Return whom a DICOM file or folder is of, and its frame of reference; None for other files.

    The grid of such an image is in the patient's coordinates already, so there is no placement: `read_masks(path, grid,
    study)` compares patients and frames of reference, and moves nothing.
    """
    path = Path(path)
    if not (path.is_dir() or is_dicom(path)):
        return None
    with lenient():
        try:
            header = first_header(path)
        except (FormatError, OSError):
            return None
        if header is None:
            return None
        said = {name: text for name in _KNOWN if (text := text_of(header, name))}
        return Study(frame_of_reference=text_of(header, "FrameOfReferenceUID"), attributes=said)


def of_another_patient(one: Study | Mapping[str, str] | None, other: Study | Mapping[str, str] | None) -> bool:
    """Whether both say who the patient is, by number or by name, and it is not the same one."""
    first, second = _said(one), _said(other)
    return any(name in first and name in second and first[name] != second[name] for name in _KNOWN)


def patient_note(what: str, than: str, one: Study | None, other: Study | None) -> str | None:
    """Return "CT and scan are of different patients ..." where they are, None otherwise."""
    if not of_another_patient(one, other):
        return None
    return f"{what} and {than} are of different patients: name or number in their files differ; the right file?"


def _said(study: Study | Mapping[str, str] | None) -> dict[str, str]:
    """Number and name as they are compared: upper case, single spaces, no carets."""
    values = {} if study is None else study.attributes if isinstance(study, Study) else study
    plain = {name: " ".join(values.get(name, "").replace("^", " ").upper().split()) for name in _KNOWN}
    return {name: text for name, text in plain.items() if text}
