"""Interfile keys that change the meaning: heads, offsets, how the patient lies, frames, gates, and what is refused."""

import numpy as np
import pytest
from interfile_cases import BINS, COUNTS, FILE, ROWS, STIR, VIEWS, change, save

from emrecon.formats import FormatError, describe, read_dynamic, read_gated, read_interfile, read_scan

STEPS = np.arange(VIEWS)
ONE_HEAD = """!number of projections := 6
!extent of rotation := 180
!time per projection (sec) := 10
!direction of rotation := CW
start angle := {start}
orbit := circular
radius := {radius}
X_offset := {offset}
"""
TWO_HEADS = STIR[: STIR.index("!number of projections")].replace(
    "!SPECT STUDY (General) :=\n", "!SPECT STUDY (General) :=\nnumber of detector heads := 2\n"
)


def two_heads(folder, announced=True, start=(0, 90), radius=(150, 160), offset=(0, 0), more=""):
    """A file of two heads with a section of keys for each, as the standard and GATE have it."""
    header = TWO_HEADS if announced else TWO_HEADS.replace("number of detector heads := 2\n", "")
    for own in zip(start, radius, offset):
        header += ONE_HEAD.format(**dict(zip(("start", "radius", "offset"), own)))
    return save(folder, header + more + "!END OF INTERFILE :=\n", [FILE, 2 * FILE])


@pytest.mark.parametrize("announced", [True, False])
def test_each_head_has_its_own_orbit(tmp_path, announced):
    scan = read_scan(two_heads(tmp_path, announced, offset=(1.5, -2)))
    geometry = scan.geometry
    np.testing.assert_array_equal(scan.counts, np.concatenate([COUNTS, 2 * COUNTS]))
    np.testing.assert_allclose(geometry.angles, np.concatenate([180 - 30 * STEPS, 270 - 30 * STEPS]))
    np.testing.assert_array_equal(geometry.radius, np.repeat([150, 160], VIEWS))
    np.testing.assert_array_equal(geometry.shift, np.repeat([1.5, -2], VIEWS))
    np.testing.assert_array_equal(geometry.head, np.repeat([0, 1], VIEWS))
    assert scan.duration == 10
    assert describe(tmp_path / "a.hs")["heads"] == 2


GATE = """!INTERFILE :=
!imaging modality := nucmed
!version of keys := 3.3
!data starting block := 0
!name of data file := a.s
!type of data := TOMOGRAPHIC
!total number of images := 12
imagedata byte order := LITTLEENDIAN
number of energy windows := 1
!SPECT STUDY (general) :=
number of detector heads := 2
"""
GATE_HEAD = """;
!number of images/energy window := 12
!process status := ACQUIRED
!number of projections := 6
!matrix size [1] := 4
!matrix size [2] := 3
!number format := UNSIGNED INTEGER
!number of bytes per pixel := 2
!scaling factor (mm/pixel) [1] := 1
!scaling factor (mm/pixel) [2] := 1
!extent of rotation := 180
!time per projection (sec) := 10
study duration (elapsed) sec : = 320
!maximum pixel count : = {most}
!SPECT STUDY (acquired data) :=
!direction of rotation := CW
start angle := {start}
first projection angle in data set := {start}
acquisition mode := stepped
orbit := circular
camera zoom factor := 1
"""


def test_a_header_of_gate(tmp_path):
    """Two heads that share all but their start, and no radius."""
    header = GATE + "".join(GATE_HEAD.format(start=start, most=start + 33) for start in (0, 180))
    path = save(tmp_path, header + "!END OF INTERFILE :=\n", [FILE, 2 * FILE], "<u2")
    with pytest.raises(FormatError, match=r"`radi.* is missing; pass its value as radius="):
        read_scan(path)
    scan = read_scan(path, radius=[250, 260])
    np.testing.assert_array_equal(scan.counts, np.concatenate([COUNTS, 2 * COUNTS]))
    np.testing.assert_allclose(scan.geometry.angles, np.concatenate([180 - 30 * STEPS, 0 - 30 * STEPS]))
    np.testing.assert_array_equal(scan.geometry.radius, np.repeat([250, 260], VIEWS))


def test_heads_of_different_lengths_and_lists_of_radii(tmp_path):
    radii = "{150, 151, 152}"
    header = TWO_HEADS + ONE_HEAD.format(start=0, radius=radii, offset=0).replace(
        "projections := 6", "projections := 3"
    )
    header += ONE_HEAD.format(start=180, radius=155, offset=0) + "!END OF INTERFILE :=\n"
    scan = read_scan(save(tmp_path, header, np.concatenate([FILE[:3], FILE])))
    np.testing.assert_array_equal(scan.geometry.radius, [150, 151, 152, *[155] * 6])
    np.testing.assert_allclose(scan.geometry.angles, np.concatenate([180 - 60 * STEPS[:3], 0 - 30 * STEPS]))


def test_two_heads_with_the_geometry_of_one(tmp_path):
    """The message's own advice reads the file: start_angle= of each, or n_heads=1 for a single orbit."""
    path = save(tmp_path, values=[FILE, 2 * FILE], number_of_detector_heads="2", extent_of_rotation="180")
    with pytest.raises(
        FormatError, match=r"2 detector heads.*start angle of each; pass start_angle=\[a, b\]"
    ) as caught:
        read_scan(path)
    assert "window" not in str(caught.value)
    scan = read_scan(path, start_angle=[180, 0], radius=[150, 170])
    np.testing.assert_array_equal(scan.counts, np.concatenate([COUNTS, 2 * COUNTS]))
    np.testing.assert_allclose(scan.geometry.angles, np.concatenate([0 - 30 * STEPS, 180 - 30 * STEPS]))
    np.testing.assert_array_equal(scan.geometry.radius, np.repeat([150, 170], VIEWS))
    single = save(tmp_path, number_of_detector_heads="2")
    np.testing.assert_array_equal(read_scan(single, n_heads=1).counts, COUNTS)
    # more than the header says, and no key that explains it
    with pytest.raises(FormatError, match=r"2 sets of projections.*n_heads=2 and start_angle=.*window=1 to 2"):
        read_scan(save(tmp_path, values=[FILE, FILE]))
    scan = read_scan(save(tmp_path, values=[FILE, FILE]), n_heads=2, start_angle=(0, 180))
    assert scan.geometry.n_views == 2 * VIEWS


def test_heads_of_two_energy_windows(tmp_path):
    """The energy windows come first, and each may repeat the keys of its heads."""
    path = two_heads(tmp_path, more="number of energy windows := 2\n")
    text = path.read_text()
    sections = text[text.index("!number of projections") : text.index("number of energy windows")]
    path.write_text(text.replace("!END", sections + "!END"))
    (tmp_path / "a.s").write_bytes(np.array([FILE, 2 * FILE, 3 * FILE, 4 * FILE]).astype("<f4").tobytes())
    with pytest.raises(FormatError, match=r"2 sets of projections.*window=1 to 2"):
        read_scan(path)
    np.testing.assert_array_equal(read_scan(path, window=2).counts, np.concatenate([3 * COUNTS, 4 * COUNTS]))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("start angle := 45\n", "`start angle` is given 3 times"),
        ("!matrix size [1] := 8\n", r"`matrix size \[1\]` is given 2 times.*for 2 detector heads|must share it"),
        ("Y_offset := 0\nY_offset := 4\n", "different Y_offset"),
        ("first projection angle in data set := 10\nfirst projection angle in data set := 90\n", "first projection"),
        ("number of time frames := 2\n", "2 frames of 2 heads"),
    ],
)
def test_heads_that_contradict_each_other(tmp_path, more, message):
    with pytest.raises(FormatError, match=message):
        read_scan(two_heads(tmp_path, more=more))


def test_different_times_of_two_heads(tmp_path):
    path = two_heads(tmp_path)
    path.write_text(path.read_text().replace("(sec) := 10", "(sec) := 20", 1))
    with pytest.raises(FormatError, match="different times per projection"):
        read_scan(path)


def test_one_head_given_twice(tmp_path):
    with pytest.raises(FormatError, match=r"`radius` is given 2 times.*for 1 detector head;"):
        read_scan(save(tmp_path, change(STIR, "number of detector heads", 1).replace("!END", "radius := 140\n!END", 1)))
    same = STIR.replace("!END", "radius := 150\nstart angle := 180\n!END", 1)
    np.testing.assert_array_equal(read_scan(save(tmp_path, same)).counts, COUNTS)


def test_centre_of_rotation(tmp_path):
    path = save(tmp_path, Centre_of_rotation="Single_value", X_offset="-3.5", Y_offset="2")
    geometry = read_scan(path).geometry
    np.testing.assert_array_equal(geometry.shift, -3.5)
    assert geometry.axial_shift == 2
    geometry = read_scan(path, shift=1, axial_shift=0).geometry
    assert (geometry.shift[0], geometry.axial_shift) == (1, 0)
    geometry = read_scan(save(tmp_path, Centre_of_rotation="Corrected", X_offset="-3.5")).geometry
    np.testing.assert_array_equal(geometry.shift, 0)
    path = save(tmp_path, Centre_of_rotation="33")
    with pytest.raises(FormatError, match=r"centre of rotation is '33'.*pass shift="):
        read_scan(path)
    np.testing.assert_array_equal(read_scan(path, shift=0.5).geometry.shift, 0.5)


ROTATIONS = {"supine": 0, "prone": 180, "right": 270, "left": 90}


@pytest.mark.parametrize("orientation", ["head_in", "feet_in"])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_how_the_patient_lies(tmp_path, orientation, rotation):
    """A point of the patient is where the read geometry says, whatever way the patient lies on the table."""
    point = np.array([40.0, -25.0, 6.0])  # to the patient's left, front and head
    # from the patient to the gantry, whose axes are those of a patient head in and supine
    turn = np.deg2rad(-ROTATIONS[rotation])
    x, y = point[:2]
    # the gantry angle of a direction (sin a, cos a) grows by the rotation
    across = np.hypot(x, y)
    angle = np.arctan2(x, y) + turn
    gantry = np.array([across * np.sin(angle), across * np.cos(angle), point[2]])
    if orientation == "feet_in":
        gantry *= (-1, 1, -1)
    n_views, bins, rows, pixel = 8, 65, 21, 2.0
    file = np.zeros((n_views, rows, bins))
    for view in range(n_views):
        a = np.deg2rad(180 - 45 * view)  # start angle 0, clockwise
        u = -np.cos(a) * gantry[0] + np.sin(a) * gantry[1]
        file[view, round(gantry[2] / pixel) + rows // 2, round(u / pixel) + bins // 2] = 1
    changes = {"matrix_size_[1]": bins, "matrix_size_[2]": rows, "number_of_projections": n_views, "start_angle": 0}
    changes |= {"scaling factor (mm/pixel) [1]": pixel, "scaling factor (mm/pixel) [2]": pixel}
    path = save(tmp_path, values=file, patient_orientation=orientation, patient_rotation=rotation, **changes)
    scan = read_scan(path)
    u, z = scan.geometry.bin_centres()
    found = np.argwhere(scan.counts)
    _, along = scan.geometry.directions
    np.testing.assert_allclose(u[found[:, 0], found[:, 1]], along @ point[:2], atol=pixel / 2 + 1e-9)
    np.testing.assert_allclose(z[found[:, 2]], point[2])
    default = read_scan(path, patient_orientation="head_in", patient_rotation="supine")
    np.testing.assert_allclose(default.geometry.angles[0], 180)


def test_other_positions_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"'other', expected one of: supine, prone"):
        read_scan(save(tmp_path, patient_rotation="other"))
    with pytest.raises(FormatError, match=r"patient orientation is 'sideways'.*patient_orientation="):
        read_scan(save(tmp_path, patient_orientation="sideways"))


@pytest.mark.parametrize("kind", ["Static", "Dynamic", "Gated", "Whole Body", "Curve", "ROI"])
def test_planar_images_are_refused(tmp_path, kind):
    with pytest.raises(FormatError, match=f"the type of data is '{kind.lower()}', which holds no tomographic"):
        read_scan(save(tmp_path, type_of_data=kind))


@pytest.mark.parametrize(
    "keys",
    [
        {"collimator type": "Fan beam"},
        {"focal distance (mm)": "450"},
        {"collimator focal length": "{450, 1000}"},
        {"collimator": "PINHOLE"},
        {";#Collimator type": "converging"},
        {"pinhole aperture (mm)": "2"},
        {"beam geometry": "cone beam"},
        {"acquisition type": "Fan-beam"},
    ],
)
def test_converging_holes_are_refused(tmp_path, keys):
    header = STIR
    for key, value in keys.items():
        header = header.replace("!END", f"{key} := {value}\n!END", 1)
    path = save(tmp_path, header)
    with pytest.raises(FormatError, match=r"not of a parallel-hole collimator.*parallel_holes=True"):
        read_scan(path)
    np.testing.assert_array_equal(read_scan(path, parallel_holes=True).counts, COUNTS)


@pytest.mark.parametrize(
    "keys", [{"focal distance (mm)": "0"}, {"collimator": "LEHR"}, {"collimator type": "Parallel"}]
)
def test_parallel_holes_are_read(tmp_path, keys):
    np.testing.assert_array_equal(read_scan(save(tmp_path, **keys)).counts, COUNTS)


@pytest.mark.parametrize("orbit", ["Elliptical", "Non-circular", "body contour"])
def test_an_orbit_that_is_no_circle_needs_radii(tmp_path, orbit):
    path = save(tmp_path, orbit=orbit)
    with pytest.raises(FormatError, match=r"the orbit is .*, but there is one radius; pass radius="):
        read_scan(path)
    assert read_scan(path, radius=[150] * VIEWS).geometry.radius[0] == 150


def test_beds_are_refused(tmp_path):
    with pytest.raises(FormatError, match="3 bed positions"):
        read_scan(save(tmp_path, number_of_bed_positions="3"))


TIMES = {"image duration (sec) [1]": 60, "image duration (sec) [2]": 120}


def test_time_frames(tmp_path):
    path = save(tmp_path, values=[FILE, 2 * FILE], number_of_time_frames="2", **TIMES)
    with pytest.raises(FormatError, match="2 time frames: read_dynamic reads all of them, frame=1 to 2 one"):
        read_scan(path)
    with pytest.raises(FormatError, match="no frame=3"):
        read_scan(path, frame=3)
    np.testing.assert_array_equal(read_scan(path, frame=2).counts, 2 * COUNTS)
    assert describe(path, frame=2)["total counts"] == 2 * COUNTS.sum()
    scan = read_dynamic(path, radionuclide="Tc-99m")
    np.testing.assert_array_equal(scan.counts, [COUNTS, 2 * COUNTS])
    np.testing.assert_array_equal(scan.frames.starts, [0, 60])
    np.testing.assert_array_equal(scan.frames.durations, [60, 120])
    assert (scan.radionuclide, describe(path)["holds"]) == ("Tc-99m", "dynamic scan")
    starts = {"image relative start time (sec) [1]": 5, "image relative start time (sec) [2]": 100}
    late = read_dynamic(save(tmp_path, values=[FILE, FILE], number_of_time_frames="2", **TIMES, **starts))
    np.testing.assert_array_equal(late.frames.starts, [5, 100])
    untimed = save(tmp_path, values=[FILE, FILE], number_of_time_frames="2")
    with pytest.raises(FormatError, match=r"image duration \(sec\) \[1\]` is missing; pass its value as frames="):
        read_dynamic(untimed)
    np.testing.assert_array_equal(read_dynamic(untimed, frames="2x30").frames.durations, 30)
    with pytest.raises(TypeError, match="use read_scan with frame="):
        read_dynamic(path, frame=1)
    with pytest.raises(FormatError, match="holds no gates; use read_dynamic"):
        read_gated(path)
    with pytest.raises(FormatError, match="truncated"):
        read_dynamic(save(tmp_path, number_of_time_frames="2"), frames="2x30")


GATED = {"type_of_data": "Gated Tomographic", "number_of_time_slots": "2", "time per projection (sec)": 30}


def test_gates(tmp_path):
    values = [FILE, 3 * FILE]
    path = save(tmp_path, values=values, **GATED)
    with pytest.raises(FormatError, match=r'does not say how its 2 gates follow each other.*nesting="gates"'):
        read_gated(path)
    scan = read_gated(path, nesting="gates")
    np.testing.assert_array_equal(scan.counts, [COUNTS, 3 * COUNTS])
    np.testing.assert_array_equal(scan.durations, 15)
    by_view = save(tmp_path, values=np.stack(values, 1), **GATED, GATED_SPECT_nesting_outer_level="SPECT")
    np.testing.assert_array_equal(read_gated(by_view).counts, scan.counts)
    assert describe(by_view)["holds"] == "gated scan"
    with pytest.raises(FormatError, match="2 gates: read_gated reads all of them, gate=1 to 2 one"):
        read_scan(by_view)
    one = read_scan(by_view, gate=2)
    np.testing.assert_array_equal(one.counts, 3 * COUNTS)
    assert one.duration == 15
    with pytest.raises(FormatError, match="gates, not frames; use read_gated"):
        read_dynamic(by_view)
    np.testing.assert_array_equal(read_gated(by_view, gate_seconds=[10, 20]).durations, [10, 20])
    untimed = save(tmp_path, values=values, **GATED | {"time per projection (sec)": None})
    with pytest.raises(FormatError, match="pass gate_seconds="):
        read_gated(untimed, nesting="gates")
    with pytest.raises(FormatError, match="without the key `number of time slots`"):
        read_scan(save(tmp_path, type_of_data="GSPECT"))


def test_bins_and_rows_are_not_confused(tmp_path):
    scan = read_interfile(save(tmp_path))
    assert scan.geometry.n_bins == (BINS, ROWS)
