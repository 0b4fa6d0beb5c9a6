"""CUDA tensors reach the kernels without a copy, on torch's stream, and keep their gradients.

What autograd hands to a backward pass has lost its disguise: back projections of gradients run on the CPU here.
"""

import os
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from device_cases import IMAGE, scan_of, scanner
from emulated_cupy import compiler, counting, emulated_device
from pet_cases import listmode

from emrecon import recon
from emrecon.projectors import (
    ImageGrid,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    from_operator,
)
from emrecon.projectors.core import cuda as cuda_core
from emrecon.sims import poisson

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
BEAMS = ParallelBeamProjector(ImageGrid(IMAGE.shape, 4.0), ParallelBeamGeometry.equally_spaced(4, 9, 4.0, 3))


@pytest.fixture
def cupy():
    """The double in place of CuPy, and one CUDA device for torch."""
    with emulated_device(tensors=True) as double:
        yield double


@pytest.mark.parametrize("name", ["SPECT", "events", "beams"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_projections_follow_tensors(name, dtype, cupy):
    A = {"SPECT": scanner, "events": lambda: listmode(True), "beams": lambda: BEAMS}[name]()
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.random(shape), dtype=dtype) for shape in (A.in_shape, A.out_shape))
    leaf = x.to("cuda").requires_grad_()
    A(leaf.detach()), A.T(y.to("cuda"))
    weights = y.to("cuda")
    with counting() as counts:
        projected = A(leaf)
        (projected * weights).sum().backward()
    assert counts.crossings == 0, str(counts)
    assert projected.is_cuda
    assert projected.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(projected.detach().cpu().numpy(), A(x.numpy()), rtol=0, atol=tolerance * 100)
    np.testing.assert_allclose(leaf.grad.cpu().numpy(), A.T(y.numpy()), rtol=0, atol=tolerance * 100)


def test_launches_go_to_the_stream_of_torch_and_share_memory(cupy):
    tensor = torch.arange(6.0).reshape(2, 3).to("cuda")
    with counting() as counts, cuda_core.on_device(tensor) as (engine, values):
        assert cupy.cuda.get_current_stream().ptr == torch.cuda.current_stream().cuda_stream
        assert isinstance(values, cupy.ndarray)
        values[0, 0] = 7.0
        made = cuda_core.returned_like(engine.xp.sqrt(values), tensor)
    assert counts.crossings == 0
    assert made.is_cuda
    assert float(tensor[0, 0]) == 7.0
    array = cupy.asarray(np.arange(6.0).reshape(2, 3)).T
    with cuda_core.on_device(array) as (_, values):
        assert values.flags.c_contiguous
        assert cuda_core.returned_like(values, array) is values


def test_cuda_tensors_refuse_what_they_refuse(cupy):
    tensor = torch.ones(3).to("cuda")
    with pytest.raises(TypeError, match="can't convert cuda"):
        tensor.numpy()
    with pytest.raises(RuntimeError, match="same device"):
        tensor + torch.ones(3)
    with counting() as counts:
        bool((tensor > 0).all())
        tensor.cpu()
    assert (counts.waits, counts.to_host) == (2, 2)


@pytest.mark.slow
def test_engines_priors_and_noise_follow_tensors(cupy):
    def move(values):
        return torch.tensor(values).to("cuda")

    prior = 0.3 * recon.RelativeDifference(2.0, epsilon=0.02)
    for engine in (lambda f: recon.osem(f, None, 2), lambda f: recon.map_em(f, prior)):
        image, expected = (next(islice(engine(scan_of(scanner(), m)), 2, 3)).image for m in (move, lambda y: y))
        assert image.is_cuda
        np.testing.assert_allclose(image.cpu().numpy(), expected, rtol=1e-6, atol=1e-9)
    for other in (prior, recon.MedianRoot(), recon.NonLocal(delta=0.5, window=3), recon.Huber(0.3)):
        np.testing.assert_allclose(
            other.gradient(move(IMAGE)).cpu().numpy(), other.gradient(IMAGE), rtol=1e-6, atol=1e-9
        )
    np.testing.assert_array_equal(poisson(move(IMAGE), 3).cpu().numpy(), poisson(IMAGE, 3))
    blur = recon.FilteredBackprojection(BEAMS.grid, BEAMS.geometry)
    data = BEAMS(IMAGE)
    np.testing.assert_allclose(blur(move(data)).cpu().numpy(), blur(data), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_operators_of_other_libraries_stay_on_the_device(cupy, dtype):
    """One that works on tensors is given CuPy arrays, and one on CuPy arrays is given tensors, without a copy."""
    matrix = np.random.default_rng(0).random((4, 6)).astype(dtype)

    def operator(own, library):
        return SimpleNamespace(
            xp=library, in_shape=(6,), out_shape=(4,), apply=lambda x: own @ x, adjoint=lambda y: own.T @ y
        )

    x = np.arange(6.0).astype(dtype)
    array, tensor = cupy.asarray(x), torch.tensor(x).to("cuda")
    of_tensors = from_operator(operator(torch.tensor(matrix).to("cuda"), torch))
    of_arrays = from_operator(operator(cupy.asarray(matrix), cupy))
    with counting() as counts:
        found, other = of_tensors(array), of_arrays(tensor)
    assert counts.crossings == 0, str(counts)
    assert isinstance(found, cupy.ndarray)
    assert other.is_cuda
    np.testing.assert_allclose(found.get(), matrix @ x, rtol=1e-6)
    np.testing.assert_allclose(other.cpu().numpy(), matrix @ x, rtol=1e-6)


def test_kernels_are_kept_where_there_is_room(cupy, monkeypatch, tmp_path):
    monkeypatch.delenv("CUPY_CACHE_DIR", raising=False)
    monkeypatch.setattr(cuda_core, "spare_folder", lambda: tmp_path)
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    cuda_core._keep_kernels.cache_clear()
    cuda_core._keep_kernels()
    assert os.environ.pop("CUPY_CACHE_DIR") == str(tmp_path / "cupy")
    cuda_core._keep_kernels.cache_clear()


def test_a_batch_of_no_images(cupy):
    prior = recon.Huber(0.3)
    assert prior.gradient(cupy.zeros((0, *IMAGE.shape))).shape == (0, *IMAGE.shape)
    assert prior.value(cupy.zeros((0, *IMAGE.shape))).shape == (0,)
    empty = listmode(True, 0)
    assert not empty.T(cupy.zeros((2, 0))).get().any()
