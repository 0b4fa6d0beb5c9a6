"""The suite "detect": whether lesions are found, method by method and dose by dose, beside what fidelity says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from emrecon import recon, sims

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import compare_paired, holm
from ..suite import Options, Results, Suite, Unit
from .study import TITLES, columns_of, methods_of, scores_in, size_of, task_named, units_of
from .tasks import SEVERITIES

_LEVEL = 0.05  # of tests


class Cell(NamedTuple):
    """What is known of a method at a level: the mean over its trainings."""

    area: Interval
    unsure: Interval
    nrmse: Interval
    ssim: Interval


class Disagreement(NamedTuple):
    """Two methods of which one has the smaller error and the other one finds more."""

    task: str
    level: float
    nearer: str
    finder: str
    nrmse: tuple[float, float]
    areas: tuple[float, float]
    p: float


def units(options: Options) -> Sequence[Unit]:
    """Return the work of the suite."""
    return units_of(options)


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return what the report shows."""
    size = size_of(options)
    chosen, own = methods_of(options)
    titles = {**TITLES, **{method.name: method.title for method in own}}
    names = [*chosen, *(method.name for method in own)]
    found = [_about(options)]
    for task in size.tasks:
        found.append(_of_task(results, options, task, names, titles))
    found.append(_fidelity(results, options, names, titles))
    if any(f"{task}/cnn" in results for task in size.tasks):
        found.append(_observers(results, options, names))
    if any(name.startswith("segments/") for name in results):
        found.append(_segments(results))
    return found


def _about(options: Options) -> Section:
    size = size_of(options)
    levels = ", ".join(f"{level:g}" for level in size.levels)
    return Section(
        "Whether lesions are found",
        [
            Text(
                "The question",
                [
                    f"Each task has {size.n_test} scans without and {size.n_test} with a lesion, of patients that are "
                    "all different (of one patient in the task that is known exactly), and patients again other than "
                    f"those of training. Counts are {levels} of a whole scan, the same counts for every method.",
                    "A channelised Hotelling observer (six Laguerre-Gauss channels, told the place) looks at every "
                    "image. Areas under the ROC curve compare each pair of images by the template of all others, with "
                    "DeLong's interval; where networks were trained several times, the mean of the trainings, and an "
                    "interval that holds their spread.",
                    "Networks learn from OSEM images of all counts as targets, the Noise2Noise one from halves of few "
                    "counts; filter and prior have the least error on validation scans at each level. No method was "
                    "chosen for what the observer finds. Scatter and randoms are known without noise.",
                ],
            )
        ],
    )


def _of_task(results: Results, options: Options, task: str, names: Sequence[str], titles: Mapping[str, str]) -> Section:
    size, about = size_of(options), task_named(task)
    cells = {name: [_cell(results, options, task, name, level) for level in size.levels] for name in names}
    full = _cell(results, options, task, "osem", 1.0)
    columns = ["method", *(f"{level:g} of the counts" for level in size.levels)]
    tables = []
    for title, part, note in (
        ("Area under the ROC curve", "area", ""),
        ("Area, an observer with internal noise", "unsure", "Every channel has noise of its own standard deviation."),
        ("NRMSE to the truth", "nrmse", "Less is better."),
        ("SSIM to the truth", "ssim", "Of the whole slice."),
    ):
        rows: list[list[Any]] = [[titles["full"], *[getattr(full, part)] * len(size.levels)]]
        rows += [[titles[name], *(getattr(cell, part) for cell in cells[name])] for name in names]
        tables.append(Table(f"{title}: {about.title}", columns, rows, note))
    known = "one patient and one lesion" if about.known == "exactly" else "other patients and lesions in each image"
    return Section(
        f"{about.title} ({known})",
        [*tables, _curves(results, options, task, names, titles), _panel(results, options, task, names, titles)],
    )


def _cell(results: Results, options: Options, task: str, name: str, level: float) -> Cell:
    parts = [results[f"{task}/{column}"]["levels"][f"{level:g}"] for column in columns_of(name, size_of(options))]
    n = int(parts[0]["n"])
    return Cell(
        *(_over_trainings([part[key] for part in parts], n) for key in ("area", "area_internal_noise")),
        *(_over_trainings([part[key] for part in parts], 2 * n) for key in ("nrmse", "ssim")),
    )


def _over_trainings(parts: Sequence[Sequence[float]], n: int) -> Interval:
    """The mean of trainings; its variance is that of the images, and that between trainings over their number."""
    values = np.array(parts)
    value, k = float(values[:, 0].mean()), len(parts)
    if k == 1:
        return Interval(value, float(values[0, 1]), float(values[0, 2]), n)
    images = float(((values[:, 2] - values[:, 1]) / 2 / 1.96).mean())
    width = 1.96 * math.sqrt(images**2 + float(values[:, 0].var(ddof=1)) / k)
    return Interval(value, value - width, value + width, n)


def _interval(values: Sequence[float], n: int) -> Interval:
    return Interval(float(values[0]), float(values[1]), float(values[2]), int(n))


# ---- fidelity and detection ------------------------------------------------------------------------------------------


def _fidelity(results: Results, options: Options, names: Sequence[str], titles: Mapping[str, str]) -> Section:
    size = size_of(options)
    rows: list[list[Any]] = []
    for task in size.tasks:
        for level in size.levels:
            cells = {name: _cell(results, options, task, name, level) for name in names}
            row: list[Any] = [task_named(task).title + _known(task), f"{level:g}"]
            for part, sign in (("nrmse", -1), ("ssim", 1)):
                row.append(_rank_agreement([sign * getattr(c, part).value for c in cells.values()], cells))
            best = [min(names, key=lambda n: cells[n].nrmse.value), max(names, key=lambda n: cells[n].area.value)]
            rows.append([*row, *(titles[name] for name in best)])
    ranks = Table(
        "Do fidelity and detection put the methods in the same order?",
        ["task", "counts", "Kendall's tau, NRMSE", "Kendall's tau, SSIM", "least NRMSE", "largest area"],
        rows,
        "1: the same order of methods, -1: the reverse, 0: none. Methods whose areas hardly differ have no order.",
    )
    against = disagreements(results, options, names)
    listed = Table(
        "Nearer to the truth, and lesions found less often",
        ["task", "counts", "nearer to the truth", "finds more", "NRMSE", "NRMSE", "area", "area", "p of the areas"],
        [
            [task_named(d.task).title + _known(d.task), f"{d.level:g}", titles[d.nearer], titles[d.finder]]
            + [round(v, 3) for v in (*d.nrmse, *d.areas)]
            + [f"{d.p:.2g}"]
            for d in against
        ],
        "Pairs in which the errors differ (paired over images) and the areas differ the other way (DeLong, paired), "
        f"both with p < {_LEVEL} corrected for all pairs and levels of a task (Holm). First trainings.",
    )
    return Section("Where fidelity and detection disagree", [Text("In words", _in_words(rows, against)), ranks, listed])


def _known(task: str) -> str:
    return ", known exactly" if task_named(task).known == "exactly" else ""


def _rank_agreement(quality: Sequence[float], cells: Mapping[str, Cell]) -> float | None:
    from scipy import stats

    if len(cells) < 3:
        return None
    tau = float(stats.kendalltau(quality, [cell.area.value for cell in cells.values()]).statistic)
    return round(tau, 2) if math.isfinite(tau) else None


def disagreements(results: Results, options: Options, names: Sequence[str]) -> list[Disagreement]:
    """Return the pairs of methods in which the one with the smaller error finds lesions less often, by both tests."""
    size, found = size_of(options), []
    for task in size.tasks:
        tests = []
        for level in size.levels:
            scores = {
                name: scores_in(results.folder(f"{task}/{columns_of(name, size)[0]}"), level)
                for name in names
                if f"{task}/{columns_of(name, size)[0]}" in results
            }
            for a, b in combinations(scores, 2):
                one, two = scores[a], scores[b]
                areas = recon.compare_areas(one["absent"], one["present"], two["absent"], two["present"])
                errors = compare_paired(one["nrmse"], two["nrmse"], "t")
                tests.append((level, a, b, areas, errors, one["nrmse"].mean(), two["nrmse"].mean()))
        of_areas, of_errors = (holm([test[k].p if k == 3 else float(test[4].p) for test in tests]) for k in (3, 4))
        for (level, a, b, areas, _, first, second), p, q in zip(tests, of_areas, of_errors):
            if not (p < _LEVEL and q < _LEVEL):
                continue
            better = areas.difference.value > 0  # b finds more
            if better == (second < first):
                continue
            values = (areas.first.value, areas.second.value)
            nearer, finder = (a, b) if better else (b, a)
            pair = (float(first), float(second))
            found.append(
                Disagreement(
                    task,
                    level,
                    nearer,
                    finder,
                    pair if better else pair[::-1],
                    values if better else values[::-1],
                    float(p),
                )
            )
    return found


def _in_words(rows: Sequence[Sequence[Any]], against: Sequence[Disagreement]) -> list[str]:
    n, other = len(rows), sum(row[-1] != row[-2] for row in rows)
    taus = [row[2] for row in rows if row[2] is not None]
    text = [
        f"In {other} of {n} cases (tasks and count levels) the method of the least error is not that of the largest "
        "area."
    ]
    if taus:
        negative = sum(tau <= 0 for tau in taus)
        text.append(
            f"Kendall's tau between the orders by NRMSE and by area is {np.mean(taus):.2f} on average, from "
            f"{min(taus):.2f} to {max(taus):.2f}; in {negative} of {len(taus)} cases it is 0 or below: the errors do "
            "not tell what is found."
        )
    text.append(
        f"{len(against)} pairs of methods contradict each other by both tests."
        if against
        else "No pair of methods contradicts each other by both tests, after correction for their number."
    )
    return text


# ---- observers and segments ------------------------------------------------------------------------------------------


def _observers(results: Results, options: Options, names: Sequence[str]) -> Section:
    size, rows = size_of(options), []
    for task in size.tasks:
        if f"{task}/cnn" in results:
            one = results[f"{task}/cnn"]
            values = [_interval(one[key], one["n"]) for key in ("hotelling", "network", "difference")]
            rows.append([task_named(task).title, one["n_train"], *values, f"{one['p']:.2g}"])
    network = Table(
        f"A network as observer of OSEM images, {size.cnn_level:g} of the counts",
        ["task", "training images of a class", "Hotelling", "network", "difference", "p"],
        rows,
        "Both trained on images of the training patients, and none of them on the images that are scored. A network "
        "that finds no more than the linear observer is no proof that nobody could: it had few patients to learn from.",
    )
    normal = []
    for task in size.tasks:
        levels = results[f"{task}/osem"]["levels"]
        normal.append(
            [task_named(task).title + _known(task), *("yes" if one["normal"] else "no" for one in levels.values())]
        )
    check = Table(
        "Are the channel outputs of OSEM images Gaussian?",
        ["task", *(f"{float(level):g}" for level in results[f"{size.tasks[0]}/osem"]["levels"])],
        normal,
        "Mardia's and Shapiro-Wilk's tests at 5 %, without a lesion. Where not, exact intervals of the SNR do not "
        "hold, and none is used here.",
    )
    return Section("Other observers, and what the Hotelling observer rests on", [network, check])


def _segments(results: Results) -> Section:
    numbers = sorted(int(name.partition("/")[2]) for name in results if name.startswith("segments/"))
    rows: list[list[Any]] = []
    for k in numbers:
        one = results[f"segments/{k}"]
        areas = [_interval(one["areas"][f"{severity:g}"], one["n"]) for severity in SEVERITIES]
        rows.append([f"{k} {sims.SEGMENTS[k - 1]}", *areas])
    columns = ["segment", *(f"severity {severity:g}" for severity in SEVERITIES)]
    table = Table("Area under the ROC curve by segment and severity, OSEM", columns, rows)
    return Section("Defects of the myocardium, known exactly", [*_bullseyes(results, numbers), table])


def _bullseyes(results: Results, numbers: Sequence[int]) -> list[Picture]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 * len(SEVERITIES) + 0.8, 3.0), layout="constrained")
    axes = figure.subplots(1, len(SEVERITIES))
    drawn: Any = None
    for axis, severity in zip(axes, SEVERITIES):
        values = np.full(17, np.nan)
        for k in numbers:
            values[k - 1] = results[f"segments/{k}"]["areas"][f"{severity:g}"][0]
        drawn = axis.imshow(sims.bullseye(values), cmap="viridis", vmin=0.5, vmax=1)
        axis.set_title(f"severity {severity:g}", fontsize=9)
        axis.set_axis_off()
    figure.colorbar(drawn, ax=axes, label="area under the ROC curve")
    return [Picture.of(figure, "Polar maps", "Anterior above, septum at the left, apex in the middle.")]


# ---- pictures --------------------------------------------------------------------------------------------------------


def _curves(results: Results, options: Options, task: str, names: Sequence[str], titles: Mapping[str, str]) -> Picture:
    from matplotlib.figure import Figure

    size = size_of(options)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    full = _cell(results, options, task, "osem", 1.0).area.value
    left.axhline(full, color="0.5", linestyle=":", label=titles["full"])
    middle = size.levels[len(size.levels) // 2]
    for name in names:
        areas = [_cell(results, options, task, name, level).area for level in size.levels]
        values = np.array([[a.value, a.value - a.low, a.high - a.value] for a in areas]).T
        left.errorbar(size.levels, values[0], values[1:], marker="o", markersize=3, capsize=2, label=titles[name])
        kept = scores_in(results.folder(f"{task}/{columns_of(name, size)[0]}"), middle)
        curve = recon.roc_curve(kept["absent"], kept["present"])
        right.plot(curve.false_positive, curve.true_positive)
    left.set_xscale("log", base=2)
    left.set_xticks(size.levels, [f"{level:g}" for level in size.levels])
    left.set(xlabel="part of the counts", ylabel="area under the ROC curve")
    left.legend(fontsize=6)
    right.plot([0, 1], [0, 1], "k:", linewidth=0.8)
    right.set(xlabel="false positives", ylabel="lesions found", title=f"{middle:g} of the counts")
    return Picture.of(
        figure, f"Areas and ROC curves: {task_named(task).title}", "Curves: first trainings, one left out."
    )


def _panel(results: Results, options: Options, task: str, names: Sequence[str], titles: Mapping[str, str]) -> Picture:
    from matplotlib.figure import Figure

    size, level = size_of(options), size_of(options).levels[-1]
    shown = {name: scores_in(results.folder(f"{task}/{columns_of(name, size)[0]}"), level)["shown"] for name in names}
    full = scores_in(results.folder(f"{task}/osem"), 1.0)["shown"]
    panels = {"truth": full[1], titles["full"]: full[0], **{titles[name]: images[0] for name, images in shown.items()}}
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.0 * columns, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (title, image) in zip(axes, panels.items()):
        axis.imshow(image.T, cmap="gray_r", vmin=0, vmax=float(np.percentile(full[1], 99.5)))
        axis.set_title(title, fontsize=7)
    return Picture.of(
        figure, f"One scan with a lesion, {level:g} of the counts: {task_named(task).title}", "One window."
    )


SUITE = Suite(
    name="detect",
    title="Whether lesions are found: model observers of every method at four dose levels",
    minutes=75.0,
    units=units,
    sections=sections,
    extras=("torch",),
)
"""The suite by its name."""
