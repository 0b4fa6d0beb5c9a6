"""The CPU kernels of the non-local prior: tiles of columns, one step of the search window after the other.

A step d joins every voxel j with k = j + d; half of the window meets each pair once. For one tile and one step, what a
pair contributes is computed into scratch rows, once for all pairs with an end in the tile, and then gathered from both
ends. Sums over patches are separable sums of the rows. Tiles do not depend on the number of threads, so neither does
the result, and no weight outlives its step.

Images are (B, x, y, z). A field on the region (xa, xb, ya, yb, za, zb) is stored from index 0 of a scratch array.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from emrecon.projectors.core.compiling import inline_kernel as _inline
from emrecon.projectors.core.compiling import kernel as _compile

TILE = 16
VALUE, GRADIENT, PRODUCT, ABOVE, DIAGONAL = range(5)
QUADRATIC, HUBER, HYPERBOLIC, LANGE = range(4)


class Potential(NamedTuple):
    """psi(t), even, with psi''(0) = 1, as a function of q = t^2; the numbers are of the type of the images."""

    kind: int
    delta: np.floating
    one: np.floating
    tiny: np.floating


class Steps(NamedTuple):
    """Half of the search window: (S, 3) from the first voxel of a pair to the second, and the weights (S,)."""

    step: np.ndarray
    weight: np.ndarray


class Patch(NamedTuple):
    """How far a patch reaches on either side along x, y and z, and 1 / its number of voxels."""

    x: int
    y: int
    z: int
    share: np.floating


class Box(NamedTuple):
    """The voxels from (xa, ya, za) up to, but without, (xb, yb, zb)."""

    xa: int
    xb: int
    ya: int
    yb: int
    za: int
    zb: int


def n_tiles(shape: tuple[int, ...]) -> int:
    """Return how many tiles an image (x, y, z) has."""
    return -(-shape[0] // TILE) * -(-shape[1] // TILE)


def scratch(shape: tuple[int, ...], reach: tuple[int, ...], patch: Patch, dtype: DTypeLike) -> np.ndarray:
    """Return room for the fields of one tile; reach : (3,) the longest step."""
    x, y = (min(n, TILE + r) + 4 * p for n, r, p in zip(shape[:2], reach[:2], patch[:2]))
    return np.empty((5, x, y, shape[2] + 2 * patch.z), dtype)


@_compile
def guided(wanted, potential, guide, patch, images, directions, steps, fields, first, n, sums, out):
    """out = what is wanted of U = sum w psi(x_j - x_k), w = weight * exp(-sum over the patch (g_j - g_k)^2).

    Args:
        guide : scaled, (x, y, z) with edges repeated by the reach of the patch.
        fields : see `scratch`.
        sums : (B, tiles) of w psi, for wanted = VALUE; an `out` of size 0 is left alone then.
    """
    items, nx, ny, nz = images.shape
    px, py, pz = patch.x, patch.y, patch.z
    source, temporary, weights, terms = fields[0], fields[1], fields[2], fields[3]
    for tile in range(first, sums.shape[1], n):
        inside = _tile(tile, nx, ny, nz)
        for s in range(steps.step.shape[0]):
            dx, dy, dz = steps.step[s, 0], steps.step[s, 1], steps.step[s, 2]
            pairs = _pairs(inside, dx, dy, dz, nx, ny, nz, wanted == VALUE)
            if _empty(pairs):
                continue
            wide = Box(
                pairs.xa, pairs.xb + 2 * px, pairs.ya, pairs.yb + 2 * py, pairs.za, pairs.zb + 2 * pz
            )  # around the pairs, in the guide with its edges
            middle = Box(pairs.xa + px, pairs.xb + px, pairs.ya + py, pairs.yb + py, pairs.za + pz, pairs.zb + pz)
            _squared_differences(guide, wide, dx, dy, dz, source)
            _box(source, wide, -px, px, -py, py, -pz, pz, middle, temporary, weights)
            _similarities(weights, pairs, steps.weight[s])
            for b in range(items):
                if wanted == VALUE:
                    sums[b, tile] += _weighted_psi(potential, images[b], pairs, dx, dy, dz, weights)
                    continue
                _guided_terms(wanted, potential, images[b], directions[b], pairs, dx, dy, dz, weights, terms)
                _collect(wanted, terms, pairs, inside, dx, dy, dz, out[b])


@_compile
def own(wanted, potential, patch, images, directions, steps, fields, first, n, sums, out):
    """out = what is wanted of U = sum weight * psi(``|P_j x - P_k x|``), the root of a mean of squares over the patch.

    Of a pair of patches only the voxels that both have inside of the image count.

    Args:
        sums : (B, tiles) of psi, for wanted = VALUE; an `out` of size 0 is left alone then.
    """
    # A pair's distance is a sum over its patches, and its derivative by a voxel is a sum over all pairs whose patches
    # hold that voxel. So there are two sums over patches, one inside the other, and each needs a margin: distances are
    # wanted on `near`, one patch round the pairs, differences on `wide`, two patches round them.
    items, nx, ny, nz = images.shape
    px, py, pz = patch.x, patch.y, patch.z
    source, temporary, distances, weights, terms = fields[0], fields[1], fields[2], fields[3], fields[4]
    for tile in range(first, sums.shape[1], n):
        inside = _tile(tile, nx, ny, nz)
        for s in range(steps.step.shape[0]):
            dx, dy, dz = steps.step[s, 0], steps.step[s, 1], steps.step[s, 2]
            pairs = _pairs(inside, dx, dy, dz, nx, ny, nz, wanted == VALUE)
            if _empty(pairs):
                continue
            valid = _valid(dx, dy, dz, nx, ny, nz)
            near = pairs if wanted == VALUE else _grown(pairs, patch, valid)
            wide = _grown(near, patch, valid)
            for b in range(items):
                x, v = images[b], directions[b]
                _squared_differences(x, wide, dx, dy, dz, source)
                _box(source, wide, -px, px, -py, py, -pz, pz, near, temporary, distances)
                _scale(distances, near, patch.share)
                if wanted == VALUE:
                    sums[b, tile] += steps.weight[s] * _sum_psi(potential, distances, near)
                    continue
                _omegas(potential, distances, near, source)
                _box(source, near, -px, px, -py, py, -pz, pz, pairs, temporary, weights)
                _scale(weights, pairs, patch.share * steps.weight[s])
                # The weights themselves depend on the image. Their change, the bend, adds a term to the second
                # derivative. It is summed over patches as the weights are.
                if wanted in (PRODUCT, DIAGONAL):
                    _bends(potential, distances, near)
                    _scale(distances, near, patch.share * steps.weight[s])
                if wanted == PRODUCT:
                    _products(x, v, wide, dx, dy, dz, source)
                    _box(source, wide, -px, px, -py, py, -pz, pz, near, temporary, terms)
                    _scale(terms, near, patch.share)
                    _multiply(distances, terms, near)
                if wanted in (PRODUCT, DIAGONAL):
                    _box(distances, near, -px, px, -py, py, -pz, pz, pairs, temporary, terms)
                _own_terms(wanted, x, v, pairs, dx, dy, dz, weights, patch.share, terms)
                _collect(wanted, terms, pairs, inside, dx, dy, dz, out[b])
                # A step up to twice a patch's reach lets one patch pair hold a voxel as an end of two pairs: with the
                # voxel at +d and with that at -d. Their cross term is in the diagonal but not in the sums above.
                if wanted == DIAGONAL and dx <= 2 * px and abs(dy) <= 2 * py and abs(dz) <= 2 * pz:
                    _overlaps(x, near, inside, valid, (dx, dy, dz), patch, distances, temporary, terms, out[b])


# ---- regions -------------------------------------------------------------------------------------------------------


@_inline
def _tile(tile, nx, ny, nz):
    """The columns of a tile."""
    along_y = -(-ny // TILE)
    x, y = tile // along_y * TILE, tile % along_y * TILE
    return Box(x, min(x + TILE, nx), y, min(y + TILE, ny), 0, nz)


@_inline
def _valid(dx, dy, dz, nx, ny, nz):
    """All voxels whose partner lies in the image."""
    return Box(max(-dx, 0), nx - max(dx, 0), max(-dy, 0), ny - max(dy, 0), max(-dz, 0), nz - max(dz, 0))


@_inline
def _pairs(inside, dx, dy, dz, nx, ny, nz, firsts):
    """The first voxels of the pairs with an end in the tile; with `firsts`, of those whose first voxel is in it."""
    valid = _valid(dx, dy, dz, nx, ny, nz)
    if firsts:
        dx, dy = 0, 0
    return Box(
        max(inside.xa - max(dx, 0), valid.xa), min(inside.xb - min(dx, 0), valid.xb),
        max(inside.ya - max(dy, 0), valid.ya), min(inside.yb - min(dy, 0), valid.yb),
        valid.za, valid.zb,
    )  # fmt: skip


@_inline
def _empty(region):
    return region.xa >= region.xb or region.ya >= region.yb or region.za >= region.zb


@_inline
def _grown(region, patch, limit):
    """The region and the patches around its voxels, as far as they are within the limit."""
    return Box(
        max(region.xa - patch.x, limit.xa), min(region.xb + patch.x, limit.xb),
        max(region.ya - patch.y, limit.ya), min(region.yb + patch.y, limit.yb),
        max(region.za - patch.z, limit.za), min(region.zb + patch.z, limit.zb),
    )  # fmt: skip


# ---- fields --------------------------------------------------------------------------------------------------------


@_compile
def _squared_differences(image, region, dx, dy, dz, out):
    """out = (x_j - x_k)^2."""
    size = region.zb - region.za
    for x in range(region.xa, region.xb):
        for y in range(region.ya, region.yb):
            a = image[x, y][region.za : region.zb]
            b = image[x + dx, y + dy][region.za + dz : region.zb + dz]
            row = out[x - region.xa, y - region.ya]
            for z in range(size):
                t = a[z] - b[z]
                row[z] = t * t


@_compile
def _products(image, direction, region, dx, dy, dz, out):
    """out = (x_j - x_k) (v_j - v_k)."""
    size = region.zb - region.za
    for x in range(region.xa, region.xb):
        for y in range(region.ya, region.yb):
            a, u = image[x, y][region.za : region.zb], direction[x, y][region.za : region.zb]
            b = image[x + dx, y + dy][region.za + dz : region.zb + dz]
            v = direction[x + dx, y + dy][region.za + dz : region.zb + dz]
            row = out[x - region.xa, y - region.ya]
            for z in range(size):
                row[z] = (a[z] - b[z]) * (u[z] - v[z])


@_compile
def _box(source, known, xl, xh, yl, yh, zl, zh, wanted, temporary, out):
    """out = the sums of `source` from xl to xh, yl to yh, zl to zh around each voxel; nothing is outside of `known`.

    Rows lie behind each other in memory, so that sums along y and x are long loops over many rows at once.
    """
    length, planes = out.shape[2], out.shape[0]
    summed, twice = out.reshape(planes, -1), temporary.reshape(planes, -1)
    shift, rows = wanted.ya - known.ya, wanted.yb - wanted.ya
    last = known.yb - known.ya - 1
    first, end = min(max(-shift - yl, 0), rows), min(last + 1 - shift - yh, rows)  # rows with all their neighbours
    end = max(first, end)
    for x in range(known.xb - known.xa):
        for y in range(last + 1):
            _sums_along(
                source[x, y], known.zb - known.za, wanted.za - known.za, zl, zh, out[x, y], wanted.zb - wanted.za
            )
        begin = (first + shift + yl) * length
        _add_up(summed[x][begin:], length, yh - yl + 1, twice[x][first * length : end * length])
        for c in range(rows - end + first):
            y = c if c < first else c - first + end
            low, high = max(y + shift + yl, 0), min(y + shift + yh, last)
            _add_up(summed[x][low * length :], length, high - low + 1, temporary[x, y])
    shift, last = wanted.xa - known.xa, known.xb - known.xa - 1
    for x in range(wanted.xb - wanted.xa):
        low, high = max(x + shift + xl, 0), min(x + shift + xh, last)
        _add_up(temporary[low:].reshape(-1), twice.shape[1], high - low + 1, summed[x][: rows * length])


@_inline
def _add_up(values, stride, count, out):
    """out[i] = values[i] + values[i + stride] + ..., `count` terms."""
    if count == 3:
        a, b, c = values, values[stride:], values[2 * stride :]
        for i in range(out.size):
            out[i] = a[i] + b[i] + c[i]
        return
    out[:] = 0
    for k in range(count):
        a = values[k * stride :]
        for i in range(out.size):
            out[i] += a[i]


@_inline
def _sums_along(row, length, shift, low, high, out, size):
    """out[z] = the sum of row[z + shift + low] to row[z + shift + high], as far as there are any; 0 beyond `size`."""
    first, last = max(-shift - low, 0), min(length - shift - high, size)  # no end is missing in between
    first, last = min(first, size), max(min(first, size), last)
    _add_up(row[first + shift + low :], 1, high - low + 1, out[first:last])
    out[size:] = 0
    for z in range(size - last + first):
        at = z if z < first else z - first + last
        total = out.dtype.type(0)
        for c in range(max(at + shift + low, 0), min(at + shift + high + 1, length)):
            total += row[c]
        out[at] = total


@_compile
def _scale(field, region, factor):
    """Multiply by a number."""
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            row = field[x, y]
            for z in range(region.zb - region.za):
                row[z] *= factor


@_compile
def _multiply(field, other, region):
    """Multiply by another field."""
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            row, factor = field[x, y], other[x, y]
            for z in range(region.zb - region.za):
                row[z] *= factor[z]


@_compile
def _similarities(field, region, weight):
    """Replace d by weight * exp(-d).

    exp(-d) = exp(-d / 32)^32, the latter from its series, is a SIMD loop; beyond d = 32 it stays at 1e-14.
    """
    real = field.dtype.type
    most, share, one = real(32), real(1 / 32), real(1)
    c2, c3, c4 = real(-1 / 2), real(-1 / 3), real(-1 / 4)
    c5, c6, c7 = real(-1 / 5), real(-1 / 6), real(-1 / 7)
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            row = field[x, y]
            for z in range(region.zb - region.za):
                u = min(row[z], most) * share
                e = one + c7 * u
                e = one + c6 * u * e
                e = one + c5 * u * e
                e = one + c4 * u * e
                e = one + c3 * u * e
                e = one + c2 * u * e
                e = one - u * e
                e *= e
                e *= e
                e *= e
                e *= e
                row[z] = weight * (e * e)


# ---- the potential -------------------------------------------------------------------------------------------------


@_inline
def _psi(potential, q):
    """psi as a function of q = t^2."""
    delta = float(potential.delta)
    if potential.kind == QUADRATIC:
        return q / 2
    if potential.kind == HUBER:
        return q / 2 if q <= delta * delta else delta * (math.sqrt(q) - delta / 2)
    if potential.kind == HYPERBOLIC:
        return q / (1 + math.sqrt(1 + q / (delta * delta)))
    r = math.sqrt(q) / delta
    return delta * delta * (r - math.log(1 + r))


@_inline
def _omega(potential, q):
    """psi'(t) / t."""
    delta, one = potential.delta, potential.one
    if potential.kind == QUADRATIC:
        return one
    if potential.kind == HUBER:
        return delta / math.sqrt(max(q, delta * delta))
    if potential.kind == HYPERBOLIC:
        return delta / math.sqrt(delta * delta + q)
    return delta / (delta + math.sqrt(q))


@_inline
def _second(potential, q):
    """psi''(t)."""
    delta, one = potential.delta, potential.one
    if potential.kind == HUBER:
        return one if q <= delta * delta else one - one
    w = _omega(potential, q)
    if potential.kind == HYPERBOLIC:
        return w * w * w
    return w * w


@_inline
def _bend(potential, q):
    """(psi''(t) - psi'(t) / t) / t^2, twice the derivative of psi'(t) / t by t^2; not smooth at 0 for LANGE."""
    delta, one = potential.delta, potential.one
    w = _omega(potential, q)
    if potential.kind == QUADRATIC:
        return one - one
    if potential.kind == HUBER:
        return one - one if q <= delta * delta else -w / q
    if potential.kind == HYPERBOLIC:
        return -w * w * w / (delta * delta)
    return -w * w / (delta * max(math.sqrt(q), potential.tiny))


@_compile
def _omegas(potential, field, region, out):
    """out = psi'(t) / t for a field of t^2."""
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            q, row = field[x, y], out[x, y]
            for z in range(region.zb - region.za):
                row[z] = _omega(potential, q[z])


@_compile
def _bends(potential, field, region):
    """Replace t^2 by the potential's bend there."""
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            row = field[x, y]
            for z in range(region.zb - region.za):
                row[z] = _bend(potential, row[z])


@_compile
def _sum_psi(potential, field, region):
    """The sum of psi over a field of t^2, in float64."""
    total = 0.0
    for x in range(region.xb - region.xa):
        for y in range(region.yb - region.ya):
            q = field[x, y]
            for z in range(region.zb - region.za):
                total += _psi(potential, float(q[z]))
    return total


@_compile
def _weighted_psi(potential, image, region, dx, dy, dz, weights):
    """The sum of w psi(x_j - x_k), in float64."""
    total = 0.0
    size = region.zb - region.za
    for x in range(region.xa, region.xb):
        for y in range(region.ya, region.yb):
            a = image[x, y][region.za : region.zb]
            b = image[x + dx, y + dy][region.za + dz : region.zb + dz]
            w = weights[x - region.xa, y - region.ya]
            for z in range(size):
                t = float(a[z] - b[z])
                total += w[z] * _psi(potential, t * t)
    return total


# ---- what a pair gives to its ends -----------------------------------------------------------------------------------


@_compile
def _guided_terms(wanted, potential, image, direction, region, dx, dy, dz, weights, terms):
    """terms = what a pair gives to its first voxel."""
    size = region.zb - region.za
    for x in range(region.xa, region.xb):
        for y in range(region.ya, region.yb):
            a = image[x, y][region.za : region.zb]
            b = image[x + dx, y + dy][region.za + dz : region.zb + dz]
            w, row = weights[x - region.xa, y - region.ya], terms[x - region.xa, y - region.ya]
            if wanted == GRADIENT:
                for z in range(size):
                    t = a[z] - b[z]
                    row[z] = w[z] * t * _omega(potential, t * t)
            elif wanted == ABOVE:
                for z in range(size):
                    t = a[z] - b[z]
                    row[z] = (w[z] + w[z]) * _omega(potential, t * t)
            elif wanted == PRODUCT:
                u = direction[x, y][region.za : region.zb]
                v = direction[x + dx, y + dy][region.za + dz : region.zb + dz]
                for z in range(size):
                    t = a[z] - b[z]
                    row[z] = w[z] * (u[z] - v[z]) * _second(potential, t * t)
            else:
                for z in range(size):
                    t = a[z] - b[z]
                    row[z] = w[z] * _second(potential, t * t)


@_compile
def _own_terms(wanted, image, direction, region, dx, dy, dz, weights, share, terms):
    """terms = what a pair gives to its first voxel; for PRODUCT and DIAGONAL `terms` holds the sums over bends."""
    size = region.zb - region.za
    for x in range(region.xa, region.xb):
        for y in range(region.ya, region.yb):
            a = image[x, y][region.za : region.zb]
            b = image[x + dx, y + dy][region.za + dz : region.zb + dz]
            w, row = weights[x - region.xa, y - region.ya], terms[x - region.xa, y - region.ya]
            if wanted == GRADIENT:
                for z in range(size):
                    row[z] = w[z] * (a[z] - b[z])
            elif wanted == ABOVE:
                for z in range(size):
                    row[z] = w[z] + w[z]
            elif wanted == PRODUCT:
                u = direction[x, y][region.za : region.zb]
                v = direction[x + dx, y + dy][region.za + dz : region.zb + dz]
                for z in range(size):
                    row[z] = w[z] * (u[z] - v[z]) + (a[z] - b[z]) * row[z]
            else:
                for z in range(size):
                    t = a[z] - b[z]
                    row[z] = w[z] + share * t * t * row[z]


@_compile
def _collect(wanted, terms, region, inside, dx, dy, dz, out):
    """Add up for each voxel of the tile the terms of the pairs it is first in, and those of the pairs it is second in.

    The latter count negatively where the term is a difference.
    """
    size, za = region.zb - region.za, region.za
    for x in range(inside.xa, inside.xb):
        for y in range(inside.ya, inside.yb):
            if region.xa <= x < region.xb and region.ya <= y < region.yb:
                row, a = out[x, y][za:], terms[x - region.xa, y - region.ya]
                for z in range(size):
                    row[z] += a[z]
            i, j = x - dx, y - dy
            if region.xa <= i < region.xb and region.ya <= j < region.yb:
                row, a = out[x, y][za + dz :], terms[i - region.xa, j - region.ya]
                if wanted in (GRADIENT, PRODUCT):
                    for z in range(size):
                        row[z] -= a[z]
                else:
                    for z in range(size):
                        row[z] += a[z]


@_compile
def _overlaps(image, near, inside, valid, step, patch, bends, temporary, sums, out):
    """Add to the diagonal what voxels get from the patches that hold both of a voxel's pairs, with +d and with -d."""
    dx, dy, dz = step
    both = Box(
        max(inside.xa, valid.xa, valid.xa + dx), min(inside.xb, valid.xb, valid.xb + dx),
        max(inside.ya, valid.ya, valid.ya + dy), min(inside.yb, valid.yb, valid.yb + dy),
        max(valid.za, valid.za + dz), min(valid.zb, valid.zb + dz),
    )  # fmt: skip
    if _empty(both):
        return
    _box(
        bends, near,
        max(-patch.x, -patch.x - dx), min(patch.x, patch.x - dx),
        max(-patch.y, -patch.y - dy), min(patch.y, patch.y - dy),
        max(-patch.z, -patch.z - dz), min(patch.z, patch.z - dz),
        both, temporary, sums,
    )  # fmt: skip
    size, za, zb = both.zb - both.za, both.za, both.zb
    for x in range(both.xa, both.xb):
        for y in range(both.ya, both.yb):
            here, after = image[x, y][za:zb], image[x + dx, y + dy][za + dz : zb + dz]
            before = image[x - dx, y - dy][za - dz : zb - dz]
            row, shared = out[x, y][za:zb], sums[x - both.xa, y - both.ya]
            for z in range(size):
                crossed = (here[z] - after[z]) * (before[z] - here[z]) * patch.share
                row[z] -= (crossed + crossed) * shared[z]
