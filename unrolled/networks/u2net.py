"""U2-Net: a U-Net whose every level is a small U-Net, with side outputs on six scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import convolution, unit

N_SIDES = 6


class _Level(NamedTuple):
    """A nested U-Net: its depth (0: dilated convolutions on one scale), and its channels."""

    depth: int
    middle: int
    out: int


_ENCODER = (
    _Level(7, 32, 64),
    _Level(6, 32, 128),
    _Level(5, 64, 256),
    _Level(4, 128, 512),
    _Level(0, 256, 512),
    _Level(0, 256, 512),
)
_DECODER = (_Level(0, 256, 512), _Level(4, 128, 256), _Level(5, 64, 128), _Level(6, 32, 64), _Level(7, 16, 64))
_DEPTHS = tuple(level.depth for level in (*_ENCODER, *_DECODER))


class ResidualUBlock(nn.Module):
    """The RSU block of U2-Net, f + U(f) with f = ConvBNReLU(x) and a U-Net U of `depth` levels.

    U halves the image depth - 2 times by the maximum of 2 voxels, ends in a convolution of dilation 2, and goes up by
    interpolation and concatenation. depth 0 is its dilated form: four scales of dilations 1, 2, 4 and 8 in place of
    halving.

    Args:
        in_channels, middle, out_channels : of the block; U has `middle` channels inside.
        norm : "batch", "instance", "group" or "none".

    Source: Qin et al. 2020, Pattern Recognit 106:107404, figure 2 and 5.
    """

    def __init__(
        self, dimensions: int, in_channels: int, middle: int, out_channels: int, depth: int, norm: str
    ) -> None:
        super().__init__()
        self.dilated = depth == 0
        n = 4 if self.dilated else depth

        def layer(a: int, b: int, dilation: int = 1) -> nn.Sequential:
            return unit(dimensions, a, b, norm=norm, dilation=dilation)

        down = [2**k if self.dilated else 1 for k in range(n - 1)]
        self.first = layer(in_channels, out_channels)
        self.down = nn.ModuleList(layer(out_channels if k == 0 else middle, middle, d) for k, d in enumerate(down))
        self.bottom = layer(middle, middle, 8 if self.dilated else 2)
        up = down[::-1] if self.dilated else [1] * (n - 1)
        self.up = nn.ModuleList(layer(2 * middle, out_channels if k == n - 2 else middle, d) for k, d in enumerate(up))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, out_channels, ...), of any size."""
        first = self.first(x)
        features, skips = first, []
        for k, layer in enumerate(self.down):
            features = layer(features if k == 0 or self.dilated else _halved(features))
            skips.append(features)
        features = self.bottom(features)
        for layer in self.up:
            skip = skips.pop()
            features = layer(torch.cat([_sized(features, skip), skip], 1))
        return first + features


class U2Net(nn.Module):
    """U2-Net with a long skip from the image, (N, in_channels, ...) -> (N, 1, ...).

    Six encoders RSU-7, 6, 5, 4 and two dilated ones, halved in between, and five decoders, with concatenated skips. A
    side output of each of the six scales, a convolution to one channel and interpolation; one more convolution joins
    them. The image, channel 0, is added to each and to the joined one, so that the network learns what is missing from
    it. No sigmoid.

    Args:
        lite : 64 channels on every scale and 16 inside the blocks, U2-Net+.
        width : channels inside the lite form's blocks, or 64ths of all channels of the full one; for smaller networks.
        norm : "batch" as published, "instance", "group" or "none".

    44,009,293 parameters in 2-D with two channels, lite 1,130,605; with one channel 576 less.

    Source: Qin et al. 2020, Pattern Recognit 106:107404; Pan et al. 2022, EJNMMI Phys 9:64 (bone SPECT with CT, long
    skip, no sigmoid).
    """

    def __init__(
        self,
        dimensions: int = 2,
        in_channels: int = 1,
        *,
        lite: bool = False,
        width: int | None = None,
        norm: str = "batch",
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.multiple = (1,) * dimensions
        self.least = 2 ** (N_SIDES - 1) if norm == "instance" else 0
        encoder, decoder = _levels(lite, width)
        before = [in_channels, *(level.out for level in encoder[:-1])]
        self.encoders = nn.ModuleList(
            ResidualUBlock(dimensions, a, level.middle, level.out, level.depth, norm)
            for a, level in zip(before, encoder)
        )
        below = [encoder[-1].out, *(level.out for level in decoder[:-1])]
        beside = [level.out for level in encoder[-2::-1]]
        self.decoders = nn.ModuleList(
            ResidualUBlock(dimensions, a + b, level.middle, level.out, level.depth, norm)
            for a, b, level in zip(below, beside, decoder)
        )
        shown = [level.out for level in (*decoder[::-1], encoder[-1])]  # finest first
        self.sides = nn.ModuleList(convolution(dimensions, n, 1) for n in shown)
        self.joined = convolution(dimensions, N_SIDES, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined image."""
        return self.outputs(x)[0]

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the joined image and the six side outputs, the finest first, each (N, 1, ...).

        Raises ValueError for images whose coarsest scale is one voxel, which norm="instance" cannot normalise.
        """
        if max(x.shape[2:]) <= self.least:
            raise ValueError(
                f'U2Net with norm="instance" needs more than {self.least} voxels along an axis, got images of '
                f'{tuple(x.shape[2:])}; choose norm="group" or "batch"'
            )
        features, skips = x, []
        for k, encoder in enumerate(self.encoders):
            features = encoder(features if k == 0 else _halved(features))
            skips.append(features)
        scales = [skips.pop()]
        for decoder in self.decoders:
            skip = skips.pop()
            scales.append(decoder(torch.cat([_sized(scales[-1], skip), skip], 1)))
        sides = [_sized(side(scale), x) for side, scale in zip(self.sides, scales[::-1])]
        images = [self.joined(torch.cat(sides, 1)), *sides]
        made = [x[:, :1] + image for image in images]
        return tuple(image.relu() if self.non_negative else image for image in made)


def _levels(lite: bool, width: int | None) -> tuple[Sequence[_Level], Sequence[_Level]]:
    if width is not None and width < 1:
        raise ValueError(f"U2Net: width must be 1 or more, got {width}")
    if lite:
        inner = 16 if width is None else width
        levels = [_Level(depth, inner, 4 * inner) for depth in _DEPTHS]
    else:
        share = 1.0 if width is None else width / 64
        levels = [
            _Level(level.depth, max(1, round(share * level.middle)), max(1, round(share * level.out)))
            for level in (*_ENCODER, *_DECODER)
        ]
    return levels[:N_SIDES], levels[N_SIDES:]


def _halved(x: Tensor) -> Tensor:
    """The maximum of 2 voxels along each axis; axes of one voxel stay, and of odd ones the last is kept."""
    pool = functional.max_pool2d if x.ndim == 4 else functional.max_pool3d
    size = tuple(min(n, 2) for n in x.shape[2:])
    return pool(x, size, size, ceil_mode=True)


def _sized(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[2:] == like.shape[2:]:
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)
