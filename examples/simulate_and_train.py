"""Simulate a training set with a scanner that errs a little, train FBSEM-Net with the resumable loop, and try it.

The simulator uses finer voxels, a wrong attenuation map and a wider response than the network is told of, so the images
are not better than they would be with a real scan. The loop validates, keeps the best weights and
goes on where it stopped when this script is started again.
"""

import torch
from common import options, save

from emrecon import projectors, recon, sims, unrolled


def main():
    """Simulate, train, and compare with OSEM on held-out brains."""
    choice = options(__doc__)
    n, steps = (24, 4) if choice.quick else (48, 120)
    grid = projectors.ImageGrid((n, n, 1), 256 / n)
    camera = projectors.SPECTGeometry.circular(n_views=n, radius=150, n_bins=(n, 1), pixel_size=256 / n)
    simulator = sims.SPECTSimulator(grid, camera, projectors.collimator("siemens-lehr").response(140.5))

    def scan_of(seed):
        """A likelihood with the model that a reconstruction is given, and the truth; batches of one."""
        simulated = simulator(sims.random_folded_brain(seed, dimensions=2).phantom, seed=seed, counts=1e5)
        counts, truth = torch.as_tensor(simulated.scan.counts)[None], torch.as_tensor(simulated.truth)[None]
        return recon.PoissonLikelihood(counts, simulated.model()), truth

    n_training, n_held_out = (2, 1) if choice.quick else (24, 4)
    training = [scan_of(seed) for seed in range(n_training)]
    held_out = [scan_of(1000 + seed) for seed in range(n_held_out)]

    with unrolled.seeded(0):
        network = unrolled.fbsem_net(dimensions=2, n_modules=4)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    settings = unrolled.Settings(steps=steps, validate_every=max(steps // 8, 1), folder=choice.out / "training")
    validation = unrolled.Validation(held_out)
    records = unrolled.train(
        network,
        lambda epoch: iter(training),
        unrolled.Supervised(unrolled.mse),
        optimiser,
        settings,
        validate=validation,
    )
    for record in records:
        if record.metrics:
            print(f"step {record.step}: NRMSE {record.metrics['nrmse']:.3f} of held-out brains")

    network.load_state_dict(unrolled.best_weights(choice.out / "training"))
    likelihood, truth = held_out[0]
    with torch.no_grad():
        images = {
            "truth": truth,
            "OSEM": recon.run(recon.osem(likelihood, n_subsets=4), 4),
            "FBSEM-Net": network(likelihood),
        }
    save(choice.out / "simulate_and_train.png", {name: image[0].numpy() for name, image in images.items()})


if __name__ == "__main__":
    main()
