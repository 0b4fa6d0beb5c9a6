"""Channels: the few weighted sums of an image by which a model observer sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import special

from emrecon.projectors.core.arrays import Array, as_real, is_torch, like, require_array, to_numpy

Size = float | Sequence[float]

_AT_ONCE = 2**23  # values converted to float64 at one time
_DENSITIES = {"sparse": (3, 0.015, 2.0, 2.0), "dense": (10, 0.005, 1.4, 1.67)}  # channels, sigma 1, alpha, Q


class _Places(NamedTuple):
    """Where the voxels are: offsets from the centre, (axes, P) in the unit of the voxel size, and a voxel's volume."""

    offsets: np.ndarray
    volume: float

    @property
    def squared(self) -> np.ndarray:
        squares: np.ndarray = (self.offsets**2).sum(0)
        return squares

    @property
    def n_axes(self) -> int:
        return len(self.offsets)


def laguerre_gauss_channels(
    shape: Sequence[int], width: float, n: int = 5, *, voxel_size: Size = 1.0, centre: Sequence[float] | None = None
) -> np.ndarray:
    """Return Laguerre-Gauss channels (P, n), for signals that look the same from all sides at a known place.

    With r the distance from the centre, a the width, and x = 2 pi r^2 / a^2::

        images    u_j(r) = sqrt(2) / a exp(-x / 2) L_j(x),                 j = 0 ... n - 1
        volumes   u_j(r) = c_j exp(-x / 2) L_j^(1/2)(x),
                  c_j^2 = j! / (Gamma(j + 3/2) 2 pi (a / sqrt(2 pi))^3)

    times the square root of the voxel's area or volume: the columns are orthonormal as far as the image holds them and
    its voxels resolve them.

    Args:
        shape : of the image, two axes or three; P is its number of voxels, in C order. An axis of one voxel is none.
        width : a, in the unit of `voxel_size`. The first channel is a Gaussian of standard deviation
            a / sqrt(2 pi) = 0.4 a.
        voxel_size : one number, or one for each axis: 1 measures in voxels, the size in mm in mm.
        centre : in voxels, counted from 0; default: the middle of the image, (size - 1) / 2.

    Raises ValueError for shapes and numbers without a meaning.

    Source: Gallas & Barrett 2003 (images); the same family in three dimensions for volumes.
    """
    places = _places(shape, voxel_size, centre)
    _require(n >= 1 and width > 0, f"laguerre_gauss_channels needs n >= 1 and a positive width, got {n} and {width}")
    x = 2 * math.pi * places.squared / width**2
    half = places.n_axes / 2
    order = half - 1  # 0 for images, 1/2 for volumes
    solid = math.pi**half / math.gamma(half) * (width / math.sqrt(2 * math.pi)) ** places.n_axes
    columns = []
    for j in range(n):
        norm = math.exp(math.lgamma(j + 1) - math.lgamma(j + order + 1)) / solid
        columns.append(math.sqrt(norm * places.volume) * np.exp(-x / 2) * special.eval_genlaguerre(j, order, x))
    return np.stack(columns, axis=1)


def square_channels(
    shape: Sequence[int],
    lowest: float = 1 / 64,
    n: int = 4,
    *,
    voxel_size: Size = 1.0,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """Return rotationally symmetric square channels (P, n): the bands of frequencies, each an octave wide.

    In frequency a channel is 1 for ``lowest 2^(c-1) <= |f| < lowest 2^c`` and 0 elsewhere; in space it is the
    difference of the transforms of two discs (of two balls in volumes) of radius f::

        images    f J_1(2 pi f r) / r
        volumes   (sin(2 pi f r) - 2 pi f r cos(2 pi f r)) / (2 pi^2 r^3)

    sampled at the voxels and scaled to unit norm.

    Args:
        shape, voxel_size, centre : as for `laguerre_gauss_channels`.
        lowest : lower edge of the first band, in cycles per voxel, or per mm with the voxel size in mm.
        n : number of bands. The default ends at 1/4 cycle per voxel.

    Raises ValueError for shapes and numbers without a meaning, and where the last band ends above half a cycle per
    voxel, which voxels cannot show.

    Source: Myers & Barrett 1987; octave bands as in Gilland et al. 2004.
    """
    places = _places(shape, voxel_size, centre)
    _require(n >= 1 and lowest > 0, f"square_channels needs n >= 1 and lowest > 0, got {n} and {lowest}")
    edges = lowest * 2.0 ** np.arange(n + 1)
    _require_visible(edges[-1], _sizes(shape, voxel_size), "square_channels: the last band ends at")
    r = np.sqrt(places.squared)
    discs = [_disc(frequency, r, places.n_axes) for frequency in edges]
    return _unit([above - below for below, above in pairwise(discs)])


def gabor_channels(
    shape: Sequence[int],
    lowest: float = 1 / 64,
    n: int = 4,
    *,
    orientations: int | Sequence[Sequence[float]] = 5,
    phases: Sequence[float] = (0.0, 90.0),
    voxel_size: Size = 1.0,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """Return Gabor channels (P, n * orientations * phases): octave bands that tell directions apart.

    With d the offset from the centre, e a direction, b a phase, and the band from f_1 to 2 f_1::

        u(d) = exp(-4 ln 2 |d|^2 / w^2) cos(2 pi f e . d + b),   f = 3/2 f_1,   w = 4 ln 2 / (pi f_1)

    scaled to unit norm: the amplitude is half of its peak at the edges of the band. Order of the columns: bands, then
    directions, then phases.

    Args:
        shape, voxel_size, centre : as for `laguerre_gauss_channels`.
        lowest, n : lower edge of the first band, and their number, as for `square_channels`.
        orientations : the number of directions: in images at the angles 180 k / number degrees from the first axis, in
            volumes spread over half of a sphere. Or the directions themselves, (directions, axes).
        phases : degrees; 0 and 90 see even and odd signals.

    Raises ValueError as `square_channels` does, and for directions of length zero.

    Source: Eckstein et al. 1998; Wunderlich & Noo 2008 (bands and phases).
    """
    places = _places(shape, voxel_size, centre)
    _require(n >= 1 and lowest > 0, f"gabor_channels needs n >= 1 and lowest > 0, got {n} and {lowest}")
    _require(len(phases) >= 1, "gabor_channels needs a phase or more")
    edges = lowest * 2.0 ** np.arange(n + 1)
    _require_visible(edges[-1], _sizes(shape, voxel_size), "gabor_channels: the last band ends at")
    columns = []
    for edge in edges[:-1]:
        w = 4 * math.log(2) / (math.pi * edge)
        envelope = np.exp(-4 * math.log(2) * places.squared / w**2)
        for direction in _directions(orientations, places.n_axes):
            turns = 2 * math.pi * 1.5 * edge * (direction @ places.offsets)
            columns += [envelope * np.cos(turns + math.radians(phase)) for phase in phases]
    return _unit(columns)


def difference_of_gaussians(
    shape: Sequence[int], density: str = "dense", *, voxel_size: Size = 1.0, centre: Sequence[float] | None = None
) -> np.ndarray:
    """Return difference-of-Gaussians channels (P, 3 or 10), as the human eye has them.

    In frequency, with s_j = s_1 alpha^(j-1)::

        C_j(f) = exp(-1/2 (f / (Q s_j))^2) - exp(-1/2 (f / s_j)^2)

        density    channels    s_1 (cycles per voxel)    alpha    Q
        sparse     3           0.015                     2        2
        dense      10          0.005                     1.4      1.67

    and in space the difference of (2 pi)^(D/2) s^D exp(-2 pi^2 s^2 r^2) in D dimensions, scaled to unit norm.

    Args:
        shape, centre : as for `laguerre_gauss_channels`.
        density : "sparse" or "dense".
        voxel_size : one number, or one for each axis, in any unit: frequencies are in cycles per voxel of the first
            axis.

    Raises ValueError for another density and for shapes and numbers without a meaning.

    Source: Abbey & Barrett 2001, section 4 (the S-DOG and D-DOG channels).
    """
    if density not in _DENSITIES:
        raise ValueError(f"unknown density {density!r}; choose from {', '.join(_DENSITIES)}")
    sizes = _sizes(shape, voxel_size)
    places = _places(shape, [size / sizes[0] for size in sizes], _without_flat_axes(shape, centre), flat=False)
    n, first, alpha, Q = _DENSITIES[density]

    def gaussian(s: float) -> np.ndarray:
        values: np.ndarray = s**places.n_axes * np.exp(-2 * math.pi**2 * s**2 * places.squared)
        return values

    return _unit([gaussian(Q * s) - gaussian(s) for s in first * alpha ** np.arange(n)])


def slice_channels(channels: np.ndarray, n_slices: int) -> np.ndarray:
    """Return channels of images (P, C) as those of volumes that apply them in every slice, (P n_slices, C n_slices).

    The volume has axes (x, y, z) in C order, slices along z; column c * n_slices + k is channel c in slice k. A
    Hotelling observer on these takes all slices together; `MultiSliceHotelling` has the other ways.

    Raises ValueError for anything but a matrix and for less than one slice.
    """
    matrix = channel_matrix(channels)
    _require(n_slices >= 1, f"slice_channels needs one slice or more, got {n_slices}")
    return np.kron(matrix, np.eye(n_slices))


def channel_outputs(images: Array, channels: np.ndarray | Array | None) -> Array:
    """Return what channels make of images, v = U'g.

    Args:
        images : (N, ...) with P voxels each: NumPy, CuPy or torch.
        channels : (P, C), or None for the voxels themselves.

    Returns (N, C): float64 in NumPy, of the images' library, device and precision else. Gradients of tensors pass.

    Raises ValueError where the images have another number of voxels than the channels.
    """
    require_array(images, "channel_outputs")
    _require(
        images.ndim >= 2, f"channel_outputs expects images (N, ...), got shape {tuple(images.shape)}; add an axis?"
    )
    n, n_voxels = images.shape[0], math.prod(images.shape[1:])
    if channels is not None and channels.shape[0] != n_voxels:
        raise ValueError(
            f"images of shape {tuple(images.shape[1:])} have {n_voxels} voxels, the channels {channels.shape[0]}; "
            "were they made for another size?"
        )
    if is_torch(images) or not isinstance(images, np.ndarray):
        flat = as_real(images).reshape((n, n_voxels))
        return flat if channels is None else flat @ like(channels, flat)
    return _on_host(images.reshape(n, n_voxels), channels)


def outputs_on_host(images: Array | Sequence[Array], channels: np.ndarray | None, who: str) -> np.ndarray:
    """Return channel outputs (N, C) as float64 on the host, after the checks that observers share.

    Raises ValueError for images with NaN or infinite values, and as `channel_outputs` does.
    """
    values: np.ndarray = to_numpy(images) if hasattr(images, "shape") else np.stack([to_numpy(one) for one in images])
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{who}: images must be arrays of real numbers, got dtype {values.dtype}")
    if values.ndim < 2:
        raise ValueError(f"{who}: expected images (N, ...), got shape {values.shape}; for one image add an axis first")
    outputs = to_numpy(channel_outputs(values, channels))
    if not np.isfinite(outputs).all():
        bad = np.flatnonzero(~np.isfinite(outputs).all(-1))
        raise ValueError(
            f"{who}: {len(bad)} of {len(outputs)} images hold NaN or infinite values, the first is number {bad[0]}"
        )
    return outputs


def channel_matrix(channels: np.ndarray | Array) -> np.ndarray:
    """Return channels as a float64 matrix (P, C) on the host.

    Raises ValueError for another shape, NaN, and channels that are zero everywhere.
    """
    matrix = np.asarray(to_numpy(channels), float)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"channels must be a matrix (voxels, channels), got shape {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("channels hold NaN or infinite values")
    empty = np.flatnonzero(~matrix.any(0))
    if len(empty):
        raise ValueError(f"channels {', '.join(map(str, empty))} are zero everywhere")
    return matrix


def _on_host(flat: np.ndarray, channels: np.ndarray | Array | None) -> np.ndarray:
    if channels is None:
        return flat.astype(float)
    matrix = np.asarray(to_numpy(channels), float)
    outputs = np.empty((len(flat), matrix.shape[1]))
    step = max(1, _AT_ONCE // max(1, flat.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is reported by those who ask
        for start in range(0, len(flat), step):
            outputs[start : start + step] = flat[start : start + step].astype(float, copy=False) @ matrix
    return outputs


def _sizes(shape: Sequence[int], voxel_size: Size) -> list[float]:
    """The voxel sizes of the axes that have more than one voxel, after a check of the shape."""
    if not hasattr(shape, "__len__") or len(shape) not in (2, 3) or not all(int(n) == n and n >= 1 for n in shape):
        raise ValueError(f"channels: shape must be two or three positive whole numbers, got {shape}")
    given = np.asarray(voxel_size, float)
    sizes = np.broadcast_to(given, len(shape)) if given.shape in ((), (len(shape),)) else None
    if sizes is None or not (np.isfinite(sizes).all() and np.all(sizes > 0)):
        raise ValueError(f"channels: voxel sizes must be positive, one or one for each axis, got {voxel_size}")
    return [float(size) for size, n in zip(sizes, shape) if n > 1]


def _without_flat_axes(shape: Sequence[int], centre: Sequence[float] | None) -> Sequence[float] | None:
    if centre is None:
        return None
    _require(len(centre) == len(shape), f"channels: a centre has one number for each axis of {tuple(shape)}")
    return [c for c, n in zip(centre, shape) if n > 1]


def _places(shape: Sequence[int], voxel_size: Size, centre: Sequence[float] | None, *, flat: bool = True) -> _Places:
    """The places of voxels; `flat` says that the centre and voxel sizes have the axes of one voxel, too."""
    if flat:
        voxel_size, centre = _sizes(shape, voxel_size), _without_flat_axes(shape, centre)
    kept = [int(n) for n in shape if n > 1]
    _require(len(kept) >= 2, f"channels: a shape of {tuple(shape)} is no image; two axes need more than one voxel")
    middle = [(n - 1) / 2 for n in kept] if centre is None else [float(c) for c in centre]
    _require(bool(np.isfinite(middle).all()), f"channels: the centre must be finite, got {centre}")
    sizes = [float(size) for size in np.broadcast_to(np.asarray(voxel_size, float), len(kept))]
    axes = [size * (np.arange(n) - c) for n, c, size in zip(kept, middle, sizes)]
    offsets = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")])
    return _Places(offsets, math.prod(sizes))


def _disc(frequency: float, r: np.ndarray, n_axes: int) -> np.ndarray:
    """The transform of a disc or ball of frequencies, with its limit at r = 0."""
    t = 2 * math.pi * frequency * r
    safe = np.where(t > 1e-4, t, 1.0)
    if n_axes == 2:
        return np.asarray(2 * math.pi * frequency**2 * np.where(t > 1e-4, special.j1(safe) / safe, 0.5 - t**2 / 16))
    shape = np.where(t > 1e-4, (np.sin(safe) - safe * np.cos(safe)) / safe**3, 1 / 3 - t**2 / 30)
    return np.asarray(4 * math.pi * frequency**3 * shape)


def _directions(orientations: int | Sequence[Sequence[float]], n_axes: int) -> Iterator[np.ndarray]:
    if isinstance(orientations, (int, np.integer)):
        _require(orientations >= 1, f"gabor_channels needs one orientation or more, got {orientations}")
        k = np.arange(int(orientations))
        if n_axes == 2:
            angles = math.pi * k / orientations
            yield from np.stack([np.cos(angles), np.sin(angles)], 1)
            return
        z = 1 - (k + 0.5) / orientations  # equal areas of the upper half, turned by the golden angle
        turns = math.pi * (3 - math.sqrt(5)) * k
        yield from np.stack([np.sqrt(1 - z**2) * np.cos(turns), np.sqrt(1 - z**2) * np.sin(turns), z], 1)
        return
    vectors = np.asarray(orientations, float)
    lengths = np.linalg.norm(vectors, axis=-1) if vectors.ndim == 2 else np.zeros(1)
    if vectors.ndim != 2 or vectors.shape[1] != n_axes or not np.all(lengths > 0) or not np.isfinite(lengths).all():
        raise ValueError(f"gabor_channels: orientations must be (directions, {n_axes}) and not zero")
    yield from vectors / lengths[:, None]


def _unit(columns: Sequence[np.ndarray]) -> np.ndarray:
    matrix = np.stack(columns, axis=1)
    norms = np.linalg.norm(matrix, axis=0)
    flat = np.flatnonzero(~(norms > 0))
    _require(not len(flat), f"channels {', '.join(map(str, flat))} are zero at every voxel; is the centre far outside?")
    return np.asarray(matrix / norms)


def _require_visible(highest: float, sizes: Sequence[float], what: str) -> None:
    limit = 0.5 / max(sizes)
    _require(highest <= limit * (1 + 1e-9), f"{what} {highest:g} cycles, but voxels show up to {limit:g}; fewer bands?")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
