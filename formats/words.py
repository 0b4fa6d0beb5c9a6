"""Geometry in words, as a physicist would say it: heads, views, arc, direction and radius of a camera; grids; times."""

from __future__ import annotations

import numpy as np

from emrecon.projectors import ImageGrid, SPECTGeometry

_EVEN = 0.05  # degrees; angles of files are rounded


def camera_in_words(camera: SPECTGeometry) -> str:
    """Return where a camera was: "2 heads, 60 views each, 180 degrees apart, clockwise from 0 degrees over 180 ..."."""
    heads = [np.flatnonzero(camera.head == head) for head in dict.fromkeys(camera.head.tolist())]
    counts = {views.size for views in heads}
    if len(heads) == 1:
        said = [n_of(camera.n_views, "view")]
    else:
        each = f"{n_of(counts.pop(), 'view')} each" if len(counts) == 1 else f"{camera.n_views} views in all"
        said = [n_of(len(heads), "head"), each]
        said += [f"{_apart(camera, heads)} apart"] if len(heads) == 2 else []
    said.append(_arc(camera.angles[heads[0]]))
    if len(heads) > 2:
        starts = ", ".join(f"{camera.angles[views[0]]:.5g}" for views in heads[1:])
        said.append(f"the others from {starts} degrees")
    return "; ".join([", ".join(said), radius_in_words(camera), _detector(camera)])


def _apart(camera: SPECTGeometry, heads: list[np.ndarray]) -> str:
    turn = (camera.angles[heads[1][0]] - camera.angles[heads[0][0]]) % 360
    return f"{min(turn, 360 - turn):.5g} degrees"


def _arc(angles: np.ndarray) -> str:
    if angles.size == 1:
        return f"at {angles[0]:.5g} degrees"
    steps = (np.diff(angles) + 180) % 360 - 180
    if np.abs(steps).max() < _EVEN:
        return f"all at {angles[0]:.5g} degrees"
    if steps.min() < 0 < steps.max():
        return f"at angles of {angles.min():.5g} to {angles.max():.5g} degrees in no order"
    direction = "counter-clockwise" if steps.sum() > 0 else "clockwise"
    even = np.ptp(steps) <= _EVEN
    step = f"steps of {abs(steps.mean()):.4g}" if even else f"steps of {abs(steps).min():.4g} to {abs(steps).max():.4g}"
    over = abs(steps.sum()) + (abs(steps.mean()) if even else 0)
    return f"{direction} (seen from the feet) from {angles[0]:.5g} degrees over {over:.5g} degrees in {step}"


def radius_in_words(camera: SPECTGeometry) -> str:
    """Return the distance of the collimator from the axis: one number, or from to by view."""
    low, high = camera.radius.min(), camera.radius.max()
    return f"radius {low:.5g} mm" if high - low < 0.05 else f"radius {low:.5g} to {high:.5g} mm by view"


def _detector(camera: SPECTGeometry) -> str:
    bins, size = " x ".join(map(str, camera.n_bins)), " x ".join(f"{mm:.4g}" for mm in camera.pixel_size)
    shifts = [f"; centre of rotation off by {_range(camera.shift)} mm"] if camera.shift.any() else []
    shifts += [f"; detector {camera.axial_shift:+.5g} mm along the axis"] if camera.axial_shift else []
    return f"{bins} bins of {size} mm" + "".join(shifts)


def grid_in_words(grid: ImageGrid) -> str:
    """Return the size of an image."""
    sizes = " x ".join(f"{mm:.4g}" for mm in grid.voxel_size)
    wide = " x ".join(f"{n * mm:.4g}" for n, mm in zip(grid.shape, grid.voxel_size))
    return f"{' x '.join(map(str, grid.shape))} voxels of {sizes} mm, {wide} mm in all"


def n_of(n: int, what: str) -> str:
    """Return a number of things: "1 view", "60 views"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def seconds_in_words(seconds: float) -> str:
    """Return a time: "12.5 s", "20 min", "1 h 05 min"."""
    if seconds < 120:
        return f"{seconds:.4g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
