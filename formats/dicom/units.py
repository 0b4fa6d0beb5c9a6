"""The units of images in DICOM: codes of UCUM, and the terms of PET."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


class ImageUnit(NamedTuple):
    """How DICOM says a unit: its UCUM code and meaning, and PET's Units and SUVType (None where PET has no term)."""

    code: str
    meaning: str
    pet: str | None = None
    suv_type: str | None = None


IMAGE_UNITS: Mapping[str, ImageUnit] = MappingProxyType(
    {
        "counts": ImageUnit("{counts}", "Counts", "CNTS"),
        "counts/s": ImageUnit("{counts}/s", "Counts per second", "CPS"),
        "Bq/mL": ImageUnit("Bq/ml", "Becquerels/milliliter", "BQML"),
        "kBq/mL": ImageUnit("kBq/ml", "kilobecquerels/milliliter"),
        "MBq/mL": ImageUnit("MBq/ml", "megabecquerels/milliliter"),
        "SUV": ImageUnit("g/ml{SUVbw}", "Standardized Uptake Value body weight", "GML", "BW"),
        "1/cm": ImageUnit("/cm", "/Centimeter", "1CM"),
        "Gy": ImageUnit("Gy", "Gray"),
        "mGy": ImageUnit("mGy", "milligray"),
        "Gy/s": ImageUnit("Gy/s", "gray per second"),
        "MBq.s/mL": ImageUnit("MBq.s/ml", "megabecquerel seconds per milliliter"),
        "": ImageUnit("1", "no units", "NONE"),
    }
)
"""The units of images that DICOM files are written in."""


def image_unit(name: str) -> ImageUnit:
    """Return how DICOM says a unit; raises ValueError for an unknown one."""
    if name not in IMAGE_UNITS:
        raise ValueError(f"unknown unit {name!r}; choose from {', '.join(filter(None, IMAGE_UNITS))}")
    return IMAGE_UNITS[name]


def real_world_mapping(step: float, lowest: int, largest: int, unit: str) -> Dataset:
    """Return the item of RealWorldValueMappingSequence that says that a stored 1 is worth `step` of a unit."""
    from pydicom.dataset import Dataset

    known, code, item = image_unit(unit), Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = known.code, "UCUM", known.meaning
    values = {
        "RealWorldValueFirstValueMapped": lowest,
        "RealWorldValueLastValueMapped": largest,
        "RealWorldValueIntercept": 0.0,
        "RealWorldValueSlope": step,
        "LUTExplanation": known.meaning,
        "LUTLabel": (unit or "values")[:16],
        "MeasurementUnitsCodeSequence": [code],
    }
    for name, value in values.items():
        setattr(item, name, value)
    # which of two formats they have depends on PixelRepresentation, which an item does not see
    for name in ("RealWorldValueFirstValueMapped", "RealWorldValueLastValueMapped"):
        item[name].VR = "SS" if lowest < 0 else "US"
    return item


def unit_of_mapping(item: Dataset) -> str | None:
    """Return the unit of an item of RealWorldValueMappingSequence, by the code's value; None for an unknown one."""
    from .attributes import items_of, text_of

    codes = [text_of(code, "CodeValue") for code in items_of(item, "MeasurementUnitsCodeSequence")]
    return next((name for name, known in IMAGE_UNITS.items() if known.code in codes), None)
