"""Dead time and decay of views in the factors of a scan."""

import numpy as np
import pytest

from emrecon.projectors import (
    DeadTime,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    WindowedScan,
    WindowedSeries,
    view_decay,
    view_rates,
    with_dead_time,
    with_view_decay,
)

CAMERA = SPECTGeometry.circular(3, 100, (2, 2), 5.0)
COUNTS = np.float32([1, 2, 3])[:, None, None] * np.full(CAMERA.shape, 1e5, np.float32)  # 4e5, 8e5, 12e5 in 20 s
RATES = np.array([2e4, 4e4, 6e4])
SCAN = Scan(COUNTS, CAMERA, factors=2.0, duration=20.0, radionuclide="Tc-99m")
PEAK, LOWER, INSIDE = EnergyWindow(126, 154, "peak"), EnergyWindow(120, 126, "lower"), EnergyWindow(135, 145, "in")
COUNTER = DeadTime(2e-6)


def test_rates_are_those_of_all_windows_but_of_windows_inside_of_others():
    np.testing.assert_allclose(view_rates(SCAN), RATES)
    three = WindowedScan((PEAK, LOWER, INSIDE), [COUNTS, COUNTS / 2, COUNTS / 4], CAMERA, duration=20.0)
    np.testing.assert_allclose(view_rates(three), 1.5 * RATES)
    partly = WindowedScan((PEAK, EnergyWindow(120, 130, "over")), [COUNTS, COUNTS], CAMERA, duration=20.0)
    with pytest.raises(ValueError, match="overlap, so the counts of a head are not known"):
        view_rates(partly)


def test_dead_time_goes_into_the_factors():
    found = with_dead_time(SCAN, COUNTER)
    live = found.factors[:, 0, 0] / 2
    np.testing.assert_allclose(COUNTER.measured_rate(RATES / live), RATES, rtol=1e-10)
    with pytest.raises(ValueError, match="cannot measure"):
        with_dead_time(SCAN, DeadTime(1e-4))


def test_frames_have_their_own_rates_and_gates_share_theirs():
    frames = DynamicScan(np.stack([COUNTS, COUNTS]), CAMERA, Frames([0.0, 60], [60.0, 120]), radionuclide="Tc-99m")
    np.testing.assert_allclose(view_rates(frames), [RATES, RATES / 2])
    assert with_dead_time(frames, COUNTER).factors.shape == (2, 3, 1, 1)
    gated = GatedScan(np.stack([COUNTS, COUNTS]), CAMERA, durations=np.array([5.0, 15.0]), radionuclide="Tc-99m")
    np.testing.assert_allclose(view_rates(gated), 2 * RATES)
    np.testing.assert_allclose(with_view_decay(gated).factors, view_decay(SCAN))
    windows = WindowedSeries((PEAK, LOWER), (gated[:1], gated[:1]))
    np.testing.assert_allclose(view_rates(windows), 8 * RATES)
    assert with_dead_time(windows, DeadTime(1e-7)).series[1].factors.shape == (3, 1, 1)
    with pytest.raises(ValueError, match="holds the decay of its views already"):
        with_view_decay(frames)


def test_decay_of_views_goes_into_the_factors():
    np.testing.assert_allclose(with_view_decay(SCAN).factors, 2 * view_decay(SCAN))
    windows = WindowedScan((PEAK,), [COUNTS], CAMERA, np.full(CAMERA.shape, 3.0), 20.0, "Tc-99m")
    np.testing.assert_allclose(with_view_decay(windows).factors[:, 1, 1], 3 * view_decay(SCAN)[:, 0, 0])


def test_other_data_are_refused():
    ring = PETScanner.polygon(sides=8, crystals_per_side=2, radius=40, rings=1, ring_pitch=6, n_radial=5)
    sinogram = PETSinogram(ring)
    with pytest.raises(ValueError, match="expected a scan of a SPECT camera"):
        view_rates(Scan(np.ones(sinogram.shape), sinogram, duration=1.0))
    with pytest.raises(ValueError, match="no duration"):
        view_rates(Scan(COUNTS, CAMERA))
