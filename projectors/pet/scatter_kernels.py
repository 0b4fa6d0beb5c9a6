"""The CPU kernels of single scatter simulation: legs from scatter points, sums over pairs of detectors, interpolation.

A detector is a node of a coarse lattice on the scanner, (ring node, crystal node). What a scatter point sees along the
way to a detector, its leg, is found once, and then used in all pairs of detectors. The sums are smooth in the
detectors' positions, so that the sinogram's bins are interpolated from the nodes around their two ends. Every sum has
one fixed order: results do not depend on the number of threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..core.compiling import inline_kernel as _inline
from ..core.compiling import kernel as _compile

N_FIELDS = 8  # of a leg: direction (3), exp(-mu) cos / length^2, integrals of mu and activity, length in mm, unused


class Images(NamedTuple):
    """Activity and attenuation, as legs see them.

    Args:
        values : (nx + 2, ny + 2, nz + 2, 2) activity, and mu in 1/mm, with an empty voxel all around
        origin, voxel : (3,) centre of the first (empty) voxel and voxel sizes in mm
    """

    values: np.ndarray
    origin: np.ndarray
    voxel: np.ndarray


class Timing(NamedTuple):
    """Samples along a leg, and time of flight in units of them; without, there are no taps and one bin.

    Args:
        step : mm between samples
        taps : (2 zero + 2,) the part of the timing kernel around a sample that falls into each step of a table
        zero : the entry of a table that belongs to the scatter point
        n_table : entries of a table, the activity that is seen up to a position; 0 without TOF
        lowest, width, n_bins : the first edge and the width of the TOF bins in steps, and their number
    """

    step: float
    taps: np.ndarray
    zero: int
    n_table: int
    lowest: float
    width: float
    n_bins: int


class Lattice(NamedTuple):
    """How bins are interpolated from pairs of nodes.

    Args:
        slot : (crystal nodes, crystal nodes) the row of the sums that holds a pair, -1 where no bin needs it
        base, weight : (crystals,), (crystals, 4) the first of the four nodes around every crystal, and their weights
        start, pair, share : rows of a sparse matrix, from pairs of ring nodes to planes
        rise2 : (planes,) the square of the height in mm between the ends
    """

    slot: np.ndarray
    base: np.ndarray
    weight: np.ndarray
    start: np.ndarray
    pair: np.ndarray
    share: np.ndarray
    rise2: np.ndarray


@_compile
def find_legs(points, detectors, images, timing, first, n, legs, table):
    """Set legs[d, s] and table[d, s] for the detectors first::n and all scatter points.

    Args:
        points : (S, 3) mm.
        detectors : (D, 3) mm, around the z axis.
        legs : (D, S, 8).
        table : (D, S, n_table) mm x activity seen up to a TOF position.
    """
    for d in range(first, detectors.shape[0], n):
        x, y, z = detectors[d, 0], detectors[d, 1], detectors[d, 2]
        radius = math.hypot(x, y)
        for s in range(points.shape[0]):
            leg = legs[d, s]
            dx, dy, dz = x - points[s, 0], y - points[s, 1], z - points[s, 2]
            length = math.sqrt(dx * dx + dy * dy + dz * dz)
            leg[0], leg[1], leg[2], leg[6] = dx / length, dy / length, dz / length, length
            _integrate(points[s], leg, images, timing, table[d, s])
            cosine = (x * dx + y * dy) / (radius * length)
            leg[3] = math.exp(-leg[4]) * cosine / length**2


@_compile
def _integrate(point, leg, images, timing, table):
    """Set the integrals of a leg by the midpoint rule, and its table: activity smeared with the timing kernel."""
    reach, step = leg[6], timing.step
    here, slope = np.empty(3), np.empty(3)
    for k in range(3):
        here[k], slope[k] = (point[k] - images.origin[k]) / images.voxel[k], leg[k] / images.voxel[k]
        if slope[k] > 0:
            reach = min(reach, (images.values.shape[k] - 1 - here[k]) / slope[k])
        elif slope[k] < 0:
            reach = min(reach, -here[k] / slope[k])
    total = total_mu = 0.0
    table[:] = 0.0
    for m in range(math.ceil(reach / step - 0.5)):
        t = (m + 0.5) * step
        x, y, z = here[0] + t * slope[0], here[1] + t * slope[1], here[2] + t * slope[2]
        activity, mu = _sample(images.values, x, y, z)
        total += activity * step
        total_mu += mu * step
        if timing.n_table > 0 and activity != 0:
            for k in range(timing.taps.shape[0]):
                table[m + k] += activity * step * timing.taps[k]
    leg[4], leg[5] = total_mu, total
    for k in range(1, timing.n_table):
        table[k] += table[k - 1]


@_inline
def _sample(values, x, y, z):
    """Both images at a position in voxels: trilinear."""
    i = min(max(int(x), 0), values.shape[0] - 2)
    j = min(max(int(y), 0), values.shape[1] - 2)
    k = min(max(int(z), 0), values.shape[2] - 2)
    u, v, w = x - i, y - j, z - k
    activity = mu = 0.0
    for a in range(2):
        for b in range(2):
            part = (u if a else 1 - u) * (v if b else 1 - v)
            low, high = values[i + a, j + b, k], values[i + a, j + b, k + 1]
            activity += part * (low[0] + w * (high[0] - low[0]))
            mu += part * (low[1] + w * (high[1] - low[1]))
    return activity, mu


@_compile
def add_pairs(weights, legs, table, crystals, rings, n_crystals, response, timing, first, n, out):
    """Add the scatter from the points of `legs` to out[c], for the pairs of crystal nodes c = first::n.

    Args:
        weights : (S,) mu x volume in mm^2.
        crystals : (C, 2) and rings : (P, 2) nodes at both ends.
        response : (3, K) for cos theta from response[0, 0] to 1: cos theta; probability per sr to scatter through theta
            and be accepted; how much larger mu is after scattering, as a fraction.
        out : (C, TOF bins, P) activity x mm, for detectors of 1 mm^2 on a cylinder, without the factor 1 / (2 pi).
    """
    least, last = response[0, 0], response.shape[1] - 2
    scale = (last + 1) / (1 - least)
    bins = np.zeros(timing.n_bins)
    for c in range(first, crystals.shape[0], n):
        for p in range(rings.shape[0]):
            a, b = rings[p, 0] * n_crystals + crystals[c, 0], rings[p, 1] * n_crystals + crystals[c, 1]
            bins[:] = 0.0
            for s in range(weights.shape[0]):
                one, other = legs[a, s], legs[b, s]
                cosine = -(one[0] * other[0] + one[1] * other[1] + one[2] * other[2])
                if cosine <= least or (one[5] == 0 and other[5] == 0):
                    continue
                x = (cosine - least) * scale
                k = min(int(x), last)
                accepted = response[1, k] + (x - k) * (response[1, k + 1] - response[1, k])
                softer = response[2, k] + (x - k) * (response[2, k + 1] - response[2, k])
                common = weights[s] * accepted * one[3] * other[3]
                from_one, from_other = common * math.exp(-softer * other[4]), common * math.exp(-softer * one[4])
                if timing.n_table == 0:
                    bins[0] += from_one * one[5] + from_other * other[5]
                else:
                    middle = (one[6] - other[6]) / (2 * timing.step)
                    _into_bins(from_one, from_other, table[a, s], table[b, s], middle, timing, bins)
            for q in range(timing.n_bins):
                out[c, q, p] += bins[q]


@_compile
def _into_bins(from_one, from_other, one, other, scattered_at, timing, bins):
    """Share the activity of both legs out over the TOF bins; positions are in steps.

    An annihilation at t from the scatter point is seen t before it on the way to the first end, t behind it to the
    second: time of flight is the position along the bent path.
    """
    behind = timing.n_table - 1 - timing.zero
    low = max(math.floor((scattered_at - behind - timing.lowest) / timing.width), 0)
    high = min(math.ceil((scattered_at + behind - timing.lowest) / timing.width), timing.n_bins)
    edge = timing.lowest + low * timing.width - scattered_at
    later, sooner = _up_to(one, timing.zero - edge), _up_to(other, timing.zero + edge)
    for q in range(low, high):
        edge += timing.width
        later_next, sooner_next = _up_to(one, timing.zero - edge), _up_to(other, timing.zero + edge)
        bins[q] += from_one * (later - later_next) + from_other * (sooner_next - sooner)
        later, sooner = later_next, sooner_next


@_inline
def _up_to(table, x):
    """The activity seen up to position x of a table: 0 before its first entry, all of it behind its last."""
    x = min(max(x, 0.0), table.shape[0] - 1.0)
    k = min(int(x), table.shape[0] - 2)
    return table[k] + (x - k) * (table[k + 1] - table[k])


@_compile
def fill(sums, lattice, crystal_pairs, ends, first, n, out):
    """out[v] = the scatter in the units of line integrals, for the views first::n.

    Args:
        sums : (slots, TOF bins, pairs of ring nodes).
        crystal_pairs : (V, mashing, R, 2).
        ends : (V, R, 4) mm.
        out : (V, R, TOF bins, planes).
    """
    _, n_bins, n_pairs = sums.shape
    around = np.empty((n_bins, n_pairs))
    for v in range(first, out.shape[0], n):
        for r in range(out.shape[1]):
            _interpolate(sums, lattice, crystal_pairs[v, :, r], around)
            x1, y1, x2, y2 = ends[v, r, 0], ends[v, r, 1], ends[v, r, 2], ends[v, r, 3]
            length2 = (x2 - x1) ** 2 + (y2 - y1) ** 2
            facing1 = (x1 * (x1 - x2) + y1 * (y1 - y2)) / math.hypot(x1, y1)
            facing2 = (x2 * (x2 - x1) + y2 * (y2 - y1)) / math.hypot(x2, y2)
            for p in range(out.shape[3]):
                total = kept = 0.0
                for q in range(n_bins):
                    value = 0.0
                    for k in range(lattice.start[p], lattice.start[p + 1]):
                        value += lattice.share[k] * around[q, lattice.pair[k]]
                    total += value
                    kept += max(value, 0.0)
                    out[v, r, q, p] = max(value, 0.0)
                # Cubics may swing below zero; what is cut off there is taken from the other TOF bins.
                factor = total / kept * (length2 + lattice.rise2[p]) ** 2 / (facing1 * facing2) if total > 0 else 0.0
                for q in range(n_bins):
                    out[v, r, q, p] *= factor


@_compile
def _interpolate(sums, lattice, crystals, around):
    """around = the sums for the mean of some crystal pairs (n, 2), by the nodes around their ends."""
    _, n_bins, n_pairs = sums.shape
    n_nodes = lattice.slot.shape[0]
    around[:] = 0.0
    for m in range(crystals.shape[0]):
        first, second = crystals[m, 0], crystals[m, 1]
        for a in range(4):
            for b in range(4):
                weight = lattice.weight[first, a] * lattice.weight[second, b] / crystals.shape[0]
                if weight == 0:
                    continue
                i, j = (lattice.base[first] + a) % n_nodes, (lattice.base[second] + b) % n_nodes
                values = sums[lattice.slot[i, j]]
                for q in range(n_bins):
                    for p in range(n_pairs):
                        around[q, p] += weight * values[q, p]
