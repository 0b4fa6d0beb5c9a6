"""The double of CuPy refuses what CuPy refuses, and counts what crosses between host and device."""

import pickle

import numpy as np
import pytest
from emulated_cupy import VERSION, compiler, counting, cupy, emulated_device, thread_order
from emulated_cupy.compiling import CompileError
from emulated_cupy.device import CUDADriverError, CUDARuntimeError, OutOfMemoryError

x = cupy.asarray(np.arange(6.0, dtype=np.float32).reshape(2, 3))
HOST = np.ones((2, 3), np.float32)

REFUSED = {
    "a NumPy array out of itself": (lambda: np.asarray(x), TypeError, "not allowed"),
    "max(initial=)": (lambda: x.max(initial=0), TypeError, "initial"),
    "sum(where=)": (lambda: cupy.sum(x, where=x > 1), TypeError, "where"),
    "where= of a ufunc": (lambda: cupy.add(x, x, where=x > 1), TypeError, "where"),
    "a NumPy array beside its own": (lambda: x + HOST, TypeError, "Unsupported type"),
    "its own beside a NumPy array": (lambda: HOST * x, TypeError, "Unsupported type"),
    "a NumPy array in a function": (lambda: cupy.where(x > 0, x, HOST), TypeError, "Unsupported type"),
    "a NumPy array as a value": (lambda: x.__setitem__(..., HOST), ValueError, "non-scalar"),
    "a name that CuPy lacks": (lambda: cupy.matvec, AttributeError, f"CuPy {VERSION} has no"),
    "a method that CuPy lacks": (lambda: x.to_device("cpu"), AttributeError, "to_device"),
    "a name that the double lacks": (lambda: cupy.ElementwiseKernel, NotImplementedError, "give it one"),
    "texts": (lambda: cupy.asarray(np.array(["a"])), ValueError, "Unsupported dtype"),
    "long doubles": (lambda: cupy.zeros(3, np.longdouble), ValueError, "Unsupported dtype"),
    "the other byte order": (lambda: cupy.asarray(np.zeros(2, ">f4")), ValueError, "byte order"),
    "a second device": (lambda: cupy.cuda.Device(1), CUDARuntimeError, "invalid device"),
    "DLPack from the host": (lambda: cupy.from_dlpack(HOST), ValueError, "not on CUDA"),
    "numbers as indices": (lambda: x[cupy.asarray([0.5])], IndexError, "integer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cupy_refuses_is_refused(what):
    work, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        work()


def test_copies_and_waits_are_counted():
    with counting() as counts:
        y = cupy.asarray(HOST)
        z = cupy.sqrt(y + 2) @ y.T
        z[0] = 3.0
    assert (counts.to_device, counts.to_host, counts.waits) == (1, 0, 0)
    assert counts.bytes_to_device == HOST.nbytes
    for work in (
        lambda: float(z[0, 0]),
        lambda: bool(cupy.all(z > 0)),
        lambda: z.get(),
        lambda: z[z > 2],
        lambda: cupy.nonzero(z),
        lambda: cupy.cuda.Device().synchronize(),
        lambda: z.item if z.size == 1 else z.tolist(),
    ):
        with counting() as counts:
            work()
        assert counts.waits == 1
    with counting() as counts:
        z[np.array([0, 1])]
    assert counts.to_device == 1


def test_results_are_device_arrays():
    for made in (x.sum(), cupy.sum(x), x[0, 0], -x, x * np.float32(2), np.sqrt(x), cupy.stack([x, x]), x.astype(int)):
        assert isinstance(made, cupy.ndarray)
    assert x.astype(np.float32, copy=False) is x
    assert isinstance(cupy.linalg.svd(x), tuple)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(x)).get(), x.get())
    assert np.isnan(cupy.empty(3, np.float16)).get().sum() in range(4)
    assert not np.array_equal(cupy.empty(3).get(), np.zeros(3))  # nobody wrote this


def test_memory_streams_and_events():
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    held = cupy.zeros(1000)
    view = held[10:]
    assert pool.used_bytes() == before + 8000
    del held
    assert pool.used_bytes() == before + 8000
    del view
    assert pool.used_bytes() == before
    pool.set_limit(before + 100)
    with pytest.raises(OutOfMemoryError):
        cupy.zeros(1000)
    pool.set_limit(0)
    with cupy.cuda.Stream() as stream:
        assert cupy.cuda.get_current_stream() is stream
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record(), end.record()
    assert cupy.cuda.get_elapsed_time(start, end) >= 0
    assert cupy.cuda.get_current_stream() is cupy.cuda.Stream.null


def test_the_double_leaves_nothing_behind():
    import sys

    before = sys.modules.get("cupy")
    with emulated_device() as double:
        import array_api_compat
        import cupy as found

        assert found is double
        assert array_api_compat.array_namespace(x).__name__ == "array_api_compat.cupy"
    assert sys.modules.get("cupy") is before


needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
SUM = """
extern "C" __global__ void add_up(const float* values, float* sums, int n, int careless) {
    __shared__ float part[64];
    const int t = threadIdx.x, at = blockIdx.x * blockDim.x + t;
    part[t] = at < n ? values[at] : 0.0f;
    if (!careless) __syncthreads();
    float sum = part[63 - t];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(0xffffffffu, sum, by);
    if (t % 32 == 0) atomicAdd(sums + blockIdx.x, sum);
}
extern "C" __global__ void apart(float* out) {
    if (threadIdx.x < 32) __syncwarp();
    else __shfl_sync(0xffffffffu, 1.0f, 0);
    if (threadIdx.x == 3) __syncwarp(1 << 3 | 1 << 4);
    out[threadIdx.x] = 1;
}
"""


@needs_compiler
def test_threads_of_a_block_work_together_in_any_order():
    kernel = cupy.RawModule(code=SUM).get_function("add_up")
    values = np.random.default_rng(0).integers(0, 100, 200).astype(np.float32)

    def sums(careless, order):
        out = cupy.zeros(4, np.float32)
        with thread_order(order):
            kernel((4,), (64,), (cupy.asarray(values), out, np.int32(200), np.int32(careless)))
        return out.get()

    expected = np.pad(values, (0, 56)).reshape(4, 64).sum(1)
    for order in range(10):
        np.testing.assert_array_equal(sums(False, order), expected)
    assert any((sums(True, order) != expected).any() for order in range(1, 10))  # a missing barrier shows


@needs_compiler
@pytest.mark.parametrize(
    ("args", "sizes", "message"),
    [
        ((x, x, 6, np.int32(0)), ((1,), (64,)), "int64 for a parameter of type i4"),
        ((x, x, np.int32(6)), ((1,), (64,)), "takes 4 arguments"),
        ((x, cupy.zeros(4), np.int32(6), np.int32(0)), ((1,), (64,)), "array of float64 for a pointer to f4"),
        ((x.T, x, np.int32(6), np.int32(0)), ((1,), (64,)), "C order"),
        ((HOST, x, np.int32(6), np.int32(0)), ((1,), (64,)), "for a pointer"),
        ((x, x, np.int32(6), np.int32(0)), ((1,), (2048,)), "INVALID_VALUE"),
        ((x, x, np.int32(6), np.int32(0)), ((1, 70000), (64,)), "INVALID_VALUE"),
        ((x, x, np.int32(6), np.int32(0)), ((0,), (64,)), "INVALID_VALUE"),
    ],
)
def test_arguments_of_kernels_are_checked(args, sizes, message):
    kernel = cupy.RawModule(code=SUM).get_function("add_up")
    with pytest.raises((TypeError, CUDADriverError), match=message):
        kernel(*sizes, args)


@needs_compiler
def test_sources_and_options_are_those_of_nvrtc():
    with pytest.raises(CompileError, match="NVRTC finds no header"):
        cupy.RawModule(code="#include <vector>\n" + SUM).get_function("add_up")
    with pytest.raises(CompileError, match="does not know the option"):
        cupy.RawModule(code=SUM, options=("-O3",)).get_function("add_up")
    with pytest.raises(CUDADriverError, match="NOT_FOUND"):
        cupy.RawModule(code=SUM).get_function("nothing")
    with pytest.raises(CompileError, match="error"):
        cupy.RawModule(code=SUM.replace("float sum", "floot sum")).get_function("add_up")
    with pytest.raises(TypeError, match="no_such"):
        cupy.RawModule(code=SUM, no_such=1)
