"""PETRIC: how soon each engine comes within the challenge's thresholds of the converged image, on three kinds of scans.

The challenge (SyneRBI, 2024) gives scans, the relative difference prior and its weight, and asks for the solution as
fast as possible. Here three simulated scans stand for its kinds, each also with a tenth of the counts; the objective,
the start, the metrics and the thresholds are PETRIC's.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors.core.files import atomic_path

from ..sections import Picture, Section, Table, Text
from ..suite import Options, Results, Unit, folder_of
from .petric_race import ENGINES, race, solve
from .petric_scans import load_replica, replica, replica_names, save_replica

_REFERENCE = "reference.npy"
_PASSES = {"quick": 40.0, "full": 40.0}


def petric_units(options: Options) -> list[Unit]:
    """Return the work: each scan with its reference solution, and each engine on it.

    Size "quick" is one small scan with SVRG and L-BFGS-B; "full" are three scans, twice, with all engines.
    """
    names = replica_names() if options.size == "full" else replica_names()[:1]
    engines = tuple(ENGINES) if options.size == "full" else ("svrg", "lbfgsb")
    units = []
    for name in names:
        scan = _scan(name)
        units.append(Unit(scan, functools.partial(_make, name, options.size), arguments={"size": options.size}))
        for engine in engines:
            run = functools.partial(_run, name, engine, options.size)
            units.append(Unit(f"petric/{name}/{engine}", run, (scan,), {"size": options.size}))
    return units


def petric_sections(results: Results, options: Options) -> list[Section]:
    """Return the report: passes and seconds to the thresholds, the errors' curves, and the scans."""
    scans = [name for name in replica_names() if _scan(name) in results]
    raced = {
        name: {e: results[f"petric/{name}/{e}"] for e in ENGINES if f"petric/{name}/{e}" in results} for name in scans
    }
    if not any(raced.values()):
        return []
    parts: list[Table | Picture | Text] = [Text("What is measured", _WORDS)]
    parts += [_table(raced, "passes", "Passes over the data to PETRIC's thresholds", _PASSES_NOTE)]
    parts += [_table(raced, "processor seconds", "Processor seconds to PETRIC's thresholds", _SECONDS_NOTE)]
    parts += [_curves(raced), _about({name: results[_scan(name)] for name in scans})]
    return [Section("PETRIC: time to the converged image", parts)]


def _scan(name: str) -> str:
    return f"petric/{name}/scan"


def _make(name: str, size: str, folder: Path) -> Mapping[str, Any]:
    save_replica(replica(name, size), folder, size)
    scan = load_replica(folder)
    found = solve(scan)
    with atomic_path(folder / _REFERENCE) as path, path.open("wb") as stream:
        np.save(stream, found.image)
    return {
        **scan.facts,
        "title": scan.title,
        "|x g| at the reference, of that at the start": found.residual.product,
        "min(g, 0) where x = 0": found.residual.negative,
        "last change, of the thresholds": found.change,
    }


def _run(name: str, engine: str, size: str, folder: Path) -> Mapping[str, Any]:
    own = folder_of(folder, f"petric/{name}/{engine}", _scan(name))
    return race(load_replica(own), ENGINES[engine], np.load(own / _REFERENCE), _PASSES[size])


def _table(raced: Mapping[str, Mapping[str, Any]], what: str, title: str, note: str) -> Table:
    """A row for each engine, a column for each scan; what was not reached is said."""
    rows = []
    for engine in _engines(raced):
        cells: list[str | float | None] = [ENGINES[engine].title]
        for found in raced.values():
            if engine not in found:
                cells.append(None)
            elif found[engine]["passes"] is None:
                row = found[engine]["curve"][-1]
                cells.append(f"> {row[0]:.0f}" if what == "passes" else f"> {row[2]:.1f}")
            else:
                cells.append(round(float(found[engine][what]), 1))
        rows.append(cells)
    return Table(title, ("engine", *raced), rows, note)


def _engines(raced: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    return [engine for engine in ENGINES if any(engine in found for found in raced.values())]


def draw_curves(raced: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a figure of the worst of PETRIC's errors, as a part of its threshold, against passes: a panel a scan."""
    from matplotlib.figure import Figure

    n = len(raced)
    columns = min(n, 3)
    rows = -(-n // columns)
    figure = Figure(figsize=(4.2 * columns + 2.4, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (name, found) in zip(axes, raced.items()):
        for number, engine in enumerate(ENGINES):
            if engine not in found:
                continue
            curve = np.array(found[engine]["curve"])
            worst = np.max(curve[:, 3:6] / (0.01, 0.01, 0.005), axis=1)
            style = ("-", "--", ":")[number // 10]
            axis.plot(curve[:, 0], worst, style, color=f"C{number % 10}", lw=1.4, label=ENGINES[engine].title)
            if found[engine]["passes"] is not None:
                at = np.searchsorted(curve[:, 0], found[engine]["passes"] - 1e-3)
                axis.plot(curve[at, 0], worst[at], "o", color=f"C{number % 10}", ms=5)
        axis.axhline(1.0, color="k", lw=0.8, ls=":")
        axis.set(yscale="log", title=name, xlim=(0, 41), ylim=(0.05, 300))
    for axis in axes[n:]:
        axis.set_axis_off()
    figure.supxlabel("passes over the data")
    figure.supylabel("worst error, as a part of its threshold")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    return figure


def _curves(raced: Mapping[str, Mapping[str, Any]]) -> Picture:
    note = "The largest of the errors of object, background and regions, each divided by its threshold; dots: reached."
    return Picture.of(draw_curves(raced), "Errors against passes", note)


def _about(scans: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = ("scan", "counts", "background's share", "voxels", "bins", "subsets", "beta", "residual", "last change")
    rows: list[Sequence[str | float | int | None]] = []
    for name, facts in scans.items():
        voxels = " x ".join(str(n) for n in facts["voxels"])
        rows.append(
            (
                f"{name}: {facts['title']}",
                float(f"{facts['counts']:.3g}"),
                round(facts["background's share of the counts"], 2),
                voxels,
                facts["bins"],
                facts["subsets"],
                float(f"{facts['beta']:.3g}"),
                float(f"{facts['|x g| at the reference, of that at the start']:.2g}"),
                float(f"{facts['last change, of the thresholds']:.2g}"),
            )
        )
    return Table("The scans and their reference solutions", columns, rows, _ABOUT_NOTE)


_WORDS = (
    "All engines minimise the same objective, a Poisson likelihood and the relative difference prior (gamma = 2, "
    "epsilon = max(start) / 1000, kappa = sqrt(H 1)), from the same start, one pass of OSEM, as in the PETRIC "
    "challenge (SyneRBI, 2024). An engine has arrived at the first of ten iterates in a row with root mean square "
    "errors of at most 0.01 of the background's mean in the object and in the background, and errors of every "
    "region's mean of at most 0.005, all against the converged image. The challenge evaluates after every update "
    "of a subset, this benchmark after every pass, which is stricter: ten passes instead of ten updates.",
    "The scans are simulated: activity on a finer grid, blurred by a resolution that the model does not have, crystal "
    "efficiencies, scatter and randoms. Those with a tenth of the counts are bootstrapped from the full ones: events "
    "drawn with replacement. PDHG and SPDHG take the prior by its proximal map, 6 and 2 steps of separable parabolas.",
)
_PASSES_NOTE = (
    "A pass is a projection and a back projection of all data, counted at the projector: the start, anchors, line "
    "searches and looks at the objective are in it. '> n' did not arrive in n passes."
)
_SECONDS_NOTE = (
    "Of one processor core, start included, errors left out; time of the processor rather than of the clock, so that "
    "other work on the machine counts little."
)
_ABOUT_NOTE = (
    "Residual: |x g| at the reference, of |g| at the start times max x. Last change: the largest of PETRIC's errors "
    "between 30 passes of SVRG and the L-BFGS-B in double precision that followed, as a part of its threshold."
)
