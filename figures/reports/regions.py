"""The table of regions: volume, mean, SD, maximum, peak and total of an image in each, in units that read well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.recon import RegionOfInterest, suv_peak

_SCALES = ((1e7, 1e6, "MBq/mL"), (1e3, 1e3, "kBq/mL"), (0.0, 1.0, "Bq/mL"))  # from this value on
_TOTALS = ((1e9, "GBq"), (1e6, "MBq"), (1e3, "kBq"), (1.0, "Bq"))


@dataclass(frozen=True)
class RegionRow:
    """What an image holds in a region.

    Args:
        volume : mL.
        mean, sd, highest : of the voxels; sd is None for a single one.
        peak : the highest mean in a sphere of 1 mL whose centre is in the region.
        total : mean times volume in mL: Bq of an image in Bq/mL; the sum of the voxels where the unit is counts.
    """

    name: str
    volume: float
    mean: float
    sd: float | None
    highest: float
    peak: float
    total: float


def region_rows(
    image: np.ndarray, grid: ImageGrid, masks: Mapping[str, np.ndarray], unit: str = "Bq/mL"
) -> list[RegionRow]:
    """Return the rows of the table, in the order of the masks; raises ValueError for masks that do not fit."""
    return [_row(image, grid, RegionOfInterest(name, mask), unit) for name, mask in masks.items()]


def _row(image: np.ndarray, grid: ImageGrid, region: RegionOfInterest, unit: str) -> RegionRow:
    mean, volume = float(region.mean(image)), region.volume(grid)
    return RegionRow(
        region.name,
        volume,
        mean,
        float(region.sd(image)) if region.parts.size > 1 else None,
        float(region.max(image)),
        float(suv_peak(image, grid, region)),
        mean * (region.n_voxels if unit == "counts" else volume),
    )


def scale_of(unit: str, values: Sequence[float]) -> tuple[float, str]:
    """Return (divisor, unit) in which values read well: kBq/mL for some thousand Bq/mL; other units stay."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if unit != "Bq/mL":
        return 1.0, unit
    return next((divisor, name) for least, divisor, name in _SCALES if largest >= least)


def total_of(unit: str, values: Sequence[float]) -> tuple[float, str]:
    """Return (divisor, unit) of totals: MBq of an image in Bq/mL, counts, or SUV x mL."""
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    if unit != "Bq/mL":
        return 1.0, {"counts": "counts", "SUV": "SUV × mL"}.get(unit, f"{unit} × mL")
    return next((scale for scale in _TOTALS if largest >= scale[0]), _TOTALS[-1])
