"""A small network that says how probable a class is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class ImageClassifier(nn.Module):
    """One number for each image, the log odds of a class: a linear part, and convolutions for what is not linear::

        l(x) = w'x + v'features(x) + b

    The linear part alone is as good as a Hotelling observer; features are `depth` convolutions of 3 voxels and `width`
    channels, whose last is averaged over blocks of two voxels.

    Args:
        shape : of an image, two axes or three; axes of one voxel are none.
        width, depth : of the convolutions; depth 0 leaves the linear part.

    Raises ValueError for shapes of other axes, and widths below 1.
    """

    def __init__(self, shape: Sequence[int], width: int = 8, depth: int = 2) -> None:
        super().__init__()
        self.shape = tuple(int(n) for n in shape if n > 1)
        if len(self.shape) not in (2, 3) or width < 1 or depth < 0:
            raise ValueError(f"ImageClassifier: shape {tuple(shape)}, width {width}, depth {depth} make no network")
        flat = len(self.shape) == 2
        convolution, pool = (nn.Conv2d, nn.AvgPool2d) if flat else (nn.Conv3d, nn.AvgPool3d)
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [convolution(width if k else 1, width, 3, padding=1), nn.LeakyReLU(0.1)]
        self.features = nn.Sequential(*layers, pool(2, ceil_mode=True), nn.Flatten()) if depth else None
        self.linear = nn.Linear(math.prod(self.shape), 1)
        nn.init.zeros_(self.linear.weight)
        blocks = math.prod(-(-n // 2) for n in self.shape)
        self.last = nn.Linear(width * blocks, 1, bias=False) if depth else None
        if self.last is not None:
            nn.init.normal_(self.last.weight, std=0.1 / math.sqrt(width * blocks))

    def forward(self, images: Tensor) -> Tensor:
        """(N, ...) -> (N,) log odds."""
        x = images.reshape(-1, 1, *self.shape)
        odds: Tensor = self.linear(x.flatten(1))
        if self.features is not None and self.last is not None:
            odds = odds + self.last(self.features(x))
        return odds[:, 0]
