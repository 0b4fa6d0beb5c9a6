"""Choose the settings of methods on validation scans: the same number of trials for each, optima inside their range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]
Evaluate = Callable[[Settings, tuple[int, ...]], Mapping[int, float]]
"""(settings, iterations to look at) -> the mean error at each; less is better, and NaN is as bad as can be."""

BUDGET = 12
"""Trials of a method: runs on the validation scans with one set of settings."""
_FINEST, _LONGEST = 1.05, 4096  # ratio of neighbours that are not told apart; iterations of a run


@dataclass(frozen=True)
class Trial:
    """A run on the validation scans.

    Args:
        iteration : of the least error among those looked at.
        value : that error; infinite where the method failed.
    """

    settings: Settings
    iteration: int
    value: float


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Args:
        settings, iteration, value : of the best trial.
        trials : all of them, as they were made.
        edges : settings, "iteration" among them, whose best value is the smallest or the largest that was tried, as the
            budget was used up.
    """

    settings: Settings
    iteration: int
    value: float
    trials: tuple[Trial, ...]
    edges: tuple[str, ...]

    def __str__(self) -> str:
        said = ", ".join(f"{name} {_short(value)}" for name, value in self.settings.items())
        chosen = f"{said}, iteration {self.iteration}" if said else f"iteration {self.iteration}"
        edge = f"; at the edge of the search: {', '.join(self.edges)}" if self.edges else ""
        return f"{chosen} ({len(self.trials)} trial{'s' * (len(self.trials) > 1)}{edge})"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "settings": dict(self.settings),
            "iteration": self.iteration,
            "value": self.value,
            "edges": list(self.edges),
            "trials": [{"settings": t.settings, "iteration": t.iteration, "value": t.value} for t in self.trials],
        }


def tune(
    evaluate: Evaluate,
    grid: Mapping[str, Sequence[Any]],
    shown: Sequence[int] = (),
    *,
    budget: int = BUDGET,
) -> Tuned:
    """Return the settings of the least error, after no more than `budget` trials.

    The whole grid is tried where the budget covers it, otherwise its middle and from there what lies around the best.
    Then, for each setting that is a positive number, values beyond the grid, in the ratio of its last two, until values
    on both sides of the best have been tried. What is left of the budget goes to values between the best and its
    neighbours. A longer run is a trial, too, where the best iteration is the last of `shown`.

    Args:
        evaluate : see `Evaluate`; it may return fewer iterations than it was asked for, where the method ends.
        grid : the values of each setting. Texts and truth values are tried as they are; 0 is an end of its own; a
            setting with one value is fixed.
        shown : iterations to look at; empty: all that the method yields.

    Raises ValueError for a budget below 1, a setting without values, and where every trial failed.
    """
    if budget < 1:
        raise ValueError(f"the budget must be 1 trial or more, got {budget}")
    for name, values in grid.items():
        if not values:
            raise ValueError(f"the setting '{name}' has no values")
    search = _Search(evaluate, {name: _in_order(values) for name, values in grid.items()}, tuple(sorted(shown)), budget)
    for settings in search.beginning():
        search.attempt(settings)
    while search.left:
        missing = search.missing()
        following = missing[0][1] if missing else search.finer()
        if following is None:
            break
        search.follow(following)
    best = search.best
    if not math.isfinite(best.value):
        raise ValueError(f"all {len(search.trials)} trials failed{search.why}")
    edges = tuple(dict.fromkeys(name for name, _ in search.missing()))
    return Tuned(best.settings, best.iteration, best.value, tuple(search.trials), edges)


Step = tuple[Settings, tuple[int, ...]]


class _Search:
    """The trials so far, and what to try next."""

    def __init__(self, evaluate: Evaluate, grid: dict[str, list[Any]], shown: tuple[int, ...], budget: int) -> None:
        self.evaluate, self.grid, self.shown, self.left = evaluate, grid, shown, budget
        self.trials: list[Trial] = []
        self.why = ""
        self._last: dict[int, int] = {}  # of a trial, the last iteration that it gave

    @property
    def best(self) -> Trial:
        return min(self.trials, key=lambda trial: trial.value)

    def beginning(self) -> Iterator[Settings]:
        """The whole grid, or its middle where the budget does not cover it."""
        if math.prod(len(values) for values in self.grid.values()) > self.left:
            yield {name: values[len(values) // 2] for name, values in self.grid.items()}
            return
        combinations: list[Settings] = [{}]
        for name, values in self.grid.items():
            combinations = [{**one, name: value} for one in combinations for value in values]
        yield from combinations

    def attempt(self, settings: Settings) -> None:
        self.left -= 1
        try:
            found = {n: float(value) for n, value in self.evaluate(settings, self.shown).items()}
        except (ArithmeticError, ValueError) as error:
            found, self.why = {}, f": {error}"
        usable = {n: value for n, value in found.items() if math.isfinite(value)}
        iteration = min(usable, key=lambda n: usable[n]) if usable else 0
        self._last[len(self.trials)] = max(found, default=0)
        self.trials.append(Trial(settings, iteration, usable.get(iteration, math.inf)))

    def follow(self, step: Step) -> None:
        settings, self.shown = step
        self.attempt(settings)

    def missing(self) -> list[tuple[str, Step]]:
        """What lies beside the best and has not been tried: (setting, how to try it)."""
        best, found = self.best, []
        if not math.isfinite(best.value):
            return []
        for name, values in self.grid.items():
            if len(values) == 1:
                continue
            if not _is_number(best.settings[name]):
                untried = [v for v in values if not self._tried({**best.settings, name: v})]
                found += [(name, ({**best.settings, name: v}, self.shown)) for v in untried]
                continue
            along = self._along(name)
            for beyond in (_below, _above):
                value = beyond(best.settings[name], along, values)
                if value is not None:
                    found.append((name, ({**best.settings, name: value}, self.shown)))
        longer = self._longer()
        if longer is not None:
            found.append(("iteration", (best.settings, longer)))
        return found

    def finer(self) -> Step | None:
        """A value between the best and a neighbour, the one that is farther away."""
        best, steps = self.best, []
        for name in self.grid:
            value = best.settings[name]
            if not _is_number(value) or value <= 0 or len(self.grid[name]) == 1:
                continue
            along = self._along(name)
            for other in (
                max((v for v in along if v < value), default=0),
                min((v for v in along if v > value), default=0),
            ):
                if other <= 0:
                    continue
                ratio, middle = max(value / other, other / value), math.sqrt(value * other)
                between = round(middle) if isinstance(value, int) else float(f"{middle:.3g}")
                if ratio > _FINEST and between not in (value, other):
                    steps.append((ratio, {**best.settings, name: between}))
        steps = [(ratio, one) for ratio, one in steps if not self._tried(one)]
        return (max(steps, key=lambda step: step[0])[1], self.shown) if steps else None

    def _along(self, name: str) -> list[Any]:
        """The values of a setting that were tried with all else as at the best."""
        best = self.best.settings
        others = [t.settings for t in self.trials if all(t.settings[k] == v for k, v in best.items() if k != name)]
        return sorted({settings[name] for settings in others})

    def _tried(self, settings: Settings) -> bool:
        return any(trial.settings == settings for trial in self.trials)

    def _longer(self) -> tuple[int, ...] | None:
        """More iterations, where the best is the last of several or the first, and the method goes on that far."""
        if len(self.shown) < 2:
            return None
        best, first, last = self.best, self.shown[0], self.shown[-1]
        ended = self._last[self.trials.index(best)] < last
        if best.iteration == last and not ended and last < _LONGEST:
            return (*self.shown, max(last + 1, round(last * last / self.shown[-2])))
        if best.iteration == first and first > 1:
            return (max(1, first * first // self.shown[1]), *self.shown)
        return None


def _below(value: Any, tried: list[Any], known: list[Any]) -> Any | None:
    """The next smaller value to try, None where one was tried or there is none."""
    if value <= 0 or any(v < value for v in tried):
        return None
    smaller = [v for v in known if v < value]
    if smaller:
        return max(smaller)
    ratio = _ratio(value, tried, known)
    if isinstance(value, int):
        return max(1, min(value - 1, round(value / ratio))) if value > 1 else None
    return float(f"{value / ratio:.3g}")


def _above(value: Any, tried: list[Any], known: list[Any]) -> Any | None:
    """The next larger value to try, None where one was tried or the best is 0 and alone."""
    if any(v > value for v in tried):
        return None
    larger = [v for v in known if v > value]
    if larger:
        return min(larger)
    if value <= 0:
        return None
    ratio = _ratio(value, tried, known)
    return max(value + 1, round(value * ratio)) if isinstance(value, int) else float(f"{value * ratio:.3g}")


def _ratio(value: Any, tried: list[Any], known: list[Any]) -> float:
    """The ratio of the last two values on this side: that to the nearest other one, 2 where there is none."""
    others = [v for v in {*tried, *known} if _is_number(v) and v > 0 and v != value]
    if not others:
        return 2.0
    nearest = min(others, key=lambda v: abs(math.log(v / value)))
    return float(max(nearest / value, value / nearest))


def _in_order(values: Sequence[Any]) -> list[Any]:
    return sorted(set(values)) if all(map(_is_number, values)) else list(dict.fromkeys(values))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
