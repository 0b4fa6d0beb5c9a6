"""Applying a denoiser to an image of any array library, and the derivative of a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import nn

from emrecon.projectors.core.arrays import Array, array_namespace, as_real, is_torch, like, to_numpy

from ..networks.blocks import require_denoiser

ImageMap = Callable[..., Array]
"""Any map of images (..., x, y, z), called as D(x), D(x, sigma) or D(x, sigma, guide=...): a network or a function."""


def denoised(denoiser: ImageMap, x: Array, sigma: float | Array | None = None, guide: Array | None = None) -> Array:
    """Return D(x) in the library, device and precision of x.

    sigma and guide are passed on where they are given. A torch module runs in evaluation mode and in its own precision,
    on host arrays too; tensors carry gradients.

    Raises TypeError for a layer of torch, which wants an axis of channels, and for a result that is not an array;
    ValueError for one of another shape or with NaN or infinity.
    """
    require_denoiser(denoiser, "the denoiser")
    guides: dict[str, object] = {} if guide is None else {"guide": guide}
    given: tuple[object, ...] = (x,) if sigma is None else (x, sigma)
    if isinstance(denoiser, nn.Module):
        given = tuple(_entering(denoiser, value) for value in given)
        guides = {name: _entering(denoiser, value) for name, value in guides.items()}
    with evaluating(denoiser):
        z = denoiser(*given, **guides)
    if not hasattr(z, "shape") or not hasattr(z, "dtype"):
        raise TypeError(f"the denoiser {name_of(denoiser)} must return an array, but returned {type(z).__name__}")
    if tuple(z.shape) != tuple(x.shape):
        raise ValueError(
            f"the denoiser {name_of(denoiser)} returned {tuple(z.shape)} for an image of {tuple(x.shape)}; images have "
            "no channel axis"
        )
    xp = array_namespace(z)
    if not bool(xp.all(xp.isfinite(z))):
        n = int((~np.isfinite(to_numpy(z))).sum())
        raise ValueError(
            f"the denoiser {name_of(denoiser)} returned NaN or infinite values in {n} of {math.prod(z.shape)} voxels: "
            "was it made for images of another scale?"
        )
    return like(z, x)


def transposed_jacobian(
    denoiser: ImageMap, x: Array, v: Array, sigma: float | Array | None = None, guide: Array | None = None
) -> torch.Tensor:
    """Return J'v, J the derivative of a denoiser at x, of the shape of x; torch only.

    Raises NotImplementedError for other arrays, and ValueError where autograd does not see the denoiser.
    """
    if not is_torch(x):
        raise NotImplementedError(f"the derivative of {name_of(denoiser)} needs torch tensors")
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.as_tensor(x).detach().clone().requires_grad_()
        z = torch.as_tensor(denoised(denoiser, leaf, sigma, guide))
        if not z.requires_grad:
            raise ValueError(f"the denoiser {name_of(denoiser)} lets no gradient through: does it leave torch?")
        (product,) = torch.autograd.grad(z, leaf, torch.as_tensor(v).detach().clone())
    return product


@contextmanager
def evaluating(network: object) -> Iterator[None]:
    """Hold a torch module in evaluation mode (no dropout, fixed batch statistics); afterwards it is as it was."""
    training = [m for m in network.modules() if m.training] if isinstance(network, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def name_of(denoiser: object) -> str:
    """Return the name of a function or of the class of an object, for messages."""
    return getattr(denoiser, "__name__", None) or type(denoiser).__name__


def _entering(network: nn.Module, value: object) -> object:
    """Return an image, sigma or guide in the precision of a network, and on its device where it is not a tensor yet."""
    known = next((p for p in network.parameters() if p.is_floating_point()), None)
    if isinstance(value, torch.Tensor):
        return value if known is None or not value.is_floating_point() else value.to(known.dtype)
    if not hasattr(value, "shape") or not value.shape:
        return value
    tensor = torch.as_tensor(np.ascontiguousarray(as_real(to_numpy(cast(Array, value)))))
    return tensor if known is None else tensor.to(known)
