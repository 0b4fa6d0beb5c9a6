"""Simulated PET: attenuation, resolution, scatter, randoms, crystal efficiencies, decay and dead time of a scanner."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np

from emrecon.projectors import (
    DeadTime,
    GaussianBlur,
    ImageGrid,
    Normalisation,
    PETProjector,
    PETScanner,
    PETSinogram,
    Projector,
    Scan,
    ScatterSampling,
    attenuation_factors,
    isotope,
    pair_products,
    photon_histories,
    single_scatter,
)
from emrecon.projectors.core.arrays import to_numpy

from ..noise import generator
from ..phantoms.phantom import Phantom, Region
from ..phantoms.shapes import Ellipsoid
from .mismatch import Mismatch
from .simulator import Rates, Simulator, item_sums

_BALL = 20.0  # mm, radius of the source that calibrates


@dataclass(frozen=True)
class ConvolutionScatter:
    """Scatter as the projection of a very blurred image, without attenuation; fast, and right in its total.

    Args:
        fraction : S / (T + S).
        fwhm : mm of the Gaussian, along x, y and, in volumes, z.

    Source: PETSTEP (Berthon et al. 2015).
    """

    fraction: float = 0.25
    fwhm: float = 200.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"ConvolutionScatter fraction must be from 0 to less than 1, got {self.fraction}")
        if not (math.isfinite(self.fwhm) and self.fwhm > 0):
            raise ValueError(f"ConvolutionScatter fwhm must be positive mm, got {self.fwhm}")


@dataclass(frozen=True)
class SingleScatter:
    """Scatter by single scatter simulation, see `projectors.single_scatter`.

    Args:
        fraction : S / (T + S) to which it is scaled, to stand for multiple scatter as well; None for the simulation's
            own.
        energy_window : (lower, upper) keV.
        energy_resolution : FWHM at 511 keV (default: the scanner's).
        sampling : how finely.
        histories : decays followed for the multiple scatter of each phantom, see `projectors.photon_histories`,
            which is added to the single scatter; 0 for none. One phantom has one result.
        smoothing : of multiple scatter, in bins (sigma, along views, radially, along planes): few histories are noisy.
    """

    fraction: float | None = None
    energy_window: tuple[float, float] = (430.0, 610.0)
    energy_resolution: float | None = None
    sampling: ScatterSampling = field(default_factory=ScatterSampling)
    histories: int = 0
    smoothing: tuple[float, float, float] = (4.0, 4.0, 1.0)

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 <= self.fraction < 1:
            raise ValueError(f"SingleScatter fraction must be from 0 to less than 1, got {self.fraction}")
        if self.histories < 0 or min(self.smoothing) < 0:
            raise ValueError(
                f"SingleScatter histories and smoothing must not be negative, got {self.histories}, {self.smoothing}"
            )


@dataclass(frozen=True)
class Randoms:
    """Random coincidences.

    Args:
        fraction : R / (T + S + R).
        singles : "uniform" for the same rate in every crystal pair, or "object" for the product of the crystals' own
            rates, which are taken as proportional to the true and scattered coincidences they take part in.
    """

    fraction: float = 0.08
    singles: str = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"Randoms fraction must be from 0 to less than 1, got {self.fraction}")
        if self.singles not in ("uniform", "object"):
            raise ValueError(f'Randoms singles must be "uniform" or "object", got {self.singles!r}')


@dataclass(frozen=True, eq=False)
class PETSimulator(Simulator):
    """A PET scanner with a protocol: phantoms in kBq/mL become sinograms, with or without time of flight::

        trues = c eff exp(-B mu) A(K x) T decay,     K a Gaussian blur, A line integrals, B those without TOF

    Args:
        grid : of truth and reconstruction.
        sinogram : the bins; one ring and one slice make a two-dimensional scan.
        sensitivity : counts/s/kBq of a ball of 20 mm radius in the middle of the grid, in air; fixes c.
        duration : T in s.
        radionuclide : decays during the scan; activities are those at its start.
        resolution : mm FWHM of K, along x and y and, in volumes, z.
        scatter : `ConvolutionScatter`, `SingleScatter` (volumes) or None.
        randoms : `Randoms` or None.
        normalisation : the true efficiencies, see `random_normalisation`; None for crystals that are all alike.
        given_normalisation : those that a reconstruction is given; None for the true ones.
        dead_time : of the whole scanner, acting on its coincidences; None for none.
        mismatch : between simulation and reconstruction, on by default.

    Source: after PETSTEP (Berthon et al. 2015), with TOF, normalisation, decay and mismatch.

    Raises ValueError for numbers that are not positive.
    """

    grid: ImageGrid
    sinogram: PETSinogram
    sensitivity: float = 7.4
    duration: float = 180.0
    radionuclide: str = "F-18"
    resolution: float = 4.8
    scatter: ConvolutionScatter | SingleScatter | None = field(default_factory=ConvolutionScatter)
    randoms: Randoms | None = field(default_factory=Randoms)
    normalisation: Normalisation | None = None
    given_normalisation: Normalisation | None = None
    dead_time: DeadTime | None = None
    mismatch: Mismatch = field(default_factory=Mismatch)
    _kept: dict[str, np.ndarray | float] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("sensitivity", "duration"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"PETSimulator {name} must be positive, got {value}")
        if not (math.isfinite(self.resolution) and self.resolution >= 0):
            raise ValueError(f"PETSimulator resolution must be mm, not negative, got {self.resolution}")
        for name in ("normalisation", "given_normalisation"):
            value = getattr(self, name)
            if value is not None and not value.scanner.is_same_as(self.sinogram.scanner):
                raise ValueError(f"PETSimulator {name} belongs to another scanner, {value.scanner}")
        if isinstance(self.scatter, SingleScatter) and self.grid.shape[2] == 1:
            raise ValueError("PETSimulator: photons scatter between slices; use ConvolutionScatter in two dimensions")
        object.__setattr__(self, "radionuclide", isotope(self.radionuclide).name)

    @property
    def geometry(self) -> PETSinogram:  # type: ignore[override]  # a property, where others have a field
        """The sinogram."""
        return self.sinogram

    @property
    def energy(self) -> float:
        """The energy of annihilation photons in keV."""
        return 511.0

    @property
    def energy_window(self) -> tuple[float, float] | None:
        """(lower, upper) keV of the scatter simulation, or None."""
        return self.scatter.energy_window if isinstance(self.scatter, SingleScatter) else None

    def projector(self, mu: np.ndarray) -> Projector:
        """Return the projector that a reconstruction is given; its attenuation is in the factors."""
        plain = PETProjector(self.grid, self.sinogram)
        # a projector after a blur is a projector, too
        return cast(Projector, plain @ GaussianBlur(self.grid, self.resolution)) if self.resolution else plain

    @property
    def calibration(self) -> float:
        """c, counts/s per mm kBq/mL of line integral."""
        if "calibration" not in self._kept:
            centre = tuple(float(c) for c in self.grid.centre)
            ball = Phantom((Region("ball", Ellipsoid(centre, _BALL), 1.0),)).activity(self.grid)  # type: ignore[arg-type]
            plain = PETProjector(self.grid, self.sinogram.without_tof())
            lines = float(np.sum(plain(ball) * self._efficiency("alike"), dtype=float))
            if lines <= 0:
                raise ValueError(
                    f"{self.sinogram} does not see the middle of the grid, {centre} mm; is its origin right?"
                )
            self._kept["calibration"] = self.sensitivity * float(ball.sum(dtype=float)) * self.grid.voxel_volume / lines
        return float(self._kept["calibration"])

    def _check_reach(self, image: np.ndarray, grid: ImageGrid, name: str) -> None:
        """Raise ValueError where an image (..., nx, ny, nz) reaches the crystals."""
        x, y, _ = grid.coordinates()
        radius = np.where(np.any(image > 0, axis=(*range(image.ndim - 3), -1)), np.hypot(x, y)[..., 0], 0).max()
        ring = np.hypot(*self.sinogram.scanner.crystals[..., :2].reshape(-1, 2).T).min()
        if radius >= ring:
            raise ValueError(f"{name} reaches {radius:.0f} mm from the axis, but the crystals are at {ring:.0f} mm")

    def _rates(self, activity: np.ndarray, mu: np.ndarray) -> Rates:
        fine, blur = self.fine_grid, self.resolution * self.mismatch.response
        projector, lines = (PETProjector(fine, s) for s in (self.sinogram, self.sinogram.without_tof()))
        true, given = (self._per_bin(self._efficiency(which)) for which in ("true", "given"))
        blurred = GaussianBlur(fine, blur)(activity) if blur else activity
        scale = np.float32(self.calibration)
        survival = self._per_bin(to_numpy(attenuation_factors(lines, mu)))
        trues = scale * true * survival * projector(blurred)
        coarse = self.mismatch.given_attenuation(self.mismatch.joined(mu, self.grid), self.grid)
        plain = PETProjector(self.grid, self.sinogram.without_tof())
        seen = self._per_bin(to_numpy(attenuation_factors(plain, coarse)))
        return Rates(trues, self._scatter(activity, mu, scale * true, trues), scale * given * seen, 0.0)

    def _scatter(self, activity: np.ndarray, mu: np.ndarray, factors: np.ndarray, trues: np.ndarray) -> np.ndarray:
        if self.scatter is None or self.scatter.fraction == 0:
            return np.zeros((1,) * trues.ndim, np.float32)
        image, own = (self.mismatch.joined(x, self.grid) for x in (activity, mu))
        scatter = factors * self._scattered(image, own)
        if self.scatter.fraction is None:
            return scatter
        odds = self.scatter.fraction / (1 - self.scatter.fraction)
        return np.asarray(_to_total(scatter, odds * _total(trues)), np.float32)

    def scatter_of(self, images: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """Return what the scatter model expects of images on `grid`, (B, ``*data``) with the given efficiencies.

        The scale is that of one second without decay for `SingleScatter`, and arbitrary for `ConvolutionScatter`.

        Args:
            images, mu : (B, nx, ny, nz).

        Raises ValueError without a scatter model.
        """
        if self.scatter is None:
            raise ValueError("the simulator has no scatter model, PETSimulator(scatter=...)")
        factors = np.float32(self.calibration) * self._per_bin(self._efficiency("given"))
        return np.asarray(factors * self._scattered(images, mu), np.float32)

    def _scattered(self, images: np.ndarray, mu: np.ndarray) -> np.ndarray:
        """The scatter model's line integrals."""
        if isinstance(self.scatter, ConvolutionScatter):
            blurred = GaussianBlur(self.grid, self.scatter.fwhm)(images)
            return np.asarray(PETProjector(self.grid, self.sinogram)(blurred))
        s = self.scatter
        assert s is not None
        simulated = [
            single_scatter(
                x,
                m,
                self.grid,
                self.sinogram,
                energy_window=s.energy_window,
                energy_resolution=s.energy_resolution,
                sampling=s.sampling,
            )
            for x, m in zip(images, mu)
        ]
        if s.histories:
            simulated = [single + self._multiple(x, m, s) for single, x, m in zip(simulated, images, mu)]
        return np.stack(simulated)

    def _multiple(self, image: np.ndarray, mu: np.ndarray, scatter: SingleScatter) -> np.ndarray:
        """The multiple scatter of an image; nothing where nothing is active or scatters."""
        if not (image.any() and mu.any()):
            return np.zeros(self.sinogram.shape, np.float32)
        found = photon_histories(
            image,
            mu,
            self.grid,
            self.sinogram,
            scatter.histories,
            zlib.crc32(np.ascontiguousarray(image).tobytes()),
            energy_window=scatter.energy_window,
            energy_resolution=scatter.energy_resolution,
        )
        return found.smoothed(*scatter.smoothing).multiple

    def _randoms(self, prompts: np.ndarray) -> np.ndarray:
        if self.randoms is None or self.randoms.fraction == 0:
            return np.zeros((1,) * prompts.ndim, np.float32)
        if self.randoms.singles == "uniform":
            pattern = self._per_bin(self._efficiency("true"))
        else:
            singles = [self._singles(p) for p in prompts]
            pattern = np.stack([self._per_bin(pair_products(self.sinogram, s)) for s in singles])
        odds = self.randoms.fraction / (1 - self.randoms.fraction)
        pattern = np.broadcast_to(pattern, prompts.shape)
        return np.asarray(_to_total(pattern, odds * _total(prompts)), np.float32)

    def _singles(self, prompts: np.ndarray) -> np.ndarray:
        """Return the coincidences of every crystal, (rings, crystals), scaled to a mean of one."""
        out = self.fans(prompts.sum(2) if self.sinogram.tof is not None else prompts)
        return out / out.mean() if out.any() else out

    def fans(self, counts: np.ndarray) -> np.ndarray:
        """Return the counts that each crystal takes part in, (rings, crystals); a bin's pairs have equal shares.

        Args:
            counts : (views, radial, planes), without TOF bins.
        """
        sinogram = self.sinogram
        shape = sinogram.scanner.virtual.shape
        out = np.zeros(shape)
        pairs = sinogram.crystal_pairs  # (views, mashing, radial, 2)
        gap, gap_ring = (np.asarray(sinogram.scanner.virtual.all(axis)) for axis in (0, 1))
        real = ~gap[pairs].any(-1)
        share = real / np.maximum(real.sum(1, keepdims=True), 1)
        for plane, joined in enumerate(sinogram.ring_pairs):
            rings = joined[~gap_ring[joined].any(1)]
            weights = share * counts[:, None, :, plane] / max(len(rings), 1)
            for side in range(2):
                fan = np.bincount(pairs[..., side].ravel(), weights.ravel(), shape[1])
                np.add.at(out, rings[:, side], fan)
        return out

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        decay = isotope(self.radionuclide).mean_decay(self.duration)
        return np.full((1, 1), self.duration * decay), np.full((1, 1), self.duration)

    def _counted(self, rates: np.ndarray) -> np.ndarray:
        return _total(rates)

    def _efficiency(self, which: str) -> np.ndarray:
        """The efficiency of every bin without TOF, summed over its crystal pairs: "alike", "true" or "given"."""
        if which not in self._kept:
            given = self.normalisation if self.given_normalisation is None else self.given_normalisation
            normalisation = {"alike": None, "true": self.normalisation, "given": given}[which]
            sinogram = self.sinogram.without_tof()
            found = sinogram.multiplicity() if normalisation is None else normalisation.factors(sinogram)
            self._kept[which] = found.astype(np.float32)
        return np.asarray(self._kept[which])

    def _per_bin(self, values: np.ndarray) -> np.ndarray:
        """Values (..., views, radial, planes) with an axis for the TOF bins."""
        return values if self.sinogram.tof is None else values[..., None, :]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}


def random_normalisation(
    scanner: PETScanner, seed: int, crystals: float = 0.1, like: Normalisation | None = None
) -> Normalisation:
    """Return crystal efficiencies that scatter around one, or around those of another normalisation.

    Args:
        crystals : relative standard deviation; efficiencies are log-normal, so none is negative.
        like : whose components are kept; with a small `crystals`, a normalisation that was measured with errors.

    Raises ValueError for a standard deviation that is negative or not finite.
    """
    if not (math.isfinite(crystals) and crystals >= 0):
        raise ValueError(f"crystals must be a relative standard deviation, not negative, got {crystals}")
    sigma = math.sqrt(math.log1p(crystals**2))
    noise = generator(seed, "normalisation").normal(-(sigma**2) / 2, sigma, scanner.virtual.shape)
    if like is None:
        return Normalisation(scanner, np.exp(noise))
    own = np.ones(scanner.virtual.shape) if like.crystal is None else like.crystal
    return replace(like, crystal=own * np.exp(noise))


def list_events(scan: Scan, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the counts of a sinogram one by one: events (n, 2), or (n, 3) with the TOF bin, and their times (n,) in s.

    An event of a bin with several crystal pairs comes from any of them alike (from pairs of real crystals). Times lie
    between 0 and the scan's duration, more often early where the radionuclide decays, in rising order.

    Args:
        scan : of a PET sinogram, counts are integers.  `scan.geometry.histogram(events)` gives the counts back.
        seed : the counts are mixed into it, so that different scans may share one.

    Raises ValueError for a scan without duration, for fractional counts, and for counts in bins of virtual crystals.
    """
    sinogram = scan.geometry
    if not isinstance(sinogram, PETSinogram):
        raise ValueError(f"list_events needs a PET scan, got one of {type(sinogram).__name__}")
    if tuple(scan.counts.shape) != sinogram.shape:
        raise ValueError(f"list_events takes one scan at a time, got counts {tuple(scan.counts.shape)}")
    if scan.duration is None:
        raise ValueError("the scan has no duration; give Scan(..., duration=seconds)")
    counts = np.asarray(scan.counts)
    if np.any(counts != np.floor(counts)):
        raise ValueError("list_events needs integer counts; are these expected or corrected counts?")
    random = generator(seed, "events", counts)
    bins = np.nonzero(counts)
    view, radial, *tof, plane = (np.repeat(index, counts[bins].astype(int)) for index in bins)
    first, second = _crystals_of(sinogram, view, radial, plane, random)
    events = np.stack([first, second, *tof], 1).astype(np.int32)
    shuffled = random.permutation(len(events))
    return events[shuffled], _times_of(len(events), scan.duration, scan.radionuclide, random)


def _crystals_of(
    sinogram: PETSinogram, view: np.ndarray, radial: np.ndarray, plane: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return one pair of real crystals for each event, drawn until both are real."""
    n = sinogram.scanner.n_crystals
    virtual = sinogram.scanner.virtual.ravel()
    sizes = np.array([len(pairs) for pairs in sinogram.ring_pairs])
    starts, rings = np.concatenate([[0], np.cumsum(sizes)[:-1]]), np.concatenate(sinogram.ring_pairs)
    first, second = (np.full(view.size, -1) for _ in range(2))
    missing = np.arange(view.size)
    if np.any(sinogram.multiplicity()[view, radial, plane] == 0):
        raise ValueError("there are counts in bins that hold virtual crystals only")
    while missing.size:
        v, k, p = view[missing], radial[missing], plane[missing]
        mash = random.integers(sinogram.mashing, size=missing.size)
        pair = rings[starts[p] + random.integers(sizes[p])]
        ends = pair * n + sinogram.crystal_pairs[v, mash, k]
        first[missing], second[missing] = ends.T
        missing = missing[virtual[ends].any(1)]
    return first, second


def _times_of(n: int, duration: float, radionuclide: str | None, random: np.random.Generator) -> np.ndarray:
    """Return n rising times with the density exp(-lambda t) between 0 and the duration."""
    u = np.sort(random.uniform(size=n))
    if radionuclide is None:
        return duration * u
    rate = math.log(2) / isotope(radionuclide).half_life
    return np.asarray(-np.log1p(u * math.expm1(-rate * duration)) / rate)


def _total(values: np.ndarray) -> np.ndarray:
    return item_sums(values).reshape(-1, *[1] * (values.ndim - 1))


def _to_total(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return values whose sum of every item is as wanted."""
    return values * (wanted / np.maximum(_total(values), 1e-30))
