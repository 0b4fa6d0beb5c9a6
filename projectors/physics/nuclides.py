"""Radionuclides: half-lives, photon lines, positrons."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files


@dataclass(frozen=True)
class Radionuclide:
    """A radionuclide: half-life in seconds, photon lines (keV -> yield per decay), positrons per decay."""

    name: str
    half_life: float
    lines: Mapping[float, float] = field(default_factory=dict)
    positron_fraction: float = 0.0

    @property
    def main_energy(self) -> float:
        """The energy most used for imaging in keV: the line of highest yield, 511 for positron emitters."""
        if not self.lines:
            return 510.999
        return max(self.lines, key=lambda energy: self.lines[energy])

    def decay(self, seconds: float) -> float:
        """Return the fraction left after `seconds`: 2 ** (-t / half-life)."""
        return float(2.0 ** (-seconds / self.half_life))

    def mean_decay(self, duration: float) -> float:
        """Return the mean fraction left during a frame of `duration` seconds: (1 - exp(-k T)) / (k T)."""
        kt = math.log(2) * duration / self.half_life
        return float(-math.expm1(-kt) / kt) if kt > 0 else 1.0


@cache
def _isotopes() -> dict[str, Radionuclide]:
    text = (files(__package__) / "isotopes.json").read_text(encoding="utf-8")
    return {
        name: Radionuclide(
            name,
            entry["half_life_s"],
            {float(e): y for e, y in entry.get("lines_kev", {}).items()},
            entry.get("positron_fraction", 0.0),
        )
        for name, entry in json.loads(text)["isotopes"].items()
    }


def isotopes() -> tuple[str, ...]:
    """Return the names `isotope` knows."""
    return tuple(_isotopes())


def isotope(name: str) -> Radionuclide:
    """Return a radionuclide by name; "Tc-99m", "Tc99m", "tc99m" and "99mTc" are the same.

    Raises ValueError for an unknown name.  Source: DDEP and LNHB evaluations, see isotopes.json.
    """
    wanted = name.lower().replace("-", "").replace(" ", "").replace("^", "")
    for known, value in _isotopes().items():
        element, mass = known.lower().split("-")
        if wanted in (element + mass, mass + element):
            return value
    raise ValueError(f"unknown radionuclide {name!r}; choose from {', '.join(isotopes())}")
