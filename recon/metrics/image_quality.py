"""Image quality as NEMA NU 2 measures it: contrast of spheres, variability of the background, and the lung residual."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.projectors.core.arrays import Array, to_numpy

_COLUMNS = 64
_PIXELS = ("parts", "whole")


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

    def moved(self, offset: Sequence[float] = (0.0, 0.0, 0.0), angle: float = 0.0) -> ImageQualityLayout:
        """Return the layout turned by `angle` degrees around z (from x to y), then moved by `offset` mm.

        This is for a phantom that does not lie where it was planned to.
        """
        x, y, z = (float(value) for value in offset)
        turn = math.radians(angle)
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        centres = np.column_stack([self.centres[:, :2] @ matrix.T + (x, y), self.centres[:, 2] + z])
        lung = self.lung_centre
        if lung is not None:
            there = matrix @ np.asarray(lung, float) + (x, y)
            lung = (float(there[0]), float(there[1]))
        beside = self.background_centres @ matrix.T + (x, y)
        return replace(self, centres=centres, background_centres=beside, slices=self.slices + z, lung_centre=lung)


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
    """A table of spheres, in the order of the layout, and the lung residual in per cent (None without an insert).

    Args:
        lung_residual : mean over the slices of the layout; lung_residuals : of each of them.
    """

    spheres: tuple[SphereQuality, ...]
    lung_residual: float | None
    lung_residuals: tuple[float, ...] = ()

    def __str__(self) -> str:
        rows = [f"{s.diameter:8g}  {s.ratio:5g}  {s.contrast:10.1f}  {s.variability:13.2f}" for s in self.spheres]
        lung = [] if self.lung_residual is None else [f"lung residual {self.lung_residual:.1f} %"]
        return "\n".join(["    (mm)  ratio  contrast %  variability %", *rows, *lung])


def nema_image_quality(
    image: Array, grid: ImageGrid, layout: ImageQualityLayout, *, pixels: str = "parts", search: float = 0.0
) -> ImageQuality:
    """Return contrast and background variability of every sphere, and the lung residual, all in per cent.

    ::

        hot sphere    contrast = 100 (C_j / B_j - 1) / (a_j - 1)
        cold sphere   contrast = 100 (1 - C_j / B_j)
        variability = 100 SD_k(B_jk) / B_j,  SD with (number of regions - 1)
        lung residual = 100 mean in the insert's region / B of the largest diameter, slice by slice

    C_j is the mean in sphere j, a_j its true ratio, B_jk the mean in background region k of that diameter (all regions
    in all slices), B_j their mean. Regions are discs in transverse slices, of the sphere's inner diameter; the slice
    nearest to the wanted z is taken.

    Args:
        image : (x, y, z) on `grid`.
        pixels : "parts", as the standard asks: a pixel that the edge crosses counts with the part of its area that is
            inside. Or "whole": pixels whose centre is inside count wholly, as in programs without partial pixels.
        search : mm; how far the region of a sphere may move along each axis, by whole voxels, to where its mean is
            largest (of a cold sphere: smallest). 0, the default, leaves it where the phantom is. Searching finds the
            noise as well as the sphere, and raises the contrast.

    Editions: of 2007 and 2012, 28 and 37 mm are cold and the others hot (8:1 and 4:1, or 4:1); of 2018, all are hot
    (4:1), and the lung residual is given for each slice. The measures are the same.

    Raises ValueError where the image does not fit the grid, a region or a slice is outside of it, or the background has
    no activity.

    Source: NEMA NU 2-2007, -2012 and -2018, section 7 (image quality); Daube-Witherspoon et al. 2002.
    """
    if pixels not in _PIXELS:
        raise ValueError(f"unknown pixels {pixels!r}; choose from {', '.join(_PIXELS)}")
    if not (math.isfinite(search) and search >= 0):
        raise ValueError(f"search must be mm and not negative, got {search}")
    volume = to_numpy(image)
    if volume.shape != grid.shape:
        raise ValueError(f"nema_image_quality: an image of shape {volume.shape} does not fit a grid of {grid.shape}")
    whole = pixels == "whole"
    slices = [_slice(volume, grid, z) for z in layout.slices]
    backgrounds = {
        diameter: _background(slices, grid, layout, diameter, whole)
        for diameter in np.unique(layout.diameters).tolist()
    }
    spheres = []
    for centre, diameter, ratio in zip(layout.centres, layout.diameters.tolist(), layout.ratios.tolist()):
        mean = _mean([_slice(volume, grid, centre[2])], grid, centre[:2], diameter, whole)[0]
        if search > 0:
            mean = _searched(volume, grid, centre, diameter, search, whole=whole, highest=ratio > 1)
        spheres.append(_sphere(mean, diameter, ratio, backgrounds[diameter]))
    if layout.lung_centre is None:
        return ImageQuality(tuple(spheres), None)
    level = backgrounds[max(backgrounds)].mean()
    lung = [float(100 * x / level) for x in _mean(slices, grid, layout.lung_centre, layout.lung_diameter, whole)]
    return ImageQuality(tuple(spheres), float(np.mean(lung)), tuple(lung))


def background_level(image: Array, grid: ImageGrid, layout: ImageQualityLayout) -> float:
    """Return the mean of the background regions of a layout, of the diameter of its largest sphere, in all slices."""
    volume = to_numpy(image)
    slices = [_slice(volume, grid, z) for z in layout.slices]
    return float(_background(slices, grid, layout, float(layout.diameters.max())).mean())


def _sphere(mean: float, diameter: float, ratio: float, background: np.ndarray) -> SphereQuality:
    level = float(background.mean())
    contrast = 100 * (mean / level - 1) / (ratio - 1)  # of a cold sphere: ratio 0
    return SphereQuality(diameter, ratio, contrast, float(100 * background.std(ddof=1) / level), mean, level)


def _searched(
    volume: np.ndarray,
    grid: ImageGrid,
    centre: np.ndarray,
    diameter: float,
    search: float,
    *,
    whole: bool,
    highest: bool,
) -> float:
    """Return the highest or the lowest mean of a disc that moves by whole voxels, where it stays in the image."""
    x, y, weight = _disc(grid, tuple(centre[:2]), diameter, whole)
    nx, ny, nz = (int(search / size + 1e-6) for size in grid.voxel_size)
    middle = round((centre[2] - grid.origin[2]) / grid.voxel_size[2])
    u = slice(max(0, x.start - nx), x.stop + nx)
    v = slice(max(0, y.start - ny), y.stop + ny)
    best = np.max if highest else np.min
    found = []
    for k in range(max(0, middle - nz), min(grid.shape[2], middle + nz + 1)):
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(volume[u, v, k], float), weight.shape)
        found.append(float(best(np.einsum("ijab,ab->ij", windows, weight))) / float(weight.sum()))
    return float(best(found))


def _background(
    slices: list[np.ndarray], grid: ImageGrid, layout: ImageQualityLayout, diameter: float, whole: bool = False
) -> np.ndarray:
    means = np.array([_mean(slices, grid, (x, y), diameter, whole) for x, y in layout.background_centres])
    if not means.mean() > 0:
        raise ValueError(f"the mean of the background regions is {means.mean():g}; is the phantom where the layout is?")
    return means.ravel()


def _slice(volume: np.ndarray, grid: ImageGrid, z: float) -> np.ndarray:
    """Return the slice (x, y) nearest to z."""
    k = round((z - grid.origin[2]) / grid.voxel_size[2])
    if not 0 <= k < grid.shape[2]:
        raise ValueError(f"no slice at z = {z:g} mm in {grid} around z = {grid.centre[2]:g} mm")
    return np.asarray(volume[:, :, k], float)


def _mean(
    slices: list[np.ndarray], grid: ImageGrid, centre: Sequence[float], diameter: float, whole: bool = False
) -> list[float]:
    """Return the mean in a disc of every slice."""
    x, y, weight = _disc(grid, centre, diameter, whole)
    means = [float((weight * image[x, y]).sum() / weight.sum()) for image in slices]
    if not np.isfinite(means).all():
        place = tuple(map(float, centre))
        raise ValueError(f"the region of {diameter:g} mm at {place} mm holds NaN or infinite values")
    return means


def _disc(
    grid: ImageGrid, centre: Sequence[float], diameter: float, whole: bool = False
) -> tuple[slice, slice, np.ndarray]:
    """Return the pixels a disc touches, and the part of each one's area that is inside.

    Chords are exact along y, and averaged over 64 columns of every pixel. `whole` pixels count by their centres.
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
    if whole:
        within = (np.hypot(x[:, None], y) <= radius + 1e-9).astype(float)
        if not within.any():
            raise ValueError(f"no pixel's centre of {grid} is in a disc of {diameter:g} mm; use pixels='parts'")
        return windows[0], windows[1], within
    columns = x[:, None] + dx * ((np.arange(_COLUMNS) + 0.5) / _COLUMNS - 0.5)
    chord = np.sqrt(np.maximum(radius**2 - columns**2, 0.0))[:, None]
    edges = y[:, None]
    inside = np.minimum(chord, edges + dy / 2) - np.maximum(-chord, edges - dy / 2)
    return windows[0], windows[1], np.maximum(inside, 0.0).mean(-1) / dy
