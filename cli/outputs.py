"""Where results go: checked before the work begins, and told apart from troubles with the input."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emrecon import formats


class OutputError(OSError):
    """A result could not be written."""


def check_outputs(image: Path, *others: Path | None) -> None:
    """Raise ValueError for an unknown image format, OutputError for a folder that is missing or cannot be written."""
    formats.image_kind(image)
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


@contextmanager
def writing() -> Iterator[None]:
    """Turn any OSError of the body into an OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror or str(error), error.filename) from error
