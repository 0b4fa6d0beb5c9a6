"""Learning rates step by step: a warm-up, then a cosine or steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimiser: torch.optim.Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    """Return the schedule that rises over `warmup` steps and falls to `floor` times the learning rate like a cosine::

        (t + 1) / warmup                                for t < warmup
        floor + (1 - floor) (1 + cos(pi u)) / 2         from there on, u = (t - warmup) / (steps - warmup)

    Source: Loshchilov & Hutter 2017, without restarts.
    """
    if not 0 <= warmup < steps or not 0 <= floor <= 1:
        raise ValueError(
            f"warmup_cosine needs 0 <= warmup < steps and a floor from 0 to 1, got {warmup}, {steps}, {floor}"
        )

    def factor(t: int) -> float:
        if t < warmup:
            return (t + 1) / warmup
        turn = math.pi * min(1.0, (t - warmup) / (steps - warmup))
        return floor + (1 - floor) * (1 + math.cos(turn)) / 2

    return LambdaLR(optimiser, factor)


def warmup_steps(
    optimiser: torch.optim.Optimizer, milestones: Sequence[int], factor: float = 0.1, warmup: int = 0
) -> LambdaLR:
    """Return the schedule that rises over `warmup` steps and multiplies the learning rate by `factor` at milestones."""
    if warmup < 0 or not factor > 0 or list(milestones) != sorted(milestones):
        raise ValueError("warmup_steps needs warmup >= 0, a positive factor and rising milestones")
    return LambdaLR(
        optimiser, lambda t: (t + 1) / warmup if t < warmup else factor ** sum(t >= step for step in milestones)
    )
