"""Crystals of scanners made of flat blocks, from the numbers of an Interfile header or from a list of places.

STIR counts rings along its own z, crystals from the front of the patient towards the left; ring 0 of the library has
the highest z, so that z is turned round.
"""

from __future__ import annotations

import math
from pathlib import Path, PureWindowsPath

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

    A line has ring, crystal, [layer,] x, y, z in mm, apart by tabs or commas; lines of `#` are comments. Rings and
    crystals keep the file's numbers, which those of the sinogram's bins are (as in STIR 6; earlier ones sorted them).

    Raises FormatError where the list does not hold all crystals of equal rings, each once.
    """
    path = _map_path(header)
    if path.stat().st_size > _LARGEST_MAP:
        raise FormatError(f"{path} has {path.stat().st_size} bytes, too many for a list of crystals")
    lines = path.read_text("utf-8", "replace").splitlines()
    rows = [line.replace(",", "\t").split("\t") for line in lines if line.strip() and not line.startswith("#")]
    if any(len(row) not in (5, 6) or len(row) != len(rows[0]) for row in rows):
        raise FormatError(f"{path}: lines of crystals must be ring, crystal, [layer,] x, y, z")
    try:
        table = np.array(rows, float)
    except ValueError as error:
        raise FormatError(f"{path}: a line of crystals holds no number ({short(str(error))})") from error
    if table.shape[0] != rings * crystals or not np.isfinite(table).all():
        raise FormatError(f"{path}: {len(rows)} lines of crystals, but the header has {rings} rings of {crystals}")
    if table.shape[1] == 6 and np.ptp(table[:, 2]):
        raise FormatError(f"{path}: crystals are in several layers, and a PETSinogram has one")
    order = np.lexsort((table[:, 1], table[:, 0]))
    every = np.stack(np.divmod(np.arange(rings * crystals), crystals), 1)
    if not np.array_equal(table[order, :2], every):
        raise FormatError(f"{path}: the lines of crystals must number {rings} rings and {crystals} crystals once each")
    places = table[order, -3:].reshape(rings, crystals, 3)
    z = places[..., 2]
    return np.concatenate([places[..., :2], ((z.max() + z.min()) / 2 - z)[..., None]], -1)


def _map_path(header: Header) -> Path:
    """The crystal map: the caller's, or the one that the header names, beside it."""
    if header.overrides.get("crystal_map") is not None:
        return require_file(header.get("crystal_map", [], text))
    name = header.get("crystal_map", ["name of crystal map"], text).strip("\"' ")
    parts = PureWindowsPath(name).parts
    if ".." in parts or "\0" in name or not parts:
        raise FormatError(f"{header.path}: the crystal map {short(name)} is outside the header's folder")
    return require_file(header.path.parent / parts[-1])


def _stacked(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Rings of the same crystals at heights z, in the middle and with ring 0 at the top."""
    found = np.empty((z.size, x.size, 3))
    found[..., 0], found[..., 1], found[..., 2] = x, y, ((z[0] + z[-1]) / 2 - z)[:, None]
    return found


def _number(header: Header, key: str) -> int:
    return header.get("scanner", [key], count)


def _length(header: Header, key: str) -> float:
    return 10 * header.get("scanner", [f"{key} (cm)"], positive)
