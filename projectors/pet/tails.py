"""Scatter scaled to the tails of a sinogram, where no activity is."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d

from ..core.arrays import Array, to_numpy
from ..core.operator import broadcasts_to
from .sinogram import PETSinogram


def tail_mask(attenuation_factors: Array, threshold: float = 0.99, margin: int = 3) -> np.ndarray:
    """Return which bins' lines miss the object: true where factors > threshold there and `margin` bins on either side.

    Args:
        attenuation_factors : exp(-A mu), (views, radial, planes), 1 outside of the object.

    Raises ValueError for factors above 1, which are attenuation correction factors.
    """
    factors = to_numpy(attenuation_factors)
    if factors.ndim != 3:
        raise ValueError(f"tail_mask expects (views, radial, planes), got {factors.shape}; leave TOF bins out")
    if not factors.max() <= 1.0001:
        raise ValueError(
            f"attenuation factors are at most 1, got {factors.max():g}; for correction factors, pass 1 / factors"
        )
    object_near: np.ndarray = maximum_filter1d((factors <= threshold).view(np.uint8), 2 * margin + 1, axis=1)
    return object_near == 0


def scale_to_tails(
    scatter: Array,
    measured: Array,
    background: Array | float,
    mask: Array,
    sinogram: PETSinogram,
    *,
    factors: Array | float = 1.0,
    per: str = "plane",
    smoothing: float = 2.0,
    limits: tuple[float, float] = (0.2, 5.0),
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scatter scaled to the counts beside the object, and the scale of every plane, (planes,).

    The scales are those of least squares over the bins of the mask, within limits >= 0::

        minimise  sum over mask of (measured - background - scale * factors * scatter)^2

    Args:
        scatter : from `single_scatter`, of `sinogram.shape`, in the unit of line integrals.
        measured : counts of the same shape.
        background : expected counts other than scatter: randoms.
        mask : true where only scatter and background are counted, see `tail_mask`; (views, radial, planes), or with TOF
            bins, of which all are used otherwise.
        factors : counts per unit of scatter: time x calibration x normalisation x multiplicity, without attenuation.
            Background and factors are numbers or arrays that broadcast to `sinogram.shape`.
        per : "plane", "segment" or "all": which bins share a scale.
        smoothing : standard deviation in planes over which the sums of "plane" are smoothed, each segment by itself.
        limits : least and greatest scale. Multiple scatter makes about 1.1 to 1.6 of a calibrated activity.

    The scaled scatter has the unit of `scatter`; an `AcquisitionModel` takes background + factors * scaled.

    Raises ValueError where shapes do not fit or planes have no tail.

    Source: Watson 2000; Ollinger 1996.
    """
    low, high = limits
    if not (0 <= low <= high and smoothing >= 0):
        raise ValueError(
            f"scale_to_tails needs 0 <= limits[0] <= limits[1] and smoothing >= 0, got {limits}, {smoothing}"
        )
    estimate, counts = to_numpy(scatter), to_numpy(measured)
    for name, values in (("scatter", estimate), ("measured", counts)):
        if values.shape != sinogram.shape:
            raise ValueError(f"scale_to_tails: {name} has shape {values.shape}, but the sinogram has {sinogram.shape}")
    randoms, per_unit = _spread(background, "background", sinogram), _spread(factors, "factors", sinogram)
    sums = _tail_sums(estimate, counts, randoms, per_unit, _tails(mask, sinogram))
    product, square = _grouped(sums, sinogram.segments, per, smoothing)
    _check_tails(square, sinogram, per)
    scales = np.clip(product / square, low, high)
    return (estimate * scales).astype(np.float32), scales


def _tails(mask: Array, sinogram: PETSinogram) -> np.ndarray:
    """Return the mask as an array of `sinogram.shape`."""
    values = to_numpy(mask)
    if values.dtype != bool:
        raise TypeError(f"scale_to_tails: mask must be booleans, got {values.dtype}; use tail_mask?")
    if sinogram.tof is not None and values.shape == sinogram.without_tof().shape:
        values = values[:, :, None]
    return _spread(values, "mask", sinogram)


def _spread(values: Array | float, name: str, sinogram: PETSinogram) -> np.ndarray:
    array = np.asarray(values if np.isscalar(values) else to_numpy(values))
    if not broadcasts_to(array.shape, sinogram.shape):
        raise ValueError(f"scale_to_tails: {name} of shape {array.shape} does not broadcast to {sinogram.shape}")
    return np.broadcast_to(array, sinogram.shape)


def _tail_sums(
    scatter: np.ndarray, measured: np.ndarray, background: np.ndarray, factors: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Return the sums over the tails of model x data and of model^2, (2, planes), view by view to save memory."""
    sums = np.zeros((2, scatter.shape[-1]))
    for s, m, b, f, inside in zip(scatter, measured, background, factors, mask):
        model = np.where(inside, f * s, 0).astype(float).reshape(-1, s.shape[-1])
        sums += (model * (m - b).reshape(model.shape)).sum(0), (model**2).sum(0)
    return sums


def _grouped(sums: np.ndarray, segments: np.ndarray, per: str, smoothing: float) -> np.ndarray:
    """Return the sums of every plane's group."""
    if per not in ("plane", "segment", "all"):
        raise ValueError(f'per must be "plane", "segment" or "all", got {per!r}')
    if per == "all":
        return np.broadcast_to(sums.sum(1, keepdims=True), sums.shape)
    grouped = sums.copy()
    for segment in np.unique(segments):
        planes = segments == segment
        if per == "segment":
            grouped[:, planes] = sums[:, planes].sum(1, keepdims=True)
        elif smoothing > 0:
            grouped[:, planes] = gaussian_filter1d(sums[:, planes], smoothing, axis=1)
    return grouped


def _check_tails(square: np.ndarray, sinogram: PETSinogram, per: str) -> None:
    empty = np.flatnonzero(square <= 0)
    if empty.size == square.size:
        raise ValueError(
            "scale_to_tails: no bin of the mask holds scatter: either the object fills the field of view (lower the "
            "threshold or the margin of tail_mask), or scatter or factors are 0 outside of it"
        )
    if empty.size:
        raise ValueError(
            f"scale_to_tails: {empty.size} of {square.size} planes have no tail, the first is plane {empty[0]} of "
            f'segment {sinogram.segments[empty[0]]}; use more smoothing, or per="segment" or "all" instead of "{per}"'
        )
