"""From counts to Bq/mL and SUV on the command line: a cylinder of known activity, with all that counting does."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest
from cli_cases import emrecon, measured

from emrecon import formats
from emrecon.projectors import (
    DeadTime,
    EnergyWindow,
    ImageGrid,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    Study,
    WindowedScan,
    isotope,
)

START, SECONDS, SENSITIVITY, CONCENTRATION = datetime(2026, 1, 5, 10), 120.0, 90.0, 2e5
CAMERA = SPECTGeometry.circular(16, 120, (16, 10), 12.0)
GRID = ImageGrid((16, 16, 10), 12.0)
X, Y, Z = GRID.coordinates()
WATER = ((np.hypot(X, Y) < 72) & (abs(Z) < 50)).astype(np.float32)
INSIDE = (np.hypot(X, Y) < 50) & (abs(Z) < 35)
WINDOWS = (
    EnergyWindow(126.45, 154.55, "peak"),
    EnergyWindow(120.45, 126.45, "lower"),
    EnergyWindow(154.55, 160.55, "up"),
)
STUDY = Study(start=START, injected=700.0, injection=START - timedelta(hours=2), weight=70.0)
TC, COUNTER = isotope("Tc-99m"), DeadTime(5e-6)


def shown(done):
    return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Expected counts of three windows, with attenuation, scatter, decay and dead time; and mu."""
    where = tmp_path_factory.mktemp("quantity")
    mu = np.float32(0.1536) * WATER
    activity = CONCENTRATION * GRID.voxel_volume * 1e-6 * WATER  # MBq at the start
    decay = np.array([TC.decay(i * SECONDS) * TC.mean_decay(SECONDS) for i in range(16)])[:, None, None]
    primary = SPECTProjector(GRID, CAMERA, mu)(activity) * SENSITIVITY * SECONDS * decay
    scatter = 0.3 * primary.mean((1, 2), keepdims=True) * np.ones_like(primary)
    per_kev = scatter / WINDOWS[0].width
    windows = [primary + scatter, per_kev * 6 * 1.2, per_kev * 6 * 0.8]
    rate = sum(windows).sum((1, 2)) / SECONDS
    live = (COUNTER.measured_rate(rate) / rate)[:, None, None]
    counts = [(live * one).astype(np.float32) for one in windows]
    scan = WindowedScan(WINDOWS, counts, CAMERA, duration=SECONDS, radionuclide="Tc-99m", study=STUDY)
    formats.write_windowed_scan(where / "scan.h5", scan)
    formats.write_image(where / "mu.h5", mu, GRID)
    return where


def reconstructed(folder, *options, data="scan.h5"):
    run = ("reconstruct", folder / data, "--mu", folder / "mu.h5", "--iterations", 5, "--subsets", 4)
    done = emrecon(*run, "--out", folder / "x.nii.gz", *options, check=0)
    image, _ = formats.read_image(folder / "x.nii.gz")
    return float(image[INSIDE].mean()), done


def test_a_cylinder_comes_out_in_becquerel_per_ml(folder):
    found, done = reconstructed(folder, "--calibration", SENSITIVITY, "--dead-time", COUNTER.tau)
    assert found == pytest.approx(CONCENTRATION, rel=0.02)
    assert formats.image_unit(folder / "x.nii.gz") == "Bq/mL"
    for line in (
        "tew, lower (120.45 to 126.45 keV) and up (154.55 to 160.55 keV)",
        "dead time 5e-06 s, paralysable",
        "counts/s of a head in 3 windows (lower, peak, up)",
        "sensitivity 90 counts/s/MBq of one head",
        "decay corrected to the start of the scan (2026-01-05 10:00:00)",
    ):
        assert line in done.stdout
    without, _ = reconstructed(folder, "--calibration", SENSITIVITY, "--dead-time", COUNTER.tau, "--scatter", "none")
    assert without > 1.08 * CONCENTRATION


def test_suv_and_injection(folder):
    options = "--calibration", SENSITIVITY, "--dead-time", COUNTER.tau
    expected = CONCENTRATION * 70e3 / (700e6 * TC.decay(7200))
    found, done = reconstructed(folder, *options, "--unit", "suv")
    assert found == pytest.approx(expected, rel=0.02)
    assert "injected 120.0 min before the scan" in done.stdout
    lighter, _ = reconstructed(folder, *options, "--unit", "suv", "--weight", 35, "--decay-to", "injection")
    assert lighter == pytest.approx(found / 2, rel=1e-5)
    at_injection, _ = reconstructed(folder, *options, "--decay-to", "injection")
    assert at_injection == pytest.approx(CONCENTRATION / TC.decay(7200), rel=0.02)


def test_a_phantom_gives_the_sensitivity(folder):
    in_air = SENSITIVITY * SECONDS * 40.0 * TC.mean_decay(2 * SECONDS)
    rate = in_air / SECONDS
    planar = np.full((2, 4, 4), COUNTER.measured_rate(rate) / rate * in_air / 16, np.float32)
    camera = SPECTGeometry(np.array([0.0, 180]), 100.0, (4, 4), 10.0)
    point = Scan(planar, camera, duration=SECONDS, radionuclide="Tc-99m", study=Study(start=START))
    formats.write_scan(folder / "point.h5", point)
    earlier = (START - timedelta(seconds=TC.half_life)).isoformat()
    given = "--calibration-phantom", f"{folder / 'point.h5'}:80,at={earlier}"
    found, done = reconstructed(folder, *given, "--dead-time", COUNTER.tau)
    assert "calibration 90 of the phantom: 80 MBq at 2026-01-05 03:59:35" in done.stdout
    assert found == pytest.approx(CONCENTRATION, rel=0.02)
    reconstructed(folder, "--dead-time", COUNTER.tau, "--view-decay")
    total = formats.read_image(folder / "x.nii.gz")[0].sum()
    (folder / "x.nii.gz").rename(folder / "phantom.nii.gz")
    activity = CONCENTRATION * WATER.sum() * GRID.voxel_volume * 1e-6
    image = (
        f"{folder / 'phantom.nii.gz'}:{activity},seconds={SECONDS},at={START.isoformat()},started={START.isoformat()}"
    )
    found, done = reconstructed(folder, "--calibration-phantom", image, "--dead-time", COUNTER.tau)
    assert f"sum of the image {total:.6g}"[:22] in done.stdout
    assert found == pytest.approx(CONCENTRATION, rel=0.02)


def test_a_planar_image_gives_the_sensitivity(folder):
    in_air = SENSITIVITY * SECONDS * 40.0 / 80  # per pixel
    camera = SPECTGeometry(np.array([0.0, 180]), 100.0, (10, 8), 10.0, head=np.array([0, 1]))
    side = np.full(camera.shape, 0.1 * in_air * 6 / 28.1, np.float32).round()
    peak = np.full(camera.shape, 1.1 * in_air, np.float32).round()
    point = WindowedScan(WINDOWS, (peak, side, side), camera, duration=SECONDS, radionuclide="Tc-99m", study=STUDY)
    formats.write_dicom_nm(folder / "planar.dcm", point)
    assert formats.read_planar(folder / "planar.dcm").kind == "STATIC"
    _, done = reconstructed(folder, "--calibration-phantom", f"{folder / 'planar.dcm'}:40")
    said = next(line for line in done.stdout.splitlines() if "of the phantom" in line)
    assert float(said.split()[1]) == pytest.approx(SENSITIVITY, rel=1e-3)
    assert "40 MBq, taken as the mean during the scan" in said


def test_the_files_own_calibration(folder):
    scan = formats.read_windowed_scan(folder / "scan.h5")
    formats.write_windowed_scan(folder / "own.h5", replace(scan, study=replace(STUDY, calibration=SENSITIVITY)))
    found, done = reconstructed(folder, "--unit", "Bq/ml", "--dead-time", COUNTER.tau, data="own.h5")
    assert found == pytest.approx(CONCENTRATION, rel=0.02)
    assert "the sensitivity is the file's own" in done.stdout


def test_counts_stay_as_they_are_without_a_calibration(folder):
    _, done = reconstructed(folder)
    assert formats.image_unit(folder / "x.nii.gz") == "counts"
    assert "decay during the scan" not in done.stdout


def test_windows_by_option(folder):
    _, done = reconstructed(folder, "--scatter", "dew", "--dew-k", "0.7:kev", "--scatter-smoothing", 20)
    assert "dew, 0.7 x counts per keV of lower (120.45 to 126.45 keV), smoothed by 20 mm" in done.stdout
    _, done = reconstructed(folder, "--peak", "126-155", "--scatter", "tew:lower,up")
    assert "peak peak (126.45 to 154.55 keV)" in done.stdout


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        (("--unit", "bq/ml"), "--calibration", "needs the sensitivity of one head"),
        (("--unit", "mbq"), "--unit", "unknown unit 'mbq'"),
        (("--unit", "counts", "--calibration", 90), "--calibration", "--unit counts does not use it"),
        (("--calibration", 90, "--weight", 70, "--unit", "bq/ml"), "--weight", "used for --unit suv only"),
        (("--calibration", 90, "--calibration-phantom", "a.h5:3"), "--calibration-phantom", "not both"),
        (("--calibration-phantom", "a.h5"), "--calibration-phantom", "is not FILE:MBQ"),
        (("--calibration-phantom", "a.h5:3,when=2"), "--calibration-phantom", "is not at=TIME"),
        (
            ("--calibration", 90, "--unit", "suv", "--injected-at", "2026-01-05T12:00"),
            "--injected-at",
            "another time zone",
        ),
        (
            ("--calibration", 90, "--unit", "suv", "--injected-at", "2026-01-05T08:00+01:00"),
            "--injected-at",
            "or neither",
        ),
        (("--calibration", 90, "--unit", "suv", "--injected-at", "2026-01-05"), "--injected-at", "no date and time"),
        (("--calibration", 90, "--decay-to", "noon"), "--decay-to", "is neither injection, start, none nor a date"),
        (("--dead-time", "1e-3"), "--dead-time", "cannot measure"),
        (("--dead-time", "1e-6:live"), "--dead-time", "unknown kind 'live'"),
        (("--scatter", "sss"), "--scatter", "sss is for PET sinograms"),
        (("--scatter", "twe"), "--scatter", "unknown method 'twe', and no such file"),
        (("--scatter", "tew", "--dew-k", 0.5), "--dew-k", "along with --scatter dew only"),
        (("--scatter", "dew", "--dew-k", "0.5:mev"), "--dew-k", "is not K[:counts|kev]"),
        (("--scatter", "esse", "--scatter-smoothing", 5), "--scatter-smoothing", "of tew and dew only"),
        (("--scatter", "tew", "--energy-resolution", 0.1), "--energy-resolution", "esse and sss only"),
        (("--peak", 80), "--peak", "no windows hold 80 keV; choose from peak (126.45 to 154.55 keV)"),
        (("--scatter", "tew:low"), "--scatter", "unknown energy window 'low'"),
    ],
)
def test_what_cannot_be_used_names_the_option(folder, options, option, message):
    done = emrecon("reconstruct", folder / "scan.h5", *options, "--out", folder / "no.nii.gz", check=2)
    assert f"Invalid value for {option}:" in shown(done)
    assert message in shown(done)


def test_pet_takes_its_own_factor(tmp_path):
    scan, _, _ = measured()
    formats.write_scan(tmp_path / "pet.h5", scan)
    run = ("reconstruct", tmp_path / "pet.h5", "--subsets", 4, "--iterations", 1)
    emrecon(*run, "--out", tmp_path / "counts.h5", check=0)
    done = emrecon(*run, "--calibration", 2.5, "--out", tmp_path / "x.h5", check=0)
    scale = 2.5 / (60 * isotope("F-18").positron_fraction * isotope("F-18").mean_decay(60))
    assert f"Bq/mL = image x {scale:.6g}" in done.stdout
    counts, _ = formats.read_image(tmp_path / "counts.h5")
    np.testing.assert_allclose(formats.read_image(tmp_path / "x.h5")[0], counts * scale, rtol=1e-5)
    done = emrecon(*run, "--calibration", 2.5, "--dead-time", "1e-6", "--out", tmp_path / "y.h5", check=2)
    assert "it is for SPECT data, and this is PET sinograms" in shown(done)


@pytest.mark.slow
def test_single_scatter_of_pet(tmp_path):
    scan, mu, grid = measured()
    formats.write_scan(tmp_path / "pet.h5", replace(scan, energy_window=(430, 610)))
    formats.write_image(tmp_path / "mu.h5", mu, grid)
    run = ("reconstruct", tmp_path / "pet.h5", "--subsets", 4, "--iterations", 1, "--out", tmp_path / "x.h5")
    given = ("--mu", tmp_path / "mu.h5", "--scatter", "sss:all", "--energy-resolution", 0.15)
    done = emrecon(*run, *given, check=0)
    assert "sss, 430 to 610 keV, 3 updates, scaled to the tails by" in done.stdout
    for scatter, message in (("tew", "tew is a method of SPECT"), ("esse", "PET sinograms have sss"), ("sss", "--mu")):
        assert message in shown(emrecon(*run, "--scatter", scatter, check=2))
