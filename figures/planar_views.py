"""Planar images of a gamma camera beside one another: heads, energy windows, frames or gates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from .looks import Look
from .planes import Layer, draw_slice, frame, plane_named, put_scale_bar
from .sheets import SMALL, Cell, plain, sheet
from .views import columns_of, per_mm, put_side, side_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HIGHEST = 8.5  # inches of all rows


def planar(
    images: Array,
    pixel_size: tuple[float, float] | None,
    labels: Sequence[str] = (),
    look: Look | None = None,
    *,
    columns: int | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of planar images, all in one window and one scale, as the viewer of the file sees them.

    Args:
        images : (n, rows, columns), rows from the top.
        pixel_size : mm from row to row and from column to column; None where it is not known: then there is no scale
            bar.
        labels : of each image, written above it.
        look : with the unit (default: counts in inverted grey).
        columns : how many stand in a row (default: what fills a page).

    Raises ValueError for images and labels that do not fit.
    """
    values = to_numpy(images)
    if values.ndim != 3 or not values.size:
        raise ValueError(f"planar takes images (n, rows, columns), got shape {values.shape}")
    said = list(labels) or [""] * len(values)
    if len(said) != len(values):
        raise ValueError(f"planar got {len(said)} labels for {len(values)} images")
    down, across = pixel_size or (1.0, 1.0)
    # a coronal slice looks at the patient from the front; its rows run from the feet, those of the file from the top
    grid = ImageGrid((values.shape[2], len(values), values.shape[1]), (across, 1.0, down))
    volume = np.ascontiguousarray(values[:, ::-1].transpose(2, 0, 1))
    layer, view = Layer(volume, grid, look or Look("counts")), plane_named("coronal")
    size = view.size(grid)
    n = min(columns or columns_of(len(values), size), len(values))
    n_rows = -(-len(values) // n)
    inches = min(per_mm([size] * n), _HIGHEST / (n_rows * size[1]))
    cell = Cell(size[0] * inches, size[1] * inches, 0.02, 0.02, 0.18, 0.02)
    rows: list[list[Cell | None]] = [[cell] * n for _ in range(n_rows - 1)]
    empty = n_rows * n - len(values)
    rows.append([*[cell] * (n - empty), *[None] * empty])
    page = sheet([rows], side_cells(n_rows * cell.height, layer, None, {}), title)
    for k, (axis, text) in enumerate(zip(page.panels(), said)):
        draw_slice(axis, layer, view, view.of(volume, k), layer.norm[0])
        frame(axis, view, grid)
        room = max(8, int(cell.width * 19))  # letters
        shown = text if len(text) <= room else f"{text[: room - 1]}…"
        axis.set_title(plain(shown), fontsize=SMALL - 0.5, pad=2)
    if pixel_size is not None:
        put_scale_bar(page.panels()[-1], size[0], layer.ink)
    put_side(page.side, layer, None, {})
    return page.figure
