"""The PET projectors' CPU kernels: Joseph's method for all ring pairs of a transaxial line together, and for events.

A sinogram is (view, radial, TOF bin, lane), an image (x, y, lane). A lane is a plane or a slice; in a batch of thin
images it is (plane, item) or (slice, item), with `stride` items to a plane.

All ring pairs of one (view, radial) share their path through the transaxial plane. At each step along it the two voxel
columns on either side are blended once into a short axial line, and every plane reads that line at its own height. The
transpose adds up in the same short line, which stays in the first-level cache, and then in an image that belongs to
one thread: no atomics. The support is the whole interpolation tent, so that an image of ones gives the chord length.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..core.compiling import inline_kernel as _inline
from ..core.compiling import kernel as _compile

PAD = 2  # empty slices on either side of an axial line

_TILE = 256  # lanes whose TOF bins stay in the cache


class PETPlan(NamedTuple):
    """Where the lines of a sinogram are, in the precision of the arrays except where noted.

    Args:
        ends : (views, radial, 4) x and y in mm of both ends of the transaxial lines, float64
        start, rise : (planes,) height of the first end, and of the second above it, in slices; start counts the padding
        rise_mm : (planes,) the same rise in mm
        origin, voxel : (3,) centre of the first voxel and voxel sizes in mm, float64
        edges : (TOF bins + 1,) in units of the half width of the timing kernel; empty without TOF
        kernel : coefficients of the cumulated timing kernel, see `TimeOfFlight.polynomial`
        per_mm : (1,) the reciprocal of that half width in mm, float64
    """

    ends: np.ndarray
    start: np.ndarray
    rise: np.ndarray
    rise_mm: np.ndarray
    origin: np.ndarray
    voxel: np.ndarray
    edges: np.ndarray
    kernel: np.ndarray
    per_mm: np.ndarray


class Scratch(NamedTuple):
    """Working memory of one thread: axial lines, and values of a tile of lanes."""

    line: np.ndarray
    slope: np.ndarray
    value: np.ndarray
    fraction: np.ndarray
    below: np.ndarray
    length: np.ndarray
    reach: np.ndarray
    position: np.ndarray
    previous: np.ndarray


def make_scratch(plan: PETPlan, n_slices: int, stride: int) -> Scratch:
    """Return working memory for images of `n_slices` slices and `stride` items."""
    dtype, padded, lanes = plan.start.dtype, (n_slices + 2 * PAD) * stride, plan.start.size * stride
    sizes = {"line": padded, "slope": padded}
    rooms = {name: np.zeros(sizes.get(name, lanes), dtype) for name in Scratch._fields}
    return Scratch(**rooms | {"below": np.zeros(lanes, np.int32)})


@_compile
def forward(image, plan, scratch, stride, first, n, out):
    """out[v, r] = the line integrals of `image` in mm, for the transaxial lines first::n in the order (v, r).

    Args:
        image : (nx, ny, slices * stride).
        out : (V, R, TOF bins, planes * stride).
    """
    n_radial, n_planes = out.shape[1], plan.start.shape[0]
    tile, flat = _tile(plan, stride), _is_flat(plan, image.shape[2] // stride)
    for line in range(first, out.shape[0] * n_radial, n):
        v, r = line // n_radial, line % n_radial
        path = _path(plan, v, r, image.shape[0], image.shape[1])
        if flat:
            _forward_flat(image, path, out[v, r, 0])
            continue
        for p in range(0, n_planes, tile):
            end = min(p + tile, n_planes)
            _forward_tile(image, plan, scratch, path, p, end, stride, out[v, r])


@_compile
def adjoint(sinogram, plan, scratch, stride, first, n, image):
    """image += the transpose of `forward` applied to `sinogram`, for the transaxial lines first::n."""
    n_radial, n_planes = sinogram.shape[1], plan.start.shape[0]
    tile, flat = _tile(plan, stride), _is_flat(plan, image.shape[2] // stride)
    for line in range(first, sinogram.shape[0] * n_radial, n):
        v, r = line // n_radial, line % n_radial
        path = _path(plan, v, r, image.shape[0], image.shape[1])
        if flat:
            _adjoint_flat(sinogram[v, r, 0], path, image)
            continue
        for p in range(0, n_planes, tile):
            end = min(p + tile, n_planes)
            _adjoint_tile(sinogram[v, r], plan, scratch, path, p, end, stride, image)


@_inline
def _tile(plan, stride):
    """How many planes are done together: all of them without TOF."""
    if plan.edges.shape[0] == 0:
        return plan.start.shape[0]
    return max(_TILE // stride, 1)


@_inline
def _is_flat(plan, n_slices):
    """Whether there is one plane without TOF, in the middle of an image of one slice: nothing to do along z."""
    one = n_slices == 1 and plan.start.shape[0] == 1 and plan.edges.shape[0] == 0
    return one and plan.start[0] == PAD and plan.rise[0] == 0


@_compile
def _forward_flat(image, path, out):
    """`_forward_tile` without z: images (nx, ny, items), out (items)."""
    along_x, n, step = path[0], path[1], path[7]
    real = image.dtype.type
    for s in range(out.shape[0]):
        out[s] = real(0)
    for i in range(n):
        hit, _, j, j1, w0, w1 = _columns(path, i)
        if not hit:
            continue
        w0, w1 = real(w0), real(w1)
        first, second = (image[i, j], image[i, j1]) if along_x else (image[j, i], image[j1, i])
        for s in range(out.shape[0]):
            out[s] += w0 * first[s] + w1 * second[s]
    for s in range(out.shape[0]):
        out[s] *= real(step)


@_compile
def _adjoint_flat(values, path, image):
    """image += the transpose of `_forward_flat` applied to `values`."""
    along_x, n, step = path[0], path[1], path[7]
    real = image.dtype.type
    for i in range(n):
        hit, _, j, j1, w0, w1 = _columns(path, i)
        if not hit:
            continue
        w0, w1 = real(step) * real(w0), real(step) * real(w1)
        first, second = (image[i, j], image[i, j1]) if along_x else (image[j, i], image[j1, i])
        for s in range(values.shape[0]):
            first[s] += w0 * values[s]
        for s in range(values.shape[0]):
            second[s] += w1 * values[s]


@_compile
def _path(plan, v, r, nx, ny):
    """The steps of a transaxial line: (along x?, steps, cross size, c0, dc, t0, dt, step in mm, length in mm).

    At step i the line is at i of the main axis, at c0 + i dc of the other, and t0 + i dt of the way to its second end.
    """
    ax, ay, bx, by = plan.ends[v, r, 0], plan.ends[v, r, 1], plan.ends[v, r, 2], plan.ends[v, r, 3]
    return _steps(ax, ay, bx - ax, by - ay, plan.origin, plan.voxel, nx, ny)


@_inline
def _steps(ax, ay, dx, dy, origin, voxel, nx, ny):
    # Followed along the axis that it runs along more, a line moves sideways by at most one voxel per layer (where
    # voxels are square): it skips none, and two columns of each layer are all that it lies between.
    along_x = abs(dx) >= abs(dy)
    length = math.hypot(dx, dy)
    if along_x:
        t0, dt = (origin[0] - ax) / dx, voxel[0] / dx
        c0, dc = (ay + t0 * dy - origin[1]) / voxel[1], dt * dy / voxel[1]
        return along_x, nx, ny, c0, dc, t0, dt, abs(dt) * length, length
    t0, dt = (origin[1] - ay) / dy, voxel[1] / dy
    c0, dc = (ax + t0 * dx - origin[0]) / voxel[0], dt * dx / voxel[0]
    return along_x, ny, nx, c0, dc, t0, dt, abs(dt) * length, length


@_inline
def _columns(path, i):
    """The voxel columns on either side of step i, and their weights: (hit?, t, column, next column, w0, w1).

    Outside of the image a weight is 0, and the column is the nearest.
    """
    # A column outside is replaced by one inside that weighs nothing, so that the loops along z need no branch. Lines up
    # to one voxel outside still count: there the outermost voxels have the other half of their tents, without which
    # they would weigh less than the others and a chord through ones would be too short.
    _, _, m, c0, dc, t0, dt, _, _ = path
    c, t = c0 + i * dc, t0 + i * dt
    j = math.floor(c)
    part = min(max(c - j, 0.0), 1.0)  # rounding must not make a weight negative
    w0, w1 = 1 - part if j >= 0 else 0.0, part if j + 1 < m else 0.0
    return j >= -1 and j < m and t >= 0 and t <= 1, t, max(j, 0), min(j + 1, m - 1), w0, w1


@_compile
def _forward_tile(image, plan, scratch, path, p, end, stride, out):
    along_x, n = path[0], path[1]
    start, rise = plan.start[p:end], plan.rise[p:end]
    line, slope = scratch.line, scratch.slope
    real = image.dtype.type
    top = line.shape[0] // stride - PAD
    tof = plan.edges.shape[0] > 0
    _lengths(plan, scratch, path, p, end, stride)
    n_lanes = (end - p) * stride
    length, value = scratch.length[:n_lanes], scratch.value[:n_lanes]
    reach, position, previous = scratch.reach[:n_lanes], scratch.position[:n_lanes], scratch.previous[:n_lanes]
    straight = out[0][p * stride : end * stride]
    for b in range(out.shape[0]):
        row = out[b][p * stride : end * stride]
        for q in range(n_lanes):
            row[q] = real(0)
    for i in range(n):
        hit, t, j, j1, w0, w1 = _columns(path, i)
        if not hit:
            continue
        if along_x:
            _blend(image[i, j], image[i, j1], real(w0), real(w1), stride, line, slope)
        else:
            _blend(image[j, i], image[j1, i], real(w0), real(w1), stride, line, slope)
        if not tof:
            _read(line, slope, start, rise, real(t), real(top), stride, straight)
            continue
        for q in range(n_lanes):
            value[q] = real(0)
        _read(line, slope, start, rise, real(t), real(top), stride, value)
        low, high = _window(reach, real(t), plan.edges, position)
        _into_bins(value, position, plan.edges, plan.kernel, low, high, previous, p * stride, out)
    for b in range(out.shape[0]):
        row = out[b][p * stride : end * stride]
        for q in range(n_lanes):
            row[q] *= length[q]


@_compile
def _adjoint_tile(sinogram, plan, scratch, path, p, end, stride, image):
    along_x, n = path[0], path[1]
    start, rise = plan.start[p:end], plan.rise[p:end]
    line, slope = scratch.line, scratch.slope
    real = image.dtype.type
    top = line.shape[0] // stride - PAD
    tof = plan.edges.shape[0] > 0
    _lengths(plan, scratch, path, p, end, stride)
    n_lanes = (end - p) * stride
    length, value = scratch.length[:n_lanes], scratch.value[:n_lanes]
    reach, position, previous = scratch.reach[:n_lanes], scratch.position[:n_lanes], scratch.previous[:n_lanes]
    below, fraction = scratch.below[:n_lanes], scratch.fraction[:n_lanes]
    if not tof:
        row = sinogram[0][p * stride : end * stride]
        for q in range(n_lanes):
            value[q] = row[q] * length[q]
    for i in range(n):
        hit, t, j, j1, w0, w1 = _columns(path, i)
        if not hit:
            continue
        if tof:
            low, high = _window(reach, real(t), plan.edges, position)
            _from_bins(sinogram, p * stride, length, position, plan.edges, plan.kernel, low, high, previous, value)
        _write(value, start, rise, real(t), real(top), stride, below, fraction, line, slope)
        if along_x:
            _unblend(line, real(w0), real(w1), stride, image[i, j], image[i, j1])
        else:
            _unblend(line, real(w0), real(w1), stride, image[j, i], image[j1, i])


@_compile
def _lengths(plan, scratch, path, p, end, stride):
    """The length in mm of a step of every lane; with TOF also half its line's length, in kernel half widths."""
    step, length = path[7], path[8]
    real = scratch.length.dtype.type
    per_mm = plan.per_mm[0]
    for q in range(p, end):
        rise = plan.rise_mm[q] / length
        stretch = math.sqrt(1 + rise * rise)
        for s in range(stride):
            scratch.length[(q - p) * stride + s] = real(step * stretch)
            scratch.reach[(q - p) * stride + s] = real(length * stretch * per_mm)


@_compile
def _blend(first, second, w0, w1, stride, line, slope):
    """line = w0 first + w1 second, with the padding around; slope = the difference to the next slice."""
    # All planes cross these two columns at the same weights and differ in height only. The blended line is short and
    # stays in the cache for all of them. The slope is kept so that a plane reads line[k] + f slope[k], two values at
    # one index; the empty slices at the ends stand for what lies outside, so that no plane has to ask.
    n = first.shape[0]
    inner = line[PAD * stride : PAD * stride + n]
    for k in range(n):
        inner[k] = w0 * first[k] + w1 * second[k]
    lower, upper = line[: line.shape[0] - stride], line[stride:]
    rising = slope[: line.shape[0] - stride]
    for k in range(lower.shape[0]):
        rising[k] = upper[k] - lower[k]


@_compile
def _unblend(line, w0, w1, stride, first, second):
    n = first.shape[0]
    inner = line[PAD * stride : PAD * stride + n]
    for k in range(n):
        first[k] += w0 * inner[k]
    for k in range(n):
        second[k] += w1 * inner[k]


@_compile
def _read(line, slope, start, rise, t, top, stride, value):
    """value += the axial line at the height of every plane."""
    real = line.dtype.type
    zero = real(0)
    if stride == 1:
        for q in range(start.shape[0]):
            z = min(max(start[q] + t * rise[q], zero), top)
            k = np.int32(z)
            f = z - real(k)
            value[q] += line[np.uint32(k)] + f * slope[np.uint32(k)]
        return
    for q in range(start.shape[0]):
        z = min(max(start[q] + t * rise[q], zero), top)
        slab = int(z)
        w = z - real(slab)
        flat, rising = line[slab * stride : (slab + 1) * stride], slope[slab * stride : (slab + 1) * stride]
        target = value[q * stride : (q + 1) * stride]
        for s in range(stride):
            target[s] += flat[s] + w * rising[s]


@_compile
def _write(value, start, rise, t, top, stride, below, fraction, line, slope):
    """line = the transpose of `_read` applied to `value`."""
    real = line.dtype.type
    zero = real(0)
    n = line.shape[0]
    for i in range(n):
        line[i] = zero
        slope[i] = zero
    if stride == 1:
        for q in range(start.shape[0]):
            z = min(max(start[q] + t * rise[q], zero), top)
            k = np.int32(z)
            below[q] = k
            fraction[q] = (z - real(k)) * value[q]
        for q in range(start.shape[0]):
            at = np.uint32(below[q])
            line[at] += value[q]
            slope[at] += fraction[q]
    else:
        for q in range(start.shape[0]):
            z = min(max(start[q] + t * rise[q], zero), top)
            slab = int(z)
            w = z - real(slab)
            flat, rising = line[slab * stride : (slab + 1) * stride], slope[slab * stride : (slab + 1) * stride]
            source = value[q * stride : (q + 1) * stride]
            for s in range(stride):
                flat[s] += source[s]
                rising[s] += w * source[s]
    lower, upper = line[: n - stride], line[stride:]
    for i in range(n - stride):
        lower[i] -= slope[i]
    for i in range(n - stride):
        upper[i] += slope[i]


@_compile
def _window(reach, t, edges, position):
    """Set every lane's position along its line, from the middle; return the TOF bins [low, high) within reach."""
    half = reach.dtype.type(0.5)
    along = t - half
    lowest = highest = along * reach[0]
    for q in range(reach.shape[0]):
        here = along * reach[q]
        position[q] = here
        lowest = min(lowest, here)
        highest = max(highest, here)
    n, width = edges.shape[0] - 1, edges[1] - edges[0]
    low = math.floor((lowest - 1 - edges[0]) / width)
    high = math.ceil((highest + 1 - edges[0]) / width)
    return min(max(low, 0), n), max(min(high, n), 0)


@_inline
def _cumulated(u, c, one):
    """The cumulated timing kernel, 0 at u = -1 and 1 at u = 1, less a half."""
    u = min(max(u, -one), one)
    w = u * u
    outer = ((c[8] * w + c[7]) * w + c[6]) * w + c[5]
    return u * (((((outer * w + c[4]) * w + c[3]) * w + c[2]) * w + c[1]) * w + c[0])


@_inline
def _coefficients(kernel):
    """The kernel's coefficients as values: an array might overlap with what a loop writes, and would be read again."""
    return (kernel[0], kernel[1], kernel[2], kernel[3], kernel[4], kernel[5], kernel[6], kernel[7], kernel[8])


@_compile
def _into_bins(value, position, edges, kernel, low, high, previous, at, out):
    """out[b] += value x the part of the timing kernel that falls into bin b."""
    c, one, edge = _coefficients(kernel), edges.dtype.type(1), edges[low]
    for q in range(value.shape[0]):
        previous[q] = _cumulated(edge - position[q], c, one)
    for b in range(low, high):
        row, edge = out[b][at : at + value.shape[0]], edges[b + 1]
        for q in range(value.shape[0]):
            here = max(_cumulated(edge - position[q], c, one), previous[q])  # it falls by rounding only
            row[q] += value[q] * (here - previous[q])
            previous[q] = here


@_compile
def _from_bins(bins, at, length, position, edges, kernel, low, high, previous, value):
    """value = length x the sum over TOF bins, the transpose of `_into_bins`."""
    c, one, edge = _coefficients(kernel), edges.dtype.type(1), edges[low]
    zero = edges.dtype.type(0)
    for q in range(value.shape[0]):
        previous[q] = _cumulated(edge - position[q], c, one)
        value[q] = zero
    for b in range(low, high):
        row, edge = bins[b][at : at + value.shape[0]], edges[b + 1]
        for q in range(value.shape[0]):
            here = max(_cumulated(edge - position[q], c, one), previous[q])
            value[q] += row[q] * (here - previous[q])
            previous[q] = here
    for q in range(value.shape[0]):
        value[q] *= length[q]
