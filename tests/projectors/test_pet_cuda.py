"""The PET kernels for CUDA: compiled by nvcc, run on the host, and on a GPU, each where there is one."""

import numpy as np
import pytest
from battery import mismatch, relative_error
from cuda_on_host import HostEngine, compiler, cupy_or_skip
from pet_cases import SINOGRAMS, events_of_every_bin, listmode, projector

from emrecon.projectors import ImageGrid, ListmodeProjector, PETProjector, PETScanner, PETSinogram
from emrecon.projectors.pet import launches as _pet_gpu

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")


@needs_compiler
@pytest.mark.parametrize("case", SINOGRAMS)
def test_host_run_of_sinograms_equals_the_cpu(case):
    A, rng, engine = projector(case), np.random.default_rng(0), HostEngine()
    x, y = rng.normal(size=(3, *A.in_shape)), rng.normal(size=(3, *A.out_shape))
    there, back = (
        _pet_gpu.sinogram_forward_with(A._cuda_plan, x, engine),
        _pet_gpu.sinogram_adjoint_with(A._cuda_plan, y, engine),
    )
    assert relative_error(there, A(x)) < 1e-12
    assert relative_error(back, A.T(y)) < 1e-9
    assert abs(np.vdot(there, y) - np.vdot(x, back)) < 1e-10 * np.linalg.norm(there) * np.linalg.norm(y)
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert relative_error(_pet_gpu.sinogram_forward_with(A._cuda_plan, x, engine), A(x)) < 1e-6
    assert relative_error(_pet_gpu.sinogram_adjoint_with(A._cuda_plan, y, engine), A.T(y)) < 1e-6


@needs_compiler
@pytest.mark.parametrize("timed", [False, True])
def test_host_run_of_events_equals_the_cpu(timed):
    L, rng, engine = listmode(timed), np.random.default_rng(0), HostEngine()
    x, y = rng.normal(size=(2, *L.in_shape)), rng.normal(size=(2, *L.out_shape))
    there, back = (
        _pet_gpu.events_forward_with(L._cuda_plan, x, engine),
        _pet_gpu.events_adjoint_with(L._cuda_plan, y, engine),
    )
    assert relative_error(there, L(x)) < 1e-12
    assert relative_error(back, L.T(y)) < 1e-9
    x, y = x.astype(np.float32), y.astype(np.float32)
    assert relative_error(_pet_gpu.events_forward_with(L._cuda_plan, x, engine), L(x)) < 1e-6
    assert relative_error(_pet_gpu.events_adjoint_with(L._cuda_plan, y, engine), L.T(y)) < 1e-6


@needs_compiler
def test_host_run_of_lines_along_the_axis():
    rng = np.random.default_rng(0)
    scanner = PETScanner(rng.normal(size=(20, 3)) * (20, 20, 90))
    events = np.array([(i, j) for i in range(20) for j in range(i)])
    L, engine = ListmodeProjector(ImageGrid((6, 5, 7), 9.0), scanner, events), HostEngine()
    x, y = rng.normal(size=(1, *L.in_shape)), rng.normal(size=(1, *L.out_shape))
    assert relative_error(_pet_gpu.events_forward_with(L._cuda_plan, x, engine), L(x)) < 1e-12
    assert relative_error(_pet_gpu.events_adjoint_with(L._cuda_plan, y, engine), L.T(y)) < 1e-9


@needs_compiler
def test_data_of_any_size_neither_overflow_nor_vanish():
    A, engine = projector("TOF"), HostEngine()
    y = np.random.default_rng(0).normal(size=(4, *A.out_shape))
    y *= np.array([1e-30, 1, 1e30, 0]).reshape(4, 1, 1, 1, 1)
    back = _pet_gpu.sinogram_adjoint_with(A._cuda_plan, y, engine)
    for image, expected in zip(back[:3], A.T(y)):
        assert relative_error(image, expected) < 1e-9
    assert not back[3].any()
    y[1, 0, 0, 0, 0] = np.inf
    assert np.isnan(_pet_gpu.sinogram_adjoint_with(A._cuda_plan, y, engine)[1]).all()
    ones = np.ones((1, *A.out_shape))
    assert relative_error(_pet_gpu.sinogram_adjoint_with(A._cuda_plan, ones, engine), A.T(ones)) < 1e-9


def test_launches_cover_all_lines_and_items():
    seen = []

    class Engine:
        def launch(self, source, kernel, real, grid, block, args):
            seen.append((grid, block))

    for threads, items in ((4084 * 252 * 344, 1), (1296 * 272 * 415 * 29, 200), (7, 1)):
        _pet_gpu._launch(Engine(), "k", np.zeros(1, np.float32), threads, items, ())
        grid, block = seen[-1]
        assert grid[0] * block[0] >= threads
        assert grid[0] < 2**31
        assert grid[2] <= min(items, 65535)
    _pet_gpu._launch(Engine(), "k", np.zeros(1, np.float32), 0, 5, ())
    assert len(seen) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("case", SINOGRAMS)
def test_gpu_equals_cpu(case):
    cupy = cupy_or_skip()
    A, rng = projector(case), np.random.default_rng(0)
    x, y = (rng.random((2, *s)).astype(np.float32) for s in (A.in_shape, A.out_shape))
    assert relative_error(A(cupy.asarray(x)).get(), A(x)) < 1e-5
    assert relative_error(A.T(cupy.asarray(y)).get(), A.T(y)) < 1e-5
    first, again = (A.T(cupy.asarray(y)) for _ in range(2))
    assert bool((first == again).all())


@pytest.mark.gpu
@pytest.mark.parametrize("timed", [False, True])
def test_gpu_events_equal_cpu(timed):
    cupy = cupy_or_skip()
    L, rng = listmode(timed), np.random.default_rng(0)
    x, y = (rng.random((2, *s)).astype(np.float32) for s in (L.in_shape, L.out_shape))
    assert relative_error(L(cupy.asarray(x)).get(), L(x)) < 1e-5
    assert relative_error(L.T(cupy.asarray(y)).get(), L.T(y)) < 1e-5


@pytest.mark.gpu
def test_gpu_on_a_real_scanner():
    cupy = cupy_or_skip()
    scanner = PETScanner.named("dmi")
    A = PETProjector(ImageGrid((100, 100, 71), (5.0, 5.0, 2.78)), PETSinogram(scanner, tof=True).subset(0, 272))
    x = np.random.default_rng(0).random(A.in_shape).astype(np.float32)
    assert relative_error(A(cupy.asarray(x)).get(), A(x)) < 1e-5
    assert mismatch(A, "float32") < 1e-5


@needs_compiler
def test_crystals_in_any_order_of_memory():
    rng, engine = np.random.default_rng(0), HostEngine()
    columns = rng.normal(size=(3, 20)) * 50
    events = np.array([(i, j) for i in range(20) for j in range(i)])
    L = ListmodeProjector(ImageGrid((6, 5, 7), 9.0), PETScanner(columns.T), events)
    x = rng.normal(size=(1, *L.in_shape))
    assert relative_error(_pet_gpu.events_forward_with(L._cuda_plan, x, engine), L(x)) < 1e-12
    none = ListmodeProjector(L.grid, L.scanner, events[:0])
    assert not _pet_gpu.events_adjoint_with(none._cuda_plan, np.zeros((2, 0)), engine).any()


@needs_compiler
def test_steep_lines_of_a_long_narrow_scanner():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=2, radius=40, rings=30, ring_pitch=5)
    sinogram, engine = PETSinogram(scanner, n_radial=11), HostEngine()
    grid = ImageGrid((8, 8, 30), 5.0)
    A, L = PETProjector(grid, sinogram), ListmodeProjector(grid, scanner, events_of_every_bin(sinogram))
    x = np.random.default_rng(0).normal(size=(1, *grid.shape))
    np.testing.assert_allclose(L(x).reshape(A(x).shape), A(x), atol=1e-11 * np.abs(A(x)).max())
    assert relative_error(_pet_gpu.events_forward_with(L._cuda_plan, x, engine), L(x)) < 1e-12
    assert relative_error(_pet_gpu.sinogram_forward_with(A._cuda_plan, x, engine), A(x)) < 1e-12
