"""Projections from several threads, forked and spawned processes, and with any number of threads."""

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from projections import A, Projections, X

from emrecon.projectors.core.threads import share, thread_count


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same(n, monkeypatch):
    expected, y = A(X), A(X)
    back = A.T(y)
    monkeypatch.setenv("EMRECON_NUM_THREADS", str(n))
    assert thread_count() == n
    np.testing.assert_array_equal(A(X), expected)
    np.testing.assert_allclose(A.T(y), back, rtol=1e-5)
    np.testing.assert_array_equal(A.T(y), A.T(y))


@pytest.mark.usefixtures("several_threads")
def test_concurrent_calls():
    expected, y = A(X), A(X)
    back = A.T(y)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(lambda _: A(X), range(16)):
            np.testing.assert_array_equal(result, expected)
        for result in pool.map(lambda _: A.T(y), range(16)):
            np.testing.assert_array_equal(result, back)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.usefixtures("several_threads")
def test_data_loader_workers(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"{method} is not available")
    torch.ones(300, 300) @ torch.ones(300, 300)  # torch's own threads are up
    expected = A(X)
    workers = 2 if method == "fork" else 1  # one that is spawned imports everything again
    loader = torch.utils.data.DataLoader(Projections(), 1, num_workers=workers, multiprocessing_context=method)
    for index, (y,) in enumerate(loader):
        np.testing.assert_allclose(y.numpy(), expected * (index + 1), rtol=1e-5)


def test_thread_count_follows_torch_and_refuses_nonsense(monkeypatch):
    monkeypatch.delenv("EMRECON_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert thread_count() == 1
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("EMRECON_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="positive integer"):
        thread_count()


@pytest.mark.usefixtures("several_threads")
def test_errors_in_a_thread_reach_the_caller():
    def work(t, n):
        if t == n - 1:
            raise RuntimeError("broken view")
        return t

    with pytest.raises(RuntimeError, match="broken view"):
        share(work, 4)


def test_compiled_kernels_are_cached():
    code = (
        "import numpy as np; from emrecon.projectors import *; from emrecon.projectors.spect import kernels as k;"
        "A = SPECTProjector(ImageGrid((8, 8, 4), 4.0), SPECTGeometry.circular(2, 50, (8, 4), 4.0));"
        "A.T(A(np.ones((8, 8, 4), np.float32)));"
        "print(sum(k.forward.stats.cache_misses.values()) + sum(k.adjoint.stats.cache_misses.values()))"
    )
    A.T(A(X))
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ, cwd="/"
    )
    assert run.stdout.strip() == "0"
