"""What attenuation maps must be: finite, not negative, in 1/cm; judged by the value that most of the body has."""

from __future__ import annotations

import logging

import numpy as np

from ..core.arrays import Array, is_torch, to_numpy
from .attenuation import linear_attenuation

_LOG = logging.getLogger("emrecon")
_HIGHEST = 10.0  # 1/cm; lead at 250 keV, more than any body holds
_WATER_RANGE = (0.085, 0.21)  # 1/cm, water from 60 to 600 keV
_SAME_UNIT = (0.2, 5.0)  # times water: another energy, bone or lung, but not another unit
_POWER_OF_TEN = 0.15  # of a decade
_PER_MM = (0.06, 0.16)  # times water


def extremes(mu: Array) -> tuple[float, float]:
    """Return the lowest and the highest value of a map; a tensor may ask for a gradient."""
    values = mu.detach() if is_torch(mu) else mu
    return float(values.min()), float(values.max())


def check_attenuation(mu: Array, who: str) -> None:
    """Raise ValueError unless attenuation is finite, not negative and at most 10 /cm; say the likely cause.

    A map that seems to be in 1/mm is logged as a warning: lungs or foam alone look the same.

    Args:
        who : what the attenuation belongs to, for the message.
    """
    low, high = extremes(mu)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError(f"{who}: attenuation holds NaN or infinite values")
    if low < -_HIGHEST:
        raise ValueError(
            f"{who}: attenuation runs from {low:.4g} to {high:.4g}, which looks like Hounsfield units; "
            "convert them by hounsfield_to_mu"
        )
    if low < 0:
        n = int((to_numpy(mu) < 0).sum())
        raise ValueError(
            f"{who}: {n} values of the attenuation are below zero, down to {low:.4g} /cm; where these come from "
            "interpolation or filters, set them to zero (numpy.maximum(mu, 0))"
        )
    if high > _HIGHEST:
        raise ValueError(
            f"{who}: attenuation goes up to {high:.4g} /cm, but water has 0.15 /cm at 140 keV and 0.096 /cm at 511; "
            "is the map in 1/m, scaled by a factor, or in Hounsfield units?"
        )
    try:
        check_unit(mu, None)
    except ValueError as error:
        _LOG.warning("%s: %s", who, error)


def commonest_attenuation(mu: Array) -> float | None:
    """Return the value that most of a body has, in the unit of the map; None where the map is empty.

    It is the mode of the values above 30 % of nearly the highest (99.5 % of the positive ones lie below), which leaves
    out lungs and implants: water or muscle in patients and phantoms.
    """
    values = to_numpy(mu)
    values = values[values > 0].astype(float)  # a histogram of float32 cannot divide a range of a few last digits
    if not values.size:
        return None
    top = float(np.quantile(values, 0.995))
    values = values[(values > 0.3 * top) & (values <= top)]
    counts, edges = np.histogram(values, 64)
    k = int(counts.argmax())
    return float(values[(values >= edges[k]) & (values <= edges[k + 1])].mean())


def check_unit(mu: Array, energy_kev: float | None) -> None:
    """Raise ValueError where the commonest value of a map fits water only after a change of unit.

    Args:
        mu : meant to be in 1/cm.
        energy_kev : of the photons, None where it is not known.
    """
    found = commonest_attenuation(mu)
    if found is None:
        return
    low, high = _WATER_RANGE if energy_kev is None else (linear_attenuation("water", energy_kev),) * 2
    at = "from 60 to 600 keV" if energy_kev is None else f"at {energy_kev:.4g} keV"
    water = f"most of the body has {found:.3g}, and water {at} has " + (
        f"{low:.3g} to {high:.3g} /cm" if energy_kev is None else f"{low:.3g} /cm"
    )
    if found > _SAME_UNIT[1] * high:
        raise ValueError(f"attenuation is not in 1/cm: {water}; {_cure(found, found / low)}")
    if _PER_MM[0] * low <= found <= _PER_MM[1] * high:
        raise ValueError(f"attenuation seems to be in 1/mm, not in 1/cm: {water}; multiply it by 10")


def note_on_energy(mu: Array, energy_kev: float | None) -> str | None:
    """Return a sentence where the commonest value is far from that of water at the photons' energy, or None."""
    found = commonest_attenuation(mu)
    if found is None or energy_kev is None:
        return None
    water = linear_attenuation("water", energy_kev)
    if 0.7 * water <= found <= 1.3 * water:
        return None
    return (
        f"most of the attenuation map has {found:.3g} /cm, and water at {energy_kev:.4g} keV has {water:.3g} /cm; "
        "is the map for another energy?"
    )


def _cure(found: float, ratio: float) -> str:
    """What turns a map whose body has this value, so many times that of water, into one in 1/cm."""
    power = float(np.log10(ratio))
    cures = [f"divide it by {10 ** round(power)}"] if abs(power - round(power)) < _POWER_OF_TEN else []
    if 800 < found < 1300 or not cures:
        cures.append("convert Hounsfield units (after subtracting 1000 where water is 1000) by hounsfield_to_mu")
    return ", or ".join(cures)
