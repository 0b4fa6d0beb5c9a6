"""Image quality as NEMA NU 2 measures it: contrast of spheres, variability of the background, and the lung residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

_COLUMNS = 64


@dataclass(frozen=True, eq=False)
class ImageQualityLayout:
    """Where an image of spheres in a uniform background is measured; all lengths in mm.

    Args:
        centres : (spheres, 3).
        diameters : (spheres,), inner ones.
        ratios : (spheres,) true activity over that of the background, 0 for cold spheres, not 1.
        background_centres : (regions, 2) x and y of the background regions.
        slices : (slices,) z of the slices they are drawn in.
        lung_centre : x and y of the lung insert, None without one.
        lung_diameter : of the region in it.

    `ImageQualityLayout(**sims.nema_layout())` is that of the NEMA IEC body phantom.

    Raises ValueError for arrays of the wrong shape and for numbers without a meaning.
    """

    centres: np.ndarray
    diameters: np.ndarray
    ratios: np.ndarray
    background_centres: np.ndarray
    slices: np.ndarray
    lung_centre: tuple[float, float] | None = None
    lung_diameter: float = 30.0

    def __post_init__(self) -> None:
        n = np.size(self.diameters)
        shapes = {
            "centres": (n, 3),
            "diameters": (n,),
            "ratios": (n,),
            "background_centres": (np.size(self.background_centres) // 2, 2),
            "slices": (np.size(self.slices),),
        }
        for name, shape in shapes.items():
            array = np.array(getattr(self, name), float)
            if array.shape != shape or array.size == 0 or not np.isfinite(array).all():
                raise ValueError(f"ImageQualityLayout {name} must be finite and of shape {shape}, got {array.shape}")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if np.any(self.diameters <= 0) or self.lung_diameter <= 0:
            raise ValueError("ImageQualityLayout diameters must be positive (mm)")
        if np.any(self.ratios < 0) or np.any(self.ratios == 1):
            raise ValueError(f"ImageQualityLayout ratios must be >= 0 and not 1, got {self.ratios}")
        if len(self.background_centres) * len(self.slices) < 2:
            raise ValueError("ImageQualityLayout needs two background regions or more: one has no variability")


@dataclass(frozen=True)
class SphereQuality:
    """What was measured for one sphere.

    Args:
        diameter : mm.
        ratio : the true one.
        contrast, variability : per cent.
        mean, background : mean values in the sphere's region, and in the background regions of its size.
    """

    diameter: float
    ratio: float
    contrast: float
    variability: float
    mean: float
    background: float


@dataclass(frozen=True)
class ImageQuality:
    """A table of spheres, in the order of the layout, and the lung residual in per cent (None without an insert)."""

    spheres: tuple[SphereQuality, ...]
    lung_residual: float | None

    def __str__(self) -> str:
        rows = [f"{s.diameter:8g}  {s.ratio:5g}  {s.contrast:10.1f}  {s.variability:13.2f}" for s in self.spheres]
        lung = [] if self.lung_residual is None else [f"lung residual {self.lung_residual:.1f} %"]
        return "\n".join(["    (mm)  ratio  contrast %  variability %", *rows, *lung])


def nema_image_quality(image: Array, grid: ImageGrid, layout: ImageQualityLayout) -> ImageQuality:
    """Return contrast and background variability of every sphere, and the lung residual, all in per cent.

    Args:
        image : (x, y, z) on `grid`. Regions of interest are discs in transverse slices, of the sphere's inner diameter;
            a pixel that the edge crosses counts with the part of its area that is inside. The slice nearest to the
            wanted z is taken. With C_j the mean in sphere j, a_j its true ratio, and B_jk the mean in background region
            k of that diameter (all regions in all slices, B_j their mean):

    ::

        hot sphere    contrast = 100 (C_j / B_j - 1) / (a_j - 1)
        cold sphere   contrast = 100 (1 - C_j / B_j)
        variability = 100 SD_k(B_jk) / B_j,  SD with (number of regions - 1)
        lung residual = 100 mean over slices of the mean in the insert's region / B of the largest diameter

    Raises ValueError where the image does not fit the grid, a region or a slice is outside of it, or the background has
    no activity.

    Source: NEMA NU 2-2007, section 7 (image quality).
    """
    volume = to_numpy(image)
    if volume.shape != grid.shape:
        raise ValueError(f"nema_image_quality: an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    slices = [_slice(volume, grid, z) for z in layout.slices]
    backgrounds = {
        diameter: _background(slices, grid, layout, diameter) for diameter in np.unique(layout.diameters).tolist()
    }
    spheres = tuple(
        _sphere(_mean([_slice(volume, grid, z)], grid, (x, y), diameter)[0], diameter, ratio, backgrounds[diameter])
        for (x, y, z), diameter, ratio in zip(layout.centres, layout.diameters.tolist(), layout.ratios.tolist())
    )
    if layout.lung_centre is None:
        return ImageQuality(spheres, None)
    lung = np.mean(_mean(slices, grid, layout.lung_centre, layout.lung_diameter))
    return ImageQuality(spheres, float(100 * lung / backgrounds[max(backgrounds)].mean()))


def background_level(image: Array, grid: ImageGrid, layout: ImageQualityLayout) -> float:
    """Return the mean of the background regions of a layout, of the diameter of its largest sphere, in all slices."""
    volume = to_numpy(image)
    slices = [_slice(volume, grid, z) for z in layout.slices]
    return float(_background(slices, grid, layout, float(layout.diameters.max())).mean())


def _sphere(mean: float, diameter: float, ratio: float, background: np.ndarray) -> SphereQuality:
    level = float(background.mean())
    contrast = 100 * (mean / level - 1) / (ratio - 1)  # of a cold sphere: ratio 0
    return SphereQuality(diameter, ratio, contrast, float(100 * background.std(ddof=1) / level), mean, level)


def _background(slices: list[np.ndarray], grid: ImageGrid, layout: ImageQualityLayout, diameter: float) -> np.ndarray:
    means = np.array([_mean(slices, grid, (x, y), diameter) for x, y in layout.background_centres])
    if not means.mean() > 0:
        raise ValueError(f"the mean of the background regions is {means.mean():g}; is the phantom where the layout is?")
    return means.ravel()


def _slice(volume: np.ndarray, grid: ImageGrid, z: float) -> np.ndarray:
    """Return the slice (x, y) nearest to z."""
    k = round((z - grid.origin[2]) / grid.voxel_size[2])
    if not 0 <= k < grid.shape[2]:
        raise ValueError(f"no slice at z = {z:g} mm in {grid} around z = {grid.centre[2]:g} mm")
    return np.asarray(volume[:, :, k], float)


def _mean(slices: list[np.ndarray], grid: ImageGrid, centre: Sequence[float], diameter: float) -> list[float]:
    """Return the mean in a disc of every slice."""
    x, y, weight = _disc(grid, centre, diameter)
    means = [float((weight * image[x, y]).sum() / weight.sum()) for image in slices]
    if not np.isfinite(means).all():
        place = tuple(map(float, centre))
        raise ValueError(f"the region of {diameter:g} mm at {place} mm holds NaN or infinite values")
    return means


def _disc(grid: ImageGrid, centre: Sequence[float], diameter: float) -> tuple[slice, slice, np.ndarray]:
    """Return the pixels a disc touches, and the part of each one's area that is inside.

    Chords are exact along y, and averaged over 64 columns of every pixel.
    """
    radius, windows, offsets = diameter / 2, [], []
    for c, origin, size, n in zip(centre, grid.origin, grid.voxel_size, grid.shape):
        low, high = ((c + side * radius - origin) / size for side in (-1, 1))
        first, last = int(np.floor(low + 0.5)), int(np.ceil(high - 0.5))
        if first < 0 or last >= n:
            raise ValueError(f"a disc of {diameter:g} mm at {tuple(map(float, centre))} mm reaches out of {grid}")
        windows.append(slice(first, last + 1))
        offsets.append(origin + size * np.arange(first, last + 1) - c)
    (dx, dy, _), (x, y) = grid.voxel_size, offsets
    columns = x[:, None] + dx * ((np.arange(_COLUMNS) + 0.5) / _COLUMNS - 0.5)
    chord = np.sqrt(np.maximum(radius**2 - columns**2, 0.0))[:, None]
    edges = y[:, None]
    inside = np.minimum(chord, edges + dy / 2) - np.maximum(-chord, edges - dy / 2)
    return windows[0], windows[1], np.maximum(inside, 0.0).mean(-1) / dy
