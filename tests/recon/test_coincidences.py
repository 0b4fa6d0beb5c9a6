"""Scatter fraction, noise-equivalent counts, sensitivity and errors of corrections, against numbers made by hand."""

import numpy as np
import pytest

from emrecon.recon import correction_errors, count_rates, scatter_and_randoms, sleeve_sensitivity

BIN = 2.0


def line_source(trues, level, n=161, n_views=24, n_planes=3, radius=45.0):
    """A sinogram with `trues` in one bin of every view, on a line off the axis, and `level` in all bins."""
    sinogram = np.full((n_views, n, n_planes), float(level))
    for v in range(n_views):
        s = radius * np.cos(np.pi * v / n_views)
        sinogram[v, round(s / BIN + (n - 1) / 2)] += trues
    return sinogram


def test_a_flat_level_under_the_line_is_scatter():
    total, beside = scatter_and_randoms(line_source(1000, 2.0), BIN)
    n_kept = 121  # bins within 120 mm
    assert total == pytest.approx(24 * (1000 + 2.0 * n_kept))
    assert beside == pytest.approx(24 * 2.0 * n_kept, rel=1e-3)


def test_a_tilted_level_counts_by_the_mean_of_the_edges():
    sinogram = line_source(0.0, 0.0, radius=0.0)
    place = BIN * (np.arange(161) - 80)
    sinogram += (100 + 0.2 * place)[:, None]
    sinogram[:, 80] += 500
    total, beside = scatter_and_randoms(sinogram, BIN)
    assert total - beside == pytest.approx(24 * 500)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="reach"):
        scatter_and_randoms(np.ones((4, 31, 2)), BIN)
    with pytest.raises(ValueError, match="views, bins, planes"):
        scatter_and_randoms(np.ones((31, 2)), BIN)


def test_rates_and_the_noise_equivalent():
    """Trues a A, scatter 30 %, randoms b A^2 - in sinograms, so that the formula has to find them."""
    activity = np.array([0.1, 5.0, 10.0, 15.0, 20.0, 25.0])
    trues = 1000 * activity * np.exp(-activity / 15)
    scatter, randoms = 0.3 / 0.7 * trues, 20 * activity**2 * np.exp(-activity / 15)
    sinograms = np.stack(
        [line_source(t / 24 / 3, (s + r) / (24 * 121 * 3)) for t, s, r in zip(trues, scatter, randoms)]
    )
    counts = scatter_and_randoms(sinograms, BIN)
    found = count_rates(counts, activity, 1.0)
    least = (scatter[0] + randoms[0]) / (trues[0] + scatter[0] + randoms[0])
    assert found.scatter_fraction == pytest.approx(least, rel=1e-3)
    assert found.trues == pytest.approx(trues, rel=2e-3)
    assert found.total == pytest.approx(trues + scatter + randoms, rel=1e-6)
    assert found.noise_equivalent == pytest.approx(found.trues**2 / found.total, rel=1e-9)
    delayed = np.repeat(randoms[:, None] / 3, 3, 1)
    known = count_rates(counts, activity, 1.0, delayed=delayed, k=2)
    assert known.scatter == pytest.approx(scatter, rel=5e-3)
    assert known.scatter_fractions() == pytest.approx(0.3, rel=5e-3)
    rate, at = known.peak
    assert rate >= known.noise_equivalent.max()
    assert 5 < at < 15
    assert known.trues_peak[1] == pytest.approx(15, abs=1.5)
    with pytest.raises(ValueError, match="no peak was reached"):
        _ = count_rates(scatter_and_randoms(sinograms[:3], BIN), activity[:3], 1.0).peak
    with pytest.raises(ValueError, match="3 or more"):
        count_rates(scatter_and_randoms(sinograms[:2], BIN), activity[:2], 1.0)


def test_sleeves_are_extrapolated_to_none():
    walls = 1.25 * np.arange(1, 6)
    profile = np.array([1.0, 3.0, 2.0])
    rates = 5.0 * 900 * np.exp(-2 * 0.0228 * walls)[:, None] * profile / profile.sum()
    found = sleeve_sensitivity(rates, 900.0)
    assert (found.system, found.attenuation) == pytest.approx((5.0, 0.0228))
    assert found.slices == pytest.approx(5 * profile / 6)
    with pytest.raises(ValueError, match="positive"):
        sleeve_sensitivity(np.zeros(5), 1.0)


def test_errors_of_corrections_are_against_the_lowest_activities():
    activity = np.array([8.0, 4.0, 2.0, 1.0])
    rates = activity[:, None] * np.array([10.0, 20.0])
    rates[0] *= 0.95
    assert correction_errors(rates, activity)[0] == pytest.approx(-5)
    assert correction_errors(rates, activity)[1:] == pytest.approx(0)
    with pytest.raises(ValueError, match="do not fit"):
        correction_errors(rates[:3], activity[:3])
