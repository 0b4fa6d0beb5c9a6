"""Many reconstructions in several processes: mean and standard deviation of OSEM over realisations of the noise.

Problems are frozen values that pickle, so a pool of processes may work on them. Each process should use few threads:
EMRECON_NUM_THREADS says how many.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from common import options, save

from emrecon import projectors, recon, sims

SIZE = 40


def problem(seed):
    """The same object, noise of its own."""
    grid = projectors.ImageGrid((SIZE, SIZE, 1), 320 / SIZE)
    camera = projectors.SPECTGeometry.circular(n_views=SIZE, radius=150, n_bins=(SIZE, 1), pixel_size=320 / SIZE)
    simulated = sims.SPECTSimulator(grid, camera)(sims.random_ellipses(seed=5), seed=seed, counts=1e5)
    return recon.spect_problem(simulated.scan, mu=simulated.mu, subsets=4), simulated.truth


def image(seed):
    """What one process does: simulate and reconstruct one realisation."""
    return recon.reconstruct(problem(seed)[0], "osem", iterations=4)


def main():
    """Run the realisations and show their statistics."""
    choice = options(__doc__)
    os.environ.setdefault("EMRECON_NUM_THREADS", "1")  # the workers inherit it
    _, truth = problem(0)
    n = 4 if choice.quick else 32
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = recon.ensemble_statistics(pool.map(image, range(n)), truth)
    save(
        choice.out / "several_processes.png",
        {"truth": truth, f"mean of {n}": found.mean, "standard deviation": found.deviation},
    )


if __name__ == "__main__":
    main()
