"""Slices of an image: three views through a point, montages of many, and images side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from .looks import Look, put_bar
from .planes import (
    AXIAL,
    At,
    Layer,
    Plane,
    PlaneName,
    checked_masks,
    draw_contours,
    draw_slice,
    frame,
    index_at,
    indices_at,
    plane_named,
    planes_of,
    put_letters,
    put_names,
    put_scale_bar,
)
from .sheets import SMALL, TEXT, Cell, plain, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE, HIGH, LARGEST = 7.4, 4.4, 2.9
"""Inches that the panels of a row fill at most together, that one is high, and that the wider side of one is long."""

_LETTER, _HEADING = 0.2, 0.44
_BAR, _NUMBERS = 0.13, 0.66


def orthoviews(
    image: Array,
    grid: ImageGrid,
    look: Look | None = None,
    *,
    at: At = "middle",
    under: Layer | None = None,
    opacity: float = 0.75,
    masks: Mapping[str, Array] | None = None,
    crosshair: bool = False,
    title: str = "",
) -> Figure:
    """Return a figure of the axial, coronal and sagittal slice through a point, all in one scale of mm.

    Args:
        image : (x, y, z) on `grid` (LPS).
        look : unit, colours and window, see `Look`.
        at : (x, y, z) in mm, "middle", or "max" for the largest value; the slices are those that hold the point, and
            the headings say where their middle is.
        under : an image below this one, such as a CT, on any grid: `Layer(ct, ct_grid, CT)`. Both are drawn where they
            are in the patient, each with its own voxels; across the slices the lower one is interpolated.
        opacity : of this image over the lower one; weak values are more transparent.
        masks : names and masks (x, y, z) on `grid`, whose outlines are drawn.
        crosshair : thin lines where the other slices are.
        title : a line above; nothing is written that is not given.

    Voxels are drawn in true proportion whatever their sizes; planes that are one voxel wide are left out.

    Raises ValueError for images and masks that do not fit, and a point outside of the image.
    """
    layer = Layer(to_numpy(image), grid, look or usual_look(under), opacity)
    index, views = indices_at(layer.image, grid, at), planes_of(grid)
    outlines = checked_masks(masks, grid)
    inches = per_mm([view.size(grid) for view in views])
    cells = [panel(view.size(grid), inches) for view in views]
    page = sheet([[cells]], side_cells(cells[0].height, layer, under, outlines), title)
    for axis, view in zip(page.panels(), views):
        number = index[view.across]
        draw_layers(axis, layer, under, view, number)
        draw_contours(axis, outlines, view, grid, number)
        if crosshair:
            _cross(axis, view, grid, index)
        put_letters(axis, view.letters)
        heading(axis, f"{view.name}\n{view.words(grid, number)}")
    put_scale_bar(page.panels()[0], views[0].size(grid)[0], (under or layer).ink)
    put_side(page.side, layer, under, outlines)
    return page.figure


def montage(
    image: Array,
    grid: ImageGrid,
    look: Look | None = None,
    *,
    plane: PlaneName = "axial",
    slices: int | Sequence[int] = 20,
    positions: Sequence[float] | None = None,
    columns: int | None = None,
    under: Layer | None = None,
    opacity: float = 0.75,
    masks: Mapping[str, Array] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of many slices in one window and one scale, each with its position in mm.

    Args:
        plane : "axial", "coronal" or "sagittal".
        slices : how many, evenly spread over the image, or the indices of those to show.
        positions : in mm instead; the slices that hold them are shown.
        columns : how many stand in a row (default: what fills a page).
        image, grid, look, under, opacity, masks, title : as for `orthoviews`.

    Axial slices run from the feet to the head, coronal ones from front to back, sagittal ones from right to left.

    Raises ValueError for slices that the image does not have, and as `orthoviews` does.
    """
    layer, view = Layer(to_numpy(image), grid, look or usual_look(under), opacity), plane_named(plane)
    chosen, outlines = chosen_slices(grid, view, slices, positions), checked_masks(masks, grid)
    size = view.size(grid)
    n = min(columns or columns_of(len(chosen), size), len(chosen))
    n_rows = -(-len(chosen) // n)
    inches = min(per_mm([size] * n), 8.5 / (n_rows * size[1]))
    cell = Cell(size[0] * inches, size[1] * inches, 0.02, 0.02, 0.18, 0.02)
    empty = n_rows * n - len(chosen)
    rows: list[list[Cell | None]] = [[cell] * n for _ in range(n_rows - 1)]
    rows.append([*[cell] * (n - empty), *[None] * empty])
    page = sheet([rows], side_cells(n_rows * cell.height, layer, under, outlines), title)
    for axis, index in zip(page.panels(), chosen):
        draw_layers(axis, layer, under, view, index)
        draw_contours(axis, outlines, view, grid, index)
        axis.set_title(view.words(grid, index), fontsize=SMALL - 0.5, pad=2)
    put_letters(page.panels()[0], view.letters, (under or layer).ink)
    put_scale_bar(page.panels()[-1], size[0], (under or layer).ink)
    put_side(page.side, layer, under, outlines)
    return page.figure


def side_by_side(
    images: Mapping[str, Array],
    slices: Mapping[str, tuple[int, float]],
    notes: Mapping[str, str] | None = None,
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
    unit: str = "",
    colour: str = "inverted-grey",
    scale_bar: bool = True,
) -> Figure:
    """Return a figure with a column for each image and a row for each axial slice; a row has one scale, from 0 up.

    Args:
        images : title -> (x, y, z), all of one shape.
        slices : label of the row -> (index of the slice, the value at the upper end of its scale).
        notes : title -> a text below the column.
        voxel_size : mm.
    """
    arrays = {title: np.asarray(to_numpy(image)) for title, image in images.items()}
    if len({values.shape for values in arrays.values()}) != 1:
        shapes = sorted({values.shape for values in arrays.values()})
        raise ValueError(f"side_by_side needs images of one shape, got {shapes}")
    dx, dy, dz = map(float, voxel_size)
    grid = ImageGrid(next(iter(arrays.values())).shape, (dx, dy, dz))
    size = AXIAL.size(grid)
    inches = min(2.2 / max(size), 10.5 / (len(arrays) * size[0]))
    cells = [Cell(size[0] * inches, size[1] * inches, 0.04, 0.04, 0.06, 0.04)] * len(arrays)
    label = Cell(0.16 if any(slices) else 0.0, 0.1, 0, 0, 0, 0)
    bar = Cell(_BAR, min(1.5, 0.8 * cells[0].height), 0.1, _NUMBERS)
    below = 0.22 if notes else 0.0
    rows = [[label, *cells, bar] for _ in slices]
    head = [Cell(0.01, 0.2, 0, 0, 0, 0)]
    page = sheet([[head], rows, *([[[Cell(0.01, below, 0, 0, 0, 0)]]] if notes else [])])
    page.panels(0)[0].set_axis_off()
    for row, (words, (z, black)) in zip(page.blocks[1], slices.items()):
        look = Look(unit, colour, (0.0, black))
        norm, _ = look.norm(np.stack(list(arrays.values())))
        for axis, values in zip(row[1:-1], arrays.values()):
            assert axis is not None
            draw_slice(axis, Layer(values, grid, look), AXIAL, AXIAL.of(values, z), norm)
            frame(axis, AXIAL, grid)
        name, last = row[0], row[-1]
        assert name is not None
        assert last is not None
        name.set_axis_off()
        name.text(0.5, 0.5, plain(words), rotation=90, ha="center", va="center", fontsize=TEXT + 1)
        put_bar(last, look, norm, look.norm(np.stack([values[:, :, z] for values in arrays.values()]))[1])
    for axis, title in zip(page.blocks[1][0][1:], arrays):
        assert axis is not None
        # a long title gets smaller letters, so that it does not meet its neighbour
        fits = cells[0].width * 72 / (0.62 * max(len(title), 1))
        axis.set_title(plain(title), fontsize=min(TEXT + 1, fits), pad=4)
    if notes:
        page.panels(2)[0].set_axis_off()
        for axis, title in zip(page.blocks[1][-1][1:], arrays):
            assert axis is not None
            axis.set_xlabel(plain(notes.get(title, "")), fontsize=TEXT, labelpad=4)
    if scale_bar:
        first = page.blocks[1][-1][1]
        assert first is not None
        put_scale_bar(first, size[0], Look(colour=colour, window=(0, 1)).ink(np.zeros(1)))
    return page.figure


# ---- what figures of slices share ------------------------------------------------------------------------------------


def usual_look(under: Layer | None) -> Look:
    """Return the look of an image that is given none: inverted grey, or hot colours over another image."""
    return Look() if under is None else Look(colour="hot")


def per_mm(sizes: Sequence[tuple[float, float]], largest: float = LARGEST) -> float:
    """Return the inches for a mm with which panels of these sizes in mm fit beside one another."""
    room = WIDE - 2 * _LETTER * len(sizes)
    widest, highest = max(width for width, _ in sizes), max(height for _, height in sizes)
    return min(room / sum(width for width, _ in sizes), HIGH / highest, largest / widest)


def panel(size: tuple[float, float], inches: float, above: float = _HEADING) -> Cell:
    """Return the cell of a slice of so many mm, with room for letters around it and a heading above."""
    return Cell(size[0] * inches, size[1] * inches, _LETTER, _LETTER, above, _LETTER)


def bar_cell(height: float) -> Cell:
    """Return the cell of a colour bar beside a panel of so many inches."""
    return Cell(_BAR, float(np.clip(height, 1.0, 2.4)), 0.1, _NUMBERS, 0.1, 0.1)


def side_cells(height: float, layer: Layer, under: Layer | None, masks: Mapping[str, object]) -> list[Cell]:
    """Return the cells at the side of slices: a colour bar for each image, and the names of masks."""
    bars = [bar_cell(height) for one in (layer, under) if one is not None]
    longest = max([len(name[:24]) for name in masks] + [0])
    return bars + ([Cell(0.07 * longest, 0.16 * len(masks), 0.08, 0.04)] if masks else [])


def put_side(axes: Sequence[Axes], layer: Layer, under: Layer | None, masks: Mapping[str, object]) -> None:
    """Fill the cells of `side_cells`."""
    shown = [one for one in (layer, under) if one is not None]
    for axis, one in zip(axes, shown):
        put_bar(axis, one.look, *one.norm)
    if masks:
        put_names(axes[len(shown)], masks)


def draw_layers(axis: Axes, layer: Layer, under: Layer | None, view: Plane, index: int) -> None:
    """Draw a slice of an image, over the slice of another one that lies at the same place in the patient."""
    if under is not None:
        position = view.position(layer.grid, index)
        below = under.at(view, position)
        axis.set_facecolor("0.25" if under.ink == "white" else "0.85")  # where nothing is below, not the colour of air
        if below is not None:
            draw_slice(axis, under, view, below, under.norm[0])
    values = view.of(layer.image, index)
    draw_slice(axis, layer, view, values, layer.norm[0], over=under is not None)
    frame(axis, view, layer.grid)


def chosen_slices(
    grid: ImageGrid, view: Plane, slices: int | Sequence[int], positions: Sequence[float] | None
) -> list[int]:
    """Return the indices of slices that are given by their number, by index or by position in mm."""
    n = grid.shape[view.across]
    if positions is not None:
        return [index_at(grid, view.across, float(position)) for position in positions]
    if isinstance(slices, (int, np.integer)):
        if slices < 1:
            raise ValueError(f"a montage shows at least one slice, got {slices}")
        most = min(int(slices), n)
        return [int((i + 0.5) * n / most) for i in range(most)]
    chosen = [int(index) for index in slices]
    wrong = [index for index in chosen if not 0 <= index < n]
    if wrong or not chosen:
        which = f"no slice {wrong[0]}" if wrong else "no slices were chosen"
        raise ValueError(f"{which}: the image has {n} {view.name} slices, 0 to {n - 1}")
    return chosen


def heading(axis: Axes, text: str) -> None:
    """Write what a panel shows above it, leaving room for the letter of its upper edge."""
    axis.annotate(
        plain(text),
        (0.5, 1),
        xycoords="axes fraction",
        xytext=(0, 12),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=TEXT,
        linespacing=1.15,
        annotation_clip=False,
    )


def _cross(axis: Axes, view: Plane, grid: ImageGrid, index: tuple[int, int, int]) -> None:
    thin: dict[str, Any] = {"linewidth": 0.6, "color": "#4a90d9", "alpha": 0.9}
    at = [grid.origin[k] + grid.voxel_size[k] * index[k] for k in range(3)]
    axis.axvline(at[view.right], **thin)
    axis.axhline(at[view.up], **thin)


def columns_of(n: int, size: tuple[float, float]) -> int:
    """The number of columns with which panels are largest on a page."""
    width, height = size

    def scale(columns: int) -> float:
        return min(WIDE / (columns * width), 8.5 / (-(-n // columns) * height), LARGEST / max(size))

    return max(range(1, n + 1), key=lambda columns: (scale(columns), -columns))
