"""Scans of several bed positions: the table moved along z between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ..spect.camera import SPECTGeometry
from .energy_windows import WindowedScan
from .scan import Scan
from .study import Study


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

    def __len__(self) -> int:
        return len(self.beds)

    def __getitem__(self, i: int) -> Scan | WindowedScan:
        return self.beds[i]

    def __iter__(self) -> Iterator[Scan | WindowedScan]:
        return iter(self.beds)
