"""Criteria of images beyond squared errors: Charbonnier, edges, channels of an observer, features of an encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from emrecon.recon.observers import difference_of_gaussians, laguerre_gauss_channels

from ..networks.blocks import seeded
from .losses import checked, weighted_mean

_SOBEL = (torch.tensor([1.0, 2.0, 1.0]) / 4, torch.tensor([-1.0, 0.0, 1.0]) / 2)


def charbonnier(image: Tensor, target: Tensor, weight: Tensor | None = None, *, epsilon: float = 1e-3) -> Tensor:
    """Return the mean over voxels and items of w sqrt((image - target)^2 + epsilon^2): l1 that is smooth at 0.

    Args:
        epsilon : in the unit of the images; of images over their mean 1e-3, as in the source.  Weight and errors as in
            `mse`.

    Source: Charbonnier et al. 1994; Jang et al. 2024 (PET).
    """
    return weighted_mean(((image - checked(image, target)) ** 2 + epsilon**2).sqrt(), weight)


def sobel_loss(image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean over voxels, items and axes of w ``|S image - S target|``, S the Sobel derivative along an axis.

    Axes of one voxel have none; borders are repeated.  Weight and errors as in `mse`.

    Source: Sobel 1968; Xie et al. 2023 (partial volume correction).
    """
    difference = image - checked(image, target)
    axes = [axis for axis in (-3, -2, -1) if difference.shape[axis] > 1]
    if not axes:
        raise ValueError(f"sobel_loss: images of {tuple(image.shape[-3:])} have no axis with two voxels")
    parts = [weighted_mean(_derivative(difference, axis, axes).abs(), weight) for axis in axes]
    return torch.stack(parts).mean()


@dataclass(frozen=True)
class ObserverLoss:
    """The criterion by which a channelised observer, at every place, sees in an image what it sees in the target::

        mean over places of w sum_c (v_c(image) - v_c(target))^2 / mean v_c(target)^2,     v_c = u_c * image

    u_c are the observer's channels, moved to every voxel (of slices, in x and y); with a template t, the Hotelling
    template of a `ChannelisedHotelling` trained on such images, the test statistic sum_c t_c v_c stands in the place of
    the channels. What the observer decides by is kept, whatever squared errors prefer; give it a part in a
    `WeightedSum`, and a weight that is 1 where lesions may be and 0 elsewhere to look there alone.

    Args:
        kind : "gauss", the Laguerre-Gauss channels of signals that are alike from all sides, or "dog", the sparse
            differences of Gaussians of human observers.
        size : voxels of an edge of the channels, odd.
        width : of Laguerre-Gauss channels, in voxels; about 2.5 times the standard deviation of the lesion.
        n : Laguerre-Gauss channels.
        volume : whether channels reach over slices.
        template : one number for each channel, or None.

    Raises ValueError for an even size and a template of another length.

    Source: Rahman et al. 2024 (DEMIST: channels of an anthropomorphic observer in the loss); Ouyang et al. 2019 (a task
    of its own in the loss); `recon.observers` for the channels.
    """

    kind: str = "gauss"
    size: int = 15
    width: float = 6.0
    n: int = 4
    volume: bool = False
    template: tuple[float, ...] | None = None
    _kernels: dict[tuple[torch.dtype, torch.device], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in ("gauss", "dog"):
            raise ValueError(f'ObserverLoss: kind must be "gauss" or "dog", got {self.kind!r}')
        if self.size < 3 or self.size % 2 == 0:
            raise ValueError(f"ObserverLoss: size must be odd and 3 or more, got {self.size}")
        if self.template is not None and len(self.template) != len(self._made()):
            raise ValueError(
                f"ObserverLoss: {len(self._made())} channels need a template of as many numbers, got "
                f"{len(self.template)}"
            )

    def __call__(self, image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        seen, wanted = self.outputs(image), self.outputs(checked(image, target))
        size = (wanted.detach() ** 2).flatten(2).mean(-1)[..., None, None, None].mean(0, keepdim=True)
        errors = ((seen - wanted) ** 2 / size.clamp(min=torch.finfo(size.dtype).tiny)).sum(1)
        return weighted_mean(errors.reshape(image.shape), weight)

    def outputs(self, images: Tensor) -> Tensor:
        """Return what the channels see at every place, (..., x, y, z) -> (N, channels, x, y, z); 1 with a template."""
        kernels = self._of(images)
        flat = images.reshape(-1, 1, *images.shape[-3:])
        return functional.conv3d(flat, kernels, padding=tuple(n // 2 for n in kernels.shape[2:]))

    def _of(self, images: Tensor) -> Tensor:
        key = (images.dtype, images.device)
        if key not in self._kernels:
            kernels = self._made()
            if self.template is not None:
                t = torch.tensor(self.template, dtype=kernels.dtype).reshape(-1, 1, 1, 1, 1)
                kernels = (t * kernels).sum(0, keepdim=True)
            self._kernels[key] = kernels.to(dtype=images.dtype, device=images.device)
        return self._kernels[key]

    def _made(self) -> Tensor:
        shape = (self.size,) * 3 if self.volume else (self.size, self.size)
        if self.kind == "gauss":
            matrix = laguerre_gauss_channels(shape, self.width, self.n)
        else:
            matrix = difference_of_gaussians(shape)
        kernels = torch.as_tensor(matrix.T.copy()).reshape(-1, 1, *shape)
        return kernels if self.volume else kernels[..., None]


class FeatureEncoder(nn.Module):
    """Convolutions whose features a perceptual loss compares, small enough to be trained in a minute; no downloads.

    On each level convolution, ReLU, convolution, ReLU, and images halved in between; `train_encoder` trains it as the
    encoder of a denoising autoencoder. Without training it compares random features, which is better than none (Ulyanov
    et al. 2018 say why).

    Args:
        dimensions : 2 or 3.
        widths : channels of the levels.
        seed : of the first weights.
    """

    def __init__(self, dimensions: int = 2, widths: Sequence[int] = (8, 16, 32), seed: int = 0) -> None:
        super().__init__()
        if dimensions not in (2, 3) or not widths:
            raise ValueError(f"FeatureEncoder has 2 or 3 dimensions and a width or more, got {dimensions}, {widths}")
        self.dimensions, self.widths = dimensions, tuple(widths)
        layer = nn.Conv2d if dimensions == 2 else nn.Conv3d
        with seeded(seed):
            self.levels = nn.ModuleList(
                nn.Sequential(layer(n, m, 3, padding=1), nn.ReLU(), layer(m, m, 3, padding=1), nn.ReLU())
                for n, m in zip((1, *widths), widths)
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of all levels of images (N, 1, ...), finest first."""
        found, inner = [], x
        for k, level in enumerate(self.levels):
            inner = level(inner if k == 0 else _halved(inner))
            found.append(inner)
        return found

    def folded(self, images: Tensor) -> Tensor:
        """(..., x, y, z) as the encoder takes it, (N, 1, ...): in 2-D slices are items."""
        if self.dimensions == 2:
            images = images.movedim(-1, -3)
        return images.reshape(-1, 1, *images.shape[-self.dimensions :])


class PerceptualLoss:
    """The criterion mean over levels of ``|F_l(image) - F_l(target)|^2 / |F_l(target)|^2``, F a frozen encoder.

    Images are divided by the mean of the target's ``|voxels|`` first, so that units do not matter. A weight is not
    possible, since features belong to no voxel: one that is given is refused.

    Args:
        encoder : such as `FeatureEncoder`, after `train_encoder`; it gives a list of features, and `folded` channels.

    Source: Johnson et al. 2016, ECCV, with an encoder of emission images in the place of VGG's.
    """

    def __init__(self, encoder: FeatureEncoder) -> None:
        self.encoder = encoder.eval().requires_grad_(False)

    def __call__(self, image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        if weight is not None:
            raise ValueError("PerceptualLoss compares features, which have no voxels to weigh; leave the weight out")
        unit = checked(image, target).abs().mean().clamp(min=torch.finfo(image.dtype).tiny)
        self.encoder.to(image.device)
        seen, wanted = (self.encoder(self.encoder.folded(x / unit).to(torch.float32)) for x in (image, target))
        parts = [((a - b) ** 2).mean() / (b**2).mean().clamp(min=1e-12) for a, b in zip(seen, wanted)]
        return torch.stack(parts).mean().to(image.dtype)


def train_encoder(
    encoder: FeatureEncoder, images: Callable[[int], Iterator[Tensor]], steps: int = 200, *, rate: float = 2e-3
) -> float:
    """Train an encoder on good images alone, with a decoder that takes noise away, and return the last loss.

    The image, over its mean, gets Gaussian noise of 0.3; a decoder, transposed convolutions, makes the image of the
    coarsest features. The decoder is dropped. The same from run to run.

    Args:
        images : epoch -> batches (B, x, y, z).
        steps : of Adam.

    Raises ValueError without images.
    """
    decoder = _decoder(encoder)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], rate)
    generator, value, epoch, done = torch.Generator().manual_seed(0), math.nan, 0, 0
    while done < steps:
        before = done
        for batch in images(epoch):
            x = encoder.folded(batch / batch.abs().mean().clamp(min=1e-12)).to(torch.float32)
            noisy = x + 0.3 * torch.randn(x.shape, generator=generator)
            made = decoder(encoder(noisy)[-1])[(..., *(slice(n) for n in x.shape[2:]))]
            loss = functional.mse_loss(made, x)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            value, done = float(loss.detach()), done + 1
            if done == steps:
                break
        if done == before:
            raise ValueError("train_encoder got no images")
        epoch += 1
    return value


def _decoder(encoder: FeatureEncoder) -> nn.Sequential:
    up = nn.ConvTranspose2d if encoder.dimensions == 2 else nn.ConvTranspose3d
    last = nn.Conv2d if encoder.dimensions == 2 else nn.Conv3d
    widths = encoder.widths[::-1]
    with seeded(1):
        layers: list[nn.Module] = []
        for n, m in pairwise(widths):
            layers += [up(n, m, 2, stride=2), nn.ReLU()]
        return nn.Sequential(*layers, last(widths[-1], 1, 3, padding=1))


def _halved(x: Tensor) -> Tensor:
    pool = functional.avg_pool2d if x.ndim == 4 else functional.avg_pool3d
    return pool(x, tuple(min(n, 2) for n in x.shape[2:]), ceil_mode=True)


def _derivative(x: Tensor, axis: int, axes: Sequence[int]) -> Tensor:
    """The Sobel derivative along an axis, smoothed along the others."""
    for other in axes:
        taps = _SOBEL[int(other == axis)].to(x)
        moved = x.movedim(other, -1)
        shape = moved.shape
        padded = functional.pad(moved.reshape(-1, 1, shape[-1]), (1, 1), mode="replicate")
        x = functional.conv1d(padded, taps[None, None]).reshape(shape).movedim(-1, other)
    return x
