"""The picture that shows whether an attenuation map lies where the activity is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.physics.attenuation_maps import commonest_attenuation

from .looks import Look, put_bar
from .planes import (
    At,
    Layer,
    Plane,
    draw_level,
    draw_slice,
    frame,
    indices_at,
    planes_of,
    put_letters,
    put_names,
    put_scale_bar,
)
from .sheets import Cell, sheet
from .views import bar_cell, heading, panel, per_mm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SKIN, _BONE, _HOT = "#0aa5d8", "#f0740a", "#e83fb8"


def attenuation_control(
    image: Array, mu: Array, grid: ImageGrid, look: Look | None = None, *, at: At = "max", title: str = ""
) -> Figure:
    """Return a figure of an image and its attenuation map, each with lines of the other one.

    Above, the image with lines of the map at half of what most of the body has (skin and lungs) and at 1.25 times
    (bone); below, the map with the line of the image at half of the upper end of its window.

    Args:
        image : (x, y, z) on `grid`.
        mu : in 1/cm on the same grid.
        look : of the image.
        at : as for `orthoviews`; the largest value by default.

    Raises ValueError where they do not fit the grid.
    """
    layer = Layer(to_numpy(image), grid, look or Look())
    body = commonest_attenuation(mu) or 1.0
    below = Layer(to_numpy(mu), grid, Look("1/cm", "grey", (0.0, 2 * body), quantity="\u03bc"))
    index, views = indices_at(layer.image, grid, at), planes_of(grid)
    half = layer.look.limits(layer.image)[1] / 2
    inches = per_mm([view.size(grid) for view in views], largest=2.4)
    upper, lower = ([panel(view.size(grid), inches, room) for view in views] for room in (0.42, 0.2))
    names = {"half of \u03bc of the body": _SKIN, "1.25 times (bone)": _BONE, "half of the activity": _HOT}
    rows: list[list[Cell | None]] = [[*upper, bar_cell(upper[0].height)], [*lower, bar_cell(upper[0].height)]]
    page = sheet([rows], [Cell(1.35, 0.5, 0.1, 0.02)], title)
    shown = (layer, ((0.5 * body, _SKIN), (1.25 * body, _BONE))), (below, ((half, _HOT),))
    for row, (one, levels) in enumerate(shown):
        *panels, bar = (axis for axis in page.blocks[0][row] if axis is not None)
        norm, ends = one.norm
        for axis, view in zip(panels, views):
            number = index[view.across]
            draw_slice(axis, one, view, view.of(one.image, number), norm)
            _lines(axis, below if row == 0 else layer, view, number, levels)
            frame(axis, view, grid)
            put_letters(axis, view.letters)
            if row == 0:
                heading(axis, f"{view.name}\n{view.words(grid, number)}")
        put_bar(bar, one.look, norm, ends)
    put_scale_bar(page.panels()[0], views[0].size(grid)[0], layer.ink)
    put_names(page.side[0], names, list(names.values()))
    return page.figure


def _lines(axis: Axes, layer: Layer, view: Plane, number: int, levels: tuple[tuple[float, str], ...]) -> None:
    values = np.asarray(view.of(layer.image, number), float)
    for level, colour in levels:
        draw_level(axis, values, view, layer.grid, level, colour)
