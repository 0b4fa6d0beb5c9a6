"""Methods compared on a task: settings chosen on validation scans, numbers of test scans, one unit for each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors.core.arrays import array_namespace, to_numpy
from emrecon.projectors.core.files import atomic_stream

from .machine import PeakMemory
from .methods import Method
from .records import digest_of, digest_of_arrays
from .scoring import bias_and_deviation, joined, object_of, scores
from .suite import Unit, numbers_of
from .tuning import BUDGET, tune

SHOWN = 2  # subjects in pictures
_VALIDATION, _TEST, _REALISATIONS = 500_000, 77, 900_000  # seeds of counts
SHOWN_FILE = "shown.npz"


@dataclass(frozen=True)
class Comparison:
    """A task, the methods that are compared on it, and how much of it they see.

    Args:
        n_validation : scans that choose settings; a method that is slow says less.
        n_test : scans that are scored.
        n_realisations : of the first test scan, for bias and deviation; 0 for none.
        budget : trials for the settings of each method.
        batch : scans at a time.
        another_guide : score methods with a guide with those of other subjects, too.
    """

    task: Any
    methods: tuple[Method, ...]
    n_validation: int = 12
    n_test: int = 30
    n_realisations: int = 20
    budget: int = BUDGET
    batch: int = 10
    another_guide: bool = True

    def name(self, *parts: str) -> str:
        """Return the name of a unit."""
        return "/".join((self.task.name, *parts))

    @property
    def size(self) -> dict[str, Any]:
        """What decides the numbers beside the methods."""
        names = ("n_test", "n_realisations", "batch", "another_guide")
        return {name: getattr(self, name) for name in names} | {"task": digest_of(self.task.describe())}


def units(comparison: Comparison) -> Iterator[Unit]:
    """Yield the units of a comparison: the data, and for each method its settings and its numbers."""
    yield Unit(comparison.name("data"), partial(_data, comparison), (), comparison.size)
    for method in comparison.methods:
        needs: tuple[str, ...] = (comparison.name("data"),)
        about = {**comparison.size, "method": method.title}
        if has_choices(method):
            chooser = comparison.name(method.name, "settings")
            n = min(comparison.n_validation, method.n_validation)
            grid = {name: list(values) for name, values in method.grid.items()}
            chosen = {"n_validation": n, "budget": comparison.budget, "grid": grid, "shown": list(method.shown)}
            yield Unit(chooser, partial(_settings, comparison, method), (), {**comparison.size, **chosen})
            needs, about = (*needs, chooser), {**about, **chosen}
        yield Unit(comparison.name(method.name), partial(_numbers, comparison, method), needs, about)


def has_choices(method: Method) -> bool:
    """Whether validation scans choose something."""
    return bool(method.grid) or len(method.shown) > 1


# ---- scans -----------------------------------------------------------------------------------------------------------


def test_cases(comparison: Comparison) -> Iterator[Any]:
    """Yield the test scans in batches; their counts are the same for all methods."""
    yield from _cases(comparison, "test", comparison.n_test, _TEST)


def _cases(comparison: Comparison, part: str, n: int, seed: int) -> Iterator[Any]:
    for first in range(0, n, comparison.batch):
        which = list(range(first, min(first + comparison.batch, n)))
        yield comparison.task.cases(part, which, seed=seed + first)


def _realisations(comparison: Comparison) -> Iterator[Any]:
    for k in range(comparison.n_realisations):
        yield comparison.task.cases("test", [0], seed=_REALISATIONS + k)


def with_guide_of_another(case: Any) -> Any:
    """Return the case with each scan's guide given to the next."""
    xp = array_namespace(case.guide)
    return replace(case, guide=xp.roll(case.guide, shift=1, axis=0))


def _data(comparison: Comparison, folder: Path) -> Mapping[str, Any]:
    arrays: list[Any] = []
    counts: list[float] = []
    shown: dict[str, Any] = {}
    for case in test_cases(comparison):
        data = getattr(case.likelihood, "data", None)
        if data is not None:
            arrays.append(data)
            counts += np.asarray(to_numpy(data), float).reshape(len(data), -1).sum(1).tolist()
        arrays.append(case.truth)
        arrays += [case.guide] if case.guide is not None else []
        if not shown:
            shown = {"truth": case.truth[:SHOWN]} | ({"guide": case.guide[:SHOWN]} if case.guide is not None else {})
    keep_arrays(folder, **shown)
    return {
        "data_digest": digest_of_arrays(arrays),
        "title": comparison.task.title,
        "scans": comparison.n_test,
        "counts": float(np.mean(counts)) if counts else None,
    }


def keep_arrays(folder: Path, **arrays: Any) -> None:
    """Write arrays into a unit's folder, as float32."""
    with atomic_stream(folder / SHOWN_FILE) as stream:
        shown = {name: np.asarray(to_numpy(a), np.float32) for name, a in arrays.items()}
        np.savez_compressed(stream, **shown)  # type: ignore[arg-type]


# ---- units -----------------------------------------------------------------------------------------------------------


def _settings(comparison: Comparison, method: Method, folder: Path) -> Mapping[str, Any]:
    """Choose what makes the mean NRMSE of validation scans least."""
    n = min(comparison.n_validation, method.n_validation)
    cases = list(_cases(comparison, "validation", n, _VALIDATION))

    def evaluate(settings: dict[str, Any], shown: tuple[int, ...]) -> dict[int, float]:
        found: dict[int, list[float]] = {}
        for case in cases:
            for iteration, images in method.images(case, **settings):
                if not shown or iteration in shown:
                    errors = recon.nrmse(np.asarray(to_numpy(images), float), to_numpy(case.truth), dimensions=3)
                    found.setdefault(iteration, []).extend(np.asarray(errors).tolist())
                if shown and iteration >= shown[-1]:
                    break
        return {iteration: float(np.mean(errors)) for iteration, errors in found.items()}

    return tune(evaluate, method.grid, method.shown, budget=comparison.budget).as_dict() | {"scans": n}


def _numbers(comparison: Comparison, method: Method, folder: Path) -> Mapping[str, Any]:
    """Score a method on the test scans, at the settings of its own."""
    name = comparison.name(method.name)
    settings, iteration = {}, method.shown[0] if method.shown else None
    if has_choices(method):
        chosen = numbers_of(folder, name, f"{name}/settings")
        settings, iteration = dict(chosen["settings"]), chosen["iteration"]

    def made(case: Any) -> Any:
        return method.at(case, iteration, **settings)

    memory, parts, first, seconds = PeakMemory(), [], None, 0.0
    for case in test_cases(comparison):
        began = time.perf_counter()
        images = made(case)
        seconds += time.perf_counter() - began
        parts.append(scores(images, case))
        first = images[:SHOWN] if first is None else first
    found = joined(parts)
    keep_arrays(folder, images=first)
    numbers: dict[str, Any] = {
        "title": method.title,
        "kind": method.kind,
        "sees_guide": method.sees_guide,
        "settings": settings,
        "iteration": iteration,
        "parameters": method.parameters,
        "subjects": {name: found[name] for name in found if name not in ("lesions", "regions")},
        "regions": found["regions"],
        "lesions": found["lesions"],
        "seconds": seconds / comparison.n_test,
        "memory": memory.bytes(),
    }
    if method.sees_guide and comparison.another_guide and comparison.n_test > 1:
        others = joined([scores(made(with_guide_of_another(c)), c) for c in test_cases(comparison) if len(c.truth) > 1])
        numbers["subjects"]["nrmse, guide of another"] = others["nrmse"]
    if comparison.n_realisations > 1:
        cases = list(_realisations(comparison))
        images = np.concatenate([np.asarray(to_numpy(made(case)), float) for case in cases])
        truth, inside = to_numpy(cases[0].truth)[0], object_of(cases[0])[0]
        numbers["realisations"] = bias_and_deviation(images, truth, inside)
    return numbers


def methods_wanted(methods: Sequence[Method], wanted: Sequence[str], own: Sequence[Method]) -> tuple[Method, ...]:
    """Return the methods of a suite that the user wants, all where none is named, and those of the user's own.

    Raises ValueError for a name that the suite does not have.
    """
    from .own import is_own

    named = [name for name in wanted if not is_own(name)]
    known = {method.name: method for method in methods}
    for name in named:
        if name not in known:
            raise ValueError(f"unknown method '{name}'; choose from {', '.join(known)}")
    return (*(known[name] for name in (named or known)), *own)
