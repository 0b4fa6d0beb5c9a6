"""Sums over ranks that torch can differentiate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd.function import FunctionCtx


class _Summed(torch.autograd.Function):
    """L = sum of L_k: the total is the same on all ranks, and every L_k has its gradient."""

    @staticmethod
    def forward(values: torch.Tensor, add: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return add(values.detach().clone())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def summed(values: torch.Tensor, add: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return the sum over ranks of what each has computed from its share; differentiable.

    Args:
        add : sums a tensor over the ranks, in place.
    """
    return _Summed.apply(values, add)
