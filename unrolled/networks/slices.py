"""Dilated convolutions of slices, with sub-pixel output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import unit


class DilatedNet(nn.Module):
    """Convolutions of several dilations beside each other, and sub-pixel convolution at the end: msfCNN.

        picture -> space to depth by `factor` -> blocks of conv3 with dilations 1, 2, 4, 8 side by side, joined by
        conv1, added to their input -> conv3 to factor^2 channels -> depth to space, added to the picture

    Args:
        in_channels : the picture, first, and what is beside it.
        width, n_blocks : channels, and blocks in a row.
        dilations : of the convolutions of a block.
        factor : pixels of a side that one place of the inner grid stands for; sizes that it does not divide are padded.

    Source: Jiao & Ourselin 2017, MICCAI workshop (multi-scale fully convolutional network for PET back projections).
    """

    dimensions = 2

    def __init__(
        self,
        in_channels: int = 1,
        *,
        width: int = 32,
        n_blocks: int = 4,
        dilations: Sequence[int] = (1, 2, 4, 8),
        factor: int = 2,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        if factor < 1 or n_blocks < 1 or not dilations or min(dilations) < 1:
            raise ValueError("DilatedNet needs a factor, a block and dilations of at least 1")
        self.in_channels, self.factor = in_channels, factor
        self.first = unit(2, in_channels * factor * factor, width, norm=norm)
        self.blocks = nn.ModuleList(_Scales(width, dilations, norm) for _ in range(n_blocks))
        self.last = nn.Conv2d(width, factor * factor, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, x, y) -> (N, 1, x, y)."""
        *_, nx, ny = x.shape
        pad = [0, -ny % self.factor, 0, -nx % self.factor]
        whole = nn.functional.pad(x, pad, mode="replicate") if any(pad) else x
        inner = self.first(nn.functional.pixel_unshuffle(whole, self.factor))
        for block in self.blocks:
            inner = inner + block(inner)
        made = nn.functional.pixel_shuffle(self.last(inner), self.factor)[..., :nx, :ny]
        return x[:, :1] + made


class _Scales(nn.Module):
    def __init__(self, width: int, dilations: Sequence[int], norm: str) -> None:
        super().__init__()
        self.scales = nn.ModuleList(nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.joined = unit(2, width * len(dilations), width, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.joined(torch.relu(torch.cat([scale(x) for scale in self.scales], 1)))
        return joined
