"""Unrolled MAP-EM: equal to the classical steps where the networks are simple, and right in its gradients."""

import numpy as np
import pytest
import torch

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    LinearResponse,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    TimeOfFlight,
)
from emrecon.sims import list_events
from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.methods.presets import bcd_net, em_net, fbsem_net, learned_primal_dual, mapem_net, osem_varnet
from emrecon.unrolled.methods.unrolled_em import UnrolledEM, em_update, fixed_point
from emrecon.unrolled.networks.blocks import ResidualUnit, SmallCNN, seeded

N = 12
GRID = ImageGrid((N, N, 1), 4.0)
CAMERA = SPECTGeometry.circular(12, 60, (N, 1), 4.0)


def spect(batch=2, scale=1.0, dtype=torch.float64, seed=0):
    """A batch of slices, each with a mu map and a background of its own."""
    rng = np.random.default_rng(seed)
    mu = rng.uniform(0.05, 0.15, (batch, *GRID.shape))
    A = SPECTProjector(GRID, CAMERA, mu, LinearResponse(0.03, 2.0))
    x = torch.as_tensor(rng.uniform(1, 5, (batch, *GRID.shape)), dtype=dtype)
    background = torch.as_tensor(rng.uniform(0.5, 1.5, (batch, *CAMERA.shape)), dtype=dtype)
    counts = torch.poisson(4 * A(x) + background, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return recon.PoissonLikelihood(scale * counts, AcquisitionModel(A, 4.0, scale * background))


def identity(x, sigma=None, *, guide=None):
    return x


def small(dimensions=2, guides=0, seed=0, dtype=torch.float64):
    with seeded(seed):
        return NetworkDenoiser(SmallCNN(dimensions, 1 + guides, residual=True), dimensions, guides).to(dtype)


# ---- the classical steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_identity_without_beta_is_em(n):
    f = spect()
    start = f.ones_image()
    expected = recon.run(recon.osem(f, start, n), 5)
    for per_subset in (True, False):
        net = UnrolledEM(identity, 5, subsets=n, beta=0.0, per_subset=per_subset)
        torch.testing.assert_close(net(f, start), expected, rtol=1e-12, atol=0)


def test_a_quadratic_proximal_map_is_de_pierro():
    f = spect()
    prior = 0.3 * recon.Quadratic(neighbours=6)
    start = f.ones_image()
    curvature = prior.curvature(start)

    def step(x, sigma=None, *, guide=None):
        return x - prior.gradient(x) / curvature

    net = UnrolledEM(step, 6, beta=curvature, scale=None)
    expected = recon.run(recon.map_em(f, prior, start), 6)
    torch.testing.assert_close(net(f, start), expected, rtol=1e-9, atol=1e-12)


def test_passes_of_osem_make_the_start():
    likelihood = spect()
    begun = UnrolledEM(small(), 2, initial=(2, 3))
    unit = begun.scale(likelihood)
    start = recon.run(recon.osem(likelihood, unit * likelihood.ones_image(), 3), 2)
    torch.testing.assert_close(begun(likelihood), begun(likelihood, start), rtol=0, atol=0)
    assert not torch.equal(begun(likelihood), UnrolledEM(small(), 2)(likelihood))
    twice = begun(spect(scale=2.0))
    torch.testing.assert_close(twice, 2 * begun(likelihood))
    parts = [likelihood.subset(k, 3) for k in range(3)]
    fixed = {"initial": (2, 3), "scale": lambda f: torch.full((2, 1, 1, 1), 3.0, dtype=torch.float64)}
    whole = UnrolledEM(small(), 2, subsets=3, **fixed)(likelihood)
    torch.testing.assert_close(UnrolledEM(small(), 2, **fixed)(parts), whole)


def narrow(counts=None):
    """A detector that sees the middle alone, and each of four subsets only a part of that."""
    camera = SPECTGeometry.circular(8, 60, (4, 1), 4.0)
    A = SPECTProjector(GRID, camera)
    x = torch.as_tensor(np.random.default_rng(0).uniform(1, 5, (2, *GRID.shape)))
    y = torch.poisson(A(x), generator=torch.Generator().manual_seed(0)) if counts is None else counts
    return recon.PoissonLikelihood(y, AcquisitionModel(A, background=0.1))


@pytest.mark.parametrize("subsets", [1, 4])
def test_voxels_that_a_subset_does_not_see_are_those_of_osem(subsets):
    f = narrow()
    start = torch.full((2, *GRID.shape), 2.0, dtype=torch.float64)
    expected = recon.run(recon.osem(f, start, subsets), 3)
    net = UnrolledEM(identity, 3, subsets=subsets, beta=0.0)
    torch.testing.assert_close(net(f, start), expected, rtol=1e-9, atol=1e-12)
    seen = f.sensitivity_like(start) > 0
    assert bool((net(f)[seen.expand_as(start)] > 0).all())


def test_the_dual_variable_is_that_of_admm():
    f, start, rho = spect(), spect().ones_image(), 0.7

    def denoise(x, sigma=None, *, guide=None):
        return 0.5 * x + 0.2

    s, x, mu = f.sensitivity_like(start), start, torch.zeros_like(start)
    for _ in range(3):
        z = denoise(x + mu)
        mu = mu + x - z
        for _ in range(2):
            x = recon.em_fuse(recon.em_step(x, f), z - mu, s, rho)
    net = UnrolledEM(denoise, 3, em_steps=2, dual=True, beta=rho, scale=None)
    torch.testing.assert_close(net(f, start), x, rtol=1e-12, atol=0)


def test_images_after_every_module():
    f = spect()
    net = UnrolledEM([small(seed=i) for i in range(3)])
    images = net(f, each=True)
    assert len(images) == 3
    torch.testing.assert_close(images[-1], net(f), rtol=0, atol=0)
    assert not torch.equal(images[0], images[1])


# ---- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"dual": True, "em_steps": 2}, {"per_subset": True, "subsets": 3}])
@pytest.mark.parametrize("form", ["fuse", "gradient", "residual"])
def test_gradients_by_weights_and_strength(options, form):
    if form != "fuse":
        options = {"subsets": 2}
    f = spect(batch=1)
    net = UnrolledEM(small(), 2, form=form, **options)
    net.to(torch.float64)
    weights = list(net.parameters())
    target = torch.rand(f.ones_image().shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss():
        return ((net(f) - target) ** 2).sum()

    gradients = torch.autograd.grad(loss(), weights)
    rng = np.random.default_rng(0)
    for weight, gradient in zip(weights, gradients):
        direction = torch.as_tensor(rng.normal(size=weight.shape))
        with torch.no_grad():
            step = 1e-6
            weight += step * direction
            above = loss()
            weight -= 2 * step * direction
            below = loss()
            weight += step * direction
        slope = float((above - below) / (2 * step))
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-4, abs=1e-6)


def test_modes_of_the_gradient():
    f = spect()
    found = {}
    for grad in ("full", "checkpoint", "detach"):
        net = UnrolledEM(small(), 3, grad=grad).to(torch.float64)
        image = net(f)
        image.pow(2).sum().backward()
        found[grad] = image.detach(), torch.cat([w.grad.flatten() for w in net.parameters()])
    for grad in ("checkpoint", "detach"):
        torch.testing.assert_close(found[grad][0], found["full"][0], rtol=0, atol=0)
    torch.testing.assert_close(found["checkpoint"][1], found["full"][1], rtol=1e-12, atol=0)
    assert (found["detach"][1] - found["full"][1]).norm() > 1e-2 * found["full"][1].norm()


def test_checkpoints_change_no_running_statistics():
    f, found = spect(), {}
    for grad in ("full", "checkpoint"):
        with seeded(0):
            net = mapem_net(n_modules=2, width=4, grad=grad).to(torch.float64)
        net(f).sum().backward()
        found[grad] = [w.grad for w in net.parameters()], [b.clone() for b in net.buffers()]
    for a, b in zip(found["checkpoint"][0], found["full"][0]):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, b in zip(found["checkpoint"][1], found["full"][1]):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_detached_gradients_are_those_of_constant_em_images():
    f = spect(batch=1)
    denoiser = small()
    net = UnrolledEM(denoiser, 1, grad="detach", beta=0.5, scale=None).to(torch.float64)
    start = f.ones_image()
    em = recon.em_step(start, f).detach()
    expected = recon.em_fuse(em, denoiser(start), f.sensitivity_like(start), 0.5)
    wanted = torch.autograd.grad(expected.sum(), list(denoiser.parameters()))
    found = torch.autograd.grad(net(f, start).sum(), list(denoiser.parameters()))
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


def test_checkpoints_keep_less():
    f = spect(batch=3)

    def kept(grad):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            em_update(f.ones_image().requires_grad_(), f, grad)
        return sum(sizes)

    assert kept("checkpoint") <= kept("full") - f.data.numel()
    with pytest.raises(ValueError, match="must be one of"):
        em_update(f.ones_image(), f, "half")


def test_the_gradient_of_a_fixed_point():
    f = spect(batch=1)
    network = small()

    def denoise(x, sigma=None, *, guide=None):
        return 0.3 * network(x) + 1

    net = UnrolledEM(denoise, 1, beta=40.0, scale=None)
    weights = list(network.parameters())

    def step(x):
        return net(f, x)

    start = f.ones_image()
    x = start
    for _ in range(80):
        x = step(x)
    expected = torch.autograd.grad(x.pow(2).sum(), weights)
    solved = fixed_point(step, start, n_iterations=300, n_adjoint=300, tolerance=1e-9)
    torch.testing.assert_close(solved, x.detach(), rtol=1e-5, atol=1e-6)
    found = torch.autograd.grad(solved.pow(2).sum(), weights)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


# ---- the published networks ------------------------------------------------------------------------------------------


def n_parameters(module):
    return sum(w.numel() for w in module.parameters())


def test_parameter_counts():
    assert n_parameters(fbsem_net(2)) == 28_612
    assert n_parameters(fbsem_net(2, guide_channels=1)) == 28_900
    assert 85_000 < n_parameters(fbsem_net(3)) < 86_700
    assert n_parameters(bcd_net()) == 128_700
    assert n_parameters(osem_varnet(n_modules=4)) - n_parameters(osem_varnet(n_modules=2)) == 2


def networks():
    yield "mapem", lambda g: mapem_net(n_modules=2, guide_channels=g, width=4)
    yield "mapem untied", lambda g: mapem_net(n_modules=2, guide_channels=g, width=4, tied=False)
    yield "fbsem", lambda g: fbsem_net(n_modules=2, guide_channels=g, subsets=3)
    yield "emnet", lambda g: em_net(n_modules=2, guide_channels=g, width=4)
    yield "varnet", lambda g: osem_varnet(guide_channels=g, subsets=3)
    yield "lpd", lambda g: learned_primal_dual(n_iterations=2, width=8, guide_channels=g)
    yield "bcd", lambda g: bcd_net(2, n_modules=3, guide_channels=g, channels=6, alpha=(-3.0, -1.0))


def cases():
    return [pytest.param(make, g, id=f"{name} {g}") for name, make in networks() for g in (0, 1)]


@pytest.mark.parametrize(("make", "guides"), cases())
def test_every_network(make, guides):
    with seeded(0):
        net = make(guides).to(torch.float64).eval()
    rng = torch.Generator().manual_seed(0)
    guide = torch.rand((2, N, N, 1), generator=rng, dtype=torch.float64) if guides else None
    f, doubled = spect(), spect(scale=2.0)
    image = net(f, guide=guide)
    assert image.shape == (2, N, N, 1)
    assert torch.isfinite(image).all()
    assert (image >= 0).all()
    torch.testing.assert_close(net(doubled, guide=guide), 2 * image, rtol=1e-9, atol=1e-9)
    one = recon.PoissonLikelihood(
        f.data[1],
        AcquisitionModel(
            f.model.projector.with_attenuation(f.model.projector.attenuation[1]), 4.0, f.model.background[1]
        ),
    )
    torch.testing.assert_close(net(one, guide=None if guide is None else guide[1]), image[1], rtol=1e-9, atol=1e-9)
    image.sum().backward()
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in net.parameters())
    again = make(guides).to(torch.float64).eval()
    again.load_state_dict(net.state_dict())
    torch.testing.assert_close(again(f, guide=guide), image, rtol=0, atol=0)


def volume():
    grid = ImageGrid((8, 8, 4), 5.0)
    A = SPECTProjector(grid, SPECTGeometry.circular(8, 50, (8, 4), 5.0), None, LinearResponse(0.03, 2.0))
    return grid, A


def pet(tof=None):
    scanner = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60, rings=2, ring_pitch=8)
    sinogram = PETSinogram(scanner, tof=tof)
    grid = ImageGrid((8, 8, 3), (6.0, 6.0, 4.0))
    return grid, PETProjector(grid, sinogram)


@pytest.mark.parametrize("system", [volume, pet, lambda: pet(TimeOfFlight(3, 40.0, 50.0))], ids=["spect", "pet", "tof"])
def test_volumes(system):
    grid, A = system()
    x = torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(0)) + 1
    f = recon.PoissonLikelihood(torch.poisson(A(x) + 0.5), AcquisitionModel(A, 1.0, 0.5))
    with seeded(0):
        nets = [
            UnrolledEM(NetworkDenoiser(ResidualUnit(3, width=4), 3), 2, subsets=2),
            learned_primal_dual(3, n_iterations=1, width=4),
        ]
    for net in nets:
        image = net(f)
        assert image.shape == x.shape
        image.sum().backward()
        assert all(torch.isfinite(w.grad).all() for w in net.parameters())


def test_list_mode_events():
    grid, A = pet()
    x = torch.rand(grid.shape, generator=torch.Generator().manual_seed(0)) + 1
    counts = torch.poisson(A(x), generator=torch.Generator().manual_seed(1))
    sinogram = A.sinogram
    events, _ = list_events(Scan(counts.numpy(), sinogram, duration=1.0), seed=0)
    projector = ListmodeProjector(grid, sinogram.scanner, events)
    model = AcquisitionModel(projector, 1.0, 0.1)
    events = recon.ListmodeLikelihood(model, A.T(torch.ones(sinogram.shape)))
    binned = recon.PoissonLikelihood(counts, AcquisitionModel(A, 1.0, 0.1))
    with seeded(0):
        net = UnrolledEM(NetworkDenoiser(ResidualUnit(3, width=4), 3), 2, scale=None, beta=0.5).eval()
    start = torch.ones(grid.shape)
    torch.testing.assert_close(net(events, start), net(binned, start), rtol=2e-3, atol=1e-4)
    net(events, start).sum().backward()
    assert all(torch.isfinite(w.grad).all() for w in net.parameters())
    with pytest.raises(TypeError, match="histogram the events"):
        learned_primal_dual(3)(events)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UnrolledEM(identity, 0), "at least one"),
        (lambda: UnrolledEM([identity] * 2, 3), "2 denoisers for 3 modules"),
        (lambda: UnrolledEM(identity, 2, grad="half"), "grad must be one of"),
        (lambda: UnrolledEM(identity, 2, initial=(2, 0)), "passes, subsets"),
        (lambda: UnrolledEM(identity, 2, dual=True, per_subset=True), "dual"),
        (lambda: UnrolledEM(identity, 2, initial_beta=float("inf")), "learn"),
        (lambda: UnrolledEM(identity, 2.0), "whole numbers"),
        (
            lambda: learned_primal_dual(2, guide_channels=2)(spect(), guide=torch.ones(3, N, N, 1)),
            "must be .*2, x, y, z",
        ),
        (lambda: UnrolledEM(identity, 2, beta=-1.0), "not negative"),
        (lambda: UnrolledEM(identity, 2, beta="learned"), "learn"),
        (lambda: learned_primal_dual(2)(spect(), guide=spect().ones_image()), "guide_channels"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("first", [1e-12, 0.1, 1.0, 1e4])
def test_strengths_begin_where_they_are_told(first):
    net = UnrolledEM(identity, 1, initial_beta=first).double()
    assert float(net._weight(0, torch.ones(1, dtype=torch.float64)).detach()) == pytest.approx(first, rel=1e-4)


def test_guides_without_a_batch_serve_all_items():
    f, guide = spect(), torch.rand((2, N, N, 1), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with seeded(0):
        net = learned_primal_dual(2, n_iterations=2, guide_channels=2).double()
    torch.testing.assert_close(net(f, guide=guide), net(f, guide=guide.expand(2, 2, N, N, 1)))


def test_numpy_data_are_refused():
    f = spect()
    numpy = recon.PoissonLikelihood(f.data.numpy(), AcquisitionModel(f.model.projector, 4.0, 1.0))
    with pytest.raises(TypeError, match="torch"):
        UnrolledEM(identity, 1)(numpy)
    with pytest.raises(TypeError, match="starts from a torch tensor, got ndarray"):
        UnrolledEM(identity, 1)(f, np.ones((2, N, N, 1), np.float32))
    with pytest.raises(ValueError, match=r"a start of .* does not fit images of"):
        UnrolledEM(identity, 1)(f, torch.ones(2, N, N + 1, 1))
