"""Priors as torch functions: values, gradients and curvatures that torch can differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch.autograd.function import FunctionCtx

from emrecon.projectors.core.arrays import Array


class VmapInfo(Protocol):
    """What torch tells a function's vmap rule."""

    batch_size: int


class Smooth(Protocol):
    """What is asked of a smooth prior: its functions of batches (B, x, y, z), without autograd."""

    def _at_batch(self, function: Callable[..., Array], *images: Array) -> Array: ...
    def _value(self, x: Array) -> Array: ...
    def _gradient(self, x: Array) -> Array: ...
    def _curvature(self, x: Array) -> Array: ...


class _Value(torch.autograd.Function):
    """x -> U(x), with its gradient for backward and forward derivatives."""

    @staticmethod
    def forward(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
        return prior._at_batch(prior._value, x.detach())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return weight[..., None, None, None].to(x.dtype) * prior_gradient(x, ctx.prior), None

    @staticmethod
    def jvp(ctx: FunctionCtx, tangent: torch.Tensor, _: None) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return (prior_gradient(x, ctx.prior) * tangent).sum(dim=(-3, -2, -1), dtype=torch.float64)

    @staticmethod
    def vmap(
        info: VmapInfo, in_dims: tuple[int | None, ...], x: torch.Tensor, prior: Smooth
    ) -> tuple[torch.Tensor, int]:
        return prior_value(x.movedim(in_dims[0], 0), prior), 0


class _Gradient(torch.autograd.Function):
    """x -> the gradient of U at x, with the (symmetric) Hessian for its derivatives."""

    @staticmethod
    def forward(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
        return prior._at_batch(prior._gradient, x.detach())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        return prior_hessian_vector(ctx.saved_tensors[0], weight, ctx.prior), None

    @staticmethod
    def jvp(ctx: FunctionCtx, tangent: torch.Tensor, _: None) -> torch.Tensor:
        return prior_hessian_vector(ctx.saved_tensors[0], tangent, ctx.prior)

    @staticmethod
    def vmap(
        info: VmapInfo, in_dims: tuple[int | None, ...], x: torch.Tensor, prior: Smooth
    ) -> tuple[torch.Tensor, int]:
        return prior_gradient(x.movedim(in_dims[0], 0), prior), 0


class _Curvature(torch.autograd.Function):
    """x -> the curvature of U at x, once differentiable in reverse."""

    @staticmethod
    def forward(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
        return prior._at_batch(prior._curvature, x.detach())

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Bent.apply(*ctx.saved_tensors, weight, ctx.prior, "_curvature_transposed"), None

    @staticmethod
    def vmap(
        info: VmapInfo, in_dims: tuple[int | None, ...], x: torch.Tensor, prior: Smooth
    ) -> tuple[torch.Tensor, int]:
        return prior_curvature(x.movedim(in_dims[0], 0), prior), 0


class _Bent(torch.autograd.Function):
    """(x, v) -> a map of v that depends on x and is linear in v: the Hessian's, or one without a derivative here."""

    @staticmethod
    def forward(x: torch.Tensor, v: torch.Tensor, prior: Smooth, name: str) -> torch.Tensor:
        return prior._at_batch(getattr(prior, name), x.detach(), v.detach().to(x.dtype))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        ctx.prior, ctx.name = inputs[2:]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: FunctionCtx, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.needs_input_grad[0] or ctx.name != "_hessian_vector":
            raise NotImplementedError(
                f"{ctx.prior!r} is not differentiable that often: its gradient twice, its curvature and Hessian once"
            )
        return None, prior_hessian_vector(ctx.saved_tensors[0], weight, ctx.prior), None, None

    @staticmethod
    def vmap(
        info: VmapInfo, in_dims: tuple[int | None, ...], x: torch.Tensor, v: torch.Tensor, prior: Smooth, name: str
    ) -> tuple[torch.Tensor, int]:
        x, v = (
            t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
            for t, d in ((x, in_dims[0]), (v, in_dims[1]))
        )
        return _Bent.apply(x, v, prior, name), 0


def prior_hessian_vector(x: torch.Tensor, v: torch.Tensor, prior: Smooth) -> torch.Tensor:
    """Return the Hessian of U at x applied to v; torch can differentiate it by v."""
    return _Bent.apply(x, v, prior, "_hessian_vector")


def prior_curvature(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
    """Return the curvature of U at x so that torch can differentiate it once."""
    return _Curvature.apply(x, prior)


def prior_value(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
    """Return U(x) so that torch can differentiate it twice."""
    return _Value.apply(x, prior)


def prior_gradient(x: torch.Tensor, prior: Smooth) -> torch.Tensor:
    """Return the gradient of U at x so that torch can differentiate it once more."""
    return _Gradient.apply(x, prior)
