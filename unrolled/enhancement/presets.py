"""The published networks that enhance images, by name: each a function of a few numbers that returns an `Enhancer`."""

from __future__ import annotations

from collections.abc import Callable

from ..networks.blocks import DnCNN
from ..networks.u2net import U2Net
from ..networks.unet import UNet
from .enhancer import Enhancer


def u2net(
    lite: bool = False,
    in_channels: int = 2,
    *,
    dimensions: int = 2,
    width: int | None = None,
    norm: str = "batch",
    non_negative: bool = False,
) -> Enhancer:
    """Return U2-Net of slices with CT: nested U-Nets, side outputs of six scales, and a long skip from the image.

    44,009,293 parameters with CT, `lite` 1,130,605. Published on bone SPECT of 1/7 of the time, 10 patients: PSNR 40.8
    dB where the input has 37.7, SSIM 0.788 and 0.765; trained by L1 + 0.5 (1 - SSIM), 100 times that in lesions, over
    all outputs (`DeepSupervision`). Image and CT are divided by their means.

    Args:
        in_channels : 1 for the image alone, 2 with a guide such as CT, more with more.
        width, norm, non_negative : of `U2Net`.

    Source: Pan et al. 2022, EJNMMI Phys 9:64.
    """
    if in_channels < 1:
        raise ValueError(f"u2net: in_channels must be 1 or more, got {in_channels}")
    body = U2Net(dimensions, in_channels, lite=lite, width=width, norm=norm, non_negative=non_negative)
    return Enhancer(body, dimensions, in_channels - 1, "mean")


def weighted_residual_cnn(
    guide_channels: int = 0, *, n_slices: int = 3, depth: int = 8, width: int = 64, norm: str = "batch"
) -> Enhancer:
    """Return the residual network of eight layers on three slices that predicts the noise of FDG PET.

    225,859 parameters (64 channels are ours: theirs are not published). What the three places say of a slice is
    averaged. Trained by the squared error with weight 10 in lesions, softly (`lesion_weight(mask, 9, blur)`), on eight
    count levels at once: `emrecon train weighted-residual`. Published on 50 patients: SUVmax of lesions 8.4 where a
    Gaussian leaves 5.6.

    Args:
        guide_channels : 0 as published.
        depth, width, norm : of the network, `DnCNN`.

    Source: the feature-oriented deep network of Canon for FDG PET (clinical evaluation, 8 layers, 2.5-D).
    """
    body = DnCNN(2, n_slices * (1 + guide_channels), depth=depth, width=width, norm=norm, out_channels=n_slices)
    return Enhancer(body, 2, guide_channels, n_slices=n_slices)


def dncnn_enhancer(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    depth: int = 17,
    width: int = 64,
    norm: str = "batch",
    n_slices: int = 1,
    noise: bool = False,
) -> Enhancer:
    """Return DnCNN, which predicts the noise; `noise` makes one network of many noise levels.

    Source: Zhang et al. 2017, IEEE Trans Image Process 26:3142.
    """
    body = DnCNN(dimensions, n_slices * (1 + guide_channels) + noise, depth=depth, width=width, norm=norm)
    return Enhancer(body, dimensions, guide_channels, n_slices=n_slices, noise=noise)


def unet_enhancer(
    dimensions: int = 3,
    guide_channels: int = 0,
    *,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
    n_slices: int = 1,
    noise: bool = False,
    non_negative: bool = True,
) -> Enhancer:
    """Return the U-Net of the library as a network of images: 3-D, 2-D, or 2.5-D with several slices.

    `noise` tells it the level of the noise, so that one network serves many doses.

    Source: Schaefferkoetter et al. 2020 (3-D, oncology); Liu et al. 2022 (personalised to the noise).
    """
    channels = n_slices * (1 + guide_channels) + noise
    body = UNet(dimensions, channels, width=width, levels=levels, norm=norm, non_negative=non_negative)
    return Enhancer(body, dimensions, guide_channels, n_slices=n_slices, noise=noise)


ENHANCERS: dict[str, Callable[..., Enhancer]] = {
    "u2net": u2net,
    "weighted-residual": weighted_residual_cnn,
    "dncnn": dncnn_enhancer,
    "unet": unet_enhancer,
}
"""The networks by the names that cards of weights, recipes of trainings and `emrecon enhance` have for them."""
