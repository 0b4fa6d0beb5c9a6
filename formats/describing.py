"""What `emrecon info` prints about files that are neither scans nor images in one file: DICOM, efficiencies, events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from emrecon.projectors import PETScanner, pet_scanners
from emrecon.projectors.core.archives import open_array, read_arrays
from emrecon.projectors.core.errors import FormatError, require_file

from .dicom.summary import describe_dicom, is_dicom
from .interfile.header import Header, load_header
from .petsird import petsird_blocks, read_petsird_header
from .records import read_record
from .siemens import read_siemens_norm

_PETSIRD = b"yardl"  # the first bytes of its binary files


def describe_other(
    path: str | os.PathLike[str], names: bool = False, overrides: Mapping[str, object] | None = None
) -> dict[str, object] | None:
    """Return what such a file or folder holds as names and plain values; None for files of other kinds.

    Args:
        names : say the patient's name, too, where DICOM holds it.
        overrides : values that replace those of the header of DICOM projections.

    Raises FileNotFoundError; FormatError (a ValueError) for damaged files; TypeError for overrides that have no use.
    """
    path = Path(path)
    if path.is_dir() or is_dicom(path):
        return describe_dicom(path, names, **(overrides or {}))
    found = _by_content(path)
    if found is not None and overrides:
        raise TypeError(f"{path} has no header whose values can be replaced, got {', '.join(overrides)}")
    return found


def _by_content(path: Path) -> dict[str, object] | None:
    if path.suffix.lower() == ".json":
        return {"format": "record of an image", **read_record(path).facts()}
    if path.suffix.lower() in (".npy", ".npz"):
        return _arrays(require_file(path))
    with require_file(path).open("rb") as stream:
        if stream.read(len(_PETSIRD)) == _PETSIRD:
            return _petsird(path)
    return None


def describe_norm(header: Header, scanner: str | PETScanner | None = None) -> dict[str, object]:
    """Return what a Siemens normalisation holds; without a scanner, of the first one that it fits."""
    names = [scanner] if scanner is not None else ["mmr", *(name for name in pet_scanners() if name != "mmr")]
    failures = []
    for name in names:
        try:
            norm = read_siemens_norm(header.path, name)
        except FormatError as error:
            failures.append(error)
            continue
        parts = {f.name: getattr(norm, f.name) for f in fields(norm) if f.name != "scanner"}
        shown = {name.replace("_", " "): _range(values) for name, values in parts.items() if values is not None}
        return {"format": "Siemens normalisation", "holds": "efficiencies", "scanner": str(norm.scanner), **shown}
    raise failures[0]


def is_norm(path: str | os.PathLike[str]) -> Header | None:
    """Return the header of a Siemens normalisation; None for another one."""
    header = load_header(path, {}, ())
    return header if "normalization" in header.plain("pet data type") else None


def _arrays(path: Path) -> dict[str, object]:
    """An array of events, or the arrays of a checkpoint or another archive."""
    if path.suffix.lower() != ".npy":
        return {"format": "NumPy archive", **{name: _in_archive(values) for name, values in read_arrays(path).items()}}
    return _events(open_array(path))


def _events(values: np.ndarray) -> dict[str, object]:
    shown = f"{' x '.join(map(str, values.shape))} {values.dtype}"
    if values.ndim != 2 or values.shape[1] not in (2, 3) or values.dtype.kind not in "iu" or not len(values):
        return {"format": "NumPy array", "holds": "an array", "values": shown}
    facts = {
        "format": "NumPy array",
        "holds": "events" if values.shape[1] == 2 else "events with TOF bins",
        "values": shown,
        "crystals": f"{values[:, :2].min()} to {values[:, :2].max()}",
        "TOF bins": f"{values[:, 2].min()} to {values[:, 2].max()}" if values.shape[1] == 3 else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _in_archive(values: np.ndarray) -> object:
    return str(values) if values.ndim == 0 else f"{' x '.join(map(str, values.shape))} {values.dtype}"


def _petsird(path: Path) -> dict[str, object]:
    header = read_petsird_header(path)
    blocks = [(block.start, block.stop, len(block.events)) for block in petsird_blocks(path)]
    facts = {
        "format": "PETSIRD",
        "holds": "events",
        "scanner": str(header.scanner),
        "TOF bins": None if header.tof is None else header.tof.n_bins,
        "efficiencies": "yes" if header.efficiencies is not None else "no",
        "time blocks": len(blocks),
        "seconds": float(sum(stop - start for start, stop, _ in blocks)),
        "prompts": sum(n for *_, n in blocks),
    }
    return {name: value for name, value in facts.items() if value is not None}


def _range(values: np.ndarray) -> str:
    return f"{' x '.join(map(str, values.shape))}, {values.min():.4g} to {values.max():.4g}"
