"""How fast every engine gets to the solution: passes over the data and seconds until the PETRIC thresholds are met.

    python benchmarks/convergence.py [--only pet|spect] [--passes 40]

Two 3-D scans of a body phantom are simulated, one PET (non-TOF, all oblique planes) and one SPECT (attenuation and
collimator response). The objective is the Poisson likelihood with the relative difference prior. The reference is what
SciPy's L-BFGS-B finds in float64, from another start and by other code than the engines. Every engine starts from one
pass of OSEM, which is counted. One pass is a projection forth and back of all data, counted at the projector, so that
anchors, line searches and everything else an engine does are in it; evaluating the rule is left out of the time.

The rule: relative to the reference's mean in the background, root mean square errors in the object and in the
background of at most 0.01 and errors of the regions' means of at most 0.005, ten iterates in a row; told is the first
of them. Of BSREM, whose steps must shrink, several relaxations are tried and the best is told, too.

For total variation, SPDHG is compared with a long run of PDHG on the SPECT scan.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from emrecon import sims
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Projector,
    SPECTGeometry,
    SPECTProjector,
    attenuation_factors,
    collimator,
)
from emrecon.recon import (
    BarzilaiBorwein,
    Constant,
    EMPreconditioner,
    Iterate,
    PetricRule,
    PoissonLikelihood,
    RelativeDifference,
    Relaxation,
    SmoothPrior,
    TotalVariation,
    bsrem,
    kkt_residual,
    lbfgsb,
    lbfgsb_scipy,
    map_em,
    nrmse,
    osem,
    osl,
    pdhg,
    run,
    saga,
    spdhg,
    svrg,
)

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "convergence.png"


class Counting(Projector):
    """A projector that counts the views it projects, forth and back; its subsets count for it."""

    def __init__(self, projector: Projector, views: int | None = None, tally: list[float] | None = None) -> None:
        self.projector, self.in_shape, self.out_shape = projector, projector.in_shape, projector.out_shape
        self.views = projector.out_shape[0] if views is None else views
        self.tally = [0.0] if tally is None else tally

    @property
    def passes(self) -> float:
        """How often all data were projected forth and back."""
        return self.tally[0]

    def _count(self) -> None:
        self.tally[0] += 0.5 * self.out_shape[0] / self.views

    def _forward(self, x: np.ndarray) -> np.ndarray:
        self._count()
        return self.projector._forward(x)

    def _adjoint(self, y: np.ndarray) -> np.ndarray:
        self._count()
        return self.projector._adjoint(y)

    def subset(self, k: int, n: int) -> Counting:
        """Return the projector of the views k, k + n, ..., which counts for this one."""
        return Counting(self.projector.subset(k, n), self.views, self.tally)


@dataclass(frozen=True, eq=False)
class Problem:
    """A scan to reconstruct: the likelihood of all data, the prior, and where images are compared."""

    name: str
    grid: ImageGrid
    likelihood: PoissonLikelihood
    projector: Counting
    prior: SmoothPrior
    tv: float
    n_subsets: int
    start: np.ndarray
    start_seconds: float
    object_mask: np.ndarray
    background_mask: np.ndarray
    regions: list[np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)

    def rule(self, reference: np.ndarray) -> PetricRule:
        """Return the stopping rule against a reference."""
        return PetricRule(reference, self.object_mask, self.background_mask, self.regions)


def pet_problem() -> Problem:
    """Thirteen rings, all ring differences, 40 M trues, randoms and scatter of 0.8 of them."""
    scanner = PETScanner.polygon(
        sides=40,
        crystals_per_side=10,
        radius=400,
        depth=7,
        crystal_pitch=6.2,
        rings=13,
        ring_pitch=6.0,
        name="13 rings",
    )
    sinogram = PETSinogram(scanner, max_ring_difference=12, n_radial=125)
    grid = ImageGrid((96, 80, 25), (4.0, 4.0, 3.0))
    phantom = sims.nema_iec_body(hot_ratio=4)
    system = PETProjector(grid, sinogram)
    mu = phantom.attenuation(grid, 511).astype(np.float32)
    factors = (attenuation_factors(system, mu) * sinogram.multiplicity()).astype(np.float32)
    activity = gaussian_filter(phantom.activity(grid), [0.5, 0.5, 0.6]).astype(np.float32)
    trues = system(activity) * factors
    scale, real = 4e7 / trues.sum(), sinogram.multiplicity() > 0
    background = (0.5 * scale * gaussian_filter(trues, [5, 15, 0]) + 0.3 * 4e7 / real.sum()) * real
    return _problem("PET", grid, phantom, system, factors * scale, background, activity, 25, 3.0, 20.0)


def spect_problem() -> Problem:
    """120 views, low-energy high-resolution holes, 6 M counts."""
    grid = ImageGrid((72, 64, 32), (5.0, 5.0, 5.0))
    camera = SPECTGeometry.circular(n_views=120, radius=230, n_bins=(80, 32), pixel_size=5.0)
    phantom = sims.nema_iec_body(hot_ratio=4)
    mu = phantom.attenuation(grid, 140.5).astype(np.float32)
    system = SPECTProjector(grid, camera, mu, collimator("siemens-lehr").response(140.5))
    activity = phantom.activity(grid).astype(np.float32)
    trues = system(activity)
    scale = 6e6 / trues.sum()
    background = 0.15 * 6e6 / trues.size * np.ones_like(trues)
    return _problem("SPECT", grid, phantom, system, scale * np.ones_like(trues), background, activity, 24, 1.0, 2.0)


def _problem(
    name: str,
    grid: ImageGrid,
    phantom: sims.Phantom,
    system: Projector,
    factors: np.ndarray,
    background: np.ndarray,
    activity: np.ndarray,
    n_subsets: int,
    beta: float,
    tv: float,
) -> Problem:
    counting = Counting(system)
    model = AcquisitionModel(counting, factors.astype(np.float32), background.astype(np.float32))
    counts = sims.poisson(model(activity), seed=1).astype(np.float32)
    likelihood = PoissonLikelihood(counts, model)
    for part in [likelihood, *(likelihood.subset(k, n_subsets) for k in range(n_subsets))]:
        part.value_and_gradient(activity)  # plans and compiled code
    begun = time.perf_counter()
    start = run(osem(likelihood, n_subsets=n_subsets), 1)
    seconds = time.perf_counter() - begun
    prior = beta * RelativeDifference(2.0, epsilon=1e-3 * float(start.max()), voxel_size=grid.voxel_size)
    x, y, z = grid.coordinates()
    layout = sims.nema_layout(4)
    body = phantom.attenuation(grid, 511) > 0.05
    background_mask = np.zeros(grid.shape, bool)
    for a, b in layout["background_centres"]:
        background_mask |= (np.hypot(x - a, y - b) <= 15) & (np.abs(z) <= 20)
    regions = [
        np.asarray((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2 <= (d / 2) ** 2)
        for (a, b, c), d in zip(layout["centres"], layout["diameters"], strict=True)
    ]
    facts = {"prior": repr(prior), "subsets": n_subsets, "counts": float(counts.sum()), "bins": int(counts.size)}
    return Problem(
        name, grid, likelihood, counting, prior, tv, n_subsets, start, seconds, body, background_mask, regions, facts
    )


Engine = Callable[[Problem, list[PoissonLikelihood]], Iterator[Iterate]]

ENGINES: dict[str, Engine] = {
    "SVRG": lambda p, parts: svrg(parts, p.prior, p.start),
    "SVRG, Barzilai-Borwein": lambda p, parts: svrg(parts, p.prior, p.start, step=BarzilaiBorwein()),
    "SAGA": lambda p, parts: saga(parts, p.prior, p.start),
    **{
        f"BSREM, 1 / ({decay:g} k + 1)": lambda p, parts, decay=decay: bsrem(
            parts, p.prior, p.start, step=Relaxation(1.0, decay)
        )
        for decay in (0.1, 0.3, 1.0)
    },
    "BSREM, D = x / s, 1 / (0.3 k + 1)": lambda p, parts: bsrem(
        parts, p.prior, p.start, step=Relaxation(1.0, 0.3), preconditioner=EMPreconditioner()
    ),
    "SVRG, D = x / s": lambda p, parts: svrg(
        parts, p.prior, p.start, step=Constant(1.0), preconditioner=EMPreconditioner()
    ),
    "L-BFGS (ours)": lambda p, parts: lbfgsb(p.likelihood, p.prior, p.start),
    "MAP-EM (De Pierro)": lambda p, parts: map_em(p.likelihood, p.prior, p.start),
    "one step late": lambda p, parts: osl(p.likelihood, p.prior, p.start),
}


def measure(problem: Problem, name: str, reference: np.ndarray, n_passes: int) -> dict[str, Any]:
    """Run an engine until the rule ends it or the passes are used up; return where and when it was within."""
    rule, rows = problem.rule(reference), []
    parts = [problem.likelihood.subset(k, problem.n_subsets) for k in range(problem.n_subsets)]
    for part in [problem.likelihood, *parts]:
        part.sensitivity_like(problem.start)
    problem.projector.tally[0], seconds = 1.0, problem.start_seconds
    iterates = ENGINES[name](problem, parts)
    while problem.projector.passes < n_passes:
        begun = time.perf_counter()
        iterate = next(iterates)
        seconds += time.perf_counter() - begun
        passes = round(problem.projector.passes, 2)
        done = rule(iterate)
        errors = rule.history[-1]
        rows.append([passes, round(seconds, 3), *(float(f"{value:.4g}") for value in errors[1:])])
        if done:
            break
    within = [row for row, errors in zip(rows, rule.history, strict=True) if rule.is_within(errors)]
    held = done and rule.reached is not None
    first = (
        next(row for row, e in zip(rows, rule.history, strict=True) if e.iteration == rule.reached) if held else None
    )
    return {
        "passes": first[0] if first else None,
        "seconds": first[1] if first else None,
        "first within": within[0][:2] if within else None,
        "curve": rows,
    }


def reference_of(problem: Problem, n_iterations: int, folder: Path | None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return SciPy's solution, and what is known of it."""
    kept = None if folder is None else folder / f"convergence_{problem.name}.npy"
    begun = time.perf_counter()
    if kept is not None and kept.exists():
        reference = np.load(kept)
    else:
        start = problem.likelihood.ones_image().astype(np.float64) * float(problem.start.mean())
        reference = lbfgsb_scipy(problem.likelihood, problem.prior, start, n_iterations=n_iterations, tolerance=1e-14)
        if kept is not None:
            np.save(kept, reference)
    whole = problem.likelihood + problem.prior
    residual = kkt_residual(reference, whole.gradient(reference), whole.gradient(problem.start.astype(np.float64)))
    facts = {
        "seconds to make or load": time.perf_counter() - begun,
        "objective": float(whole.value(reference)),
        "kkt": list(residual),
    }
    return reference, facts


def total_variation(problem: Problem, n_long: int, n_short: int) -> dict[str, Any]:
    """SPDHG against a long run of PDHG, with the same total variation."""
    prior = problem.tv * TotalVariation(problem.grid.voxel_size)

    def objective(x: np.ndarray) -> float:
        return float(problem.likelihood.value(x) + prior.value(x))

    begun = time.perf_counter()
    long = run(pdhg(problem.likelihood, prior, problem.start), n_long)
    seconds = time.perf_counter() - begun
    best, rows = objective(long), []
    for iterate in islice(spdhg(problem.likelihood, prior, problem.start, problem.n_subsets), n_short):
        rows.append([iterate.iteration, float(nrmse(iterate.image, long)), objective(iterate.image) - best])
    return {"pdhg passes": n_long, "pdhg seconds": seconds, "weight": problem.tv, "objective": best, "spdhg": rows}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the object's error against passes, a panel for each scan."""
    figure = Figure(figsize=(5.4 * len(found) + 2.6, 4.6), layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (name, results) in zip(axes, found.items(), strict=True):
        for number, (engine, result) in enumerate(results["engines"].items()):
            curve = np.array(result["curve"])
            colour = f"C{number}" if number < 10 else "k"
            (line,) = axis.plot(curve[:, 0], curve[:, 2], label=engine, lw=1.5, color=colour)
            if result["passes"]:
                at = curve[curve[:, 0] == result["passes"]][0]
                axis.plot(at[0], at[2], "o", color=line.get_color())
        axis.axhline(0.01, color="k", lw=0.8, ls=":")
        axis.set(yscale="log", xlabel="passes over the data", ylabel="error in the object", title=name)
        axis.set(xlim=(0, 41), ylim=(5e-4, 0.5))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=110)


def table(name: str, results: dict[str, Any]) -> Table:
    """Return the passes and seconds of every engine."""
    rows = Table("engine", "passes", "seconds", "error in the object at the end", title=name)
    for engine, result in results["engines"].items():
        last = result["curve"][-1]
        if result["passes"]:
            rows.add_row(engine, f"{result['passes']:g}", f"{result['seconds']:.1f}", f"{last[2]:.4f}")
        else:
            rows.add_row(engine, f"> {last[0]:g}", f"> {last[1]:.1f}", f"{last[2]:.4f}")
    return rows


def main() -> None:
    """Run the benchmark and write table, numbers and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("pet", "spect"))
    parser.add_argument("--engines", nargs="*", help="names from the table")
    parser.add_argument("--passes", type=int, default=40)
    parser.add_argument("--reference", type=int, default=400, help="iterations of SciPy's L-BFGS-B")
    parser.add_argument("--keep", type=Path, help="folder to keep the references in")
    parser.add_argument("--out", type=Path, default=RESULTS / "convergence.json")
    options = parser.parse_args()
    console, about, found = Console(), machine(), {}
    console.print(machine_line(about))
    problems = {"pet": pet_problem, "spect": spect_problem}
    for key in [options.only] if options.only else problems:
        problem = problems[key]()
        reference, facts = reference_of(problem, options.reference, options.keep)
        console.print(f"{problem.name}: {problem.facts}, reference {facts}")
        names = options.engines or ENGINES
        results = {name: measure(problem, name, reference, options.passes) for name in names}
        found[problem.name] = {**problem.facts, "reference": facts, "engines": results}
        console.print(table(problem.name, found[problem.name]))
        if key == "spect" and not options.engines:
            found[problem.name]["total variation"] = tv = total_variation(problem, 1500, 60)
            console.print(f"TV: SPDHG after 60 passes against PDHG after 1500: NRMSE {tv['spdhg'][-1][1]:.2g}")
    write_json(options.out, {"machine": about, **found})
    if len(found) == len(problems) and not options.engines:
        draw(found, PICTURE)


if __name__ == "__main__":
    main()
