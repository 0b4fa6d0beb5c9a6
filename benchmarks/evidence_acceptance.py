"""Whether the guides of the tasks of evidence give the answer away: an oracle of the anatomy alone beside MAP-RDP.

    python benchmarks/evidence_acceptance.py [TASK ...] --work DIR --train 40 --test 12

The oracle is kinder than any network of the guide alone can be: it knows the true, aligned parts that every tissue has
of every voxel, without noise, and the best scale of each subject; it does not know lesions, and takes of every tissue
the mean uptake of the training set. What remains is what a guide cannot tell. MAP-RDP (BSREM, 30 iterations, 6 subsets)
takes the best of some strengths on the same scans. A task is accepted where the oracle is clearly worse, and a trained
network of the guide alone confirms it in the suite `learned`. Writes `benchmarks/results/evidence_acceptance.json`.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import recon, unrolled
from emrecon.evaluation import TASKS, Task, task_named
from emrecon.projectors import ImageGrid

RESULTS = Path(__file__).parent / "results" / "evidence_acceptance.json"
BETAS = {"pet": (0.0007, 0.0014, 0.0028, 0.0056), "spect": (0.002, 0.004, 0.008, 0.016)}
FINE = 3


def tissues(task: Task, part: str, n: int) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """Return the part that every tissue has of every voxel, subject by subject, and the truths with a mean of one."""
    store = task.store()
    grid = store.source.simulator.grid
    fine = finer(grid)
    parts, truths = [], []
    for which in range(n):
        body = store.source.draw(store.number(part, which)).phantom
        labels, names = body.labels(fine)
        own: dict[str, np.ndarray] = {}
        for number, name in enumerate(names):
            inside = joined(labels == number, grid)
            if inside.any():
                tissue = tissue_of(name)
                own[tissue] = own.get(tissue, 0) + inside
        truth = body.activity(grid)
        parts.append(own)
        truths.append(truth / truth.mean())
    return parts, np.stack(truths)


def tissue_of(name: str) -> str:
    """The tissue of a region: lobes are grey matter, numbered shapes are one tissue each kind, sides are alike."""
    plain = re.sub(r" ?\d+$", "", name)
    return "grey" if plain.endswith(" grey") else re.sub(r"^(left|right) ", "", plain)


def finer(grid: ImageGrid) -> ImageGrid:
    """Return a grid of 3 x 3 (x 3) times as many voxels."""
    n = [FINE if size > 1 else 1 for size in grid.shape]
    size = tuple(d / k for d, k in zip(grid.voxel_size, n))
    origin = tuple(o - (d - s) / 2 for o, d, s in zip(grid.origin, grid.voxel_size, size))
    return ImageGrid(tuple(a * k for a, k in zip(grid.shape, n)), size, origin)


def joined(mask: np.ndarray, grid: ImageGrid) -> np.ndarray:
    """Return the part of the coarse voxels that a mask of fine ones fills."""
    shape = [k for size, n in zip(grid.shape, mask.shape) for k in (size, n // size)]
    return mask.reshape(shape).mean((1, 3, 5)).astype(np.float32)


def oracle(task: Task, n_train: int, n_test: int) -> np.ndarray:
    """Return the NRMSE of the anatomy alone, one for each test subject."""
    train, target = tissues(task, "train", n_train)
    names = sorted({name for own in train for name in own if name != "outside"})
    rows = [np.stack([own.get(name, np.zeros(target.shape[1:])) for name in names], -1) for own in train]
    square = sum(np.tensordot(a, a, ([0, 1, 2], [0, 1, 2])) for a in rows)
    product = sum(np.tensordot(a, t, ([0, 1, 2], [0, 1, 2])) for a, t in zip(rows, target))
    means = np.linalg.solve(square + 1e-6 * np.eye(len(names)), product)
    test, truths = tissues(task, "test", n_test)
    found = []
    for own, truth in zip(test, truths):
        image = sum(own.get(name, 0) * mean for name, mean in zip(names, means) if name != "lesion")
        image = image * (image * truth).sum() / (image * image).sum()
        found.append(float(np.sqrt(((image - truth) ** 2).sum() / (truth**2).sum())))
    return np.array(found)


def penalised(task: Task, n_test: int) -> dict[str, Any]:
    """Return the NRMSE of MAP-RDP at its best strength, and of OSEM at its best pass."""
    case = task.cases("test", range(n_test)[:], seed=5)
    start = unrolled.count_scale(case.likelihood) * case.likelihood.ones_image()
    with torch.no_grad():
        passes = [errors(at.image, case.truth) for at, _ in zip(recon.osem(case.likelihood, start, 6), range(10))]
        first = recon.run(recon.osem(case.likelihood, start, 6), 2)
        s = case.likelihood.sensitivity_like(case.truth)
        prior = recon.RelativeDifference(2.0, epsilon=1e-3 * float(unrolled.count_scale(case.likelihood).mean()))
        tried = {}
        for beta in BETAS[task.modality]:
            run = recon.bsrem(case.likelihood, beta * float(s[s > 0].mean()) * prior, first, 6)
            tried[beta] = errors(recon.run(run, 30), case.truth)
    best = min(tried, key=lambda beta: tried[beta].mean())
    osem = min(passes, key=np.mean)
    return {"osem": osem, "map-rdp": tried[best], "beta": best, "tried": {b: float(e.mean()) for b, e in tried.items()}}


def errors(images: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    return recon.nrmse(images, truth, dimensions=3).numpy().ravel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="*", default=[name for name, task in TASKS.items() if task.shape[2] == 1])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--train", type=int, default=40)
    parser.add_argument("--test", type=int, default=12)
    given = parser.parse_args()
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in given.tasks:
        task = replace(task_named(name, given.work))
        alone, other = oracle(task, min(given.train, task.n_train), given.test), penalised(task, given.test)
        difference = alone - other["map-rdp"]
        row = {
            "subjects": given.test,
            "trained on": min(given.train, task.n_train),
            "anatomy alone": float(alone.mean()),
            "map-rdp": float(other["map-rdp"].mean()),
            "osem": float(other["osem"].mean()),
            "difference": float(difference.mean()),
            "standard error of the difference": float(difference.std(ddof=1) / np.sqrt(len(difference))),
            "beta": other["beta"],
            "tried": other["tried"],
        }
        table[name] = row
        print(name, json.dumps(row), flush=True)
        RESULTS.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
