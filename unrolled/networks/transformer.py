"""A transformer of shifted windows as a regulariser; the windows are MONAI's (extra `monai`)."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import convolution, normalisation, positive
from .optional import optional_module
from .unet import pad_to_multiple


class SwinRegulariser(nn.Module):
    """The residual Swin transformer of TransEM, x + conv(f + Swin(f)) with the features f = norm(conv([x, guides])).

    Args:
        width : channels of the features, a multiple of `heads`.
        window : voxels of a window along each axis.
        depth : Swin layers; from the second on, every other one has its windows shifted by half. TransEM has one.
        expansion : how many times wider the hidden layer of the perceptron is.
        dropout : in attention and perceptron; TransEM trains with 0.1.

    77,389 parameters in 2-D with the defaults. Sizes that the window does not divide are padded and cropped again.

    Raises ImportError where MONAI is not installed.

    Source: Hu & Liu 2022, MICCAI, and their public code; Liu et al. 2021, ICCV (Swin).
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        width: int = 96,
        heads: int = 12,
        window: int = 4,
        depth: int = 1,
        expansion: float = 2.0,
        dropout: float = 0.0,
        norm: str = "batch",
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"SwinRegulariser: width {width} is not a multiple of {heads} heads")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.first = nn.Sequential(convolution(dimensions, in_channels, width), normalisation(norm, dimensions, width))
        self.multiple = (window,) * dimensions
        self.attention = self.attention_of(width, heads, self.multiple, depth, expansion, dropout)
        self.last = convolution(dimensions, width, 1)

    @staticmethod
    def attention_of(
        width: int, heads: int, window: tuple[int, ...], depth: int, expansion: float, dropout: float
    ) -> nn.Module:
        """Return Swin layers of features (N, width, ...), whose sizes the window divides."""
        layers: nn.Module = _swin_layers()(
            dim=width,
            depth=depth,
            num_heads=heads,
            window_size=window,
            drop_path=[0.0] * depth,
            mlp_ratio=expansion,
            qkv_bias=True,
            drop=dropout,
            attn_drop=dropout,
        )
        return layers

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        padded, crop = pad_to_multiple(x, self.multiple)
        features = self.first(padded)
        output = padded[:, :1] + self.last(features + self.attention(features))
        return positive(output, self.non_negative)[crop]


def _swin_layers() -> type[nn.Module]:
    for module in ("einops", "monai.networks.nets.swin_unetr"):  # MONAI needs einops only when the network runs
        found = optional_module(module, "SwinRegulariser", "MONAI and einops", "monai")
    return found.BasicLayer
