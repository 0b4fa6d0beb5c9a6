"""Learned primal-dual: networks in the image and in the data take turns, without any EM."""

from __future__ import annotations

import torch
from torch import nn

from emrecon.recon.likelihoods import Likelihood, only_seen, start_image

from ..direct import DataFolding
from ..networks.blocks import convolution
from ..networks.guides import guide_channels
from ..networks.scaling import count_scale, of_bins


class PrimalDualNetwork(nn.Module):
    """Unrolled primal-dual iterations whose two proximal maps are networks::

        h <- h + G_n(h, A f_2 / d, (y - r) / d),      f <- f + F_n(f, A'h d / s_mean, guides)

    f holds `n_primal` images and h `n_dual` data, both in units of the item's scale c and of the mean d of A c: counts
    and background doubled give the image doubled. The first of f is the result, without what is negative.

    Args:
        dimensions : 2 for images of one slice and data (views, bins, 1); 3 for volumes. TOF bins are items of a batch.
        n_iterations, n_primal, n_dual, width : of the networks, each of four convolutions with PReLU between them.
        guide_channels : images beside f, in any unit, as for `Enhancer`.

    Raises TypeError for list-mode data, which have no grid to convolve on, and ValueError for guides that do not
    fit or are missing.

    Source: Adler & Oktem 2018, IEEE Trans Med Imaging 37:1322; PET: Guazzo & Colarieti-Tosti 2021.
    """

    def __init__(
        self,
        dimensions: int,
        n_iterations: int = 10,
        n_primal: int = 5,
        n_dual: int = 5,
        width: int = 32,
        guide_channels: int = 0,
    ) -> None:
        super().__init__()
        if min(n_iterations, n_primal, n_dual, width) < 1 or n_primal < 2:
            raise ValueError("PrimalDualNetwork needs an iteration, two primal images, a dual and a channel at least")
        self.dimensions, self.n_primal, self.n_dual = dimensions, n_primal, n_dual
        self.guide_channels = guide_channels
        self.duals = nn.ModuleList(_chain(dimensions, n_dual + 2, width, n_dual) for _ in range(n_iterations))
        primal = n_primal + 1 + guide_channels
        self.primals = nn.ModuleList(_chain(dimensions, primal, width, n_primal) for _ in range(n_iterations))

    @property
    def networks(self) -> list[nn.Module]:
        """The networks of data and of images."""
        return [*self.duals, *self.primals]

    def forward(
        self, likelihood: Likelihood, start: torch.Tensor | None = None, *, guide: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the image of each item, (..., x, y, z); start fills the first primal images (default: the scale)."""
        counted = of_bins(likelihood, "PrimalDualNetwork", "histogram the events of a list first")
        model, ones = counted.model, start_image(counted)
        c = count_scale(counted)
        s = torch.mean(counted.sensitivity_like(ones), (-3, -2, -1), keepdim=True)
        bins, image_shape = tuple(model.projector.out_shape), tuple(model.projector.in_shape)
        n_axes = len(bins)
        unit = model.linear(c * ones)
        d = torch.mean(unit, tuple(range(-n_axes, 0)), keepdim=True)
        measured = (counted.counts_like(unit) - model.background_like(unit)) / d
        image = ones if start is None else start / c
        f, h = (
            torch.stack([image] * self.n_primal, -4),
            torch.stack([torch.zeros_like(measured)] * self.n_dual, -n_axes - 1),
        )
        beside = guide_channels(guide, image, self.guide_channels, "PrimalDualNetwork")
        guides = [] if beside is None else [beside]
        for dual, primal in zip(self.duals, self.primals):
            seen = model.linear(c * f.select(-4, 1)) / d
            data = torch.stack([seen, measured], -n_axes - 1)
            h = h + self._convolved(dual, torch.cat([h, data], -n_axes - 1), bins)
            back = model.adjoint(h.select(-n_axes - 1, 0)) / s
            f = f + self._convolved(primal, torch.cat([f, back.unsqueeze(-4), *guides], -4), image_shape)
        return only_seen(c * torch.relu(f.select(-4, 0)), [counted])

    def _convolved(self, network: nn.Module, values: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """Apply a network to (..., channels, ``*shape``), folding all but the convolved axes into items."""
        folding = DataFolding(shape, self.dimensions, "items")
        return folding.unfold(network(folding.fold(values)), tuple(values.shape[: -1 - len(shape)]))


def _chain(dimensions: int, n: int, width: int, m: int) -> nn.Sequential:
    return nn.Sequential(
        convolution(dimensions, n, width),
        nn.PReLU(width),
        *(layer for _ in range(2) for layer in (convolution(dimensions, width, width), nn.PReLU(width))),
        convolution(dimensions, width, m),
    )
