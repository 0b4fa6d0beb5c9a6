"""Reconstruct SPECT projections of an Interfile header, with attenuation and collimator response.

    python examples/spect_interfile.py input.hs

input.hs is the SimSET scan of a cylinder that STIR distributes; any SPECT header will do (adapt mu and response to it).
Without one, a small scan of such a cylinder is simulated and written first.
"""

import numpy as np
from common import options, save

from emrecon import formats, projectors, recon, sims

RESPONSE = projectors.LinearResponse(slope=0.0163, intercept=1.466)  # sigma in mm at a distance in mm


def written(folder):
    """Simulate a cylinder with hot rods and cold spheres, and write its projections."""
    camera = projectors.SPECTGeometry.circular(n_views=24, radius=150, n_bins=(40, 20), pixel_size=6.6)
    grid = projectors.ImageGrid((40, 40, 20), 6.6)
    phantom = sims.spect_cylinder()
    scan = sims.SPECTSimulator(grid, camera, RESPONSE)(phantom, seed=0, counts=4e6).scan
    folder.mkdir(parents=True, exist_ok=True)
    formats.write_scan(folder / "study.hs", projectors.Scan(scan.counts, camera))
    return folder / "study.hs"


def main():
    """Read (or write first), model the cylinder of water, reconstruct, and compare with no correction."""
    choice = options(__doc__, data="Interfile header of SPECT projections")
    scan = formats.read_scan(choice.data or written(choice.out))
    grid = scan.default_grid()
    x, y, _ = np.meshgrid(*grid.coordinates(), indexing="ij")
    mu = np.where(np.hypot(x, y) < 100, 0.15, 0).astype(np.float32)  # water at 140 keV, in 1/cm
    # a little scatter explains the few counts beside the object
    plain = recon.spect_problem(scan, scatter=0.1, subsets=6)
    full = recon.spect_problem(scan, mu=mu, response=RESPONSE, scatter=0.1, subsets=6)
    iterations = 1 if choice.quick else 4
    images = {
        "no corrections": recon.reconstruct(plain, iterations=iterations),
        "attenuation and response": recon.reconstruct(full, iterations=iterations),
    }
    formats.write_image(choice.out / "spect_interfile.nii.gz", images["attenuation and response"], grid)
    save(choice.out / "spect_interfile.png", images, rotate=True)


if __name__ == "__main__":
    main()
