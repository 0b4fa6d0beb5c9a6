"""Attenuation of materials, and of Hounsfield units, from tables."""

from __future__ import annotations

import math
from collections import defaultdict
from functools import cache

import numpy as np

from ..core.arrays import Array, array_namespace, as_real
from ..core.tables import read_table

_ANNIHILATION = 510.999  # keV
_WATER_SLOPE = 9.6e-5  # 1/cm per HU of mixtures of air and water at 511 keV
_CARNEY = {  # kVp -> slope (1/cm per HU) and intercept (1/cm) of mixtures of water and bone at 511 keV
    80.0: (3.64e-5, 6.26e-2),
    100.0: (4.43e-5, 5.44e-2),
    110.0: (4.92e-5, 4.88e-2),
    120.0: (5.10e-5, 4.71e-2),
    130.0: (5.51e-5, 4.24e-2),
    140.0: (5.64e-5, 4.08e-2),
}


@cache
def _mass_attenuation() -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
    points = defaultdict(list)
    density = {}
    for row in read_table(__package__, "materials.csv"):
        density[row["material"]] = float(row["density_g_cm3"])
        points[row["material"]].append((float(row["energy_kev"]), float(row["mass_attenuation_cm2_g"])))
    return {name: (density[name], *np.array(values).T) for name, values in points.items()}


def materials() -> tuple[str, ...]:
    """Return the names `linear_attenuation` knows."""
    return tuple(_mass_attenuation())


def linear_attenuation(material: str, energy_kev: float, density: float | None = None) -> float:
    """Return the narrow-beam linear attenuation coefficient in 1/cm.

    Args:
        material : one of `materials()`.
        energy_kev : 1 to 20000.
        density : g/cm3 (default: the material's own; lung 0.26).

    Interpolated in log energy and log coefficient; at an absorption edge the upper branch is taken.

    Raises ValueError for an unknown material, an energy outside its table and a density that is not positive.

    Source: NIST mass attenuation coefficients, Hubbell & Seltzer 1996.
    """
    if material not in _mass_attenuation():
        raise ValueError(f"unknown material {material!r}; choose from {', '.join(materials())}")
    own_density, energies, values = _mass_attenuation()[material]
    if not energies[0] <= energy_kev <= energies[-1]:
        raise ValueError(f"energy must be {energies[0]:g} to {energies[-1]:g} keV, got {energy_kev}")
    if density is not None and not 0 < density < math.inf:
        raise ValueError(f"density of {material} must be positive and finite (g/cm3), got {density}")
    last = min(int(np.searchsorted(energies, energy_kev, side="right")), energies.size - 1)
    (e0, e1), (v0, v1) = np.log(energies[last - 1 : last + 1]), np.log(values[last - 1 : last + 1])
    log_value = v0 + (v1 - v0) * (math.log(energy_kev) - e0) / (e1 - e0)
    return float(math.exp(log_value) * (own_density if density is None else density))


def hounsfield_to_mu(hu: Array, energy_kev: float, kvp: float = 120, scanner: str | None = None) -> Array:
    """Convert CT numbers to linear attenuation at the emission energy: mu = max(mu_water + slope HU, 0), in 1/cm.

    Args:
        hu : Hounsfield units, any shape.
        energy_kev : 70 to 511, and 1 keV more. Between the table's energies mu is interpolated linearly; above them
            (364 or 440 keV, depending on the voltage) towards that of 511 keV, linearly in the logarithm of energy.
        kvp : tube voltage of the CT, one the table holds.
        scanner : a model of the table (default: the mean of all); at 511 keV there is one line for all models.

    The slope differs below and above HU = 0, and at 511 keV below and above about HU = 45 (bilinear models).

    Raises ValueError for a voltage, model or energy outside the table.

    Source: bilinear coefficients as collected by PyTomography (Polson et al. 2025) from vendors' tables; at 511 keV
    Carney et al. 2006, Med Phys 33:976, table of slopes and intercepts by voltage.
    """
    rows = _hounsfield_rows(kvp, scanner)
    energies = np.unique([float(r["energy_kev"]) for r in rows])
    if not energies[0] - 1 <= energy_kev <= _ANNIHILATION + 1:
        raise ValueError(
            f"HU can be converted at {energies[0]:g} to {_ANNIHILATION:.0f} keV (tube at {kvp:g} kVp), "
            f"not {energy_kev:g}"
        )
    xp = array_namespace(hu)
    hu = as_real(hu)
    below, above, water = (
        float(np.interp(energy_kev, energies, [_mean(rows, column, e) for e in energies]))
        for column in ("slope_below", "slope_above", "mu_water_per_cm")
    )
    mu = water + xp.where(hu < 0, below * hu, above * hu)
    if energy_kev > energies[-1] + 1:
        share = min(math.log(energy_kev / energies[-1]) / math.log(_ANNIHILATION / energies[-1]), 1.0)
        mu = (1 - share) * mu + share * _mu_at_511(hu, float(kvp))
    return xp.where(mu < 0, xp.zeros_like(mu), mu)  # NaN stays NaN, for the projector to refuse


def tube_voltages() -> tuple[float, ...]:
    """Return the tube voltages in kV that `hounsfield_to_mu` has tables for."""
    return tuple(sorted({float(r["kvp"]) for r in read_table(__package__, "hounsfield.csv")}))


def ct_scanners(kvp: float) -> tuple[str, ...]:
    """Return the models that `hounsfield_to_mu` has a table of, for a tube voltage."""
    return tuple(sorted({r["scanner"] for r in read_table(__package__, "hounsfield.csv") if float(r["kvp"]) == kvp}))


def _hounsfield_rows(kvp: float, scanner: str | None) -> list[dict[str, str]]:
    table = read_table(__package__, "hounsfield.csv")
    rows = [r for r in table if float(r["kvp"]) == float(kvp) and (scanner or r["scanner"]).lower() == r["scanner"]]
    if not rows:
        voltages = sorted({float(r["kvp"]) for r in table})
        scanners = sorted({r["scanner"] for r in table})
        raise ValueError(
            f"no HU table for {kvp:g} kVp and scanner {scanner!r}; "
            f"voltages: {', '.join(f'{v:g}' for v in voltages)}; scanners: {', '.join(scanners)}"
        )
    return rows


def _mu_at_511(hu: Array, kvp: float) -> Array:
    """The two lines of Carney et al. 2006, which meet at a break point near HU = 45; 1/cm."""
    slope, intercept = _CARNEY[kvp]
    xp, shifted = array_namespace(hu), hu + 1000
    first, second = _WATER_SLOPE * shifted, slope * shifted + intercept
    return xp.where(first < second, first, second)  # the second line is the lower one above the break point


def _mean(rows: list[dict[str, str]], column: str, energy: float) -> float:
    return float(np.mean([float(r[column]) for r in rows if float(r["energy_kev"]) == energy]))
