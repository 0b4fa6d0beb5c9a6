"""What is said of any DICOM file or folder, and that nobody is named."""

from dataclasses import replace

import mask_cases
import nm_cases
import numpy as np
import pydicom
import pytest
from cli_cases import emrecon

from emrecon import figures, formats
from emrecon.projectors import BedScan, ImageGrid

GRID = ImageGrid((5, 5, 4), 4.0)


def info(path, *more):
    """What is printed, as {name: value}; nobody is named unless it is asked for."""
    done = emrecon("info", path, *more, check=0)
    said = done.stdout + done.stderr
    assert ("SECRET" in said) == ("--with-names" in more)
    return dict(line.split("  ", 1) for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder as a camera leaves it: projections in three windows, a CT, contours and a report."""
    folder = tmp_path_factory.mktemp("study")
    scan = nm_cases.windowed()
    formats.write_dicom_nm(folder / "tomo.dcm", scan)
    formats.write_dicom_ct(folder / "ct", np.zeros(GRID.shape), GRID, study=scan.study, description="CT of SECRET")
    mask_cases.write_structures(folder / "rt.dcm", [("liver", mask_cases.sphere()), ("spleen", mask_cases.sphere())])
    dataset = pydicom.dcmread(folder / "rt.dcm")
    dataset.PatientName = "SECRET^NAME"
    dataset.SeriesInstanceUID = "1.2.77"
    dataset.save_as(folder / "rt.dcm")
    return folder


def trimmed(facts):
    return {name: value.strip() for name, value in facts.items()}


def test_projections_are_told_in_words(study):
    said = trimmed(info(study / "tomo.dcm"))
    assert said["SPECT"].startswith("2 heads, 4 views each, 180 degrees apart, counter-clockwise (seen from the feet)")
    assert "radius 200 to 235 mm by view; 5 x 4 bins of 4 x 4.5 mm" in said["SPECT"]
    assert said["energy window"] == "187.2 to 228.8 keV (peak): peak of Lu-177 208.37 keV"
    assert said["energy window 2"].endswith("lower scatter of 208.37 keV")
    assert said["injected"] == "7400 MBq at 2026-01-02 09:00:00"
    assert said["patient"] == "HFS, 80 kg, 1.8 m"


def test_what_is_missing_is_a_list(study):
    needs = {name: value for name, value in trimmed(info(study / "tomo.dcm")).items() if name.startswith("needs")}
    missing = {name.removeprefix("needs ") for name, value in needs.items() if value.startswith("MISSING")}
    assert missing == {"attenuation", "calibration"}
    assert needs["needs scatter"] == "yes, 2 windows beside a peak"
    bare = replace(nm_cases.scan(), study=replace(nm_cases.study(), injected=None, injection=None, weight=None))
    formats.write_dicom_nm(study.parent / "bare.dcm", bare)
    needs = trimmed(info(study.parent / "bare.dcm"))
    for name in ("scatter", "injected activity", "injection time", "weight"):
        assert needs[f"needs {name}"].startswith("MISSING: ")


def test_the_series_of_a_folder_are_listed(study):
    said = trimmed(info(study))
    assert said["holds"] == "3 series"
    series = [said[f"series {i}"] for i in (1, 2, 3)]
    assert series[0].startswith("CT: 4 slices of 5 x 5, 4 x 4 mm, 4 mm thick, 120 kV; CT of ...; number ")
    assert series[1].startswith("RTSTRUCT, contours of regions: 2 regions: liver, spleen")
    assert series[2].startswith("NM TOMO: 24 frames of 5 x 4, 3 energy windows, 2 heads; ")
    assert said["needs attenuation"] == "yes, a CT"


def test_the_name_is_said_on_demand(study):
    assert "SECRET^NAME" in info(study, "--with-names")["name"]
    assert "--with-names" in emrecon("info", "--with-names", check=2).stderr
    assert figures.patient_of(study / "tomo.dcm").startswith("SECRET NAME")


def test_other_kinds_are_told(study, tmp_path):
    said = trimmed(info(study / "ct"))
    assert said["tube voltage"] == "120 kV"
    assert said["description"] == "CT of ..."
    said = trimmed(info(study / "rt.dcm"))
    assert (said["region 1"], said["region 2"]) == ("liver", "spleen")
    formats.write_dicom_image(tmp_path / "image.dcm", np.ones(GRID.shape), GRID, study=nm_cases.study(), unit="Bq/mL")
    said = trimmed(info(tmp_path / "image.dcm"))
    assert (said["kind"], said["units"].lower(), said["voxel size (mm)"]) == ("RECON TOMO", "bq/ml", "4 x 4 x 4")
    dataset = pydicom.dcmread(study / "rt.dcm")
    del dataset.StructureSetROISequence, dataset.ROIContourSequence
    dataset.Modality, dataset.SOPClassUID = "SR", "1.2.840.10008.5.1.4.1.1.88.33"
    dataset.save_as(tmp_path / "sr.dcm")
    assert trimmed(info(tmp_path / "sr.dcm"))["holds"] == "SR, structured report: 1 file"


def test_beds_and_planar_images_are_told(tmp_path):
    scan = nm_cases.scan()
    beds = [replace(scan, geometry=replace(scan.geometry, axial_shift=shift)) for shift in (0.0, 15.0)]
    formats.write_dicom_nm(tmp_path / "beds.dcm", BedScan(tuple(beds)))
    said = trimmed(info(tmp_path / "beds.dcm"))
    assert said["projections"] == "a scan of several beds"
    assert said["bed 2"].startswith("2 heads")
    assert "bed 2: counts" not in said


def test_projections_that_cannot_be_used_are_told_why(study, tmp_path):
    dataset = pydicom.dcmread(study / "tomo.dcm")
    dataset.EnergyWindowVector = dataset.EnergyWindowVector[:-1]
    dataset.save_as(tmp_path / "broken.dcm")
    said = trimmed(info(tmp_path / "broken.dcm"))
    assert said["projections"] == "cannot be reconstructed as they are"
    assert "EnergyWindowVector" in said["because"]


def test_values_of_the_header_are_replaced(study):
    said = trimmed(info(study / "tomo.dcm", "--header", "radius=250"))
    assert "radius 250 mm" in said["SPECT"]
    done = emrecon("info", study / "ct", "--header", "radius=250")
    assert done.returncode
    assert "has no header whose values can be replaced" in done.stderr
