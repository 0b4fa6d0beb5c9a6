"""Tests and intervals against closed forms, SciPy, enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from emrecon.evaluation import statistics

RNG = np.random.default_rng(3)


def test_student_s_interval_is_that_of_scipy():
    x = RNG.normal(3, 2, 12)
    found = statistics.t_interval(x)
    low, high = stats.ttest_1samp(x, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.value, found.n) == (pytest.approx(x.mean()), 12)
    assert math.isnan(statistics.t_interval([1.0]).low)


def test_bootstrap_interval_is_that_of_scipy():
    x = RNG.gamma(2, 1, 30)
    found = statistics.bootstrap_interval(x, np.median, n_resamples=4000)
    other = stats.bootstrap((x,), np.median, method="BCa", n_resamples=4000, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.12)
    constant = statistics.bootstrap_interval([2.0, 2.0, 2.0])
    assert (constant.low, constant.high) == (2.0, 2.0)
    rows = RNG.normal(size=(20, 2)) + np.array([0, 1])
    ratio = statistics.bootstrap_interval(rows, lambda r: float((r[:, 1] - r[:, 0]).mean()), n_resamples=500)
    assert ratio.low < 1 < ratio.high


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10)])
def test_proportions_have_exact_intervals(k, n):
    found, other = statistics.proportion_interval(k, n), stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((other.low, other.high))


def test_tests_of_pairs_are_those_of_scipy():
    a, b = RNG.normal(0, 1, 10), RNG.normal(0.8, 1, 10)
    assert statistics.compare_paired(a, b, "t").p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert statistics.compare_paired(a, b, "wilcoxon").p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    found = statistics.compare_paired(a, b)
    exact = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(exact.pvalue)
    assert found.difference.value == pytest.approx((a - b).mean())


def test_signs_are_enumerated_for_few_and_drawn_for_many():
    d = np.array([0.3, 1.2, -0.1, 0.8, 0.5])
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((1, -1), repeat=5)]
    assert statistics.sign_flip_p(d) == np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert statistics.sign_flip_p(np.ones(6)) == 2 / 64  # the least that six subjects can give
    many = RNG.normal(0.4, 1, 24)
    assert statistics.sign_flip_p(many, n_flips=20_000) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)


@pytest.mark.parametrize("test", ["t", "wilcoxon", "permutation"])
def test_p_is_uniform_where_there_is_no_difference(test):
    data = np.random.default_rng(1).normal(size=(300, 8))
    p = [statistics.compare_paired(row, np.zeros(8), test).p for row in data]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.08


def test_equal_methods_and_single_subjects():
    same = statistics.compare_paired([1.0, 2.0], [1.0, 2.0])
    assert (same.p, same.difference.value) == (1.0, 0.0)
    assert math.isnan(statistics.compare_paired([1.0], [2.0]).p)
    assert statistics.compare_paired([1.0, 2.0, 3.0], [2.0, 3.0, 4.0], "t").p == 0.0


def test_holm_is_the_textbook_s():
    p = [0.01, 0.04, 0.03, 0.005]
    assert statistics.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    kept = statistics.holm([0.01, math.nan, 0.02])
    assert kept[0] == pytest.approx(0.02)
    assert math.isnan(kept[1])
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm([1.5])


def test_a_ranking_says_who_cannot_be_told_from_the_best():
    subject = RNG.normal(0, 1, 12)  # far more than what methods differ by
    values = {
        "best": subject + RNG.normal(0, 0.01, 12),
        "close": subject + 0.002 + RNG.normal(0, 0.01, 12),
        "far": subject + 0.1 + RNG.normal(0, 0.01, 12),
    }
    found = statistics.ranking(values)
    assert [rank.name for rank in found][-1] == "far"
    assert [rank.is_among_best for rank in found] == [True, True, False]
    assert found[0].p is None
    assert found[-1].behind.value == pytest.approx(0.1, abs=0.02)
    upside_down = statistics.ranking(values, smaller_is_better=False)
    assert upside_down[0].name == "far"
    tied = statistics.ranking({"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [5.0, 5.0]})
    assert [rank.place for rank in tied] == [1, 1, 3]


def test_the_interval_over_seeds_covers_another_training():
    random, inside = np.random.default_rng(5), 0
    for _ in range(300):
        table = random.normal(0, 0.3, (3, 1)) + random.normal(0, 0.5, (1, 10)) + random.normal(0, 0.2, (3, 10))
        found = statistics.seed_interval(table)
        inside += found.mean.low < 0 < found.mean.high
    assert 0.90 <= inside / 300 <= 0.99
    one = statistics.seed_interval([[1.0, 2.0, 4.0]])
    assert one.mean == statistics.t_interval([1.0, 2.0, 4.0])
    assert one.between_seeds == 0
    equal = statistics.seed_interval([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    assert equal.seeds == (1.5, 1.5, 1.5)
    assert equal.mean.low < 1.5 < equal.mean.high


def test_seeds_widen_a_difference():
    subject, noise = RNG.normal(0, 1, 10), RNG.normal(0, 0.02, (2, 3, 10))
    first = subject + np.array([[-0.2], [0.0], [0.2]]) + noise[0]
    second = subject + 0.3 + noise[1]
    found = statistics.paired_over_seeds(first, second)
    narrow = statistics.compare_paired(first.mean(0), second.mean(0))
    assert found.difference.value == pytest.approx(narrow.difference.value)
    assert found.difference.high - found.difference.low > 2 * (narrow.difference.high - narrow.difference.low)
    assert found.p == narrow.p


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.t_interval([]), "at least one"),
        (lambda: statistics.t_interval([1.0, math.nan]), "1 of 2 numbers are NaN"),
        (lambda: statistics.t_interval([1.0, 2.0], 95), "between 0 and 1"),
        (lambda: statistics.compare_paired([1.0, 2.0], [1.0]), "do not pair"),
        (lambda: statistics.compare_paired([1.0, 2.0], [1.0, 3.0], "f"), "unknown test 'f'"),
        (lambda: statistics.ranking({}), "a method or more"),
        (lambda: statistics.seed_interval([1.0, 2.0]), r"shape \(n, k\)"),
        (lambda: statistics.proportion_interval(3, 2), "0 <= successes <= n"),
        (lambda: statistics.bootstrap_interval([1.0, 2.0], n_resamples=5), "100 resamples"),
    ],
)
def test_unusable_numbers_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
