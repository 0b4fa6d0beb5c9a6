"""Dead time and decay of views in the factors of a scan, from its own counts and times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from ..core.arrays import Array, as_real, like, to_numpy
from ..spect.camera import SPECTGeometry
from .counting import DeadTime, view_decay
from .dynamic import DynamicScan, GatedScan, ScanSeries
from .energy_windows import ROUNDED, EnergyWindow, WindowedScan, WindowedSeries
from .scan import Scan

Counted = TypeVar("Counted", bound=Scan | WindowedScan | ScanSeries | WindowedSeries)
Single = TypeVar("Single", bound=Scan | WindowedScan | ScanSeries)


def view_rates(scan: Scan | WindowedScan | ScanSeries | WindowedSeries) -> np.ndarray:
    """Return the rate of the head that took each view, in counts/s, (..., views).

    The counts of all energy windows of the scan are added, but for windows inside of others: they are what the counter
    had to do, as far as it was recorded. A dead time that was measured with the whole spectrum needs the rate of the
    whole spectrum. Of gates, counts and times are added; frames keep their own rates.

    Raises ValueError where the duration is unknown, windows overlap in part, or the scan is not of SPECT.
    """
    if not isinstance(scan.geometry, SPECTGeometry):
        raise ValueError(f"expected a scan of a SPECT camera, got one of {type(scan.geometry).__name__}")
    if isinstance(scan, WindowedScan):
        kept = counted_windows(scan.windows)
        by_view = [_by_view(counts) for window, counts in zip(scan.windows, scan.counts) if window in kept]
        return np.sum(by_view, axis=0) / _duration(scan)
    if isinstance(scan, WindowedSeries):
        kept = counted_windows(scan.windows)
        rates = [view_rates(one) for window, one in zip(scan.windows, scan.series) if window in kept]
        return np.sum(rates, axis=0)
    if isinstance(scan, DynamicScan):
        return _by_view(scan.counts) / np.broadcast_to(scan.seconds, (len(scan), scan.geometry.n_views))
    if isinstance(scan, ScanSeries):
        return _by_view(scan.counts).sum(0) / np.broadcast_to(scan.seconds.sum(0), scan.geometry.n_views)
    return _by_view(scan.counts) / _duration(scan)


def counted_windows(windows: Sequence[EnergyWindow]) -> tuple[EnergyWindow, ...]:
    """Return the windows whose counts are added to a rate: all but those inside of others.

    Raises ValueError where two overlap in part.
    """
    kept: list[EnergyWindow] = []
    for window in sorted(windows, key=lambda w: -w.width):
        over = [w for w in kept if min(w.upper, window.upper) - max(w.lower, window.lower) > ROUNDED]
        if any(w.lower <= window.lower + ROUNDED and window.upper <= w.upper + ROUNDED for w in over):
            continue
        if over:
            raise ValueError(f"{over[0]} and {window} overlap, so the counts of a head are not known")
        kept.append(window)
    return tuple(sorted(kept, key=lambda w: w.lower))


def with_dead_time(scan: Counted, counter: DeadTime) -> Counted:
    """Return the scan with the fraction of events that was counted, of every view, in its factors.

    The rates are those of `view_rates`, so `counter.tau` belongs to the recorded windows.

    Raises ValueError where a rate is beyond what the counter can measure, and as `view_rates` does.
    """
    live = np.asarray(counter.live_fraction(view_rates(scan)))[..., None, None]
    if isinstance(scan, WindowedSeries):
        return replace(scan, series=tuple(_with_factors(one, live) for one in scan.series))
    return _with_factors(scan, live)


def with_view_decay(scan: Counted) -> Counted:
    """Return the scan with the activity during each view over its mean in its factors, see `view_decay`.

    Raises ValueError where duration or radionuclide are unknown, and for a `DynamicScan`, whose model holds its decay.
    """
    if isinstance(scan, DynamicScan):
        raise ValueError("the model of a DynamicScan holds the decay of its views already")
    if isinstance(scan, WindowedSeries):
        return replace(scan, series=tuple(with_view_decay(one) for one in scan.series))
    if isinstance(scan, WindowedScan):
        return _with_factors(scan, view_decay(scan.scan(scan.windows[0].name)))
    if isinstance(scan, GatedScan):
        seconds = np.unique(np.round(scan.seconds.sum(0), 6))
        if seconds.size > 1:
            raise ValueError("views of a gated scan took different times; their decay is not known")
        whole = Scan(scan.counts[0], scan.geometry, duration=float(seconds[0]), radionuclide=scan.radionuclide)
        return _with_factors(scan, view_decay(whole))
    return _with_factors(scan, view_decay(scan))  # type: ignore[arg-type]  # a Scan


def _with_factors(scan: Single, weights: np.ndarray) -> Single:
    """The scan with its factors times weights of views, (views, 1, 1) or (frames, views, 1, 1)."""
    return replace(scan, factors=_times(scan.factors, weights))


def _times(factors: Array | float, weights: np.ndarray) -> Array:
    if getattr(factors, "ndim", 0) == 0:
        return float(factors) * weights
    values = as_real(factors)  # type: ignore[arg-type]  # an array
    return values * like(weights, values)


def _by_view(counts: Array) -> np.ndarray:
    return np.asarray(to_numpy(counts).sum((-2, -1), dtype=float))


def _duration(scan: Scan | WindowedScan) -> float:
    if scan.duration is None:
        raise ValueError("the scan has no duration; give the seconds per view, Scan(..., duration=...)")
    return scan.duration
