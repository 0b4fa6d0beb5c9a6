"""Losses of deepinv in the training loop: equivariant imaging, splitting and recorrupted data, without clean images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..networks.optional import optional_module
from .thinning import check_share

if TYPE_CHECKING:
    import deepinv


@dataclass(frozen=True)
class DeepinvLoss:
    """The objective of any deepinv loss, called as loss(x_net=, x=, y=, physics=, model=) in deepinv's conventions.

    Args:
        loss : such as what `equivariant` and `measurement_splitting` return, or a sum's part of your own.
        physics : a `deepinv.physics.Physics`.  A batch is y, or (y, x) for losses that compare with x; the model is
            called as model(y, physics), with channels-first data.

    Random numbers that the loss or the physics take from torch's global state belong to the step.
    """

    loss: deepinv.loss.Loss
    physics: deepinv.physics.Physics

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        y, x = batch if isinstance(batch, (tuple, list)) else (batch, None)
        adapted = self.loss.adapt_model(model)
        # a loss that splits or adds noise to the data remembers how, when asked to
        remember = "update_parameters" in inspect.signature(adapted.forward).parameters
        x_net = adapted(y, self.physics, update_parameters=True) if remember else adapted(y, self.physics)
        value: torch.Tensor = self.loss(x_net=x_net, x=x, y=y, physics=self.physics, model=adapted)
        return value.mean()


def equivariant(
    physics: deepinv.physics.Physics, transform: deepinv.transform.Transform, metric: nn.Module | None = None
) -> DeepinvLoss:
    """Return the equivariant-imaging objective of deepinv, ``|T x - model(A T x)|^2`` with x = model(y).

    Args:
        transform : T, such as `deepinv.transform.Rotate()`. It constrains only what the data do not see: add a data
            fit.

    Raises ImportError that names the extra where deepinv is missing.

    Source: Chen, Tachella & Davies 2021.
    """
    return DeepinvLoss(_deepinv("equivariant").loss.EILoss(transform, metric), physics)


def measurement_splitting(
    physics: deepinv.physics.Physics,
    data_shape: Sequence[int],
    kept: float = 0.9,
    metric: nn.Module | None = None,
) -> DeepinvLoss:
    """Return the measurement-splitting objective of deepinv, ``|y2 - A2 model(y1, A1)|^2`` of random halves of bins.

    Args:
        data_shape : (channels, ..., bins), of one item.
        kept : the part of the bins that the model sees.

    For counts `ThinnedNoise2Noise` splits the events instead, and no bin is missing.

    Raises ImportError that names the extra where deepinv is missing, ValueError for a part outside 0 to 1.
    """
    check_share(kept)
    theirs = _deepinv("measurement_splitting")
    masks = theirs.physics.generator.BernoulliSplittingMaskGenerator(tuple(data_shape), split_ratio=kept)
    return DeepinvLoss(theirs.loss.SplittingLoss(metric, split_ratio=kept, mask_generator=masks), physics)


def recorrupted(
    physics: deepinv.physics.Physics, alpha: float = 0.15, metric: nn.Module | None = None, n_evaluations: int = 5
) -> DeepinvLoss:
    """Return the recorrupted-to-recorrupted (R2R) objective of deepinv on data.

    Of Poisson noise it thins: y1 and y2 of shares 1 - alpha and alpha, ``|y2 / alpha - A model(y1 / (1 - alpha))|^2``;
    of Gaussian noise it adds more. `ThinnedNoise2Noise` does the first with this library's likelihoods, factors and
    background included, and with the Poisson loss.

    Args:
        physics : whose `noise_model` says what the noise is; that of `as_linear_physics` is Poisson.
        alpha : the share of the part that is predicted.
        n_evaluations : realisations over which deepinv averages in evaluation.

    deepinv compares with A x alone; the background of a `SystemPhysics` is added here, so that scatter and randoms are
    not taken for activity.

    Raises ImportError that names the extra where deepinv is missing, ValueError for an alpha outside 0 to 1.

    Source: Pang et al. 2021; Monroy, Bacca & Tachella 2025 for Poisson noise.
    """
    theirs = _deepinv("recorrupted")
    check_share(alpha)
    measured = _WithBackground(physics, nn.MSELoss() if metric is None else metric)
    loss = theirs.loss.R2RLoss(measured, noise_model=physics.noise_model, alpha=alpha, eval_n_samples=n_evaluations)
    return DeepinvLoss(loss, physics)


class _WithBackground(nn.Module):
    """A metric of data that adds the background, which the physics holds at that moment, to what is expected."""

    def __init__(self, physics: deepinv.physics.Physics, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric
        object.__setattr__(self, "_physics", physics)  # not a part of it

    def forward(self, expected: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
        """Return metric(expected + background, measured)."""
        background = getattr(self._physics, "background", None)
        known = expected if background is None else expected + background.to(expected)
        found: torch.Tensor = self.metric(known, measured)
        return found


def _deepinv(who: str) -> ModuleType:
    return optional_module("deepinv", who, "deepinv", "deepinv")
