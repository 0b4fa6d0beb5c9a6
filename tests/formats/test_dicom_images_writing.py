"""Reconstructions as NM and PT: valid, at their place with their values for another program, and ours again."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pydicom
import pytest
from dicom_checks import converted, errors_of

from emrecon import formats, projectors
from emrecon.formats.times import ImageTimes

GRID = projectors.ImageGrid((5, 4, 3), (2.0, 3.0, 4.5), (-4.0, -6.0, 2.1234567890123))
STUDY = projectors.Study(
    placement=(1.5, -100.25, -800.125),
    frame_of_reference="1.2.3.4",
    patient_position="HFP",
    injected=300.0,
    injection=datetime(2026, 1, 1, 9),
    start=datetime(2026, 1, 1, 10),
    weight=70,
    attributes={"PatientName": "Test^One", "PatientID": "7", "StudyInstanceUID": "1.2.3"},
)
FIRST = np.add(GRID.origin, STUDY.placement)
GATES, FRAMES = ImageTimes((1.0, 3.0)), ImageTimes((60.0, 120.0), (0.0, 60.0))


def image(*parts, lowest=0.0):
    return np.random.default_rng(1).uniform(lowest, 1000, (*parts, *GRID.shape))


CASES = {
    "NM": (image(), {}),
    "NM below zero": (image(lowest=-500.0), {}),
    "NM gates": (image(2), {"times": GATES}),
    "NM frames": (image(2), {"times": FRAMES, "decay_to": "start"}),
    "PT": (image(), {"kind": "PT", "decay_to": "injection", "radionuclide": "F-18"}),
    "PT gates": (image(2), {"kind": "PT", "times": GATES}),
    "PT frames": (image(2), {"kind": "PT", "times": FRAMES, "decay_to": "start", "radionuclide": "F-18"}),
}


def written(tmp_path, values, **more):
    """Write an image; its files."""
    path = tmp_path / "made.dcm"
    formats.write_dicom_image(path, values, GRID, **({"study": STUDY, "unit": "Bq/mL", "duration": 600.0} | more))
    return sorted(path.iterdir()) if path.is_dir() else [path]


@pytest.mark.parametrize("name", CASES)
def test_images_are_valid(tmp_path, name):
    values, more = CASES[name]
    files = written(tmp_path, values, **more)
    assert [errors_of(file) for file in {files[0], files[-1]}] == [[]] * len({files[0], files[-1]})


@pytest.mark.parametrize("name", CASES)
def test_dcm2niix_finds_values_and_places(tmp_path, name):
    values, more = CASES[name]
    written(tmp_path, values, **more)
    found, size, first = converted(tmp_path / "made.dcm", tmp_path / "nifti")
    assert np.allclose(size, GRID.voxel_size, atol=1e-4)
    assert np.allclose(first, FIRST, atol=1e-3)
    # a step of 16 bits with a sign is 1 / 32767
    most = np.abs(values).max() / (32767 if values.min() < 0 else 65535)
    ordered = values if values.ndim == 3 else np.moveaxis(values, 0, -1)
    assert np.abs(found - ordered).max() <= 0.51 * most


def test_what_an_nm_image_says(tmp_path):
    (path,) = written(
        tmp_path, image(), method="OSEM, 8 subsets", description="liver", decay_to="start", corrections=("ATTN", "SCAT")
    )
    file = pydicom.dcmread(path)
    assert list(file.ImageType) == ["DERIVED", "PRIMARY", "RECON TOMO", "EMISSION"]
    assert list(file.SliceVector) == [1, 2, 3]
    assert list(file.DetectorInformationSequence[0].ImagePositionPatient) == pytest.approx(FIRST)
    assert (file.SpacingBetweenSlices, file.FrameOfReferenceUID, file.StudyInstanceUID) == (4.5, "1.2.3.4", "1.2.3")
    assert file.PatientName == "Test^One"
    mapping = file.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "Bq/ml"
    assert mapping.RealWorldValueSlope == file.RescaleSlope
    assert file.DerivationDescription.startswith("OSEM, 8 subsets, emrecon ")
    assert list(file.CorrectedImage) == ["ATTN", "SCAT", "DECY"]
    again = written(tmp_path, image())[0]
    assert pydicom.dcmread(again).SeriesInstanceUID != file.SeriesInstanceUID


def test_gates_and_frames_of_nm(tmp_path):
    (path,) = written(tmp_path, image(2), times=GATES)
    file = pydicom.dcmread(path)
    assert list(file.TimeSlotVector) == [1, 1, 1, 2, 2, 2]
    assert "gates of 1, 3 s" in file.DerivationDescription
    path.unlink()
    one, two = (pydicom.dcmread(file) for file in written(tmp_path, image(2), times=FRAMES))
    assert (two.AcquisitionTime, two.AcquisitionDuration) == ("100100.000000", 120)
    assert one.SeriesInstanceUID == two.SeriesInstanceUID


def test_pet_comes_back_with_its_facts(tmp_path):
    values = image()
    written(tmp_path, values, kind="PT", decay_to="injection", radionuclide="F-18", method="OSEM")
    found, grid, facts = formats.read_dicom_pet(tmp_path / "made.dcm")
    assert np.abs(found - values).max() <= 0.51 * values.max() / 65535
    assert grid.voxel_size == GRID.voxel_size
    assert grid.origin == pytest.approx(tuple(FIRST), abs=1e-12)
    assert (facts.units, facts.decay_correction, facts.patient_position) == ("BQML", "ADMIN", "HFP")
    assert (facts.injected_dose, facts.weight, facts.half_life) == (300, 70, projectors.isotope("F-18").half_life)
    expected = 70 * 1000 / 300e6
    assert formats.suv_factor(replace(facts, corrections=("ATTN", "DECY"))) == pytest.approx(expected)


def test_frames_of_pet_come_back(tmp_path):
    values = image(2)
    written(tmp_path, values, kind="PT", times=FRAMES, decay_to="start", radionuclide="F-18")
    found, _, facts = formats.read_dicom_pet(tmp_path / "made.dcm", frame=2)
    assert np.allclose(found, values[1], atol=values.max() / 65535)
    assert (facts.frame_duration, facts.frame_start) == (120, datetime(2026, 1, 1, 10, 1))
    written(tmp_path, values, kind="PT", times=GATES)
    assert np.allclose(formats.read_dicom_pet(tmp_path / "made.dcm", frame=2).image, values[1], atol=0.02)


def test_without_a_study_the_grid_is_the_place(tmp_path):
    (path,) = written(tmp_path, image(), study=None, unit="counts")
    assert list(pydicom.dcmread(path).DetectorInformationSequence[0].ImagePositionPatient) == pytest.approx(GRID.origin)
    assert errors_of(path) == []


@pytest.mark.parametrize(
    ("values", "more", "words"),
    [
        (image()[1:], {}, "does not fit a grid"),
        (image(3), {"times": GATES}, "does not fit 2 gates"),
        (image() * np.nan, {}, "NaN"),
        (image(), {"unit": "furlong"}, "unknown unit 'furlong'; choose from counts"),
        (image(), {"kind": "PT", "unit": "Gy"}, "no term for the unit 'Gy'"),
        (image(), {"kind": "CT"}, "unknown kind 'CT'"),
        (image(), {"decay_to": "noon"}, "unknown decay_to 'noon'"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, values, more, words):
    with pytest.raises(ValueError, match=words):
        written(tmp_path, values, **more)
    assert not list(tmp_path.iterdir())


def test_nothing_else_is_replaced(tmp_path):
    (tmp_path / "made.dcm").mkdir()
    (tmp_path / "made.dcm" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"notes\.txt is not of a series"):
        written(tmp_path, image(), kind="PT")


def test_ct_series_are_valid_and_come_back(tmp_path):
    hu = np.random.default_rng(2).integers(-1024, 3000, GRID.shape)
    formats.write_dicom_ct(tmp_path / "ct", hu, GRID, study=STUDY, kvp=130)
    files = sorted((tmp_path / "ct").iterdir())
    assert errors_of(files[0]) == []
    found, grid = formats.read_dicom_ct(tmp_path / "ct")
    assert (found == hu).all()
    assert grid.origin == pytest.approx(tuple(FIRST), abs=1e-12)
    first = pydicom.dcmread(files[0])
    assert (first.KVP, first.PatientPosition, first.FrameOfReferenceUID) == (130, "HFP", "1.2.3.4")
    values, _, place = converted(tmp_path / "ct", tmp_path / "nifti")
    assert (values == hu).all()
    assert np.allclose(place, FIRST, atol=1e-3)
    with pytest.raises(ValueError, match="no Hounsfield units"):
        formats.write_dicom_ct(tmp_path / "ct", hu - 5000, GRID)
