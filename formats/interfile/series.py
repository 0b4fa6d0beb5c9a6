"""Dynamic and gated scans in Interfile: SPECT projections, and PET sinograms of several time frames."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np

from emrecon.projectors.core.arrays import Array
from emrecon.projectors.core.errors import FormatError, naming
from emrecon.projectors.scan.dynamic import DynamicScan, GatedScan

from .entries import energy_window_of, radionuclide_of
from .header import Header, load_header
from .parts import frames_of, parts_of
from .pet import SINOGRAM_OVERRIDES, is_sinogram, read_interfile_pet
from .spect import SCAN_OVERRIDES, Projections, description_of, read_projections

_ABOUT_PARTS = ("frames", "background", "factors")


def read_interfile_dynamic(header_path: str | os.PathLike[str], **overrides: object) -> DynamicScan:
    """Return the time frames of an Interfile file of SPECT projections or PET sinograms as a `DynamicScan`.

    Args:
        overrides : those of `read_interfile` or `read_interfile_pet`, and frames, a `Frames` or a protocol such as
            "10x10,300", where the header does not give `image duration (sec)[i]` and `image relative start time
            (sec)[i]` (without any start the frames follow each other).

    Raises as those readers do, and FormatError for a gated file.
    """
    if is_sinogram(load_header(header_path, {}, ())):
        return _dynamic_pet(header_path, overrides)
    found = read_projections(load_header(header_path, overrides, SCAN_OVERRIDES))
    _require(found.header, found.parts.kind, "frame")
    with naming(found.header.path):
        return DynamicScan(found.counts, found.geometry, frames_of(found.header, found.parts.n), **_fields(found))


def read_interfile_gated(header_path: str | os.PathLike[str], **overrides: object) -> GatedScan:
    """Return the gates of an Interfile file of SPECT projections as a `GatedScan`.

    Args:
        overrides : those of `read_interfile`; gate_seconds, how long each gate was measured in a view, where the header
            gives neither `image duration (sec)[i]` nor `time per projection (sec)`, which the gates share equally.

    Raises as `read_interfile` does, and FormatError for a file without gates.
    """
    found = read_projections(load_header(header_path, overrides, SCAN_OVERRIDES))
    _require(found.header, found.parts.kind, "gate")
    with naming(found.header.path):
        seconds = found.parts.seconds(found.header)
        if seconds is None:
            raise FormatError(
                f"{found.header.path}: the header does not say how long the gates were measured in each view; pass "
                "gate_seconds=... in s"
            )
        return GatedScan(found.counts, found.geometry, seconds, **_fields(found))


def _fields(found: Projections) -> dict[str, Any]:
    header = found.header
    return {
        "background": cast("Array | float", header.overrides.get("background", 0.0)),
        "factors": cast("Array | float", header.overrides.get("factors", 1.0)),
        "radionuclide": radionuclide_of(header),
        "energy_window": energy_window_of(header),
        "description": description_of(header),
    }


def _require(header: Header, kind: str, wanted: str) -> None:
    chosen = next((name for name in ("frame", "gate") if name in header.overrides), None)
    if chosen:
        raise TypeError(f"all parts of a file are read; take one of the result, or use read_scan with {chosen}=")
    if kind != wanted:
        found = "no gates; use read_dynamic or read_scan" if wanted == "gate" else "gates, not frames; use read_gated"
        raise FormatError(f"{header.path} holds {found}")


def _dynamic_pet(header_path: str | os.PathLike[str], overrides: dict[str, object]) -> DynamicScan:
    header = load_header(header_path, overrides, (*SINOGRAM_OVERRIDES, *_ABOUT_PARTS))
    own = {name: value for name, value in overrides.items() if name not in _ABOUT_PARTS}
    with naming(header.path):
        n = parts_of(header).n
        frames = frames_of(header, n)
    read = [read_interfile_pet(header_path, **{**own, "window": i}) for i in range(1, n + 1)]
    _, sinogram, facts = read[0]
    with naming(header.path):
        return DynamicScan(
            np.stack([counts for counts, _, _ in read]),
            sinogram,
            frames,
            background=cast("Array | float", overrides.get("background", 0.0)),
            factors=cast("Array | float", overrides.get("factors", 1.0)),
            radionuclide=facts.radionuclide,
            energy_window=facts.energy_window,
            description=facts.description,
        )
