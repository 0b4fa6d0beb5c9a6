"""Numbers that say how good an image is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, array_namespace, as_real, like, require_array, to_numpy
from emrecon.projectors.core.blur import MeasuredBlur

from .regions import RegionOfInterest, Sphere, as_region, double, region_means, region_of, root

Denominator = Literal["norm", "mean", "range"]

_SIGMA, _REACH = 1.5, 5  # of SSIM's window in voxels: 11 taps


# ---- image against reference -----------------------------------------------------------------------------------------


def nrmse(
    image: Array,
    reference: Array,
    mask: Array | None = None,
    *,
    denominator: Denominator = "norm",
    dimensions: int | None = None,
) -> Array:
    """Return the root mean square of image - reference over a scale of the reference, both over the voxels of `mask`::

        denominator="norm"    |image - reference| / |reference|, the scale is the root mean square of the reference
        denominator="mean"    its mean
        denominator="range"   its maximum - its minimum

    Args:
        image : (..., ``*image``).
        reference : of the same shape, or without the leading axes.
        mask : booleans of one image (or of the shape of the reference); default: all voxels.
        dimensions : how many trailing axes make one image; default: all axes of the reference. Other axes of `image`
            are a batch and give one number each.

    Runs on NumPy, CuPy and torch (tensors keep their gradient); float64.

    Raises ValueError for shapes that do not fit, an empty mask, NaN, and a reference whose scale is not positive.
    """
    pair = _pair("nrmse", image, reference, mask, dimensions)
    xp, t = pair.xp, pair.reference
    if denominator == "norm":
        scale = xp.sqrt(pair.sum(t**2) / pair.n_voxels)
    elif denominator == "mean":
        scale = pair.sum(t) / pair.n_voxels
    elif denominator == "range":
        scale = pair.max(t) + pair.max(-t)
    else:
        raise ValueError(f"nrmse denominator must be 'norm', 'mean' or 'range', got {denominator!r}")
    if not bool(xp.all(scale > 0)):
        raise ValueError(f"nrmse: the {denominator} of the reference is {_least(scale):g}, and must be positive")
    return root(pair.mean_square) / scale


def psnr(
    image: Array,
    reference: Array,
    mask: Array | None = None,
    *,
    data_range: float | None = None,
    dimensions: int | None = None,
) -> Array:
    """Return the peak signal-to-noise ratio in dB, 10 log10(MAX^2 / MSE); infinite where the images are equal.

    Args:
        image, reference, mask, dimensions : as in `nrmse`; MSE is the mean over the mask.
        data_range : MAX; default: the maximum of the reference, over the whole of it also where a mask is given.

    Raises ValueError as `nrmse` does, and for a range that is not positive.
    """
    pair = _pair("psnr", image, reference, mask, dimensions)
    xp, error = pair.xp, pair.mean_square
    ones = xp.ones_like(error)
    decibels = 20 * xp.log10(pair.range(data_range)) - 10 * xp.log10(xp.where(error > 0, error, ones))
    return xp.where(error > 0, decibels, math.inf * ones)[()]


def ssim(
    image: Array,
    reference: Array,
    mask: Array | None = None,
    *,
    data_range: float | None = None,
    dimensions: int | None = None,
) -> Array:
    """Return the mean structural similarity, 1 for equal images.

    Args:
        image, reference, mask, dimensions : as in `nrmse`, with one to three axes in an image.

    With a mask: the mean of `ssim_map` over it; the map is always that of the whole image.
    Without: the mean over the voxels whose window lies inside the image (5 voxels are left out at both ends of every
    axis, as scikit-image does it); an axis of less than 11 voxels is averaged as a whole.
    Report both: a background that is zero in both images counts as perfect.

    Raises ValueError as `ssim_map` does, and for an empty mask.

    Source: Wang et al. 2004.
    """
    pair = _pair("ssim", image, reference, mask, dimensions)
    similarity = _similarity(pair, data_range)
    if mask is not None:
        return pair.sum(similarity) / pair.n_voxels
    inner = [slice(_REACH, n - _REACH) if n > 2 * _REACH else slice(None) for n in pair.item]
    return pair.xp.mean(similarity[(..., *inner)], axis=pair.axes)


def ssim_map(
    image: Array, reference: Array, *, data_range: float | None = None, dimensions: int | None = None
) -> Array:
    """Return the structural similarity around every voxel, of the shape of the image, float64::

        (2 mx my + c1) (2 sxy + c2) / ((mx^2 + my^2 + c1) (sx^2 + sy^2 + c2)),   c1 = (0.01 L)^2,  c2 = (0.03 L)^2

    Means m, variances s^2 (population) and the covariance are weighted with a Gaussian of sigma 1.5 voxels and 11 taps
    along every axis. Beyond the edges the image is mirrored, the edge voxel repeated. An axis of one voxel is left as
    it is: an image (x, y, 1) is two-dimensional.

    Args:
        data_range : L; default: the maximum of the reference over the volume.

    Raises ValueError for shapes that do not fit, images of more than three axes (give `dimensions`), NaN and a range
    that is not positive.
    """
    return _similarity(_pair("ssim", image, reference, None, dimensions), data_range)


class _Pair(NamedTuple):
    """An image and its reference in float64, and the voxels that count; outside of those nothing is NaN."""

    who: str
    xp: ModuleType
    image: Array
    reference: Array
    inside: Array | None
    item: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        return tuple(range(-len(self.item), 0))

    @property
    def n_voxels(self) -> Array | int:
        if self.inside is None:
            return math.prod(self.item)
        return self.xp.sum(double(self.inside), axis=self.axes)

    @property
    def mean_square(self) -> Array:
        return self.sum((self.image - self.reference) ** 2) / self.n_voxels

    def sum(self, x: Array) -> Array:
        chosen = x if self.inside is None else self.xp.where(self.inside, x, self.xp.zeros_like(x))
        return self.xp.sum(chosen, axis=self.axes)

    def max(self, x: Array) -> Array:
        chosen = x if self.inside is None else self.xp.where(self.inside, x, -math.inf * self.xp.ones_like(x))
        return self.xp.max(chosen, axis=self.axes)

    def range(self, data_range: float | None) -> Array:
        """The given range, or the maximum of the whole reference."""
        xp = self.xp
        found = xp.max(self.reference, axis=self.axes)
        if data_range is not None:
            found = xp.ones_like(found) * float(data_range)
        if not bool(xp.all((found > 0) & (found < math.inf))):
            source = "the maximum of the reference" if data_range is None else "data_range"
            raise ValueError(f"{self.who}: {source} is {_least(found):g}, and must be positive and finite")
        return found


def _pair(who: str, image: Array, reference: Array, mask: Array | None, dimensions: int | None) -> _Pair:
    xp = require_array(image, who)
    require_array(reference, f"{who} reference")
    n = reference.ndim if dimensions is None else dimensions
    shape = tuple(image.shape)
    if not 1 <= n <= reference.ndim or tuple(reference.shape) not in (shape, shape[-n:]):
        raise ValueError(f"{who} compares images of one shape, got {shape} and {tuple(reference.shape)}")
    if 0 in shape:
        raise ValueError(f"{who} got an image without voxels, of shape {shape}")
    image = double(as_real(image))
    reference = like(reference, image)
    inside = None if mask is None else _mask(who, mask, image, tuple(reference.shape), n)
    pair = _Pair(who, xp, image, reference, inside, shape[-n:])
    for name, x in (("image", image), ("reference", reference)):
        finite = xp.isfinite(x) if inside is None else xp.isfinite(x) | ~inside
        if not bool(xp.all(finite)):
            raise ValueError(f"{who}: the {name} holds NaN or infinite values; did the algorithm diverge?")
    return pair


def _mask(who: str, mask: Array, image: Array, shape: tuple[int, ...], n: int) -> Array:
    require_array(mask, f"{who} mask")
    if "bool" not in str(mask.dtype):
        raise ValueError(f"{who} mask must hold booleans, got {mask.dtype}; weights > 0.5?")
    if tuple(mask.shape) not in (shape, shape[-n:]):
        raise ValueError(f"{who} mask of shape {tuple(mask.shape)} does not fit images of {shape[-n:]}")
    inside = like(mask, image) > 0
    xp = array_namespace(inside)
    if not bool(xp.all(xp.any(inside, axis=tuple(range(-n, 0))))):
        raise ValueError(f"{who} mask is empty: no voxel is left to compare")
    return inside


def _least(x: Array) -> float:
    return float(np.min(to_numpy(x)))


def _similarity(pair: _Pair, data_range: float | None) -> Array:
    if len(pair.item) > 3:
        raise ValueError(f"ssim compares images of up to three axes, got {pair.item}; give dimensions=3 (or 2)?")
    xp, x, y = pair.xp, pair.image, pair.reference
    if pair.inside is not None and not bool(xp.all(xp.isfinite(x)) & xp.all(xp.isfinite(y))):
        raise ValueError("ssim: an image holds NaN or infinite values outside of the mask, and windows reach there")
    level = xp.reshape(pair.range(data_range), (*y.shape[: y.ndim - len(pair.item)], *(1 for _ in pair.item)))
    c1, c2 = (0.01 * level) ** 2, (0.03 * level) ** 2
    windows = [None if n == 1 else like(_window(n), x) for n in pair.item]
    mx, my, mxx, myy, mxy = (_smoothed(field, windows) for field in (x, y, x * x, y * y, x * y))
    covariance, variances = mxy - mx * my, mxx - mx * mx + myy - my * my
    return (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (variances + c2))


def _smoothed(x: Array, windows: Sequence[Array | None]) -> Array:
    """Return an image times the matrix of a window along each of its last axes."""
    xp, shape = array_namespace(x), x.shape
    for axis, window in zip(range(-len(windows), 0), windows):
        if window is not None:
            n = shape[axis]
            lines = xp.reshape(x, (-1, n) if axis == -1 else (-1, n, math.prod(shape[axis + 1 :])))
            x = xp.reshape(lines @ window.T if axis == -1 else window @ lines, shape)
    return x


def _window(n: int) -> np.ndarray:
    """Return SSIM's Gaussian window as a matrix (n, n) that mirrors at the edges: ... b a | a b c ..."""
    offsets = np.arange(-_REACH, _REACH + 1)
    taps = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    place = (np.arange(n)[:, None] + offsets) % (2 * n)
    matrix = np.zeros((n, n))
    np.add.at(matrix, (np.arange(n)[:, None], np.minimum(place, 2 * n - 1 - place)), taps / taps.sum())
    return matrix


# ---- regions ---------------------------------------------------------------------------------------------------------


def contrast_recovery(
    image: Array, region: RegionOfInterest | Array, background: RegionOfInterest | Array, ratio: float
) -> Array:
    """Return the contrast recovery coefficient, 1 for the truth::

        hot    (m_H / m_B - 1) / (a_H / a_B - 1)
        cold   1 - m_C / m_B,  which is the same with a_C = 0

    Args:
        image : (..., x, y, z).
        ratio : the true activity of the region over that of the background; 0 for a cold one.
        region, background : `RegionOfInterest`, or booleans or parts of voxels of the image's shape; m are their means.

    Raises ValueError for a ratio that is negative or 1, a background without activity, and NaN.
    """
    if not 0 <= ratio < math.inf or ratio == 1:
        raise ValueError(f"contrast_recovery: ratio must be >= 0 and not 1 (no contrast to recover), got {ratio}")
    level = _level("contrast_recovery", image, background, "background")
    return (_mean("contrast_recovery", image, region, "region") / level - 1) / (ratio - 1)


def recovery_coefficient(image: Array, region: RegionOfInterest | Array, activity: float) -> Array:
    """Return the recovery coefficient m_H / a_H, the mean of a region over its true activity.

    Raises ValueError for an activity that is not positive, and NaN.
    """
    if not 0 < activity < math.inf:
        raise ValueError(f"recovery_coefficient: the true activity must be positive, got {activity}")
    return _mean("recovery_coefficient", image, region, "region") / activity


def contrast_to_noise(image: Array, region: RegionOfInterest | Array, background: RegionOfInterest | Array) -> Array:
    """Return the contrast-to-noise ratio (m_H - m_B) / sd_B, with the standard deviation of the background's voxels.

    Raises ValueError for a background without noise, and NaN.
    """
    who, behind = "contrast_to_noise", as_region(background, "background")
    contrast = _mean(who, image, region, "region") - _mean(who, image, behind, "background")
    noise = behind.sd(image)
    if not bool(array_namespace(noise).all(noise > 1e-12 * abs(behind.mean(image)))):
        raise ValueError(f"{who}: the background has the same value everywhere, and the ratio is infinite")
    return contrast / noise


def coefficient_of_variation(image: Array, region: RegionOfInterest | Array) -> Array:
    """Return the coefficient of variation sd / mean of a region's voxels, in one image.

    It is noise only where the object is uniform and wide against the resolution.

    Raises ValueError for a mean that is not positive, a region of one voxel, and NaN.
    """
    chosen = as_region(region, "region")
    return chosen.sd(image) / _level("coefficient_of_variation", image, chosen, "region")


def background_variability(image: Array, regions: Sequence[RegionOfInterest | Array]) -> Array:
    """Return the standard deviation of the means of several regions over their mean, SD_k(m_k) / mean_k(m_k).

    SD is that with (number of regions - 1). As a fraction; `nema_image_quality` gives per cent.

    Raises ValueError for less than two regions, means that do not average to more than 0, and NaN.
    """
    if len(regions) < 2:
        raise ValueError(f"background_variability needs two regions or more, got {len(regions)}")
    means = region_means(image, [as_region(region, f"region {k}") for k, region in enumerate(regions)])
    xp = array_namespace(means)
    level = xp.mean(means, axis=-1)
    _require_positive("background_variability", level, "mean of the regions")
    return root(xp.sum((means - level[..., None]) ** 2, axis=-1) / (len(regions) - 1)) / level


def _mean(who: str, image: Array, region: RegionOfInterest | Array, name: str) -> Array:
    mean = as_region(region, name).mean(image)
    if not bool(array_namespace(mean).all(array_namespace(mean).isfinite(mean))):
        raise ValueError(f"{who}: the {name} holds NaN or infinite values")
    return mean


def _level(who: str, image: Array, region: RegionOfInterest | Array, name: str) -> Array:
    mean = _mean(who, image, region, name)
    _require_positive(who, mean, f"mean of the {name}")
    return mean


def _require_positive(who: str, level: Array, what: str) -> None:
    if not bool(array_namespace(level).all(level > 0)):
        raise ValueError(f"{who}: the {what} is {_least(level):g}, and must be positive; is it in the right place?")


# ---- realisations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What many noise realisations of one scan have in common and how they differ: voxel by voxel, or by region.

    Args:
        mean, deviation : over the realisations, of the shape of one image, or (..., regions); the standard deviation is
            that with n_realisations - 1, in the unit of the image.
        reference : the truth t.

    `bias`, `sd` and `nmse` are relative to t; they are NaN where it is 0.
    """

    n_realisations: int
    mean: Array
    deviation: Array
    reference: Array

    @property
    def bias(self) -> Array:
        """(mean_r f - t) / t."""
        return self._over(self.mean - self.reference, self.reference)

    @property
    def sd(self) -> Array:
        """sqrt( sum_r (f - mean_r f)^2 / (R - 1) ) / t."""
        return self._over(self.deviation, self.reference)

    @property
    def nmse(self) -> Array:
        """The normalised mean square error bias^2 + sd^2.

        The squared bias of a mean over R realisations is larger by sd^2 / R than that of infinitely many.
        """
        return self.bias**2 + self.sd**2

    @property
    def noise(self) -> Array:
        """The mean over the regions (the last axis) of sd_r / mean_r: the background STD of Gong et al. 2019.

        Raises ValueError for statistics of voxels, not of regions.
        """
        if self.mean.ndim > 2:
            raise ValueError("Ensemble.noise is that of regions; give ensemble_statistics the background's regions")
        return array_namespace(self.mean).mean(self._over(self.deviation, self.mean), axis=-1)

    @staticmethod
    def _over(x: Array, y: Array) -> Array:
        xp = array_namespace(x)
        ones = xp.ones_like(y)
        return xp.where(y != 0, x / xp.where(y != 0, y, ones), math.nan * ones)


def ensemble_statistics(
    images: Array | Iterable[Array], reference: Array, regions: Sequence[RegionOfInterest] | None = None
) -> Ensemble:
    """Return mean and deviation over noise realisations, of every voxel, or of the means of regions.

    Args:
        images : (realisations, ..., x, y, z), or an iterable of images, of which one at a time is kept.
        reference : the truth, of the shape of one image.

    Raises ValueError for less than two realisations, shapes that do not fit, and NaN.
    """
    require_array(reference, "ensemble_statistics reference")
    n = 0
    mean: Array | None = None
    squares: Array | None = None
    for image in images:
        if tuple(image.shape) != tuple(reference.shape):
            raise ValueError(
                f"ensemble_statistics: an image of shape {tuple(image.shape)} does not fit a reference of "
                f"{tuple(reference.shape)}"
            )
        n, x = n + 1, double(image if regions is None else region_means(image, regions))
        if not bool(array_namespace(x).all(array_namespace(x).isfinite(x))):
            raise ValueError(f"ensemble_statistics: realisation {n} holds NaN or infinite values")
        if mean is None or squares is None:
            mean, squares = x, array_namespace(x).zeros_like(x)
        change = x - mean
        mean = mean + change / n
        squares = squares + change * (x - mean)
    if mean is None or squares is None or n < 2:
        raise ValueError(f"ensemble_statistics needs two realisations or more, got {n}")
    truth = like(reference if regions is None else region_means(reference, regions), mean)
    return Ensemble(n, mean, root(squares / (n - 1)), truth)


# ---- standardised uptake values --------------------------------------------------------------------------------------


def suv_max(image: Array, region: RegionOfInterest | Array | None = None) -> Array:
    """Return the largest voxel of the image, or of the voxels that are inside of a region by half or more.

    Args:
        image : (..., x, y, z) SUV (`projectors.suv`), or any other unit.

    Raises ValueError for NaN.
    """
    xp = require_array(image, "suv_max")
    if image.ndim < 3:
        raise ValueError(f"suv_max expects an image (..., x, y, z), got shape {tuple(image.shape)}")
    highest = xp.max(double(image), axis=(-3, -2, -1)) if region is None else as_region(region, "region").max(image)
    return _finite("suv_max", highest)


def suv_mean(
    image: Array,
    region: RegionOfInterest | Array | None = None,
    *,
    threshold: float | None = None,
    fraction: float | None = None,
) -> Array:
    """Return the mean of the voxels of a region (default: of the image) that reach a threshold.

    Args:
        threshold : a fixed value, such as SUV 2.5 or 4.
        fraction : of the region's maximum, such as 0.41 or 0.5.

    By default all voxels of the region count. Voxels at the edge count with their part in the region.

    Raises ValueError where both are given, no voxel reaches the threshold, and for NaN.
    """
    require_array(image, "suv_mean")
    if threshold is not None and fraction is not None:
        raise ValueError("suv_mean takes a threshold or a fraction of the maximum, not both")
    if fraction is not None and not 0 < fraction <= 1:
        raise ValueError(f"suv_mean fraction must be between 0 and 1, got {fraction}; 41 % is 0.41")
    chosen = (
        RegionOfInterest("image", np.ones(image.shape[-3:], bool)) if region is None else as_region(region, "region")
    )
    mean = _finite("suv_mean", chosen.mean(image))
    xp, values = array_namespace(mean), double(chosen.values(image))
    if fraction is not None:
        above = values >= fraction * chosen.max(image)[..., None]
    elif threshold is not None:
        above = values >= threshold
    else:
        return mean
    weights = chosen.parts_like(values) * double(above)
    total = xp.sum(weights, axis=-1)
    if not bool(xp.all(total > 0)):
        raise ValueError(f"suv_mean: no voxel of {chosen} reaches the threshold")
    return xp.sum(weights * values, axis=-1) / total


def suv_peak(
    image: Array, grid: ImageGrid, region: RegionOfInterest | Array | None = None, *, volume: float = 1.0
) -> Array:
    """Return the largest mean in a sphere of `volume` mL, over all voxels of a region (default: of the image).

    The sphere, 12.4 mm in diameter for 1 mL, is centred on voxels of which half or more is inside of the region, and
    may reach out of the region; voxels that its surface crosses count with the part that is inside. Where the sphere
    reaches out of the image, the mean is that of the part within: on a grid of one slice, that of the middle slice.

    Args:
        image : (..., x, y, z) on `grid`.

    Raises ValueError for an image that does not fit the grid, a volume that is not positive, and NaN.

    Source: Wahl et al. 2009; Lodge et al. 2012. Definitions vary: this is the sphere of the highest mean.
    """
    xp = require_array(image, "suv_peak")
    if tuple(image.shape[-3:]) != grid.shape:
        raise ValueError(f"suv_peak: an image of shape {tuple(image.shape)} does not fit a grid of {grid.shape}")
    if not 0 < volume < math.inf:
        raise ValueError(f"suv_peak volume must be positive (mL), got {volume}")
    x = double(as_real(image))
    if not bool(xp.all(xp.isfinite(x))):
        raise ValueError("suv_peak: the image holds NaN or infinite values")
    sphere = MeasuredBlur(grid, _ball(grid, volume), ends="empty")
    return suv_max(sphere(x) / sphere(xp.ones(grid.shape, dtype=x.dtype, device=x.device)), region)


def _ball(grid: ImageGrid, volume: float) -> np.ndarray:
    """Return the parts of voxels in a sphere around the middle of a voxel, (odd, odd, odd)."""
    diameter = 10 * (6 * volume / math.pi) ** (1 / 3)
    x, y, z = (2 * max(1, math.ceil(diameter / 2 / size - 0.5)) + 1 for size in grid.voxel_size)
    ball = Sphere((0.0, 0.0, 0.0), diameter)
    return region_of("sphere", ball, ImageGrid((x, y, z), grid.voxel_size), oversample=20).weights


def _finite(who: str, x: Array) -> Array:
    if not bool(array_namespace(x).all(array_namespace(x).isfinite(x))):
        raise ValueError(f"{who}: the image holds NaN or infinite values")
    return x
