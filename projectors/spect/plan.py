"""The host's half of the SPECT projector: lattices, blur levels and resampling weights, worked out once in float64.

For each view the image is seen in a frame that faces the detector: planes d (0 is the nearest) of columns u, both with
the pitch h = min(dx, dy), and the image's own slices along z.

Variances of Gaussians add, so planes can share their blur: there are a few levels of blur, each plane is divided
between the two levels around its own variance (which makes the variance exact), and one sweep from the highest level
down blurs by the steps between levels. A step is a five-tap kernel with the variance and the kurtosis of a Gaussian;
from 1/3 of a sample squared on it is non-negative, which is why there are levels and not one step per plane. The
lowest levels, where a third would be coarse, are not swept: each has a kernel of its own. Whatever else widens a point
(splatting, resampling to bins of another size) has a variance known exactly and is taken off the response's, along u
and along z by itself: an axis that is sampled too coarsely for the response does not blur the other.

Where the camera sees nothing beyond an end of the image, the body goes on there: the blur along z is that of an image
mirrored at its end, so that even activity gives even views up to the last row. An end that the camera looks past has a
margin of empty slices instead, into which the activity spreads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import convolve1d

from ..core.grid import ImageGrid
from ..core.mirror import folded
from .bands import make_bands, resampling, resampling_cumulant, resampling_reach, resampling_variance
from .camera import SPECTGeometry
from .collimation import GaussianResponse
from .levels import Widths, blur_levels, response_variance, single_level
from .taps import gaussian_taps, possible_cumulant, stack_taps

SPLAT_VARIANCE = 1 / 4  # quadratic B-spline, in samples squared, for every offset
RAY_VARIANCE = 1 / 6  # linear interpolation, mean over offsets


class SPECTPlan(NamedTuple):
    """What the kernels need to know, as arrays; V views, C classes of views with equal distances, F levels not swept.

    Args:
        to_frame : (V, 2, 3), (plane, column) = M (1, i, j) for voxel (i, j)
        to_image : (V, 2, 3), (i, j) = M (1, plane, column)
        rows : (V, planes, 2), first and last + 1 column that the image can reach in a plane
        view_class : (V,)
        level, upper : (C, planes), the lower of the two levels of a plane, and the upper one's share
        steps : (C, levels, 2, 2), from a level to the one below along u and z: variance (samples^2) and fourth cumulant
        u_start, u_weights : (C, F, bins), (C, F, bins, width), bins from columns: blur of the lowest levels, and
            resampling
        z_taps : (C, F, 2 R + 1), the blur of the lowest levels along z
        z_start, z_weights : (rows,), (rows, width), detector rows from slices; empty where they coincide
        n_slices : of the image and the empty ones in its margins
        margin : how many of them lie below the image
        row_offset : the slice of the first row, where rows coincide with slices
        mirror_low, mirror_high : whether the body goes on at an end of the slices
    """

    to_frame: np.ndarray
    to_image: np.ndarray
    rows: np.ndarray
    view_class: np.ndarray
    level: np.ndarray
    upper: np.ndarray
    steps: np.ndarray
    u_start: np.ndarray
    u_weights: np.ndarray
    z_taps: np.ndarray
    z_start: np.ndarray
    z_weights: np.ndarray
    n_columns: int
    n_rows: int
    n_slices: int
    margin: int
    row_offset: int
    mirror_low: bool
    mirror_high: bool
    ray_driven: bool
    weight: float

    def take(self, views: np.ndarray) -> SPECTPlan:
        """Return the plan of some of the views; tables shared by classes of views are not copied."""
        per_view = ("to_frame", "to_image", "rows", "view_class")
        parts: dict[str, Any] = {name: np.ascontiguousarray(getattr(self, name)[views]) for name in per_view}
        return self._replace(**parts)

    def cast(self, dtype: str) -> SPECTPlan:
        """Return the plan with its weights in the kernels' precision."""
        weights = ("upper", "steps", "u_weights", "z_taps", "z_weights")
        parts: dict[str, Any] = {name: getattr(self, name).astype(dtype) for name in weights}
        return self._replace(**parts)

    @property
    def n_planes(self) -> int:
        """The number of planes."""
        return int(self.rows.shape[1])


class MadePlan(NamedTuple):
    """A plan with what a direct blur needs besides: distances (V, planes) mm, and what else widens a point."""

    plan: SPECTPlan
    distances: np.ndarray
    widths: Widths


class Frame(NamedTuple):
    """The lattice that faces the detector: pitch in mm, sizes, and the distance of every plane (V, planes)."""

    pitch: float
    n_planes: int
    n_columns: int
    distance: np.ndarray


def make_frame(grid: ImageGrid, geometry: SPECTGeometry, reach: float) -> Frame:
    """Return the lattice for a response that reaches `reach` mm to each side."""
    pitch = min(grid.voxel_size[:2])
    toward, along = geometry.directions
    half_diagonal = 0.5 * math.hypot(grid.shape[0] * grid.voxel_size[0], grid.shape[1] * grid.voxel_size[1])
    n_planes = 2 * math.ceil(half_diagonal / pitch + 1) + grid.shape[0] % 2
    centre_depth = toward @ grid.centre[:2]
    depth = centre_depth[:, None] + ((n_planes - 1) / 2 - np.arange(n_planes)) * pitch
    wide = geometry.pixel_size[0]
    detector = math.ceil(geometry.n_bins[0] * wide / pitch - 1e-6)
    beside = reach + (resampling_reach(pitch, wide) if abs(wide / pitch - 1) >= 1e-6 else 0.0)
    off_axis = np.max(np.abs(along @ grid.centre[:2] - geometry.shift))
    image = 2 * math.ceil((half_diagonal + off_axis + reach) / pitch + 1)
    n_columns = min(detector + 2 * math.ceil(beside / pitch), image + detector % 2)
    return Frame(pitch, n_planes, n_columns, np.maximum(geometry.radius[:, None] - depth, 0.0))


def make_plan(
    grid: ImageGrid,
    geometry: SPECTGeometry,
    response: GaussianResponse | None,
    *,
    ray_driven: bool,
    aperture: bool = True,
    elsewhere: float | None = None,
) -> MadePlan:
    """Return the plan of a projector.

    Args:
        response : None for none.
        aperture : whether a bin counts what arrives anywhere in it, or samples the response at its centre.
        elsewhere : mm that a response reaches which is applied elsewhere (then `response` is None); this plan then
            blurs nothing.
    """
    # Activity beside the detector is seen too, as far as the blur brings it in. Beyond 3.5 sigma a Gaussian has 5e-4 of
    # its counts, which is left out.
    reach = elsewhere or 0.0
    if response is not None:
        reach = 3.5 * float(np.sqrt(response_variance(response, np.array([[0.0, farthest(grid, geometry)]])).max()))
    frame = make_frame(grid, geometry, reach)
    pitch, (n_bins, n_rows), pixel = frame.pitch, geometry.n_bins, np.array(geometry.pixel_size)
    resample_u = resampling(frame.n_columns, pitch, n_bins, pixel[0], 0.0)
    rows = _make_rows(grid, geometry, reach)
    # Sharing a voxel between columns and columns between bins already widens a point, by a variance that is known: the
    # response is made narrower by as much, so that all of it together has the response's width.
    shared = _shared_variance(grid, geometry, pitch, ray_driven)
    # The blur depends on a view only through the distances of its planes and the voxels' shape as seen from there: on a
    # circle round the image's centre all views share one table, on a body contour those of the same radius.
    kinds, view_class = np.unique(np.concatenate([frame.distance, shared], axis=1), axis=0, return_inverse=True)
    distances, shared = kinds[:, :-3], kinds[:, -3:, None] * [1, 0]
    resampled = np.array([resampling_variance(resample_u, pitch, pixel[0]), rows.variance])
    narrower = np.array([resampling_cumulant(resample_u, pitch, pixel[0]), rows.cumulant])
    widths = Widths(
        np.array([pitch, grid.voxel_size[2]]),
        shared[:, 0] + resampled,
        shared[:, 1] + resampled,
        pixel * aperture,
        -(pixel**4) / 120 * aperture - shared[:, 2] - narrower,
        rows.matrix is None,
    )
    if response is None:
        left = widths.left(np.zeros((distances.shape[0], 1)))[:, 0]
        levels = single_level(left if elsewhere is None else np.zeros_like(left), frame.n_planes)
    else:
        levels = blur_levels(response, distances, widths, is_planar(grid, geometry))
    # The lowest levels are read by the bins directly. Their blur and the resampling to bins are both linear along u, so
    # they are multiplied into one banded matrix.
    bases = levels.base.reshape(-1, 2, 2)
    u_start, u_weights = make_bands(
        _base_matrix(resample_u, _base_taps(along_u), frame.n_columns, n_bins) for along_u, _ in bases
    )
    z_taps = stack_taps([_base_taps(along_z) for _, along_z in bases])
    if rows.matrix is None:
        z_start, z_weights = np.zeros(0, np.int32), np.zeros((0, 0))
    else:
        z_start, z_weights = (part[0] for part in make_bands([rows.matrix]))
    to_frame, to_image = _frame_maps(grid, geometry, frame)
    plan = SPECTPlan(
        to_frame,
        to_image,
        _reached_columns(grid, frame, to_image),
        view_class.ravel().astype(np.int32),
        levels.level,
        levels.upper,
        levels.steps,
        u_start.reshape(*levels.base.shape[:2], -1),
        u_weights.reshape(*levels.base.shape[:2], *u_weights.shape[1:]),
        z_taps.reshape(*levels.base.shape[:2], -1),
        z_start,
        z_weights,
        frame.n_columns,
        n_rows,
        rows.n_slices,
        rows.margin,
        rows.offset,
        rows.mirror_low,
        rows.mirror_high,
        ray_driven,
        pitch**2 / (grid.voxel_size[0] * grid.voxel_size[1]) if ray_driven else 1.0,
    )
    return MadePlan(plan, frame.distance, widths)


def farthest(grid: ImageGrid, geometry: SPECTGeometry) -> float:
    """Return the distance in mm from a detector that no voxel exceeds."""
    size = 0.5 * math.hypot(grid.shape[0] * grid.voxel_size[0], grid.shape[1] * grid.voxel_size[1])
    return float(np.max(geometry.radius)) + size + float(np.hypot(*grid.centre[:2]))


def _shared_variance(grid: ImageGrid, geometry: SPECTGeometry, pitch: float, ray_driven: bool) -> np.ndarray:
    """Return (V, 3): the variance along u of sharing a voxel between columns, the least it should have, its cumulant.

    A voxel that is longer than the columns are wide is seen as long as it is, or even activity would not look even.
    """
    _, along = geometry.directions
    sides = along * grid.voxel_size[:2]
    square, fourth = (sides**2).sum(1) / pitch**2, (sides**4).sum(1) / pitch**4
    one = np.ones_like(square)
    if ray_driven:
        found = RAY_VARIANCE * square, RAY_VARIANCE * square, -2 / 120 * fourth
    else:
        found = SPLAT_VARIANCE * one, SPLAT_VARIANCE * square, -3 / 120 * one
    # Views that differ by rounding only share their tables.
    return np.round(np.stack(found, 1), 9) * [pitch**2, pitch**2, pitch**4]


class _Rows(NamedTuple):
    """The detector's rows: `matrix` (rows, n_slices) from slices, None where they coincide; the rest as in the plan."""

    matrix: np.ndarray | None
    n_slices: int
    margin: int = 0
    offset: int = 0
    mirror_low: bool = False
    mirror_high: bool = False
    variance: float = 0.0
    cumulant: float = 0.0


def is_planar(grid: ImageGrid, geometry: SPECTGeometry) -> bool:
    """Whether one slice is seen by one row: there is no z."""
    return grid.shape[2] == 1 and geometry.n_bins[1] == 1


def _make_rows(grid: ImageGrid, geometry: SPECTGeometry, reach: float) -> _Rows:
    if is_planar(grid, geometry):
        return _Rows(None, 1)
    n, axial, n_rows, pixel = grid.shape[2], grid.voxel_size[2], geometry.n_bins[1], geometry.pixel_size[1]
    offset, outermost = geometry.axial_shift - grid.centre[2], (n_rows - 1) / 2 * pixel - n / 2 * axial
    # Where a row's centre lies beyond an end of the image, the camera says what is there, and the image holds it all.
    first, last = (bool(outermost + side * offset <= 1e-6 * axial) for side in (-1, 1))
    ends = first, last
    low, high = (0 if end else math.ceil(reach / axial) for end in ends)
    n_slices = n + low + high
    more = math.ceil(resampling_reach(axial, pixel) / axial) + 1
    before, after = (more if end else 0 for end in ends)
    from_middle = offset + (before + low - after - high) / 2 * axial
    matrix = resampling(before + n_slices + after, axial, n_rows, pixel, from_middle)
    found = resampling_variance(matrix, axial, pixel), resampling_cumulant(matrix, axial, pixel)
    if matrix is None:
        return _Rows(None, n_slices, low, low + round(offset / axial + (n - n_rows) / 2), *ends, *found)
    return _Rows(folded(matrix, -before, n_slices, *ends), n_slices, low, 0, *ends, *found)


def _base_taps(moments: np.ndarray) -> np.ndarray:
    variance, cumulant = moments
    return gaussian_taps(variance, float(cumulant if variance > 2 / 3 else possible_cumulant(variance, cumulant)))


def _base_matrix(resample: np.ndarray | None, taps: np.ndarray, n_columns: int, n_bins: int) -> np.ndarray:
    """Return (bins, columns): the blur that all planes share, then resampling."""
    if resample is None:
        resample = np.eye(n_bins, n_columns, (n_columns - n_bins) // 2)
    return convolve1d(resample, taps, axis=1, mode="constant")


def _frame_maps(grid: ImageGrid, geometry: SPECTGeometry, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return the affine maps from voxels to (plane, column) and back, (V, 2, 3) each."""
    toward, along = geometry.directions
    origin, size, pitch = np.array(grid.origin[:2]), np.array(grid.voxel_size[:2]), frame.pitch
    constant_plane = (toward @ grid.centre[:2]) / pitch + (frame.n_planes - 1) / 2 - toward @ origin / pitch
    constant_column = (along @ origin - geometry.shift) / pitch + (frame.n_columns - 1) / 2
    plane = np.column_stack([constant_plane, -toward * size / pitch])
    column = np.column_stack([constant_column, along * size / pitch])
    to_frame = np.stack([plane, column], 1)
    inverse = np.linalg.inv(to_frame[..., 1:])
    constant = -np.einsum("vij,vj->vi", inverse, to_frame[..., 0])
    return to_frame, np.concatenate([constant[..., None], inverse], 2)


def _reached_columns(grid: ImageGrid, frame: Frame, to_image: np.ndarray) -> np.ndarray:
    """Return (V, planes, 2): the columns within a splat's reach of the image, empty as (0, 0)."""
    plane = np.arange(frame.n_planes)
    low = np.zeros((to_image.shape[0], frame.n_planes))
    high = np.full_like(low, frame.n_columns - 1.0)
    for axis in (0, 1):
        pad = 1.01 + math.hypot(1.0, 1.5) * frame.pitch / grid.voxel_size[axis]
        position = to_image[:, axis, 0, None] + to_image[:, axis, 1, None] * plane
        slope = to_image[:, axis, 2, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([(-pad - position) / slope, (grid.shape[axis] - 1 + pad - position) / slope])
        flat = np.abs(slope) < 1e-9
        inside = (position > -pad) & (position < grid.shape[axis] - 1 + pad)
        low = np.maximum(low, np.where(flat, np.where(inside, -np.inf, np.inf), ends.min(0)))
        high = np.minimum(high, np.where(flat, np.where(inside, np.inf, -np.inf), ends.max(0)))
    empty = ~(low <= high)
    first = np.ceil(np.where(empty, 0, low))
    last = np.floor(np.where(empty, -1, high)) + 1
    rows = np.stack([first, np.maximum(last, first)], -1)
    rows[rows[..., 0] >= rows[..., 1]] = 0
    return rows.astype(np.int32)
