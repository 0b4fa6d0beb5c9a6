"""Kernels do not depend on the order of their threads: ten orders, and every thread at once under sanitizers."""

import dataclasses

import numpy as np
import pytest
from device_cases import GUIDE, IMAGE
from emulated_cupy import compiler, cupy, emulated_device, recording, thread_order
from emulated_cupy.compiling import kernels_of
from emulated_cupy.replay import SanitizerReportError, replayed, runs_here
from pet_cases import ONE_RING, TOF, events_of_every_bin, listmode
from pet_cases import projector as pet_projector
from spect_cases import projector as spect_projector

from emrecon import recon
from emrecon.projectors import (
    ImageGrid,
    ListmodeProjector,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    PETProjector,
    PETSinogram,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host"),
]
SMALL = ImageGrid((4, 4, 1), (14.0, 13.0, 4.0))
RING = PETSinogram(ONE_RING, n_radial=5, tof=TOF)


def both_ways(A):
    """Projections and back projections of float32 arrays on the emulated device, repeatable."""
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(2, *shape)).astype(np.float32) for shape in (A.in_shape, A.out_shape))
    return [A(cupy.asarray(x)).get(), A.T(cupy.asarray(y)).get()]


def of_prior(prior):
    """What a prior launches."""
    x = np.stack([IMAGE, IMAGE[::-1]]).astype(np.float32)
    return [prior.gradient(cupy.asarray(x)).get(), prior.value(cupy.asarray(x)).get()]


WORK = {
    "SPECT": lambda: both_ways(spect_projector("thin", "gaussian")),
    "SPECT, rays": lambda: both_ways(spect_projector("planar", "rays-gaussian", nx=4, ny=3)),
    "SPECT, measured": lambda: both_ways(spect_projector("planar", "measured", nx=4, ny=3)),
    "PET": lambda: both_ways(pet_projector("span 3")),
    "PET with TOF": lambda: both_ways(pet_projector("flat TOF")),
    "events": lambda: both_ways(listmode(True, 100)),
    "beams": lambda: both_ways(
        ParallelBeamProjector(ImageGrid((5, 4, 3), 4.0), ParallelBeamGeometry.equally_spaced(3, 7, 4.0, 3))
    ),
    "priors": lambda: of_prior(recon.RelativeDifference(2.0, epsilon=0.02, kappa=GUIDE)),
}


@pytest.mark.parametrize("name", WORK)
def test_ten_orders_of_threads_give_the_same_bits(name):
    """No kernel here adds floats by atomics, so that results are equal and not only close."""
    with emulated_device():
        expected = WORK[name]()
        for order in range(1, 11):
            with thread_order(order):
                for found, first in zip(WORK[name](), expected):
                    np.testing.assert_array_equal(found, first)


def small_launches():
    """Every kernel at least once, in grids small enough for a system thread for each CUDA thread."""
    with emulated_device(), recording() as launches:
        for option in ("gaussian", "rays-gaussian", "measured"):
            both_ways(spect_projector("planar", option, nx=3, ny=3))
        both_ways(PETProjector(SMALL, RING.subset(0, 4)))
        both_ways(ListmodeProjector(SMALL, ONE_RING, events_of_every_bin(RING)[::7], TOF))
        both_ways(ParallelBeamProjector(ImageGrid((3, 3, 2), 4.0), ParallelBeamGeometry.equally_spaced(2, 4, 4.0, 2)))
        of_prior(recon.Huber(0.5, neighbours=6, kappa=GUIDE))
    chosen = {}
    for one in sorted(launches, key=lambda one: abs(int(np.prod(one.grid)) - 2)):  # two blocks or so
        chosen.setdefault(one.kernel, one)
    return list(chosen.values())


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_sanitizers_find_nothing(sanitizer):
    if not runs_here(sanitizer):
        pytest.skip(f"-fsanitize={sanitizer} does not work here")
    launches = small_launches()
    kernels = {name for one in launches for name in kernels_of(one.code)}
    assert {one.kernel for one in launches} == kernels, "a kernel is never launched here"
    assert max(np.prod(one.grid) for one in launches) <= 16, "a grid is too large"
    for one, arrays in zip(launches, replayed(launches, sanitizer)):
        expected = [value for value, is_array in zip(one.after, one.is_array) if is_array]
        for found, value in zip(arrays, expected):
            np.testing.assert_array_equal(found, value)


FAULTY = """
extern "C" __global__ void outside(float* values, int n, int of_all) {
    __shared__ float part[32];
    part[threadIdx.x] = values[threadIdx.x + n];
    if (of_all) values[0] += 1.0f;
    __syncthreads();
    values[threadIdx.x] = part[31 - threadIdx.x];
}
"""


@pytest.mark.parametrize(
    ("sanitizer", "n", "of_all", "message"),
    [("address,undefined", 1, 0, "heap-buffer-overflow"), ("thread", 0, 1, "data race"), ("thread", 0, 0, None)],
)
def test_sanitizers_find_what_is_wrong(sanitizer, n, of_all, message):
    if not runs_here(sanitizer):
        pytest.skip(f"-fsanitize={sanitizer} does not work here")
    with emulated_device() as double, recording() as launches:
        kernel = double.RawModule(code=FAULTY).get_function("outside")
        kernel((1,), (32,), (double.zeros(64, np.float32), np.int32(0), np.int32(of_all)))
    values, _, others = launches[0].before
    one = dataclasses.replace(launches[0], before=(values[:32], np.asarray(np.int32(n)), others))
    if message is None:
        replayed([one], sanitizer)
        return
    with pytest.raises(SanitizerReportError, match=message):
        replayed([one], sanitizer)
