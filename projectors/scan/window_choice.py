"""Which of several energy windows is the photopeak, and which are the scatter windows beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..physics.nuclides import Radionuclide, isotope
from .energy_windows import ROUNDED, EnergyWindow, WindowedScan, WindowedSeries

Peak = str | float | tuple[float, float]
"""How a photopeak window is chosen: by name, by an energy inside, or by its limits, in keV."""

_LEAST_YIELD = 1e-3  # photons per decay of lines that count
_PEAK_SHARE = 0.1  # of the photopeak's line; a window with so strong a line of its own is another photopeak
_NEARER = 5.0  # keV by which a scatter window must be nearer to another photopeak to belong to it
_LIMITS = re.compile(r"\s*(\d+(?:\.\d*)?)\s*-\s*(\d+(?:\.\d*)?)\s*(?:kev)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class ChosenWindows:
    """The windows of a scatter estimate.

    Args:
        peak : the photopeak window.
        lower, upper : the scatter windows below and above it, or None.
        notes : what is worth knowing about the choice, a sentence each.
    """

    peak: EnergyWindow
    lower: EnergyWindow | None = None
    upper: EnergyWindow | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        beside = [f"{side} {window}" for side, window in (("below", self.lower), ("above", self.upper)) if window]
        return f"peak {self.peak}, {', '.join(beside) or 'no scatter window'}"


def peak_window(scan: WindowedScan | WindowedSeries, peak: Peak | None = None) -> EnergyWindow:
    """Return the photopeak window: the one that holds the radionuclide's strongest line in any window, or the one asked
    for.

    Args:
        peak : its name, an energy in keV that it holds, or its (lower, upper) limits; as text "NAME", "208" or
            "187-229".

    Raises ValueError, which lists the windows, where none or several are meant.
    """
    if peak is not None:
        return _asked_for(scan.windows, peak)
    if len(scan.windows) == 1:
        return scan.windows[0]
    if scan.radionuclide is None:
        raise ValueError(
            f"the scan names no radionuclide, so the photopeak is not known; choose one of {_listed(scan.windows)}"
        )
    nuclide = isotope(scan.radionuclide)
    yields = {window: _strongest(nuclide, window) for window in scan.windows}
    best = max(yields.values())
    if best == 0:
        raise ValueError(
            f"no line of {nuclide.name} lies in any window; choose the photopeak of {_listed(scan.windows)}"
        )
    found = [window for window, share in yields.items() if share == best]
    if len(found) > 1:
        raise ValueError(
            f"{len(found)} windows hold the strongest line of {nuclide.name}; choose the photopeak of {_listed(found)}"
        )
    return found[0]


def scatter_windows(
    scan: WindowedScan | WindowedSeries, peak: EnergyWindow, lower: str | None = None, upper: str | None = None
) -> ChosenWindows:
    """Return the scatter windows of a photopeak: the nearest below and the nearest above, touching it or apart.

    Args:
        peak : one of the scan's windows.
        lower, upper : names of windows to take instead of the nearest.

    A window is not taken where it holds a strong line of the radionuclide itself (another photopeak), or where it is
    nearer to another photopeak.  Limits that overlap by less than 0.5 keV are taken as rounded.

    Raises ValueError, which lists the windows, where several are equally near, or a named one is on the wrong side.
    """
    nuclide = None if scan.radionuclide is None else isotope(scan.radionuclide)
    peaks = [peak, *_other_peaks(scan, peak, nuclide)]
    notes: list[str] = []
    below = _beside(scan, peak, peaks, "below", lower, notes)
    above = _beside(scan, peak, peaks, "above", upper, notes)
    overlapping = [w for w in scan.windows if w not in peaks and w is not peak and _overlap(w, peak) > ROUNDED]
    if overlapping and (below is None or above is None):
        notes.append(f"{_listed(overlapping)} overlap the photopeak {peak} and are no scatter windows")
    unused = [w for w in peaks[1:] if w is not peak]
    if unused:
        notes.append(f"other photopeaks, {_listed(unused)}, are not used; peak= (--peak) chooses one")
    return ChosenWindows(peak, below, above, tuple(notes))


def _asked_for(windows: Sequence[EnergyWindow], peak: Peak) -> EnergyWindow:
    if isinstance(peak, str):
        named = [w for w in windows if w.name == peak] or [w for w in windows if w.name.lower() == peak.strip().lower()]
        if len(named) == 1:
            return named[0]
        limits = _LIMITS.fullmatch(peak)
        try:
            peak = (float(limits[1]), float(limits[2])) if limits else float(peak)
        except ValueError:
            raise ValueError(f"unknown energy window {peak!r}; choose from {_listed(windows)}") from None
    if isinstance(peak, (int, float)):
        found = [w for w in windows if w.lower <= peak <= w.upper]
        what = f"hold {peak:g} keV"
    else:
        low, high = peak
        found = [w for w in windows if abs(w.lower - low) <= ROUNDED and abs(w.upper - high) <= ROUNDED]
        what = f"have the limits {low:g} to {high:g} keV"
    if len(found) != 1:
        raise ValueError(f"{len(found) or 'no'} windows {what}; choose from {_listed(windows)}")
    return found[0]


def _strongest(nuclide: Radionuclide, window: EnergyWindow) -> float:
    """Photons per decay of the strongest line inside a window, 0 where there is none."""
    inside = [y for e, y in nuclide.photons.items() if window.lower <= e <= window.upper and y >= _LEAST_YIELD]
    return max(inside, default=0.0)


def _other_peaks(
    scan: WindowedScan | WindowedSeries, peak: EnergyWindow, nuclide: Radionuclide | None
) -> list[EnergyWindow]:
    if nuclide is None:
        return []
    least = _PEAK_SHARE * _strongest(nuclide, peak)
    return [w for w in scan.windows if w is not peak and _strongest(nuclide, w) > max(least, 0.0) > 0]


def _beside(
    scan: WindowedScan | WindowedSeries,
    peak: EnergyWindow,
    peaks: Sequence[EnergyWindow],
    side: str,
    name: str | None,
    notes: list[str],
) -> EnergyWindow | None:
    """The window that is named, or the nearest on one side of the peak."""
    if name is not None:
        window = scan.window(name)
        if _gap(window, peak, side) is None:
            raise ValueError(
                f"the scatter {window} does not lie {side} {peak}; the windows are {_listed(scan.windows)}"
            )
        return window
    gaps = {w: gap for w in scan.windows if w not in peaks and (gap := _gap(w, peak, side)) is not None}
    for window, gap in list(gaps.items()):
        nearer = [other for other in peaks if other is not peak and _distance(window, other) + _NEARER < gap]
        if nearer:
            del gaps[window]
            notes.append(f"{window} is {gap:.3g} keV from {peak} and nearer to {nearer[0]}, so it is not used")
    if not gaps:
        return None
    least = min(gaps.values())
    nearest = [w for w, gap in gaps.items() if gap <= least + ROUNDED]
    if len(nearest) > 1:
        raise ValueError(f"{len(nearest)} windows lie alike {side} {peak}: {_listed(nearest)}; name one of them")
    (found,) = nearest
    if least > peak.width / 2:
        notes.append(f"the scatter {found} lies {least:.3g} keV {side} the photopeak, and scatter changes over so much")
    return found


def _gap(window: EnergyWindow, peak: EnergyWindow, side: str) -> float | None:
    """keV between a window and the peak, None where it is not on that side."""
    gap = peak.lower - window.upper if side == "below" else window.lower - peak.upper
    return max(gap, 0.0) if gap >= -ROUNDED else None


def _distance(window: EnergyWindow, other: EnergyWindow) -> float:
    return max(other.lower - window.upper, window.lower - other.upper, 0.0)


def _overlap(first: EnergyWindow, second: EnergyWindow) -> float:
    return min(first.upper, second.upper) - max(first.lower, second.lower)


def _listed(windows: Sequence[EnergyWindow]) -> str:
    return ", ".join(map(str, windows))
