"""The suite `direct`: SPECTnet, DeepPET and their relatives against OSEM and against physics inside the network."""

from __future__ import annotations

from collections.abc import Sequence

from ..sections import Section
from ..suite import Options, Results, Suite, Unit


def _units(options: Options) -> Sequence[Unit]:
    from .units import units_of

    return units_of(options)


def _sections(results: Results, options: Options) -> Sequence[Section]:
    from .sections import sections_of

    return sections_of(results, options)


SUITE = Suite(
    "direct",
    "Networks that reconstruct in one pass, trained for the same time as networks with the physics inside",
    180,
    _units,
    _sections,
    extras=("torch",),
)
