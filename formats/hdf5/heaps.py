"""A look at the heaps of an HDF5 file before the library walks them, which a damaged one makes it do for ever."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from emrecon.projectors.core.errors import FormatError

_SIGNATURE = b"GCOL\x01"
_HEADER = struct.Struct("<4sB3xQ")  # signature, version, size of the collection
_OBJECT = struct.Struct("<HH4xQ")  # number, references, size
_SMALLEST = 4096  # of a collection
_BLOCK = 2**22


def check_heaps(path: Path) -> None:
    """Raise FormatError where a global heap, which holds texts of variable length, does not end where it should.

    The objects of a collection follow one another. HDF5 steps from each to the next by its size and has no checksum for
    them, so a size of zero is a walk without end.

    Source: HDF5 File Format Specification 3.0, III.E.
    """
    about = path.stat()
    _walk(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=256)
def _walk(path: Path, size: int, modified: int) -> None:
    """Walk all heaps; a file that was sound is not walked again until it is another one."""
    walked = 0
    with path.open("rb") as stream:
        for place in _found(stream):
            stream.seek(place)
            header = stream.read(_HEADER.size)
            if len(header) < _HEADER.size:
                continue
            extent = _HEADER.unpack(header)[2]
            if not _SMALLEST <= extent <= size - place:
                continue  # HDF5 refuses these by itself
            walked += extent
            if walked > size or not _ends(header + stream.read(extent - _HEADER.size)):
                raise FormatError(f"{path}: the heap of texts at byte {place} is damaged; is there another copy?")


def _found(stream: BinaryIO) -> Iterator[int]:
    """The places where the signature is, also those across the border of two blocks."""
    start, kept = 0, b""
    while block := stream.read(_BLOCK):
        whole, place = kept + block, -1
        after = stream.tell()
        while (place := whole.find(_SIGNATURE, place + 1)) >= 0:
            yield start + place
        stream.seek(after)
        kept = whole[1 - len(_SIGNATURE) :]
        start += len(whole) - len(kept)


def _ends(collection: bytes) -> bool:
    """Whether steps from object to object lead to the end of a collection."""
    place = _HEADER.size
    while place + _OBJECT.size <= len(collection):
        number, _, size = _OBJECT.unpack_from(collection, place)
        # number 0 is the free space, whose size counts its own header
        step = -(-size // 8) * 8 + _OBJECT.size if number else size
        if not 0 < step <= len(collection) - place:
            return False
        place += step
    return True
