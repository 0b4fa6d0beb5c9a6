"""DPIR-Net's loss: each part learns from its own line, whatever the counts, and the features stay the same."""

import pytest
import torch

from emrecon import unrolled
from emrecon.unrolled.training import features_of


def images(n=2, seed=1):
    return torch.rand((n, 12, 12, 2), generator=torch.Generator().manual_seed(seed))


def pair():
    with unrolled.seeded(0):
        return unrolled.WithDiscriminator(torch.nn.Conv3d(1, 1, 1), unrolled.patch_discriminator(2, (2, 2)))


class Network(torch.nn.Module):
    """x -> a x."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.a * x


def test_the_three_terms_and_the_critic():
    model = unrolled.WithDiscriminator(Network(), pair().discriminator)
    perceptual = unrolled.PerceptualLoss(unrolled.FeatureEncoder(2, (2, 3)))
    loss = unrolled.DPIRLoss(perceptual, 0.3, 0.2, penalty=0.0)
    x, t = images(), images(seed=2)
    loss(model, (x, t)).backward()
    unit = t.mean((1, 2, 3), keepdim=True)
    made, real = model(x) / unit, t / unit
    folded = [y.movedim(-1, -3).reshape(-1, 1, 12, 12) for y in (made, real)]
    of_network = (
        ((made - real) ** 2).mean() + 0.3 * perceptual(made, real) - 0.2 * model.discriminator(folded[0]).mean()
    )
    (slope,) = torch.autograd.grad(of_network, model.generator.a)
    torch.testing.assert_close(model.generator.a.grad, slope)
    of_critic = model.discriminator(folded[0].detach()).mean() - model.discriminator(folded[1]).mean()
    weights = list(model.discriminator.parameters())
    for w, g in zip(weights, torch.autograd.grad(of_critic, weights, allow_unused=True)):
        torch.testing.assert_close(w.grad, torch.zeros_like(w) if g is None else g)


def test_scans_of_all_counts_weigh_the_same():
    model = unrolled.WithDiscriminator(Network(), pair().discriminator)
    loss = unrolled.DPIRLoss(unrolled.PerceptualLoss(unrolled.FeatureEncoder(2, (2,))))
    x, t = images(), images(seed=2)
    one, other = (loss(model, (s * x, s * t), torch.Generator().manual_seed(0)) for s in (1.0, 1000.0))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_features_are_those_of_the_first_call(tmp_path):
    first = features_of(lambda epoch: iter([images()]), 2, tmp_path, 2)
    again = features_of(lambda epoch: iter([images(seed=5)]), 2, tmp_path, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


def test_what_is_no_pair_of_networks_is_refused():
    perceptual = unrolled.PerceptualLoss(unrolled.FeatureEncoder(2, (2,)))
    with pytest.raises(TypeError, match="DPIRLoss trains a WithDiscriminator"):
        unrolled.DPIRLoss(perceptual)(Network(), (images(), images()))
    with pytest.raises(ValueError, match="the weight must be 0 or more"):
        unrolled.DPIRLoss(perceptual, weight=-1)
