"""Counting noise: moments, totals, independence, reproducibility, and arrays of every library."""

import numpy as np
import pytest
import torch

from emrecon.sims import generator, poisson, scale_to_counts, thin

N = 200_000


@pytest.mark.parametrize("mean", [0.3, 4.0, 250.0])
def test_mean_and_variance(mean):
    counts = poisson(np.full(N, mean), seed=1)
    assert np.array_equal(counts, np.floor(counts))
    assert counts.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / N))
    assert counts.var() == pytest.approx(mean, rel=5 * np.sqrt((2 + 1 / mean) / N))


def test_bins_are_independent_and_zero_stays_zero():
    counts = poisson(np.full((2, N), 5.0), seed=2)
    assert abs(np.corrcoef(counts)[0, 1]) < 5 / np.sqrt(N)
    assert not poisson(np.zeros(100), seed=2).any()


def test_total_scales_the_expectation():
    expected = np.random.default_rng(0).uniform(0, 3, (40, 50)).astype(np.float32)
    factor = scale_to_counts(expected, 1e6)
    assert factor * expected.sum(dtype=float) == pytest.approx(1e6)
    counts = poisson(expected, seed=3, total=1e6)
    assert counts.sum() == pytest.approx(1e6, abs=5e3)
    np.testing.assert_array_equal(counts, poisson(factor * expected.astype(float), seed=3))


def test_seeds():
    expected = np.full(50, 10.0)
    np.testing.assert_array_equal(poisson(expected, seed=5), poisson(expected, seed=5))
    assert np.any(poisson(expected, seed=5) != poisson(expected, seed=6))
    assert generator(5, "a").integers(1 << 60) == generator(np.int64(5), "a").integers(1 << 60)
    assert len({generator(s, p).integers(1 << 60) for s in range(20) for p in ("", "a", "b")}) == 60


@pytest.mark.parametrize("seed", [-1, 1.5, None, True])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="non-negative integer"):
        poisson(np.ones(3), seed)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_come_back_as_they_went_in(dtype):
    expected = np.random.default_rng(0).uniform(0, 100, (3, 4, 5)).astype(dtype)
    counts = poisson(expected, seed=8)
    assert isinstance(counts, np.ndarray)
    assert (counts.dtype, counts.shape) == (expected.dtype, expected.shape)
    tensor = torch.tensor(expected, requires_grad=True)
    same = poisson(tensor, seed=8)
    assert isinstance(same, torch.Tensor)
    assert (same.dtype, same.device, same.requires_grad) == (tensor.dtype, tensor.device, False)
    np.testing.assert_array_equal(same.numpy(), counts)
    np.testing.assert_array_equal(thin(same, 0.3, seed=1).numpy(), thin(counts, 0.3, seed=1))
    assert thin(same, 0.3, seed=1).dtype == same.dtype
    assert thin(counts.astype(np.int32), 0.3, seed=1).dtype == np.int32


@pytest.mark.gpu
def test_arrays_on_a_device_stay_there():
    cupy = pytest.importorskip("cupy")
    expected = np.random.default_rng(0).uniform(0, 100, (3, 4, 5)).astype(np.float32)
    counts = poisson(cupy.asarray(expected), seed=8)
    assert isinstance(counts, cupy.ndarray)
    np.testing.assert_array_equal(counts.get(), poisson(expected, seed=8))
    on_device = poisson(torch.from_numpy(expected).cuda(), seed=8)
    assert on_device.is_cuda
    np.testing.assert_array_equal(thin(on_device, 0.5, 0).cpu().numpy(), thin(counts, 0.5, 0).get())


@pytest.mark.parametrize("probability", [0.5, 0.1])
def test_thinned_parts_are_independent_poisson(probability):
    counts = poisson(np.full(N, 20.0), seed=9)
    part = thin(counts, probability, seed=9)
    rest = counts - part
    assert part.min() >= 0
    assert rest.min() >= 0
    for kept, mean in ((part, 20 * probability), (rest, 20 * (1 - probability))):
        assert kept.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / N))
        assert kept.var() == pytest.approx(mean, rel=5 * np.sqrt((2 + 1 / mean) / N))
    assert abs(np.corrcoef(part, rest)[0, 1]) < 5 / np.sqrt(N)


def test_thinning_at_the_ends():
    counts = poisson(np.full(100, 7.0), seed=0)
    np.testing.assert_array_equal(thin(counts, 1.0, 0), counts)
    assert not thin(counts, 0.0, 0).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisson(np.array([1.0, -0.1]), 0), "down to -0.1"),
        (lambda: poisson(np.array([1.0, np.nan]), 0), "NaN"),
        (lambda: poisson(np.array([1.0, np.inf]), 0), "infinite"),
        (lambda: poisson(np.ones(3), 0, total=0), "positive number of counts"),
        (lambda: poisson(np.ones(3), 0, total=np.nan), "positive number of counts"),
        (lambda: scale_to_counts(np.zeros(3), 10), "zero everywhere"),
        (lambda: thin(np.array([1.0, 2.5]), 0.5, 0), "integers"),
        (lambda: thin(np.array([1.0, -1.0]), 0.5, 0), "integers"),
        (lambda: thin(np.array([1.0, np.nan]), 0.5, 0), "integers"),
        (lambda: thin(np.ones(3), 1.5, 0), "between 0 and 1"),
    ],
)
def test_errors_name_the_cause(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_are_refused():
    with pytest.raises(TypeError, match="expects an array"):
        poisson([1.0, 2.0], 0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64, bool])
def test_integers_do_not_wrap(dtype):
    high = 1 if dtype is bool else min(np.iinfo(dtype).max, 30000)
    expected = np.full(500, high, dtype)
    counts = poisson(expected, seed=1)
    assert counts.dtype == np.int64
    assert counts.mean() == pytest.approx(high, abs=5 * np.sqrt(high / 500))
    many = poisson(expected, seed=1, total=1e9)
    assert many.min() > 1.9e6
    assert many.sum() == pytest.approx(1e9, abs=2e5)


def test_half_precision_and_torch_integers():
    assert poisson(np.full(9, 60000, np.float16), seed=1).dtype == np.float32
    assert np.isfinite(poisson(np.full(99, 65500, np.float16), seed=1)).all()
    counts = poisson(torch.full((9,), 250, dtype=torch.uint8), seed=1)
    assert counts.dtype == torch.int64
    np.testing.assert_array_equal(counts.numpy(), poisson(np.full(9, 250, np.uint8), seed=1))
    assert poisson(torch.full((9,), 3e4, dtype=torch.bfloat16), seed=1).dtype == torch.float32


def test_more_than_an_integer_holds_is_refused():
    with pytest.raises(ValueError, match="no integer holds"):
        poisson(np.full(3, 1e19), seed=1)
    with pytest.raises(ValueError, match="more than an integer holds"):
        thin(np.full(3, 1e19), 0.5, seed=1)


def test_parts_of_independent_scans_are_independent_though_they_share_a_seed():
    first, second = (poisson(np.full(N, 20.0), seed) for seed in (11, 12))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(N)
    for probability in (0.1, 0.5, 0.9):
        kept = np.corrcoef(thin(first, probability, seed=3), thin(second, probability, seed=3))
        assert abs(kept[0, 1]) < 5 / np.sqrt(N)


def test_the_same_counts_are_divided_alike_in_every_precision():
    counts = poisson(np.full((5, 4), 20.0), seed=11)
    parts = [thin(counts.astype(dtype), 0.4, seed=3) for dtype in (np.float32, np.float64, np.uint8, np.int64)]
    for part in parts[1:]:
        np.testing.assert_array_equal(part, parts[0])
    assert np.any(thin(counts, 0.4, seed=4) != parts[0])
    assert np.any(thin(counts.reshape(4, 5), 0.4, seed=3).ravel() != parts[0].ravel())
