"""Geometries of your own: a SPECT camera that follows the body, and a PET scanner that no table knows.

A geometry is a frozen value made of numbers, so a new machine needs no new code: the radius of a SPECT camera is one
number for each view, and a ring of crystals is a polygon.
"""

import numpy as np
from common import options, save

from emrecon import projectors, recon, sims


def main():
    """Scan one phantom with both machines."""
    choice = options(__doc__)
    n = 32 if choice.quick else 64
    grid = projectors.ImageGrid((n, n, 1), 320 / n)
    phantom = sims.random_ellipses(seed=4)

    angles = np.arange(0, 360, 12 if choice.quick else 6)
    radius = 130 + 40 * np.cos(np.radians(angles)) ** 2  # mm, an elliptic orbit: near where the body is thin
    camera = projectors.SPECTGeometry(angles, radius, n_bins=(n, 1), pixel_size=320 / n)
    blur = projectors.collimator("siemens-lehr").response(140.5)
    spect = sims.SPECTSimulator(grid, camera, blur)(phantom, seed=0, counts=5e5)

    ring = projectors.PETScanner.polygon(sides=6, crystals_per_side=24, radius=190, rings=1, ring_pitch=4, depth=8)
    sinogram = projectors.PETSinogram(ring, n_radial=89)
    scanner = sims.PETSimulator(grid, sinogram)
    pet = scanner(phantom, seed=0, counts=5e5)

    problems = {
        "SPECT, elliptic orbit": recon.spect_problem(spect.scan, mu=spect.mu, response=blur, subsets=4),
        # the factors of a simulated PET scan hold the attenuation
        "PET, six blocks": recon.pet_problem(pet.scan, psf=scanner.resolution, grid=grid, subsets=4),
    }
    iterations = 2 if choice.quick else 6
    images = {name: recon.reconstruct(problem, "osem", iterations) for name, problem in problems.items()}
    save(choice.out / "own_geometry.png", {"truth": spect.truth, **images})


if __name__ == "__main__":
    main()
