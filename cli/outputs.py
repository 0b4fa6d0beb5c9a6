"""Where results go: checked before the work begins, and told apart from troubles with the input."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from emrecon import formats


class OutputError(OSError):
    """A result could not be written."""


def check_outputs(image: Path, *others: Path | None, inputs: Sequence[Path | None] = ()) -> None:
    """Refuse outputs that cannot be written, or would replace an input or one another.

    Raises ValueError for an unknown image format, OutputError for everything else.
    """
    formats.image_kind(image)
    taken = {companion for path in inputs if path is not None for companion in _companions(path)}
    for path in (image, *others):
        if path is None:
            continue
        folder = path.absolute().parent
        if not folder.is_dir():
            raise OutputError(
                errno.ENOENT, "cannot write the file, the folder does not exist; create it first", str(path)
            )
        if not os.access(folder, os.W_OK):
            raise OutputError(errno.EACCES, "cannot write the file, no permission to write there", str(path))
        if _companions(path) & taken:
            raise OutputError(errno.EEXIST, "would replace an input or another output; choose another name", str(path))
        taken |= _companions(path)


def _companions(path: Path) -> set[Path]:
    """The file itself and, for a header with a data file beside it, everything of the same name."""
    path = path.resolve()
    if path.suffix in (".h5", ".hdf5", ".npz", ".csv", ".json", ".png", ".nii", ".gz", ".toml"):
        return {path}
    return {path, *(path.with_suffix(suffix) for suffix in (".s", ".v", ".a00", ".i33", ".hs", ".hv", ".h33", ".h00"))}


@contextmanager
def writing() -> Iterator[None]:
    """Turn any OSError of the body into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error
