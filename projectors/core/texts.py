"""Texts and JSON from files: of a sensible size, in UTF-8, and whatever is wrong said with the name of the file."""

from __future__ import annotations

import json
import os
from typing import Any

from .errors import FormatError, require_file

LARGEST_TEXT = 2**24
"""Bytes of a text that is read as a whole; what is longer is another kind of file."""


def read_text(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> str:
    """Return the text of a file in UTF-8, without a byte order mark.

    Raises FileNotFoundError; FormatError naming the file where it is a folder or a device, empty, longer than `largest`
    bytes, or not UTF-8.
    """
    path = require_file(path)
    with path.open("rb") as stream:
        data = stream.read(largest + 1)
    if len(data) > largest:
        raise FormatError(
            f"{path} has more than {largest} bytes, too many for what it should be; another kind of file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8 ({error}); another kind of file, or damaged?") from error


def read_json(path: str | os.PathLike[str], what: str, largest: int = LARGEST_TEXT) -> Any:
    """Return the content of a JSON file.

    Args:
        what : the file should be, for messages, such as "the log of a training".

    Raises as `read_text` does, and FormatError for what is not JSON or nested too deeply.
    """
    try:
        return json.loads(read_text(path, largest))
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not {what}: it is not JSON ({error}); damaged or edited by hand?") from error
