"""What a report shows of a comparison: ranking, lesions, bias and deviation, pictures, settings, seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .comparison import SHOWN_FILE, Comparison
from .scoring import contrast_recovery, false_transfer
from .sections import Cell, Interval, Picture, Section, Table, Text
from .statistics import compare_paired, ranking, t_interval
from .suite import Results
from .tuning import BUDGET

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = Mapping[str, Any]
_MOST_REGIONS = 6  # in a table; report.json has all of them
_WINDOW = 0.9  # of the largest true value of the shown slices
READING = Text(
    "How to read the tables",
    [
        "Subjects are the unit of observation: every method sees the same scans with the same counts, and differences "
        "are those of the same subject. A mean has Student's 95 % interval over subjects; p is that of the permutation "
        "test of signs against the method with the best mean, two-sided, corrected after Holm for the number of "
        "methods. A method is among the best where this test does not tell it from the best at 5 %; with few subjects "
        "that is no proof of equality.",
        "Settings were chosen by the mean error of validation scans, with the same number of trials for every method; "
        "a setting whose best value lies at the edge of what was tried is named. Nothing was chosen on test scans.",
        "Numbers of lesions rest on as many lesions as n says; their intervals come from a bootstrap over subjects.",
    ],
)


def comparison_sections(results: Results, comparison: Comparison) -> list[Section]:
    """Return the section of a task; methods without numbers are left out and named."""
    found = {m.name: results[comparison.name(m.name)] for m in comparison.methods if comparison.name(m.name) in results}
    title = comparison.task.title
    if not found:
        return [Section(title, [Text("No results", ["No method has numbers on this task."])])]
    parts: list[Table | Picture | Text] = [_ranking(found, results, comparison), _measures(found)]
    missing = [method.title for method in comparison.methods if method.name not in found]
    if missing:
        parts.append(Text("Methods without numbers", [", ".join(missing)]))
    parts += [*_guides(found), *_lesions(found), *_regions(found), *_realisations(found)]
    parts += [*_pictures(found, results, comparison), *_settings(found, results, comparison), _cost(found)]
    return [Section(title, parts)]


def _titled(name: str, numbers: Numbers) -> str:
    return str(numbers["title"]) + (" *" if numbers["sees_guide"] else "")


def _ranking(found: Mapping[str, Numbers], results: Results, comparison: Comparison) -> Table:
    errors = {name: numbers["subjects"]["nrmse"] for name, numbers in found.items()}
    rows: list[list[Cell]] = []
    for rank in ranking(errors):
        numbers = found[rank.name]
        p = None if rank.p is None else "< 0.001" if rank.p < 0.001 else f"{rank.p:.3f}"
        best = "yes" if rank.is_among_best else "no"
        title = _titled(rank.name, numbers)
        rows.append([title, numbers["kind"], rank.place, rank.mean, rank.behind, p, best])
    columns = ["method", "kind", "place", "NRMSE", "behind the best", "p", "among the best"]
    data = results.get(comparison.name("data"), {})
    counts = f" of {data['counts']:,.0f} counts" if data.get("counts") else ""
    note = (
        f"{comparison.n_test} test scans{counts}. * sees the guide. NRMSE is |f - t| / |t| over the image; p is "
        "that of no difference to the best."
    )
    return Table(f"Ranking by NRMSE: {comparison.task.title}", columns, rows, note)


def _measures(found: Mapping[str, Numbers]) -> Table:
    keys = ("nrmse_inside", "ssim", "ssim_inside", "psnr", "data_fit")
    rows: list[list[Cell]] = [
        [_titled(name, n), *(_mean(n["subjects"][key]) for key in keys)] for name, n in found.items()
    ]
    columns = ["method", "NRMSE, object", "SSIM", "SSIM, object", "PSNR (dB)", "fit to the counts"]
    note = (
        "The object are the voxels with more than 5 % of the largest true value. Fit: deviance of the counts over its "
        "expectation, 1 for an image that explains them as well as the truth, less where it follows the noise."
    )
    return Table("Other measures", columns, rows, note)


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return t_interval(known) if known and len(known) == len(values) else None


def _guides(found: Mapping[str, Numbers]) -> list[Table]:
    key = "nrmse, guide of another"
    rows: list[list[Cell]] = []
    for numbers in found.values():
        if key in numbers["subjects"]:
            own, other = numbers["subjects"]["nrmse"], numbers["subjects"][key]
            change = compare_paired(other, own[: len(other)]).difference
            rows.append([numbers["title"], t_interval(own), t_interval(other), change])
    note = "Each scan was given the guide of another subject. What gets much worse takes its image from the guide."
    columns = ["method", "NRMSE, own guide", "NRMSE, guide of another", "change"]
    return [Table("What rests on the guide", columns, rows, note)] if rows else []


def _lesions(found: Mapping[str, Numbers]) -> list[Table]:
    rows: list[list[Cell]] = []
    for name, numbers in found.items():
        lesions = numbers["lesions"]
        cells: list[Cell] = [
            contrast_recovery(lesions, kind, seen) for kind in ("hot", "cold") for seen in (True, False)
        ]
        cells.append(false_transfer(lesions))
        if any(cell is not None for cell in cells):
            rows.append([_titled(name, numbers), *cells])
    columns = ["method", "hot, in guide", "hot, not in guide", "cold, in guide", "cold, not in guide", "false transfer"]
    kept = [0, *(i for i in range(1, len(columns)) if any(row[i] is not None for row in rows))]
    note = (
        "Recovered contrast: the mean of the lesion less that of the ring around it, over the same in the truth; 1 is "
        "right. False transfer: the contrast made where only the guide has a lesion, root mean square, over the "
        "activity around; 0 is right. n is the number of lesions."
    )
    table = Table("Lesions", [columns[i] for i in kept], [[row[i] for i in kept] for row in rows], note)
    return [table] if rows else []


def _regions(found: Mapping[str, Numbers]) -> list[Table]:
    every = dict.fromkeys(name for numbers in found.values() for name in numbers["regions"])
    groups = [name for name in every if name.startswith("all ")]
    names = (groups or list(every))[:_MOST_REGIONS]
    rows: list[list[Cell]] = []
    for name, numbers in found.items():
        cells = [[v for v in numbers["regions"].get(region, []) if v is not None] for region in names]
        rows.append([_titled(name, numbers), *(t_interval(values) if values else None for values in cells)])
    left = len(every) - len(names)
    more = f" {left} more regions are in report.json." if left else ""
    note = f"(Mean of the region in the image less that in the truth) over the latter; 0 is right.{more}"
    return [Table("Bias of regions", ["method", *names], rows, note)] if names else []


def _realisations(found: Mapping[str, Numbers]) -> list[Table | Picture]:
    known = {name: numbers for name, numbers in found.items() if "realisations" in numbers}
    if not known:
        return []
    rows: list[list[Cell]] = [
        [_titled(name, n), float(n["realisations"]["bias"]), float(n["realisations"]["sd"])]
        for name, n in known.items()
    ]
    n = next(iter(known.values()))["realisations"]["realisations"]
    note = (
        f"{n} realisations of the first test scan, at the chosen settings; means over the object of |mean - truth| and "
        "of the standard deviation, over the mean activity."
    )
    table = Table("Bias and deviation", ["method", "bias", "standard deviation"], rows, note)
    return [table, Picture.of(_scatter(rows), "Bias against deviation", "Lower left is better.")]


def _scatter(rows: Sequence[Sequence[Any]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, (title, bias, sd) in enumerate(rows):
        axes.plot(bias, sd, "os^Dv"[k // 10 % 5], color=f"C{k % 10}", ms=6, label=title)
    axes.set(xlabel="mean |bias| / mean activity", ylabel="mean SD / mean activity")
    axes.set(xlim=(0, 1.08 * axes.get_xlim()[1]), ylim=(0, 1.05 * axes.get_ylim()[1]))
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- pictures --------------------------------------------------------------------------------------------------------


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    path = folder / SHOWN_FILE
    if not path.exists():
        return {}
    with np.load(path) as read:
        return {name: read[name] for name in read.files}


def _pictures(found: Mapping[str, Numbers], results: Results, comparison: Comparison) -> list[Picture]:
    given = _arrays(results.folder(comparison.name("data")))
    images = {name: _arrays(results.folder(comparison.name(name))).get("images") for name in found}
    shown = {name: image for name, image in images.items() if image is not None}
    if "truth" not in given or not shown:
        return []
    figure = _panels(given, shown, found)
    note = (
        "The first test subjects, all images in one window from 0 (white) to "
        f"{100 * _WINDOW:.0f} % of the largest true value (black); the number is the NRMSE of the scan."
    )
    return [Picture.of(figure, "Images", note)]


def _panels(given: Mapping[str, np.ndarray], shown: Mapping[str, np.ndarray], found: Mapping[str, Numbers]) -> Figure:
    from matplotlib.figure import Figure

    truth = given["truth"]
    z = truth.shape[-1] // 2
    columns: list[tuple[str, np.ndarray, str | None]] = [("truth", truth, None)]
    if "guide" in given:
        guide = given["guide"]
        columns.append(("guide", guide if guide.ndim == 4 else guide[:, 0], None))
    columns += [(str(found[name]["title"]), image, name) for name, image in shown.items()]
    across = min(7, len(columns))
    down = -(-len(columns) // across)
    height = truth.shape[2] / truth.shape[1]
    figure = Figure(figsize=(1.55 * across, (1.55 * height + 0.4) * down * len(truth)))
    grid = figure.subplots(down * len(truth), across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i in range(len(truth)):
        top = _WINDOW * float(truth[i, ..., z].max())
        for k, (title, image, name) in enumerate(columns):
            axes = grid[i * down + k // across][k % across]
            slice_ = image[i, ..., z]
            limit = float(slice_.max()) if title == "guide" else top
            axes.imshow(
                slice_.T, cmap="gray" if title == "guide" else "gray_r", vmin=0, vmax=limit, interpolation="nearest"
            )
            error = "" if name is None else f"  {found[name]['subjects']['nrmse'][i]:.3f}"
            axes.set_title(title + error, fontsize=7.6, pad=2.5)
    figure.subplots_adjust(0.004, 0.004, 0.996, 1 - 0.2 / figure.get_size_inches()[1], 0.03, 0.16)
    return figure


# ---- settings and cost -----------------------------------------------------------------------------------------------


def _settings(found: Mapping[str, Numbers], results: Results, comparison: Comparison) -> list[Table | Picture]:
    rows: list[list[Cell]] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    for name, numbers in found.items():
        chosen = results.get(comparison.name(name, "settings"))
        if chosen is None:
            continue
        said = ", ".join(f"{k} {_short(v)}" for k, v in chosen["settings"].items())
        edge = ", ".join(chosen["edges"]) or "inside"
        rows.append(
            [numbers["title"], said, chosen["iteration"], chosen["value"], len(chosen["trials"]), edge, chosen["scans"]]
        )
        if len(chosen["settings"]) >= 1:
            first = next(iter(chosen["settings"]))
            others = {k: v for k, v in chosen["settings"].items() if k != first}
            along = [t for t in chosen["trials"] if all(t["settings"][k] == v for k, v in others.items())]
            numeric = [
                (t["settings"][first] / chosen["settings"][first], t["value"]) for t in along if _usable(t, first)
            ]
            curves[str(numbers["title"])] = sorted(numeric)
    if not rows:
        return []
    columns = ["method", "settings", "iteration", "NRMSE, validation", "trials", "optimum", "scans"]
    note = f"The least mean NRMSE of validation scans; at most {comparison.budget} trials ({BUDGET} in full size)."
    table = Table("Settings chosen on validation scans", columns, rows, note)
    lines = {title: points for title, points in curves.items() if len(points) > 1}
    if not lines:
        return [table]
    figure = _curves(lines)
    return [
        table,
        Picture.of(figure, "Error against the first setting", "Setting over its chosen value; validation scans."),
    ]


def _usable(trial: Mapping[str, Any], name: str) -> bool:
    value = trial["settings"][name]
    return isinstance(value, (int, float)) and value > 0 and trial["value"] is not None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _curves(lines: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for k, (title, points) in enumerate(lines.items()):
        x, y = zip(*points)
        axes.plot(x, y, "os^Dv"[k // 10 % 5] + "-", ms=3.5, lw=1.2, color=f"C{k % 10}", label=title)
    axes.axvline(1, color="0.7", lw=0.8)
    axes.set(xscale="log", xlabel="setting / chosen value", ylabel="mean NRMSE, validation")
    axes.legend(fontsize=7.5, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cost(found: Mapping[str, Numbers]) -> Table:
    rows: list[list[Cell]] = [
        [_titled(name, n), float(n["seconds"]), float(n["memory"]) / 2**20, int(n["parameters"])]
        for name, n in found.items()
    ]
    columns = ["method", "seconds for a scan", "most memory (MB)", "parameters"]
    note = (
        "Scans in batches; the memory is that of the process, data included. Parameters: learned, or fitted to a scan."
    )
    return Table("Seconds, memory, parameters", columns, rows, note, varies=True)
