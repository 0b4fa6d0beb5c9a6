"""The batches of a training from its recipe, read or simulated by as many processes as are asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from .train_recipe import Plan

if TYPE_CHECKING:
    import torch

    from emrecon.unrolled.training.preparation import Preparation

_AHEAD = 2  # batches that are made while the network learns from another

Pair = tuple[dict[str, Any], "torch.Tensor"]
"""What a network is called with, likelihood and guide, and its target."""


def preparation(plan: Plan, device: torch.device | str) -> Preparation:
    """Return what makes training pairs of the samples of a plan."""
    from emrecon.unrolled.training.preparation import Preparation

    data, levels = plan.recipe.data, plan.simulation.counts.levels
    counts = "counts" if data.noise else "expected"
    second = plan.simulation.second
    frames = None if second is None else len(second.frames)
    return Preparation(
        plan.source.simulator, levels, plan.level, data.guides, data.target, data.floor, device, counts, frames
    )


def training_batches(plan: Plan, prepare: Preparation, workers: int, seed: int) -> Callable[[int], Iterable[Pair]]:
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
    return by_epoch(found, prepare, n_ahead=_AHEAD)


def batches_of(plan: Plan, device: torch.device | str, workers: int, seed: int) -> Callable[[int], Iterable[Pair]]:
    """Return epoch -> this rank's batches of a plan; of several sets, those of each in turn."""
    from emrecon.unrolled.training.transfer import mixed_batches

    found = [training_batches(part, preparation(part, device), workers, seed) for part in plan.each]
    return found[0] if len(found) == 1 else mixed_batches(found)


def pairs_of(plan: Plan, device: torch.device | str, split: str, n: int) -> Callable[[], Iterator[Pair]]:
    """Return a function that yields batches of the first n samples of a split, of each of several sets."""
    found = [
        held_out(part, preparation(part, device), split, n) for part in plan.each if split in part.simulation.split
    ]
    return lambda: chain.from_iterable(pairs() for pairs in found)


def start_worker(number: int) -> None:
    """Begin a process that makes samples: one thread, and Ctrl-C is left to its parent."""
    os.environ["EMRECON_NUM_THREADS"] = "1"  # read at every call of a kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def held_out(plan: Plan, prepare: Preparation, split: str, n: int) -> Callable[[], Iterator[Pair]]:
    """Return a function that yields batches of the first n samples of a split; they are read or simulated once, now."""
    dataset, size = plan.dataset(split), plan.recipe.data.batch_size
    samples = dataset.__getitems__(range(min(n, len(dataset))))
    batches = [stacked(samples[first : first + size]) for first in range(0, len(samples), size)]

    pattern = pattern_of(plan, moving=False) if plan.recipe.loss.hides else None

    def pairs() -> Iterator[Pair]:
        made = map(prepare, batches)
        return made if pattern is None else (_partly(pair, pattern, k) for k, pair in enumerate(made))

    return pairs


def pattern_of(plan: Plan, moving: bool = True) -> Any:
    """Return which bins of a scan a network of data learns to fill in, as the recipe's loss says.

    moving : whether the first of every n-th view is drawn.
    """
    from emrecon.unrolled.training import completing

    loss = plan.recipe.loss
    if loss.hide == "views":
        return completing.EvenlySpacedViews(loss.every, shifted=moving)
    if loss.hide == "coarse":
        return completing.MergedBins(loss.every)
    n = loss.n_hidden or 1
    if loss.hide == "crystals":
        return completing.FailedCrystals(plan.source.simulator.geometry, n)  # type: ignore[arg-type]  # of PET
    return completing.MissingViews(n) if loss.hide == "arc" else completing.MissingBins(n)


def _partly(pair: Pair, pattern: Any, number: int) -> Pair:
    """A pair whose likelihood is that of a part of the bins, as a network of data gets it in use."""
    import torch

    from emrecon.unrolled.training.completing import hidden

    arguments, target = pair
    part, _ = hidden(arguments["likelihood"], pattern, torch.Generator().manual_seed(number))
    return {**arguments, "likelihood": part}, target


def stacked(samples: list[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Return a batch of tensors of samples."""
    import torch

    return {
        name: torch.from_numpy(np.stack([s[name] for s in samples]).astype(np.float32, copy=False))
        for name in samples[0]
    }
