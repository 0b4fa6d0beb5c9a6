"""Encoders that take data as a picture and decoders that make an image, for networks without a projector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import image_convolution, unit
from .pictures import centred_bins, resampled_views, wrapped


def squared(data: Tensor, size: int) -> Tensor:
    """Return data (N, channels, views, bins) as a square picture of whole turns: wrapped to `size` views and bins.

    Fewer views than 15/16 of the size are interpolated to that number first, so that views keep their place.
    """
    views = size * 15 // 16
    turned = data if views <= data.shape[2] <= size else resampled_views(data, views)
    return centred_bins(wrapped(turned, size - turned.shape[2]), size)


class EncoderDecoder(nn.Module):
    """Convolutions that halve a sinogram until it is small, and others that double it again until it is an image.

        encoder  stages of (conv, norm, ReLU); every stage but the first and the last begins with stride 2
        decoder  stages of (bilinear x 2, then conv, norm, ReLU), a last convolution, and resizing to the image

    The axes of the sinogram become those of the image by learning alone.

    Args:
        shape : (x, y) of the image.
        in_channels : of the data, and of images beside them, which are resized to the data's shape.
        encoder, decoder : channels and number of convolutions of each stage; kernels of the first two stages of the
            encoder are 7 and 5, all others 3.
        halved : how many stages of the encoder begin with stride 2, after the first.
        outputs : images that it makes.
        norm : "batch" as published, or "instance", "group", "none".

    Source: Haggstrom et al. 2019, Med Image Anal 54:253 (DeepPET).
    """

    dimensions = 2

    def __init__(
        self,
        shape: Sequence[int],
        in_channels: int = 1,
        *,
        encoder: Sequence[tuple[int, int]] = ((32, 2), (64, 2), (128, 3), (256, 3), (512, 3), (1024, 5)),
        decoder: Sequence[tuple[int, int]] = ((512, 3), (256, 3), (128, 3), (64, 2)),
        halved: int = 4,
        outputs: int = 1,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if not encoder or not decoder or min(n for _, n in (*encoder, *decoder)) < 1:
            raise ValueError("EncoderDecoder needs stages of at least one convolution in encoder and decoder")
        self.shape, self.in_channels = tuple(shape), in_channels
        layers: list[nn.Module] = []
        channels = in_channels
        for stage, (width, n) in enumerate(encoder):
            for k in range(n):
                kernel = {0: 7, 1: 5}.get(stage, 3)
                stride = 2 if k == 0 and 1 <= stage <= halved else 1
                layers.append(unit(2, channels, width, kernel, norm=norm, stride=stride))
                channels = width
        self.encoder = nn.Sequential(*layers)
        self.decoder = nn.ModuleList()
        for width, n in decoder:
            stage_layers = [unit(2, channels if k == 0 else width, width, norm=norm) for k in range(n)]
            self.decoder.append(nn.Sequential(*stage_layers))
            channels = width
        self.last = image_convolution(2, channels, non_negative=True)
        if outputs > 1:
            self.last = nn.Conv2d(channels, outputs, 3, padding=1)
            nn.init.ones_(self.last.bias)

    def forward(self, data: Tensor, beside: Tensor | None = None) -> Tensor:
        """(N, channels, views, bins), and images (N, n, x, y) beside -> (N, outputs, x, y)."""
        if beside is not None:
            data = torch.cat([data, _resized(beside, data.shape[-2:])], 1)
        if data.shape[1] != self.in_channels:
            raise ValueError(f"EncoderDecoder takes {self.in_channels} channels, got {data.shape[1]}")
        x = self.encoder(data)
        for stage in self.decoder:
            x = stage(functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))
        image: Tensor = self.last(_resized(x, self.shape))
        return image


class DenseInversion(nn.Module):
    """Two fully connected layers from all data to all pixels, and three convolutions: AUTOMAP.

        tanh(FC to n_hidden), tanh(FC to pixels), conv5 -> 64, ReLU, conv5 -> 64, ReLU, transposed conv7 -> 1

    The picture is padded by 4 zeros for the convolutions. While it learns, the data are multiplied by numbers within
    1 +- `jitter`.

    Args:
        n_data : numbers in the data of a slice.
        size : pixels of a side.
        n_hidden : of the first layer; default as many as there are pixels.
        width : channels.
        jitter : 0.01 as published.

    For k-space of 128 x 128 complex numbers it has 805 million parameters.

    Source: Zhu et al. 2018, Nature 555:487, and their public code.
    """

    dimensions = 2

    def __init__(
        self, n_data: int, size: int, *, n_hidden: int | None = None, width: int = 64, jitter: float = 0.01
    ) -> None:
        super().__init__()
        if not 0 <= jitter < 1:
            raise ValueError(f"DenseInversion: jitter must be at least 0 and below 1, got {jitter}")
        hidden = size * size if n_hidden is None else n_hidden
        self.n_data, self.size, self.jitter = n_data, size, jitter
        self.connected = nn.Sequential(nn.Linear(n_data, hidden), nn.Tanh(), nn.Linear(hidden, size * size), nn.Tanh())
        self.features = nn.Sequential(
            nn.ZeroPad2d(4),
            nn.Conv2d(1, width, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 5, padding=2),
            nn.ReLU(inplace=True),
        )
        self.last = nn.ConvTranspose2d(width, 1, 7, padding=3)
        nn.init.ones_(self.last.bias)

    def forward(self, data: Tensor) -> Tensor:
        """(N, channels, views, bins) -> (N, 1, size, size)."""
        flat = data.flatten(1)
        if flat.shape[1] != self.n_data:
            raise ValueError(f"DenseInversion takes {self.n_data} numbers of a slice, got {flat.shape[1]}")
        if self.training and self.jitter:
            flat = flat * (1 + self.jitter * (2 * torch.rand_like(flat) - 1))
        picture = self.connected(flat).reshape(-1, 1, self.size, self.size)
        image: Tensor = self.last(self.features(picture))[..., 4:-4, 4:-4]
        return image


def dense_parameters(n_data: int, size: int, n_hidden: int | None = None, width: int = 64) -> int:
    """Return how many numbers a `DenseInversion` learns, without making it."""
    with torch.device("meta"):
        made = DenseInversion(n_data, size, n_hidden=n_hidden, width=width)
    return sum(w.numel() for w in made.parameters())


def _resized(x: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(x.shape[-2:]) == tuple(shape):
        return x
    resized: Tensor = functional.interpolate(x, size=tuple(shape), mode="bilinear", align_corners=False)
    return resized
