"""Values of a header of nuclear medicine that may be damaged: numbers, items of sequences, and names of attributes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors.core.errors import FormatError, check_size

from ..attributes import number_of, text_of, texts_of

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TOMOGRAPHIC = ("TOMO", "GATED TOMO")
PLANAR = ("STATIC", "WHOLE BODY", "DYNAMIC", "GATED")
RECONSTRUCTED = ("RECON TOMO", "RECON GATED TOMO")
_MOST_FRAMES = 100_000


def tag(keyword: str) -> str:
    """Return an attribute as errors name it, such as "DetectorVector (0054,0020)"."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return f"{keyword} {Tag(tag_for_keyword(keyword) or 0)}".replace(", ", ",")


def type_of(header: Dataset) -> str:
    """Return value 3 of ImageType, such as "TOMO", in capitals; empty where there is none."""
    values = texts_of(header, "ImageType")
    return values[2].upper().replace("_", " ") if len(values) > 2 else ""


def floats_of(path: Path, header: Dataset, keyword: str) -> np.ndarray | None:
    """Return the numbers of an attribute, None where it is missing; raises FormatError where they are none."""
    values = texts_of(header, keyword)
    if not any(values):
        return None
    try:
        numbers = np.array([float(value) for value in values])
    except (ValueError, OverflowError):
        numbers = np.array([math.nan])
    if not np.isfinite(numbers).all():
        raise FormatError(f"{path}: {tag(keyword)} is {', '.join(values)[:80]}, expected numbers; damaged header?")
    return numbers


def single_of(path: Path, header: Dataset, keyword: str) -> float | None:
    """Return the one number of an attribute, None where it is missing; raises FormatError where it is no one number."""
    values = floats_of(path, header, keyword)
    if values is None:
        return None
    if values.size > 1:
        raise FormatError(f"{path}: {tag(keyword)} has {values.size} values, expected one; damaged header?")
    return float(values[0])


def whole_of(path: Path, header: Dataset, keyword: str) -> int | None:
    """Return a whole number that is not negative, None where it is missing."""
    value = number_of(header, keyword)
    if value is None:
        if text_of(header, keyword) is None:
            return None
    elif value >= 0 and value % 1 == 0:
        return int(value)
    shown = text_of(header, keyword) or ""
    raise FormatError(f"{path}: {tag(keyword)} is {shown[:40]}, expected a whole number; damaged header?")


def matrix_of(path: Path, header: Dataset) -> tuple[int, int, int]:
    """Return (frames, rows, columns); raises FormatError where they are missing or absurd."""
    sizes = []
    for keyword, otherwise in (("NumberOfFrames", 1), ("Rows", None), ("Columns", None)):
        value = whole_of(path, header, keyword)
        value = otherwise if value is None else value
        if not value:
            said = "missing" if value is None else "0"
            raise FormatError(f"{path}: {tag(keyword)} is {said}; truncated or damaged?")
        sizes.append(value)
    if sizes[0] > _MOST_FRAMES:
        raise FormatError(f"{path}: {tag('NumberOfFrames')} is {sizes[0]}, more than {_MOST_FRAMES}; damaged header?")
    check_size(path, sizes, "NumberOfFrames, Rows and Columns")
    return sizes[0], sizes[1], sizes[2]
