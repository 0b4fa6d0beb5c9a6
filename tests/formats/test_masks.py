"""Masks: contours, segments and labels land on a grid with the right volume, at the right place; bad files say why."""

import logging
from dataclasses import replace

import numpy as np
import pydicom
import pytest
from ct_cases import FRAME, cylinder, write_ct
from mask_cases import CENTRE, RADIUS, circle, sphere, write_segments, write_structures

from emrecon import formats
from emrecon.formats import FormatError, read_masks
from emrecon.formats.dicom.regions import area_shares
from emrecon.projectors import ImageGrid, Study

GRID = ImageGrid((40, 36, 30), (2.2, 2.2, 2.5), (-40.0, -260.0, 1000.0))
PLACE = (10.0, -200.0, 1040.0)
STUDY = Study(placement=PLACE, frame_of_reference=FRAME)
HERE = replace(GRID, origin=tuple(np.subtract(GRID.origin, PLACE)))


def volume(mask, grid=GRID):
    return mask.sum() * grid.voxel_volume


def centre(mask, grid=GRID):
    return np.array([c.ravel()[index].mean() for c, index in zip(grid.coordinates(), np.nonzero(mask))])


# ---- RTSTRUCT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_sphere_has_its_volume_and_place(tmp_path, axis):
    path = write_structures(tmp_path / "rs.dcm", [("lesion", sphere(axis=axis))])
    (name, mask), *more = read_masks(path, GRID).items()
    assert (name, more, mask.dtype) == ("lesion", [], bool)
    assert volume(mask) == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.02)
    np.testing.assert_allclose(centre(mask), CENTRE, atol=0.3)


def test_the_scan_says_where_it_lies(tmp_path):
    path = write_structures(tmp_path / "rs.dcm", [("lesion", sphere())])
    np.testing.assert_array_equal(read_masks(path, HERE, STUDY)["lesion"], read_masks(tmp_path, GRID)["lesion"])
    with pytest.raises(FormatError, match=r"no region lies on the grid.*without study="):
        read_masks(path, HERE)
    with pytest.raises(TypeError, match=r"such as scan\.study"):
        read_masks(path, HERE, PLACE)


@pytest.mark.parametrize("thickness", [1.0, 2.5, 5.0])
@pytest.mark.parametrize("size", [1.5, 5.0])
def test_slices_between_and_across_contours(tmp_path, thickness, size):
    """A cylinder of contours 5, 2.5 or 1 mm apart on thinner and thicker slices."""
    grid = ImageGrid((40, 36, round(75 / size)), (2.2, 2.2, size), (-40.0, -260.0, 1000.0))
    heights = np.arange(1010 + thickness / 2, 1060, thickness)
    path = write_structures(tmp_path / "rs.dcm", [("a", [circle(20, *CENTRE[:2], z) for z in heights])])
    mask = read_masks(path, grid)["a"]
    assert volume(mask, grid) == pytest.approx(np.pi * 20**2 * 50 / 1000, rel=0.03)


def test_holes_islands_and_keyholes(tmp_path):
    x, y, _ = CENTRE
    heights = np.arange(1020, 1045, 2.5)
    ring = [circle(radius, x, y, z, turn=turn) for z in heights for radius, turn in ((25, 1), (12, -1))]
    outer, inner = (circle(radius, x, y, 0, turn=turn) for radius, turn in ((25, 1), (12, -1)))
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    keyholes = [keyhole + np.array([0, 0, z]) for z in heights]
    two = [circle(8, x + side, y, z) for z in heights for side in (-12, 12)]
    path = write_structures(tmp_path / "rs.dcm", [("ring", ring), ("keyhole", keyholes), ("ring", two)])
    masks = read_masks(path, GRID)
    assert list(masks) == ["ring", "keyhole", "ring (2)"]
    for name in ("ring", "keyhole"):
        assert volume(masks[name]) == pytest.approx(np.pi * (25**2 - 12**2) * 25 / 1000, rel=0.02)
    assert (masks["ring"] != masks["keyhole"]).mean() < 1e-3
    assert volume(masks["ring (2)"]) == pytest.approx(2 * np.pi * 8**2 * 25 / 1000, rel=0.03)
    xor = write_structures(tmp_path / "xor.dcm", [("ring", ring)], kind="CLOSEDPLANAR_XOR")
    np.testing.assert_array_equal(read_masks(xor, GRID)["ring"], masks["ring"])


def test_names_of_regions_lose_the_name_of_the_patient(tmp_path):
    path = write_structures(tmp_path / "rs.dcm", [("Liver Jane Doe", sphere())])
    (name,) = read_masks(path, GRID)
    assert name == "Liver ... ..."


def test_area_is_that_of_the_polygon():
    points = np.random.default_rng(0).normal(0, 1, (7, 2)).cumsum(0)
    points = points[np.argsort(np.arctan2(*(points - points.mean(0)).T))]  # a star, which does not cross itself
    (x, y), (x1, y1) = points.T, np.roll(points, -1, 0).T
    share = area_shares([points], [(-10, 0.2, 101), (-10, 0.25, 81)])
    assert share.sum() * 0.05 == pytest.approx(abs(np.sum(x * y1 - x1 * y)) / 2, rel=0.002)
    assert share.min() > -1e-12
    assert share.max() < 1 + 1e-12
    square = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    halves = area_shares([square], [(-1, 1, 3), (-1, 1, 3)])
    np.testing.assert_allclose(halves, np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]), atol=0.06)  # lines cut in ninths
    np.testing.assert_allclose(area_shares([100 * square], [(-1, 1, 3), (-1, 1, 3)]), 1)


def test_what_is_left_out_is_said(tmp_path, caplog):
    far = sphere(CENTRE + np.array([500, 0, 0]))
    cut = sphere(CENTRE - [0, 0, 30])
    pieces = [circle(10, *CENTRE[:2], z) for z in (1010.0, 1012.5, 1015.0, 1040.0, 1042.5, 1045.0)]
    twice = sphere()
    structures = [("far", far), ("cut", cut), ("pieces", pieces), ("none", []), ("twice", twice + twice[:1])]
    path = write_structures(tmp_path / "rs.dcm", [*structures, ("one", sphere()[5:6])], frame="1.2.3")
    with caplog.at_level(logging.WARNING, "emrecon"):
        masks = read_masks(path, HERE, STUDY)
    assert list(masks) == ["far", "cut", "pieces", "twice", "one"]
    for words in (
        "the mask of far is empty",
        "cut goes on beyond the grid",
        "pieces has 1 gaps of more than 2.5 slices (2.5 mm)",
        "none has no contours and is left out",
        "twice has contours that are there twice",
        "one has one plane of contours, which is taken to be 2.5 mm thick",
        "different frames of reference",
    ):
        assert words in caplog.text
    assert "Doe" not in caplog.text
    assert volume(masks["pieces"]) == pytest.approx(np.pi * 10**2 * 15 / 1000, rel=0.03)
    assert not masks["far"].any()


def test_another_patient_and_another_frame_are_said(tmp_path, caplog):
    path = write_structures(tmp_path / "rs.dcm", [("sphere", sphere())], frame="1.2.3", PatientID="9")
    ct = write_ct(tmp_path / "ct", cylinder()[:, :, :2], replace(GRID, shape=(*cylinder().shape[:2], 2)), PatientID="4")
    image = formats.study_of_file(ct)
    assert image.placement is None
    assert image.frame_of_reference == FRAME
    with caplog.at_level(logging.WARNING, "emrecon"):
        read_masks(path, GRID, image)
    assert "rs.dcm and the image are of different patients" in caplog.text
    assert "different frames of reference" in caplog.text
    assert formats.patient_note("a", "b", image, image) is None
    assert formats.study_of_file(tmp_path / "no.nii.gz") is None
    unnamed = replace(image, attributes={"PatientID": ""})
    assert formats.patient_note("a", "b", image, unnamed) is None  # nobody is known


tilted = [circle(10, *CENTRE) @ np.array([[1, 0, 0], [0, 0.98, 0.2], [0, -0.2, 0.98]])]
BROKEN = {
    "oblique": ([("a", tilted)], {}, "oblique to the patient's axes"),
    "two directions": ([("a", sphere(axis=0) + sphere(axis=2))], {}, "slices of several directions"),
    "points only": ([("a", [CENTRE[None]])], {"kind": "POINT"}, "no closed contours"),
    "nothing": ([], {}, r"no contours \(ROIContourSequence\)"),
    "no names": ([("a", sphere())], {"StructureSetROISequence": []}, "which no StructureSetROISequence names"),
    "a number too few": ([("a", [np.ravel(sphere()[3])[:-1]])], {}, "not three by point; truncated"),
    "another modality": (
        [("a", sphere())],
        {"Modality": "RTPLAN"},
        "RTPLAN, and masks are read of RTSTRUCT, SEG",
    ),
}


@pytest.mark.parametrize(("structures", "changes", "message"), list(BROKEN.values()), ids=list(BROKEN))
def test_broken_structures(tmp_path, structures, changes, message):
    path = write_structures(tmp_path / "rs.dcm", structures, **changes)
    with pytest.raises(FormatError, match=message) as caught:
        read_masks(path, GRID)
    assert "Doe" not in str(caught.value)


def test_truncated_files_and_files_of_another_kind(tmp_path):
    whole = write_structures(tmp_path / "rs.dcm", [("a", sphere())]).read_bytes()
    for part in (0.05, 0.3, 0.6, 0.99):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(FormatError):
            read_masks(tmp_path / "cut.dcm", GRID)
    (tmp_path / "cut.dcm").write_bytes(whole)
    with pytest.raises(FormatError, match="2 files with regions; name one of them"):
        read_masks(tmp_path, GRID)
    with pytest.raises(FormatError, match="names its regions itself"):
        read_masks(tmp_path / "rs.dcm", GRID, names={1: "a"})
    with pytest.raises(FileNotFoundError):
        read_masks(tmp_path / "nothing.nii", GRID)


# ---- SEG -------------------------------------------------------------------------------------------------------------

SMALL = ImageGrid((11, 13, 9), (4.0, 4.0, 4.0), (-20.0, -250.0, 1010.0))


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    """Masks on the grid of a small CT, and a function that writes them by highdicom."""
    pytest.importorskip("highdicom")

    folder = write_ct(tmp_path_factory.mktemp("seg") / "ct", cylinder(SMALL), SMALL)
    source = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    x, y, z = SMALL.coordinates()
    first = (x < 2) & (y < -220) & (z > 1020) & (z < 1040)
    second = (x > 6) & (y > -230) & (z > 1016)
    masks = {"liver": first, "left kidney": second & np.ones(SMALL.shape, bool)}

    def write(path, values, kind, **options):
        return write_segments(path, source, values, kind, list(masks), **options)

    return masks, write


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("sparse", [True, False])
def test_segments_come_back(segments, tmp_path, kind, sparse, caplog):
    masks, write = segments
    both = np.stack(list(masks.values()))
    values = {
        "BINARY": both.astype(np.uint8),
        "FRACTIONAL": both * np.float32(0.7),
        "LABELMAP": (both[0] + 2 * both[1]).astype(np.uint8),
    }[kind]
    path = write(tmp_path / "seg.dcm", values, kind, omit_empty_frames=sparse)
    with caplog.at_level(logging.WARNING, "emrecon"):
        found = read_masks(path, SMALL)
    assert ("fractions" in caplog.text) == (kind == "FRACTIONAL")
    assert list(found) == ["liver", "left kidney"]
    for name, mask in masks.items():
        np.testing.assert_array_equal(found[name], mask)
    finer = ImageGrid((50, 60, 40), (1.0, 1.0, 1.0), (-23.5, -253.5, 1008.5))
    again = read_masks(path, replace(finer, origin=tuple(np.subtract(finer.origin, PLACE))), STUDY)
    assert volume(again["liver"], finer) == pytest.approx(volume(masks["liver"], SMALL), rel=1e-6)
    np.testing.assert_allclose(centre(again["liver"], finer), centre(masks["liver"], SMALL), atol=1e-3)


def changed(path, change):
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def tilt(dataset):
    group = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    group.ImageOrientationPatient = [0.96, 0.28, 0, -0.28, 0.96, 0]


def move(dataset):
    dataset.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [0, 0, 1016]


BROKEN_SEGMENTS = {
    "oblique": (tilt, "is oblique to the patient axes"),
    "shifted": (move, "unevenly spaced or shifted"),
    "no type": (lambda d: d.__delattr__("SegmentationType"), "SegmentationType is missing"),
    "no segments": (lambda d: d.__delattr__("SegmentSequence"), "names no segments"),
    "no place": (lambda d: d.__delattr__("PerFrameFunctionalGroupsSequence"), "describes 0 of them"),
    "no pixels": (lambda d: d.__delattr__("PixelData"), "pixels cannot be read"),
    "fewer pixels": (lambda d: setattr(d, "PixelData", d.PixelData[:20]), "pixels cannot be read"),
    "absurd": (lambda d: setattr(d, "Rows", 60000) or setattr(d, "Columns", 60000), "announce"),
}


@pytest.mark.parametrize(("change", "message"), list(BROKEN_SEGMENTS.values()), ids=list(BROKEN_SEGMENTS))
def test_broken_segments(segments, tmp_path, change, message):
    masks, write = segments
    path = write(tmp_path / "seg.dcm", np.stack(list(masks.values())).astype(np.uint8), "BINARY")
    changed(path, change)
    with pytest.raises(FormatError, match=message):
        read_masks(path, SMALL)


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_label_images(tmp_path):
    labels = np.zeros(GRID.shape, np.float32)
    labels[5:15, 5:15, 5:15], labels[20:30, 5:15, 5:15] = 1, 7
    formats.write_image(tmp_path / "labels.nii.gz", labels, GRID)
    masks = read_masks(tmp_path / "labels.nii.gz", HERE, STUDY, names={7: "spleen"})
    assert list(masks) == ["label 1", "spleen"]
    np.testing.assert_array_equal(masks["spleen"], labels == 7)
    formats.write_image(tmp_path / "labels.h5", labels, HERE)
    np.testing.assert_array_equal(read_masks(tmp_path / "labels.h5", HERE, STUDY)["label 7"], labels == 7)
    with pytest.raises(FormatError, match="no label 3; it holds 1, 7"):
        read_masks(tmp_path / "labels.h5", HERE, names={3: "liver"})
    for values, message in ((labels + 0.5, "not whole numbers"), (0 * labels, "holds 0 different labels")):
        formats.write_image(tmp_path / "bad.h5", values, HERE)
        with pytest.raises(FormatError, match=message):
            read_masks(tmp_path / "bad.h5", HERE)
