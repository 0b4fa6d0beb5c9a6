"""The CPU kernel of photon histories: pairs of annihilation photons through a body, until they leave or are lost."""

from __future__ import annotations

import math

import numpy as np

from ..core.compiling import inline_kernel as _inline
from ..core.compiling import kernel as _compile

_MASS = 510.999  # keV


@_compile
def follow(decays, cumulated, mu, origin, voxel, softer, limits, random, events, values):
    """Follow `decays` pairs of photons; fill events and values of those that reach detectors, and return how many do.

    Args:
        cumulated : (voxels,) rising to 1, the probability that a decay is in a voxel or one before it.
        mu : (nx, ny, nz) at 511 keV in 1/mm.
        origin, voxel : (3,) centre of the first voxel and sizes, mm.
        softer : (K,) attenuation over that at 511 keV, for energies from 0 to 511 keV.
        limits : radius of the detectors, lowest and highest z of them, in mm, and the lowest energy in keV.
        random : a NumPy generator.
        events : (n, 2) how often each of both photons was scattered.
        values : (n, 8) angle in rad, z in mm, energy in keV and path in mm of the first, then of the second.
    """
    _, ny, nz = mu.shape
    highest = mu.max() * _softer(limits[3], softer)  # the softest photon in the densest voxel
    place, other = np.empty(8), np.empty(8)
    found = 0
    for _ in range(decays):
        k = np.searchsorted(cumulated, random.random())
        i, j, m = k // (ny * nz), (k // nz) % ny, k % nz
        x = origin[0] + (i + random.random() - 0.5) * voxel[0]
        y = origin[1] + (j + random.random() - 0.5) * voxel[1]
        z = origin[2] + (m + random.random() - 0.5) * voxel[2]
        cosine, phi = 2 * random.random() - 1, 2 * math.pi * random.random()
        sine = math.sqrt(1 - cosine * cosine)
        u, v, w = sine * math.cos(phi), sine * math.sin(phi), cosine
        first = _photon(x, y, z, u, v, w, mu, highest, origin, voxel, softer, limits, random, place)
        if first < 0:
            continue
        second = _photon(x, y, z, -u, -v, -w, mu, highest, origin, voxel, softer, limits, random, other)
        if second < 0:
            continue
        events[found, 0], events[found, 1] = first, second
        for q in range(4):
            values[found, q], values[found, 4 + q] = place[q], other[q]
        found += 1
        if found == events.shape[0]:
            break
    return found


@_inline
def _photon(x, y, z, u, v, w, mu, highest, origin, voxel, softer, limits, random, out):
    """Follow one photon: how often it was scattered, or -1 where it is lost; out is angle, z, energy and path."""
    radius, low, high, least = limits[0], limits[1], limits[2], limits[3]
    energy, path, scattered = _MASS, 0.0, 0
    while True:
        step = -math.log(1 - random.random()) / highest if highest > 0 else 1e30  # Woodcock: as if dense everywhere
        # the way to the cylinder
        a = u * u + v * v
        b = x * u + y * v
        c = x * x + y * y - radius * radius
        out_of_reach = (-b + math.sqrt(max(b * b - a * c, 0.0))) / a if a > 1e-12 else 1e30
        if step >= out_of_reach:
            x, y, z = x + out_of_reach * u, y + out_of_reach * v, z + out_of_reach * w
            path += out_of_reach
            if z < low or z > high:
                return -1
            out[0], out[1], out[2], out[3] = math.atan2(x, -y), z, energy, path
            return scattered
        x, y, z = x + step * u, y + step * v, z + step * w
        path += step
        if abs(z) > 1e5:
            return -1
        i = math.floor((x - origin[0]) / voxel[0] + 0.5)
        j = math.floor((y - origin[1]) / voxel[1] + 0.5)
        k = math.floor((z - origin[2]) / voxel[2] + 0.5)
        if i < 0 or j < 0 or k < 0 or i >= mu.shape[0] or j >= mu.shape[1] or k >= mu.shape[2]:
            continue
        if random.random() * highest >= mu[i, j, k] * _softer(energy, softer):
            continue
        cosine = _compton(energy, random)
        energy = energy / (1 + energy / _MASS * (1 - cosine))
        if energy < least:
            return -1
        scattered += 1
        u, v, w = _turned(u, v, w, cosine, 2 * math.pi * random.random())


@_inline
def _softer(energy, table):
    """Attenuation at an energy over that at 511 keV."""
    at = energy / _MASS * (table.shape[0] - 1)
    index = min(int(at), table.shape[0] - 2)
    return table[index] + (at - index) * (table[index + 1] - table[index])


@_inline
def _compton(energy, random):
    """The cosine of a scattering angle, by Kahn's method of the Klein-Nishina formula."""
    k = energy / _MASS
    while True:
        r1, r2, r3 = random.random(), random.random(), random.random()
        if r1 <= (1 + 2 * k) / (9 + 2 * k):
            ratio = 1 + 2 * k * r2
            if r3 <= 4 * (1 / ratio - 1 / (ratio * ratio)):
                return 1 - (ratio - 1) / k
        else:
            ratio = (1 + 2 * k) / (1 + 2 * k * r2)
            cosine = 1 - (ratio - 1) / k
            if r3 <= 0.5 * (cosine * cosine + 1 / ratio):
                return cosine


@_inline
def _turned(u, v, w, cosine, phi):
    """The direction after a turn through an angle, around the old one by phi."""
    sine = math.sqrt(max(1 - cosine * cosine, 0.0))
    a, b = sine * math.cos(phi), sine * math.sin(phi)
    across = math.sqrt(max(1 - w * w, 0.0))
    if across < 1e-6:
        return a, b, cosine if w > 0 else -cosine
    return (
        u * cosine + (u * w * a - v * b) / across,
        v * cosine + (v * w * a + u * b) / across,
        w * cosine - across * a,
    )
