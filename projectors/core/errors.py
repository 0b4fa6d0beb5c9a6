"""What every reader says about files it cannot use, and the checks they share."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

MAXIMUM_ELEMENTS = 2**30
"""The most values one array of a file may announce (4 GiB of float32): more is a damaged or hostile header."""

ALWAYS_MADE, MOST_MADE = 2**30, 1000
"""So many bytes in memory a file of any size may become, and a larger one so many times its size.

Counts of a short frame that are kept as small integers and read as floats come to several hundred times; only what is
nearly constant goes beyond.
"""


class FormatError(ValueError):
    """A file is not what its reader expects; the message names the file, the fact and the likely cause."""


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` where it is a regular file.

    Raises FileNotFoundError where there is nothing, FormatError where there is a folder, a device or an empty file.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{path} does not exist; check the spelling and the folder ({Path.cwd()} is the current one)"
        ) from error
    except (OSError, ValueError) as error:  # too long a name, a circle of links, a NUL
        raise FormatError(f"{str(path)[:200]!r} is not the name of a file that can be read ({error})") from error
    if not stat.S_ISREG(found.st_mode):
        raise FormatError(f"{path} is a folder or a device, not a file; name the file inside it?")
    if found.st_size == 0:
        raise FormatError(f"{path} is empty; was the copy or the download interrupted?")
    return path


def check_size(path: Path, shape: Sequence[int], what: str) -> None:
    """Raise FormatError where an array would be absurdly large; call it before anything is allocated."""
    n = math.prod(int(size) for size in shape)
    if n > MAXIMUM_ELEMENTS:
        sizes = " x ".join(map(str, shape))
        raise FormatError(
            f"{path}: {what} announce {sizes} = {n:.3g} values, more than {MAXIMUM_ELEMENTS}; damaged header?"
        )


def largest_made(stored: int) -> int:
    """Return the bytes in memory that so many bytes of a compressed file may become."""
    return max(ALWAYS_MADE, MOST_MADE * stored)


def require_affordable(path: Path, n_bytes: int, what: str, stored: int | None = None) -> None:
    """Raise FormatError where something compressed would become absurdly large; call it before anything is allocated.

    Args:
        stored : bytes on the disk, those of the file unless given.
    """
    stored = path.stat().st_size if stored is None else stored
    if n_bytes > largest_made(stored):
        raise FormatError(
            f"{path}: {what} announce {n_bytes / 1e9:.3g} GB, but take {stored} bytes of the file; damaged or hostile? "
            "If it is yours, store it uncompressed"
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn errors about values into FormatErrors that name the file the values came from."""
    try:
        yield
    except FormatError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"{path}: {error}") from error
