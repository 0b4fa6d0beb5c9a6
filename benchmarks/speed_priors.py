"""How long a prior takes: value and gradient of 256^3 voxels, beside one subset projection of a large PET scanner.

    python benchmarks/speed_priors.py

The projection is one of 34 subsets of a scanner like the Discovery MI, forth only (the setting of speed_pet.py). Prior
and projection take turns in one process; plans and compiled code are made before. Told are medians, and their ratio to
the projection: below 1 the prior is no burden.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
from _common import RESULTS, machine, machine_line, write_json
from rich.console import Console
from rich.table import Table

from emrecon.projectors import ImageGrid, PETProjector, PETScanner, PETSinogram
from emrecon.recon import (
    BowsherWeights,
    Huber,
    LogCosh,
    NonLocal,
    Quadratic,
    RelativeDifference,
    Similarity,
    SmoothedTotalVariation,
)

SHAPE = (256, 256, 256)


def cases(rng: np.random.Generator) -> dict[str, Any]:
    """Return the priors."""
    guide = rng.uniform(0, 1, SHAPE).astype(np.float32)
    return {
        "relative difference": RelativeDifference(2.0, epsilon=1e-3),
        "relative difference, kappa": RelativeDifference(2.0, epsilon=1e-3, kappa=guide + 0.5),
        "relative difference, Bowsher": RelativeDifference(2.0, epsilon=1e-3, anatomy=BowsherWeights(guide, 7)),
        "relative difference, similarity": RelativeDifference(2.0, epsilon=1e-3, anatomy=Similarity(guide, 0.2)),
        "quadratic": Quadratic(),
        "Huber": Huber(0.1),
        "log-cosh": LogCosh(0.1),
        "smoothed total variation": SmoothedTotalVariation(1e-3),
        "non-local, guide, 3 x 3 x 3 window": NonLocal(delta=0.1, guide=guide, width=0.2, window=3),
    }


def main() -> None:
    """Time every prior, print the table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    console, about, rng = Console(), machine(), np.random.default_rng(0)
    scanner = PETScanner.named("dmi")
    projector = PETProjector(ImageGrid((215, 215, 71), 2.78), PETSinogram(scanner, views=np.arange(0, 272, 34)))
    activity, x = projector.ones_image(), rng.uniform(0, 1, SHAPE).astype(np.float32)
    projector(activity)
    rows = {}
    for name, prior in cases(rng).items():
        takers: dict[str, Callable[[], Any]] = {
            "value": lambda prior=prior: prior.value(x),
            "gradient": lambda prior=prior: prior.gradient(x),
            "projection": lambda: projector(activity),
        }
        times = take_turns(takers, options.repeats if "non-local" not in name else 1)
        rows[name] = {**times, "ratio": (times["value"] + times["gradient"]) / times["projection"]}
    table = Table("prior", "value (s)", "gradient (s)", "projection (s)", "value + gradient / projection")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.3f}" for key in ("value", "gradient", "projection")), f"{row['ratio']:.2f}")
    console.print(table)
    console.print(machine_line(about))
    write_json(RESULTS / "speed_priors.json", {"machine": about, "priors": rows})


def take_turns(takers: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median time of each, after one call that is not timed."""
    times: dict[str, list[float]] = {name: [] for name in takers}
    for repeat in range(repeats + 1):
        for name, take in takers.items():
            begun = time.perf_counter()
            take()
            if repeat:
                times[name].append(time.perf_counter() - begun)
    return {name: median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
