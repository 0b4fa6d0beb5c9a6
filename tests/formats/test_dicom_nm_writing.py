"""NM files as cameras write them: valid for an independent checker, and every fact where the standard puts it."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pydicom
import pytest
from dicom_checks import errors_of

from emrecon import formats, projectors

STUDY = projectors.Study(
    placement=(3.0, -120.0, -700.0),
    patient_position="HFS",
    injected=7400,
    injection=datetime(2026, 1, 2, 9),
    start=datetime(2026, 1, 3, 10),
    weight=70,
    height=1.7,
    sex="F",
    collimator="MEGP",
    attributes={"PatientName": "Test^One", "PatientID": "1", "StudyDescription": "therapy"},
)
WINDOWS = (projectors.EnergyWindow(187.2, 228.8, "peak"), projectors.EnergyWindow(160, 187.2, "lower"))
PLANAR = projectors.SPECTGeometry([180, 0], 200.0, (6, 5), 4.0, head=[0, 1])


def camera(axial_shift=0.0, n=3):
    """Two heads that turn clockwise from the front and the back, on orbits of their own."""
    heads = [
        projectors.SPECTGeometry.circular(
            n, radius + np.arange(n), (4, 3), (4.0, 4.5), start=start, direction="cw", extent=180, shift=shift,
            axial_shift=axial_shift,
        )
        for radius, start, shift in ((200, 180, 1.5), (210, 0, -0.5))
    ]  # fmt: skip
    return projectors.SPECTGeometry.heads(*heads)


def counts(*shape):
    return np.random.default_rng(0).poisson(40, shape)


def scan(geometry=None, **more):
    geometry = geometry or camera()
    more = {"duration": 20.0, "radionuclide": "Lu-177", "energy_window": (187.2, 228.8), "study": STUDY} | more
    return projectors.Scan(counts(*geometry.shape), geometry, **more)


def windowed(axial_shift=0.0):
    geometry = camera(axial_shift)
    data = counts(2, *geometry.shape)
    return projectors.WindowedScan(WINDOWS, tuple(data), geometry, 1.0, 20.0, "Lu-177", study=STUDY)


def beds():
    return projectors.BedScan((windowed(-20.0), windowed(20.0)))


def gated(durations=(2.0, 2.0)):
    return projectors.GatedScan(counts(2, *camera().shape), camera(), durations, study=STUDY)


def dynamic(geometry, *durations):
    frames = projectors.Frames.from_durations(durations)
    data = counts(len(durations), *geometry.shape)
    return projectors.DynamicScan(data, geometry, frames, radionuclide="Tc-99m", study=STUDY)


def written(tmp_path, made, **more):
    formats.write_dicom_nm(tmp_path / "nm.dcm", made, **more)
    return pydicom.dcmread(tmp_path / "nm.dcm")


CASES = {
    "TOMO": scan,
    "TOMO without study": lambda: scan(study=None, energy_window=None, radionuclide=None),
    "TOMO of windows": windowed,
    "TOMO of beds": beds,
    "GATED TOMO": gated,
    "TOMO of frames": lambda: dynamic(camera(), 60, 120),
    "GATED TOMO of windows": lambda: projectors.WindowedSeries(WINDOWS, (gated(), gated())),
    "STATIC": lambda: scan(PLANAR),
    "DYNAMIC": lambda: dynamic(PLANAR, 1, 1, 5, 5),
    "GATED": lambda: projectors.GatedScan(counts(3, *PLANAR.shape), PLANAR, [1, 1, 1], study=STUDY),
}


@pytest.mark.parametrize("name", CASES)
def test_files_are_valid(tmp_path, name):
    written(tmp_path, CASES[name]())
    assert errors_of(tmp_path / "nm.dcm") == []


def test_whole_body_is_valid(tmp_path):
    assert written(tmp_path, scan(PLANAR), kind="WHOLE BODY").ImageType[2] == "WHOLE BODY"
    assert errors_of(tmp_path / "nm.dcm") == []


@pytest.mark.parametrize("vendor", formats.VENDOR_HABITS)
def test_habits_of_vendors_break_nothing_but_the_patient_position(tmp_path, vendor):
    formats.write_dicom_nm(tmp_path / "nm", beds(), vendor=vendor)
    files = sorted((tmp_path / "nm").iterdir()) if (tmp_path / "nm").is_dir() else [tmp_path / "nm"]
    for file in files:
        assert errors_of(file) == [
            "Shall not be present when PatientOrientationCodeSequence is present - attribute <PatientPosition>"
        ]


def test_every_frame_is_where_its_vectors_say(tmp_path):
    made = windowed()
    for more in ({}, {"frame_order": ("shuffled",)}, {"vendor": "philips"}, {"vendor": "spectrum"}):
        file = written(tmp_path, made, **more)
        vectors = zip(file.EnergyWindowVector, file.DetectorVector, file.AngularViewVector)
        for pixels, (window, detector, view) in zip(file.pixel_array, vectors):
            expected = made.counts[window - 1][3 * (detector - 1) + view - 1]
            assert (pixels == expected.T[::-1]).all()


def test_orbits_and_places(tmp_path):
    file = written(tmp_path, scan())
    one, two = file.DetectorInformationSequence
    (rotation,) = file.RotationInformationSequence
    assert (one.StartAngle, two.StartAngle, rotation.AngularStep, rotation.RotationDirection) == (180, 0, 60, "CW")
    assert (rotation.ScanArc, rotation.NumberOfFramesInRotation, rotation.ActualFrameDuration) == (180, 3, 20000)
    assert (list(one.RadialPosition), list(two.RadialPosition)) == ([200, 201, 202], [210, 211, 212])
    # the axis is to the left of the centre of a detector that is displaced to the right
    assert (one.CenterOfRotationOffset, two.CenterOfRotationOffset) == (-1.5, 0.5)
    assert list(one.ImageOrientationPatient) == [1, 0, 0, 0, 0, -1]
    assert list(two.ImageOrientationPatient) == [-1, 0, 0, 0, 0, -1]
    # the front head: its first pixel is at the patient's right, on the face in front of the axis
    assert np.allclose(one.ImagePositionPatient, [3 + 1.5 - 6, -120 - 200, -700 + 4.5])
    assert np.allclose(two.ImagePositionPatient, [3 + 0.5 + 6, -120 + 210, -700 + 4.5])
    assert list(file.PixelSpacing) == [4.5, 4.0]


def test_tracer_and_times(tmp_path):
    file = written(tmp_path, scan())
    (tracer,) = file.RadiopharmaceuticalInformationSequence
    assert tracer.RadionuclideCodeSequence[0].CodeMeaning == "^177^Lutetium"
    assert (tracer.RadionuclideTotalDose, tracer.RadiopharmaceuticalStartDateTime[:12]) == (7400, "202601020900")
    (limits,) = file.EnergyWindowInformationSequence[0].EnergyWindowRangeSequence
    assert (limits.EnergyWindowLowerLimit, limits.EnergyWindowUpperLimit) == (187.2, 228.8)
    assert (file.AcquisitionDate, file.AcquisitionTime[:6], file.PatientName) == ("20260103", "100000", "Test^One")
    assert file.CountsAccumulated == file.pixel_array.sum()


@pytest.mark.parametrize(("position", "sign"), [("HFS", -1), ("FFP", 1)])
def test_beds_move_with_the_table(tmp_path, position, sign):
    study = replace(STUDY, patient_position=position)
    made = projectors.BedScan(tuple(replace(bed, study=study) for bed in beds()))
    one, two = written(tmp_path, made).RotationInformationSequence
    assert two.TableTraverse - one.TableTraverse == sign * 40
    formats.write_dicom_nm(tmp_path / "beds", made, vendor="siemens")
    first, second = (pydicom.dcmread(tmp_path / "beds" / name) for name in ("0001.dcm", "0002.dcm"))
    heights = [file.DetectorInformationSequence[0].ImagePositionPatient[2] for file in (first, second)]
    assert heights[1] - heights[0] == 40
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID


def test_a_gantry_does_not_know_how_a_patient_lies(tmp_path):
    made = scan(study=replace(STUDY, patient_position="FFS"))
    file = written(tmp_path, made, axes="gantry")
    # in front stays in front; from the other end the same turn looks the other way round, and images are upside down
    assert file.DetectorInformationSequence[0].StartAngle == 180
    assert file.RotationInformationSequence[0].RotationDirection == "CC"
    assert (file.pixel_array[0] == made.counts[0].T[:, ::-1]).all()
    prone = written(tmp_path, scan(study=replace(STUDY, patient_position="HFP")), axes="gantry")
    assert prone.DetectorInformationSequence[0].StartAngle == 0
    assert prone.RotationInformationSequence[0].RotationDirection == "CW"


def test_gates_and_frames(tmp_path):
    data = written(tmp_path, gated((1.0, 3.0))).GatedInformationSequence[0].DataInformationSequence[0]
    assert [slot.TimeSlotTime for slot in data.TimeSlotInformationSequence] == [1000, 3000]
    phases = written(tmp_path, dynamic(PLANAR, 1, 1, 5)).PhaseInformationSequence
    assert [(p.NumberOfFramesInPhase, p.ActualFrameDuration) for p in phases] == [(2, 1000), (1, 5000)]
    turns = written(tmp_path, dynamic(camera(), 60, 120)).RotationInformationSequence
    assert [turn.ActualFrameDuration for turn in turns] == [20000, 40000]


def test_counts_that_do_not_fit_are_refused_or_rounded(tmp_path):
    fractions = replace(scan(), counts=scan().counts * 0.3)
    with pytest.raises(ValueError, match="whole counts up to 65535, got counts that are not whole"):
        written(tmp_path, fractions)
    many = replace(scan(), counts=scan().counts * 10_000)
    with pytest.raises(ValueError, match="whole counts up to 65535, got counts of up to"):
        written(tmp_path, many)
    assert not list(tmp_path.iterdir())
    file = written(tmp_path, fractions, rescale=True)
    slope = file.RealWorldValueMappingSequence[0].RealWorldValueSlope
    expected = fractions.counts.transpose(0, 2, 1)[:, ::-1]
    assert np.abs(file.pixel_array * slope - expected).max() <= slope * 0.5001
    assert errors_of(tmp_path / "nm.dcm") == []


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: scan(background=1.0), "counts only"),
        (lambda: scan(projectors.SPECTGeometry([0, 10, 30], 100.0, (4, 3), 4.0)), "equally spaced"),
        (lambda: scan(camera(5.0), study=None), "not known without a placement"),
        (lambda: scan(duration=None), "needs the seconds of a view"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, made, words):
    with pytest.raises(ValueError, match=words):
        written(tmp_path, made())


def test_unknown_habits_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown vendor 'acme'; choose from siemens"):
        written(tmp_path, scan(), vendor="acme")
    with pytest.raises(TypeError, match="unknown habit radius; choose from manufacturer"):
        written(tmp_path, scan(), radius=3)
    with pytest.raises(ValueError, match="unknown radii 'none'; choose from per view, average"):
        written(tmp_path, scan(), radii="none")


def test_what_cameras_leave_out_or_get_wrong(tmp_path):
    assert "RadialPosition" not in written(tmp_path, scan(), vendor="ge").DetectorInformationSequence[0]
    assert written(tmp_path, scan(), radii="average").DetectorInformationSequence[0].RadialPosition == 201
    turned = written(tmp_path, scan(), vendor="mediso")
    assert list(turned.RotationInformationSequence[1].RadialPosition) == [210, 211, 212]
    assert turned.NumberOfRotations == 2
    assert (
        written(tmp_path, scan(), rotation_direction="reversed").RotationInformationSequence[0].RotationDirection
        == "CC"
    )
    zoomed = written(tmp_path, scan(), zoom=2.0, pixel_spacing="before zoom")
    assert list(zoomed.PixelSpacing) == [9, 8]
    stacked = written(tmp_path, scan(), detectors="stacked")
    assert set(stacked.DetectorVector) == {1}
    assert list(stacked.AngularViewVector) == [1, 2, 3, 4, 5, 6]
    assert stacked.RotationInformationSequence[0].ScanArc == 5 * 60
    assert "StartAngle" not in written(tmp_path, scan(), start_angle="rotation").DetectorInformationSequence[0]
    centre = written(tmp_path, scan(), image_position="centre")
    assert list(centre.DetectorInformationSequence[0].ImagePositionPatient) == [3, 0, -700 + 4.5]
    assert centre.RotationInformationSequence[0].TableHeight == 120
    offset = written(tmp_path, scan(), radius_offset=5.0)
    noted = offset[0x0055, 0x1022][0][0x0013, 0x101E].value
    assert offset.DetectorInformationSequence[0].RadialPosition[0] + noted[2] == 200


def test_windows_of_gates(tmp_path):
    one = gated()
    two = replace(one, counts=one.counts + 1)
    file = written(tmp_path, projectors.WindowedSeries(WINDOWS, (one, two)))
    assert list(file.EnergyWindowVector) == [1] * 12 + [2] * 12
    assert (file.pixel_array[12:] == file.pixel_array[:12] + 1).all()
    assert [item.EnergyWindowName for item in file.EnergyWindowInformationSequence] == ["peak", "lower"]


def test_names_of_any_script(tmp_path):
    study = replace(STUDY, attributes={"PatientName": "Müller^Jörg=山田^太郎", "FrameOfReferenceUID": "1.2.9"})
    file = written(tmp_path, scan(study=study))
    assert file.PatientName == "Müller^Jörg=山田^太郎"
    assert file.FrameOfReferenceUID == "1.2.9"
    with pytest.raises(ValueError, match="no DICOM keyword: Nonsense"):
        written(tmp_path, scan(study=replace(STUDY, attributes={"Nonsense": "1"})))
