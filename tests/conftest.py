"""What holds for every run of the tests: threads of a worker, and compiled code that all processes of a run share."""

import os
import tempfile

import pytest
from compile_once import compile_once

# before anything counts cores: workers of several threads would wait for each other
if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("EMRECON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_configure(config):
    """Name the folder of the CUDA sources compiled for the host; workers inherit it."""
    compile_once()
    if "EMRECON_HOST_KERNELS" not in os.environ:
        cache = getattr(config, "cache", None)
        folder = cache.mkdir("host_kernels") if cache else tempfile.mkdtemp(prefix="emrecon_host_kernels_")
        os.environ["EMRECON_HOST_KERNELS"] = str(folder)


def pytest_collection_modifyitems(items):
    """Run the longest tests first: workers that steal from each other then end at the same time."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_sessionstart(session):
    """Let every worker compile a share of the kernels that most files use, and none compile what another does."""
    worker = getattr(session.config, "workerinput", None)
    if worker:
        from warm_up import compile_share

        compile_share(int(worker["workerid"].removeprefix("gw")), worker["workercount"], worker["testrunuid"])


@pytest.fixture
def no_curves(monkeypatch):
    """Trainings without curves.png, which costs more than a few steps of a tiny network."""
    pytest.importorskip("torch")
    monkeypatch.setattr("emrecon.unrolled.training.loop.plot_log", lambda folder: None)


@pytest.fixture
def several_threads(monkeypatch):
    """Kernels and torch with two threads, whatever the worker has."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    monkeypatch.setenv("EMRECON_NUM_THREADS", "2")
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
