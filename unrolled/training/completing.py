"""What networks of data learn: the bins that were not measured, and how well they know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emrecon.recon import PoissonLikelihood

from ..direct import CompletedScan, OnData, every_view, partly_measured
from ..networks.scaling import counts_of
from .thinning import thinned

Pattern = Callable[[Sequence[int], torch.Generator], Tensor]
"""(shape of one item's data, generator) -> booleans of the bins that are measured, such as `EvenlySpacedViews(2)`."""


@dataclass(frozen=True)
class EvenlySpacedViews:
    """The pattern of every n-th view, beginning with any of the first n where `shifted`.

    Args:
        n : must divide the views.
    """

    n: int
    shifted: bool = False

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return the booleans, (views, bins, rows)."""
        kept = every_view(shape[0], self.n, shape)
        return kept.roll(int(torch.randint(self.n, (), generator=generator)), 0) if self.shifted else kept


@dataclass(frozen=True)
class Completing:
    """The objective of networks of data: hide bins of a scan, complete them, and compare with what was counted there::

        loss = mean over hidden bins of  ( (y - p)^2 / v + log v ) / 2,      p prediction, v its variance

    in units of the mean counts, so that scans of all counts weigh the same. The counts that were hidden are as good as
    ones without noise; v is then the variance of both, the prediction's error and the counts' noise, and so never too
    small.

    Args:
        pattern : which bins stay.
        share : without a pattern, to denoise: a count goes to the part that the network sees with this probability, and
            the other part, scaled, is what it predicts (`thinned`).

    A batch is a likelihood, or (arguments, ...) with one; the model an `OnData`.

    Raises ValueError for neither or both of pattern and share.
    """

    pattern: Pattern | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.pattern is None) == (self.share is None):
            raise ValueError("Completing hides bins (pattern) or counts (share): give one of them")

    def __call__(self, model: OnData, batch: Any, generator: torch.Generator) -> Tensor:
        """Return the mean over the hidden bins of all items."""
        likelihood = _likelihood_of(batch)
        y = counts_of(likelihood)
        if self.share is not None:
            seen, other = thinned(likelihood, self.share, generator)
            done, wanted, hidden = model.completion(seen), counts_of(other), torch.ones_like(y)
            ratio = self.share / (1 - self.share)
            return _loss(done, ratio * wanted, hidden)
        shape = tuple(likelihood.model.projector.out_shape)
        assert self.pattern is not None
        measured = self.pattern(shape, generator).to(y.device)
        done = model.completion(partly_measured(likelihood, measured))
        return _loss(done, y, torch.zeros_like(y) + ~measured)


def _loss(done: CompletedScan, y: Tensor, hidden: Tensor) -> Tensor:
    unit = y.abs().mean(tuple(range(1, y.ndim)), keepdim=True).clamp(min=1e-12)
    error, variance = (y - done.counts) / unit, done.variance / unit**2
    terms = (error**2 / variance + variance.log()) / 2
    return (terms * hidden).sum() / hidden.sum().clamp(min=1)


def _likelihood_of(batch: Any) -> PoissonLikelihood:
    found = batch[0] if isinstance(batch, (tuple, list)) else batch
    likelihood = found["likelihood"] if isinstance(found, dict) else found
    if not isinstance(likelihood, PoissonLikelihood):
        raise TypeError(f"Completing takes batches with a PoissonLikelihood, got {type(likelihood).__name__}")
    return likelihood
