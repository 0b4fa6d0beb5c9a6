"""The contact sheet of the phantoms, docs/images/phantoms.png: activity and attenuation of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from emrecon import sims
from emrecon.projectors import ImageGrid

HERE = Path(__file__).resolve().parent
ENERGY = 140.5


def sheet() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return title, activity and attenuation (columns, rows) of every phantom."""
    brain = sims.random_folded_brain(7)
    head, square, body = slice_of(128, 2.0), slice_of(160, 1.5), slice_of(160, 2.6)
    entries = [
        ("shepp_logan()", sims.shepp_logan(), square),
        ("shepp_logan(emission=True)", sims.shepp_logan(emission=True), square),
        ("random_ellipses(1)", sims.random_ellipses(1), square),
        ("random_brain(3)", sims.random_brain(3), head),
        ("random_folded_brain(7)", brain.phantom, head),
        ("nema_iec_body()", sims.nema_iec_body(), body),
        ("jaszczak(rods=1, background=0)", sims.jaszczak(rods=1, background=0).moved((0, 0, 49)), square),
        ("jaszczak(), spheres", sims.jaszczak().moved((0, 0, -34)), square),
        ("derenzo()", sims.derenzo(), square),
        ("defrise()", sims.defrise(), coronal_of(160, 1.6)),
        ("cardiac_torso()", sims.cardiac_torso().moved((0, 0, -100)), body),
        ('random_torso(3, "fdg")', sims.random_torso(3, "fdg"), coronal_of(170, 4.2)),
        ('random_torso(5, "bone-scan")', sims.random_torso(5, "bone-scan"), coronal_of(170, 4.2)),
        ('random_torso(4, "lu-177")', sims.random_torso(4, "lu-177"), coronal_of(170, 4.2)),
    ]  # fmt: skip
    return [(title, *painted(phantom, grid)) for title, phantom, grid in entries]


def slice_of(n: int, size: float) -> ImageGrid:
    """Return a grid of one transaxial slice at z = 0."""
    return ImageGrid((n, n, 1), (size, size, size))


def coronal_of(n: int, size: float) -> ImageGrid:
    """Return a grid whose maximum along y is a coronal view."""
    return ImageGrid((n, n // 2, n), (size, size, size))


def painted(phantom: sims.Phantom, grid: ImageGrid) -> tuple[np.ndarray, np.ndarray]:
    """Return the images as they are shown: a slice from below, or the maximum of the activity from the front."""
    activity, mu = phantom.activity(grid), phantom.attenuation(grid, ENERGY)
    if grid.shape[2] == 1:
        return activity[:, :, 0].T, mu[:, :, 0].T
    return activity.max(1).T[::-1], mu.mean(1).T[::-1]


def main() -> None:
    """Write the figure."""
    entries, columns = sheet(), 7
    rows = -(-len(entries) // columns)
    figure = Figure((2.1 * columns, 4.6 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, columns)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, (title, activity, mu) in enumerate(entries):
        row, column = 2 * (i // columns), i % columns
        top = np.percentile(activity[activity > 0], 97 if "torso" in title else 99.5)
        axes[row, column].imshow(activity, cmap="gray_r", vmin=0, vmax=top)
        axes[row, column].set_title(title, fontsize=7.5)
        axes[row + 1, column].imshow(mu, cmap="gray", vmin=0)
    figure.savefig(HERE.parent / "docs" / "images" / "phantoms.png", dpi=110)


if __name__ == "__main__":
    main()
