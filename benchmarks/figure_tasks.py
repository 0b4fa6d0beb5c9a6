"""Draw docs/images/evidence_tasks.png: truths and guides of the first test scans of every task of evidence.

    python benchmarks/figure_tasks.py

Real heads are drawn where their files are installed; the middle slice of volumes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emrecon.evaluation import TASKS

TARGET = Path(__file__).resolve().parents[1] / "docs" / "images" / "evidence_tasks.png"
N = 5


def pictures(task, n=N):
    """Yield (truth, guide, words) of test scans; truths without noise and counts."""
    store = task.store()
    for which in range(n):
        drawn = store.source.draw(store.number("test", which))
        grid = store.source.simulator.grid
        if grid.shape[2] > 1:
            grid = grid.__class__((*grid.shape[:2], 1), grid.voxel_size, (*grid.origin[:2], grid.centre[2]))
        words = " ".join(filter(None, (drawn.about.get("tracer"), drawn.about.get("contrast"))))
        yield drawn.phantom.activity(grid)[..., 0], drawn.guide(grid)[..., 0], words


def main():
    rows = []
    for task in TASKS.values():
        try:
            rows.append((task.name, list(pictures(task))))
        except FileNotFoundError as error:
            print(f"{task.name} is left out: {error}")
    figure = Figure(figsize=(2 * N * 1.15, 1.3 * len(rows)), dpi=80)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 2 * N, squeeze=False)
    for line, (name, parts) in zip(axes, rows):
        for k, (truth, guide, words) in enumerate(parts):
            line[2 * k].imshow(truth.T, cmap="gray_r", vmin=0, vmax=np.percentile(truth, 99.7) or 1)
            line[2 * k + 1].imshow(guide.T, cmap="gray")
            line[2 * k].set_title(words, fontsize=6, pad=2)
        line[0].text(-0.08, 0.5, name, rotation=90, va="center", ha="right", fontsize=7, transform=line[0].transAxes)
    for ax in axes.ravel():
        ax.set_axis_off()
    figure.subplots_adjust(left=0.03, right=0.995, top=0.985, bottom=0.005, wspace=0.04, hspace=0.14)
    figure.savefig(TARGET)
    print(TARGET)


if __name__ == "__main__":
    main()
