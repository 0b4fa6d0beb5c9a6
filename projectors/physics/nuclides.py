"""Radionuclides: half-lives, photon lines, positrons, and the many ways in which files write their names."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from .compton import ELECTRON_MASS

_PET_FRACTION = 0.1  # positrons per decay from which a nuclide is imaged by its annihilation photons
_CAMERA_RANGE = (60.0, 600.0)  # keV; X rays below are absorbed in the body, photons above pass the septa

ELEMENTS: Mapping[str, str] = dict(
    re.findall(
        r"([a-z]+) ([A-Z][a-z]?)",
        "carbon C, nitrogen N, oxygen O, fluorine F, sodium Na, phosphorus P, potassium K, scandium Sc, titanium Ti, "
        "chromium Cr, manganese Mn, iron Fe, cobalt Co, copper Cu, zinc Zn, gallium Ga, germanium Ge, arsenic As, "
        "selenium Se, bromine Br, krypton Kr, rubidium Rb, strontium Sr, yttrium Y, zirconium Zr, niobium Nb, "
        "technetium Tc, indium In, tin Sn, iodine I, xenon Xe, caesium Cs, cesium Cs, samarium Sm, gadolinium Gd, "
        "terbium Tb, holmium Ho, erbium Er, lutetium Lu, rhenium Re, thallium Tl, lead Pb, bismuth Bi, astatine At, "
        "radium Ra, actinium Ac, thorium Th",
    )
)
"""The symbols of elements by their names in lower case."""


@dataclass(frozen=True)
class Radionuclide:
    """A radionuclide: what it emits, and how fast it decays.

    Args:
        name : symbol and mass number, such as "Tc-99m".
        half_life : s.
        lines : photons per decay by their energy in keV: gamma and X rays.
        positron_fraction : positrons per decay.
        daughters : the nuclides whose lines are included, as they decay along with their parent (secular equilibrium).
    """

    name: str
    half_life: float
    lines: Mapping[float, float] = field(default_factory=dict)
    positron_fraction: float = 0.0
    daughters: tuple[str, ...] = ()

    @property
    def photons(self) -> Mapping[float, float]:
        """Photons per decay by energy in keV, annihilation photons included."""
        annihilation = {ELECTRON_MASS: 2 * self.positron_fraction} if self.positron_fraction else {}
        return {**self.lines, **annihilation}

    @property
    def main_energy(self) -> float:
        """The energy most used for imaging in keV.

        That is 511 for positron emitters (0.1 positrons per decay and more), and otherwise the strongest line from 60
        to 600 keV, or the strongest of all where none is there.

        Raises ValueError for nuclides without lines, such as Y-90: the energy of bremsstrahlung has to be chosen.
        """
        if self.positron_fraction >= _PET_FRACTION:
            return ELECTRON_MASS
        low, high = _CAMERA_RANGE
        lines = {energy: share for energy, share in self.lines.items() if low <= energy <= high} or self.lines
        if not lines:
            raise ValueError(
                f"{self.name} emits no photons of one energy, only bremsstrahlung; give the energy to model in keV"
            )
        return max(lines, key=lambda energy: lines[energy])

    def energy_in(self, window: tuple[float, float] | None) -> float:
        """Return the energy in keV that an energy window images: its strongest line inside, `main_energy` for None.

        Raises ValueError where no line lies inside the window.
        """
        if window is None:
            return self.main_energy
        low, high = window
        inside = {energy: share for energy, share in self.photons.items() if low <= energy <= high and share >= 1e-3}
        if not inside:
            known = sorted(self.photons, key=lambda energy: -self.photons[energy])[:6]
            lines = f"its lines: {', '.join(f'{energy:.4g}' for energy in known)}" if known else "it has none"
            raise ValueError(
                f"{self.name} has no photon line in the energy window of {low:g} to {high:g} keV ({lines}); "
                "give the energy to model in keV"
            )
        return max(inside, key=lambda energy: inside[energy])

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
            tuple(entry.get("daughters", ())),
        )
        for name, entry in json.loads(text)["isotopes"].items()
    }


def isotopes() -> tuple[str, ...]:
    """Return the names `isotope` knows."""
    return tuple(_isotopes())


def isotope(name: str) -> Radionuclide:
    """Return a radionuclide by name.

    "Tc-99m", "Tc99m", "99mTc", "^99m^Technetium" and "technetium 99m" are the same.

    Raises ValueError for an unknown name.

    Source: DDEP and LNHB evaluations, and ICRP Publication 107; see isotopes.json.
    """
    found = _isotopes().get(plain_name(name))
    if found is None:
        raise ValueError(f"unknown radionuclide {name!r}; choose from {', '.join(isotopes())}")
    return found


def plain_name(name: str) -> str:
    """Return a nuclide's name as symbol and mass number, "Tc-99m", or the text as it is where it cannot be one."""
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    found = []
    # 52mn is manganese, 99mtc is technetium: an m after the number belongs to either
    for pattern in (
        r"(?P<element>[a-z]+)(?P<mass>\d{1,3}m?)",
        r"(?P<mass>\d{1,3}m?)(?P<element>[a-z]+)",
        r"(?P<mass>\d{1,3})(?P<element>[a-z]+)",
    ):
        parts = re.fullmatch(pattern, letters)
        if parts:
            found.append(f"{ELEMENTS.get(parts['element'], parts['element'].capitalize())}-{parts['mass']}")
    return next((name for name in found if name in _isotopes()), found[0] if found else name)
