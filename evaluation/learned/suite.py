"""The suite `learned`: networks, the controls of their guide, and classical methods, by equal budgets."""

from __future__ import annotations

from collections.abc import Sequence

from ..sections import Section
from ..suite import Options, Results, Suite, Unit


def _units(options: Options) -> Sequence[Unit]:
    from .units import units

    return units(options)


def _sections(results: Results, options: Options) -> Sequence[Section]:
    from .sections import sections

    return sections(results, options)


SUITE = Suite(
    "learned",
    "Learned reconstruction of brains with a guide that cannot give the answer away, against classical methods",
    300.0,
    _units,
    _sections,
    ("torch", "safetensors"),
)
"""About five core-hours in full size, most of them trainings."""
