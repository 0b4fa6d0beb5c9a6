"""Pictures: three views of an image, and images side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.physics.attenuation_maps import commonest_attenuation


def save_orthoviews(path: Path, image: np.ndarray, grid: ImageGrid, title: str = "") -> None:
    """Write a PNG with the axial, coronal and sagittal slice through the middle; the patient's left is on the right."""
    nx, ny, nz = grid.shape
    views = (
        ("axial", image[:, :, nz // 2].T, grid.voxel_size[1] / grid.voxel_size[0], "upper"),
        ("coronal", image[:, ny // 2, :].T, grid.voxel_size[2] / grid.voxel_size[0], "lower"),
        ("sagittal", image[nx // 2, :, :].T, grid.voxel_size[2] / grid.voxel_size[1], "lower"),
    )
    figure, axes = _figure(1, 3, title)
    top = float(np.percentile(image[image > 0], 99.8)) if np.any(image > 0) else 1.0
    for axis, (name, slice_, aspect, origin) in zip(axes[0], views):
        axis.imshow(slice_, cmap="gray_r", vmin=0, vmax=top, aspect=aspect, origin=origin)
        axis.set_title(name)
    save(figure, path)


def save_overlay(path: Path, image: np.ndarray, mu: np.ndarray, grid: ImageGrid) -> None:
    """Write a PNG of an attenuation map (1/cm) over an image, in slices through where the image is brightest.

    Above, lines of the map at half of what most of the body has (skin and lungs) and at 1.25 times (bone) on the image;
    below, the map with the line of the image at half of its highest value.
    """
    top, body = float(np.percentile(image, 99.8)) or 1.0, commonest_attenuation(mu) or 1.0
    i, j, k = (int(n) for n in np.unravel_index(int(np.argmax(image)), image.shape))
    (dx, dy, dz), (x, y, z) = grid.voxel_size, grid.origin
    views = (
        (f"axial, z {z + k * dz:.0f} mm", (slice(None), slice(None), k), dy / dx, "upper"),
        (f"coronal, y {y + j * dy:.0f} mm", (slice(None), j), dz / dx, "lower"),
        (f"sagittal, x {x + i * dx:.0f} mm", (i,), dz / dy, "lower"),
    )
    figure, axes = _figure(2, 3)
    for column, (name, where, aspect, origin) in zip(axes.T, views):
        emission, map_ = image[where].T, mu[where].T
        column[0].imshow(emission, cmap="gray_r", vmin=0, vmax=top, aspect=aspect, origin=origin)
        _lines(column[0], map_, {0.5 * body: "tab:blue", 1.25 * body: "tab:orange"})
        column[1].imshow(map_, cmap="gray", vmin=0, vmax=2 * body, aspect=aspect, origin=origin)
        _lines(column[1], emission, {top / 2: "tab:red"})
        column[0].set_title(name, fontsize=9)
    save(figure, path)


def _lines(axis: Any, values: np.ndarray, levels: dict[float, str]) -> None:
    """Draw lines of equal value, each with its colour, where there are any."""
    for level, colour in levels.items():
        if min(values.shape) > 1 and values.min() < level < values.max():
            axis.contour(values, levels=[level], colors=[colour], linewidths=0.8)


def compare(
    images: dict[str, np.ndarray], slices: dict[str, tuple[int, float]], notes: dict[str, str] | None = None
) -> Any:
    """Return a figure with a column for each image and a row for each axial slice; grey runs from 0.

    images : title -> (nx, ny, nz); slices : row label -> (z, the value that is black); notes : title -> text below.
    """
    figure, axes = _figure(len(slices), len(images))
    for row, (label, (z, black)) in enumerate(slices.items()):
        for axis, (title, image) in zip(axes[row], images.items()):
            axis.imshow(image[:, :, z].T, cmap="gray_r", vmin=0, vmax=black)
            if row == 0:
                axis.set_title(title, fontsize=10)
            if row == len(slices) - 1 and notes:
                axis.text(0.5, -0.04, notes.get(title, ""), transform=axis.transAxes, ha="center", va="top", fontsize=8)
        axes[row][0].text(-0.06, 0.5, label, transform=axes[row][0].transAxes, rotation=90, va="center", ha="center")
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, complete or not at all."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, bbox_inches="tight", format="png")


def _figure(rows: int, columns: int, title: str = "") -> tuple[Any, Any]:
    # No pyplot: it keeps figures in a global and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.7 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    if title:
        figure.suptitle(title)
    return figure, axes
