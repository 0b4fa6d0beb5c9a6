"""Networks that make one slice of several: 2.5-D denoisers, and dilated ones with sub-pixel output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array

from .blocks import unit
from .guides import GuideScale, check_scale, guide_channels


class SliceDenoiser(nn.Module):
    """A denoiser whose body sees each slice with its neighbours: 2.5-D, `denoiser(x, sigma=None, guide=None)`.

    Args:
        body : (N, slices * (1 + guides), x, y) -> (N, 1, x, y), the middle slice first among its channels.
        n_slices : slices that it sees, odd; 5 are two on each side. Beyond the ends the last slice repeats.
        n_guides, guide_scale : as of `NetworkDenoiser`; of guides it sees the same slices.

    Raises ValueError for an even number of slices and guides that do not fit.

    Source: Dietze et al. 2019, Phys Med Biol 64:135013 (five slices).
    """

    dimensions = 2

    def __init__(self, body: nn.Module, n_slices: int = 5, n_guides: int = 0, guide_scale: GuideScale = "max") -> None:
        super().__init__()
        if n_slices < 1 or n_slices % 2 == 0:
            raise ValueError(f"SliceDenoiser: n_slices must be odd, got {n_slices}")
        check_scale(guide_scale, "SliceDenoiser")
        self.body, self.n_slices, self.guide_channels, self.guide_scale = body, n_slices, n_guides, guide_scale

    def forward(self, x: Tensor, sigma: float | Tensor | None = None, *, guide: Array | None = None) -> Tensor:
        """Return the denoised image, of the shape of x, (..., x, y, z)."""
        guides = guide_channels(guide, x, self.guide_channels, "SliceDenoiser", self.guide_scale)
        channels = x.unsqueeze(-4) if guides is None else torch.cat([x.unsqueeze(-4), guides], -4)
        inputs = self._neighbours(channels)
        made: Tensor = self.body(inputs)
        *lead, nx, ny, nz = x.shape
        return made.reshape(nz, *lead, nx, ny).movedim(0, -1).to(x.dtype)

    def _neighbours(self, channels: Tensor) -> Tensor:
        """(..., C, x, y, z) as (z * items, slices * C, x, y), the middle slice first."""
        half, n = self.n_slices // 2, channels.shape[-1]
        order = sorted(range(-half, half + 1), key=abs)
        place = torch.arange(n, device=channels.device)
        shown = torch.stack([channels[..., (place + k).clamp(0, n - 1)] for k in order], -5)  # (..., S, C, x, y, z)
        return (
            shown.movedim(-1, 0).flatten(-4, -3).reshape(-1, self.n_slices * channels.shape[-4], *channels.shape[-3:-1])
        )


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
