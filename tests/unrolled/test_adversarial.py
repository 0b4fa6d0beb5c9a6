"""Training against a discriminator: each part learns from its own line, and the loop of the library runs it."""

import pytest
import torch

from emrecon import unrolled


def pair(width=4):
    with unrolled.seeded(0):
        network = unrolled.NetworkDenoiser(unrolled.SmallCNN(2, widths=(4,), residual=True), 2)
        return unrolled.WithDiscriminator(network, unrolled.patch_discriminator(2, (width, width)))


def test_each_part_learns_from_its_own_line():
    model, random = pair(), torch.Generator().manual_seed(1)
    x, t = torch.rand((2, 2, 12, 12, 3), generator=random)
    loss = unrolled.Adversarial(weight=0.5)
    loss(model, (x, t)).backward()
    image = model(x)
    expected = (image - t).square().mean() - 0.5 * model.discriminator(
        image.movedim(-1, -3).reshape(6, 1, 12, 12)
    ).mean()
    parameters = list(model.generator.parameters())
    for p, g in zip(parameters, torch.autograd.grad(expected, parameters)):
        torch.testing.assert_close(p.grad, g)
    folded = [y.detach().movedim(-1, -3).reshape(6, 1, 12, 12) for y in (t, image)]
    real, made = map(model.discriminator, folded)
    hinge = torch.relu(1 - real).mean() + torch.relu(1 + made).mean()
    parameters = list(model.discriminator.parameters())
    for p, g in zip(parameters, torch.autograd.grad(hinge, parameters)):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.slow
def test_the_loop_trains_both_and_gives_texture_back():
    model = pair(8)
    random = torch.Generator().manual_seed(2)
    t = 1 + 0.5 * torch.randn((16, 16, 16, 1), generator=random)
    x = torch.ones_like(t) + 0.5 * torch.randn(t.shape, generator=random)  # the mean of t is all that x tells
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    settings = unrolled.Settings(40, validate_every=40)
    plain = pair(8)
    records = list(
        unrolled.train(model, lambda _: [(x, t)], unrolled.Adversarial(0.3), optimiser, settings, networks=[model])
    )
    assert records[-1].step == 40
    optimiser = torch.optim.Adam(plain.generator.parameters(), 3e-3)
    list(unrolled.train(plain.generator, lambda _: [(x, t)], unrolled.Supervised(), optimiser, settings))
    with torch.no_grad():
        assert model(x).std() > plain(x).std()  # the squared error smooths, the discriminator does not let it


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(TypeError, match="WithDiscriminator"):
        unrolled.Adversarial()(torch.nn.Identity(), (torch.ones(1), torch.ones(1)))
    with pytest.raises(ValueError, match="weight"):
        unrolled.Adversarial(weight=-1)
    with pytest.raises(ValueError, match="2 or 3"):
        unrolled.patch_discriminator(4)
    with pytest.raises(ValueError, match=r"\(arguments, target\)"):
        unrolled.Adversarial()(pair(), (torch.ones(1),))
    for shape, width in (((8,), 4), ((8, 8), 0)):
        with pytest.raises(ValueError, match="no network"):
            unrolled.ImageClassifier(shape, width)


def test_a_classifier_takes_images_and_volumes():
    for shape in ((7, 6), (7, 6, 1), (5, 6, 4)):
        network = unrolled.ImageClassifier(shape, 3, 2)
        assert network(torch.zeros((4, *shape))).shape == (4,)
    assert unrolled.ImageClassifier((7, 6), depth=0)(torch.ones((2, 7, 6))).shape == (2,)
