"""Where a PET scanner's crystals are, and which pairs of them a sinogram's bins hold.

Ring 0 of the library's scanners has the highest z: it is at the head of a patient who lies head first, as the numbers
of Siemens scanners and of STIR's files have it. Crystals of a ring are numbered from the front of the patient (-y)
towards the left (+x): crystal i of N is at the angle 2 pi i / N, radius * (sin, -cos). Bin (view v, radial k) joins::

    crystal v + floor(k / 2)    and crystal    v - floor((k + 1) / 2) + N / 2    (modulo N)

for k = ..., -1, 0, 1, ...; so the line of view v with k = 0 runs from front to back, turned by 2 pi v / N, and k grows
along (cos, sin) of that angle. A plane joins ring pairs (first, second); segment d holds those with second - first = d.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from ..core.grid import FrozenArrays, ImageGrid, check_subset
from ..core.html import html_table
from ..core.operator import Shape
from .lines import EquallySpacedLines
from .scanner import PETScanner
from .tof import TimeOfFlight


@dataclass(frozen=True, eq=False)
class PETSinogram(FrozenArrays):
    """The bins of a PET sinogram: which crystal pairs each one holds.

    Args:
        scanner : a cylindrical `PETScanner` with an even number of crystals in a ring.
        max_ring_difference : of the ring pairs (default: the largest that fills the segments); where it does not fill
            the segments of the span, the outermost ones hold fewer ring differences.
        span : how many ring differences share a segment, odd; 1 keeps every ring pair apart. Several numbers are those
            of segments 0, 1, 2, ..., the last also of all further ones; only the first must be odd: (3, 2) joins
            differences -1 to 1 in segment 0 and 2 to 3 in segment 1, as GE's scanners do.
        tof : True for the scanner's TOF bins, or a `TimeOfFlight` of your own; None for no time of flight.
        n_radial : radial bins (default: the scanner's); the outermost are left out.
        mashing : how many neighbouring views share one view.
        views : the views of a subset, numbers of mashed views (default: all).
        lines : `EquallySpacedLines` of arc-corrected data in place of crystal pairs; then mashing must be 1, what needs
            crystals (events, randoms, scatter, normalisation) raises ValueError, and n_radial is free.

    Data are (views, radial, planes), or (views, radial, TOF bins, planes). Planes are in the order of segments 0, +1,
    -1, +2, -2, ..., each from ring 0 on. A bin that holds several crystal pairs is modelled by their mean line.

    Raises ValueError where the scanner cannot have such a sinogram, with the nearest values that it can.
    """

    scanner: PETScanner
    max_ring_difference: int = None  # type: ignore[assignment]  # None only as an argument
    span: int | tuple[int, ...] = 1
    tof: TimeOfFlight | None = None
    n_radial: int = None  # type: ignore[assignment]
    mashing: int = 1
    views: np.ndarray = field(default=None, repr=False)  # type: ignore[arg-type]
    lines: EquallySpacedLines | None = None

    def __post_init__(self) -> None:
        scanner, span = self.scanner, _spans(self.span)
        if not scanner.is_cylinder or scanner.n_crystals % 2:
            raise ValueError(
                "PETSinogram needs a scanner of equal rings with an even number of crystals; use ListmodeProjector"
            )
        difference = (
            _filling(scanner.n_rings - 1, span) if self.max_ring_difference is None else self.max_ring_difference
        )
        if difference != int(difference) or not 0 <= difference < scanner.n_rings:
            raise ValueError(f"max_ring_difference must be 0 to {scanner.n_rings - 1}, got {difference}")
        most = scanner.n_crystals - 1 if self.lines is None else _within(scanner.radius, self.lines.bin_size)
        radial = self.n_radial or scanner.n_radial or most
        if radial != int(radial) or not 1 <= radial <= most:
            raise ValueError(f"PETSinogram n_radial must be 1 to {most}, got {radial}")
        n_views = scanner.n_crystals // 2 if self.lines is None else self.lines.n_views
        if self.lines is not None and self.mashing != 1:
            raise ValueError(
                f"mashing of equally spaced lines must be 1, got {self.mashing}; they have their own n_views"
            )
        if self.mashing != int(self.mashing) or self.mashing < 1 or n_views % self.mashing:
            raise ValueError(f"mashing must divide the {n_views} views, got {self.mashing}")
        tof = scanner.time_of_flight if self.tof is True else self.tof or None
        if self.tof is True and tof is None:
            raise ValueError(f"{scanner} has no time of flight; give a TimeOfFlight")
        if tof is not None and not isinstance(tof, TimeOfFlight):
            raise TypeError(f"tof must be True, None or a TimeOfFlight, got {tof!r}")
        views = np.arange(n_views // self.mashing) if self.views is None else np.array(self.views, int).ravel()
        if views.size == 0 or views.min() < 0 or views.max() >= n_views // self.mashing:
            raise ValueError(f"views must be numbers from 0 to {n_views // self.mashing - 1}, got {self.views}")
        if np.unique(views).size != views.size:
            raise ValueError("views must not repeat: events of such a view would belong to two bins")
        views.flags.writeable = False
        numbers = {"max_ring_difference": int(difference), "n_radial": int(radial), "mashing": int(self.mashing)}
        values = {**numbers, "span": span[0] if len(span) == 1 else span, "tof": tof, "views": views}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_views(self) -> int:
        """The number of views."""
        return int(self.views.size)

    @property
    def n_planes(self) -> int:
        """The number of planes of all segments."""
        return int(self.segments.size)

    @property
    def shape(self) -> Shape:
        """The shape of the data, (views, radial, planes) or (views, radial, TOF bins, planes)."""
        tof = () if self.tof is None else (self.tof.n_bins,)
        return (self.n_views, self.n_radial, *tof, self.n_planes)

    @property
    def radial(self) -> np.ndarray:
        """The number k of every radial bin, 0 for the line through the centre."""
        return np.arange(self.n_radial) - self.n_radial // 2

    @property
    def angles(self) -> np.ndarray:
        """The nominal angle phi of every view in degrees: bins follow each other along (cos phi, sin phi)."""
        if self.lines is not None:
            return self.lines.angles(self.views, self.scanner.n_crystals)
        step = 360 / self.scanner.n_crystals
        return step * (self.views * self.mashing + (self.mashing - 1) / 2)

    # ---- planes -----------------------------------------------------------------------------------------------------

    @cached_property
    def ring_pairs(self) -> tuple[np.ndarray, ...]:
        """For every plane the ring pairs (n, 2) it holds, (ring of the first end, ring of the second)."""
        return tuple(pairs for _, pairs in self._planes())

    @cached_property
    def segments(self) -> np.ndarray:
        """The segment number of every plane, (planes,)."""
        return np.array([segment for segment, _ in self._planes()])

    def differences(self, segment: int) -> tuple[int, int]:
        """Return the lowest and highest ring difference of a segment, were it full."""
        low, high = _differences(abs(segment), _spans(self.span))
        return (low, high) if segment >= 0 else (-high, -low)

    @property
    def is_filled(self) -> bool:
        """Whether the outermost segments hold all the ring differences of their span."""
        return self.differences(int(self.segments.max()))[1] == self.max_ring_difference

    def _planes(self) -> Iterator[tuple[int, np.ndarray]]:
        n = self.scanner.n_rings
        for segment in _segment_order(self.max_ring_difference, _spans(self.span)):
            low, high = self.differences(segment)
            differences = range(max(low, -self.max_ring_difference), min(high, self.max_ring_difference) + 1)
            pairs = np.array([(r, r + d) for d in differences for r in range(max(0, -d), min(n, n - d))])
            total = pairs.sum(1)
            for position in np.unique(total):
                yield segment, pairs[total == position]

    @cached_property
    def michelogram(self) -> np.ndarray:
        """The plane of every ring pair, (rings, rings) indexed [first, second]; -1 where no plane holds it."""
        table = np.full((self.scanner.n_rings, self.scanner.n_rings), -1)
        for plane, pairs in enumerate(self.ring_pairs):
            table[pairs[:, 0], pairs[:, 1]] = plane
        return table

    @cached_property
    def plane_ends(self) -> np.ndarray:
        """The height in mm of both ends of every plane's lines, (planes, 2): the mean over its ring pairs."""
        return np.array([self.scanner.rings[pairs].mean(0) for pairs in self.ring_pairs])

    # ---- lines ------------------------------------------------------------------------------------------------------

    @cached_property
    def crystal_pairs(self) -> np.ndarray:
        """The crystals within a ring at both ends, (views, mashing, radial, 2); ValueError for arc-corrected data."""
        if self.lines is not None:
            raise ValueError(f"{self} is arc corrected: its bins are equally spaced lines and belong to no crystals")
        n = self.scanner.n_crystals
        view = self.views[:, None, None] * self.mashing + np.arange(self.mashing)[:, None]
        first, second = view + self.radial // 2, view - (self.radial + 1) // 2 + n // 2
        return np.stack(np.broadcast_arrays(first % n, second % n), -1)

    @cached_property
    def transaxial_ends(self) -> np.ndarray:
        """x, y of the first and x, y of the second end of every transaxial line in mm, (views, radial, 4)."""
        if self.lines is not None:
            return self.lines.ends(self.scanner, self.views, self.radial)
        xy = self.scanner.crystals[0, :, :2]
        ends = xy[self.crystal_pairs].mean(1)
        return ends.reshape(*ends.shape[:2], 4)

    def line_ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of every line in mm, two arrays (views, radial, planes, 3): large, for other programs."""
        shape = (self.n_views, self.n_radial, self.n_planes, 3)
        ends = np.empty((2, *shape))
        for side in range(2):
            ends[side, ..., :2] = self.transaxial_ends[:, :, None, 2 * side : 2 * side + 2]
            ends[side, ..., 2] = self.plane_ends[:, side]
        return ends[0], ends[1]

    @cached_property
    def radial_positions(self) -> np.ndarray:
        """The signed distance in mm of every transaxial line from the axis, (views, radial)."""
        x1, y1, x2, y2 = np.moveaxis(self.transaxial_ends, -1, 0)
        return (x1 * y2 - x2 * y1) / np.hypot(x2 - x1, y2 - y1)

    def multiplicity(self) -> np.ndarray:
        """Return how many pairs of real crystals each bin holds, (views, radial, planes) float32; 0 for gaps.

        After arc correction that is the number of views and ring pairs which a bin joins, the same for all radial bins.
        """
        if self.lines is not None:
            joined = self.scanner.n_crystals / 2 / self.lines.n_views
            planes = np.array([joined * len(pairs) for pairs in self.ring_pairs], np.float32)
            return np.broadcast_to(planes, (self.n_views, self.n_radial, self.n_planes)).copy()
        real = np.logical_not(self.scanner.virtual)
        transaxial = real[:, self.crystal_pairs]  # (rings, views, mashing, radial, 2)
        first, second = transaxial[..., 0].astype(np.float32), transaxial[..., 1].astype(np.float32)
        if np.array_equal(real, real.any(1)[:, None] & real.any(0)[None]):
            rings = real.any(1)
            within = (first.max(0) * second.max(0)).sum(1)
            planes = np.array([(rings[pairs[:, 0]] & rings[pairs[:, 1]]).sum() for pairs in self.ring_pairs])
            return within[..., None] * planes.astype(np.float32)
        columns = [sum((first[a] * second[b]).sum(1) for a, b in pairs) for pairs in self.ring_pairs]
        return np.stack(columns, -1)

    # ---- events -----------------------------------------------------------------------------------------------------

    def bins_of(self, events: ArrayLike) -> np.ndarray:
        """Return the bin of every event, (n, 3) indices (view, radial, plane), or (n, 4) with the TOF bin before plane.

        Args:
            events : (n, 2) crystal numbers of both ends, or (n, 3) with the TOF bin. The ends may come in either order;
                the TOF bin is mirrored along with them. Events outside the sinogram get -1 throughout.
        """
        if self.lines is not None:
            raise ValueError(f"{self} is arc corrected: events cannot be sorted into its equally spaced lines")
        events, columns = np.asarray(events), 2 if self.tof is None else 3
        if events.ndim != 2 or events.shape[1] != columns or events.dtype.kind not in "iu":
            raise ValueError(f"events must be (n, {columns}) integers, got {events.dtype} {events.shape}")
        events = events.astype(np.int64)
        n = self.scanner.n_crystals
        (ring1, ring2), (first, second) = events[:, :2].T // n, events[:, :2].T % n
        view, k = _view_of(first, second, n)
        swapped = view >= n // 2
        view, k = np.where(swapped, _view_of(second, first, n), (view, k))
        ring1, ring2 = np.where(swapped, ring2, ring1), np.where(swapped, ring1, ring2)
        within = (ring1 >= 0) & (ring2 >= 0) & (ring1 < self.scanner.n_rings) & (ring2 < self.scanner.n_rings)
        plane = np.where(within, self.michelogram[ring1 * within, ring2 * within], -1)
        plane = np.where(first == second, -1, plane)  # no line within a ring, and none that a sinogram holds
        view = np.where(first == second, 0, view)
        number = np.full(n // 2 // self.mashing, -1)
        number[self.views] = np.arange(self.n_views)
        found = [number[view // self.mashing], k + self.n_radial // 2]
        valid = (found[0] >= 0) & (found[1] >= 0) & (found[1] < self.n_radial) & (plane >= 0)
        if self.tof is not None:
            tof = np.where(swapped, self.tof.n_bins - 1 - events[:, 2], events[:, 2])
            valid &= (tof >= 0) & (tof < self.tof.n_bins)
            found.append(tof)
        return np.where(valid[:, None], np.stack([*found, plane], 1), -1)

    def histogram(self, events: ArrayLike) -> np.ndarray:
        """Return the counts of events in every bin, float32 of `shape`; events outside the sinogram are left out."""
        bins = self.bins_of(events)
        bins = bins[bins[:, 0] >= 0]
        flat = np.ravel_multi_index(tuple(bins.T), self.shape)
        size = int(np.prod(self.shape))
        return np.bincount(flat, minlength=size).astype(np.float32).reshape(self.shape)

    def default_grid(self) -> ImageGrid:
        """Return radial x radial x (2 rings - 1) voxels as large as the bins near the centre and half a ring pitch."""
        rings = self.scanner.rings
        depth = float(np.ptp(rings)) / max(1, 2 * rings.size - 2) or self.scanner.radial_spacing
        size = self.scanner.radial_spacing if self.lines is None else self.lines.bin_size
        origin = (-(self.n_radial - 1) / 2 * size, -(self.n_radial - 1) / 2 * size, float(rings.min()))
        return ImageGrid((self.n_radial, self.n_radial, 2 * rings.size - 1), (size, size, depth), origin)

    # ---- variants ---------------------------------------------------------------------------------------------------

    def subset(self, k: int, n: int) -> PETSinogram:
        """Return the sinogram of the views k, k + n, k + 2n, ..."""
        check_subset(k, n, self.n_views)
        return replace(self, views=self.views[k::n])

    def without_tof(self) -> PETSinogram:
        """Return the same bins without time of flight."""
        return replace(self, tof=None)

    def rebinned(self) -> PETSinogram:
        """Return the sinogram of single-slice rebinning: direct and cross planes only, without TOF; 2 rings - 1 planes.

        Source: Daube-Witherspoon & Muehllehner 1987.
        """
        return replace(self, tof=None, span=2 * self.max_ring_difference + 1)

    def _repr_html_(self) -> str:
        spans = ", ".join(map(str, _spans(self.span)))
        rows = {
            "scanner": self.scanner,
            "views": self.n_views,
            "radial bins": self.n_radial,
            "planes": self.n_planes,
            "span": spans,
            "ring difference up to": self.max_ring_difference,
            "views joined": self.mashing if self.mashing > 1 else None,
            "TOF": None if self.tof is None else f"{self.tof.n_bins} bins, resolution {self.tof.fwhm:.4g} mm",
            "arc corrected to (mm)": None if self.lines is None else self.lines.bin_size,
        }
        return html_table("PETSinogram", rows)

    def __str__(self) -> str:
        tof = f", {self.tof.n_bins} TOF bins" if self.tof else ""
        bins = "bins" if self.lines is None else f"bins of {self.lines.bin_size:g} mm (arc corrected)"
        return (
            f"{self.n_views} views of {self.n_radial} {bins}, {self.n_planes} planes{tof} "
            f"(span {' and '.join(map(str, _spans(self.span)))}, ring difference up to {self.max_ring_difference})"
        )


def _within(radius: float, bin_size: float) -> int:
    """The most radial bins whose lines meet a circle."""
    inside = int(np.ceil(radius / bin_size)) - 1
    return 2 * inside + 1


def _spans(span: int | tuple[int, ...]) -> tuple[int, ...]:
    """The span of segments 0, 1, ..., the last for all further ones."""
    spans = tuple(np.atleast_1d(span).tolist())
    if not spans or any(width != int(width) or width < 1 for width in spans) or spans[0] % 2 == 0:
        raise ValueError(
            f"PETSinogram span must be an odd positive integer, or those of segments 0, 1, ... of which the first is "
            f"odd, got {span}"
        )
    widths = [int(width) for width in spans]
    while len(widths) > 1 and widths[-1] == widths[-2]:
        widths.pop()
    return tuple(widths)


def _differences(segment: int, spans: tuple[int, ...]) -> tuple[int, int]:
    """The lowest and highest ring difference of segment 0, 1, ..., if it is full."""
    if segment == 0:
        return -(spans[0] // 2), spans[0] // 2
    each = spans[1:] or spans
    before, further = each[: segment - 1], max(0, segment - 1 - len(each))
    low = spans[0] // 2 + 1 + sum(before) + further * each[-1]
    return low, low + each[min(segment, len(each)) - 1] - 1


def _filling(difference: int, spans: tuple[int, ...]) -> int:
    """The largest ring difference up to `difference` that fills the segments of a span; `difference` if none does."""
    filled, segment = difference, 0
    while (high := _differences(segment, spans)[1]) <= difference:
        filled, segment = high, segment + 1
    return filled


def _segment_order(max_ring_difference: int, spans: tuple[int, ...]) -> list[int]:
    outermost = 0
    while _differences(outermost + 1, spans)[0] <= max_ring_difference:
        outermost += 1
    return [0, *(sign * segment for segment in range(1, outermost + 1) for sign in (1, -1))]


def _view_of(first: np.ndarray, second: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The view (0 to n - 1) and radial number of crystal pairs, for ends in this order."""
    k = (first - second + n // 2) % n
    k = np.where(k >= n // 2, k - n, k)
    return (first - k // 2) % n, k
