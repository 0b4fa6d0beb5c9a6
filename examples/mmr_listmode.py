"""Reconstruct measured PET list-mode of a Siemens Biograph mMR: events, randoms from the delays, normalisation.

    python examples/mmr_listmode.py FOLDER

FOLDER holds PET_ACQ_small.l.hdr.STIR, small_listmode_file.l, norm.n.hdr and norm.n: 0.6 s of a head that STIR
distributes, and the normalisation of such a scanner. Without a folder (or the variable EMRECON_MMR) the events of a
small ring are simulated, so that the same lines run anywhere.
"""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from common import options, save

from emrecon import formats, projectors, recon, sims


def measured(folder):
    """The scan and its normalisation, from files; the image is coarse, as so few events ask for."""
    scan = formats.read_petlink(folder / "PET_ACQ_small.l.hdr.STIR")
    grid = projectors.ImageGrid((70, 70, 63), (8.3, 8.3, 4.1))
    return scan, formats.read_siemens_norm(folder / "norm.n.hdr"), grid


def simulated():
    """A stand-in with what `pet_problem` asks of list-mode: `sinogram`, and `read()` with prompts and delays."""
    ring = projectors.PETScanner.polygon(sides=12, crystals_per_side=8, radius=200, rings=5, ring_pitch=6)
    sinogram = projectors.PETSinogram(ring, n_radial=63)
    grid = projectors.ImageGrid((60, 48, 9), (6.0, 6.0, 3.0))
    simulator = sims.PETSimulator(grid, sinogram, randoms=sims.Randoms(0.2))
    scan = simulator(sims.nema_iec_body(hot_ratio=4), seed=0, counts=3e5).scan
    prompts, _ = sims.list_events(scan, seed=0)
    randoms = np.broadcast_to(scan.background, sinogram.shape)
    delays, _ = sims.list_events(projectors.Scan(sims.poisson(randoms, seed=1), sinogram, duration=1.0), seed=1)
    return SimpleNamespace(sinogram=sinogram, read=lambda: SimpleNamespace(prompts=prompts, delays=delays)), None, grid


def main():
    """Read (or simulate), reconstruct, and write a picture."""
    choice = options(__doc__, data="folder of the mMR scan (default: $EMRECON_MMR, else a simulation)")
    folder = choice.data or os.environ.get("EMRECON_MMR")
    scan, norm, grid = measured(Path(folder)) if folder and not choice.quick else simulated()
    problem = recon.pet_problem(scan, norm=norm, psf=4.5, grid=grid, subsets=7)
    print(problem.summary)
    image = recon.reconstruct(problem, "osem", iterations=1 if choice.quick else 3)
    save(choice.out / "mmr_listmode.png", {"OSEM of list-mode": image})


if __name__ == "__main__":
    main()
