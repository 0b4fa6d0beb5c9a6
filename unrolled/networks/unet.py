"""The U-Net of Gong's reconstructions: strided convolutions down, interpolation up, skips that are added."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from .blocks import image_convolution, positive, unit


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
    """

    encoder_units: int = 2
    up_kernel: int = 1
    last_kernel: int = 1
    slope: float = 0.01
    in_plane: bool = False
    affine: bool = True


DEEP_IMAGE_PRIOR = UNetForm()
ITERATIVE_CNN = UNetForm(encoder_units=1, up_kernel=3, last_kernel=3, slope=0.2, in_plane=True, affine=False)


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
    ) -> None:
        super().__init__()
        if levels < 1:
            raise ValueError(f"UNet needs at least 1 level, got {levels}")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.multiple = tuple(1 if form.in_plane and axis == 2 else 2 ** (levels - 1) for axis in range(dimensions))
        stride = tuple(min(n, 2) for n in self.multiple)
        widths = [width * 2**level for level in range(levels)]

        def block(n: int, m: int, kernel: int = 3, stride: tuple[int, ...] | int = 1) -> nn.Sequential:
            return unit(dimensions, n, m, kernel, norm=norm, stride=stride, affine=form.affine, slope=form.slope)

        def chain(n: int, m: int, length: int) -> nn.Sequential:
            return nn.Sequential(*[block(n if i == 0 else m, m) for i in range(length)])

        firsts = [in_channels, *widths[:-1]]
        self.encoders = nn.ModuleList(chain(n, m, form.encoder_units) for n, m in zip(firsts, widths))
        self.downs = nn.ModuleList(block(n, n, stride=stride) for n in widths[:-1])
        self.ups = nn.ModuleList(block(2 * n, n, form.up_kernel) for n in widths[-2::-1])
        self.decoders = nn.ModuleList(chain(n, n, 2) for n in widths[-2::-1])
        self.last = image_convolution(dimensions, width, form.last_kernel, non_negative=non_negative)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        padded, crop = pad_to_multiple(x, self.multiple)
        features, skips = self.encoders[0](padded), []
        for down, encoder in zip(self.downs, self.encoders[1:]):
            skips.append(features)
            features = encoder(down(features))
        for up, decoder in zip(self.ups, self.decoders):
            skip = skips.pop()
            features = decoder(skip + up(_interpolated(features, skip)))
        return positive(self.last(features), self.non_negative)[crop]


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
    mode = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size=like.shape[2:], mode=mode, align_corners=False)
