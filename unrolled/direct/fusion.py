"""One image of several reconstructions of the same scan, by a small network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emrecon.recon.likelihoods import CountsLikelihood, Likelihood, only_seen

from ..networks.guides import guide_channels
from ..networks.scaling import count_scale
from .direct import whole
from .folding import DataFolding

Reconstructions = Callable[[CountsLikelihood], Sequence[Tensor]]


class Fused(nn.Module):
    """A network that makes one image of several::

        x = relu( x_1 + c N(x_1 / c, x_2 / c, ..., guides) ),      c the `count_scale` of the counts

    so that no strength of smoothing has to be chosen: images of few and many passes, plain and smoothed, or of several
    beta. Counts and background doubled give the image doubled.

    Args:
        reconstructions : likelihood -> images (..., x, y, z), as many as the network takes; without gradients.
        body : (N, images + guides, x, y[, z]) -> (N, 1, x, y[, z]).
        n_images : how many images that are.
        dimensions : 2 or 3.
        guide_channels : images beside them, in any unit.

    Source: Wang et al. 2019 (ML and smoothed ML) and Yang et al. 2014 (several beta): networks of a voxel's own values.
    """

    def __init__(
        self,
        reconstructions: Reconstructions,
        body: nn.Module,
        n_images: int,
        dimensions: int,
        guide_channels: int = 0,
    ) -> None:
        super().__init__()
        if n_images < 1 or dimensions not in (2, 3):
            raise ValueError(f"Fused: an image at least, and dimensions of 2 or 3, got {n_images} and {dimensions}")
        self.reconstructions, self.body, self.n_images = reconstructions, body, n_images
        self.dimensions, self.guide_channels = dimensions, guide_channels

    @property
    def networks(self) -> list[nn.Module]:
        """The body."""
        return [self.body]

    def forward(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None, *, guide: Tensor | None = None
    ) -> Tensor:
        """Return the image of each item, (..., x, y, z); `start` is taken and not used.

        Raises ValueError where the reconstructions are another number of images than the network takes.
        """
        counted = whole(likelihood, "Fused")
        with torch.no_grad():
            images, c = list(self.reconstructions(counted)), torch.as_tensor(count_scale(counted))
        if len(images) != self.n_images:
            raise ValueError(f"Fused: the network takes {self.n_images} images, and there are {len(images)}")
        first = images[0]
        shown = torch.stack(images, -4) / c.unsqueeze(-4)
        beside = guide_channels(guide, first, self.guide_channels, "Fused")
        inputs = shown if beside is None else torch.cat([shown, beside], -4)
        folding = DataFolding(tuple(first.shape[-3:]), self.dimensions)
        made = folding.unfold(self.body(folding.fold(inputs)), tuple(first.shape[:-3])).squeeze(-4)
        return only_seen(torch.relu(first + c * made.to(first.dtype)), [counted])
