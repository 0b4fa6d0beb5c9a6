"""The absorbed dose by Monte Carlo, where tissue is not water: lungs, bones, and their surfaces."""

from __future__ import annotations

import logging
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.threads import share

from .decays import Emissions, emissions_of
from .dose import AIR, DoseMap, _checked
from .kernel import MGY_PER_MEV_G
from .media import MEDIA, MediaTables, media_of, media_tables
from .voxel_transport import follow

_LOG = logging.getLogger("emrecon")
_VACUUM = 1e-4  # g/mL: nothing is emptier, so that every way ends
_BATCHES = 10


@dataclass(frozen=True, eq=False)
class MonteCarloDose(DoseMap):
    """A dose by Monte Carlo, with what is left of chance in it.

    Args:
        error : (x, y, z) Gy, one standard deviation of the image by the spread of ten batches of histories.
        histories : decays that were followed.
        escaped : the share of the emitted energy that leaves the image.
    """

    error: np.ndarray
    histories: int
    escaped: float

    @property
    def noise(self) -> float:
        """The relative error of a voxel with half of the highest dose and more, as a mean over them."""
        high = self.image >= 0.5 * self.image.max()
        return float(self.error[high].mean() / self.image[high].mean()) if self.image.max() > 0 else 0.0

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.histories:,} histories, {self.noise:.1%} noise where the dose is high"


def simulated_dose(
    activity: Array,
    grid: ImageGrid,
    nuclide: str,
    *,
    density: Array | None = None,
    media: Array | str | None = None,
    histories: int = 1_000_000,
    seed: int = 0,
) -> MonteCarloDose:
    """Return the absorbed dose of a time-integrated activity by Monte Carlo in voxels of any tissue, in Gy.

    Args:
        activity : (x, y, z) time-integrated activity concentration, MBq h/mL.
        grid : of the activity.
        nuclide : "Lu-177", "Y-90" or "I-131", any spelling.
        density : (x, y, z) g/mL; without it all is water of 1 g/mL. Voxels below 0.1 g/mL are air, which energy crosses
            and whose own dose is 0.
        media : what the voxels consist of, one name of `MEDIA` for all, or (x, y, z) numbers in it; by default the
            tissue of the density (`media_of`).
        histories : decays that are followed: the noise falls as 1 / sqrt(histories). 1,000,000 take 15 to 60 s of one
            core, Lu-177 least and Y-90 most.
        seed : of the random numbers; the same one gives the same result, whatever the number of threads.

    Photons go by Woodcock's method (absorption, and Compton scatter by free electrons; no coherent scatter), and the
    electrons that they set free stay where they arise. Betas and conversion electrons lose energy by the stopping power
    of the tissue in steps of 8 % of it, bend by multiple scattering with the right mean cosine half-way along each
    step, at a random place (the hinge of PENELOPE), and send out bremsstrahlung above 5 keV, which is followed; below 2
    keV, or where they reach less than 0.5 % of a voxel, they end. The range is that of continuous slowing down: no
    straggling. Outside of the image is nothing.

    Raises ValueError for activity that is negative, not finite or 0 everywhere, other shapes, nuclides and media, and
    densities that are negative or above 25 g/mL; TypeError for histories that are not a whole number.

    Source: Woodcock et al. 1965; Kahn 1954; Salvat, PENELOPE (the random hinge); stopping powers of ESTAR, scaled by
    Bethe's formula.
    """
    A = _checked("activity", activity, grid)
    if not A.any():
        raise ValueError("activity is 0 everywhere; there is nothing to follow")
    histories = operator.index(histories)
    if histories < _BATCHES:
        raise ValueError(f"need {_BATCHES} histories or more, got {histories}")
    rho = None if density is None else _checked("density", density, grid)
    if rho is not None and rho.max() > 25:
        raise ValueError(f"densities go up to {rho.max():.4g} g/mL; are these Hounsfield units, or kg/m3?")
    body = np.ones(grid.shape) if rho is None else np.maximum(rho, _VACUUM)
    numbers = _media(media, rho, grid)
    emissions = emissions_of(nuclide)
    batches = _batches(A, body, numbers, grid, emissions, histories, seed)
    energy, gone = np.stack([e for e, _ in batches]), sum(g for _, g in batches)  # keV per history, mean of batches
    mass = body * grid.voxel_volume
    per_history = A.sum() * grid.voxel_volume * 3600 * MGY_PER_MEV_G / 1e6  # Gy g per keV
    air = np.zeros(grid.shape, bool) if rho is None else rho < AIR
    image = np.where(air, 0.0, energy.mean(0) * per_history / mass)
    error = np.where(air, 0.0, energy.std(0, ddof=1) / np.sqrt(_BATCHES) * per_history / mass)
    lost = float(energy.mean(0)[air].sum()) / emissions.energy
    if lost > 0.001:
        _LOG.warning("%.1f %% of the energy falls into voxels of air, which get no dose", 100 * lost)
    absorbed = float(energy.mean(0)[~air].sum()) / emissions.energy
    return MonteCarloDose(
        image, grid, emissions.nuclide, A, rho, "monte-carlo", absorbed, error, histories,
        gone / _BATCHES / emissions.energy,
    )  # fmt: skip


def _media(media: Array | str | None, rho: np.ndarray | None, grid: ImageGrid) -> np.ndarray:
    if media is None:
        numbers = np.zeros(grid.shape, np.int64) if rho is None else media_of(rho)
    elif isinstance(media, str):
        if media not in MEDIA:
            raise ValueError(f"unknown medium {media!r}; choose from {', '.join(MEDIA)}")
        numbers = np.full(grid.shape, MEDIA.index(media))
    else:
        numbers = np.asarray(to_numpy(media))
        if numbers.shape != grid.shape:
            raise ValueError(f"media of shape {numbers.shape} do not fit a grid of {grid.shape}")
        if not np.issubdtype(numbers.dtype, np.integer) or numbers.min() < 0 or numbers.max() >= len(MEDIA):
            raise ValueError(f"media must be whole numbers from 0 to {len(MEDIA) - 1}, places in MEDIA")
    return numbers.astype(np.int64)


def _batches(
    A: np.ndarray,
    rho: np.ndarray,
    media: np.ndarray,
    grid: ImageGrid,
    emissions: Emissions,
    histories: int,
    seed: int,
) -> list[tuple[np.ndarray, float]]:
    """Energy in the voxels and outside, keV per history, of each batch."""
    tables = media_tables()
    majorant = _majorant(rho, media, tables)
    electrons, photons, local = _lines(emissions)
    size = np.array(grid.voxel_size, float) / 10
    cumulative = np.cumsum(A.ravel())
    columns = (
        tables.log_energy, tables.loss, tables.scattering, tables.radiated, tables.radiated_energy, tables.ranges,
        tables.attenuation, tables.compton,
    )  # fmt: skip
    seeds = np.random.SeedSequence(seed).spawn(_BATCHES)
    found: dict[int, tuple[np.ndarray, float]] = {}

    def work(thread: int, n_threads: int) -> None:
        for batch in range(thread, _BATCHES, n_threads):
            random = np.random.default_rng(seeds[batch])
            n = histories // _BATCHES + (batch < histories % _BATCHES)
            # one decay in every equal part of the activity: less noise than drawing each by itself
            wanted = (np.arange(n) + random.random(n)) / n * cumulative[-1]
            places = np.minimum(np.searchsorted(cumulative, wanted, side="right"), A.size - 1)
            energy = np.zeros(A.shape)
            gone = follow(places, rho, media, size, electrons, photons, local, columns, majorant, energy, random)
            found[batch] = (energy / n, float(gone) / n)

    share(work, _BATCHES)
    return [found[batch] for batch in range(_BATCHES)]


def _majorant(rho: np.ndarray, media: np.ndarray, tables: MediaTables) -> np.ndarray:
    """The highest attenuation of photons in the image, 1/cm, by energy."""
    highest = np.zeros(len(MEDIA))
    np.maximum.at(highest, media.ravel(), rho.ravel())
    found: np.ndarray = (tables.attenuation * highest[:, None]).max(0)
    return found


def _lines(emissions: Emissions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Electrons and photons as (keV, cumulative share of the energy), and keV per decay left locally and carried."""

    def shares(energies: Sequence[np.ndarray], yields: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        energy, per_decay = np.concatenate(energies), np.concatenate(yields)
        own = energy * per_decay
        total = float(own.sum())
        return np.stack([energy, np.cumsum(own) / total if total > 0 else own]), total

    electrons, carried = shares(
        (emissions.beta_energies, emissions.electron_energies), (emissions.beta_yields, emissions.electron_yields)
    )
    photons, radiated = shares((emissions.photon_energies,), (emissions.photon_yields,))
    return electrons, photons, np.array([emissions.local, carried, radiated])
