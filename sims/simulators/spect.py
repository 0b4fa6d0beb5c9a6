"""Simulated SPECT: attenuation, collimator response, scatter in energy windows, decay and dead time of a camera."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors import (
    DeadTime,
    EffectiveSource,
    EnergyWindow,
    GaussianBlur,
    GaussianResponse,
    ImageGrid,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    SPECTScatterProjector,
    WindowedScan,
    isotope,
    klein_nishina,
    scan_seconds,
    scattered_energy,
    view_decay,
)
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.physics.compton import ELECTRON_MASS, accepted_fraction
from emrecon.projectors.spect.collimation import Response

from .mismatch import Mismatch
from .simulator import Expectation, Rates, Simulator, item_seed, item_sums

_COSINES = np.linspace(-1, 1, 2001)
_SAME_LINE = 1.0  # keV, by which tables of the same line may differ


@dataclass(frozen=True)
class Widened:
    """A Gaussian response that is `factor` times as wide as another."""

    response: GaussianResponse
    factor: float

    def sigma(self, distance: ArrayLike) -> np.ndarray:
        """Return factor x sigma in mm at `distance` mm from the collimator face."""
        return self.factor * self.response.sigma(distance)


@dataclass(frozen=True)
class ConvolvedScatter:
    """Scatter as the attenuated projection of a blurred image: fast, also in one slice, and right in its total.

    Args:
        source : energy window and energy resolution, and the energy of the line.
        fraction : S / (T + S).
        fwhm : mm of the Gaussian, along x, y and, in volumes, z.

    Raises ValueError for numbers out of range.
    """

    source: EffectiveSource
    fraction: float = 0.25
    fwhm: float = 100.0

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise ValueError(f"ConvolvedScatter fraction must be from 0 to less than 1, got {self.fraction}")
        if not (math.isfinite(self.fwhm) and self.fwhm > 0):
            raise ValueError(f"ConvolvedScatter fwhm must be positive mm, got {self.fwhm}")

    @property
    def energy(self) -> float:
        """The energy of the line in keV."""
        return self.source.energy

    @property
    def energy_window(self) -> tuple[float, float]:
        """(lower, upper) keV of the photopeak window."""
        return self.source.energy_window


@dataclass(frozen=True, eq=False)
class SPECTSimulator(Simulator):
    """A SPECT camera with a protocol: phantoms in kBq/mL become projections::

        trues = sensitivity * T * decay_v * A(x) V,   scatter likewise with a `SPECTScatterProjector`

    Args:
        grid : of truth and reconstruction.
        geometry : the camera; one slice and one row make a two-dimensional scan.
        response : as for `SPECTProjector`.
        sensitivity : counts/s/MBq of one head in air.
        duration : T, s per view.
        radionuclide : whose strongest line in the window is imaged and which decays from view to view.
        scatter : an `EffectiveSource` with the energy window, for volumes; a `ConvolvedScatter`, for slices too; None
            for no scatter.
        windows : further `EnergyWindow` objects, for `windowed`.
        room : counts/s in every bin of the photopeak window from elsewhere.
        dead_time : of each head, acting on its counts in the window; None for none.
        mismatch : between simulation and reconstruction, on by default.

    Raises ValueError for numbers that are not positive, scatter in two dimensions or of another emission than
    the line imaged, windows that are not `EnergyWindow` objects, and a measured response that would have to be widened.
    """

    grid: ImageGrid
    geometry: SPECTGeometry
    response: Response | None = None
    sensitivity: float = 90.0
    duration: float = 20.0
    radionuclide: str = "Tc-99m"
    scatter: EffectiveSource | ConvolvedScatter | None = None
    windows: tuple[EnergyWindow, ...] = ()
    room: float = 0.0
    dead_time: DeadTime | None = None
    mismatch: Mismatch = field(default_factory=Mismatch)
    _kept: dict[str, SPECTProjector] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": {}}

    def __post_init__(self) -> None:
        for name in ("sensitivity", "duration"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"SPECTSimulator {name} must be positive, got {value}")
        if not (math.isfinite(self.room) and self.room >= 0):
            raise ValueError(f"SPECTSimulator room must be counts/s in a bin, not negative, got {self.room}")
        if isinstance(self.scatter, EffectiveSource) and self.grid.shape[2] == 1:
            raise ValueError(
                "SPECTSimulator: photons scatter between slices; simulate scatter in volumes, or take ConvolvedScatter"
            )
        widen = self.mismatch.response != 1 and self.response is not None
        if widen and not isinstance(self.response, GaussianResponse):
            raise ValueError("SPECTSimulator cannot widen a measured response; use Mismatch(response=1)")
        object.__setattr__(self, "radionuclide", isotope(self.radionuclide).name)
        object.__setattr__(self, "windows", tuple(self.windows))
        if self.scatter is not None and abs(self.scatter.energy - self.energy) > _SAME_LINE:
            raise ValueError(
                f"SPECTSimulator images {self.radionuclide} at {self.energy:g} keV, but scatter is of "
                f"{self.scatter.energy:g} keV; give EffectiveSource(window, energy={self.energy:g})"
            )
        for window in self.windows:
            if not isinstance(window, EnergyWindow):
                raise ValueError(f"SPECTSimulator windows must be EnergyWindows, got {window!r}")

    @property
    def energy(self) -> float:
        """The energy in keV of the line that is imaged: the strongest inside the energy window, or of all."""
        return isotope(self.radionuclide).energy_in(self.energy_window)

    @property
    def energy_window(self) -> tuple[float, float] | None:
        """(lower, upper) keV of the scatter model's window, or None."""
        return None if self.scatter is None else self.scatter.energy_window

    @property
    def true_response(self) -> Response | None:
        """The response of the simulation."""
        factor = self.mismatch.response
        if self.response is None or factor == 1:
            return self.response
        return Widened(self.response, factor)  # type: ignore[arg-type]

    def projector(self, mu: np.ndarray) -> SPECTProjector:
        """Return the projector that a reconstruction is given, for a map (nx, ny, nz) or one per item."""
        return self._plain("given").with_attenuation(mu)

    def _plain(self, which: str) -> SPECTProjector:
        """The projector without attenuation that is "given", or that of the simulation: "true" or, refined, "fine"."""
        if which not in self._kept:
            camera, n = self.geometry, int(self.mismatch.refine)
            if which == "fine":
                (nu, nz), (du, dz) = camera.n_bins, camera.pixel_size
                rows = n if self.grid.shape[2] > 1 else 1
                camera = replace(camera, n_bins=(nu * n, nz * rows), pixel_size=(du / n, dz / rows))
            grid, response = self.fine_grid if which == "fine" else self.grid, self.true_response
            self._kept[which] = SPECTProjector(grid, camera, None, self.response if which == "given" else response)
        return self._kept[which]

    def windowed(self, expectation: Expectation, seed: int) -> WindowedScan:
        """Return counts in the photopeak window ("peak") and in `windows`, of one phantom or a batch.

        Scatter in a window is that of the photopeak times the ratio of their shares of singly scattered photons::

            ratio = integral of dsigma/dOmega eps_w(E') dOmega / integral of dsigma/dOmega eps_peak(E') dOmega

        and primaries spill over by the energy resolution. Counts from the room are as many per keV in every window. One
        spatial distribution for all windows is an approximation: lower energies are spread more widely.

        Raises ValueError without a scatter model.
        """
        expected = self.expected_in_windows(expectation)
        counts = [e.measure(item_seed(seed, i, "window")) for i, e in enumerate(expected.values())]
        about = expectation.factors, self.duration, self.radionuclide
        return WindowedScan(tuple(expected), tuple(counts), self.geometry, *about)

    def expected_in_windows(self, expectation: Expectation) -> dict[EnergyWindow, Expectation]:
        """Return what is expected in the photopeak window ("peak") and in each of `windows`, as `windowed` has it.

        Raises ValueError without a scatter model.
        """
        peak = EnergyWindow(*self._source.energy_window, name="peak")
        expected = {peak: expectation}
        for window in self.windows:
            scatter, primary = (np.float32(share) for share in self.shares(window))
            room = np.float32(window.width / peak.width)
            expected[window] = replace(
                expectation,
                trues=primary * expectation.trues,
                scatter=scatter * expectation.scatter,
                randoms=room * expectation.randoms,
            )
        return expected

    def shares(self, window: EnergyWindow) -> tuple[float, float]:
        """Return scattered and primary counts in a window over those in the photopeak window."""
        E, peak = self._source.energy, self._source.energy_window
        at_511 = self._source.energy_resolution * math.sqrt(E / ELECTRON_MASS)
        spectrum, energies = klein_nishina(_COSINES, E), scattered_energy(_COSINES, E)
        counted = (spectrum * accepted_fraction(energies, w, at_511) for w in (window.limits, peak))
        own, reference = (np.trapezoid(c, _COSINES) for c in counted)
        first, second = (accepted_fraction(E, w, at_511) for w in (window.limits, peak))
        return float(own / reference), float(first / second)

    def _check_reach(self, image: np.ndarray, grid: ImageGrid, name: str) -> None:
        """Raise ValueError where an image (..., nx, ny, nz) reaches behind a collimator."""
        x, y, _ = grid.coordinates()
        there = np.any(image > 0, axis=(*range(image.ndim - 3), -1))
        toward, _ = self.geometry.directions
        points = np.stack([np.broadcast_to(c[..., 0], there.shape)[there] for c in (x, y)])
        beyond = (toward @ points).max(1, initial=-np.inf) - self.geometry.radius
        view = int(beyond.argmax())
        if beyond[view] > max(grid.voxel_size[:2]):
            raise ValueError(
                f"{name} reaches {beyond[view]:.0f} mm behind the collimator of view {view}, whose radius is "
                f"{self.geometry.radius[view]:g} mm; is the orbit too small for this phantom?"
            )

    @property
    def _source(self) -> EffectiveSource:
        if self.scatter is None:
            raise ValueError("energy windows need a scatter model, SPECTSimulator(scatter=EffectiveSource(window))")
        return self.scatter.source if isinstance(self.scatter, ConvolvedScatter) else self.scatter

    def _rates(self, activity: np.ndarray, mu: np.ndarray) -> Rates:
        fine_views = np.clip(self._plain("fine").with_attenuation(mu)(activity), 0, None)  # rounding below zero
        (nu, nz), n = self.geometry.n_bins, int(self.mismatch.refine)
        views = fine_views.reshape(len(activity), self.geometry.n_views, nu, n, nz, -1).sum((3, 5))
        per_second = np.float32(self.sensitivity / 1000)  # of kBq
        trues = per_second * np.float32(self.fine_grid.voxel_volume) * views
        factors = np.float32(per_second * self.grid.voxel_volume)
        return Rates(trues, self._scatter(activity, mu, factors, trues), np.full((1, 1, 1, 1), factors), self.room)

    def _scatter(self, activity: np.ndarray, mu: np.ndarray, factor: np.float32, trues: np.ndarray) -> np.ndarray:
        if self.scatter is None:
            return np.zeros((1, 1, 1, 1), np.float32)
        images, maps = (self.mismatch.joined(x, self.grid) for x in (activity, mu))
        if isinstance(self.scatter, ConvolvedScatter):
            blurred = GaussianBlur(self.grid, self.scatter.fwhm)(images)
            shape = np.clip(self._plain("true").with_attenuation(maps)(blurred), 0, None)
            total, own = (item_sums(part).reshape(-1, 1, 1, 1) for part in (trues, shape))
            odds = self.scatter.fraction / (1 - self.scatter.fraction)
            return np.asarray(shape * (odds * total / np.maximum(own, 1e-30)), np.float32)
        parts = []
        for image, own in zip(images, maps):
            if not own.any():  # nothing to scatter from
                parts.append(np.zeros(self.geometry.shape, np.float32))
                continue
            primary = self._plain("true").with_attenuation(own)
            parts.append(factor * to_numpy(SPECTScatterProjector(primary, self.scatter).estimate(image)))
        return np.stack(parts)

    def _randoms(self, prompts: np.ndarray) -> np.ndarray:
        return np.zeros((1, 1, 1, 1), np.float32)

    def _weights(self) -> tuple[np.ndarray, np.ndarray]:
        empty = np.broadcast_to(np.float32(0), self.geometry.shape)
        plan = Scan(empty, self.geometry, duration=self.duration, radionuclide=self.radionuclide)
        decay = view_decay(plan) * isotope(self.radionuclide).mean_decay(scan_seconds(plan))
        return self.duration * decay.reshape(1, -1), np.full((1, self.geometry.n_views), self.duration)

    def _counted(self, rates: np.ndarray) -> np.ndarray:
        return np.stack([item.sum((1, 2), keepdims=True, dtype=float) for item in rates])
