"""Options of `emrecon reconstruct` from a file and to a file: TOML with a table for each panel of the help."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

from emrecon import __version__
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_text
from emrecon.recon import ArgumentError
from emrecon.recon.methods import matching
from emrecon.sims.recipes import RecipeError, decode
from emrecon.sims.recipes.recipe_file import line_of

from .settings import Panel, Settings

Value = str | int | float | bool | list[str]

PANELS: dict[str, type[Panel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Panel)
}
"""The tables of a file."""


def read_config(path: Path) -> dict[str, Value]:
    """Return the options that a file sets, by the names of the command's arguments.

    Raises OSError where there is no such file, RecipeError that names the file and the line for what is not TOML,
    unknown tables and keys (with the nearest known one), wrong types and numbers out of range.
    """
    text = read_text(path)
    unknown = list(_unknown(text, str(path)))
    if unknown:
        raise RecipeError("\n".join(unknown))
    settings = decode(text, Settings, str(path))
    tables = [getattr(settings, name) for name in PANELS]
    return {key: _plain(getattr(table, key)) for table in tables for key in table.model_fields_set}


def config_text(settings: Settings) -> str:
    """Return the file that repeats a run: every option that is set."""
    lines = [f"# emrecon reconstruct --config FILE (emrecon {__version__})"]
    for name in PANELS:
        own = {key: value for key, value in getattr(settings, name) if is_set(value, PANELS[name], key)}
        if own:
            lines += ["", f"[{name}]", *(f"{key.replace('_', '-')} = {_toml(value)}" for key, value in own.items())]
    return "\n".join(lines) + "\n"


def write_config(path: Path, settings: Settings) -> None:
    """Write the file that repeats a run, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(config_text(settings), "utf-8")


def _unknown(text: str, name: str) -> Iterator[str]:
    """Yield what is wrong with the tables and keys, one line each."""
    try:
        found = tomllib.loads(text)
    except ValueError:
        return  # what is wrong is said by `decode`
    for table, values in found.items():
        if table not in PANELS:
            yield f"{name}, line {line_of(text, [table])}: {_misplaced(table)}"
        elif isinstance(values, dict):
            known = _keys(PANELS[table])
            for key in values:
                if key not in known and key.replace("-", "_") not in PANELS[table].model_fields:
                    yield f"{name}, line {line_of(text, [table, key])}: {table}.{key}: {_misplaced(key, table)}"


def _misplaced(key: str, table: str | None = None) -> str:
    """What to say about a key that does not belong where it stands."""
    for other, panel in PANELS.items():
        if other != table and key.replace("_", "-") in _keys(panel):
            return f"{key} belongs into the table [{other}]"
    known = PANELS if table is None else _keys(PANELS[table])
    try:
        matching(key, known, "table" if table is None else "key")
    except ArgumentError as error:
        return error.message
    return f"unknown key {key!r}; choose from {', '.join(known)}"


def _keys(panel: type[Panel]) -> list[str]:
    return [name.replace("_", "-") for name in panel.model_fields]


def is_set(value: object, panel: type[Panel], name: str) -> bool:
    """Whether an option says anything: 0 does, and False where that is not the default."""
    return not (value is None or value == () or (value is False and panel.model_fields[name].default is False))


def _plain(value: object) -> Value:
    """A value as the command line has it: paths as text, several as a list."""
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, (str, int, float)) else str(value)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(part) for part in value)}]"
    if isinstance(value, (bool, int)):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    # JSON's strings are TOML's, but for one character
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
