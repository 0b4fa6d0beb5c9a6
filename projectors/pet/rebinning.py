"""PET sinograms of fewer bins: compression, single-slice rebinning and arc correction, with exact transposes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ..core.arrays import Array, PlanCache, add_up, array_namespace, like
from ..core.operator import BatchOperator, Shape
from ..parallel.geometry import ParallelBeamGeometry
from .lines import sense_of, turn_of
from .sinogram import PETSinogram
from .tof import TimeOfFlight

Taps = list[tuple[Array, Array | None]]
"""Gathers on a device: what is taken, and its weights, None where all of them are one."""


class GatherTable:
    """A sparse matrix along one axis, as a few gathers: out[i] = sum over t of weight[t, i] * x[index[t, i]].

    Args:
        rows, columns, weights : the entries, any order.
        n_out, n_in : the lengths of the axis after and before.
    """

    def __init__(self, rows: ArrayLike, columns: ArrayLike, weights: ArrayLike, n_out: int, n_in: int) -> None:
        rows, columns, weights = (np.ravel(values) for values in np.broadcast_arrays(rows, columns, weights))
        order = np.argsort(rows, kind="stable")
        rows, columns, weights = rows[order], columns[order], weights[order]
        taps = np.arange(rows.size) - np.searchsorted(rows, rows)
        self.entries = (rows, columns, weights)
        self.n_out, self.n_in = n_out, n_in
        self.index = np.zeros((max(1, taps.max(initial=0) + 1), n_out), np.int64)
        self.weight = np.zeros(self.index.shape)
        self.index[taps, rows], self.weight[taps, rows] = columns, weights

    def transposed(self) -> GatherTable:
        """Return the table of the transposed matrix."""
        rows, columns, weights = self.entries
        return GatherTable(columns, rows, weights, self.n_in, self.n_out)

    @property
    def is_identity(self) -> bool:
        """Whether the table changes nothing."""
        return (
            self.n_in == self.n_out
            and self.index.shape[0] == 1
            and bool(np.all(self.index[0] == np.arange(self.n_out)) and np.all(self.weight == 1))
        )

    def taps(self, x: Array) -> Taps:
        """Return the gathers as arrays of the library and device of `x`; weights None where all of them are one."""
        xp = array_namespace(x)
        return [
            (xp.asarray(index, device=x.device), None if np.all(weight == 1) else like(weight, x))
            for index, weight in zip(self.index, self.weight)
        ]


def gather(x: Array, taps: Taps, axis: int) -> Array:
    """Return the gathers of a `GatherTable` along an axis of `x`."""
    xp, column = array_namespace(x), (-1, *(1 for _ in x.shape[axis + 1 :]))

    def part(index: Array, weight: Array | None) -> Array:
        values = xp.take(x, index, axis=axis)
        return values if weight is None else values * xp.reshape(weight, column)

    return add_up(part(index, weight) for index, weight in taps)


class _Rebinning(BatchOperator):
    """Tables along axes, one after the other. `_tables`: (axis without the batch, table)."""

    _tables: list[tuple[int, GatherTable]]
    _plans: PlanCache

    def _set_up(self, tables: list[tuple[int, GatherTable]], in_shape: Shape, out_shape: Shape) -> None:
        changing = [(axis, table) for axis, table in tables if not table.is_identity]
        self._tables = changing or tables[-1:]  # at least one: the result is never the input itself
        self.in_shape, self.out_shape, self._plans = in_shape, out_shape, PlanCache()

    def _forward_batch(self, x: Array) -> Array:
        shape = (x.shape[0], *self.out_shape)
        for axis, forward, _ in self._made(x):
            x = gather(x, forward, axis + 1)
        return array_namespace(x).reshape(x, shape)

    def _adjoint_batch(self, y: Array) -> Array:
        xp, shape = array_namespace(y), (y.shape[0], *self.in_shape)
        y = xp.reshape(y, (y.shape[0], *self._between))
        for axis, _, adjoint in reversed(self._made(y)):
            y = gather(y, adjoint, axis + 1)
        return xp.reshape(y, shape)

    @property
    def _between(self) -> Shape:
        """The shape of an item after all tables, before it is reshaped to `out_shape`."""
        return self.out_shape

    def _made(self, x: Array) -> list[tuple[int, Taps, Taps]]:
        def make() -> list[tuple[int, Taps, Taps]]:
            return [(axis, table.taps(x), table.transposed().taps(x)) for axis, table in self._tables]

        made: list[tuple[int, Taps, Taps]] = self._plans.get(x, make)
        return made


class SinogramCompression(_Rebinning):
    """Counts in coarse bins from counts in fine bins: each coarse bin is the sum of the fine ones it holds.

    Args:
        fine, coarse : two `PETSinogram` objects of one scanner. `coarse` may have a larger span, a smaller ring
            difference, fewer and mashed views, fewer radial bins, wider TOF bins (`fine.tof.mashed(k)`) or none.

    Data are those of `fine` in, those of `coarse` out. Fine bins outside `coarse` are dropped: events histogrammed in
    `coarse` are the compression of those histogrammed in `fine`.
    These are sums, for counts and for `multiplicity()`; the mean line integral of a coarse bin is the compression of
    multiplicity * integral, divided by the coarse multiplicity.

    Raises ValueError for two scanners, where a fine bin would be split between coarse ones, and where a coarse bin
    holds crystal pairs that no fine bin has, so that its counts would be too low.
    """

    def __init__(self, fine: PETSinogram, coarse: PETSinogram) -> None:
        if fine.scanner != coarse.scanner:
            raise ValueError("SinogramCompression needs two sinograms of the same scanner")
        self.fine, self.coarse = fine, coarse
        tof_axis = 0 if fine.tof is None else 1
        maps = [
            (1, fine.n_radial, coarse.n_radial, _radial_map(fine, coarse)),
            (0, fine.n_views, coarse.n_views, _view_map(fine, coarse)),
            (2 + tof_axis, fine.n_planes, coarse.n_planes, _plane_map(fine, coarse)),
        ]
        bins = _tof_map(fine.tof, coarse.tof)
        if fine.tof is not None:
            maps.insert(0, (2, fine.tof.n_bins, coarse.tof.n_bins if coarse.tof else 1, bins))
        self._set_up([(axis, _sum_table(target, n, m)) for axis, n, m, target in maps], fine.shape, coarse.shape)

    @property
    def _between(self) -> Shape:
        joined = self.fine.tof is not None and self.coarse.tof is None
        return (*self.out_shape[:2], 1, self.out_shape[2]) if joined else self.out_shape


class SingleSliceRebinning(_Rebinning):
    """Single-slice rebinning: the bins of oblique planes go to the direct or cross plane midway between their ends.

    Args:
        sinogram : any `PETSinogram`; data of its shape in, data of `sinogram.rebinned()` out.
        total : False for line integrals: out is the mean over the ring pairs that contribute, each integral multiplied
            by the cosine of the angle between its line and the transaxial plane, so that an object that is the same at
            all heights has the same integrals in every plane. True for counts: out is their sum.

    TOF bins are added up. Line integrals mean that data were corrected before: divided by `AcquisitionModel.factors`.
    The object's extent along z is blurred the farther it is from the axis and the larger the ring difference.

    Source: Daube-Witherspoon & Muehllehner 1987, J Nucl Med 28:1717.
    """

    def __init__(self, sinogram: PETSinogram, *, total: bool = False) -> None:
        self.sinogram, self.rebinned, self.total = sinogram, sinogram.rebinned(), bool(total)
        plane = _plane_map(sinogram, self.rebinned)
        pairs = np.array([len(held) for held in sinogram.ring_pairs], float)
        share = np.ones_like(pairs) if total else pairs / np.bincount(plane, pairs)[plane]
        tables = [(2, GatherTable(plane, np.arange(plane.size), share, self.rebinned.n_planes, plane.size))]
        self._set_up(tables, sinogram.shape, self.rebinned.shape)
        self._lengths = PlanCache()

    def _forward_batch(self, x: Array) -> Array:
        if self.sinogram.tof is not None:
            x = array_namespace(x).sum(x, axis=3)
        return super()._forward_batch(x if self.total else x * self._cosine(x))

    def _adjoint_batch(self, y: Array) -> Array:
        xp = array_namespace(y)
        for axis, _, adjoint in self._made(y):
            y = gather(y, adjoint, axis + 1)
        y = y if self.total else y * self._cosine(y)
        if self.sinogram.tof is None:
            return y
        shape = (y.shape[0], *self.in_shape)
        return xp.broadcast_to(y[:, :, :, None, :], shape) * xp.ones((1,), dtype=y.dtype, device=y.device)

    def _cosine(self, x: Array) -> Array:
        """The cosine of every line with the transaxial plane, (views, radial, planes)."""
        across, along = self._lengths.get(x, lambda: self._make_lengths(x))
        return across / array_namespace(x).sqrt(across**2 + along**2)

    def _make_lengths(self, x: Array) -> tuple[Array, Array]:
        ends = self.sinogram.transaxial_ends
        across = np.hypot(*np.moveaxis(ends[..., 2:] - ends[..., :2], -1, 0))
        return like(across[..., None], x), like(np.diff(self.sinogram.plane_ends, axis=1)[:, 0], x)


class ArcCorrection(_Rebinning):
    """Line integrals at evenly spaced radial bins, interpolated linearly between a PET sinogram's lines.

    Args:
        sinogram : a `PETSinogram` without TOF; data (views, radial, planes) in, (views, n_bins, planes) out.
        bin_size : mm (default: that of equally spaced lines, or the scanner's `radial_spacing`).
        n_bins : centred on the axis (default: as many, an odd number, as fit between the outermost lines).

    A line's distance from the axis is `sinogram.radial_positions`: lines crowd towards the edge of the field of view.
    Bins without a real crystal pair (gaps) are bridged by their neighbours; outside the outermost lines of its view a
    bin is zero. Direct planes come out from low to high z, as the slices of an image, whichever way rings are numbered;
    where there are oblique planes too, planes keep their order.

    Args:
        geometry : the `ParallelBeamGeometry` of the result, for `recon.fbp`.

    Raises ValueError for data with TOF.
    """

    def __init__(self, sinogram: PETSinogram, bin_size: float | None = None, n_bins: int | None = None) -> None:
        if sinogram.tof is not None:
            raise ValueError("ArcCorrection takes data without TOF; sum the bins by SingleSliceRebinning first")
        self.sinogram = sinogram
        usual = sinogram.scanner.radial_spacing if sinogram.lines is None else sinogram.lines.bin_size
        self.bin_size = float(usual if bin_size is None else bin_size)
        if not (np.isfinite(self.bin_size) and self.bin_size > 0):
            raise ValueError(f"ArcCorrection bin_size must be positive mm, got {bin_size}")
        reach = float(np.abs(sinogram.radial_positions).max())
        self.n_bins = 2 * int(reach / self.bin_size + 1e-6) + 1 if n_bins is None else int(n_bins)
        if self.n_bins < 1 or self.n_bins != (n_bins or self.n_bins):
            raise ValueError(f"ArcCorrection n_bins must be a positive integer, got {n_bins}")
        views, radial, planes = sinogram.shape
        heights = sinogram.plane_ends.mean(1)
        order = np.arange(planes) if sinogram.segments.any() else np.argsort(heights, kind="stable")
        upwards = GatherTable(np.arange(planes), order, 1.0, planes, planes)
        self._set_up([(0, self._table()), (1, upwards)], (views, radial, planes), (views, self.n_bins, planes))

    @property
    def geometry(self) -> ParallelBeamGeometry:
        """The lines of the result, one plane for each of the sinogram's.

        Bins of odd number lie between two views: crystals i and N/2 - i, then i + 1 and N/2 - i. Their lines are turned
        by half a step of the unmashed views against those of even bins, so a view's mean angle is `sinogram.angles`
        less a quarter of a step; a turn of the scanner is added, and its crystals may be numbered either way round.

        Raises ValueError where planes are oblique or unevenly spaced, as after a gap between blocks of rings.
        """
        if self.sinogram.segments.any():
            raise ValueError(
                f"parallel beams cannot have oblique planes, but {self.sinogram} has some; "
                "apply SingleSliceRebinning first"
            )
        z = np.sort(self.sinogram.plane_ends.mean(1))
        size = float(z[-1] - z[0]) / max(1, z.size - 1)
        uneven = np.abs(z - np.linspace(z[0], z[-1], z.size)).max()
        if uneven > size / 4:
            raise ValueError(
                f"planes are up to {uneven:.2f} mm away from an even spacing of {size:.2f} mm (gaps between blocks of "
                "rings): filtered back projection needs even spacing; use an iterative reconstruction"
            )
        sinogram = self.sinogram
        angles = sinogram.angles - (90 / sinogram.scanner.n_crystals if sinogram.lines is None else 0)
        angles = sense_of(sinogram.scanner) * angles + turn_of(sinogram.scanner)
        return ParallelBeamGeometry(
            angles, self.n_bins, self.bin_size, z.size, size or None, axial_shift=float(z[0] + z[-1]) / 2
        )

    def _table(self) -> GatherTable:
        """Interpolation between rows (view, radial), flattened to one axis."""
        sinogram, real = self.sinogram, np.logical_not(self.sinogram.scanner.virtual.all(0))
        filled = np.ones(sinogram.radial_positions.shape, bool)
        if sinogram.lines is None:
            filled = real[sinogram.crystal_pairs].all(-1).any(1)
        wanted = (np.arange(self.n_bins) - (self.n_bins - 1) / 2) * self.bin_size
        rows, columns, weights = [], [], []
        for view, positions in enumerate(sinogram.radial_positions):
            bins = np.flatnonzero(filled[view])
            bins = bins[np.argsort(positions[bins], kind="stable")]
            if bins.size < 2:
                continue
            place = positions[bins]
            right = np.clip(np.searchsorted(place, wanted), 1, bins.size - 1)
            gap = np.maximum(place[right] - place[right - 1], 1e-9)
            part = (wanted - place[right - 1]) / gap
            inside = np.flatnonzero((part >= -1e-9) & (part <= 1 + 1e-9))
            for neighbour, weight in ((right - 1, 1 - part), (right, part)):
                rows.append(view * self.n_bins + inside)
                columns.append(view * sinogram.n_radial + bins[neighbour[inside]])
                weights.append(np.clip(weight[inside], 0, 1))
        if not rows:
            raise ValueError(f"ArcCorrection: {sinogram} has too few radial bins of real crystals to interpolate")
        entries = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights)
        return GatherTable(*entries, sinogram.n_views * self.n_bins, sinogram.n_views * sinogram.n_radial)

    def _forward_batch(self, x: Array) -> Array:
        views, radial, planes = self.in_shape
        return super()._forward_batch(array_namespace(x).reshape(x, (x.shape[0], views * radial, planes)))

    @property
    def _between(self) -> Shape:
        views, bins, planes = self.out_shape
        return (views * bins, planes)


def _sum_table(target: np.ndarray, n_in: int, n_out: int) -> GatherTable:
    """The table that adds bin i to bin target[i], and drops it where that is -1."""
    kept = np.flatnonzero(target >= 0)
    return GatherTable(target[kept], kept, 1.0, n_out, n_in)


def _view_map(fine: PETSinogram, coarse: PETSinogram) -> np.ndarray:
    factor, rest = divmod(coarse.mashing, fine.mashing)
    if rest:
        raise ValueError(f"mashing {fine.mashing} does not divide mashing {coarse.mashing}: fine views would be split")
    number = np.full(int(max(coarse.views.max(), fine.views.max() // factor)) + 1, -1)
    number[coarse.views] = np.arange(coarse.n_views)
    target = number[fine.views // factor]
    if np.any(np.bincount(target[target >= 0], minlength=coarse.n_views) != factor):
        raise ValueError(f"coarse views hold views that the fine sinogram of {fine.n_views} views does not have")
    return target


def _radial_map(fine: PETSinogram, coarse: PETSinogram) -> np.ndarray:
    if coarse.radial[0] < fine.radial[0] or coarse.radial[-1] > fine.radial[-1]:
        raise ValueError(
            f"the {coarse.n_radial} radial bins of the coarse sinogram reach beyond the {fine.n_radial} of the fine one"
        )
    target = fine.radial - coarse.radial[0]
    return np.where((target >= 0) & (target < coarse.n_radial), target, -1)


def _plane_map(fine: PETSinogram, coarse: PETSinogram) -> np.ndarray:
    lacking = (coarse.michelogram >= 0) & (fine.michelogram < 0)
    if lacking.any():
        first, second = np.argwhere(lacking)[0]
        raise ValueError(
            f"the coarse sinogram holds ring pairs that the fine one does not have, such as ({first}, {second}): "
            f"its ring difference goes up to {coarse.max_ring_difference}, the fine one's to {fine.max_ring_difference}"
        )
    held = [np.unique(coarse.michelogram[pairs[:, 0], pairs[:, 1]]) for pairs in fine.ring_pairs]
    split = next((plane for plane, targets in enumerate(held) if targets.size > 1), None)
    if split is not None:
        raise ValueError(
            f"plane {split} of span {fine.span} would be split between planes of span {coarse.span} "
            f"(or is partly outside its ring difference of {coarse.max_ring_difference}); "
            f"use a span that is an odd multiple of {fine.span} and a ring difference between whole segments"
        )
    return np.array([targets[0] for targets in held])


def _tof_map(fine: TimeOfFlight | None, coarse: TimeOfFlight | None) -> np.ndarray:
    if coarse is None:
        return np.zeros(1 if fine is None else fine.n_bins, int)
    if fine is None:
        raise ValueError("the coarse sinogram has TOF bins and the fine one has none")
    place = fine.edges / coarse.bin_width + coarse.n_bins / 2
    first, last = np.floor(place[:-1] + 1e-6).astype(int), np.ceil(place[1:] - 1e-6).astype(int) - 1
    target = np.where((first >= 0) & (first < coarse.n_bins), first, -1)
    if np.any((first != last) & ((target >= 0) | ((last >= 0) & (last < coarse.n_bins)))):
        raise ValueError(
            f"TOF bins of {fine.bin_width:g} mm would be split between {coarse.n_bins} of {coarse.bin_width:g} mm; "
            "use fine.tof.mashed(k)"
        )
    held = np.bincount(target[target >= 0], minlength=coarse.n_bins)
    if np.any(np.abs(held * fine.bin_width - coarse.bin_width) > 1e-6 * coarse.bin_width):
        raise ValueError("the coarse TOF bins reach farther along the lines than the fine ones")
    return target
