"""Many linear systems with one symmetric positive matrix at once: preconditioned conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from emrecon.projectors.core.arrays import Array, array_namespace

Product = Callable[[Array], Array]

_AXES = (-3, -2, -1)


class Solution(NamedTuple):
    """Images u with H u = b, and how many products with H that took."""

    image: Array
    n_products: int


def conjugate_gradients(product: Product, b: Array, precondition: Product, tolerance: float, most: int) -> Solution:
    """Return u with H u = b for every image of b, (..., x, y, z).

    Args:
        product : v -> H v, symmetric and positive, for all leading axes at once.
        precondition : v -> M v, symmetric and positive, near the inverse of H.
        tolerance : the loop ends where sqrt(r' M r), r = b - H u, is so small against what it was, in all images.
        most : iterations.

    Raises RuntimeError where that does not happen.

    Source: Hestenes & Stiefel 1952.
    """
    xp = array_namespace(b)
    u, r = xp.zeros_like(b), b
    z = precondition(r)
    p, rz = z, _dot(r, z)
    enough = tolerance**2 * rz
    for n in range(most + 1):
        going = rz > enough
        if not bool(xp.any(going)):
            return Solution(u, n)
        if n == most:
            break
        q = product(p)
        step = _quotient(rz, _dot(p, q), going)
        u, r = u + step * p, r - step * q
        z = precondition(r)
        following = _dot(r, z)
        p = z + _quotient(following, rz, going) * p
        rz = xp.where(going, following, rz)
    left = float(xp.max(xp.sqrt(_quotient(rz, enough / tolerance**2, going))))
    raise RuntimeError(
        f"{most} iterations of conjugate gradients leave {left:.2g} of the residual, more than the tolerance of "
        f"{tolerance:g}: the objective is nearly flat in some direction; is the prior too weak, or is there none?"
    )


def _dot(a: Array, b: Array) -> Array:
    xp = array_namespace(a)
    return xp.sum(a * b, axis=_AXES, keepdims=True)


def _quotient(a: Array, b: Array, where: Array) -> Array:
    """a / b, 0 where not wanted and where b is not positive."""
    xp = array_namespace(a)
    use = where & (b > 0)
    return xp.where(use, a / xp.where(use, b, xp.ones_like(b)), xp.zeros_like(a))
