"""Counts of what crosses between host and device, and of what waits for the device."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Counts:
    """Copies to the device and to the host, their bytes, waits, launches by kernel, and where copies and waits were."""

    to_device: int = 0
    to_host: int = 0
    bytes_to_device: int = 0
    bytes_to_host: int = 0
    waits: int = 0
    launches: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)

    @property
    def crossings(self) -> int:
        """Copies and waits together: what stops a queue of launches."""
        return self.to_device + self.to_host + self.waits

    def __str__(self) -> str:
        return f"{self.to_device} copies to the device, {self.to_host} to the host, {self.waits} waits:\n" + "\n".join(
            self.places
        )


_open: list[Counts] = []


def note(*, to_device: int | None = None, to_host: int | None = None, wait: bool = False) -> None:
    """Count a copy of so many bytes, or a wait."""
    if not _open:
        return
    frames = [f for f in traceback.extract_stack(limit=30) if "/tests/emulated_cupy/" not in f.filename]
    place = " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[:-5:-1])
    for counts in _open:
        if to_device is not None:
            counts.to_device += 1
            counts.bytes_to_device += to_device
        if to_host is not None:
            counts.to_host += 1
            counts.bytes_to_host += to_host
        if wait:
            counts.waits += 1
        counts.places.append(place)


def note_launch(kernel: str) -> None:
    """Count a launch."""
    for counts in _open:
        counts.launches[kernel] += 1


@contextmanager
def counting() -> Iterator[Counts]:
    """Yield the counts of what happens inside."""
    counts = Counts()
    _open.append(counts)
    try:
        yield counts
    finally:
        _open.remove(counts)
