"""NIfTI: the patient's left stays left through every storage order, and what cannot be read says why."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from emrecon import formats
from emrecon.formats import FormatError, read_nifti, write_nifti
from emrecon.projectors import ImageGrid

RNG = np.random.default_rng(5)
GRID = ImageGrid((4, 3, 2), (1.5, 2.5, 3.32), (-7.0, 0.1, 12.0))
IMAGE = RNG.normal(size=GRID.shape).astype(np.float32)
RAS = np.diag([-1.0, -1, 1, 1]) @ GRID.affine


def save(path, image=IMAGE, affine=RAS, kind=nibabel.Nifti1Image):
    nibabel.save(kind(image, affine), path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, bool])
def test_round_trip(tmp_path, suffix, dtype):
    image = (10 * np.abs(IMAGE)).astype(dtype)
    formats.write_image(tmp_path / f"a{suffix}", image, GRID)
    again, grid = formats.read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again, image.astype(np.float32))
    assert again.dtype == np.float32
    assert grid == GRID
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]
    assert formats.describe(tmp_path / f"a{suffix}")["format"] == "NIfTI"


def test_what_other_programs_see(tmp_path):
    write_nifti(tmp_path / "a.nii", IMAGE, GRID)
    volume = nibabel.load(tmp_path / "a.nii")
    assert nibabel.aff2axcodes(volume.affine) == ("L", "P", "S")
    np.testing.assert_allclose(volume.affine, RAS, rtol=1e-6)
    np.testing.assert_allclose(volume.get_qform(), RAS, atol=1e-5)
    assert volume.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(volume.get_fdata(), IMAGE)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_every_storage_order_comes_back_as_lps(tmp_path, axes, flips):
    turn = np.eye(4)
    turn[:3, :3] = np.eye(3)[:, axes]
    image = IMAGE.transpose(axes)
    for axis in flips:
        flip = np.eye(4)
        flip[axis, axis], flip[axis, 3] = -1, image.shape[axis] - 1
        image, turn = np.flip(image, axis), turn @ flip
    again, grid = read_nifti(save(tmp_path / "a.nii", image, RAS @ turn))
    np.testing.assert_array_equal(again, IMAGE)
    assert again.flags.c_contiguous
    np.testing.assert_allclose(grid.affine, GRID.affine, rtol=1e-6, atol=1e-5)


def test_only_a_qform(tmp_path):
    volume = nibabel.Nifti1Image(IMAGE, RAS)
    volume.set_sform(None, code=0)
    volume.set_qform(RAS, code=1)
    nibabel.save(volume, tmp_path / "a.nii")
    again, grid = read_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(again, IMAGE)
    np.testing.assert_allclose(grid.affine, GRID.affine, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 3, 2, 1), (4, 3, 2, 1, 1), (4, 3)])
def test_single_volumes_of_other_dimensions(tmp_path, shape):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    again, _ = read_nifti(save(tmp_path / "a.nii", image))
    np.testing.assert_array_equal(again, image.reshape((*shape[:3], 1)[:3]))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
def test_versions_scaling_and_double_precision(tmp_path, kind):
    name = "a.img" if kind is nibabel.Nifti1Pair else "a.nii"
    volume = kind(IMAGE.astype(np.float64), RAS)
    nibabel.save(volume, tmp_path / name)
    again, _ = read_nifti(tmp_path / name)
    assert again.dtype == np.float64
    volume = kind((100 * IMAGE).astype(np.int16), RAS)
    volume.header.set_slope_inter(0.5, 3)
    nibabel.save(volume, tmp_path / name)
    again, _ = read_nifti(tmp_path / name)
    np.testing.assert_allclose(again, nibabel.load(tmp_path / name).get_fdata(), rtol=1e-6)


def test_units(tmp_path):
    volume = nibabel.Nifti1Image(IMAGE, RAS)
    volume.header.set_xyzt_units("meter")
    nibabel.save(volume, tmp_path / "a.nii")
    assert read_nifti(tmp_path / "a.nii")[1].voxel_size == pytest.approx((1500, 2500, 3320))


def oblique(angle):
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ RAS


BAD_IMAGES = {
    "oblique": (IMAGE, oblique(0.1), "oblique"),
    "sheared": (IMAGE, RAS + np.eye(4, k=1), "oblique"),
    "flat affine": (IMAGE, np.diag([0.0, 1, 1, 1]), "no voxel sizes"),
    "five axes": (np.ones((4, 3, 2, 5, 2), "f4"), RAS, "along several axes"),
    "one dimension": (np.ones(5, "f4"), RAS, r"expected \(x, y, z\)"),
    "complex": (np.ones((4, 3, 2), "c8"), RAS, "only real numbers"),
    "colours": (np.zeros((4, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")]), RAS, "only real numbers"),
}


@pytest.mark.parametrize(("image", "affine", "message"), list(BAD_IMAGES.values()), ids=list(BAD_IMAGES))
def test_images_that_are_refused(tmp_path, image, affine, message):
    volume = nibabel.Nifti1Image(image, np.eye(4))
    volume.header.set_sform(affine, code=1)
    nibabel.save(nibabel.Nifti1Image(image, None, volume.header), tmp_path / "a.nii")
    with pytest.raises(FormatError, match=message) as caught:
        read_nifti(tmp_path / "a.nii")
    assert "a.nii" in str(caught.value)


def test_barely_turned_axes_are_taken_as_straight(tmp_path):
    assert read_nifti(save(tmp_path / "a.nii", affine=oblique(1e-4)))[1].voxel_size == pytest.approx((1.5, 2.5, 3.32))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", [0, 0.3, 0.8])
def test_truncated(tmp_path, suffix, part):
    path = save(tmp_path / f"a{suffix}", np.ones((9, 9, 9), "f4"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(FormatError, match=r"a\.nii"):
        read_nifti(path)


def test_wrong_and_hostile_files(tmp_path):
    path = tmp_path / "a.nii"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_nifti(path)
    path.write_text("text" * 200)
    with pytest.raises(FormatError, match="wrong suffix"):
        read_nifti(path)
    header = nibabel.Nifti1Image(np.ones((2, 2, 2), "f4"), RAS).header
    header.set_data_shape((30000, 30000, 30000))
    for name in ("a.nii", "a.nii.gz"):
        raw = header.binaryblock + bytes(4 + 32)
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
        with pytest.raises(FormatError, match="announce 30000 x 30000 x 30000"):
            read_nifti(tmp_path / name)
    nibabel.save(nibabel.MGHImage(np.ones((2, 2, 2), "f4"), np.eye(4)), tmp_path / "a.mgz")
    with pytest.raises(FormatError, match="not NIfTI"):
        read_nifti(tmp_path / "a.mgz")


def test_what_cannot_be_written(tmp_path):
    for image, name, message in [
        (IMAGE, "a.img", "must end in"),
        (IMAGE[1:], "a.nii", "does not fit a grid"),
        (IMAGE[None, None], "a.nii", "holds one image"),
        (IMAGE.astype(complex), "a.nii", "real numbers"),
        (np.full(GRID.shape, 1e300), "a.nii", "do not fit float32"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_nifti(tmp_path / name, image, GRID)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_nifti(tmp_path / "none" / "a.nii", IMAGE, GRID)
    assert not list(tmp_path.iterdir())


def test_an_old_file_survives_an_interruption(tmp_path, monkeypatch):
    write_nifti(tmp_path / "a.nii", IMAGE, GRID)

    def interrupted(volume, path):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nibabel, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_nifti(tmp_path / "a.nii", 2 * IMAGE, GRID)
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii")[0], IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii"]


@pytest.mark.parametrize("offset", [1e9, 1e38, np.nan, np.inf])
def test_voxels_that_begin_far_away_are_not_looked_for(tmp_path, offset):
    """All bytes up to them would be unpacked: ten of a small archive are ten thousand in memory."""
    write_nifti(tmp_path / "a.nii.gz", np.ones((3, 2, 2)), ImageGrid((3, 2, 2), 1.0))
    data = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    data[108:112] = np.float32(offset).tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data))
    with pytest.raises(FormatError, match=r"a\.nii\.gz: the voxels begin at byte"):
        read_nifti(tmp_path / "a.nii.gz")
