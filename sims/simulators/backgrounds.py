"""Backgrounds that a reconstruction is given: exact ones, or estimated from noisy data as in a clinic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from emrecon.projectors import (
    EnergyWindow,
    PETProjector,
    PETSinogram,
    attenuation_factors,
    pair_products,
    rates_of_fans,
    scale_to_tails,
    smooth_projections,
    tail_mask,
    triple_energy_window,
)
from emrecon.projectors.core.arrays import to_numpy

from ..noise import poisson
from .pet import PETSimulator
from .simulator import Expectation, item_seed
from .spect import SPECTSimulator

SCATTER = ("exact", "tew", "sss")
RANDOMS = ("exact", "delayed")
_UPDATES = 4  # of the image between two estimates of scatter
_ROUNDS = 2
_VIEWS = 12  # at least, of the sinogram, that make this image


class Background(NamedTuple):
    """Expected counts by estimate, (..., ``*data``) float32 each."""

    scatter: np.ndarray
    randoms: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """scatter + randoms."""
        return self.scatter + self.randoms


@dataclass(frozen=True)
class BackgroundEstimate:
    """How scatter and randoms are known to a reconstruction.

    Args:
        scatter : "exact", the noise-free expectation, which no clinic has.
            "tew", of SPECT: the simulator's energy windows are drawn with noise, and the triple energy window gives the
            estimate, with the counts of the room in it and the primaries that spill into the lower window.
            "sss", of PET: an image of the counts (two rounds of 4 MLEM updates from some of the views, without time of
            flight) goes through the simulator's own scatter model, `SingleScatter` or `ConvolutionScatter`, with the
            attenuation map that is given, and is scaled to the tails of the counts beside the object.
        randoms : "exact", or "delayed" of PET: delayed coincidences are drawn and their variance is reduced by the
            products of crystal rates, see `projectors.rates_of_fans`. A SPECT camera's counts from the room stay exact,
            but for "tew", which has them already.
        smoothing : FWHM in mm of the Gaussian that smooths a "tew" estimate in each view.

    Raises ValueError for unknown names and numbers out of range.

    Source: Ogawa et al. 1991 (TEW); Watson 2000 (scale to the tails); Hogg et al. 2001 (randoms).
    """

    scatter: str = "exact"
    randoms: str = "exact"
    smoothing: float = 15.0

    def __post_init__(self) -> None:
        for name, choices in (("scatter", SCATTER), ("randoms", RANDOMS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"BackgroundEstimate: unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}"
                )
        if not (math.isfinite(self.smoothing) and self.smoothing >= 0):
            raise ValueError(f"BackgroundEstimate smoothing must be mm and not negative, got {self.smoothing}")

    @property
    def is_exact(self) -> bool:
        """Whether nothing is estimated."""
        return self.scatter == self.randoms == "exact"

    def check(self, simulator: object) -> None:
        """Raise ValueError where a scanner cannot have the estimate."""
        if self.scatter == "tew":
            if not isinstance(simulator, SPECTSimulator) or simulator.scatter is None:
                raise ValueError('scatter = "tew" needs a SPECT camera with scatter; choose from exact, sss for PET')
            _sides(simulator)
        if self.scatter == "sss" and (not isinstance(simulator, PETSimulator) or simulator.scatter is None):
            raise ValueError('scatter = "sss" needs a PET scanner with scatter; choose from exact, tew for SPECT')
        if self.randoms == "delayed" and (not isinstance(simulator, PETSimulator) or simulator.randoms is None):
            raise ValueError('randoms = "delayed" needs a PET scanner with randoms')

    def __call__(self, expected: Expectation, counts: np.ndarray, seeds: Sequence[int]) -> Background:
        """Return the background of a batch of scans.

        Args:
            expected : of the batch; the estimate sees nothing of it but what is given, and what is drawn from it anew.
            counts : (B, ``*data``), those that were measured.
            seeds : of what is drawn, one for each scan.

        Raises ValueError where the scanner cannot have the estimate, and where there are no bins beside the object.
        """
        simulator = expected.simulator
        self.check(simulator)
        own = np.float32(simulator.mismatch.background)
        randoms = expected.randoms
        if self.randoms == "delayed":
            randoms = np.stack([_delayed(simulator, r, s) for r, s in zip(expected.randoms, seeds)])  # type: ignore[arg-type]
        if self.scatter == "exact":
            return Background(own * expected.scatter, own * randoms)
        if self.scatter == "tew":
            scatter = _windows(expected, simulator, seeds, self.smoothing)  # type: ignore[arg-type]
            return Background(own * scatter, np.zeros_like(scatter))
        scatter = _tails(expected, simulator, counts, randoms)  # type: ignore[arg-type]
        return Background(own * scatter, own * randoms)


def _sides(simulator: SPECTSimulator) -> tuple[EnergyWindow, EnergyWindow | None]:
    """The window below the photopeak, and that above it."""
    low, high = simulator.energy_window  # type: ignore[misc]  # there is scatter
    lower = [window for window in simulator.windows if window.upper <= low + 0.5]
    upper = [window for window in simulator.windows if window.lower >= high - 0.5]
    if len(lower) != 1 or len(upper) > 1 or len(lower) + len(upper) != len(simulator.windows):
        raise ValueError(
            'scatter = "tew" needs one energy window below the photopeak and at most one above it, got '
            f"{', '.join(map(str, simulator.windows)) or 'none'}"
        )
    return lower[0], upper[0] if upper else None


def _windows(expected: Expectation, simulator: SPECTSimulator, seeds: Sequence[int], smoothing: float) -> np.ndarray:
    below, above = _sides(simulator)
    inside = simulator.expected_in_windows(expected)
    peak = next(iter(inside))
    drawn: dict[EnergyWindow, np.ndarray] = {}
    for k, window in enumerate(simulator.windows):
        total = inside[window].total
        drawn[window] = np.stack([poisson(t, item_seed(s, k, "window")) for t, s in zip(total, seeds)])
    estimate = triple_energy_window(peak, (below, drawn[below]), (above, drawn[above]) if above else None)
    return np.asarray(smooth_projections(estimate, smoothing, simulator.geometry.pixel_size), np.float32)


def _delayed(simulator: PETSimulator, randoms: np.ndarray, seed: int) -> np.ndarray:
    """Randoms (``*data``) by the products of the crystals' rates in delayed coincidences."""
    plain, tof = simulator.sinogram.without_tof(), simulator.sinogram.tof
    delays = poisson(np.asarray(randoms if tof is None else randoms.sum(2)), item_seed(seed, 0, "delayed"))
    if not np.any(delays):
        return np.zeros(randoms.shape, np.float32)
    known = None if simulator.given_normalisation is None else simulator.given_normalisation.crystal
    rates = rates_of_fans(plain, simulator.fans(np.asarray(delays)), known, n_iterations=30)
    products = np.asarray(pair_products(plain, rates), np.float32)
    products *= np.float32(np.sum(delays, dtype=float) / max(float(products.sum(dtype=float)), 1e-30))
    if tof is None:
        return products
    return np.broadcast_to(products[:, :, None] / np.float32(tof.n_bins), randoms.shape)


def _tails(expected: Expectation, simulator: PETSimulator, counts: np.ndarray, randoms: np.ndarray) -> np.ndarray:
    """Scatter of an image of the counts, scaled to the counts beside the object."""
    sinogram, tof = simulator.sinogram, simulator.sinogram.tof is not None
    plain = PETProjector(simulator.grid, sinogram.without_tof())
    y, r = (np.asarray(part.sum(3) if tof else part, np.float32) for part in (counts, randoms))
    factors = np.broadcast_to(expected.factors, (len(counts), *expected.factors.shape[-len(sinogram.shape) :]))
    f = np.asarray(factors[:, :, :, 0] if tof else factors, np.float32)
    survival = to_numpy(attenuation_factors(plain, expected.mu))
    some = max(1, sinogram.n_views // _VIEWS)  # few views make the image: scatter is smooth
    part = plain.subset(0, some)
    y_seen, r_seen, f_seen = (values[:, ::some] for values in (y, r, f))
    least = 1e-3 * y_seen.mean((1, 2, 3), keepdims=True)
    sensitivity = np.maximum(part.T(f_seen), 1e-6 * f.max())
    seen = (f_seen * part(np.ones_like(sensitivity))).sum((1, 2, 3), keepdims=True)
    level = (y_seen - r_seen).sum((1, 2, 3), keepdims=True).clip(least) / seen
    image = np.broadcast_to(level, sensitivity.shape).astype(np.float32)
    scatter = np.zeros_like(counts, dtype=np.float32)
    for _ in range(_ROUNDS):
        background = r_seen + (scatter.sum(3) if tof else scatter)[:, ::some]
        for _ in range(_UPDATES):
            ratio = y_seen / np.maximum(f_seen * part(image) + background, least)
            image = image * part.T(f_seen * ratio) / sensitivity
        shapes = simulator.scatter_of(image, expected.mu)
        scatter = np.stack([_scaled(*parts, sinogram) for parts in zip(shapes, counts, randoms, survival)])
    return scatter


def _scaled(
    shape: np.ndarray, counts: np.ndarray, randoms: np.ndarray, survival: np.ndarray, sinogram: PETSinogram
) -> np.ndarray:
    largest = float(shape.max(initial=0))
    if largest == 0:
        return np.zeros_like(shape)
    unit = shape * np.float32(max(float(counts.mean()), 1e-30) / largest)
    scaled, _ = scale_to_tails(
        unit,
        counts,
        randoms,
        tail_mask(survival),
        sinogram,
        per="all",
        limits=(0.0, 1e6),
    )
    return scaled
