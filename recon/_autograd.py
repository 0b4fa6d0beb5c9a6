"""Where priors and the fusion step meet torch.autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .prior import SmoothPrior


class _Value(torch.autograd.Function):
    """x -> U(x), with its gradient for backward and forward derivatives."""

    @staticmethod
    def forward(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
        return prior._at_batch(prior._value, x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return weight[..., None, None, None].to(x.dtype) * prior_gradient(x, ctx.prior), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return (prior_gradient(x, ctx.prior) * tangent).sum(dim=(-3, -2, -1), dtype=torch.float64)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, prior: SmoothPrior) -> tuple[torch.Tensor, int]:
        return prior_value(x.movedim(in_dims[0], 0), prior), 0


class _Gradient(torch.autograd.Function):
    """x -> the gradient of U at x, with the (symmetric) Hessian for its derivatives."""

    @staticmethod
    def forward(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
        return prior._at_batch(prior._gradient, x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.prior.hessian_vector(x, weight), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return ctx.prior.hessian_vector(x, tangent)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, prior: SmoothPrior) -> tuple[torch.Tensor, int]:
        return prior_gradient(x.movedim(in_dims[0], 0), prior), 0


def prior_value(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return U(x) so that torch can differentiate it twice."""
    return _Value.apply(x, prior)


def prior_gradient(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return the gradient of U at x so that torch can differentiate it once more."""
    return _Gradient.apply(x, prior)
