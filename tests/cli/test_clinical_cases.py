"""A SPECT/CT of every vendor's habits and of every position of the patient: Bq/mL, and at the right place in LPS."""

from dataclasses import replace

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats, projectors, sims

VOXEL, SENSITIVITY = 8.0, 60.0
BALL, CONCENTRATION, RADIUS = (34.0, -22.0, 30.0), 2000.0, 16.0  # mm in the scan's coordinates; kBq/mL
GRID = projectors.ImageGrid((24, 24, 22), VOXEL)
CAMERA = projectors.SPECTGeometry.heads(
    *(
        projectors.SPECTGeometry.circular(12, 140.0, (24, 12), VOXEL, start=start, direction="cw", extent=180)
        for start in (180, 0)
    )
)
# a cylinder with a ball to the left, in front, towards the head: no turn or reflection has the same image
PHANTOM = sims.Phantom(
    (
        sims.Region("body", sims.Cylinder((0, 0, 0), (72.0, 60.0), 160.0), 200.0, material="water"),
        sims.Region("ball", sims.Ellipsoid(BALL, (RADIUS,) * 3), CONCENTRATION, material="water"),
    )
)
CASES = [
    ("siemens", "HFS", {}),
    ("ge", "FFS", {"radius": 140.0}),
    ("philips", "HFP", {}),
    ("mediso", "FFP", {}),
    ("spectrum", "FFS", {}),
    (None, "FFP", {}),
]


def study_of(position):
    about = sims.default_study("Lu-177")
    return replace(about, patient_position=position, placement=(14.5, -121.0, 403.5))


@pytest.fixture(scope="module")
def case():
    simulator = sims.SPECTSimulator(
        GRID,
        CAMERA,
        projectors.LinearResponse(0.02, 1.5),
        sensitivity=SENSITIVITY,
        radionuclide="Lu-177",
        scatter=projectors.EffectiveSource((187.5, 229.2), energy=208.366),
        windows=(projectors.EnergyWindow(166.7, 187.5, "lower"), projectors.EnergyWindow(229.2, 250.0, "upper")),
        mismatch=sims.Mismatch.none(),
    )
    ct = projectors.ImageGrid((36, 34, 40), (5.5, 5.5, 5.0))
    return sims.synthetic_case(PHANTOM, simulator, study=study_of("HFS"), beds=(-36.0, 28.0), ct_grid=ct, noise=False)


def lying(case, position):
    """The case of a patient who lies otherwise: the scan's coordinates are the patient's, so only the words change."""
    beds = (replace(bed, study=replace(bed.study, patient_position=position)) for bed in case.scan)
    return replace(case, scan=projectors.BedScan(tuple(beds)))


@pytest.mark.slow
@pytest.mark.parametrize(("vendor", "position", "values"), CASES, ids=[f"{v} {p}" for v, p, _ in CASES])
def test_becquerel_per_ml_and_place(tmp_path, case, vendor, position, values):
    files = lying(case, position).write(tmp_path, vendor=vendor)
    given = [word for name, value in values.items() for word in ("--header", f"{name}={value}")]
    physics = ["--scatter", "tew", "--calibration", str(SENSITIVITY), "--response", "0.02,1.5"]
    emrecon(
        *["reconstruct", files.nm, "--mu", files.ct, *given, *physics],
        *["--subsets", 4, "--iterations", 6, "--out", tmp_path / "image.nii.gz"],
        check=0,
    )
    image, grid = formats.read_image(tmp_path / "image.nii.gz")
    x, y, z = (axis - offset for axis, offset in zip(grid.coordinates(), (14.5, -121.0, 403.5)))
    from_ball = np.sqrt(sum((axis - centre) ** 2 for axis, centre in zip((x, y, z), BALL)))
    uniform = ((x / 72) ** 2 + (y / 60) ** 2 < 0.55) & (np.abs(z) < 50) & (from_ball > 45)
    assert image[uniform].mean() == pytest.approx(2e5, rel=0.02)
    near = np.where(from_ball < 30, np.maximum(image - 2e5, 0), 0)
    place = [float((near * axis).sum() / near.sum()) for axis in (x, y, z)]
    np.testing.assert_allclose(place, BALL, atol=VOXEL / 2)


def test_what_the_reader_assumed_is_in_the_record(tmp_path, case):
    files = case.write(tmp_path, vendor="siemens")
    out = tmp_path / "image.nii.gz"
    done = emrecon(
        *["reconstruct", files.nm, "--mu", files.ct, "--scatter", "tew", "--response", "0.02,1.5"],
        *["--subsets", 4, "--iterations", 1, "--out", out],
        check=0,
    )
    said = [note for note in formats.read_provenance(out).notes if "taken as the corner" in note]
    assert len(said) == 1
    assert done.stderr.count("taken as the corner") == 1


def test_one_command_from_the_folders_to_dicom_and_the_report(tmp_path, case):
    files = case.write(tmp_path, vendor="siemens")
    labels = np.zeros(case.patient_grid.shape, np.int16)
    labels[10:14, 10:14, 8:12] = 1
    formats.write_image(tmp_path / "organs.nii.gz", labels, case.patient_grid)
    out, page = tmp_path / "image.dcm", tmp_path / "report.html"
    emrecon(
        *["reconstruct", files.nm, "--mu", files.ct, "--mu-shift", "0,0,2", "--scatter", "tew", "--calibration", 60],
        *["--response", "0.02,1.5", "--subsets", 4, "--iterations", 1, "--out", out],
        *["--report", page, "--masks", tmp_path / "organs.nii.gz"],
        check=0,
    )
    text = page.read_text("utf-8")
    assert "label 1" in text
    assert "HU" in text
    assert "taken as the corner" in text
    assert "Phantom" not in text
    assert formats.describe(out)["units"] == "Bq/mL"
    refused = emrecon("reconstruct", files.nm, "--out", out, "--report", tmp_path / "report.pdf", check=2)
    assert "a report is .html" in refused.stderr
