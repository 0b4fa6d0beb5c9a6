"""Networks of several U-Nets: coupled ones in a row, and one for the image, one for the guides, one for both."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .unet import DEEP_IMAGE_PRIOR, UNet, UNetForm, pad_to_multiple


class CoupledUNet(nn.Module):
    """U-Nets in a row, each coupled to the one before it on every level, (N, in_channels, ...) -> (N, 1, ...).

    A later U-Net sees the channels and the image that the one before it has made; what the levels of that one have made
    on the way up is added to what its own have made on the way down. The last one's image is the result, those of the
    others are side outputs for deep supervision.

    Args:
        n : U-Nets.
        width, levels, form, norm, non_negative, residual : of each, see `UNet`.

    Source: Tang et al. 2018, ECCV (coupled U-Nets); Liu et al. 2021, Med Phys 48:156 (SPECT of the heart); the sums in
    place of concatenations are those of our U-Net.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        n: int = 2,
        width: int = 16,
        levels: int = 4,
        form: UNetForm = DEEP_IMAGE_PRIOR,
        norm: str = "instance",
        non_negative: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if n < 2:
            raise ValueError(f"CoupledUNet couples 2 U-Nets or more, got {n}")
        self.dimensions, self.in_channels = dimensions, in_channels
        self.parts = nn.ModuleList(
            UNet(
                dimensions,
                in_channels + (k > 0),
                width=width,
                levels=levels,
                form=form,
                norm=norm,
                non_negative=non_negative,
                residual=residual,
            )
            for k in range(n)
        )
        self.multiple = self.parts[0].multiple

    def forward(self, x: Tensor) -> Tensor:
        """Return the image of the last U-Net."""
        return self.outputs(x)[0]

    def outputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the images of all U-Nets, that of the last one first."""
        padded, crop = pad_to_multiple(x, self.multiple)
        images: list[Tensor] = []
        features = None
        for part in self.parts:
            shown = torch.cat([padded, images[-1]], 1) if images else padded
            features = part.features(shown, features)
            images.append(part.image(features[-1], shown))
        return tuple(image[crop] for image in images[::-1])


class ThreeUNets(nn.Module):
    """U-Nets of the image, of the guides, and of what the two have found, (N, in_channels, ...) -> (N, 1, ...).

    So guides are first understood by themselves. The third U-Net sees the features of full size of the other two.

    Args:
        in_channels : the image, and one guide or more.
        width, levels, form, norm, non_negative, residual : of each, see `UNet`.

    Raises ValueError without a guide.

    Source: Liu & Qi 2019, Phys Med Biol 64:115004 (three U-Nets of PET and MR).
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 2,
        *,
        width: int = 16,
        levels: int = 4,
        form: UNetForm = DEEP_IMAGE_PRIOR,
        norm: str = "instance",
        non_negative: bool = True,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if in_channels < 2:
            raise ValueError("ThreeUNets sees an image and a guide or more; build it with guide_channels of 1 or more")
        self.dimensions, self.in_channels, self.residual = dimensions, in_channels, residual

        def part(channels: int) -> UNet:
            return UNet(
                dimensions, channels, width=width, levels=levels, form=form, norm=norm, non_negative=non_negative
            )

        self.of_image, self.of_guides, self.of_both = part(1), part(in_channels - 1), part(2 * width)
        self.non_negative = non_negative
        self.multiple = self.of_both.multiple
        for unused in (self.of_image, self.of_guides):  # their features go on, and not their images
            unused.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        padded, crop = pad_to_multiple(x, self.multiple)
        seen = [self.of_image.features(padded[:, :1])[-1], self.of_guides.features(padded[:, 1:])[-1]]
        made = self.of_both.last(self.of_both.features(torch.cat(seen, 1))[-1])
        image = padded[:, :1] + made if self.residual else made
        return (image.relu() if self.non_negative else image)[crop]
