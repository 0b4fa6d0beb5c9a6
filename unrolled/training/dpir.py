"""The loss of DPIR-Net: a critic by the Wasserstein distance, features of an encoder, and the squared error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .adversarial import Adversarial, WithDiscriminator
from .distributed import broadcast_weights, rank_and_size
from .image_losses import FeatureEncoder, PerceptualLoss, train_encoder
from .losses import applied, mse
from .records import read_checkpoint, write_checkpoint

_FEATURES = "features.pt"


@dataclass(frozen=True)
class DPIRLoss:
    """The objective of DPIR-Net, of a `WithDiscriminator` whose generator makes images of data::

        G: |x - t|^2 + perceptual P(x, t) - adversarial mean D(x)
        D: mean D(x) - mean D(t) + penalty mean (|grad D(m)| - 1)^2

    Images x and targets t are divided by the mean of the target first, so that scans of all counts weigh the same. P
    compares the features of an encoder, and m is a random mixture of images and targets. Critic and network take one
    step each, together (`Adversarial`); the publication lets the critic take several: give it a larger learning rate.

    Args:
        perceptual : the criterion of features.
        weight : of it.
        adversarial : weight of the critic's opinion.
        penalty : of the critic's gradient.
        dimensions : of the critic.

    A batch is (arguments, target), as for `Supervised`.

    Raises TypeError for a model without critic, ValueError for other batches and negative weights.

    Source: Hu et al. 2021, IEEE Trans Radiat Plasma Med Sci 5:35 (DPIR-Net); the weights are ours, and the features
    are those of the library's own encoder in the place of VGG's.
    """

    perceptual: PerceptualLoss
    weight: float = 0.1
    adversarial: float = 0.01
    penalty: float = 10.0
    dimensions: int = 2

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"DPIRLoss: the weight must be 0 or more, got {self.weight}")
        self._critic()  # which checks the others

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> Tensor:
        if not isinstance(model, WithDiscriminator):
            raise TypeError(f"DPIRLoss trains a WithDiscriminator(network, critic), got {type(model).__name__}")
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError("DPIRLoss takes batches (arguments, target)")
        arguments, target = batch
        image = applied(model.generator, arguments)
        unit = target.abs().mean((-3, -2, -1), keepdim=True).clamp(min=torch.finfo(target.dtype).tiny)
        x, t = image / unit, target / unit
        between = self._critic().between(model.discriminator, x, t, generator=generator)
        return mse(x, t) + self.weight * self.perceptual(x, t) + between

    def _critic(self) -> Adversarial:
        return Adversarial(self.adversarial, dimensions=self.dimensions, kind="wasserstein", penalty=self.penalty)


def features_of(
    images: Callable[[int], Iterator[Tensor]],
    dimensions: int,
    folder: str | os.PathLike[str] | None,
    steps: int = 200,
    device: torch.device | str = "cpu",
) -> FeatureEncoder:
    """Return an encoder of images for `PerceptualLoss`, trained on them as `train_encoder` does, and kept in a folder.

    A folder that has one gives that one, so that a training that goes on compares the same features. All ranks get the
    first one's.

    Args:
        images : epoch -> batches (B, x, y, z).
        folder : None keeps nothing.
    """
    encoder = FeatureEncoder(dimensions)
    path = None if folder is None else Path(folder) / _FEATURES
    if path is not None and path.exists():
        encoder.load_state_dict(read_checkpoint(path))
    else:
        train_encoder(encoder, lambda epoch: (batch.cpu() for batch in images(epoch)), steps)
    broadcast_weights(encoder.state_dict().values())
    if path is not None and rank_and_size()[0] == 0 and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, encoder.state_dict())
    return encoder.to(device)
