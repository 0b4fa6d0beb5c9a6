"""Interfile headers: keys and values, overrides, and the binary file they describe."""

from __future__ import annotations

import difflib
import math
import os
import re
import reprlib
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TypeVar, overload

import numpy as np

from emrecon.projectors.core.errors import FormatError, require_file

_LARGEST_HEADER = 2**20
_BLOCK = 2048
_CHUNK = 2**24
_LONGEST_NAME = 200
_REQUIRED = object()
_FORMATS: dict[str, tuple[str, tuple[int, ...], int | None]] = {
    "unsigned integer": ("u", (1, 2, 4, 8), None),
    "signed integer": ("i", (1, 2, 4, 8), None),
    "float": ("f", (4, 8), None),
    "short float": ("f", (4,), 4),
    "long float": ("f", (8,), 8),
}
_ORDERS = {"littleendian": "<", "bigendian": ">", "little": "<", "big": ">"}
_MULTIPLES = ("number of energy windows", "number of time frames", "number of detector heads", "number of time slots")
DATA_OVERRIDES = ("byte_order", "number_format", "bytes_per_pixel", "data_offset", "data_file", "scale", "window")

Value = str | tuple[str, ...]
Entry = tuple[str, Value]
T = TypeVar("T")
D = TypeVar("D")


def parse_header(text: str) -> dict[str, str | tuple[str, ...]]:
    """Return the keys and values of an Interfile header.

    Keys are in lower case with single spaces, without the leading `!`, indices as in `matrix size [1]`. Values are
    text, or tuples of text for lists `{a, b}` (which may run over several lines). Lines that start with `;` are
    comments, as is what follows ` ;`; SIMIND's commented keys such as `;#Radius := 15.000` are kept as `#radius`.
    A repeated key counts as given last (of SPECT, readers give each detector head its own); a line without a key says
    nothing, and nothing is read after END OF INTERFILE.

    Raises FormatError where the text has no line `INTERFILE :=`.
    """
    return dict(parse_entries(text))


def parse_entries(text: str) -> tuple[Entry, ...]:
    """Return the keys and values as `parse_header` does, in the order of the lines, repeated keys included."""
    entries: list[Entry] = []
    lines = iter(text.lstrip("\ufeff").splitlines())
    for line in lines:
        key, value = _split(line)
        if not key:
            continue
        entries.append((key, split_list(_until_brace(value, lines)) if value.startswith("{") else value))
        if key == "end of interfile":
            break
    if "interfile" not in dict(entries):
        raise FormatError("no line `!INTERFILE :=`; not an Interfile header?")
    return tuple(entries)


def _until_brace(value: str, lines: Iterator[str]) -> str:
    parts = [value]
    while "}" not in parts[-1] and (more := next(lines, None)) is not None:
        parts.append(more)
    return " ".join(parts)


def split_list(value: str) -> tuple[str, ...]:
    """Return the entries of `{a, b}`, or of `a, b`."""
    inside = value.strip().removeprefix("{").partition("}")[0]
    return tuple(entry.strip() for entry in inside.split(",") if entry.strip())


def _split(line: str) -> tuple[str | None, str]:
    line = line.strip()
    commented = re.match(r";\s*#", line)
    if line.startswith(";") and not commented:
        return None, ""
    name, equals, value = line.partition(":=")
    if not equals:
        return None, ""
    name = "#" + name[commented.end() :] if commented else name.lstrip("! \t")
    return _normal(name), re.split(r"\s;", value, maxsplit=1)[0].strip()


def _normal(name: str) -> str:
    name = " ".join(name.lower().replace("_", " ").split())
    name = re.sub(r"^#\s*!?\s*", "#", name)
    return re.sub(r"\s*\[\s*(\d+)\s*\]", r" [\1]", name)


def number(value: object) -> float:
    """Return a finite number; reads Fortran's `+2.000000+00` and `1.5D+02`."""
    if isinstance(value, str):
        text = value.strip().upper().replace("D", "E")
        text = re.sub(r"^([+-]?[\d.]+)([+-]\d+)$", r"\1E\2", text)
        if not re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)(E[+-]?\d+)?", text):
            raise ValueError("expected a number")
        result = float(text)
    elif isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        result = float(value)
    else:
        raise ValueError("expected a number")
    if not np.isfinite(result):
        raise ValueError("expected a finite number")
    return result


def positive(value: object) -> float:
    """Return a number above zero."""
    result = number(value)
    if result <= 0:
        raise ValueError("expected a number above zero")
    return result


def whole(value: object) -> int:
    """Return a whole number that is not negative."""
    result = number(value)
    if result < 0 or result != int(result):
        raise ValueError("expected a whole number that is not negative")
    return int(result)


def count(value: object) -> int:
    """Return a whole number above zero."""
    return whole(positive(value))


def numbers(value: object) -> np.ndarray:
    """Return one number or a list of numbers (`a, b` without braces is a list, too) as a vector."""
    entries = split_list(value) if isinstance(value, str) else np.ravel(np.asarray(value, object))
    if len(entries) == 0:
        raise ValueError("expected a number or a list of numbers")
    return np.array([number(entry) for entry in entries])


def short(value: object) -> str:
    """Return a value as an error message shows it: hostile headers have long ones."""
    limits = reprlib.Repr()
    limits.maxstring = 60
    return limits.repr(value)


def text(value: object) -> str:
    """Return text; lists are refused."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError("expected text")
    return os.fspath(value)


def one_of(choices: Mapping[str, T]) -> Callable[[object], T]:
    """Return a converter from the names of `choices`, in any case and spacing, to their values."""

    def convert(value: object) -> T:
        name = " ".join(text(value).lower().split())
        if name not in choices:
            raise ValueError(f"expected one of: {', '.join(choices)}")
        return choices[name]

    return convert


@dataclass(frozen=True)
class Header:
    """The keys of a header file, and the values a caller gave instead of them."""

    path: Path
    keys: Mapping[str, Value]
    overrides: Mapping[str, object]
    entries: tuple[Entry, ...] = ()

    @overload
    def get(self, override: str, keys: Sequence[str], convert: Callable[[object], T]) -> T: ...
    @overload
    def get(self, override: str, keys: Sequence[str], convert: Callable[[object], T], default: D) -> T | D: ...
    def get(
        self, override: str, keys: Sequence[str], convert: Callable[[object], object], default: object = _REQUIRED
    ) -> object:
        """Return the override, or the first of `keys` that has a value, converted; else the default.

        An override of None means "unknown" where the default is None, and "not given" elsewhere.

        Raises FormatError where a value cannot be converted, or is missing and has no default.
        """
        if override in self.overrides and (self.overrides[override] is not None or default is None):
            source, value = f"{override}=", self.overrides[override]
        else:
            source = next((key for key in keys if self.keys.get(key)), "")
            value = self.keys[source] if source else None
        if value is None and default is not _REQUIRED:
            return default
        if value is None:
            advice = f"; pass its value as {override}=..." if override else ""
            raise FormatError(f"{self.path}: the key `{keys[0]}` is missing{advice}")
        try:
            return convert(value)
        except (ValueError, TypeError, OverflowError) as error:
            advice = "" if source.endswith("=") or not override else f"; pass the right value as {override}=..."
            raise FormatError(f"{self.path}: {source or keys[0]} is {short(value)}, {error}{advice}") from error

    def as_written(self) -> Header:
        """Return the header without the values that the caller gave."""
        return replace(self, overrides={})

    def every(self, key: str) -> tuple[Value, ...]:
        """Return all values of a repeated key, in the order of the lines."""
        return tuple(value for name, value in self.entries if name == key and value)

    def place(self, key: str) -> int:
        """Return which line a key is on among all, the last where it is missing."""
        return next((i for i, (name, _) in enumerate(self.entries) if name == key), len(self.entries))

    def plain(self, key: str) -> str:
        """Return the value of a key in lower case, or "" where it is missing."""
        value = self.keys.get(key, "")
        return value.lower() if isinstance(value, str) else ""


def load_header(path: str | os.PathLike[str], overrides: Mapping[str, object], known: Collection[str]) -> Header:
    """Read a header file; TypeError for overrides that do not exist, FormatError where it is not Interfile."""
    for name in overrides:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}=?" if close else f"choose from {', '.join(known)}"
            raise TypeError(f"reading Interfile takes no argument {name}=; {hint}")
    path = require_file(path)
    with path.open("rb") as stream:
        raw = stream.read(_LARGEST_HEADER)
    try:
        content = raw.decode("utf-8")
    except UnicodeDecodeError:
        content = raw.decode("latin-1")
    try:
        entries = parse_entries(content)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    header = Header(path, dict(entries), overrides, entries)
    if header.keys.get("%data set [1]") and "name of data file" not in header.keys:
        named = next((name for name in header.keys["%data set [1]"] if "." in name), "")
        raise FormatError(
            f"{path} is a main header, which has no data; open the header of one of its data sets, {short(named)}"
        )
    return header


def read_values(header: Header, shape: tuple[int, ...], what: str, skip: int | None = None) -> np.ndarray:
    """Return the values of the binary file in the order of `shape` (slowest axis first), scaled as the header says.

    Args:
        what : "projections", "images" or "sinograms", for the advice where the file holds several of them.
        skip : how many values come before, where blocks of a file have different sizes; more may follow.

    The file must hold exactly what the header announces: checked before anything is read. Values that need neither
    another byte order nor a factor stay in the file until they are used (memory-mapped, read-only).
    """
    dtype = _dtype(header)
    path = _data_path(header)
    n = math.prod(shape)
    # the size of the file is the limit: whatever a header announces must be there
    before = None if skip is None else skip * dtype.itemsize
    offset = _block_offset(header, path, n * dtype.itemsize, what, before)
    values = np.memmap(path, dtype, "r", offset, (n,))
    bad = _not_finite(values) if dtype.kind == "f" else 0
    if bad:
        raise FormatError(f"{path}: {bad} values are NaN or infinite; wrong byte order, number format or data offset?")
    return _scaled(header, values.astype(dtype.newbyteorder("="), copy=False)).reshape(shape)


def _not_finite(values: np.ndarray) -> int:
    """How many values are NaN or infinite, looked at in parts: clinical TOF sinograms have some 10^9."""
    parts = (values[first : first + _CHUNK] for first in range(0, values.size, _CHUNK))
    return sum(int((~np.isfinite(part)).sum()) for part in parts)


def _dtype(header: Header) -> np.dtype:
    # Interfile 3.3 and STIR agree on both defaults: unsigned integer, big endian
    kind, sizes, usual = header.get("number_format", ["number format"], one_of(_FORMATS), _FORMATS["unsigned integer"])
    given = "bytes_per_pixel", ["number of bytes per pixel"], count
    size = header.get(*given) if usual is None else header.get(*given, usual)
    if size not in sizes:
        name = header.overrides.get("number_format") or header.keys.get("number format", "unsigned integer")
        raise FormatError(
            f"{header.path}: number format {name!r} cannot have {size} bytes per pixel; choose from {sizes}"
        )
    order = header.get("byte_order", ["imagedata byte order", "image data byte order"], one_of(_ORDERS), None)
    if order is None and size > 1:
        warnings.warn(
            f"{header.path} has no key `imagedata byte order`; the values are taken as big endian, as the standard "
            "says; pass byte_order= if they come out absurd",
            stacklevel=5,
        )
    order = order or ">"
    return np.dtype(f"{order}{kind}{size}")


def _data_path(header: Header) -> Path:
    if header.overrides.get("data_file") is not None:
        return require_file(header.get("data_file", [], text))
    name = header.get("data_file", ["name of data file"], text).strip("\"' ")
    parts = PureWindowsPath(name).parts
    if max(map(len, parts), default=0) > _LONGEST_NAME:
        raise FormatError(f"{header.path}: the name of the data file has {len(name)} letters; damaged header?")
    if ".." in parts or "\0" in name:
        raise FormatError(f"{header.path}: the data file {name!r} is outside the header's folder; pass data_file=...")
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive:
        parts = parts[-1:]  # from another computer: only ever look beside the header
    candidate = header.path.parent.joinpath(*parts)
    found = candidate if candidate.is_file() else _other_case(candidate)
    if found is None:
        raise FileNotFoundError(f"{header.path}: the data file {name!r} is not at {candidate}; pass data_file=...")
    return require_file(found)


def _other_case(path: Path) -> Path | None:
    """The only file whose name differs by case alone: SIMIND's files come from file systems that ignore case."""
    if not path.parent.is_dir():
        return None
    found = [other for other in path.parent.iterdir() if other.name.lower() == path.name.lower() and other.is_file()]
    return found[0] if len(found) == 1 else None


def _block_offset(header: Header, path: Path, size: int, what: str, before: int | None) -> int:
    """Where the wanted block of `size` bytes starts; FormatError unless the file holds just what is announced."""
    offset, window = _offset(header), header.get("window", [], count, None)
    listed = header.get("data_offset", [f"data offset in bytes [{window}]"], whole, None) if window else None
    if before is not None or listed is not None:
        offset = listed if listed is not None else offset + (before or 0)
        if path.stat().st_size - offset < size:
            raise _truncated(path, offset, size)
        return offset
    available = path.stat().st_size - offset
    blocks, rest = divmod(available, size)
    if available < size:
        raise _truncated(path, offset, size)
    if window is not None:
        if rest or window > blocks:
            raise FormatError(f"{path} holds {available / size:g} blocks of {size} bytes; there is no window={window}")
        return offset + (window - 1) * size
    if available > size:
        raise FormatError(f"{path}: {_too_long(header, available, size, what)}")
    return offset


def _truncated(path: Path, offset: int, size: int) -> FormatError:
    return FormatError(
        f"{path}: {max(path.stat().st_size - offset, 0)} bytes follow offset {offset}, but the header announces "
        f"{size}; is the file truncated, or a matrix size, number of projections or bytes per pixel wrong?"
    )


def _too_long(header: Header, available: int, size: int, what: str) -> str:
    blocks, rest = divmod(available, size)
    if rest:
        return (
            f"{available - size} bytes more than the header announces; is the matrix size or number format wrong? "
            f"If the extra bytes come first, pass data_offset={available - size}"
        )
    several = [f"{name} := {header.keys[name]}" for name in _MULTIPLES if header.keys.get(name, "1") != "1"]
    found = f"{blocks} sets of {what}" + (f" ({', '.join(several)})" if several else "")
    types = [header.plain(f"scan data type description [{i}]") for i in range(1, blocks + 1)]
    if all(types):
        return f"{found}; choose one: {', '.join(f'window={i} ({name})' for i, name in enumerate(types, 1))}"
    windows = "number of energy windows" if what == "projections" else "number of time frames"
    if header.keys.get(windows, "1") != "1":
        return f"{found}; choose one with window=1 to {blocks}"
    if what != "projections":
        return f"{found}, but the header does not say what they are; choose one with window=1 to {blocks}"
    return (
        f"{found}, but the header does not say what they are: for heads that follow each other pass n_heads={blocks} "
        f"and start_angle=[...] of each, for energy windows window=1 to {blocks}, for more views n_views=..."
    )


def _offset(header: Header) -> int:
    keys = ["data offset in bytes", "data offset in bytes [1]"]
    offset = header.get("data_offset", keys, whole, 0)
    block = _BLOCK * header.get("data_offset", ["data starting block"], whole, 0)
    if header.overrides.get("data_offset") is not None:
        return offset
    if offset and block and offset != block:
        raise FormatError(
            f"{header.path}: data offset {offset} contradicts the data starting block; pass data_offset=..."
        )
    return offset or block


def _scaled(header: Header, values: np.ndarray) -> np.ndarray:
    """The values times their factor, plus an offset where Siemens' headers have one."""
    block = header.get("window", [], count, 1)
    keys = ["image scaling factor", f"image scaling factor [{block}]", "image scaling factor [1]"]
    # STIR had the factor under a name that others use for a unit, such as 1/cm
    keys += ["quantification units"] if _is_number(header.plain("quantification units")) else []
    keys += ["%image slope"]
    factors = header.get("scale", keys, numbers, np.ones(1))
    if np.ptp(factors) or factors[0] == 0:
        raise FormatError(f"{header.path}: the image scaling factors {factors} differ or are zero; pass scale=...")
    offset = 0.0 if "scale" in header.overrides else header.get("", ["%image intercept"], number, 0.0)
    if factors[0] == 1 and offset == 0:
        return values
    dtype = values.dtype if values.dtype.kind == "f" else np.float32 if values.dtype.itemsize <= 2 else np.float64
    return (values * factors[0] + offset).astype(dtype)


def _is_number(text: str) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True
