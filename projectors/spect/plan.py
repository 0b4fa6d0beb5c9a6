"""The host's half of the SPECT projector: lattices, blur levels and resampling weights, worked out once in float64.

For each view the image is seen in a frame that faces the detector: planes d (0 is the nearest) of columns u, both with
the pitch h = max(dx, dy), and the image's own slices along z with a margin on both sides.

Variances of Gaussians add, so planes can share their blur: there are a few levels of blur, each plane is divided
between the two levels around its own variance (which makes the variance exact), and one sweep from the highest level
down blurs by the steps between levels. A step is a five-tap kernel with the variance and the kurtosis of a Gaussian;
from 1/3 of a sample squared on it is non-negative, which is why there are levels and not one step per plane. The
lowest levels, where a third would be coarse, are not swept: each has a kernel of its own. Whatever else widens a point
(splatting, resampling to bins of another size) has a variance known exactly and is taken off the response's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.ndimage import convolve1d

from ..core.grid import ImageGrid
from .camera import SPECTGeometry
from .collimation import GaussianResponse

_LANDINGS = (0.5, 0.75, 1.0, 1.25)  # sigma^2 at the lowest levels, samples squared
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
    margin: int
    row_offset: int
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
    """A plan with what a direct blur needs besides: distances (V, planes) mm, spacing and fixed variance along u, z."""

    plan: SPECTPlan
    distances: np.ndarray
    spacing: np.ndarray
    fixed: np.ndarray


class Frame(NamedTuple):
    """The lattice that faces the detector: pitch in mm, sizes, and the distance of every plane (V, planes)."""

    pitch: float
    n_planes: int
    n_columns: int
    distance: np.ndarray


def make_frame(grid: ImageGrid, geometry: SPECTGeometry, reach: float) -> Frame:
    """Return the lattice for a response that reaches `reach` mm to each side."""
    pitch = max(grid.voxel_size[:2])
    toward, along = geometry.directions
    half_diagonal = 0.5 * math.hypot(grid.shape[0] * grid.voxel_size[0], grid.shape[1] * grid.voxel_size[1])
    n_planes = 2 * math.ceil(half_diagonal / pitch + 1) + grid.shape[0] % 2
    centre_depth = toward @ grid.centre[:2]
    depth = centre_depth[:, None] + ((n_planes - 1) / 2 - np.arange(n_planes)) * pitch
    detector = math.ceil(geometry.n_bins[0] * geometry.pixel_size[0] / pitch - 1e-6)
    off_axis = np.max(np.abs(along @ grid.centre[:2] - geometry.shift))
    image = 2 * math.ceil((half_diagonal + off_axis + reach) / pitch + 1)
    n_columns = min(detector + 2 * math.ceil(reach / pitch), image + detector % 2)
    return Frame(pitch, n_planes, n_columns, np.maximum(geometry.radius[:, None] - depth, 0.0))


def make_plan(
    grid: ImageGrid, geometry: SPECTGeometry, response: GaussianResponse | None, *, ray_driven: bool, reach: float = 0.0
) -> MadePlan:
    """Return the plan of a projector; `response` None means none, or one applied elsewhere that reaches `reach` mm."""
    # Activity beside the detector is seen too, as far as the blur brings it in. Beyond 3.5 sigma a Gaussian has 5e-4 of
    # its counts, which is left out.
    if response is not None:
        reach = 3.5 * float(np.sqrt(_variance(response, np.array([[0.0, farthest(grid, geometry)]])).max()))
    frame = make_frame(grid, geometry, reach)
    pitch, axial = frame.pitch, grid.voxel_size[2]
    planar = grid.shape[2] == 1 and geometry.n_bins[1] == 1
    resample_u = _resampling(frame.n_columns, pitch, geometry.n_bins[0], geometry.pixel_size[0], 0.0)
    margin = 0 if planar else math.ceil(reach / axial)
    n_slices = grid.shape[2] + 2 * margin
    offset_z = geometry.axial_shift - grid.centre[2]
    resample_z = None if planar else _resampling(n_slices, axial, geometry.n_bins[1], geometry.pixel_size[1], offset_z)
    # Sharing a voxel between columns and columns between bins already widens a point, by a variance that is known: the
    # response is made narrower by as much, so that all of it together has the response's width.
    splat = (RAY_VARIANCE if ray_driven else SPLAT_VARIANCE) * pitch**2
    fixed = np.array([splat + _resampling_variance(resample_u, pitch, geometry.pixel_size[0]),
                      _resampling_variance(resample_z, axial, geometry.pixel_size[1])])  # fmt: skip
    # The blur depends on a view only through the distances of its planes: on a circle round the image's centre all
    # views share one table, on a body contour those of the same radius.
    distances, view_class = np.unique(frame.distance, axis=0, return_inverse=True)
    levels = _blur_levels(response, distances, fixed, np.array([pitch, axial]), planar)
    # The lowest levels are read by the bins directly. Their blur and the resampling to bins are both linear along u, so
    # they are multiplied into one banded matrix.
    bases = levels.base.reshape(-1, 2, 2)
    u_start, u_weights = make_bands(
        _base_matrix(resample_u, gaussian_taps(*along_u), frame.n_columns, geometry.n_bins[0]) for along_u, _ in bases
    )
    z_taps = _stack_taps([gaussian_taps(*along_z) for _, along_z in bases])
    if resample_z is None:
        z_start, z_weights = np.zeros(0, np.int32), np.zeros((0, 0))
    else:
        z_start, z_weights = (part[0] for part in make_bands([resample_z]))
    # Where rows coincide with slices nothing is resampled along z: row q is slice q + row_offset, the margin included.
    row_offset = 0
    if resample_z is None and not planar:
        row_offset = margin + round(offset_z / axial + (grid.shape[2] - geometry.n_bins[1]) / 2)
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
        geometry.n_bins[1],
        margin,
        row_offset,
        ray_driven,
        pitch**2 / (grid.voxel_size[0] * grid.voxel_size[1]) if ray_driven else 1.0,
    )
    return MadePlan(plan, frame.distance, np.array([pitch, axial]), fixed)


def gaussian_taps(variance: float, cumulant: float = 0.0) -> np.ndarray:
    """Return symmetric taps that sum to one with this variance (samples^2) and fourth cumulant (0: a Gaussian's).

    Five taps up to a variance of 2/3, non-negative where `cumulant` is a `possible_cumulant`; beyond, a sampled
    Gaussian with the first term of its Gram-Charlier series.
    """
    if variance > 2 / 3:
        return _sampled_gaussian(variance, cumulant)
    return five_taps(variance, cumulant)


def _sampled_gaussian(variance: float, cumulant: float) -> np.ndarray:
    k = np.arange(-math.ceil(5.5 * math.sqrt(variance)), math.ceil(5.5 * math.sqrt(variance)) + 1)
    scale = variance
    for _ in range(4):  # sampling and cutting at zero change the variance a little: ask for as much more or less
        t = k / math.sqrt(scale)
        correction = 1 + cumulant / (24 * variance**2) * (t**4 - 6 * t**2 + 3)
        taps = np.maximum(correction, 0) * np.exp(-(t**2) / 2)
        taps /= taps.sum()
        scale *= variance / float(taps @ k**2)
    return taps


def five_taps(variance: float, cumulant: float) -> np.ndarray:
    """Return the only five symmetric taps with this sum (1), variance and fourth cumulant."""
    second = (3 * variance**2 - variance + cumulant) / 24
    first = variance / 2 - 4 * second
    return np.array([second, first, 1 - 2 * (first + second), first, second])


def farthest(grid: ImageGrid, geometry: SPECTGeometry) -> float:
    """Return the distance in mm from a detector that no voxel exceeds."""
    size = 0.5 * math.hypot(grid.shape[0] * grid.voxel_size[0], grid.shape[1] * grid.voxel_size[1])
    return float(np.max(geometry.radius)) + size + float(np.hypot(*grid.centre[:2]))


class Levels(NamedTuple):
    """The blur of every class of views: base (C, F, u or z, variance or cumulant), the rest as in the plan."""

    base: np.ndarray
    level: np.ndarray
    upper: np.ndarray
    steps: np.ndarray


def _blur_levels(
    response: GaussianResponse | None, distances: np.ndarray, fixed: np.ndarray, spacing: np.ndarray, planar: bool
) -> Levels:
    """Divide the planes' variances into levels.

    A step is at least a third of the larger sample squared, so that five taps can be non-negative along u and z, and
    grows with the variance. Below that come the fixed landings, as far as there are planes so near.
    """
    n_classes, n_planes = distances.shape
    if response is None:
        zeros = np.zeros((n_classes, n_planes))
        return Levels(np.zeros((n_classes, 1, 2, 2)), zeros.astype(np.int32), zeros, np.zeros((n_classes, 1, 2, 2)))
    variance, square = _variance(response, distances), spacing**2
    used = 1 if planar else 2
    smallest, largest = min(square[:used].max() / 3, square[:used].min() * 2 / 3), square[:used].min() * 4 / 3
    ladders, n_free = [], 1
    for nearest, farthest in zip(variance[:, 0], variance[:, -1]):
        ladder = [max(nearest, fixed[:used].max())]
        ladder += [w * square[0] for w in _LANDINGS if ladder[0] < w * square[0] and (w - 0.2) * square[0] < farthest]
        n_free = max(n_free, len(ladder))
        while ladder[-1] < farthest:
            ladder.append(ladder[-1] + np.clip((ladder[-1] - fixed[0]) / 4, smallest, largest))
        ladders.append(np.array(ladder))
    n_levels = max(map(len, ladders))
    position = np.stack([np.interp(v, ladder, np.arange(ladder.size)) for v, ladder in zip(variance, ladders)])
    level = np.clip(np.floor(position), 0, max(n_levels - 2, 0)).astype(np.int32)
    total = np.stack([np.pad(ladder, (0, n_levels - ladder.size), mode="edge") for ladder in ladders])
    total = np.maximum(total[..., None] - fixed, 0) / square
    if planar:
        total[..., 1] = 0
    base, steps = _cumulants(total, min(n_levels, max(n_free, 2)))
    return Levels(base, level, position - level, steps)


def _cumulants(total: np.ndarray, n_free: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (variance, fourth cumulant) of the lowest `n_free` levels and of the steps.

    Args:
        total : (C, levels, 2) variance left to the blur, samples squared.

    A plane between two levels is a mixture of two Gaussians: its fourth cumulant is up to 3/4 of the step squared, so
    every level gets half of that with a minus sign (and a touch for the splat), as far as its taps stay non-negative.
    The peak of a point then is within 2 % of a Gaussian's from a sigma of one sample on, wherever it lies.
    """
    step = np.diff(total, axis=1, prepend=total[:, :1])
    above = np.concatenate([step[:, 1:], step[:, -1:]], axis=1)
    wanted = -0.375 * above**2 - 0.01
    fourth = np.zeros_like(total)
    lowest, goal = total[:, :n_free], wanted[:, :n_free]
    fourth[:, :n_free] = np.where(lowest > 2 / 3, goal, possible_cumulant(lowest, goal))
    reached = fourth[:, n_free - 1]
    for k in range(n_free, total.shape[1]):
        passes = np.maximum(n_passes(step[:, k]), 1)
        fourth[:, k] = passes * possible_cumulant(step[:, k] / passes, (wanted[:, k] - reached) / passes)
        reached = reached + fourth[:, k]
    return np.stack([total, fourth], -1)[:, :n_free], np.stack([step, fourth], -1)


def possible_cumulant(variance: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the fourth cumulant nearest to `wanted` with which five taps are non-negative, in float32 too."""
    return np.maximum(wanted, (1 + 1e-6) * variance - 3 * variance**2)


def n_passes(variance: np.ndarray) -> np.ndarray:
    """How many five-tap kernels make up a step: each adds 2/3 of a sample squared at most, to look like a Gaussian."""
    return np.ceil(1.5 * variance - 1e-6).astype(int)


def _variance(response: GaussianResponse, distance: np.ndarray) -> np.ndarray:
    """Return sigma^2 in mm^2, after checking what the response says."""
    sigma = np.asarray(response.sigma(distance), float)
    if sigma.shape != distance.shape or not np.all(np.isfinite(sigma)) or np.any(sigma < 0):
        raise ValueError(f"{response!r} must give one finite sigma >= 0 (mm) for each distance")
    if np.any(np.diff(sigma, axis=1) < -1e-9):
        raise ValueError(f"{response!r} gets narrower with distance; give its kernels as a MeasuredResponse instead")
    variance: np.ndarray = np.maximum.accumulate(sigma, axis=1) ** 2
    return variance


def _resampling(n_in: int, pitch: float, n_out: int, pixel: float, offset: float) -> np.ndarray | None:
    """Return the (n_out, n_in) weights from samples to pixels, both centred but for `offset` mm; None if they coincide.

    The kernel is box(pitch) * box(pixel)^3: columns sum to one (nothing is lost), an even distribution stays even,
    and a point's variance grows by pitch^2/12 + pixel^2/4 wherever it lies.
    """
    shift = offset / pitch + (n_in - n_out) / 2
    if abs(pixel / pitch - 1) < 1e-6 and abs(shift - round(shift)) < 1e-6:
        return None
    samples = (np.arange(n_in) - (n_in - 1) / 2) * pitch
    pixels = (np.arange(n_out) - (n_out - 1) / 2) * pixel + offset
    distance = (pixels[:, None] - samples[None]) / pixel
    half = pitch / pixel / 2
    return (_spline_integral(distance + half) - _spline_integral(distance - half)) / (2 * half)


def _resampling_variance(resample: np.ndarray | None, pitch: float, pixel: float) -> float:
    return 0.0 if resample is None else pitch**2 / 12 + pixel**2 / 4


def _spline_integral(t: np.ndarray) -> np.ndarray:
    """The integral of the quadratic B-spline from minus infinity to t."""
    t = np.clip(t, -1.5, 1.5)
    outer = (1.5 - np.abs(t)) ** 3 / 6
    return np.where(np.abs(t) <= 0.5, 0.5 + 0.75 * t - t**3 / 3, np.where(t < 0, outer, 1 - outer))


def _base_matrix(resample: np.ndarray | None, taps: np.ndarray, n_columns: int, n_bins: int) -> np.ndarray:
    """Return (bins, columns): the blur that all planes share, then resampling."""
    if resample is None:
        resample = np.eye(n_bins, n_columns, (n_columns - n_bins) // 2)
    return convolve1d(resample, taps, axis=1, mode="constant")


def make_bands(matrices: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return banded matrices as first columns (C, rows) and weights (C, rows, width); one is in memory at a time."""
    bands = [(_band(matrix), matrix.shape[1]) for matrix in matrices]
    width = max(weights.shape[1] for (_, weights), _ in bands)
    widened = [_widened(start, weights, width, n) for (start, weights), n in bands]
    return np.stack([start for start, _ in widened]), np.stack([weights for _, weights in widened])


def _band(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used = np.abs(matrix) > 1e-12 * np.abs(matrix).max(initial=1e-30)
    first = np.where(used.any(1), used.argmax(1), 0)
    last = np.where(used.any(1), matrix.shape[1] - used[:, ::-1].argmax(1), 0)
    width = max(1, int((last - first).max()))
    start = np.minimum(first, matrix.shape[1] - width)
    return start, np.take_along_axis(np.where(used, matrix, 0), start[:, None] + np.arange(width), axis=1)


def _widened(start: np.ndarray, weights: np.ndarray, width: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a band in rows of `width` weights, still inside n columns."""
    moved, wide = np.minimum(start, n - width), np.zeros((start.size, width))
    np.put_along_axis(wide, (start - moved)[:, None] + np.arange(weights.shape[1]), weights, axis=1)
    return moved.astype(np.int32), wide


def _stack_taps(taps: list[np.ndarray]) -> np.ndarray:
    radius = max(t.size for t in taps) // 2
    return np.stack([np.pad(t, radius - t.size // 2) for t in taps])


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
