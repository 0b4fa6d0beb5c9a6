"""Siemens PETLINK list-mode: 32-bit words of prompts, delays and time tags, read in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from emrecon.projectors import PETScanner, PETSinogram

from ._errors import FormatError, require_file
from ._interfile_header import Header, load_header, numbers, text, whole

_CHUNK = 1 << 22  # words
_TAG, _PROMPT, _ADDRESS = 1 << 31, 1 << 30, (1 << 30) - 1
_TIME, _KIND = 0b100 << 29, 0b111 << 29  # tags that hold milliseconds, and the bits that say so
_OVERRIDES = ("data_file", "data_offset", "scanner")
_SCANNERS = {(504, 64): "mmr"}  # by crystals per ring and rings


class Chunk(NamedTuple):
    """A part of a list-mode file.

    prompts, delays : (n, 2) int32 crystal numbers of the scanner.
    prompt_times, delay_times : (n,) ms since the file's clock began, int64.
    """

    prompts: np.ndarray
    delays: np.ndarray
    prompt_times: np.ndarray
    delay_times: np.ndarray


@dataclass(frozen=True, eq=False)
class PETLink:
    """A list-mode file: its scanner, the sinogram its addresses count in, and its events in chunks.

    path : the binary file.  sinogram : span 1.  announced : words the header announces, None where it does not.
    radionuclide, half_life (s), dose (Bq at injection), start (date and time) : as the header has them, or None.
    """

    path: Path
    offset: int
    sinogram: PETSinogram
    announced: int | None = None
    facts: Mapping[str, Any] | None = None

    @property
    def n_words(self) -> int:
        """The whole words in the file; a last incomplete one does not count."""
        return max(0, (self.path.stat().st_size - self.offset) // 4)

    @property
    def is_complete(self) -> bool:
        """Whether the file holds the words that its header announces, and no half of a word."""
        size = self.path.stat().st_size - self.offset
        return size % 4 == 0 and self.announced in (None, size // 4)

    def chunks(self, start: float = 0.0, stop: float = float("inf")) -> Iterator[Chunk]:
        """Yield the events from `start` to `stop` seconds after the first time tag, some million words at a time."""
        words = np.memmap(self.path, "<u4", "r", self.offset, (self.n_words,)) if self.n_words else np.zeros(0, "<u4")
        clock, zero = 0, None
        for first in range(0, len(words), _CHUNK):
            part = np.asarray(words[first : first + _CHUNK])
            tags = (part & _KIND) == _TIME
            times = np.where(tags, (part & ~np.uint32(_KIND)).astype(np.int64), -1)
            times = np.maximum.accumulate(np.concatenate([[clock], times]))[1:]
            if zero is None and tags.any():
                zero = int(times[tags.argmax()])
            clock = int(times[-1])
            elapsed = (times - (zero or 0)) / 1000
            events = (part & _TAG == 0) & (elapsed >= start) & (elapsed < stop)
            prompt = (part & _PROMPT) != 0
            yield Chunk(
                *(self._crystals(part[events & kind] & _ADDRESS) for kind in (prompt, ~prompt)),
                *(times[events & kind] for kind in (prompt, ~prompt)),
            )

    def duration(self) -> float:
        """Return the seconds from the first time tag to the last, at a millisecond's precision."""
        first, last = None, None
        words = np.memmap(self.path, "<u4", "r", self.offset, (self.n_words,)) if self.n_words else np.zeros(0, "<u4")
        for at in range(0, len(words), _CHUNK):
            part = np.asarray(words[at : at + _CHUNK])
            times = (part[(part & _KIND) == _TIME] & ~np.uint32(_KIND)).astype(np.int64)
            if times.size:
                first, last = (int(times[0]) if first is None else first), int(times[-1])
        return 0.0 if first is None or last is None else (last - first) / 1000

    def read(self, start: float = 0.0, stop: float = float("inf")) -> Chunk:
        """Return all events from `start` to `stop` seconds at once."""
        parts = list(self.chunks(start, stop)) or [Chunk(*(np.zeros((0, 2), np.int32),) * 2, *(np.zeros(0, int),) * 2)]
        return Chunk(*(np.concatenate(columns) for columns in zip(*parts)))

    def _crystals(self, addresses: np.ndarray) -> np.ndarray:
        """The crystal numbers of bin addresses, ((plane * views) + view) * radial bins + bin."""
        sinogram = self.sinogram
        rest, radial = np.divmod(addresses.astype(np.int64), sinogram.n_radial)
        plane, view = np.divmod(rest, sinogram.n_views)
        rings = _ring_pairs(sinogram)
        if plane.size and plane.max() >= len(rings):
            bad = int((plane >= len(rings)).sum())
            raise FormatError(
                f"{self.path}: {bad} events have addresses beyond the last of {len(rings)} planes; not this scanner, "
                "another word format, or a wrong data offset?"
            )
        numbers = sinogram.crystal_pairs[view, 0, radial] + rings[plane] * sinogram.scanner.n_crystals
        return numbers.astype(np.int32)


def read_petlink(path: str | os.PathLike[str], **overrides: Any) -> PETLink:
    """Open a PETLINK list-mode file by its header (.l.hdr, or STIR's copy of it); nothing is read yet.

    overrides : `data_file`, `data_offset` (bytes), `scanner` (a `PETScanner` or a name such as "mmr").
    Words are 32 bits, little endian: bit 31 a tag, bit 30 a prompt (else a delay), the rest the address of the bin in
    a sinogram of span 1, whose planes are in the order of segments 0, -1, +1, -2, ... in the library's numbering.
    Time tags count milliseconds. A file that ends early is read as far as it goes: see `PETLink.is_complete`.
    Raises FileNotFoundError; FormatError where the header is not of 32-bit list-mode, is axially compressed, or its
    numbers do not belong to the scanner.
    """
    header = load_header(path, overrides, _OVERRIDES)
    if header.plain("data format") not in ("coincidencelist", ""):
        raise FormatError(f"{header.path}: the data format is {header.plain('data format')!r}, not a coincidence list")
    bits = header.get("", ["%lm event and tag words format (bits)"], whole, 32)
    if bits != 32:
        raise FormatError(f"{header.path}: words of {bits} bits are not read, only those of 32")
    span = header.get("", ["%axial compression"], whole, 1)
    if span != 1:
        raise FormatError(f"{header.path}: addresses are compressed axially ({span}); crystals cannot be told apart")
    difference = header.get("", ["%maximum ring difference"], whole)
    views, radial = (header.get("", [f"%number of {name}"], whole) for name in ("views", "projections"))
    scanner = _scanner(header, overrides.get("scanner"), 2 * views)
    try:
        sinogram = PETSinogram(scanner, difference, n_radial=radial)
    except ValueError as error:
        raise FormatError(f"{header.path}: {error}; is {scanner} the right scanner?") from error
    announced = header.get("", ["%total listmode word counts"], whole, None)
    offset = header.get("data_offset", ["data offset in bytes"], whole, 0)
    return PETLink(_data_file(header), offset, sinogram, announced, _facts(header))


def _scanner(header: Header, given: Any, crystals: int) -> PETScanner:
    if isinstance(given, PETScanner):
        return given
    if given is not None:
        return PETScanner.named(str(given))
    rings = header.get("", ["number of rings"], whole)
    name = _SCANNERS.get((crystals, rings))
    if name is None:
        raise FormatError(f"{header.path}: no known scanner has {rings} rings of {crystals}; give it as scanner=...")
    return PETScanner.named(name)


def _data_file(header: Header) -> Path:
    if header.overrides.get("data_file") is not None:
        return require_file(header.overrides["data_file"])
    name = Path(header.get("data_file", ["name of data file"], text).replace("\\", "/")).name
    return require_file(header.path.parent / name)


def _facts(header: Header) -> dict[str, Any]:
    keys = header.keys
    date, clock = keys.get("%study date (yyyy:mm:dd)"), keys.get("%study time (hh:mm:ss gmt+00:00)")
    return {
        "radionuclide": keys.get("isotope name") or None,
        "half_life": header.get("", ["isotope gamma halflife (sec)"], _number, None),
        "dose": header.get("", ["tracer activity at time of injection (bq)"], _number, None),
        "start": f"{date} {clock}" if date and clock else None,
        "orientation": keys.get("%patient orientation") or None,
    }


def _number(value: Any) -> float:
    return float(numbers(value)[0])


def _ring_pairs(sinogram: PETSinogram) -> np.ndarray:
    """The rings (first, second) of the planes in Siemens' order."""
    order = [0]
    for difference in range(1, sinogram.max_ring_difference + 1):
        order += [-difference, difference]
    n = sinogram.scanner.n_rings
    return np.array([(r, r + d) for d in order for r in range(max(0, -d), min(n, n - d))])


def is_petlink(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the header of a PETLINK list-mode file."""
    with require_file(path).open("rb") as stream:
        start = stream.read(8192).lower()
    return b"coincidencelist" in start or b"petlink" in start
