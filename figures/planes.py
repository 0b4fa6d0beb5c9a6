"""Slices in the patient: where they are in mm, which way they are seen, and how they are drawn in true proportion.

Images lie on LPS grids: x runs to the patient's left, y to the back, z to the head. Axial slices are seen from the feet
and coronal ones from the front, so the patient's left is on the right of the picture; sagittal ones from the left, so
the front is on the left of the picture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

from .looks import Look, drawn
from .sheets import SMALL, TEXT, outlined, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

OUTLINES = ("#0aa5d8", "#2fb344", "#e83fb8", "#f0740a", "#8a5cf0", "#c8a200", "#d8413a", "#1fa698")
"""Colours of the contours of masks, in order."""

_AXES = "xyz"


@dataclass(frozen=True)
class Plane:
    """A direction of slices.

    Args:
        across, right, up : axes of the image: across the slice, to the right of the picture, and along its height.
        downwards : whether that last axis runs down the picture.
        letters : what is at the left, the right, the top and the bottom of the picture.
        seen_from : where the viewer is.
    """

    name: str
    across: int
    right: int
    up: int
    downwards: bool
    letters: tuple[str, str, str, str]
    seen_from: str

    def of(self, values: np.ndarray, index: int) -> np.ndarray:
        """Return a slice as (rows, columns), the first row at the lowest coordinate."""
        return np.take(values, index, axis=self.across).T

    def extent(self, grid: ImageGrid) -> tuple[float, float, float, float]:
        """Return left, right, bottom and top of the picture in mm."""
        left, right = _ends(grid, self.right)
        low, high = _ends(grid, self.up)
        return (left, right, high, low) if self.downwards else (left, right, low, high)

    def size(self, grid: ImageGrid) -> tuple[float, float]:
        """Return width and height of the picture in mm."""
        right, up = self.right, self.up
        return grid.shape[right] * grid.voxel_size[right], grid.shape[up] * grid.voxel_size[up]

    def position(self, grid: ImageGrid, index: int) -> float:
        """Return where the middle of a slice is, in mm."""
        return grid.origin[self.across] + index * grid.voxel_size[self.across]

    def words(self, grid: ImageGrid, index: int) -> str:
        """Return the position of a slice as it is written, "z = 12.3 mm"."""
        return f"{_AXES[self.across]} = {signed(self.position(grid, index))} mm"


AXIAL = Plane("axial", 2, 0, 1, True, ("R", "L", "A", "P"), "the feet")
CORONAL = Plane("coronal", 1, 0, 2, False, ("R", "L", "S", "I"), "the front")
SAGITTAL = Plane("sagittal", 0, 1, 2, False, ("A", "P", "S", "I"), "the left")
PLANES = {plane.name: plane for plane in (AXIAL, CORONAL, SAGITTAL)}
"""The planes by name."""

PlaneName = Literal["axial", "coronal", "sagittal"]
At = tuple[float, float, float] | Literal["middle", "max"]


@dataclass(frozen=True, eq=False)
class Layer:
    """An image with its grid and its look, to be laid over or under another one in the patient's coordinates.

    Args:
        image : (x, y, z), of any array library.
        opacity : of a layer on top: its strongest colours cover so much of what is below; weak values cover less.

    Raises ValueError where the image does not fit the grid.
    """

    image: np.ndarray
    grid: ImageGrid
    look: Look = field(default_factory=Look)
    opacity: float = 0.75

    def __post_init__(self) -> None:
        values = np.asarray(to_numpy(self.image))
        if values.shape != self.grid.shape:
            more = "; draw one frame at a time" if values.ndim == 4 else ""
            raise ValueError(f"a picture of an image of shape {values.shape} on a grid of {self.grid.shape}{more}")
        if values.dtype.kind not in "buif":
            raise ValueError(f"a picture shows real numbers, got {values.dtype}")
        if not 0 < self.opacity <= 1:
            raise ValueError(f"opacity must be above 0 and at most 1, got {self.opacity}")
        object.__setattr__(self, "image", values)

    @cached_property
    def norm(self) -> tuple[Normalize, str]:
        """The norm of the look for this image, and where values lie beyond it; found once, as images may be large."""
        return self.look.norm(self.image)

    @cached_property
    def ink(self) -> str:
        """The colour of texts on the image, "black" or "white"."""
        return self.look.ink(self.image)

    def at(self, plane: Plane, position: float) -> np.ndarray | None:
        """Return the slice at a position in mm, interpolated between slices; None outside of the image."""
        own, n = plane.across, self.grid.shape[plane.across]
        place = (position - self.grid.origin[own]) / self.grid.voxel_size[own]
        if not -0.5 - 1e-6 <= place <= n - 0.5 + 1e-6:
            return None
        place = min(max(place, 0.0), n - 1.0)
        first = min(int(place), max(n - 2, 0))
        part = place - first
        if part < 1e-6 or n == 1:
            return np.asarray(plane.of(self.image, first), float)
        pair = plane.of(self.image, first), plane.of(self.image, first + 1)
        return np.asarray((1 - part) * pair[0] + part * pair[1])


def planes_of(grid: ImageGrid) -> list[Plane]:
    """Return the planes that show something: those that are not one voxel wide or high."""
    shown = [plane for plane in PLANES.values() if min(grid.shape[plane.right], grid.shape[plane.up]) > 1]
    return shown or [AXIAL]


def plane_named(name: str) -> Plane:
    """Return a plane by name; raises ValueError for an unknown one."""
    if name not in PLANES:
        raise ValueError(f"unknown plane {name!r}; choose from {', '.join(PLANES)}")
    return PLANES[name]


def indices_at(image: Array, grid: ImageGrid, at: At) -> tuple[int, int, int]:
    """Return the voxel at a place: (x, y, z) in mm (LPS), "middle", or "max" for the largest value.

    Raises ValueError for a place outside of the image, which names the axis and its ends.
    """
    if at == "middle":
        i, j, k = (n // 2 for n in grid.shape)
        return i, j, k
    if at == "max":
        values = np.asarray(to_numpy(image), float)
        if not np.isfinite(values).any():
            raise ValueError("no value of the image is finite, so there is no largest one")
        largest = int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))
        i, j, k = (int(n) for n in np.unravel_index(largest, values.shape))
        return i, j, k
    if isinstance(at, str) or len(at) != 3:
        raise ValueError(f'a place is (x, y, z) in mm, "middle" or "max", got {at!r}')
    i, j, k = (index_at(grid, axis, float(position)) for axis, position in enumerate(at))
    return i, j, k


def index_at(grid: ImageGrid, axis: int, position: float) -> int:
    """Return the slice that holds a position in mm along an axis; raises ValueError outside of the image."""
    low, high = _ends(grid, axis)
    if not low - 1e-6 <= position <= high + 1e-6:
        raise ValueError(
            f"{_AXES[axis]} = {position:g} mm is outside of the image, which lies from {low:g} to {high:g} mm"
        )
    return int(np.clip(np.floor((position - low) / grid.voxel_size[axis]), 0, grid.shape[axis] - 1))


def draw_slice(axis: Axes, layer: Layer, plane: Plane, values: np.ndarray, norm: Any, *, over: bool = False) -> None:
    """Draw a slice of a layer on a panel whose coordinates are mm; `over` another one, weak values are transparent."""
    shown = drawn(values, norm)
    look: dict[str, Any] = {}
    if over:
        part = np.clip(np.ma.filled(norm(shown), 0.0), 0, 1)
        look["alpha"] = layer.opacity * np.clip(part / 0.3, 0, 1)
    axis.imshow(
        shown,
        cmap=layer.look.colormap,
        norm=norm,
        extent=plane.extent(layer.grid),
        origin="upper" if plane.downwards else "lower",
        aspect="auto",  # panels are made in proportion
        interpolation="antialiased",
        **look,
    )


def frame(axis: Axes, plane: Plane, grid: ImageGrid, colour: str = "0.6") -> None:
    """Make the panel as large as the image, with a thin line around it and no ticks."""
    left, right, bottom, top = plane.extent(grid)
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color(colour)


def draw_contours(
    axis: Axes, masks: Mapping[str, np.ndarray], plane: Plane, grid: ImageGrid, index: int | None
) -> None:
    """Draw the outlines of masks in a slice, or of their shadows where `index` is None."""
    for number, mask in enumerate(masks.values()):
        flat = plane.of(mask, index) if index is not None else mask.max(plane.across).T
        draw_level(axis, np.asarray(flat, float), plane, grid, 0.5, OUTLINES[number % len(OUTLINES)])


def draw_level(axis: Axes, values: np.ndarray, plane: Plane, grid: ImageGrid, level: float, colour: str) -> None:
    """Draw the line on which a slice (rows, columns) has a value; at the edges of the image it is closed."""
    padded = np.pad(np.nan_to_num(values), 1)
    if not padded.min() < level < padded.max():
        return
    x, y = (grid.origin[k] + grid.voxel_size[k] * np.arange(-1, grid.shape[k] + 1) for k in (plane.right, plane.up))
    axis.contour(x, y, padded, [level], colors=[colour], linewidths=1.0)


def put_letters(axis: Axes, letters: Sequence[str], ink: str | None = None) -> None:
    """Write what is at the left, right, top and bottom of a panel around it, or inside of it in a colour."""
    inside = ink is not None
    side = -1 if inside else 1
    places = [(0.0, 0.5, -4, 0), (1.0, 0.5, 4, 0), (0.5, 1.0, 0, 2.5), (0.5, 0.0, 0, -3)]
    names = ["right", "left", "center", "center"], ["center", "center", "bottom", "top"]
    turned = {"right": "left", "left": "right", "bottom": "top", "top": "bottom", "center": "center"}
    look: dict[str, Any] = outlined(ink) if ink is not None else {"color": "0.25"}
    for text, (x, y, dx, dy), across, along in zip(letters, places, *names):
        axis.annotate(
            text,
            (x, y),
            xycoords="axes fraction",
            xytext=(side * dx, side * dy),
            textcoords="offset points",
            ha=turned[across] if inside else across,
            va=turned[along] if inside else along,
            fontsize=TEXT - inside,
            fontweight="bold",
            annotation_clip=False,
            **look,
        )


def put_scale_bar(axis: Axes, width: float, ink: str) -> None:
    """Draw a bar of a round length into the lower right corner of a panel that is so many mm wide, with its length."""
    length, words = scale_length(0.4 * width)
    low, high = 0.95 - length / width, 0.95
    inches = axis.get_window_extent().height / axis.figure.dpi
    if inches < 0.45:  # no room inside of a flat panel
        return
    rim = outlined(ink, 2.6)
    y = 0.08 / inches
    axis.plot([low, high], [y, y], transform=axis.transAxes, linewidth=1.8, solid_capstyle="butt", **rim)
    place: dict[str, Any] = {"transform": axis.transAxes, "ha": "center", "va": "bottom", "fontsize": SMALL}
    axis.text((low + high) / 2, y + 0.03 / inches, words, **place, **outlined(ink, 1.8))


def scale_length(most: float) -> tuple[float, str]:
    """Return the longest round length in mm that is not above `most`, and how it is written."""
    power = 10.0 ** np.floor(np.log10(most))
    length = float(power * max(step for step in (1, 2, 5) if step * power <= most * (1 + 1e-9)))
    return length, f"{length / 10:g} cm" if length >= 10 else f"{length:g} mm"


def put_names(axis: Axes, names: Collection[str], colours: Sequence[str] = OUTLINES) -> None:
    """Write names in the colours of their lines into an empty panel, one below the other."""
    axis.set_axis_off()
    for number, name in enumerate(names):
        colour = colours[number % len(colours)]
        place: dict[str, Any] = {"transform": axis.transAxes, "va": "center", "fontsize": SMALL, "fontweight": "bold"}
        axis.text(0, 1 - (number + 0.5) / len(names), plain(name[:24]), color=colour, **place)


def checked_masks(masks: Mapping[str, Array] | None, grid: ImageGrid) -> dict[str, np.ndarray]:
    """Return masks as arrays on the host; raises ValueError for one that does not fit the grid."""
    found = {}
    for name, mask in (masks or {}).items():
        values = np.asarray(to_numpy(mask))
        if values.shape != grid.shape:
            raise ValueError(f"mask {name!r} of shape {values.shape} does not fit the image's grid of {grid.shape}")
        found[name] = values
    return found


def signed(value: float) -> str:
    """Return a number of mm as it is written: no more than one decimal, and a true minus."""
    return f"{round(value, 1) + 0.0:g}".replace("-", "\u2212")


def _ends(grid: ImageGrid, axis: int) -> tuple[float, float]:
    """The outer faces of the image along an axis, in mm."""
    start, size = grid.origin[axis], grid.voxel_size[axis]
    return start - size / 2, start + (grid.shape[axis] - 0.5) * size
