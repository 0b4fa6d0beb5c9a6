"""Filtered back projection: closed-form responses, cylinders, uneven angles, SPECT, another program, gradients."""

from importlib import import_module

import numpy as np
import pytest
import torch
from battery import check_operator, mismatch, relative_error
from scipy.special import j0
from skimage.transform import iradon

from emrecon.projectors import ImageGrid, SPECTGeometry, SPECTProjector
from emrecon.projectors.parallel.geometry import ParallelBeamGeometry
from emrecon.projectors.parallel.projector import ParallelBeamProjector
from emrecon.recon.filtered import FilteredBackprojection, Window, angular_weights, fbp, ramp_kernel
from emrecon.sims import Cylinder, Phantom, Region

UNEVEN = np.array([0, 37.0, 45, 90, 123, 200, 289])
WINDOWS = {
    "ramp": Window(),
    "shepp-logan": Window("shepp-logan"),
    "cosine": Window("cosine", 0.9),
    "hamming": Window("hamming", 0.8),
    "hann": Window("hann", 0.8, "cycles/cm"),
    "butterworth": Window("butterworth", 0.5, "cycles/cm", order=4),
}


def operator(shape=(7, 6, 3), voxel=(4.0, 3.0, 2.0), origin=(-10.0, -17.0, 5.0), window="hann"):
    geometry = ParallelBeamGeometry(UNEVEN, 11, 3.7, shape[2], shift=np.array([0, 1.0, -2, 0, 0.5, 3, 0]))
    return FilteredBackprojection(ImageGrid(shape, voxel, origin), geometry, WINDOWS[window])


def cylinder(geometry, centre=(10.0, -7.0), radius=80.0):
    """Exact integrals of a disc of 1, and the mask function r(x, y) from its centre."""
    phantom = Phantom((Region("disc", Cylinder((*centre, 0), radius, np.inf), 1.0),))
    return phantom.line_integral(*geometry.rays())


def distance(grid, centre=(10.0, -7.0)):
    x, y, _ = grid.coordinates()
    return np.hypot(x - centre[0], y - centre[1])


# ---- an operator -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", WINDOWS)
def test_every_window_passes_the_battery(window):
    check_operator(operator(window=window), gradients=window in ("ramp", "hann"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "voxel", "origin"),
    [((6, 6, 1), 4.0, None), ((5, 8, 18), (2.0, 5.0, 1.0), None), ((3, 3, 2), 1.0, (20.0, 30.0, 0.0))],
)
def test_every_shape_passes_the_battery(shape, voxel, origin):
    check_operator(operator(shape, voxel, origin))


def test_doing_it_in_parts_changes_nothing(monkeypatch):
    whole, rng = operator(), np.random.default_rng(0)
    y, x = rng.normal(size=(5, *whole.in_shape)), rng.normal(size=(5, *whole.out_shape))
    assert (whole._n_parts, whole._items > 5) == (1, True)
    monkeypatch.setattr(import_module("emrecon.recon.filtered"), "_SCRATCH", 5000)
    parts = operator()
    assert (parts._n_parts, parts._items) == (7, 1)
    np.testing.assert_allclose(parts(y), whole(y), atol=1e-15)
    np.testing.assert_allclose(parts.T(x), whole.T(x), atol=1e-15)
    assert mismatch(parts, "float64", batch=(3,)) < 1e-12
    assert torch.autograd.gradcheck(parts, (torch.tensor(y[:1], requires_grad=True),), fast_mode=True)


def test_a_network_can_begin_with_it():
    A = operator((8, 8, 1), 4.0, None)
    scale = torch.nn.Parameter(torch.ones(A.in_shape))
    data = torch.rand(4, 2, *A.in_shape)
    loss = A(scale * data).square().mean()
    loss.backward()
    image = A(data.numpy())
    expected = (2 * A.T(image) * data.numpy()).sum((0, 1)) / image.size
    assert relative_error(scale.grad, expected) < 1e-5


# ---- what it computes ------------------------------------------------------------------------------------------------


def point_response(window, bin_size, r):
    """2 pi times the integral of W(f) f J0(2 pi f r) from 0 to the Nyquist frequency."""
    n = 4000
    f = (np.arange(n) + 0.5) / n * 0.5 / bin_size
    return 2 * np.pi * (window.response(f, bin_size) * f * j0(2 * np.pi * f * r[..., None])).sum(-1) * (f[1] - f[0])


@pytest.mark.parametrize("name", WINDOWS)
def test_a_point_has_the_response_of_the_window(name):
    """A point on the axis is one bin of 1 / bin_size in every view; its image is the Hankel transform of the window."""
    grid, bin_size = ImageGrid((33, 33, 1), 1.3, origin=(-20.3, -20.9, 0)), 3.0
    geometry = ParallelBeamGeometry.equally_spaced(240, 41, bin_size)
    data = np.zeros(geometry.shape)
    data[:, 20] = 1 / bin_size
    image = FilteredBackprojection(grid, geometry, WINDOWS[name])(data)
    expected = point_response(WINDOWS[name], bin_size, distance(grid, (0, 0)))
    assert abs(image - expected).max() < 0.01 * expected.max()


def test_the_windows_are_their_formulas():
    f, tau = np.linspace(0, 0.2, 41), 2.5
    low = Window("butterworth", 0.4, "cycles/cm", order=6)
    np.testing.assert_allclose(low.response(f[:41], tau), 1 / np.sqrt(1 + (f / 0.04) ** 12), rtol=1e-12)
    assert low.response(0.04, tau) == pytest.approx(np.sqrt(0.5))
    assert low.response(-0.04, tau) == low.response(0.04, tau)
    assert low.response(0.201, tau) == 0
    np.testing.assert_allclose(Window("hann", 0.5).response([0, 0.05, 0.1, 0.11], tau), [1, 0.5, 0, 0], atol=1e-15)
    np.testing.assert_allclose(Window("hamming").response([0, 0.1, 0.2], tau), [1, 0.54, 0.08])
    np.testing.assert_allclose(Window("cosine").response([0, 0.2], tau), [1, 0], atol=1e-15)
    np.testing.assert_allclose(Window("shepp-logan").response([0, 0.2], tau), [1, 2 / np.pi])
    np.testing.assert_array_equal(Window(cutoff=0.5).response([0.09, 0.11], tau), [1, 0])
    same = Window("hann", 0.5), Window("hann", 1.0, "cycles/cm")
    np.testing.assert_allclose(same[0].response(f, tau), same[1].response(f, tau), atol=1e-15)


def test_the_ramp_kernel_is_the_ramp():
    """Its Fourier series is |f| up to the Nyquist frequency, except for the tail that is cut off."""
    n, tau = np.arange(-5000, 5001), 2.0
    kernel = ramp_kernel(n, tau)
    for f in (0.02, 0.11, 0.24):
        assert tau * np.sum(kernel * np.cos(2 * np.pi * f * n * tau)) == pytest.approx(f, abs=1e-4)
    assert tau * kernel.sum() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("n_views", "extent"), [(180, 180), (180, 360), (181, 360), (180, -180)])
@pytest.mark.parametrize("shift", [0.0, 0.37])
@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_a_uniform_cylinder(n_views, extent, shift, window):
    """The value within 1 % (found: 0.02 %) and the total within 0.5 % (found: 0.02 %), outside nothing."""
    grid = ImageGrid((128, 128, 1), 2.0)
    geometry = ParallelBeamGeometry.equally_spaced(n_views, 140, 2.0, start=-11, extent=extent, shift=shift)
    image, r = fbp(cylinder(geometry), geometry, grid, window), distance(grid)
    assert image[r < 70].mean() == pytest.approx(1, abs=1e-3)
    assert image[r < 70].std() < (0.02 if window == "ramp" else 0.001)
    assert 4 * image.sum() == pytest.approx(np.pi * 80**2, rel=1e-3)
    assert abs(image[r > 90].mean()) < 1e-3
    assert image[r > 90].std() < 0.05


@pytest.mark.parametrize("voxel", [(1.0, 1.0, 1.0), (2.0, 3.0, 1.0), (5.0, 4.0, 1.0)])
def test_voxels_of_any_size(voxel):
    grid = ImageGrid((int(256 / voxel[0]), int(256 / voxel[1]), 1), voxel, origin=(-120, -130, 0))
    geometry = ParallelBeamGeometry.equally_spaced(200, 110, 2.5)
    image, r = fbp(cylinder(geometry), geometry, grid, "hann"), distance(grid)
    assert image[r < 70].mean() == pytest.approx(1, abs=2e-3)
    assert voxel[0] * voxel[1] * image.sum() == pytest.approx(np.pi * 80**2, rel=5e-3)


def test_uneven_angles_weigh_by_their_gaps():
    np.testing.assert_allclose(angular_weights([0, 45, 90, 135]), np.pi / 4)
    np.testing.assert_allclose(angular_weights([0, 90, 180, 270]), np.pi / 4)
    np.testing.assert_allclose(angular_weights([0, 60, 120, 180, 240, 300]), np.pi / 6)
    np.testing.assert_allclose(np.rad2deg(angular_weights([0, 10, 30, 90])), [50, 15, 40, 75])
    np.testing.assert_allclose(np.rad2deg(angular_weights([90, 180.0001, 0, 90, -90])), [30, 45, 45, 30, 30])
    np.testing.assert_allclose(angular_weights([17]), np.pi)
    rng = np.random.default_rng(0)
    angles = rng.permutation(np.cumsum(rng.uniform(0.3, 1.7, 360)))
    assert angular_weights(angles).sum() == pytest.approx(np.pi)
    grid, geometry = ImageGrid((64, 64, 1), 4.0), ParallelBeamGeometry(angles[::2], 70, 4.0)
    image, r = fbp(cylinder(geometry), geometry, grid, "hann"), distance(grid)
    assert image[r < 60].mean() == pytest.approx(1, abs=2e-3)
    assert image[r < 60].std() < 0.01
    assert 16 * image.sum() == pytest.approx(np.pi * 80**2, rel=5e-3)


def test_planes_are_slices():
    A, single = operator(), operator((7, 6, 1), (4.0, 3.0, 2.0), (-10.0, -17.0, 5.0))
    y = np.random.default_rng(0).normal(size=A.in_shape)
    for k in range(3):
        np.testing.assert_allclose(A(y)[..., k], single(y[..., k : k + 1])[..., 0], atol=1e-15)


def test_another_program_finds_the_same():
    """scikit-image's iradon has x along columns and y against rows; it interpolates linearly between the bins."""
    n, angles = 129, np.arange(0, 180, 1.5)
    grid, geometry = ImageGrid((n, n, 1), 1.0), ParallelBeamGeometry(angles, n, 1.0)
    x, y, _ = grid.coordinates()
    blobs = sum(
        a * np.exp(-((x - p) ** 2 + (y - q) ** 2) / 18) for a, p, q in ((1, 20, -5), (2, -15, 30), (1.5, 8, 25))
    )
    data = ParallelBeamProjector(grid, geometry)(blobs)
    ours = fbp(data, geometry, grid, "hann")[..., 0]
    theirs = iradon(data[..., 0].T, angles, filter_name="hann", circle=True)[::-1].T
    inside = np.hypot(x, y)[..., 0] < 60
    assert relative_error(ours[inside], theirs[inside]) < 0.02
    assert relative_error(theirs.T[inside], ours[inside]) > 0.5


def test_spect_projections():
    """A voxel of 1 adds 1 to each view of SPECT: counts times dx dy / bin_size are integrals. Nothing is mirrored."""
    camera = SPECTGeometry.circular(120, 150, (70, 2), 4.0, start=25, direction="cw", shift=1.3, axial_shift=2.0)
    grid = ImageGrid((64, 60, 2), 4.0, origin=(-120, -130, 0))
    x, y, _ = grid.coordinates()
    image = np.exp(-((x - 40) ** 2 + (y + 15) ** 2) / 450) + 0.5 * np.exp(-((x + 30) ** 2 + (y - 25) ** 2) / 450)
    image = image * np.array([1.0, 2.0])
    counts = SPECTProjector(grid, camera)(image)
    found = fbp(counts * 16 / 4, camera, grid)
    assert relative_error(found, image) < 0.03
    assert found.sum() == pytest.approx(image.sum(), rel=2e-3)


def test_single_precision_and_shorthands():
    geometry = ParallelBeamGeometry.equally_spaced(60, 70, 4.0)
    grid = ImageGrid((64, 64, 1), 4.0)
    data = cylinder(geometry)
    exact = fbp(data, geometry, grid, "butterworth", 0.6, unit="cycles/cm", order=8)
    single = fbp(data.astype(np.float32), geometry, grid, "butterworth", 0.6, unit="cycles/cm", order=8)
    assert (single.dtype, exact.dtype) == (np.float32, np.float64)
    assert relative_error(single, exact) < 1e-5
    projector = ParallelBeamProjector(grid, geometry)
    np.testing.assert_array_equal(fbp(data, projector, window="hann"), fbp(data, geometry, grid, "hann"))
    tensor = fbp(torch.tensor(data), projector, window="hann")
    assert relative_error(tensor, fbp(data, projector, window="hann")) < 1e-12


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "han"}, "no window 'han'; there are ramp, .*butterworth"),
        ({"unit": "1/mm"}, "unit must be"),
        ({"cutoff": 0}, "cutoff must be positive"),
        ({"cutoff": np.inf}, "cutoff must be positive"),
        ({"order": -1}, "order must be positive"),
    ],
)
def test_windows_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        Window(**settings)


def test_data_that_do_not_fit():
    geometry, grid = ParallelBeamGeometry([0, 90], 5, 2.0, 3), ImageGrid((4, 4, 3), 2.0)
    with pytest.raises(ValueError, match="needs the grid"):
        fbp(np.ones(geometry.shape), geometry)
    with pytest.raises(ValueError, match=r"<FilteredBackprojection \(2,5,3\) -> \(4,4,3\)> expects"):
        fbp(np.ones((2, 5)), geometry, grid)
    with pytest.raises(ValueError, match="3 planes do not fit an image of 4 slices"):
        fbp(np.ones(geometry.shape), geometry, ImageGrid((4, 4, 4), 2.0))
