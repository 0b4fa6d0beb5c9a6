"""Objectives and pairs of images for networks that enhance: side outputs, diffusion, and images of several doses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array

from ..enhancement import Enhancer
from ..networks.diffusion import ConditionalDiffusion
from ..networks.guides import mean_scale
from .losses import Criterion, lesion_weight, mse
from .names import unwrapped


@dataclass(frozen=True)
class DeepSupervision:
    """The objective final criterion(image, t) + sum_k w_k criterion(side_k, t), of a network with side outputs::

        loss = sum_k w_k l(side_k, t) + w_f l(image, t)

    Args:
        criterion : l, (image, target, weight) -> one number.
        sides : w_k, one number for all or one for each, the finest first.
        final : w_f.

    A batch is (arguments, target) or (arguments, target, weight), as for `Supervised`; the model is an `Enhancer`
    whose body has `outputs`: U2-Net, coupled U-Nets. In use only the image is made.

    Raises ValueError for other batches, a network without side outputs, and another number of weights.

    Source: Lee et al. 2015, AISTATS; Qin et al. 2020 and Pan et al. 2022 (six sides; their weights are not published, 1
    is ours).
    """

    criterion: Criterion = mse
    sides: float | tuple[float, ...] = 1.0
    final: float = 1.0

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise ValueError("DeepSupervision takes batches (arguments, target) or (arguments, target, weight)")
        arguments, target, *weight = batch
        image, *sides = model(**named(arguments), every=True)
        weights = (self.sides,) * len(sides) if isinstance(self.sides, (int, float)) else self.sides
        if len(weights) != len(sides):
            raise ValueError(f"DeepSupervision has {len(weights)} weights, the network {len(sides)} side outputs")
        parts = [w * self.criterion(side, target, *weight) for w, side in zip(weights, sides) if w]
        return torch.stack([self.final * self.criterion(image, target, *weight), *parts]).sum()


@dataclass(frozen=True)
class Diffusing:
    """The objective of an `Enhancer` with a `ConditionalDiffusion` inside: find the noise in noisy targets.

    A batch is (arguments, target); images and targets are divided by the scale of the image, as in use.

    Raises TypeError for other models, ValueError for other batches.

    Source: Ho et al. 2020, NeurIPS.
    """

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        inner = unwrapped(model)
        if not (isinstance(inner, Enhancer) and isinstance(inner.body, ConditionalDiffusion)):
            raise TypeError(f"Diffusing trains an Enhancer with a ConditionalDiffusion, got {type(inner).__name__}")
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError("Diffusing takes batches (arguments, target), without a weight")
        arguments, target = named(batch[0]), batch[1]
        channels, c = inner.channels(**arguments)
        shown = target if c is None else target / torch.where(c > 0, c, torch.ones_like(c))
        if inner.dimensions == 2:
            shown = shown.movedim(-1, -3)
        wanted = shown.reshape(-1, 1, *shown.shape[-inner.dimensions :])
        random = torch.Generator().manual_seed(0) if generator is None else generator
        return inner.body.noise_loss(channels, wanted, random)


@dataclass(frozen=True, eq=False)
class ImagePairs:
    """What makes training pairs of reconstructed samples: prepare(samples) -> ({"x": image, "guide": g}, target).

    Images of the lower dose go in, at one level of counts or at several at once, and each target stands for all of
    them. Image and target are divided by the `mean_scale` of the image, so that losses weigh all patients alike and
    know no units. With `lesions` a third part is the weight image `lesion_weight(mask, lesions, blur)`. All tensors are
    float32 on one device.

    Args:
        shape : of the images, (x, y, z); samples leave out an axis of one slice, and that of one level.
        levels : of the samples' "reconstruction", (B, levels, x, y, z).
        inputs : levels that go in, each becomes items of the batch (default: the lowest).
        guides : names of the fields beside the image, such as ("ct",) or ("guide", "mu").
        target : "truth", or "reconstruction", the image of the highest level.
        lesions : what the mask of the field "lesions" adds to the weight 1: 100 of Pan et al. 2022, 9 of the weighted
            residual network; None for no weight.
        blur : of the mask, standard deviation in voxels.
        device : where tensors go.

    Raises ValueError for levels that are not there, and samples without a field that is needed.
    """

    shape: Sequence[int]
    levels: Sequence[float] = (1.0,)
    inputs: Sequence[float] | None = None
    guides: Sequence[str] = ()
    target: Literal["truth", "reconstruction"] = "reconstruction"
    lesions: float | None = None
    blur: float = 0.0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        wrong = [level for level in self.inputs or () if level not in self.levels]
        if wrong:
            raise ValueError(f"ImagePairs: level {wrong[0]:g} is not among the levels {list(self.levels)}")
        if self.target not in ("truth", "reconstruction"):
            raise ValueError(f'ImagePairs: target must be "truth" or "reconstruction", got {self.target!r}')

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that it reads of a sample."""
        target = ("truth",) if self.target == "truth" else ()
        return ("reconstruction", *self.guides, *target, *(("lesions",) if self.lesions is not None else ()))

    def __call__(self, samples: Mapping[str, Array]) -> tuple[Any, ...]:
        """Return (arguments of the network, target), or with the weight, of B items for each level that goes in."""
        images = self._images(samples, "reconstruction", len(self.levels))
        chosen = (min(self.levels),) if self.inputs is None else self.inputs
        x = torch.cat([images[:, list(self.levels).index(level)] for level in chosen])
        scale = mean_scale(x)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        full = images[:, int(np.argmax(self.levels))]
        target = full if self.target == "reconstruction" else self._images(samples, "truth")[:, 0]
        arguments = {"x": x / scale}
        if self.guides:
            guides = [self._images(samples, name)[:, 0] for name in self.guides]
            shown = torch.stack(guides, -4) if len(guides) > 1 else guides[0]
            arguments["guide"] = self._for_each(shown, len(chosen))
        pair = (arguments, self._for_each(target, len(chosen)) / scale)
        if self.lesions is None:
            return pair
        mask = self._images(samples, "lesions")[:, 0].clamp(0, 1)
        return (*pair, self._for_each(lesion_weight(mask, self.lesions, self.blur), len(chosen)))

    def _images(self, samples: Mapping[str, Array], name: str, n: int = 1) -> Tensor:
        """A field as (B, n, x, y, z)."""
        if name not in samples:
            raise ValueError(
                f"ImagePairs: the samples have no field {name!r}, only {', '.join(samples)}; is it among the outputs "
                "of the recipe?"
            )
        found = torch.as_tensor(samples[name]).to(self.device, torch.float32)
        if found[0].numel() != n * math.prod(self.shape):
            raise ValueError(
                f"ImagePairs: {name!r} has shape {tuple(found.shape[1:])}, and {n} images of {tuple(self.shape)} are "
                "expected"
            )
        return found.reshape(-1, n, *self.shape)

    @staticmethod
    def _for_each(values: Tensor, n: int) -> Tensor:
        return values.repeat(n, *[1] * (values.ndim - 1)) if n > 1 else values


def named(arguments: object) -> dict[str, Any]:
    """Return the arguments of a denoiser by name: of an image, (image,), (image, sigma), or a mapping as it is."""
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if isinstance(arguments, (tuple, list)):
        return dict(zip(("x", "sigma"), arguments))
    return {"x": arguments}
