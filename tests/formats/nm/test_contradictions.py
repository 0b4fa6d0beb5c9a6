"""Files that contradict themselves or leave things out get one line that names the attribute, or a note."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from nm_cases import camera, in_patient, numbers, scan, study, windowed

from emrecon import formats
from emrecon.formats.dicom.nm.circumstances import _injection
from emrecon.formats.dicom.nm.notes import Notes
from emrecon.projectors import GatedScan

A = "DetectorInformationSequence"
R = "RotationInformationSequence"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nm")
    formats.write_dicom_nm(folder / "tomo", windowed())
    return folder


@pytest.fixture
def edited(files, tmp_path):
    """Return a function that changes the header of the good file of three windows and reads it."""

    def change(edit, **given):
        header = pydicom.dcmread(files / "tomo")
        with pydicom.config.disable_value_validation():
            edit(header)
            header.save_as(tmp_path / "edited")
        return formats.read_scan(tmp_path / "edited", **given)

    return change


def of(sequence, keyword, value):
    """An edit of all items of a sequence; None deletes."""

    def edit(header):
        for item in header[sequence].value if sequence else [header]:
            if value is None:
                delattr(item, keyword)
            else:
                setattr(item, keyword, value)

    return edit


def of_one(sequence, keyword, value):
    """An edit of the first item of a sequence."""
    return lambda header: setattr(header[sequence].value[0], keyword, value)


def without_vectors(header):
    for name in ("EnergyWindowVector", "DetectorVector", "RotationVector", "AngularViewVector"):
        delattr(header, name)


def shorter_vector(header):
    header.DetectorVector = header.DetectorVector[:-1]


def same_view_twice(header):
    vector = list(header.AngularViewVector)
    vector[1] = vector[0]
    header.AngularViewVector = vector


def two_ranges(header):
    window = header.EnergyWindowInformationSequence[0]
    window.EnergyWindowRangeSequence = [
        *window.EnergyWindowRangeSequence,
        *header.EnergyWindowInformationSequence[1].EnergyWindowRangeSequence,
    ]


ERRORS = {
    "shorter vector": (shorter_vector, r"DetectorVector \(0054,0020\) has 23 entries, and NumberOfFrames .* is 24"),
    "same view": (same_view_twice, r"frames 1 and 2 are the same view"),
    "too many windows": (
        of("", "NumberOfEnergyWindows", 2),
        r"EnergyWindowVector .* up to 3, and NumberOf",
    ),
    "pointer": (
        of("", "FrameIncrementPointer", 0x00540080),
        r"names SliceVector .*, which images of type TOMO",
    ),
    "foreign pointer": (of("", "FrameIncrementPointer", 0x00100010), r"FrameIncrementPointer .* is no vector"),
    "fewer frames": (of("", "NumberOfFrames", 20), r"has 24 entries, and NumberOfFrames \(0028,0008\) is 20"),
    "no windows vector": (of("", "EnergyWindowVector", None), r"EnergyWindowVector .* is missing, and NumberOfEnergy"),
    "frames in rotation": (of(R, "NumberOfFramesInRotation", 5), r"NumberOfFramesInRotation \(0054,0053\) is 5"),
    "no direction": (of(R, "RotationDirection", None), r"RotationDirection .* is missing, .* pass direction=cw or ccw"),
    "odd direction": (of(R, "RotationDirection", "UP"), r"RotationDirection \(0018,1140\) is UP"),
    "no radius": (of(A, "RadialPosition", None), r"RadialPosition \(0018,1142\) is missing; pass radius="),
    "radii": (of(A, "RadialPosition", [1, 2, 3]), r"RadialPosition .* has 3 entries for 4 views of 2 heads"),
    "radius in cm": (of(A, "RadialPosition", 25), r"is 25 to 25 mm, which no camera .* in cm\?"),
    "text": (of(A, "StartAngle", "12"), None),
    "two angles": (of(A, "StartAngle", [1, 2]), r"StartAngle \(0054,0200\) has 2 values"),
    "absurd angle": (of(A, "StartAngle", 99999), r"StartAngle .* damaged header"),
    "one angle of two heads": (of(A, "StartAngle", 90.0), r"two heads have one StartAngle"),
    "transmission": (of("", "ImageType", ["ORIGINAL", "PRIMARY", "TOMO", "TRANSMISSION"]), r"is a transmission scan"),
    "rows both ways": (
        of_one(A, "ImageOrientationPatient", [1.0, 0, 0, 0, 0, 1.0]),
        r"rows run to the head in one detector",
    ),
    "pinhole": (of(A, "CollimatorType", "PINH"), r"CollimatorType .* is PINH, and only parallel holes"),
    "tilt": (of(A, "GantryDetectorTilt", 12), r"GantryDetectorTilt .* is 12 degrees"),
    "no spacing": (of("", "PixelSpacing", None), r"PixelSpacing .* is missing; pass pixel_size="),
    "ranges": (two_ranges, r"energy window 1 is the sum of 2 ranges \(187.2:228.8, 166.4:187.2 keV\)"),
    "no limits": (of("EnergyWindowInformationSequence", "EnergyWindowRangeSequence", []), r"limits of energy window 1"),
    "fewer descriptions": (lambda h: h[A].value.pop(), r"DetectorInformationSequence .* has 1 items|heads apart"),
    "planar": (of("", "ImageType", ["ORIGINAL", "PRIMARY", "STATIC"]), r"names RotationVector|use read_planar"),
    "no type": (of("", "ImageType", ["ORIGINAL"]), r"ImageType .* does not say what it is"),
    "another modality": (of("", "Modality", "CT"), None),
    "no pixels": (of("", "PixelData", None), r"holds no pixels"),
    "fewer pixels": (of("", "PixelData", b"\0\0"), r"pixels cannot be read"),
}


@pytest.mark.parametrize("name", [name for name, (_, words) in ERRORS.items() if words])
def test_errors(edited, name):
    edit, words = ERRORS[name]
    with pytest.raises(formats.FormatError, match=words) as error:
        edited(edit)
    assert "edited" in str(error.value)
    assert "\n" not in str(error.value)


MENDED = {
    "no direction": {"direction": "ccw"},
    "no radius": {"radius": (250, 300)},
    "radius in cm": {"radius": 250},
    "two angles": {"start_angle": (30, 210)},
    "pinhole": {"parallel_holes": "yes"},
    "tilt": {"detector_tilt": 0},
    "no spacing": {"pixel_size": (4, 4.5)},
    "ranges": {"energy_windows": "187:229,166:187,229:250"},
    "no limits": {"energy_windows": ("187:229", "166:187", "229:250")},
}


@pytest.mark.parametrize("name", MENDED)
def test_values_that_are_given_instead(edited, name):
    found = edited(ERRORS[name][0], **MENDED[name])
    assert found.geometry.n_views == 8
    if name == "no radius":
        assert found.geometry.radius.tolist() == [250] * 4 + [300] * 4
    if "energy_windows" in MENDED[name]:
        assert found.windows[0].limits == (187, 229)


NOTES = {
    "no view vector": (of("", "AngularViewVector", None), "follow one another in the order of its views"),
    "positions apart": (of_one(A, "ImagePositionPatient", [60.0, 60.0, 60.0]), "puts the axis of rotation at"),
    "one radius": (of(A, "RadialPosition", 250), "a circular orbit is assumed"),
    "zoom": (of(A, "ZoomFactor", [1.5, 1.5]), "PixelSpacing (0028,0030) of 4 mm is taken as that of the zoomed pixels"),
    "offset": (of(A, "CenterOfRotationOffset", 2), "CenterOfRotationOffset (0018,1145) of 2 mm is modelled"),
    "no position": (of(A, "ImagePositionPatient", []), "where the patient lay is not known"),
    "no orientation": (of(A, "ImageOrientationPatient", []), "the first row is taken to be at the head"),
    "dose": (of("RadiopharmaceuticalInformationSequence", "RadionuclideTotalDose", 7.4e9), "taken as Bq (7400 MBq)"),
    "no dose date": (
        of("RadiopharmaceuticalInformationSequence", "RadiopharmaceuticalStartDateTime", None),
        "when that was is not known",
    ),
    "no nuclide": (of("", "RadiopharmaceuticalInformationSequence", []), "pass radionuclide=NAME"),
    "scan arc": (of(R, "ScanArc", 90), "ScanArc (0018,1143) is 90 degrees, but 4 views are 45 degrees apart"),
    "no step": (of(R, "AngularStep", None), "ScanArc (0018,1143) 180 is shared by 4 views"),
    "no duration": (of(R, "ActualFrameDuration", None), "pass duration= in s"),
    "seconds for ms": (of(R, "ActualFrameDuration", 25), "gives 0.025 s for a view, which is odd"),
    "no vectors": (without_vectors, "no vector says what a frame is"),
    "no detectors": (of("", "DetectorVector", None), "views of 2 heads are taken to follow each other"),
    "grams": (of("", "PatientWeight", 80000), "in grams"),
    "centimetres": (of("", "PatientSize", 180), "taken as centimetres"),
    "no pointer": (of("", "FrameIncrementPointer", None), "FrameIncrementPointer (0028,0009) is missing"),
    "collimators": (lambda h: setattr(h[A].value[1], "CollimatorGridName", "HE"), "different collimators, MELP and HE"),
}


@pytest.mark.parametrize("name", NOTES)
def test_notes(edited, notes, name):
    edit, words = NOTES[name]
    found = edited(edit)
    assert words in notes()
    wanted = windowed()
    assert all(map(np.array_equal, found.counts, wanted.counts))
    assert np.allclose((found.geometry.angles - wanted.geometry.angles) % 360, 0)
    if name == "offset":
        assert np.allclose(found.geometry.shift, -2)
    if name == "centimetres":
        assert found.study.height == 1.8


def test_an_arc_that_is_far_from_the_steps_needs_a_choice(edited):
    with pytest.raises(formats.FormatError, match="frames lost\\? Pass extent=180 or extent=60"):
        edited(of(R, "ScanArc", 60))
    assert np.allclose(np.diff(edited(of(R, "ScanArc", 60), extent=180).geometry.angles[:4]), 45)


def test_what_lies_about_its_class_is_read(edited):
    def edit(header):
        header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        header.SOPInstanceUID = "not.a.uid"

    assert edited(edit).geometry.n_views == 8


def test_unknown_names(files):
    with pytest.raises(TypeError, match="takes no argument radus=; did you mean radius="):
        formats.read_scan(files / "tomo", radus=250)
    with pytest.raises(formats.FormatError, match="radius= is 'wide', expected a number"):
        formats.read_scan(files / "tomo", radius="wide")
    with pytest.raises(formats.FormatError, match="radius= has 3 entries, expected 1 or 2 or 8"):
        formats.read_scan(files / "tomo", radius=(1, 2, 3))


def test_every_name_is_documented_and_taken(files):
    given = {
        "direction": "cw",
        "extent": 360,
        "angles": range(8),
        "radius": range(200, 208),
        "shift": 1,
        "n_views": 4,
        "pixel_size": 3,
        "row_order": "feet",
        "placement": (1, 2, 3),
        "duration": 5,
        "radionuclide": "Tc-99m",
        "window": "upper",
        "scale": 2,
        "description": "mine",
        "injected": 100,
        "weight": 70,
        "height": 1.7,
        "calibration": 9.3,
        "collimator": "ge-megp",
        "patient_position": "FFS",
        "start_angle": 7,
        "axial_shift": 11,
    }
    found = formats.read_scan(files / "tomo", **given)
    assert found.geometry.angles.tolist() == list(range(8))
    assert found.geometry.radius.tolist() == list(range(200, 208))
    assert np.allclose(found.geometry.shift, 1)
    assert found.geometry.pixel_size == (3, 3)
    assert found.geometry.axial_shift == 11
    assert found.study.placement == (1, 2, 3)
    assert (found.duration, found.radionuclide, found.description) == (5, "Tc-99m", "mine")
    assert np.array_equal(found.counts, 2.0 * windowed().counts[2][:, ::-1, ::-1])
    said = found.study
    assert (said.injected, said.weight, said.height, said.calibration) == (100, 70, 1.7, 9.3)
    assert (said.collimator, said.patient_position) == ("ge-megp", "FFS")
    assert set(given) <= set(formats.NM_OVERRIDES)
    page = (Path(__file__).parents[3] / "docs" / "dicom.md").read_text()
    assert [name for name in formats.NM_OVERRIDES if f"| `{name}` |" not in page] == []
    assert [name for name in formats.NM_IMAGE_OVERRIDES if f"`{name}`" not in page] == []


@pytest.mark.parametrize("position", ["detector", "corner", "centre"])
def test_what_a_position_is_of(tmp_path, position):
    wanted = scan("HFS")
    habit = {"detector": "face"}.get(position, position)
    formats.write_dicom_nm(tmp_path / "a", wanted, image_position=habit)
    found = formats.read_scan(tmp_path / "a", position=position)
    assert np.allclose(in_patient(found), in_patient(wanted))


def test_gates_of_several_kinds_of_beats(tmp_path):
    geometry = camera()
    gated = GatedScan(numbers((4, *geometry.shape)), geometry, np.ones(4), study=study())
    formats.write_dicom_nm(tmp_path / "a", gated)
    header = pydicom.dcmread(tmp_path / "a")
    slots = np.array(header.TimeSlotVector)
    header.RRIntervalVector = (1 + (slots > 2)).tolist()
    header.TimeSlotVector = (1 + (slots - 1) % 2).tolist()
    header.NumberOfRRIntervals, header.NumberOfTimeSlots = 2, 2
    header.save_as(tmp_path / "a")
    with pytest.raises(formats.FormatError, match=r"2 R-R intervals .* choose one by rr_interval="):
        formats.read_scan(tmp_path / "a")
    with pytest.raises(formats.FormatError, match="how long each R-R interval was measured is not known"):
        formats.read_gated(tmp_path / "a", rr_interval=2)
    found = formats.read_gated(tmp_path / "a", rr_interval=2, gate_seconds=(1, 2))
    assert np.array_equal(found.counts, gated.counts[2:])
    assert found.durations.tolist() == [1, 2]
    beats = []
    for interval, n in ((800, 30), (1200, 10)):
        beats.append(pydicom.Dataset())
        beats[-1].NominalInterval, beats[-1].IntervalsAcquired = interval, n
    header.GatedInformationSequence[0].DataInformationSequence = beats
    header.save_as(tmp_path / "a")
    found = formats.read_gated(tmp_path / "a", rr_interval=2)
    assert np.allclose(found.durations, 4 * 12 / 36 / 2)


def test_windows_of_gates(tmp_path):
    geometry = camera()
    parts = [GatedScan(numbers((2, *geometry.shape), i), geometry, np.ones(2), study=study()) for i in range(2)]
    for i, part in enumerate(parts):
        formats.write_dicom_nm(tmp_path / f"{i}.dcm", part)
    headers = [pydicom.dcmread(tmp_path / f"{i}.dcm") for i in range(2)]
    for i, header in enumerate(headers):
        header.SeriesInstanceUID = "1.2.55"
        window = pydicom.Dataset()
        limits = pydicom.Dataset()
        limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit = 100 + 27 * i, 126 + 28 * i
        window.EnergyWindowName, window.EnergyWindowRangeSequence = f"w{i}", [limits]
        header.EnergyWindowInformationSequence = [window]
        header.save_as(tmp_path / f"{i}.dcm")
    found = formats.read_scan(tmp_path)
    assert [window.name for window in found.windows] == ["w0", "w1"]
    assert np.array_equal(found.scan("w1").counts, parts[1].counts)
    corrected = found.scatter_corrected("w1", "w0", k=0.5)
    assert np.allclose(corrected.background, parts[0].counts * 0.5 * 27 / 26)
    assert found.part(1).scan("w0").counts.sum() == parts[0].counts[1].sum()


@pytest.mark.parametrize(("time", "hours"), [("233000", 1.0), ("013000", 23.0)])
def test_an_injection_after_the_start_is_that_of_the_day_before_and_said(time, hours):
    tracer, notes = pydicom.Dataset(), Notes()
    tracer.RadiopharmaceuticalStartTime = time
    start = datetime(2026, 1, 5, 0, 30)
    found = _injection(Path("a.dcm"), pydicom.Dataset(), tracer, start, "Tc-99m", notes)
    assert (start - found).total_seconds() == hours * 3600
    assert f"the day before, {hours:.1f} h before the scan" in notes.lines()[0]
