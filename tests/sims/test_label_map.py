"""Label volumes and their tables: exact averages on any grid, files of several kinds, and files that mean harm."""

import contextlib
import io
import zipfile

import numpy as np
import pytest
from real_data import real_data

from emrecon.formats import FormatError, read_interfile_image, write_nifti
from emrecon.projectors import ImageGrid, linear_attenuation
from emrecon.sims.phantoms.label_map import (
    LabelMap,
    Tissue,
    VoxelPhantom,
    average_onto,
    brainweb_labels,
    read_label_map,
    read_tissues,
    xcat_labels,
)
from emrecon.sims.phantoms.phantom import Phantom, Region
from emrecon.sims.phantoms.shapes import Box

RNG = np.random.default_rng(3)
GRID = ImageGrid((6, 5, 4), (2.0, 3.0, 4.0), (1.0, -2.0, 5.0))
LABELS = RNG.integers(0, 4, GRID.shape).astype(np.uint8)
TABLE = {
    0: Tissue("air"),
    1: Tissue("water", 1.0, "water"),
    2: Tissue("bone", 0.5, "bone-cortical", density=1.4),
    3: Tissue("filter", 3.0, mu=0.3),
}
MAP = LabelMap(LABELS, GRID, TABLE)


# ---- averaging -------------------------------------------------------------------------------------------------------


def brute(image, grid, target, n=24):
    """The mean over n^3 points of every voxel of the target."""
    mean = np.zeros(target.shape)
    for j in np.ndindex(target.shape):
        at = [target.origin[k] + target.voxel_size[k] * (j[k] + (np.arange(n) + 0.5) / n - 0.5) for k in range(3)]
        index = [np.floor((at[k] - grid.origin[k]) / grid.voxel_size[k] + 0.5).astype(int) for k in range(3)]
        weight = [((i >= 0) & (i < m)).astype(float) for i, m in zip(index, grid.shape)]
        values = image[np.ix_(*(np.clip(i, 0, m - 1) for i, m in zip(index, grid.shape)))]
        mean[j] = np.einsum("ijk,i,j,k", values, *weight) / n**3
    return mean


@pytest.mark.parametrize(
    "target",
    [
        ImageGrid((3, 4, 5), (5.0, 2.2, 3.1), (0.5, -3.0, 4.4)),
        ImageGrid((2, 2, 2), (9.0, 20.0, 30.0), (2.0, 4.0, 9.0)),
        ImageGrid((5, 3, 3), (0.7, 1.1, 0.9), (4.0, 5.0, 6.0)),
    ],
    ids=str,
)
def test_averages_are_weighted_by_volume(target):
    image = RNG.uniform(0, 5, GRID.shape)
    np.testing.assert_allclose(average_onto(image, GRID, target), brute(image, GRID, target), atol=0.15)


def test_averages_agree_with_a_phantom_of_boxes():
    target = ImageGrid((4, 5, 6), (3.3, 3.7, 2.9), (1.4, -1.0, 4.0))
    x, y, z = (c.ravel() for c in GRID.coordinates())
    boxes = [
        Region(
            f"{i}", Box((float(x[i[0]]), float(y[i[1]]), float(z[i[2]])), GRID.voxel_size), TABLE[LABELS[i]].activity
        )
        for i in np.ndindex(GRID.shape)
    ]
    difference = MAP.activity(target) - Phantom(tuple(boxes)).activity(target, 12)
    assert np.abs(difference).max() < 0.1  # of values up to 3, sampled at 12^3 points
    assert np.sqrt(np.mean(difference**2)) < 0.03


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_kept(seed):
    rng = np.random.default_rng(seed)
    size = rng.uniform(0.5, 9, 3)
    target = ImageGrid(
        tuple(np.ceil(60 / size).astype(int)), tuple(size), tuple(np.array((1, -2, 5)) - rng.uniform(8, 20, 3))
    )
    image = rng.uniform(0, 3, GRID.shape)
    total = average_onto(image, GRID, target).sum(dtype=float) * target.voxel_volume
    assert total == pytest.approx(image.sum() * GRID.voxel_volume, rel=1e-6)


def test_finer_grids_repeat_and_equal_grids_keep():
    np.testing.assert_array_equal(MAP.activity(GRID), np.array([0, 1, 0.5, 3], np.float32)[LABELS])
    fine = ImageGrid((12, 15, 8), (1.0, 1.0, 2.0), (0.5, -3.0, 4.0))
    repeated = np.kron(MAP.activity(GRID), np.ones((2, 3, 2), np.float32))
    np.testing.assert_allclose(MAP.activity(fine), repeated, rtol=1e-6)


def test_one_slice_shows_the_plane_through_its_middle():
    for z, k in ((5.0, 0), (6.9, 0), (7.1, 1), (17.0, 3), (30.0, None)):
        plane = MAP.activity(ImageGrid((6, 5, 1), (2.0, 3.0, 50.0), (1.0, -2.0, z)))[..., 0]
        expected = 0 * plane if k is None else MAP.activity(GRID)[..., k]
        np.testing.assert_allclose(plane, expected)


# ---- label maps ------------------------------------------------------------------------------------------------------


def test_attenuation_fractions_and_labels():
    values = np.array([0, linear_attenuation("water", 140.5), linear_attenuation("bone-cortical", 140.5, 1.4), 0.3])
    np.testing.assert_allclose(MAP.attenuation(GRID, 140.5), values[LABELS], rtol=1e-6)
    target = ImageGrid((4, 5, 6), (3.3, 3.7, 2.9), (1.4, -1.0, 4.0))
    parts = {tissue.name: MAP.fraction(target, tissue.name) for tissue in TABLE.values()}
    activity = sum(parts[tissue.name] * tissue.activity for tissue in TABLE.values())
    np.testing.assert_allclose(MAP.activity(target), activity, rtol=1e-5)
    assert sum(parts.values()).max() == pytest.approx(1)
    labels, names = MAP.labels(GRID)
    assert names == MAP.names == ("outside", "air", "water", "bone", "filter")
    np.testing.assert_array_equal(labels, LABELS + 1)
    wide, _ = MAP.labels(ImageGrid((8, 7, 6), GRID.voxel_size, (-1, -5, 1)))
    np.testing.assert_array_equal(wide, np.pad(LABELS + 1, 1))


def test_labels_of_one_name_are_one_region():
    table = TABLE | {0: Tissue("outside"), 2: Tissue("water", 0.5)}
    both = LabelMap(LABELS, GRID, table)
    assert both.names == ("outside", "water", "filter")
    np.testing.assert_array_equal(both.fraction(GRID, "water"), np.isin(LABELS, (1, 2)))
    np.testing.assert_array_equal(both.labels(GRID)[0] == 0, LABELS == 0)


def test_moved():
    moved = MAP.moved((3.0, -1.0, 2.0))
    there = ImageGrid(GRID.shape, GRID.voxel_size, (4.0, -3.0, 7.0))
    np.testing.assert_array_equal(moved.activity(there), MAP.activity(GRID))


def test_float_labels_of_readers():
    np.testing.assert_array_equal(LabelMap(LABELS.astype(float), GRID, TABLE).voxels, LABELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelMap(LABELS[1:], GRID, TABLE), "do not fit a grid"),
        (lambda: LabelMap(LABELS + 0.5, GRID, TABLE), "whole numbers; was the volume interpolated"),
        (lambda: LabelMap(LABELS * np.nan, GRID, TABLE), "whole numbers"),
        (lambda: LabelMap(LABELS * 1e30, GRID, TABLE), "must be below"),
        (lambda: LabelMap(LABELS.astype(str), GRID, TABLE), "whole numbers, got <U"),
        (lambda: LabelMap(LABELS, GRID, {0: TABLE[0], 1: TABLE[1]}), "no row for the labels 2, 3; it has 0, 1"),
        (lambda: MAP.fraction(GRID, "liver"), "choose from air, water, bone, filter"),
        (lambda: MAP.attenuation(GRID, 0.1), "energy must be"),
        (lambda: average_onto(LABELS[1:], GRID, GRID), "does not fit"),
        (lambda: Tissue("a", -1.0), "activity must be finite and >= 0"),
        (lambda: Tissue("a", mu=float("nan")), "mu must be finite"),
        (lambda: Tissue("a", material="watr"), "unknown material 'watr'; choose from water, muscle"),
        (lambda: Tissue("a", material="water", mu=0.1), "a material and a mu"),
        (lambda: Tissue("a", density=1.0), "density but no material"),
        (lambda: xcat_labels({"heart": 3.0}), "unknown tissue 'heart'; choose from air, body"),
        (lambda: VoxelPhantom(-np.ones(GRID.shape), GRID, MAP), "finite and >= 0"),
        (lambda: VoxelPhantom(np.ones((2, 2, 2)), GRID, MAP), "does not fit"),
    ],
)
def test_errors_name_the_cause(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- tables in files -------------------------------------------------------------------------------------------------

CSV = """label,name,activity,material,density,mu
0, air,,,,
1, water,1,water,,
2, bone,0.5,bone-cortical,1.4,

3, filter,3,,,0.3
"""
TOML = """
[[tissue]]
label = 0
name = "air"

[[tissue]]
label = 1
name = "water"
activity = 1
material = "water"

  [[tissue]]
label = 2
name = "bone"
activity = 0.5
material = "bone-cortical"
density = 1.4

[[tissue]]
label = 3
name = "filter"
activity = 3.0
mu = 0.3
"""


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(("name", "text"), [("t.csv", CSV), ("t.csv", "\ufeff" + CSV), ("t.toml", TOML)])
def test_tables(tmp_path, name, text):
    assert read_tissues(written(tmp_path, name, text)) == TABLE


BAD_TABLES = [
    ("t.csv", CSV.replace("filter,3", "filter,-3"), r"t\.csv, line 6: tissue 'filter': activity must be finite"),
    ("t.csv", CSV.replace("water,1", "water,much"), r"line 3: activity must be a number, got 'much'"),
    ("t.csv", CSV.replace("\n1,", "\n1.5,"), r"line 3: label must be a whole number"),
    ("t.csv", CSV.replace("\n1,", "\n0,"), r"line 3: label 0 already has a row \('air'\)"),
    ("t.csv", CSV.replace("bone-cortical", "bone"), r"line 4: tissue 'bone': unknown material 'bone'; choose"),
    ("t.csv", CSV.replace("activity", "aktivity"), r"line 1: columns are label, name"),
    ("t.csv", CSV.replace("water,,", "water,,,,"), r"line 3: more cells than columns"),
    ("t.csv", CSV.replace(" filter", ""), r"line 6: a tissue needs a name"),
    ("t.csv", "label,name\n", "has no tissues"),
    ("t.csv", "\n\n", "line 1: columns are"),
    ("t.csv", b"label,name\n\xff\xfe\x80,", "not text in UTF-8"),
    ("t.txt", CSV, r"is a \.csv or \.toml file"),
    ("t.toml", TOML.replace("mu = 0.3", "mu = -0.3"), r"t\.toml, line 19: tissue 'filter': mu must"),
    ("t.toml", TOML.replace("mu = 0.3", "mew = 0.3"), r"line 19: unknown key 'mew'; choose from label"),
    ("t.toml", TOML.replace("density = 1.4", 'density = "1.4"'), r"line 12: density must be a number, got '1.4'"),
    ("t.toml", TOML.replace("label = 2", "label = true"), r"line 12: label must be a number"),
    ("t.toml", TOML.replace("label = 2", "label = 1"), r"line 12: label 1 already has a row"),
    ("t.toml", TOML.replace("name = \"bone\"", ""), r"line 12: a tissue needs a name"),
    ("t.toml", TOML.replace("mu = 0.3", "mu 0.3"), r"t\.toml: .*line 23"),
    ("t.toml", "a = 1" + TOML, r"expected \[\[tissue\]\] tables and nothing else, got a"),
    ("t.toml", "tissue = 3", r"expected \[\[tissue\]\]"),
    ("t.toml", "# nothing", "has no tissues"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), BAD_TABLES)
def test_tables_that_are_refused(tmp_path, name, text, message):
    with pytest.raises(FormatError, match=message):
        read_tissues(written(tmp_path, name, text))


def test_tables_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_tissues(tmp_path / "t.csv")
    with pytest.raises(FormatError, match="empty"):
        read_tissues(written(tmp_path, "t.csv", ""))


def test_tables_that_are_built_in():
    xcat, brainweb = xcat_labels(), brainweb_labels({"csf": 0.1})
    assert [tissue.name for tissue in xcat.values()][5] == "liver"
    assert list(xcat) == list(range(8))
    assert list(brainweb) == list(range(12))
    assert [brainweb[k].activity for k in (1, 2, 3, 6)] == [0.1, 4.0, 1.0, 0.5]
    assert brainweb[7].attenuation(511) == pytest.approx(0.1716, rel=2e-3)
    assert xcat[6].attenuation(140.5) == pytest.approx(0.0396, rel=2e-3)
    assert xcat[0].attenuation(511) == xcat[2].attenuation(511) == brainweb[0].attenuation(511) == 0


# ---- label volumes in files ------------------------------------------------------------------------------------------


def archive(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_npz(tmp_path):
    path = archive(tmp_path / "a.npz", labels=LABELS.transpose(2, 1, 0), voxel_mm=np.array([4.0, 3.0, 2.0]))
    phantom = read_label_map(path, TABLE)
    np.testing.assert_array_equal(phantom.voxels, LABELS)
    assert phantom.grid == ImageGrid((6, 5, 4), (2, 3, 4))


@pytest.mark.parametrize(("orientation", "axes"), [("RAS", (0, 1)), ("LPS", ()), ("lpi", (2,)), ("RPS", (0,))])
def test_raw_in_other_orientations(tmp_path, orientation, axes):
    path = written(tmp_path, "a.rawb", np.flip(LABELS, axes).transpose(2, 1, 0).tobytes())
    phantom = read_label_map(path, TABLE, shape=(6, 5, 4), voxel_size=(2, 3, 4), orientation=orientation)
    np.testing.assert_array_equal(phantom.voxels, LABELS)
    assert phantom.grid.voxel_size == (2, 3, 4)


def test_raw_with_axes_in_another_order(tmp_path):
    # stored x runs to the head, y to the right, z to the front
    stored = np.flip(LABELS, (0, 1)).transpose(2, 0, 1)
    path = written(tmp_path, "a.raw", stored.transpose(2, 1, 0).astype(">u2").tobytes())
    phantom = read_label_map(path, TABLE, shape=(4, 6, 5), voxel_size=(4, 2, 3), dtype=">u2", orientation="SRA")
    np.testing.assert_array_equal(phantom.voxels, LABELS)
    assert phantom.grid == ImageGrid((6, 5, 4), (2, 3, 4))


def test_nifti(tmp_path):
    write_nifti(tmp_path / "a.nii.gz", LABELS, GRID)
    phantom = read_label_map(tmp_path / "a.nii.gz", TABLE)
    np.testing.assert_array_equal(phantom.voxels, LABELS)
    assert phantom.grid == GRID
    write_nifti(tmp_path / "b.nii", LABELS + 0.25, GRID)
    with pytest.raises(FormatError, match=r"b\.nii: labels must be whole numbers"):
        read_label_map(tmp_path / "b.nii", TABLE)


def test_raw_files_that_are_refused(tmp_path):
    path = written(tmp_path, "a.raw", LABELS.tobytes())
    for arguments, message in [
        ({}, "pass shape and voxel_size"),
        ({"shape": (6, 5, 5), "voxel_size": 2}, r"a\.raw has 120 bytes; 6 x 5 x 5 voxels of uint8 have 150"),
        ({"shape": (6, 5, 4), "voxel_size": 2, "dtype": "<u2"}, "voxels of uint16 have 240"),
        ({"shape": (6, 5, 4), "voxel_size": 2, "dtype": "f4"}, "labels are whole numbers"),
        ({"shape": (6, 5, 4), "voxel_size": 2, "dtype": "O"}, "labels are whole numbers"),
        ({"shape": (6, 5, 4), "voxel_size": -2}, "voxel_size"),
        ({"shape": (6, -5, 4), "voxel_size": 2}, "shape"),
        ({"shape": (6, 5, 4), "voxel_size": 2, "orientation": "LRS"}, "one letter each of L or R"),
        ({"shape": (6, 5, 4), "voxel_size": 2, "orientation": "LP"}, "one letter each of L or R"),
    ]:
        with pytest.raises(FormatError, match=message):
            read_label_map(path, TABLE, **arguments)
    with pytest.raises(FormatError, match=r"a\.raw: the table has no row for the labels 3"):
        read_label_map(path, {k: TABLE[k] for k in range(3)}, shape=(6, 5, 4), voxel_size=2)
    with pytest.raises(FileNotFoundError):
        read_label_map(tmp_path / "b.raw", TABLE)


def test_archives_that_are_refused(tmp_path):
    size = np.array([4.0, 4.0, 4.0])
    for name, arrays, message in [
        ("objects", {"labels": np.array([[[{}]]], object), "voxel_mm": size}, "announces object"),
        ("flat", {"labels": LABELS.ravel(), "voxel_mm": size}, r"expected whole numbers \[z\]\[y\]\[x\]"),
        ("nameless", {"voxel_mm": size}, "no array 'labels'"),
        ("sizeless", {"labels": LABELS}, "no array 'voxel_mm'"),
        ("sizes", {"labels": LABELS, "voxel_mm": np.ones(2)}, "expected three numbers"),
        ("evil sizes", {"labels": LABELS, "voxel_mm": np.array([{}, 1, 2], object)}, "announces object"),
        ("negative", {"labels": LABELS, "voxel_mm": -size}, "voxel_size"),
        ("fractions", {"labels": LABELS + 0.5, "voxel_mm": size}, "whole numbers"),
        ("text", {"labels": LABELS.astype(str), "voxel_mm": size}, "whole numbers"),
    ]:
        with pytest.raises(FormatError, match=message) as caught:
            read_label_map(archive(tmp_path / f"{name}.npz", **arrays), TABLE)
        assert f"{name}.npz" in str(caught.value)


def test_archives_that_are_damaged_or_mean_harm(tmp_path):
    path = archive(tmp_path / "a.npz", labels=LABELS, voxel_mm=np.ones(3))
    whole = path.read_bytes()
    for part in (1, 30, len(whole) // 3, len(whole) - 10):
        path.write_bytes(whole[:part])
        with pytest.raises(FormatError, match=r"a\.npz"):
            read_label_map(path, TABLE)
    for at in range(30, len(whole), 7):  # a changed byte gives an error of ours or, where nothing tells, labels
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with contextlib.suppress(FormatError):
            read_label_map(path, TABLE)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (60000,) * 3})
    with zipfile.ZipFile(path, "w") as bomb:
        bomb.writestr("labels.npy", header.getvalue())
    with pytest.raises(FormatError, match=r"announces uint8 of shape \(60000, 60000, 60000\)"):
        read_label_map(path, TABLE)


# ---- real volumes ----------------------------------------------------------------------------------------------------


def centre(phantom, name):
    grid = phantom.grid
    weight = phantom.fraction(grid, name)
    return [float((weight * c).sum() / weight.sum()) for c in grid.coordinates()]


def test_xcat_torso():
    phantom = read_label_map(real_data("phantoms", "xcat", "VoxHeadTorsoAbd_658x280x956_4mm_labels.npz"), xcat_labels())
    volume = {
        name: phantom.fraction(phantom.grid, name).sum(dtype=float) * phantom.grid.voxel_volume
        for name in ("brain", "liver")
    }
    assert volume["brain"] == pytest.approx(1322.8, rel=1e-3)
    assert volume["liver"] == pytest.approx(1798.7, rel=1e-3)
    body, liver, brain, lungs = (centre(phantom, name) for name in ("body", "liver", "brain", "lungs"))
    assert liver[0] < body[0] - 50  # on the patient's right
    assert brain[2] > lungs[2] + 300  # the head is up
    assert lungs[2] > liver[2] + 50
    _, y, _ = np.nonzero(phantom.voxels[60:100, :, 60:70] == 7)
    assert phantom.grid.origin[1] + 4 * y.mean() > body[1]  # the spine is behind
    coarse = ImageGrid((60, 60, 80), 16.0, (-472, -472, -632))
    total = phantom.activity(coarse).sum(dtype=float) * coarse.voxel_volume
    assert total == pytest.approx(phantom.activity(phantom.grid).sum(dtype=float) * phantom.grid.voxel_volume, rel=1e-5)


def test_xcat_head():
    phantom = read_label_map(real_data("phantoms", "xcat", "VoxHead_338x248x256_4mm_labels.npz"), xcat_labels())
    brain = phantom.fraction(phantom.grid, "brain").sum(dtype=float) * phantom.grid.voxel_volume
    assert brain == pytest.approx(1322.8, rel=2e-3)
    # the first of the head, seen from the front, is the tip of the nose, in the middle
    x, y, _ = np.nonzero(phantom.voxels)
    assert abs(x[y == y.min()].mean() - x.mean()) < 5
    assert np.sum(y == y.min()) < np.sum(y == y.max())


@pytest.mark.parametrize(
    ("folder", "source", "attenuation", "values"),
    [
        ("dat", "DaT_Source_120x120x120", "DaT_Attenuation_72x90x77", {10, 100, 800}),
        (
            "brain_perfusion",
            "Brain_Perfusion_Source_120x120x120",
            "Brain_Perfusion_Attn_72x90x77",
            {10, 100, 230, 920, 1012},
        ),
    ],
)
def test_brain_volumes_with_their_attenuation(folder, source, attenuation, values):
    image, grid = read_interfile_image(real_data("phantoms", folder, f"{source}.h33"))
    table = {
        0: Tissue("air"),
        1: Tissue("skull", 0, "bone-cortical"),
        2: Tissue("soft", 0, "muscle"),
        3: Tissue("brain", 0, "muscle"),
    }
    tissues = read_label_map(real_data("phantoms", folder, f"{attenuation}.h33"), table)
    # the smaller volume is the box around the larger one's head, which is not quite in the middle
    phantom = VoxelPhantom(image, grid, tissues.moved((-2, 2, -1)))
    activity, mu = phantom.activity(grid), phantom.attenuation(grid, 140.5)
    np.testing.assert_array_equal(activity > 0, mu > 0)
    assert set(np.unique(activity)) == {0, *values}
    assert mu.max() == pytest.approx(linear_attenuation("bone-cortical", 140.5))
    striatum = np.argwhere(activity == max(values)).mean(0)
    head = np.argwhere(mu > 0).mean(0)
    assert abs(striatum[0] - head[0]) < 3
    assert striatum[1] < head[1] - 3  # in front of the middle: y runs to the back
    assert 10 < np.sum(activity == max(values)) * grid.voxel_volume < 20
