"""Maximum intensity projections: from the front and the side, and from all around as frames of an animation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import tracked

from .looks import Look
from .planes import (
    CORONAL,
    Layer,
    PlaneName,
    checked_masks,
    draw_contours,
    draw_slice,
    frame,
    plane_named,
    put_letters,
    put_scale_bar,
)
from .sheets import sheet
from .views import heading, panel, per_mm, put_side, side_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST = 192  # voxels along a side of the image that is turned; larger ones are joined, by their maximum


def maximum_projection(
    image: Array,
    grid: ImageGrid,
    look: Look | None = None,
    *,
    planes: Sequence[PlaneName] = ("coronal", "sagittal"),
    masks: Mapping[str, Array] | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of maximum intensity projections, by default from the front and from the left.

    Args:
        image, grid, look, title : as for `orthoviews`.
        planes : "coronal" is seen from the front, "sagittal" from the left, "axial" from the feet.
        masks : names and masks on `grid`; the outlines of their shadows are drawn.

    Raises ValueError for images and masks that do not fit, and for unknown planes.
    """
    layer, views, outlines = (
        Layer(to_numpy(image), grid, look or Look()),
        [plane_named(n) for n in planes],
        checked_masks(masks, grid),
    )
    if not views:
        raise ValueError("maximum_projection needs at least one plane")
    inches = per_mm([view.size(grid) for view in views], largest=3.4)
    cells = [panel(view.size(grid), inches) for view in views]
    page = sheet([[cells]], side_cells(cells[0].height, layer, None, outlines), title)
    shadows = [_largest(layer.image, view.across) for view in views]
    fixed = _fixed(layer, shadows)
    for axis, view, shadow in zip(page.panels(), views, shadows):
        draw_slice(axis, layer, view, shadow.T, fixed.norm(shadow)[0])
        frame(axis, view, grid)
        draw_contours(axis, outlines, view, grid, None)
        put_letters(axis, view.letters)
        heading(axis, f"maximum\nfrom {view.seen_from}")
    put_scale_bar(page.panels()[0], views[0].size(grid)[0], layer.ink)
    put_side(page.side, replace(layer, look=fixed), None, outlines)
    return page.figure


def rotating_projection(
    image: Array,
    grid: ImageGrid,
    look: Look | None = None,
    *,
    n: int = 36,
    title: str = "",
) -> list[Figure]:
    """Return maximum intensity projections from n directions around the patient, for `save_frames`.

    The first is seen from the front; the viewer goes to the patient's left, back and right. All have one window.
    Images of more than 192 voxels along an axis are joined by their maximum for this.

    Args:
        image, grid, look, title : as for `orthoviews`.
        n : how many figures, 360 / n degrees apart.

    Raises ValueError as `orthoviews` does, and for less than one direction.
    """
    if n < 1:
        raise ValueError(f"rotating_projection needs at least one direction, got {n}")
    layer = Layer(to_numpy(image), grid, look or Look())
    angles = 360 / n * np.arange(n)
    shadows = list(tracked(_shadows(*_joined(layer.image, grid), angles), "projections", n))
    fixed = _fixed(layer, [shadow for shadow, _ in shadows])
    return [
        _turned(replace(layer, look=fixed), shadow, wide, angle, title)
        for (shadow, wide), angle in zip(shadows, angles)
    ]


def turned_letters(angle: float) -> tuple[str, str]:
    """Return what is at the left and the right of a picture seen from an angle: 0 the front, 90 the patient's left."""
    x, y = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))  # where the right of the picture points to, LPS

    def letters(x: float, y: float) -> str:
        parts = [(abs(x), "L" if x > 0 else "R"), (abs(y), "P" if y > 0 else "A")]
        return "".join(letter for size, letter in sorted(parts, reverse=True) if size > 0.38)

    return letters(-x, -y), letters(x, y)


def _largest(values: np.ndarray, axis: int) -> np.ndarray:
    """The maximum along an axis; NaN only where all are."""
    finite = np.where(np.isfinite(values), values, -np.inf).max(axis)
    return np.where(np.isfinite(finite), finite, np.nan)


def _fixed(layer: Layer, shadows: Sequence[np.ndarray]) -> Look:
    """The look with its limits: those of the image where they are given, else of what is drawn."""
    given = layer.look.window != (None, None)
    return layer.look.fixed(layer.image if given else np.concatenate([shadow.ravel() for shadow in shadows]))


def _joined(values: np.ndarray, grid: ImageGrid) -> tuple[np.ndarray, ImageGrid]:
    """The image with blocks of voxels joined by their maximum where there are too many to be turned."""
    sizes = [-(-n // _MOST) for n in grid.shape]
    filled = np.where(np.isfinite(values), values, 0).astype(np.float32)
    if max(sizes) == 1:
        return filled, grid
    extra = [(0, -n % size) for n, size in zip(grid.shape, sizes)]
    padded = np.pad(filled, extra, mode="edge")
    (nx, ny, nz), (a, b, c) = (n // size for n, size in zip(padded.shape, sizes)), sizes
    blocks = padded.reshape(nx, a, ny, b, nz, c).max((1, 3, 5))
    size = tuple(d * s for d, s in zip(grid.voxel_size, sizes))
    origin = tuple(o + d * (s - 1) / 2 for o, d, s in zip(grid.origin, grid.voxel_size, sizes))
    return blocks, ImageGrid(blocks.shape, size, origin)  # type: ignore[arg-type]


def _shadows(values: np.ndarray, grid: ImageGrid, angles: np.ndarray) -> Iterator[tuple[np.ndarray, ImageGrid]]:
    """The maximum along the line of sight (right, up) for every angle, with a grid that says where it is."""
    from scipy.ndimage import affine_transform

    (nx, ny, nz), (dx, dy, dz) = grid.shape, grid.voxel_size
    step = min(dx, dy)
    n = int(np.ceil(np.hypot(nx * dx, ny * dy) / step))
    wide = ImageGrid((n, n, nz), (step, step, dz), (-(n - 1) / 2 * step, -(n - 1) / 2 * step, grid.origin[2]))
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2, 0.0])
    for angle in np.deg2rad(angles):
        # the picture's right is (cos, sin), and away from the viewer is (-sin, cos)
        right, away = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        matrix = np.eye(3)
        matrix[:2, :2] = np.stack([right, away], 1) * step / np.array([[dx], [dy]])
        offset = middle - matrix @ np.array([(n - 1) / 2, (n - 1) / 2, 0.0])
        lowest = min(float(values.min()), 0.0)
        turned = affine_transform(values, matrix, offset, (n, n, nz), order=1, cval=lowest)
        yield turned.max(1), wide


def _turned(layer: Layer, shadow: np.ndarray, wide: ImageGrid, angle: float, title: str) -> Figure:
    view = CORONAL
    size = view.size(wide)
    page = sheet([[[panel(size, per_mm([size], largest=4.0))]]], side_cells(3.0, layer, None, {}), title)
    (axis,) = page.panels()
    draw_slice(
        axis, Layer(np.zeros(wide.shape, np.uint8), wide, layer.look), view, shadow.T, layer.look.norm(shadow)[0]
    )
    frame(axis, view, wide)
    left, right = turned_letters(angle)
    put_letters(axis, (left, right, "S", "I"))
    heading(axis, f"maximum\nfrom {angle:g}\u00b0")
    put_scale_bar(axis, size[0], layer.ink)
    put_side(page.side, layer, None, {})
    return page.figure
