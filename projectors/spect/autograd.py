"""Gradients with respect to the attenuation map of a SPECT projector; the only module of the room that needs torch."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Attenuated(Protocol):
    """What is asked of a projector with an attenuation map."""

    def _apply(self, x: Any) -> Any: ...
    @property
    def T(self) -> Any: ...
    def _attenuation_gradient(self, image: Any, views: Any) -> Any: ...


class _Attenuated(torch.autograd.Function):
    """(x, mu) -> A(mu) x, or A(mu)' x: linear in x, with the exact vector-Jacobian product for mu."""

    @staticmethod
    def forward(x: torch.Tensor, mu: torch.Tensor, operator: Attenuated, transposed: bool) -> torch.Tensor:
        return (operator.T if transposed else operator)._apply(x.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, mu, ctx.operator, ctx.transposed = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, mu)
        ctx.save_for_forward(mu)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, mu = ctx.saved_tensors
        by_x = by_mu = None
        if gradient is None:
            return None, None, None, None
        if ctx.needs_input_grad[0]:
            by_x = _Attenuated.apply(gradient, mu, ctx.operator, not ctx.transposed)
        if ctx.needs_input_grad[1]:
            image, views = (gradient, x) if ctx.transposed else (x, gradient)
            by_mu = _ByAttenuation.apply(image, views, mu, ctx.operator)
        return by_x, by_mu, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor | None, by_mu: torch.Tensor | None, *_: None) -> torch.Tensor:
        if by_mu is not None or tangent is None:
            raise NotImplementedError("forward derivatives by the attenuation map are not worked out; use backward()")
        (mu,) = ctx.saved_tensors
        result: torch.Tensor = _Attenuated.apply(tangent, mu, ctx.operator, ctx.transposed)
        return result

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: torch.Tensor, mu: torch.Tensor, operator: Attenuated, transposed: bool
    ) -> tuple[torch.Tensor, int]:
        if in_dims[1] is not None:
            raise NotImplementedError("vmap over attenuation maps; give the projector one map for each item instead")
        return _Attenuated.apply(x.movedim(in_dims[0], 0), mu, operator, transposed), 0


class _ByAttenuation(torch.autograd.Function):
    """The gradient of <views, A(mu) image> by mu."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, views: torch.Tensor, mu: torch.Tensor, operator: Attenuated) -> Any:
        return operator._attenuation_gradient(image.detach(), views.detach()).to(device=mu.device, dtype=mu.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        raise NotImplementedError("second derivatives by the attenuation map are not worked out")


def apply_attenuated(x: torch.Tensor, mu: torch.Tensor, operator: Attenuated, transposed: bool) -> torch.Tensor:
    """Apply a projector, or its transpose, so that its attenuation map gets a gradient, too."""
    result: torch.Tensor = _Attenuated.apply(x, mu, operator, transposed)
    return result
