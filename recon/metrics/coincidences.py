"""How a PET scanner counts, as NEMA NU 2 measures it: scatter fraction, count rates, sensitivity, and corrections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

ALUMINIUM_SLEEVES = (1.25, 2.5, 3.75, 5.0, 6.25)
"""mm of aluminium around the line source of the sensitivity test with 1, 2, ... 5 sleeves."""


class LineSourceCounts(NamedTuple):
    """Counts of a sinogram (..., planes): all within 12 cm of the axis, and those of scatter and randoms among them."""

    total: np.ndarray
    beside: np.ndarray


def scatter_and_randoms(
    sinogram: ArrayLike, bin_size: float, *, diameter: float = 240.0, strip: float = 40.0
) -> LineSourceCounts:
    """Return total counts, and scattered and random ones, of a line source in a cylinder, plane by plane.

    Args:
        sinogram : (..., views, bins, planes) prompts, rebinned to transverse planes, in equal bins around the axis.
        bin_size : mm.
        diameter : mm; bins further than half of it from the axis are left out.
        strip : mm; the width around the line in which trues lie.

    Every view is shifted by whole bins until its highest bin is in the middle, and all are added. Under the strip,
    scatter and randoms are the mean of the values at its edges (interpolated), times its width in bins; outside, all
    counts are.

    Raises ValueError where the field is smaller than the diameter, or the line's shift leaves no room for the strip.

    Source: NEMA NU 2-2018, section 4.
    """
    counts = np.asarray(sinogram, float)
    if counts.ndim < 3 or not np.isfinite(counts).all():
        raise ValueError(f"scatter_and_randoms expects finite counts (..., views, bins, planes), got {counts.shape}")
    n = counts.shape[-2]
    place = (np.arange(n) - (n - 1) / 2) * bin_size
    if place[-1] + bin_size / 2 < diameter / 2:
        raise ValueError(f"{n} bins of {bin_size:g} mm reach {place[-1]:.4g} mm from the axis, not {diameter / 2:g} mm")
    kept = np.where((np.abs(place) <= diameter / 2)[:, None], counts, 0.0)
    lead, (n_views, _, n_planes) = kept.shape[:-3], kept.shape[-3:]
    views = kept.reshape(-1, n_views, n, n_planes)
    middle = n // 2
    # all planes of a view share the shift: the line is straight, and single planes may be empty
    highest = views.sum(-1).argmax(-1)
    added = np.zeros((len(views), 2 * n - 1, n_planes))
    for i, v in np.ndindex(highest.shape):
        start = n - 1 - int(highest[i, v])
        added[i, start : start + n] += views[i, v]
    centre, half = n - 1, strip / 2 / bin_size
    if half + 1 > middle:
        raise ValueError(f"a strip of {strip:g} mm does not fit into {n} bins of {bin_size:g} mm")
    bins = np.arange(2 * n - 1) - centre
    edges = [_interpolated(added, centre + side * half) for side in (-1, 1)]
    # the part of every bin that is outside of the strip; a bin reaches half its width to both sides
    inside = np.clip(half - np.abs(bins) + 0.5, 0.0, 1.0)
    outside = (added * (1 - inside)[:, None]).sum(1)
    beside = (edges[0] + edges[1]) / 2 * 2 * half + outside
    return LineSourceCounts(added.sum(1).reshape(*lead, n_planes), beside.reshape(*lead, n_planes))


@dataclass(frozen=True, eq=False)
class LineSourceRates:
    """Rates in counts/s over the activity in kBq/mL, one value for each acquisition, of all planes together.

    Args:
        activity : (acquisitions,) mean activity concentration during each.
        total, trues, scatter, randoms : (acquisitions,).
        scatter_fraction : S / (T + S) where counts are so few that randoms do not matter.
        noise_equivalent : T^2 / (T + S + k R), k = 1 or 2.
    """

    activity: np.ndarray
    total: np.ndarray
    trues: np.ndarray
    scatter: np.ndarray
    randoms: np.ndarray
    scatter_fraction: float
    noise_equivalent: np.ndarray

    @property
    def peak(self) -> tuple[float, float]:
        """The highest noise-equivalent rate, counts/s, and its activity, by a parabola through the highest three."""
        return _vertex(self.activity, self.noise_equivalent)

    @property
    def trues_peak(self) -> tuple[float, float]:
        """The highest rate of trues, and its activity."""
        return _vertex(self.activity, self.trues)

    def scatter_fractions(self) -> np.ndarray:
        """Return S / (T + S) of each acquisition."""
        return np.asarray(self.scatter / (self.scatter + self.trues))


def count_rates(
    counts: LineSourceCounts, activity: ArrayLike, seconds: ArrayLike, *, delayed: ArrayLike | None = None, k: int = 1
) -> LineSourceRates:
    """Return rates of trues, scatter, randoms and the noise-equivalent rate over activity.

    Args:
        counts : what `scatter_and_randoms` gives for all acquisitions, (acquisitions, planes).
        activity : (acquisitions,) kBq/mL of the whole cylinder (activity over 22 L), any order.
        seconds : of every acquisition.
        delayed : (acquisitions, planes) estimated randoms within 12 cm of the axis. Without them, randoms are what
            exceeds the scatter fraction of the acquisition of the lowest activity:

    ::

        trues   R_t = (C - C_beside) / seconds              SF = C_beside / C,  lowest activity
        randoms R_r = C / seconds - R_t / (1 - SF)          or delayed / seconds
        scatter R_s = SF / (1 - SF) R_t                     or C / seconds - R_t - R_r
        noise equivalent = R_t^2 / (R_t + R_s + k R_r)

    Args:
        k : 1, or 2 where randoms are subtracted by a delayed window that is not smoothed.

    Raises ValueError for shapes that differ, fewer than three acquisitions, and numbers that make no sense.

    Source: NEMA NU 2-2018, section 4.
    """
    total, beside = np.asarray(counts.total, float), np.asarray(counts.beside, float)
    level, time = np.asarray(activity, float), np.broadcast_to(np.asarray(seconds, float), np.shape(activity))
    if total.ndim != 2 or beside.shape != total.shape or level.shape != total.shape[:1] or len(level) < 3:
        raise ValueError(
            f"count_rates needs counts (acquisitions, planes) of 3 or more and an activity for each, got {total.shape} "
            f"and {level.shape}"
        )
    if not (np.all(time > 0) and np.all(level > 0) and k in (1, 2)):
        raise ValueError("count_rates: seconds and activity must be positive, and k 1 or 2")
    least = int(level.argmin())
    by_plane = beside[least] / np.where(total[least] > 0, total[least], np.nan)
    whole = float(beside[least].sum() / total[least].sum())
    fraction = np.where(np.isfinite(by_plane), by_plane, whole)
    trues = (total - beside) / time[:, None]
    if delayed is None:
        randoms = total / time[:, None] - trues / (1 - fraction)
        scatter = fraction / (1 - fraction) * trues
    else:
        given = np.asarray(delayed, float)
        if given.shape != total.shape:
            raise ValueError(f"delayed must be {total.shape} like the counts, got {given.shape}")
        randoms = given / time[:, None]
        scatter = beside / time[:, None] - randoms
        whole = float(scatter[least].sum() / (scatter[least] + trues[least]).sum())
    t, s, r = trues.sum(1), scatter.sum(1), randoms.sum(1)
    return LineSourceRates(level, total.sum(1) / time, t, s, r, whole, t**2 / (t + s + k * r))


class LineSourceSensitivity(NamedTuple):
    """Trues without any attenuation, counts/s/kBq, and the attenuation found along with them, 1/mm."""

    system: float
    attenuation: float
    slices: np.ndarray


def sleeve_sensitivity(
    rates: ArrayLike, activity: ArrayLike, sleeves: ArrayLike = ALUMINIUM_SLEEVES
) -> LineSourceSensitivity:
    """Return the sensitivity without attenuation from a line source of 70 cm in more and more metal.

    ::

        R_j / A_j = S exp(-2 mu X_j),    slices  S_i = S R_1i / R_1

    Args:
        rates : (sleeves, slices) trues in counts/s, or (sleeves,).
        activity : kBq of the whole line, one or for each measurement (at its own time: that is the decay correction).
        sleeves : X_j, mm of metal around the line.

    S and mu are found by a straight line through log(R_j / A_j).

    Raises ValueError for shapes that differ, fewer than two sleeves, and rates that are not positive.

    Source: NEMA NU 2-2018, section 5; Bailey et al. 1991.
    """
    by_slice = np.asarray(rates, float)
    by_slice = by_slice[:, None] if by_slice.ndim == 1 else by_slice
    walls = np.asarray(sleeves, float)
    if by_slice.ndim != 2 or walls.shape != by_slice.shape[:1] or len(walls) < 2:
        raise ValueError(f"rates of 2 or more sleeves of {walls.shape} expected, got {by_slice.shape}")
    totals = by_slice.sum(1) / np.asarray(activity, float)
    if not (np.isfinite(totals).all() and np.all(totals > 0)):
        raise ValueError(f"rates over activity must be positive, got {totals}")
    slope, log_rate = np.polyfit(walls, np.log(totals), 1)
    system = math.exp(log_rate)
    return LineSourceSensitivity(system, float(-slope / 2), system * by_slice[0] / by_slice[0].sum())


def correction_errors(rates: ArrayLike, activity: ArrayLike, n_lowest: int = 3) -> np.ndarray:
    """Return the errors of the corrections for dead time and randoms, per cent, (acquisitions, slices)::

        100 (R_ij / E_ij - 1),     E_ij = A_j mean over the lowest acquisitions of R_ik / A_k

    Args:
        rates : (acquisitions, slices) corrected count rates in a region of 180 mm in the image.
        activity : (acquisitions,).
        n_lowest : how many acquisitions of the lowest activity are taken for free of errors.

    Raises ValueError for shapes that differ and too few acquisitions.

    Source: NEMA NU 2-2018, section 6.
    """
    values, level = np.asarray(rates, float), np.asarray(activity, float)
    if values.ndim != 2 or level.shape != values.shape[:1] or not 1 <= n_lowest < len(level):
        raise ValueError(f"correction_errors: rates {values.shape} and activity {level.shape} do not fit {n_lowest}")
    lowest = np.argsort(level)[:n_lowest]
    expected = level[:, None] * (values[lowest] / level[lowest, None]).mean(0)
    if not np.all(expected > 0):
        raise ValueError("a slice has no counts at the lowest activities; leave it out")
    return np.asarray(100 * (values / expected - 1))


def _interpolated(values: np.ndarray, place: float) -> np.ndarray:
    """Return values (n, bins, planes) at a place between bins."""
    k = math.floor(place)
    part = place - k
    return np.asarray((1 - part) * values[:, k] + part * values[:, k + 1])


def _vertex(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    order = np.argsort(x)
    a, b = x[order], y[order]
    k = int(b.argmax())
    if not 0 < k < len(a) - 1:
        raise ValueError(
            f"the highest rate is at the {'lowest' if k == 0 else 'highest'} activity: no peak was reached"
        )
    c2, c1, c0 = np.polyfit(a[k - 1 : k + 2], b[k - 1 : k + 2], 2)
    top = -c1 / (2 * c2)
    return float(c0 + c1 * top + c2 * top**2), float(top)
