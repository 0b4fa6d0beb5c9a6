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
