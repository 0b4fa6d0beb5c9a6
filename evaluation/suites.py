"""The suites by name; each is loaded when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec

from .suite import Suite

_MODULES = {
    "quick": "quick",
    "spect": "families",
    "pet": "families",
    "learned": "learned.suite",
    "direct": "direct.suite",
    "enhance": "enhancement.suite",
    "detect": "detection.suite",
    "standards": "standards.suite",
    "speed": "speed",
}
_ATTRIBUTES = {"spect": "SPECT", "pet": "PET"}


class _Suites(Mapping[str, Suite]):
    """The suites that this installation has."""

    def __getitem__(self, name: str) -> Suite:
        if name not in _there():
            raise KeyError(name)
        found: Suite = getattr(importlib.import_module(_module(name)), _ATTRIBUTES.get(name, "SUITE"))
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_there())

    def __len__(self) -> int:
        return len(_there())

    def __repr__(self) -> str:
        return f"SUITES({', '.join(self)})"


SUITES: Mapping[str, Suite] = _Suites()
"""Name -> suite, those whose module is there."""


def _module(name: str) -> str:
    return f"emrecon.evaluation.{_MODULES[name]}"


@cache
def _there() -> tuple[str, ...]:
    return tuple(name for name in _MODULES if _exists(_module(name)))


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
