"""Sources of samples that other processes import by name, and what scripts do with them.

They stand here and not in a test file because a worker process must find their module on the path of Python.
"""

import multiprocessing
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emrecon.projectors.core.threads import thread_count
from emrecon.sims.datasets.ranks import rank_and_size
from emrecon.sims.datasets.reading import Dataset, Field, SimulatedDataset, loader
from emrecon.sims.datasets.writing import write_dataset

__all__ = [
    "Dataset",
    "Large",
    "SimulatedDataset",
    "Together",
    "Toy",
    "Where",
    "loader",
    "rank_and_size",
    "write_dataset",
]


@dataclass(frozen=True)
class Toy:
    """Counts, an image and a number per sample, all of the index; it can be slow, and fail as it is told to."""

    n: int = 60
    batch: int = 4
    seed: int = 0
    seconds: float = 0.0
    fail_at: int = -1
    value: float | None = None  # of the counts at `fail_at`
    samples_per_phantom: int = 2

    fields = {  # noqa: RUF012
        "counts": Field((6, 5), "uint16", "counts", "a sinogram"),
        "activity": Field((7, 7), "float32", "MBq/mL", "the truth"),
        "dose": Field((), "float64", "MBq"),
    }

    @property
    def split(self):
        return {"train": self.n - 16, "validation": 10, "test": 6}

    def describe(self):
        return {"name": "toy", "seed": self.seed, "camera": {"radius": 150.0, "bins": [6, 5]}}

    def samples(self, indices):
        time.sleep(self.seconds)
        if self.fail_at in indices and self.value is None:
            raise ArithmeticError("no such phantom")
        made = [self.one(int(i)) for i in indices]
        return {name: np.stack([sample[name] for sample in made]) for name in self.fields}

    def one(self, i):
        random = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, i))))
        phantom = np.random.default_rng(i // self.samples_per_phantom).random((7, 7))
        counts = random.poisson(20, (6, 5)).astype(float)
        counts[0, 0] = self.value if i == self.fail_at else counts[0, 0]
        return {"counts": counts, "activity": phantom.astype(np.float32), "dose": random.random()}


@dataclass(frozen=True)
class Where(Toy):
    """The dose tells how many threads a worker has; a worker that comes to the sample to fail at dies."""

    def samples(self, indices):
        here = multiprocessing.parent_process() is None  # the first batch is made here, too
        if not here and self.fail_at in indices:
            os._exit(9)
        threads = 1 if here or max(indices) < self.batch else thread_count()
        return replace(self, fail_at=-1).toy(indices) | {"dose": np.full(len(indices), float(threads))}

    def toy(self, indices):
        return super().samples(indices)


@dataclass(frozen=True)
class Together(Toy):
    """Samples that workers begin to make when all of them are there; they say so in the folder `meeting`."""

    meeting: str = ""
    workers: int = 2

    def samples(self, indices):
        if multiprocessing.parent_process() is not None:
            Path(self.meeting, str(os.getpid())).touch()
            end = time.monotonic() + 60
            while len(os.listdir(self.meeting)) < self.workers and time.monotonic() < end:
                time.sleep(0.01)
        return super().samples(indices)


@dataclass(frozen=True)
class Large(Toy):
    """Samples of 256 kB."""

    fields = {"image": Field((256, 256), "float32")}  # noqa: RUF012

    def samples(self, indices):
        return {"image": np.multiply.outer(np.asarray(indices, np.float32), np.ones((256, 256), np.float32))}
