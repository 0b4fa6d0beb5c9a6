"""What the report of the suite `learned` shows, first whether the guide alone would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..sections import Cell, Interval, Picture, Section, Table, Text
from ..statistics import Comparison, bootstrap_interval, holm, paired_over_seeds, seed_interval, t_interval
from ..suite import Options, Results
from .scoring import contrasts
from .units import CONTROLS, REFERENCE, Work, works

Numbers = Mapping[str, Any]
_LEVEL = 0.05
_TRAINED = 200  # steps below which a control is no control
_LESIONS = (
    ("hot", True, "hot, in guide"),
    ("hot", False, "hot, not in guide"),
    ("cold", True, "cold, in guide"),
    ("cold", False, "cold, not in guide"),
)


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return the sections of a report."""
    return [section for work in works(options) for section in _of(results, work)]


def _of(results: Results, work: Work) -> list[Section]:
    rows = {name: _numbers(results, names) for name, names in _names(work).items()}
    rows = {name: found for name, found in rows.items() if found}
    first: list[Table | Picture | Text] = [Text("Is the task accepted?", [acceptance(rows, work.size.budget.steps)])]
    if rows:
        first += [errors(rows, work), lesions(rows), costs(rows), tuning(rows)]
        first += _pictures(results, work)
    changed = [table for table in (_changes(results, work), _notes(results, work)) if table is not None]
    found = [Section(work.task.title, first)]
    return found + ([Section(f"{work.task.title}: where things change", changed)] if changed else [])


def _names(work: Work) -> dict[str, list[str]]:
    """The units of every method, by its name: one, or those of the seeds."""
    found = {name: [work.name(name)] for name in work.methods}
    found |= {network.name: work.seeds_of(network) for network in work.networks}
    found |= {f"shipped-{name}": [work.name(f"shipped-{name}")] for name in work.shipped}
    return found | {method.name: [work.name(method.name)] for method in work.own}


def _numbers(results: Results, names: Sequence[str]) -> list[Numbers]:
    return [results[name] for name in names if name in results]


# ---- the first table -------------------------------------------------------------------------------------------------


def acceptance(rows: Mapping[str, Sequence[Numbers]], steps: int) -> str:
    """Return whether the guide-only control is clearly worse than MAP-RDP, in a sentence.

    Accepted where the whole 95 % interval of the difference in NRMSE lies above 0, and the paired test over subjects
    rejects equality at 5 %; of the two controls the better one counts. Not decided where they were hardly trained.

    Args:
        steps : of a training.
    """
    missing = [name for name in (REFERENCE, *CONTROLS) if not rows.get(name)]
    if missing:
        return f"NOT DECIDED: '{missing[0]}' has no result yet."
    best = min(CONTROLS, key=lambda name: float(_errors(rows[name]).mean()))
    control, reference = (_errors(rows[name]) for name in (best, REFERENCE))
    found = paired_over_seeds(control, reference)
    a, b, d = control.mean(), reference.mean(), found.difference
    said = (
        f"the guide alone, without where the counts are, has an NRMSE of {a:.3f} ({rows[best][0]['title']}), and "
        f"MAP-RDP, without the guide, {b:.3f}: a difference of {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}, "
        f"{d.n} subjects, p = {found.p:.2g})"
    )
    if steps < _TRAINED:
        return f"NOT DECIDED: {said}, but {steps} steps hardly train the control; it takes a full run."
    if is_accepted(found):
        return f"ACCEPTED: {said}. What a method gains here over MAP-RDP is not what the guide alone tells."
    return f"NOT ACCEPTED: {said}. Gains over MAP-RDP may come from the guide alone."


def is_accepted(found: Comparison) -> bool:
    """Whether a comparison of guide-only with MAP-RDP says that the task is accepted."""
    return bool(found.difference.low > 0 and found.p < _LEVEL)


def _errors(parts: Sequence[Numbers], key: str = "nrmse") -> np.ndarray:
    """(seeds, subjects)."""
    return np.array([part[key] for part in parts], float)


def errors(rows: Mapping[str, Sequence[Numbers]], work: Work) -> Table:
    """Return the table of errors: every method against MAP-RDP and against the guide alone, paired over subjects."""
    order = _order(rows)
    others = [name for name in (REFERENCE, CONTROLS[0]) if name in rows]
    against = {
        other: {name: paired_over_seeds(_errors(rows[name]), _errors(rows[other])) for name in order if name != other}
        for other in others
    }
    p = {other: dict(zip(found, holm([one.p for one in found.values()]))) for other, found in against.items() if found}
    lines: list[list[Cell]] = []
    for name in order:
        parts = rows[name]
        line: list[Cell] = [_title(parts), seed_interval(_errors(parts)).mean]
        for other in (REFERENCE, CONTROLS[0]):
            found = against.get(other, {}).get(name)
            line += [None, None] if found is None else [found.difference, _p(p[other][name])]
        line += [
            seed_interval(_errors(parts, "ssim")).mean,
            seed_interval(_errors(parts, "another's guide")).mean if "another's guide" in parts[0] else None,
        ]
        lines.append(line)
    columns = ("method", "NRMSE", "- MAP-RDP", "p", "- guide only", "p ", "SSIM", "NRMSE, another's guide")
    budget = work.size.budget
    note = (
        "* sees the guide. Intervals of 95 %: over subjects, and where there are several trainings over these as well. "
        "p: permutation test of pairs over subjects, corrected after Holm in each column. Every network had "
        f"{budget.steps} steps of {budget.batch_size} scans, the same batches with the same noise, none was trained "
        f"before, and up to {budget.trials} learning rates were tried for each ({budget.trial_steps} steps); what is "
        "not trained had as many trials of its settings on validation scans. The networks keep the weights of the "
        "best of four validations. The background is estimated from the scan. 'guide only' is the U-Net of "
        "'U-Net after OSEM' with a uniform image of the right sum in the place of the OSEM image; it is there with "
        "four times the steps as well, so that it does not look weak for want of training."
    )
    return Table("Error, methods from the best to the worst", columns, lines, note)


def costs(rows: Mapping[str, Sequence[Numbers]]) -> Table:
    """Return the table of what a method costs, and how much its trainings differ."""
    lines: list[list[Cell]] = []
    for name in _order(rows):
        parts = rows[name]
        between = _rounded(seed_interval(_errors(parts)).between_seeds) if len(parts) > 1 else None
        trainings = len(parts) if "rate" in parts[0] else None
        seconds = _rounded(float(np.mean([part["seconds"] for part in parts])))
        lines.append(
            [_title(parts), str(parts[0]["kind"]), seconds, int(parts[0].get("parameters", 0)), trainings, between]
        )
    columns = ("method", "kind", "seconds for a scan", "learned numbers", "trainings", "SD of NRMSE between trainings")
    return Table("What it costs", columns, lines)


def _order(rows: Mapping[str, Sequence[Numbers]]) -> list[str]:
    return sorted(rows, key=lambda name: float(_errors(rows[name]).mean()))


def _title(parts: Sequence[Numbers]) -> str:
    return f"{parts[0]['title']}{' *' if parts[0]['sees guide'] else ''}"


def lesions(rows: Mapping[str, Sequence[Numbers]]) -> Table:
    """Return the table of lesions: recovered contrast, hot and cold, in the guide and not."""
    lines = []
    for name in _order(rows):
        parts = rows[name]
        line: list[Cell] = [_title(parts)]
        line += [lesion_interval(parts, kind, shown) for kind, shown, _ in _LESIONS]
        line += [decoy_interval(parts), _region_error(parts)]
        lines.append(line)
    note = (
        "Contrast: (lesion - ring around it) / ring of the truth; here the sum over lesions in the image over that in "
        "truth: 1 is all of it, 0 none. n: lesions; trainings are averaged for each; intervals by bootstrap over "
        "subjects. Decoys: lesions of the guide alone, root mean square of the contrast that they get in the image. "
        "Regions: root mean square of the relative error of the means of regions with 10 voxels or more."
    )
    columns = ("method", *(title for _, _, title in _LESIONS), "decoys", "regions")
    return Table("Contrast of lesions, and regions", columns, lines, note)


def lesion_interval(parts: Sequence[Numbers], kind: str, in_guide: bool) -> Interval | None:
    """Return the contrast of lesions of a kind over that in truth, its interval over subjects, and n, the lesions.

    A ratio of sums over lesions: one that has hardly any contrast has hardly any weight.
    """
    found = [contrasts(part["lesions"], kind, in_guide) for part in parts]
    if not found or not len(found[0]):
        return None
    values = np.mean(found, 0)  # over trainings
    return _by_subject(values, lambda sums: float(sums[:, 0].sum() / sums[:, 1].sum()))


def decoy_interval(parts: Sequence[Numbers]) -> Interval | None:
    """Return the root mean square of the contrast that decoys have in the image and not in truth."""
    found = [contrasts(part["decoys"], "none", True) for part in parts]
    if not found or not len(found[0]):
        return None
    values = np.array(found)
    squares = ((values[..., 1] - values[..., 2]) ** 2).mean(0)
    rows = np.stack([values[0, :, 0], squares, np.ones_like(squares)], -1)
    return _by_subject(rows, lambda sums: float(np.sqrt(sums[:, 0].sum() / sums[:, 1].sum())))


def _by_subject(rows: np.ndarray, statistic: Callable[[np.ndarray], float]) -> Interval:
    """A statistic of the sums of all columns but the first, which is the subject's number; bootstrap over subjects."""
    sums = np.array([rows[rows[:, 0] == s, 1:].sum(0) for s in np.unique(rows[:, 0])])
    made = bootstrap_interval(sums, statistic, n_resamples=2000)
    return Interval(made.value, made.low, made.high, len(rows))


def _region_error(parts: Sequence[Numbers]) -> Interval | None:
    names = list(parts[0]["regions"])
    if not names:
        return None
    table = np.array([[part["regions"][name] for name in names] for part in parts], float)  # None becomes NaN
    seen = ~np.isnan(table).all((0, 1))
    return t_interval(np.sqrt(np.nanmean(table[..., seen] ** 2, (0, 1)))) if seen.any() else None


def tuning(rows: Mapping[str, Sequence[Numbers]]) -> Table:
    """Return the table of what was chosen on validation scans, and where a choice lies at the edge of its search."""
    lines: list[list[Cell]] = []
    for parts in rows.values():
        first = parts[0]
        if "tuned" in first:
            tuned = first["tuned"]
            said = ", ".join(f"{name} {value:.3g}" for name, value in tuned["settings"].items())
            chosen = f"{said}, iteration {tuned['iteration']}".lstrip(", ")
            lines.append([first["title"], len(tuned["trials"]), chosen, ", ".join(tuned["edges"]) or "none"])
        elif "rate" in first:
            tuned = first["rate"]["tuned"]
            edges = ", ".join(tuned["edges"]) or "none"
            lines.append([first["title"], len(tuned["trials"]), f"learning rate {first['rate']['rate']:.3g}", edges])
    note = "Edge: the best value is the smallest or the largest that was tried, and a better one may lie beyond."
    return Table("What validation scans chose", ("method", "trials", "chosen", "at the edge"), lines, note)


# ---- where things change ---------------------------------------------------------------------------------------------


def _changes(results: Results, work: Work) -> Table | None:
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, names in _names(work).items():
        first = _numbers(results, names)
        own = work.name(name, "changes")
        if first and own in results:
            found[name] = (first[0]["title"], results[own]["nrmse"])
        elif first and "changes" in first[0]:
            found[name] = (first[0]["title"], first[0]["changes"])
    if not found:
        return None
    titles = {change.name: change.title for change in work.changes}
    usual, others = next(iter(titles)), list(titles)[1:]
    lines: list[list[Cell]] = []
    for title, values in found.values():
        base = np.array(values[usual], float)
        line: list[Cell] = [title, seed_interval(base).mean]
        line += [paired_over_seeds(np.array(values[name], float), base).difference for name in others]
        lines.append(line)
    note = (
        "NRMSE as trained, and its change (positive: worse) over the same subjects, with 95 % intervals. Where truth "
        "or voxels change, so does the scan: compare with MAP-RDP in the same column."
    )
    return Table(
        "NRMSE, and how it changes", ("method", titles[usual], *(titles[name] for name in others)), lines, note
    )


def _notes(results: Results, work: Work) -> Table | None:
    """How many scans of each change get a note, with the cards of the weights that come with emrecon and new ones."""
    from emrecon.unrolled import Card, pretrained_path, read_card

    measured = work.name("statistics")
    if measured not in results:
        return None
    found = results[measured]["changes"]
    cards = {f"{name}, as it comes with emrecon": read_card(pretrained_path(name)) for name in work.shipped}
    cards["trained here, with the guide"] = Card("any", data={"statistics": results[measured]["range"]})
    lines = [[title, *(noted(card, found[change.name]) for change in work.changes)] for title, card in cards.items()]
    note = "How many scans `emrecon reconstruct` notes as outside of what the weights were trained on."
    return Table("Notes", ("weights", *(change.title for change in work.changes)), lines, note)


def noted(card: Any, values: Mapping[str, Sequence[float]]) -> str:
    """Return how many of the scans get a note by a card, such as "3 of 20"."""
    import torch

    from emrecon.unrolled import scan_notes

    n = len(next(iter(values.values())))
    rows = [{name: torch.tensor(own[i]) for name, own in values.items()} for i in range(n)]
    return f"{sum(bool(scan_notes(card, row)) for row in rows)} of {n}"


# ---- pictures --------------------------------------------------------------------------------------------------------


def _pictures(results: Results, work: Work) -> list[Picture]:
    from matplotlib.figure import Figure

    scans = results.folder(work.name("scans")) / "shown.npz"
    if not scans.exists():
        return []
    with np.load(scans, allow_pickle=False) as file:
        truth, guide = file["truth"], file["guide"]
    columns: dict[str, np.ndarray] = {"truth": truth, "guide": guide}
    for names in _names(work).values():
        path = results.folder(names[0]) / "shown.npz"
        if names[0] in results and path.exists():
            with np.load(path, allow_pickle=False) as file:
                columns[str(results[names[0]]["title"])] = file["images"]
    per_row = 6
    n_rows = -(-len(columns) // per_row)
    figure = Figure(figsize=(1.75 * per_row, 2.0 * n_rows * len(truth)))
    axes = figure.subplots(n_rows * len(truth), per_row, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for subject in range(len(truth)):
        black = float(np.quantile(truth[subject], 0.999))
        for k, (title, images) in enumerate(columns.items()):
            axis = axes[subject * n_rows + k // per_row][k % per_row]
            image = images[subject][:, :, images[subject].shape[2] // 2].T
            window = {"vmin": 0, "vmax": float(image.max()) if title == "guide" else black}
            axis.imshow(image, cmap="gray" if title == "guide" else "gray_r", **window)
            axis.set_title(title, fontsize=8)
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.96, 0.04, 0.14)
    note = "Test scans; truth and images in one window, from 0 to the 99.9th percentile of the truth."
    return [Picture.of(figure, "Two test scans", note)]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
