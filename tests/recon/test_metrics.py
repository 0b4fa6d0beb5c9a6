"""Metrics against closed forms, scikit-image and brute force; batches, libraries, gradients and bad input."""

import math

import array_api_strict
import numpy as np
import pytest
import scipy.ndimage
import torch

from emrecon.projectors import ImageGrid
from emrecon.recon.metrics.measures import (
    _ball,
    background_variability,
    coefficient_of_variation,
    contrast_recovery,
    contrast_to_noise,
    ensemble_statistics,
    nrmse,
    psnr,
    recovery_coefficient,
    ssim,
    ssim_map,
    suv_max,
    suv_mean,
    suv_peak,
)
from emrecon.recon.metrics.regions import RegionOfInterest, Sphere, region_of

RNG = np.random.default_rng(7)
SHAPE = (14, 13, 12)
TRUTH = 4 * RNG.random(SHAPE)
IMAGE = TRUTH + 0.3 * RNG.normal(size=SHAPE)
MASK = RNG.random(SHAPE) < 0.3
COMPARE = pytest.mark.parametrize("compare", [nrmse, psnr, ssim])


# ---- image against reference -----------------------------------------------------------------------------------------


def test_nrmse_by_every_denominator():
    for mask in (None, MASK):
        t, f = (TRUTH.ravel(), IMAGE.ravel()) if mask is None else (TRUTH[mask], IMAGE[mask])
        rmse = np.sqrt(np.mean((f - t) ** 2))
        expected = {"norm": np.sqrt(np.mean(t**2)), "mean": t.mean(), "range": t.max() - t.min()}
        assert nrmse(IMAGE, TRUTH, mask) == pytest.approx(rmse / expected["norm"], rel=1e-12)
        for name, scale in expected.items():
            assert nrmse(IMAGE, TRUTH, mask, denominator=name) == pytest.approx(rmse / scale, rel=1e-12)


@pytest.mark.parametrize("name", ["mean_squared_error", "normalized_root_mse", "peak_signal_noise_ratio"])
def test_scikit_image_agrees(name):
    skimage = pytest.importorskip("skimage.metrics")
    if name == "peak_signal_noise_ratio":
        assert psnr(IMAGE, TRUTH) == pytest.approx(
            skimage.peak_signal_noise_ratio(TRUTH, IMAGE, data_range=TRUTH.max())
        )
        assert psnr(IMAGE, TRUTH, data_range=7) == pytest.approx(
            skimage.peak_signal_noise_ratio(TRUTH, IMAGE, data_range=7)
        )
    elif name == "normalized_root_mse":
        for ours, theirs in (("norm", "euclidean"), ("mean", "mean"), ("range", "min-max")):
            error = skimage.normalized_root_mse(TRUTH, IMAGE, normalization=theirs)
            assert nrmse(IMAGE, TRUTH, denominator=ours) == pytest.approx(error)
    else:
        error = skimage.mean_squared_error(TRUTH, IMAGE)
        assert 10 ** (-psnr(IMAGE, TRUTH, data_range=1) / 10) == pytest.approx(error)


def test_psnr_over_a_mask_keeps_the_maximum_of_the_whole():
    highest = TRUTH.max()
    mask = MASK & (highest != TRUTH)
    error = np.mean((IMAGE - TRUTH)[mask] ** 2)
    assert psnr(IMAGE, TRUTH, mask) == pytest.approx(10 * np.log10(highest**2 / error))
    assert psnr(TRUTH, TRUTH) == math.inf
    assert psnr(TRUTH + 0.1, TRUTH) == pytest.approx(20 * np.log10(TRUTH.max() / 0.1))


@pytest.mark.parametrize("shape", [(31, 26), (11, 40), (19, 14, 23)])
def test_ssim_is_that_of_scikit_image(shape):
    skimage = pytest.importorskip("skimage.metrics")
    truth = scipy.ndimage.gaussian_filter(RNG.random(shape), 1.0)
    image = truth + 0.05 * RNG.normal(size=shape)
    for data_range in (None, 0.37):
        mean, whole = skimage.structural_similarity(
            truth,
            image,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range or truth.max(),
            full=True,
        )
        assert ssim(image, truth, data_range=data_range) == pytest.approx(mean, rel=1e-12)
        found = ssim_map(image, truth, data_range=data_range)
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-12)
        mask = RNG.random(shape) < 0.1
        assert ssim(image, truth, mask, data_range=data_range) == pytest.approx(whole[mask].mean(), rel=1e-12)


def test_ssim_of_constants():
    """Variances are zero, and what is left is (2 a b + c1) / (a^2 + b^2 + c1), up to the edges."""
    a, b = 2.0, 1.3
    expected = (2 * a * b + (0.01 * a) ** 2) / (a**2 + b**2 + (0.01 * a) ** 2)
    np.testing.assert_allclose(ssim_map(np.full(SHAPE, b), np.full(SHAPE, a)), expected, rtol=1e-10)


def test_an_axis_of_one_voxel_is_none():
    x, y = IMAGE[..., 0], TRUTH[..., 0]
    for axis in range(3):
        flat, other = np.expand_dims(x, axis), np.expand_dims(y, axis)
        assert ssim(flat, other) == pytest.approx(ssim(x, y), rel=1e-12)
        np.testing.assert_allclose(ssim_map(flat, other).squeeze(axis), ssim_map(x, y), rtol=1e-12)


@pytest.mark.parametrize("n", [2, 4, 10])
def test_short_axes_are_mirrored_again_and_again(n):
    x, y = IMAGE[..., :n], TRUTH[..., :n]
    repeats = np.concatenate([np.concatenate([a, a[..., ::-1]] * 3, -1)[..., None] for a in (x, y)], -1)
    whole = ssim_map(repeats[..., 0], repeats[..., 1])
    np.testing.assert_allclose(ssim_map(x, y), whole[..., 2 * n : 3 * n], rtol=1e-10, atol=1e-12)
    assert ssim(x, y) == pytest.approx(ssim_map(x, y)[5:-5, 5:-5].mean())


def test_ssim_with_and_without_the_background():
    """Zeros in both images count as perfect, which is why the mask has to be reported."""
    wide = np.pad(TRUTH, 20), np.pad(IMAGE, 20)
    mask = np.pad(np.ones(SHAPE, bool), 20)
    assert ssim(wide[1], wide[0], mask) < ssim(wide[1], wide[0]) - 0.02


@COMPARE
def test_equal_images_are_best_and_noise_is_worse(compare):
    sign = -1 if compare is nrmse else 1
    levels = [sign * compare(TRUTH + s * (IMAGE - TRUTH), TRUTH) for s in (0, 0.1, 0.5, 1, 3)]
    assert np.all(np.diff(levels) < 0)
    assert compare(TRUTH, TRUTH) == {nrmse: 0, psnr: math.inf, ssim: pytest.approx(1)}[compare]


@COMPARE
def test_scale_does_not_matter(compare):
    assert compare(7.3 * IMAGE, 7.3 * TRUTH) == pytest.approx(compare(IMAGE, TRUTH), rel=1e-10)
    assert compare(1e-9 * IMAGE, 1e-9 * TRUTH) == pytest.approx(compare(IMAGE, TRUTH), rel=1e-10)


@COMPARE
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_batches_are_loops(compare, mask):
    images = TRUTH + RNG.normal(size=(2, 3, *SHAPE))
    truths = TRUTH * RNG.uniform(1, 2, (2, 3, 1, 1, 1))
    shared, paired = compare(images, TRUTH, mask), compare(images, truths, mask, dimensions=3)
    assert shared.shape == paired.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert shared[i] == pytest.approx(compare(images[i], TRUTH, mask), rel=1e-12)
        assert paired[i] == pytest.approx(compare(images[i], truths[i], mask), rel=1e-12)
    if mask is not None:
        masks = RNG.random((2, 3, *SHAPE)) < 0.3
        each = compare(images, truths, masks, dimensions=3)
        assert each[1, 2] == pytest.approx(compare(images[1, 2], truths[1, 2], masks[1, 2]), rel=1e-12)


def test_nrmse_without_dimensions_is_that_of_the_whole_batch():
    pair = np.stack([IMAGE, TRUTH]), np.stack([TRUTH, TRUTH])
    assert nrmse(*pair) == pytest.approx(nrmse(IMAGE, TRUTH) / math.sqrt(2))


@COMPARE
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_other_libraries_and_precisions(compare, mask):
    expected = compare(IMAGE, TRUTH, mask)
    tensor = torch.tensor(IMAGE)
    for reference in (TRUTH, torch.tensor(TRUTH)):
        for inside in (mask, None if mask is None else torch.tensor(mask)):
            found = compare(tensor, reference, inside)
            assert isinstance(found, torch.Tensor)
            assert float(found) == pytest.approx(expected, rel=1e-12)
    strict = [None if a is None else array_api_strict.asarray(a) for a in (IMAGE, TRUTH, mask)]
    assert float(compare(*strict)) == pytest.approx(expected, rel=1e-12)
    assert compare(IMAGE.astype(np.float32), TRUTH.astype(np.float32), mask) == pytest.approx(expected, rel=1e-5)
    integers = np.round(IMAGE).astype(np.int16), np.round(TRUTH).astype(np.uint8)
    assert compare(*integers, mask) == pytest.approx(compare(*(a.astype(float) for a in integers), mask), rel=1e-6)


@COMPARE
@pytest.mark.parametrize("mask", [None, MASK[:7, :6, :5]], ids=["all", "mask"])
def test_gradients(compare, mask):
    image, truth = (torch.tensor(a[:7, :6, :5]).requires_grad_() for a in (IMAGE, TRUTH))
    mask = None if mask is None else torch.tensor(mask)
    assert torch.autograd.gradcheck(lambda f, t: compare(f, t, mask), (image, truth), fast_mode=True)
    single = image.detach().float().requires_grad_()
    compare(single, truth.detach().float(), mask).backward()
    assert single.grad.dtype == torch.float32
    assert single.grad.abs().max() > 0


def test_gradients_where_images_are_equal_are_finite():
    for compare in (nrmse, ssim):
        image = torch.tensor(TRUTH).requires_grad_()
        compare(image, torch.tensor(TRUTH)).backward()
        assert torch.isfinite(image.grad).all()
        assert image.grad.abs().max() < 1e-8


@COMPARE
def test_what_cannot_be_compared(compare):
    name, nan = compare.__name__, IMAGE.copy()
    nan[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match=rf"{name} compares images of one shape, got \(14, 13, 12\) and \(14, 13\)"):
        compare(IMAGE, TRUTH[..., 0])
    with pytest.raises(ValueError, match="one shape"):
        compare(IMAGE, TRUTH, dimensions=4)
    with pytest.raises(ValueError, match=rf"{name}: the image holds NaN"):
        compare(nan, TRUTH)
    with pytest.raises(ValueError, match=rf"{name}: the reference holds NaN"):
        compare(IMAGE, nan)
    with pytest.raises(ValueError, match=rf"{name} mask is empty"):
        compare(IMAGE, TRUTH, np.zeros(SHAPE, bool))
    with pytest.raises(ValueError, match=r"mask of shape \(14, 13\) does not fit"):
        compare(IMAGE, TRUTH, MASK[..., 0])
    with pytest.raises(ValueError, match="must hold booleans, got float64"):
        compare(IMAGE, TRUTH, MASK * 1.0)
    with pytest.raises(ValueError, match="is 0, and must be positive"):
        compare(IMAGE, 0 * TRUTH)
    with pytest.raises(ValueError, match="without voxels"):
        compare(IMAGE[:0], TRUTH[:0])
    with pytest.raises(TypeError, match=rf"{name} expects an array"):
        compare([1.0], TRUTH)


def test_ranges_and_denominators_that_mean_nothing():
    for compare in (psnr, ssim):
        for data_range in (-1, 0, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"{compare.__name__}: data_range is .*must be positive"):
                compare(IMAGE, TRUTH, data_range=data_range)
        with pytest.raises(ValueError, match="the maximum of the reference is -1"):
            compare(IMAGE, -np.ones(SHAPE))
    with pytest.raises(ValueError, match="'norm', 'mean' or 'range', got 'max'"):
        nrmse(IMAGE, TRUTH, denominator="max")
    with pytest.raises(ValueError, match="the range of the reference is 0"):
        nrmse(IMAGE, np.ones(SHAPE), denominator="range")
    with pytest.raises(ValueError, match=r"up to three axes, got \(1, 14, 13, 12\); give dimensions=3"):
        ssim(IMAGE[None], TRUTH[None])


def test_nan_outside_of_the_mask():
    nan = IMAGE.copy()
    nan[~MASK] = np.nan
    for compare in (nrmse, psnr):
        assert compare(nan, TRUTH, MASK) == pytest.approx(compare(IMAGE, TRUTH, MASK))
    with pytest.raises(ValueError, match="outside of the mask, and windows reach there"):
        ssim(nan, TRUTH, MASK)


# ---- regions ---------------------------------------------------------------------------------------------------------

HOT, BACKGROUND = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
HOT[2:5, 2:5, 2:5], BACKGROUND[8:, 6:, :] = True, True


def test_contrast_of_hot_and_cold_regions():
    image = np.where(HOT, 3.0, 1.5)
    assert contrast_recovery(image, HOT, BACKGROUND, 4.0) == pytest.approx((3 / 1.5 - 1) / (4 - 1))
    assert contrast_recovery(np.where(HOT, 0.3, 1.5), HOT, BACKGROUND, 0.0) == pytest.approx(1 - 0.3 / 1.5)
    assert contrast_recovery(image, HOT, BACKGROUND, 2.0) == pytest.approx(1)
    assert recovery_coefficient(image, HOT, 4.0) == pytest.approx(0.75)


def test_noise_of_one_image():
    values, hot = IMAGE[BACKGROUND], IMAGE[HOT]
    assert contrast_to_noise(IMAGE, HOT, BACKGROUND) == pytest.approx((hot.mean() - values.mean()) / values.std(ddof=1))
    assert coefficient_of_variation(IMAGE, BACKGROUND) == pytest.approx(values.std(ddof=1) / values.mean())
    regions = [HOT, BACKGROUND, MASK, RegionOfInterest("corner", HOT[::-1])]
    means = np.array([IMAGE[HOT].mean(), values.mean(), IMAGE[MASK].mean(), IMAGE[HOT[::-1]].mean()])
    assert background_variability(IMAGE, regions) == pytest.approx(means.std(ddof=1) / means.mean())


@pytest.mark.parametrize(
    "measure",
    [
        lambda x: contrast_recovery(x, HOT, BACKGROUND, 3.0),
        lambda x: recovery_coefficient(x, HOT, 3.0),
        lambda x: contrast_to_noise(x, HOT, BACKGROUND),
        lambda x: coefficient_of_variation(x, HOT),
        lambda x: background_variability(x, [HOT, BACKGROUND]),
        lambda x: suv_max(x, HOT),
        lambda x: suv_max(x),
        lambda x: suv_mean(x, HOT, fraction=0.5),
        lambda x: suv_mean(x, threshold=1.0),
        lambda x: suv_peak(x, ImageGrid(SHAPE, 4.0)),
    ],
    ids=range(10),
)
def test_region_numbers_of_batches_and_tensors(measure):
    images = np.abs(TRUTH + 0.3 * RNG.normal(size=(2, 3, *SHAPE)))
    found = measure(images)
    assert found.shape == (2, 3)
    for i in np.ndindex(2, 3):
        assert found[i] == pytest.approx(float(measure(images[i])), rel=1e-12)
    tensor = torch.tensor(images).requires_grad_()
    torch.testing.assert_close(measure(tensor).detach(), torch.tensor(found))
    measure(tensor).sum().backward()
    assert torch.isfinite(tensor.grad).all()
    assert tensor.grad.abs().max() > 0
    assert measure(torch.tensor(images[0, 0], dtype=torch.float32)).dtype == torch.float64


def test_region_numbers_that_mean_nothing():
    nan = np.where(HOT, np.nan, 1.0)
    for ratio in (1, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="ratio must be"):
            contrast_recovery(IMAGE, HOT, BACKGROUND, ratio)
    with pytest.raises(ValueError, match="mean of the background is 0, and must be positive"):
        contrast_recovery(0 * IMAGE, HOT, BACKGROUND, 4)
    with pytest.raises(ValueError, match="contrast_recovery: the region holds NaN"):
        contrast_recovery(nan, HOT, BACKGROUND, 4)
    with pytest.raises(ValueError, match="true activity must be positive, got 0"):
        recovery_coefficient(IMAGE, HOT, 0)
    with pytest.raises(ValueError, match="same value everywhere"):
        contrast_to_noise(np.ones(SHAPE), HOT, BACKGROUND)
    with pytest.raises(ValueError, match="mean of the region is -1"):
        coefficient_of_variation(-np.ones(SHAPE), HOT)
    with pytest.raises(ValueError, match="two regions or more, got 1"):
        background_variability(IMAGE, [HOT])
    with pytest.raises(ValueError, match="mean of the regions is 0"):
        background_variability(0 * IMAGE, [HOT, BACKGROUND])
    with pytest.raises(ValueError, match="'region' holds no voxel"):
        recovery_coefficient(IMAGE, HOT & BACKGROUND, 1)
    with pytest.raises(ValueError, match=r"images of \(14, 13, 12\), got \(14, 13, 11\)"):
        recovery_coefficient(IMAGE[..., 1:], HOT, 1)


# ---- realisations ----------------------------------------------------------------------------------------------------


def test_bias_and_deviation():
    images = TRUTH + 0.2 + 0.3 * RNG.normal(size=(6, *SHAPE))
    found = ensemble_statistics(images, TRUTH)
    np.testing.assert_allclose(found.bias, (images.mean(0) - TRUTH) / TRUTH, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.sd, images.std(0, ddof=1) / TRUTH, rtol=1e-9)
    np.testing.assert_allclose(found.nmse, found.bias**2 + found.sd**2)
    assert found.n_realisations == 6
    # with 1 / R instead of 1 / (R - 1) this is the mean square error itself
    mean_square = np.mean((images - TRUTH) ** 2, axis=0) / TRUTH**2
    np.testing.assert_allclose(found.bias**2 + found.sd**2 * 5 / 6, mean_square, rtol=1e-9)


def test_regions_of_an_ensemble():
    images = TRUTH + 0.3 * RNG.normal(size=(6, *SHAPE))
    regions = [RegionOfInterest("hot", HOT), RegionOfInterest("background", BACKGROUND)]
    found = ensemble_statistics(images, TRUTH, regions)
    means = np.array([[x[HOT].mean(), x[BACKGROUND].mean()] for x in images])
    truth = np.array([TRUTH[HOT].mean(), TRUTH[BACKGROUND].mean()])
    np.testing.assert_allclose(found.bias, means.mean(0) / truth - 1, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.sd, means.std(0, ddof=1) / truth, rtol=1e-9)
    assert found.noise == pytest.approx((means.std(0, ddof=1) / means.mean(0)).mean())


def test_ensembles_of_iterables_tensors_and_batches():
    images = TRUTH + 0.3 * RNG.normal(size=(5, 2, *SHAPE))
    truth = np.broadcast_to(TRUTH, (2, *SHAPE))
    regions = [RegionOfInterest("hot", HOT), RegionOfInterest("background", BACKGROUND)]
    for chosen in (None, regions):
        whole = ensemble_statistics(images, truth, chosen)
        single = ensemble_statistics((image[1] for image in images), TRUTH, chosen)
        np.testing.assert_allclose(whole.nmse[1], single.nmse, rtol=1e-12)
        tensors = ensemble_statistics(torch.tensor(images), torch.tensor(truth.copy()), chosen)
        np.testing.assert_allclose(tensors.nmse.numpy(), whole.nmse, rtol=1e-10)
    assert whole.noise.shape == (2,)


def test_deviation_of_white_noise():
    images = 5 + RNG.normal(size=(400, 6, 5, 4))
    found = ensemble_statistics(images, np.full((6, 5, 4), 5.0))
    assert np.sqrt(np.mean(found.sd**2)) == pytest.approx(1 / 5, rel=0.02)
    assert np.abs(found.bias).max() < 5 / 5 / math.sqrt(400)


def test_ensembles_where_the_truth_is_zero():
    truth = np.where(HOT, 2.0, 0.0)
    found = ensemble_statistics(truth + RNG.random((3, *SHAPE)), truth)
    assert np.isnan(found.bias[~HOT]).all()
    assert np.isfinite(found.nmse[HOT]).all()
    assert np.isfinite(found.deviation).all()


def test_ensembles_that_mean_nothing():
    with pytest.raises(ValueError, match="two realisations or more, got 1"):
        ensemble_statistics(IMAGE[None], TRUTH)
    with pytest.raises(ValueError, match=r"shape \(13, 12\) does not fit a reference of \(14, 13, 12\)"):
        ensemble_statistics(IMAGE, TRUTH)
    with pytest.raises(ValueError, match="realisation 2 holds NaN"):
        ensemble_statistics([IMAGE, IMAGE * np.nan], TRUTH)


# ---- standardised uptake values --------------------------------------------------------------------------------------


def test_suv_max_and_mean():
    assert suv_max(IMAGE) == IMAGE.max()
    assert suv_max(IMAGE, HOT) == IMAGE[HOT].max()
    values = IMAGE[HOT]
    assert suv_mean(IMAGE, HOT) == pytest.approx(values.mean())
    assert suv_mean(IMAGE, HOT, threshold=2.0) == pytest.approx(values[values >= 2].mean())
    for fraction in (0.41, 0.5, 1.0):
        chosen = values[values >= fraction * values.max()]
        assert suv_mean(IMAGE, HOT, fraction=fraction) == pytest.approx(chosen.mean())
    assert suv_mean(IMAGE) == pytest.approx(IMAGE.mean())


def test_suv_of_parts_of_voxels():
    weights = np.zeros(SHAPE)
    weights[3, 3, 3:6] = 1.0, 0.5, 0.25
    image = np.zeros(SHAPE)
    image[3, 3, 3:6] = 2, 3, 10
    assert suv_max(image, weights) == 3, "a voxel that is mostly outside is not the region's maximum"
    assert suv_mean(image, weights) == pytest.approx((2 + 1.5 + 2.5) / 1.75)
    assert suv_mean(image, weights, threshold=2.5) == pytest.approx((1.5 + 2.5) / 0.75)


def fine_ball(voxel_size, reach=8, n=25):
    """The sphere of 1 mL on voxels, by many points in each."""
    radius = 10 * (3 / (4 * math.pi)) ** (1 / 3)
    axes = []
    for size in voxel_size:
        fine = (np.arange((2 * reach + 1) * n) + 0.5) / n - reach - 0.5
        axes.append((fine * size) ** 2)
    inside = axes[0][:, None, None] + axes[1][:, None] + axes[2] <= radius**2
    m = 2 * reach + 1
    return inside.reshape(m, n, m, n, m, n).mean((1, 3, 5))


@pytest.mark.parametrize("voxel_size", [(2.1, 1.9, 3.0), (4.0, 4.0, 5.0)])
def test_suv_peak_by_brute_force(voxel_size):
    shape = (16, 15, 13)
    image, ball = np.random.default_rng(0).random(shape) ** 4, fine_ball(voxel_size, reach=5, n=20)
    mean = scipy.ndimage.correlate(image, ball, mode="constant")
    mean /= scipy.ndimage.correlate(np.ones(shape), ball, mode="constant")
    grid, region = ImageGrid(shape, voxel_size, (-3, 2, 50)), np.zeros(shape, bool)
    region[6:10, 6:9, 5:8] = True
    assert suv_peak(image, grid) == pytest.approx(mean.max(), rel=3e-3)
    assert suv_peak(image, grid, region) == pytest.approx(mean[region].max(), rel=3e-3)


def test_suv_peak_of_simple_things():
    grid = ImageGrid((24, 24, 24), 2.0)
    assert suv_peak(np.full(grid.shape, 3.0), grid) == pytest.approx(3), "also at the edges"
    point = np.zeros(grid.shape)
    point[11, 12, 13] = 1
    assert suv_peak(point, grid) == pytest.approx(0.008, rel=2e-3), "the volume of a voxel over 1 mL"
    assert suv_peak(point, grid, volume=0.5) == pytest.approx(0.016, rel=2e-3)
    hot = 7 * region_of("hot", Sphere((1, 1, 1), 20.0), grid).weights
    assert suv_peak(hot, grid) == pytest.approx(7), "it fits into a larger sphere"
    small = 7 * region_of("hot", Sphere((1, 1, 1), 10.0), grid).weights
    assert suv_peak(small, grid) == pytest.approx(7 * 0.5236, rel=0.02), "and is filled by a smaller one in part"


@pytest.mark.parametrize("size", [1.0, 4.07, 6.0, 15.0])
def test_the_sphere_holds_one_millilitre(size):
    ball = _ball(ImageGrid((5, 5, 5), size), 1.0)
    assert ball.sum() * size**3 / 1000 == pytest.approx(1, rel=3e-3)
    np.testing.assert_allclose(ball, ball[::-1, ::-1, ::-1], atol=1e-12)
    assert max(ball[0].max(), ball[:, 0].max(), ball[:, :, 0].max()) < 1


def test_suv_peak_of_one_slice_is_that_of_the_middle_of_the_sphere():
    flat = ImageGrid((30, 30, 1), (2, 2, 2))
    image = RNG.random(flat.shape)
    ball = fine_ball((2, 2, 2), reach=4, n=20)[:, :, 4:5]
    mean = scipy.ndimage.correlate(image, ball, mode="constant")
    mean /= scipy.ndimage.correlate(np.ones(flat.shape), ball, mode="constant")
    assert suv_peak(image, flat) == pytest.approx(mean.max(), rel=2e-3)


def test_peak_lies_between_mean_and_max():
    grid = ImageGrid(SHAPE, 4.0)
    assert IMAGE.mean() < suv_peak(IMAGE, grid) < suv_max(IMAGE)


def test_suv_that_mean_nothing():
    grid, nan = ImageGrid(SHAPE, 4.0), np.where(HOT, np.nan, 1.0)
    for call in (suv_max, suv_mean, lambda x: suv_peak(x, grid)):
        with pytest.raises(ValueError, match="holds NaN"):
            call(nan)
    with pytest.raises(ValueError, match="not both"):
        suv_mean(IMAGE, threshold=1, fraction=0.4)
    for fraction in (0, 41, -0.5):
        with pytest.raises(ValueError, match=r"fraction must be between 0 and 1.*41 % is 0.41"):
            suv_mean(IMAGE, fraction=fraction)
    with pytest.raises(
        ValueError, match=r"no voxel of <RegionOfInterest 'region', 27 voxels .*> reaches the threshold"
    ):
        suv_mean(IMAGE, HOT, threshold=100)
    with pytest.raises(ValueError, match=r"does not fit a grid of \(14, 13, 12\)"):
        suv_peak(IMAGE[1:], grid)
    with pytest.raises(ValueError, match="volume must be positive"):
        suv_peak(IMAGE, grid, volume=0)
