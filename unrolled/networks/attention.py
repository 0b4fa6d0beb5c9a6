"""A transformer of two kinds of attention, over windows of voxels and over channels, on MONAI's parts."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor, nn

from .blocks import convolution, positive
from .optional import optional_module
from .transformer import SwinRegulariser
from .unet import pad_to_multiple

_WHO = "SpatialChannelTransformer"


class SpatialChannelTransformer(nn.Module):
    """Attention over windows and over channels in turn, x + conv(f + blocks(f)), f = conv([x, guides]): Spach-like.

    A block is a Swin layer (attention among the voxels of a window, windows shifted from block to block) and one of
    transposed attention (among channels, over the whole image), each with its perceptron. The published Spach
    Transformer has them in a U-shape; here they stay on one scale, so that small images will do.

    Args:
        width, heads : channels of the features, a multiple of `heads`.
        n_blocks : of either kind.
        window : voxels of a window along each axis; sizes that it does not divide are padded and cropped again.
        expansion : how many times wider the hidden layers are.

    Raises ImportError that names the extra where MONAI is not installed.

    Source: Jang et al. 2024, IEEE Trans Med Imaging 43:2036; Zamir et al. 2022, CVPR (attention of channels); Liu et
    al. 2021, ICCV (of windows).
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        width: int = 48,
        heads: int = 4,
        n_blocks: int = 2,
        window: int = 4,
        expansion: float = 2.0,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        if width % heads or n_blocks < 1:
            raise ValueError(f"{_WHO}: width {width} must be a multiple of {heads} heads, with 1 block or more")
        restormer = _restormer()
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.multiple = (window,) * dimensions
        self.first = convolution(dimensions, in_channels, width)
        self.spatial = nn.ModuleList(
            SwinRegulariser.attention_of(width, heads, (window,) * dimensions, 2, expansion, 0.0)
            for _ in range(n_blocks)
        )
        self.channel = nn.ModuleList(
            restormer.MDTATransformerBlock(dimensions, width, heads, expansion, bias=False) for _ in range(n_blocks)
        )
        self.last = convolution(dimensions, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        padded, crop = pad_to_multiple(x, self.multiple)
        first = inner = self.first(padded)
        for spatial, channel in zip(self.spatial, self.channel):
            inner = channel(inner + spatial(inner))
        return positive(padded[:, :1] + self.last(first + inner), self.non_negative)[crop]


def _restormer() -> ModuleType:
    for module in ("einops", "monai.networks.nets.restormer"):
        found = optional_module(module, _WHO, "MONAI 1.5 or newer and einops", "monai")
    return found
