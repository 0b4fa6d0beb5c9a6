"""Criteria of images by closed form, adversarial objectives of every kind, diffusion, and pairs of doses."""

import pytest
import torch
from network_cases import skip_without_monai

from emrecon import recon, unrolled

T = torch.rand(2, 9, 8, 3, generator=torch.Generator().manual_seed(0)) + 0.5


def generator():
    with unrolled.seeded(0):
        return unrolled.unet_enhancer(2, width=2, levels=2)


def test_charbonnier_and_sobel_by_closed_form():
    assert float(unrolled.charbonnier(T + 0.3, T, epsilon=0.4)) == pytest.approx(0.5)
    assert float(unrolled.sobel_loss(T + 5.0, T)) == pytest.approx(0, abs=1e-6)  # an offset has no edges
    ramp = torch.arange(9.0)[:, None, None].expand(9, 8, 1)
    inner = unrolled.sobel_loss(2 * ramp, ramp, torch.zeros(9, 8, 1).index_fill(0, torch.tensor([4]), 9.0))
    assert float(inner) == pytest.approx(0.5)  # slope 1 along x, 0 along y
    with pytest.raises(ValueError, match="no axis with two voxels"):
        unrolled.sobel_loss(torch.ones(1, 1, 1), torch.ones(1, 1, 1))


@pytest.mark.parametrize("kind", ["gauss", "dog"])
def test_an_observer_sees_its_channels(kind):
    loss = unrolled.ObserverLoss(kind, size=5, width=4.0)
    assert float(loss(T, T)) == 0
    image = T.clone().requires_grad_()
    loss(image, 2 * T).backward()
    assert image.grad.abs().sum() > 0
    assert float(loss(3 * T, 6 * T)) == pytest.approx(float(loss(T, 2 * T)), rel=1e-4)


def test_channels_are_those_of_the_observers():
    U = recon.laguerre_gauss_channels((5, 5), 4.0, 2)
    template = (0.5, -1.0)
    loss = unrolled.ObserverLoss(size=5, width=4.0, n=2, template=template)
    seen = loss.outputs(T.double())[0, 0, 4, 4, 1]
    patch = T[0, 2:7, 2:7, 1].double().reshape(1, -1)
    assert float(seen) == pytest.approx(float((recon.channel_outputs(patch, U) @ torch.tensor(template).double())[0]))
    with pytest.raises(ValueError, match="2 channels need a template"):
        unrolled.ObserverLoss(size=5, width=4.0, n=2, template=(1.0,))
    with pytest.raises(ValueError, match="size must be odd"):
        unrolled.ObserverLoss(size=4)


def test_features_of_the_own_encoder():
    encoder = unrolled.FeatureEncoder(2, (2, 3))
    before = encoder.levels[0][0].weight.clone()
    first = unrolled.train_encoder(encoder, lambda epoch: iter([T]), 2)
    assert first > 0
    assert not torch.equal(before, encoder.levels[0][0].weight)
    loss = unrolled.PerceptualLoss(encoder)
    assert float(loss(T, T)) == 0
    image = (T + 0.1).requires_grad_()
    loss(image, T).backward()
    assert image.grad.abs().sum() > 0
    assert not any(w.requires_grad for w in encoder.parameters())
    with pytest.raises(ValueError, match="no voxels to weigh"):
        loss(T, T, T)
    with pytest.raises(ValueError, match="got no images"):
        unrolled.train_encoder(encoder, lambda epoch: iter(()), 2)


@pytest.mark.parametrize("kind", ["hinge", "standard", "least-squares", "wasserstein"])
def test_each_learns_from_its_own_line(kind):
    network = generator()
    with unrolled.seeded(1):
        model = unrolled.WithDiscriminator(network, unrolled.patch_discriminator(2, (2,), 2))
    objective = unrolled.Adversarial(0.0, kind=kind, conditional=True)
    objective(model, ({"x": T}, T + 0.1), torch.Generator().manual_seed(0)).backward()
    adversarial = [w.grad.clone() for w in network.parameters()]
    model.zero_grad()
    unrolled.mse(network(T), T + 0.1).backward()
    for found, plain in zip(adversarial, network.parameters()):  # without weight, the discriminator tells it nothing
        torch.testing.assert_close(found, plain.grad)
    model.zero_grad()
    unrolled.Adversarial(1.0, kind=kind, conditional=True)(model, ((T,), T), torch.Generator()).backward()
    assert all(w.grad is not None for w in model.parameters())
    with pytest.raises(ValueError, match="conditional needs the image"):
        unrolled.Adversarial._given({"likelihood": None})


def test_cycles_come_back():
    with unrolled.seeded(0):
        parts = [unrolled.patch_discriminator(2, (2,)) for _ in range(2)]
    model = unrolled.CycleGAN(generator(), generator(), *parts)
    unpaired, paired = unrolled.CycleConsistent(), unrolled.CycleConsistent(supervised=5.0)
    batch = ({"x": T}, T.flip(0))
    one, other = (unpaired(model, batch, torch.Generator().manual_seed(s)).detach() for s in (0, 0))
    assert float(one) == float(other)
    paired(model, batch).backward()
    assert all(w.grad is not None for w in model.parameters())
    torch.testing.assert_close(model(T), model.generator(T))
    for wrong in (generator(), unrolled.WithDiscriminator(generator(), parts[0])):
        with pytest.raises(TypeError, match="trains a CycleGAN"):
            unpaired(wrong, batch)


def test_diffusion_learns_and_draws_the_same():
    skip_without_monai()
    with unrolled.seeded(0):
        network = unrolled.diffusion_enhancer(2, widths=[4, 8], sampling=2, steps=10)
    loss = unrolled.Diffusing()(network, ({"x": T}, T), torch.Generator().manual_seed(0))
    again = unrolled.Diffusing()(network, ((5 * T,), 5 * T), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, again)
    loss.backward()
    with torch.no_grad():
        assert torch.equal(network(T), network(T))
    with pytest.raises(TypeError, match="ConditionalDiffusion"):
        unrolled.Diffusing()(generator(), ((T,), T))


def test_pairs_of_several_doses():
    pairs = unrolled.ImagePairs((4, 4, 1), (1.0, 0.5, 0.25), (0.5, 0.25), ("ct",), "truth", 9.0)
    assert pairs.fields == ("reconstruction", "ct", "truth", "lesions")
    images = torch.rand(2, 3, 4, 4) + 1
    fields = {
        "reconstruction": images,
        "ct": torch.rand(2, 4, 4),
        "truth": images[:, 0],
        "lesions": torch.ones(2, 4, 4),
    }
    arguments, target, weight = pairs(fields)
    assert arguments["x"].shape == target.shape == weight.shape == (4, 4, 4, 1)
    torch.testing.assert_close(unrolled.mean_scale(arguments["x"]), torch.ones(4, 1, 1, 1))
    torch.testing.assert_close(target[2] / arguments["x"][2], (images[0, 0] / images[0, 2])[..., None])
    assert float(weight.min()) == 10
    with pytest.raises(ValueError, match="no field 'truth'"):
        pairs({"reconstruction": images})
    with pytest.raises(ValueError, match=r"level 0.1 is not among"):
        unrolled.ImagePairs((4, 4, 1), (1.0,), (0.1,))
