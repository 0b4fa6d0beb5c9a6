"""The published networks that enhance images, by name: each a function of a few numbers that returns an `Enhancer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..networks.attention import SpatialChannelTransformer
from ..networks.blocks import DnCNN
from ..networks.deep_residual import EDSR, RCAN, StackedAutoencoder
from ..networks.diffusion import ConditionalDiffusion
from ..networks.several_unets import CoupledUNet, ThreeUNets
from ..networks.transformer import SwinRegulariser
from ..networks.u2net import U2Net
from ..networks.unet import DENSE, DILATED, RESIDUAL, UNet
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


def residual_unet(
    dimensions: int = 3,
    guide_channels: int = 0,
    *,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
    noise: bool = False,
) -> Enhancer:
    """Return a U-Net of residual units that makes what is added to the image; 3-D as for DMSA SPECT of kidneys.

    Source: Lin et al. 2021, Clin Radiol (Tc-99m DMSA, 112 patients); Mehranian et al. 2022 (PET without and with time
    of flight). Their numbers of channels are not published.
    """
    body = UNet(
        dimensions,
        1 + guide_channels + noise,
        width=width,
        levels=levels,
        form=RESIDUAL,
        norm=norm,
        non_negative=False,
        residual=True,
    )
    return Enhancer(body, dimensions, guide_channels, noise=noise)


def dilated_unet(
    dimensions: int = 2, guide_channels: int = 0, *, width: int = 16, levels: int = 4, norm: str = "batch"
) -> Enhancer:
    """Return a U-Net whose levels have dilated convolutions of full size instead of halved images.

    Source: Spuhler et al. 2020, Med Phys 47:4928 (full-count PET from low counts).
    """
    body = UNet(dimensions, 1 + guide_channels, width=width, levels=levels, form=DILATED, norm=norm)
    return Enhancer(body, dimensions, guide_channels)


def dense_unet(
    dimensions: int = 3, guide_channels: int = 0, *, width: int = 12, levels: int = 3, norm: str = "batch"
) -> Enhancer:
    """Return a U-Net of densely connected convolutions, as for partial volume correction of the heart.

    Train it by l1 + SSIM + Sobel: `WeightedSum((1, l1), (0.5, ssim_loss), (0.5, sobel_loss))`.

    Source: Xie et al. 2023, J Nucl Cardiol (cardiac SPECT, partial volume correction); numbers of channels are ours.
    """
    body = UNet(dimensions, 1 + guide_channels, width=width, levels=levels, form=DENSE, norm=norm)
    return Enhancer(body, dimensions, guide_channels)


def coupled_unet(
    dimensions: int = 3,
    guide_channels: int = 0,
    *,
    n: int = 2,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
    noise: bool = False,
) -> Enhancer:
    """Return U-Nets in a row that are coupled on every level, see `CoupledUNet`; 2,654,962 parameters in 3-D.

    Published for SPECT of the heart with Noise2Noise.

    Source: Liu et al. 2021, Med Phys 48:156 (coupled U-Net, Noise2Noise).
    """
    body = CoupledUNet(dimensions, 1 + guide_channels + noise, n=n, width=width, levels=levels, norm=norm)
    return Enhancer(body, dimensions, guide_channels, noise=noise)


def three_unets(
    dimensions: int = 2, guide_channels: int = 1, *, width: int = 16, levels: int = 4, norm: str = "instance"
) -> Enhancer:
    """Return three U-Nets, of PET, of MR and of both, see `ThreeUNets`.

    Source: Liu & Qi 2019, Phys Med Biol 64:115004.
    """
    body = ThreeUNets(dimensions, 1 + guide_channels, width=width, levels=levels, norm=norm)
    return Enhancer(body, dimensions, guide_channels)


def low_dose_autoencoder(
    dimensions: int = 3, guide_channels: int = 0, *, depth: int = 4, width: int = 32, shortcuts: bool = True
) -> Enhancer:
    """Return the autoencoder of convolutions for 1/2 to 1/16 of the dose, see `StackedAutoencoder`.

    Source: Ramon et al. 2020, IEEE Trans Med Imaging 39:2893.
    """
    body = StackedAutoencoder(dimensions, 1 + guide_channels, depth=depth, width=width, shortcuts=shortcuts)
    return Enhancer(body, dimensions, guide_channels)


def super_resolution(
    dimensions: int = 2,
    guide_channels: int = 1,
    *,
    depth: int = 20,
    width: int = 64,
    coordinates: bool = True,
    n_slices: int = 1,
) -> Enhancer:
    """Return the deep network that sharpens PET, with MR and with where a voxel lies: 20 layers without normalisation.

    667,649 parameters with MR and coordinates. Published for images of one scanner made like those of a better one, by
    the mean absolute error (`l1`).

    Source: Song et al. 2020, IEEE Trans Comput Imaging 6:518; Kim et al. 2016, CVPR (VDSR).
    """
    channels = n_slices * (1 + guide_channels) + 2 * coordinates
    body = DnCNN(dimensions, channels, depth=depth, width=width, norm="none")
    return Enhancer(body, dimensions, guide_channels, n_slices=n_slices, coordinates=coordinates)


def edsr_enhancer(
    dimensions: int = 2, guide_channels: int = 0, *, n_blocks: int = 16, width: int = 64, share: float = 1.0
) -> Enhancer:
    """Return EDSR without enlargement, a comparator of Pan et al. 2022; see `EDSR`."""
    body = EDSR(dimensions, 1 + guide_channels, n_blocks=n_blocks, width=width, share=share)
    return Enhancer(body, dimensions, guide_channels)


def rcan_enhancer(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    n_groups: int = 10,
    n_blocks: int = 20,
    width: int = 64,
    reduction: int = 16,
) -> Enhancer:
    """Return RCAN without enlargement, a comparator of Pan et al. 2022; see `RCAN`."""
    body = RCAN(dimensions, 1 + guide_channels, n_groups=n_groups, n_blocks=n_blocks, width=width, reduction=reduction)
    return Enhancer(body, dimensions, guide_channels)


def swin_enhancer(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    width: int = 48,
    heads: int = 6,
    depth: int = 4,
    window: int = 4,
) -> Enhancer:
    """Return a transformer of shifted windows (extra `monai`), see `SwinRegulariser`; STFNet has MR as a guide.

    Source: Liu et al. 2021, ICCV; Zhang et al. 2022, Med Phys (PET with MR).
    """
    body = SwinRegulariser(
        dimensions, 1 + guide_channels, width=width, heads=heads, depth=depth, window=window, norm="instance"
    )
    return Enhancer(body, dimensions, guide_channels)


def spach_enhancer(
    dimensions: int = 3,
    guide_channels: int = 0,
    *,
    width: int = 48,
    heads: int = 4,
    n_blocks: int = 2,
    window: int = 4,
) -> Enhancer:
    """Return a transformer of voxels and of channels (extra `monai`), trained by `charbonnier`.

    See `SpatialChannelTransformer`.

    Source: Jang et al. 2024, IEEE Trans Med Imaging 43:2036.
    """
    body = SpatialChannelTransformer(
        dimensions, 1 + guide_channels, width=width, heads=heads, n_blocks=n_blocks, window=window
    )
    return Enhancer(body, dimensions, guide_channels)


def diffusion_enhancer(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    widths: Sequence[int] = (32, 64, 128),
    steps: int = 1000,
    sampling: int = 50,
    samples: int = 1,
    seed: int = 0,
) -> Enhancer:
    """Return a diffusion model given the image and MR (extra `monai`), trained by `Diffusing`; see
    `ConditionalDiffusion`.

    `widths` may be a list, as cards have it.

    Source: Gong et al. 2024, Eur J Nucl Med Mol Imaging 51:358.
    """
    body = ConditionalDiffusion(
        dimensions,
        1 + guide_channels,
        widths=tuple(widths),
        steps=steps,
        sampling=sampling,
        samples=samples,
        seed=seed,
    )
    return Enhancer(body, dimensions, guide_channels)


ENHANCERS: dict[str, Callable[..., Enhancer]] = {
    "u2net": u2net,
    "weighted-residual": weighted_residual_cnn,
    "dncnn": dncnn_enhancer,
    "unet": unet_enhancer,
    "residual-unet": residual_unet,
    "dilated-unet": dilated_unet,
    "dense-unet": dense_unet,
    "coupled-unet": coupled_unet,
    "three-unets": three_unets,
    "autoencoder": low_dose_autoencoder,
    "super-resolution": super_resolution,
    "edsr": edsr_enhancer,
    "rcan": rcan_enhancer,
    "swin": swin_enhancer,
    "spach": spach_enhancer,
    "diffusion": diffusion_enhancer,
}
"""The networks by the names that cards of weights, recipes of trainings and `emrecon enhance` have for them."""
