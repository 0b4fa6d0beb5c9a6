"""Training losses against references, their gradients, and what learning from noisy data alone converges to."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.operator import DenseOperator, Projector
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood, em_step
from emrecon.unrolled.training.losses import (
    Supervised,
    WeightedSum,
    applied,
    l1,
    lesion_weight,
    mse,
    poisson_loss,
    relative_mse,
    ssim_loss,
)
from emrecon.unrolled.training.noise2noise import ThinnedNoise2Noise
from emrecon.unrolled.training.noise2void import Noise2Void, blind_spots
from emrecon.unrolled.training.thinning import thin, thinned
from emrecon.unrolled.training.with_deepinv import DeepinvLoss, equivariant, measurement_splitting, recorrupted


class Dense(DenseOperator, Projector):
    """A matrix whose rows are views."""

    def subset(self, k, n):
        matrix = self.matrix.reshape(*self.out_shape, -1)[k::n]
        shape = (matrix.shape[0], *self.out_shape[1:])
        return Dense(matrix.reshape(-1, matrix.shape[-1]), self.in_shape, shape)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.rand(shape, generator=seeded(seed), dtype=torch.float64)


def projector(seed=0, views=6, bins=5, image=(4, 4, 1)):
    matrix = np.random.default_rng(seed).random((views * bins, math.prod(image)))
    return Dense(matrix, image, (views, bins))


def likelihood(counts=None, background=0.5, batch=2, seed=1, dtype=torch.float64):
    A = projector()
    if counts is None:
        truth = 3 * images(batch, 4, 4, 1, seed=seed)
        counts = torch.poisson(A(truth) + background, generator=seeded(seed)).to(dtype)
    return PoissonLikelihood(counts, AcquisitionModel(A, background=background))


# ---- image losses ----------------------------------------------------------------------------------------------------


def test_values_against_their_formulas():
    x, t, w = images(2, 3, 4, 5), images(2, 3, 4, 5, seed=1), images(3, 4, 5, seed=2)
    assert mse(x, t).item() == pytest.approx(np.mean((x - t).numpy() ** 2))
    assert l1(x, t, w).item() == pytest.approx(np.mean(w.numpy() * np.abs((x - t).numpy())))
    per_item = [((a - b) ** 2).sum() / (b**2).sum() for a, b in zip(x, t)]
    assert relative_mse(x, t).item() == pytest.approx(np.mean(per_item))
    both = WeightedSum((1.0, l1), (0.5, mse))
    assert both(x, t, w).item() == pytest.approx((l1(x, t, w) + 0.5 * mse(x, t, w)).item())


@pytest.mark.parametrize("shape", [(24, 20, 1), (14, 13, 12)])
def test_ssim_is_that_of_scikit_image(shape):
    from skimage.metrics import structural_similarity

    x, t = images(*shape), images(*shape, seed=1)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    two = (image.numpy().squeeze() for image in (x, t))
    _, expected = structural_similarity(*two, data_range=float(t.max()), **options)
    assert 1 - ssim_loss(x, t).item() == pytest.approx(expected.mean(), rel=1e-9)
    assert ssim_loss(t, t).item() == pytest.approx(0, abs=1e-12)
    weight = images(*shape, seed=3)
    assert ssim_loss(x, t, weight).item() == pytest.approx(((1 - expected) * weight.numpy().squeeze()).mean(), rel=1e-9)


def test_the_range_of_ssim_is_that_of_each_item():
    x, t = images(2, 12, 12, 1), images(2, 12, 12, 1, seed=1)
    scale = torch.tensor([1.0, 1000.0], dtype=torch.float64)[:, None, None, None]
    assert ssim_loss(scale * x, scale * t).item() == pytest.approx(ssim_loss(x, t).item(), rel=1e-9)
    assert relative_mse(scale * x, scale * t).item() == pytest.approx(relative_mse(x, t).item(), rel=1e-12)
    assert ssim_loss(x.float(), t.float()).dtype == torch.float32


@pytest.mark.parametrize("criterion", [mse, l1, relative_mse, ssim_loss, WeightedSum((1.0, l1), (0.5, ssim_loss))])
def test_gradients_are_right(criterion):
    x, t, w = images(2, 5, 4, 3).requires_grad_(), images(2, 5, 4, 3, seed=1), 1 + images(5, 4, 3, seed=2)
    assert torch.autograd.gradcheck(lambda x: criterion(x, t, w), x)


def test_lesion_weights():
    mask = torch.zeros(2, 9, 9, 1, dtype=torch.bool)
    mask[:, 4, 4] = True
    assert lesion_weight(mask)[0, 4, 4, 0] == 101
    x, t = images(2, 9, 9, 1).float(), images(2, 9, 9, 1, seed=1).float()
    assert l1(x, t, lesion_weight(mask)).item() == pytest.approx((l1(x, t) + 100 * l1(x, t, mask)).item(), rel=1e-5)
    soft = lesion_weight(mask, 9, blur=1.0)
    assert soft.shape == mask.shape
    assert (soft - 1).sum().item() == pytest.approx(2 * 9, rel=1e-5)
    assert 1 < soft[0, 4, 5, 0] < soft[0, 4, 4, 0] < 10
    torch.testing.assert_close(lesion_weight(torch.ones(6, 7, 8), 9, blur=2.0), torch.full((6, 7, 8), 10.0))


def test_bad_images_and_weights():
    x = images(2, 4, 4, 1)
    for criterion in (mse, l1, relative_mse, ssim_loss):
        with pytest.raises(ValueError, match="one shape"):
            criterion(x, x[:1])
    with pytest.raises(ValueError, match="broadcast"):
        mse(x, x, torch.ones(2, 2, 4, 4, 1))
    with pytest.raises(ValueError, match="zero everywhere"):
        relative_mse(x, 0 * x)
    with pytest.raises(ValueError, match="maximum of the reference"):
        ssim_loss(x, 0 * x)
    with pytest.raises(ValueError, match="between 0 and 1"):
        lesion_weight(2 * torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="not be negative"):
        lesion_weight(torch.ones(2, 2, 2), -1)
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum()


# ---- the data fit ----------------------------------------------------------------------------------------------------


def test_poisson_loss_is_zero_for_a_perfect_fit_and_half_for_the_truth():
    A = projector(views=40, bins=50, image=(3, 3, 1))
    truth = 100 * images(3, 3, 1) + 100
    expected = A(truth) + 5
    model = AcquisitionModel(A, background=5.0)
    assert poisson_loss(truth, PoissonLikelihood(expected, model)).item() == pytest.approx(0, abs=1e-10)
    counts = torch.poisson(expected, generator=seeded())
    assert poisson_loss(truth, PoissonLikelihood(counts, model)).item() == pytest.approx(0.5, rel=0.1)


def test_poisson_loss_has_the_likelihoods_gradient():
    f = likelihood()
    x = (1 + images(2, 4, 4, 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: poisson_loss(x, f), x)
    (gradient,) = torch.autograd.grad(poisson_loss(x, f), x)
    torch.testing.assert_close(gradient, f.gradient(x.detach()) / (2 * 30))


def test_poisson_loss_of_events():
    A = Dense(np.random.default_rng(0).random((50, 16)), (4, 4, 1), (50,))
    f = ListmodeLikelihood(AcquisitionModel(A, background=0.1), torch.ones(4, 4, 1, dtype=torch.float64))
    x = 1 + images(4, 4, 1)
    assert poisson_loss(x, f).item() == pytest.approx(f.value(x).item() / 50)


# ---- thinning and Noise2Noise ----------------------------------------------------------------------------------------


def test_thinned_parts_are_independent_and_poisson():
    p, mean, n = 0.3, 8.0, 200_000
    y = torch.poisson(torch.full((n,), mean), generator=seeded())
    first, second = thin(y, p, seeded(1))
    assert torch.equal(first + second, y)
    for part, expected in ((first, p * mean), (second, (1 - p) * mean)):
        assert part.mean().item() == pytest.approx(expected, abs=5 * math.sqrt(expected / n))
        assert part.var().item() == pytest.approx(expected, rel=0.02)
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert abs(correlation) < 5 / math.sqrt(n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8])
def test_thinning_follows_dtype_and_seed(dtype):
    y = torch.tensor([0, 3, 17, 250]).to(dtype)
    first, second = thin(y, 0.5, seeded(3))
    assert first.dtype == second.dtype == dtype
    assert torch.equal(first + second, y)
    assert torch.equal(first, thin(y, 0.5, seeded(3))[0])
    assert first[0] == 0


def test_thinning_refuses_what_are_no_counts():
    for bad in ([0.5], [-1.0], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="integers >= 0"):
            thin(torch.tensor(bad), 0.5, seeded())
    for p in (0.0, 1.0, -1, math.nan):
        with pytest.raises(ValueError, match="share of the counts"):
            thin(torch.ones(1), p, seeded())


@pytest.mark.parametrize("scale", [1.0, torch.tensor([[[1.0]], [[2.5]]], dtype=torch.float64)])
def test_models_of_the_parts_add_up_and_keep_the_unit_of_the_image(scale):
    A, x = projector(), 1 + images(2, 4, 4, 1)
    factors = 0.5 + images(6, 5, seed=4)
    counts = torch.poisson(50 * images(2, 6, 5), generator=seeded())
    f = PoissonLikelihood(counts, AcquisitionModel(A, factors, images(6, 5, seed=5), scale))
    first, second = thinned(f, 0.3, seeded())
    torch.testing.assert_close(first.model(x), 0.3 * f.model(x))
    torch.testing.assert_close(first.model(x) + second.model(x), f.model(x))
    torch.testing.assert_close(first.gradient(x) + second.gradient(x), f.gradient(x))
    fresh = PoissonLikelihood(first.data, first.model)
    torch.testing.assert_close(first.sensitivity, fresh.sensitivity)
    torch.testing.assert_close(em_step(x.float(), first), em_step(x.float(), fresh))


class Scaled(nn.Module):
    """The linear reconstruction W y1 / p, with a learned matrix W."""

    def __init__(self, p):
        super().__init__()
        self.p = p
        self.weight = nn.Parameter(0.05 + 0.01 * images(16, 30))

    def forward(self, likelihood):
        x = likelihood.data.reshape(len(likelihood.data), -1) @ self.weight.T / self.p
        return x.reshape(-1, 4, 4, 1)


@pytest.mark.parametrize("p", [0.5, 0.25])
def test_noise2noise_in_images_has_the_supervised_gradient(p):
    """E over y2 of |W y1/p - x2|^2 is that with the truth plus a constant, for x2 = B (y2 / (1 - p) - r), B A = 1."""
    A, n = projector(), 20_000
    truth = 5 + 3 * images(4, 4, 1)
    expected = (A(truth) + 0.5).expand(n, 6, 5)
    f = PoissonLikelihood(torch.poisson(expected, generator=seeded(2)), AcquisitionModel(A, background=0.5))
    inverse = torch.linalg.pinv(torch.as_tensor(A.matrix))

    def unbiased(part):
        return (((part.data / (1 - p) - 0.5).reshape(n, -1)) @ inverse.T).reshape(-1, 4, 4, 1)

    model = Scaled(p)
    objective = ThinnedNoise2Noise(p, unbiased)
    (noisy,) = torch.autograd.grad(objective(model, f, seeded(7)), model.weight)
    (clean,) = torch.autograd.grad(mse(model(thinned(f, p, seeded(7))[0]), truth.expand(n, 4, 4, 1)), model.weight)
    assert torch.linalg.norm(noisy - clean) < 0.02 * torch.linalg.norm(clean)


def test_noise2noise_in_data_has_the_gradient_of_the_noise_free_data():
    A, n, p = projector(), 20_000, 0.25
    truth = 5 + 3 * images(4, 4, 1)
    expected = (A(truth) + 0.5).expand(n, 6, 5)
    model = AcquisitionModel(A, background=0.5)
    f = PoissonLikelihood(torch.poisson(expected, generator=seeded(2)), model)
    network = Scaled(p)
    (noisy,) = torch.autograd.grad(ThinnedNoise2Noise(p)(network, f, seeded(7)), network.weight)
    seen, _ = thinned(f, p, seeded(7))
    part = AcquisitionModel(A, background=0.5 * (1 - p), scale=1 - p)
    clean_loss = poisson_loss(network(seen), PoissonLikelihood((1 - p) * expected, part))
    (clean,) = torch.autograd.grad(clean_loss, network.weight)
    assert torch.linalg.norm(noisy - clean) < 0.02 * torch.linalg.norm(clean)


def test_noise2noise_finds_the_likelihood_in_the_arguments():
    f, generator = likelihood(), seeded()

    def step(likelihood, guide=None):
        return em_step(likelihood.ones_image(), likelihood)

    values = [ThinnedNoise2Noise()(step, batch, seeded()) for batch in (f, (f, None), {"likelihood": f, "guide": None})]
    assert len({value.item() for value in values}) == 1
    with pytest.raises(ValueError, match="looks for 'likelihood'"):
        ThinnedNoise2Noise()(step, {"scan": f}, generator)
    with pytest.raises(ValueError, match="share of the counts"):
        ThinnedNoise2Noise(1.0)


# ---- blind spots -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "box"), [((3, 32, 24, 2), (8, 8, 1)), ((2, 12, 10, 9), (4, 4, 4)), ((9, 9, 1), (4, 4, 1))]
)
def test_blind_spots_take_neighbours_and_never_themselves(shape, box):
    image = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    items = image.reshape(-1, *shape[-3:])
    counts = torch.zeros(shape)
    for seed in range(40):
        hidden, spots = blind_spots(image, seeded(seed), box)
        assert torch.equal(hidden[~spots], image[~spots])
        assert (hidden[spots] != image[spots]).all()
        counts += spots
        for place in torch.nonzero(spots.reshape(items.shape))[:20]:
            taken = torch.nonzero(items == hidden.reshape(items.shape)[tuple(place)])[0]
            assert taken[0] == place[0]
            reach = [2 if edge > 1 else 0 for edge in box]
            assert all(abs(a - b) <= r for a, b, r in zip(taken[1:], place[1:], reach))
    assert counts.sum().item() / counts.numel() / 40 == pytest.approx(1 / math.prod(box), rel=0.2)


def test_blind_neighbours_are_uniform():
    image = torch.arange(25.0).reshape(5, 5, 1).expand(20_000, 5, 5, 1)
    hidden, spots = blind_spots(image, seeded(), (5, 5, 1))
    assert (spots.sum((1, 2, 3)) == 1).all()
    centre = spots[:, 2, 2, 0]
    frequency = torch.bincount(hidden[centre, 2, 2, 0].long(), minlength=25) / centre.sum()
    assert frequency[12] == 0
    assert (frequency[torch.arange(25) != 12] - 1 / 24).abs().max() < 5 * math.sqrt(1 / 24 / centre.sum())


def test_noise2void_sees_only_hidden_voxels():
    image = images(2, 16, 16, 1)
    hidden, spots = blind_spots(image, seeded(4))
    value = Noise2Void()(nn.Identity(), image, seeded(4))
    torch.testing.assert_close(value, ((hidden - image) ** 2)[spots].mean())
    assert Noise2Void()(lambda x, guide: image, (image, None), seeded(4)) == 0


def test_blind_spots_refuse_what_has_no_neighbours():
    with pytest.raises(ValueError, match="at least 1"):
        blind_spots(torch.ones(4, 4, 1), torch.Generator(), (8, 8))
    with pytest.raises(ValueError, match="no neighbours"):
        blind_spots(torch.ones(4, 1, 1, 8), seeded())
    for box, reach in (((0, 1, 1), 2), ((8, 8, 1), 0)):
        with pytest.raises(ValueError, match="at least 1"):
            blind_spots(torch.ones(8, 8, 1), seeded(), box, reach)


# ---- objectives ------------------------------------------------------------------------------------------------------


def test_supervised_takes_tensors_tuples_and_mappings():
    x, t, w = images(2, 4, 4, 1), images(2, 4, 4, 1, seed=1), images(2, 4, 4, 1, seed=2)
    expected = mse(2 * x, t, w)

    def model(x, factor=2):
        return factor * x

    for arguments in (x, (x,), (x, 2), {"x": x, "factor": 2}):
        assert Supervised()(model, (arguments, t, w)) == expected
    with pytest.raises(ValueError, match=r"\(arguments, target\)"):
        Supervised()(model, x)
    assert torch.equal(applied(model, [x, 3]), 3 * x)


def deepinv_or_skip():
    try:
        import deepinv
    except (ImportError, RuntimeError) as error:  # also where its torchvision does not fit torch
        pytest.skip(f"deepinv cannot be imported: {error}")
    return deepinv


@pytest.mark.filterwarnings("ignore")
def test_losses_of_deepinv():
    deepinv = deepinv_or_skip()

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, y, physics):
            return self.layer(physics.A_adjoint(y))

    physics = deepinv.physics.Inpainting((1, 12, 12), mask=0.7)
    y = physics(images(2, 1, 12, 12).float())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Network()
    for objective in (
        equivariant(physics, deepinv.transform.Shift()),
        measurement_splitting(physics, (1, 12, 12), 0.8),
    ):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            value = objective(network, y, seeded())
        assert value.ndim == 0
        (gradient,) = torch.autograd.grad(value, network.layer.weight)
        assert gradient.abs().sum() > 0
    x = physics.A_adjoint(y)
    supervised = DeepinvLoss(deepinv.loss.SupLoss(), physics)
    torch.testing.assert_close(supervised(network, (y, x), seeded()), ((network(y, physics) - x) ** 2).mean())


def test_a_missing_deepinv_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r"emrecon\[deepinv\]"):
        equivariant(None, None)
    with pytest.raises(ImportError, match=r"emrecon\[deepinv\]"):
        recorrupted(None)


def test_objectives_draw_by_themselves_without_a_generator():
    x = torch.rand(2, 16, 16, 1)
    torch.manual_seed(0)
    first = Noise2Void()(nn.Identity(), x, None)
    torch.manual_seed(0)
    assert torch.equal(first, Noise2Void()(nn.Identity(), x))
    with pytest.raises(TypeError, match="Noise2Void takes noisy images, tensors"):
        Noise2Void()(nn.Identity(), x.numpy(), None)
    one, two = thin(torch.full((4, 5), 10.0), 0.5)
    assert torch.equal(one + two, torch.full((4, 5), 10.0))
