"""Training scans that are drawn once: counts and the background that was estimated from them, for all networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon.projectors import AcquisitionModel
from emrecon.recon import PoissonLikelihood

from ..kept import kept

_SEED = 40_000_000  # apart from those of validation and test
_TOGETHER = 25  # scans of a file
_FIELDS = ("counts", "background", "factors", "truth", "guide", "mu")


@dataclass(frozen=True)
class Scans:
    """A batch of training scans, as a case has them."""

    likelihood: PoissonLikelihood
    truth: torch.Tensor
    guide: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Bank:
    """The training scans of a task, each with several realisations of its noise.

    An estimate of scatter takes longer than a step of a network, and all networks and seeds are to see the same counts:
    so scan and realisation are drawn once, with the background that is estimated from these counts, and kept.

    Args:
        task : with `n_train`, `work` and `cases`.
        n_realisations : of each scan.
    """

    task: Any
    n_realisations: int
    _read: dict[tuple[int, int], dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def batch(self, which: Sequence[int], realisation: int) -> Scans:
        """Return training scans by number, with one of their realisations (counted in a circle)."""
        r = realisation % self.n_realisations
        rows = [(self._file(i // _TOGETHER, r), i % _TOGETHER) for i in which]
        found = {
            name: torch.as_tensor(np.stack([file[name][k] for file, k in rows]).astype(np.float32))
            for name in _FIELDS
            if name in rows[0][0]
        }
        model = AcquisitionModel(self._projector(found["mu"]), found["factors"], found["background"])
        return Scans(PoissonLikelihood(found["counts"], model), found["truth"], found.get("guide"))

    def prepare(self) -> None:
        """Draw what is not there."""
        for r in range(self.n_realisations):
            for k in range(-(-int(self.task.n_train) // _TOGETHER)):
                self._file(k, r)

    @cached_property
    def folder(self) -> Path | None:
        """Where scans are kept; None: in memory only."""
        if self.task.work is None:
            return None
        about = json.dumps([self.task.describe(), int(self.task.n_train), _SEED], sort_keys=True)
        return Path(self.task.work) / "bank" / self.task.name / hashlib.sha256(about.encode()).hexdigest()[:12]

    def _file(self, k: int, r: int) -> dict[str, np.ndarray]:
        if (k, r) not in self._read:
            path = None if self.folder is None else self.folder / f"{r}-{k:04d}.npz"
            self._read[k, r] = kept(path, lambda: self._drawn(k, r))
        return self._read[k, r]

    def _drawn(self, k: int, r: int) -> dict[str, np.ndarray]:
        which = list(range(k * _TOGETHER, min((k + 1) * _TOGETHER, int(self.task.n_train))))
        case = self.task.cases("train", which, seed=_SEED + r)
        model, n = case.likelihood.model, len(which)
        shape = (n, *model.projector.out_shape)
        arrays = {
            "counts": case.likelihood.data,
            "background": torch.as_tensor(model.background).expand(shape),
            "factors": torch.as_tensor(model.factors).expand(shape),
            "truth": case.truth,
            "mu": case.mu,
        } | ({} if case.guide is None else {"guide": case.guide})
        return {name: np.asarray(values, np.float32) for name, values in arrays.items()}

    @cached_property
    def _empty(self) -> Any:
        return self.task.cases("train", [0], seed=_SEED).likelihood.model.projector

    def _projector(self, mu: torch.Tensor) -> Any:
        empty = self._empty
        return empty.with_attenuation(mu.numpy()) if hasattr(empty, "with_attenuation") else empty


_banks: dict[tuple[Any, ...], Bank] = {}


def bank_of(task: Any, n_realisations: int) -> Bank:
    """Return the bank of a task; there is one for each in a process."""
    key = (task.name, int(task.n_train), str(task.work), n_realisations)
    if key not in _banks:
        _banks.clear()  # one task after the other
        _banks[key] = Bank(task, n_realisations)
    return _banks[key]


def epochs(n: int, batch_size: int, steps: int) -> int:
    """Return how many epochs a training of so many steps begins."""
    return max(1, -(-steps // max(1, n // batch_size)))


def in_batches(which: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the whole batches of numbers, in their order."""
    for k in range(len(which) // size):
        yield [int(i) for i in which[k * size : (k + 1) * size]]
