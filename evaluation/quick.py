"""The suite `quick`: a few methods on few brains, PET and SPECT, in minutes; to see that everything works."""

from __future__ import annotations

from .classical import method_named
from .comparison import Comparison, methods_wanted, units
from .comparison_sections import READING, comparison_sections
from .own import own_methods
from .sections import Section, Text
from .suite import Options, Results, Suite, Unit
from .tasks import task_named
from .trained import PAINTED, shipped_method

TASKS = ("brain-pet", "brain-spect")
_CLASSICAL = ("osem", "osem-gaussian", "map-rdp", "map-bowsher", "kem")
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
        methods = [*map(method_named, _CLASSICAL), shipped_method("fbsem-net", task.modality), PAINTED]
        wanted = methods_wanted(methods, options.methods, own)
        sizes = (4, 12, 4, 4, 12) if options.size == "quick" else (12, 30, 20, 12, 10)
        found.append(Comparison(task, wanted, *sizes))
    return found


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
