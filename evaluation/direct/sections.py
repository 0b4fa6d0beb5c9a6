"""What the report of the suite `direct` shows: errors by region, by network, by change, and who wins where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emrecon.recon import area_under_curve

from ..sections import Interval, Section, Table, Text
from ..statistics import compare_paired, t_interval
from ..suite import Options, Results
from .families import CHANGES, SPECTNET, TORSOS

_PUBLISHED = {"hot": (0.68, 1.72), "background": (0.04, 0.10)}
_FALSE = 1  # invented lesions that make an image one to warn of


def sections_of(results: Results, options: Options) -> Sequence[Section]:
    """Return the sections of all families."""
    made = (_spectnet, _torsos, _changes, _hallucinations, _noise, _sparse, _training)
    return [section(results) for section in made]


def _subjects(results: Results, unit: str) -> Mapping[str, Sequence[Any]]:
    found: Mapping[str, Sequence[Any]] = results[unit]["subjects"]
    return found


def _mean(values: Sequence[Any]) -> Interval | None:
    there = [float(v) for v in values if v is not None]
    return t_interval(there) if there else None


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
    rows = []
    for entry in TORSOS.entries:
        numbers = _subjects(results, f"deeppet-changes/{entry.name}")
        fit, invented = (np.concatenate([numbers[f"{name}: {key}"] for name in CHANGES]) for key in ("fit", "invented"))
        wrong = invented >= _FALSE
        area = None
        if 1 < wrong.sum() < len(wrong) - 1:
            found = area_under_curve(fit[~wrong], fit[wrong])
            area = Interval(float(found.value), float(found.low), float(found.high), len(wrong))
        rows.append((entry.title, float(wrong.mean()), area))
    table = Table(
        "Does the misfit of the data tell images with invented lesions?",
        ("method", "images with an invented lesion", "area under the curve of the misfit"),
        rows,
        "Misfit: Poisson deviance of the measured data from what the image would have made of them. 0.5 tells nothing.",
    )
    return Section("Invented lesions", (table,))


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


def _sparse(results: Results) -> Section:
    numbers = _subjects(results, "sparse/compared")
    data = [
        (name, _mean(numbers[f"projections, {name}: nrmse"]), _mean(numbers[f"projections, {name}: ssim"]))
        for name in ("interpolated", "network")
    ]
    names = {"sparse": "30 views", "interpolated": "interpolated", "network": "completed by the network"}
    images = [
        (title, _mean(numbers[f"images, {name}: nrmse"]), _mean(numbers[f"images, {name}: ssim"]))
        for name, title in (*names.items(), ("all views", "60 measured views"))
    ]
    spread = _mean(numbers["projections, network: squared error over variance"])
    assert spread is not None
    said = (
        f"Squared error of predicted bins over the variance that the network states: {spread.value:.2f} (1 is honest)."
    )
    return Section(
        "SPECT with 30 of 60 views",
        (
            Table("Views that were not measured", ("views", "NRMSE", "SSIM"), data),
            Table("OSEM, 5 passes, of", ("data", "NRMSE", "SSIM"), images),
            Text("", (said,)),
        ),
    )


def _training(results: Results) -> Section:
    rows: list[tuple[Any, ...]] = []
    for name, numbers in results.items():
        if "steps" in numbers:
            steps = numbers["steps"]
            shown = " + ".join(map(str, steps)) if isinstance(steps, list) else str(steps)
            rows.append((name, int(numbers["parameters"]), shown, numbers.get("seconds")))
    note = "All networks of a family had the same time on the same samples."
    return Section("Training", (Table("What was trained", ("network", "parameters", "steps", "s"), rows, note, True),))
