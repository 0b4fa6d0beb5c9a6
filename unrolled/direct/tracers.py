"""The images of several tracers in one scan of several frames, told apart by a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from emrecon.recon.likelihoods import CountsLikelihood, Likelihood

from ..networks.scaling import count_scale
from .direct import whole
from .folding import DataFolding


class Separated(nn.Module):
    """A network that makes the images of K tracers of the F frames of one scan::

        z_f = R(y_f),     x = relu( W+ z + c N(z / c, W+ z / c) ),      c the mean `count_scale` of the frames

    W (F, K) is the mean activity of each tracer in each frame over that at its injection, and W+ its pseudoinverse:
    without the network this is the least-squares separation of every voxel by decay alone, which noise makes useless
    where half-lives are near one another. Counts and background doubled give the images doubled.

    Args:
        reconstruct : likelihood -> image of each frame, without gradients: `BackProjection`, `OSEMPasses`.
        body : (N, F + K, x, y[, z]) -> (N, K, x, y[, z]).
        weights : W, such as `sims.frame_weights` gives it.
        dimensions : 2 or 3.

    Called with the likelihood of all frames, counts (..., F, ``*data``), it returns (..., K, x, y, z).

    Raises ValueError for weights that do not tell the tracers apart.

    Source: after Xu & Liu 2018, Phys Med Biol 63:195019, and the networks of back projections of dual-tracer PET since.
    """

    guide_channels = 0

    def __init__(self, reconstruct: Any, body: nn.Module, weights: Sequence[Sequence[float]], dimensions: int) -> None:
        super().__init__()
        w = torch.tensor(weights, dtype=torch.float64)
        if w.ndim != 2 or w.shape[0] < w.shape[1] or int(torch.linalg.matrix_rank(w)) < w.shape[1]:
            raise ValueError(
                "Separated: weights must be (frames, tracers), as many frames as tracers or more, and differ"
            )
        if dimensions not in (2, 3):
            raise ValueError(f"Separated: dimensions must be 2 or 3, got {dimensions}")
        self.reconstruct, self.body, self.dimensions = reconstruct, body, dimensions
        self.register_buffer("weights", w.to(torch.float32))
        self.register_buffer("inverse", torch.linalg.pinv(w).to(torch.float32))
        self.weights: Tensor
        self.inverse: Tensor

    @property
    def networks(self) -> list[nn.Module]:
        """The body."""
        return [self.body]

    def forward(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None, *, guide: Tensor | None = None
    ) -> Tensor:
        """Return the image of each tracer, (..., K, x, y, z); `start` is taken and not used.

        Raises ValueError for another number of frames, and for a guide.
        """
        if guide is not None:
            raise ValueError("Separated: this network takes no guide")
        frames, c, seen = self._frames(whole(likelihood, "Separated"))
        first = self.linear(frames)
        inputs = torch.cat([frames, first], -4) / c.unsqueeze(-4)
        folding = DataFolding(tuple(frames.shape[-3:]), self.dimensions)
        made = folding.unfold(self.body(folding.fold(inputs)), tuple(frames.shape[:-4]))
        image = torch.relu(first + c.unsqueeze(-4) * made.to(frames.dtype))
        return torch.where(seen, image, torch.zeros_like(image))

    def linear(self, frames: Tensor) -> Tensor:
        """Return W+ z, the tracers of images of frames (..., F, x, y, z) by least squares."""
        return torch.einsum("kf,...fxyz->...kxyz", self.inverse.to(frames.dtype), frames)

    def frames_of(self, image: Tensor) -> Tensor:
        """Return W x, the images of the frames (..., F, x, y, z) of those of the tracers."""
        return torch.einsum("fk,...kxyz->...fxyz", self.weights.to(image.dtype), image)

    def _frames(self, likelihood: CountsLikelihood) -> tuple[Tensor, Tensor, Tensor]:
        """Images of the frames, their mean scale (..., 1, 1, 1), and the voxels that any frame sees."""
        n, n_axes = len(self.weights), len(likelihood.model.projector.out_shape)
        data = getattr(likelihood, "data", None)
        if data is None or data.ndim <= n_axes or data.shape[-n_axes - 1] != n:
            raise ValueError(f"Separated: this network takes the {n} frames of a scan together, (..., {n}, views, ...)")
        with torch.no_grad():
            frames = self.reconstruct(likelihood)
            c = torch.as_tensor(count_scale(likelihood)).mean(-4)
            seen = (torch.as_tensor(likelihood.sensitivity_like(frames)) > 0).any(-4, keepdim=True)
        return frames, c, seen
