"""Twice the counts, twice the image: the scale of images, guides and data, through every network."""

import numpy as np
import pytest
import torch
from network_cases import BODIES, SHAPE, build, guide_for, images
from pet_cases import GRID as PET_GRID
from pet_cases import SCANNER, events_of_every_bin
from spect_cases import projector

from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    ListmodeProjector,
    PETProjector,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood, em_step, mlem
from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.networks.blocks import DnCNN, ResidualUnit, SmallCNN, seeded
from emrecon.unrolled.networks.guides import mean_scale, normalised_guide
from emrecon.unrolled.networks.scaling import ScaleEquivariant, count_scale

GRID = ImageGrid(SHAPE, 4.0)
A = SPECTProjector(GRID, SPECTGeometry.circular(n_views=6, radius=40, n_bins=(11, SHAPE[2]), pixel_size=4.0))
BACKGROUND = 0.1 + torch.rand(2, *A.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
COUNTS = torch.poisson(A(images()) + BACKGROUND, generator=torch.Generator().manual_seed(5))


def likelihood(factor=1.0, counts=COUNTS, background=BACKGROUND):
    return PoissonLikelihood(factor * counts, AcquisitionModel(A, background=factor * background))


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("guides", [0, 1])
@pytest.mark.parametrize("factor", [2.0, 1 / 3, 1e5])
def test_counts_background_and_image_doubled_double_the_result(kind, guides, factor):
    network, guide = ScaleEquivariant(build(kind, 2, guides)), guide_for(guides)
    f, g, x = likelihood(), likelihood(factor), images()
    y, scaled = network(x, guide=guide), network(factor * x, guide=guide)
    assert torch.equal(scaled, factor * y) or factor != 2  # a power of two is exact, bit for bit
    torch.testing.assert_close(scaled, factor * y, rtol=1e-10, atol=1e-10 * factor)
    once = network(em_step(x, f), 0.2, guide=guide, scale=count_scale(f))
    twice = network(em_step(factor * x, g), 0.2 * factor, guide=guide, scale=count_scale(g))
    torch.testing.assert_close(twice, factor * once, rtol=1e-9, atol=1e-9 * factor)


def test_a_bare_network_does_not_follow():
    network, x = build("residual unit", 2), images()
    assert not torch.allclose(network(2 * x), 2 * network(x), rtol=1e-3)


def test_training_follows_the_scale_too():
    with seeded(0):
        network = ScaleEquivariant(NetworkDenoiser(ResidualUnit(2, width=4), 2)).double().train()
    x, factor = images(), torch.tensor([2.0, 8.0])[:, None, None, None]
    assert torch.equal(network(factor * x), factor * network(x))


def test_items_have_scales_of_their_own():
    network, x = ScaleEquivariant(build("residual unit", 2)), images()
    x = x * torch.tensor([1.0, 1e4])[:, None, None, None]
    y = network(x)
    for i in range(2):
        torch.testing.assert_close(network(x[i]), y[i], rtol=1e-10, atol=1e-10)
    c = torch.tensor([2.0, 3e4])[:, None, None, None]
    y = network(x, scale=c)
    for i in range(2):
        torch.testing.assert_close(network(x[i], scale=float(c[i])), y[i], rtol=1e-10, atol=1e-10)


def test_zeros_stay_zeros():
    for kind in ("dncnn", "small", "one level"):
        network = ScaleEquivariant(build(kind, 2, 0, torch.float32))
        x = torch.stack([torch.zeros(SHAPE), torch.rand(SHAPE)])
        leaf = x.requires_grad_()
        y = network(leaf)
        assert not y[0].any()
        assert y[1].any()
        y.sum().backward()
        assert torch.isfinite(leaf.grad).all()


def test_gradients_pass_through_the_scale():
    with seeded(0):
        network = ScaleEquivariant(NetworkDenoiser(SmallCNN(2), 2)).double()
    x = (0.5 + images(1)[:, :4, :4, :1]).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,), fast_mode=True)
    y = network(x)
    # Euler's theorem: the derivative along x of what is homogeneous is itself
    _, along = torch.autograd.functional.jvp(network, x, x.detach())
    torch.testing.assert_close(along, y)


def test_any_denoiser_and_its_sigma():
    seen = []

    def denoiser(x, sigma=None, *, guide=None):
        seen.append((x, sigma, guide))
        return x + 1

    x, guide = images(), guide_for(1)
    network = ScaleEquivariant(denoiser)
    c = mean_scale(x)
    torch.testing.assert_close(network(x, 0.5, guide=guide), x + c)
    torch.testing.assert_close(seen[-1][0], x / c)
    torch.testing.assert_close(seen[-1][1], 0.5 / c)
    assert seen[-1][2] is guide
    sigma = torch.tensor([0.5, 1.0], dtype=x.dtype)
    network(x, sigma)
    torch.testing.assert_close(seen[-1][1], sigma[:, None, None, None] / c)
    network(x, sigma[:, None, None, None])
    torch.testing.assert_close(seen[-1][1], sigma[:, None, None, None] / c)
    network(x)
    assert seen[-1][1] is None
    torch.testing.assert_close(ScaleEquivariant(denoiser, lambda x: 2 * mean_scale(x))(x), x + 2 * c)
    torch.testing.assert_close(network(x, scale=3.0), x + 3)


def test_a_scale_that_does_not_fit():
    network = ScaleEquivariant(build("small", 2))
    for bad in (torch.ones(2), torch.ones(3, 1, 1, 1), torch.ones(2, *SHAPE), torch.ones(1, 2, 1, 1, 1)):
        with pytest.raises(ValueError, match=r"is not one number for each image .* must be \(2, 1, 1, 1\)"):
            network(images(), scale=bad)


def test_the_mean_over_the_object():
    disc = torch.zeros(40, 40, 1)
    disc[10:20, 10:20] = 7
    assert mean_scale(disc).shape == (1, 1, 1)
    assert float(mean_scale(disc)) == 7
    assert float(mean_scale(-disc)) == 7
    noisy = disc + 1e-3 * torch.rand(40, 40, 1, generator=torch.Generator().manual_seed(0))
    assert float(mean_scale(noisy)) == pytest.approx(7, rel=1e-3)  # the noise of the air is not counted
    wide = torch.nn.functional.pad(disc, (0, 0, 10, 10, 10, 10))
    assert float(mean_scale(wide)) == 7
    assert mean_scale(torch.zeros(2, 4, 4, 1)).tolist() == [[[[0]]], [[[0]]]]


def test_guides_without_units():
    guide = guide_for(2) * torch.tensor([1.0, 900.0])[:, None, None, None]
    for by in ("max", "mean"):
        one = normalised_guide(guide, by)
        torch.testing.assert_close(normalised_guide(17 * guide, by), one)
        torch.testing.assert_close(normalised_guide(guide[0, 1], by), one[0, 1])
        assert not normalised_guide(torch.zeros(SHAPE), by).any()
    torch.testing.assert_close(normalised_guide(guide).amax((-3, -2, -1)), torch.full((2, 2), 5.0, dtype=guide.dtype))
    torch.testing.assert_close(
        mean_scale(normalised_guide(guide, "mean")), torch.ones(2, 2, 1, 1, 1, dtype=guide.dtype)
    )
    with pytest.raises(ValueError, match='"max" or "mean", got \'std\''):
        normalised_guide(guide, "std")


def test_the_scale_of_counts_without_background_is_a_ratio():
    x = images()
    f = PoissonLikelihood(A(x), AcquisitionModel(A))
    expected = A(x).sum((1, 2, 3)) / A.T(torch.ones(A.out_shape, dtype=x.dtype)).sum()
    torch.testing.assert_close(count_scale(f).flatten(), expected)
    torch.testing.assert_close(count_scale(f, 1), count_scale(f))


def test_it_is_the_uniform_image_that_explains_the_counts_best():
    f = likelihood()
    c = count_scale(f, 500)
    assert c.shape == (2, 1, 1, 1)
    ones = torch.ones(2, *SHAPE, dtype=torch.float64)
    slope = (f.gradient(c * ones) * ones).sum((1, 2, 3))
    assert (slope.abs() < 1e-9 * COUNTS.sum((1, 2, 3))).all()
    truth = 4.0
    g = likelihood(counts=A(truth * ones) + BACKGROUND)
    torch.testing.assert_close(count_scale(g, 500), torch.full((2, 1, 1, 1), truth, dtype=torch.float64))
    rough = count_scale(g)
    assert (rough - truth).abs().max() < 0.05 * truth


def test_it_is_the_weighted_mean_of_an_em_update():
    f = likelihood()
    s = f.sensitivity
    uniform = (COUNTS.sum((1, 2, 3)) / s.sum())[:, None, None, None] * torch.ones(2, *SHAPE, dtype=torch.float64)
    expected = (s * em_step(uniform, f)).sum((1, 2, 3)) / s.sum()
    torch.testing.assert_close(count_scale(f, 1).flatten(), expected)


@pytest.mark.parametrize("factor", [2.0, 1 / 3, 1e5])
def test_it_follows_the_counts(factor):
    torch.testing.assert_close(count_scale(likelihood(factor)), factor * count_scale(likelihood()), rtol=1e-12, atol=0)


def test_items_alone_and_libraries():
    c = count_scale(likelihood())
    for i in range(2):
        alone = count_scale(likelihood(counts=COUNTS[i], background=BACKGROUND[i]))
        assert alone.shape == (1, 1, 1)
        torch.testing.assert_close(alone, c[i])
    numbers = count_scale(PoissonLikelihood(COUNTS.numpy(), AcquisitionModel(A, background=BACKGROUND.numpy())))
    assert isinstance(numbers, np.ndarray)
    np.testing.assert_allclose(numbers, c.numpy())
    single = count_scale(PoissonLikelihood(COUNTS[0].numpy().astype(np.float32), AcquisitionModel(A, background=0.5)))
    assert single.shape == (1, 1, 1)
    assert single.dtype == np.float32
    torch.testing.assert_close(count_scale(likelihood().subset(1, 3)), c, rtol=0.15, atol=0)


def test_factors_of_each_item_and_gradients_left_alone():
    factors = torch.rand(2, *A.out_shape, dtype=torch.float64).requires_grad_()
    f = PoissonLikelihood(COUNTS, AcquisitionModel(A, factors, BACKGROUND))
    c = count_scale(f, 500)
    assert not c.requires_grad
    ones = torch.ones(2, *SHAPE, dtype=torch.float64)
    assert (f.gradient(c * ones) * ones).sum((1, 2, 3)).abs().max() < 1e-6
    B = projector("thin", "gaussian", "per item")
    own = PoissonLikelihood(torch.ones(3, *B.out_shape), AcquisitionModel(B, background=0.1))
    assert count_scale(own).shape == (3, 1, 1, 1)
    assert len(set(count_scale(own).flatten().tolist())) == 3


def test_few_counts_never_vanish():
    nothing = likelihood(counts=torch.zeros_like(COUNTS))
    assert count_scale(nothing).flatten().tolist() == [1, 1]
    background_only = likelihood(counts=0.1 * BACKGROUND)
    c = count_scale(background_only, 1000)
    assert (c > 0).all()
    start = (0.1 * BACKGROUND).sum((1, 2, 3)) / background_only.sensitivity.sum()
    torch.testing.assert_close(c.flatten(), start / 100)
    blind = PoissonLikelihood(COUNTS * 0, AcquisitionModel(A, 0.0, 1.0))
    with pytest.raises(ValueError, match="sensitivity is 0 everywhere"):
        count_scale(blind)


def test_events_have_the_scale_of_their_sinogram():
    sinogram, rng = PETSinogram(SCANNER), np.random.default_rng(0)
    P = PETProjector(PET_GRID, sinogram)
    factors, randoms = rng.uniform(0.5, 1.5, P.out_shape), rng.uniform(0.1, 0.3, P.out_shape)
    model = AcquisitionModel(P, factors, randoms)
    counts = rng.poisson(model(rng.uniform(0, 0.1, PET_GRID.shape)))
    bins = np.repeat(np.arange(counts.size), counts.ravel())
    lines = ListmodeProjector(PET_GRID, SCANNER, events_of_every_bin(sinogram)[bins])
    own = AcquisitionModel(lines, factors.ravel()[bins], randoms.ravel()[bins])
    listed = ListmodeLikelihood(own, P.T(factors))
    np.testing.assert_allclose(count_scale(listed), count_scale(PoissonLikelihood(counts * 1.0, model)), rtol=1e-9)


def test_mlem_ends_where_the_scale_says():
    f = likelihood(background=1e-6 * BACKGROUND)
    for it in mlem(f):
        if it.iteration == 3:
            break
    s = f.sensitivity
    mean = (s * it.image).sum((1, 2, 3)) / s.sum()
    torch.testing.assert_close(count_scale(f).flatten(), mean, rtol=1e-5, atol=0)


def test_a_denoiser_with_its_state():
    network = ScaleEquivariant(NetworkDenoiser(DnCNN(2, depth=3, width=4), 2))
    again = ScaleEquivariant(NetworkDenoiser(DnCNN(2, depth=3, width=4), 2))
    again.load_state_dict(network.state_dict())
    x = images(dtype=torch.float32)
    assert torch.equal(again.eval()(x), network.eval()(x))
