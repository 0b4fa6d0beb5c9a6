"""What `write_dicom_nm` writes comes back: counts, angles, radii and place, with each maker's habits."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pydicom
import pytest
from nm_cases import WINDOWS, assert_same, camera, numbers, scan, study, windowed

from emrecon import formats
from emrecon.projectors import BedScan, DynamicScan, Frames, GatedScan, SPECTGeometry, WindowedScan

POSITIONS = ("HFS", "HFP", "FFS", "FFP")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("direction", ["ccw", "cw"])
def test_every_position_and_direction(tmp_path, position, direction):
    wanted = scan(position, direction=direction, shift=1.5)
    formats.write_dicom_nm(tmp_path / "any.suffix", wanted)
    found = formats.read_scan(tmp_path / "any.suffix")
    assert_same(found, wanted)
    assert np.array_equal(found.geometry.head, wanted.geometry.head)
    assert found.energy_window == wanted.energy_window
    for name in ("injected", "injection", "start", "weight", "height", "sex", "patient_position", "collimator"):
        assert getattr(found.study, name) == getattr(wanted.study, name), name
    assert found.study.frame_of_reference == "1.2.3"


HABITS = {
    "siemens": ({}, {}),
    "ge": ({}, {"radius": tuple(camera().radius)}),
    "philips": ({}, {"radius": tuple(camera().radius)}),
    "spacing before zoom": (
        {"vendor": None, "zoom": 1.46, "pixel_spacing": "before zoom"},
        {"spacing_is_zoomed": "no"},
    ),
    "mediso": ({}, {}),
    "spectrum": ({}, {}),
    "shuffled": ({"vendor": None, "frame_order": ("shuffled",)}, {}),
    "reversed": ({"vendor": None, "rotation_direction": "reversed"}, {"direction": "ccw"}),
    "one start": ({"vendor": None, "start_angle": "rotation"}, {"start_angle": (30, 210)}),
    "zero at the front": ({"vendor": None, "zero_angle": 180}, {"start_angle": (30, 210)}),
    "radius offsets": ({"vendor": None, "radius_offset": 7.0}, {}),
    "dose in Bq": ({"vendor": None, "dose_unit": "Bq"}, {}),
}


@pytest.mark.parametrize("name", HABITS)
@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_habits(tmp_path, name, position):
    habits, given = HABITS[name]
    wanted = scan(position)
    formats.write_dicom_nm(tmp_path / "a", wanted, **({"vendor": name} | habits))
    assert_same(formats.read_scan(tmp_path / "a", **given), wanted)


@pytest.mark.parametrize("position", POSITIONS)
def test_angles_of_the_gantry(tmp_path, position):
    wanted = scan(position, shift=1.5)
    formats.write_dicom_nm(tmp_path / "a", wanted, axes="gantry")
    assert_same(formats.read_scan(tmp_path / "a", angle_reference="gantry"), wanted)


def test_windows(tmp_path):
    wanted = windowed()
    formats.write_dicom_nm(tmp_path / "a", wanted, frame_order=("view", "detector"))
    found = formats.read_windowed_scan(tmp_path / "a")
    assert found.windows == WINDOWS
    for window in WINDOWS:
        assert_same(found.scan(window.name), wanted.scan(window.name))
    assert_same(formats.read_scan(tmp_path / "a", window="lower"), wanted.scan("lower"))
    assert_same(formats.read_scan(tmp_path / "a", window=3), wanted.scan("upper"))
    with pytest.raises(formats.FormatError, match=r"no energy window 'middle'; choose from 1 .peak."):
        formats.read_scan(tmp_path / "a", window="middle")


@pytest.mark.parametrize("vendor", [None, "siemens", "mediso"])
@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_beds(tmp_path, vendor, position):
    wanted = BedScan(tuple(scan(position, axial=z) for z in (-30.0, 40.0)))
    formats.write_dicom_nm(tmp_path / "a", wanted, vendor=vendor)
    found = formats.read_scan(tmp_path / "a")
    assert isinstance(found, BedScan)
    for bed, other in zip(found, wanted):
        assert_same(bed, other)
    assert_same(formats.read_scan(tmp_path / "a", bed=2), wanted[1])
    if vendor != "siemens":  # rotations of one file follow one another
        assert [bed.study.start - wanted[0].study.start for bed in found] == [timedelta(0), timedelta(seconds=50)]


def test_beds_of_windows(tmp_path):
    wanted = BedScan(tuple(windowed(axial=z) for z in (0.0, 60.0, 130.0)))
    formats.write_dicom_nm(tmp_path / "a", wanted)
    found = formats.read_scan(tmp_path / "a")
    assert isinstance(found[0], WindowedScan)
    for bed, other in zip(found, wanted):
        assert all(map(np.array_equal, bed.counts, other.counts))


def test_beds_without_a_place(tmp_path, notes):
    beds = (scan("FFS", axial=z) for z in (-30.0, 40.0))
    wanted = BedScan(tuple(replace(bed, study=replace(bed.study, placement=None)) for bed in beds))
    formats.write_dicom_nm(tmp_path / "a", wanted)
    found = formats.read_scan(tmp_path / "a")
    assert [camera.axial_shift for camera in found.geometries] == [-35.0, 35.0]
    assert found.study.placement is None
    assert "TableTraverse (0018,1131) moves by 70 mm" in notes()
    assert "pass placement=" in notes()
    moved = formats.read_scan(tmp_path / "a", axial_shift=(10, -20))
    assert [camera.axial_shift for camera in moved.geometries] == [-20.0, 10.0]
    assert np.array_equal(moved[0].counts, wanted[1].counts)


def test_gates(tmp_path):
    geometry = camera()
    wanted = GatedScan(numbers((3, *geometry.shape)), geometry, np.array([1.0, 2.0, 3.0]), radionuclide="Tc-99m")
    formats.write_dicom_nm(tmp_path / "a", wanted, frame_order=("shuffled",))
    found = formats.read_gated(tmp_path / "a")
    assert np.array_equal(found.counts, wanted.counts)
    assert np.allclose(found.durations, wanted.durations)
    assert np.array_equal(formats.read_scan(tmp_path / "a", gate=2).counts, wanted.counts[1])
    with pytest.raises(formats.FormatError, match="no time frames but a GatedScan"):
        formats.read_dynamic(tmp_path / "a")


def test_time_frames(tmp_path, notes):
    geometry = camera()
    wanted = DynamicScan(numbers((3, *geometry.shape)), geometry, Frames.from_durations([60, 60, 120]), study=study())
    formats.write_dicom_nm(tmp_path / "a", wanted, frame_order=("view", "rotation"))
    found = formats.read_dynamic(tmp_path / "a")
    assert found.frames == wanted.frames
    assert np.array_equal(found.counts, wanted.counts)
    assert np.allclose(found.schedule, wanted.schedule)
    assert "3 rotations over the same views at one place are taken as time frames" in notes()
    assert formats.read_scan(tmp_path / "a", frame=3).duration == 30
    joined = formats.read_scan(tmp_path / "a", rotations="views", duration=10)
    assert joined.geometry.n_views == 3 * geometry.n_views
    assert joined.counts.sum() == wanted.counts.sum()


def test_time_frames_turning_back_and_forth(tmp_path):
    geometry = camera()
    wanted = DynamicScan(numbers((2, *geometry.shape)), geometry, Frames.from_durations([60, 60]), study=study())
    formats.write_dicom_nm(tmp_path / "a", wanted)
    header = pydicom.dcmread(tmp_path / "a")
    second, step = header.RotationInformationSequence[1], 180 / 4
    second.RotationDirection = "CW"
    for item in header.RotationInformationSequence:
        item.RadialPosition = 210
    for item in header.DetectorInformationSequence:
        del item.RadialPosition
    second.StartAngle = 30 + 3 * step
    header.save_as(tmp_path / "b")
    found = formats.read_dynamic(tmp_path / "b")
    assert np.allclose(found.geometry.angles, geometry.angles)
    assert np.array_equal(found.counts[1], wanted.counts[1].reshape(2, 4, 5, 4)[:, ::-1].reshape(8, 5, 4))
    assert np.allclose(found.schedule[1, :4, 0], [0.75, 0.5, 0.25, 0])


def test_stacked_heads(tmp_path, notes):
    geometry = camera(32, extent=360)
    formats.write_dicom_nm(tmp_path / "a", scan(geometry=geometry), detectors="stacked")
    found = formats.read_scan(tmp_path / "a")
    assert_same(found, scan(geometry=geometry))
    assert np.array_equal(found.geometry.head, geometry.head)
    assert "64 views of 11.25 degrees are more than one turn, so two heads" in notes()
    three = SPECTGeometry.heads(*(SPECTGeometry.circular(4, 200, (5, 4), 4.0, start=a) for a in (0, 120, 240)))
    formats.write_dicom_nm(tmp_path / "b", scan(geometry=three), detectors="stacked")
    with pytest.raises(formats.FormatError, match=r"12 views of 90 degrees .* are 3 turns.* Pass n_heads="):
        formats.read_scan(tmp_path / "b")
    found = formats.read_scan(tmp_path / "b", n_heads=3)
    assert np.allclose(np.sort(found.geometry.angles % 360), np.sort(three.angles % 360))


def test_rescaled_counts(tmp_path, notes):
    wanted = replace(scan(), counts=scan().counts * 0.37)
    formats.write_dicom_nm(tmp_path / "a", wanted, rescale=True)
    found = formats.read_scan(tmp_path / "a")
    assert np.allclose(found.counts, wanted.counts, atol=wanted.counts.max() / 65535)
    assert "RealWorldValueMappingSequence" in notes()


def test_windows_and_heads_in_files_of_their_own(tmp_path, notes):
    wanted = windowed()
    (tmp_path / "windows").mkdir()
    for i, window in enumerate(WINDOWS):
        formats.write_dicom_nm(tmp_path / "windows" / f"{i}.dcm", wanted.scan(window.name))
    found = formats.read_scan(tmp_path / "windows")
    assert [window.limits for window in found.windows] == [window.limits for window in WINDOWS]
    assert all(map(np.array_equal, found.counts, wanted.counts))
    assert "3 series of one study" in notes()
    whole, files = scan(), []
    for head in (0, 1):
        mine = whole.geometry.head == head
        part = camera(heads=1, start=30 + 180 * head)
        one = replace(whole, counts=whole.counts[mine], geometry=replace(part, radius=whole.geometry.radius[mine]))
        files.append(tmp_path / f"head{head}")
        formats.write_dicom_nm(files[-1], one)
    header = pydicom.dcmread(files[1])
    header.SeriesInstanceUID = pydicom.dcmread(files[0]).SeriesInstanceUID
    header.save_as(files[1])
    found = formats.read_dicom_nm(files)
    assert_same(found, whole)
    assert np.array_equal(found.geometry.head, whole.geometry.head)


def test_acquisitions_one_after_another(tmp_path):
    first = scan()
    for i in range(3):
        later = replace(first, study=replace(first.study, start=first.study.start + timedelta(minutes=10 * i)))
        formats.write_dicom_nm(tmp_path / f"{i}.dcm", later)
    with pytest.raises(formats.FormatError, match="several series of projections; choose one by series="):
        formats.read_scan(tmp_path)
    for file in tmp_path.iterdir():
        header = pydicom.dcmread(file)
        header.SeriesInstanceUID = "1.2.77"
        header.save_as(file)
    found = formats.read_scan(tmp_path)
    assert isinstance(found, DynamicScan)
    assert np.allclose(found.frames.starts, [0, 600, 1200])
    assert np.allclose(found.frames.durations, 50)


def test_planar(tmp_path):
    flat = scan(n=1)
    formats.write_dicom_nm(tmp_path / "a", flat, kind="WHOLE BODY")
    images = formats.read_planar(tmp_path / "a")
    assert images.kind == "WHOLE BODY"
    assert np.array_equal(images.counts[0], flat.counts[0].T[::-1])
    assert images.pixel_size == (4.5, 4.0)
    assert images.durations.tolist() == [12.5, 12.5]
    assert images.windows[0].limits == (187.2, 228.8)
    with pytest.raises(formats.FormatError, match=r"WHOLE BODY .* planar images, .* use read_planar"):
        formats.read_scan(tmp_path / "a")
    geometry = camera(1)
    dynamic = DynamicScan(numbers((4, *geometry.shape)), geometry, Frames.from_durations([10, 10, 20, 20]))
    formats.write_dicom_nm(tmp_path / "b", dynamic)
    images = formats.read_planar(tmp_path / "b")
    assert str(images) == "8 dynamic images of 4 x 5 pixels of 4.5 x 4 mm"
    assert images.parts.tolist() == [0, 1, 2, 3] * 2
    assert images.durations.tolist() == [10, 10, 20, 20] * 2
    assert np.array_equal(images.counts[5], dynamic.counts[1, 1].T[::-1])


def test_no_name_is_shown(tmp_path, notes):
    formats.write_dicom_nm(tmp_path / "a", scan("FFP"), vendor="siemens")
    found = formats.read_scan(tmp_path / "a")
    assert found.study.attributes["PatientName"] == "SECRET^NAME"
    assert "SECRET" not in repr(found) + notes()


@pytest.mark.parametrize("position", ["HFS", "FFP"])
@pytest.mark.parametrize("row_order", ["head", "feet"])
def test_a_point_lies_where_the_frames_show_it(tmp_path, position, row_order):
    """Each frame is a plane with axes of its own in LPS; the pixel that a point is seen in gives the point back."""
    point, centre, geometry = np.array([17.0, -90.0, -690.0]), np.array([3.0, -120.0, -700.0]), camera(6, bins=(41, 33))
    formats.write_dicom_nm(tmp_path / "a", scan(position, geometry))
    header = pydicom.dcmread(tmp_path / "a")
    turned = -1.0 if row_order == "feet" else 1.0
    du, dz = 4.0, 4.5
    frames = np.zeros((12, 33, 41), np.uint16)
    for head, item in enumerate(header.DetectorInformationSequence):
        for view in range(6):
            a = np.deg2rad(item.StartAngle + view * 30)
            along_row, along_column = turned * np.array([-np.cos(a), np.sin(a), 0]), turned * np.array([0, 0, -1.0])
            radius = item.RadialPosition[view]
            middle = centre + radius * np.array([np.sin(a), np.cos(a), 0])
            if view == 0:
                item.ImagePositionPatient = (middle - 20 * du * along_row - 16 * dz * along_column).tolist()
                item.ImageOrientationPatient = [*along_row, *along_column]
            column, row = ((point - middle) @ axis / d for axis, d in ((along_row, du), (along_column, dz)))
            frames[6 * head + view, round(row) + 16, round(column) + 20] = 1
    header.PixelData = frames.tobytes()
    header.save_as(tmp_path / "a")
    found = formats.read_scan(tmp_path / "a")
    assert np.allclose(found.study.placement, centre, atol=1e-3)
    _, along_u = found.geometry.directions
    u, z = found.geometry.bin_centres()
    views, bins, rows = np.nonzero(found.counts)
    assert views.tolist() == list(range(12))
    assert np.abs(u[views, bins] - along_u @ (point - centre)[:2]).max() <= du / 2 + 1e-6
    assert np.abs(z[rows] - (point - centre)[2]).max() <= dz / 2 + 1e-6
