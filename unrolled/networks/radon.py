"""The Radon inversion layer: every patch of the image sees the bins that its points project to, and no others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .blocks import unit


def patch_bins(scan: Mapping[str, Any], patch: int, margin: int = 1) -> np.ndarray:
    """Return which bins each patch of the image looks at, (patches, views, width), -1 beside the detector.

    A patch of p x p voxels covers, in every view, the bins around the projection of its centre that its diagonal can
    reach, and `margin` more on both sides.

    Args:
        scan : `described`: axes (views, 2), positions (bins,), shape, voxel_size, origin; the view v sees a point at
            axes[v] . (x, y) along the bins.

    Raises ValueError where the patch does not divide the image.
    """
    (nx, ny), (dx, dy) = tuple(scan["shape"])[:2], tuple(scan["voxel_size"])[:2]
    if nx % patch or ny % patch:
        raise ValueError(f"patches of {patch} voxels do not divide an image of {nx} x {ny}")
    x0, y0 = tuple(scan["origin"])[:2]
    centre = (patch - 1) / 2
    x = x0 + dx * (np.arange(0, nx, patch) + centre)
    y = y0 + dy * (np.arange(0, ny, patch) + centre)
    centres = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    positions = np.asarray(scan["positions"], float)
    rising = np.argsort(positions)
    place = np.interp(centres @ np.asarray(scan["axes"], float).T, positions[rising], rising.astype(float))
    pitch = float(np.abs(np.diff(positions)).min()) if len(positions) > 1 else 1.0
    reach = math.ceil(math.hypot(patch * dx, patch * dy) / 2 / pitch) + margin
    bins = np.rint(place)[..., None].astype(int) + np.arange(-reach, reach + 1)
    return np.where((bins >= 0) & (bins < len(positions)), bins, -1)


class RadonInversion(nn.Module):
    """A gather along the sinusoid of every patch, and a small fully connected map of its own, to the patch's voxels::

        image[patch] = W[patch] data[view, bins that see the patch] + b[patch]

    Args:
        scan : where lines and voxels are, see `patch_bins`.
        in_channels, channels : of the data, and of the image that it makes.
        patch : voxels of a side.

    A view that does not see a patch gives it zeros.

    Source: Whiteley, Luk & Gregor 2020, IEEE Trans Med Imaging 39:3377 (DirectPET).
    """

    def __init__(
        self, scan: Mapping[str, Any], in_channels: int, channels: int, *, patch: int = 8, margin: int = 1
    ) -> None:
        super().__init__()
        bins = patch_bins(scan, patch, margin)
        n_patches, n_views, width = bins.shape
        self.shape, self.patch, self.channels = tuple(scan["shape"])[:2], patch, channels
        self.n_data = (n_views, len(scan["positions"]))
        index = np.where(bins < 0, 0, bins) + self.n_data[1] * np.arange(n_views)[:, None]
        self.register_buffer("index", torch.as_tensor(index.reshape(n_patches, -1)), persistent=False)
        self.register_buffer("seen", torch.as_tensor((bins >= 0).reshape(n_patches, -1)), persistent=False)
        n_in = in_channels * n_views * width
        self.weight = nn.Parameter(torch.empty(n_patches, n_in, channels * patch * patch))
        self.bias = nn.Parameter(torch.zeros(n_patches, channels * patch * patch))
        nn.init.normal_(self.weight, std=1 / math.sqrt(n_in))
        self.index: Tensor
        self.seen: Tensor

    def forward(self, data: Tensor) -> Tensor:
        """(N, in_channels, views, bins) -> (N, channels, x, y)."""
        if tuple(data.shape[-2:]) != self.n_data:
            raise ValueError(f"RadonInversion takes views x bins of {self.n_data}, got {tuple(data.shape[-2:])}")
        seen = data.flatten(2)[:, :, self.index] * self.seen.to(data.dtype)  # (N, C, patches, views * width)
        rows = seen.movedim(1, 2).flatten(2).movedim(1, 0)  # (patches, N, C * views * width)
        made = torch.baddbmm(self.bias[:, None], rows, self.weight).movedim(0, 1)  # (N, patches, channels * p * p)
        (nx, ny), p = self.shape, self.patch
        tiles = made.reshape(-1, nx // p, ny // p, self.channels, p, p)
        return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.channels, nx, ny)


class DirectPETNet(nn.Module):
    """Convolutions on the data, the Radon inversion layer, and convolutions on the image.

    Args:
        scan, patch, margin : of `RadonInversion`.
        in_channels : of the data: TOF bins, and as many neighbouring planes as there are.
        beside : images that the refinement sees beside, such as a map.
        maps : images that the inversion makes; each has a map of its own for every patch, so few are many weights.
        width, depth : of the convolutions before and after.
        outputs : images that it makes.
        norm : of the convolutions.
    """

    dimensions = 2

    def __init__(
        self,
        scan: Mapping[str, Any],
        in_channels: int = 1,
        *,
        beside: int = 0,
        patch: int = 8,
        margin: int = 1,
        maps: int = 2,
        width: int = 16,
        depth: int = 3,
        outputs: int = 1,
        norm: str = "instance",
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"DirectPETNet: depth must be at least 1, got {depth}")
        self.before = nn.Sequential(
            *(unit(2, in_channels if k == 0 else width, width, norm=norm) for k in range(depth))
        )
        self.narrow = nn.Conv2d(width, 1, 1)
        self.inversion = RadonInversion(scan, 1, maps, patch=patch, margin=margin)
        self.after = nn.Sequential(
            *(unit(2, maps + beside if k == 0 else width, width, norm=norm) for k in range(depth))
        )
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.ones_(self.last.bias)

    def forward(self, data: Tensor, beside: Tensor | None = None) -> Tensor:
        """(N, channels, views, bins) and images (N, n, x, y) beside -> (N, outputs, x, y)."""
        image = self.inversion(self.narrow(self.before(data)))
        given = image if beside is None else torch.cat([image, beside], 1)
        made: Tensor = self.last(self.after(given))
        return made
