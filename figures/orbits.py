"""The orbit of a SPECT camera, seen from the feet: where every head looks from, how far away, and which way it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import ImageGrid, SPECTGeometry
from emrecon.projectors.core.arrays import Array, to_numpy

from .planes import AXIAL, put_letters, scale_length, signed
from .sheets import SMALL, TEXT, Cell, sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADS = ("#1f6fb4", "#d9630b", "#2b8a3e", "#8a3fa0", "#b03060", "#5a5a5a")
"""Colours of heads, in order."""

_MOST_FACES = 24  # of a head that are drawn


def orbit(
    geometry: SPECTGeometry,
    *,
    image: Array | None = None,
    grid: ImageGrid | None = None,
    title: str = "",
) -> Figure:
    """Return a figure of a camera's orbit as it is seen from the feet, in mm.

    A line joins the middles of a head's face over its views; an arrow shows the way it goes, a dot where it begins, and
    short lines some of the faces, as wide as the bins. What lies below says angles, radii and views of every head.

    Args:
        image, grid : (x, y, z), such as an attenuation map; its middle slice is drawn inside of the orbit.

    Raises ValueError where an image comes without its grid or does not fit it.
    """
    page = sheet([[[Cell(3.9, 3.9, 0.25, 0.25, 0.25, 0.25)]]], title=title, footer="\n".join(orbit_words(geometry)))
    (axis,) = page.panels()
    outward, along = geometry.directions
    middle = geometry.radius[:, None] * outward + geometry.shift[:, None] * along
    half = geometry.n_bins[0] * geometry.pixel_size[0] / 2
    reach = 1.06 * max(float(np.hypot(geometry.radius, half + np.abs(geometry.shift)).max()), 1.0)
    if image is not None:
        _body(axis, np.asarray(to_numpy(image)), grid)
    heads = np.unique(geometry.head)
    for number, head in enumerate(heads):
        _head(axis, middle[geometry.head == head], along[geometry.head == head], half, HEADS[number % len(HEADS)])
    axis.plot(0, 0, "+", color="0.35", markersize=8, markeredgewidth=0.8)
    axis.set_xlim(-reach, reach)
    axis.set_ylim(reach, -reach)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color("0.6")
    put_letters(axis, AXIAL.letters)
    length, words = scale_length(0.5 * reach)
    right = reach * 0.93
    axis.plot([right - length, right], [right, right], color="black", linewidth=1.6, solid_capstyle="butt")
    axis.text(right - length / 2, right - 0.03 * reach, words, ha="center", va="bottom", fontsize=SMALL)
    axis.text(0.02, 0.98, "seen from the feet", transform=axis.transAxes, va="top", fontsize=SMALL, color="0.35")
    for number, head in enumerate(heads):
        place: dict[str, Any] = {
            "transform": axis.transAxes,
            "va": "bottom",
            "fontsize": TEXT,
            "color": HEADS[number % len(HEADS)],
        }
        axis.text(0.02, 0.02 + 0.045 * (len(heads) - 1 - number), f"head {head}", **place)
    return page.figure


def orbit_words(geometry: SPECTGeometry) -> list[str]:
    """Return a line for every head: its views, angles (degrees), radius (mm) and, where there is one, shift."""
    found = []
    for head in np.unique(geometry.head):
        own = geometry.head == head
        angles, radius, shift = geometry.angles[own], geometry.radius[own], geometry.shift[own]
        said = f"head {head}: {angles.size} views, {signed(angles[0])}\u00b0 to {signed(angles[-1])}\u00b0"
        said += f", radius {_range(radius)} mm"
        found.append(said + (f", shift {_range(shift)} mm" if shift.any() else ""))
    bins, size = " x ".join(map(str, geometry.n_bins)), " x ".join(f"{d:g}" for d in geometry.pixel_size)
    place = f", table at z = {signed(geometry.axial_shift)} mm" if geometry.axial_shift else ""
    return [*found, f"{bins} bins of {size} mm{place}"]


def _head(axis: Axes, middle: np.ndarray, along: np.ndarray, half: float, colour: str) -> None:
    for k in np.unique(np.linspace(0, len(middle) - 1, min(_MOST_FACES, len(middle))).round().astype(int)):
        ends = np.stack([middle[k] - half * along[k], middle[k] + half * along[k]])
        axis.plot(*ends.T, color=colour, alpha=0.25, linewidth=0.9)
    first = np.stack([middle[0] - half * along[0], middle[0] + half * along[0]])
    axis.plot(*first.T, color=colour, linewidth=2.0, solid_capstyle="butt")
    axis.plot(*middle.T, ".-", color=colour, linewidth=0.9, markersize=2.5)
    axis.plot(*middle[0], "o", color=colour, markersize=5)
    if len(middle) > 1:
        # a good part of the way on, so that the tip is seen beside the dot
        to = min(max(1, len(middle) // 8), len(middle) - 1)
        axis.annotate(
            "",
            middle[to],
            middle[to - 1],
            arrowprops={"arrowstyle": "-|>", "color": colour, "mutation_scale": 13, "shrinkA": 0, "shrinkB": 0},
        )


def _body(axis: Axes, values: np.ndarray, grid: ImageGrid | None) -> None:
    if grid is None or values.shape != grid.shape:
        raise ValueError("orbit needs the grid of its image, of the same shape")
    middle = AXIAL.of(values, grid.shape[2] // 2)
    axis.imshow(middle, cmap="gray_r", extent=AXIAL.extent(grid), origin="upper", alpha=0.5, aspect="auto")


def _range(values: np.ndarray) -> str:
    low, high = float(values.min()), float(values.max())
    return signed(low) if signed(low) == signed(high) else f"{signed(low)} to {signed(high)}"
