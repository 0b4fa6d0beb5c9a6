"""Networks of images: published sizes, the scale of images, slices, windows, and one object for every use."""

import numpy as np
import pytest
import torch
from network_cases import skip_without_monai
from torch import nn

from emrecon import recon, unrolled
from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.unrolled import Enhancer, Windowed
from emrecon.unrolled.enhancement.channels import positions
from emrecon.unrolled.networks.blocks import DnCNN
from emrecon.unrolled.networks.deep_residual import EDSR, RCAN
from emrecon.unrolled.networks.unet import UNet

SMALL = {
    "u2net": {"lite": True, "in_channels": 2, "width": 2, "norm": "none"},
    "weighted-residual": {"guide_channels": 1, "depth": 3, "width": 2},
    "dncnn": {"dimensions": 2, "guide_channels": 1, "depth": 3, "width": 2, "noise": True, "n_slices": 3},
    "unet": {"guide_channels": 1, "width": 2, "levels": 2},
    "residual-unet": {"guide_channels": 1, "width": 2, "levels": 2, "noise": True},
    "dilated-unet": {"guide_channels": 1, "width": 2, "levels": 2},
    "dense-unet": {"guide_channels": 1, "width": 2, "levels": 2},
    "coupled-unet": {"guide_channels": 1, "width": 2, "levels": 2},
    "three-unets": {"guide_channels": 1, "width": 2, "levels": 2},
    "autoencoder": {"guide_channels": 1, "depth": 2, "width": 2},
    "super-resolution": {"guide_channels": 1, "depth": 3, "width": 2},
    "edsr": {"guide_channels": 1, "n_blocks": 1, "width": 2},
    "rcan": {"guide_channels": 1, "n_groups": 1, "n_blocks": 1, "width": 2},
    "swin": {"guide_channels": 1, "width": 4, "heads": 2, "depth": 2},
    "spach": {"guide_channels": 1, "width": 4, "heads": 2, "n_blocks": 1},
    "diffusion": {"guide_channels": 1, "widths": [4, 8], "sampling": 2, "steps": 10},
}
X = torch.rand(2, 9, 8, 5, generator=torch.Generator().manual_seed(1)) + 0.1
GUIDE = torch.rand(9, 8, 5, generator=torch.Generator().manual_seed(2))


class Same(nn.Module):
    def forward(self, x):
        return x


def small(name):
    if name in ("swin", "spach", "diffusion"):
        skip_without_monai()
    with unrolled.seeded(0):
        return unrolled.ENHANCERS[name](**SMALL[name]).eval()


@pytest.mark.parametrize(
    ("build", "parameters"),
    [
        (lambda: unrolled.u2net(in_channels=2), 44_009_293),
        (lambda: unrolled.u2net(lite=True), 1_130_605),
        (unrolled.weighted_residual_cnn, 225_859),
        (unrolled.super_resolution, 667_649),
        (unrolled.coupled_unet, 2_654_962),
        (lambda: EDSR(2), 1_219_841),
        (lambda: RCAN(2), 15_294_625),
    ],
)
def test_published_sizes(build, parameters):
    with torch.device("meta"):
        assert unrolled.count_parameters(build()) == parameters


@pytest.mark.parametrize("name", unrolled.ENHANCERS)
def test_presets_follow_the_scale_and_the_unit_of_the_guide(name):
    network = small(name)
    with torch.no_grad():
        image = network(X, guide=GUIDE)
        torch.testing.assert_close(network(7 * X, guide=3 * GUIDE), 7 * image, rtol=2e-4, atol=2e-4)
        assert not network(0 * X, guide=GUIDE).any()
    assert image.shape == X.shape
    assert image.isfinite().all()
    assert network.guide_channels == 1


def test_gradients_pass_and_side_outputs_are_trained():
    network = small("u2net").train()
    x = X.clone().requires_grad_()
    loss = unrolled.DeepSupervision(unrolled.WeightedSum((1, unrolled.l1), (0.5, unrolled.ssim_loss)))
    weight = unrolled.lesion_weight(X > 1, 100.0)
    loss(network, ({"x": x, "guide": GUIDE}, X, weight)).backward()
    assert x.grad.abs().sum() > 0
    assert all(w.grad is not None for w in network.parameters())
    outputs = network(X, guide=GUIDE, every=True)
    assert len(outputs) == 7
    torch.testing.assert_close(outputs[0], network(X, guide=GUIDE))
    with pytest.raises(ValueError, match="1 weights, the network 6 side outputs"):
        unrolled.DeepSupervision(sides=(1.0,))(network, ({"x": X, "guide": GUIDE}, X))
    with pytest.raises(ValueError, match="needs more than 32 voxels along an axis"):
        unrolled.u2net(True, 1, width=1, norm="instance")(X)
    with pytest.raises(ValueError, match="has one output"):
        small("edsr")(X, guide=GUIDE, every=True)


def test_slices_are_seen_with_their_neighbours_and_averaged():
    torch.testing.assert_close(Enhancer(Same(), 2, n_slices=3)(X), X)

    class Last(nn.Module):
        def forward(self, x):
            return x[:, -1:]

    shown = Enhancer(Last(), 2, n_slices=3, scale=None)(X)  # the next slice, and the last one again
    torch.testing.assert_close(shown, torch.cat([X[..., 1:], X[..., -1:]], -1))
    with pytest.raises(ValueError, match="n_slices must be odd"):
        Enhancer(Same(), 2, n_slices=2)
    with pytest.raises(ValueError, match="n_slices must be odd, and 1 for volumes"):
        Enhancer(Same(), 3, n_slices=3)
    with pytest.raises(ValueError, match="3 slices of the image and 0 guides, the noise are 4"):
        Enhancer(DnCNN(2, 3), 2, n_slices=3, noise=True)


def test_noise_is_measured_or_told():
    noise = 0.2 * torch.randn(1, 40, 40, 8, generator=torch.Generator().manual_seed(0))
    assert float(unrolled.noise_level(3 + noise)) == pytest.approx(0.2, rel=0.05)
    assert float(unrolled.noise_level(5 * (3 + noise))) == pytest.approx(1.0, rel=0.05)
    assert float(unrolled.noise_level(torch.ones(1, 2, 2, 1))) == 0

    class Level(nn.Module):
        def forward(self, x):
            return x[:, 1:2]

    network = Enhancer(Level(), 2, noise=True)
    torch.testing.assert_close(network(X, 0.3), torch.full_like(X, 0.3))
    torch.testing.assert_close(network(X, torch.tensor([0.3, 0.6]))[1], torch.full_like(X[1], 0.6))
    torch.testing.assert_close(network(X), unrolled.noise_level(X).expand_as(X))
    radius, place = positions(torch.zeros(9, 9, 5))
    assert (float(radius[4, 4, 0]), float(place[0, 0, 2])) == (-1.0, 0.0)


def test_windows_equal_the_whole_where_they_must():
    with unrolled.seeded(0):
        local = Enhancer(DnCNN(3, 2, depth=3, width=2, norm="none"), 3, 1).eval()
        deep = Enhancer(UNet(3, width=2, levels=2, norm="none"), 3).eval()
        slices = unrolled.weighted_residual_cnn(depth=3, width=2).eval()
    x, guide = torch.rand(1, 21, 12, 10), torch.rand(21, 12, 10)
    with torch.no_grad():
        windowed = Windowed(local, 9, 7, 3)
        torch.testing.assert_close(windowed(x, guide=guide), local(x, guide=guide))
        torch.testing.assert_close(Windowed(slices, 8, 7, 3)(x), slices(x))
        even = x[:, :20]
        torch.testing.assert_close(Windowed(deep, 16, 14, 7)(even), deep(even))
    assert windowed.n_windows((21, 12, 10)) == 7 * 3 * 2
    assert Windowed(slices, 8, 7, 3).n_windows((21, 12, 10)) == 10 * 14 * 5
    leaf = x.clone().requires_grad_()
    windowed(leaf, guide=guide).sum().backward()
    assert leaf.grad.abs().sum() > 0
    for wrong in ({"overlap": 9}, {"overlap": 4, "margin": 3}, {"window": 0}, {"window": (4, 4)}):
        with pytest.raises(ValueError, match="Windowed"):
            Windowed(local, **{"window": 9, **wrong})


def test_memory_is_that_of_the_largest_values_at_once():
    with unrolled.seeded(0):
        network = Enhancer(DnCNN(2, depth=3, width=4, norm="none"), 2)
    weights = 4 * unrolled.count_parameters(network)
    # features of 4 channels, those of the next layer, and what ReLU makes in place
    assert 4 * 2 * 4 * 64 <= unrolled.body_memory(network, (8, 8)) - weights <= 4 * 3 * 4 * 64
    assert Windowed(network, 8).memory((100, 100, 3)) < Windowed(network, 64).memory((100, 100, 3))
    found = unrolled.fitting_window(network, (100, 100, 3), Windowed(network, 32).memory((100, 100, 3)))
    assert found.window == (32, 32)
    assert unrolled.fitting_window(network, (100, 100, 3), 10) is None


def test_one_object_is_filter_prior_and_module(tmp_path):
    grid, camera = ImageGrid((8, 8, 1), 8.0), SPECTGeometry.circular(6, 100.0, (8, 1), 8.0)
    A = SPECTProjector(grid, camera, response=LinearResponse(0.04, 2.0))
    y = torch.poisson(20 * A(torch.rand(1, 8, 8, 1)), torch.Generator().manual_seed(0))
    scan = recon.PoissonLikelihood(y, AcquisitionModel(A, background=0.1))
    with unrolled.seeded(0):
        network = unrolled.dncnn_enhancer(2, depth=3, width=2, norm="none")
    for method in (
        unrolled.Enhanced(unrolled.OSEMPasses(1, 2), network),
        unrolled.UnrolledEM(network, 2),
    ):
        method(scan).sum().backward()
        assert all(w.grad is not None for w in network.parameters())
    image = recon.run(unrolled.pnp_em(scan, network, torch.ones(1, 8, 8, 1), rho=0.1), 2)
    assert image.isfinite().all()
    card = unrolled.Card("dncnn", {"dimensions": 2, "depth": 3, "width": 2, "norm": "none"})
    unrolled.save_weights(tmp_path / "w.safetensors", network, card)
    again, _ = unrolled.load_network(tmp_path / "w.safetensors", unrolled.ENHANCERS)
    torch.testing.assert_close(again(X), network.eval()(X))


def test_statistics_of_images_know_no_scale():
    one = unrolled.image_statistics(X, GUIDE.expand_as(X), voxel_size=(4, 4, 4))
    other = unrolled.image_statistics(9 * X, GUIDE.expand_as(X), voxel_size=(4, 4, 4))
    assert {"noise", "object", "variation", "guide correlation", "guide offset"} <= set(one)
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=1e-4, atol=1e-6)
