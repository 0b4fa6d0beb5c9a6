"""Synthetic clinical cases: what a SPECT/CT of a phantom leaves on the disk, as DICOM, with the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from emrecon import formats
from emrecon.projectors import BedScan, ImageGrid, Scan, Study, WindowedScan, isotope, linear_attenuation

from .simulator import Body, Expectation, item_seed
from .spect import SPECTSimulator

_EFFECTIVE_ENERGY = 70.0  # keV of a tube at 120 kV behind its filters
_START = datetime(2026, 1, 8, 10, 30)
_PAUSE = 60.0  # s between beds


class CaseFiles(NamedTuple):
    """Where a case was written: the NM file, or the folder of one for each bed, and the folder of the CT."""

    nm: Path
    ct: Path


@dataclass(frozen=True, eq=False)
class ClinicalCase:
    """A synthetic SPECT/CT.

    Args:
        scan : counts as the camera has them, with the study.
        hu, ct_grid : the CT, and its grid in the coordinates of the scan.
        truth, grid : Bq/mL at the start of the (first) scan, on the grid of the simulation.
        sensitivity : counts/s/MBq of one head, which files do not say.
    """

    scan: Scan | WindowedScan | BedScan
    hu: np.ndarray
    ct_grid: ImageGrid
    truth: np.ndarray
    grid: ImageGrid
    sensitivity: float

    @property
    def study(self) -> Study:
        """Who was scanned, with what, when and where."""
        return self.scan.study or Study()

    @property
    def patient_grid(self) -> ImageGrid:
        """The grid of the truth in the patient's axes (LPS, mm)."""
        x, y, z = self.study.placement or (0.0, 0.0, 0.0)
        own = self.grid
        return ImageGrid(own.shape, own.voxel_size, (own.origin[0] + x, own.origin[1] + y, own.origin[2] + z))

    def write(self, folder: str | os.PathLike[str], vendor: str | None = None, **habits: object) -> CaseFiles:
        """Write the NM file `nm.dcm` (the folder `nm` where beds are files) and the folder `ct`; they are replaced.

        Args:
            vendor, habits : of the camera, as for `formats.write_dicom_nm`.

        The folder is made where it is missing. Raises OSError where it cannot be written to, and as
        `formats.write_dicom_nm` does.
        """
        habit = formats.VENDOR_HABITS.get(vendor or "")
        known = habit.beds if habit else "rotations"
        several = isinstance(self.scan, BedScan) and habits.get("beds", known) == "files"
        files = CaseFiles(Path(folder) / ("nm" if several else "nm.dcm"), Path(folder) / "ct")
        Path(folder).mkdir(parents=True, exist_ok=True)
        formats.write_dicom_nm(files.nm, self.scan, vendor=vendor, **habits)  # type: ignore[arg-type]
        formats.write_dicom_ct(files.ct, self.hu, self.ct_grid, study=self.study)
        return files


def synthetic_case(
    phantom: Body,
    simulator: SPECTSimulator,
    *,
    study: Study | None = None,
    beds: Sequence[float] = (0.0,),
    ct_grid: ImageGrid | None = None,
    seed: int = 0,
    noise: bool = True,
) -> ClinicalCase:
    """Return the scan of a phantom by a SPECT/CT, to be written as DICOM with `ClinicalCase.write`.

    Args:
        phantom : activities in kBq/mL, in the coordinates of the scan: x to the patient's left, y to the back, z to the
            head, whichever way the patient lies.
        simulator : the camera. With energy windows the scan is a `WindowedScan`, otherwise a `Scan`. Its grid should
            reach beyond the rows of all beds, by the width of the response.
        study : of the scan (default: `default_study`).
        beds : z in mm of the detectors' centre in each bed, in order; several give a `BedScan`.
        ct_grid : of the CT, in the coordinates of the scan (default: the simulator's field of view with voxels of 2.5 x
            2.5 x 3 mm).
        seed : of the noise.
        noise : False rounds the expected counts instead, for tests of anything but noise.

    The CT has HU = 1000 (mu / mu_water - 1) at 70 keV, air outside of the phantom. Beds are measured one after another
    with a minute between them; the activity decays meanwhile.
    """
    about = study or default_study(simulator.radionuclide, seed)
    activity, mu = simulator.paint(phantom)
    start = about.start or _START
    scans = []
    truth = simulator.mismatch.joined(activity[None], simulator.grid)[0]
    for b, z in enumerate(beds):
        camera = replace(simulator, geometry=replace(simulator.geometry, axial_shift=float(z)))
        after = b * (_PAUSE + _seconds(camera))
        left = np.float32(isotope(camera.radionuclide).decay(after))
        scan = _measured(camera, camera.expect_images(left * activity, mu), item_seed(seed, b, "bed"), noise)
        scans.append(replace(scan, study=replace(about, start=start + timedelta(seconds=after))))
    hu, own_grid = _ct(phantom, ct_grid or _usual_ct(simulator.grid))
    joined = BedScan(tuple(scans)) if len(scans) > 1 else scans[0]
    return ClinicalCase(joined, hu, own_grid, 1000 * truth, simulator.grid, simulator.sensitivity)


def default_study(radionuclide: str, seed: int = 0) -> Study:
    """Return the study of a patient who does not exist, placed away from the origin; a seed has its own UIDs."""
    # UIDs of UUIDs (PS3.5, B.2)
    study, frame = (f"2.25.{item_seed(seed, i, 'UID of a synthetic case')}" for i in range(2))
    return Study(
        placement=(11.5, -143.25, -806.75),
        frame_of_reference=frame,
        patient_position="HFS",
        injected=740.0,
        injection=_START - timedelta(hours=3),
        start=_START,
        weight=72.0,
        height=1.74,
        sex="O",
        attributes={
            "PatientName": "Phantom^Synthetic",
            "PatientID": f"EMRECON-{seed}",
            "StudyInstanceUID": study,
            "StudyDescription": f"{radionuclide} SPECT/CT",
        },
    )


def _seconds(camera: SPECTSimulator) -> float:
    """How long one bed takes: every head's views one after another."""
    return camera.duration * int(np.unique(camera.geometry.head, return_counts=True)[1].max())


def _measured(camera: SPECTSimulator, expected: Expectation, seed: int, noise: bool) -> Scan | WindowedScan:
    """What the camera counts, without what a model would add."""
    if not camera.windows:
        counts = expected.measure(seed) if noise else np.rint(expected.total)
        return Scan(counts, camera.geometry, 0.0, 1.0, camera.duration, camera.radionuclide, camera.energy_window)
    if noise:
        return replace(camera.windowed(expected, seed), factors=1.0)
    parts = camera.expected_in_windows(expected)
    counts_of = tuple(np.rint(part.total) for part in parts.values())
    return WindowedScan(tuple(parts), counts_of, camera.geometry, 1.0, camera.duration, camera.radionuclide)


def _usual_ct(grid: ImageGrid) -> ImageGrid:
    """Voxels of 2.5 x 2.5 x 3 mm over the same field of view."""
    size = (2.5, 2.5, 3.0)
    extent = [n * d for n, d in zip(grid.shape, grid.voxel_size)]
    shape = tuple(max(1, int(np.ceil(e / s))) for e, s in zip(extent, size))
    centre = [o + (n - 1) / 2 * d for o, n, d in zip(grid.origin, grid.shape, grid.voxel_size)]
    origin = tuple(c - (n - 1) / 2 * s for c, n, s in zip(centre, shape, size))
    return ImageGrid(shape, size, origin)  # type: ignore[arg-type]


def _ct(phantom: Body, grid: ImageGrid) -> tuple[np.ndarray, ImageGrid]:
    """The phantom in whole HU on a grid."""
    mu, water = phantom.attenuation(grid, _EFFECTIVE_ENERGY), linear_attenuation("water", _EFFECTIVE_ENERGY)
    return np.rint(1000 * (np.asarray(mu, float) / water - 1)).astype(np.int16), grid
