"""What is measured: bias and noise along a curve, the response to a point, and the contrast of spheres by size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from emrecon.projectors.core.arrays import like, to_numpy
from emrecon.recon import ensemble_statistics, response_widths

from ..methods import Method
from ..sections import Interval
from ..statistics import t_interval
from .repeating import masks_of, sizes_that_fit, with_truth

DIAMETERS = (8.0, 10.0, 13.0, 17.0, 22.0, 28.0, 37.0)
"""mm, of the spheres."""


@dataclass(frozen=True)
class Point:
    """An operating point: what a method does to many realisations.

    Args:
        at : the iteration, the setting's value or the level of counts.
        bias, noise : root mean square over the object's voxels of the mean's error and of the standard deviation, over
            the mean of the truth; the bias without the part that noise makes of it.
        regions : of each region the relative bias of its mean with its 95 % interval over realisations, as (value, low,
            high), and the standard deviation of its mean over the truth.
    """

    at: float
    bias: float
    noise: float
    regions: Mapping[str, Mapping[str, float]]

    def as_numbers(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


@dataclass(frozen=True)
class Curve:
    """The points of one method along iterations, a setting or counts."""

    along: str
    points: tuple[Point, ...]


def curve_of(along: str, shown: Iterable[tuple[float, Any]], case: Any) -> Curve:
    """Return the points of images of the same object: (value, images (n, x, y, z)) of a `repeated` case.

    Args:
        along : "iterations", the name of a setting, or "counts".
    """
    return Curve(along, tuple(point_of(value, images, case) for value, images in shown))


def point_of(at: float, images: Any, case: Any) -> Point:
    """Return bias and noise of images (n, x, y, z) of a `repeated` case."""
    host, truth, masks = np.asarray(to_numpy(images), float), np.asarray(case.truth[0], float), masks_of(case)
    inside = masks["object"]
    found = ensemble_statistics(host, truth)
    n, level = found.n_realisations, truth[inside].mean()
    variance = np.asarray(found.deviation)[inside] ** 2
    squared = np.mean((np.asarray(found.mean)[inside] - truth[inside]) ** 2 - variance / n)
    regions = {}
    for name, mask in masks.items():
        means = host[:, mask].mean(1) / truth[mask].mean()
        seen = t_interval(means - 1)
        regions[name] = {"bias": seen.value, "low": seen.low, "high": seen.high, "noise": float(means.std(ddof=1))}
    return Point(float(at), math.sqrt(max(squared, 0.0)) / level, math.sqrt(variance.mean()) / level, regions)


def point_responses(
    method: Method,
    case: Any,
    settings: Mapping[str, Any],
    iteration: int | None,
    *,
    n_places: int = 4,
    share: float = 0.1,
) -> list[dict[str, Any]]:
    """Return what a method makes of a point, at places of the object, from data without noise::

        l = (x(y + A e d) - x(y)) / d

    with e a voxel and d a `share` of the mean of the object: the local point response of any method, also of one that
    is not linear. Of each its place, the widths (mm) along x, y and z, its peak (the contrast of a voxel that is
    recovered) and its sum.

    Source: Fessler & Rogers 1996, eq. 5.
    """
    truth = np.asarray(case.truth[0])
    step = share * float(truth[truth > 0].mean())
    places = _places(truth > 0, n_places)
    truths = np.repeat(truth[None], len(places) + 1, 0)
    for image, place in zip(truths[1:], places):
        image[place] += step
    asked = with_truth(case, like(truths, case.truth))
    images = np.asarray(to_numpy(method.at(asked, iteration, **settings)), float)
    found = []
    for image, place in zip(images[1:], places):
        response = (image - images[0]) / step
        peak, widths = float(response[place]), (math.nan, math.nan, math.nan)
        if peak > 0:
            widths = tuple(response_widths(response, case.grid.voxel_size, place))  # type: ignore[assignment]
        known = [None if math.isnan(width) else width for width in widths]
        found.append({"voxel": list(place), "widths": known, "peak": peak, "sum": float(response.sum())})
    return found


def contrast_by_size(
    method: Method,
    case: Any,
    settings: Mapping[str, Any],
    iteration: int | None,
    *,
    n: int,
    contrast: float = 3.0,
    diameters: Sequence[float] = DIAMETERS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the contrast that spheres of several sizes recover, in the deepest place of the object's widest region.

    Each sphere lies there alone, 1 + `contrast` times as bright as what is around it, in n realisations; recovered is
    (mean in the sphere - mean of the same voxels without it) / what was put in, with its interval over realisations.
    Hot spheres; with a contrast of -1 they are cold.
    """
    truth, size = np.asarray(case.truth[0]), case.grid.voxel_size
    masks = {name: mask for name, mask in masks_of(case).items() if name != "object"} or masks_of(case)
    flat = truth.shape[2] == 1
    spacing = size[:2] if flat else size
    depth = {
        name: distance_transform_edt(mask[..., 0] if flat else mask, sampling=spacing) for name, mask in masks.items()
    }
    name = max(depth, key=lambda one: depth[one].max())
    at = np.unravel_index(int(depth[name].argmax()), depth[name].shape)
    centre = (*map(int, at), 0)[:3] if flat else tuple(map(int, at))
    level = float(truth[masks[name]].mean())
    axes = [np.arange(m) - c for m, c in zip(truth.shape, centre)]
    away = [(axis * d).reshape([-1 if i == k else 1 for i in range(3)]) for k, (axis, d) in enumerate(zip(axes, size))]
    r2 = away[0] ** 2 + away[1] ** 2 + (0 if flat else away[2] ** 2)
    used = sizes_that_fit(diameters, float(depth[name].max()))
    spheres = [np.broadcast_to(r2 <= (d / 2) ** 2, truth.shape) for d in used]
    if not spheres:
        return []
    truths = np.stack([truth, *(truth + contrast * level * sphere for sphere in spheres)])
    asked = with_truth(case, like(truths.astype(np.float32), case.truth), n, seed=seed)
    images = np.asarray(to_numpy(method.at(asked, iteration, **settings)), float).reshape(len(truths), n, *truth.shape)
    found = []
    for k, (diameter, sphere) in enumerate(zip(used, spheres), start=1):
        without = images[0][:, sphere].mean()
        recovered = t_interval((images[k][:, sphere].mean(1) - without) / (contrast * level))
        found.append({"diameter": diameter, "region": name, **_numbers(recovered)})
    return found


def _numbers(seen: Interval) -> dict[str, float]:
    return {"value": seen.value, "low": seen.low, "high": seen.high, "n": seen.n}


def _places(inside: np.ndarray, n: int) -> list[tuple[int, ...]]:
    """Voxels of the object at several depths: from its middle to its edge, in a plane."""
    plane = int(np.argmax(inside.sum((0, 1))))
    depth = distance_transform_edt(np.pad(inside[..., plane], 1))[1:-1, 1:-1]
    places, most = [], depth.max()
    for share in np.linspace(1.0, 0.25, n):
        error = np.where(depth > 0, abs(depth - share * most), np.inf)
        x, y = np.unravel_index(int(error.argmin()), error.shape)
        places.append((int(x), int(y), plane))
    return list(dict.fromkeys(places))
