"""Kernels that most test files use, compiled into numba's cache by all workers together before the tests begin.

Without it workers would wait for each other's kernels (`compile_once`). With a warm cache it takes a second.
"""

import time
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pet_cases
import spect_cases

from emrecon.projectors import ImageGrid, ParallelBeamGeometry, ParallelBeamProjector
from emrecon.recon import RelativeDifference, TotalVariation

_LONGEST = 300  # seconds to wait for the others: their crash must not stop this worker


def _forward(projector, dtype):
    projector(np.ones(projector.in_shape, dtype))


def _adjoint(projector, dtype):
    projector.T(np.ones(projector.out_shape, dtype))


def _prior(dtype):
    prior, x = RelativeDifference(epsilon=0.1), np.ones((3, 4, 5), dtype)
    prior.gradient(x)
    prior.curvature(x)


def _parallel(dtype):
    A = ParallelBeamProjector(ImageGrid((4, 4, 1), 4.0), ParallelBeamGeometry.equally_spaced(3, n_bins=6, bin_size=4.0))
    _forward(A, dtype)
    _adjoint(A, dtype)


def _jobs():
    """The longest first."""
    spect, pet = spect_cases.projector(), pet_cases.projector("span 3")
    for dtype in (np.float64, np.float32):
        yield lambda dtype=dtype: _forward(spect, dtype)
    for dtype in (np.float64, np.float32):
        yield lambda dtype=dtype: TotalVariation().prox(np.eye(4, dtype=dtype)[None] + np.ones((3, 4, 4), dtype), 0.5)
    for dtype in (np.float64, np.float32):
        yield lambda dtype=dtype: _adjoint(spect, dtype)
    for dtype in (np.float64, np.float32):
        yield lambda dtype=dtype: _prior(dtype)
        yield lambda dtype=dtype: _forward(pet, dtype)
    for dtype in (np.float64, np.float32):
        yield lambda dtype=dtype: _adjoint(pet, dtype)
        yield lambda dtype=dtype: _parallel(dtype)


def compile_share(index, count, run):
    """Do every `count`-th job from `index` on, then wait until the other workers of this run have done theirs."""
    for k, job in enumerate(_jobs()):
        if k % count == index:
            job()
    done = Path(gettempdir()) / f"emrecon_warm_up_{run}"
    done.mkdir(exist_ok=True)
    (done / str(index)).touch()
    end = time.monotonic() + _LONGEST
    while len(list(done.iterdir())) < count and time.monotonic() < end:
        time.sleep(0.1)
