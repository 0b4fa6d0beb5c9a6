"""What changed between two reports of a benchmark: beyond chance where subjects pair, beyond intervals elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.texts import read_json

from .report import JSON, SCHEMA
from .sections import Interval
from .statistics import compare_paired, holm

Verdict = Literal["same", "changed", "within chance", "within intervals", "differs"]
_LARGEST = 2**28  # bytes of a report
_LEVEL, _SAME = 0.05, 1e-9


@dataclass(frozen=True)
class Difference:
    """A number that two reports have.

    Args:
        what : it is: unit and measure, or table, row and column.
        first, second : the means or the values.
        difference : second - first; with an interval where subjects are known.
        p : of no difference, after Holm for all measures; None where subjects are not known.
        verdict : "same" to rounding; "changed" beyond chance, or outside of an interval; "within" these; "differs"
            where there is no interval.
        is_paired : whether the same subjects were compared.
    """

    what: str
    first: float
    second: float
    difference: Interval
    p: float | None
    verdict: Verdict
    is_paired: bool = False


@dataclass(frozen=True)
class Differences:
    """What two reports differ by.

    Args:
        subjects : measures of which the number of each subject is kept.
        cells : of tables.
        notes : what else is not the same: data, machines, versions, units.
    """

    subjects: list[Difference] = field(default_factory=list)
    cells: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[Difference]:
        """Those that changed, or differ where nobody knows an interval."""
        return [one for one in (*self.subjects, *self.cells) if one.verdict in ("changed", "differs")]


def read_report(path: Path) -> dict[str, Any]:
    """Return the JSON of a report: the file, or that in a benchmark's folder.

    Raises FileNotFoundError, and FormatError for what is no report.
    """
    file = path / JSON if path.is_dir() else path
    read = read_json(file, "the report of a benchmark", _LARGEST)
    if not (isinstance(read, dict) and read.get("schema") == SCHEMA):
        raise FormatError(f"{file} is not the report of a benchmark ({SCHEMA}), report.json")
    for key, kind in (("units", dict), ("sections", list), ("data", dict), ("options", dict)):
        if not isinstance(read.get(key), kind):
            raise FormatError(f"{file}: the report has no '{key}'; damaged?")
    return read


def compare_reports(first: Mapping[str, Any], second: Mapping[str, Any]) -> Differences:
    """Return what changed from the first report to the second.

    Measures with a number for each subject are compared by the permutation test of pairs where both reports have the
    same data (by their digests) and as many subjects, by Welch's test otherwise, with Holm's correction for all of
    them. Cells of tables that both have are compared by their intervals. Seconds and memory are left out.

    Raises ValueError for reports of two different suites.
    """
    if first["suite"] != second["suite"]:
        raise ValueError(f"the reports are of two suites, '{first['suite']}' and '{second['suite']}'")
    found = list(_subjects(first, second))
    corrected: Any = holm([math.nan if one.p is None else one.p for one in found]) if found else []
    subjects = [_judged(one, float(p)) for one, p in zip(found, corrected)]
    return Differences(subjects, list(_cells(first, second)), list(_notes(first, second)))


# ---- subjects --------------------------------------------------------------------------------------------------------


def _subjects(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    same_data = first["data"] == second["data"]
    for name in first["units"].keys() & second["units"].keys():
        ours, theirs = (
            {measure: x for measure, x in _all_lists(report, name) if np.isfinite(x).all()}
            for report in (first, second)
        )
        for measure in sorted(ours.keys() & theirs.keys()):
            a, b = ours[measure], theirs[measure]
            yield _difference(f"{name}: {measure}", a, b, same_data and a.size == b.size)


def _all_lists(report: Mapping[str, Any], unit: str) -> list[tuple[str, np.ndarray]]:
    return list(_lists(report["units"][unit].get("subjects")))


def _lists(subjects: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The lists of numbers inside of what a unit keeps of its subjects, those of several seeds as their mean."""
    if isinstance(subjects, Mapping):
        for key, inner in subjects.items():
            if key not in ("seconds", "memory"):
                yield from _lists(inner, f"{name}, {key}" if name else key)
    elif isinstance(subjects, list) and subjects:
        try:
            values = np.array(subjects, float)  # None becomes NaN
        except (TypeError, ValueError):
            return
        values = values.mean(tuple(range(values.ndim - 1))) if values.ndim > 1 else values
        yield name, values


def _difference(what: str, a: np.ndarray, b: np.ndarray, paired: bool) -> Difference:
    if paired:
        test = compare_paired(b, a)
        same = bool(np.allclose(a, b, rtol=_SAME, atol=0))
        verdict: Verdict = "same" if same else "within chance"
        return Difference(what, float(a.mean()), float(b.mean()), test.difference, test.p, verdict, True)
    change = float(b.mean() - a.mean())
    if min(a.size, b.size) < 2 or not (a.std() or b.std()):
        unknown = Interval(change, math.nan, math.nan, min(a.size, b.size))
        return Difference(what, float(a.mean()), float(b.mean()), unknown, None, "differs" if change else "same")
    welch = stats.ttest_ind(b, a, equal_var=False)
    limits = welch.confidence_interval()
    interval = Interval(change, float(limits.low), float(limits.high), min(a.size, b.size))
    return Difference(what, float(a.mean()), float(b.mean()), interval, float(welch.pvalue), "within chance")


def _judged(one: Difference, p: float) -> Difference:
    if math.isnan(p):
        return one
    verdict: Verdict = "changed" if p < _LEVEL and one.verdict != "same" else one.verdict
    return Difference(one.what, one.first, one.second, one.difference, p, verdict, one.is_paired)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _cells(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    theirs = dict(_numbers(second))
    for what, a in _numbers(first):
        if what in theirs:
            yield _cell(what, a, theirs[what])


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, Interval]]:
    """The numbers in the tables of a report by their place, as intervals; what stands at two places is left out."""
    found: dict[str, list[Interval]] = {}
    for section in report["sections"]:
        for part in section["parts"]:
            if part["kind"] != "table" or part.get("varies"):
                continue
            for row in part["rows"]:
                label = " / ".join(cell for cell in row if isinstance(cell, str))
                for column, cell in zip(part["columns"], row):
                    interval = _as_interval(cell)
                    if interval is not None:
                        found.setdefault(f"{part['title']}: {label}, {column}", []).append(interval)
    return ((what, values[0]) for what, values in found.items() if len(values) == 1)


def _as_interval(cell: Any) -> Interval | None:
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, (int, float)):
        return Interval(float(cell), math.nan, math.nan, 1)
    if isinstance(cell, Mapping) and isinstance(cell.get("value"), (int, float)):
        low, high = (math.nan if cell.get(key) is None else float(cell[key]) for key in ("low", "high"))
        return Interval(float(cell["value"]), low, high, int(cell.get("n") or 0))
    return None


def _cell(what: str, a: Interval, b: Interval) -> Difference:
    change = Interval(b.value - a.value, math.nan, math.nan, min(a.n, b.n))
    verdict: Verdict
    if math.isclose(a.value, b.value, rel_tol=_SAME, abs_tol=1e-300):
        verdict = "same"
    elif not (a.is_bounded and b.is_bounded):
        verdict = "differs"
    else:
        verdict = "within intervals" if a.low <= b.value <= a.high and b.low <= a.value <= b.high else "changed"
    return Difference(what, a.value, b.value, change, None, verdict)


# ---- notes -----------------------------------------------------------------------------------------------------------


def _notes(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[str]:
    data = first["data"].keys() | second["data"].keys()
    other = sorted(name for name in data if first["data"].get(name) != second["data"].get(name))
    if other:
        yield f"the data differ ({', '.join(other)}): subjects do not pair, and means are of other scans"
    elif not data:
        yield "the reports hold no digests of data; subjects are taken to be the same"
    for key in sorted(first["options"].keys() | second["options"].keys()):
        a, b = (report["options"].get(key) for report in (first, second))
        if a != b:
            yield f"the option {key} differs: {_said(a)}, then {_said(b)}"
    if first.get("machines") != second.get("machines"):
        yield f"the machines differ: {_said(first.get('machines'))}, then {_said(second.get('machines'))}"
    for name in sorted(first["units"].keys() & second["units"].keys()):
        unknown = [m for report in (first, second) for m, x in _all_lists(report, name) if not np.isfinite(x).all()]
        if unknown:
            yield f"{name}: subjects without a number in {', '.join(dict.fromkeys(unknown))}, which are not compared"
    ours, theirs = (report.get("versions") or {} for report in (first, second))
    for package in sorted(ours.keys() | theirs.keys()):
        if ours.get(package) != theirs.get(package):
            yield f"the version of {package} differs: {_said(ours.get(package))}, then {_said(theirs.get(package))}"
    for name, here, there in (("first", first, second), ("second", second, first)):
        alone = sorted(here["units"].keys() - there["units"].keys())
        if alone:
            yield f"only the {name} report has results of {', '.join(alone[:8])}{' and more' * (len(alone) > 8)}"


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
