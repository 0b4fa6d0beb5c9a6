"""A body that is longer than the camera: what a long camera sees at once, and what a short one sees bed by bed."""

from datetime import datetime, timedelta

import numpy as np

from emrecon.projectors import (
    BedScan,
    ImageGrid,
    LinearResponse,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    Study,
    isotope,
    scan_seconds,
)

PIXEL, BINS, ROWS, VIEWS = 6.0, 16, 10, 16
RESPONSE = LinearResponse(0.03, 2.0)
NUCLIDE = "Tc-99m"
BEGIN = datetime(2024, 3, 1, 10, 0, 0)


def body(slices=25):
    """Activity and attenuation (1/cm) of a warm cylinder with hot balls, and their grid."""
    grid = ImageGrid((BINS, BINS, slices), PIXEL)
    x, y, z = grid.coordinates()
    inside = np.hypot(x, y) < 36
    activity = np.broadcast_to(10.0 * inside, grid.shape).copy()
    for where in (-40, 0, 40):
        activity[(x - 12) ** 2 + y**2 + (z - where) ** 2 < 10**2] = 40
    return activity.astype(np.float32), np.broadcast_to(0.12 * inside, grid.shape).astype(np.float32).copy(), grid


def camera(rows, axial_shift=0.0):
    return SPECTGeometry.circular(VIEWS, 60, (BINS, rows), PIXEL, axial_shift=axial_shift)


def long_scan(slices=25, seed=None):
    """The whole body at once, and its map and grid."""
    activity, mu, grid = body(slices)
    counts = SPECTProjector(grid, camera(slices), mu, RESPONSE)(activity)
    counts = counts if seed is None else np.random.default_rng(seed).poisson(counts).astype(np.float32)
    return Scan(counts, camera(slices), radionuclide=NUCLIDE), mu, grid


def beds_of(n=2, step=7 * PIXEL, durations=None, pauses=0.0, slices=25, seed=None):
    """The body bed by bed, `step` mm apart around its middle: counts of as many seconds, each with its decay.

    The first bed measures what `long_scan` does.
    """
    activity, mu, grid = body(slices)
    durations = [10.0] * n if durations is None else durations
    beds, start = [], BEGIN
    for i, seconds in enumerate(durations):
        seen = camera(ROWS, (i - (n - 1) / 2) * step)
        counts = SPECTProjector(grid, seen, mu, RESPONSE)(activity)
        plan = Scan(counts, seen, duration=seconds, radionuclide=NUCLIDE, study=Study(start=start))
        nuclide, length = isotope(NUCLIDE), scan_seconds(plan)
        left = nuclide.decay((start - BEGIN).total_seconds()) * nuclide.mean_decay(length)
        if i == 0:
            first = seconds * left
        counts = counts * np.float32(seconds * left / first)
        counts = counts if seed is None else np.random.default_rng(seed + i).poisson(counts).astype(np.float32)
        beds.append(Scan(counts, seen, duration=seconds, radionuclide=NUCLIDE, study=plan.study))
        start += timedelta(seconds=length + pauses)
    return BedScan(tuple(beds))
