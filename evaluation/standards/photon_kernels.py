"""The way of annihilation photons through a cylinder into crystals, compiled."""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors.core.compiling import kernel

ELECTRON_MASS = 510.999
LIGHT = 0.299792458  # mm / ps
LSO_AT_511 = 0.087  # 1/mm of lutetium oxyorthosilicate, 7.4 g/mL
LSO_COMPTON = 0.65  # of it, Compton scatter; the rest goes as E^-3
ALUMINIUM = 0.0228  # 1/mm at 511 keV, 2.70 g/mL (NIST)
ACOLLINEARITY = math.radians(0.5) / 2.3548


@kernel
def exit_of(x, y, z, dx, dy, dz, radius, half):
    """Distance to the surface of the cylinder from inside, 0 from outside."""
    if radius == 0 or x * x + y * y >= radius * radius or abs(z) >= half:
        return 0.0
    a, b, c = dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - radius * radius
    side = (-b + math.sqrt(b * b - a * c)) / a if a > 1e-12 else 1e9
    end = ((half if dz > 0 else -half) - z) / dz if abs(dz) > 1e-12 else 1e9
    return min(side, end)


@kernel
def turned(dx, dy, dz, cosine, phi):
    """A direction at an angle to another."""
    sine = math.sqrt(max(0.0, 1 - cosine * cosine))
    across = math.sqrt(max(1e-12, 1 - dz * dz))
    if across < 1e-5:
        return sine * math.cos(phi), sine * math.sin(phi), cosine * (1.0 if dz > 0 else -1.0)
    u, v = math.cos(phi) * sine, math.sin(phi) * sine
    return (
        cosine * dx + (u * dx * dz - v * dy) / across,
        cosine * dy + (u * dy * dz + v * dx) / across,
        cosine * dz - u * across,
    )


@kernel
def follow(rng, x, y, z, dx, dy, dz, radius, half, camera, az, crystal, heights, ring, virtual, mu):
    """Return crystal (-1 if not counted), time in ps, and number of scatters."""
    energy, path, n = ELECTRON_MASS, 0.0, 0
    while True:
        far = exit_of(x, y, z, dx, dy, dz, radius, half)
        if far == 0.0:
            break
        step = -math.log(1 - rng.random()) / mu[int(energy) - 1]
        if step >= far:
            x, y, z, path = x + far * dx * 1.000001, y + far * dy * 1.000001, z + far * dz * 1.000001, path + far
            break
        x, y, z, path = x + step * dx, y + step * dy, z + step * dz, path + step
        k = energy / ELECTRON_MASS
        while True:
            cosine = 2 * rng.random() - 1
            p = 1 / (1 + k * (1 - cosine))
            if 2 * rng.random() <= p * p * (p + 1 / p - 1 + cosine * cosine):
                break
        energy *= p
        n += 1
        if energy < 0.6 * camera[2]:
            return -1, 0.0, n
        dx, dy, dz = turned(dx, dy, dz, cosine, 2 * math.pi * rng.random())
    a = dx * dx + dy * dy
    b, c = x * dx + y * dy, x * x + y * y - camera[0] * camera[0]
    if a < 1e-9 or c > 0:
        return -1, 0.0, n
    s = (-b + math.sqrt(b * b - a * c)) / a
    lost = LSO_AT_511 * (LSO_COMPTON + (1 - LSO_COMPTON) * (ELECTRON_MASS / energy) ** 3)
    s += -math.log(1 - rng.random()) / lost
    x, y, z, path = x + s * dx, y + s * dy, z + s * dz, path + s
    if x * x + y * y > (camera[0] + camera[1]) ** 2 or rng.random() > camera[6]:
        return -1, 0.0, n
    sigma = camera[4] / 2.3548 * math.sqrt(energy * ELECTRON_MASS)
    measured = energy + sigma * rng.normal()
    if measured < camera[2] or measured > camera[3]:
        return -1, 0.0, n
    rings = len(heights)
    pitch = (heights[-1] - heights[0]) / max(1, rings - 1)
    r = math.floor((z - heights[0]) / pitch + 0.5)
    if r < 0 or r >= rings:
        return -1, 0.0, n
    phi = math.atan2(y, x)
    i = np.searchsorted(az, phi)
    low, high = az[i - 1] if i > 0 else az[-1] - 2 * math.pi, az[i] if i < len(az) else az[0] + 2 * math.pi
    i = (i - 1 if phi - low < high - phi else i) % len(az)
    number = ring[r] * len(az) + crystal[i]
    if virtual[number]:
        return -1, 0.0, n
    return number, path / LIGHT + camera[5] * rng.normal(), n


@kernel
def pairs(
    rng, n, line, steepest, radius, half, camera, az, crystal, heights, ring, virtual, mu, events, times, scattered
):
    found, singles = 0, 0
    for _ in range(n):
        x, y = line[0], line[1]
        if line[4] > 0:
            r, phi = line[4] * math.sqrt(rng.random()), 2 * math.pi * rng.random()
            x, y = x + r * math.cos(phi), y + r * math.sin(phi)
        z = line[2] + line[3] * (rng.random() - 0.5)
        cosine, phi = steepest * (2 * rng.random() - 1), 2 * math.pi * rng.random()
        sine = math.sqrt(1 - cosine * cosine)
        if line[5] > 0 and rng.random() > math.exp(-2 * ALUMINIUM * line[5] / max(sine, 1e-6)):
            continue
        dx, dy, dz = sine * math.cos(phi), sine * math.sin(phi), cosine
        first = follow(
            rng, x, y, z, dx, dy, dz, radius, half, camera, az, crystal, heights, ring, virtual, mu
        )  # fmt: skip
        bent = math.cos(ACOLLINEARITY * math.sqrt(-2 * math.log(1 - rng.random())))
        ex, ey, ez = turned(-dx, -dy, -dz, bent, 2 * math.pi * rng.random())
        second = follow(
            rng, x, y, z, ex, ey, ez, radius, half, camera, az, crystal, heights, ring, virtual, mu
        )  # fmt: skip
        singles += (first[0] >= 0) + (second[0] >= 0)
        if first[0] >= 0 and second[0] >= 0:
            events[found, 0], events[found, 1] = first[0], second[0]
            times[found] = second[1] - first[1]
            scattered[found] = first[2] + second[2] > 0
            found += 1
    return found, singles
