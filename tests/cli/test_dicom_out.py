"""`emrecon reconstruct --out image.dcm`: NM of SPECT, PT of PET, in the patient's coordinates."""

from datetime import datetime

import numpy as np
import pydicom
from cli_cases import emrecon, measured
from dicom_checks import errors_of

from emrecon import formats
from emrecon.projectors import Scan, SPECTGeometry, Study

CAMERA = SPECTGeometry.circular(6, 60.0, (12, 4), 5.0, direction="cw", start=90)
STUDY = Study(
    placement=(10.0, -150.0, 900.0),
    frame_of_reference="1.2.3.4",
    start=datetime(2026, 1, 1, 10),
    attributes={"PatientName": "Roe^Richard", "PatientID": "99-1234"},
)


def run(scan, out, *more, check=0):
    return emrecon("reconstruct", scan, "--subsets", 2, "--iterations", 1, *more, "--out", out, check=check)


def test_spect_is_nm(tmp_path):
    counts = np.random.default_rng(0).poisson(5.0, CAMERA.shape).astype(np.float32)
    scan = Scan(counts, CAMERA, 0.1, duration=10.0, radionuclide="Tc-99m", energy_window=(126.0, 154.0), study=STUDY)
    formats.write_scan(tmp_path / "scan.h5", scan)
    out, plain = tmp_path / "image.dcm", tmp_path / "plain.h5"
    options = ("--mu-cylinder", "20:0.15", "--calibration", 90)
    done = run(tmp_path / "scan.h5", out, *options)
    assert f"wrote {out}\n" in done.stdout
    run(tmp_path / "scan.h5", plain, *options)
    assert errors_of(out) == []
    (image, grid), (expected, own) = formats.read_image(out), formats.read_image(plain)
    assert np.abs(image - expected).max() <= 0.51 * expected.max() / 65535
    assert np.allclose(np.subtract(grid.origin, own.origin), STUDY.placement)
    file = pydicom.dcmread(out)
    assert (file.PatientName, file.FrameOfReferenceUID, file.Modality) == ("Roe^Richard", "1.2.3.4", "NM")
    assert file.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "Bq/ml"
    assert list(file.CorrectedImage) == ["ATTN", "DECY"]
    assert "osem, 2 subsets" in file.DerivationDescription
    assert formats.read_provenance(out).unit == "Bq/mL"
    run(tmp_path / "scan.h5", out, *options)  # and again, in the place of the first


def test_pet_is_a_folder_of_pt(tmp_path):
    scan, _, _ = measured()
    formats.write_scan(tmp_path / "scan.h5", scan)
    out = tmp_path / "image.dcm"
    done = run(tmp_path / "scan.h5", out)
    assert f"wrote {out}, a folder with a file for each slice" in done.stdout
    assert errors_of(out / "0001.dcm") == []
    image, grid, facts = formats.read_dicom_pet(out)
    assert (facts.units, facts.radionuclide, grid.shape) == ("CNTS", "F-18", image.shape)
    run(tmp_path / "scan.h5", out)
    (out / "notes.txt").write_text("mine")
    refused = run(tmp_path / "scan.h5", out, check=None)
    assert refused.returncode != 0
    assert "notes.txt is not of a series that emrecon wrote" in refused.stderr
    assert "pass" not in refused.stdout  # it is said before the work
