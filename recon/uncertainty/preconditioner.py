"""What makes conjugate gradients fast: a matrix near the Hessian that Fourier transforms invert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from emrecon.projectors.core.arrays import Array, array_namespace, is_numpy, like, to_numpy

Product = Callable[[Array], Array]

_AXES = (-3, -2, -1)
_N_NOISE = 32  # drawings of a gradient; more do not save iterations
_N_LEVELS = 3  # strengths of the prior that are told apart
_FLOOR = 1e-3  # of the largest frequency response


@dataclass(frozen=True, eq=False)
class FourierPreconditioner:
    """M near the inverse of H = F + R, with F ~ K G K and R ~ E L E, where K and E are diagonal and G and L are blurs::

        M = K^-1 ( sum over levels t of  w_t^1/2 (G + t L)^-1 w_t^1/2 ) K^-1

    K^2 is the diagonal of F and E^2 that of R; the weights w_t interpolate between levels of E^2 / K^2, and G and L are
    the responses of K^-1 F K^-1 and E^-1 R E^-1 at one voxel in the middle. Symmetric, and positive on the free voxels.

    Args:
        scale : 1 / K, 0 where a voxel is not free.
        roots : w_t^1/2 for each level.
        responses : 1 / (G + t L) by frequency, of padded images, for each level.

    Source: Fessler & Booth 1999 (combining preconditioners for shift-variant problems), with other weights.
    """

    scale: Array
    roots: tuple[Array, ...]
    responses: tuple[Array, ...]

    def __call__(self, v: Array) -> Array:
        """Return M v, v of (..., *the shape of the image)."""
        shape = tuple(v.shape[-3:])
        size, inner = _padded(shape), (..., *(slice(0, n) for n in shape))
        scaled = self.scale * v
        total = 0 * scaled
        fft = _transforms(v)
        for root, response in zip(self.roots, self.responses, strict=True):
            spectrum = fft.rfftn(root * scaled, s=size, axes=_AXES) * response
            total = total + root * fft.irfftn(spectrum, s=size, axes=_AXES)[inner]
        return self.scale * total

    @classmethod
    def made(
        cls,
        x: Array,
        free: Array,
        data: Product,
        data_diagonal: Array,
        prior: Product | None = None,
        prior_diagonal: Array | None = None,
    ) -> FourierPreconditioner:
        """Return the preconditioner of F + R at an image x.

        Args:
            free : which voxels may move, booleans of the shape of x.
            data, prior : v -> F v and v -> R v.
            data_diagonal, prior_diagonal : of F and R, at least nearly, of the shape of x.
        """
        xp, one = array_namespace(x), array_namespace(x).ones_like(x)
        inside = free & (data_diagonal > 0)
        k2 = xp.where(inside, data_diagonal, one)
        scale = xp.where(free, 1 / xp.sqrt(k2), xp.zeros_like(x))
        middle = _middle(to_numpy(inside if bool(xp.any(inside)) else free))
        own = _response(data, 1 / xp.sqrt(k2), middle, x)
        own = xp.maximum(own, _FLOOR * _highest(own))
        if prior is None or prior_diagonal is None:
            return cls(scale, (one,), (1 / own,))
        strong = inside & (prior_diagonal > 0)
        e2 = xp.where(strong, prior_diagonal, one)
        its = _response(prior, 1 / xp.sqrt(e2), middle, x)
        its = xp.maximum(its, xp.zeros_like(its))
        levels, weights = _levels(to_numpy(xp.where(strong, e2 / k2, xp.zeros_like(x))), to_numpy(strong))
        roots = tuple(like(np.sqrt(weight), x) for weight in weights)
        return cls(scale, roots, tuple(1 / (own + float(t) * its) for t in levels))


def noise_diagonal(noise: Callable[[int], Array], free: Array) -> Array:
    """Return the diagonal of F, nearly, as the mean square of drawings of a gradient with covariance F."""
    drawn = noise(_N_NOISE)
    xp = array_namespace(drawn)
    return xp.where(free, xp.mean(drawn**2, axis=0), xp.zeros_like(drawn[0, ...]))


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Half a size more, so that what wraps around is far away; an axis of one voxel stays."""
    return tuple(scipy.fft.next_fast_len(n + (n + 1) // 2, real=True) if n > 1 else 1 for n in shape)


def _transforms(x: Array) -> Any:
    """Fourier transforms of the array's library; SciPy's for NumPy, which are faster and keep float32."""
    return scipy.fft if is_numpy(x) else array_namespace(x).fft


def _middle(free: np.ndarray) -> tuple[int, ...]:
    """The free voxel nearest to the middle of all, of the first item of a batch."""
    first = free.reshape(-1, *free.shape[-3:])[0]
    places = np.argwhere(first)
    if not len(places):
        return tuple(n // 2 for n in first.shape)
    x, y, z = places[np.argmin(((places - places.mean(0)) ** 2).sum(1))]
    return int(x), int(y), int(z)


def _response(product: Product, scale: Array, middle: tuple[int, ...], x: Array) -> Array:
    """The frequency response of D H D at a voxel, real, of padded images; D is the scale."""
    xp = array_namespace(x)
    unit = np.zeros(x.shape[-3:], np.float64)
    unit[middle] = 1
    local = scale * product(scale * like(unit, x))
    size = _padded(tuple(x.shape[-3:]))
    spectrum = _transforms(x).rfftn(local, s=size, axes=_AXES)
    turn = _turned(size, middle)
    return xp.real(spectrum) * like(turn.real, x) - xp.imag(spectrum) * like(turn.imag, x)


def _turned(size: tuple[int, ...], middle: tuple[int, ...]) -> np.ndarray:
    """The phases that move a voxel to the first place."""
    last = len(size) - 1
    axes = [(np.fft.rfftfreq if i == last else np.fft.fftfreq)(n) * m for i, (n, m) in enumerate(zip(size, middle))]
    return np.exp(2j * np.pi * sum(np.ix_(*axes)))


def _highest(response: Array) -> Array:
    xp = array_namespace(response)
    most = xp.max(response, axis=_AXES, keepdims=True)
    return xp.where(most > 0, most, xp.ones_like(most))


def _levels(ratio: np.ndarray, strong: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Levels of E^2 / K^2, and the weight of every voxel at each; they add up to 1."""
    if not strong.any():
        return np.zeros(1), [np.ones(ratio.shape)]
    logs = np.log(np.where(strong, ratio, 1.0))
    nodes = np.unique(np.quantile(logs[strong], np.linspace(0.02, 0.98, _N_LEVELS)))
    if len(nodes) == 1 or nodes[-1] - nodes[0] < 0.1:
        return np.exp(nodes[:1]), [np.ones(ratio.shape)]
    place = np.where(strong, np.clip(logs, nodes[0], nodes[-1]), nodes[0])
    return np.exp(nodes), [np.interp(place, nodes, row) for row in np.eye(len(nodes))]
