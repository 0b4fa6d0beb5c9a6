"""Interfile images beside projections: a slice is where the planes and rows of the same file family say."""

import numpy as np
import pytest
from interfile_cases import save as save_spect
from stir_cases import ABSORBER, IMAGE, SLICES, STIRS, stir_pair

from emrecon import formats
from emrecon.formats import FormatError, ImageAxes, read_interfile_image
from emrecon.projectors import ImageGrid, PETProjector, PETSinogram


@pytest.mark.parametrize("beside", [False, True])
def test_an_absorber_at_one_end_is_where_the_sinogram_says(tmp_path, beside):
    prompts, mu_path = stir_pair(tmp_path)
    scan = formats.read_scan(prompts)
    mu, grid = formats.read_image(mu_path, beside=prompts if beside else None)
    projected = PETProjector(grid, scan.geometry)(mu.astype(np.float32)) / 10
    # Joseph's interpolation between voxels of 12 mm against their steps
    assert projected.sum() == pytest.approx(scan.counts.sum(), rel=0.06)
    assert np.corrcoef(projected.ravel(), scan.counts.ravel())[0, 1] > 0.98
    wrong = PETProjector(grid, scan.geometry)(np.ascontiguousarray(mu[:, :, ::-1], np.float32))
    assert np.corrcoef(wrong.ravel(), scan.counts.ravel())[0, 1] < 0.5
    # LPS: ring 0 is at the head, and so is the absorber
    height = np.average(grid.coordinates()[2].ravel(), weights=mu.sum((0, 1)))
    assert height == pytest.approx((SLICES - 1) / 2 * 3 - 3)
    assert scan.geometry.scanner.rings[0] > 0


@pytest.mark.parametrize("beside", [False, True])
def test_an_image_is_written_in_the_order_of_stirs_planes(tmp_path, beside):
    prompts, mu_path = stir_pair(tmp_path)
    mu, grid = formats.read_image(mu_path)
    formats.write_image(tmp_path / "x.hv", mu, grid, beside=prompts if beside else None)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x.v", "<f4").reshape(ABSORBER.shape), ABSORBER)
    again, same = formats.read_image(tmp_path / "x.hv")
    np.testing.assert_array_equal(again, mu)
    np.testing.assert_allclose(same.affine, grid.affine)


def test_an_h33_is_written_as_simind_has_it(tmp_path):
    image = ABSORBER.transpose(2, 1, 0)
    formats.write_image(tmp_path / "x.h33", image, ImageGrid(image.shape, 3.0))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x.i33", "<f4").reshape(ABSORBER.shape), ABSORBER)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "x.h33")[0], image)


def test_images_off_centre_and_untyped(tmp_path):
    """The middle of a displaced image moves with the axis; a header without a type follows what it lies beside."""
    prompts, mu_path = stir_pair(tmp_path, kind="")
    plain, _ = formats.read_image(mu_path)
    np.testing.assert_array_equal(plain, ABSORBER.transpose(2, 1, 0))
    turned, _ = formats.read_image(mu_path, beside=prompts)
    np.testing.assert_array_equal(turned, plain[:, :, ::-1])
    offsets = "".join(f"first pixel offset (mm) [{i}] := {o}\n" for i, o in enumerate((-70, -71, 4), 1))
    mu_path.write_text(IMAGE.format(kind=STIRS).replace("!END", offsets + "!END"))
    _, grid = formats.read_image(mu_path)
    np.testing.assert_allclose(grid.origin[:2], (-70, -71))
    assert grid.centre[2] == pytest.approx(-4)
    _, grid = read_interfile_image(mu_path, origin=(1, 2, 3))
    assert grid.origin == (1, 2, 3)
    shifted = ImageGrid((3, 4, 5), (2, 3, 4), (7, -8, 9))
    image = np.random.default_rng(0).normal(size=shifted.shape)
    for axes in (
        None,
        formats.axes_beside(prompts),
        ImageAxes((1, 1, 1)),
        ImageAxes((-1, -1, 1)),
        ImageAxes((-1, 1, -1)),
    ):
        formats.write_image(tmp_path / "y.hv", image, shifted, beside=axes)
        again, grid = formats.read_image(tmp_path / "y.hv")
        np.testing.assert_array_equal(again, image)
        assert grid == shifted


def test_the_native_file_of_a_sinogram_says_it_too(tmp_path):
    prompts, mu_path = stir_pair(tmp_path, kind="")
    formats.write_scan(tmp_path / "prompts.h5", formats.read_scan(prompts))
    assert formats.axes_beside(tmp_path / "prompts.h5") == formats.axes_beside(prompts)
    beside, _ = formats.read_image(mu_path, beside=tmp_path / "prompts.h5")
    np.testing.assert_array_equal(beside, formats.read_image(mu_path, beside=prompts)[0])


@pytest.mark.parametrize("kind", ["", "!type of data := Tomographic", STIRS])
def test_beside_spect_slices_follow_the_rows(tmp_path, kind):
    _, mu_path = stir_pair(tmp_path, kind=kind)
    file = ABSORBER.transpose(2, 1, 0)
    path = save_spect(tmp_path)
    np.testing.assert_array_equal(formats.read_image(mu_path, beside=path)[0], file)
    formats.write_image(tmp_path / "x.hv", file, ImageGrid(file.shape, 3.0), beside=path)
    np.testing.assert_array_equal(np.fromfile(tmp_path / "x.v", "<f4").reshape(ABSORBER.shape), ABSORBER)
    np.testing.assert_array_equal(formats.read_image(tmp_path / "x.hv")[0], file)
    prone = save_spect(tmp_path, patient_rotation="prone", patient_orientation="feet_in")
    np.testing.assert_array_equal(formats.read_image(mu_path, beside=prone)[0], file[:, ::-1, ::-1])
    side = save_spect(tmp_path, patient_rotation="left")
    with pytest.raises(FormatError, match=r"lies on the side.*use NIfTI"):
        formats.read_image(mu_path, beside=side)


E7 = """!INTERFILE:=
%comment:=created for the mMR
!originating system:=2008
%SMS-MI header name space:=image subheader
%SMS-MI version number:=3.4
!GENERAL DATA:=
!name of data file:=umap.v
!GENERAL IMAGE DATA:=
image data byte order:=LITTLEENDIAN
%patient orientation:=HFS
!PET data type:=image
number format:=float
!number of bytes per pixel:=4
number of dimensions:=3
matrix axis label [1]:=x
matrix axis label [2]:=y
matrix axis label [3]:=z
matrix size [1]:=13
matrix size [2]:=13
matrix size [3]:=9
scale factor (mm/pixel) [1]:=2.08626
scale factor (mm/pixel) [2]:=2.08626
scale factor (mm/pixel) [3]:=2.03125
quantification units:=1/cm
%image slope:=1
%image intercept:=0.0
"""


@pytest.mark.parametrize(
    ("old", "new", "factor", "offset"),
    [
        ("", "", 1, 0),
        ("slope:=1\n", "slope:=0.5\n", 0.5, 0),
        ("intercept:=0.0", "intercept:=-0.25", 1, -0.25),
        ("units:=1/cm", "units:=1/mm", 10, 0),
        ("quantification units:=1/cm", "quantification units:=2", 2, 0),
    ],
)
def test_attenuation_maps_of_siemens(tmp_path, old, new, factor, offset):
    """e7tools and pet-rd-tools: other names of keys, no line END OF INTERFILE, no type of data."""
    text = E7.replace(old, new) if old else E7
    (tmp_path / "umap.v.hdr").write_text(text)
    (tmp_path / "umap.v").write_bytes(ABSORBER.astype("<f4").tobytes())
    mu, grid = formats.read_image(tmp_path / "umap.v.hdr")
    assert grid.voxel_size == (2.08626, 2.08626, 2.03125)
    expected = ABSORBER.transpose(2, 1, 0)[:, :, ::-1] * np.float32(factor) + np.float32(offset)
    np.testing.assert_allclose(mu, expected, rtol=1e-6)
    assert mu.dtype == np.float32
    assert formats.describe(tmp_path / "umap.v.hdr")["holds"] == "image"


def test_time_frames_of_images(tmp_path):
    """STIR's dynamic images: the advice of the message reads one frame, with its own factor."""
    _, mu_path = stir_pair(tmp_path)
    frames = "number of time frames := 2\nimage scaling factor[1] := 1\nimage scaling factor[2] := 10\n"
    mu_path.write_text(mu_path.read_text().replace("!END", frames + "!END"))
    (tmp_path / "mu.v").write_bytes(np.stack([ABSORBER, ABSORBER / 10]).astype("<f4").tobytes())
    with pytest.raises(FormatError, match=r"2 sets of images \(number of time frames := 2\); .* window=1 to 2"):
        formats.read_image(mu_path)
    first, second = (formats.read_image(mu_path, window=i)[0] for i in (1, 2))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    with pytest.raises(TypeError, match="has no header whose values can be replaced, got window"):
        formats.read_image(tmp_path / "mu.nii", window=2)


def test_planar_images_and_sinograms_are_no_volumes(tmp_path):
    prompts, mu_path = stir_pair(tmp_path, kind="!type of data := Static")
    with pytest.raises(FormatError, match="the type of data is 'static': planar"):
        formats.read_image(mu_path)
    with pytest.raises(FormatError, match="describes a sinogram, not an image"):
        formats.read_image(prompts)
    assert isinstance(formats.read_scan(prompts).geometry, PETSinogram)
