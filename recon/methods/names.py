"""Names that people write: without regard to case and hyphens, and with the nearest known one where none is meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..problem.problem import ArgumentError


def matching(name: str, known: Iterable[str], argument: str, *, shown: str | None = None) -> str:
    """Return the known name that is meant: case does not matter, nor do hyphens, underscores and blanks.

    Args:
        argument : what the name is for, such as "method".
        shown : what to choose from, in words (default: all names).

    Raises ArgumentError, with the nearest known name where one is near: "unknown method 'oesm'; did you mean 'osem'?
    choose from osem, map-em, ...".
    """
    known = tuple(known)
    plain = {_plain(one): one for one in known}
    if _plain(name) in plain:
        return plain[_plain(name)]
    near = difflib.get_close_matches(_plain(name), plain, 1)
    hint = f" did you mean {plain[near[0]]!r}?" if near else ""
    raise ArgumentError(argument, f"unknown {argument} {name!r};{hint} choose from {shown or ', '.join(known)}")


def either(names: Iterable[str]) -> str:
    """Return several names as a choice: "a, b or c"."""
    *first, last = names
    return " or ".join(part for part in (", ".join(first), last) if part)


def _plain(name: str) -> str:
    return name.strip().lower().translate(str.maketrans("", "", "-_ "))
