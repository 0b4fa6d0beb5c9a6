"""The units of work: one for each method on a task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..methods import Method
from ..suite import Options, Unit
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
    which: int = 0,
) -> list[Unit]:
    """Return a unit for each method on a task: curves, point responses, and contrast by size.

    Args:
        task : a `Task` of sinograms or projections.
        options : of the size "quick" 20 realisations are drawn, of "full" 40.
        chosen : method -> settings and, under "iteration", when to stop, such as validation found them (default: the
            middle of each grid, and the last of `shown`).
        which : the number of the object in the task's test part.
    """
    return [_unit(task, method, options, dict((chosen or {}).get(method.name, {})), which) for method in methods]


def _unit(task: Any, method: Method, options: Options, chosen: dict[str, Any], which: int) -> Unit:
    iteration = chosen.pop("iteration", None)
    settings = {name: values[len(values) // 2] for name, values in method.grid.items()} | chosen
    n = _REALISATIONS[options.size]

    def run(folder: Path) -> Mapping[str, Any]:
        return _measured(task, method, settings, iteration, which, n)

    about = {"settings": _plain(settings), "iteration": iteration, "which": which, "n": n, "levels": list(LEVELS)}
    return Unit(unit_name(task, method), run, arguments=about)


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
