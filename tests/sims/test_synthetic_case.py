"""Synthetic clinical cases: counts of known activity, a CT of water, files that are valid and belong together."""

import numpy as np
import pydicom
import pytest
from dicom_checks import errors_of

from emrecon import formats, projectors, sims

GRID = projectors.ImageGrid((24, 24, 20), 8.0)
CAMERA = projectors.SPECTGeometry.heads(
    *(
        projectors.SPECTGeometry.circular(6, 140.0, (24, 8), 8.0, start=start, direction="cw", extent=180)
        for start in (180, 0)
    )
)
PHANTOM = sims.uniform_cylinder(radius=60.0, height=100.0, activity=500.0)
SIMULATOR = sims.SPECTSimulator(
    GRID,
    CAMERA,
    projectors.collimator("siemens-lehr").response(140.5),
    scatter=projectors.EffectiveSource((126.45, 154.55), energy=140.5),
    windows=(projectors.EnergyWindow(114, 126.45, "lower"), projectors.EnergyWindow(154.55, 166, "upper")),
    mismatch=sims.Mismatch.none(),
)


@pytest.fixture(scope="module")
def case():
    return sims.synthetic_case(
        PHANTOM, SIMULATOR, beds=(-32.0, 32.0), ct_grid=projectors.ImageGrid((40, 40, 32), (5.0, 5.0, 5.2))
    )


def test_counts_are_those_of_the_activity():
    bare = sims.SPECTSimulator(GRID, CAMERA, sensitivity=100.0, mismatch=sims.Mismatch.none())
    air = sims.Phantom((sims.Region("ball", sims.Ellipsoid((0, 0, 0), (20.0, 20.0, 20.0)), 1000.0),))
    case = sims.synthetic_case(air, bare, noise=False)
    activity = case.truth.sum() * GRID.voxel_volume * 1e-6  # MBq
    expected = 100.0 * 20.0 * activity
    assert np.allclose(case.scan.counts.sum((1, 2)), expected, rtol=0.01)
    assert case.scan.counts.max() == np.rint(case.scan.counts).max()


def test_beds_decay_one_after_another(case):
    lower, upper = (bed.counts[0].sum() for bed in case.scan)
    seconds = 60.0 + 6 * 20.0
    assert upper / lower == pytest.approx(projectors.isotope("Tc-99m").decay(seconds), rel=0.02)
    assert (case.scan[1].study.start - case.scan[0].study.start).total_seconds() == seconds
    assert [window.name for window in case.scan[0].windows] == ["peak", "lower", "upper"]


def test_the_ct_is_water_in_air(case):
    x, y, z = case.ct_grid.coordinates()
    inside = np.broadcast_to((x**2 + y**2 < 50**2) & (np.abs(z) < 40), case.hu.shape)
    assert np.abs(case.hu[inside]).max() <= 1
    assert case.hu[0, 0, 0] == -1000
    assert case.ct_grid.shape != case.grid.shape


@pytest.mark.parametrize(("vendor", "several"), [(None, False), ("siemens", True)])
def test_files_are_valid_and_of_one_patient(tmp_path, case, vendor, several):
    files = case.write(tmp_path / "a" / "new folder", vendor)
    assert files.nm.is_dir() == several
    nm = sorted(files.nm.iterdir()) if several else [files.nm]
    ct = sorted(files.ct.iterdir())
    assert [line for line in errors_of(nm[0]) + errors_of(ct[0]) if "PatientPosition" not in line] == []
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in (*nm, ct[0])]
    assert len({header.FrameOfReferenceUID for header in headers}) == 1
    assert len({header.StudyInstanceUID for header in headers}) == 1
    found, grid = formats.read_dicom_ct(files.ct)
    assert (found == case.hu).all()
    assert np.allclose(np.subtract(grid.origin, case.ct_grid.origin), case.study.placement)


def test_a_seed_is_a_case():
    bare = sims.SPECTSimulator(GRID, CAMERA, mismatch=sims.Mismatch.none())
    one, two, other = (sims.synthetic_case(PHANTOM, bare, ct_grid=GRID, seed=seed) for seed in (3, 3, 4))
    assert (one.scan.counts == two.scan.counts).all()
    assert (one.scan.counts != other.scan.counts).any()
    assert one.study.frame_of_reference == two.study.frame_of_reference != other.study.frame_of_reference
