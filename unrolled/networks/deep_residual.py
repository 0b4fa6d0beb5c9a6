"""Deep networks of one scale: EDSR and RCAN, and the autoencoder of convolutions for low doses."""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import convolution, positive


class EDSR(nn.Module):
    """Residual blocks without normalisation, x + conv(f + blocks(f)), f = conv([x, guides]): EDSR without enlargement.

    A block is f + s conv(relu(conv(f))).

    Args:
        n_blocks, width : 16 and 64 are those of its baseline, 32 and 256 with s = 0.1 those of the large one.
        share : s.

    1,219,841 parameters in 2-D with one channel; the large form 38,360,065 (the sub-pixel layers of the source, which
    enlarge, are not there).

    Source: Lim et al. 2017, CVPR workshops.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        n_blocks: int = 16,
        width: int = 64,
        share: float = 1.0,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        _require(n_blocks, "EDSR")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.first = convolution(dimensions, in_channels, width)
        self.blocks = nn.ModuleList(_Block(dimensions, width, share) for _ in range(n_blocks))
        self.joined = convolution(dimensions, width, width)
        self.last = convolution(dimensions, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        first = inner = self.first(x)
        for block in self.blocks:
            inner = block(inner)
        return positive(x[:, :1] + self.last(first + self.joined(inner)), self.non_negative)


class RCAN(nn.Module):
    """Groups of residual blocks with attention to channels, x + conv(f + groups(f)): RCAN without enlargement.

    A block is f + a conv(relu(conv(f))), where a, one number for each channel, is
    sigmoid(conv1(relu(conv1(mean over the image)))), with width / reduction channels in between; a group is f +
    conv(blocks(f)).

    Args:
        n_groups, n_blocks, width, reduction : 10, 20, 64 and 16 are those of the source.

    15,294,625 parameters in 2-D with one channel.

    Source: Zhang et al. 2018, ECCV.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        n_groups: int = 10,
        n_blocks: int = 20,
        width: int = 64,
        reduction: int = 16,
        non_negative: bool = False,
    ) -> None:
        super().__init__()
        _require(min(n_groups, n_blocks), "RCAN")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.first = convolution(dimensions, in_channels, width)
        self.groups = nn.ModuleList(_Group(dimensions, width, n_blocks, reduction) for _ in range(n_groups))
        self.joined = convolution(dimensions, width, width)
        self.last = convolution(dimensions, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        first = inner = self.first(x)
        for group in self.groups:
            inner = group(inner)
        return positive(x[:, :1] + self.last(first + self.joined(inner)), self.non_negative)


class StackedAutoencoder(nn.Module):
    """Convolutions without padding, and as many transposed ones back, with shortcuts: the autoencoder of low doses.

        e_k = relu(conv(e_{k-1})),   d_n = e_n,   d_{k-1} = relu(deconv(d_k) + e_{k-1} where k is odd),   e_0 = x

    The image shrinks by 2 voxels a layer and grows back; images are mirrored at the border first, so that no voxel is
    lost. Guides are channels of x; the last shortcut is the image.

    Args:
        depth : convolutions of the encoder, and of the decoder.
        width : channels.
        shortcuts : False has none, the plain autoencoder.

    Source: Ramon et al. 2020, IEEE Trans Med Imaging 39:2893 (SPECT of the heart at 1/2 to 1/16 of the dose, 3-D);
    shortcuts as in Chen et al. 2017, IEEE Trans Med Imaging 36:2524. Depth and width are ours.
    """

    def __init__(
        self,
        dimensions: int,
        in_channels: int = 1,
        *,
        depth: int = 4,
        width: int = 32,
        shortcuts: bool = True,
        non_negative: bool = True,
    ) -> None:
        super().__init__()
        _require(depth, "StackedAutoencoder")
        self.dimensions, self.in_channels, self.non_negative = dimensions, in_channels, non_negative
        self.shortcuts = shortcuts
        kinds = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}
        if dimensions not in kinds:
            raise ValueError(f"StackedAutoencoder: dimensions must be 2 or 3, got {dimensions!r}")
        down, up = kinds[dimensions]
        self.encoder = nn.ModuleList(down(in_channels if k == 0 else width, width, 3) for k in range(depth))
        self.decoder = nn.ModuleList(up(width, 1 if k == 0 else width, 3) for k in range(depth)[::-1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, ...) -> (N, 1, ...)."""
        depth = len(self.encoder)
        padded = _edges(x, depth)
        features = [padded]
        for layer in self.encoder:
            features.append(layer(features[-1]).relu())
        inner = features[-1]
        for level, layer in zip(range(depth - 1, -1, -1), self.decoder):
            inner = layer(inner)
            if self.shortcuts and (level % 2 == 0):
                inner = inner + (features[level][:, :1] if level == 0 else features[level])
            inner = inner.relu() if level else positive(inner, self.non_negative)
        return inner[(..., *(slice(depth, depth + n) for n in x.shape[2:]))]


class _Block(nn.Module):
    def __init__(self, dimensions: int, width: int, share: float, reduction: int | None = None) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(dimensions, width, width), nn.ReLU(inplace=True), convolution(dimensions, width, width)
        )
        self.share = share
        self.attention = None if reduction is None else _Attention(dimensions, width, reduction)

    def forward(self, x: Tensor) -> Tensor:
        made = self.layers(x)
        return x + self.share * (made if self.attention is None else self.attention(made))


class _Attention(nn.Module):
    def __init__(self, dimensions: int, width: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, width // reduction)
        self.layers = nn.Sequential(
            convolution(dimensions, width, inner, 1),
            nn.ReLU(inplace=True),
            convolution(dimensions, inner, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.layers(x.mean(tuple(range(2, x.ndim)), keepdim=True))


class _Group(nn.Module):
    def __init__(self, dimensions: int, width: int, n_blocks: int, reduction: int) -> None:
        super().__init__()
        blocks = [_Block(dimensions, width, 1.0, reduction) for _ in range(n_blocks)]
        self.layers = nn.Sequential(*blocks, convolution(dimensions, width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _edges(x: Tensor, n: int) -> Tensor:
    """x with its border repeated n times on every side; an axis of one voxel, too."""
    return nn.functional.pad(x, [n, n] * (x.ndim - 2), mode="replicate")


def _require(n: int, who: str) -> None:
    if n < 1:
        raise ValueError(f"{who} needs 1 block or more, got {n}")
