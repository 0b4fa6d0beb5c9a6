"""From samples to what a network is trained on: likelihoods of batches, each item with its own map and background."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from emrecon.projectors import AcquisitionModel
from emrecon.recon import PoissonLikelihood

from .train_recipe import Plan


@dataclass(frozen=True, eq=False)
class Preparation:
    """samples -> (arguments of the network, target), with all tensors float32 on a device.

        y_f ~ Poisson(f (factors A x + background)),   f the level of the counts; x, the target, in kBq/mL for every f

    SPECT projectors hold the batch's attenuation maps; of PET, attenuation is in the factors.
    """

    plan: Plan
    device: Any

    def __call__(self, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return ({"likelihood": ...} with its guides, target (B, nx, ny, nz))."""
        import torch

        data, simulation = self.plan.recipe.data, self.plan.simulation
        arguments: dict[str, Any] = {"likelihood": self.likelihood(batch)}
        if data.guides:
            guides = [self._images(batch[name]) for name in data.guides]
            arguments["guide"] = torch.stack(guides, -4) if len(guides) > 1 else guides[0]
        target = batch[data.target]
        if data.target == "reconstruction" and len(simulation.counts.levels) > 1:
            target = target[:, int(np.argmax(simulation.counts.levels))]
        return arguments, self._images(target)

    def likelihood(self, batch: Mapping[str, Any]) -> PoissonLikelihood:
        """Return the likelihood of a batch's counts at the chosen level."""
        levels, f = self.plan.simulation.counts.levels, self.plan.level
        counts = batch["counts"] if len(levels) == 1 else batch["counts"][:, levels.index(f)]
        y, factors, background = (self._data(part) for part in (counts, batch["factors"], batch["background"]))
        bins = tuple(range(1, y.ndim))
        least = self.plan.recipe.data.floor * y.mean(bins, keepdim=True)
        model = AcquisitionModel(self._projector(batch), f * factors, (f * background).maximum(least))
        return PoissonLikelihood(y, model)

    def _projector(self, batch: Mapping[str, Any]) -> Any:
        if self.plan.simulation.spect is None:
            return self._kept
        maps = batch["mu"].reshape(-1, *self.plan.source.simulator.grid.shape)
        return self._kept.with_attenuation(maps)

    @cached_property
    def _kept(self) -> Any:
        """The projector without a patient, with all its tables."""
        simulator = self.plan.source.simulator
        return simulator.projector(np.zeros(simulator.grid.shape, np.float32))

    def _data(self, values: Any) -> Any:
        return self._tensor(values).reshape(-1, *self.plan.source.simulator.geometry.shape)

    def _images(self, values: Any) -> Any:
        return self._tensor(values).reshape(-1, *self.plan.source.simulator.grid.shape)

    def _tensor(self, values: Any) -> Any:
        import torch

        return values.to(self.device, torch.float32)


def training_batches(plan: Plan, prepare: Preparation, workers: int, seed: int) -> Callable[[int], Any]:
    """Return epoch -> this rank's batches of (arguments, target), all of one size.

    workers : processes that read or simulate samples, with one compiled thread each; 0 is this one.

    Raises ValueError where the samples do not fill a batch of every rank.
    """
    from emrecon.sims.datasets.reading import loader
    from emrecon.unrolled.training.loop import by_epoch

    options: dict[str, Any] = {"multiprocessing_context": "spawn", "worker_init_fn": start_worker} if workers else {}
    size = plan.recipe.data.batch_size
    found = loader(plan.dataset("train"), size, workers=workers, seed=seed, drop_last=True, **options)
    if not len(found):
        raise ValueError(
            f"{len(plan.dataset('train'))} samples do not fill a batch of {size} on every rank; reduce batch_size"
        )
    return by_epoch(found, prepare)


def start_worker(number: int) -> None:
    """Begin a process that makes samples: one thread, and Ctrl-C is left to its parent."""
    os.environ["EMRECON_NUM_THREADS"] = "1"  # read at every call of a kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def held_out(plan: Plan, prepare: Preparation, split: str, n: int) -> Callable[[], Iterator[Any]]:
    """Return a function that yields batches of the first n samples of a split; they are read or simulated once, now."""
    dataset, size = plan.dataset(split), plan.recipe.data.batch_size
    samples = dataset.__getitems__(range(min(n, len(dataset))))
    batches = [stacked(samples[first : first + size]) for first in range(0, len(samples), size)]

    def pairs() -> Iterator[Any]:
        return map(prepare, batches)

    return pairs


def stacked(samples: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Return a batch of tensors of samples."""
    import torch

    return {
        name: torch.from_numpy(np.stack([s[name] for s in samples]).astype(np.float32, copy=False))
        for name in samples[0]
    }
