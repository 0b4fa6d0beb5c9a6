"""Scatter from neighbouring energy windows: scans of several windows, dual and triple window estimates, smoothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike

from ..core.arrays import Array, as_real, clipped, like, require_array
from ..core.blur import gaussian_kernel
from ..spect.camera import SPECTGeometry
from .dynamic import ScanSeries
from .scan import Scan
from .showing import shown_scan, total_counts
from .study import Study

ROUNDED = 0.5
"""keV by which limits of windows that touch may overlap: files round them."""


@dataclass(frozen=True)
class EnergyWindow:
    """An energy window, `lower` to `upper` in keV; the name is for finding it again.

    Raises ValueError unless 0 <= lower < upper.
    """

    lower: float
    upper: float
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"EnergyWindow name must be a text, got {type(self.name).__name__}")
        lower, upper = float(self.lower), float(self.upper)
        if not (0 <= lower < upper < np.inf):
            raise ValueError(f"EnergyWindow {self.name!r} must have 0 <= lower < upper keV, got {lower:g} to {upper:g}")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @classmethod
    def around(cls, energy: float, percent: float, name: str = "") -> EnergyWindow:
        """Return the window of a width in percent of an energy, centred on it: 20 % of 140.5 is 126.45 to 154.55."""
        half = energy * percent / 200
        return cls(energy - half, energy + half, name)

    @property
    def width(self) -> float:
        """upper - lower in keV."""
        return self.upper - self.lower

    @property
    def limits(self) -> tuple[float, float]:
        """(lower, upper) in keV."""
        return self.lower, self.upper

    def __str__(self) -> str:
        return f"{self.name or 'window'} ({self.lower:g} to {self.upper:g} keV)"


@dataclass(frozen=True, eq=False)
class WindowedScan:
    """A SPECT acquisition in several energy windows at once.

    Args:
        windows : `EnergyWindow` objects with different names.
        counts : as many arrays (..., views, bins, rows), in the same order.
        geometry, factors, duration, radionuclide, description, study : of all windows, as in `Scan`.

    Raises ValueError where names are missing or used twice, numbers of windows and arrays or shapes differ, and as
    `Scan` does.
    """

    windows: tuple[EnergyWindow, ...]
    counts: tuple[Array, ...]
    geometry: SPECTGeometry
    factors: Array | float = 1.0
    duration: float | None = None
    radionuclide: str | None = None
    description: str = field(default="", repr=False)  # free text, which may name the patient
    study: Study | None = None

    def __post_init__(self) -> None:
        windows = tuple(self.windows)
        counts = tuple(self.counts[i] for i in range(len(self.counts)))
        if not isinstance(self.geometry, SPECTGeometry):
            raise TypeError(f"WindowedScan needs a SPECTGeometry, got {type(self.geometry).__name__}")
        if not windows or len(windows) != len(counts):
            raise ValueError(
                f"WindowedScan needs one array of counts per window, got {len(windows)} windows and "
                f"{len(counts)} arrays"
            )
        names = [window.name for window in windows]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"WindowedScan windows need names, all different, got {names}")
        shapes = {tuple(values.shape) for values in counts if require_array(values, "WindowedScan counts")}
        if len(shapes) > 1:
            raise ValueError(f"WindowedScan counts must have one shape, got {sorted(shapes)}")
        object.__setattr__(self, "windows", windows)
        object.__setattr__(self, "counts", counts)
        scans = [self.scan(name) for name in names]  # which checks everything else
        object.__setattr__(self, "radionuclide", scans[0].radionuclide)

    def _repr_html_(self) -> str:
        lines = (f"{window}, {total_counts(counts)}" for window, counts in zip(self.windows, self.counts))
        return shown_scan("WindowedScan", self, windows="\n".join(line.rstrip(", ") for line in lines))

    def window(self, name: str) -> EnergyWindow:
        """Return a window by name; raises KeyError where there is none."""
        return self.windows[self._index(name)]

    def scan(self, name: str) -> Scan:
        """Return the scan of one window, without background."""
        i = self._index(name)
        window = self.windows[i]
        more = self.duration, self.radionuclide, window.limits, self.description, self.study
        return Scan(self.counts[i], self.geometry, 0.0, self.factors, *more)

    def scatter_corrected(
        self, peak: str, lower: str | None = None, upper: str | None = None, *, k: float | None = None, fwhm: float = 0
    ) -> Scan:
        """Return the scan of the window `peak`, with the scatter estimated from other windows as background.

        Args:
            lower, upper : names of the windows below and above; with both or one of them, `triple_energy_window`.
            k : with `lower` alone, `dual_energy_window` with this k instead.
            fwhm : mm of the Gaussian that smooths the estimate, 0 for none.

        Raises KeyError for names that do not exist, ValueError where windows overlap or none is named.
        """
        estimate = _estimated(self.window(peak), (self._pair(lower), self._pair(upper)), k)
        return replace(self.scan(peak), background=smooth_projections(estimate, fwhm, self.geometry.pixel_size))

    def _pair(self, name: str | None) -> tuple[EnergyWindow, Array] | None:
        if name is None:
            return None
        i = self._index(name)
        return self.windows[i], self.counts[i]

    def _index(self, name: str) -> int:
        return _index_of(self.windows, name)


def _index_of(windows: tuple[EnergyWindow, ...], name: str) -> int:
    names = [window.name for window in windows]
    if name not in names:
        raise KeyError(f"unknown energy window {name!r}; choose from {', '.join(names)}")
    return names.index(name)


def _estimated(
    peak: EnergyWindow,
    beside: tuple[tuple[EnergyWindow, Array] | None, tuple[EnergyWindow, Array] | None],
    k: float | None,
) -> Array:
    """The scatter in the peak window: of three windows, or with k of two."""
    below, above = beside
    if k is None:
        return triple_energy_window(peak, below, above)
    if below is None or above is not None:
        raise ValueError("scatter_corrected with k takes one scatter window, lower; leave k out for two of them")
    return dual_energy_window(peak, below, k)


@dataclass(frozen=True, eq=False)
class WindowedSeries:
    """A dynamic or gated SPECT acquisition in several energy windows at once.

    Args:
        windows : `EnergyWindow` objects with different names.
        series : as many `DynamicScan` or `GatedScan` objects, in the same order, of one camera and the same frames or
            gates.

    Raises TypeError and ValueError where names are missing or used twice, or series do not belong together.
    """

    windows: tuple[EnergyWindow, ...]
    series: tuple[ScanSeries, ...]

    def __post_init__(self) -> None:
        windows, series = tuple(self.windows), tuple(self.series)
        if not windows or len(windows) != len(series):
            raise ValueError(
                f"WindowedSeries needs one series per window, got {len(windows)} windows and {len(series)} series"
            )
        names = [window.name for window in windows]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"WindowedSeries windows need names, all different, got {names}")
        kinds = {type(part) for part in series}
        if len(kinds) > 1 or not issubclass(next(iter(kinds)), ScanSeries):
            raise TypeError(
                "WindowedSeries series must all be a DynamicScan or all a GatedScan, got "
                f"{sorted(kind.__name__ for kind in kinds)}"
            )
        first = series[0]
        if not isinstance(first.geometry, SPECTGeometry):
            raise TypeError(f"WindowedSeries needs series of a SPECT camera, got {type(first.geometry).__name__}")
        for part in series[1:]:
            if part.geometry != first.geometry or part.seconds.shape != first.seconds.shape:
                raise ValueError("WindowedSeries series must have one camera and the same frames or gates")
            if not np.allclose(part.seconds, first.seconds):
                raise ValueError("WindowedSeries series must have one camera and the same frames or gates")
            if part.radionuclide != first.radionuclide:
                raise ValueError(
                    f"WindowedSeries series have different radionuclides: {first.radionuclide}, {part.radionuclide}"
                )
        object.__setattr__(self, "windows", windows)
        object.__setattr__(
            self,
            "series",
            tuple(replace(part, energy_window=window.limits) for window, part in zip(windows, series)),
        )

    def _repr_html_(self) -> str:
        windows = "\n".join(map(str, self.windows))
        return shown_scan("WindowedSeries", self.series[0], windows=windows, parts=len(self.series[0]))

    @property
    def geometry(self) -> SPECTGeometry:
        """The camera of all windows."""
        return self.series[0].geometry  # type: ignore[return-value]  # checked

    @property
    def radionuclide(self) -> str | None:
        """Of all windows."""
        return self.series[0].radionuclide

    @property
    def study(self) -> Study | None:
        """Of all windows."""
        return self.series[0].study

    def __len__(self) -> int:
        """The number of frames or gates."""
        return len(self.series[0])

    def window(self, name: str) -> EnergyWindow:
        """Return a window by name; raises KeyError where there is none."""
        return self.windows[_index_of(self.windows, name)]

    def scan(self, name: str) -> ScanSeries:
        """Return the series of one window, as it was given."""
        return self.series[_index_of(self.windows, name)]

    def part(self, i: int) -> WindowedScan:
        """Return all windows of one frame or gate; its factors hold the time, as those of the series do."""
        scans = [part[i] for part in self.series]
        first = scans[0]
        more = first.duration, first.radionuclide, first.description, first.study
        return WindowedScan(self.windows, tuple(scan.counts for scan in scans), self.geometry, first.factors, *more)

    def scatter_corrected(
        self, peak: str, lower: str | None = None, upper: str | None = None, *, k: float | None = None, fwhm: float = 0
    ) -> ScanSeries:
        """Return the series of the window `peak`, with the scatter in every frame or gate as background.

        Args:
            lower, upper, k, fwhm : as for `WindowedScan.scatter_corrected`.
        """
        estimate = _estimated(self.window(peak), (self._pair(lower), self._pair(upper)), k)
        return replace(self.scan(peak), background=smooth_projections(estimate, fwhm, self.geometry.pixel_size))

    def _pair(self, name: str | None) -> tuple[EnergyWindow, Array] | None:
        return None if name is None else (self.window(name), self.scan(name).counts)


def dual_energy_window(peak: EnergyWindow, scatter: tuple[EnergyWindow, Array], k: float) -> Array:
    """Return the scatter in the peak window from one window below it, S = k C / w_scatter * w_peak.

    Args:
        scatter : (window, counts).
        k : scatter per keV in the peak window over counts per keV in the scatter window.

    Where k multiplies counts themselves it holds the widths: k = k_counts w_scatter / w_peak. It depends on the camera,
    the windows and the body.

    Raises ValueError where windows overlap or k is not positive.  Source: Jaszczak et al. 1984.
    """
    if not (np.isfinite(k) and k > 0):
        raise ValueError(f"dual_energy_window k must be positive, got {k}")
    window, counts = _beside(peak, scatter, "below")
    return _not_negative(counts * (k * peak.width / window.width))


def triple_energy_window(
    peak: EnergyWindow,
    lower: tuple[EnergyWindow, Array] | None = None,
    upper: tuple[EnergyWindow, Array] | None = None,
) -> Array:
    """Return the scatter in the peak window from narrow windows beside it, S = (C_lo / w_lo + C_up / w_up) w_peak / 2.

    Args:
        lower, upper : (window, counts) below and above the peak; with one alone the other height of the trapezoid is
            zero, which is right above the highest emission of a nuclide.

    Negative values of counts that are corrected already are clipped in the estimate.

    Raises ValueError where both are absent, windows overlap or lie on the wrong side, or shapes differ.

    Source: Ogawa et al. 1991.
    """
    sides = [(pair, side) for pair, side in ((lower, "below"), (upper, "above")) if pair is not None]
    if not sides:
        raise ValueError("triple_energy_window needs a window below the peak, above it, or both; got none")
    beside = [_beside(peak, pair, side) for pair, side in sides]
    shapes = {tuple(counts.shape) for _, counts in beside}
    if len(shapes) > 1:
        raise ValueError(f"triple_energy_window: counts of both windows must have one shape, got {sorted(shapes)}")
    heights = [counts / window.width for window, counts in beside]
    return _not_negative(sum(heights[1:], heights[0]) * (peak.width / 2))


def smooth_projections(projections: Array, fwhm: float, pixel_size: ArrayLike) -> Array:
    """Return projections (..., views, bins, rows) blurred with a Gaussian in each view.

    Args:
        fwhm : mm; 0 returns them as they are.
        pixel_size : (du, dz) in mm, or one number.

    What would leave a view is reflected at its border, so that each view keeps its counts and nothing gets negative.

    Raises ValueError for widths or sizes out of range.
    """
    xp, size = require_array(projections, "smooth_projections"), np.ravel(np.asarray(pixel_size, float))
    if not (np.isfinite(fwhm) and fwhm >= 0):
        raise ValueError(f"smooth_projections fwhm must be mm and not negative, got {fwhm}")
    if size.size not in (1, 2) or not (np.isfinite(size).all() and (size > 0).all()):
        raise ValueError(f"smooth_projections pixel_size must be positive mm, one number or two, got {pixel_size!r}")
    if projections.ndim < 2:
        raise ValueError(f"smooth_projections expects (..., bins, rows), got shape {tuple(projections.shape)}")
    values = as_real(projections)
    if fwhm == 0:
        return values
    along_u, along_z = (
        like(_reflecting(gaussian_kernel(fwhm / d), n), values)
        for d, n in zip(np.broadcast_to(size, 2), values.shape[-2:])
    )
    return xp.matmul(xp.matmul(along_u, values), along_z)


def _reflecting(kernel: np.ndarray, n: int) -> np.ndarray:
    """Return the (n, n) matrix of a convolution mirrored at both borders: it is symmetric and its columns sum to 1."""
    matrix, reach = np.zeros((n, n)), kernel.size // 2
    start = np.arange(n)
    for shift, weight in zip(range(-reach, reach + 1), kernel):
        there = (start + shift) % (2 * n)
        np.add.at(matrix, (np.minimum(there, 2 * n - 1 - there), start), weight)
    return matrix


def _beside(peak: EnergyWindow, pair: object, side: str) -> tuple[EnergyWindow, Array]:
    """Return a window and its counts as real numbers, after checking where the window lies."""
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], EnergyWindow)):
        raise TypeError(f"a scatter window must be given as (EnergyWindow, counts), got {type(pair).__name__}")
    window, counts = pair
    require_array(counts, f"the counts of {window}")
    gap = peak.lower - window.upper if side == "below" else window.lower - peak.upper
    if gap < -ROUNDED:
        fact = "overlaps" if window.lower < peak.upper and window.upper > peak.lower else "does not lie " + side
        raise ValueError(f"the scatter {window} {fact} the peak {peak}; have two windows been swapped?")
    return window, as_real(counts)


def _not_negative(values: Array) -> Array:
    return clipped(values, low=0.0)
