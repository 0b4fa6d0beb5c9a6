"""Networks of images that are trained for a topic: one loop, resumable, best weights by validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emrecon import unrolled
from emrecon.unrolled.training.records import best_weights

from .images import Arrays, pair

_CLIP, _EMA = 1.0, 0.99


def trained(
    model: nn.Module,
    batches: Callable[[int], Any],
    objective: Any,
    validate: Callable[[nn.Module], Mapping[str, float]],
    folder: Path,
    steps: int,
    *,
    rate: float = 1e-3,
    signature: str = "",
) -> dict[str, Any]:
    """Train a network, or go on, give it the weights of its best validation, and return what it took.

    Adam, warm-up and cosine, gradients clipped, averaged weights.
    """
    optimiser = torch.optim.Adam(model.parameters(), rate)
    settings = unrolled.Settings(steps, max(1, steps // 8), _CLIP, _EMA, folder=folder, signature=signature)
    found: dict[str, Any] = {}
    for record in unrolled.train(
        model,
        batches,
        objective,
        optimiser,
        settings,
        schedule=unrolled.warmup_cosine(optimiser, steps, steps // 20),
        validate=validate,
        networks=[],
    ):
        found = {"validation": float(record.metrics["nrmse"]), "seconds": record.seconds}
    model.load_state_dict(best_weights(folder))
    model.eval()
    return {"steps": steps, "parameters": unrolled.count_parameters(getattr(model, "generator", model)), **found}


def validation(
    arrays: Arrays, target: str = "clean", guides: tuple[str, ...] = ()
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return what measures a network on all levels of validation images."""
    n_levels, n = arrays["low"].shape[:2]
    cases = [pair(arrays, np.full(n, level), np.arange(n), target, guides) for level in range(n_levels)]
    found: Callable[[nn.Module], Mapping[str, float]] = unrolled.Validation(cases)
    return found


def enhanced(model: nn.Module, images: np.ndarray, *, guide: np.ndarray | None = None, size: int = 16) -> np.ndarray:
    """Return what a network makes of images (N, x, y, z), not negative, in batches."""
    made = []
    with torch.no_grad():
        for k in range(0, len(images), size):
            named = {} if guide is None else {"guide": torch.as_tensor(guide[k : k + size])}
            made.append(model(torch.as_tensor(images[k : k + size]), **named).clamp(min=0).numpy())
    return np.concatenate(made)
