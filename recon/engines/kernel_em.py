"""Kernel EM: expectation maximisation of the coefficients of a kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from emrecon.projectors import LinearOperator
from emrecon.projectors.core.arrays import (
    Array,
    array_namespace,
    divide_where,
    like,
    to_numpy,
)

from ..kernels.matrix import SpatioTemporalKernel
from ..likelihoods.protocol import CountsLikelihood, image_shape, only_seen, require_counts
from .loop import Iterate, begin, living, repeat
from .schedules import Order, sequential
from .watch import Watched, taken_back


@dataclass(frozen=True, eq=False)
class Coefficients(Watched):
    """What kernel EM remembers: alpha, of which the image is K alpha unless it was taken back, and the objective."""

    coefficients: Array


def kem_step(coefficients: Array, likelihood: CountsLikelihood, kernel: LinearOperator) -> Array:
    """Return one EM update of the coefficients, alpha * K'A'(y / ybar) / K'A'1 with ybar = model(K alpha).

    Args:
        coefficients : (..., ``*kernel.in_shape``) >= 0.

    Returns the same shape; coefficients that nothing is known about, K'A'1 = 0, keep their value.

    Raises ValueError where many counts were measured where none are expected.

    Source: Wang & Qi 2015, IEEE Trans Med Imaging 34:61.
    """
    image = kernel(coefficients)
    return _updated(coefficients, image, likelihood, kernel, _kernel_sensitivity(image, likelihood, kernel))


def kem(
    likelihood: CountsLikelihood | Sequence[CountsLikelihood],
    kernel: LinearOperator,
    start: Array | Iterate | None = None,
    n_subsets: int = 1,
    *,
    order: Order = sequential,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass over `n_subsets` subsets of the views, for ever; stop by leaving it::

        alpha <- alpha / (K' A_k' n) * K' A_k'(n y / ybar),   ybar = n A_k K alpha + r,   x = K alpha

    Args:
        kernel : K, an operator of the images, or of all frames of a dynamic scan (`SpatioTemporalKernel`), whose data
            are (frames, ``*views``).
        start : first coefficients, not negative (default: ones, in the library and on the device of the data), or an
            iterate to go on from.

    n_subsets, or a list of likelihoods, order, iteration : as in `osem`.
    An iterate's image is K alpha, 0 in voxels that nothing sees, and `iterate.state["coefficients"]` alpha, from which
    the loop goes on. With one subset the likelihood never gets worse; with more, images that are worse are taken
    back, as in `osem`, and alpha is then that of the image which was not handed out.

    Raises ValueError for a start with negative, NaN or infinite values or of another shape, a kernel that does not fit
    the images, and more subsets than views.

    Source: Wang & Qi 2015, IEEE Trans Med Imaging 34:61.
    """
    before = start if isinstance(start, Iterate) else None
    if isinstance(start, Iterate):
        known = Coefficients.of(start)
        if known is None:
            raise ValueError(
                "kem goes on from its own iterates, which hold coefficients; this one holds an image alone"
            )
        iteration, start = start.iteration, like(known.coefficients, start.image)
    at, parts = begin(likelihood, start, n_subsets, iteration, coefficients=True)
    for part in parts:
        require_counts(part, "kem")
    shape = image_shape(parts[0])
    if kernel.in_shape != kernel.out_shape or kernel.out_shape[-len(shape) :] != shape:
        raise ValueError(f"{kernel!r} does not fit images of {shape}")
    _check_coefficients(at.image, kernel)
    first = _Point(at.image, kernel(at.image))
    prepared = [_Part(part, _kernel_sensitivity(first.image, part, kernel)) for part in parts]

    def show(n: int, at: _Point) -> Iterate:
        return Iterate(n, only_seen(at.image, parts), Coefficients(at.alpha))

    step = partial(_step, kernel=kernel)
    iterates = living(repeat((at.iteration, first), prepared, order, step, show), parts, first.image)
    return taken_back(iterates, parts, before or Iterate(at.iteration, only_seen(first.image, parts)))


class _Part(NamedTuple):
    """A subset of the data, and K'A'1 of it."""

    likelihood: CountsLikelihood
    sensitivity: Array


class _Point(NamedTuple):
    """Coefficients and the image that they make."""

    alpha: Array
    image: Array


def _step(at: _Point, part: _Part, kernel: LinearOperator) -> _Point:
    alpha = _updated(at.alpha, at.image, part.likelihood, kernel, part.sensitivity)
    return _Point(alpha, kernel(alpha))


def _updated(
    alpha: Array, image: Array, likelihood: CountsLikelihood, kernel: LinearOperator, sensitivity: Array
) -> Array:
    back = kernel.T(likelihood.model.adjoint(likelihood.ratio(image)))
    return alpha * divide_where(back, sensitivity, 1.0)


def _kernel_sensitivity(image: Array, likelihood: CountsLikelihood, kernel: LinearOperator) -> Array:
    """K'A'1; what is one sensitivity for all frames is that of each of them."""
    sensitivity = likelihood.sensitivity_like(image)
    shape = np.broadcast_shapes(tuple(sensitivity.shape), kernel.out_shape)
    return kernel.T(array_namespace(image).broadcast_to(sensitivity, shape))


def _check_coefficients(alpha: Array, kernel: LinearOperator) -> None:
    if tuple(alpha.shape[-len(kernel.in_shape) :]) != kernel.in_shape:
        advice = "; it needs data (frames, *views)" if isinstance(kernel, SpatioTemporalKernel) else ""
        raise ValueError(f"coefficients of shape {tuple(alpha.shape)} do not fit {kernel!r}{advice}")
    host = to_numpy(alpha)
    if not (host >= 0).all() or not (host < float("inf")).all():
        raise ValueError("coefficients must be finite and not negative: EM keeps signs and zeros")
