"""Parallel beams: the battery, chord lengths and smooth blobs in closed form, geometry, subsets, threads, CUDA."""

import pickle

import numpy as np
import pytest
import torch
from battery import check_operator, mismatch, relative_error
from cuda_on_host import HostEngine, compiler

from emrecon.projectors import ImageGrid, SPECTGeometry, SPECTProjector
from emrecon.projectors.parallel import launches as _parallel_gpu
from emrecon.projectors.parallel.geometry import ParallelBeamGeometry
from emrecon.projectors.parallel.projector import ParallelBeamProjector
from emrecon.sims import Box, Cylinder

UNEVEN = np.array([0, 37.0, 45, 90, 123, 200, 289])
SHIFTS = np.array([0, 1.0, -2, 0, 0.5, 3, 0])
SHAPES = {
    "even": ((6, 4, 3), 4.0, None, 3.7),
    "odd": ((7, 5, 2), 4.0, None, 4.0),
    "anisotropic": ((5, 8, 3), (2.0, 5.0, 1.5), None, 3.0),
    "shifted": ((7, 6, 3), (4.0, 3.0, 2.0), (-10.0, -17.0, 5.0), 2.5),
    "planar": ((6, 5, 1), 4.0, None, 4.5),
    "coarse bins": ((8, 6, 2), 2.0, None, 7.0),
    "fine bins": ((4, 5, 1), 4.0, None, 0.9),
    "deep": ((5, 4, 18), 4.0, None, 4.0),
    "one voxel": ((1, 1, 1), 4.0, None, 3.0),
}


def projector(shape="odd", sampling="rays", angles=UNEVEN, shift=SHIFTS):
    size, voxel, origin, bin_size = SHAPES[shape]
    geometry = ParallelBeamGeometry(angles, 11, bin_size, size[2], shift=shift)
    return ParallelBeamProjector(ImageGrid(size, voxel, origin), geometry, sampling=sampling)


@pytest.mark.parametrize("sampling", ["rays", "splat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_passes_the_battery(shape, sampling):
    check_operator(projector(shape, sampling), positive=True, gradients=shape in ("shifted", "planar"))


@pytest.mark.parametrize("sampling", ["rays", "splat"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_of_thin_and_deep_images(sampling, dtype):
    for shape, batch in (("planar", (300,)), ("odd", (2, 70)), ("deep", (2,))):
        A, rng = projector(shape, sampling), np.random.default_rng(0)
        x = rng.normal(size=(*batch, *A.in_shape)).astype(dtype)
        y = A(x)
        last = tuple(n - 1 for n in batch)
        assert relative_error(y[last], A(x[last])) < (1e-6 if dtype == "float32" else 1e-14)
        assert mismatch(A, dtype, batch=batch) < (1e-5 if dtype == "float32" else 1e-12)


# ---- what it computes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voxel", [(3.0, 3.0, 3.0), (2.0, 3.5, 1.0)])
def test_an_image_of_ones_gives_the_length_of_the_line_in_it(voxel):
    """Over all lines and angles the mean error is below a hundredth of a voxel, both ways; corners are rounded off."""
    grid = ImageGrid((40, 36, 1), voxel)
    geometry = ParallelBeamGeometry.equally_spaced(97, 161, 1.1, start=0.4)
    length = ParallelBeamProjector(grid, geometry)(np.ones(grid.shape))[..., 0]
    width, height = 40 * voxel[0], 36 * voxel[1]
    chord = Box((0, 0, 0), (width, height, 1.0)).chord(*geometry.rays())[..., 0]
    error = (length - chord) / min(voxel)
    assert abs(error[(chord > 0) | (length > 0)].mean()) < 0.01
    phi, s = np.deg2rad(geometry.angles)[:, None], geometry.bin_centres()
    corners = [(x, y) for x in (-width / 2, width / 2) for y in (-height / 2, height / 2)]
    away = np.all([abs(s - x * np.cos(phi) - y * np.sin(phi)) > 2 * max(voxel) for x, y in corners], axis=0)
    assert away.mean() > 0.6
    assert abs(error[away].mean()) < 0.001
    assert abs(error[away]).max() < 0.4


def test_line_integrals_of_a_smooth_blob():
    """exp(-r^2 / 2 sigma^2) has the integral sqrt(2 pi) sigma exp(-d^2 / 2 sigma^2) at distance d from its centre."""
    sigma, (cx, cy) = 12.0, (14.0, -9.0)
    grid = ImageGrid((70, 60, 2), (2.0, 2.5, 3.0), origin=(-66, -80, 0))
    geometry = ParallelBeamGeometry(np.linspace(0, 357, 23), 80, 2.2, 2, shift=np.linspace(-3, 3, 23))
    x, y, _ = grid.coordinates()
    blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) * np.array([1.0, 3.0])
    phi = np.deg2rad(geometry.angles)[:, None]
    d = geometry.bin_centres() - (cx * np.cos(phi) + cy * np.sin(phi))
    exact = np.sqrt(2 * np.pi) * sigma * np.exp(-(d**2) / (2 * sigma**2))
    found = ParallelBeamProjector(grid, geometry)(blob)
    assert abs(found[..., 0] - exact).max() < 0.01 * exact.max()
    np.testing.assert_allclose(found[..., 1], 3 * found[..., 0], rtol=1e-12)


def test_finer_voxels_come_closer_to_a_disc():
    geometry = ParallelBeamGeometry.equally_spaced(37, 61, 3.0)
    disc = Cylinder((10, -5, 0), 50.0, 1.0)
    exact, errors = disc.chord(*geometry.rays())[..., 0], []
    for n in (32, 64, 128):
        grid = ImageGrid((n, n, 1), 160 / n)
        fine = ImageGrid((8 * n, 8 * n, 1), 20 / n)
        image = disc.contains(*fine.coordinates()).reshape(n, 8, n, 8).mean((1, 3))[..., None]
        errors.append(relative_error(ParallelBeamProjector(grid, geometry)(image)[..., 0], exact))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.01


def test_splatting_loses_nothing():
    A = projector("shifted", "splat", shift=0.0)
    wide = ParallelBeamGeometry(UNEVEN, 40, 2.5, 3)
    y = ParallelBeamProjector(A.grid, wide, sampling="splat")(np.random.default_rng(0).random(A.in_shape) + 1)
    x = np.random.default_rng(0).random(A.in_shape) + 1
    np.testing.assert_allclose(2.5 * y.sum(1), np.broadcast_to(12.0 * x.sum((0, 1)), (7, 3)), rtol=1e-12)


def test_the_transpose_of_splatting_interpolates_between_bins():
    grid = ImageGrid((9, 7, 1), (2.0, 3.0, 1.0))
    geometry = ParallelBeamGeometry([25.0], 31, 1.7, shift=0.3)
    view = np.random.default_rng(0).random(geometry.shape)
    x, y, _ = grid.coordinates()
    s = x * np.cos(np.deg2rad(25)) + y * np.sin(np.deg2rad(25))
    expected = np.interp(s, geometry.bin_centres()[0], view[0, :, 0]) * 6.0 / 1.7
    np.testing.assert_allclose(ParallelBeamProjector(grid, geometry, sampling="splat").T(view), expected, rtol=1e-12)


@pytest.mark.parametrize("sampling", ["rays", "splat"])
def test_turns_and_flips(sampling):
    rng = np.random.default_rng(0)
    grid, angles = ImageGrid((9, 9, 2), 3.0), np.array([10.0, 70, 135])
    image = rng.random(grid.shape)

    def project(image, angles):
        return ParallelBeamProjector(grid, ParallelBeamGeometry(angles, 14, 2.5, 2), sampling=sampling)(image)

    y = project(image, angles)
    np.testing.assert_allclose(project(np.rot90(image, axes=(0, 1)), angles + 90), y, rtol=1e-10)
    np.testing.assert_allclose(project(image[::-1], 180 - angles), y, rtol=1e-10)
    np.testing.assert_allclose(project(image[:, ::-1], -angles), y, rtol=1e-10)
    np.testing.assert_allclose(project(image, angles + 180), y[:, ::-1], rtol=1e-10)
    np.testing.assert_allclose(project(image[..., ::-1], angles), y[..., ::-1])


@pytest.mark.slow
def test_the_lines_of_a_spect_camera():
    """With a mm^2 to the voxel and a bin of b mm, SPECT counts are integrals times b / a."""
    camera = SPECTGeometry(np.array([0, 30.0, 100, 200, 290]), 100, (48, 3), 2.5, shift=np.arange(5), axial_shift=4.0)
    grid = ImageGrid((40, 36, 3), (3.0, 2.5, 2.5), origin=(-50, -40, 1.5))
    x, y, z = grid.coordinates()
    blob = np.exp(-((x - 14) ** 2 + (y + 9) ** 2) / 128) * (1 + 0.2 * z)
    geometry = ParallelBeamGeometry.from_spect(camera)
    lines = ParallelBeamProjector(grid, geometry)(blob)
    counts = SPECTProjector(grid, camera, sampling="rays")(blob)
    assert relative_error(lines * 2.5 / 7.5, counts) < 0.03
    points, directions = geometry.rays(z)
    np.testing.assert_allclose(np.abs(np.sum(directions[..., :2] * camera.directions[0][:, None, None], -1)), 1)
    np.testing.assert_allclose(np.sum(points[..., 0, :2] * camera.directions[1][:, None], -1), camera.bin_centres()[0])


# ---- subsets, threads, pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subsets_are_bit_for_bit_the_whole(dtype):
    A = projector("shifted")
    x = np.random.default_rng(0).random((3, *A.in_shape)).astype(dtype)
    part = A.subset(1, 2)
    np.testing.assert_array_equal(part(x), A(x)[:, 1::2])
    np.testing.assert_array_equal(part.subset(1, 2)(x), A(x)[:, 3::4])
    assert part.geometry == A.geometry.subset(1, 2)
    copy = pickle.loads(pickle.dumps(part))
    assert "_made" not in copy.__dict__
    np.testing.assert_array_equal(copy(x), part(x))
    with pytest.raises(ValueError, match="does not exist"):
        A.subset(2, 2)
    with pytest.raises(ValueError, match="empty"):
        A.subset(0, 8)


def test_the_number_of_threads_changes_nothing(monkeypatch):
    A, rng = projector("anisotropic"), np.random.default_rng(0)
    x, y = (rng.normal(size=(2, *shape)).astype(np.float32) for shape in (A.in_shape, A.out_shape))
    results = []
    for n in ("1", "2", "5"):
        monkeypatch.setenv("EMRECON_NUM_THREADS", n)
        results.append((A(x), A.T(y)))
    for there, back in results[1:]:
        np.testing.assert_array_equal(there, results[0][0])
        np.testing.assert_array_equal(back, results[0][1])


def test_arrays_of_other_kinds():
    A = projector("shifted")
    x = np.random.default_rng(0).random((3, 6, 7)).transpose(2, 1, 0)
    expected = A(np.ascontiguousarray(x))
    np.testing.assert_array_equal(A(x), expected)
    x.flags.writeable = False
    np.testing.assert_array_equal(A(x), expected)
    assert A(torch.ones(A.in_shape, dtype=torch.float16)).dtype == torch.float32
    assert A(np.ones(A.in_shape, int)).dtype == np.float32
    with pytest.raises(TypeError, match="runs on NumPy"):
        A(torch.ones(A.in_shape, device="meta"))
    with pytest.raises(ValueError, match="add the last axis"):
        A(np.ones(A.in_shape[:2]))


def test_printing_tells_what_it_is():
    A = projector("shifted", "splat")
    assert repr(A) == "<ParallelBeamProjector (7,6,3) -> (7,11,3)>"
    for fact in ("7x6x3 voxels of 4 x 3 x 2 mm", "7 views of 11 bins of 2.5 mm, 3 planes", "splat", "numba on"):
        assert fact in str(A)


# ---- geometry --------------------------------------------------------------------------------------------------------


def test_geometries_are_values():
    geometry = ParallelBeamGeometry([0, 90], 5, 2, 3)
    assert geometry.shape == (2, 5, 3)
    assert geometry == ParallelBeamGeometry(np.array([0.0, 90]), 5.0, 2.0, 3, shift=[0, 0])
    assert geometry != ParallelBeamGeometry([0, 91], 5, 2, 3)
    assert geometry != ParallelBeamGeometry([0, 90], 5, 2, 3, plane_size=2.0)
    assert geometry != "geometry"
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    np.testing.assert_array_equal(geometry.bin_centres(), [[-4, -2, 0, 2, 4]] * 2)
    with pytest.raises(ValueError, match="read-only"):
        geometry.angles[0] = 1
    with pytest.raises(AttributeError):
        geometry.n_bins = 4
    half = ParallelBeamGeometry.equally_spaced(4, 5, 2.0, start=10)
    np.testing.assert_allclose(half.angles, [10, 55, 100, 145])
    np.testing.assert_allclose(ParallelBeamGeometry.equally_spaced(4, 5, 2.0, extent=-360).angles, [0, -90, -180, -270])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": []}, "at least one view"),
        ({"angles": [0, np.nan]}, "angles"),
        ({"n_bins": 0}, "n_bins"),
        ({"n_bins": 2.5}, "n_bins"),
        ({"bin_size": -1}, "bin_size"),
        ({"n_planes": 0}, "n_planes"),
        ({"plane_size": 0}, "plane_size"),
        ({"shift": [1, 2, 3]}, "shift.*3 entries, but there are 2 views"),
        ({"axial_shift": np.inf}, "axial_shift"),
    ],
)
def test_geometries_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=f"ParallelBeamGeometry.*{message}"):
        ParallelBeamGeometry(**{"angles": [0, 90], "n_bins": 5, "bin_size": 2.0, **change})
    with pytest.raises(ValueError, match="n_views"):
        ParallelBeamGeometry.equally_spaced(0, 5, 2.0)


def test_planes_must_be_slices():
    grid = ImageGrid((4, 4, 3), 4.0)
    with pytest.raises(ValueError, match=r"5 planes do not fit an image of 3 slices.*resample"):
        ParallelBeamProjector(grid, ParallelBeamGeometry([0], 5, 4.0, 5))
    with pytest.raises(ValueError, match="planes of 3 mm do not fit slices of 4 mm"):
        ParallelBeamProjector(grid, ParallelBeamGeometry([0], 5, 4.0, 3, plane_size=3.0))
    with pytest.raises(ValueError, match="middle is at z = 2 mm, that of the image at 0 mm"):
        ParallelBeamProjector(grid, ParallelBeamGeometry([0], 5, 4.0, 3, axial_shift=2.0))
    with pytest.raises(ValueError, match="sampling must be"):
        ParallelBeamProjector(grid, ParallelBeamGeometry([0], 5, 4.0, 3), sampling="magic")
    with pytest.raises(TypeError, match="from_spect"):
        ParallelBeamProjector(grid, SPECTGeometry.circular(3, 100, (5, 3), 4.0))


# ---- CUDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
@pytest.mark.parametrize("sampling", ["rays", "splat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_host_run_of_the_kernels_equals_the_cpu(shape, sampling, monkeypatch):
    A, rng, engine = projector(shape, sampling), np.random.default_rng(0), HostEngine()
    x, y = rng.normal(size=(3, *A.in_shape)), rng.normal(size=(3, *A.out_shape))
    for n in (3, 1):
        there, back = (
            _parallel_gpu.forward_with(A._cuda_plan, x[:n], engine),
            _parallel_gpu.adjoint_with(A._cuda_plan, y[:n], engine),
        )
        assert relative_error(there, A(x[:n])) < 1e-13
        assert relative_error(back, A.T(y[:n])) < 1e-13
    monkeypatch.setattr(_parallel_gpu, "_ITEMS", 2)
    x, y = x.astype(np.float32), y.astype(np.float32)
    there, back = (
        _parallel_gpu.forward_with(A._cuda_plan, x, engine),
        _parallel_gpu.adjoint_with(A._cuda_plan, y, engine),
    )
    assert there.dtype == back.dtype == np.float32
    assert relative_error(there, A(x)) < 1e-5
    assert relative_error(back, A.T(y)) < 1e-5


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
def test_host_run_with_many_lanes():
    geometry = ParallelBeamGeometry(UNEVEN, 9, 3.0, 150)
    A = ParallelBeamProjector(ImageGrid((4, 5, 150), 3.0), geometry)
    x, engine = np.random.default_rng(0).random((2, *A.in_shape)), HostEngine()
    assert relative_error(_parallel_gpu.forward_with(A._cuda_plan, x, engine), A(x)) < 1e-13


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", ["rays", "splat"])
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_equals_cpu(shape, sampling):
    cupy = pytest.importorskip("cupy")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("no CUDA device")
    A, rng = projector(shape, sampling), np.random.default_rng(0)
    x, y = (rng.random((3, *s)).astype(np.float32) for s in (A.in_shape, A.out_shape))
    assert relative_error(A(cupy.asarray(x)).get(), A(x)) < 1e-5
    assert relative_error(A.T(cupy.asarray(y)).get(), A.T(y)) < 1e-5
    assert bool((A.T(cupy.asarray(y)) == A.T(cupy.asarray(y))).all())
    if torch.cuda.is_available():
        leaf = torch.tensor(x, device="cuda", requires_grad=True)
        A(leaf).square().sum().backward()
        assert relative_error(leaf.grad.cpu(), 2 * A.T(A(x))) < 1e-5
