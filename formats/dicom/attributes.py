"""Attributes of DICOM headers that may be damaged: values, texts, numbers and times, or None."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import Study
from emrecon.projectors.core.errors import FormatError

from ..records import patient_words, without_words

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

FilePath = str | os.PathLike[str]
PET_STORAGE = "1.2.840.10008.5.1.4.1.1.128"


@contextmanager
def lenient() -> Iterator[None]:
    """Take values as they are; pydicom's settings and the warning filters are put back afterwards."""
    from pydicom import config

    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def value_of(header: Dataset, keyword: str) -> object:
    """Return the value of an attribute, None where it is missing, empty or cannot be understood."""
    try:
        value = header.get(keyword)
    except Exception:  # damaged values raise many kinds of errors when they are looked at first
        return None
    return None if value is None or value == "" else value


def texts_of(header: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an attribute as texts, none where it is missing or empty."""
    value = value_of(header, keyword)
    if value is None:
        return ()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return tuple(str(part).strip() for part in value)
    return (str(value).strip(),)


def text_of(header: Dataset, keyword: str) -> str | None:
    """Return the first value of an attribute as a text, None where there is none."""
    return next(iter(texts_of(header, keyword)), None) or None


def without_patient(header: Dataset, text: str) -> str:
    """Return a text without the words of the patient's name and number that the header holds."""
    said = {keyword: text_of(header, keyword) or "" for keyword in ("PatientName", "PatientID", "PatientBirthName")}
    return without_words(text, patient_words(Study(attributes=said)))


def number_of(header: Dataset, keyword: str) -> float | None:
    """Return the first number of an attribute, None where there is none or it is not finite."""
    with suppress(ValueError, TypeError, OverflowError):
        number = float(text_of(header, keyword) or "")
        return number if math.isfinite(number) else None
    return None


def numbers_of(path: Path, header: Dataset, keyword: str, n: int) -> np.ndarray:
    """Return the n numbers of an attribute that must be there; raises FormatError naming file and attribute."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    values = texts_of(header, keyword)
    if not values:
        raise FormatError(f"{path}: {keyword} {Tag(tag_for_keyword(keyword) or 0)} is missing; an incomplete file?")
    with suppress(ValueError):
        numbers = np.array([float(value) for value in values])
        if numbers.size == n and np.isfinite(numbers).all():
            return numbers
    raise FormatError(f"{path}: {keyword} is {', '.join(values)[:80]}, expected {n} numbers; damaged header?")


def private_of(header: Dataset, group: int, creator: str, element: int) -> str | None:
    """Return a private attribute as a text, None where it is missing or damaged."""
    with suppress(Exception):  # not there, or damaged
        value = header.private_block(group, creator)[element].value
        return (value.decode("ascii") if isinstance(value, bytes) else str(value)).strip("\0 ") or None
    return None


def moment_of(date: str | None, time: str | None) -> datetime | None:
    """Return a DICOM date and time, also as 1993.11.24 and 09:53:00; None where either is missing or wrong."""
    day = re.sub(r"[.]", "", date or "")
    whole, _, fraction = (time or "").replace(":", "").partition(".")
    if len(whole) in (2, 4, 6):
        with suppress(ValueError):
            return datetime.strptime(f"{day} {whole:0<6} {fraction[:6] or 0}", "%Y%m%d %H%M%S %f")
    return None


def date_time_of(value: str | None, offset: str | None = None) -> datetime | None:
    """Return a DICOM DateTime in the local time of the file, whose offset from UTC is `offset`, such as "+0100"."""
    parts = re.fullmatch(r"(\d{8})(\d{2,6}(?:\.\d*)?)([+-]\d{4})?", value or "")
    moment = moment_of(parts[1], parts[2]) if parts else None
    if moment and parts and parts[3] and re.fullmatch(r"[+-]\d{4}", offset or ""):
        moment += _minutes(offset or "") - _minutes(parts[3])
    return moment


def _minutes(offset: str) -> timedelta:
    return int(f"{offset[0]}1") * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))


def positive_or_none(number: float | None, scale: float = 1.0) -> float | None:
    """Return a number times a scale, None where it is missing, zero or negative."""
    return number * scale if number and number > 0 else None


def items_of(header: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence, none where it is missing."""
    value = value_of(header, keyword)
    # a damaged attribute may be of any type, such as numbers
    return [item for item in value if hasattr(item, "private_block")] if isinstance(value, Iterable) else []


def patient_position_of(header: Dataset) -> str | None:
    """Return how the patient lay, such as "HFS": PatientPosition, or the codes that NM and PET images have for it."""
    text = text_of(header, "PatientPosition")
    if text is not None:
        return text
    gantry = _meaning(items_of(header, "PatientGantryRelationshipCodeSequence"))
    lying = [
        modifier
        for orientation in items_of(header, "PatientOrientationCodeSequence")
        for modifier in items_of(orientation, "PatientOrientationModifierCodeSequence")
    ]
    first = next((short for word, short in (("head", "HF"), ("feet", "FF")) if word in gantry), None)
    side = next((short for word, short in _LYING if word in _meaning(lying)), None)
    return first + side if first and side else None


_LYING = (("supine", "S"), ("prone", "P"), ("right", "DR"), ("left", "DL"))


def _meaning(items: list[Dataset]) -> str:
    return " ".join((text_of(item, "CodeMeaning") or "").lower() for item in items)
