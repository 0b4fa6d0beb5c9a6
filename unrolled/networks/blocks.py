"""Small networks that map an image to an image, what a denoiser is, and the layers that networks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array

_CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class Denoiser(Protocol):
    """What turns an image into a better one: a network, or any other map of images (..., x, y, z).

    Args:
        sigma : the standard deviation of the noise, a number or one for each item, for denoisers that ask for it.
        guide : another image of the same object, such as MR or CT.
    """

    def __call__(self, x: Tensor, sigma: float | Tensor | None = None, *, guide: Tensor | None = None) -> Tensor: ...


def require_denoiser(denoiser: object, who: str) -> None:
    """Raise TypeError for what cannot be called, and for torch's own layers, which take images with a channel axis."""
    if not callable(denoiser):
        raise TypeError(f"{who} takes denoisers, got {type(denoiser).__name__}")
    layer = denoiser if type(denoiser).__module__.startswith("torch.nn.modules") else None
    if isinstance(layer, nn.Module) and next(layer.parameters(), None) is not None:
        name = type(denoiser).__name__
        raise TypeError(
            f"{who}: {name} takes (items, channels, ...), and a denoiser takes images (..., x, y, z); wrap it: "
            f"Enhancer({name}(...), dimensions=2), or dimensions=3 for volumes"
        )


def called(
    denoiser: Callable[..., Tensor], x: Tensor, sigma: float | Tensor | None = None, guide: Array | None = None
) -> Tensor:
    """Return the result of a denoiser, which gets sigma and guide only where they are given.

    Raises ValueError for a result of another shape than the image.
    """
    given: tuple[object, ...] = () if sigma is None else (sigma,)
    image = denoiser(x, *given) if guide is None else denoiser(x, *given, guide=guide)
    if image.shape != x.shape:
        raise ValueError(
            f"the denoiser {type(denoiser).__name__} returned {tuple(image.shape)} for images of {tuple(x.shape)}; a "
            "network with a channel axis must be wrapped: Enhancer(network, dimensions)"
        )
    return image


class ResidualUnit(nn.Module):
    """The residual unit of FBSEM-Net, relu(x + CNN([x, guides])).

    CNN: conv3 -> width, norm, ReLU; depth - 2 times conv3, norm, ReLU; conv3 -> 1, norm. Depth 5 and width 32 give
    28,611 parameters in 2-D and 28,899 with a guide; FBSEM-Net counts one more, the weight of its prior.

    Args:
        non_negative : whether the last ReLU is there.
        norm : "batch", "instance", "group" or "none".

    Source: Mehranian & Reader 2021, IEEE Trans Radiat Plasma Med Sci 5:54, and their public code.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        depth: int = 5,
        width: int = 32,
        norm: str = "batch",
        non_negative: bool = True,
    ) -> None:
        super().__init__()
        _require_depth(depth, "ResidualUnit")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        inner = [unit(dimensions, width, width, norm=norm) for _ in range(depth - 2)]
        last = unit(dimensions, width, 1, norm=norm, slope=None)
        self.layers = nn.Sequential(unit(dimensions, in_channels, width, norm=norm), *inner, last)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        return positive(x[:, :1] + self.layers(x), self.non_negative)


class DnCNN(nn.Module):
    """A network that predicts the noise, x - CNN([x, guides]).

    CNN: conv3 -> width, ReLU; depth - 2 times conv3, norm, ReLU; conv3 -> 1.
    Depth 17 and width 64 are those of the source; 8 layers are enough for most emission images.

    Args:
        norm : "batch", "instance", "group" or "none".
        non_negative : whether a ReLU ends it.
        out_channels : images that it returns: 1, or all of several slices, which are evenly spaced channels of x.

    Source: Zhang et al. 2017, IEEE Trans Image Process 26:3142.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        depth: int = 17,
        width: int = 64,
        norm: str = "batch",
        non_negative: bool = False,
        out_channels: int = 1,
    ) -> None:
        super().__init__()
        _require_depth(depth, "DnCNN")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        first = unit(dimensions, in_channels, width, norm="none")
        inner = [unit(dimensions, width, width, norm=norm) for _ in range(depth - 2)]
        self.layers = nn.Sequential(first, *inner, convolution(dimensions, width, out_channels))
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, out_channels, ...)."""
        each = x.shape[1] // self.out_channels
        return positive(x[:, ::each][:, : self.out_channels] - self.layers(x), self.non_negative)


class SmallCNN(nn.Module):
    """A plain chain of convolutions with ReLU between them, 1 -> 4 -> 4 -> 1: 657 parameters in 3-D, 225 in 2-D.

    Args:
        widths : channels between the convolutions.
        residual : whether the image is added to the result.
        norm : "batch", "instance", "group" or "none", before each ReLU; with "group" a deep image prior is fitted in a
            third of the steps.

    Source: the deep-learning example of SPECTrecon.jl (3-D, not residual).
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        widths: Sequence[int] = (4, 4),
        norm: str = "none",
        residual: bool = False,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        self.dimensions, self.in_channels = dimensions, in_channels
        self.residual, self.non_negative = residual, non_negative
        units = [unit(dimensions, n, m, norm=norm) for n, m in zip((in_channels, *widths), widths)]
        last = widths[-1] if widths else in_channels
        self.layers = nn.Sequential(
            *units, image_convolution(dimensions, last, non_negative=non_negative and not residual)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        output = self.layers(x)
        return positive(x[:, :1] + output if self.residual else output, self.non_negative)


class SoftThreshold(nn.Module):
    """Shrink every channel towards zero by its own threshold, sign(x) * max(``|x|`` - exp(alpha), 0).

    Args:
        alpha : log of the first threshold, in the units of the input; one learnable number for each channel. A pair is
            spread over the channels in equal steps.
    """

    def __init__(self, channels: int, alpha: float | Sequence[float] = -15.0) -> None:
        super().__init__()
        first, last = alpha if isinstance(alpha, Sequence) else (alpha, alpha)
        self.alpha = nn.Parameter(torch.linspace(float(first), float(last), channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, ...) -> the same shape."""
        threshold = self.alpha.exp().reshape(-1, *[1] * (x.ndim - 2))
        return x.sign() * (x.abs() - threshold).relu()


class ConvolutionalAutoencoder(nn.Module):
    """The image mapping of BCD-Net: decoder * softthreshold(encoder * x, exp(alpha)).

    Encoder and decoder are one convolution each, without bias. 78 channels and 3 x 3 x 3 voxels give 4,290 parameters.

    Args:
        alpha : log of the first thresholds, or of the least and the greatest; see `initial_thresholds`. The default
            thresholds almost nothing, and changes very slowly in training: until then the mapping is linear.
        non_negative : whether a ReLU ends it; BCD-Net has none.

    Source: Lim, Chun, Dewaraja & Fessler 2020, IEEE Trans Med Imaging 39:3512, and their public code.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        channels: int = 78,
        alpha: float | Sequence[float] = -15.0,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.encoder = convolution(dimensions, in_channels, channels, bias=False)
        self.threshold = SoftThreshold(channels, alpha)
        self.decoder = convolution(dimensions, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        return positive(self.decoder(self.threshold(self.encoder(x))), self.non_negative)


def initial_thresholds(images: Tensor, top: float = 0.1) -> float:
    """Return the log of the intensity that a fraction `top` of the voxels reach: BCD-Net's first alpha.

    Args:
        images : (..., x, y, z), in the units that the network sees; the mean over the leading axes counts.

    Raises ValueError for a `top` outside (0, 1] and where that intensity is not positive.

    Source: the public code of Lim et al. 2020.
    """
    if not 0 < top <= 1:
        raise ValueError(f"top must be a fraction in (0, 1], got {top}")
    voxels = images.detach().reshape(-1, *images.shape[-3:]).mean(0).flatten()
    rank = max(round(top * voxels.numel()), 1)
    level = float(voxels.kthvalue(voxels.numel() - rank + 1).values)
    if not 0 < level < math.inf:
        raise ValueError(
            f"initial_thresholds: the brightest {100 * top:g} % of the voxels go down to {level:g}, which has no "
            "logarithm; does the object fill so little of the image? give a smaller top"
        )
    return math.log(level)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initialise what is built inside by a seed, and leave torch's own random numbers as they were.

    `with seeded(0): body = ResidualUnit(2)` gives the same weights every time.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def convolution(
    dimensions: int,
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    stride: int | tuple[int, ...] = 1,
    bias: bool = True,
    dilation: int = 1,
) -> nn.Module:
    """Return a 2-D or 3-D convolution that keeps the size, where the stride is 1."""
    require_dimensions(dimensions, "convolution")
    layer: nn.Module = _CONVOLUTIONS[dimensions](
        in_channels, out_channels, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation, bias=bias
    )
    return layer


def image_convolution(dimensions: int, in_channels: int, kernel: int = 3, *, non_negative: bool) -> nn.Module:
    """Return the convolution that makes an image of scale 1 from features alone.

    Args:
        non_negative : whether a ReLU follows. It then begins about the uniform image 1: weights that happen to be
            negative would make zeros everywhere, pass no gradient, and never learn.
    """
    layer = convolution(dimensions, in_channels, 1, kernel)
    if non_negative:
        nn.init.ones_(cast(Tensor, layer.bias))
    return layer


def normalisation(norm: str, dimensions: int, channels: int, *, affine: bool = True) -> nn.Module:
    """Return a layer that makes mean 0 and variance 1, with a learned factor and offset, or does nothing ("none").

    Args:
        norm : over which values: of a channel in the whole batch ("batch"), of a channel in an item ("instance"), or of
            gcd(4, channels) neighbouring channels in an item ("group").

    Source: Ioffe & Szegedy 2015; Ulyanov, Vedaldi & Lempitsky 2016; Wu & He 2018.
    """
    if norm == "none":
        return nn.Identity()
    if norm == "group":
        return nn.GroupNorm(channels // math.gcd(4, channels), channels, affine=affine)
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {[*_NORMS, 'group', 'none']}, got {norm!r}")
    layer: nn.Module = _NORMS[norm][dimensions](channels, affine=affine)
    return layer


def unit(
    dimensions: int,
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    *,
    norm: str,
    stride: int | tuple[int, ...] = 1,
    affine: bool = True,
    slope: float | None = 0.0,
    dilation: int = 1,
) -> nn.Sequential:
    """Return convolution, normalisation and (leaky) ReLU in a row; `slope` is that below zero, None for no ReLU."""
    layers = [
        convolution(dimensions, in_channels, out_channels, kernel, stride=stride, dilation=dilation),
        normalisation(norm, dimensions, out_channels, affine=affine),
    ]
    if slope is not None:
        # in place: neither normalisation nor convolution needs its own result again, and training keeps one array less
        layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def positive(x: Tensor, wanted: bool = True) -> Tensor:
    """Return max(x, 0), or x where that is not wanted."""
    return x.relu() if wanted else x


def require_dimensions(dimensions: int, who: str) -> None:
    """Raise ValueError, in the name of who asks, for dimensions other than 2 and 3."""
    if dimensions not in _CONVOLUTIONS:
        raise ValueError(f"{who}: dimensions must be 2 or 3, got {dimensions!r}")


def _require_depth(depth: int, who: str) -> None:
    if depth < 2:
        raise ValueError(f"{who} needs a depth of at least 2, got {depth}")
