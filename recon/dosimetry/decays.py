"""What a radionuclide emits at each decay: beta spectra by Fermi's theory, electrons and photons of one energy."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import loggamma

from emrecon.projectors.core.grid import FrozenArrays
from emrecon.projectors.physics import isotope

from .stopping import ELECTRON_MASS, FINE_STRUCTURE

_BINS = 400
_COMPTON_LENGTH = 386.159  # fm, reduced


@dataclass(frozen=True)
class Beta:
    """One beta branch.

    Args:
        endpoint : keV, the highest energy.
        per_decay : electrons per decay.
        unique : whether it is a unique first forbidden transition; all others are taken as allowed.
    """

    endpoint: float
    per_decay: float
    unique: bool = False


@dataclass(frozen=True, eq=False)
class Emissions(FrozenArrays):
    """What a radionuclide emits, per decay.

    Args:
        nuclide : its name.
        betas : the branches.
        beta_energies, beta_yields : keV and electrons per decay in narrow bins of the spectrum.
        electron_energies, electron_yields : conversion and Auger electrons, keV and per decay.
        photon_energies, photon_yields : gamma and X rays, keV and per decay.
        local : keV per decay that is absorbed where it arises: electrons and X rays below 5 keV.

    Source: ICRP Publication 107 (2008) for all but the shape of the spectra; see emissions.json.
    """

    nuclide: str
    betas: tuple[Beta, ...]
    beta_energies: np.ndarray
    beta_yields: np.ndarray
    electron_energies: np.ndarray
    electron_yields: np.ndarray
    photon_energies: np.ndarray
    photon_yields: np.ndarray
    local: float

    @property
    def beta_energy(self) -> float:
        """Mean energy of betas per decay, keV."""
        return float(self.beta_energies @ self.beta_yields)

    @property
    def electron_energy(self) -> float:
        """Energy of betas, conversion and Auger electrons per decay and of what is absorbed locally, keV."""
        return self.beta_energy + float(self.electron_energies @ self.electron_yields) + self.local

    @property
    def photon_energy(self) -> float:
        """Energy of gamma and X rays per decay, keV; bremsstrahlung is a part of the electrons' energy."""
        return float(self.photon_energies @ self.photon_yields)

    @property
    def energy(self) -> float:
        """All energy per decay but that of neutrinos, keV."""
        return self.electron_energy + self.photon_energy

    def __str__(self) -> str:
        return (
            f"{self.nuclide}: {self.electron_energy:.1f} keV of electrons (betas {self.beta_energy:.1f}) and "
            f"{self.photon_energy:.1f} keV of photons per decay"
        )


def therapy_nuclides() -> tuple[str, ...]:
    """Return the names of the nuclides whose dose can be calculated."""
    return tuple(_tabulated())


@cache
def emissions_of(nuclide: str) -> Emissions:
    """Return what a nuclide emits.

    Args:
        nuclide : "Lu-177", "Y-90" or "I-131" in any spelling that `isotope` takes.

    Raises ValueError for other nuclides.
    """
    name = isotope(nuclide).name
    found = _tabulated().get(name)
    if found is None:
        raise ValueError(f"no emissions of {name} for dosimetry; choose from {', '.join(therapy_nuclides())}")
    betas = tuple(Beta(b["endpoint_kev"], b["per_decay"], b["shape"] == "unique") for b in found["betas"])
    top = max(beta.endpoint for beta in betas)
    energies = (np.arange(_BINS) + 0.5) * top / _BINS
    yields = sum(
        (beta.per_decay * beta_spectrum(energies, beta, found["daughter_z"], found["mass_number"]) for beta in betas),
        np.zeros(_BINS),
    )
    electrons, photons = (np.array([[float(e), y] for e, y in found[key].items()]).reshape(-1, 2) for key in _LINES)
    return Emissions(
        name,
        betas,
        energies,
        yields,
        electron_energies=electrons[:, 0],
        electron_yields=electrons[:, 1],
        photon_energies=photons[:, 0],
        photon_yields=photons[:, 1],
        local=found["local_kev"],
    )


_LINES = ("electrons_kev", "photons_kev")


def beta_spectrum(energies: np.ndarray, beta: Beta, daughter_z: int, mass_number: int) -> np.ndarray:
    """Return the share of a branch's electrons in bins of one width around energies in keV; they add up to 1::

        N(E) = p W q^2 F_0(Z, W) C(W),     C = 1 (allowed),  q^2 + p^2 F_1 / F_0 (unique first forbidden)

    W and p are the electron's total energy and momentum, q = E0 - E the neutrino's, F_k the (generalised) Fermi
    functions of a nucleus of radius 1.2 fm A^(1/3); no screening.

    Raises ValueError where no bin lies below the endpoint.

    Source: Fermi 1934; Konopinski & Uhlenbeck 1941 and Behrens & Buehring 1982 (unique transitions).
    """
    W = energies / ELECTRON_MASS + 1
    p = np.sqrt(W**2 - 1)
    q = np.maximum(beta.endpoint - energies, 0) / ELECTRON_MASS
    fermi = [_fermi(k, W, p, daughter_z, mass_number) for k in (1, 2)]
    density = p * W * q**2 * (q**2 * fermi[0] + p**2 * fermi[1] if beta.unique else fermi[0])
    if not density.sum() > 0:
        raise ValueError(f"no bin of the spectrum lies below its endpoint of {beta.endpoint:g} keV")
    spectrum: np.ndarray = density / density.sum()
    return spectrum


def _fermi(k: int, W: np.ndarray, p: np.ndarray, Z: int, A: int) -> np.ndarray:
    """The generalised Fermi function F_(k-1) of electrons at the surface of the nucleus."""
    gamma = math.sqrt(k**2 - (FINE_STRUCTURE * Z) ** 2)
    eta = FINE_STRUCTURE * Z * W / p
    radius = 1.2 * A ** (1 / 3) / _COMPTON_LENGTH
    factor = math.factorial(2 * k) / (math.factorial(k - 1) * math.gamma(1 + 2 * gamma))
    shape: np.ndarray = np.exp(
        2 * (gamma - k) * np.log(2 * p * radius) + math.pi * eta + 2 * np.real(loggamma(gamma + 1j * eta))
    )
    return factor**2 * shape


@cache
def _tabulated() -> dict[str, dict[str, Any]]:
    text = (files(__package__) / "emissions.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)["nuclides"]
    return found
