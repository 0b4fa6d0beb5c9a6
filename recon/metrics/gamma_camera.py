"""How a gamma camera performs, as NEMA NU 1 measures it: uniformity of a flood, centre of rotation, loss of counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

_SMOOTH = np.outer((1, 2, 1), (1, 2, 1))


@dataclass(frozen=True, eq=False)
class Uniformity:
    """How uniform a field is, in per cent: 100 (max - min) / (max + min).

    Args:
        integral : over all pixels.
        differential_x, differential_y : the largest over any five neighbouring pixels of a row or a column.
        n_pixels : how many are in the field.
        pixels : (u, z) booleans, which.
    """

    integral: float
    differential_x: float
    differential_y: float
    n_pixels: int
    pixels: np.ndarray

    @property
    def differential(self) -> float:
        """The larger of the two differential uniformities."""
        return max(self.differential_x, self.differential_y)


def flood_uniformity(
    flood: ArrayLike, pixel_size: float | tuple[float, float], field: tuple[float, float] | None = None
) -> dict[str, Uniformity]:
    """Return the uniformity of a flood image in the useful and in the central field of view, "UFOV" and "CFOV".

    Args:
        flood : (u, z) counts, 10,000 or more in the central pixel; of SPECT projections, one view.
        pixel_size : mm, 6.4 +- 30 %; join smaller pixels first (`join_pixels`).
        field : (width, height) mm of the UFOV, centred; None takes 95 % of the extent of the image.

    Pixels whose centre lies in the UFOV are taken; those at its edge that have less than 75 % of the CFOV's mean, and
    then those beside one without counts, are left out. The rest is smoothed once with (1 2 1; 2 4 2; 1 2 1) / 16, where
    pixels left out have no weight. The CFOV has 75 % of the UFOV's width and height.

    Raises ValueError for pixels of another size, few counts, NaN, and fields without five pixels.

    Source: NEMA NU 1-2018, section 2 (intrinsic flood field uniformity).
    """
    counts = np.asarray(flood, float)
    size = np.broadcast_to(np.asarray(pixel_size, float), 2)
    if counts.ndim != 2 or not np.isfinite(counts).all() or counts.min() < 0:
        raise ValueError(f"flood_uniformity expects one image (u, z) of counts, got {counts.shape}")
    if np.any(np.abs(size / 6.4 - 1) > 0.3 + 1e-9):
        raise ValueError(f"pixels of {size[0]:g} x {size[1]:g} mm: NEMA asks for 6.4 mm +- 30 %; use join_pixels")
    centre = counts[counts.shape[0] // 2, counts.shape[1] // 2]
    if centre < 10_000:
        raise ValueError(f"the central pixel has {centre:g} counts, and NEMA asks for 10,000: noise would be measured")
    extent = np.array(counts.shape) * size
    useful = 0.95 * extent if field is None else np.asarray(field, float)
    if useful.shape != (2,) or np.any(useful <= 0) or np.any(useful > extent + 1e-6):
        raise ValueError(f"the field {field} mm must be positive and within the image of {extent[0]:g} x {extent[1]:g}")
    ufov, cfov = (_inside(counts.shape, size, part * useful) for part in (1.0, 0.75))
    ufov = _without_edges(counts, ufov, 0.75 * float(counts[cfov].mean()) if cfov.any() else 0.0)
    smooth = _smoothed(counts, ufov)
    return {"UFOV": _uniformity(smooth, ufov), "CFOV": _uniformity(smooth, ufov & cfov)}


def join_pixels(image: ArrayLike, pixel_size: float | tuple[float, float]) -> tuple[np.ndarray, tuple[float, float]]:
    """Return a flood image whose pixels are joined to come as close to 6.4 mm as whole numbers allow, and their size.

    Rows and columns that do not fill a pixel are left out, evenly at both ends.
    """
    counts = np.asarray(image, float)
    size = np.broadcast_to(np.asarray(pixel_size, float), 2)
    numbers = [max(1, round(6.4 / float(s))) for s in size]
    parts = []
    for n, joined in zip(counts.shape, numbers):
        left = n % joined
        parts.append(slice(left // 2, n - (left - left // 2)))
    counts = counts[parts[0], parts[1]]
    u, z = (n // joined for n, joined in zip(counts.shape, numbers))
    blocks = counts.reshape(u, numbers[0], z, numbers[1])
    return blocks.sum((1, 3)), (float(size[0] * numbers[0]), float(size[1] * numbers[1]))


@dataclass(frozen=True, eq=False)
class RotationCentre:
    """The centre of rotation from a point source, mm.

    Args:
        offset : where the rotation axis is seen along u, from the middle of the detector. A detector that is displaced
            by `SPECTGeometry.shift` sees it at minus that.
        radius, phase : of the source, mm and degrees.
        axial : mean position along z.
        deviations : (views,) measured minus fitted u.
        axial_spread : largest difference in z between views.
    """

    offset: float
    radius: float
    phase: float
    axial: float
    deviations: np.ndarray
    axial_spread: float


def centre_of_rotation(views: ArrayLike, angles: ArrayLike, pixel_size: float | tuple[float, float]) -> RotationCentre:
    """Return the centre of rotation from views of one point source, u = offset + r sin(angle + phase).

    Args:
        views : (views, u, z) counts.
        angles : degrees; pixel_size : mm.

    A view's position is the centre of gravity of the pixels above a fifth of its maximum.

    Raises ValueError for shapes that differ, fewer than 6 views, views without counts, and a source at the edge.

    Source: NEMA NU 1-2018, section 4 (centre of rotation).
    """
    counts, degrees = np.asarray(views, float), np.asarray(angles, float)
    if counts.ndim != 3 or degrees.shape != counts.shape[:1] or len(degrees) < 6:
        raise ValueError(f"6 or more views (views, u, z) with an angle each, got {counts.shape} and {degrees.shape}")
    top = counts.max((1, 2), keepdims=True)
    if not np.all(top > 0):
        raise ValueError("a view holds no counts; is the source in the field of view?")
    weight = np.where(counts > top / 5, counts, 0.0)
    rim = (weight[:, [0, -1]].any((1, 2))) | (weight[:, :, [0, -1]].any((1, 2)))
    if rim.any():
        raise ValueError(f"the source is cut by the edge of the detector in view {int(rim.argmax())}")
    du, dz = np.broadcast_to(np.asarray(pixel_size, float), 2)
    u, z = ((np.arange(n) - (n - 1) / 2) * d for n, d in zip(counts.shape[1:], (du, dz)))
    total = weight.sum((1, 2))
    at_u, at_z = (weight.sum(2) @ u) / total, (weight.sum(1) @ z) / total
    phi = np.radians(degrees)
    columns = np.stack([np.ones_like(phi), np.sin(phi), np.cos(phi)], 1)
    (offset, sine, cosine), *_ = np.linalg.lstsq(columns, at_u, rcond=None)
    fitted = columns @ (offset, sine, cosine)
    return RotationCentre(
        float(offset),
        math.hypot(sine, cosine),
        math.degrees(math.atan2(cosine, sine)),
        float(at_z.mean()),
        at_u - fitted,
        float(np.ptp(at_z)),
    )


def rate_at_loss(true: ArrayLike, observed: ArrayLike, loss: float = 0.2) -> tuple[float, float]:
    """Return the observed rate at which a part of the counts is lost (20 %), and the highest observed rate.

    Args:
        true : counts/s without losses, from the activity and the rate per activity where counts are few.
        observed : counts/s.
        loss : 1 - observed / true, interpolated.

    Raises ValueError where the loss is not reached, and shapes that differ.

    Source: NEMA NU 1-2018, section 2 (intrinsic count rate performance in air).
    """
    expected, seen = np.asarray(true, float), np.asarray(observed, float)
    if expected.shape != seen.shape or expected.ndim != 1 or len(seen) < 2 or not np.all(expected > 0):
        raise ValueError(f"rates must be of one shape (measurements,), got {expected.shape} and {seen.shape}")
    order = np.argsort(expected)
    lost = 1 - seen[order] / expected[order]
    above = np.flatnonzero(lost >= loss)
    if not above.size or above[0] == 0:
        raise ValueError(f"losses run from {100 * lost[0]:.3g} to {100 * lost[-1]:.3g} %, not over {100 * loss:g} %")
    k = int(above[0])
    part = (loss - lost[k - 1]) / (lost[k] - lost[k - 1])
    low, high = expected[order][k - 1 : k + 1]
    return float((1 - loss) * (low + part * (high - low))), float(seen.max())


def _inside(shape: tuple[int, ...], size: np.ndarray, field: np.ndarray) -> np.ndarray:
    u, z = (np.abs((np.arange(n) - (n - 1) / 2) * d) <= f / 2 + 1e-9 for n, d, f in zip(shape, size, field))
    return np.asarray(u[:, None] & z)


def _without_edges(counts: np.ndarray, field: np.ndarray, least: float) -> np.ndarray:
    """Leave out low pixels at the edge of a field, and then the neighbours of those without counts."""
    kept = field & ~(_edge(field) & (counts < least))
    empty = np.pad(np.where(kept, counts, 0.0) == 0, 1) & np.pad(field, 1)
    beside = empty[:-2, 1:-1] | empty[2:, 1:-1] | empty[1:-1, :-2] | empty[1:-1, 2:]
    return np.asarray(kept & ~beside & (counts > 0))


def _edge(field: np.ndarray) -> np.ndarray:
    padded = np.pad(field, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(field & ~inner)


def _smoothed(counts: np.ndarray, kept: np.ndarray) -> np.ndarray:
    from scipy.ndimage import convolve

    weight = convolve(kept.astype(float), _SMOOTH.astype(float), mode="constant")
    total = convolve(np.where(kept, counts, 0.0), _SMOOTH.astype(float), mode="constant")
    return np.where(kept, total / np.where(weight > 0, weight, 1.0), np.nan)


def _uniformity(smooth: np.ndarray, kept: np.ndarray) -> Uniformity:
    if kept.sum() < 5:
        raise ValueError(f"a field of {kept.sum()} pixels has no uniformity")
    values = np.where(kept, smooth, np.nan)
    high, low = float(np.nanmax(values)), float(np.nanmin(values))
    along_x, along_y = (_differential(np.moveaxis(values, axis, 0)) for axis in (0, 1))
    return Uniformity(100 * (high - low) / (high + low), along_x, along_y, int(kept.sum()), kept)


def _differential(values: np.ndarray) -> float:
    """Return the largest contrast in any five neighbouring pixels along the first axis, none of them left out."""
    if len(values) < 5:
        raise ValueError(f"a field of {len(values)} pixels has no five neighbours")
    windows = np.lib.stride_tricks.sliding_window_view(values, 5, axis=0)
    whole = windows[np.isfinite(windows).all(-1)]
    if not whole.size:
        raise ValueError("no five neighbouring pixels are in the field")
    high, low = whole.max(-1), whole.min(-1)
    return float((100 * (high - low) / (high + low)).max())
