"""The suite `quick`: a few methods on few brains, PET and SPECT, in minutes; to see that everything works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .classical import method_named
from .comparison import Comparison, methods_wanted, units
from .comparison_sections import READING, comparison_sections
from .methods import Method
from .own import own_methods
from .sections import Section, Text
from .suite import Options, Results, Suite, Unit
from .tasks import task_named
from .trained import PAINTED, shipped_method

TASKS = ("brain-pet", "brain-spect")
SIZES = {"quick": (3, 8, 2, 4, 8), "full": (12, 30, 20, 12, 10)}
"""Validation scans, test scans, realisations, trials, scans at a time."""
_CLASSICAL = ("osem", "osem-gaussian", "map-rdp", "map-bowsher", "kem")
_SHORTER: dict[str, dict[str, Any]] = {
    "osem": {"shown": (1, 2, 3, 4, 6, 8)},
    "osem-gaussian": {"shown": (4, 8, 12, 16), "grid": {"fwhm": (2.0, 3.0, 4.0)}},
    "map-rdp": {"shown": (12,), "grid": {"beta": (0.00125, 0.0025, 0.005)}},
    "map-bowsher": {"shown": (12,), "grid": {"beta": (0.004, 0.008, 0.016), "n_chosen": (3,)}},
    "kem": {"shown": (10, 15, 20, 25), "grid": {"n_neighbours": (24, 48, 80)}},
}
_ABOUT = Text(
    "What this is",
    [
        "A small run: few subjects, few trials, one trained network of those that come with the library, and controls "
        "that need no training: the guide painted with mean activities, and every guided method with the guide of "
        "another subject. It shows that all works; conclusions need the suites spect, pet and learned.",
    ],
)


def comparisons(options: Options) -> list[Comparison]:
    """Return the two comparisons; full size has more subjects and trials."""
    own = own_methods(options.methods)
    found = []
    for name in TASKS:
        task = task_named(name, options.work)
        classical = [_shorter(method_named(name), options) for name in _CLASSICAL]
        methods = [*classical, shipped_method("fbsem-net", task.modality), PAINTED]
        wanted = methods_wanted(methods, options.methods, own)
        found.append(Comparison(task, wanted, *SIZES[options.size]))
    return found


def _shorter(method: Method, options: Options) -> Method:
    """The method with fewer iterations and values, in quick size."""
    return replace(method, **_SHORTER.get(method.name, {})) if options.size == "quick" else method


def _units(options: Options) -> list[Unit]:
    return [unit for comparison in comparisons(options) for unit in units(comparison)]


def _sections(results: Results, options: Options) -> list[Section]:
    shown = [one for comparison in comparisons(options) for one in comparison_sections(results, comparison)]
    return [*shown, Section("Reading", [_ABOUT, READING])]


SUITE = Suite(
    "quick",
    "A quick look: classical methods and a trained network on simulated brains, PET and SPECT",
    4.0,
    _units,
    _sections,
    ("torch", "safetensors"),
    "quick",
)
