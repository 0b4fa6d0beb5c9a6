"""Networks from image to image: parameter counts of the sources, shapes, guides, batches, gradients and refusals."""

import builtins
import math
from functools import partial

import numpy as np
import pytest
import torch
from network_cases import BODIES, SHAPE, build, guide_for, images, skip_without_monai
from torch import nn

from emrecon.unrolled.enhancement import NetworkDenoiser
from emrecon.unrolled.methods.denoising import denoised
from emrecon.unrolled.methods.unrolled_em import UnrolledEM
from emrecon.unrolled.networks.blocks import (
    ConvolutionalAutoencoder,
    DnCNN,
    ResidualUnit,
    SmallCNN,
    SoftThreshold,
    initial_thresholds,
    normalisation,
    seeded,
)
from emrecon.unrolled.networks.guides import normalised_guide
from emrecon.unrolled.networks.scaling import ScaleEquivariant
from emrecon.unrolled.networks.transformer import SwinRegulariser
from emrecon.unrolled.networks.unet import DEEP_IMAGE_PRIOR, ITERATIVE_CNN, UNet, UNetForm, pad_to_multiple
from emrecon.unrolled.training.noise2void import Noise2Void

EVERY = pytest.mark.parametrize("kind", BODIES)
DIMENSIONS = pytest.mark.parametrize("dimensions", [2, 3])
GUIDES = pytest.mark.parametrize("guides", [0, 2])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("count", "body"),
    [
        (28_612 - 1, partial(ResidualUnit, 2)),  # FBSEM-Net counts its gamma, too
        (28_900 - 1, partial(ResidualUnit, 2, 2)),
        (85_059, partial(ResidualUnit, 3)),
        (85_923, partial(ResidualUnit, 3, 2)),
        (4_290, partial(ConvolutionalAutoencoder, 3)),
        (112 + 436 + 109, partial(SmallCNN, 3)),
        (557_057, partial(DnCNN, 2)),
        (451_457, partial(UNet, 2)),
        (451_745, partial(UNet, 2, 3)),  # neural KEM shows it three composite frames
        (1_327_265, partial(UNet, 3)),
        (1_460_113 - (128 * 128 * 27 + 128), partial(UNet, 3, form=ITERATIVE_CNN)),  # without the unused convolution
    ],
)
def test_the_parameters_of_the_sources(count, body):
    assert parameters(body()) == count


def test_the_parameters_of_the_transformer():
    skip_without_monai()
    attention = 96 * 288 + 288 + 96 * 96 + 96 + 7 * 7 * 12
    perceptron = 2 * 96 * 192 + 192 + 96
    assert parameters(SwinRegulariser(2)) == 96 * 9 + 96 + 192 + attention + perceptron + 2 * 192 + 96 * 9 + 1


@pytest.mark.slow
@EVERY
@DIMENSIONS
@GUIDES
def test_shapes_batches_and_guides(kind, dimensions, guides):
    network, x, guide = build(kind, dimensions, guides), images(), guide_for(guides)
    y = network(x, 0.3, guide=guide)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert torch.equal(network(x, guide=guide), y)
    for i in range(2):
        one = network(x[i], guide=None if guide is None else guide[i])
        torch.testing.assert_close(one, y[i], rtol=1e-10, atol=1e-12)
    nested = network(x[None], guide=None if guide is None else guide[None])
    torch.testing.assert_close(nested[0], y, rtol=1e-10, atol=1e-12)
    if guides:
        shared = network(x, guide=guide[0])
        torch.testing.assert_close(shared[0], y[0], rtol=1e-10, atol=1e-12)
        assert not torch.allclose(shared[1], y[1], rtol=1e-3)
        assert not torch.allclose(network(x, guide=guide.flip(1)), y, rtol=1e-3)  # the channels are not alike


@EVERY
@DIMENSIONS
def test_gradients_are_finite_and_right(kind, dimensions):
    network, x, guide = build(kind, dimensions, 1), images(), guide_for(1)
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).reshape(x.shape)

    def loss(x, guide):
        return (weights * network(x, guide=guide)).sum()

    leaves = [x.clone().requires_grad_(), guide.clone().requires_grad_()]
    loss(*leaves).backward()
    for leaf, name in zip(leaves, ("x", "guide")):
        direction = images(2, seed=5).reshape(leaf.shape) - 1.5
        step = 1e-7  # few kinks of the ReLUs in between
        pair = [
            [a + s * step * direction if n == name else a for a, n in ((x, "x"), (guide, "guide"))] for s in (1, -1)
        ]
        with torch.no_grad():
            slope = (loss(*pair[0]) - loss(*pair[1])) / (2 * step)
        assert float((leaf.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-3, abs=1e-5)
    network.train()
    network.zero_grad()
    loss(x, guide).backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert sum(bool(g.any()) for g in gradients) > 0.5 * len(gradients)


@EVERY
@DIMENSIONS
def test_zeros_give_no_nan(kind, dimensions):
    network = build(kind, dimensions, 1, torch.float32)
    zeros = torch.zeros(2, *SHAPE)
    assert torch.isfinite(network(zeros, guide=zeros)).all()
    assert torch.isfinite(network.train()(zeros, guide=zeros)).all()


@EVERY
def test_the_state_comes_back(kind):
    network, x = build(kind, 2), images()
    again = build(kind, 2)
    with torch.no_grad():
        for p in again.parameters():
            p.mul_(1.5)
    assert not torch.allclose(again(x), network(x))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


@EVERY
def test_weights_by_seed(kind):
    if kind == "swin":
        skip_without_monai()
    before = torch.get_rng_state()
    bodies = []
    for seed in (1, 1, 2):
        with seeded(seed):
            bodies.append(BODIES[kind](2).state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(bodies[0].values(), bodies[1].values()))
    assert not all(torch.equal(a, b) for a, b in zip(bodies[0].values(), bodies[2].values()))


@pytest.mark.parametrize("kind", ["residual unit", "dncnn, not negative", "deep image prior", "iterative cnn"])
def test_what_ends_in_a_relu_is_not_negative(kind):
    y = build(kind, 2)(images() - 1.5)
    assert y.min() >= 0


def test_two_dimensions_see_slices_apart_and_three_do_not():
    for dimensions, apart in ((2, True), (3, False)):
        network, x = build("residual unit, signed", dimensions), images(1)
        other = x.clone()
        other[..., 2] = 0
        change = (network(other) - network(x)).detach().abs().amax((0, 1, 2))
        assert change[2] > 0
        assert (float(change[1]) == 0) == apart


def test_the_folding_puts_axes_where_they_belong():
    class Index(nn.Module):
        in_channels = 3

        def forward(self, x):
            return x[:, 2:]

    x, guide = images(), guide_for(2)
    assert torch.equal(NetworkDenoiser(Index(), 2, 2, "none")(x, guide=guide), guide[:, 1])
    assert torch.equal(NetworkDenoiser(Index(), 3, 2, "none")(x, guide=guide), guide[:, 1])
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x[:, :1]

    for dimensions in (2, 3):
        assert torch.equal(NetworkDenoiser(Look(), dimensions)(x), x)
    assert torch.equal(seen[0][5 + 3, 0], x[1, :, :, 3])  # item 1, slice 3
    assert torch.equal(seen[1][1, 0], x[1])


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "none"])
@pytest.mark.parametrize(
    "make",
    [partial(UNet, width=8), partial(UNet, width=8, form=ITERATIVE_CNN), SmallCNN],
    ids=["deep image prior", "iterative cnn", "small"],
)
def test_images_made_from_features_alone_do_not_begin_dead(make, norm):
    x = torch.rand(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        with seeded(seed):
            body = make(2, 2, norm=norm, non_negative=True)
        with torch.no_grad():
            y = body(x)
        assert float((y > 0).float().mean()) > 0.5
        assert 0.2 < float(y.mean()) < 2


def test_one_guide_needs_no_channel_axis():
    network, x, guide = build("residual unit", 2, 1), images(), guide_for(1)
    y = network(x, guide=guide)
    for same in (guide[:, 0], guide.float().double()):
        torch.testing.assert_close(network(x, guide=same), y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(x[0], guide=guide[0, 0]), y[0])
    torch.testing.assert_close(network(x, guide=guide[0, 0]), network(x, guide=guide[:1, 0]))


@pytest.mark.parametrize("form", [DEEP_IMAGE_PRIOR, ITERATIVE_CNN])
@DIMENSIONS
def test_padding_is_repeating_the_border_and_cropping(form, dimensions):
    body = UNet(dimensions, width=4, levels=3, form=form).eval()
    shape = (9, 6, 5)[:dimensions]
    x = torch.rand(2, 1, *shape)
    padded = x.numpy()
    expected = tuple(n if form.in_plane and i == 2 else -(-n // 4) * 4 for i, n in enumerate(shape))
    margins = [((m - n) // 2, m - n - (m - n) // 2) for n, m in zip(shape, expected)]
    padded = np.pad(padded, [(0, 0), (0, 0), *margins], mode="edge")
    inside = tuple(slice(low, low + n) for (low, _), n in zip(margins, shape))
    whole = body(torch.tensor(padded))
    torch.testing.assert_close(body(x), whole[(slice(None), slice(None), *inside)])
    assert torch.equal(body(torch.tensor(padded)), whole)


def test_padding_smaller_than_a_multiple_and_nothing_to_pad():
    x = torch.arange(2.0).reshape(1, 1, 2, 1)
    padded, crop = pad_to_multiple(x, (8, 8))
    assert padded.shape == (1, 1, 8, 8)
    assert torch.equal(padded[crop], x)
    assert torch.equal(padded[0, 0, :, 3], torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]))
    same, crop = pad_to_multiple(x, (2, 1))
    assert same is x
    assert torch.equal(x[crop], x)


@DIMENSIONS
def test_a_form_of_ones_own(dimensions):
    form = UNetForm(encoder_units=3, up_kernel=3, last_kernel=1, slope=0.1, in_plane=True, affine=False)
    body = UNet(dimensions, width=3, levels=2, form=form)
    assert body.multiple == (2, 2, 1)[:dimensions]
    assert len(body.encoders[0]) == 3
    assert body(torch.rand(1, 1, *SHAPE[:dimensions])).shape == (1, 1, *SHAPE[:dimensions])


def test_a_slice_of_images_of_one_slice():
    x = torch.rand(2, 16, 16, 1)
    for kind in ("deep image prior", "iterative cnn", "residual unit"):
        for dimensions in (2, 3):
            assert build(kind, dimensions, 0, torch.float32)(x).shape == x.shape


def test_soft_thresholds():
    layer = SoftThreshold(2, math.log(0.5))
    x = torch.tensor([[[-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0]] * 2])
    torch.testing.assert_close(layer(x)[0, 0], torch.tensor([-1.5, 0, 0, 0, 0, 0, 1.5]))
    with torch.no_grad():
        layer.alpha[1] = 0.0
    torch.testing.assert_close(layer(x)[0, 1], torch.tensor([-1.0, 0, 0, 0, 0, 0, 1.0]))
    layer(x).sum().backward()
    torch.testing.assert_close(layer.alpha.grad, torch.tensor([0.0, 0.0]))  # the two sides cancel
    layer(x.abs()).sum().backward()
    torch.testing.assert_close(layer.alpha.grad, torch.tensor([-2 * 0.5, -2 * 1.0]))


def test_an_autoencoder_is_linear_without_thresholds():
    with seeded(0):
        body = ConvolutionalAutoencoder(2, alpha=-60.0).double()
    x, y = torch.rand(2, 1, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(body(2 * x - 3 * y), 2 * body(x) - 3 * body(y))
    assert not body(torch.zeros_like(x)).any()


def test_thresholds_spread_over_the_channels():
    body = ConvolutionalAutoencoder(2, channels=4, alpha=(-3.0, 0.0))
    torch.testing.assert_close(body.threshold.alpha.data, torch.tensor([-3.0, -2.0, -1.0, 0.0]))
    assert torch.equal(SoftThreshold(5, -15.0).alpha.data, torch.full((5,), -15.0))


def test_first_thresholds():
    image = torch.arange(1.0, 101.0).reshape(10, 10, 1)[torch.randperm(10, generator=torch.Generator().manual_seed(0))]
    assert initial_thresholds(image) == pytest.approx(math.log(91))  # the tenth brightest of a hundred
    assert initial_thresholds(torch.stack([image, 3 * image]), 0.5) == pytest.approx(math.log(2 * 51))
    assert initial_thresholds(image, 1.0) == 0
    with pytest.raises(ValueError, match=r"brightest 10 % .* go down to 0"):
        initial_thresholds(torch.zeros(4, 4, 1))
    with pytest.raises(ValueError, match="top must be"):
        initial_thresholds(image, 0.0)


def test_a_residual_network_that_is_zero_changes_nothing():
    x = images() - 1
    for body in (DnCNN(2, depth=2, width=2), SmallCNN(2, residual=True)):
        for p in body.parameters():
            nn.init.zeros_(p)
        assert torch.equal(NetworkDenoiser(body, 2).double()(x), x)
    constant = DnCNN(2, depth=2, width=2)
    for p in constant.parameters():
        nn.init.zeros_(p)
    nn.init.constant_(constant.layers[-1].bias, 0.25)
    assert torch.equal(NetworkDenoiser(constant, 2).double()(x), x - 0.25)  # noise is taken off
    body = ResidualUnit(2, norm="none", depth=2, width=2)
    for p in body.parameters():
        nn.init.zeros_(p)
    assert torch.equal(NetworkDenoiser(body, 2).double()(x), x.relu())


def test_mixed_precision_ends_at_the_denoiser():
    network, x = build("small", 2, 0, torch.float32), images(dtype=torch.float32)
    with torch.amp.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, network(x), rtol=0.05, atol=0.05)


def test_refusals_of_the_denoiser():
    plain, guided = build("residual unit", 2), build("residual unit", 2, 2)
    x = images()
    with pytest.raises(ValueError, match=r"Enhancer\(ResidualUnit\).* was built for 2 guide channels"):
        guided(x)
    with pytest.raises(ValueError, match=r"Enhancer\(ResidualUnit\) takes no guide"):
        plain(x, guide=x)
    for bad in (images(3), guide_for(2)[:, :1], guide_for(2)[..., :-1], guide_for(2, 3), guide_for(2)[None]):
        with pytest.raises(ValueError, match=r"does not fit an image of \(2, 9, 6, 5\); it must be \(\.\.\., 2, x"):
            guided(x, guide=bad)
    with pytest.raises(ValueError, match=r"it must be \(\.\.\., x, y, z\)"):
        build("residual unit", 2, 1)(x, guide=x[..., 0])
    with pytest.raises(ValueError, match=r"expects images .*, got \(9, 6\); .*z = 1"):
        plain(x[0, ..., 0])
    with pytest.raises(TypeError, match="holds float64 weights, got a float32 image"):
        plain(x.float())


@DIMENSIONS
def test_normalisation_of_groups_of_four_channels_knows_no_batch(dimensions):
    x = torch.randn(3, 8, *SHAPE[:dimensions], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = normalisation("group", dimensions, 8).double()
    groups = x.reshape(3, 2, -1)
    expected = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected.reshape(x.shape))
    torch.testing.assert_close(layer(x[1:2]), layer(x)[1:2])
    torch.testing.assert_close(layer.eval()(x), expected.reshape(x.shape))
    assert [normalisation("group", dimensions, n).num_groups for n in (1, 6, 32)] == [1, 3, 8]


def test_refusals_of_what_is_built():
    with pytest.raises(ValueError, match="takes 1 channels, the image and 1 guides are 2; build it with in_channels=2"):
        NetworkDenoiser(ResidualUnit(2), 2, guide_channels=1)
    with pytest.raises(ValueError, match="the body is 3-D, not 2-D"):
        NetworkDenoiser(UNet(3), 2)
    with pytest.raises(ValueError, match="Enhancer: dimensions must be 2 or 3, got 1"):
        NetworkDenoiser(nn.Identity(), 1)
    for body in (ResidualUnit, DnCNN, SmallCNN, ConvolutionalAutoencoder, UNet):
        with pytest.raises(ValueError, match="dimensions must be 2 or 3, got 4"):
            body(4)
    with pytest.raises(ValueError, match="norm must be one of"):
        ResidualUnit(2, norm="layer")
    with pytest.raises(ValueError, match="depth of at least 2"):
        DnCNN(2, depth=1)
    with pytest.raises(ValueError, match="at least 1 level"):
        UNet(2, levels=0)
    with pytest.raises(ValueError, match="not a multiple of 5 heads"):
        SwinRegulariser(2, heads=5)
    with pytest.raises(ValueError, match=r"made \(10, 2, 9, 6\) of \(10, 1, 9, 6\)"):
        NetworkDenoiser(nn.Conv2d(1, 2, 3, padding=1).double(), 2)(images())


def test_without_monai_the_extra_is_named(monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("monai"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r'pip install "emrecon\[monai\]"'):
        SwinRegulariser(2)


def test_a_transformer_sees_its_windows_and_with_two_layers_their_neighbours():
    skip_without_monai()
    for depth, reach in ((1, False), (2, True)):
        with seeded(0):
            body = SwinRegulariser(2, width=8, heads=2, depth=depth, norm="none").eval()
        x = torch.zeros(1, 1, 16, 16)
        other = x.clone()
        other[0, 0, 5, 5] = 1  # in the window of 4 to 7; the two convolutions carry it 2 voxels on
        change = (body(other) - body(x)).abs()[0, 0]
        assert change[4:8, 4:8].all()
        assert not change[12:].any()
        assert bool(change[:2, 5].any()) == reach


def test_both_residuals_of_the_transformer():
    skip_without_monai()
    with seeded(0):
        body = SwinRegulariser(2, width=8, heads=2, norm="none").eval()
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    for p in body.attention.parameters():
        nn.init.zeros_(p)  # a layer of zeros hands on what it gets
    torch.testing.assert_close(body(x), x + body.last(2 * body.first(x)))
    for p in body.last.parameters():
        nn.init.zeros_(p)
    assert torch.equal(body(x), x)


# ---- guides of any unit, and what is no denoiser ---------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
def test_guides_may_have_any_unit(dimensions):
    network, x, guide = build("residual unit", dimensions, 1), images(), guide_for(1)
    expected = network(x, guide=guide)
    factors = torch.tensor([1e-3, 400.0]).reshape(2, 1, 1, 1, 1)
    torch.testing.assert_close(network(x, guide=factors * guide), expected)
    torch.testing.assert_close(network(x, guide=normalised_guide(guide)), expected)
    torch.testing.assert_close(network(x, guide=guide.numpy()), expected)
    torch.testing.assert_close(network(x, guide=guide.numpy().astype(">f8")), expected)
    whole = (1e4 * guide).round()
    torch.testing.assert_close(
        network(x, guide=whole.numpy().astype(np.int16)), network(x, guide=whole), rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(network(x, guide=guide.numpy()[..., ::-1]), network(x, guide=guide.flip(-1)))
    plain = NetworkDenoiser(network.body, dimensions, 1, "none")
    assert not torch.allclose(plain(x, guide=2 * guide), plain(x, guide=guide))
    by_mean = NetworkDenoiser(network.body, dimensions, 1, "mean")
    torch.testing.assert_close(by_mean(x, guide=7 * guide), by_mean(x, guide=guide))


def test_guides_that_are_none():
    network, x, guide = build("residual unit", 2, 1), images(), guide_for(1)
    with pytest.raises(ValueError, match="guide_scale must be one of max, mean, none"):
        NetworkDenoiser(network.body, 2, 1, "std")
    with pytest.raises(TypeError, match="a guide must be an array or a tensor, got list"):
        network(x, guide=guide.tolist())
    guide[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="the guide holds NaN"):
        network(x, guide=guide)
    with pytest.raises(TypeError, match="takes torch tensors, got ndarray"):
        network(x.numpy())


@pytest.mark.parametrize("who", [ScaleEquivariant, UnrolledEM])
def test_layers_of_torch_must_be_wrapped(who):
    for layer in (nn.Conv2d(1, 1, 3, padding=1), nn.Sequential(nn.Conv3d(1, 1, 3, padding=1))):
        with pytest.raises(TypeError, match=r"wrap it: Enhancer\("):
            who(layer)
    with pytest.raises(TypeError, match="takes denoisers, got int"):
        who(3)
    with pytest.raises(TypeError, match=r"wrap it: Enhancer\("):
        denoised(nn.Conv2d(1, 1, 3, padding=1), images())
    with pytest.raises(TypeError, match="Noise2Void: Conv2d takes"):
        Noise2Void()(nn.Conv2d(1, 1, 3, padding=1), images(), None)
    who(nn.Identity())
    who(lambda x: x)


def test_a_result_with_another_shape_says_what_to_do():
    with pytest.raises(ValueError, match="network with a channel axis must be wrapped"):
        ScaleEquivariant(lambda x: x[:, None])(images())
