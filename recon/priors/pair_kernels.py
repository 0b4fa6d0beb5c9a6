"""The CPU kernels of the priors on pairs of neighbours: each pair is met once, and rows along z are SIMD loops.

Images are (B, x, y, z). A thread owns a slab of planes x; the pairs that join its first plane with the one before are
met by both threads, so that nothing is shared, and every voxel adds up its pairs in one order whatever the number of
threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.extending import overload

from emrecon.projectors.core.compiling import FLAGS
from emrecon.projectors.core.compiling import kernel as _compile


class Quadratic(NamedTuple):
    """psi = d^2 / 2."""

    half: np.floating
    one: np.floating


class LogCosh(NamedTuple):
    """psi = delta^2 log cosh(d / delta)."""

    delta: np.floating
    one: np.floating


class Huber(NamedTuple):
    """psi = d^2 / 2 where ``|d|`` <= delta, delta ``|d|`` - delta^2 / 2 beyond."""

    delta: np.floating
    half: np.floating
    one: np.floating


class Hyperbolic(NamedTuple):
    """psi = delta^2 (sqrt(1 + (d / delta)^2) - 1)."""

    delta: np.floating
    one: np.floating


class RelativeDifference(NamedTuple):
    """psi = d^2 / (a + b + gamma ``|d|`` + epsilon)."""

    gamma: np.floating
    epsilon: np.floating
    two: np.floating


class Slope(NamedTuple):
    """Ask for psi and its derivatives."""

    one: np.floating


class Product(NamedTuple):
    """Ask for the Hessian of psi applied to a direction."""

    one: np.floating


class Diagonal(NamedTuple):
    """Ask for the second derivatives of psi."""

    one: np.floating


class Above(NamedTuple):
    """Ask for the second derivatives of separable parabolas above psi that touch it."""

    one: np.floating


class Bend(NamedTuple):
    """Ask for the transposed derivative of those second derivatives, applied to a direction."""

    one: np.floating


def terms(wanted, potential, a, b, u, v):
    """Return psi, and what is wanted for a and for b; (u, v) is the direction."""


def slopes(potential, a, b):
    """Return psi and its derivatives by a and by b."""


def second(potential, a, b):
    """Return the second derivatives of psi: by a twice, by a and b, and by b twice."""


def above(potential, a, b):
    """Return the second derivatives, for a and for b, of separable parabolas above psi that touch it at (a, b)."""


def bends(potential, a, b):
    """Return the derivatives of what `above` says for a: by a and by b. What it says for b is above(b, a) for a."""


@overload(terms, jit_options=FLAGS)
def _terms(wanted, potential, a, b, u, v):
    return _WANTED[wanted.instance_class]


@overload(slopes, jit_options=FLAGS)
def _slopes(potential, a, b):
    return _SLOPES[potential.instance_class]


@overload(second, jit_options=FLAGS)
def _second(potential, a, b):
    return _SECOND[potential.instance_class]


@overload(above, jit_options=FLAGS)
def _above(potential, a, b):
    return _ABOVE[potential.instance_class]


@overload(bends, jit_options=FLAGS)
def _bends(potential, a, b):
    return _BENDS[potential.instance_class]


def _slope_terms(wanted, potential, a, b, u, v):
    return slopes(potential, a, b)


def _product_terms(wanted, potential, a, b, u, v):
    aa, ab, bb = second(potential, a, b)
    return a - a, aa * u + ab * v, ab * u + bb * v


def _diagonal_terms(wanted, potential, a, b, u, v):
    aa, _, bb = second(potential, a, b)
    return a - a, aa, bb


def _above_terms(wanted, potential, a, b, u, v):
    of_a, of_b = above(potential, a, b)
    return a - a, of_a, of_b


def _bend_terms(wanted, potential, a, b, u, v):
    aa, ab = bends(potential, a, b)
    bb, ba = bends(potential, b, a)
    return a - a, u * aa + v * ba, u * ab + v * bb


def _quadratic(potential, a, b):
    d = a - b
    return potential.half * d * d, d, -d


def _quadratic_second(potential, a, b):
    return potential.one, -potential.one, potential.one


def _quadratic_above(potential, a, b):
    return potential.one + potential.one, potential.one + potential.one


def _quadratic_bends(potential, a, b):
    return a - a, a - a


def _log_cosh(potential, a, b):
    t = (a - b) / potential.delta
    slope, size, square = potential.delta * math.tanh(t), abs(t), t * t
    if size < 0.2:  # the sum below has no digits left there
        psi = 31 / 14175 - square * (691 / 935550)
        psi = square * (1 / 2 - square * (1 / 12 - square * (1 / 45 - square * (17 / 2520 - square * psi))))
    else:
        psi = size + math.log1p(math.exp(-size - size)) - math.log(2.0)
    return potential.delta**2 * psi, slope, -slope


def _log_cosh_second(potential, a, b):
    t = math.tanh((a - b) / potential.delta)
    h = potential.one - t * t
    return h, -h, h


def _log_cosh_above(potential, a, b):
    t = (a - b) / potential.delta
    c = math.tanh(t) / t if t != 0 else potential.one
    return c + c, c + c


def _log_cosh_bends(potential, a, b):
    t = (a - b) / potential.delta
    if abs(t) < 0.05:  # the difference below has no digits left there
        c = -2 * t * (1 / 3 - t * t * (4 / 15 - t * t * (17 / 105)))
    else:
        h = math.tanh(t)
        c = ((1 - h * h) - h / t) / t
    c = 2 * c / potential.delta
    return c, -c


def _huber(potential, a, b):
    d = a - b
    slope = min(max(d, -potential.delta), potential.delta)
    return slope * (d - potential.half * slope), slope, -slope


def _huber_second(potential, a, b):
    h = potential.one if abs(a - b) <= potential.delta else potential.one - potential.one
    return h, -h, h


def _huber_above(potential, a, b):
    c = potential.delta / max(abs(a - b), potential.delta)
    return c + c, c + c


def _huber_bends(potential, a, b):
    d = a - b
    size = max(abs(d), potential.delta)
    c = -potential.delta * d / (size * size * size) if abs(d) > potential.delta else d - d
    return c + c, -(c + c)


def _hyperbolic(potential, a, b):
    d = a - b
    t = d / potential.delta
    root = math.sqrt(potential.one + t * t)
    slope = d / root
    return d * d / (potential.one + root), slope, -slope


def _hyperbolic_second(potential, a, b):
    t = (a - b) / potential.delta
    r = potential.one / (potential.one + t * t)
    h = r * math.sqrt(r)
    return h, -h, h


def _hyperbolic_above(potential, a, b):
    t = (a - b) / potential.delta
    c = potential.one / math.sqrt(potential.one + t * t)
    return c + c, c + c


def _hyperbolic_bends(potential, a, b):
    t = (a - b) / potential.delta
    r = potential.one / (potential.one + t * t)
    c = -t * r * math.sqrt(r) / potential.delta
    return c + c, -(c + c)


def _relative(potential, a, b):
    d = a - b
    q = d / (a + b + potential.gamma * abs(d) + potential.epsilon)
    steep = potential.gamma * abs(q)
    return q * d, q + q - q * (q + steep), -(q + q) - q * (q - steep)


def _relative_second(potential, a, b):
    r = 1 / (a + b + potential.gamma * abs(a - b) + potential.epsilon)
    u, v = (a + a + potential.epsilon) * r, (b + b + potential.epsilon) * r
    r = potential.two * r
    return v * v * r, -u * v * r, u * u * r


def _relative_above(potential, a, b):
    # Convexity separates a from b at the price of a factor 2; where gamma >= 1 the rest is nowhere steeper than
    # 2 / (2 b + epsilon), its steepness at a = b.
    four = potential.two + potential.two
    return four / (b + b + potential.epsilon), four / (a + a + potential.epsilon)


def _relative_bends(potential, a, b):
    r = potential.two / (b + b + potential.epsilon)
    return a - a, -potential.two * r * r


_WANTED = {
    Slope: _slope_terms,
    Product: _product_terms,
    Diagonal: _diagonal_terms,
    Above: _above_terms,
    Bend: _bend_terms,
}
_SLOPES = {
    Quadratic: _quadratic,
    LogCosh: _log_cosh,
    Huber: _huber,
    Hyperbolic: _hyperbolic,
    RelativeDifference: _relative,
}
_SECOND = {
    Quadratic: _quadratic_second,
    LogCosh: _log_cosh_second,
    Huber: _huber_second,
    Hyperbolic: _hyperbolic_second,
    RelativeDifference: _relative_second,
}
_BENDS = {
    Quadratic: _quadratic_bends,
    LogCosh: _log_cosh_bends,
    Huber: _huber_bends,
    Hyperbolic: _hyperbolic_bends,
    RelativeDifference: _relative_bends,
}
_ABOVE = {
    Quadratic: _quadratic_above,
    LogCosh: _log_cosh_above,
    Huber: _huber_above,
    Hyperbolic: _hyperbolic_above,
    RelativeDifference: _relative_above,
}


class PairWeights(NamedTuple):
    """Weights of single pairs, each an (x, y, z) array or empty, and scratch of one row.

    Args:
        kappa : w is multiplied by kappa_j kappa_k.
        guide : by 1 / (1 + (g_j - g_k)^2).
        chosen : bits; the pair of step s counts where voxel j has bit s, or k has bit s + 13: once, or half for each of
            them, by `once`.
    """

    kappa: np.ndarray
    guide: np.ndarray
    chosen: np.ndarray
    once: bool
    row: np.ndarray


@_compile
def gather(wanted, potential, images, directions, steps, weights, pairs, first, n, sink, sums, out):
    """out = the sum of what is wanted over the pairs of every voxel; sums[b, x] = the sum of w psi of plane x's pairs.

    Args:
        images, directions, out : (B, x, y, z); an `out` of size 0 is left alone.
        steps : (S, 3), to the second voxel of a pair, 0 or 1 along x.
        weights : (S,).
        sink : (2, y, z), for what belongs to another thread.
    """
    planes = images.shape[1]
    low, high = first * planes // n, (first + 1) * planes // n
    for b in range(images.shape[0]):
        for i in range(max(low - 1, 0), high):
            total = 0.0
            for s in range(steps.shape[0]):
                k = i + steps[s, 0]
                if k >= planes or (i < low and k < low):
                    continue
                of_a = out[b, i] if out.size and i >= low else sink[0]
                of_b = out[b, k] if out.size and k < high else sink[1]
                total += _plane(
                    wanted,
                    potential,
                    images[b, i],
                    images[b, k],
                    directions[b, i],
                    directions[b, k],
                    i,
                    k,
                    s,
                    steps[s, 1],
                    steps[s, 2],
                    weights[s],
                    pairs,
                    sink[0],
                    of_a,
                    of_b,
                )
            if i >= low:
                sums[b, i] = total


@_compile
def _plane(wanted, potential, a, b, u, v, i, k, s, dy, dz, weight, pairs, sink, of_a, of_b):
    """Add the pairs of step s between two planes; return the sum of w psi."""
    rows, length = a.shape[0], a.shape[1] - abs(dz)
    weighted = pairs.kappa.size + pairs.guide.size + pairs.chosen.size > 0
    za, zb = max(-dz, 0), max(dz, 0)
    row = pairs.row[:length]
    row[:] = weight
    total = 0.0
    for y in range(max(-dy, 0), rows - max(dy, 0)):
        ra, rb = a[y][za : za + length], b[y + dy][zb : zb + length]
        ru, rv = u[y][za : za + length], v[y + dy][zb : zb + length]
        ga, gb = of_a[y][za : za + length], of_b[y + dy][zb : zb + length]
        if weighted:
            _pair_weights(pairs, i, y, k, y + dy, za, zb, s, weight, length)
        if i == k and dy == 0:  # both ends lie in one row: one loop for both would wait for its own results
            total += _row(wanted, potential, ra, rb, ru, rv, row, ga, sink[0])
            _row(wanted, potential, ra, rb, ru, rv, row, sink[0], gb)
        else:
            total += _row(wanted, potential, ra, rb, ru, rv, row, ga, gb)
    return total


@_compile
def _row(wanted, potential, a, b, u, v, w, ga, gb):
    total = w[0] - w[0]
    for z in range(a.shape[0]):
        psi, of_a, of_b = terms(wanted, potential, a[z], b[z], u[z], v[z])
        total += w[z] * psi
        ga[z] += w[z] * of_a
        gb[z] += w[z] * of_b
    return total


@_compile
def _pair_weights(pairs, i, j, k, l, za, zb, s, weight, length):
    """pairs.row = the weights of the pairs between the rows (i, j) and (k, l)."""
    row = pairs.row
    row[:length] = weight
    if pairs.kappa.size:
        a, b = pairs.kappa[i, j][za : za + length], pairs.kappa[k, l][zb : zb + length]
        for z in range(length):
            row[z] *= a[z] * b[z]
    if pairs.guide.size:
        a, b = pairs.guide[i, j][za : za + length], pairs.guide[k, l][zb : zb + length]
        for z in range(length):
            d = a[z] - b[z]
            row[z] /= row.dtype.type(1) + d * d
    if pairs.chosen.size:
        p, q = pairs.chosen[i, j][za : za + length], pairs.chosen[k, l][zb : zb + length]
        for z in range(length):
            of_j, of_k = (p[z] >> s) & 1, (q[z] >> (s + 13)) & 1
            row[z] *= max(of_j, of_k) if pairs.once else row.dtype.type(0.5) * (of_j + of_k)


@_compile
def choose(guide, steps, numbers, most, first, n, out):
    """out = bits `numbers` of the `most` steps whose guide values are nearest; among equals the earlier steps."""
    nx, ny, nz = guide.shape
    for x in range(first, nx, n):
        distance = np.empty(steps.shape[0], guide.dtype)
        for y in range(ny):
            for z in range(nz):
                for s in range(steps.shape[0]):
                    i, j, k = x + steps[s, 0], y + steps[s, 1], z + steps[s, 2]
                    inside = 0 <= i < nx and 0 <= j < ny and 0 <= k < nz
                    distance[s] = abs(guide[i, j, k] - guide[x, y, z]) if inside else np.inf
                bits = np.uint32(0)
                for _ in range(most):
                    nearest = distance.argmin()
                    if distance[nearest] == np.inf:
                        break
                    bits |= np.uint32(1) << numbers[nearest]
                    distance[nearest] = np.inf
                out[x, y, z] = bits
