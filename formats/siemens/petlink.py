"""Siemens PETLINK list-mode: 32-bit words of prompts, delays and time tags, read in chunks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emrecon.projectors import PETScanner, PETSinogram
from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.core.memory import require_memory
from emrecon.projectors.core.progress import tracked

from ..interfile.header import Header, load_header, numbers, text, whole
from ..interfile.pet import around_patient

_CHUNK = 1 << 22  # words
_EVENT = 16  # bytes of an event that is read: two crystals and a time; twice while parts are joined
_TAG, _PROMPT, _ADDRESS = 1 << 31, 1 << 30, (1 << 30) - 1
_TIME, _KIND = 0b100 << 29, 0b111 << 29  # tags that hold milliseconds, and the bits that say so
_LEAP = 3_600_000  # ms between two tags that cannot be
_OVERRIDES = (
    "data_file",
    "data_offset",
    "scanner",
    "word_bits",
    "span",
    "max_ring_difference",
    "n_views",
    "n_projections",
    "n_rings",
    "n_tof_bins",
    "patient_orientation",
    "patient_rotation",
)
_SCANNERS = {(504, 64): "mmr"}  # by crystals per ring and rings


class Chunk(NamedTuple):
    """A part of a list-mode file.

    Args:
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

    Args:
        path : the binary file.
        offset : bytes before its first word.
        sinogram : of span 1.
        announced : how many words the header announces, None where it does not say.
        facts : "radionuclide", "half_life" (s), "dose" (Bq at injection), "start" (date and time) and "orientation" as
            the header has them, or None.
        words : the first word of a part of the file and the one behind its last; None for all, see `part`.
    """

    path: Path
    offset: int
    sinogram: PETSinogram
    announced: int | None = None
    facts: Mapping[str, object] | None = None
    words: tuple[int, int] | None = None

    @property
    def n_words(self) -> int:
        """How many whole words the file holds, or the part of it."""
        if self.words is not None:
            return self.words[1] - self.words[0]
        return max(0, (self.path.stat().st_size - self.offset) // 4)

    def part(self, k: int, n: int) -> PETLink:
        """Return the k-th of n parts of the file, of as many words each: `chunks` and `read` give its events alone.

        Times stay those of the whole file. Raises ValueError for a part that is not one of n.
        """
        if not 0 <= k < n:
            raise ValueError(f"{self.path}: there is no part {k} of {n}")
        first, size = (0, self.n_words) if self.words is None else (self.words[0], self.n_words)
        return replace(self, words=(first + size * k // n, first + size * (k + 1) // n))

    @property
    def is_complete(self) -> bool:
        """Whether the file holds as many words as its header announces, and the last one is whole."""
        size = self.path.stat().st_size - self.offset
        return size % 4 == 0 and self.announced in (None, size // 4)

    @property
    def n_chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.n_words // _CHUNK)

    def chunks(self, start: float = 0.0, stop: float = float("inf")) -> Iterator[Chunk]:
        """Yield the events from `start` to `stop` seconds after the first time tag, some million words at a time."""
        words = self._words()
        clock, zero = None, 0
        for first in range(0, len(words), _CHUNK):
            part = np.asarray(words[first : first + _CHUNK])
            if clock is None:
                zero = self.first_time()
                clock = self._time_before(zero)
            times = _clock(part, clock)
            clock = int(times[-1])
            elapsed = (times - zero) / 1000
            events = (part & _TAG == 0) & (elapsed >= start) & (elapsed < stop)
            prompt = (part & _PROMPT) != 0
            yield Chunk(
                *(self._crystals(part[events & kind] & _ADDRESS) for kind in (prompt, ~prompt)),
                *(times[events & kind] for kind in (prompt, ~prompt)),
            )

    def duration(self) -> float:
        """Return the seconds from the first time tag to the last, at a millisecond's precision."""
        clock = zero = self.first_time()
        words = self._words()
        for at in tracked(range(0, len(words), _CHUNK), f"time tags of {self.path.name}"):
            clock = int(_clock(np.asarray(words[at : at + _CHUNK]), clock)[-1])
        return (clock - zero) / 1000

    def read(self, start: float = 0.0, stop: float = float("inf")) -> Chunk:
        """Return all events from `start` to `stop` seconds at once.

        Raises MemoryError where those of the whole file do not fit in the memory that is free.
        """
        if start <= 0 and stop == float("inf"):
            advice = "read them in parts, by start and stop; pet_problem keeps them on disk with scratch, --scratch"
            require_memory(2 * _EVENT * self.n_words, f"{self.path}: {self.n_words} words of events", advice)
        parts = list(tracked(self.chunks(start, stop), f"events of {self.path.name}", self.n_chunks))
        parts = parts or [Chunk(*(np.zeros((0, 2), np.int32),) * 2, *(np.zeros(0, int),) * 2)]
        return Chunk(*(np.concatenate(columns) for columns in zip(*parts)))

    def _words(self) -> np.ndarray:
        first = 0 if self.words is None else self.words[0]
        n, at = self.n_words, self.offset + 4 * first
        return np.memmap(self.path, "<u4", "r", at, (n,)) if n else np.zeros(0, "<u4")

    def first_time(self) -> int:
        """The first time tag in ms, 0 where there is none; events before it count as at it."""
        words = replace(self, words=None)._words()
        for at in range(0, len(words), _CHUNK):
            part = np.asarray(words[at : at + _CHUNK])
            tags = part[(part & _KIND) == _TIME]
            if tags.size:
                return int(tags[0]) & ~_KIND
        return 0

    def _time_before(self, zero: int) -> int:
        """The last time tag in ms before a part of the file; `zero` where there is none."""
        if self.words is None:
            return zero
        words, last = replace(self, words=None)._words(), self.words[0]
        while last > 0:
            first = max(0, last - _CHUNK)
            part = np.asarray(words[first:last])
            tags = part[(part & _KIND) == _TIME]
            if tags.size:
                return int(tags[-1]) & ~_KIND
            last = first
        return zero

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


def read_petlink(path: str | os.PathLike[str], **overrides: object) -> PETLink:
    """Open a PETLINK list-mode file by its header (.l.hdr, or STIR's copy of it); nothing is read yet.

    Args:
        overrides : `data_file`, `data_offset` (bytes), `scanner` (a `PETScanner` or a name such as "mmr"), and for
            numbers of the header `n_rings`, `n_tof_bins`, `n_views`, `n_projections`, `max_ring_difference`, `span`,
            `word_bits`, `patient_orientation` ("head_in", "feet_in") and `patient_rotation` ("supine", "prone",
            "left", "right"), see `read_interfile_pet`.

    Words are 32 bits, little endian: bit 31 a tag, bit 30 a prompt (else a delay), the rest the address of the bin in
    a sinogram of span 1, whose planes are in the order of segments 0, -1, +1, -2, ... in the library's numbering.
    Time tags count milliseconds. A file that ends early is read as far as it goes: see `PETLink.is_complete`.

    Raises FileNotFoundError; FormatError where the header is not of 32-bit list-mode, is axially compressed, counts TOF
    bins, or its numbers do not belong to the scanner.
    """
    header = load_header(path, overrides, _OVERRIDES)
    if header.plain("data format") not in ("coincidencelist", ""):
        raise FormatError(f"{header.path}: the data format is {header.plain('data format')!r}, not a coincidence list")
    bits = header.get("word_bits", ["%lm event and tag words format (bits)"], whole, 32)
    if bits != 32:
        raise FormatError(f"{header.path}: words of {bits} bits are not supported, only those of 32")
    span = header.get("span", ["%axial compression"], whole, 1)
    if span != 1:
        raise FormatError(f"{header.path}: the addresses have span {span} instead of 1, so that crystals are not known")
    difference = header.get("max_ring_difference", ["%maximum ring difference"], whole)
    views, radial = (header.get(f"n_{name}", [f"%number of {name}"], whole) for name in ("views", "projections"))
    scanner = _scanner(header, overrides.get("scanner"), 2 * views)
    _refuse_tof(header, scanner)
    try:
        sinogram = PETSinogram(around_patient(scanner, header), difference, n_radial=radial)
    except ValueError as error:
        raise FormatError(f"{header.path}: {error}; is {scanner} the right scanner?") from error
    announced = header.get("", ["%total listmode word counts"], whole, None)
    offset = header.get("data_offset", ["data offset in bytes"], whole, 0)
    return PETLink(data_file_of(header), offset, sinogram, announced, _facts(header))


def _refuse_tof(header: Header, scanner: PETScanner) -> None:
    """The addresses of TOF scanners count TOF bins, too: without them events would come from other planes."""
    bins = header.get("n_tof_bins", ["%number of tof time bins"], whole, None)
    if bins is None and scanner.time_of_flight is not None:
        raise FormatError(
            f"{header.path}: {scanner} has time of flight, but the header does not say how many TOF bins the addresses "
            "count; pass n_tof_bins=1 if they count none"
        )
    if bins is not None and bins > 1:
        raise FormatError(
            f"{header.path}: the addresses count {bins} TOF bins, which are not supported; let STIR's lm_to_projdata "
            "make a TOF sinogram, which read_scan reads"
        )


def _scanner(header: Header, given: object, crystals: int) -> PETScanner:
    if given is not None:
        scanner = given if isinstance(given, PETScanner) else PETScanner.named(str(given))
        rings = header.get("n_rings", ["number of rings"], whole, scanner.n_rings)
        if (scanner.n_rings, scanner.n_crystals) != (rings, crystals):
            raise FormatError(f"{header.path} has {rings} rings of {crystals} crystals, but {scanner} was given")
        return scanner
    rings = header.get("n_rings", ["number of rings"], whole)
    name = _SCANNERS.get((crystals, rings))
    if name is None:
        raise FormatError(f"{header.path}: no known scanner has {rings} rings of {crystals}; pass scanner=...")
    return PETScanner.named(name)


def data_file_of(header: Header) -> Path:
    """Return the binary file of a header: the caller's, or the one the header names, beside it."""
    if header.overrides.get("data_file") is not None:
        return require_file(header.get("data_file", [], text))
    name = Path(header.get("data_file", ["name of data file"], text).replace("\\", "/")).name
    return require_file(header.path.parent / name)


def _facts(header: Header) -> dict[str, object]:
    keys = header.keys
    date, clock = keys.get("%study date (yyyy:mm:dd)"), keys.get("%study time (hh:mm:ss gmt+00:00)")
    return {
        "radionuclide": keys.get("isotope name") or None,
        "half_life": header.get("", ["isotope gamma halflife (sec)"], _number, None),
        "dose": header.get("", ["tracer activity at time of injection (bq)"], _number, None),
        "start": f"{date} {clock}" if date and clock else None,
        "orientation": keys.get("%patient orientation") or None,
    }


def _number(value: object) -> float:
    return float(numbers(value)[0])


def _clock(words: np.ndarray, before: int) -> np.ndarray:
    """The time in ms at every word, of the last tag; tags that go back or leap by hours are damaged, and ignored."""
    tags = (words & _KIND) == _TIME
    times = (words[tags] & ~np.uint32(_KIND)).astype(np.int64)
    if times.size and not _is_steady(times, before):
        kept, last = np.zeros(times.size, bool), before
        for i, time in enumerate(times.tolist()):
            kept[i] = 0 <= time - last <= _LEAP
            last = time if kept[i] else last
        tags[np.flatnonzero(tags)[~kept]] = False
        times = times[kept]
    return np.concatenate([[before], times])[np.cumsum(tags)]


def _is_steady(times: np.ndarray, before: int) -> bool:
    steps = np.diff(times, prepend=before)
    return bool((steps >= 0).all() and (steps <= _LEAP).all())


def _ring_pairs(sinogram: PETSinogram) -> np.ndarray:
    """The rings (first, second) of the planes in Siemens' order."""
    order = [0]
    for difference in range(1, sinogram.max_ring_difference + 1):
        order += [-difference, difference]
    n = sinogram.scanner.n_rings
    return np.array([(r, r + d) for d in order for r in range(max(0, -d), min(n, n - d))])


def is_petlink(path: str | os.PathLike[str]) -> bool:
    """Whether a file is the header of a PETLINK list-mode file."""
    try:
        header = load_header(path, {}, ())
    except FormatError:
        return False
    return header.plain("data format") == "coincidencelist" or "%lm event and tag words format (bits)" in header.keys
