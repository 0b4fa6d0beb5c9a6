"""What the data say about an image: the Fisher information of a likelihood, of any class, and noise with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, add_up, array_namespace, device, dtype_name, like, to_numpy

from ..likelihoods.protocol import Likelihood


@dataclass(frozen=True, eq=False)
class Information:
    """The Fisher information F of the data about an image x, the covariance of the gradient of f over their noise.

    Args:
        parts : likelihoods whose sum is f.
        image : x, (..., x, y, z).

    Counts have F = A' diag(1 / ybar) A: of a `PoissonLikelihood` ybar is what x makes expected, so that no counts are
    in F; of events the sum goes over those that were measured, A' diag(1 / ybar^2) A, whose expectation is F.
    Other likelihoods say their F by `fisher_vector(x, v)`; without it F is the Hessian, as it is of every negative
    log-likelihood at the true image; and the Hessian, where there is no `hessian_vector`, is a central difference of
    gradients.
    """

    parts: Sequence[Likelihood]
    image: Array
    weights: tuple[Array | None, ...]

    @classmethod
    def of(cls, parts: Sequence[Any], image: Array) -> Information:
        """Return the information of likelihoods about an image."""
        return cls(parts, image, tuple(part.information(image) if _has_weights(part) else None for part in parts))

    def product(self, v: Array) -> Array:
        """Return F v, v of (..., *the shape of the image)."""
        return add_up(self._of(part, weight, v) for part, weight in zip(self.parts, self.weights, strict=True))

    def hessian(self, v: Array) -> Array:
        """Return the Hessian of f at the image, with the counts as they were measured, applied to v."""
        return add_up(_hessian(part, self.image, v) for part in self.parts)

    @property
    def draws(self) -> bool:
        """Whether `noise` can be drawn: F must be known bin by bin."""
        return all(weight is not None for weight in self.weights)

    def noise(self, n: int, generator: np.random.Generator) -> Array:
        """Return n drawings of a gradient with mean 0 and covariance F, (n, *the shape of the image)::

        A' (1 / sqrt(ybar) e),     e of independent standard normal numbers
        """
        drawn = []
        for part, weight in zip(self.parts, self.weights, strict=True):
            if weight is None:
                raise TypeError(f"noise of {type(part).__name__} is not known bin by bin")
            normal = generator.standard_normal((n, *weight.shape), np.dtype(dtype_name(weight)))
            drawn.append(part.model.adjoint(array_namespace(weight).sqrt(weight) * like(normal, weight)))  # type: ignore[attr-defined]
        return add_up(drawn)

    @property
    def bins(self) -> int:
        """How many bins one image has, at least; the size of the image where that is not known."""
        return max(
            int(np.prod(self.image.shape[-3:])), *(0 if w is None else int(np.prod(w.shape)) for w in self.weights)
        )

    def _of(self, part: Any, weight: Array | None, v: Array) -> Array:
        if weight is not None:
            return part.model.adjoint(weight * part.model.linear(v))
        own: Callable[[Array, Array], Array] | None = getattr(part, "fisher_vector", None)
        return _hessian(part, self.image, v) if own is None else own(self.image, v)


def _has_weights(part: object) -> bool:
    return hasattr(part, "information") and hasattr(part, "model")


def _hessian(part: Any, x: Array, v: Array) -> Array:
    own: Callable[[Array, Array], Array] | None = getattr(part, "hessian_vector", None)
    return _difference(part, x, v) if own is None else own(x, v)


def _difference(part: Likelihood, x: Array, v: Array) -> Array:
    """(gradient(x + e v) - gradient(x - e v)) / 2 e, one image after the other; exact for a quadratic f."""
    xp, shape = array_namespace(x), tuple(x.shape)
    flat = xp.reshape(v, (-1, *shape))
    least = float(np.finfo(dtype_name(x)).eps) ** (1 / 3)
    scale = least * max(float(to_numpy(x).max()), 1e-30)
    found = []
    for i in range(flat.shape[0]):
        one = flat[i, ...]
        most = float(xp.max(xp.abs(one)))
        e = scale / most if most > 0 else 1.0
        found.append((part.gradient(x + e * one) - part.gradient(x - e * one)) / (2 * e))
    return xp.reshape(xp.stack(found), tuple(v.shape))


def unit_images(voxels: Sequence[tuple[int, ...]], x: Array) -> Array:
    """Return an image with a 1 in each voxel (x, y, z), for all items of a batch: (n, *the shape of x)."""
    xp = array_namespace(x)
    host = np.zeros((len(voxels), *x.shape), dtype_name(x))
    for image, voxel in zip(host, voxels, strict=True):
        image[(..., *voxel)] = 1
    return xp.asarray(host, device=device(x))
