"""The SPECT projector's CPU kernels: splat, attenuate and blur plane by plane, for the views first::n of a plan.

Arrays are (x, y, lane), (view, u, lane): lanes are contiguous, so that every inner loop is a SIMD loop. A lane is a
slice; in a batch of thin images it is (slice, item), with `stride` items to a slice.

What keeps this fast: only a few planes are alive at a time, so that everything but the image itself stays in the
cache; a function is called once per plane, not once per row, since passing arrays costs; and a loop over lanes touches
no more than a handful of arrays, indexed by its counter alone, or the compiler gives up on SIMD (it could not prove
that they do not overlap, or that an index is not a negative one that counts from the end).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from .blur_kernels import _ascend, _compile, _copy, _descend, _fill, _inline, _levels
from .plan import SPECTPlan

_SURVIVAL_BYTES = 4 << 20  # for the planes whose attenuation is kept at a time, 8 at least

_TAPS = 6  # voxels summed in one loop


class Scratch(NamedTuple):
    """Working memory of one thread; made in Python, since allocations are slow to compile.

    Args:
        low, high, spare : planes of two levels and one to blur into, (columns + 4, padded lanes), two empty columns a
            side
        work, wide, blurred : rows of padded lanes; work and wide have room for the blur on either side
        row, line : rows of lanes
        survival, checkpoints : of one group of planes, and on entry to each group; empty without attenuation
        remaining : (columns, lanes) survival up to the current plane
        pair : (2, columns, lanes) the last two planes of the frame
        start, order : the voxels in the order of their planes, as `_sort_voxels` lists them
        tap_count, tap_voxel, tap_weight : the voxels that reach each column of a plane, as `_plane_taps` lists them
    """

    low: np.ndarray
    high: np.ndarray
    spare: np.ndarray
    work: np.ndarray
    wide: np.ndarray
    blurred: np.ndarray
    row: np.ndarray
    line: np.ndarray
    survival: np.ndarray
    checkpoints: np.ndarray
    remaining: np.ndarray
    pair: np.ndarray
    start: np.ndarray
    order: np.ndarray
    tap_count: np.ndarray
    tap_voxel: np.ndarray
    tap_weight: np.ndarray


def make_scratch(plan: SPECTPlan, shape: tuple[int, ...], stride: int, absorbed: np.ndarray) -> Scratch:
    """Return working memory for an image of `shape` (nx, ny, lanes), in the precision of `absorbed`."""
    nx, ny, lanes = shape
    planes, columns = plan.n_planes, plan.n_columns
    padded = plan.n_slices * stride
    padded += -padded % 16  # whole vectors: a remainder costs as much as several of them
    plane_bytes = columns * lanes * absorbed.dtype.itemsize
    group = min(max(_SURVIVAL_BYTES // plane_bytes, 8), planes) if absorbed.size > 0 else 0
    n_groups = -(-planes // group) if group else 0
    # At most so many voxel centres lie in a 2 x 3 box of the frame: its area in voxels, half its perimeter, and one
    # (Nosarzewska 1948); no side of a voxel is shorter than the frame's pitch.
    density = 1 / abs(np.linalg.det(plan.to_frame[0, :, 1:]))
    most = _TAPS * (int(6 * density + 8) // _TAPS + 1)

    def room(*sizes: int) -> np.ndarray:
        return np.zeros(sizes, absorbed.dtype)

    return Scratch(
        low=room(columns + 4, padded),
        high=room(columns + 4, padded),
        spare=room(columns + 4, padded),
        work=room(padded + 4 * stride),
        wide=room(padded + 2 * stride * (plan.z_taps.shape[-1] // 2)),
        blurred=room(padded),
        row=room(lanes),
        line=room(lanes),
        survival=room(group, columns, lanes),
        checkpoints=room(n_groups, columns, lanes),
        remaining=room(columns, lanes),
        pair=room(2, columns, lanes),
        start=np.zeros(planes + 2, np.int64),
        order=np.zeros(nx * ny, np.int32),
        tap_count=np.zeros(columns, np.int32),
        tap_voxel=np.zeros((columns, most), np.int32),
        tap_weight=room(columns, most),
    )


@_compile
def forward(image, absorbed, plan, scratch, stride, first, n, out):
    """out[v] = the projection of `image` for v in first::n, every step fused.

    Args:
        image : (nx, ny, L).
        absorbed : 1 - exp(-mu h / 2), the same shape, or empty.
        out : (V, bins, rows * stride).
    """
    low, high, spare = scratch.low, scratch.high, scratch.spare
    for v in range(first, out.shape[0], n):
        to_image, to_frame, rows = plan.to_image[v], plan.to_frame[v], plan.rows[v]
        levels, uppers = _levels(plan, v)
        _sort_voxels(image.shape[0], image.shape[1], to_frame, scratch)
        _checkpoint(absorbed, to_image, rows, scratch)
        level = np.int64(levels[-1])
        out[v] = 0
        _fill(low, 0)
        _fill(high, 0)
        for d in range(rows.shape[0] - 1, -2, -1):
            while level > (levels[d] if d >= 0 else -2):
                low, high, spare = _descend(low, high, spare, plan, v, level, stride, scratch, out)
                level -= 1
            if d >= 0:
                _survive_group(absorbed, to_image, rows, d, scratch)
                _plane_taps(to_frame, image.shape[1], d, scratch)
                _add_splatted(image, d, rows[d, 0], rows[d, 1], low, high, uppers[d], plan.margin * stride, scratch)


@_compile
def adjoint(projections, absorbed, plan, scratch, stride, first, n, out):
    """out += the transpose of `forward` applied to the views first::n of `projections`; out : (nx, ny, L)."""
    low, high, spare = scratch.low, scratch.high, scratch.spare
    for v in range(first, projections.shape[0], n):
        to_image, to_frame, rows = plan.to_image[v], plan.to_frame[v], plan.rows[v]
        levels, uppers = _levels(plan, v)
        _sort_voxels(out.shape[0], out.shape[1], to_frame, scratch)
        _fill(scratch.remaining, 1)
        level = np.int64(-2)
        for d in range(rows.shape[0]):
            while level < levels[d]:
                low, high, spare = _ascend(low, high, spare, plan, v, level, stride, scratch, projections)
                level += 1
            a, b, upper = rows[d, 0], rows[d, 1], uppers[d]
            _attenuate(low, high, upper, plan.margin * stride, absorbed, to_image, d, a, b, scratch)
            _gather(to_frame, d - 1, scratch, out)


@_compile
def rotate(image, absorbed, plan, scratch, v, out):
    """out = the attenuated image in the frame of view v, before any blur; out : (planes, columns, L)."""
    plane = scratch.low
    to_image, to_frame, rows = plan.to_image[v], plan.to_frame[v], plan.rows[v]
    if not plan.ray_driven:
        _sort_voxels(image.shape[0], image.shape[1], to_frame, scratch)
    _checkpoint(absorbed, to_image, rows, scratch)
    for d in range(out.shape[0] - 1, -1, -1):
        _fill(plane, 0)
        _survive_group(absorbed, to_image, rows, d, scratch)
        if plan.ray_driven:
            _add_interpolated(image, to_image, plan.weight, d, rows[d, 0], rows[d, 1], plane, scratch)
        else:
            _plane_taps(to_frame, image.shape[1], d, scratch)
            _add_splatted(image, d, rows[d, 0], rows[d, 1], plane, plane, 0 * plan.upper[0, 0], 0, scratch)
        _copy(plane[2:-2], out[d])


@_compile
def rotate_adjoint(frame, absorbed, plan, scratch, v, out):
    """out += the transpose of `rotate` applied to `frame`."""
    plane = scratch.low
    _fill(scratch.remaining, 1)
    to_image, to_frame, rows = plan.to_image[v], plan.to_frame[v], plan.rows[v]
    if not plan.ray_driven:
        _sort_voxels(out.shape[0], out.shape[1], to_frame, scratch)
    for d in range(frame.shape[0]):
        a, b = rows[d, 0], rows[d, 1]
        _copy(frame[d], plane[2:-2])
        _attenuate(plane, plane, 0 * plan.upper[0, 0], 0, absorbed, to_image, d, a, b, scratch)
        if plan.ray_driven:
            _spread(scratch.pair, to_image, plan.weight, d, a, b, out)
        else:
            _gather(to_frame, d - 1, scratch, out)


@_compile
def attenuation_adjoint(frame, cotangent, absorbed, plan, scratch, v, out):
    """out += the derivative of the sum of cotangent * frame by `absorbed`, for view v.

    Args:
        frame : of `rotate`, attenuated; cotangent : before attenuation, of `collapse_adjoint`.
    """
    # A plane that absorbs a passes (1 - a)^2 of all behind it and 1 - a of its own: what it lets through is lost by
    # 1 / (1 - a), once for itself and twice for the planes behind.
    to_image, rows = plan.to_image[v], plan.rows[v]
    behind, row, pair = scratch.remaining, scratch.row, scratch.pair
    one, lanes = out.dtype.type(1), out.shape[2]
    _fill(behind, 0)
    for d in range(frame.shape[0] - 1, -1, -1):
        for u in range(rows[d, 0], rows[d, 1]):
            _bilinear(absorbed, to_image, 1.0, d, u, row)
            for k in range(lanes):
                own = frame[d, u, k] * cotangent[d, u, k]
                pair[d % 2, u, k] = -(own + behind[u, k] + behind[u, k]) / (one - row[k])
                behind[u, k] += own
        _spread(pair, to_image, 1.0, d, rows[d, 0], rows[d, 1], out)


@_compile
def collapse(frame, plan, scratch, v, stride, out):
    """out[v] = the blurred sum over the planes of `frame`, as the detector sees it."""
    low, high, spare = scratch.low, scratch.high, scratch.spare
    _fill(low, 0)
    _fill(high, 0)
    levels, uppers = _levels(plan, v)
    offset = plan.margin * stride
    level = np.int64(levels[-1])
    out[v] = 0
    for d in range(frame.shape[0] - 1, -2, -1):
        while level > (levels[d] if d >= 0 else -2):
            low, high, spare = _descend(low, high, spare, plan, v, level, stride, scratch, out)
            level -= 1
        for u in range(frame.shape[1] if d >= 0 else 0):
            low[u + 2, offset : offset + frame.shape[2]] += (1 - uppers[d]) * frame[d, u]
            high[u + 2, offset : offset + frame.shape[2]] += uppers[d] * frame[d, u]


@_compile
def collapse_adjoint(projections, plan, scratch, v, stride, frame):
    """frame = the transpose of `collapse`."""
    low, high, spare = scratch.low, scratch.high, scratch.spare
    levels, uppers = _levels(plan, v)
    offset = plan.margin * stride
    level = np.int64(-2)
    for d in range(frame.shape[0]):
        while level < levels[d]:
            low, high, spare = _ascend(low, high, spare, plan, v, level, stride, scratch, projections)
            level += 1
        for u in range(frame.shape[1]):
            near = low[u + 2, offset : offset + frame.shape[2]]
            frame[d, u] = (1 - uppers[d]) * near + uppers[d] * high[u + 2, offset : offset + frame.shape[2]]


@_inline
def _position(to_frame, i, j):
    """The (plane, column) of voxel (i, j)."""
    return (
        to_frame[0, 0] + to_frame[0, 1] * i + to_frame[0, 2] * j,
        to_frame[1, 0] + to_frame[1, 1] * i + to_frame[1, 2] * j,
    )


@_inline
def _fraction(position, below):
    """How far a position is beyond the whole number below it; rounding must not make a weight negative."""
    return min(max(position - below, 0.0), 1.0)


@_inline
def _spline(offset):
    """The quadratic B-spline at -1, 0, 1 around the nearest column: weights that sum to 1, with variance 1/4."""
    return 0.5 * (0.5 - offset) ** 2, 0.75 - offset**2, 0.5 * (0.5 + offset) ** 2


@_compile
def _sort_voxels(nx, ny, to_frame, scratch):
    """List the voxels between planes d and d + 1 as order[start[d]:start[d + 1]]."""
    # Planes are done one at a time, and each must find its voxels without a search through the image. So they are
    # sorted by counting. Counts go two places up: after the sums, start[d + 1] is where plane d's list begins, and the
    # second pass moves it to the list's end, which is where the next list begins.
    start, order = scratch.start, scratch.order
    start[:] = 0
    for i in range(nx):
        for j in range(ny):
            start[math.floor(_position(to_frame, i, j)[0]) + 2] += 1
    for d in range(1, start.size):
        start[d] += start[d - 1]
    for i in range(nx):
        for j in range(ny):
            d = math.floor(_position(to_frame, i, j)[0])
            order[start[d + 1]] = i * ny + j
            start[d + 1] += 1


@_compile
def _plane_taps(to_frame, ny, d, scratch):
    """Collect for each column of plane d the voxels that are splatted there; unused places weigh nothing."""
    # Each voxel knows its columns, but the loop over lanes is fast only if it writes one row once and reads many
    # voxels. So the splat is turned round here, once per plane: from now on a column knows its voxels. They lie in the
    # gap before this plane or in the gap after it, and a plane shares them linearly with its neighbour.
    start, order = scratch.start, scratch.order
    count, index, weight = scratch.tap_count, scratch.tap_voxel, scratch.tap_weight
    count[:] = 0
    _fill(weight, 0)
    for behind in range(2):
        first = d - 1 + behind
        if first < 0:
            continue
        for n in range(start[first], start[first + 1]):
            fd, fu = _position(to_frame, order[n] // ny, order[n] % ny)
            u0 = math.floor(fu + 0.5)
            beyond = _fraction(fd, first)
            share = 1 - beyond if behind else beyond
            spline = _spline(fu - u0)
            for s in range(3):
                u = u0 + s - 1
                if u < 0 or u >= count.size:
                    continue
                index[u, count[u]] = order[n]
                weight[u, count[u]] = share * spline[s]
                count[u] += 1


@_compile
def _add_splatted(image, d, first, last, low, high, upper, offset, scratch):
    """Add survival * the sum of the voxels splatted at (d, u) to both levels, for columns first to last."""
    count, index, weight = scratch.tap_count, scratch.tap_voxel, scratch.tap_weight
    row, survival = scratch.row, scratch.survival
    group = max(survival.shape[0], 1)
    lanes, at, lower = image.shape[2], max(offset, 0), 1 - upper
    flat = image.reshape(-1, lanes)
    for u in range(first, last):
        for c in range(0, count[u], _TAPS):
            a0, a1, a2 = index[u, c], index[u, c + 1], index[u, c + 2]
            a3, a4, a5 = index[u, c + 3], index[u, c + 4], index[u, c + 5]
            w0, w1, w2 = weight[u, c], weight[u, c + 1], weight[u, c + 2]
            w3, w4, w5 = weight[u, c + 3], weight[u, c + 4], weight[u, c + 5]
            for k in range(lanes):
                row[k] = (
                    w0 * flat[a0, k] + w1 * flat[a1, k] + w2 * flat[a2, k]
                    + w3 * flat[a3, k] + w4 * flat[a4, k] + w5 * flat[a5, k]
                )  # fmt: skip
            if survival.shape[0] > 0:
                for k in range(lanes):
                    row[k] *= survival[d % group, u, k]
            for k in range(lanes):
                low[u + 2, at + k] += lower * row[k]
            if upper > 0:
                for k in range(lanes):
                    high[u + 2, at + k] += upper * row[k]


@_compile
def _gather(to_frame, d, scratch, out):
    """out[i, j] += the six frame samples that each voxel between planes d and d + 1 is splatted to."""
    if d < 0:
        return
    start, order, frame = scratch.start, scratch.order, scratch.pair
    real = out.dtype.type
    ny, columns, lanes = out.shape[1], frame.shape[1], out.shape[2]
    near, far = d % 2, (d + 1) % 2
    for n in range(start[d], start[d + 1]):
        i, j = order[n] // ny, order[n] % ny
        fd, fu = _position(to_frame, i, j)
        u = math.floor(fu + 0.5)
        behind = _fraction(fd, d)
        a, b, c = _spline(fu - u)
        if u >= 1 and u + 1 < columns:
            p0, p1, p2 = real((1 - behind) * a), real((1 - behind) * b), real((1 - behind) * c)
            q0, q1, q2 = real(behind * a), real(behind * b), real(behind * c)
            for k in range(lanes):
                out[i, j, k] += (
                    p0 * frame[near, u - 1, k] + p1 * frame[near, u, k] + p2 * frame[near, u + 1, k]
                    + q0 * frame[far, u - 1, k] + q1 * frame[far, u, k] + q2 * frame[far, u + 1, k]
                )  # fmt: skip
            continue
        spline = (a, b, c)
        for s in range(3):
            column = u + s - 1
            if 0 <= column < columns:
                p, q = real((1 - behind) * spline[s]), real(behind * spline[s])
                for k in range(lanes):
                    out[i, j, k] += p * frame[near, column, k] + q * frame[far, column, k]


@_inline
def _corner(to_image, d, u):
    """The voxel below (d, u) along both axes and the fractions beyond it."""
    fi = to_image[0, 0] + to_image[0, 1] * d + to_image[0, 2] * u
    fj = to_image[1, 0] + to_image[1, 1] * d + to_image[1, 2] * u
    i, j = math.floor(fi), math.floor(fj)
    return i, j, _fraction(fi, i), _fraction(fj, j)


@_compile
def _bilinear(image, to_image, scale, d, u, row):
    """row = scale * the image at (d, u), bilinear between voxel centres, zero outside."""
    real = row.dtype.type
    nx, ny, lanes = image.shape
    i, j, x, y = _corner(to_image, d, u)
    w00, w01, w10, w11 = scale * (1 - x) * (1 - y), scale * (1 - x) * y, scale * x * (1 - y), scale * x * y
    if 0 <= i < nx - 1 and 0 <= j < ny - 1:
        a, b, c, e = real(w00), real(w01), real(w10), real(w11)
        for k in range(lanes):
            row[k] = a * image[i, j, k] + b * image[i, j + 1, k] + c * image[i + 1, j, k] + e * image[i + 1, j + 1, k]
    else:
        row[:] = 0
        for s in range(4):
            ii, jj = i + s // 2, j + s % 2
            if 0 <= ii < nx and 0 <= jj < ny:
                a = real((w00, w01, w10, w11)[s])
                for k in range(lanes):
                    row[k] += a * image[ii, jj, k]


@_compile
def _add_interpolated(image, to_image, scale, d, low, high, plane, scratch):
    """plane[u] += survival * the image interpolated at (d, u), for columns low to high."""
    row, survival = scratch.row, scratch.survival
    group = max(survival.shape[0], 1)
    for u in range(low, high):
        _bilinear(image, to_image, scale, d, u, row)
        if survival.shape[0] > 0:
            for k in range(row.size):
                row[k] *= survival[d % group, u, k]
        for k in range(row.size):
            plane[u + 2, k] += row[k]


@_compile
def _spread(frame, to_image, scale, d, low, high, out):
    """The transpose of the interpolation: out += scale * frame, shared between the four voxels around (d, u)."""
    real = out.dtype.type
    nx, ny, lanes = out.shape
    for u in range(low, high):
        i, j, x, y = _corner(to_image, d, u)
        weights = ((1 - x) * (1 - y), (1 - x) * y, x * (1 - y), x * y)
        for s in range(4):
            ii, jj = i + s // 2, j + s % 2
            if 0 <= ii < nx and 0 <= jj < ny:
                a = real(scale * weights[s])
                for k in range(lanes):
                    out[ii, jj, k] += a * frame[d % 2, u, k]


@_compile
def _checkpoint(absorbed, to_image, rows, scratch):
    """checkpoints[g] = the survival from the near side of group g to the detector."""
    # The blur sweeps from the farthest plane to the nearest, attenuation builds up the other way. To keep the survival
    # of every plane would take as much memory as the frame; to divide absorption out again would fail behind dense
    # matter. So it is kept at a few planes only, and `_survive_group` repeats the way from there.
    checkpoints, remaining, survival = scratch.checkpoints, scratch.remaining, scratch.survival
    if survival.shape[0] == 0:
        return
    _fill(remaining, 1)
    for g in range(checkpoints.shape[0]):
        _copy(remaining, checkpoints[g])
        first = g * survival.shape[0]
        for d in range(first, first + survival.shape[0] if g + 1 < checkpoints.shape[0] else first):
            _pass_plane(absorbed, to_image, d, rows[d, 0], rows[d, 1], remaining, survival[0], scratch.row)


@_compile
def _survive_group(absorbed, to_image, rows, d, scratch):
    """Where d is the last plane of its group: survival[e % group] = that from the middle of plane e, whole group."""
    survival = scratch.survival
    group = survival.shape[0]
    if group == 0 or (d % group != group - 1 and d != rows.shape[0] - 1):
        return
    remaining = scratch.checkpoints[d // group]
    for e in range(d - d % group, d + 1):
        _pass_plane(absorbed, to_image, e, rows[e, 0], rows[e, 1], remaining, survival[e % group], scratch.row)


@_compile
def _pass_plane(absorbed, to_image, d, low, high, remaining, middle, row):
    """Pass plane d: middle = survival from its middle to the detector, remaining = survival from its far side."""
    lanes = middle.shape[1]
    one = middle.dtype.type(1)
    for u in range(low, high):
        _bilinear(absorbed, to_image, 1.0, d, u, row)
        for k in range(lanes):
            half = one - row[k]
            m = remaining[u, k] * half
            middle[u, k] = m
            remaining[u, k] = m * half


@_compile
def _attenuate(low, high, upper, offset, absorbed, to_image, d, first, last, scratch):
    """pair[d % 2] = plane d, between its two levels, times the survival from its middle."""
    frame, remaining, row, line = scratch.pair, scratch.remaining, scratch.row, scratch.line
    lanes, at = frame.shape[2], max(offset, 0)
    one, lower = frame.dtype.type(1), 1 - upper
    for u in range(first, last):
        for k in range(lanes):
            line[k] = lower * low[u + 2, at + k] + upper * high[u + 2, at + k]
        if absorbed.size == 0:
            for k in range(lanes):
                frame[d % 2, u, k] = line[k]
            continue
        _bilinear(absorbed, to_image, 1.0, d, u, row)
        for k in range(lanes):
            half = one - row[k]
            m = remaining[u, k] * half
            frame[d % 2, u, k] = m * line[k]
            remaining[u, k] = m * half
