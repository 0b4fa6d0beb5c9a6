"""Energy windows: hand-computed estimates, smoothing that keeps counts, scans of several windows, and clear errors."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from emrecon.projectors import SPECTGeometry
from emrecon.projectors.physics.compton import accepted_fraction, klein_nishina, scattered_energy
from emrecon.projectors.scan.energy_windows import (
    EnergyWindow,
    WindowedScan,
    dual_energy_window,
    smooth_projections,
    triple_energy_window,
)

PEAK = EnergyWindow(126, 154, "peak")
LOWER, UPPER = EnergyWindow(120, 126, "lower"), EnergyWindow(154, 158, "upper")
CAMERA = SPECTGeometry.circular(n_views=4, radius=150, n_bins=(6, 5), pixel_size=(4.0, 3.0))
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(30, (3, *CAMERA.shape)).astype(np.float32)
SCAN = WindowedScan((PEAK, LOWER, UPPER), tuple(COUNTS), CAMERA, duration=20, radionuclide="tc99m", factors=2.0)


def test_a_window():
    assert PEAK.width == 28
    assert PEAK.limits == (126.0, 154.0)
    twenty = EnergyWindow.around(140.5, 20, "peak")
    assert twenty.limits == pytest.approx((126.45, 154.55))
    assert "126 to 154 keV" in str(PEAK)


@pytest.mark.parametrize("limits", [(154, 126), (-1, 20), (5, 5), (1, float("nan")), (1, float("inf"))])
def test_windows_that_cannot_be(limits):
    with pytest.raises(ValueError, match="0 <= lower < upper"):
        EnergyWindow(*limits)


def test_triple_energy_window_by_hand():
    low, high = COUNTS[1], COUNTS[2]
    np.testing.assert_allclose(
        triple_energy_window(PEAK, (LOWER, low), (UPPER, high)), (low / 6 + high / 4) * 14, rtol=1e-6
    )
    np.testing.assert_allclose(triple_energy_window(PEAK, (LOWER, low)), low / 6 * 14, rtol=1e-6)
    np.testing.assert_allclose(triple_energy_window(PEAK, upper=(UPPER, high)), high / 4 * 14, rtol=1e-6)


def test_a_spectrum_that_is_a_straight_line_is_found_exactly():
    """The trapezoid is right where scatter per keV falls linearly and the windows are narrow."""

    def line(window):
        return np.full((2, 2), window.width * (200 - (window.lower + window.upper) / 2))

    below, above = EnergyWindow(125.9, 126), EnergyWindow(154, 154.1)
    estimate = triple_energy_window(PEAK, (below, line(below)), (above, line(above)))
    np.testing.assert_allclose(estimate, line(PEAK), rtol=1e-12)


def test_dual_energy_window_and_its_k():
    peak, scatter = EnergyWindow(127, 153), EnergyWindow(92, 125)
    counts = np.array([[100.0, 50.0]])
    k = 0.5 * 33 / 26  # k of counts per keV that stands for half of the counts
    np.testing.assert_allclose(dual_energy_window(peak, (scatter, counts), k), counts / 2, rtol=1e-12)


def test_negative_counts_are_clipped():
    assert triple_energy_window(PEAK, (LOWER, np.array([[-3.0, 6.0]]))).tolist() == [[0.0, 14.0]]
    assert dual_energy_window(PEAK, (LOWER, np.array([-3.0])), 1.0).tolist() == [0.0]


@pytest.mark.parametrize("fwhm", [1.0, 8.0, 60.0])
def test_smoothing_keeps_the_counts_of_every_view(fwhm):
    spikes = RNG.poisson(0.1, (3, 4, 9, 7)).astype(float)
    smooth = smooth_projections(spikes, fwhm, (4.0, 3.0))
    np.testing.assert_allclose(smooth.sum((-2, -1)), spikes.sum((-2, -1)), rtol=1e-12)
    assert smooth.min() >= 0


def test_smoothing_is_gaussian():
    image = RNG.random((40, 30))
    sigma = 12 / 2.3548200450309493
    expected = gaussian_filter(image, (sigma / 2, sigma / 3), mode="reflect", truncate=5)
    np.testing.assert_allclose(smooth_projections(image, 12.0, (2.0, 3.0)), expected, atol=4e-3)
    assert np.array_equal(smooth_projections(image, 0, 1.0), image)


def test_scans_of_windows():
    scan = SCAN.scan("lower")
    assert scan.energy_window == (120.0, 126.0)
    assert (scan.duration, scan.radionuclide, scan.factors) == (20, "Tc-99m", 2.0)
    np.testing.assert_array_equal(scan.counts, COUNTS[1])
    assert SCAN.window("upper") == UPPER
    stacked = WindowedScan(SCAN.windows, COUNTS, CAMERA)
    np.testing.assert_array_equal(stacked.scan("upper").counts, COUNTS[2])


def test_scatter_corrected():
    corrected = SCAN.scatter_corrected("peak", "lower", "upper", fwhm=10.0)
    np.testing.assert_array_equal(corrected.counts, COUNTS[0])
    estimate = triple_energy_window(PEAK, (LOWER, COUNTS[1]), (UPPER, COUNTS[2]))
    np.testing.assert_array_equal(corrected.background, smooth_projections(estimate, 10.0, CAMERA.pixel_size))
    one_sided = SCAN.scatter_corrected("peak", "lower")
    np.testing.assert_array_equal(one_sided.background, triple_energy_window(PEAK, (LOWER, COUNTS[1])))
    dual = SCAN.scatter_corrected("peak", "lower", k=0.6)
    np.testing.assert_array_equal(dual.background, dual_energy_window(PEAK, (LOWER, COUNTS[1]), 0.6))


def test_tensors_stay_tensors():
    tensors = [torch.tensor(values, requires_grad=True) for values in COUNTS]
    estimate = triple_energy_window(PEAK, (LOWER, tensors[1]), (UPPER, tensors[2]))
    smooth = smooth_projections(estimate, 9.0, CAMERA.pixel_size)
    expected = triple_energy_window(PEAK, (LOWER, COUNTS[1]), (UPPER, COUNTS[2]))
    np.testing.assert_allclose(smooth.detach().numpy(), smooth_projections(expected, 9.0, CAMERA.pixel_size), rtol=1e-5)
    smooth.sum().backward()
    assert torch.isfinite(tensors[1].grad).all()
    scan = WindowedScan(SCAN.windows, tuple(torch.tensor(values) for values in COUNTS), CAMERA)
    assert isinstance(scan.scatter_corrected("peak", "lower", "upper", fwhm=5).background, torch.Tensor)


def test_windows_out_of_place():
    wide = EnergyWindow(110, 130, "wide")
    with pytest.raises(ValueError, match="overlaps the peak"):
        triple_energy_window(PEAK, (wide, COUNTS[1]))
    with pytest.raises(ValueError, match="does not lie below"):
        triple_energy_window(PEAK, (UPPER, COUNTS[1]))
    with pytest.raises(ValueError, match="does not lie above"):
        triple_energy_window(PEAK, upper=(LOWER, COUNTS[1]))
    with pytest.raises(ValueError, match="overlaps the peak"):
        dual_energy_window(PEAK, (wide, COUNTS[1]), 0.5)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="got none"):
        triple_energy_window(PEAK)
    with pytest.raises(ValueError, match="one shape"):
        triple_energy_window(PEAK, (LOWER, COUNTS[1]), (UPPER, COUNTS[2, :2]))
    with pytest.raises(TypeError, match=r"\(EnergyWindow, counts\)"):
        triple_energy_window(PEAK, COUNTS[1])
    with pytest.raises(TypeError, match="expects an array"):
        triple_energy_window(PEAK, (LOWER, [1, 2]))
    with pytest.raises(ValueError, match="k must be positive"):
        dual_energy_window(PEAK, (LOWER, COUNTS[1]), 0.0)
    with pytest.raises(ValueError, match="fwhm"):
        smooth_projections(COUNTS, -1.0, 4.0)
    with pytest.raises(ValueError, match="pixel_size"):
        smooth_projections(COUNTS, 1.0, (4.0, 4.0, 4.0))
    with pytest.raises(ValueError, match="expects"):
        smooth_projections(COUNTS[0, 0, 0], 1.0, 4.0)


def test_wrong_scans():
    with pytest.raises(ValueError, match="2 windows and 3 arrays"):
        WindowedScan((PEAK, LOWER), tuple(COUNTS), CAMERA)
    with pytest.raises(ValueError, match="all different"):
        WindowedScan((PEAK, PEAK), tuple(COUNTS[:2]), CAMERA)
    with pytest.raises(ValueError, match="all different"):
        WindowedScan((PEAK, EnergyWindow(1, 2)), tuple(COUNTS[:2]), CAMERA)
    with pytest.raises(ValueError, match="one shape"):
        WindowedScan((PEAK, LOWER), (COUNTS[0], COUNTS[1, :2]), CAMERA)
    with pytest.raises(ValueError, match="do not fit a geometry"):
        WindowedScan((PEAK,), (COUNTS[0, :2],), CAMERA)
    with pytest.raises(ValueError, match="negative"):
        WindowedScan((PEAK,), (-1 - COUNTS[0],), CAMERA)
    with pytest.raises(TypeError, match="SPECTGeometry"):
        WindowedScan((PEAK,), (COUNTS[0],), None)
    with pytest.raises(KeyError, match="choose from peak, lower, upper"):
        SCAN.scan("scatter")
    with pytest.raises(ValueError, match="takes one scatter window"):
        SCAN.scatter_corrected("peak", "lower", "upper", k=0.5)
    with pytest.raises(ValueError, match="got none"):
        SCAN.scatter_corrected("peak")


@pytest.mark.parametrize(
    ("energy", "limits", "side", "scatter", "primaries"),
    [(208.37, (187.2, 228.8), 20.8, 0.77, 0.004), (140.5, (126.45, 154.55), 6.0, 0.81, 0.040)],
)
def test_how_far_it_is_off_by_the_physics(energy, limits, side, scatter, primaries):
    """The share of single Compton scatter that it finds, and of primaries that it takes, as the docs say."""
    cosines, at_511 = np.linspace(-1, 1, 2001), 0.099 * np.sqrt(140.5 / 511.0)
    spectrum, energies = klein_nishina(cosines, energy), scattered_energy(cosines, energy)
    (low, high), found = limits, []
    windows = [EnergyWindow(low, high), EnergyWindow(low - side, low), EnergyWindow(high, high + side)]
    scattered = [np.trapezoid(spectrum * accepted_fraction(energies, w.limits, at_511), cosines) for w in windows]
    emitted = [float(accepted_fraction(energy, w.limits, at_511)) for w in windows]
    for seen in (scattered, emitted):
        peak, below, above = (np.array([counts], float) for counts in seen)
        found.append(float(triple_energy_window(windows[0], (windows[1], below), (windows[2], above))[0] / peak[0]))
    assert found[0] == pytest.approx(scatter, abs=0.01)
    assert found[1] == pytest.approx(primaries, rel=0.1)
