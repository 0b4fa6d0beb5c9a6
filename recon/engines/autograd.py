"""Steps of EM as torch functions: the fusion with a prior's image and the update, with their gradients."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch.autograd.function import FunctionCtx

from emrecon.projectors.core.arrays import Array, divide_where

from ..likelihoods.protocol import CountsLikelihood
from .plain_steps import plain_step, positive_root

Value: TypeAlias = Array | float  # tensors among them


class _Fuse(torch.autograd.Function):
    """The positive root of beta x^2 + (s - beta z) x - s x_em = 0, with its derivatives by all four.

    With D = 2 beta x + s - beta z:  D dx = s dx_em + beta x dz + (x_em - x) ds + x (z - x) dbeta.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x_em: torch.Tensor, z: torch.Tensor, s: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
        return positive_root(beta, s - beta * z, s * x_em)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: FunctionCtx, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts = _fuse_derivatives(*ctx.saved_tensors)
        return tuple(
            (weight * part).sum_to_size(value.shape) for part, value in zip(parts, ctx.saved_tensors, strict=True)
        )

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: torch.Tensor) -> torch.Tensor:
        return sum(part * t for part, t in zip(_fuse_derivatives(*ctx.saved_tensors), tangents, strict=True))


def _fuse_derivatives(
    x_em: torch.Tensor, z: torch.Tensor, s: torch.Tensor, beta: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    x = _Fuse.apply(x_em, z, s, beta)
    b = s - beta * z
    largest = torch.maximum(b.abs(), beta * torch.ones_like(b))  # or squares would overflow
    largest = torch.where(largest > 0, largest, torch.ones_like(b))
    # the root over `largest`, without the cancellation of 2 beta x + s - beta z
    root = torch.sqrt((b / largest) ** 2 + 4 * (beta / largest) * (s / largest * x_em))
    over = _divided(torch.ones_like(root), root)
    # s (x_em - x) = beta x (x - z): each side has digits where the other cancels
    near = beta * x < s
    by_s = torch.where(near, _divided(beta * x * (x - z), s), x_em - x)
    by_beta = torch.where(near, x * (z - x), _divided(s * (x - x_em), beta))
    parts = s, beta * x, by_s, by_beta
    return tuple(part / largest * over for part in parts)


def _divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a / b, 0 where b is."""
    found = b != 0
    return torch.where(found, a / torch.where(found, b, torch.ones_like(b)), torch.zeros_like(a))


def fuse(x_em: Value, z: Value, s: Value, beta: Value) -> torch.Tensor:
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


class _EMStep(torch.autograd.Function):
    """x, factors, background -> x m with m = L'(y / ybar) / s, where L v = factors A v and ybar = L x + background.

    With q = y / ybar^2 and w = g x / s for a gradient g of the result::

        g_x = m g - L'(q L w),    g_background = -q L w,    g_factors = (q background - 1 m) A w, of which "1 m" stands
        for - A(w m), the part of s = L'1.

    m (an image) and q (of the size of the data) are kept, or made again from x with keep=False.
    """

    @staticmethod
    def forward(
        x: torch.Tensor, factors: Value, background: Value, likelihood: CountsLikelihood, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        m, q = _multiplier(x.detach(), likelihood)
        return x.detach() * m, *((m, q) if keep else (None, None))

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: tuple[object, ...]) -> None:
        ctx.likelihood = inputs[3]
        kept = [tensor for tensor in output[1:] if tensor is not None]
        ctx.mark_non_differentiable(*kept)
        ctx.set_materialize_grads(False)
        tensors = [value if isinstance(value, torch.Tensor) else None for value in inputs[:3]]
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: FunctionCtx, g: torch.Tensor | None, *_: object) -> tuple[torch.Tensor | None, ...]:
        x, factors, background, m, q = ctx.saved_tensors
        if g is None:
            return (None,) * 5
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():  # someone differentiates this gradient: once more, by plain operations
            inputs = [t for t, want in zip((x, factors, background), wanted) if want]
            found = iter(torch.autograd.grad(plain_step(x, ctx.likelihood), inputs, g, create_graph=True))
            return *(next(found) if want else None for want in wanted[:3]), None, None
        with torch.no_grad():
            if m is None:
                m, q = _multiplier(x, ctx.likelihood)
            return *_em_gradients(x, factors, background, m, q, g, ctx.likelihood, wanted), None, None


def _multiplier(x: torch.Tensor, likelihood: CountsLikelihood) -> tuple[torch.Tensor, torch.Tensor]:
    """Return m, 1 where nothing is seen, and q."""
    with torch.no_grad():
        ratio, q = likelihood.ratio_and_slope(x)
        s = likelihood.sensitivity_like(x)
        back = likelihood.model.adjoint(ratio)
        return divide_where(back, s, 1.0), q


def _em_gradients(
    x: torch.Tensor,
    factors: torch.Tensor | None,
    background: torch.Tensor | None,
    m: torch.Tensor,
    q: torch.Tensor,
    g: torch.Tensor,
    likelihood: CountsLikelihood,
    wanted: tuple[bool, ...],
) -> tuple[torch.Tensor | None, ...]:
    model, s = likelihood.model, likelihood.sensitivity_like(x)
    w = divide_where(g * x, s, 0.0)
    seen = q * model.linear(w)
    to_x = m * g - model.adjoint(seen) if wanted[0] else None
    to_factors = to_background = None
    if wanted[1] and factors is not None:
        part = q * model.background_like(q) * model.projected(w)
        if likelihood.sensitivity_has_factors:
            part = part - model.projected(w * m)
        to_factors = part.sum_to_size(factors.shape)
    if wanted[2] and background is not None:
        to_background = (-seen).sum_to_size(background.shape)
    return to_x, to_factors, to_background


def em_update(x: torch.Tensor, likelihood: CountsLikelihood, keep: bool = True) -> torch.Tensor:
    """Return one EM update whose gradients by image, factors and background cost one projection forth and back.

    Args:
        keep : hold one array of the size of the data until then; False makes it again.
    """
    model = likelihood.model
    others = (model.scale, getattr(likelihood, "data", None))
    if model.projector.has_parameters or any(getattr(values, "requires_grad", False) for values in others):
        return plain_step(x, likelihood)
    return _EMStep.apply(x, model.factors, model.background, likelihood, keep)[0]
