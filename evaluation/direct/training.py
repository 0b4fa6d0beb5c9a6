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
from emrecon.unrolled.training.records import best_weights

from .samples import Samples

_CLIP, _EMA = 1.0, 0.99
_TIMED = 6  # steps, the first of which does not count


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
    optimiser = torch.optim.Adam(model.parameters(), rate)
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
    numbers = {"steps": steps, "batch_size": size, "parameters": unrolled.count_parameters(model)}
    return {**numbers, **found}


def validation(samples: Samples, n: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return what measures a network on the first n validation samples."""
    found: Callable[[nn.Module], Mapping[str, float]] = unrolled.Validation(list(samples.pairs("validation", n)))
    return found
