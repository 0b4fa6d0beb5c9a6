"""Steps of EM by plain operations on arrays, which classical loops and torch functions share."""

from __future__ import annotations

from emrecon.projectors.core.arrays import Array, array_namespace, clipped, divide_where

from ..likelihoods.protocol import Likelihood, knows_counts, sensitivity_like


def plain_step(x: Array, likelihood: Likelihood) -> Array:
    """Return `em_step` by plain operations on arrays."""
    sensitivity = sensitivity_like(likelihood, x)
    if not knows_counts(likelihood):
        step = divide_where(x, sensitivity, 0.0) * likelihood.gradient(x)
        return clipped(x - step, low=0.0)
    return x * divide_where(likelihood.model.adjoint(likelihood.ratio(x)), sensitivity, 1.0)


def positive_root(a: Array | float, b: Array, c: Array) -> Array:
    """Return the root x >= 0 of a x^2 + b x - c = 0, for a, c >= 0; 0 where there is none.

    The numerically stable form, 2 c / (b + D) or (D - b) / (2 a) with D = sqrt(b^2 + 4 a c), by the sign of b.
    """
    xp = array_namespace(b)
    largest = xp.maximum(xp.abs(b), a * xp.ones_like(b))
    largest = xp.where(largest > 0, largest, xp.ones_like(b))
    a, b, c = a / largest, b / largest, c / largest  # or squares may leave the range of float32
    root = xp.sqrt(b * b + 4 * a * c)
    steep = b > 0
    top, bottom = xp.where(steep, 2 * c, root - b), xp.where(steep, b + root, 2 * a * xp.ones_like(b))
    return divide_where(top, bottom, 0.0)
