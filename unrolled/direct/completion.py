"""Data that are partly measured: which bins are, what a network predicts for the others, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import Array, array_namespace, divide_where, like, require_array
from emrecon.projectors.scan.acquisition import take_views
from emrecon.recon import GaussianLikelihood, PoissonLikelihood
from emrecon.recon.likelihoods import CountsLikelihood, Likelihood

from ..networks.blocks import unit as layer
from ..networks.pictures import wrapped
from ..networks.scaling import counts_of
from .coarse import CoarseLikelihood, repeated, summed, upsampled
from .direct import unit_of_bins, whole
from .folding import DataFolding
from .scans import described, is_half_turn


@dataclass(frozen=True, eq=False)
class PartialLikelihood(PoissonLikelihood):
    """The likelihood of the bins that were measured, which knows what the others would have expected.

    `partly_measured` makes it. As a likelihood it is that of the measured bins alone: others have factors and
    background 0.

    Args:
        complete : the model of all bins, had they been measured.
        measured : which were, booleans like one item of the data, or like all data.
    """

    complete: AcquisitionModel = field(kw_only=True)
    measured: Array = field(kw_only=True)

    def subset(self, k: int, n: int) -> PartialLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        axis = -len(self.model.projector.out_shape)
        data, measured = (take_views(values, k, n, axis) for values in (self.data, self.measured))
        complete, model = self.complete.subset(k, n), self.model.subset(k, n)
        return PartialLikelihood(data, model, complete=complete, measured=measured)


def partly_measured(likelihood: PoissonLikelihood, measured: Array) -> PartialLikelihood:
    """Return the likelihood of some of the bins; the counts of the others are forgotten.

    Args:
        measured : booleans (views, bins, rows), or an array that broadcasts to the data: views left out, gaps between
            detectors, a block that failed, an open ring.

    Raises ValueError where nothing is measured, or the shape does not fit.
    """
    xp = require_array(measured, "partly_measured: measured")
    if not bool(xp.any(measured)):
        raise ValueError("partly_measured: no bin is measured")
    y, model = likelihood.data, likelihood.model
    seen = like(measured, y) if hasattr(y, "device") or hasattr(y, "dtype") else measured
    keep = array_namespace(y).ones_like(y) * seen
    if keep.shape != y.shape:
        raise ValueError(f"partly_measured: measured of {tuple(measured.shape)} does not fit data of {tuple(y.shape)}")
    mask = keep > 0
    factors, background = (keep * like_or_number(value, y) for value in (model.factors, model.background))
    own = AcquisitionModel(model.projector, factors, background, model.scale)
    return PartialLikelihood(keep * y, own, complete=model, measured=mask)


@dataclass(frozen=True, eq=False)
class CompletedScan:
    """Counts of all bins, measured or predicted, and their variance: what a network makes of a scan.

    Args:
        counts : of every bin; measured ones are as they were, unless the network was asked to replace them.
        variance : of every bin: the counts' own where they were measured, and the network's where they were predicted.
        model : of all bins.
        measured : which bins are measured ones.
        spread : the variance of what was hidden, given what was measured; default: the variance. Of bins that were
            measured together it is that of how their counts were divided.
    """

    counts: Tensor
    variance: Tensor
    model: AcquisitionModel
    measured: Tensor
    spread: Tensor | None = None

    @property
    def likelihood(self) -> GaussianLikelihood:
        """What an image is held against: weighted least squares, since predicted bins are not Poisson."""
        return GaussianLikelihood(self.counts, self.model, self.variance)


class DataNet(nn.Module):
    """A network from data to data, (N, channels, views, bins[, rows]) -> the same, and its log variance::

        p, q = ends( U(data, mask, data interpolated) ),     data <- relu(interpolated + p),     v = exp(q)

    convolutions with views wrapped at both ends, so that the first and the last are neighbours.

    Args:
        dimensions : 2 or 3.
        width, depth : channels and convolutions.
        norm : "instance", "batch", "group" or "none".

    Source: after the residual networks of Hong et al. 2018 and Shiri et al. 2020; the variance is ours.
    """

    def __init__(self, dimensions: int, *, width: int = 32, depth: int = 6, norm: str = "instance") -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"DataNet needs a depth of at least 2, got {depth}")
        self.dimensions, self.depth = dimensions, depth
        inner = [layer(dimensions, 3 if k == 0 else width, width, norm=norm) for k in range(depth - 1)]
        self.layers = nn.Sequential(*inner)
        self.last = (nn.Conv2d if dimensions == 2 else nn.Conv3d)(width, 2, 3, padding=1)
        nn.init.zeros_(self.last.weight)  # it begins as the interpolation, with variance 1
        nn.init.zeros_(self.last.bias)

    def forward(self, data: Tensor, mask: Tensor, first: Tensor, half_turn: bool) -> tuple[Tensor, Tensor]:
        """Return the completed data and their variance, both (N, 1, views, bins[, rows])."""
        inputs = wrapped(torch.cat([data, mask, first], 1), self.depth, half_turn=half_turn, before=True)
        made = self.last(self.layers(inputs))[:, :, self.depth : -self.depth]
        return torch.relu(first + made[:, :1]), torch.exp(made[:, 1:].clamp(-10, 10))


class Completion(nn.Module):
    """A data network with the physics around it: likelihood of some bins -> `CompletedScan` of all.

    Data are divided by factors and scale as for `Direct`, the network completes them, and the result is in counts
    again; data of twice the counts are completed to twice the counts, with twice the variance. Of coarse bins
    (`coarse_bins`) it makes fine ones, whose sums are the counts that were measured.

    Args:
        network : a `DataNet`, or (data, mask, interpolated, half_turn) -> (data, variance).
        keep_measured : whether measured bins stay as they are; False replaces them, to denoise.
    """

    def __init__(self, network: nn.Module, dimensions: int, *, keep_measured: bool = True) -> None:
        super().__init__()
        self.network, self.dimensions, self.keep_measured = network, dimensions, keep_measured

    def forward(self, likelihood: Likelihood | Sequence[Likelihood]) -> CompletedScan:
        """Return the counts of all bins and their variance."""
        counted = whole(likelihood, "Completion")
        if isinstance(counted, CoarseLikelihood):
            return self._divided(cast(CountsLikelihood, counted), counted.complete, counted.n)
        complete = getattr(counted, "complete", counted.model)
        y = counts_of(counted)
        mask = like(getattr(counted, "measured", torch.ones_like(y)), y) * torch.ones_like(y)
        unit, background, _ = unit_of_bins(counted, complete)
        folding = DataFolding(tuple(complete.projector.out_shape), self.dimensions, "items")
        half = is_half_turn(described(complete.projector))
        data = mask * divide_where(y - background, unit)
        n = len(folding.out_shape)
        x, m = (folding.fold(values.unsqueeze(-n - 1)) for values in (data, mask))
        lead = tuple(y.shape[: y.ndim - n])
        predicted, variance = self._made(folding, lead, unit, x, m, interpolated(x, m, half_turn=half), half)
        kept = mask > 0 if self.keep_measured else torch.zeros_like(mask, dtype=torch.bool)
        own = torch.clamp(y, min=1.0)  # a bin of no counts has a variance, too
        counts = torch.where(kept, y, predicted + background)
        return CompletedScan(counts, torch.where(kept, own, variance), complete, mask > 0)

    def _divided(
        self, likelihood: CountsLikelihood, complete: AcquisitionModel, parts: tuple[int, int]
    ) -> CompletedScan:
        """Fine bins of coarse ones: the network says how the counts y of each are divided, e = y s, and how well, w.

        The variance of e is w + y s^2: that of the division, and the bin's share of that of y. Where s is right, w is
        y s (1 - s) for counts that were hidden, and the bins together weigh as much as y does.
        """
        unit, background, _ = unit_of_bins(likelihood, complete)
        n = len(complete.projector.out_shape)
        y: Tensor = torch.as_tensor(counts_of(likelihood))
        coarse: Tensor = divide_where(y - summed(background, parts, n), summed(unit, parts, n))
        folding = DataFolding(tuple(complete.projector.out_shape), self.dimensions, "items")
        data: Tensor = repeated(coarse, parts, n)
        first = upsampled(coarse, parts, n)
        x, start = (folding.fold(values.unsqueeze(-n - 1)) for values in (data, first))
        half, lead = is_half_turn(described(complete.projector)), tuple(y.shape[: y.ndim - n])
        line, spread = self._made(folding, lead, unit, x, torch.zeros_like(x), torch.relu(start), half)
        expected = line + background
        total = repeated(summed(expected, parts, n), parts, n)
        even = torch.full_like(expected, 1 / (parts[0] * parts[1]))
        share = torch.where(total > 0, divide_where(expected, total), even)
        counted: Tensor = repeated(y, parts, n)
        variance = spread + counted.clamp(min=1.0) * share**2
        return CompletedScan(counted * share, variance, complete, torch.zeros_like(share) > 0, spread)

    def _made(
        self,
        folding: DataFolding,
        lead: tuple[int, ...],
        unit: Tensor,
        data: Tensor,
        mask: Tensor,
        first: Tensor,
        half_turn: bool,
    ) -> tuple[Tensor, Tensor]:
        """What the network makes of folded data, and its variance, in counts."""
        made, spread = self.network(data, mask, first, half_turn)
        n = len(folding.out_shape)
        counts, variance = (folding.unfold(values, lead).squeeze(-n - 1) * unit for values in (made, spread))
        return counts, variance


def interpolated(data: Tensor, mask: Tensor, *, half_turn: bool) -> Tensor:
    """Return data (N, 1, views, bins[, rows]) with missing bins filled in linearly between measured ones.

    Along the views first, around the turn; bins that no view has, along the bins; 0 where neither helps.
    """
    views = data.shape[2]
    turned, seen = (wrapped(values, views, half_turn=half_turn, before=True) for values in (data, mask))
    along_views, found = _between(turned, seen, 2)
    filled, known = along_views[:, :, views : 2 * views], found[:, :, views : 2 * views]
    along_bins, _ = _between(filled, known, 3)
    return along_bins


def _between(data: Tensor, mask: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Linear interpolation along an axis between the nearest places with mask > 0, and where there is any."""
    n = data.shape[axis]
    place = torch.arange(n, device=data.device).reshape(-1, *[1] * (data.ndim - 1 - axis)).expand(data.shape)
    known = mask > 0
    before = torch.where(known, place, torch.full_like(place, -1)).cummax(axis).values
    after = torch.where(known, place, torch.full_like(place, n)).flip(axis).cummin(axis).values.flip(axis)
    left, right = before >= 0, after < n
    low, high = before.clamp(min=0), after.clamp(max=n - 1)
    a, b = data.gather(axis, low), data.gather(axis, high)
    weight = divide_where((place - low).to(data.dtype), (high - low).to(data.dtype))
    both = (1 - weight) * a + weight * b
    return torch.where(left & right, both, torch.where(left, a, torch.where(right, b, torch.zeros_like(a)))), (
        left | right
    ).to(mask.dtype)


def like_or_number(value: Array | float, y: Array) -> Array | float:
    """A number as it is, an array in the library of y."""
    return value if isinstance(value, (int, float)) else like(value, y)
