"""Simulated acquisitions: what SPECT cameras and PET scanners expect of a phantom, and the scans they measure."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import (
    AcquisitionModel,
    DeadTime,
    DynamicScan,
    Frames,
    GatedScan,
    ImageGrid,
    PETSinogram,
    Projector,
    Scan,
    SPECTGeometry,
)

from ..noise import generator, poisson, thin
from ..phantoms.phantom import Phantom
from .mismatch import Mismatch


class Body(Protocol):
    """What a simulator asks of a phantom; `Phantom` and `LabelMap` have it."""

    def activity(self, grid: ImageGrid) -> np.ndarray:
        """Return the activity concentration of every voxel in kBq/mL."""

    def attenuation(self, grid: ImageGrid, energy_kev: float) -> np.ndarray:
        """Return the linear attenuation coefficient of every voxel in 1/cm."""


class Rates(NamedTuple):
    """What a scanner expects in one second without decay: trues and scatter (..., data), and the given factors.

    Args:
        room : counts/s of every bin that do not come from the phantom.
        randoms : whether and how the scanner adds them, see `Simulator._randoms`.
    """

    trues: np.ndarray
    scatter: np.ndarray
    factors: np.ndarray
    room: float


@dataclass(frozen=True, eq=False)
class Expectation:
    """Expected counts of one or several scans, part by part, with what a reconstruction is given.

    Args:
        trues, scatter, randoms : (..., ``*data``) expected counts; randoms hold all that is not from single decays.
        factors : (..., ``*data``) or broadcasting, of the model that is given: trues are about factors * A(truth).
        truth : (..., nx, ny, nz) mean activity concentration in kBq/mL at the start of the scan.
        mu : (..., nx, ny, nz) the attenuation map that is given, in 1/cm.
        simulator : what it comes from.

    Leading axes are those of the phantoms; `expectation[i]` is one of them.
    """

    trues: np.ndarray
    scatter: np.ndarray
    randoms: np.ndarray
    factors: np.ndarray
    truth: np.ndarray
    mu: np.ndarray
    simulator: Simulator

    @property
    def total(self) -> np.ndarray:
        """trues + scatter + randoms."""
        return self.trues + self.scatter + self.randoms

    @property
    def background(self) -> np.ndarray:
        """The scatter and randoms that are given, with their mismatch."""
        return np.float32(self.simulator.mismatch.background) * (self.scatter + self.randoms)

    @property
    def fractions(self) -> tuple[np.ndarray, np.ndarray]:
        """The scatter fraction S / (T + S) and the randoms fraction R / (T + S + R) of every scan; 0 of no counts."""
        T, S, R = (self._sums(part) for part in (self.trues, self.scatter, self.randoms))
        return _share(S, T + S), _share(R, T + S + R)

    def with_counts(self, counts: ArrayLike) -> Expectation:
        """Return the scans of so much more or less activity that `counts` are expected in all, one number or (B,).

        Everything scales alike, truth included; dead time and the share of randoms stay as they were.

        Raises ValueError for counts that are not positive and where nothing is expected.
        """
        sums = _positive(self._sums(self.total), "the sum of expected counts")
        return self._scaled(_positive(_one_each(counts, sums, "counts"), "counts") / sums)

    def with_fractions(self, scatter: ArrayLike | None = None, randoms: ArrayLike | None = None) -> Expectation:
        """Return the same trues with other fractions of scatter S / (T + S) and randoms R / (T + S + R).

        One number or (B,) each; None keeps the scatter, or the ratio of randoms to trues and scatter.

        Raises ValueError for fractions outside of 0 to 1, and where there is no scatter or no randoms to be scaled.
        """
        T, S, R = (self._sums(part) for part in (self.trues, self.scatter, self.randoms))
        wanted = S if scatter is None else _odds(_one_each(scatter, T, "scatter"), "scatter") * T
        more = _ratio(wanted, S, "scatter")
        odds = _share(R, T + S) if randoms is None else _odds(_one_each(randoms, T, "randoms"), "randoms")
        ratio = _ratio(odds * (T + wanted), R, "randoms")
        return replace(self, scatter=_times(more, self.scatter), randoms=_times(ratio, self.randoms))

    def measure(self, seed: int | Sequence[int]) -> np.ndarray:
        """Return Poisson counts (..., ``*data``), float32; of several scans each has its own seed or `item_seed`."""
        total, n = self.total, len(self.simulator.geometry.shape)
        if total.ndim == n:
            return np.asarray(poisson(total, seed))  # type: ignore[arg-type]
        seeds = [item_seed(seed, i) for i in range(len(total))] if np.ndim(seed) == 0 else seed  # type: ignore[arg-type]
        if len(seeds) != len(total):  # type: ignore[arg-type]
            raise ValueError(f"{len(seeds)} seeds for {len(total)} scans")  # type: ignore[arg-type]
        return np.stack([poisson(t, s) for t, s in zip(total, seeds)])  # type: ignore[arg-type]

    def __getitem__(self, i: int | slice | np.ndarray) -> Expectation:
        n = len(self.simulator.geometry.shape)
        if self.trues.ndim == n:
            raise TypeError("this is the expectation of one phantom, without items to choose from")
        factors = self.factors[i] if self.factors.ndim > n and self.factors.shape[0] > 1 else self.factors
        factors = factors[0] if factors.ndim > n and not isinstance(i, slice) and np.ndim(i) == 0 else factors
        return replace(
            self,
            trues=self.trues[i],
            scatter=self.scatter[i],
            randoms=self.randoms[i],
            factors=factors,
            truth=self.truth[i],
            mu=self.mu[i],
        )

    def shorter(self, fraction: float) -> Expectation:
        """Return the scan of `fraction` of the time of every view: fewer counts and factors, the same truth."""
        part = np.float32(fraction)
        return replace(
            self,
            trues=part * self.trues,
            scatter=part * self.scatter,
            randoms=part * self.randoms,
            factors=part * self.factors,
        )

    def _scaled(self, scale: np.ndarray) -> Expectation:
        """Return scans of `scale` times the activity."""
        return replace(
            self,
            trues=_times(scale, self.trues),
            scatter=_times(scale, self.scatter),
            randoms=_times(scale, self.randoms),
            truth=_times(scale, self.truth),
        )

    def _sums(self, part: np.ndarray) -> np.ndarray:
        return item_sums(part) if part.ndim > len(self.simulator.geometry.shape) else np.asarray(part.sum(dtype=float))


@dataclass(frozen=True, eq=False)
class Simulation:
    """One simulated scan, with the truth.

    Args:
        scan : counts, and the background and factors that a reconstruction is given.
        expectation : what was expected, part by part.
    """

    scan: Scan
    expectation: Expectation

    @property
    def truth(self) -> np.ndarray:
        """The mean activity concentration in kBq/mL of every voxel at the start of the scan."""
        return self.expectation.truth

    @property
    def mu(self) -> np.ndarray:
        """The attenuation map that is given, in 1/cm."""
        return self.expectation.mu

    def projector(self) -> Projector:
        """Return the projector that a reconstruction is given."""
        return self.expectation.simulator.projector(self.mu)

    def model(self) -> AcquisitionModel:
        """Return the model that a reconstruction is given; its images are in kBq/mL at the start of the scan."""
        return self.scan.model(self.projector())

    def levels(self, fractions: Sequence[float], seed: int, *, nested: bool = True) -> tuple[Simulation, ...]:
        """Return the same scan with fewer counts, see `count_levels`; with nested=False each level is drawn anew."""
        levels = _fractions(fractions)
        expected = [self.expectation.shorter(f) for f in levels]
        if nested:
            return tuple(map(Simulation, count_levels(self.scan, levels, seed), expected))
        drawn = [e.measure(item_seed(seed, i, "levels")) for i, e in enumerate(expected)]
        scans = [replace(shortened(self.scan, f), counts=counts) for f, counts in zip(levels, drawn)]
        return tuple(map(Simulation, scans, expected))


class _Given(TypedDict):
    """What a reconstruction of a series is given."""

    factors: np.ndarray
    background: np.ndarray


class Simulator(ABC):
    """A scanner with a protocol: from phantoms to expected counts and scans.

    Subclasses are frozen; they say how one second looks (`_rates`), and what a reconstruction is given.
    """

    grid: ImageGrid
    geometry: SPECTGeometry | PETSinogram
    radionuclide: str
    duration: float
    dead_time: DeadTime | None
    mismatch: Mismatch

    @property
    @abstractmethod
    def energy(self) -> float:
        """The energy of the photons in keV."""

    @property
    @abstractmethod
    def energy_window(self) -> tuple[float, float] | None:
        """(lower, upper) keV, or None."""

    @abstractmethod
    def projector(self, mu: np.ndarray) -> Projector:
        """Return the projector that a reconstruction is given, for a map (nx, ny, nz) or one per item."""

    @abstractmethod
    def _rates(self, activity: np.ndarray, mu: np.ndarray) -> Rates:
        """Return the rates of images (B, ...) on the fine grid."""

    @abstractmethod
    def _randoms(self, prompts: np.ndarray) -> np.ndarray:
        """Return the randoms that come with trues and scatter (B, ``*data``)."""

    @abstractmethod
    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        """Return seconds x decay and seconds of the static scan, each (1, 1) or (1, views)."""

    @abstractmethod
    def _counted(self, rates: np.ndarray) -> np.ndarray:
        """Return what one counter has to count in all, (B, views or 1, 1, ...), of counts/s (B, ``*data``)."""

    @abstractmethod
    def _check_reach(self, image: np.ndarray, grid: ImageGrid, name: str) -> None:
        """Raise ValueError where an image (..., nx, ny, nz) reaches into the detectors."""

    def check(self, phantom: Body) -> None:
        """Raise ValueError where a phantom cannot be simulated: painted on the grid it reaches into the detectors."""
        together = getattr(phantom, "painted", None)
        if together is not None:
            activity, mu = together(self.grid, self.energy, 1)
        else:
            activity, mu = phantom.activity(self.grid), phantom.attenuation(self.grid, self.energy)
        self._check_reach(activity, self.grid, "activity")
        self._check_reach(mu, self.grid, "attenuation")

    @property
    def fine_grid(self) -> ImageGrid:
        """The grid of the simulation."""
        return self.mismatch.fine_grid(self.grid)

    def paint(self, phantom: Body) -> tuple[np.ndarray, np.ndarray]:
        """Return activity (kBq/mL) and attenuation (1/cm) of a phantom on the fine grid."""
        fine = self.fine_grid
        together = getattr(phantom, "painted", None)  # of bodies that paint both in less time than one by one
        if together is not None:
            # voxels of half the size need fewer points each; slices are cheap
            volume = self.grid.shape[2] > 1 and self.mismatch.refine > 1
            activity, mu = together(fine, self.energy, 2 if volume else 4)
            return activity, mu
        return phantom.activity(fine), phantom.attenuation(fine, self.energy)

    def expect(self, phantom: Body | Sequence[Body]) -> Expectation:
        """Return the expected counts of a phantom, or of several as a batch; activities are taken as kBq/mL."""
        if isinstance(phantom, Sequence):
            return self.expect_images(*self._painted(phantom))
        return self.expect_images(*self.paint(phantom))

    def expect_images(self, activity: np.ndarray, mu: np.ndarray) -> Expectation:
        """Return the expected counts of images (..., nx, ny, nz) on `fine_grid`, in kBq/mL and 1/cm.

        Raises ValueError for shapes that do not fit, and for values that are negative or not finite. Warns where an
        image reaches the edge of the grid in x or y, so that a phantom may have been cut off.
        """
        return self._expect(activity, mu, *self._weights())

    def __call__(self, phantom: Body, seed: int, counts: float | None = None) -> Simulation:
        """Return the scan of a phantom.

        Args:
            seed : of the noise.
            counts : expected in all; scales the activity, truth included. None takes the phantom's activity as kBq/mL.
        """
        expected = self.expect(phantom)
        expected = expected if counts is None else expected.with_counts(counts)
        return Simulation(self.scan(expected, seed), expected)

    def frames(
        self, phantoms: Sequence[Body], frames: Frames, seed: int, counts: float | None = None
    ) -> tuple[DynamicScan, np.ndarray]:
        """Return the scan of one phantom for each time frame, and the truths (F, nx, ny, nz) in kBq/mL.

        Activities are those at time 0, without decay since. counts : expected in all frames together.
        Times are those of `frames`, whatever the simulator's duration; a SPECT camera turns once in each.

        Raises ValueError where numbers of phantoms and frames differ.
        """
        if len(phantoms) != len(frames):
            raise ValueError(f"{len(phantoms)} phantoms for {len(frames)} frames; give one for each")
        empty = np.broadcast_to(np.float32(0), (len(frames), *self.geometry.shape))
        plan = DynamicScan(empty, self.geometry, frames, radionuclide=self.radionuclide)
        expected, measured, given = self._series(phantoms, plan.seconds * plan.decay, plan.seconds, seed, counts)
        return replace(plan, counts=measured, energy_window=self.energy_window, **given), expected.truth

    def gates(
        self, phantoms: Sequence[Body], durations: Sequence[float], seed: int, counts: float | None = None
    ) -> tuple[GatedScan, np.ndarray]:
        """Return the scan of one phantom for each gate, and the truths (G, nx, ny, nz) in kBq/mL.

        Args:
            durations : s in every gate (per view for SPECT).
            counts : expected in all gates together.

        Gates decay alike, by the mean over the scan, which the factors hold.

        Raises ValueError where numbers of phantoms and gates differ, and for gates longer than the scan.
        """
        if len(phantoms) != len(durations):
            raise ValueError(f"{len(phantoms)} phantoms for {len(durations)} gates; give one for each")
        if sum(durations) > self.duration * (1 + 1e-6):
            raise ValueError(f"gates of {sum(durations):g} s in a scan of {self.duration:g} s (per view for SPECT)")
        weights, seconds = self._weights()
        share = np.asarray(durations, float)[:, None] / seconds
        expected, measured, given = self._series(phantoms, share * weights, share * seconds, seed, counts)
        decay = _spread(weights / seconds, self.geometry)
        scan = GatedScan(
            measured,
            self.geometry,
            np.asarray(durations, float),
            background=given["background"],
            factors=given["factors"] * decay,
            radionuclide=self.radionuclide,
            energy_window=self.energy_window,
        )
        return scan, expected.truth

    def _series(
        self, phantoms: Sequence[Body], weights: np.ndarray, seconds: np.ndarray, seed: int, counts: float | None
    ) -> tuple[Expectation, np.ndarray, _Given]:
        """Return expectation, counts and the given values of scans that leave time and decay to their series."""
        expected = self._expect(*self._painted(phantoms), weights, seconds)
        if counts is not None:  # parts without activity, such as those before the injection, stay without
            total = _positive(expected._sums(expected.total).sum(), "the sum of expected counts")
            expected = expected._scaled(_positive(counts, "counts") / total)
        measured = expected.measure(seed)
        factors = expected.factors / _spread(weights, self.geometry)
        return expected, measured, {"factors": factors, "background": expected.background}

    def _painted(self, phantoms: Sequence[Body]) -> tuple[np.ndarray, np.ndarray]:
        if not phantoms:
            raise ValueError("no phantoms were given to simulate")
        activity, mu = zip(*map(self.paint, phantoms))
        return np.stack(activity), np.stack(mu)

    def _expect(self, activity: np.ndarray, mu: np.ndarray, weights: np.ndarray, seconds: np.ndarray) -> Expectation:
        activity, mu = self._checked(activity, "activity"), self._checked(mu, "mu")
        if activity.shape != mu.shape:
            raise ValueError(f"activity {activity.shape} and mu {mu.shape} must be images of the same number")
        batch = activity.shape[:-3]
        flat = [x.reshape(-1, *x.shape[-3:]) for x in (activity, mu)]
        rates = self._rates(*flat)
        weight, second = (_spread(w, self.geometry) for w in (weights, seconds))
        trues, scatter = weight * rates.trues, weight * rates.scatter
        randoms = self._randoms(trues + scatter) + second * np.float32(rates.room)
        live = np.ones((), np.float32)
        if self.dead_time is not None:
            rate = self._counted((trues + scatter + randoms) / second)
            live = np.where(rate > 0, self.dead_time.measured_rate(rate) / np.where(rate > 0, rate, 1), 1)
            live = live.astype(np.float32)
        truth, true_mu = (self.mismatch.joined(x, self.grid) for x in flat)
        scatter, randoms = (np.broadcast_to(part * live, trues.shape) for part in (scatter, randoms))
        given = self.mismatch.given_attenuation(true_mu, self.grid)
        names = ("trues", "scatter", "randoms", "factors", "truth", "mu")
        values = trues * live, scatter, randoms, rates.factors * weight * live, truth, given
        parts = dict(zip(names, values))
        if not batch:
            parts = {name: part[0, ...] if part.shape[0] == 1 else part for name, part in parts.items()}
        return Expectation(**parts, simulator=self)

    def _checked(self, images: np.ndarray, name: str) -> np.ndarray:
        images = np.asarray(images, np.float32)
        if images.ndim not in (3, 4) or images.shape[-3:] != self.fine_grid.shape:
            raise ValueError(
                f"{name} of shape {images.shape} does not fit the simulation's grid {self.fine_grid.shape}"
            )
        if not (np.isfinite(images).all() and images.min(initial=0) >= 0):
            raise ValueError(f"{name} must be finite and not negative")
        self._check_reach(images, self.fine_grid, name)
        if any(images[..., edge, :, :].any() or images[..., :, edge, :].any() for edge in (0, -1)):
            warnings.warn(
                f"{name} reaches the edge of the grid in x or y; what lies beyond is cut off: take a larger grid",
                stacklevel=2,
            )
        return images

    def scan(self, expected: Expectation, seed: int) -> Scan:
        return Scan(
            expected.measure(seed),
            self.geometry,
            expected.background,
            expected.factors,
            self.duration,
            self.radionuclide,
            self.energy_window,
        )


def item_seed(seed: int, index: int, purpose: str = "item") -> int:
    """Return the seed that belongs to one item of many, whatever was drawn before: a number below 2^63."""
    return int(generator(seed, f"{purpose} {index}").integers(2**63))


def count_levels(scan: Scan, fractions: Sequence[float], seed: int) -> tuple[Scan, ...]:
    """Return scans with fewer counts out of one, each level a part of every higher one.

    Every event of a level is kept with p = f / f_next in the next lower one, y_f ~ Binomial(y_f_next, p), so that level
    f is Binomial(y, f): as if the time of the scan (of every view) had been f times as long. Background, factors and
    duration are multiplied by f, so that images keep their unit. Decay stays that of the whole scan, as if pauses had
    been made; factors that hold it are right.

    Args:
        scan : counts are integers.
        fractions : 0 < f <= 1, any order; other levels in the list change the draw.

    Raises ValueError for other fractions and for counts that are not integers.
    """
    levels = _fractions(fractions)
    found, counts, last = {}, scan.counts, 1.0
    for i, f in enumerate(sorted(set(levels), reverse=True)):
        counts, last = thin(counts, min(f / last, 1.0), item_seed(seed, i, "level")), f
        found[f] = replace(shortened(scan, f), counts=counts)
    return tuple(found[f] for f in levels)


def respiratory_gates(
    phantom: Phantom,
    n_gates: int,
    amplitude: tuple[float, float, float] = (0.0, 3.0, 15.0),
    names: Sequence[str] | None = None,
) -> list[Phantom]:
    """Return a breathing phantom in gates of equal duration over one cycle, beginning at the end of expiration::

        displacement(t) = -amplitude sin^4(pi t),      t: fraction of the cycle

    Args:
        amplitude : (x, y, z) mm from end of inspiration to end of expiration: with positive y and z, breathing in moves
            organs to the front (-y) and down (-z).
        names : regions that move; None moves everything. Regions that contain others should be named with them.

    Each gate shows the phantom in the middle of its time.

    Raises ValueError for names that no region has.

    Source: the shape is that of Lujan et al. 1999, cos^4 from the end of inspiration.
    """
    if not (n_gates >= 1 and n_gates == int(n_gates)):
        raise ValueError(f"n_gates must be a whole number, at least 1, got {n_gates}")
    if np.shape(amplitude) != (3,) or not np.isfinite(amplitude).all():
        raise ValueError(f"amplitude must be three finite numbers in mm, got {amplitude}")
    moving = set(phantom.names if names is None else names)
    unknown = moving - set(phantom.names)
    if unknown:
        raise ValueError(f"unknown regions {sorted(unknown)}; choose from {', '.join(phantom.names[1:])}")
    times = (np.arange(n_gates) + 0.5) / n_gates
    return [_displaced(phantom, moving, -(math.sin(math.pi * t) ** 4) * np.asarray(amplitude, float)) for t in times]


def _displaced(phantom: Phantom, names: set[str], offset: np.ndarray) -> Phantom:
    x, y, z = (float(d) for d in offset)
    regions = phantom.regions
    return Phantom(tuple(replace(r, shape=r.shape.moved((x, y, z))) if r.name in names else r for r in regions))


def shortened(scan: Scan, fraction: float) -> Scan:
    """Return the scan with counts, background, factors and duration times a fraction; counts become fractional."""
    background, factors = (
        np.multiply(values, np.float32(fraction)) if np.ndim(values) else float(values) * fraction
        for values in (scan.background, scan.factors)
    )
    counts = np.multiply(scan.counts, np.float32(fraction))
    duration = None if scan.duration is None else scan.duration * fraction
    return replace(scan, counts=counts, factors=factors, background=background, duration=duration)


def _fractions(fractions: Sequence[float]) -> list[float]:
    levels = [float(f) for f in fractions]
    if not levels or not all(0 < f <= 1 for f in levels):
        raise ValueError(f"levels are fractions of the counts, above 0 and up to 1, got {list(fractions)}")
    return levels


def _spread(values: ArrayLike, geometry: SPECTGeometry | PETSinogram) -> np.ndarray:
    """Return (B, views) or (B, 1) values with axes for the rest of the data, float32."""
    values = np.asarray(values, np.float32)
    return values.reshape(*values.shape, *[1] * (len(geometry.shape) - 1))


def item_sums(values: np.ndarray) -> np.ndarray:
    """Return the sum of every item of a batch in float64, (B,): the same to the last bit whatever the batch."""
    return np.array([item.sum(dtype=float) for item in values])


def _one_each(values: ArrayLike, sums: np.ndarray, what: str) -> np.ndarray:
    """Return one number for every scan."""
    values = np.asarray(values, float)
    if values.shape not in ((), sums.shape):
        raise ValueError(f"{what} must be one number or one for each scan, got {values.shape} for {sums.shape}")
    return values


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0))


def _times(scale: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return scale x values, one number for each item of a batch or one for all."""
    scale = np.asarray(scale, np.float32)
    return np.asarray(scale.reshape(*scale.shape, *[1] * (values.ndim - scale.ndim)) * values, np.float32)


def _positive(values: ArrayLike, what: str) -> np.ndarray:
    values = np.asarray(values, float)
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError(f"{what} must be positive, got {values}; is the activity in the field of view?")
    return values


def _odds(fraction: ArrayLike, what: str) -> np.ndarray:
    fraction = np.asarray(fraction, float)
    if not ((fraction >= 0) & (fraction < 1)).all():
        raise ValueError(f"the fraction of {what} must be from 0 to less than 1, got {fraction}")
    return np.asarray(fraction / (1 - fraction))


def _ratio(wanted: np.ndarray, present: np.ndarray, what: str) -> np.ndarray:
    if np.any((present <= 0) & (wanted > 0)):
        raise ValueError(f"the expectation has no {what} to scale; give the simulator a model of {what}")
    return np.divide(wanted, present, out=np.ones(np.broadcast(wanted, present).shape), where=present > 0)
