"""Direct reconstruction: a network makes the image of the data in one pass, and no projector takes part."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import Array, divide_where, like, to_numpy
from emrecon.recon.likelihoods import CountsLikelihood, Likelihood, only_seen, start_image

from ..networks.guides import guide_channels
from ..networks.scaling import count_scale, counts_of, of_bins
from .folding import DataFolding
from .scans import ScanDescription, described, differences, of_slices

_WATER = 0.15  # 1/cm at 140 keV: maps near 1


class Direct(nn.Module):
    """A network from data to image::

        x = c relu( body( (y - r) / (f d c), mu ) ),      d = mean of A 1,      c the `count_scale` of the counts

    y counts, r background, f the factors (time, efficiencies, attenuation of PET): the network sees line integrals in
    units of their mean, and counts and background doubled give the image doubled. What it learned belongs to one
    geometry, and nothing in it would notice another.

    Args:
        body : (N, channels, views, bins[, rows]) -> (N, outputs, x, y[, z]), TOF bins as channels; called as body(data,
            beside) where it is given images beside the data.
        dimensions : 2, slices and rows are items, as many rows as slices; 3, volumes.
        attenuation : where the map beside the data, 1 in water, comes from: "projector" takes that of the projector,
            "guide" the guide, in any unit; None for a body without images beside the data.
        outputs : images that the body makes of one scan, such as those of two tracers: (..., outputs, x, y, z).
        scan : what the network was trained on, see `described`; a scan of another geometry is refused. None refuses
            nothing, while a network is trained.

    Raises ValueError for choices that are unknown.
    """

    def __init__(
        self,
        body: nn.Module,
        dimensions: int,
        *,
        attenuation: str | None = None,
        outputs: int = 1,
        scan: ScanDescription | None = None,
    ) -> None:
        super().__init__()
        if attenuation not in (None, "projector", "guide"):
            raise ValueError(f'Direct: attenuation must be "projector", "guide" or None, got {attenuation!r}')
        if outputs < 1 or dimensions not in (2, 3):
            raise ValueError(f"Direct: dimensions must be 2 or 3 and outputs at least 1, got {dimensions}, {outputs}")
        self.body, self.dimensions, self.attenuation = body, dimensions, attenuation
        self.outputs, self.scan = outputs, scan

    @property
    def networks(self) -> list[nn.Module]:
        """The body."""
        return [self.body]

    @property
    def guide_channels(self) -> int:
        """How many guide images it takes."""
        return 1 if self.attenuation == "guide" else 0

    def forward(
        self,
        likelihood: Likelihood | Sequence[Likelihood],
        start: Tensor | None = None,
        *,
        guide: Array | None = None,
    ) -> Tensor:
        """Return the image of each item, (..., x, y, z), or (..., outputs, x, y, z) for several outputs.

        Voxels that nothing sees are 0. `start` is taken and not used: a direct network has no start.

        Raises TypeError for list-mode data, ValueError for a scan of another geometry than that of the training, a list
        of subsets, a map that is missing, and rows that are not slices.
        """
        counted = whole(likelihood, "Direct")
        data, beside, c = self.inputs(counted, guide)
        made = self.body(data) if beside is None else self.body(data, beside)
        image = c.unsqueeze(-4) * torch.relu(
            self._images(made, tuple(c.shape[:-3]), tuple(counted.model.projector.in_shape))
        )
        shown = image if self.outputs > 1 else image.squeeze(-4)
        return only_seen(shown.to(data.dtype), [counted])

    def inputs(
        self, likelihood: Likelihood | Sequence[Likelihood], guide: Array | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return what the body sees, data (N, channels, views, bins[, rows]) and images beside, and c of each item.

        Raises ValueError and TypeError as `forward` does.
        """
        counted = whole(likelihood, "Direct")
        self.check(counted)
        data, c = normalised_data(counted)
        folding = DataFolding(tuple(counted.model.projector.out_shape), self.dimensions)
        return folding.fold(data.unsqueeze(-len(folding.out_shape) - 1)), self._beside(counted, c, guide), c

    def check(self, likelihood: CountsLikelihood) -> None:
        """Raise ValueError where a scan has another geometry than those of the training, and for rows beside slices."""
        projector = likelihood.model.projector
        if self.dimensions == 2 and projector.out_shape[-1] != projector.in_shape[-1]:
            raise ValueError(
                "a direct network of slices makes each slice of its own row, and there are "
                f"{projector.out_shape[-1]} rows for {projector.in_shape[-1]} slices; rebin oblique planes first, or "
                "choose a grid with one slice for each row"
            )
        if self.scan is not None:
            here = described(projector)
            found = (
                differences(of_slices(self.scan), of_slices(here))
                if self.dimensions == 2
                else differences(self.scan, here)
            )
            if found:
                raise ValueError("this network was trained on another scan: " + "; ".join(found))

    def _beside(self, likelihood: CountsLikelihood, c: Tensor, guide: Array | None) -> Tensor | None:
        """The images that the body sees beside the data, (N, n, x, y[, z]), None without them."""
        x = torch.ones_like(c) * start_image(likelihood)
        folding = DataFolding(tuple(x.shape[-3:]), self.dimensions)
        if self.attenuation != "projector":
            shown = guide_channels(guide, x, self.guide_channels, "Direct", "mean")
            return None if shown is None else folding.fold(shown)
        if guide is not None:
            raise ValueError("Direct: this network takes the map of the projector, and no guide")
        own = getattr(likelihood.model.projector, "attenuation", None)
        if own is None:
            raise ValueError("Direct: this network sees the attenuation map, and the projector of this scan has none")
        return folding.fold((torch.as_tensor(like(to_numpy(own).copy(), x)) / _WATER).expand(x.shape).unsqueeze(-4))

    def _images(self, made: Tensor, lead: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        """(N, outputs, x, y[, z]) as (``*lead``, outputs, x, y, z)."""
        items = math.prod(lead) * (shape[2] if self.dimensions == 2 else 1)
        wanted = (items, self.outputs, *shape[: self.dimensions])
        if tuple(made.shape) != wanted:
            raise ValueError(f"Direct: {type(self.body).__name__} made {tuple(made.shape)}, and {wanted} is needed")
        return DataFolding(shape, self.dimensions).unfold(made, lead)


def normalised_data(likelihood: CountsLikelihood) -> tuple[Tensor, Tensor]:
    """Return what direct networks see, (y - r) / (f d c) of every bin, and c, (..., 1, 1, 1).

    0 where the factors are 0: nothing was measured there.
    """
    unit, background, c = unit_of_bins(likelihood, likelihood.model)
    return divide_where(counts_of(likelihood) - background, unit), c


def unit_of_bins(likelihood: CountsLikelihood, model: AcquisitionModel) -> tuple[Tensor, Tensor, Tensor]:
    """Return f d c of every bin, the counts of 1 in a network's data, then the background of every bin, and c.

    Args:
        model : whose factors f and background they are, that of the likelihood or of more bins.
    """
    ones, c = start_image(likelihood), count_scale(likelihood)
    n = len(model.projector.out_shape)
    with torch.no_grad():
        seen = model.projector(ones)
        d = torch.mean(seen, tuple(range(-n, 0)), keepdim=True)
        factors = divide_where(model.linear(torch.ones_like(c) * ones), seen)
    background = torch.zeros_like(factors) + model.background_like(factors)
    return factors * d * c.reshape(*c.shape[:-3], *[1] * n), background, c


def whole(likelihood: Likelihood | Sequence[Likelihood], who: str) -> CountsLikelihood:
    """Return the likelihood of all bins; a list of one is that one.

    Raises ValueError for several subsets, TypeError for events and other likelihoods without bins.
    """
    if isinstance(likelihood, Sequence):
        if len(likelihood) != 1:
            raise ValueError(f"{who} sees all views at once, got {len(likelihood)} subsets; give the whole likelihood")
        likelihood = likelihood[0]
    return of_bins(likelihood, who, "histogram the events of a list first")
