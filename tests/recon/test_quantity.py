"""From the unit of a reconstruction to Bq/mL and SUV, and what is refused on the way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from emrecon.projectors import (
    BedScan,
    DynamicScan,
    EnergyWindow,
    Frames,
    GatedScan,
    ImageGrid,
    PETScanner,
    PETSinogram,
    Scan,
    SPECTGeometry,
    Study,
    WindowedScan,
    isotope,
)
from emrecon.recon import ArgumentError, Quantity, quantify, quantify_beds

START = datetime(2026, 1, 5, 10, 0)
TRACER = Study(injected=500.0, injection=START - timedelta(hours=3), start=START, weight=80.0)
GRID = ImageGrid((4, 4, 4), 5.0)
CAMERA = SPECTGeometry.circular(6, 100, (4, 4), 5.0)
COUNTS = np.ones(CAMERA.shape, np.float32)
SCAN = Scan(COUNTS, CAMERA, duration=20.0, radionuclide="Tc-99m", study=TRACER)
TC = isotope("Tc-99m")


def test_concentration_of_a_spect_scan_by_hand():
    found = quantify(SCAN, GRID, calibration=90.0)
    voxel, seconds, mean = 0.125, 20.0, TC.mean_decay(6 * 20.0)
    assert found.unit == "Bq/mL"
    assert found.scale == pytest.approx(1e6 / (90 * voxel * seconds * mean))
    assert found.reference == START
    assert "sensitivity 90 counts/s/MBq of one head, voxel 0.125 mL" in str(found)
    np.testing.assert_allclose(found(np.float32([2])), 2 * found.scale, rtol=1e-6)


@pytest.mark.parametrize(
    ("decay_to", "factor"),
    [
        ("injection", TC.decay(3 * 3600) * TC.mean_decay(120)),
        ("none", 1.0),
        (START + timedelta(hours=1), TC.decay(-3600) * TC.mean_decay(120)),
    ],
)
def test_moments_of_decay_correction(decay_to, factor):
    plain = quantify(SCAN, GRID, calibration=90.0).scale * TC.mean_decay(120)
    assert quantify(SCAN, GRID, calibration=90.0, decay_to=decay_to).scale == pytest.approx(plain / factor)


def test_suv_is_the_same_for_all_moments_of_decay_correction():
    moments = "start", "injection", "none", START - timedelta(hours=1)
    scales = [quantify(SCAN, GRID, "suv", calibration=90.0, decay_to=moment).scale for moment in moments]
    activity = 500e6 * TC.decay(3 * 3600)
    assert scales[0] == pytest.approx(quantify(SCAN, GRID, calibration=90.0).scale * 80e3 / activity)
    np.testing.assert_allclose(scales, scales[0], rtol=1e-12)


def test_a_uniform_distribution_has_an_suv_of_1():
    concentration = 500e6 * TC.decay(3 * 3600) / 80e3  # Bq/mL at the start, 1 g/mL
    image = concentration / quantify(SCAN, GRID, calibration=90.0).scale
    assert quantify(SCAN, GRID, "SUV", calibration=90.0)(image) == pytest.approx(1)


def test_windows_frames_and_gates_agree_with_a_plain_scan():
    plain = quantify(SCAN, GRID, calibration=90.0)
    windows = WindowedScan((EnergyWindow(126, 154, "peak"),), (COUNTS,), CAMERA, 1.0, 20.0, "Tc-99m", study=TRACER)
    assert quantify(windows, GRID, calibration=90.0).scale == plain.scale
    more = {"radionuclide": "Tc-99m", "study": TRACER}
    gated = GatedScan(COUNTS[None], CAMERA, durations=np.array([20.0]), **more)
    assert quantify(gated, GRID, calibration=90.0).scale == pytest.approx(plain.scale * 20)  # counts per second
    frames = DynamicScan(COUNTS[None], CAMERA, Frames([0.0], [120.0]), **more)
    assert quantify(frames, GRID, calibration=90.0).scale == pytest.approx(1e6 / (90 * 0.125))
    later = quantify(frames, GRID, calibration=90.0, decay_to="injection").scale
    assert later == pytest.approx(1e6 / (90 * 0.125) / TC.decay(3 * 3600))
    with pytest.raises(ArgumentError, match="the model of frames holds their decay"):
        quantify(frames, GRID, calibration=90.0, decay_to="none")


def test_beds_share_one_moment():
    second = replace(
        SCAN, geometry=replace(CAMERA, axial_shift=20.0), study=replace(TRACER, start=START + timedelta(0, 600))
    )
    beds = quantify_beds(BedScan((SCAN, second)), GRID, calibration=90.0)
    assert beds[0].scale == quantify(SCAN, GRID, calibration=90.0).scale
    assert beds[1].scale == pytest.approx(beds[0].scale / TC.decay(600))
    assert quantify(BedScan((SCAN, second)), GRID, calibration=90.0).scale == beds[0].scale
    unknown = replace(second, study=None)
    with pytest.raises(ArgumentError, match="the time when bed 2 of 2 was measured is not known"):
        quantify_beds(BedScan((SCAN, unknown)), GRID, calibration=90.0)


def test_factors_say_whether_they_hold_the_time():
    counts_per_view = quantify(SCAN, GRID, calibration=90.0).scale
    timed = replace(SCAN, factors=20.0)
    assert quantify(timed, GRID, calibration=90.0).scale == pytest.approx(20 * counts_per_view)
    assert "so they hold that time" in str(quantify(timed, GRID, calibration=90.0))
    uneven = replace(SCAN, factors=np.float32([0.98, 1.02])[None, None].repeat(2, 2))
    assert quantify(uneven, GRID, calibration=90.0).scale == counts_per_view
    odd = replace(SCAN, factors=5.0)
    with pytest.raises(ArgumentError, match="say whether they hold that time") as error:
        quantify(odd, GRID, calibration=90.0)
    assert error.value.argument == "timed_factors"
    assert quantify(odd, GRID, calibration=90.0, timed_factors=False).scale == counts_per_view


def test_pet_takes_the_factor_of_a_calibration():
    sinogram = PETSinogram(
        PETScanner.polygon(sides=8, crystals_per_side=2, radius=40, rings=1, ring_pitch=6, n_radial=5)
    )
    scan = Scan(np.ones(sinogram.shape, np.float32), sinogram, duration=60.0, radionuclide="F-18", study=TRACER)
    fluorine = isotope("F-18")
    found = quantify(scan, GRID, calibration=3.0)
    assert found.scale == pytest.approx(3 / (60 * 0.9686 * fluorine.mean_decay(60)), rel=1e-3)
    frames = DynamicScan(
        np.ones((2, *sinogram.shape), np.float32), sinogram, Frames([0.0, 60], [60.0, 60]), radionuclide="F-18"
    )
    assert quantify(frames, GRID, calibration=3.0).scale == pytest.approx(3 / fluorine.positron_fraction)
    with pytest.raises(ArgumentError, match="Bq/mL of PET needs the calibration factor"):
        quantify(scan, GRID)


@pytest.mark.parametrize(
    ("change", "unit", "argument", "message"),
    [
        ({"weight": None, "injected": None}, "SUV", "unit", "SUV needs the patient's weight .*, the injected activity"),
        ({"injection": None, "start": None}, "SUV", "unit", "injection .*, the date and time when the scan began"),
        ({"injection": START + timedelta(hours=2)}, "SUV", "injected_at", "2.*after the start of the scan"),
        ({"injection": START - timedelta(days=30)}, "SUV", "injected_at", "half-lives of Tc-99m from the start"),
        (
            {"injection": datetime(2026, 1, 5, 8, 0, tzinfo=UTC)},
            "SUV",
            "injected_at",
            "must both have a time zone, or neither",
        ),
        ({"weight": 80000.0}, "SUV", "weight", "is it given in g"),
        ({}, "Bq/mL", "calibration", "needs the sensitivity of one head"),
    ],
)
def test_what_is_missing_or_contradicts_is_said(change, unit, argument, message):
    calibration = None if argument == "calibration" else 90.0
    with pytest.raises(ArgumentError, match=message) as error:
        quantify(SCAN, GRID, unit, calibration=calibration, study=replace(TRACER, **change))
    assert error.value.argument == argument


def test_the_files_own_calibration_and_scans_without_it():
    assert quantify(replace(SCAN, study=replace(TRACER, calibration=90.0)), GRID).scale == pytest.approx(
        quantify(SCAN, GRID, calibration=90.0).scale
    )
    with pytest.raises(ArgumentError, match="needs the seconds per view"):
        quantify(replace(SCAN, duration=None), GRID, calibration=90.0)
    with pytest.raises(ArgumentError, match="needs the radionuclide"):
        quantify(replace(SCAN, radionuclide=None), GRID, calibration=90.0)
    with pytest.raises(ArgumentError, match="date and time of the injection is not known"):
        quantify(replace(SCAN, study=None), GRID, calibration=90.0, decay_to="injection")
    assert "another unit" in str(quantify(SCAN, GRID, calibration=9e4))
    assert quantify(SCAN, GRID, "counts") == Quantity()
