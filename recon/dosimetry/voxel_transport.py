"""The ways of electrons and photons through voxels of any tissue, compiled."""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors.core.compiling import inline_kernel, kernel

from .electron_transport import _turn
from .photon_transport import _kahn
from .stopping import ELECTRON_MASS

LAST_PHOTON = 2.0
"""keV: photons below are absorbed where they are."""

_LOSS = 0.08  # share of an electron's energy that one step may lose
_BEND = 0.08  # mean of 1 - cosine that one step may turn by
_NEAR = 0.005  # of a voxel: electrons that reach less far leave their energy where they are
_LAST_ELECTRON = 2.0  # keV


@inline_kernel
def _place(log_energy, energy):
    """Where an energy lies in the table."""
    step = (log_energy[-1] - log_energy[0]) / (log_energy.size - 1)
    return min(max((math.log(energy) - log_energy[0]) / step, 0.0), log_energy.size - 1.001)


@inline_kernel
def _read(table, place):
    i = int(place)
    return table[i] + (place - i) * (table[i + 1] - table[i])


@inline_kernel
def _isotropic(random):
    cosine, azimuth = 2 * random.random() - 1, 2 * math.pi * random.random()
    sine = math.sqrt(max(1 - cosine * cosine, 0.0))
    return sine * math.cos(azimuth), sine * math.sin(azimuth), cosine


@kernel
def _walk(energy, rho, size, x, y, z, ux, uy, uz, mass, loss):
    """Go a way of so many g/cm2 and leave `loss` keV per g/cm2; return the place, what is not gone, and the voxel.

    Places are in cm from the corner of the image; -1 for the voxel outside of it.
    """
    nx, ny, nz = rho.shape
    i, j, k = int(x / size[0]), int(y / size[1]), int(z / size[2])
    i, j, k = min(max(i, 0), nx - 1), min(max(j, 0), ny - 1), min(max(k, 0), nz - 1)
    ax = abs(ux) + 1e-30
    ay = abs(uy) + 1e-30
    az = abs(uz) + 1e-30
    while True:
        tx = ((i + 1) * size[0] - x if ux > 0 else x - i * size[0]) / ax
        ty = ((j + 1) * size[1] - y if uy > 0 else y - j * size[1]) / ay
        tz = ((k + 1) * size[2] - z if uz > 0 else z - k * size[2]) / az
        way = max(min(tx, ty, tz), 0.0)
        here = rho[i, j, k]
        if way * here >= mass:
            way = mass / here
            energy[i, j, k] += mass * loss
            return x + way * ux, y + way * uy, z + way * uz, 0.0, i
        energy[i, j, k] += way * here * loss
        mass -= way * here
        x, y, z = x + way * ux, y + way * uy, z + way * uz
        if tx <= ty and tx <= tz:
            i += 1 if ux > 0 else -1
            x = (i if ux > 0 else i + 1) * size[0]
            if i < 0 or i >= nx:
                return x, y, z, mass, -1
        elif ty <= tz:
            j += 1 if uy > 0 else -1
            y = (j if uy > 0 else j + 1) * size[1]
            if j < 0 or j >= ny:
                return x, y, z, mass, -1
        else:
            k += 1 if uz > 0 else -1
            z = (k if uz > 0 else k + 1) * size[2]
            if k < 0 or k >= nz:
                return x, y, z, mass, -1


@kernel
def _voxel(size, shape, x, y, z):
    i, j, k = int(x / size[0]), int(y / size[1]), int(z / size[2])
    return min(max(i, 0), shape[0] - 1), min(max(j, 0), shape[1] - 1), min(max(k, 0), shape[2] - 1)


@kernel
def _electron(energy, left, weight, x, y, z, rho, media, size, tables, majorant, random):
    """Follow an electron from a place to its end; return the energy that leaves the image, times the weight."""
    log_energy, lost, scattering, radiated, radiated_energy, ranges, attenuation, compton = tables
    ux, uy, uz = _isotropic(random)
    gone = 0.0
    shortest = min(size[0], size[1], size[2])
    while True:
        i, j, k = _voxel(size, rho.shape, x, y, z)
        place = _place(log_energy, left)
        if left <= _LAST_ELECTRON or _read(ranges, place) < _NEAR * shortest * rho[i, j, k]:
            energy[i, j, k] += left * weight
            return gone
        m = media[i, j, k]
        loss, bend = _read(lost[m], place), _read(scattering[m], place)
        step = min(_LOSS * left / loss, _BEND / bend)
        middle = left - step * loss / 2
        if middle > _LAST_ELECTRON:  # the loss and the bend of the energy half way
            place = _place(log_energy, middle)
            loss, bend = _read(lost[m], place), _read(scattering[m], place)
        rate = _read(radiated[m], place)
        radiates = False
        if rate > 0:
            until = -math.log(1 - random.random()) / rate
            if until < step:
                step, radiates = until, True
        step = min(step, left / loss)
        first = step * random.random()
        x, y, z, rest, inside = _walk(energy, rho, size, x, y, z, ux, uy, uz, first, loss * weight)
        if inside < 0:
            return gone + (left - (first - rest) * loss) * weight
        mean = math.exp(-bend * step)
        kappa = 1 / (1 - mean + 1e-12)
        u = random.random()
        cosine = 1 + math.log(u + (1 - u) * math.exp(-2 * kappa)) / kappa
        ux, uy, uz = _turn(ux, uy, uz, max(cosine, -1.0), random)
        x, y, z, rest, inside = _walk(energy, rho, size, x, y, z, ux, uy, uz, step - first, loss * weight)
        if inside < 0:
            return gone + (left - (step - rest) * loss) * weight
        left -= step * loss
        if radiates and left > LAST_PHOTON:
            row = int(place)
            u = random.random() * (radiated_energy.shape[1] - 1)
            n = int(u)
            photon = radiated_energy[row, n] + (u - n) * (radiated_energy[row, n + 1] - radiated_energy[row, n])
            photon = min(photon, left)
            left -= photon
            beta = math.sqrt(max(1 - 1 / (1 + (left + photon) / ELECTRON_MASS) ** 2, 0.0))
            v = 2 * random.random() - 1
            vx, vy, vz = _turn(ux, uy, uz, (v + beta) / (v * beta + 1), random)
            gone += _photon(
                energy, photon, weight, x, y, z, vx, vy, vz, rho, media, size, log_energy, attenuation, compton,
                majorant, random,
            )  # fmt: skip
        if left <= 0:
            return gone


@kernel
def _photon(
    energy, left, weight, x, y, z, ux, uy, uz, rho, media, size, log_energy, attenuation, compton, majorant, random
):
    """Follow a photon by Woodcock's method; return the energy that leaves the image, times the weight."""
    nx, ny, nz = rho.shape
    while True:
        place = _place(log_energy, left)
        most = _read(majorant, place)
        while True:
            way = -math.log(1 - random.random()) / most
            x, y, z = x + way * ux, y + way * uy, z + way * uz
            if not (0 <= x < nx * size[0] and 0 <= y < ny * size[1] and 0 <= z < nz * size[2]):
                return left * weight
            i, j, k = _voxel(size, rho.shape, x, y, z)
            m = media[i, j, k]
            if random.random() * most < _read(attenuation[m], place) * rho[i, j, k]:
                break
        if left < LAST_PHOTON or random.random() > _read(compton[m], place):
            energy[i, j, k] += left * weight
            return 0.0
        ratio = _kahn(left / ELECTRON_MASS, random)
        energy[i, j, k] += left * (1 - 1 / ratio) * weight
        cosine = 1 - (ratio - 1) * ELECTRON_MASS / left
        left = left / ratio
        ux, uy, uz = _turn(ux, uy, uz, max(cosine, -1.0), random)


@kernel
def follow(places, rho, media, size, electrons, photons, local, tables, majorant, energy, random):
    """Follow one electron and one photon from each place, that carry the energy of a decay; return what leaves, keV.

    places : (n,) flat number of the voxel; electrons, photons : (2, lines) keV and cumulative share of the energy per
    decay, whose sum is the last element of `local` = (local keV, keV of electrons, keV of photons).
    """
    ny, nz = rho.shape[1], rho.shape[2]
    gone = 0.0
    for flat in places:
        i, j, k = flat // (ny * nz), flat // nz % ny, flat % nz
        x = (i + random.random()) * size[0]
        y = (j + random.random()) * size[1]
        z = (k + random.random()) * size[2]
        energy[i, j, k] += local[0]
        if local[1] > 0:
            line = min(np.searchsorted(electrons[1], random.random(), side="right"), electrons.shape[1] - 1)
            start = electrons[0, line]
            gone += _electron(
                energy, start, local[1] / start, x, y, z, rho, media, size, tables, majorant, random
            )  # fmt: skip
        if local[2] > 0:
            line = min(np.searchsorted(photons[1], random.random(), side="right"), photons.shape[1] - 1)
            start = photons[0, line]
            ux, uy, uz = _isotropic(random)
            gone += _photon(
                energy, start, local[2] / start, x, y, z, ux, uy, uz, rho, media, size, tables[0], tables[6],
                tables[7], majorant, random,
            )  # fmt: skip
    return gone
