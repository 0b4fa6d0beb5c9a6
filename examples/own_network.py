"""A network of your own inside an unrolled loop: EM steps of the real physics, and gradients through the projector.

Any torch module from channels to one channel is a body; `NetworkDenoiser` hands it images, `UnrolledEM` puts it between
MAP-EM steps, and one training step shows that gradients reach the weights through the projector.
"""

import torch
from common import options, save
from torch import nn

from emrecon import projectors, recon, sims, unrolled


class Body(nn.Module):
    """Two convolutions whose result is added to the image."""

    def __init__(self, width=16):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x):
        return torch.relu(x + self.layers(x))


def main():
    """Train on phantoms that are drawn as they are needed, and reconstruct one that was not among them."""
    choice = options(__doc__)
    n, steps = (24, 3) if choice.quick else (48, 150)
    grid = projectors.ImageGrid((n, n, 1), 320 / n)
    camera = projectors.SPECTGeometry.circular(n_views=32, radius=150, n_bins=(n, 1), pixel_size=320 / n)
    A = projectors.SPECTProjector(grid, camera, response=projectors.LinearResponse(0.02, 2.0))
    model = projectors.AcquisitionModel(A, background=0.1)

    def scans(seeds):
        truth = torch.stack([torch.as_tensor(sims.random_ellipses(seed).activity(grid)) for seed in seeds])
        counts = torch.poisson(model(truth), generator=torch.Generator().manual_seed(seeds[0]))
        return recon.PoissonLikelihood(counts, model), truth

    with unrolled.seeded(0):
        network = unrolled.UnrolledEM(unrolled.NetworkDenoiser(Body(), dimensions=2), n_modules=4, subsets=2)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    for step in range(steps):
        likelihood, truth = scans(range(100 + 4 * step, 104 + 4 * step))
        loss = unrolled.mse(network(likelihood), truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 25 == 0:
            print(f"step {step}: loss {loss.item():.4f}")

    likelihood, truth = scans([1])
    with torch.no_grad():
        images = {"truth": truth, "OSEM": recon.run(recon.osem(likelihood, n_subsets=4), 3), "own": network(likelihood)}
    save(choice.out / "own_network.png", {name: image[0].numpy() for name, image in images.items()})


if __name__ == "__main__":
    main()
