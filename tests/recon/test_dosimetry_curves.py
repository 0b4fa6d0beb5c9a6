"""Time-activity curves: known curves come back, uncertainties are those of repeated scans, bounds and errors."""

import math

import numpy as np
import pytest

from emrecon.recon.dosimetry import MODELS, fit_time_activity, fit_voxels

TIMES = np.array([1.0, 4.0, 24.0, 72.0, 168.0])
LN2 = math.log(2)


def half(life):
    return 2.0 ** (-TIMES / life)


CURVES = {
    "mono": (100 * half(50), 100 * 50 / LN2),
    "bi": (80 * half(60) + 40 * half(5), (80 * 60 + 40 * 5) / LN2),
    "uptake": (100 * (half(60) - half(2)), 100 * (60 - 2) / LN2),
    "bi-uptake": (60 * half(70) + 50 * half(10) - 110 * half(1), (60 * 70 + 50 * 10 - 110 * 1) / LN2),
}


@pytest.mark.parametrize("model", MODELS)
def test_a_known_curve_comes_back(model):
    values, integral = CURVES[model]
    fit = fit_time_activity(TIMES, values, "Lu-177", model=model, uncertainties=0.05 * values)
    assert fit.integral == pytest.approx(integral, rel=1e-4)
    np.testing.assert_allclose(fit(TIMES), values, rtol=1e-4)
    assert 0.01 < fit.integral_uncertainty / fit.integral < 0.2
    fine = np.linspace(0, 3000, 300001)
    assert np.trapezoid(fit(fine), fine) == pytest.approx(fit.integral, rel=1e-3)
    assert model in str(fit)


@pytest.mark.parametrize("model", MODELS)
def test_many_curves_at_once_are_the_same(model):
    values, integral = CURVES[model]
    images = values[:, None, None, None] * np.array([1.0, 3.0, 0.0]).reshape(3, 1, 1)
    found = fit_voxels(TIMES, images, "Lu-177", model=model)
    np.testing.assert_allclose(found.integral.ravel(), [integral, 3 * integral, 0], rtol=1e-2)
    assert found.n_bounded == 0


def test_uncertainty_is_the_spread_of_repeated_scans():
    rng, truth = np.random.default_rng(3), CURVES["mono"][0]
    fits = [
        fit_time_activity(TIMES, truth * (1 + 0.05 * rng.normal(size=5)), "Lu-177", uncertainties=0.05 * truth)
        for _ in range(80)
    ]
    spread = np.std([fit.integral for fit in fits])
    assert np.mean([fit.integral_uncertainty for fit in fits]) == pytest.approx(spread, rel=0.25)
    assert np.mean([fit.integral for fit in fits]) == pytest.approx(CURVES["mono"][1], rel=0.01)


def test_uncertainty_without_any_given_comes_from_the_residuals():
    values = CURVES["mono"][0]
    noisy = values + np.array([1, -1, 1, -1, 1.0])
    small, large = (fit_time_activity(TIMES, values + s * (noisy - values), "Lu-177") for s in (0.5, 1.0))
    assert large.integral_uncertainty == pytest.approx(2 * small.integral_uncertainty, rel=0.1)
    exact = fit_time_activity([4, 24], [2.0, 1.0], "Lu-177")
    assert exact.integral_uncertainty is None
    assert exact.half_lives == pytest.approx([20.0])
    assert any("as many points" in note for note in exact.notes)


def test_physical_decay_is_the_slowest():
    physical = 574300.8 / 3600
    slow = fit_time_activity(TIMES, 100 * half(400.0), "Lu-177")
    assert slow.half_lives == pytest.approx([physical])
    assert any("physical decay" in note for note in slow.notes)
    rising = fit_time_activity([4, 50], [1.0, 2.0], "Y-90")
    assert rising.half_lives == pytest.approx([230549.76 / 3600])
    found = fit_voxels(TIMES, np.ones((5, 2, 1, 1)), "Lu-177")
    assert found.n_bounded == 2
    np.testing.assert_allclose(found.half_life, physical)


def test_what_washes_out_before_the_next_scan_is_bounded():
    """A voxel with activity in the first scan alone may have held any amount: four half-lives until then at most."""
    images = np.zeros((3, 1, 1, 1))
    images[0] = 10.0
    found = fit_voxels([24.0, 48.0, 96.0], images, "Lu-177")
    assert found.n_fast == 1
    assert found.integral.item() <= 10 * 2**4 * 6 / LN2 * (1 + 1e-6)


def test_a_known_half_life_needs_one_point():
    fit = fit_time_activity([96.0], [10.0], "Lu-177", half_life=50.0)
    assert fit.integral == pytest.approx(10 * 2 ** (96 / 50) * 50 / LN2)
    assert fit.integral_uncertainty is None
    sure = fit_time_activity([96.0], [10.0], "Lu-177", half_life=50.0, uncertainties=[1.0])
    assert sure.integral_uncertainty == pytest.approx(0.1 * sure.integral)
    with pytest.raises(ValueError, match="physical"):
        fit_time_activity([96.0], [10.0], "Lu-177", half_life=200.0)


def test_the_model_that_fits_is_chosen():
    times = np.array([1, 2, 4, 8, 24, 48, 96, 168.0])
    rng = np.random.default_rng(1)
    two = 80 * 2 ** (-times / 60) + 60 * 2 ** (-times / 4) + 0.1 * rng.normal(size=8)
    one = 80 * 2 ** (-times / 60) + 0.1 * rng.normal(size=8)
    assert fit_time_activity(times, two, "Lu-177", model="auto").model == "bi"
    assert fit_time_activity(times, one, "Lu-177", model="auto").model == "mono"


def test_fits_refuse():
    for model, n in (("mono", 1), ("uptake", 2), ("bi", 3), ("bi-uptake", 4)):
        with pytest.raises(ValueError, match=f"{n + 1} parameters and needs as many time points, got {n}"):
            fit_time_activity(TIMES[:n], np.ones(n), "Lu-177", model=model)
    with pytest.raises(ValueError, match="choose mono or uptake"):
        fit_time_activity([1, 2, 3], [3, 2, 1], "Lu-177", model="bi")
    with pytest.raises(ValueError, match="increasing"):
        fit_time_activity([4, 1], [1, 2], "Lu-177")
    with pytest.raises(ValueError, match="after injection"):
        fit_time_activity([-4, 1], [1, 2], "Lu-177")
    with pytest.raises(ValueError, match="2 times and 3 values"):
        fit_time_activity([1, 4], [1, 2, 3], "Lu-177")
    with pytest.raises(ValueError, match="some positive"):
        fit_time_activity([1, 4], [0, -1], "Lu-177")
    with pytest.raises(ValueError, match="unknown model"):
        fit_time_activity([1, 4], [2, 1], "Lu-177", model="tri")
    with pytest.raises(ValueError, match="uncertainties must be"):
        fit_time_activity([1, 4], [2, 1], "Lu-177", uncertainties=[1, 0])
    with pytest.raises(ValueError, match="times, x, y, z"):
        fit_voxels([1, 4], np.ones((3, 2, 2, 2)), "Lu-177")
