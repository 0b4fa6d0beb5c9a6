"""What the report of the suite `direct` shows: errors by region, by network, by change, and who wins where."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emrecon.recon import area_under_curve

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import compare_paired, t_interval
from ..suite import Options, Results
from .families import CHANGES, COMPLETED, FEWER_VIEWS, SPECTNET, TORSOS, Family
from .tracers import TRACERS

_PUBLISHED = {"hot": (0.68, 1.72), "background": (0.04, 0.10)}
_FALSE = 1  # invented lesions that make an image one to warn of


def sections_of(results: Results, options: Options) -> Sequence[Section]:
    """Return the sections of all families."""
    made = (_winners, _spectnet, _fewer_views, _torsos, _changes, _hallucinations, _noise)
    completed = (_completed(results, family) for family in COMPLETED)
    return [*(section(results) for section in made), *completed, _tracers(results), _training(results)]


def _subjects(results: Results, unit: str) -> Mapping[str, Sequence[Any]]:
    found: Mapping[str, Sequence[Any]] = results[unit]["subjects"]
    return found


def _mean(values: Iterable[Any]) -> Interval | None:
    there = [float(v) for v in values if v is not None]
    return t_interval(there) if there else None


def _winners(results: Results) -> Section:
    """For every question the best method, and those with the physics inside beside it."""
    entries = {"OSEM": "osem", **{entry.title: entry.name for entry in SPECTNET.entries}}
    entries["SPECTnet, three stages"] = "staged"
    rows = []
    for key, said in (("hot", "brains, error in hot regions"), ("background", "brains, error in the background")):
        found = {title: _subjects(results, f"spectnet/{name}")[key] for title, name in entries.items()}
        rows.append(_best(said, found))
    for change, (said, _, _) in CHANGES.items():
        found = {"OSEM": _subjects(results, "deeppet-changes/osem")[f"{change}: nrmse"]}
        for entry in TORSOS.entries:
            found[entry.title] = _subjects(results, f"deeppet-changes/{entry.name}")[f"{change}: nrmse"]
        rows.append(_best(f"torsos, NRMSE, {said}", found))
    table = Table(
        "Least error",
        ("where", "best", "its error", "p against the second", "OSEM", "FBSEM-Net, unrolled"),
        rows,
        "OSEM and FBSEM-Net have the projector inside. OSEM of the brains is at the best pass of each scan, of the "
        "torsos at a pass chosen on validation scans. p: signs of the differences over scans, not corrected for the "
        "choice.",
    )
    return Section("Who wins where", (table,))


def _best(where: str, found: Mapping[str, Sequence[Any]]) -> tuple[Any, ...]:
    """A row of the table of winners: the least mean, and how sure it is before the second."""
    means = {title: float(np.mean([v for v in values if v is not None])) for title, values in found.items()}
    first, second, *_ = sorted(means, key=lambda title: means[title])
    pairs = [(a, b) for a, b in zip(found[first], found[second]) if a is not None and b is not None]
    p = compare_paired([a for a, _ in pairs], [b for _, b in pairs]).p if len(pairs) > 1 else None
    return (where, first, _mean(found[first]), p, means["OSEM"], means["FBSEM-Net, unrolled"])


def _spectnet(results: Results) -> Section:
    rows = [("OSEM, best pass of each scan", "spectnet/osem"), ("SPECTnet, three stages", "spectnet/staged")]
    rows += [(entry.title, f"spectnet/{entry.name}") for entry in SPECTNET.entries]
    table = Table(
        "Mean absolute error, background activity 1",
        ("method", "hot regions", "background", "NRMSE", "seconds an image"),
        [
            (
                title,
                *(_mean(_subjects(results, unit)[name]) for name in ("hot", "background", "nrmse")),
                float(results[unit]["seconds an image"]),
            )
            for title, unit in rows
        ],
        "Phantoms of the same kind as in training, without noise. Published, on 128 x 128 pixels: SPECTnet "
        f"{_PUBLISHED['hot'][0]} and {_PUBLISHED['background'][0]}, OSEM {_PUBLISHED['hot'][1]} and "
        f"{_PUBLISHED['background'][1]}.",
        varies=True,
    )
    best = _mean(_subjects(results, "spectnet/staged")["hot"])
    osem = _mean(_subjects(results, "spectnet/osem")["hot"])
    assert best is not None
    assert osem is not None
    said = f"In hot regions the error of SPECTnet in three stages is {best.value / osem.value:.0%} of OSEM's."
    return Section(SPECTNET.title, (Text("", (said,)), table))


def _fewer_views(results: Results) -> Section:
    rows: list[tuple[Any, ...]] = []
    for family, views in ((SPECTNET, 60), *((family, family.views) for family in FEWER_VIEWS)):
        for title, unit in (("OSEM, best pass", "osem"), ("SPECTnet, three stages", "staged")):
            numbers = _subjects(results, f"{family.name}/{unit}")
            rows.append((f"{views} views, {title}", *(_mean(numbers[key]) for key in ("hot", "background", "nrmse"))))
    note = "The same camera with fewer views, the same counts in all. Published with 120, 60 and 30 views of 128 bins."
    table = Table(
        "Mean absolute error, background activity 1", ("scan", "hot regions", "background", "NRMSE"), rows, note
    )
    return Section("SPECTnet with fewer views", (table,))


def _torsos(results: Results) -> Section:
    rows = [("FBP", "deeppet/fbp"), ("OSEM, pass chosen on validation scans", "deeppet/osem")]
    rows += [(entry.title, f"deeppet/{entry.name}") for entry in TORSOS.entries]
    reference = _subjects(results, "deeppet/osem")["nrmse, fixed"]
    table = Table(
        "Scans as in training",
        ("method", "NRMSE", "against OSEM", "p", "SSIM", "invented", "lost", "parameters"),
        [_torso_row(results, title, unit, reference) for title, unit in rows],
        "Invented and lost: lesions an image that are wrong by more than the mean activity. p: signs of the "
        "differences over scans.",
    )
    return Section(TORSOS.title, (table,))


def _torso_row(results: Results, title: str, unit: str, reference: Sequence[float]) -> tuple[Any, ...]:
    ending = ", fixed" if unit == "deeppet/osem" else ""
    numbers = {name: _subjects(results, unit)[name + ending] for name in ("nrmse", "ssim", "invented", "lost")}
    own = unit == "deeppet/osem"
    p = None if own else compare_paired(numbers["nrmse"], reference).p
    ratio = None if own else float(np.mean(numbers["nrmse"]) / np.mean(reference))
    intervals = [_mean(numbers[name]) for name in ("nrmse", "ssim", "invented", "lost")]
    return (title, intervals[0], ratio, p, *intervals[1:], results[unit].get("parameters"))


def _changes(results: Results) -> Section:
    rows = [("OSEM", "deeppet-changes/osem")]
    rows += [(entry.title, f"deeppet-changes/{entry.name}") for entry in TORSOS.entries]
    columns = ("method", *(title for title, _, _ in CHANGES.values()))
    table = Table(
        "NRMSE where the scan is not as in training",
        columns,
        [(title, *(_mean(_subjects(results, unit)[f"{name}: nrmse"]) for name in CHANGES)) for title, unit in rows],
    )
    return Section("Outside of the training", (table,))


def _hallucinations(results: Results) -> Section:
    rows: list[tuple[Any, ...]] = []
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    named = [("OSEM", "osem"), *((entry.title, entry.name) for entry in TORSOS.entries)]
    for title, name in named:
        numbers = _subjects(results, f"deeppet-changes/{name}")
        fit, invented, lost = (
            np.concatenate([np.asarray(numbers[f"{change}: {key}"], float) for change in CHANGES])
            for key in ("fit", "invented", "lost")
        )
        rows.append((title, _mean(invented), _mean(lost), _detected(fit, invented), _detected(fit, invented + lost)))
        wrong = invented + lost >= _FALSE
        if wrong.any() and not wrong.all():
            curves[title] = (fit[~wrong], fit[wrong])
    table = Table(
        "Lesions of an image that are not there, or are missing, and whether the misfit of the data tells",
        ("method", "invented", "lost", "area under the curve: invented", "area under the curve: invented or lost"),
        rows,
        "Over all changes. Misfit: Poisson deviance of the measured data from what the image would have made of them; "
        "the curve is for telling images with such a lesion from those without. 0.5 tells nothing.",
    )
    parts: list[Table | Picture] = [table]
    if curves:
        parts.append(_curves(curves))
    return Section("Invented and lost lesions", parts)


def _detected(fit: np.ndarray, false: np.ndarray) -> Interval | None:
    """The area under the curve of the misfit, for images with a false lesion against those without."""
    wrong = false >= _FALSE
    if not 1 < wrong.sum() < len(wrong) - 1:
        return None
    found = area_under_curve(fit[~wrong], fit[wrong])
    return Interval(float(found.value), float(found.low), float(found.high), len(wrong))


def _curves(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Receiver operating characteristics of the misfit as a detector of false lesions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for title, (good, wrong) in found.items():
        limits = np.concatenate([[np.inf], np.sort(np.concatenate([good, wrong]))[::-1], [-np.inf]])
        rates = [[float((values >= limit).mean()) for limit in limits] for values in (good, wrong)]
        axes.plot(*rates, label=title, linewidth=1.2)
    axes.set(
        xlabel="part of the images without a false lesion",
        ylabel="part of the images with one",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.set_aspect("equal")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.subplots_adjust(left=0.02, right=0.6, bottom=0.14, top=0.96)
    return Picture.of(
        figure, "What the misfit of the data tells", "Images above a limit of the misfit, for every limit, all changes."
    )


def _noise(results: Results) -> Section:
    rows = [("OSEM", "deeppet-noise/osem")]
    rows += [(entry.title, f"deeppet-noise/{entry.name}") for entry in TORSOS.entries]
    table = Table(
        "Twenty realisations of one scan",
        ("method", "bias", "standard deviation", "edge width, mm FWHM"),
        [(title, results[unit]["bias"], results[unit]["sd"], results[unit]["edge"]) for title, unit in rows],
        "Means over the body of |mean image - truth| and of the standard deviation, over the mean activity. "
        "Edge width: of the Gaussian that makes the truth most like the mean image.",
    )
    return Section("Bias and noise", (table,))


def _completed(results: Results, family: Family) -> Section:
    numbers, part = _subjects(results, f"{family.name}/compared"), family.part
    assert part is not None
    networks = {entry.name: f"completed by {entry.title[0].lower()}{entry.title[1:]}" for entry in family.entries}
    if part.share is not None:
        networks = {entry.name: "denoised by the network" for entry in family.entries}
    titles = {part.other: part.other, **networks}
    width = results[f"{family.name}/compared"].get("width")
    if width is not None:
        titles[part.other] = f"smoothed by {width:g} bins FWHM, chosen on validation scans"

    def row(what: str, name: str, title: str) -> tuple[Any, ...]:
        return (title, *(_mean(numbers[f"{what}, {name}: {key}"]) for key in ("nrmse", "ssim")))

    data = [row("projections", name, title) for name, title in titles.items()]
    ends = {"measured": part.measured, **titles, "whole": part.whole}
    images = [row("images", name, title) for name, title in ends.items()]
    said = []
    for name, title in networks.items():
        spread = _mean(numbers[f"projections, {name}: squared error over variance"])
        assert spread is not None
        said.append(f"{title}: squared error over the variance that it states {spread.value:.2f} (1 is honest)")
    return Section(
        family.title,
        (
            Table("Counts that were not measured, against expected ones", ("bins", "NRMSE", "SSIM"), data),
            Table("OSEM of", ("data", "NRMSE", "SSIM"), images),
            Text("", (f"Data {'; '.join(said)}.",)),
        ),
    )


def _tracers(results: Results) -> Section:
    classical, settings = _subjects(results, "two-tracers/classical"), results["two-tracers/classical"]
    rows = {
        f"OSEM of the frames, {settings['decay alone']:g} mm FWHM, and decay": ("decay alone, ", classical),
        f"joint EM, {settings['joint EM']} iterations": ("joint EM, ", classical),
        "OSEM of the frames and a network": ("", _subjects(results, "two-tracers/network")),
    }
    table = Table(
        "FDG and a Ga-68 tracer, five frames, 2-D torsos",
        ("method", *(f"{tracer}, {key}" for tracer in TRACERS for key in ("NRMSE", "SSIM"))),
        [
            (title, *(_mean(numbers[f"{start}{tracer}: {key}"]) for tracer in TRACERS for key in ("nrmse", "ssim")))
            for title, (start, numbers) in rows.items()
        ],
        "Smoothing and iterations have the least error on validation scans.",
    )
    return Section("Two tracers in one scan", (table,))


def _training(results: Results) -> Section:
    rows: list[tuple[Any, ...]] = []
    for name, numbers in results.items():
        if "steps" in numbers:
            steps = numbers["steps"]
            shown = " + ".join(map(str, steps)) if isinstance(steps, list) else str(steps)
            rows.append((name, int(numbers["parameters"]), shown, numbers.get("seconds")))
    note = "All networks of a family had the same time on the same samples."
    return Section("Training", (Table("What was trained", ("network", "parameters", "steps", "s"), rows, note, True),))
