"""The picture in docs/spect.md: a point at several distances, its projected profile against the response in bins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr

from emrecon.projectors import ImageGrid, SPECTGeometry, SPECTProjector, collimator

PIXEL = 4.0


def profile(distance: float, offset: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return u in mm from the point, counts per bin summed over rows, and sigma, for a point between the bins."""
    grid = ImageGrid((41, 41, 25), PIXEL)
    camera = SPECTGeometry(np.array([33.0]), distance, (41, 41), PIXEL, shift=offset)
    response = collimator("siemens-lehr").response(140.5)
    point = np.zeros(grid.shape)
    point[20, 20, 12] = 1
    projection = SPECTProjector(grid, camera, response=response)(point)[0]
    return camera.bin_centres()[0][0], projection.sum(1), float(response.sigma(distance))


def main() -> None:
    """Write docs/images/point_response.png."""
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    for axis, distance in zip(figure.subplots(1, 4), (50, 100, 200, 300)):
        for offset, colour in ((0.0, "C0"), (1.0, "C1"), (2.0, "C2")):
            u, counts, sigma = profile(distance, offset)
            axis.plot(u, counts, "o", color=colour, markersize=4, label=f"offset {offset / PIXEL:g} pixel")
        fine = np.linspace(-25, 25, 400)
        upper, lower = (ndtr((fine + side * PIXEL / 2) / sigma) for side in (1, -1))
        axis.plot(fine, upper - lower, "k-", linewidth=0.8)
        axis.set(title=f"{distance / 10:g} cm, sigma {sigma:.2f} mm", xlabel="u (mm)", xlim=(-25, 25))
    figure.axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(Path(__file__).resolve().parent.parent / "docs/images/point_response.png", dpi=100)


if __name__ == "__main__":
    main()
