"""CPU kernels of the collimator's blur: levels of planes that share it, and the detector that reads them."""

from __future__ import annotations

import math

from ..core.compiling import inline_kernel as _inline
from ..core.compiling import kernel as _compile


@_inline
def _levels(plan, v):
    """The planes' levels and the upper levels' shares, for view v."""
    c = plan.view_class[v]
    return plan.level[c], plan.upper[c]


@_compile
def _fill(array, value):
    """array[:] = value; the plain loop compiles many times faster."""
    for u in range(array.shape[0]):
        for k in range(array.shape[1]):
            array[u, k] = value


@_compile
def _copy(source, target):
    """target = source, as many lanes as both have."""
    for u in range(target.shape[0]):
        for k in range(min(source.shape[1], target.shape[1])):
            target[u, k] = source[u, k]


@_inline
def _five_taps(variance, cumulant, real):
    """Centre, first and second neighbour of a kernel with this variance and fourth cumulant, as in `gaussian_taps`."""
    second = (3 * variance * variance - variance + cumulant) / 24
    first = variance / 2 - 4 * second
    return real(1 - 2 * (first + second)), real(first), real(second)


@_compile
def _descend(low, high, spare, plan, v, level, stride, scratch, out):
    """Leave level + 1: blur it into the one below, or detect it if it is one of the lowest.

    Returns (an empty plane, low, spare).
    """
    # Variances add: blurred by one step, a level needs just the blur of the level below. So it is added to that, and
    # many planes together cost one small blur per step. The lowest levels are closer together than five non-negative
    # taps can step: each of them goes to the detector with a whole kernel of its own.
    if level + 1 >= plan.u_start.shape[1]:
        if level + 1 < plan.steps.shape[1]:
            high, spare = _blur(high, spare, plan, plan.steps[plan.view_class[v], level + 1], stride, scratch.work)
            for u in range(low.shape[0]):
                for k in range(low.shape[1]):
                    low[u, k] += high[u, k]
    else:
        detect(high, plan, v, level + 1, stride, scratch, out)
    _fill(high, 0)
    return high, low, spare


@_compile
def _ascend(low, high, spare, plan, v, level, stride, scratch, projections):
    """Enter level + 2, the transpose of leaving it; return (high, level + 2, spare)."""
    # Here the sweep runs away from the detector. A level is the one below, blurred by one more step; the one below is
    # copied, since the planes in between read both. The lowest levels, each with a kernel of its own, come from the
    # projections directly.
    if level + 2 >= plan.u_start.shape[1]:
        if level + 2 < plan.steps.shape[1]:
            _copy(high, low)
            low, spare = _blur(low, spare, plan, plan.steps[plan.view_class[v], level + 2], stride, scratch.work)
    else:
        detect_adjoint(projections, plan, v, level + 2, stride, scratch, low)
    return high, low, spare


@_compile
def _blur(plane, spare, plan, step, stride, work):
    """Blur by a step along u and z, in passes of 2/3 of a sample squared at most; return (result, the other buffer)."""
    passes_u, passes_z = math.ceil(1.5 * step[0, 0] - 1e-6), math.ceil(1.5 * step[1, 0] - 1e-6)
    for p in range(max(passes_u, passes_z)):
        share_u = 1 / passes_u if p < passes_u else 0.0
        share_z = 1 / passes_z if p < passes_z else 0.0
        _blur_pass(
            plane,
            spare,
            plan,
            share_u * step[0, 0],
            share_u * step[0, 1],
            share_z * step[1, 0],
            share_z * step[1, 1],
            stride,
            work,
        )
        plane, spare = spare, plane
    return plane, spare


@_compile
def _blur_pass(source, target, plan, variance_u, cumulant_u, variance_z, cumulant_z, stride, work):
    """target = source blurred along u, then z; mirrored or zero outside, hence its own transpose."""
    real = source.dtype.type
    n = source.shape[1]
    a, b, c = _five_taps(variance_u, cumulant_u, real)
    e, f, g = _five_taps(variance_z, cumulant_z, real)
    below2, below1, centre = work[:n], work[stride : stride + n], work[2 * stride : 2 * stride + n]
    above1, above2 = work[3 * stride : 3 * stride + n], work[4 * stride : 4 * stride + n]
    for u in range(2, source.shape[0] - 2):
        for k in range(n):
            centre[k] = (
                a * source[u, k] + b * (source[u - 1, k] + source[u + 1, k])
                + c * (source[u - 2, k] + source[u + 2, k])
            )  # fmt: skip
        _mirror(work, 2, plan, stride)
        for k in range(n):
            target[u, k] = e * centre[k] + f * (below1[k] + above1[k]) + g * (below2[k] + above2[k])


@_inline
def _mirror(row, beyond, plan, stride):
    """Write what lies up to `beyond` slices outside of a row, whose slice 0 is at `beyond` slices, at ends that go on.

    What is beyond an end that does not go on is left as it is. Beyond the slices a row may have lanes of padding.
    """
    if not (plan.mirror_low or plan.mirror_high):
        return
    first, last = beyond * stride, (beyond + plan.n_slices - 1) * stride
    for g in range(beyond):  # from the end outwards: a slice may be a mirrored one of the other end
        for k in range(stride):
            if plan.mirror_low:
                row[first - (g + 1) * stride + k] = row[first + g * stride + k]
            if plan.mirror_high:
                row[last + (g + 1) * stride + k] = row[last - g * stride + k]


@_inline
def _unmirror(row, beyond, plan, stride):
    """The transpose of `_mirror`: add what lies outside to the slices it is the image of."""
    if not (plan.mirror_low or plan.mirror_high):
        return
    first, last = beyond * stride, (beyond + plan.n_slices - 1) * stride
    for g in range(beyond - 1, -1, -1):
        for k in range(stride):
            if plan.mirror_high:
                row[last - g * stride + k] += row[last + (g + 1) * stride + k]
            if plan.mirror_low:
                row[first + g * stride + k] += row[first - (g + 1) * stride + k]


@_compile
def detect(plane, plan, v, level, stride, scratch, out):
    """out[v] += a plane after the blur of one of the lowest levels, resampled to the detector's bins and rows."""
    c = plan.view_class[v]
    start, weights, taps = plan.u_start[c, level], plan.u_weights[c, level], plan.z_taps[c, level]
    n, radius = plane.shape[1], taps.size // 2
    wide, blurred = scratch.wide, scratch.blurred
    row = wide[radius * stride : radius * stride + n]
    for p in range(out.shape[1]):
        wide[:] = 0
        for t in range(weights.shape[1]):
            u, w = start[p] + t + 2, weights[p, t]
            if w != 0:
                for k in range(n):
                    row[k] += w * plane[u, k]
        _mirror(wide, radius, plan, stride)
        if plan.z_start.size == 0:
            for t in range(taps.size):
                shift, w = (plan.row_offset + t) * stride, taps[t]
                to, at = max(0, -shift), max(0, shift)
                for k in range(min(out.shape[2] - to, wide.size - at)):
                    out[v, p, to + k] += w * wide[at + k]
            continue
        blurred[:] = 0
        for t in range(taps.size):
            at, w = t * stride, taps[t]
            for k in range(n):
                blurred[k] += w * wide[at + k]
        for q in range(plan.z_start.size):
            for t in range(plan.z_weights.shape[1]):
                to, at, w = q * stride, max((plan.z_start[q] + t) * stride, 0), plan.z_weights[q, t]
                for k in range(stride):
                    out[v, p, to + k] += w * blurred[at + k]


@_compile
def detect_adjoint(projections, plan, v, level, stride, scratch, plane):
    """plane = the transpose of `detect`."""
    c = plan.view_class[v]
    start, weights, taps = plan.u_start[c, level], plan.u_weights[c, level], plan.z_taps[c, level]
    n, radius = plane.shape[1], taps.size // 2
    wide, blurred = scratch.wide, scratch.blurred
    row = wide[radius * stride : radius * stride + n]
    _fill(plane, 0)
    for p in range(projections.shape[1]):
        wide[:] = 0
        if plan.z_start.size == 0:
            for t in range(taps.size):
                shift, w = (plan.row_offset + t) * stride, taps[t]
                at, to = max(0, -shift), max(0, shift)
                for k in range(min(projections.shape[2] - at, wide.size - to)):
                    wide[to + k] += w * projections[v, p, at + k]
        else:
            blurred[:] = 0
            for q in range(plan.z_start.size):
                for t in range(plan.z_weights.shape[1]):
                    at, to, w = q * stride, max((plan.z_start[q] + t) * stride, 0), plan.z_weights[q, t]
                    for k in range(stride):
                        blurred[to + k] += w * projections[v, p, at + k]
            for t in range(taps.size):
                to, w = t * stride, taps[t]
                for k in range(n):
                    wide[to + k] += w * blurred[k]
        _unmirror(wide, radius, plan, stride)
        for t in range(weights.shape[1]):
            u, w = start[p] + t + 2, weights[p, t]
            if w != 0:
                for k in range(n):
                    plane[u, k] += w * row[k]


@_compile
def convolve(wide, taps, out):
    """out[u, k] += the sum over taps (nu, nz) of taps[a, b] wide[u + nu // 2 - a, k + nz - 1 - b]; zero outside.

    Args:
        wide : (columns, lanes + nz - 1).
        out : (columns, lanes).
    """
    nu, nz = taps.shape
    n = out.shape[1]
    whole = nz - nz % 4
    for u in range(out.shape[0]):
        for a in range(nu):
            source = u + nu // 2 - a
            if source < 0 or source >= wide.shape[0]:
                continue
            for b in range(0, whole, 4):  # a result is loaded and stored once for four taps
                w0, w1, w2, w3 = taps[a, b], taps[a, b + 1], taps[a, b + 2], taps[a, b + 3]
                if w0 == 0 and w1 == 0 and w2 == 0 and w3 == 0:
                    continue
                a3 = max(nz - 4 - b, 0)
                a0, a1, a2 = max(a3 + 3, 0), max(a3 + 2, 0), max(a3 + 1, 0)
                for k in range(n):
                    out[u, k] += (
                        w0 * wide[source, a0 + k] + w1 * wide[source, a1 + k]
                        + w2 * wide[source, a2 + k] + w3 * wide[source, a3 + k]
                    )  # fmt: skip
            for b in range(whole, nz):
                w, at = taps[a, b], max(nz - 1 - b, 0)
                if w != 0:
                    for k in range(n):
                        out[u, k] += w * wide[source, at + k]
