"""Maps of uncertainty by one call: the standard deviation of every voxel of a penalised-likelihood image."""

from __future__ import annotations

from collections.abc import Sequence

from emrecon.projectors import LinearOperator
from emrecon.projectors.core.arrays import Array

from ..likelihoods.protocol import Likelihood
from ..metrics.regions import RegionOfInterest
from ..priors.prior import Objective, SmoothPrior
from .penalised import PenalisedEstimate


def standard_deviation_map(
    likelihood: Likelihood | Objective | Sequence[Likelihood],
    prior: SmoothPrior | None,
    image: Array,
    *,
    mask: RegionOfInterest | Array | None = None,
    filter: LinearOperator | None = None,
    method: str = "auto",
    tolerance: float = 0.025,
    seed: int = 0,
    at_once: int | None = None,
) -> Array:
    """Return the standard deviation over noise realisations of every voxel of the image that minimises f + U::

        sqrt(diag( H^-1 F H^-1 )),        H = F + R

    with F the Fisher information of the data and R the Hessian of the prior, both at the image: the noise that many
    scans of the same object would show, in the unit of the image. It is not the error of the image, whose bias it does
    not know.

    Args:
        likelihood : f, of any class, or a list of likelihoods that add up to it; or an `Objective`, f + U.
        prior : U with a gradient and a Hessian, times its weight; None for maximum likelihood.
        image : (..., x, y, z), the minimiser (`svrg`, `lbfgsb` ... run until they stand still).
        mask : the voxels that are wanted, others are NaN; a few voxels cost little.
        filter : a linear filter that the image gets afterwards, such as `GaussianBlur(grid, 6.0)`.
        method : "exact" is a solution for every voxel (where up to 4096 move, the inverse of the matrix); "probing"
            solves for voxels of a lattice together, signs at random, whose spacing makes what they disturb each other
            by small; "sampling" averages the squares of drawings of H^-1 g; "auto" takes the cheapest of them that
            reaches the tolerance.
        tolerance : relative error of the deviation by these methods, rms over the voxels, one standard deviation.
        seed : of the random signs or drawings.
        at_once : images in one batch (default: what fits into some hundred MB).

    Returns an image like the given one; 0 in voxels that the constraint x >= 0 holds at 0, and that nothing sees. The
    log (`emrecon`, level INFO) says which method was taken, and the error expected and met;
    `PenalisedEstimate(...).standard_deviation()` returns them with the map.

    Raises as `PenalisedEstimate`, and ValueError for options that make no sense.

    Source: Fessler 1996, IEEE Trans Image Process 5:493.
    """
    estimate = PenalisedEstimate(likelihood, prior, image)
    whole = estimate if filter is None else estimate.filtered(filter)
    return whole.standard_deviation(mask=mask, method=method, tolerance=tolerance, seed=seed, at_once=at_once).image
