"""Entries that SPECT, PET and image headers share, read and written: axes, radionuclide, energy window, data file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from emrecon.projectors import isotope
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.physics.nuclides import ELEMENTS

from .header import Header, count, number, numbers, short, text

_DATA_SUFFIXES = {".hs": ".s", ".hv": ".v", ".h33": ".i33", ".h00": ".a00"}
_NO_NUCLIDE = ("", "unknown", "none", "n/a", "?")
_NUMBER_FORMATS = {"f": "float", "u": "unsigned integer", "i": "signed integer"}


def axes_of(header: Header, usual: tuple[str, ...], labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return what runs along the file's axes [1] (fastest), [2], [3], according to the labels, or as usual."""
    labelled = {}
    for index in range(1, 8):
        label = header.plain(f"matrix axis label [{index}]")
        if label and (label not in labels or index > len(usual)):
            raise FormatError(
                f"{header.path}: matrix axis label [{index}] is {short(label)}; expected one of {', '.join(labels)}"
            )
        if label:
            labelled[index] = labels[label]
    rest = [axis for axis in usual if axis not in labelled.values()]
    axes = tuple(labelled.get(index) or rest.pop(0) for index in range(1, len(usual) + 1) if rest or index in labelled)
    if sorted(axes) != sorted(usual):
        raise FormatError(
            f"{header.path}: two matrix axis labels are the same, {tuple(labelled.values())}; edited by hand?"
        )
    return axes


def radionuclide_of(header: Header) -> str | None:
    """Return the radionuclide such as "Tc-99m", None where the header names none.

    Raises FormatError for a name that the library does not know, as its photons would be those of another.
    """
    if "radionuclide" in header.overrides:
        return header.get("radionuclide", [], text, None)
    keys = (
        "isotope name",
        "isotope name [1]",
        "radionuclide",
        "radionuclide name",
        "radionuclide name [1]",
        "#radionuclide",
    )
    name = next((header.plain(key) for key in keys if header.plain(key)), "")
    if name in _NO_NUCLIDE:
        return None
    try:
        return isotope(name).name
    except ValueError:
        raise FormatError(
            f"{header.path}: the radionuclide {short(name)} is not one that the library knows "
            '(emrecon.projectors.isotopes()); pass radionuclide="Tc-99m" (or the like) or None'
        ) from None


def energy_window_of(header: Header) -> tuple[float, float] | None:
    """Return (lower, upper) keV of the window that is read, None where the header does not say."""
    if "energy_window" in header.overrides:
        return header.get("energy_window", [], _limits, None)
    index = f" [{header.get('window', [], count, 1)}]"
    edges = []
    for level in ("energy window lower level", "energy window upper level"):
        keys = [level + index, level] if index == " [1]" else [level + index]
        edges.append(header.get("energy_window", keys, number, None))
    low, high = edges
    if low is None or high is None or high <= 0:
        return None
    if low >= high:
        raise FormatError(
            f"{header.path}: energy window {low:g} to {high:g} keV is empty; pass energy_window=(low, high) or None"
        )
    return low, high


def _limits(value: object) -> tuple[float, float]:
    limits = numbers(value)
    if limits.size != 2:
        raise ValueError("expected (lower, upper) in keV")
    return float(limits[0]), float(limits[1])


def writable(values: np.ndarray) -> np.ndarray:
    """Return the values in a number format that STIR knows: integers of up to 4 bytes, floats of 4 or 8."""
    if values.dtype.kind not in "buif":
        raise ValueError(f"Interfile holds real numbers, got {values.dtype}")
    if values.dtype.kind == "f":
        return values.astype(f"<f{4 if values.dtype.itemsize <= 4 else 8}")
    if values.dtype.itemsize <= 4:
        return values.astype(f"<{'i' if values.dtype.kind == 'i' else 'u'}{values.dtype.itemsize}")
    for dtype in ("<i4", "<u4"):
        if values.min() >= np.iinfo(dtype).min and values.max() <= np.iinfo(dtype).max:
            return values.astype(dtype)
    raise ValueError(f"Interfile: whole numbers up to {values.max()} do not fit 4 bytes; convert them to float64 first")


def format_lines(dtype: np.dtype) -> list[str]:
    """Return the lines of the number format of `writable` values."""
    return [
        f"!number format := {_NUMBER_FORMATS[dtype.kind]}",
        f"!number of bytes per pixel := {dtype.itemsize}",
    ]


def first_lines(header_path: Path, kind: str, dtype: np.dtype) -> list[str]:
    return [
        "!INTERFILE :=",
        f"!imaging modality := {'PT' if kind == 'PET' else 'nucmed'}",
        "!version of keys := 3.3",
        f"name of data file := {data_path_of(header_path).name}",
        "!GENERAL DATA :=",
        "!GENERAL IMAGE DATA :=",
        f"!type of data := {kind}",
        "imagedata byte order := LITTLEENDIAN",
        *format_lines(dtype),
    ]


def axis_lines(labels: tuple[str, ...], sizes: tuple[int, ...], spacings: tuple[float, ...]) -> list[str]:
    lines = [f"number of dimensions := {len(labels)}"]
    for index, (label, size, spacing) in enumerate(zip(labels, sizes, spacings), 1):
        lines += [f"matrix axis label [{index}] := {label}", f"!matrix size [{index}] := {size}"]
        lines += [f"scaling factor (mm/pixel) [{index}] := {float(spacing)!r}"]
    return lines


def window_lines(window: tuple[float, float] | None) -> list[str]:
    """Return the lines of an energy window (lower, upper) in keV, none for None."""
    if window is None:
        return []
    edges = zip(("lower", "upper"), window)
    return [
        "number of energy windows := 1",
        *(f"energy window {name} level [1] := {float(edge)!r}" for name, edge in edges),
    ]


def data_path_of(header_path: Path) -> Path:
    """Return the path of the data beside a header; ValueError for a name that a header cannot have."""
    suffix = _DATA_SUFFIXES.get(header_path.suffix.lower())
    if suffix is None:
        raise ValueError(f"{header_path}: an Interfile header ends in one of {', '.join(_DATA_SUFFIXES)}")
    if re.search(r"[\x00-\x1f;{}]", header_path.name):
        raise ValueError(
            f"{header_path.name!r}: the name of an Interfile file must not have control characters, `;` or braces"
        )
    return header_path.with_suffix(suffix)


def one_line(description: str) -> str:
    """Return a text as a header can hold it: one line without `;`, which begins a comment."""
    return " ".join(description.replace(";", ",").split())


def stir_name(radionuclide: str) -> str:
    """Return a radionuclide as STIR writes it: "^99m^Technetium" for "Tc-99m"."""
    symbol, mass = radionuclide.split("-")
    name = next((name.capitalize() for name, own in ELEMENTS.items() if own == symbol), symbol)
    return f"^{mass}^{name}"


def write_pair(
    header_path: str | os.PathLike[str], lines: Iterable[str], blocks: Iterable[np.ndarray], overwrite: bool
) -> None:
    """Write a header of these lines (empty ones are left out) and, one after the other, the blocks of its data."""
    content = "\n".join([*filter(None, lines), "!END OF INTERFILE :=", ""])
    data_path = data_path_of(Path(header_path))
    # the inner file is moved first: a header never stands without its data
    with atomic_path(header_path, overwrite) as header, atomic_path(data_path, overwrite) as data:
        header.write_text(content, encoding="utf-8")
        with data.open("wb") as stream:
            for block in blocks:
                stream.write(np.ascontiguousarray(block).data)  # ndarray.tofile says nothing of the reason of a failure
