"""Kernel EM: images that are mixtures of their similar neighbours, x = K alpha, and the EM algorithm for alpha."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from emrecon.projectors import Diagonal, ImageGrid, LinearOperator
from emrecon.projectors.core.arrays import (
    Array,
    PlanCache,
    array_namespace,
    as_real,
    device,
    divide_where,
    from_host,
    is_cuda,
    is_numpy,
    is_torch,
    like,
    read_only,
    require_array,
    require_constant,
    to_host,
    to_numpy,
)
from emrecon.projectors.core.memory import require_memory
from emrecon.projectors.core.operator import BatchOperator
from emrecon.projectors.core.progress import stage
from emrecon.projectors.core.threads import share, thread_count

from . import row_kernels

Shape = tuple[int, ...]

Window = int | tuple[int, int, int]

_TIE = 1e-3  # of a feature's width across the image: among equal features, the tree finds the nearest voxels


class Rows(NamedTuple):
    """A sparse matrix by rows: row r has the entries start[r] to start[r + 1], each a column and its weight."""

    start: np.ndarray
    column: np.ndarray
    weight: np.ndarray


class KernelOperator(BatchOperator):
    """A sparse matrix that mixes voxels, x = K alpha, whose rows are not negative and sum to one.

    Args:
        matrix : (voxels, voxels), any SciPy sparse matrix; `kernel_matrix` makes one from images.
        shape : of the image, (x, y, z).

    A matrix whose rows sum to one is not symmetric, also where similarity is: K' is the true transpose, kept by its own
    rows, so that both directions gather. Weights are float32 unless the matrix is float64.
    Runs on NumPy arrays and CPU tensors (numba, all threads) and on CuPy arrays and CUDA tensors (by the array library,
    one pass for every entry of the longest row). Results repeat bit for bit, for any number of threads.

    Raises ValueError for another size, negative or non-finite weights, and rows that do not sum to one.

    Source: Wang & Qi 2015, IEEE Trans Med Imaging 34:61.
    """

    def __init__(self, matrix: csr_array | np.ndarray, shape: Shape) -> None:
        self.in_shape = self.out_shape = tuple(int(n) for n in shape)
        n, rows = math.prod(self.in_shape), csr_array(matrix)
        if rows.shape != (n, n):
            raise ValueError(f"{self!r} needs a matrix {(n, n)}, got {rows.shape}")
        if n >= 2**31:
            raise ValueError(f"{self!r}: voxels are numbered in 32 bits, and {n} are too many")
        weight = rows.data if rows.dtype == np.float64 else rows.data.astype(np.float32, copy=False)
        if not (np.isfinite(weight).all() and (weight >= 0).all()):
            raise ValueError(f"{self!r} needs weights that are finite and not negative")
        sums = rows.sum(1, dtype=np.float64)
        if np.abs(sums - 1).max() > 1e-4:
            raise ValueError(
                f"{self!r} needs rows that sum to one, they sum to {sums.min():.4g} to {sums.max():.4g}; "
                "divide each row by its sum"
            )
        self._rows = _read_only(Rows(rows.indptr, rows.indices, weight))
        self._plans = {"forward": PlanCache(), "transpose": PlanCache()}

    @property
    def matrix(self) -> csr_array:
        """K as a `scipy.sparse.csr_array`, (voxels, voxels)."""
        start, index, weight = self._rows
        n = math.prod(self.in_shape)
        return csr_array((weight, index, start), shape=(n, n))

    @property
    def n_neighbours(self) -> np.ndarray:
        """How many voxels each voxel mixes, itself included, of the shape of the image."""
        return np.diff(self._rows.start).reshape(self.in_shape)

    @property
    def nbytes(self) -> int:
        """The bytes that K and its transpose take, once on the host and once on every device they are used on."""
        return 2 * sum(values.nbytes for values in self._rows)

    @cached_property
    def _columns(self) -> Rows:
        """The rows of the transpose."""
        columns = self.matrix.tocsc()
        return _read_only(Rows(columns.indptr, columns.indices, columns.data))

    def _forward_batch(self, x: Array) -> Array:
        if _on_host(x):
            return self._gather(self._rows, x)
        return _gather_jagged(self._plans["forward"].get(x, lambda: _jagged(self._rows, x)), x)

    def _adjoint_batch(self, y: Array) -> Array:
        if _on_host(y):
            return self._gather(self._columns, y)
        return _gather_jagged(self._plans["transpose"].get(y, lambda: _jagged(self._columns, y)), y)

    def _gather(self, rows: Rows, x: Array) -> Array:
        lanes = read_only(np.ascontiguousarray(to_host(x, self).reshape(x.shape[0], -1).T))
        out = np.empty(lanes.shape, lanes.dtype)
        share(lambda t, n: row_kernels.gather(*rows, lanes, t, n, out), -(-out.shape[0] // row_kernels.BLOCK))
        return from_host(np.ascontiguousarray(out.T).reshape(tuple(x.shape)), x)

    def __str__(self) -> str:
        count = self.n_neighbours
        return "\n".join(
            [
                repr(self),
                f"  neighbours   {count.mean():.1f} per voxel on average, {count.max()} at most",
                f"  memory       {self.nbytes / 1e6:.4g} MB with the transpose, {self._rows.weight.dtype} weights",
                f"  kernels      numba on {thread_count()} threads; the array library for CuPy and CUDA tensors",
            ]
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_columns"}


class SpatioTemporalKernel(BatchOperator):
    """A kernel for all frames of a dynamic scan, K = K_t (x) K_s: x[f] = sum over g of K_t[f, g] K_s alpha[g].

    Args:
        temporal : K_t, (frames, frames), not negative, rows that sum to one; for instance `temporal_kernel(...)`.
        spatial : K_s, an operator from images to images; where its rows sum to one, those of the product do too.

    Acts on (..., frames, x, y, z), and keeps no matrix of the product.

    Raises ValueError for a temporal matrix that is not square, negative, or whose rows do not sum to one.

    Source: Wang 2019, IEEE Trans Med Imaging 38:664.
    """

    def __init__(self, temporal: Array, spatial: LinearOperator) -> None:
        require_array(temporal, "SpatioTemporalKernel temporal")
        require_constant(temporal, "SpatioTemporalKernel temporal")
        matrix = np.asarray(to_numpy(temporal), float)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"SpatioTemporalKernel temporal must be (frames, frames), got {matrix.shape}")
        if not ((matrix >= 0).all() and np.allclose(matrix.sum(1), 1, atol=1e-4)):
            raise ValueError("SpatioTemporalKernel temporal must not be negative, and its rows must sum to one")
        if spatial.in_shape != spatial.out_shape:
            raise ValueError(f"SpatioTemporalKernel needs a spatial kernel from images to images, got {spatial!r}")
        self.temporal, self.spatial = matrix, spatial
        self.in_shape = self.out_shape = (matrix.shape[0], *spatial.in_shape)
        self._plans = PlanCache()

    def _forward_batch(self, x: Array) -> Array:
        return self._apply_both(x, self.spatial._forward_batch, self._temporal_like(x))

    def _adjoint_batch(self, y: Array) -> Array:
        return self._apply_both(y, self.spatial._adjoint_batch, self._temporal_like(y).T)

    def _apply_both(self, x: Array, spatial: Callable[[Array], Array], temporal: Array) -> Array:
        xp, shape = array_namespace(x), tuple(x.shape)
        frames = spatial(xp.reshape(x, (-1, *self.spatial.in_shape)))
        return xp.reshape(xp.matmul(temporal, xp.reshape(frames, (*shape[:2], -1))), shape)

    def _temporal_like(self, x: Array) -> Array:
        return self._plans.get(x, lambda: like(self.temporal, x))

    def __str__(self) -> str:
        return f"{self!r}\n  {self.in_shape[0]} frames, each with\n{self.spatial}"


def kernel_matrix(
    features: Array | Sequence[Array],
    grid: ImageGrid | None = None,
    *,
    n_neighbours: int = 48,
    window: Window | None = 7,
    sigma: float | Sequence[float] | np.ndarray = 1.0,
    spatial_sigma: float | None = None,
    patch: int = 1,
    mask: Array | None = None,
) -> KernelOperator:
    """Return the kernel of an image's similar neighbours, a `KernelOperator`::

        K[i, j] = k(i, j) / sum over the neighbours l of k(i, l)
        k(i, j) = exp(-sum over features (f_i - f_j)^2 / (2 sigma^2 std(f)^2) - |r_i - r_j|^2 / (2 spatial_sigma^2))

    Args:
        features : the guide, (x, y, z), or several, (F, x, y, z) or a list: MR, CT, or composite frames of the dynamic
            scan (images of a few long frames). All on the grid of the reconstruction.
        grid : for the voxel size; without it voxels are cubes of edge 1.
        n_neighbours : how many voxels, itself included, a voxel mixes: those of the largest k, and of equal ones the
            nearest. Fewer where the window or the mask holds fewer.
        window : edges of the box around the voxel in which neighbours are searched, in voxels, odd: one number or
            three. None for the whole image: the nearest in the space of the features, by a tree. (With spatial_sigma
            the coordinates are further features.)
        sigma : the width of the Gaussian in standard deviations of a feature; one number, or one for each feature.
        spatial_sigma : mm (voxels without a grid); None for no weight by distance.
        patch : compares patches of this edge around the voxels instead of their values alone, odd; the squared
            difference is the mean over the patch, so that sigma need not be changed. The image's border is repeated.
        mask : booleans (x, y, z). A voxel outside has itself as its only neighbour. std(f) is that inside.

    Memory is `KernelOperator.nbytes`, 16 bytes for each voxel inside and neighbour.

    Raises ValueError for shapes that do not fit, features that are constant or not finite, widths that are not
    positive, windows and patches that are not odd; MemoryError where the kernel is larger than the memory that is free.

    Source: Wang & Qi 2015, IEEE Trans Med Imaging 34:61 (composite frames, 48 neighbours, sigma 1); Hutchcroft et al.
    2016, Phys Med Biol 61:6668 (features from anatomical images, windows and patches).
    """
    guides = _guides(features)
    shape = guides.shape[1:]
    inside = _inside(mask, shape)
    if n_neighbours < 1:
        raise ValueError(f"kernel_matrix n_neighbours must be at least 1, got {n_neighbours}")
    size = np.ones(3) if grid is None else np.array(grid.voxel_size)
    if grid is not None and grid.shape != shape:
        raise ValueError(f"kernel_matrix features are images of {shape}, the grid's are {grid.shape}")
    scaled = _scaled_features(guides, inside, sigma, patch)
    per_mm = 0.0 if spatial_sigma is None else 1 / _positive(spatial_sigma, "spatial_sigma")
    with stage("kernel matrix"):
        if window is None:
            rows = _tree_rows(scaled, inside, size, per_mm, n_neighbours)
        else:
            rows = _window_rows(scaled, inside, size, per_mm, n_neighbours, _odd(window, "window"))
    n = inside.size
    return KernelOperator(csr_array((rows.weight, rows.column, rows.start), shape=(n, n)), shape)


def hybrid_kernel(kernel: KernelOperator, image: Array, sigma: float = 1.0, patch: int = 1) -> KernelOperator:
    """Return a kernel times a Gaussian of an image's differences, on the same neighbours, rows scaled to one again::

        K[i, j] proportional to kernel[i, j] exp(-(x_i - x_j)^2 / (2 sigma^2 std(x)^2))

    Args:
        image : the current reconstruction (x, y, z), so that what the guide does not show is not smoothed away; std(x)
            is that of the voxels that have neighbours.
        patch : as in `kernel_matrix`.

    Made anew at some iterations of `kem`, which goes on from its coefficients with the new kernel.

    Raises ValueError for an image that does not fit, is not finite, or is constant.

    Source: Deidda et al. 2019, Inverse Problems 35:044001.
    """
    guides = _guides(image)
    if guides.shape != (1, *kernel.in_shape):
        raise ValueError(f"hybrid_kernel: an image of shape {tuple(image.shape)} does not fit {kernel!r}")
    features = _scaled_features(guides, kernel.n_neighbours > 1, sigma, patch)
    start, index, weight = kernel._rows
    out = np.empty_like(weight)
    blocks = -(-features.shape[0] // row_kernels.BLOCK)
    share(lambda t, n: row_kernels.reweigh(start, index, weight, read_only(features), t, n, out), blocks)
    return KernelOperator(csr_array((out, index, start), shape=2 * (features.shape[0],)), kernel.in_shape)


def hypr_kernel(composite: Array, blur: LinearOperator) -> LinearOperator:
    """Return the HYPR kernel x = c F alpha / (F c): detail comes from the composite image, level from alpha.

    Args:
        composite : c, (x, y, z) >= 0, an image of all frames together.
        blur : F, such as a `GaussianBlur` of the grid.

    K = diag(c / (F c)) F, so K c = c, whereas rows sum to (F 1) c / (F c), which is one only where c is flat. It is
    the relative image that has a kernel with rows of sum one: x / c = [diag(1 / (F c)) F diag(c)] (alpha / c), and EM
    is the same for alpha and for alpha / c.
    Voxels where the composite is 0 stay 0.

    Raises ValueError for a composite that is negative, not finite or of another shape.

    Source: Johnson et al. 2008, Magn Reson Med 59:456 (HYPR-LR); Cheng et al. 2021, Med Phys 48:2230 (as a kernel).
    """
    require_array(composite, "hypr_kernel composite")
    c = as_real(composite)
    host = to_numpy(c)
    if tuple(c.shape) != blur.in_shape or blur.in_shape != blur.out_shape:
        raise ValueError(f"hypr_kernel: a composite of shape {tuple(c.shape)} does not fit {blur!r}")
    if not (np.isfinite(host).all() and host.min() >= 0):
        raise ValueError("hypr_kernel composite must be finite and not negative everywhere")
    return Diagonal(divide_where(c, blur(c), 0.0)) @ blur


def temporal_kernel(features: Array | Sequence[Array], sigma: float, n_neighbours: int | None = None) -> np.ndarray:
    """Return a kernel of the frames for `SpatioTemporalKernel`, (frames, frames), float64, rows of sum one::

        K_t[f, g] proportional to exp(-|t_f - t_g|^2 / (2 sigma^2))

    Args:
        features : (frames,) such as the frames' mid-times in seconds, or (frames, n) such as their counts in a few
            bins.
        sigma : in the unit of the features.
        n_neighbours : how many frames, itself included, a frame mixes, those nearest to it; None for all.

    Raises ValueError for features that are not finite, a sigma that is not positive, and no neighbours.

    Source: Wang 2019, IEEE Trans Med Imaging 38:664.
    """
    require_constant(features, "temporal_kernel features")
    t = np.asarray(to_numpy(features), float)
    if t.ndim not in (1, 2) or t.size == 0 or not np.isfinite(t).all():
        raise ValueError(f"temporal_kernel features must be finite, (frames,) or (frames, n), got shape {t.shape}")
    t = t.reshape(t.shape[0], -1)
    most = t.shape[0] if n_neighbours is None else n_neighbours
    if most < 1:
        raise ValueError(f"temporal_kernel n_neighbours must be at least 1, got {n_neighbours}")
    square = ((t[:, None] - t[None]) ** 2).sum(2)
    order = np.argsort(square - 1.0 * np.eye(len(t)), axis=1, kind="stable")[:, :most]  # itself comes first
    near = np.zeros(square.shape, bool)
    np.put_along_axis(near, order, True, 1)
    weight = near * np.exp(-square / (2 * _positive(sigma, "sigma") ** 2))
    kernel: np.ndarray = weight / weight.sum(1, keepdims=True)
    return kernel


def _guides(features: Array | Sequence[Array]) -> np.ndarray:
    """The features as (F, x, y, z)."""
    listed = features if isinstance(features, (list, tuple)) else [features]
    for feature in listed:
        require_array(feature, "kernel features")
        require_constant(feature, "kernel features")
    values = np.stack([np.asarray(to_numpy(feature), np.float64) for feature in listed])
    values = values[0] if values.ndim == 5 and not isinstance(features, (list, tuple)) else values
    if values.ndim != 4 or values.size == 0:
        raise ValueError(f"kernel features must be (x, y, z), (F, x, y, z) or a list of images, got {values.shape[1:]}")
    if not np.isfinite(values).all():
        raise ValueError("kernel features hold NaN or infinite values")
    return values


def _inside(mask: Array | None, shape: Shape) -> np.ndarray:
    inside = np.ones(shape, bool) if mask is None else np.ascontiguousarray(to_numpy(mask) > 0)
    if inside.shape != shape:
        raise ValueError(f"kernel_matrix mask of shape {inside.shape} does not fit features of {shape}")
    if not inside.any():
        raise ValueError("kernel_matrix mask is empty")
    return inside


def _scaled_features(
    guides: np.ndarray, inside: np.ndarray, sigma: float | Sequence[float] | np.ndarray, patch: int
) -> np.ndarray:
    """The features so that d is their squared distance, float32 (voxels, F * voxels of a patch)."""
    widths = np.atleast_1d(np.asarray(sigma, float))
    if widths.size not in (1, len(guides)) or not (np.isfinite(widths).all() and (widths > 0).all()):
        raise ValueError(f"kernel sigma must be positive, one number or one for each of {len(guides)}, got {sigma}")
    deviation = guides[:, inside].std(1)
    if not (deviation > 0).all():
        raise ValueError(f"kernel feature {int(np.argmin(deviation))} is constant, and tells no voxels apart")
    mean, width = guides[:, inside].mean(1), deviation * widths
    scaled = ((guides - mean[:, None, None, None]) / width[:, None, None, None]).astype(np.float32)
    edges = [min(edge, 2 * n - 1) if n > 1 else 1 for edge, n in zip(_odd(patch, "patch"), guides.shape[1:])]
    padded = np.pad(scaled, [(0, 0), *((edge // 2, edge // 2) for edge in edges)], mode="edge")
    seen = np.lib.stride_tricks.sliding_window_view(padded, edges, axis=(1, 2, 3))
    return np.moveaxis(seen, 0, 3).reshape(inside.size, -1) / np.float32(math.sqrt(math.prod(edges)))


def _window_rows(
    features: np.ndarray, inside: np.ndarray, size: np.ndarray, per_mm: float, most: int, window: tuple[int, int, int]
) -> Rows:
    """The neighbours in a box around each voxel."""
    reach = [min(edge // 2, n - 1) for edge, n in zip(window, inside.shape)]
    steps = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
    distance = ((steps * size) ** 2).sum(1)
    order = np.argsort(distance, kind="stable")
    offsets, penalty = steps[order].astype(np.int32), (distance[order] * per_mm**2).astype(np.float32)
    lines, count = math.prod(inside.shape[:2]), np.empty(inside.size, np.int64)
    fixed = [read_only(values) for values in (features, inside, offsets, penalty)]
    share(lambda t, n: row_kernels.count_neighbours(fixed[1], fixed[2], most, t, n, count), lines)
    rows = _empty_rows(count)
    share(lambda t, n: row_kernels.find_neighbours(*fixed, rows.start, t, n, rows.column, rows.weight), lines)
    return rows


def _tree_rows(features: np.ndarray, inside: np.ndarray, size: np.ndarray, per_mm: float, most: int) -> Rows:
    """The neighbours in the space of the features, and of the coordinates where they have a width."""
    voxels, n = np.flatnonzero(inside), inside.size
    position = np.argwhere(inside) * size
    across = max(float(np.linalg.norm(np.array(inside.shape) * size)), 1e-30)
    columns = np.hstack([features[voxels], position * (per_mm or _TIE / across)])
    most = min(most, len(voxels))
    own = np.arange(len(voxels))[:, None]
    square, found = cKDTree(columns).query(columns, k=np.arange(1, most + 1), workers=thread_count())
    lost = ~(found == own).any(1)  # among equal voxels it may have missed itself
    found[lost, -1], square[lost, -1] = own[lost, 0], 0
    weight = np.exp(-(square**2) / 2)
    rows = _empty_rows(np.where(inside.ravel(), most, 1))
    rows.column[:], rows.weight[:] = np.repeat(np.arange(n), np.diff(rows.start)), 1
    entries = (rows.start[voxels][:, None] + np.arange(most)).ravel()
    rows.column[entries] = voxels[found].ravel()
    rows.weight[entries] = (weight / weight.sum(1, keepdims=True)).ravel()
    return rows


def _empty_rows(count: np.ndarray) -> Rows:
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    what = f"a kernel of {start[-1]:.3g} weights, {count.max()} for a voxel,"
    require_memory(16.0 * start[-1], what, "use fewer neighbours, or a mask")
    return Rows(start, np.empty(start[-1], np.int32), np.empty(start[-1], np.float32))


def _positive(value: float, name: str) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"kernel {name} must be positive and finite, got {value}")
    return float(value)


def _odd(edges: Window, name: str) -> tuple[int, int, int]:
    values = np.asarray(edges)
    if values.size not in (1, 3) or not np.all((values >= 1) & (values % 2 == 1)):
        raise ValueError(f"kernel {name} must be odd, one number of voxels or three, got {edges}")
    x, y, z = (int(edge) for edge in np.broadcast_to(values, 3))
    return x, y, z


class _Jagged(NamedTuple):
    """Rows by falling length: first entries of all, second entries of those that have one, and so on.

    Args:
        index, weight : one after another.
        counts : how many rows have each.
        place : where a row is in that order.
    """

    index: Array  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    weight: Array
    counts: list[int]
    place: Array


def _jagged(rows: Rows, x: Array) -> _Jagged:
    """The rows as arrays of the library, device and precision of x."""
    length = np.diff(rows.start)
    order = np.argsort(-length, kind="stable")
    counts = [int((length > j).sum()) for j in range(int(length.max()))]
    entries = np.concatenate([rows.start[order[:n]] + j for j, n in enumerate(counts)])
    xp, place = array_namespace(x), np.empty_like(order)
    place[order] = np.arange(order.size)
    index, placed = (xp.asarray(values.astype(np.int32), device=device(x)) for values in (rows.column[entries], place))
    return _Jagged(index, like(rows.weight[entries], x), counts, placed)


def _gather_jagged(plan: _Jagged, x: Array) -> Array:
    """Return the rows' weighted sums of a batch (B, ``*image``)."""
    xp, shape = array_namespace(x), tuple(x.shape)
    x = xp.reshape(x, (shape[0], -1))
    out, first = xp.zeros_like(x), 0
    for n in plan.counts:
        part = slice(first, first + n)
        out[:, :n] += plan.weight[part] * xp.take(x, plan.index[part], axis=1)
        first += n
    return xp.reshape(xp.take(out, plan.place, axis=1), shape)


def _on_host(x: Array) -> bool:
    return is_numpy(x) or (is_torch(x) and not is_cuda(x))


def _read_only(rows: Rows) -> Rows:
    """The arrays as the compiled code is typed by: one type is enough."""
    start, index = rows.start.astype(np.int64, copy=False), rows.column.astype(np.int32, copy=False)
    return Rows(*(read_only(np.ascontiguousarray(values)) for values in (start, index, rows.weight)))
