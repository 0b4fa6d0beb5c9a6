"""Networks that make scatter: of emission and attenuation sinograms, with or without a simulation of single scatter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emrecon.projectors import ImageGrid, PETProjector, PETSinogram, Scan, SPECTGeometry, SPECTProjector
from emrecon.projectors.core.arrays import Array, to_numpy

from ..networks.blocks import image_convolution, unit
from ..networks.unet import UNet


class ScatterNetwork(nn.Module):
    """Expected scatter of sinograms or projections, in their unit::

        s = c relu(body([y / c, l / 3, (s1 / c)])),      c the mean of y of each item

    so that twice the counts give twice the scatter. y is the measured emission (without randoms), l the line integrals
    of mu without unit, s1 a simulation of single scatter. Planes (rows of SPECT) are items of a batch.

    Args:
        body : (N, 2 or 3, views, bins) -> (N, 1, views, bins).
        with_single : whether s1 goes in as a third channel.
        margin : views that are repeated beyond the first and the last, where views come round again.
        half_turn : the views cover half a turn, as sinograms of PET do: the view after the last is the first with its
            bins in reverse order. False for SPECT over a whole turn; take margin=0 for other orbits.

    Raises ValueError for shapes that differ, and for s1 that is missing or not expected.
    """

    def __init__(self, body: nn.Module, *, with_single: bool = False, margin: int = 8, half_turn: bool = True) -> None:
        super().__init__()
        if margin < 0:
            raise ValueError(f"ScatterNetwork: margin must be 0 or more views, got {margin}")
        self.body, self.with_single, self.margin, self.half_turn = body, with_single, margin, half_turn

    def forward(self, emission: Tensor, attenuation: Tensor, single: Tensor | None = None) -> Tensor:
        """Return scatter (..., views, bins, planes).

        Args:
            emission, attenuation, single : (..., views, bins, planes).
        """
        if (single is None) == self.with_single:
            raise ValueError(
                "ScatterNetwork needs a simulation of single scatter"
                if self.with_single
                else "ScatterNetwork takes no simulation of single scatter; build it with with_single=True"
            )
        if attenuation.shape != emission.shape or (single is not None and single.shape != emission.shape):
            raise ValueError(f"ScatterNetwork: {tuple(attenuation.shape)} does not fit {tuple(emission.shape)}")
        c = emission.mean((-3, -2, -1), keepdim=True)
        safe = torch.where(c > 0, c, torch.ones_like(c))
        shown = [emission / safe, attenuation / 3] + ([] if single is None else [single / safe])
        channels = torch.stack(shown, -4)
        n = min(self.margin, emission.shape[-3])
        if n:
            channels = torch.cat(
                [self._turned(channels[..., -n:, :, :]), channels, self._turned(channels[..., :n, :, :])], -3
            )
        folded = channels.movedim(-1, -4)  # planes beside the items
        made = self.body(folded.reshape(-1, *folded.shape[-3:])).relu()
        *batch, views, bins, planes = emission.shape
        image = made.reshape(*batch, planes, views + 2 * n, bins).movedim(-3, -1)
        return c * image[..., n : n + views, :, :]

    def _turned(self, views: Tensor) -> Tensor:
        return views.flip(-2) if self.half_turn else views


class TwoPaths(nn.Module):
    """One path of convolutions for the emission and one for the attenuation, joined by further ones.

    Args:
        in_channels : 2, or more: those after the attenuation go with the emission.
        depth : of all convolutions on one way through, 13 as published: 6 in each path, 6 behind, and the last.
        width : channels; ours.

    Source: Xiang et al. 2020, IEEE Trans Radiat Plasma Med Sci (Y-90 SPECT, 13 layers, two paths).
    """

    def __init__(self, in_channels: int = 2, *, depth: int = 13, width: int = 16, norm: str = "instance") -> None:
        super().__init__()
        if in_channels < 2 or depth < 3:
            raise ValueError(f"TwoPaths needs 2 channels and 3 layers or more, got {in_channels} and {depth}")
        own = (depth - 1) // 2
        self.emission = _chain(in_channels - 1, width, own, norm)
        self.attenuation = _chain(1, width, own, norm)
        self.joined = _chain(2 * width, width, depth - 1 - own, norm)
        self.last = image_convolution(2, width, non_negative=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, views, bins) -> (N, 1, views, bins)."""
        emission = torch.cat([x[:, :1], x[:, 2:]], 1)
        both = torch.cat([self.emission(emission), self.attenuation(x[:, 1:2])], 1)
        made: Tensor = self.last(self.joined(both))
        return made


class Layers(nn.Module):
    """Convolutions in a row with wide kernels: six layers as published.

    Source: Qian, Rui & Ahn 2017, IEEE NSS/MIC (emission and attenuation to scatter; single to multiple scatter).
    """

    def __init__(
        self, in_channels: int = 2, *, depth: int = 6, width: int = 16, kernel: int = 7, norm: str = "none"
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"Layers: depth must be 2 or more, got {depth}")
        first = unit(2, in_channels, width, kernel, norm=norm)
        inner = [unit(2, width, width, kernel, norm=norm) for _ in range(depth - 2)]
        self.layers = nn.Sequential(first, *inner, image_convolution(2, width, kernel, non_negative=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, views, bins) -> (N, 1, views, bins)."""
        made: Tensor = self.layers(x)
        return made


def _chain(n: int, width: int, length: int, norm: str) -> nn.Sequential:
    return nn.Sequential(*[unit(2, n if k == 0 else width, width, norm=norm) for k in range(length)])


def _unet(in_channels: int, *, width: int = 16, levels: int = 4, norm: str = "instance") -> nn.Module:
    return UNet(2, in_channels, width=width, levels=levels, norm=norm)


SCATTER_NETWORKS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"unet": _unet, "layers": Layers, "two-paths": TwoPaths}
)
"""Bodies by name: the U-Net of Berker et al. 2018, six layers of Qian et al. 2017, two paths of Xiang et al. 2020."""


def scatter_preset(
    body: str = "unet", *, with_single: bool = False, half_turn: bool = True, margin: int = 8, **options: Any
) -> ScatterNetwork:
    """Return a network that makes the scatter of sinograms (PET) or projections (SPECT, `half_turn=False`).

    Args:
        body : "unet", "layers" or "two-paths", see `SCATTER_NETWORKS`.
        with_single : also see a simulation of single scatter, and so add multiple scatter to it.
        options : of the body, such as width.

    Raises ValueError for an unknown body.

    Source: Berker, Maier & Kachelriess 2018 (IEEE NSS/MIC); Qian, Rui & Ahn 2017; Xiang et al. 2020.
    """
    if body not in SCATTER_NETWORKS:
        raise ValueError(f"unknown body {body!r}; choose from {', '.join(SCATTER_NETWORKS)}")
    made = SCATTER_NETWORKS[body](2 + with_single, **options)
    return ScatterNetwork(made, with_single=with_single, half_turn=half_turn, margin=margin)


def predicted_scatter(
    network: nn.Module, scan: Scan, mu: Array, grid: ImageGrid, *, single: Array | None = None
) -> np.ndarray:
    """Return the scatter that a network expects in every bin, float32 counts, for `pet_problem(scatter=...)`.

    Args:
        scan : of PET, whose background is the randoms, or the photopeak of SPECT.
        mu : (x, y, z) in 1/cm on `grid`.
        single : expected single scatter in counts, of the shape of the data. With time of flight it is needed: the
            network's scatter of a line is shared among its TOF bins as single scatter is.

    Raises ValueError for data with time of flight without `single`.
    """
    y = np.maximum(to_numpy(scan.counts) - to_numpy(scan.background), 0).astype(np.float32)
    depth = attenuation_lines(scan.geometry, mu, grid)
    tof = isinstance(scan.geometry, PETSinogram) and scan.geometry.tof is not None
    shape = None if single is None else np.broadcast_to(to_numpy(single), y.shape).astype(np.float32)
    if tof and shape is None:
        raise ValueError(
            "scatter of data with time of flight is shared among TOF bins as single scatter is: give single"
        )
    summed = (lambda v: v.sum(-2)) if tof else (lambda v: v)
    with_single = bool(getattr(network, "with_single", False))
    given = [summed(y), depth] + ([summed(shape)] if with_single and shape is not None else [])
    network.eval()
    with torch.no_grad():
        made = network(*(torch.as_tensor(np.ascontiguousarray(part)) for part in given)).numpy()
    if not tof or shape is None:
        return np.asarray(made, np.float32)
    total = summed(shape)[..., None, :]
    share = np.where(total > 0, shape / np.where(total > 0, total, 1), np.float32(1 / shape.shape[-2]))
    return np.asarray(made[..., None, :] * share, np.float32)


def attenuation_lines(geometry: PETSinogram | SPECTGeometry, mu: Array, grid: ImageGrid) -> np.ndarray:
    """Return the line integrals of mu without unit, (views, bins, planes): of PET without TOF, of SPECT through all."""
    values = np.asarray(to_numpy(mu), np.float32)
    if isinstance(geometry, PETSinogram):
        return np.asarray(to_numpy(PETProjector(grid, geometry.without_tof())(values)) / 10, np.float32)
    rays = to_numpy(SPECTProjector(grid, geometry)(values))  # sums of the voxels that a bin sees
    return np.asarray(rays * (math.prod(grid.voxel_size) / math.prod(geometry.pixel_size) / 10), np.float32)
