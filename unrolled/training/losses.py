"""What training minimises: image losses, the Poisson data fit, and the objective that compares with targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from emrecon import recon
from emrecon.recon.likelihoods import Likelihood, knows_counts

from ..networks.scaling import counts_of

Criterion = Callable[..., torch.Tensor]
"""criterion(image, target, weight=None) -> one number; images (..., x, y, z)."""

Case: TypeAlias = tuple[object, torch.Tensor] | tuple[object, torch.Tensor, torch.Tensor]
"""(arguments of the model, target) or (arguments of the model, target, weight)."""

Result = TypeVar("Result")


# ---- image against target --------------------------------------------------------------------------------------------


def mse(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over voxels and items of w (image - target)^2.

    Args:
        weight : broadcasts to the images, such as `lesion_weight(mask)`; the mean is over all voxels, so that a weight
            above 1 somewhere changes nothing elsewhere.

    Raises ValueError for shapes that differ: broadcasting one image against a batch is rarely meant.
    """
    return weighted_mean((image - checked(image, target)) ** 2, weight)


def l1(image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Return the mean over voxels and items of w ``|image - target|``. Weight and errors as in `mse`."""
    return weighted_mean((image - checked(image, target)).abs(), weight)


def relative_mse(
    image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None, *, dimensions: int = 3
) -> torch.Tensor:
    """Return the mean over items of ``|image - target|^2 / |target|^2``: every count level and unit weighs the same.

    Args:
        dimensions : how many trailing axes make one item.  Weight and errors as in `mse`, and ValueError for an item
            whose target is zero everywhere.
    """
    axes = tuple(range(-dimensions, 0))
    scale = (checked(image, target) ** 2).mean(axes, keepdim=True)
    if not bool((scale > 0).all()):
        raise ValueError(
            "relative_mse: the target of an item is zero everywhere; is the image empty, or `dimensions` wrong?"
        )
    return weighted_mean((image - target) ** 2 / scale, weight)


def ssim_loss(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    data_range: float | None = None,
    dimensions: int = 3,
) -> torch.Tensor:
    """Return the mean over voxels and items of w (1 - SSIM), with the map of `recon.metrics.ssim_map`.

    Args:
        data_range : L; default: of every item the maximum of its target, so that the loss does not depend on units.
        dimensions : how many trailing axes make one item, (x, y, z); an axis of one voxel is not smoothed along, so 2-D
            images (x, y, 1) get the two-dimensional index. Computed in float64; all voxels count, mirrored at the
            edges.

    Raises ValueError for targets without activity (L would be 0), NaN, and as `mse` does.

    Source: Wang et al. 2004.
    """
    similarity = recon.ssim_map(image, checked(image, target), data_range=data_range, dimensions=dimensions)
    return weighted_mean(1 - similarity, weight).to(image.dtype)


@dataclass(frozen=True)
class WeightedSum:
    """The criterion sum of w_i * criterion_i, such as WeightedSum((1, l1), (0.5, ssim_loss))."""

    terms: tuple[tuple[float, Criterion], ...]

    def __init__(self, *terms: tuple[float, Criterion]) -> None:
        if not terms or not all(math.isfinite(factor) for factor, _ in terms):
            raise ValueError("WeightedSum needs (number, criterion) pairs with finite numbers, at least one")
        object.__setattr__(self, "terms", terms)

    def __call__(self, image: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        return torch.stack([factor * term(image, target, weight) for factor, term in self.terms]).sum()


def lesion_weight(mask: torch.Tensor, factor: float = 100.0, blur: float = 0.0) -> torch.Tensor:
    """Return the weight image 1 + factor * mask, by which lesions count more than the rest.

    Args:
        mask : (..., x, y, z) booleans or parts of voxels, 0 to 1.
        factor : 100 adds 100 l M to a loss l (Pan 2022); 9 with `blur` gives 10 in lesions and 1 outside, with soft
            edges.
        blur : standard deviation in voxels of a Gaussian that the mask is smoothed with along every axis longer than
            one voxel; edges are mirrored.

    Raises ValueError for values outside 0 to 1, and a negative factor or blur.
    """
    values = mask if mask.dtype == torch.float64 else mask.to(torch.float32)
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError("lesion_weight: the mask must hold booleans or parts of voxels between 0 and 1")
    if not (factor >= 0 and blur >= 0):
        raise ValueError(f"lesion_weight: factor and blur must not be negative, got {factor} and {blur}")
    return 1 + factor * (_blurred(values, blur) if blur > 0 else values)


def poisson_loss(image: torch.Tensor, likelihood: Likelihood) -> torch.Tensor:
    """Return how badly an image explains the counts, the mean over bins of ybar - y + y log(y / ybar).

    It is `likelihood.value` less its least possible value, per bin: 0 for ybar = y, about 1/2 for the true image. Of
    list-mode data: the value per event, without a zero point. Of any other likelihood: its value as it is.

    Args:
        image : (B, x, y, z) or (x, y, z) >= 0, in the unit of the likelihood's model.

    Raises ValueError where counts were measured but none are expected.
    """
    value = torch.as_tensor(likelihood.value(image))
    if not knows_counts(likelihood):
        return value.mean().to(image.dtype)
    shape = likelihood.model.projector.out_shape
    if likelihood.sensitivity_has_factors:  # all bins are known, those without counts too
        y = torch.as_tensor(counts_of(likelihood), device=value.device).to(torch.float64)
        value = value - (y - torch.xlogy(y, y)).sum(tuple(range(-len(shape), 0)))
    return (value / math.prod(shape)).mean().to(image.dtype)


def checked(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the target; raises ValueError where its shape is not that of the image."""
    if image.shape != target.shape:
        raise ValueError(f"a loss compares images of one shape, got {tuple(image.shape)} and {tuple(target.shape)}")
    return target


def weighted_mean(values: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of w * values over all voxels; raises ValueError for a weight that does not broadcast."""
    if weight is None:
        return values.mean()
    if torch.broadcast_shapes(values.shape, weight.shape) != values.shape:
        raise ValueError(
            f"a weight of shape {tuple(weight.shape)} does not broadcast to images of {tuple(values.shape)}"
        )
    return (weight.to(values.dtype) * values).mean()


def _blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    for axis in (-3, -2, -1):
        n = x.shape[axis]
        if n > 1:
            distance = torch.arange(n, dtype=x.dtype, device=x.device)
            distance = distance[:, None] - torch.cat([distance, -1 - distance, 2 * n - 1 - distance])
            taps = torch.exp(-0.5 * (distance / sigma) ** 2).unflatten(1, (3, n)).sum(1)
            x = torch.moveaxis(torch.moveaxis(x, axis, -1) @ (taps / taps.sum(1, keepdim=True)).T, -1, axis)
    return x


# ---- objectives: what `train` calls as loss(model, batch, generator) -------------------------------------------------


@dataclass(frozen=True)
class Supervised:
    """The objective criterion(model(``*arguments``), target, weight).

    A batch is (arguments, target) or (arguments, target, weight). Arguments are what the model takes: a tensor or a
    likelihood, a tuple of positional or a mapping of named ones, such as {"likelihood": f, "guide": mr}.
    """

    criterion: Criterion = mse

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError("Supervised takes batches (arguments, target) or (arguments, target, weight)")
        return self.criterion(applied(model, batch[0]), *batch[1:])


def applied(model: Callable[..., Result], arguments: object) -> Result:
    """Return `model(*arguments)` for a tuple, `model(**arguments)` for a mapping, and `model(arguments)` otherwise."""
    if isinstance(arguments, Mapping):
        return model(**arguments)
    return model(*arguments) if isinstance(arguments, (tuple, list)) else model(arguments)
