"""What CuPy has, read from names.json: functions and their parameters, ufuncs, the attributes of classes."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

LISTED: dict[str, Any] = json.loads(Path(__file__).with_name("names.json").read_text())
VERSION: str = LISTED["version"]


@cache
def signature_of(words: str) -> inspect.Signature:
    """The signature that `list_names.parameters` wrote down."""
    kinds, kind = inspect.Parameter, inspect.Parameter.POSITIONAL_OR_KEYWORD
    found: list[inspect.Parameter] = []
    for word in words.split():
        if word in ("*", "/"):
            kind = kinds.KEYWORD_ONLY if word == "*" else kind
        elif word.startswith("**"):
            found.append(kinds(word[2:], kinds.VAR_KEYWORD))
        elif word.startswith("*"):
            found.append(kinds(word[1:], kinds.VAR_POSITIONAL))
            kind = kinds.KEYWORD_ONLY
        else:
            default = None if word.endswith("=") else kinds.empty
            found.append(kinds(word.rstrip("="), kind, default=default))
    return inspect.Signature(_with_defaults_last(found))


def _with_defaults_last(found: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Python allows no parameter without a default after one with: those get one, as their names count only."""
    optional = False
    for i, one in enumerate(found):
        if one.kind is one.POSITIONAL_OR_KEYWORD:
            optional = optional or one.default is not one.empty
            if optional:
                found[i] = one.replace(default=None)
    return found


def check_call(name: str, words: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError for arguments that CuPy's function does not take."""
    if words is None:
        return
    try:
        signature_of(words).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}() of CuPy {VERSION}: {error}; it takes ({words})") from None
