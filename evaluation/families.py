"""The suites `spect` and `pet`: all methods without training on all tasks of a kind, at settings chosen alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from . import bias_noise
from .classical import CLASSICAL, DEEP_PRIORS, method_named
from .comparison import Comparison, has_choices, methods_wanted, units
from .comparison_sections import READING, comparison_sections
from .methods import Method
from .own import own_methods
from .sections import Section, Text
from .suite import Options, Results, Suite, Unit
from .tasks import TASKS, Task, task_named
from .trained import PAINTED, SHIPPED, shipped_method

_SMALL_VOXELS = 20_000  # of an image; larger ones are 3-D and slow
_CURVES = ("brain-pet", "brain-spect", "torso-pet", "torso-spect")  # tasks whose bias and noise are traced
_TRACED = ("osem", "osem-gaussian", "map-rdp", "map-bowsher")


def comparisons(kind: str, options: Options) -> list[Comparison]:
    """Return the comparisons of a suite: one for each task of a kind, "spect" or "pet", whose files are installed."""
    own = own_methods(options.methods)
    tasks = [task for task in _tasks(kind, options) if _missing(task) is None]
    return [_comparison(task, methods_wanted(methods_of(task), options.methods, own), options) for task in tasks]


def _tasks(kind: str, options: Options) -> list[Task]:
    return [task_named(name, options.work) for name, task in TASKS.items() if task.modality == kind]


def _missing(task: Task) -> str | None:
    """What the task needs that is not installed, such as a measured head; None where nothing is missing."""
    digest = getattr(task.base.phantom, "digest", None)
    try:
        if digest is not None:
            digest()
    except FileNotFoundError as error:
        return str(error)
    return None


def methods_of(task: Task) -> list[Method]:
    """Return the methods that a task allows: without a guide, those that need none.

    Deep image priors, which take minutes for a scan, and networks that come with the library are for the brains.
    """
    is_brain = task.name in ("brain-pet", "brain-spect")
    methods = [*map(method_named, [*CLASSICAL, *(DEEP_PRIORS if is_brain else ())]), PAINTED]
    if is_brain:
        methods += [shipped_method(architecture, task.modality) for architecture in SHIPPED]
    return [method for method in methods if task.guides or not method.sees_guide]


def is_small(task: Task) -> bool:
    """Whether images are slices, or so few voxels that many scans can be had."""
    nx, ny, nz = task.shape
    return nx * ny * nz <= _SMALL_VOXELS


def _comparison(task: Task, methods: Sequence[Method], options: Options) -> Comparison:
    slow = not is_small(task)
    if options.size == "quick":
        found = Comparison(task, tuple(methods), 2, 3 if slow else 8, 0 if slow else 4, 4, 1 if slow else 8)
    elif slow:
        found = Comparison(task, tuple(methods), 2, 6, 4, 8, 1)
    else:
        found = Comparison(task, tuple(methods), 8, 24, 12, 8, 8)
    most = {"n_validation": task.size("validation"), "n_test": task.size("test")}
    return replace(found, **{name: min(getattr(found, name), n) for name, n in most.items()})


def _units(kind: str, options: Options) -> list[Unit]:
    found = comparisons(kind, options)
    return [unit for comparison in found for unit in (*units(comparison), *_curves(comparison, options))]


def _curves(comparison: Comparison, options: Options) -> list[Unit]:
    """Bias and noise of some methods over realisations of one scan, at the settings that the comparison chose."""
    if comparison.task.name not in _CURVES:
        return []
    traced = [method for method in comparison.methods if method.name in _TRACED]

    def chooser(method: Method) -> str | None:
        return comparison.name(method.name, "settings") if has_choices(method) else None

    about = {"n_validation": comparison.n_validation, "budget": comparison.budget}
    return bias_noise.units(comparison.task, traced, options, chosen_by=chooser, about=about)


def _sections(kind: str, results: Results, options: Options) -> list[Section]:
    found = [one for comparison in comparisons(kind, options) for one in comparison_sections(results, comparison)]
    left_out = [f"{task.title}: {why}" for task in _tasks(kind, options) if (why := _missing(task)) is not None]
    told = [Text("Tasks that are left out", left_out)] if left_out else []
    return [*found, *bias_noise.sections(results), Section("Reading", [READING, *told])]


SPECT = Suite(
    "spect",
    "SPECT: reconstruction without training, with and without a guide",
    240.0,
    partial(_units, "spect"),
    partial(_sections, "spect"),
    ("torch",),
)
PET = Suite(
    "pet",
    "PET: reconstruction without training, with and without a guide",
    240.0,
    partial(_units, "pet"),
    partial(_sections, "pet"),
    ("torch",),
)
