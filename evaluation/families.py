"""The suites `spect` and `pet`: all methods without training on all tasks of a kind, at settings chosen alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from .classical import CLASSICAL, DEEP_PRIORS, method_named
from .comparison import Comparison, methods_wanted, units
from .comparison_sections import READING, comparison_sections
from .methods import Method
from .own import own_methods
from .sections import Section, Text
from .suite import Options, Results, Suite, Unit
from .tasks import TASKS, Task, task_named
from .trained import PAINTED, SHIPPED, shipped_method

_SMALL_VOXELS = 20_000  # of an image; larger ones are 3-D and slow


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
    """Return the methods that a task allows: without a guide, those that need none; no deep image priors of volumes."""
    names = [*CLASSICAL, *(DEEP_PRIORS if is_small(task) else ())]
    methods = [*map(method_named, names), PAINTED]
    if task.name in ("brain-pet", "brain-spect"):
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
        found = Comparison(task, tuple(methods), 3, 8, 8, 8, 1)
    else:
        found = Comparison(task, tuple(methods), 12, 30, 20, 12, 10)
    most = {"n_validation": task.size("validation"), "n_test": task.size("test")}
    return replace(found, **{name: min(getattr(found, name), n) for name, n in most.items()})


def _units(kind: str, options: Options) -> list[Unit]:
    return [unit for comparison in comparisons(kind, options) for unit in units(comparison)]


def _sections(kind: str, results: Results, options: Options) -> list[Section]:
    found = [one for comparison in comparisons(kind, options) for one in comparison_sections(results, comparison)]
    left_out = [f"{task.title}: {why}" for task in _tasks(kind, options) if (why := _missing(task)) is not None]
    told = [Text("Tasks that are left out", left_out)] if left_out else []
    return [*found, Section("Reading", [READING, *told])]


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
