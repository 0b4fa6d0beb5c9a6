"""deepinv, MONAI and PyTomography: our systems and reconstructions there, their denoisers and systems here."""

import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from battery import mismatch, relative_error
from torch import nn

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    DenseOperator,
    ImageGrid,
    LinearResponse,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.interop.deepinv import (
    as_denoiser,
    as_linear_physics,
    as_loss,
    as_reconstructor,
    as_stacked,
    from_denoiser,
    from_linear_physics,
    maximum_scale,
    split_views,
)
from emrecon.unrolled.interop.pytomography import as_pytomography, from_pytomography
from emrecon.unrolled.methods.plug_and_play import PlugAndPlayEM
from emrecon.unrolled.methods.unrolled_em import UnrolledEM
from emrecon.unrolled.networks.blocks import SmallCNN, seeded
from emrecon.unrolled.networks.scaling import ScaleEquivariant
from emrecon.unrolled.training.losses import mse, poisson_loss
from emrecon.unrolled.training.with_deepinv import equivariant, measurement_splitting, recorrupted

N = 12
GRID, CAMERA = ImageGrid((N, N, 1), 4.0), SPECTGeometry.circular(12, 60, (N, 1), 4.0)


def required(name):
    """Another library without the warnings of its import, or a skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # also where torchvision does not fit torch
            pytest.skip(f"{name} cannot be imported: {error}")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def system(slices=1, background=0.5, seed=0):
    grid = ImageGrid((N, N, slices), 4.0)
    camera = SPECTGeometry.circular(12, 60, (N, slices), 4.0)
    mu = np.random.default_rng(seed).uniform(0.05, 0.15, grid.shape).astype(np.float32)
    return AcquisitionModel(SPECTProjector(grid, camera, mu, LinearResponse(0.03, 2.0)), 3.0, background)


def activity(model, batch=2, dtype=torch.float32):
    x = torch.rand((batch, *model.projector.in_shape), generator=generator(1), dtype=torch.float64).to(dtype)
    return 1 + 4 * x


def counts(model, batch=2, dtype=torch.float32):
    return torch.poisson(model(activity(model, batch, dtype)), generator=generator(2))


def small(dimensions=2, guides=0):
    with seeded(0):
        return NetworkDenoiser(SmallCNN(dimensions, 1 + guides, residual=True), dimensions, guides)


# ---- our systems as physics ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slices", [1, 3])
def test_physics_is_our_system_with_another_layout(slices):
    required("deepinv")
    model = system(slices)
    physics = as_linear_physics(model, image_unit=2.0, data_unit=5.0)
    x = activity(model, dtype=torch.float64)
    image = physics.from_image(x)
    assert image.shape == (2, 1, N, N) if slices == 1 else (2, 1, N, N, slices)
    torch.testing.assert_close(physics.as_image(image), x)
    y = physics.A(image)
    assert y.shape == (2, 1, 12, N) if slices == 1 else (2, 1, 12, N, slices)
    torch.testing.assert_close(5 * y.reshape(2, *CAMERA.shape[:2], slices), model.linear(x))
    with_background = physics.A(image, add_background=True)
    torch.testing.assert_close(5 * with_background.reshape(2, *CAMERA.shape[:2], slices), model(x))
    torch.testing.assert_close(physics.likelihood(with_background).model(x), model(x))
    torch.testing.assert_close(physics.likelihood(with_background).data, model(x))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        assert physics.adjointness_test(image.to(dtype), num_samples=3) < tolerance


@pytest.mark.parametrize("dimensions", [2, 3])
def test_norm_and_gradients(dimensions):
    required("deepinv")
    model = system()
    physics = as_linear_physics(model, dimensions=dimensions)
    x = physics.from_image(activity(model, 1, torch.float64))
    assert x.ndim == 2 + dimensions
    matrix = model.linear(torch.eye(N * N, dtype=torch.float64).reshape(-1, N, N, 1)).reshape(N * N, -1)
    norm = physics.compute_norm(x, squared=False, verbose=False, tol=1e-8, max_iter=500)
    assert norm == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda t: physics.A(t, add_background=True), (x,), fast_mode=True)
    y = physics.A(x).detach().requires_grad_()
    assert torch.autograd.gradcheck(physics.A_adjoint, (y,), fast_mode=True)
    stacked = as_stacked(model, 3, dimensions=dimensions)
    assert torch.autograd.gradcheck(lambda t: tuple(stacked.A(t)), (x,), fast_mode=True)


def test_simulated_counts_and_parameters_of_a_data_set():
    required("deepinv")
    model = system()
    physics = as_linear_physics(model, data_unit=10.0)
    x = physics.from_image(activity(model, 50))
    y = physics(x)
    torch.testing.assert_close(10 * y, (10 * y).round(), rtol=0, atol=1e-3)
    mean = physics.A(x, add_background=True)
    assert float(((y - mean) ** 2 / mean).mean() * 10) == pytest.approx(1, rel=0.1)  # variance = mean / unit
    patients = torch.rand((50, 1, 12, N), generator=generator())
    physics.update(background=patients)
    torch.testing.assert_close(physics.A(x, add_background=True), physics.A(x) + patients)
    torch.testing.assert_close(physics.likelihood(y).model.background, 10 * patients[:, 0, ..., None])


def test_bad_arguments_of_the_physics():
    required("deepinv")
    model = system(3)
    with pytest.raises(ValueError, match="3 slices"):
        as_linear_physics(model, dimensions=2)
    with pytest.raises(ValueError, match="dimensions must be"):
        as_linear_physics(model, dimensions=4)
    with pytest.raises(ValueError, match="positive units"):
        as_linear_physics(model, image_unit=0)
    physics = as_linear_physics(model)
    with pytest.raises(ValueError, match=r"images must be \(B, 1, 12, 12, 3\)"):
        physics.A(torch.ones(2, N, N, 3))
    with pytest.raises(ValueError, match="data must be"):
        physics.A_adjoint(torch.ones(2, 3, 12, N, 3))


def test_em_of_deepinv_is_ours():
    deepinv = required("deepinv")
    model = system()
    y = counts(model, dtype=torch.float64)
    f = recon.PoissonLikelihood(y, model)
    physics = as_linear_physics(model)
    data = y[:, None, ..., 0]
    theirs = deepinv.optim.MLEM(max_iter=5)(data, physics)
    ours = recon.run(recon.mlem(f, torch.ones_like(f.ones_image())), 5)
    torch.testing.assert_close(physics.as_image(theirs), ours, rtol=1e-6, atol=1e-8)
    stacked = as_stacked(model, 4)
    assert stacked.adjointness_test(physics.from_image(f.ones_image())) < 1e-12
    theirs = deepinv.optim.OSEM(num_subsets=4, max_iter=2)(split_views(data, 4), stacked)
    ours = recon.run(recon.osem(f, torch.ones_like(f.ones_image()), 4), 2)
    torch.testing.assert_close(physics.as_image(theirs), ours, rtol=1e-6, atol=1e-8)


def unit_physics(model):
    """With images in [0, 1] and norm 1, as deepinv's methods for least squares like them."""
    x = as_linear_physics(model).from_image(activity(model, 1))
    norm = float(as_linear_physics(model, image_unit=5.0).compute_norm(x, squared=False, verbose=False))
    return as_linear_physics(model, image_unit=5.0, data_unit=norm)


def test_plug_and_play_and_posterior_sampling_of_deepinv():
    deepinv = required("deepinv")
    physics = unit_physics(system(background=0.0))
    x = physics.from_image(activity(physics.model))
    assert float(physics.compute_norm(x, squared=False, verbose=False)) == pytest.approx(1, rel=0.02)
    y = physics.A(x)
    denoiser = as_denoiser(lambda image, sigma, guide=None: image)
    assert isinstance(denoiser, deepinv.models.Denoiser)
    pnp = deepinv.optim.PGD(
        prior=deepinv.optim.prior.PnP(denoiser),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        stepsize=1.0,
        sigma_denoiser=0.05,
        max_iter=200,
    )
    result = pnp(y, physics)
    assert relative_error(physics.A(result).detach(), y) < 0.02
    sampler = deepinv.sampling.DPS(as_denoiser(small()), num_steps=3, dtype=torch.float32, rng=generator())
    with torch.random.fork_rng():
        sample = sampler(y, physics)
    assert sample.shape == x.shape
    assert bool(sample.isfinite().all())


# ---- our reconstructions there ---------------------------------------------------------------------------------------


def test_reconstructor_equals_the_method():
    deepinv = required("deepinv")
    model = system()
    y = counts(model)
    f = recon.PoissonLikelihood(y, model)
    network = UnrolledEM(small(), 2, subsets=3)
    expected = network(f)
    physics = as_linear_physics(model, image_unit=3.0, data_unit=7.0)
    model_of_deepinv = as_reconstructor(network)
    assert isinstance(model_of_deepinv, deepinv.models.Reconstructor)
    assert sum(p.numel() for p in model_of_deepinv.parameters()) == sum(p.numel() for p in network.parameters())
    data = y[:, None, ..., 0] / 7
    torch.testing.assert_close(physics.as_image(model_of_deepinv(data, physics)), expected)
    stacked = as_stacked(model, 3, image_unit=3.0, data_unit=7.0)
    start = 2 * f.ones_image()
    staged = as_reconstructor(UnrolledEM(small(), 2), start=lambda likelihood: start)
    result = physics.as_image(staged(split_views(data, 3), stacked))
    torch.testing.assert_close(result, UnrolledEM(small(), 2)([f.subset(k, 3) for k in range(3)], start))


def test_reconstructor_finds_guides():
    required("deepinv")
    for slices in (1, 3):
        model = system(slices)
        y = counts(model)
        guide = torch.rand((2, *model.projector.in_shape), generator=generator())
        network = UnrolledEM(small(2, 1), 2)
        expected = network(recon.PoissonLikelihood(y, model), guide=guide)
        physics = as_linear_physics(model)
        data = y[:, None, ..., 0] if slices == 1 else y[:, None]
        passed = physics.from_image(guide)
        reconstructor = as_reconstructor(network)
        torch.testing.assert_close(physics.as_image(reconstructor(data, physics, guide=passed)), expected)
        physics.update(guide=passed)
        torch.testing.assert_close(physics.as_image(reconstructor(data, physics)), expected)


def test_reconstructor_with_physics_of_deepinv():
    deepinv = required("deepinv")
    model = system()
    ours, y = as_linear_physics(model), counts(model)
    data = y[:, None, ..., 0]
    plain = deepinv.physics.LinearPhysics(A=lambda x, **_: ours.A(x), A_adjoint=lambda y, **_: ours.A_adjoint(y))
    network = as_reconstructor(UnrolledEM(small(), 2))
    without = AcquisitionModel(model.projector, model.factors)
    expected = network(data, as_linear_physics(without))
    torch.testing.assert_close(network(data, plain), expected)
    foreign = from_linear_physics(ours, data.shape[1:], (1, N, N))
    x = activity(model)
    torch.testing.assert_close(foreign(x).reshape(y.shape), model(x))
    assert mismatch(foreign.projector, "float64") < 1e-12
    with pytest.raises(ValueError, match="images"):
        from_linear_physics(ours, data.shape[1:], (2, N, N))
    mask = (torch.rand((2, 1, 12, N), generator=generator()) < 0.7).float()  # one for each item
    with pytest.warns(UserWarning, match="not be decomposable"):
        masked = deepinv.physics.Inpainting((1, 12, N), mask=mask) * ours
    result = network(masked.A(ours.from_image(x), add_background=True), masked)
    for k, kept in enumerate(mask.numpy()[:, 0, ..., None]):
        own = AcquisitionModel(model.projector, 3.0 * kept, 0.5 * kept)
        alone = network.method(recon.PoissonLikelihood(own(x[k : k + 1]), own))
        torch.testing.assert_close(result[k : k + 1], ours.from_image(alone))
    with pytest.raises(ValueError, match="2 items"):
        from_linear_physics(masked, data.shape[1:], (1, N, N), 2)(x[:1])


class Pairs(torch.utils.data.Dataset):
    """(image, data, parameters) as deepinv's trainer takes them, with a background for each scan."""

    def __init__(self, n):
        model = system()
        physics = as_linear_physics(model)
        self.x = physics.from_image(activity(model, n))
        self.background = torch.rand((n, 1, 12, N), generator=generator(3))
        physics.update(background=self.background)
        self.y = torch.poisson(physics.A(self.x, add_background=True), generator=generator(4))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return self.x[k], self.y[k], {"background": self.background[k]}


def test_trainer_and_losses_of_deepinv(tmp_path):
    deepinv = required("deepinv")
    physics = as_linear_physics(system())
    network = as_reconstructor(UnrolledEM(small(), 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loader = torch.utils.data.DataLoader(Pairs(4), batch_size=2)
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        trainer = deepinv.Trainer(
            model=network,
            physics=physics,
            optimizer=torch.optim.Adam(network.parameters(), 1e-2),
            train_dataloader=loader,
            epochs=1,
            losses=deepinv.loss.SupLoss(),
            metrics=deepinv.loss.metric.MSE(),
            device="cpu",
            save_path=None,
            verbose=False,
            show_progress_bar=False,
        )
        trained = trainer.train()
    assert trained is network
    after = network.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert physics.background.shape == (2, 1, 12, N)
    x, y, parameters = next(iter(loader))
    physics.update(**parameters)
    check_losses(deepinv, network, physics, x, y)


def check_losses(deepinv, network, physics, x, y):
    """Theirs and ours give gradients to the network, called by their conventions or by ours."""
    losses = deepinv.loss
    theirs = (losses.SupLoss(), losses.MCLoss(), losses.R2RLoss(noise_model=physics.noise_model))
    for loss in (*theirs, as_loss(mse), as_loss(poisson_loss, against="data")):
        adapted = loss.adapt_model(network)
        arguments = {"update_parameters": True} if adapted is not network else {}
        with torch.random.fork_rng():
            x_net = adapted(y, physics, **arguments)
            value = loss(x_net=x_net, x=x, y=y, physics=physics, model=adapted).mean()
        assert reaches(value, network), loss
    torch.testing.assert_close(as_loss(mse)(x, 2 * x, y, physics), (physics.as_image(x) ** 2).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for objective in (
            equivariant(physics, deepinv.transform.Shift()),
            measurement_splitting(physics, (1, 12, N), 0.8),
            recorrupted(physics, 0.3),
        ):
            with torch.random.fork_rng():
                assert reaches(objective(network, y, generator()), network), objective
    with pytest.raises(TypeError, match="as_linear_physics"):
        as_loss(mse)(x, x, y, deepinv.physics.Denoising())
    with pytest.raises(ValueError, match="brings none"):
        as_loss(mse)(x, None, y, physics)
    with pytest.raises(ValueError, match="against"):
        as_loss(mse, against="counts")


def reaches(value, network):
    """Whether a value depends on the weights of a network."""
    gradients = torch.autograd.grad(value, [p for p in network.parameters() if p.requires_grad], allow_unused=True)
    return any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


# ---- denoisers -------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A denoiser in deepinv's conventions that keeps what it was called with."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, x, sigma):
        self.calls.append((x, sigma))
        return x * 0.5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_foreign_denoiser_sees_the_unit_range(dimensions):
    inner = Recorder()
    denoiser = from_denoiser(inner, dimensions=dimensions, channels=3, multiple=4)
    assert isinstance(denoiser, ScaleEquivariant)
    x = 7 * torch.rand((2, 6, 8, 3), generator=generator())
    torch.testing.assert_close(denoiser(x), 0.5 * x)
    image, sigma = inner.calls[-1]
    assert image.shape == ((6, 3, 8, 8) if dimensions == 2 else (2, 3, 8, 8, 4))
    assert float(image.max()) == pytest.approx(1)
    assert bool((sigma == 0.05).all())
    assert len(sigma) == len(image)
    denoiser(x, torch.tensor([0.7, 1.4]))
    expected = torch.tensor([0.7, 1.4]) / maximum_scale(x).flatten()
    torch.testing.assert_close(inner.calls[-1][1], expected.repeat_interleave(len(image) // 2))
    torch.testing.assert_close(denoiser(3 * x, 3 * torch.tensor([0.7, 1.4])), 3 * denoiser(x, torch.tensor([0.7, 1.4])))
    from_denoiser(inner, dimensions=dimensions, scale=10.0)(x, 2.0)
    assert bool((inner.calls[-1][1] == 0.2).all())
    torch.testing.assert_close(inner.calls[-1][0].amax(), x.amax() / 10)
    with pytest.raises(ValueError, match="no guide"):
        denoiser(x, guide=x)


def test_bad_arguments_of_denoisers():
    for arguments in ({"dimensions": 1}, {"sigma": -1}, {"channels": 0}, {"scale": 0.0}):
        with pytest.raises(ValueError, match="from_denoiser"):
            from_denoiser(Recorder(), **arguments)


@pytest.mark.filterwarnings("ignore")
def test_networks_of_deepinv_in_our_methods():
    deepinv = required("deepinv")
    model = system()
    f = recon.PoissonLikelihood(counts(model), model)
    with seeded(0):
        inner = {
            "DnCNN": deepinv.models.DnCNN(1, 1, depth=4, nf=8, pretrained=None),
            "DRUNet": deepinv.models.DRUNet(1, 1, nc=(4, 4, 4, 4), nb=1, pretrained=None),
            "TV": deepinv.models.TVDenoiser(n_it_max=5),
        }
    for name, network in inner.items():
        denoiser = from_denoiser(network, multiple=8)
        image = PlugAndPlayEM(denoiser, 3, sigma=0.1)(f)
        assert image.shape == (2, N, N, 1), name
        doubled = recon.PoissonLikelihood(2 * f.data, AcquisitionModel(model.projector, 3.0, 2 * model.background))
        if name == "TV":  # it remembers its last result
            continue
        torch.testing.assert_close(
            PlugAndPlayEM(denoiser, 3, sigma=0.1)(doubled), 2 * image, rtol=1e-3, atol=1e-3, msg=name
        )
        unrolled = UnrolledEM(denoiser, 2)
        assert name == "TV" or reaches(unrolled(f).sum(), network), name


def test_our_denoisers_in_deepinv():
    deepinv = required("deepinv")
    network = small()
    denoiser = as_denoiser(network)
    x = torch.rand((2, 3, 8, 6), generator=generator())
    expected = network(x.reshape(6, 8, 6, 1)).reshape(x.shape)
    torch.testing.assert_close(denoiser(x, 0.1), expected)
    volume = torch.rand((2, 1, 8, 6, 4), generator=generator())
    torch.testing.assert_close(denoiser(volume, 0.1), network(volume[:, 0])[:, None])
    levels = torch.tensor([0.1, 0.2])
    times_sigma = as_denoiser(lambda image, sigma, guide=None: image * sigma)
    torch.testing.assert_close(times_sigma(x, levels), x * levels.reshape(2, 1, 1, 1))
    torch.testing.assert_close(times_sigma(x, 0.5), x / 2)
    prior = deepinv.optim.prior.RED(denoiser)
    torch.testing.assert_close(prior.grad(x, 0.1), x - expected)
    with pytest.raises(ValueError, match="takes"):
        denoiser(x[0], 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dimensions", [2, 3])
def test_networks_of_monai_are_bodies(dimensions):
    nets = required("monai.networks.nets")
    slices = 1 if dimensions == 2 else 16
    f = recon.PoissonLikelihood(
        torch.ones((2, 24 * slices)),
        AcquisitionModel(Views(np.random.default_rng(0).uniform(size=(24 * slices, 256 * slices)), slices)),
    )
    guide = torch.rand((2, 16, 16, slices), generator=generator())
    with seeded(0):
        bodies = [
            nets.BasicUNet(dimensions, 2, 1, features=(4,) * 6, norm="batch", upsample="nontrainable"),
            nets.UNet(dimensions, 2, 1, channels=(4, 8), strides=(2,), num_res_units=1),
            nets.SegResNet(dimensions, 8, 2, 1, blocks_down=(1, 1), blocks_up=(1,)),
        ]
    for body in bodies:
        network = UnrolledEM(ScaleEquivariant(NetworkDenoiser(body, dimensions, 1)), 2)
        image = network(f, guide=guide)
        assert image.shape == (2, 16, 16, slices)
        assert reaches(image.sum(), body)


class Views(DenseOperator):
    """A small matrix as a projector without geometry."""

    def __init__(self, matrix, slices):
        super().__init__(matrix, (16, 16, slices), (len(matrix),))


# ---- PyTomography ----------------------------------------------------------------------------------------------------


class ToyMatrix:
    """A system matrix in PyTomography's conventions."""

    class Meta:
        def __init__(self, shape):
            self.shape = shape

    def __init__(self):
        self.object_meta, self.proj_meta = self.Meta((3, 2, 2)), self.Meta((7, 4, 2))
        self.values = torch.rand((7, 4, 2, 3, 2, 2), generator=generator())

    def set_n_subsets(self, n):
        self.subset_indices_array = [torch.arange(7)[k::n] for k in range(n)]

    def _rows(self, subset_idx):
        return self.values if subset_idx is None else self.values[self.subset_indices_array[subset_idx]]

    def forward(self, object, subset_idx=None):
        assert object.dtype == torch.float32
        assert not object.requires_grad
        return torch.einsum("vbrxyz,xyz->vbr", self._rows(subset_idx), object)

    def backward(self, proj, subset_idx=None):
        return torch.einsum("vbrxyz,vbr->xyz", self._rows(subset_idx), proj)


def test_a_system_matrix_is_a_projector():
    matrix = ToyMatrix()
    matrix.set_n_subsets(2)
    A = from_pytomography(matrix)
    assert (A.in_shape, A.out_shape) == ((3, 2, 2), (7, 4, 2))
    assert mismatch(A, "float32", batch=(2,)) < 1e-5
    x = np.random.default_rng(0).uniform(size=(2, 3, 2, 2))
    whole = A(x)
    for k in range(3):
        part = A.subset(k, 3)
        np.testing.assert_allclose(part(x), whole[:, k::3], rtol=1e-6)
        assert mismatch(part, "float32") < 1e-5
    np.testing.assert_allclose(A.subset(1, 2).subset(1, 3)(x), whole[:, 3::6], rtol=1e-6)
    assert len(matrix.subset_indices_array) == 2  # as it was
    leaf = torch.as_tensor(x, dtype=torch.float32).requires_grad_()
    A(leaf).sum().backward()
    np.testing.assert_allclose(leaf.grad[0], A.T(np.ones(A.out_shape, np.float32)), rtol=1e-5)
    f = recon.PoissonLikelihood(whole, AcquisitionModel(A))
    assert float(f.value(recon.run(recon.osem(f, n_subsets=3), 5)).sum()) < float(f.value(f.ones_image()).sum())
    with pytest.raises(TypeError, match="no forward"):
        from_pytomography(object())


def pytomography_on_cpu():
    pytomography = required("pytomography")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytomography.set_device("cpu")
        for name in ("likelihoods", "algorithms", "projectors.SPECT", "priors"):
            importlib.import_module(f"pytomography.{name}")
    return pytomography


def pet():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=3, radius=80, rings=2, ring_pitch=6)
    return AcquisitionModel(PETProjector(ImageGrid((8, 8, 3), 8.0), PETSinogram(scanner)), 0.5, 0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["spect", "pet"])
def test_osem_of_pytomography_is_ours(case):
    pytomography = pytomography_on_cpu()
    model = system(3) if case == "spect" else pet()
    x = activity(model, 1)[0]
    y = torch.poisson(model(x), generator=generator())
    matrix = as_pytomography(model)
    assert isinstance(matrix, pytomography.projectors.SystemMatrix)
    torch.testing.assert_close(matrix.forward(x), model.linear(x))
    torch.testing.assert_close(matrix.additive_term, torch.full_like(y, float(model.background)))
    likelihood = pytomography.likelihoods.PoissonLogLikelihood(matrix, y, matrix.additive_term)
    theirs = pytomography.algorithms.OSEM(likelihood)(2, 3)
    f = recon.PoissonLikelihood(y, model)
    ours = recon.run(recon.osem(f, torch.ones_like(x), 3), 2)
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)
    check_operator_of(from_pytomography(as_pytomography(model.projector)), model.projector)
    doubled = 2 * as_pytomography(model)
    torch.testing.assert_close(doubled.forward(x), 2 * model.linear(x))
    torch.testing.assert_close(doubled.compute_normalization_factor(), 2 * matrix.compute_normalization_factor())
    prior = pytomography.priors.RelativeDifferencePrior(beta=0.01, gamma=2)
    penalised = pytomography.algorithms.BSREM(likelihood, prior=prior, object_initial=torch.ones_like(x))(1, 3)
    assert bool(penalised.isfinite().all())


def check_operator_of(back, projector):
    """Round trip: the same numbers, an exact transpose, the same subsets."""
    x = np.random.default_rng(0).normal(size=projector.in_shape).astype(np.float32)
    np.testing.assert_allclose(back(x), projector(x), rtol=1e-6, atol=1e-6)
    assert mismatch(back, "float32") < 1e-5
    np.testing.assert_allclose(back.subset(1, 3)(x), projector.subset(1, 3)(x), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_spect_matrix_of_pytomography_is_a_projector():
    pytomography = pytomography_on_cpu()
    grid = ImageGrid((24, 24, 3), 4.0)
    camera = SPECTGeometry.circular(12, 100, (24, 3), 4.0)
    ours = SPECTProjector(grid, camera)
    matrix = as_pytomography(ours)
    theirs = pytomography.projectors.SPECT.SPECTSystemMatrix([], [], matrix.object_meta, matrix.proj_meta)
    A = from_pytomography(theirs)
    u, v, _ = grid.coordinates()
    x = np.broadcast_to(1.0 * (np.hypot(u - 8, v + 12) < 20), grid.shape).astype(np.float32)
    assert relative_error(A(x), ours(x)) < 0.06
    assert relative_error(A.subset(1, 4)(x), A(x)[1::4]) < 1e-6
    error = mismatch(A, "float32")
    print(f"transpose of PyTomography's SPECT matrix: {error:.1e}")
    assert error < 0.05  # its rotation back is no transpose of its rotation
    f = recon.PoissonLikelihood(A(x), AcquisitionModel(A, background=0.01))
    assert relative_error(recon.run(recon.osem(f, n_subsets=4), 5), x) < 0.5


# ---- extras ----------------------------------------------------------------------------------------------------------


def test_missing_libraries_name_their_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepinv", None)
    for call in (as_linear_physics, as_reconstructor, as_denoiser):
        with pytest.raises(ImportError, match=r"emrecon\[deepinv\]"):
            call(system())
    with pytest.raises(ImportError, match=r"emrecon\[deepinv\]"):
        as_stacked(system(), 2)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytomography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytomography", None)
    with pytest.raises(ImportError, match=r"emrecon\[peers\]"):
        as_pytomography(system())
