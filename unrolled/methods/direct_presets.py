"""The published networks that reconstruct in one pass, or after one, by a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from emrecon.projectors import GaussianBlur
from emrecon.recon import RelativeDifference, bsrem, osem, run
from emrecon.recon.likelihoods import CountsLikelihood, start_image

from ..direct import BackProjection, Completion, DataNet, Direct, Fused, OnData, Separated
from ..direct.scans import image_grid
from ..enhancement import Enhancer
from ..networks.blocks import SmallCNN
from ..networks.encoding import DenseInversion, EncoderDecoder
from ..networks.lu_net import LUNet
from ..networks.radon import DirectPETNet
from ..networks.scaling import count_scale
from ..networks.slices import DilatedNet
from ..networks.spectnet import SPECTNet
from ..networks.unet import UNet
from .enhanced import Enhanced, OSEMPasses

Scan = Mapping[str, Any]

_SMALL_ENCODER = ((16, 2), (32, 2), (64, 2), (128, 2), (256, 2))
_SMALL_DECODER = ((128, 2), (64, 2), (32, 2))


def spectnet(
    size: int = 128,
    *,
    code: int = 256,
    hidden: int = 2048,
    width: int = 32,
    attenuation: bool = True,
    scan: Scan | None = None,
) -> Direct:
    """Return SPECTnet: data and attenuation map to a code of 256 numbers, and the code to a slice of 128 x 128.

    The fully connected part has 34,097,152 parameters. Published, on 2,000 phantoms of its own kind: mean absolute
    error 0.68 in hot regions (OSEM of 12 subsets and 5 to 15 passes 1.72) and 0.04 in the background (0.10). Trained by
    `spectnet_stages`: autoencoder, data to code, both together.

    Args:
        size : pixels, 128 or 64.
        code, hidden, width : of `SPECTNet`.
        attenuation : whether the projector's map is a channel beside the data.
        scan : what it was trained on, `unrolled.described(projector)`; another geometry is refused.

    Source: Shao, Rowe & Du 2021, Ann Transl Med 9:820.
    """
    body = SPECTNet(size, code=code, hidden=hidden, width=width, attenuation=attenuation)
    return Direct(body, 2, attenuation="projector" if attenuation else None, scan=scan)


def deeppet(
    small: bool = False,
    *,
    size: int = 128,
    channels: int = 1,
    attenuation: str | None = None,
    norm: str = "batch",
    scan: Scan | None = None,
) -> Direct:
    """Return DeepPET: a sinogram through convolutions to 18 x 17 places of 1024 channels, and from there to an image.

    62,944,033 parameters; `small` has 1.8 million. Published, on simulated XCAT torsos: relative RMSE 11 % below OSEM
    and 53 % below FBP, SSIM 1 % and 11 % above them. It takes SPECT data, too (encoder and decoder after Chrysostomou
    et al., for few views).

    Args:
        size : pixels of a side of the image.
        channels : of the data, such as TOF bins.
        attenuation : of `Direct`: "projector", "guide" or None, as published.
        norm : "batch" as published, or "instance", "group", "none".
        scan : what it was trained on; another geometry is refused.

    Source: Haggstrom et al. 2019, Med Image Anal 54:253; the numbers of channels that are not published are ours.
    """
    plan: dict[str, Any] = {"encoder": _SMALL_ENCODER, "decoder": _SMALL_DECODER} if small else {}
    beside = 0 if attenuation is None else 1
    body = EncoderDecoder((size, size), channels + beside, norm=norm, **plan)
    return Direct(body, 2, attenuation=attenuation, scan=scan)


def automap(
    size: int = 64,
    *,
    views: int = 60,
    bins: int | None = None,
    hidden: int | None = None,
    width: int = 64,
    scan: Scan | None = None,
) -> Direct:
    """Return AUTOMAP: all data to all pixels by two fully connected layers, and three convolutions.

    64 pixels of 60 views have 33 million parameters, 32 pixels of 30 views 2.2 million; 128 pixels of k-space, as
    published, 805 million (`dense_parameters` computes it without making them).

    Args:
        views, bins : of the data (default: as many bins as pixels).
        hidden : of the first layer (default: as many as pixels).
        width : channels of the convolutions.
        scan : what it was trained on; another geometry is refused.

    Source: Zhu et al. 2018, Nature 555:487.
    """
    n_data = views * (size if bins is None else bins)
    return Direct(DenseInversion(n_data, size, n_hidden=hidden, width=width), 2, scan=scan)


def radon_inversion(
    scan: Scan | None = None,
    *,
    channels: int = 1,
    patch: int = 8,
    margin: int = 1,
    maps: int = 2,
    width: int = 16,
    depth: int = 3,
    attenuation: str | None = None,
    norm: str = "instance",
) -> Direct:
    """Return DirectPET: convolutions on the data, a learned map from the sinusoid of every patch to the patch, and
    more.

    Published: 16 slices of 400 x 400 from TOF sinograms, mean absolute deviation 1.8 % from OSEM. The same network with
    the exact transpose in place of the learned layer is `back_projection_net`.

    Args:
        scan : where lines and voxels are, `unrolled.described(projector)`; the layer is made of it.
        channels, maps, width, depth, norm : of `DirectPETNet`.
        patch, margin : of `RadonInversion`; the image's sides must be multiples of the patch.
        attenuation : of `Direct`.

    Raises ValueError without a scan.

    Source: Whiteley, Luk & Gregor 2020, IEEE Trans Med Imaging 39:3377.
    """
    if scan is None:
        raise ValueError("radon_inversion gathers along a scan's lines: give scan=described(projector)")
    beside = 0 if attenuation is None else 1
    options = {"patch": patch, "margin": margin, "maps": maps, "width": width, "depth": depth, "norm": norm}
    body = DirectPETNet(scan, channels, beside=beside, **options)  # type: ignore[arg-type]
    return Direct(body, 2, attenuation=attenuation, scan=scan)


def back_projection_net(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    start: str = "transpose",
    n_slices: int = 1,
    network: str = "unet",
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
) -> Enhanced:
    """Return a network after one back projection: the geometry is the exact transpose's, the rest is learned.

    - n_slices=5: FBP or transpose and a U-Net of five neighbouring slices, after Dietze et al. 2019 (SPECT; Monte-Carlo
      quality in a fraction of its time);
    - network="dilated": multi-scale dilated convolutions with sub-pixel output, msfCNN (Jiao & Ourselin 2017);
    - PET with time of flight and guide_channels=1: the most likely histo-image and a map, FastPET (Whiteley et al.
      2020; 67 times as fast as OSEM).

    Args:
        start : "transpose" or "fbp", see `BackProjection`.
        n_slices : neighbouring slices that a network of slices sees, odd.
        network : "unet" or "dilated".
        width, levels, norm : of the network.
    """
    if network not in ("unet", "dilated"):
        raise ValueError(f'back_projection_net: network must be "unet" or "dilated", got {network!r}')
    if dimensions == 3 and (n_slices > 1 or network == "dilated"):
        raise ValueError("back_projection_net: several slices and dilated networks are for dimensions=2")
    channels = n_slices * (1 + guide_channels)
    if network == "dilated":
        body: nn.Module = DilatedNet(channels, width=width, norm=norm)
    else:
        body = UNet(dimensions, channels, width=width, levels=levels, norm=norm)
    return Enhanced(BackProjection(start), Enhancer(body, dimensions, guide_channels, n_slices=n_slices, scale=None))


def sinogram_net(
    dimensions: int = 2,
    *,
    network: str = "chain",
    width: int = 32,
    depth: int = 6,
    levels: int = 3,
    norm: str = "instance",
    keep_measured: bool = True,
    passes: int = 4,
    subsets: int = 6,
    scan: Scan | None = None,
) -> OnData:
    """Return a network of data before OSEM: it completes views, gaps, blocks or an open ring, makes fine bins of coarse
    ones, or takes noise away.

    Args:
        network : "chain", `DataNet`; "lu-net", `LUNet`, a memory along the views and a U-Net.
        width, norm : of the network.
        depth : of "chain".
        levels : of "lu-net".
        keep_measured : measured bins stay as they are; False replaces all bins, to denoise.
        passes, subsets : of the OSEM that follows, by weighted least squares.
        scan : what it was trained on, `unrolled.described(projector)`: a scan of some of its views is completed to all
            of them, and one of other bins, radius or voxels is refused.

    Raises ValueError for another network.
    """
    if network not in ("chain", "lu-net"):
        raise ValueError(f'sinogram_net: network must be "chain" or "lu-net", got {network!r}')
    body = (
        DataNet(dimensions, width=width, depth=depth, norm=norm)
        if network == "chain"
        else LUNet(dimensions, width=width, levels=levels, norm=norm)
    )
    completion = Completion(body, dimensions, keep_measured=keep_measured)
    return OnData(completion, OSEMPasses(passes, subsets), scan)


def fusion_net(
    dimensions: int = 2,
    guide_channels: int = 0,
    *,
    kind: str = "smoothed",
    widths: Sequence[int] = (16, 16),
    passes: int = 8,
    subsets: int = 6,
    fwhm: Sequence[float] = (4.0, 8.0),
    betas: Sequence[float] = (0.003, 0.03, 0.3),
    norm: str = "none",
) -> Fused:
    """Return a small network that makes one image of several reconstructions, so that no smoothing has to be chosen.

    Args:
        kind : "smoothed", OSEM and OSEM after Gaussians of `fwhm` mm (Wang et al. 2019, myocardium); "betas", MAP by
            the relative difference prior with each of `betas`, in units of the mean sensitivity (Yang et al. 2014).
        widths, norm : of the network, `SmallCNN`.
        passes, subsets : of the reconstructions.
    """
    if kind not in ("smoothed", "betas"):
        raise ValueError(f'fusion_net: kind must be "smoothed" or "betas", got {kind!r}')
    strengths = tuple(fwhm) if kind == "smoothed" else tuple(betas)
    made = _Several(kind, strengths, passes, subsets)
    body = SmallCNN(dimensions, made.n_images + guide_channels, widths=tuple(widths), norm=norm)
    return Fused(made, body, made.n_images, dimensions, guide_channels)


def dual_tracer_net(
    weights: Sequence[Sequence[float]],
    dimensions: int = 2,
    *,
    start: str = "osem",
    passes: int = 4,
    subsets: int = 6,
    width: int = 16,
    levels: int = 4,
    norm: str = "instance",
) -> Separated:
    """Return a network that tells two tracers of one scan apart: images of the frames, and a U-Net to two images.

    Args:
        weights : (frames, tracers), `sims.frame_weights`: how much of each tracer there is in each frame.
        start : what makes the frames' images, "osem" with these passes and subsets, "transpose" or "fbp".
        width, levels, norm : of the U-Net.

    Raises ValueError for another start, and weights that do not tell the tracers apart.
    """
    if start not in ("osem", "transpose", "fbp"):
        raise ValueError(f'dual_tracer_net: start must be "osem", "transpose" or "fbp", got {start!r}')
    n_frames, n_tracers = len(weights), len(weights[0]) if len(weights) else 0
    body = UNet(dimensions, n_frames + n_tracers, width=width, levels=levels, norm=norm, non_negative=False)
    body.last = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(width, n_tracers, 1)
    nn.init.zeros_(body.last.weight)  # it begins as the separation by decay alone
    nn.init.zeros_(body.last.bias)
    reconstruct = OSEMPasses(passes, subsets) if start == "osem" else BackProjection(start)
    return Separated(reconstruct, body, weights, dimensions)


@dataclass(frozen=True)
class _Several:
    """Several reconstructions of one scan."""

    kind: str
    strengths: tuple[float, ...]
    passes: int
    subsets: int

    @property
    def n_images(self) -> int:
        return len(self.strengths) + (self.kind == "smoothed")

    def __call__(self, likelihood: CountsLikelihood) -> list[Tensor]:
        uniform = count_scale(likelihood) * start_image(likelihood)
        if self.kind == "betas":
            return [self._penalised(likelihood, beta, uniform) for beta in self.strengths]
        image: Tensor = run(osem(likelihood, uniform, self.subsets), self.passes)
        grid = image_grid(likelihood.model.projector)
        return [image, *(torch.relu(GaussianBlur(grid, fwhm)(image)) for fwhm in self.strengths)]

    def _penalised(self, likelihood: CountsLikelihood, beta: float, uniform: Tensor) -> Tensor:
        s = likelihood.sensitivity_like(uniform)
        prior = RelativeDifference(2.0, epsilon=1e-3 * float(uniform.mean()))
        first = osem(likelihood, uniform, self.subsets)
        strength = beta * float(s[s > 0].mean())
        image: Tensor = run(bsrem(likelihood, strength * prior, run(first, 1), self.subsets), self.passes)
        return image
