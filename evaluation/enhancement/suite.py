"""The suite `enhance`: networks of images by topic, each a file with its units and its sections."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ..sections import Section, Text
from ..suite import MissingUnitError, Options, Results, Suite, Unit

TOPICS = (
    "bone",
    "lesions",
    "adversarial",
    "clean",
    "federated",
    "attenuation",
    "scatter",
    "scatter_spect",
    "dose",
)
"""The topics in the order of the report: files beside this one with `units(options)` and `sections(results, options)`.

Names of a topic's units begin with its own and a slash; samples are kept in the folder that `images.folder_for` gives.
"""


def _topic(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")


def _units(options: Options) -> Sequence[Unit]:
    return [unit for name in TOPICS for unit in _topic(name).units(options)]


def _sections(results: Results, options: Options) -> Sequence[Section]:
    found: list[Section] = []
    for name in TOPICS:
        try:
            found.extend(_topic(name).sections(results, options))
        except MissingUnitError as error:  # the other topics are shown all the same
            found.append(Section(name.capitalize(), (Text("Not complete", (f"This part is left out: {error}.",)),)))
    return found


SUITE = Suite(
    "enhance",
    "Networks that make better images of images: lesions, noise, detection, maps, scatter and dose",
    120,
    _units,
    _sections,
    extras=("torch",),
)
