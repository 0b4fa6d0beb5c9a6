"""The CUDA kernels: compiled by nvcc, run on the host by a C++ compiler, and on a GPU, each where there is one."""

import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
import torch
from battery import mismatch, relative_error
from cuda_on_host import HostEngine, compiler, cupy_or_skip
from spect_cases import OPTIONS, SHAPES, projector

from emrecon.projectors import ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.projectors.core.cuda import import_cupy
from emrecon.projectors.spect import launches as _gpu

SOURCES = (
    "projectors/spect/spect.cu",
    "projectors/pet/pet.cu",
    "projectors/parallel/parallel.cu",
    "recon/priors/pairs.cu",
)
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
@pytest.mark.parametrize("real", ["float", "double"])
@pytest.mark.parametrize(
    "source",
    ["projectors/spect/spect.cu", "projectors/pet/pet.cu", "projectors/parallel/parallel.cu", "recon/priors/pairs.cu"],
)
def test_nvcc_compiles_the_kernels(source, real, tmp_path):
    package, _, name = source.replace("/", ".", source.count("/") - 1).partition("/")
    (tmp_path / name).write_text((files(f"emrecon.{package}") / name).read_text())
    flags = ["-cubin", "-arch=sm_90", "-std=c++14", f"-DREAL={real}", "-Werror=all-warnings"]
    subprocess.run(["nvcc", *flags, "-o", str(tmp_path / "out"), str(tmp_path / name)], check=True)


@needs_compiler
@pytest.mark.parametrize("attenuation", ["none", "shared", "per item"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_host_run_of_the_kernels_equals_the_cpu(shape, options, attenuation):
    A, rng = projector(shape, options, attenuation), np.random.default_rng(0)
    x, y = rng.random((3, *A.in_shape)), rng.random((3, *A.out_shape))
    engine = HostEngine()
    there, back = _gpu.forward_with(A._cuda_plan, x, engine), _gpu.adjoint_with(A._cuda_plan, y, engine)
    assert relative_error(there, A(x)) < 1e-5
    assert relative_error(back, A.T(y)) < 1e-5
    assert np.vdot(there, y) == pytest.approx(np.vdot(x, back), rel=1e-12)


@needs_compiler
def test_host_run_in_single_precision_and_in_small_launches(monkeypatch):
    A, rng = projector("deep", "gaussian", "shared"), np.random.default_rng(0)
    x, y = (rng.random((2, *shape)).astype(np.float32) for shape in (A.in_shape, A.out_shape))
    engine = HostEngine()
    whole, back = _gpu.forward_with(A._cuda_plan, x, engine), _gpu.adjoint_with(A._cuda_plan, y, engine)
    assert relative_error(whole, A(x)) < 1e-5
    assert relative_error(back, A.T(y)) < 1e-5
    monkeypatch.setattr(_gpu, "_SCRATCH", 1)  # one view per launch
    monkeypatch.setattr(_gpu, "_ITEMS", 1)
    np.testing.assert_array_equal(_gpu.forward_with(A._cuda_plan, x, engine), whole)
    assert relative_error(_gpu.adjoint_with(A._cuda_plan, y, engine), back) < 1e-6


def test_a_missing_cupy_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"emrecon\[cuda12\]"):
        import_cupy()


@pytest.mark.gpu
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_equals_cpu(shape, options):
    cupy = cupy_or_skip()
    A, rng = projector(shape, options, "shared"), np.random.default_rng(0)
    x, y = (rng.random((2, *s)).astype(np.float32) for s in (A.in_shape, A.out_shape))
    assert relative_error(A(cupy.asarray(x)).get(), A(x)) < 1e-5
    assert relative_error(A.T(cupy.asarray(y)).get(), A.T(y)) < 1e-5
    first, again = (A.T(cupy.asarray(y)) for _ in range(2))
    assert bool((first == again).all())


@pytest.mark.gpu
def test_gpu_tensors_keep_gradients_and_the_stream():
    cupy_or_skip()
    if not torch.cuda.is_available():
        pytest.skip("torch has no CUDA device")
    grid, camera = ImageGrid((32, 32, 32), 4.0), SPECTGeometry.circular(12, 120, (32, 32), 4.0)
    A = SPECTProjector(grid, camera, np.full(grid.shape, 0.1), LinearResponse(0.03, 3.0))
    x = torch.rand(grid.shape, device="cuda", requires_grad=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        loss = A(x).square().sum()
        (gradient,) = torch.autograd.grad(loss, x)
    torch.cuda.synchronize()
    expected = 2 * A.T(A(x.detach().cpu().numpy()))
    assert relative_error(gradient.cpu(), expected) < 1e-5
    double = torch.rand(grid.shape, device="cuda", dtype=torch.float64)
    assert relative_error(A(double).cpu(), A(double.cpu().numpy())) < 1e-5
    assert mismatch(A, "float32") < 1e-5
