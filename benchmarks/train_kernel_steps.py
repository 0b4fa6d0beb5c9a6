"""Train the kernels of `recon.trained_steps()` on small simulated PET scans, none of which the PETRIC replicas are.

    EMRECON_NUM_THREADS=1 python benchmarks/train_kernel_steps.py WORK --out recon/engines/kernel_steps_pet.json

WORK keeps the scans' solutions. Training goes in rounds, each from the kernels of the one before, which --out holds
after it; --begin takes kernels of an earlier run. Bodies are random torsos, heads and heaps of ellipses; scanners,
voxels, counts, background and the weight of the prior are random, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_erosion

from emrecon import recon, sims
from emrecon.projectors import AcquisitionModel, ImageGrid, PETProjector, PETScanner, PETSinogram
from emrecon.unrolled.training.kernel_steps import SolvedScan, train_kernel_steps, unrolled_loss

N_TRAIN, N_VALIDATION = 10, 3


def body(kind: str, seed: int, random: np.random.Generator) -> tuple[sims.Phantom, float, bool]:
    """Return a phantom, its diameter in mm, and whether what is around it is empty."""
    if kind == "torso":
        return sims.random_torso(seed, "fdg", (2, 6)).moved((0.0, 0.0, -float(random.uniform(-40, 180)))), 420.0, True
    if kind == "head":
        return sims.random_folded_brain(seed, 3, "fdg").phantom, 230.0, True
    ranges = sims.EllipseRanges()
    phantom = sims.random_ellipses(seed, 3, ranges)
    grid = ImageGrid((60, 60, 9), (8.0, 8.0, 8.0))
    x, y, _ = grid.coordinates()
    reach = float(np.where(phantom.activity(grid, 1) > 0, np.hypot(x, y), 0).max())
    return phantom, 2 * reach + 30, True


def make(seed: int, work: Path) -> SolvedScan:
    """Return a random scan with its solution, which is kept in a folder."""
    random = sims.generator(seed, "kernel steps")
    phantom, diameter, _ = body(("torso", "ellipses", "torso", "head", "ellipses")[seed % 5], 7000 + seed, random)
    sides, rings = int(random.integers(24, 36)), int(random.integers(4, 6))
    radius, ring_pitch = float(max(random.uniform(300, 420), diameter / 2 + 40)), float(random.uniform(6, 10))
    per_side = max(4, round(2 * np.pi * radius / sides / (diameter / float(random.uniform(34, 46))) / 2))
    scanner = PETScanner.polygon(
        sides=sides, crystals_per_side=2 * (per_side // 2), radius=radius, depth=8, rings=rings, ring_pitch=ring_pitch
    )
    n_radial = min(2 * int(diameter / 2 / scanner.radial_spacing) + 3, sides * 2 * (per_side // 2) // 2 - 1) | 1
    sinogram = PETSinogram(scanner, max_ring_difference=rings - 1, n_radial=n_radial)
    voxel = scanner.radial_spacing * float(random.uniform(0.8, 1.3))
    n = int(diameter / voxel) + 2
    grid = ImageGrid((n, n, 2 * rings - 1), (voxel, voxel, ring_pitch / 2))
    simulator = sims.PETSimulator(
        grid,
        sinogram,
        resolution=float(random.uniform(0.7, 1.4)) * scanner.radial_spacing,
        scatter=sims.ConvolutionScatter(float(random.uniform(0.1, 0.4))),
        randoms=sims.Randoms(float(random.uniform(0.05, 0.45)), "object"),
        normalisation=sims.random_normalisation(scanner, seed, 0.1),
    )
    density = float(np.exp(random.uniform(np.log(2), np.log(60))))  # counts for each bin
    simulation = simulator(phantom, seed, density * np.prod(sinogram.shape))
    expected, shape = simulation.expectation, sinogram.shape
    model = AcquisitionModel(
        PETProjector(grid, sinogram),
        np.asarray(np.broadcast_to(expected.factors, shape), np.float32),
        np.asarray(np.broadcast_to(expected.background, shape), np.float32),
    )
    f = recon.PoissonLikelihood(np.asarray(simulation.scan.counts, np.float32), model)
    n_subsets = max(4, round(sinogram.n_views / float(random.uniform(5, 12))))
    start = recon.run(recon.osem(f, n_subsets=n_subsets), 1)
    labels, _ = phantom.labels(grid)
    whole = (simulation.mu > 0.02) & np.asarray(f.sensitivity > 0)
    weight = float(np.exp(random.uniform(np.log(0.15), np.log(0.6)))) / np.sqrt(density)
    prior = (
        weight
        * 0.15
        * float(start[whole].mean())
        * recon.RelativeDifference(
            2.0, epsilon=1e-3 * float(start.max()), voxel_size=grid.voxel_size, kappa=recon.spatial_weights(f, start)
        )
    )
    parts = [f.subset(k, n_subsets) for k in range(n_subsets)]
    kept = work / f"solution_{seed}.npy"
    if not kept.exists():
        near = recon.run(recon.svrg(parts, prior, start), 30)
        solution = recon.lbfgsb_scipy(f, prior, near.astype(float), n_iterations=60, tolerance=1e-13)
        np.save(kept, solution)
    solution = np.load(kept)
    found = {}
    for label in np.unique(labels[whole]):
        mask = (labels == label) & whole
        if mask.sum() >= 8 and simulation.truth[mask].mean() > 0:
            found[int(label)] = mask
    largest = max(found, key=lambda label: found[label].sum())
    inner = binary_erosion(found[largest])
    regions = [mask for label, mask in found.items() if label != largest]
    small = sorted(regions, key=lambda mask: mask.sum())[:8]
    print(
        f"{seed}: {grid.shape} {np.round(grid.voxel_size, 1)} mm, {sinogram.shape}, {n_subsets} subsets, "
        f"{density:.0f} counts a bin, weight {weight:.3f}, {len(small)} regions",
        flush=True,
    )
    return SolvedScan(parts, prior, start, solution, whole, inner if inner.sum() > 20 else found[largest], small)


def main() -> None:
    """Make the scans, train, and say how the loss on the validation scans changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--begin", type=Path, help="kernels to start from")
    parser.add_argument("--passes", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=60, help="of a round")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--scalar", action="store_true", help="one number for each pass: the control")
    parser.add_argument("--train", type=int, default=N_TRAIN)
    parser.add_argument("--validation", type=int, default=N_VALIDATION)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.work.mkdir(parents=True, exist_ok=True)
    scans = [make(seed, chosen.work) for seed in range(chosen.train)]
    validation = [make(100 + seed, chosen.work) for seed in range(chosen.validation)]

    def held(steps: recon.KernelSteps) -> float:
        with torch.no_grad():
            return float(np.mean([float(unrolled_loss(scan, steps)) for scan in validation]))

    learned = recon.KernelSteps.load(chosen.begin) if chosen.begin else train_kernel_steps(scans[:1], chosen.passes, 0)
    about = {
        "trained": "benchmarks/train_kernel_steps.py: SVRG unrolled over its first passes, RDP with gamma = 2, kappa",
        "data": f"{chosen.train} simulated PET scans: random torsos, heads and ellipses, 2 to 60 counts a bin",
        "validation loss of the plain steps": round(held(train_kernel_steps(scans[:1], chosen.passes, 0)), 3),
        **{name: value for name, value in learned.about.items() if name == "steps of Adam"},
    }
    for number in range(chosen.rounds):
        learned = train_kernel_steps(
            scans,
            chosen.passes,
            chosen.steps,
            rate=chosen.rate,
            batch=chosen.batch,
            seed=number,
            scalar=chosen.scalar,
            begin=learned,
            told=lambda step, loss: print(f"step {step}: {loss:.3f}", flush=True) if step % 10 == 0 else None,
        )
        about["steps of Adam"] = int(about.get("steps of Adam", 0)) + chosen.steps
        about["validation loss"] = round(held(learned), 3)
        print(f"round {number}: {about}", flush=True)
        recon.KernelSteps(learned.gains, learned.weights, about=about).save(chosen.out)
    print(np.round(learned.gains, 2), np.round(learned.weights, 2))


if __name__ == "__main__":
    main()
