"""Print hashes of images and data that a change of structure must not alter: SPECT, PET, list-mode, unrolled.

Run it at two commits on one machine; equal lines mean equal bits.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from emrecon import projectors, recon, sims, unrolled


def show(name: str, *arrays: object) -> None:
    """Print one line: what was made, and the hash of its bytes."""
    digest = hashlib.sha256()
    for values in arrays:
        digest.update(np.ascontiguousarray(np.asarray(values)).tobytes())
    print(f"{name:34} {digest.hexdigest()[:32]}", flush=True)


def spect() -> None:
    """OSEM, MAP and kernel EM of an attenuated, blurred scan."""
    grid = projectors.ImageGrid((48, 48, 20), 6.4)
    camera = projectors.SPECTGeometry.circular(n_views=40, radius=200, n_bins=(48, 20), pixel_size=6.4)
    phantom = sims.spect_cylinder()
    mu = phantom.attenuation(grid, energy_kev=140.5)
    blur = projectors.collimator("siemens-lehr").response(140.5)
    A = projectors.SPECTProjector(grid, camera, mu, blur)
    model = projectors.AcquisitionModel(A, background=0.5)
    expected = model(phantom.activity(grid))
    show("SPECT expected", expected)
    f = recon.PoissonLikelihood(sims.poisson(expected, seed=0), model)
    start = recon.run(recon.osem(f, n_subsets=5), 3)
    show("SPECT osem", start)
    show("SPECT mlem", recon.run(recon.mlem(f), 3))
    prior = 0.02 * recon.RelativeDifference(gamma=2.0, epsilon=0.01)
    for name in ("bsrem", "svrg", "saga"):
        show(f"SPECT {name}", recon.run(getattr(recon, name)(f, prior, start, 5), 3))
    for name in ("osl", "map_em"):
        quadratic = 0.001 * recon.Quadratic()
        engine = recon.map_em(f, quadratic, start) if name == "map_em" else recon.osl(f, quadratic, start, 5)
        show(f"SPECT {name}", recon.run(engine, 2))
    show("SPECT lbfgsb", recon.run(recon.lbfgsb(f, prior, start), 3))
    show("SPECT spdhg", recon.run(recon.spdhg(f, 0.05 * recon.TotalVariation(), start, 5), 3))
    show("SPECT kem", recon.run(recon.kem(f, recon.kernel_matrix(mu, n_neighbours=8, window=3), n_subsets=5), 2))
    direct = projectors.SPECTProjector(grid, camera, mu, blur, blur="direct")
    rays = projectors.SPECTProjector(grid, camera, mu, sampling="rays")
    show("SPECT direct, rays", direct(start), direct.T(expected), rays(start), rays.T(expected))


def pet() -> None:
    """OSEM of a TOF sinogram and of the events of another, with scatter."""
    scanner = projectors.PETScanner.polygon(
        sides=16, crystals_per_side=6, radius=150, depth=5, rings=5, ring_pitch=6, name="small"
    )
    grid = projectors.ImageGrid((40, 40, 9), (5.0, 5.0, 3.0))
    phantom = sims.Phantom([sims.Region("water", sims.Cylinder((0, 0, 0), 80, 100), 1.0, mu=0.096)])
    activity, mu = phantom.activity(grid), phantom.attenuation(grid, 511)
    for name, tof in (("PET", None), ("PET TOF", projectors.TimeOfFlight.from_ps(7, 200, 400))):
        bins = projectors.PETSinogram(scanner, tof=tof)
        A = projectors.PETProjector(grid, bins)
        factors = projectors.attenuation_factors(projectors.PETProjector(grid, bins.without_tof()), mu)
        factors = factors if tof is None else factors[:, :, None]
        model = projectors.AcquisitionModel(A, factors, background=0.3)
        counts = sims.poisson(model(activity), seed=1)
        f = recon.PoissonLikelihood(counts, model)
        show(f"{name} osem", recon.run(recon.osem(f, n_subsets=4), 2))
    view, radial, _, plane = np.nonzero(counts)
    crystals = bins.crystal_pairs[view, 0, radial]
    rings = np.array([pairs[0] for pairs in bins.ring_pairs])[plane]
    events = (rings * scanner.n_crystals + crystals).astype(np.int32)
    lines = projectors.ListmodeProjector(grid, scanner, events)
    sensitivity = projectors.PETProjector(grid, bins.without_tof()).T(factors[:, :, 0])
    f = recon.ListmodeLikelihood(projectors.AcquisitionModel(lines, background=0.2), sensitivity)
    show("list-mode osem", recon.run(recon.osem(f, n_subsets=4), 2))
    plain = bins.without_tof()
    show("PET scatter", projectors.single_scatter(activity, mu, grid, plain, energy_resolution=0.15))


def networks() -> None:
    """MAPEM-Net and FBSEM-Net forward, their gradients, and DIPRecon."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    grid = projectors.ImageGrid((24, 24, 1), 8.0)
    camera = projectors.SPECTGeometry.circular(n_views=24, radius=150, n_bins=(24, 1), pixel_size=8.0)
    model = projectors.AcquisitionModel(projectors.SPECTProjector(grid, camera), background=0.1)
    activity = torch.rand(2, 24, 24, 1) * 10
    f = recon.PoissonLikelihood(sims.poisson(model(activity), seed=2), model)
    for name in ("mapem_net", "fbsem_net", "em_net", "bcd_net"):
        with unrolled.seeded(1):
            net = getattr(unrolled, name)(dimensions=2)
        image = net(f)
        image.square().sum().backward()
        gradients = [p.grad.numpy() for p in net.parameters() if p.grad is not None]
        show(f"unrolled {name}", image.detach().numpy(), *gradients)


if __name__ == "__main__":
    spect()
    pet()
    networks()
