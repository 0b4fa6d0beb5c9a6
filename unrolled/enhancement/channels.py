"""What a network sees beside the image: neighbouring slices, the level of the noise, and where a voxel lies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..networks.guides import IMAGE_AXES, mean_scale

_OBJECT = 0.1  # of the mean of the object: voxels below are air
_NORMAL = 0.6744897501960817  # median of |N(0, 1)|


def neighbours(channels: Tensor, n_slices: int) -> Tensor:
    """(..., C, x, y, z) as (..., n_slices * C, x, y, z): of each slice itself, then its neighbours, nearest first."""
    n = channels.shape[-1]
    place = torch.arange(n, device=channels.device)
    return torch.cat([channels[..., (place + k).clamp(0, n - 1)] for k in _order(n_slices)], -4)


def overlapped(slices: Tensor) -> Tensor:
    """Return one image of those that every place makes of its slices, (..., n_slices, x, y, z) -> (..., x, y, z).

    The mean with weight 1 for the middle slice and 1 / (1 + k) for the k-th neighbour; of places beyond the ends
    nothing is taken.
    """
    n = slices.shape[-1]
    total, weights = torch.zeros_like(slices[..., 0, :, :, :]), slices.new_zeros(n)
    for channel, k in enumerate(_order(slices.shape[-4])):
        low, high = max(0, k), min(n, n + k)  # the slices that are the k-th neighbour of some place
        if low >= high:
            continue
        weight = 1 / (1 + abs(k))
        part = slices[..., channel, :, :, low - k : high - k]
        total = total + weight * torch.nn.functional.pad(part, (low, n - high))
        weights[low:high] += weight
    return total / weights


def noise_level(x: Tensor) -> Tensor:
    """Return the standard deviation of the noise of images, (..., x, y, z) -> (..., 1, 1, 1), without gradient.

    The median of ``|x(i - 1) - 2 x(i) + x(i + 1)|`` over the axes and the voxels of the object, over 0.6745 sqrt(6),
    which is exact for white Gaussian noise on a slowly changing image. Noise of reconstructions hangs together over
    voxels; of those it is a fraction, the same at every scale of the image. 0 for images of less than three voxels
    along every axis.

    Source: Immerkaer 1996 for second differences; Donoho & Johnstone 1994 for the median.
    """
    with torch.no_grad():
        inside = x.abs() > _OBJECT * mean_scale(x)
        found = []
        for axis in IMAGE_AXES:
            n = x.shape[axis]
            if n < 3:
                continue
            before, middle, after = (x.narrow(axis, k, n - 2) for k in range(3))
            bend = (before - 2 * middle + after).abs()
            seen = torch.where(inside.narrow(axis, 1, n - 2), bend, torch.full_like(bend, math.nan))
            found.append(seen.flatten(-3))
        if not found:
            return torch.zeros_like(x[..., :1, :1, :1])
        median = torch.cat(found, -1).nanmedian(-1).values / (_NORMAL * math.sqrt(6))
        return torch.nan_to_num(median)[..., None, None, None]


def positions(x: Tensor) -> list[Tensor]:
    """Return two images of the shape of x: the distance from the middle in x and y, and the place along z, -1 to 1.

    The distance is -1 on the axis and 1 at the nearer edge.
    """
    nx, ny, nz = (torch.arange(n, dtype=x.dtype, device=x.device) - (n - 1) / 2 for n in x.shape[-3:])
    half = max(min(x.shape[-3], x.shape[-2]) / 2, 0.5)
    radius = torch.sqrt(nx[:, None, None] ** 2 + ny[None, :, None] ** 2) / half
    axial = nz / max(x.shape[-1] / 2, 0.5)
    return [(2 * radius - 1).clamp(max=1).expand_as(x), axial.expand_as(x)]


def _order(n_slices: int) -> list[int]:
    """Offsets of the slices, the middle one first: 0, -1, 1, -2, 2."""
    half = n_slices // 2
    return sorted(range(-half, half + 1), key=abs)
