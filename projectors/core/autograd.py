"""The only place where the library meets torch.autograd."""

from __future__ import annotations

from typing import Protocol

import torch
from torch.autograd.function import FunctionCtx

from .arrays import Array


class Linear(Protocol):
    """What is asked of a linear operator: the map itself without autograd, and its transpose."""

    def _apply(self, x: Array) -> Array: ...
    @property
    def T(self) -> Linear: ...


class _Linear(torch.autograd.Function):
    """x -> A x, with A' for its backward, A for its forward derivative and a batch axis for vmap."""

    @staticmethod
    def forward(x: torch.Tensor, operator: Linear) -> torch.Tensor:
        return operator._apply(x.detach())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[torch.Tensor, Linear], output: torch.Tensor) -> None:
        ctx.operator = inputs[1]

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return apply_linear(gradient, ctx.operator.T), None

    @staticmethod
    def jvp(ctx: FunctionCtx, tangent: torch.Tensor, _: None) -> torch.Tensor:
        return apply_linear(tangent, ctx.operator)

    @staticmethod
    def vmap(info: object, in_dims: tuple[int, None], x: torch.Tensor, operator: Linear) -> tuple[torch.Tensor, int]:
        return apply_linear(x.movedim(in_dims[0], 0), operator), 0


def apply_linear(x: torch.Tensor, operator: Linear) -> torch.Tensor:
    """Apply `operator` to a tensor so that torch can differentiate it any number of times."""
    return _Linear.apply(x, operator)
