"""What a report shows of bias and noise: curves as pictures, and tables with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sections import Cell, Interval, Picture, Section, Table
from ..suite import Results

_MARK = "/bias-noise/"
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def sections(results: Results) -> list[Section]:
    """Return a section for each task that has units of bias and noise which are done."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, numbers in results.items():
        if _MARK in name:
            task, method = name.split(_MARK)
            found.setdefault(task, {})[method] = numbers
    return [_section(task, own) for task, own in found.items()]


def _section(task: str, own: Mapping[str, Mapping[str, Any]]) -> Section:
    parts: list[Table | Picture] = [_curves(own), _table(own)]
    parts += [_responses(own)]
    if any(numbers["spheres"] for numbers in own.values()):
        parts.append(_spheres(own))
    return Section(f"Bias and noise: {task}", parts)


def _curves(own: Mapping[str, Mapping[str, Any]]) -> Picture:
    """Noise against bias, a line for each method: along iterations, along a setting, along counts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    kinds = ("iterations", "setting", "counts")
    for numbers, colour in zip(own.values(), _COLOURS * (1 + len(own) // len(_COLOURS))):
        for along, points in numbers["curves"].items():
            place = axes[kinds.index(along if along in kinds else "setting")]
            line = [100 * p["noise"] for p in points], [100 * p["bias"] for p in points]
            place.plot(*line, "o-", color=colour, markersize=3, label=f"{numbers['title']}{_of(along)}")
            for p in (points[0], points[-1]):
                place.annotate(f"{p['at']:g}", (100 * p["noise"], 100 * p["bias"]), fontsize=7)
    for place, title in zip(axes, ("by iterations", "by a setting", "by counts")):
        place.set(title=title, xlabel="noise (% of the mean)")
        if place.lines:
            place.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("bias (% of the mean, rms)")
    n = min(numbers["n_realisations"] for numbers in own.values())
    note = (
        "Root mean squares over the voxels of the object, of the error of the mean and of the standard deviation, over "
        f"{n} realisations of one scan; numbers at the ends of a line are the iteration, the setting or the counts "
        "over the task's."
    )
    return Picture.of(figure, "Bias against noise", note)


def _of(along: str) -> str:
    return "" if along in ("iterations", "counts") else f", {along}"


def _table(own: Mapping[str, Mapping[str, Any]]) -> Table:
    regions = list(dict.fromkeys(name for n in own.values() for name in n["curves"]["counts"][0]["regions"]))[:6]
    rows: list[list[Cell]] = []
    for numbers in own.values():
        point = next(p for p in numbers["curves"]["counts"] if p["at"] == 1.0)
        row: list[Cell] = [numbers["title"], _said(numbers), 100 * point["bias"], 100 * point["noise"]]
        for name in regions:
            seen = point["regions"].get(name)
            row.append(None if seen is None else _percent(seen, "bias", numbers["n_realisations"]))
        rows.append(row)
    columns = ["method", "at", "bias (%)", "noise (%)", *(f"bias of {name} (%)" for name in regions)]
    return Table("Operating points", columns, rows, "Biases of regions with their 95 % interval over realisations.")


def _responses(own: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for numbers in own.values():
        for response in numbers["responses"]:
            place = ", ".join(map(str, response["voxel"]))
            rows.append([numbers["title"], place, *response["widths"], 100 * response["peak"], 100 * response["sum"]])
    columns = ["method", "voxel", "FWHM x (mm)", "FWHM y (mm)", "FWHM z (mm)", "peak (%)", "sum (%)"]
    note = (
        "What becomes of a point, from data without noise: full widths at half maximum, what its voxel recovers, and "
        "what all voxels together do; from the middle of the object to its edge."
    )
    return Table("Local point response", columns, rows, note)


def _spheres(own: Mapping[str, Mapping[str, Any]]) -> Table:
    kinds = {"hot": "spheres", "cold": "cold_spheres"}
    sizes = sorted({s["diameter"] for n in own.values() for key in kinds.values() for s in n[key]})
    rows: list[list[Cell]] = []
    for numbers in own.values():
        for kind, key in kinds.items():
            by_size = {s["diameter"]: s for s in numbers[key]}
            cells: list[Cell] = [
                _percent(by_size[d], "value", by_size[d]["n"]) if d in by_size else None for d in sizes
            ]
            rows.append([numbers["title"], kind, *cells])
    note = "Hot spheres of four times their surroundings and cold ones of nothing, one at a time in the same place."
    return Table("Contrast recovered by size (%)", ["method", "kind", *(f"{d:g} mm" for d in sizes)], rows, note)


def _percent(seen: Mapping[str, float], name: str, n: int) -> Interval:
    return Interval(100 * seen[name], 100 * seen["low"], 100 * seen["high"], int(n))


def _said(numbers: Mapping[str, Any]) -> str:
    words = [
        f"{name} {value:g}" if not isinstance(value, str) else f"{name} {value}"
        for name, value in numbers["settings"].items()
    ]
    words += [] if numbers["iteration"] is None else [f"iteration {numbers['iteration']}"]
    return ", ".join(words) or "-"
