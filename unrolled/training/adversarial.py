"""Training against a discriminator: images that cannot be told from the targets, patch by patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .losses import Criterion, applied, mse


class WithDiscriminator(nn.Module):
    """A network and the discriminator that it is trained against, as one module for one optimiser.

    Args:
        generator : the network of interest; calling this module calls it.
        discriminator : images (N, 1, ...) -> scores, higher for what looks like a target, such as
            `patch_discriminator`.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return what the generator makes of the arguments."""
        return self.generator(*arguments, **named)


def patch_discriminator(dimensions: int = 2, widths: Sequence[int] = (16, 32)) -> nn.Sequential:
    """Return a discriminator of patches: strided convolutions (N, 1, ...) -> (N, 1, ...), a score for every patch.

    Args:
        dimensions : 2 or 3.
        widths : channels, one for each halving of the image; a patch has 4, 10, 22, ... voxels and the last
            convolution 2 of the halved ones more.

    Raises ValueError for other dimensions and no widths.

    Source: Isola et al. 2017 (PatchGAN), smaller and without normalisation.
    """
    if dimensions not in (2, 3) or not widths:
        raise ValueError(f"patch_discriminator has 2 or 3 dimensions and a width or more, got {dimensions}, {widths}")
    convolution = nn.Conv2d if dimensions == 2 else nn.Conv3d
    layers: list[nn.Module] = []
    for before, after in zip((1, *widths), widths):
        layers += [convolution(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, convolution(widths[-1], 1, 3, padding=1))


@dataclass(frozen=True)
class Adversarial:
    """The objective of a `WithDiscriminator`: near the target, and taken for one by the discriminator::

        G: criterion(x, t) - weight mean D(x)         D: mean max(0, 1 - D(t)) + mean max(0, 1 + D(x))

    x = generator(``*arguments``). Their sum is one number for one optimiser: D is held fixed in the first line and x in
    the second, so that each learns from its own line alone, and runs resume as exactly as any other.

    Args:
        weight : of the discriminator's opinion, beside the criterion.
        criterion : (image, target) -> one number.
        dimensions : of the discriminator; with 2 the slices z of images (..., x, y, z) are items of a batch.

    A batch is (arguments, target), as for `Supervised`.

    Raises TypeError for a model without discriminator, ValueError for other batches and a negative weight.

    Source: Isola et al. 2017 for the sum; the hinge of Lim & Ye 2017.
    """

    weight: float = 0.01
    criterion: Criterion = mse
    dimensions: int = 2

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"Adversarial: the weight must be 0 or more, got {self.weight}")
        if self.dimensions not in (2, 3):
            raise ValueError(f"Adversarial: dimensions are 2 or 3, got {self.dimensions}")

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(model, WithDiscriminator):
            raise TypeError(
                f"Adversarial trains a WithDiscriminator(network, discriminator), got {type(model).__name__}"
            )
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError("Adversarial takes batches (arguments, target)")
        arguments, target = batch
        image = applied(model.generator, arguments)
        held = {name: w.detach() for name, w in model.discriminator.state_dict(keep_vars=True).items()}
        opinion = _called(model.discriminator, held, self._folded(image)).mean()
        real, made = (model.discriminator(self._folded(x.detach())) for x in (target, image))
        hinge = nn.functional.relu(1 - real).mean() + nn.functional.relu(1 + made).mean()
        return self.criterion(image, target) - self.weight * opinion + hinge

    def _folded(self, images: Tensor) -> Tensor:
        if self.dimensions == 2:
            images = images.movedim(-1, -3)
        return images.reshape(-1, 1, *images.shape[-self.dimensions :])


def _called(module: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    result: Tensor = torch.func.functional_call(module, dict(weights), (x,))
    return result
