"""Bins that are several others together: what a detector of coarse bins counts, with the model of the fine ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import Array, array_namespace
from emrecon.projectors.core.operator import BatchProjector, broadcasts_to
from emrecon.projectors.scan.acquisition import take_views
from emrecon.recon import PoissonLikelihood


class SummedBins(BatchProjector):
    """What bins of several others count, (S f A) x: S adds n neighbours along the bins and m along the rows.

    Args:
        model : of the fine bins; its factors f are inside, its background is not.
        n : (bins, rows) that are one.

    Raises ValueError for numbers that do not divide the bins and the rows.
    """

    def __init__(self, model: AcquisitionModel, n: tuple[int, int]) -> None:
        views, bins, *tof, rows = model.projector.out_shape
        if min(n) < 1 or bins % n[0] or rows % n[1]:
            raise ValueError(f"coarse bins of {n[0]} x {n[1]} do not divide {bins} bins and {rows} rows")
        self.model, self.n = model, n
        self.in_shape = model.projector.in_shape
        self.out_shape = (views, bins // n[0], *tof, rows // n[1])

    @property
    def n_items(self) -> int | None:
        return self.model.projector.n_items

    def subset(self, k: int, n: int) -> SummedBins:
        return SummedBins(self.model.subset(k, n), self.n)

    def _forward_batch(self, x: Array) -> Array:
        return summed(self.model.linear(x), self.n, len(self.out_shape))

    def _adjoint_batch(self, y: Array) -> Array:
        return self.model.adjoint(repeated(y, self.n, len(self.out_shape)))


def summed(values: Array, n: tuple[int, int], n_axes: int) -> Array:
    """Return data (..., views, bins, [TOF bins,] rows) with n neighbouring bins, and rows, added."""
    xp = array_namespace(values)
    for axis, m in zip((1 - n_axes, -1), n):
        at = values.ndim + axis
        shape = (*values.shape[:at], values.shape[at] // m, m, *values.shape[at + 1 :])
        values = xp.sum(xp.reshape(values, shape), axis=at + 1)
    return values


def repeated(values: Array, n: tuple[int, int], n_axes: int) -> Array:
    """Return data with every bin, and row, n times: the transpose of `summed`."""
    xp = array_namespace(values)
    for axis, m in zip((1 - n_axes, -1), n):
        at = values.ndim + axis
        wide = xp.broadcast_to(
            xp.expand_dims(values, axis=at + 1), (*values.shape[: at + 1], m, *values.shape[at + 1 :])
        )
        values = xp.reshape(wide, (*values.shape[:at], values.shape[at] * m, *values.shape[at + 1 :]))
    return values


def upsampled(values: Tensor, n: tuple[int, int], n_axes: int) -> Tensor:
    """Return data with n bins, and rows, for each, linear between the centres of the coarse ones, constant beyond."""
    for axis, m in zip((1 - n_axes, -1), n):
        at = values.ndim + axis
        last = values.shape[at] - 1
        place = ((torch.arange((last + 1) * m, device=values.device) + 0.5) / m - 0.5).clamp(0, last)
        low = place.floor().long().clamp(max=max(last - 1, 0))
        weight = (place - low).to(values.dtype).reshape(-1, *[1] * (values.ndim - 1 - at))
        high = (low + 1).clamp(max=last)
        values = (1 - weight) * values.index_select(at, low) + weight * values.index_select(at, high)
    return values


@dataclass(frozen=True, eq=False)
class CoarseLikelihood(PoissonLikelihood):
    """The likelihood of coarse bins, which knows the model of the fine ones that they are made of.

    `coarse_bins` makes it. As a likelihood it is exact: sums of Poisson counts are Poisson counts.

    Args:
        complete : the model of the fine bins.
        n : (bins, rows) of them in a coarse one.
    """

    complete: AcquisitionModel = field(kw_only=True)
    n: tuple[int, int] = field(kw_only=True)

    def subset(self, k: int, n: int) -> CoarseLikelihood:
        """Return the likelihood of the views k, k + n, ..."""
        data = take_views(self.data, k, n, -len(self.model.projector.out_shape))
        return CoarseLikelihood(data, self.model.subset(k, n), complete=self.complete.subset(k, n), n=self.n)


def coarse_bins(likelihood: PoissonLikelihood, n: int | tuple[int, int]) -> CoarseLikelihood:
    """Return the likelihood of the same scan, counted in bins n times as large.

    Args:
        n : neighbouring bins that become one; or (bins, rows).

    Raises ValueError for numbers that do not divide the bins and the rows.
    """
    parts = (n, 1) if isinstance(n, int) else n
    y, model = likelihood.data, likelihood.model
    n_axes = len(model.projector.out_shape)
    projector = SummedBins(model, parts)
    background = model.background
    if not isinstance(background, (int, float)) and broadcasts_to(tuple(background.shape[-n_axes:]), ()):
        background = float(background)
    if isinstance(background, (int, float)):
        total: Array | float = parts[0] * parts[1] * background
    else:
        xp = array_namespace(background)
        lead = tuple(background.shape[: max(background.ndim - n_axes, 0)])
        total = summed(xp.broadcast_to(background, (*lead, *model.projector.out_shape)), parts, n_axes)
    own = AcquisitionModel(projector, 1.0, total)
    return CoarseLikelihood(summed(y, parts, n_axes), own, complete=model, n=parts)
