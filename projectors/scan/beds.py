"""Scans of several bed positions: the table moved along z between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import numpy as np

from ..core.arrays import to_numpy
from ..core.grid import ImageGrid, positive_numbers
from ..physics.nuclides import isotope
from ..spect.camera import SPECTGeometry
from .counting import scan_seconds
from .energy_windows import WindowedScan
from .scan import Scan
from .showing import shown_scan
from .study import Study

Value = TypeVar("Value")
_ABOUT = 0.05
_ROUNDING = 1e-4  # of a voxel, by which positions of tables are not quite on the lattice


@dataclass(frozen=True, eq=False)
class BedScan:
    """A SPECT acquisition at several bed positions.

    Args:
        beds : scans in order of z (`geometry.axial_shift`), each a `Scan` or all a `WindowedScan`, of one radionuclide,
            with bins of one size; all have one coordinate system (one `study.placement`).
        timed_factors : whether the beds' `factors` hold the time of a view and the decay of each, as those of
            simulations do. Otherwise a bed's own `duration` and `study.start` say how much of it there was.

    `bed_scan[i]` is one bed.  Raises TypeError and ValueError where the beds do not belong together.
    """

    beds: tuple[Scan | WindowedScan, ...]
    timed_factors: bool = False

    def __post_init__(self) -> None:
        beds = tuple(self.beds)
        object.__setattr__(self, "beds", beds)
        if len(beds) < 2:
            raise ValueError(f"BedScan needs two or more beds, got {len(beds)}")
        kinds = {type(bed) for bed in beds}
        if len(kinds) > 1 or not kinds <= {Scan, WindowedScan}:
            raise TypeError(
                f"BedScan beds must all be a Scan or all a WindowedScan, got {sorted(kind.__name__ for kind in kinds)}"
            )
        for bed in beds:
            if not isinstance(bed.geometry, SPECTGeometry):
                raise TypeError(f"BedScan needs beds of a SPECT camera, got {type(bed.geometry).__name__}")
        shifts = [camera.axial_shift for camera in self.geometries]
        if any(later <= earlier for earlier, later in itertools.pairwise(shifts)):
            raise ValueError(f"BedScan beds must be in order of z and apart, got axial shifts of {shifts} mm")
        for what in ("radionuclide", "windows", "energy_window"):
            values = {getattr(bed, what, None) for bed in beds}
            if len(values) > 1:
                raise ValueError(f"BedScan beds have different {what}: {sorted(map(str, values))}")
        sizes = {camera.pixel_size for camera in self.geometries}
        if len(sizes) > 1:
            raise ValueError(f"BedScan beds have bins of different size: {sorted(sizes)} mm")
        places = {bed.study.placement if bed.study else None for bed in beds}
        if len(places) > 1:
            raise ValueError(f"BedScan beds must share one placement, got {sorted(map(str, places))}")

    def _repr_html_(self) -> str:
        places = "\n".join(f"z = {camera.axial_shift:.5g} mm: {camera}" for camera in self.geometries)
        return shown_scan(f"BedScan of {len(self.beds)} beds", self.beds[0], beds=places)

    @property
    def geometries(self) -> tuple[SPECTGeometry, ...]:
        """The camera of each bed."""
        return tuple(bed.geometry for bed in self.beds)  # type: ignore[misc]  # checked

    @property
    def radionuclide(self) -> str | None:
        """Of all beds."""
        return self.beds[0].radionuclide

    @property
    def study(self) -> Study | None:
        """Of the first bed; times of acquisition differ between beds."""
        return self.beds[0].study

    def default_grid(self, voxel: float | None = None) -> ImageGrid:
        """Return one grid over all beds: voxels of the size of the bins, or cubes of `voxel` mm.

        Along z it begins where the lowest bed's rows begin and ends with or after the rows of the highest. Every bed's
        own grid is a part of it (`bed_slices`), so that images of beds are added without interpolation, whatever the
        steps of the table are: a projector takes any grid.
        """
        first = max(self.geometries, key=lambda camera: camera.n_bins[0])
        (nu, _), (du, dz) = first.n_bins, first.pixel_size
        size = (du, du, dz) if voxel is None else positive_numbers(voxel, 3, "voxel (mm)")
        n = max(1, round(nu * du / size[0]))
        low, high = min(e[0] for e in self.extents), max(e[1] for e in self.extents)
        nz = max(1, int(np.ceil((high - low) / size[2] - _ROUNDING)))
        across = -(n - 1) / 2 * size[0]
        return ImageGrid((n, n, nz), size, (across, across, low + size[2] / 2))  # type: ignore[arg-type]

    @property
    def extents(self) -> tuple[tuple[float, float], ...]:
        """Where the rows of each bed begin and end, z in mm."""
        halves = [camera.n_bins[1] * camera.pixel_size[1] / 2 for camera in self.geometries]
        return tuple((c.axial_shift - half, c.axial_shift + half) for c, half in zip(self.geometries, halves))

    @property
    def overlaps(self) -> tuple[float, ...]:
        """How far each bed and the next one overlap, mm along z; negative where there is a gap."""
        return tuple(low[1] - high[0] for low, high in itertools.pairwise(self.extents))

    @property
    def reference(self) -> int:
        """Which bed the images of all of them are like: the one that was measured first, or bed 0 without times."""
        starts = [bed.study.start if bed.study else None for bed in self]
        known = [(start, i) for i, start in enumerate(starts) if start is not None]
        if self.timed_factors or len(known) < len(starts):
            return 0
        try:
            return min(known)[1]
        except TypeError:  # with a time zone and without, which `measured` refuses
            return 0

    def measured(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return how much each bed measured of an activity, relative to the `reference` bed, (beds,), and notes::

            w_b = T_b / T_r  *  m(n_b T_b) / m(n_r T_r)  *  exp(-lambda (t_b - t_r))
            m(t) = (1 - exp(-lambda t)) / (lambda t)

        T is the duration of a view, n the views of a head, t the start of the bed (`study.start`). Images of beds whose
        factors hold w have the unit of the reference bed's and the activity of its time. With `timed_factors` w is 1.

        Notes say what is not known: without durations T is taken as equal, without starts or radionuclide there is no
        decay.

        Raises ValueError where some beds have a duration or a start and others have none.
        """
        if self.timed_factors:
            return np.ones(len(self)), ()
        durations = _all_or_none("duration", [bed.duration for bed in self])
        starts = _all_or_none("start", [bed.study.start if bed.study else None for bed in self])
        if durations is None:
            return np.ones(len(self)), ("the beds say no duration: the same time is assumed for all of them",)
        first, weights = self.reference, np.array(durations, float)
        notes: tuple[str, ...] = ()
        if self.radionuclide is None or starts is None:
            missing = "radionuclide" if self.radionuclide is None else "start"
            notes = (f"the beds say no {missing}: decay from bed to bed is not corrected",)
        else:
            nuclide = isotope(self.radionuclide)
            later = [_seconds(starts[first], start) for start in starts]
            mean = [nuclide.mean_decay(scan_seconds(bed)) for bed in self]  # type: ignore[arg-type]
            ends = [t + scan_seconds(bed) for t, bed in zip(later, self)]  # type: ignore[arg-type]
            order = sorted(range(len(self)), key=lambda i: later[i])
            if any(later[b] < ends[a] - 1 for a, b in itertools.pairwise(order)):
                notes = (
                    "the beds say starts at which other beds were still measured; is the decay between them right?",
                )
            weights *= [m * nuclide.decay(t) for m, t in zip(mean, later)]
        means = [float(np.mean(to_numpy(bed.factors))) for bed in self]
        if all(abs(mean / t - 1) < _ABOUT < abs(mean - 1) for mean, t in zip(means, durations)):
            notes = (
                *notes,
                "the factors of the beds are about their seconds per view, and these are counted besides; if they "
                "hold the time and the decay, say so, BedScan(..., timed_factors=True)",
            )
        return weights / weights[first], notes

    def timed(self) -> tuple[BedScan, tuple[str, ...]]:
        """Return the scan with factors times what each bed `measured`, so that all images have one unit, and notes."""
        if self.timed_factors:
            return self, ()
        weights, notes = self.measured()
        beds = tuple(bed if w == 1 else replace(bed, factors=bed.factors * float(w)) for bed, w in zip(self, weights))
        return replace(self, beds=beds, timed_factors=True), notes

    def __len__(self) -> int:
        return len(self.beds)

    def __getitem__(self, i: int) -> Scan | WindowedScan:
        return self.beds[i]

    def __iter__(self) -> Iterator[Scan | WindowedScan]:
        return iter(self.beds)


def bed_slices(grid: ImageGrid, camera: SPECTGeometry, margin: float = 0.0) -> slice:
    """Return the slices of a grid that a camera's rows look at.

    Args:
        margin : mm on both sides, such as the reach of the response; the grid ends it.

    Raises ValueError where the camera looks past the grid.
    """
    half, size = camera.n_bins[1] * camera.pixel_size[1] / 2 + margin, grid.voxel_size[2]
    bottom = grid.origin[2] - size / 2
    low, high = ((camera.axial_shift + side * half - bottom) / size for side in (-1, 1))
    first, last = max(0, int(np.floor(low + _ROUNDING))), min(grid.shape[2], int(np.ceil(high - _ROUNDING)))
    if first >= last:
        raise ValueError(f"the rows of a camera at z = {camera.axial_shift:g} mm look past the grid, {grid}")
    return slice(first, last)


def grid_slices(grid: ImageGrid, slices: slice) -> ImageGrid:
    """Return the part of a grid that some of its slices are."""
    first, last, _ = slices.indices(grid.shape[2])
    origin = (*grid.origin[:2], grid.origin[2] + first * grid.voxel_size[2])
    return ImageGrid((*grid.shape[:2], last - first), grid.voxel_size, origin)


def _all_or_none(what: str, values: list[Value | None]) -> list[Value] | None:
    known = [value for value in values if value is not None]
    if known and len(known) < len(values):
        missing = [i for i, value in enumerate(values, 1) if value is None]
        raise ValueError(f"BedScan: bed {missing[0]} says no {what}, and others do; give it, or leave out all of them")
    return known or None


def _seconds(first: datetime, later: datetime) -> float:
    try:
        return (later - first).total_seconds()
    except TypeError as error:
        raise ValueError("BedScan: some beds say the time zone of their start, and others do not") from error
