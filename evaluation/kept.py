"""Arrays that are made once and kept in a file, and made again where the file cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from emrecon.projectors.core.files import atomic_stream


def kept(path: Path | None, make: Callable[[], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays of a file .npz, or make them and keep them there, with the folders on the way.

    A file appears whole or not at all, so that processes may share it. One that is damaged is replaced.

    Args:
        path : None keeps nothing.
    """
    found = None if path is None else _read(path)
    if found is not None:
        return found
    made = dict(make())
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_stream(path) as stream:
            np.savez(stream, **made)  # type: ignore[arg-type]
    return made


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, None where it is not there or damaged."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, BadZipFile):
        return None
