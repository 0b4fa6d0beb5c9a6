"""SPECTnet: data and attenuation map to a short code, and the code to an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .encoding import squared

_PLANS = {128: ((6, 2), (6, 2), (5, 2), (5, 2), (5, 1)), 64: ((6, 2), (6, 2), (5, 2), (5, 1))}
"""(kernel, stride) of the convolutions that leave one number of so many pixels; 128 as published."""


class CodeEncoder(nn.Module):
    """Convolutions without padding, each with ReLU and batch normalisation, down to one pixel of `code` channels.

    Args:
        size : pixels of the square input: 128 as published, five convolutions; 64 leaves one out.
        widths : channels of all but the last.

    Raises ValueError for a size that leaves more or less than one pixel, and for other numbers of widths.
    """

    def __init__(self, size: int, in_channels: int, code: int, widths: Sequence[int]) -> None:
        super().__init__()
        if size not in _PLANS:
            raise ValueError(f"CodeEncoder: size must be one of {', '.join(map(str, sorted(_PLANS)))}, got {size}")
        plan = _PLANS[size]
        if len(widths) != len(plan) - 1:
            raise ValueError(f"CodeEncoder: {size} pixels need {len(plan) - 1} widths, got {list(widths)}")
        channels = [in_channels, *widths, code]
        layers: list[nn.Module] = []
        for (kernel, stride), n, m in zip(plan, channels, channels[1:]):
            layers += [nn.Conv2d(n, m, kernel, stride), nn.ReLU(inplace=True), nn.BatchNorm2d(m)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, size, size) -> (N, code)."""
        code: Tensor = self.layers(x)
        return code.flatten(1)


class CodeDecoder(nn.Module):
    """Two fully connected layers with sigmoids from a code to a picture, and three convolutions that finish it.

    256 numbers through 2048 to 128 x 128 have 34,097,152 weights.
    """

    def __init__(self, size: int, code: int, hidden: int, width: int) -> None:
        super().__init__()
        self.size = size
        self.connected = nn.Sequential(
            nn.Linear(code, hidden), nn.Sigmoid(), nn.Linear(hidden, size * size), nn.Sigmoid()
        )
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, 1, 3, padding=1),
        )

    def forward(self, code: Tensor) -> Tensor:
        """(N, code) -> (N, 1, size, size)."""
        image: Tensor = self.convolutions(self.connected(code).reshape(-1, 1, self.size, self.size))
        return image


class SPECTNet(nn.Module):
    """The body of SPECTnet, (N, 1, views, bins) and mu (N, 1, x, y) -> (N, 1, x, y).

    Views are wrapped, view V + k is view k, to as many as there are pixels; fewer views than 15/16 of them are
    interpolated to that number first (120 for 128). Bins beyond the pixels are left out, missing ones are zeros.

    Args:
        size : pixels of the image, and of the square picture that the encoder sees.
        code, hidden : numbers of the code and of the first fully connected layer.
        widths : channels of the encoder but its last; the publication says the first, 64, and the last, `code`, and the
            rest is ours.
        width : channels of the two convolutions after the fully connected layers; ours.
        attenuation : whether the map is a channel beside the data.

    `encode_image` and the decoder are the autoencoder of the first stage of training.

    Source: Shao, Rowe & Du 2021, Ann Transl Med 9:820.
    """

    dimensions = 2

    def __init__(
        self,
        size: int = 128,
        *,
        code: int = 256,
        hidden: int = 2048,
        widths: Sequence[int] | None = None,
        width: int = 32,
        attenuation: bool = True,
    ) -> None:
        super().__init__()
        inner = widths if widths is not None else (64, 128, 256, 256)[: len(_PLANS.get(size, ())) - 1]
        self.size, self.code, self.attenuation = size, code, attenuation
        self.data_encoder = CodeEncoder(size, 2 if attenuation else 1, code, inner)
        self.image_encoder = CodeEncoder(size, 1, code, inner)
        self.decoder = CodeDecoder(size, code, hidden, width)

    def encode(self, data: Tensor, mu: Tensor | None = None) -> Tensor:
        """Return the code (N, code) of data and map."""
        picture = squared(data, self.size)
        if not self.attenuation:
            return self._code(self.data_encoder, picture)
        if mu is None or mu.shape[-2:] != picture.shape[-2:]:
            raise ValueError(f"SPECTNet: a map of {self.size} x {self.size} pixels is needed beside the data")
        return self._code(self.data_encoder, torch.cat([picture, mu], 1))

    def encode_image(self, image: Tensor) -> Tensor:
        """Return the code (N, code) of images (N, 1, x, y), as the autoencoder has it."""
        return self._code(self.image_encoder, image)

    def forward(self, data: Tensor, mu: Tensor | None = None) -> Tensor:
        """Return the image (N, 1, x, y)."""
        image: Tensor = self.decoder(self.encode(data, mu))
        return image

    def _code(self, encoder: nn.Module, picture: Tensor) -> Tensor:
        code: Tensor = encoder(picture)
        return code


class Autoencoder(nn.Module):
    """Image encoder and decoder of a `SPECTNet`, images (..., x, y, z) to images: the first stage of training."""

    def __init__(self, body: SPECTNet) -> None:
        super().__init__()
        self.encoder, self.decoder = body.image_encoder, body.decoder

    @property
    def networks(self) -> list[nn.Module]:
        """The encoder and the decoder."""
        return [self.encoder, self.decoder]

    def forward(self, x: Tensor) -> Tensor:
        """Return the images as the code keeps them."""
        folded = x.movedim(-1, 0).reshape(-1, 1, *x.shape[-3:-1])
        made: Tensor = self.decoder(self.encoder(folded))
        lead, n_slices = x.shape[:-3], x.shape[-1]
        return made.reshape(n_slices, *lead, *x.shape[-3:-1]).movedim(0, -1)


def connected_parameters(size: int = 128, code: int = 256, hidden: int = 2048) -> int:
    """Return how many numbers the two fully connected layers have: 34,097,152 as published."""
    return code * hidden + hidden + hidden * size * size + size * size
