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
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        return prior_hessian_vector(ctx.saved_tensors[0], weight, ctx.prior), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        return prior_hessian_vector(ctx.saved_tensors[0], tangent, ctx.prior)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, prior: SmoothPrior) -> tuple[torch.Tensor, int]:
        return prior_gradient(x.movedim(in_dims[0], 0), prior), 0


class _Curvature(torch.autograd.Function):
    """x -> the curvature of U at x, once differentiable in reverse."""

    @staticmethod
    def forward(x: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
        return prior._at_batch(prior._curvature, x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.prior = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _Bent.apply(*ctx.saved_tensors, weight, ctx.prior, "_curvature_transposed"), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, prior: SmoothPrior) -> tuple[torch.Tensor, int]:
        return prior_curvature(x.movedim(in_dims[0], 0), prior), 0


class _Bent(torch.autograd.Function):
    """(x, v) -> a map of v that depends on x and is linear in v: the Hessian's, or one without a derivative here."""

    @staticmethod
    def forward(x: torch.Tensor, v: torch.Tensor, prior: SmoothPrior, name: str) -> torch.Tensor:
        return prior._at_batch(getattr(prior, name), x.detach(), v.detach().to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.prior, ctx.name = inputs[2:]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if ctx.needs_input_grad[0] or ctx.name != "_hessian_vector":
            raise NotImplementedError(
                f"{ctx.prior!r} is not differentiable that often: its gradient twice, its curvature and Hessian once"
            )
        return None, prior_hessian_vector(ctx.saved_tensors[0], weight, ctx.prior), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, v: torch.Tensor, prior: SmoothPrior, name: str
    ) -> tuple[torch.Tensor, int]:
        x, v = (
            t.movedim(d, 0) if d is not None else t.expand(info.batch_size, *t.shape)
            for t, d in ((x, in_dims[0]), (v, in_dims[1]))
        )
        return _Bent.apply(x, v, prior, name), 0


def prior_hessian_vector(x: torch.Tensor, v: torch.Tensor, prior: SmoothPrior) -> torch.Tensor:
    """Return the Hessian of U at x applied to v; torch can differentiate it by v."""
    return _Bent.apply(x, v, prior, "_hessian_vector")


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
    over = _divided(torch.ones_like(root), root)
    # s (x_em - x) = beta x (x - z): each side has digits where the other cancels
    near = beta * x < s
    by_s = torch.where(near, _divided(beta * x * (x - z), s), x_em - x)
    by_beta = torch.where(near, x * (z - x), _divided(s * (x - x_em), beta))
    return s * over, beta * x * over, by_s * over, by_beta * over


def _divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b, 0 where b is."""
    found = b != 0
    return torch.where(found, a / torch.where(found, b, torch.ones_like(b)), torch.zeros_like(a))


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
