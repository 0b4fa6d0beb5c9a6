"""Draw docs/images/beds.png: a body seen at once by a long camera, and by a short one in two beds, in both ways."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from emrecon import projectors, recon, sims

PIXEL, ROWS, STEP = 6.0, 24, 17
RESPONSE = projectors.collimator("siemens-lehr").response(140.5)
BEGIN = datetime(2026, 1, 8, 10, 30)


def camera(rows: int, shift: float = 0.0) -> projectors.SPECTGeometry:
    """Two heads around a body, with so many rows."""
    return projectors.SPECTGeometry.circular(60, 150, (40, rows), PIXEL, axial_shift=shift)


def main() -> None:
    grid = projectors.ImageGrid((40, 40, ROWS + STEP), PIXEL)
    x, y, z = grid.coordinates()
    body = np.hypot(x / 100, y / 75) < 1
    activity = 4.0 * np.broadcast_to(body, grid.shape)
    for where in (-75, 0, 75):
        activity = np.where((x - 40) ** 2 + y**2 + (z - where) ** 2 < 16**2, 40.0, activity)
    mu = np.broadcast_to(0.15 * body, grid.shape).astype(np.float32)
    whole = projectors.SPECTProjector(grid, camera(grid.shape[2]), mu, RESPONSE)
    long = projectors.Scan(sims.poisson(whole(activity), seed=0), whole.geometry)
    beds = []
    for i, (shift, seconds) in enumerate(((-STEP / 2, 10.0), (STEP / 2, 20.0))):
        plan = projectors.Scan(np.zeros((60, 40, ROWS)), camera(ROWS, shift * PIXEL), duration=seconds)
        plan = replace(plan, radionuclide="Tc-99m", study=projectors.Study(start=BEGIN + timedelta(hours=i)))
        beds.append(plan)
    weights, _ = projectors.BedScan(tuple(beds)).measured()
    for i, (bed, weight) in enumerate(zip(beds, weights)):
        expected = weight * projectors.SPECTProjector(grid, bed.geometry, mu, RESPONSE)(activity)
        beds[i] = replace(bed, counts=sims.poisson(expected, seed=i + 1))
    scan = projectors.BedScan(tuple(beds))
    how = {"mu": mu, "mu_grid": grid, "response": RESPONSE, "subsets": 6}
    images = {
        "long camera": recon.reconstruct(recon.spect_problem(long, mu=mu, response=RESPONSE, subsets=6), iterations=5),
        "two beds, stitched": recon.reconstruct_beds(scan, iterations=5, **how)[0],
        "two beds, joint": recon.reconstruct_beds(scan, iterations=5, beds="joint", **how)[0],
    }
    draw(images, scan, grid)


def draw(images: dict[str, np.ndarray], scan: projectors.BedScan, grid: projectors.ImageGrid) -> None:
    """Coronal slices, and the mean of each slice along z."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 4, width_ratios=(1, 1, 1, 1.5))
    ends = grid.origin[2] - PIXEL / 2, grid.origin[2] + (grid.shape[2] - 0.5) * PIXEL
    z = grid.coordinates()[2].ravel()
    for axis, (name, image) in zip(axes, images.items()):
        extent = (-120, 120, *ends)
        axis.imshow(image[:, 20].T, cmap="gray_r", vmin=0, vmax=20, origin="lower", extent=extent)
        axis.set(title=name, xticks=[], xlabel="coronal, right to left")
        axes[3].plot(z, image[8:32, 12:28].mean((0, 1)), label=name)
    (low, high) = scan.extents[1][0], scan.extents[0][1]
    for axis in axes[1:3]:
        axis.axhspan(low, high, color="tab:orange", alpha=0.15, lw=0)
    axes[0].set_ylabel("z (mm)")
    axes[3].axvspan(low, high, color="tab:orange", alpha=0.2, lw=0, label="both beds look here")
    axes[3].set(xlabel="z (mm)", title="mean of each slice (counts)", ylim=(0, None))
    axes[3].legend(fontsize=8, loc="lower center")
    path = Path(__file__).resolve().parent.parent / "docs" / "images" / "beds.png"
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
