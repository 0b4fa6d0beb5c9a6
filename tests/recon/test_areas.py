"""Areas under ROC and LROC curves, signal-to-noise ratios, and whether their intervals hold what they say."""

import math

import numpy as np
import pytest
from scipy import stats

from emrecon import recon


def plain_delong(x, y):
    """Area and variance from the kernel of all pairs."""
    wins = (y[None] > x[:, None]) + 0.5 * (y[None] == x[:, None])
    return wins.mean(), wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)


def test_area_and_variance_are_those_of_all_pairs_with_ties():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 6, 31), random.integers(1, 8, 24)
    area, variance = plain_delong(x, y)
    value, (low, high) = recon.area_under_curve(x, y)
    assert value == pytest.approx(area, abs=1e-12)
    assert high - value == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert value - low == pytest.approx(high - value)
    curve = recon.roc_curve(x, y)
    assert np.trapezoid(curve.true_positive, curve.false_positive) == pytest.approx(area)
    assert (curve.false_positive[0], curve.true_positive[0]) == (0, 0)
    assert (curve.false_positive[-1], curve.true_positive[-1]) == (1, 1)


@pytest.mark.parametrize(("method", "low", "high"), [("delong", 0.9, 0.985), ("logit", 0.92, 0.985)])
def test_the_analytic_gaussian_task_lies_within_the_interval_95_times_of_100(method, low, high):
    random = np.random.default_rng(1)
    true, inside = stats.norm.cdf(1.2 / math.sqrt(2)), 0
    for _ in range(400):
        area = recon.area_under_curve(random.normal(size=60), random.normal(size=50) + 1.2, method=method)
        inside += area.low <= true <= area.high
    assert low < inside / 400 < high  # 0.95 +- 3 standard errors of 0.011, and DeLong a little less


def test_exact_intervals_hold_their_level():
    random = np.random.default_rng(2)
    p, m, n, snr2 = 5, 22, 18, 1.44
    difference = np.r_[1.2, np.zeros(p - 1)]
    areas, found, known, values = 0, 0, 0, []
    for _ in range(300):
        x, y = random.normal(size=(m, p)), random.normal(size=(n, p)) + difference
        one = recon.snr_interval(x, y)
        found += one.squared.low <= snr2 <= one.squared.high
        values.append(one.squared.value)
        two = recon.snr_interval(x, y, difference=difference)
        known += two.squared.low <= snr2 <= two.squared.high
        area = recon.area_under_curve(x[:, 0], y[:, 0], method="gaussian")
        areas += area.low <= stats.norm.cdf(1.2 / math.sqrt(2)) <= area.high
    for inside in (found, known, areas):
        assert 0.912 < inside / 300 < 0.988
    assert np.mean(values) == pytest.approx(snr2, abs=4 * np.std(values) / 17)  # no bias; dv' S^-1 dv has 1.2 more


def test_the_exact_interval_is_that_of_the_noncentral_f_distribution():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(30, 4)), random.normal(size=(40, 4)) + 0.6
    one = recon.snr_interval(x, y)
    S = (29 * np.cov(x.T) + 39 * np.cov(y.T)) / 68
    d = y.mean(0) - x.mean(0)
    F = d @ np.linalg.solve(S, d) * (30 * 40 / 70) * 65 / (4 * 68)
    for bound, tail in ((one.squared.low, 0.975), (one.squared.high, 0.025)):
        assert stats.ncf.cdf(F, 4, 65, bound * 30 * 40 / 70) == pytest.approx(tail, abs=1e-6)
    assert one.area.high == pytest.approx(stats.norm.cdf(math.sqrt(one.squared.high / 2)))
    assert one.snr.value == pytest.approx(math.sqrt(one.squared.value))
    assert one.resubstituted > one.squared.value
    tests = stats.ttest_ind(y[:, 0], x[:, 0])  # one channel: an interval that begins at 0 and a p above 0.025 are one
    first = recon.snr_interval(x[:, :1], y[:, :1])
    assert (first.squared.low == 0) == (tests.pvalue > 0.025)


def test_channels_and_an_image_of_the_signal_are_taken():
    random = np.random.default_rng(4)
    U, signal = recon.laguerre_gauss_channels((8, 8), 5, 3), np.zeros((8, 8))
    signal[3:5, 3:5] = 1
    x, y = random.normal(size=(20, 8, 8)), random.normal(size=(20, 8, 8)) + signal
    whole = recon.snr_interval(x, y, U, difference=signal)
    assert whole.squared == recon.snr_interval(x, y, U, difference=signal.ravel() @ U).squared
    nothing = recon.snr_interval(x[:10], x[10:], U)
    assert nothing.squared.low == 0
    assert nothing.snr.low == 0
    assert nothing.area.low == 0.5
    with pytest.raises(ValueError, match="3 channel outputs or an image"):
        recon.snr_interval(x, y, U, difference=np.ones(5))


def test_complete_separation_is_no_certainty():
    x, y = np.arange(10.0), np.arange(20.0, 35)
    area = recon.area_under_curve(x, y)
    assert (area.value, area.high) == (1, 1)
    assert area.low == pytest.approx(0.025**0.1)
    assert "separated completely" in area.note
    swapped = recon.area_under_curve(y, x)
    assert (swapped.value, swapped.low, swapped.high) == (0, 0, pytest.approx(1 - 0.025**0.1))
    constant = recon.area_under_curve(np.zeros(9), np.zeros(9))
    assert constant.value == 0.5
    assert constant.high - constant.low > 0.8
    found = recon.detectability(x, y)
    assert found.value == found.high == math.inf
    assert 0 < found.low < 3


def test_detectability_is_the_area_on_another_scale():
    random = np.random.default_rng(5)
    x, y = random.normal(size=4000), random.normal(size=4000) + 1.5
    found, area = recon.detectability(x, y), recon.area_under_curve(x, y)
    assert found.low < 1.5 < found.high
    assert stats.norm.cdf(found.low / math.sqrt(2)) == pytest.approx(area.low)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.standard_error, rel=0.01)


def test_paired_comparison_takes_what_both_have_in_common():
    random = np.random.default_rng(6)
    x, y = random.normal(size=40), random.normal(size=35) + 1
    x2, y2 = x + 0.3 * random.normal(size=40), y + 0.3 * random.normal(size=35) - 0.3
    found = recon.compare_areas(x, y, x2, y2)
    wins = [(b[None] > a[:, None]) for a, b in ((x, y), (x2, y2))]
    difference = wins[1].astype(float) - wins[0]
    variance = difference.mean(1).var(ddof=1) / 40 + difference.mean(0).var(ddof=1) / 35
    assert found.difference.value == pytest.approx(difference.mean())
    assert found.difference.standard_error == pytest.approx(math.sqrt(variance))
    assert 0.6 < found.correlation < 1
    apart = recon.compare_areas(x, y, x2, y2, paired=False)
    assert apart.difference.standard_error > 1.5 * found.difference.standard_error
    assert apart.p > found.p
    same = recon.compare_areas(x, y, x, y)
    assert same.p == 1
    assert "no variance" in same.difference.note
    p = []
    for _ in range(300):
        common, more = random.normal(size=(2, 50)), random.normal(size=(2, 2, 50))
        p.append(recon.compare_areas(*(common + more[0]), *(common + more[1])).p)
    assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_lroc_of_a_guess_among_places_and_of_all_pairs():
    random = np.random.default_rng(7)
    x, y, right = random.normal(size=300), random.normal(size=400), np.arange(400) % 10 == 0
    found = recon.area_under_lroc(x, y, right)
    wins = (y[None] > x[:, None]) & right
    assert found.value == pytest.approx(wins.mean())
    assert found.low < 0.05 < found.high  # 1 / (2 * 10 places)
    variance = wins.mean(1).var(ddof=1) / 300 + wins.mean(0).var(ddof=1) / 400
    assert found.standard_error == pytest.approx(math.sqrt(variance))
    curve = recon.lroc_curve(x, y, right)
    assert np.trapezoid(curve.true_and_localised, curve.false_positive) == pytest.approx(found.value)
    assert curve.true_and_localised[-1] == 0.1
    assert recon.area_under_lroc(x, y, np.ones(400)).value == pytest.approx(recon.area_under_curve(x, y).value)
    compared = recon.compare_lroc_areas((x, y, right), (x, y + 1, right))
    assert compared.difference.value > 0
    assert compared.p < 0.05


def test_a_scanning_observer_finds_signals_where_they_are():
    random = np.random.default_rng(8)
    places = np.stack(np.meshgrid(range(6, 26, 3), range(6, 26, 3), indexing="ij"), -1).reshape(-1, 2)
    spot = np.exp(-(np.add.outer(np.arange(-4, 5) ** 2, np.arange(-4, 5) ** 2)) / 6)

    def images(n):
        absent, present = random.normal(size=(2, n, 32, 32)) + np.linspace(0, 9, 32)
        true = places[random.integers(len(places), size=n)]
        for image, (i, j) in zip(present, true):
            image[i - 4 : i + 5, j - 4 : j + 5] += 2.2 * spot
        return absent, present, true

    U = recon.laguerre_gauss_channels((9, 9), 6, 3)
    for template in ("shared", "each"):
        observer = recon.ScanningHotelling(U, (9, 9), places, template).fit(*images(80))
        absent, present, true = images(80)
        found = observer.scan(present)
        right = recon.localised(found.places, true, 2.0)
        assert right.mean() > 0.8
        area = recon.area_under_lroc(observer.scores(absent), found.ratings, right)
        assert 0.75 < area.value <= right.mean()
    # scores are linear in the patch: what is added there adds the template's part of it
    observer = recon.ScanningHotelling(U, (9, 9), places).fit(*images(80))
    (i, j), moved = places[5], np.repeat(present[:1], 4, 0)
    patch = (slice(i - 4, i + 5), slice(j - 4, j + 5))
    for n in range(3):
        moved[n + 1][patch] += U[:, n].reshape(9, 9)
    z = observer.score_positions(moved)[:, 5]
    extra = random.normal(size=3)
    once = present[:1].copy()
    once[0][patch] += (U @ extra).reshape(9, 9)
    assert observer.score_positions(once)[0, 5] == pytest.approx(z[0] + extra @ (z[1:] - z[0]), abs=1e-9)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: recon.area_under_curve([1, np.nan], [1, 2]), "absent_scores hold NaN"),
        (lambda: recon.area_under_curve([1], [1, 2]), "two scores or more"),
        (lambda: recon.area_under_curve([1, 2], [[1, 2]]), "present_scores must be"),
        (lambda: recon.area_under_curve([1, 2], ["a", "b"]), "real numbers"),
        (lambda: recon.area_under_curve([1, 2], [1, 2], method="best"), "choose from delong, logit, gaussian"),
        (lambda: recon.area_under_curve([1, 2], [1, 2], level=95), "between 0 and 1"),
        (lambda: recon.compare_areas([1, 2], [1, 2], [1, 2, 3], [1, 2]), "paired=False"),
        (lambda: recon.area_under_lroc([1, 2], [1, 2], [1, 2]), "yes or no"),
        (lambda: recon.area_under_lroc([1, 2], [1, np.inf], [1, 1]), "finite"),
        (lambda: recon.ScanningHotelling(np.ones((16, 1)), (4, 4), [[5, 5]]), "odd"),
        (lambda: recon.ScanningHotelling(np.ones((9, 1)), (3, 3), [[5.5, 5]]), "whole voxels"),
        (lambda: recon.localised([[1, 2]], [[1, 2]], 0), "radius 0"),
    ],
)
def test_wrong_scores_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_patches_stay_inside_of_images():
    observer = recon.ScanningHotelling(np.ones((9, 1)), (3, 3), [[0, 4], [4, 4]])
    images = np.random.default_rng(9).normal(size=(9, 8, 8))
    with pytest.raises(ValueError, match=r"1 of 2 positions, such as \(0, 4\)"):
        observer.fit(images, images, [[4, 4]] * 9)
    with pytest.raises(ValueError, match="call fit"):
        observer.scan(images)
