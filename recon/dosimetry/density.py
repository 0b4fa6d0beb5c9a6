"""Mass density of tissue, from CT numbers and from attenuation."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors.physics import hounsfield_to_mu

_HU = (-1000.0, -98.0, 14.0, 100.0, 3000.0)
_DENSITY = (0.00121, 0.93, 1.03, 1.0762, 2.793)  # g/mL


def hounsfield_to_density(hu: ArrayLike) -> np.ndarray:
    """Return the mass density of tissue in g/mL at CT numbers, by straight lines between air, fat, water and bone.

    Values below -1000 HU are taken as air and those above 3000 as 3000 (2.8 g/mL): metal has no tissue's density.

    Raises ValueError for NaN.

    Source: Schneider, Bortfeld & Schlegel 2000, eqs 21 to 23, joined to a line that never falls.
    """
    values = np.asarray(hu, float)
    if np.isnan(values).any():
        raise ValueError("CT numbers hold NaN; is a part of the CT missing?")
    return np.interp(values, _HU, _DENSITY)


def attenuation_to_density(mu: ArrayLike, energy_kev: float, kvp: float = 120) -> np.ndarray:
    """Return the mass density in g/mL of an attenuation map that came from a CT, by way of its CT numbers.

    Args:
        mu : 1/cm at `energy_kev`.
        kvp : of the CT, as for `hounsfield_to_mu`, whose lines are read backwards.

    Raises ValueError for negative or infinite values, and energies and voltages outside of the table.
    """
    values = np.asarray(mu, float)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("attenuation must be finite and not negative (1/cm); are these Hounsfield units?")
    hu = np.linspace(-1000, 3000, 4001)
    line = np.maximum.accumulate(np.asarray(hounsfield_to_mu(hu, energy_kev, kvp), float))
    keep = np.append(True, np.diff(line) > 0)
    return hounsfield_to_density(np.interp(values, line[keep], hu[keep]))
