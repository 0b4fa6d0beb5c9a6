"""Channels: orthonormal where they should be, of the bands they name, and in mm where asked."""

import numpy as np
import pytest

from emrecon import recon


@pytest.mark.parametrize(("shape", "width"), [((48, 48), 10.0), ((30, 30, 30), 7.0), ((48, 48, 1), 10.0)])
def test_laguerre_gauss_channels_are_orthonormal(shape, width):
    U = recon.laguerre_gauss_channels(shape, width, 4)
    assert U.shape == (np.prod(shape), 4)
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-5)


def test_the_formula_of_laguerre_gauss_channels():
    U = recon.laguerre_gauss_channels((9, 9), 6.0, 3, voxel_size=2.0, centre=(3, 4))
    r2 = 4 * ((np.arange(9)[:, None] - 3) ** 2 + (np.arange(9) - 4) ** 2)
    x = 2 * np.pi * r2 / 36
    laguerre = [1, 1 - x, 1 - 2 * x + x**2 / 2]
    for j, L in enumerate(laguerre):
        expected = 2 * np.sqrt(2) / 6 * np.exp(-np.pi * r2 / 36) * L  # 2 mm: the root of a pixel's area
        np.testing.assert_allclose(U[:, j].reshape(9, 9), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(64, 64), (40, 40, 40)])
def test_square_channels_pass_their_band_alone(shape):
    U = recon.square_channels(shape, 1 / 16, 2)
    f = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    for c, (low, high) in enumerate(((1 / 16, 1 / 8), (1 / 8, 1 / 4))):
        power = np.abs(np.fft.fftn(U[:, c].reshape(shape))) ** 2
        margin = 0.02
        assert power[(f > low - margin) & (f < high + margin)].sum() > 0.93 * power.sum()
        assert np.median(power[(f > low + margin / 2) & (f < high - margin / 2)]) > 20 * np.median(power[f > 0.35])
    np.testing.assert_allclose(U.T @ U, np.eye(2), atol=0.1)


@pytest.mark.parametrize("shape", [(33, 33), (21, 21, 21)])
def test_difference_of_gaussians_has_the_transform_of_the_paper(shape):
    dense, sparse = recon.difference_of_gaussians(shape), recon.difference_of_gaussians(shape, "sparse")
    assert (dense.shape[1], sparse.shape[1]) == (10, 3)
    size = 512 if len(shape) == 2 else 128
    padded = np.zeros((size,) * len(shape))
    padded[tuple(slice(n) for n in shape)] = sparse[:, 2].reshape(shape)
    found = np.abs(np.fft.fftn(padded))[(slice(size // 2), *(0,) * (len(shape) - 1))]
    f, s = np.arange(size // 2) / size, 0.06
    expected = np.exp(-0.5 * (f / (2 * s)) ** 2) - np.exp(-0.5 * (f / s) ** 2)
    np.testing.assert_allclose(found / found.max(), expected / expected.max(), atol=0.03)


def test_gabor_channels_tell_directions_apart():
    U = recon.gabor_channels((33, 33), 1 / 16, 1, orientations=2, phases=(0,))
    first, second = U.T.reshape(2, 33, 33)
    np.testing.assert_allclose(first, second.T, atol=1e-12)
    power = np.abs(np.fft.fft2(first))
    i, j = np.unravel_index(power[:17, :17].argmax(), (17, 17))
    assert (i / 33, j) == (pytest.approx(1.5 / 16, abs=0.02), 0)
    odd = recon.gabor_channels((33, 33), 1 / 16, 1, orientations=[(0, 2)], phases=(90,))
    np.testing.assert_allclose(odd.reshape(33, 33), -odd.reshape(33, 33)[:, ::-1], atol=1e-12)
    solid = recon.gabor_channels((11, 11, 11), 1 / 16, 2, orientations=6)
    assert solid.shape == (1331, 24)
    assert np.linalg.matrix_rank(solid) == 24


@pytest.mark.parametrize(
    "channels",
    [
        lambda size: recon.laguerre_gauss_channels((16, 16), 5 * size, 3, voxel_size=size),
        lambda size: recon.square_channels((16, 16), 1 / 16 / size, 2, voxel_size=size),
        lambda size: recon.gabor_channels((16, 16), 1 / 16 / size, 2, voxel_size=(size, size)),
        lambda size: recon.difference_of_gaussians((16, 16), voxel_size=size),
    ],
)
def test_millimetres_and_voxels_are_the_same_channels(channels):
    np.testing.assert_allclose(channels(4.0), channels(1.0), atol=1e-12)


def test_slice_channels_take_every_slice_by_itself():
    U = recon.laguerre_gauss_channels((6, 5), 4, 2)
    volume = np.random.default_rng(0).normal(size=(1, 6, 5, 3))
    found = recon.channel_outputs(volume, recon.slice_channels(U, 3)).reshape(2, 3)
    for k in range(3):
        np.testing.assert_allclose(found[:, k], recon.channel_outputs(volume[..., k], U)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: recon.laguerre_gauss_channels((8,), 4), "two or three"),
        (lambda: recon.laguerre_gauss_channels(8, 4), "two or three"),
        (lambda: recon.laguerre_gauss_channels((8, 1), 4), "no image"),
        (lambda: recon.laguerre_gauss_channels((8, 8), 0), "positive width"),
        (lambda: recon.laguerre_gauss_channels((8, 8), 4, voxel_size=(1, 2, 3)), "voxel sizes"),
        (lambda: recon.laguerre_gauss_channels((8, 8), 4, centre=(1, 2, 3)), "a centre has one number"),
        (lambda: recon.laguerre_gauss_channels((8, 8), 4, centre=(np.nan, 2)), "finite"),
        (lambda: recon.square_channels((8, 8), 1 / 4, 2), "ends at 1 cycles, but voxels show up to 0.5"),
        (lambda: recon.square_channels((8, 8), -1), "lowest > 0"),
        (lambda: recon.gabor_channels((8, 8), orientations=[(0, 0)]), "not zero"),
        (lambda: recon.gabor_channels((8, 8), phases=()), "a phase"),
        (lambda: recon.difference_of_gaussians((8, 8), "thick"), "choose from sparse, dense"),
        (lambda: recon.slice_channels(np.ones(3), 2), "must be a matrix"),
    ],
)
def test_wrong_channels_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
