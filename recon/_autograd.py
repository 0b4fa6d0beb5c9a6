"""Where priors and the fusion step meet torch.autograd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .map_em import positive_root

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


class _Curvature(torch.autograd.Function):
    """x -> the curvature of U at x, once differentiable in reverse."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
        ctx.prior = prior
        ctx.save_for_backward(x)
        return prior._at_batch(prior._curvature, x.detach())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        return ctx.prior._at_batch(ctx.prior._curvature_transposed, x, weight), None


def prior_curvature(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return the curvature of U at x so that torch can differentiate it once."""
    return _Curvature.apply(x, prior)


def prior_value(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return U(x) so that torch can differentiate it twice."""
    return _Value.apply(x, prior)


def prior_gradient(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return the gradient of U at x so that torch can differentiate it once more."""
    return _Gradient.apply(x, prior)


class _Fuse(torch.autograd.Function):
    """The positive root of beta x^2 + (s - beta z) x - s x_em = 0, with its derivatives by all four.

    With D = 2 beta x + s - beta z:  D dx = s dx_em + beta x dz + (x_em - x) ds + x (z - x) dbeta.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x_em: torch.Tensor, z: torch.Tensor, s: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return positive_root(beta, s - beta * z, s * x_em)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = _fuse_derivatives(*ctx.saved_tensors)
        return tuple(
            (weight * part).sum_to_size(value.shape) for part, value in zip(parts, ctx.saved_tensors, strict=True)
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> torch.Tensor:
        return sum(part * t for part, t in zip(_fuse_derivatives(*ctx.saved_tensors), tangents, strict=True))


def _fuse_derivatives(
    x_em: torch.Tensor, z: torch.Tensor, s: torch.Tensor, beta: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    x = _Fuse.apply(x_em, z, s, beta)
    root = torch.sqrt((s - beta * z) ** 2 + 4 * beta * s * x_em)  # without the cancellation of 2 beta x + s - beta z
    found = root > 0
    over = torch.where(found, 1 / torch.where(found, root, torch.ones_like(root)), torch.zeros_like(root))
    return s * over, beta * x * over, (x_em - x) * over, x * (z - x) * over


def fuse(x_em: Any, z: Any, s: Any, beta: Any) -> torch.Tensor:
    """Return `em_fuse` of tensors (numbers and arrays follow them) so that torch can differentiate it twice."""
    tensors = [value for value in (x_em, z, s, beta) if isinstance(value, torch.Tensor)]
    model = max(tensors, key=lambda t: (t.dtype == torch.float64, t.ndim))
    model = model if model.dtype in (torch.float32, torch.float64) else model.to(torch.float32)
    values = (
        value.to(model.dtype)
        if isinstance(value, torch.Tensor)
        else torch.as_tensor(value, dtype=model.dtype, device=model.device)
        for value in (x_em, z, s, beta)
    )
    return _Fuse.apply(*values)
