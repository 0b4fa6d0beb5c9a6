"""Two images of one grid against one another: slices, differences, a profile and a joint histogram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from .curves import set_axes
from .looks import DIFFERENCE, Look, put_bar
from .planes import (
    At,
    Layer,
    Plane,
    checked_masks,
    draw_contours,
    draw_slice,
    frame,
    indices_at,
    planes_of,
    put_letters,
    put_scale_bar,
)
from .sheets import SMALL, TEXT, Cell, plain, sheet
from .views import per_mm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FIRST, _SECOND = "#333333", "#d9480f"
_BINS = 80

Line = tuple[Sequence[float], Sequence[float]]
"""Where a profile begins and ends, (x, y, z) in mm."""


def comparison(
    reference: Array,
    image: Array,
    grid: ImageGrid,
    look: Look | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    at: At = "middle",
    line: str | Line = "x",
    mask: Array | None = None,
    title: str = "",
    footer: str = "",
) -> Figure:
    """Return a figure of two images A and B: slices of both and of B - A, a profile, and a joint histogram.

    Args:
        reference, image : A and B, (x, y, z) on `grid`.
        look : of both; its window is made from A where it gives none.
        names : of A and B.
        at : the point whose slices are shown, see `orthoviews`.
        line : of the profile: "x", "y" or "z" through the point, or its two ends in mm.
        mask : (x, y, z) booleans; its outline is drawn, and the joint histogram is that of its voxels.
        title, footer : texts above and below, such as the numbers of `recon.agreement_of`.

    Raises ValueError for images and masks that do not fit the grid, and for a point or a line outside of it.
    """
    first, second = (np.asarray(to_numpy(x)) for x in (reference, image))
    shown = (look or Look()).fixed(Layer(first, grid).image)
    difference = Layer(np.asarray(second, float) - first, grid, replace(DIFFERENCE, unit=shown.unit))
    layers = (Layer(first, grid, shown), Layer(second, grid, shown), difference)
    outlines = checked_masks({} if mask is None else {"region": mask}, grid)
    index, views = indices_at(first, grid, at), planes_of(grid)
    longest = max(max(view.size(grid)) for view in views)
    inches = min(per_mm([views[0].size(grid)] * 3, largest=2.0), 2.0 / longest)
    rows: list[list[Cell | None]] = []
    for view in views:
        cell, bar = _cell(view, grid, inches, 0.2 if rows else 0.46), _bar(view, grid, inches)
        rows.append([cell, cell, bar, cell, bar])
    plots = [[Cell(3.0, 1.9, 0.55, 0.15, 0.3, 0.45), Cell(2.2, 1.9, 0.65, 0.15, 0.3, 0.45)]]
    page = sheet([rows, plots], title=title, footer=footer)
    _slices(page.blocks[0], layers, views, index, outlines, names)
    _profile(page.panels(1)[0], layers, _ends_of(line, grid, index), names)
    _histogram(page.panels(1)[1], layers, mask, names)
    return page.figure


def difference_map(
    reference: Array, image: Array, grid: ImageGrid, look: Look | None = None, *, at: At = "middle", title: str = ""
) -> Figure:
    """Return a figure of B - A in the three views through a point, with one scale to both sides of 0.

    Args:
        reference, image : A and B, (x, y, z) on `grid`.
        look, at, title : as for `orthoviews`; the default look is blue below 0 and red above.
    """
    from .views import orthoviews

    first, second = (np.asarray(to_numpy(x), float) for x in (reference, image))
    return orthoviews(second - first, grid, look or DIFFERENCE, at=at, title=title)


def line_profile(
    images: Mapping[str, Array],
    grid: ImageGrid,
    start: Sequence[float],
    end: Sequence[float],
    *,
    unit: str = "",
    title: str = "",
) -> Figure:
    """Return a figure of the values of images along a line in the patient.

    Args:
        images : name -> (x, y, z) on `grid`.
        start, end : (x, y, z) in mm; what lies outside of the image is left out.

    Raises ValueError where no part of the line is inside of the image.
    """
    page = sheet([[[Cell(4.6, 2.6, 0.75, 0.15, 0.12, 0.5)]]], title=title)
    (axis,) = page.panels()
    for name, image in images.items():
        distance, values = profile(image, grid, start, end)
        axis.plot(distance, values, linewidth=1.2, label=plain(name))
    set_axes(axis, f"mm from {_point(start)}", unit)
    axis.legend(fontsize=SMALL, frameon=False)
    return page.figure


def joint_histogram(
    reference: Array, image: Array, *, mask: Array | None = None, names: tuple[str, str] = ("A", "B"), unit: str = ""
) -> Figure:
    """Return a figure of how many voxels have which pair of values, with the line where both are equal.

    Args:
        reference, image : of one shape.  mask : booleans; only its voxels are counted.
    """
    page = sheet([[[Cell(2.8, 2.8, 0.7, 0.2, 0.3, 0.5)]]])
    pair = [np.asarray(to_numpy(x), float) for x in (reference, image)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"joint_histogram needs images of one shape, got {pair[0].shape} and {pair[1].shape}")
    chosen = np.ones(pair[0].shape, bool) if mask is None else np.asarray(to_numpy(mask), bool)
    _pairs(page.panels()[0], pair[0][chosen], pair[1][chosen], names, unit)
    return page.figure


def profile(
    image: Array, grid: ImageGrid, start: Sequence[float], end: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (mm from the start, value) along a line, interpolated linearly at steps of half the smallest voxel.

    Args:
        image : (x, y, z) on `grid`.
        start, end : (x, y, z) in mm; points outside of the image are left out.

    Raises ValueError where the line has no length or lies outside of the image.
    """
    from scipy.ndimage import map_coordinates

    first, last = np.asarray(start, float), np.asarray(end, float)
    length = float(np.linalg.norm(last - first)) if first.shape == last.shape == (3,) else 0.0
    if not (np.isfinite(length) and length > 0):
        raise ValueError(f"a profile runs from one point (x, y, z) in mm to another, got {start!r} and {end!r}")
    n = int(np.ceil(2 * length / min(grid.voxel_size))) + 1
    distance = np.linspace(0, length, n)
    points = first + distance[:, None] / length * (last - first)
    place = (points - grid.origin) / grid.voxel_size
    inside = np.all((place >= -0.5 - 1e-6) & (place <= np.array(grid.shape) - 0.5 + 1e-6), axis=1)
    if not inside.any():
        raise ValueError(f"the line from {_point(start)} to {_point(end)} lies outside of the image")
    values = map_coordinates(np.asarray(to_numpy(image), float), place[inside].T, order=1, mode="nearest")
    return distance[inside], values


def _slices(
    rows: Sequence[Sequence[Axes | None]],
    layers: tuple[Layer, Layer, Layer],
    views: Sequence[Plane],
    index: tuple[int, int, int],
    outlines: Mapping[str, np.ndarray],
    names: tuple[str, str],
) -> None:
    grid = layers[0].grid
    norms = [layer.norm for layer in layers]
    ends = _both(norms[0][1], norms[1][1])
    for number, (row, view) in enumerate(zip(rows, views)):
        panels = [axis for k, axis in enumerate(row) if k in (0, 1, 3) and axis is not None]
        for axis, layer, (norm, _) in zip(panels, layers, norms):
            k = index[view.across]
            draw_slice(axis, layer, view, view.of(layer.image, k), norm)
            frame(axis, view, grid)
            draw_contours(axis, outlines, view, grid, k)
        put_letters(panels[0], (view.letters[0], "", view.letters[2], view.letters[3]))
        put_letters(panels[1], ("", view.letters[1], "", ""))
        panels[1].set_xlabel(view.words(grid, index[view.across]), fontsize=SMALL, labelpad=2)
        for k, layer, (norm, tips) in ((2, layers[0], (norms[0][0], ends)), (4, layers[2], norms[2])):
            bar = row[k]
            assert bar is not None
            put_bar(bar, layer.look, norm, tips)
        if number == 0:
            for axis, name in zip(panels, (*names, f"{names[1]} \u2212 {names[0]}")):
                axis.set_title(plain(name[:28]), fontsize=TEXT + 0.5, pad=13)
            put_scale_bar(panels[0], view.size(grid)[0], layers[0].ink)


def _profile(axis: Axes, layers: Sequence[Layer], line: Line, names: tuple[str, str]) -> None:
    start, end = line
    for layer, name, colour in zip(layers, names, (_FIRST, _SECOND)):
        axis.plot(*profile(layer.image, layer.grid, start, end), color=colour, linewidth=1.1, label=plain(name[:28]))
    set_axes(axis, "mm along the line", layers[0].look.unit)
    axis.set_title(f"{_point(start)} to {_point(end)} mm", fontsize=SMALL, pad=4)
    axis.legend(fontsize=SMALL, frameon=False)


def _histogram(axis: Axes, layers: Sequence[Layer], mask: Array | None, names: tuple[str, str]) -> None:
    first, second = (np.asarray(layer.image, float) for layer in layers[:2])
    chosen = np.ones(first.shape, bool) if mask is None else np.asarray(to_numpy(mask), bool)
    _pairs(axis, first[chosen], second[chosen], names, layers[0].look.unit)


def _pairs(axis: Axes, x: np.ndarray, y: np.ndarray, names: tuple[str, str], unit: str) -> None:
    from matplotlib.colors import LogNorm

    finite = np.isfinite(x) & np.isfinite(y)
    low, high = float(min(x[finite].min(), y[finite].min())), float(max(x[finite].max(), y[finite].max()))
    high = high if high > low else low + 1.0
    counts, edges, _ = np.histogram2d(x[finite], y[finite], bins=_BINS, range=((low, high), (low, high)))
    shown = np.ma.masked_equal(counts.T, 0)
    axis.pcolormesh(edges, edges, shown, cmap="viridis_r", norm=LogNorm(1, max(2, counts.max())), rasterized=True)
    axis.plot([low, high], [low, high], color="0.4", linewidth=0.7, linestyle="--")
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    label = f" ({unit})" if unit else ""
    set_axes(axis, names[0][:28] + label, names[1][:28] + label)
    axis.set_title("voxels by their two values", fontsize=SMALL, pad=4)


def _cell(view: Plane, grid: ImageGrid, inches: float, above: float) -> Cell:
    width, height = view.size(grid)
    return Cell(width * inches, height * inches, 0.2, 0.2, above, 0.22)


def _bar(view: Plane, grid: ImageGrid, inches: float) -> Cell:
    return Cell(0.11, max(0.8, min(1.6, 0.85 * view.size(grid)[1] * inches)), 0.02, 0.6, 0.1, 0.1)


def _both(first: str, second: str) -> Any:
    sides = {"neither": set(), "min": {"min"}, "max": {"max"}, "both": {"min", "max"}}
    joined = sides[first] | sides[second]
    return next(name for name, value in sides.items() if value == joined)


def _ends_of(line: str | Line, grid: ImageGrid, index: tuple[int, int, int]) -> Line:
    """The two ends of a profile in mm: the whole image along an axis, or as they are given."""
    if not isinstance(line, str):
        return line
    if line not in ("x", "y", "z"):
        raise ValueError(f'a profile runs along "x", "y" or "z", or between two points in mm, got {line!r}')
    axis = "xyz".index(line)
    if grid.shape[axis] == 1:
        raise ValueError(f"the image is one voxel long along {line}, so it has no profile there")
    start = [o + d * k for o, d, k in zip(grid.origin, grid.voxel_size, index)]
    end = list(start)
    start[axis] = grid.origin[axis]
    end[axis] = grid.origin[axis] + (grid.shape[axis] - 1) * grid.voxel_size[axis]
    return start, end


def _point(point: Sequence[float]) -> str:
    return "(" + ", ".join(f"{round(float(v), 1) + 0.0:g}" for v in point) + ")"
