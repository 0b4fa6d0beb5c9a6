"""Recipes as TOML: typed, with unknown keys refused, and every error naming its line."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from emrecon.projectors.core.errors import FormatError


class Table(BaseModel):
    """A table of a recipe: frozen, of exact types, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Table)


class RecipeError(FormatError):
    """A recipe cannot be used; the message names the line, the key and the reason."""


def decode(text: str, kind: type[T], name: str) -> T:
    """Return the typed contents of a recipe.

    Args:
        text : TOML.
        kind : a `Table`.
        name : of the file, for messages.

    Raises RecipeError for what is not TOML, unknown keys, missing ones, wrong types and numbers out of range: all of
    them, a line each.
    """
    try:
        # by way of JSON, whose arrays may become tuples in strict mode
        return kind.model_validate_json(json.dumps(tomllib.loads(text), default=str))
    except ValidationError as error:
        said = [_said(name, text, _keys(e["loc"]), _plain(e)) for e in _of_its_type(error.errors())]
        raise RecipeError("\n".join(dict.fromkeys(said))) from None
    except RecursionError:
        raise RecipeError(f"{name}: not a recipe: its tables or arrays are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and whole numbers of thousands of digits
        raise RecipeError(f"{name}: not TOML: {error}") from None


def _of_its_type(errors: list[ErrorDetails]) -> list[ErrorDetails]:
    """Of a value that may be of several types, the errors of the type that it has, if it has one."""
    typed = {tuple(_keys(e["loc"])) for e in errors if not e["type"].endswith("_type")}
    return [e for e in errors if not e["type"].endswith("_type") or tuple(_keys(e["loc"])) not in typed]


def _keys(location: Sequence[int | str]) -> list[str]:
    """The keys of a place, without the numbers of items and without the alternatives of a type."""
    return [
        key for key in location if isinstance(key, str) and re.fullmatch(r"(?!constrained-|float$|int$)[\w-]+", key)
    ]


def _plain(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "missing":
        return "missing"
    return f"{error['msg']}, got {error['input']!r}"


def complain(name: str, text: str, keys: list[str], error: Exception) -> RecipeError:
    """Return the error of a value that is well typed, but impossible; the message's own words find the key if they can.

    Args:
        keys : the table, or the key, that was used when the error was raised.
    """
    own = _keys_below(text, keys)
    named = [key for key in own if re.search(rf"\b{re.escape(key)}\b", str(error))]
    return RecipeError(_said(name, text, [*keys, *named[:1]], str(error)))


def line_of(text: str, keys: list[str]) -> int | None:
    """Return the number of the line that sets a key, such as ["spect", "views"], or of its table, counted from 1."""
    lines = _lines(text)
    found = (lines.get(tuple(keys[:length])) for length in range(len(keys), 0, -1))
    return next((number for number in found if number), None)


@lru_cache(maxsize=2)
def _lines(text: str) -> dict[tuple[str, ...], int]:
    """The line where each table or key comes first."""
    lines: dict[tuple[str, ...], int] = {}
    for number, path in _statements(text):
        lines.setdefault(tuple(path), number)
    return lines


def _said(name: str, text: str, keys: list[str], message: str) -> str:
    line = line_of(text, keys)
    where = f"{name}, line {line}" if line else name
    found = ".".join(keys)
    return f"{where}: {found}: {message}" if keys else f"{where}: {message}"


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers and key paths of tables and of keys; enough of TOML for one key on each line."""
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        # split, not matched: patterns with several runs of spaces take a time that grows with the cube of a line
        line = line.strip()
        name, equals, _ = line.partition("=")
        if line.startswith("["):
            table = _parts(line.lstrip("[").partition("]")[0])
            yield number, table
        elif equals and name.strip() and all(c.isalnum() or c in "_.-\"' \t" for c in name):
            yield number, [*table, *_parts(name)]


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _keys_below(text: str, keys: list[str]) -> list[str]:
    return [path[-1] for path in _lines(text) if path[:-1] == tuple(keys)]
