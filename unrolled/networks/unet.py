"""The U-Net of the library: strided convolutions down, interpolation up, skips that are added; and its forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import convolution, image_convolution, positive, unit

CHAINS = ("plain", "residual", "dense")


@dataclass(frozen=True)
class UNetForm:
    """What tells the published forms of the U-Net apart.

    Args:
        encoder_units : convolutions (with normalisation and leaky ReLU) on each level on the way down.
        up_kernel : voxels of the convolution that halves the channels after the interpolation.
        last_kernel : voxels of the convolution that makes the image.
        slope : of the leaky ReLU below zero.
        in_plane : whether levels halve x and y only, and leave z alone (3-D).
        affine : whether the normalisation has a learnable scale and shift.
        chain : how the convolutions of a level hang together: "plain", one after the other; "residual", their input is
            added to what the last one makes; "dense", each sees what all before it made, and a last one of one voxel
            joins them.
        dilated : levels do not halve the image; their convolutions are dilated by 1, 2, 4, ... instead.
    """

    encoder_units: int = 2
    up_kernel: int = 1
    last_kernel: int = 1
    slope: float = 0.01
    in_plane: bool = False
    affine: bool = True
    chain: str = "plain"
    dilated: bool = False

    def __post_init__(self) -> None:
        if self.chain not in CHAINS:
            raise ValueError(f"UNetForm: chain must be one of {', '.join(CHAINS)}, got {self.chain!r}")


DEEP_IMAGE_PRIOR = UNetForm()
ITERATIVE_CNN = UNetForm(encoder_units=1, up_kernel=3, last_kernel=3, slope=0.2, in_plane=True, affine=False)
RESIDUAL = UNetForm(up_kernel=3, last_kernel=3, slope=0.0, chain="residual")
DENSE = UNetForm(up_kernel=3, last_kernel=3, slope=0.0, chain="dense")
DILATED = UNetForm(up_kernel=3, last_kernel=3, slope=0.0, dilated=True)


class UNet(nn.Module):
    """A U-Net with added skips, of any image size, (N, in_channels, ...) -> (N, 1, ...).

    Each level has twice the channels of the one above, from `width`. Down: units (conv3, norm, leaky ReLU), then one
    of stride 2. Up: interpolation by 2, a unit that halves the channels, the skip is added, two units. A last
    convolution makes the image.

    Args:
        form : `DEEP_IMAGE_PRIOR`, of DIPRecon as neural KEM has it, 451,457 parameters in 2-D and 1,327,265 in 3-D;
            `ITERATIVE_CNN`, the 3-D form of the iterative CNN representation, 1,017,617 parameters (its code also makes
            a strided convolution of 442,496 below the last level, which nothing uses).
        norm : "batch", "instance", "group" or "none".
        non_negative : whether a ReLU ends it, as in the sources; the image then begins about 1, since a ReLU that is 0
            everywhere would never learn.
        residual : whether the network makes what is added to the image, channel 0.

    Sizes that 2^(levels - 1) does not divide are padded by repeating the border, and cropped again.

    Source: Gong et al. 2019, IEEE Trans Med Imaging 38:675 (the iterative CNN, public code), and 38:1655 (deep image
    prior; widths as in the public code of Li et al. 2023, IEEE Trans Med Imaging 42:785).
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        width: int = 16,
        levels: int = 4,
        form: UNetForm = DEEP_IMAGE_PRIOR,
        norm: str = "batch",
        non_negative: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"UNet needs at least 1 level, got {levels}")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.residual = residual
        halves = 1 if form.dilated else 2 ** (levels - 1)
        self.multiple = tuple(1 if form.in_plane and axis == 2 else halves for axis in range(dimensions))
        stride = tuple(min(n, 2) for n in self.multiple)
        widths = [width * 2**level for level in range(levels)]

        def block(n: int, m: int, kernel: int = 3, stride: tuple[int, ...] | int = 1, level: int = 0) -> nn.Sequential:
            dilation = 2**level if form.dilated and kernel > 1 else 1
            return unit(
                dimensions,
                n,
                m,
                kernel,
                norm=norm,
                stride=stride,
                affine=form.affine,
                slope=form.slope,
                dilation=dilation,
            )

        def chain(n: int, m: int, length: int, level: int) -> nn.Module:
            if form.chain == "dense":
                units = [block(n + i * m, m, level=level) for i in range(length)]
                return _Dense(units, block(n + length * m, m, 1))
            units = [block(n if i == 0 else m, m, level=level) for i in range(length)]
            if form.chain == "residual":
                return _Residual(nn.Sequential(*units), nn.Identity() if n == m else convolution(dimensions, n, m, 1))
            return nn.Sequential(*units)

        firsts, deepest = [in_channels, *widths[:-1]], levels - 1
        self.encoders = nn.ModuleList(
            chain(n, m, form.encoder_units, level) for level, (n, m) in enumerate(zip(firsts, widths))
        )
        self.downs = nn.ModuleList(block(n, n, stride=stride, level=level) for level, n in enumerate(widths[:-1]))
        rising = [(deepest - 1 - k, n) for k, n in enumerate(widths[-2::-1])]
        self.ups = nn.ModuleList(block(2 * n, n, form.up_kernel, level=level) for level, n in rising)
        self.decoders = nn.ModuleList(chain(n, n, 2, level) for level, n in rising)
        kept = non_negative and not residual
        self.last = image_convolution(dimensions, width, form.last_kernel, non_negative=kept)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        padded, crop = pad_to_multiple(x, self.multiple)
        return self.image(self.features(padded)[-1], padded)[crop]

    def features(self, x: Tensor, beside: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Return what the levels make of channels whose sizes `multiple` divides, the coarsest first, the finest last.

        Args:
            beside : the features of another such network, which are added to those of the encoders, level by level.
        """
        skips: list[Tensor] = []
        inner = x
        for level, encoder in enumerate(self.encoders):
            inner = encoder(inner if level == 0 else self.downs[level - 1](inner))
            inner = inner if beside is None else inner + beside[-1 - level]
            skips.append(inner)
        found = [skips.pop()]
        for up, decoder in zip(self.ups, self.decoders):
            skip = skips.pop()
            found.append(decoder(skip + up(_interpolated(found[-1], skip))))
        return found

    def image(self, finest: Tensor, x: Tensor) -> Tensor:
        """Return the image of the finest features of channels x."""
        made = self.last(finest)
        return positive(x[:, :1] + made if self.residual else made, self.non_negative)


class _Residual(nn.Module):
    def __init__(self, chain: nn.Sequential, beside: nn.Module) -> None:
        super().__init__()
        self.chain, self.beside = chain, beside

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.beside(x) + self.chain(x)
        return made


class _Dense(nn.Module):
    def __init__(self, units: Sequence[nn.Module], joined: nn.Module) -> None:
        super().__init__()
        self.units, self.joined = nn.ModuleList(units), joined

    def forward(self, x: Tensor) -> Tensor:
        for one in self.units:
            x = torch.cat([x, one(x)], 1)
        made: Tensor = self.joined(x)
        return made


def pad_to_multiple(x: Tensor, multiple: tuple[int, ...]) -> tuple[Tensor, tuple[slice, ...]]:
    """Return x with its border repeated until every axis is divisible, and the slices that crop the result again.

    Args:
        x : (N, channels, ...), multiple : one number for each of the last axes. Half of what is missing goes to each
            side.
    """
    missing = [-n % m for n, m in zip(x.shape[2:], multiple)]
    if not any(missing):
        return x, (slice(None),)
    before = [n // 2 for n in missing]
    crop = tuple(slice(low, low + n) for low, n in zip(before, x.shape[2:]))
    sides = [side for low, n in zip(before[::-1], missing[::-1]) for side in (low, n - low)]
    return functional.pad(x, sides, mode="replicate"), (slice(None), slice(None), *crop)


def _interpolated(x: Tensor, like: Tensor) -> Tensor:
    """(Bi- or tri-)linear interpolation to the size of `like`."""
    if x.shape[2:] == like.shape[2:]:
        return x
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)
