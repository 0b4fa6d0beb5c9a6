"""Networks that are trained for the same time: the steps that fit into it, from what one step takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emrecon import unrolled
from emrecon.unrolled.training.adversarial import WithDiscriminator, patch_discriminator
from emrecon.unrolled.training.dpir import DPIRLoss, features_of
from emrecon.unrolled.training.image_losses import FeatureEncoder, PerceptualLoss
from emrecon.unrolled.training.records import best_weights

from .families import Entry, Family
from .samples import Samples

_CLIP, _EMA = 1.0, 0.99
_CRITIC_RATE = 2.0  # times the network's
_TIMED = 6  # steps, the first of which does not count


def trainee_of(entry: Entry, model: nn.Module) -> nn.Module:
    """Return what is trained: the network, or the network with a critic beside it, with the first weights of seed 1."""
    if entry.loss != "dpir":
        return model
    with unrolled.seeded(1):
        return WithDiscriminator(model, patch_discriminator(2))


def objective_of(family: Family, entry: Entry, samples: Samples, folder: Path | None) -> Any:
    """Return what a network learns; DPIR-Net's encoder learns its features first and is kept in the folder.

    Without a folder the encoder has its first weights, which is enough to time a step.
    """
    if family.part is not None:
        return family.part.objective(samples.source.simulator.geometry)
    if entry.loss != "dpir":
        return unrolled.Supervised(unrolled.relative_mse)
    if folder is None:
        return DPIRLoss(PerceptualLoss(FeatureEncoder(2)))
    batches = samples.batches(entry.size, 0)
    encoder = features_of(lambda epoch: (target for _, target in batches(epoch)), 2, folder)
    return DPIRLoss(PerceptualLoss(encoder))


def _groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """The parameters with their learning rates."""
    if not isinstance(model, WithDiscriminator):
        return [{"params": list(model.parameters()), "lr": rate}]
    parts = ((model.generator, rate), (model.discriminator, _CRITIC_RATE * rate))
    return [{"params": list(part.parameters()), "lr": lr} for part, lr in parts]


def seconds_per_step(model: nn.Module, samples: Samples, size: int, objective: Any) -> float:
    """Return the median seconds of a step of a network, its data included."""
    optimiser = torch.optim.Adam(model.parameters(), 1e-5)
    times = []
    epochs = (samples.batches(size, 0)(epoch) for epoch in count())
    batches = chain.from_iterable(epochs)
    for step in range(_TIMED):
        started = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        objective(model, next(batches), torch.Generator().manual_seed(step)).backward()
        optimiser.step()
        times.append(time.perf_counter() - started)
    return sorted(times[1:])[len(times[1:]) // 2]


def trained(
    model: nn.Module,
    samples: Samples,
    folder: Path,
    steps: int,
    *,
    size: int,
    rate: float,
    objective: Any,
    signature: str,
    validate: Callable[[nn.Module], Mapping[str, float]],
    watch: str = "nrmse",
) -> dict[str, Any]:
    """Train a network, or go on, give it the weights of its best validation, and return what it took.

    Adam, warm-up and cosine, gradients clipped, averaged weights.
    """
    optimiser = torch.optim.Adam(_groups(model, rate))
    settings = unrolled.Settings(
        steps, max(1, steps // 4), _CLIP, _EMA, watch=watch, folder=folder, signature=signature
    )
    found: dict[str, Any] = {}
    for record in unrolled.train(
        model,
        samples.batches(size, 0),
        objective,
        optimiser,
        settings,
        schedule=unrolled.warmup_cosine(optimiser, steps, steps // 10),
        validate=validate,
        networks=[],
    ):
        found = {"validation": float(record.metrics[watch]), "seconds": record.seconds}
    model.load_state_dict(best_weights(folder))
    model.eval()
    network = model.generator if isinstance(model, WithDiscriminator) else model
    numbers = {"steps": steps, "batch_size": size, "parameters": unrolled.count_parameters(network)}
    return {**numbers, **found}


def validation(samples: Samples, n: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return what measures a network on the first n validation samples."""
    found: Callable[[nn.Module], Mapping[str, float]] = unrolled.Validation(list(samples.pairs("validation", n)))
    return found
