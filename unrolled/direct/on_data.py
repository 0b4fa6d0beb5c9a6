"""A reconstruction of data that a network has completed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.recon.likelihoods import CountsLikelihood, Likelihood, start_image

from ..networks.scaling import count_scale
from .coarse import CoarseLikelihood
from .completion import Completion, PartialLikelihood
from .direct import whole
from .scans import ScanDescription, described, differences, of_slices
from .views import among_views


class OnData(nn.Module):
    """A reconstruction of completed data: the network fills bins in, and any reconstruction follows.

        x = R( completed(y) ),      R of a `GaussianLikelihood`: predicted bins are not Poisson, and weigh by their
        variance

    Args:
        completion : a `Completion`.
        reconstruct : (likelihood, start) -> image, such as `OSEMPasses`; without gradients.
        scan : what the network was trained on, `described(projector)`. A scan of some of those views, by angle, is
            completed to all of them (`among_views`), and any other is refused. None refuses nothing.

    Called with a likelihood from `partly_measured` or `coarse_bins`, of fewer views than in training, or of all bins,
    which are then replaced (`keep_measured=False`). A network that keeps measured bins refuses a scan in which nothing
    is missing, and one with factors of 0: what such bins would have seen, `partly_measured` must be told.
    """

    def __init__(self, completion: Completion, reconstruct: object, scan: ScanDescription | None = None) -> None:
        super().__init__()
        self.completion, self.reconstruct, self.scan = completion, reconstruct, scan

    @property
    def networks(self) -> list[nn.Module]:
        """The data network."""
        return [self.completion.network]

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return self.completion.dimensions

    guide_channels = 0

    def forward(
        self, likelihood: Likelihood | Sequence[Likelihood], start: Tensor | None = None, *, guide: Array | None = None
    ) -> Tensor:
        """Return the image of each item, (..., x, y, z).

        Raises ValueError for a guide, for several subsets, for a scan of another geometry than the training's, and for
        one in which nothing is missing.
        """
        if guide is not None:
            raise ValueError("OnData: a network of data takes no guide")
        counted = self.of_all_views(whole(likelihood, "OnData"))
        if self.completion.keep_measured and not isinstance(counted, (PartialLikelihood, CoarseLikelihood)):
            raise ValueError(_nothing_missing(counted))
        first = count_scale(counted) * start_image(counted) if start is None else start
        image: Tensor = self.reconstruct(self.completion(counted).likelihood, first)  # type: ignore[operator]
        return image

    def of_all_views(self, likelihood: CountsLikelihood) -> CountsLikelihood:
        """Return the likelihood as the network takes it: of all views of its training, with those that were measured.

        Raises ValueError for a scan of another geometry than the training's.
        """
        if self.scan is None:
            return likelihood
        complete = getattr(likelihood, "complete", None)
        if complete is None:
            return among_views(likelihood, self.scan, self.dimensions)
        there, here = self.scan, described(complete.projector)
        found = differences(*(map(of_slices, (there, here)) if self.dimensions == 2 else (there, here)))
        if found:
            raise ValueError("this network was trained on another scan: " + "; ".join(found))
        return likelihood


def _nothing_missing(likelihood: CountsLikelihood) -> str:
    """What is wrong with a scan that a network has nothing to complete of."""
    factors = likelihood.model.factors
    n = 0 if isinstance(factors, (int, float)) else int((torch.as_tensor(to_numpy(factors)) == 0).sum())
    if n:
        return (
            f"{n} bins have a factor of 0, such as those of a failed block: give the factors that they would have had, "
            "and say which bins were measured, by unrolled.partly_measured(likelihood, measured)"
        )
    return "this network completes scans of which bins or views are missing, and of this scan none is: use OSEM"
