"""Crystals of scanners made of flat blocks, from the numbers of an Interfile header or from a list of places.

STIR counts rings along its own z, crystals from the front of the patient towards the left; ring 0 of the library has
the highest z, so that z is turned round.
"""

from __future__ import annotations

import math
from pathlib import PureWindowsPath

import numpy as np

from emrecon.projectors.core.errors import FormatError, require_file

from .header import Header, count, positive, short, text

_LARGEST_MAP = 2**28  # bytes


def block_crystals(header: Header, rings: int, crystals: int, radius: float, offset: float) -> np.ndarray:
    """Return (rings, crystals, 3) mm of a "BlocksOnCylindrical" scanner: flat buckets of blocks around the axis.

    The middle of a bucket is `radius` from the axis; its blocks and crystals have the header's spacing. The first
    crystal of bucket b is turned by 2 pi b / buckets and by what STIR calls the angle of half a bucket without gaps.

    Raises FormatError where the numbers do not make up the rings.

    Source: STIR's keys, and the places that its GeometryBlocksOnCylindrical gives.
    """
    n_t, n_a = (_number(header, f"number of crystals per block in {way} direction") for way in ("transaxial", "axial"))
    b_t, b_a = (_number(header, f"number of blocks per bucket in {way} direction") for way in ("transaxial", "axial"))
    if rings % (n_a * b_a) or crystals % (n_t * b_t):
        raise FormatError(
            f"{header.path}: {rings} rings and {crystals} crystals per ring are not whole buckets of {b_a} x {b_t} "
            f"blocks of {n_a} x {n_t} crystals"
        )
    d_t, d_a = (_length(header, f"distance between crystals in {way} direction") for way in ("transaxial", "axial"))
    s_t, s_a = (_length(header, f"distance between blocks in {way} direction") for way in ("transaxial", "axial"))
    buckets = crystals // (n_t * b_t)
    half = math.pi / buckets
    lead = half - 2 * half / s_t * (d_t / 2 + s_t - n_t * d_t)
    along = (np.arange(b_t)[:, None] * s_t + np.arange(n_t) * d_t).ravel()
    along -= (b_t - 1) / 2 * s_t + (n_t - 1) / 2 * d_t
    turn = (math.radians(offset) + lead + 2 * half * np.arange(buckets))[:, None]
    x = along * np.cos(turn) + radius * np.sin(turn)
    y = along * np.sin(turn) - radius * np.cos(turn)
    blocks = rings // n_a
    z = (np.arange(blocks)[:, None] * s_a + np.arange(n_a) * d_a).ravel()
    return _stacked(x.ravel(), y.ravel(), z)


def mapped_crystals(header: Header, rings: int, crystals: int) -> np.ndarray:
    """Return (rings, crystals, 3) mm of a "Generic" scanner, from the file that lists where its crystals are.

    A line has ring, crystal, [layer,] x, y, z in mm, apart by tabs or commas; lines of `#` are comments. As STIR does,
    the file's own numbers are put aside: rings follow z, and crystals of a ring the angle from the front to the left.

    Raises FormatError where the list does not hold all crystals of equal rings.
    """
    name = header.get("scanner", ["name of crystal map"], text).strip("\"' ")
    parts = PureWindowsPath(name).parts
    if ".." in parts or "\0" in name or not parts:
        raise FormatError(f"{header.path}: the crystal map {short(name)} is outside the header's folder")
    path = require_file(header.path.parent / parts[-1])
    if path.stat().st_size > _LARGEST_MAP:
        raise FormatError(f"{path} has {path.stat().st_size} bytes, too many for a list of crystals")
    lines = path.read_text("utf-8", "replace").splitlines()
    rows = [line.replace(",", "\t").split("\t") for line in lines if line.strip() and not line.startswith("#")]
    try:
        places = np.array([[float(value) for value in row[-3:]] for row in rows if len(row) in (5, 6)])
        layers = {row[2].strip() for row in rows if len(row) == 6}
    except ValueError as error:
        raise FormatError(f"{path}: a line of crystals holds no number ({short(str(error))})") from error
    if len(layers) > 1:
        raise FormatError(f"{path}: crystals are in {len(layers)} layers, and a PETSinogram has one")
    if places.shape != (rings * crystals, 3) or len(rows) != len(places) or not np.isfinite(places).all():
        raise FormatError(f"{path}: {len(rows)} lines of crystals, but the header has {rings} rings of {crystals}")
    by_ring = places[np.argsort(places[:, 2], kind="stable")].reshape(rings, crystals, 3)
    angle = np.arctan2(by_ring[..., 0], -by_ring[..., 1]) % (2 * np.pi)
    order = np.argsort(np.where(angle > 2 * np.pi - 1e-9, 0, angle), axis=1, kind="stable")
    ordered = np.take_along_axis(by_ring, order[..., None], axis=1)
    z = ordered[..., 2]
    return np.concatenate([ordered[..., :2], (z.max() + z.min() - z - (z.max() + z.min()) / 2)[..., None]], -1)


def _stacked(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Rings of the same crystals at heights z, in the middle and with ring 0 at the top."""
    found = np.empty((z.size, x.size, 3))
    found[..., 0], found[..., 1], found[..., 2] = x, y, ((z[0] + z[-1]) / 2 - z)[:, None]
    return found


def _number(header: Header, key: str) -> int:
    return header.get("scanner", [key], count)


def _length(header: Header, key: str) -> float:
    return 10 * header.get("scanner", [f"{key} (cm)"], positive)
