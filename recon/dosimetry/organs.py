"""Doses of organs: mean, spread, volume histogram, mass and time-integrated activity of every mask, as a table."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.files import atomic_path

from .curves import TimeActivityFit
from .dose import DoseMap

_SHARES = (98, 95, 70, 50, 2)


@dataclass(frozen=True)
class OrganDose:
    """The dose of one organ.

    Args:
        name : of the mask.
        volume, mass : mL and g.
        activity : time-integrated, MBq h, of the whole organ.
        mean, sd, lowest, highest : of the dose in its voxels, Gy; the mean is that of energy over mass, sd is
            unweighted.
        dose_at : Gy that at least so many per cent of the volume get, D98 and so on.
        volume_above : share of the volume that gets at least so many Gy.
        coefficient : time-integrated activity coefficient, h (MBq h per MBq injected); None where the injected activity
            is not known.
        half_life : effective, h, the longest of the organ's fit; None without a fit.
        uncertainty : one standard deviation of the mean dose in Gy, as far as it comes from the fit of the organ's
            curve; None where it is not known.
    """

    name: str
    volume: float
    mass: float
    activity: float
    mean: float
    sd: float
    lowest: float
    highest: float
    dose_at: Mapping[int, float]
    volume_above: Mapping[float, float] = field(default_factory=dict)
    coefficient: float | None = None
    half_life: float | None = None
    uncertainty: float | None = None

    def row(self) -> dict[str, str | float | None]:
        """Return names with units, and values, as the CSV table has them."""
        return {
            "organ": self.name,
            "volume_ml": self.volume,
            "mass_g": self.mass,
            "time_integrated_activity_mbq_h": self.activity,
            "coefficient_h": self.coefficient,
            "half_life_h": self.half_life,
            "mean_gy": self.mean,
            "uncertainty_gy": self.uncertainty,
            "sd_gy": self.sd,
            "min_gy": self.lowest,
            "max_gy": self.highest,
            **{f"d{share}_gy": value for share, value in self.dose_at.items()},
            **{f"v{dose:g}gy": value for dose, value in self.volume_above.items()},
        }


@dataclass(frozen=True)
class OrganTable:
    """The doses of organs, as a table.

    Args:
        organs : in the order of the masks.
        nuclide : its name.
        injected : MBq, None where it is not known.
        notes : what was assumed.
    """

    organs: tuple[OrganDose, ...]
    nuclide: str
    injected: float | None = None
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> OrganDose:
        """Return the row of an organ; KeyError lists the names."""
        for organ in self.organs:
            if organ.name == name:
                return organ
        raise KeyError(f"no organ {name!r}; there are {', '.join(o.name for o in self.organs)}")

    def __iter__(self) -> Iterator[OrganDose]:
        return iter(self.organs)

    def __len__(self) -> int:
        return len(self.organs)

    def __str__(self) -> str:
        width = max(5, *(len(o.name) for o in self.organs)) if self.organs else 5
        lines = [
            f"{'organ':{width}}  {'mL':>8}  {'g':>8}  {'MBq h':>9}  {'mean Gy':>8}  {'max Gy':>8}  "
            f"{'D98':>7}  {'D2':>7}"
        ]
        lines += [
            f"{o.name:{width}}  {o.volume:8.2f}  {o.mass:8.2f}  {o.activity:9.4g}  {o.mean:8.4g}  {o.highest:8.4g}  "
            f"{o.dose_at[98]:7.3g}  {o.dose_at[2]:7.3g}"
            for o in self.organs
        ]
        return "\n".join(lines)

    def to_csv(self) -> str:
        """Return the table as CSV, a row per organ, numbers in full precision."""
        stream = io.StringIO()
        rows = [organ.row() for organ in self.organs]
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["organ"], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        return stream.getvalue()

    def to_json(self) -> str:
        """Return the table as JSON: nuclide, injected activity, notes, and a record per organ."""
        return json.dumps(
            {
                "nuclide": self.nuclide,
                "injected_mbq": self.injected,
                "notes": list(self.notes),
                "organs": [organ.row() for organ in self.organs],
            },
            indent=1,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the table to a .csv or .json file, complete or not at all.

        Raises ValueError for other suffixes.
        """
        name = os.fspath(path).lower()
        if not name.endswith((".csv", ".json")):
            raise ValueError(f"a table of organs is .csv or .json, not {os.path.basename(name)!r}")
        text = self.to_csv() if name.endswith(".csv") else self.to_json() + "\n"
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)


@dataclass(frozen=True)
class DoseVolumeHistogram:
    """The share of a volume that gets at least a dose.

    Args:
        doses : Gy, from 0 on, increasing.
        shares : as many, from 1 down to 0.
    """

    doses: tuple[float, ...]
    shares: tuple[float, ...]

    def volume_above(self, dose: float) -> float:
        """Return the share of the volume that gets at least so many Gy."""
        return float(np.interp(dose, self.doses, self.shares, left=1.0, right=0.0))


def volume_histogram(dose: DoseMap, mask: Array, n_points: int = 200) -> DoseVolumeHistogram:
    """Return the cumulative dose-volume histogram of a mask.

    Args:
        n_points : doses from 0 to the highest in the mask.

    Raises ValueError for masks of other shapes and empty ones.
    """
    values = np.sort(dose.image[_mask("mask", mask, dose)])
    doses = np.linspace(0, values[-1] * (1 + 1e-9), n_points)
    above = 1 - np.searchsorted(values, doses, side="left") / values.size
    return DoseVolumeHistogram(tuple(doses.tolist()), tuple(above.tolist()))


def organ_doses(
    dose: DoseMap,
    masks: Mapping[str, Array],
    *,
    injected: float | None = None,
    fits: Mapping[str, TimeActivityFit] | None = None,
    thresholds: Sequence[float] = (),
) -> OrganTable:
    """Return the table of doses in masks.

    Args:
        dose : of the image.
        masks : name -> (x, y, z) booleans on the dose's grid; they may overlap.
        injected : MBq, for coefficients.
        fits : name -> the organ's curve, for half-lives and for the uncertainty of the mean, which is that of the
            integral (cross-dose from other organs counts as if it had the same relative uncertainty).
        thresholds : Gy, for the volumes above them.

    Raises ValueError for no masks, masks of other shapes, empty ones, and an injected activity that is not positive.
    """
    if not masks:
        raise ValueError("organ_doses got no masks")
    if injected is not None and not (math.isfinite(injected) and injected > 0):
        raise ValueError(f"the injected activity must be positive MBq, got {injected}")
    mass = dose.mass
    rows = tuple(
        _organ(name, _mask(name, mask, dose), dose, mass, injected, (fits or {}).get(name), thresholds)
        for name, mask in masks.items()
    )
    return OrganTable(rows, dose.nuclide, injected)


def _organ(
    name: str,
    inside: np.ndarray,
    dose: DoseMap,
    mass: np.ndarray,
    injected: float | None,
    fit: TimeActivityFit | None,
    thresholds: Sequence[float],
) -> OrganDose:
    values, weights = dose.image[inside], mass[inside]
    total = float(weights.sum())
    mean = float((values * weights).sum()) / total if total > 0 else 0.0
    activity = float(dose.activity[inside].sum()) * dose.grid.voxel_volume
    spread = None if fit is None else fit.integral_uncertainty
    return OrganDose(
        name,
        int(inside.sum()) * dose.grid.voxel_volume,
        total,
        activity,
        mean,
        float(values.std(ddof=1)) if values.size > 1 else 0.0,
        float(values.min()),
        float(values.max()),
        {share: float(np.percentile(values, 100 - share)) for share in _SHARES},
        {float(t): float((values >= t).mean()) for t in thresholds},
        None if injected is None else activity / injected,
        None if fit is None else float(fit.half_lives[0]),
        None if spread is None or fit is None else mean * spread / fit.integral,
    )


def _mask(name: str, mask: Array, dose: DoseMap) -> np.ndarray:
    inside = np.asarray(to_numpy(mask))
    if inside.shape != dose.grid.shape:
        raise ValueError(f"mask {name!r} of shape {inside.shape} does not fit the dose's grid of {dose.grid.shape}")
    if inside.dtype != bool and not np.isin(inside, (0, 1)).all():
        raise ValueError(f"mask {name!r} holds values besides 0 and 1; a label map has to be split into masks first")
    inside = inside.astype(bool)
    if not inside.any():
        raise ValueError(f"mask {name!r} is empty: is it outside of the image, or drawn on another grid?")
    return inside
