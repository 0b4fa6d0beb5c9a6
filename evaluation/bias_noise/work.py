"""The units of work: one for each method on a task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..methods import Method
from ..suite import Options, Unit, numbers_of
from .measuring import Curve, contrast_by_size, curve_of, point_responses
from .repeating import repeated

LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Counts over the task's, along which a curve is traced."""

_ITERATIONS = 10
_REALISATIONS = {"quick": 20, "full": 40}


def unit_name(task: Any, method: Method) -> str:
    """Return the name of the unit of a method on a task."""
    return f"{task.name}/bias-noise/{method.name}"


def units(
    task: Any,
    methods: Sequence[Method],
    options: Options,
    *,
    chosen: Mapping[str, Mapping[str, Any]] | None = None,
    chosen_by: Callable[[Method], str | None] | None = None,
    about: Mapping[str, Any] | None = None,
    which: int = 0,
) -> list[Unit]:
    """Return a unit for each method on a task: curves, point responses, and contrast by size.

    Args:
        task : a `Task` of sinograms or projections.
        options : of the size "quick" 20 realisations are drawn, of "full" 40.
        chosen : method -> settings and, under "iteration", when to stop, such as validation found them (default: the
            middle of each grid, and the last of `shown`).
        chosen_by : method -> the unit that finds its "settings" and "iteration" and is done before; None for a method
            that has nothing to choose.
        about : what else decides the numbers, such as how many scans chose the settings; another value runs anew.
        which : the number of the object in the task's test part.
    """

    def one(method: Method) -> Unit:
        given = dict((chosen or {}).get(method.name, {}))
        unit = _unit(task, method, options, given, chosen_by(method) if chosen_by else None, which)
        return replace(unit, arguments={**unit.arguments, **(about or {})})

    return [one(method) for method in methods]


def _unit(task: Any, method: Method, options: Options, given: dict[str, Any], chooser: str | None, which: int) -> Unit:
    iteration, name = given.pop("iteration", None), unit_name(task, method)
    settings = {setting: values[len(values) // 2] for setting, values in method.grid.items()} | given
    n = _REALISATIONS[options.size]

    def run(folder: Path) -> Mapping[str, Any]:
        if chooser is None:
            return _measured(task, method, settings, iteration, which, n)
        found = numbers_of(folder, name, chooser)
        return _measured(task, method, settings | found["settings"], found["iteration"], which, n)

    about = {"settings": _plain(settings), "iteration": iteration, "which": which, "n": n, "levels": list(LEVELS)}
    return Unit(name, run, () if chooser is None else (chooser,), about)


def _measured(
    task: Any, method: Method, settings: dict[str, Any], iteration: int | None, which: int, n: int
) -> dict[str, Any]:
    case = repeated(task, which, n)
    last = iteration if iteration is not None else (max(method.shown) if method.shown else None)
    curves = [curve_of("iterations", _iterations(method, case, settings, last), case)]
    if last is None:
        last = int(curves[0].points[-1].at) if len(curves[0].points) == _ITERATIONS else None
    for name, values in method.grid.items():
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            shown = ((v, method.at(case, last, **{**settings, name: v})) for v in sorted(values))
            curves.append(curve_of(name, shown, case))
    curves.append(_by_counts(task, method, settings, last, which, n))
    return {
        "title": method.title,
        "n_realisations": n,
        "settings": _plain(settings),
        "iteration": last,
        "curves": {c.along: [point.as_numbers() for point in c.points] for c in curves},
        "responses": point_responses(method, case, settings, last),
        "spheres": contrast_by_size(method, case, settings, last, n=max(5, n // 4)),
        "cold_spheres": contrast_by_size(method, case, settings, last, n=max(5, n // 4), contrast=-1.0),
    }


def _iterations(
    method: Method, case: Any, settings: Mapping[str, Any], last: int | None
) -> Iterator[tuple[float, Any]]:
    for iteration, images in method.images(case, **settings):
        yield iteration, images
        if iteration >= (last if last is not None else _ITERATIONS):
            return


def _by_counts(task: Any, method: Method, settings: Mapping[str, Any], last: int | None, which: int, n: int) -> Curve:
    points: list[Any] = []
    for level in LEVELS:
        case = repeated(task, which, n, level=level)
        points += curve_of("counts", [(level, method.at(case, last, **settings))], case).points
    return Curve("counts", tuple(points))


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (int, float, str, bool)) else str(value) for name, value in settings.items()
    }
