"""Counting: dead time against a simulated counter, calibration against a projected phantom, recovery tables."""

import math

import numpy as np
import pytest

from emrecon.projectors import (
    AcquisitionModel,
    DynamicScan,
    Frames,
    GatedScan,
    ImageGrid,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    isotope,
)
from emrecon.projectors.scan import RecoveryTable
from emrecon.projectors.scan.counting import (
    DeadTime,
    planar_sensitivity,
    scan_seconds,
    spect_calibration,
    view_decay,
)

PARALYSABLE, OTHER = DeadTime(2e-6), DeadTime(2e-6, paralysable=False)
CAMERA = SPECTGeometry.circular(n_views=6, radius=100, n_bins=(8, 4), pixel_size=5.0)


def scan_of(camera=CAMERA, **more):
    return Scan(np.ones(camera.shape), camera, **({"duration": 600.0, "radionuclide": "Tc-99m"} | more))


# ---- dead time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counter", [PARALYSABLE, OTHER])
def test_rates_go_back_and_forth(counter):
    true = np.linspace(0, 0.99 / counter.tau, 50)
    measured = counter.measured_rate(true)
    np.testing.assert_allclose(counter.true_rate(measured), true, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(counter.live_fraction(measured[1:]), measured[1:] / true[1:], rtol=1e-9)
    assert counter.live_fraction(0.0) == 1.0
    assert (measured <= counter.highest_rate).all()


@pytest.mark.parametrize("paralysable", [True, False])
def test_against_a_simulated_counter(paralysable):
    rate, tau, n = 2e5, 2e-6, 400_000
    times = np.cumsum(np.random.default_rng(1).exponential(1 / rate, n))
    if paralysable:
        counted = 1 + int((np.diff(times) > tau).sum())
    else:
        counted, free = 0, 0.0
        for t in times:
            if t >= free:
                counted, free = counted + 1, t + tau
    measured = counted / times[-1]
    counter = DeadTime(tau, paralysable)
    assert counter.measured_rate(rate) == pytest.approx(measured, rel=5e-3)
    assert counter.true_rate(measured) == pytest.approx(rate, rel=0.02)


def test_the_highest_rates():
    assert PARALYSABLE.highest_rate == pytest.approx(PARALYSABLE.measured_rate(1 / PARALYSABLE.tau))
    assert PARALYSABLE.true_rate(PARALYSABLE.highest_rate) == pytest.approx(1 / PARALYSABLE.tau, rel=1e-6)
    for counter, rate in ((PARALYSABLE, 1.01 / (math.e * 2e-6)), (OTHER, 1 / 2e-6)):
        with pytest.raises(ValueError, match=r"cannot measure.*several heads"):
            counter.true_rate(np.array([1.0, rate]))


def test_dead_time_refuses():
    with pytest.raises(ValueError, match="tau"):
        DeadTime(0.0)
    with pytest.raises(ValueError, match="not negative"):
        PARALYSABLE.true_rate(-1.0)
    with pytest.raises(ValueError, match="finite"):
        PARALYSABLE.measured_rate(np.nan)


# ---- calibration ----------------------------------------------------------------------------------------------------


def heads():
    return SPECTGeometry.heads(CAMERA.subset(0, 2), CAMERA.subset(1, 2))


def test_the_time_of_a_scan():
    assert scan_seconds(scan_of()) == 3600
    assert scan_seconds(scan_of(heads())) == 1800


def test_decay_of_views():
    decay = view_decay(scan_of())
    assert decay.shape == (6, 1, 1)
    assert decay.mean() == pytest.approx(1, rel=1e-12)
    half_life = isotope("Tc-99m").half_life
    assert decay[3, 0, 0] / decay[0, 0, 0] == pytest.approx(0.5 ** (1800 / half_life))
    both = view_decay(scan_of(heads()))
    np.testing.assert_allclose(both[:3], both[3:])
    assert both.mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("camera", [CAMERA, heads()], ids=["one head", "two heads"])
def test_a_known_concentration_comes_back(timed, camera):
    """Counts from first principles: decays in a view's time, times the sensitivity, spread as the projector says."""
    grid = ImageGrid((8, 8, 4), 5.0)
    concentration, sensitivity, start = 2e4, 90.0, 3000.0  # Bq/mL at the reference, counts/s/MBq, s
    projector, nuclide, scan = SPECTProjector(grid, camera), isotope("Tc-99m"), scan_of(camera)
    position = np.concatenate([np.arange(n) for n in np.unique(camera.head, return_counts=True)[1]])
    mbq = concentration * grid.voxel_volume / 1e6 * nuclide.mean_decay(600) * nuclide.decay(start)
    activity = np.ones(grid.shape)
    left = np.array([nuclide.decay(600.0 * i) for i in position])[:, None, None]
    counts = projector(activity) * 600 * sensitivity * mbq * left
    factors = view_decay(scan) * (600.0 if timed else 1.0)
    model = AcquisitionModel(projector, factors)
    image = activity * (counts.sum() / model(activity).sum())
    np.testing.assert_allclose(model(image), counts, rtol=1e-6)
    calibration = spect_calibration(sensitivity, grid, scan, timed_factors=timed, start=start)
    np.testing.assert_allclose(calibration(image), concentration, rtol=1e-6)


def test_planar_sensitivity():
    assert planar_sensitivity(90_000, 10, 100) == 90
    with pytest.raises(ValueError, match="activity must be positive"):
        planar_sensitivity(1, 1, 0)


def test_calibration_refuses():
    grid = ImageGrid((8, 8, 4), 5.0)
    with pytest.raises(ValueError, match="sensitivity"):
        spect_calibration(0.0, grid, scan_of())
    with pytest.raises(ValueError, match="no duration"):
        spect_calibration(90.0, grid, scan_of(duration=None))
    with pytest.raises(ValueError, match="no radionuclide"):
        view_decay(scan_of(radionuclide=None))


# ---- recovery -------------------------------------------------------------------------------------------------------

SIZES, SHARES = (10, 13, 17, 22, 28, 37), (0.2, 0.35, 0.55, 0.7, 0.8, 0.9)


def test_recovery_is_monotone_and_exact_at_its_nodes():
    table = RecoveryTable(SIZES, SHARES)
    np.testing.assert_allclose(table.coefficient(SIZES), SHARES)
    fine = table.coefficient(np.linspace(10, 37, 500))
    assert (np.diff(fine) > 0).all()
    assert isinstance(table.coefficient(20), float)


def test_recovery_corrects_what_it_was_measured_from():
    means = 1.0 + 7.0 * np.array(SHARES)
    table = RecoveryTable.from_spheres(SIZES[::-1], means[::-1], true=8.0, background=1.0)
    np.testing.assert_allclose(table.coefficients, SHARES)
    np.testing.assert_allclose(table.correct(means, np.array(SIZES), background=1.0), 8.0)
    assert table.correct(0.35, 13) == pytest.approx(1.0)


def test_spheres_of_one_size_are_averaged():
    table = RecoveryTable.from_spheres([10, 20, 10], [0.2, 0.8, 0.4], true=1.0)
    assert table.diameters == (10.0, 20.0)
    assert table.coefficients == pytest.approx((0.3, 0.8))


def test_recovery_refuses():
    table = RecoveryTable(SIZES, SHARES)
    for diameter in (9.9, 37.1, [20, 50], np.nan):
        with pytest.raises(ValueError, match="covers 10 to 37 mm"):
            table.coefficient(diameter)
    with pytest.raises(ValueError, match="two or more"):
        RecoveryTable((10,), (0.5,))
    with pytest.raises(ValueError, match="as many"):
        RecoveryTable((10, 20), (0.5,))
    with pytest.raises(ValueError, match="increase"):
        RecoveryTable((20, 10), (0.5, 0.6))
    with pytest.raises(ValueError, match="positive"):
        RecoveryTable((10, 20), (0.0, 0.6))
    with pytest.raises(ValueError, match="must differ"):
        RecoveryTable.from_spheres(SIZES, SHARES, true=1.0, background=1.0)
    with pytest.raises(ValueError, match="6 diameters and 2 means"):
        RecoveryTable.from_spheres(SIZES, (1, 2), true=1.0)


@pytest.mark.parametrize("kind", ["scan", "frames", "gates"])
def test_frames_and_gates_come_back_in_becquerel(kind):
    """Bq/mL to expected counts by hand, and back through the calibration, whatever holds time and decay."""
    grid, camera = ImageGrid((6, 6, 4), 8.0), SPECTGeometry.circular(12, 80, (6, 4), 8.0)
    A, sensitivity, concentration, half_life = SPECTProjector(grid, camera), 90.0, 2e4, isotope("Tc-99m").half_life
    per_second = sensitivity * 1e-6 * concentration * grid.voxel_volume * A(np.ones(grid.shape))  # at time 0

    def counts(start, seconds_per_view):
        begin = start + seconds_per_view * np.arange(12)
        t = np.linspace(0, seconds_per_view, 2001)
        decay = [np.trapezoid(0.5 ** ((b + t) / half_life), t) for b in begin]
        return per_second * np.array(decay)[:, None, None]

    if kind == "scan":
        scan = Scan(counts(0.0, 60.0), camera, duration=60.0, radionuclide="Tc-99m")
        model = AcquisitionModel(A, 60.0 * view_decay(scan))
        calibration = spect_calibration(sensitivity, grid, scan, timed_factors=True)
        ratio = scan.counts / model(np.ones(grid.shape))
    elif kind == "frames":
        scan = DynamicScan(
            np.stack([counts(3600.0, 100.0), counts(14400.0, 300.0)]),
            camera,
            Frames([3600.0, 14400.0], [1200.0, 3600.0]),
            radionuclide="Tc-99m",
        )
        calibration = spect_calibration(sensitivity, grid, scan)
        ratio = scan.counts / scan.model(A)(np.ones((2, *grid.shape)))
        part = spect_calibration(sensitivity, grid, scan.frame(1), timed_factors=True, decayed_factors=True)
        assert part.scale == pytest.approx(calibration.scale)
        assert scan.summed(decay=False).duration is None  # its decay is not that of 4800 s in one piece
    else:
        whole = counts(0.0, 60.0)
        whole = whole / view_decay(Scan(whole, camera, duration=60.0, radionuclide="Tc-99m"))
        scan = GatedScan(np.stack([whole / 4, whole * 3 / 4]), camera, [15.0, 45.0], radionuclide="Tc-99m")
        calibration = spect_calibration(sensitivity, grid, scan)
        ratio = scan.counts / scan.model(A)(np.ones((2, *grid.shape)))
    ratio = ratio[np.isfinite(ratio)]
    np.testing.assert_allclose(calibration(ratio), concentration, rtol=2e-3)
