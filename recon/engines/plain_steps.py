"""Steps of EM by plain operations on arrays, which classical loops and torch functions share."""

from __future__ import annotations

from emrecon.projectors.core.arrays import Array, array_namespace

from ..likelihoods.protocol import Likelihood, knows_counts, sensitivity_like


def plain_step(x: Array, likelihood: Likelihood) -> Array:
    """Return `em_step` by plain operations on arrays."""
    sensitivity = sensitivity_like(likelihood, x)
    xp = array_namespace(x)
    seen = sensitivity > 0
    if not knows_counts(likelihood):
        scale = x / xp.where(seen, sensitivity, xp.ones_like(sensitivity))
        return xp.where(seen, xp.clip(x - scale * likelihood.gradient(x), min=0.0), x)
    update = likelihood.model.adjoint(likelihood.ratio(x)) / xp.where(seen, sensitivity, xp.ones_like(sensitivity))
    return x * xp.where(seen, update, xp.ones_like(update))


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
    found = bottom > 0
    return xp.where(found, top / xp.where(found, bottom, xp.ones_like(bottom)), xp.zeros_like(b))
