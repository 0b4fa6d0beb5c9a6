"""What networks of data learn: the bins that were not measured, and how well they know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emrecon.projectors import PETSinogram
from emrecon.recon import PoissonLikelihood

from ..direct import CompletedScan, OnData, coarse_bins, every_view, partly_measured, without_crystals
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
class MissingViews:
    """The pattern of a scan without n neighbouring views, anywhere on the turn: an arc that is not measured.

    Args:
        n : views that are missing.
    """

    n: int

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return the booleans, (views, bins, rows); raises ValueError where no view is left."""
        _check_left(self.n, shape[0], "views")
        kept = torch.ones(tuple(shape), dtype=torch.bool)
        kept[: self.n] = False
        return kept.roll(int(torch.randint(shape[0], (), generator=generator)), 0)


@dataclass(frozen=True)
class MissingBins:
    """The pattern of a gap of n neighbouring bins in every view, anywhere on the detector: a gap or a failed block.

    Args:
        n : bins that are missing.
        rows : neighbouring rows in which they are, anywhere (default: all).
    """

    n: int
    rows: int | None = None

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return the booleans, (views, bins, rows); raises ValueError where no bin is left."""
        _check_left(self.n, shape[1], "bins")
        height = shape[-1] if self.rows is None else min(self.rows, shape[-1])
        first, low = (
            int(torch.randint(n - m + 1, (), generator=generator)) for n, m in ((shape[1], self.n), (shape[-1], height))
        )
        kept = torch.ones(tuple(shape), dtype=torch.bool)
        kept[:, first : first + self.n, ..., low : low + height] = False
        return kept


@dataclass(frozen=True)
class FailedCrystals:
    """The pattern of a PET ring without n neighbouring crystals, anywhere: a block that failed, or an open ring.

    Args:
        sinogram : where the bins are.
        n : crystals of each ring.
    """

    sinogram: PETSinogram
    n: int

    def __call__(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Return the booleans, the sinogram's shape; raises ValueError where no bin is left."""
        n_crystals = self.sinogram.scanner.n_crystals
        _check_left(self.n, n_crystals, "crystals")
        first = int(torch.randint(n_crystals, (), generator=generator))
        return without_crystals(self.sinogram, [(first + k) % n_crystals for k in range(self.n)])


@dataclass(frozen=True)
class MergedBins:
    """Not a pattern of hidden bins but of larger ones: n neighbours, and rows, are counted together (`coarse_bins`)."""

    n: int
    rows: int = 1


def hidden(
    likelihood: PoissonLikelihood, pattern: Pattern | MergedBins, generator: torch.Generator
) -> tuple[PoissonLikelihood, Tensor]:
    """Return the likelihood of what a pattern leaves of a scan, and which bins it hides, booleans like the data."""
    y = counts_of(likelihood)
    if isinstance(pattern, MergedBins):
        return coarse_bins(likelihood, (pattern.n, pattern.rows)), torch.ones_like(y, dtype=torch.bool)
    measured = pattern(tuple(likelihood.model.projector.out_shape), generator).to(y.device)
    return partly_measured(likelihood, measured), torch.zeros_like(y, dtype=torch.bool) | ~measured


def _check_left(n: int, of: int, what: str) -> None:
    if not 1 <= n < of:
        raise ValueError(f"of {of} {what} at least one must be missing and one left, got {n} missing")


@dataclass(frozen=True)
class Completing:
    """The objective of networks of data: hide bins of a scan, complete them, and compare with what was counted there::

        loss = mean over hidden bins of  ( (y - p)^2 / v + log v ) / 2,      p prediction, v its variance

    in units of the mean counts, so that scans of all counts weigh the same. The counts that were hidden are as good as
    ones without noise; v is then the variance of both, the prediction's error and the counts' noise, and so never too
    small.

    Args:
        pattern : which bins stay; or `MergedBins`, whose fine ones are all hidden.
        share : without a pattern, to denoise: a count goes to the part that the network sees with this probability, and
            the other part, scaled, is what it predicts (`thinned`).

    A batch is a likelihood, or (arguments, ...) with one; the model an `OnData`.

    Raises ValueError for neither or both of pattern and share.
    """

    pattern: Pattern | MergedBins | None = None
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
            ratio = self.share / (1 - self.share)
            return _loss(model.completion(seen), ratio * counts_of(other), torch.ones_like(y))
        assert self.pattern is not None
        part, missing = hidden(likelihood, self.pattern, generator)
        return _loss(model.completion(part), y, missing.to(y.dtype))


def _loss(done: CompletedScan, y: Tensor, missing: Tensor) -> Tensor:
    unit = y.abs().mean(tuple(range(1, y.ndim)), keepdim=True).clamp(min=1e-12)
    spread = done.variance if done.spread is None else done.spread
    error, variance = (y - done.counts) / unit, spread / unit**2
    terms = (error**2 / variance + variance.log()) / 2
    return (terms * missing).sum() / missing.sum().clamp(min=1)


def _likelihood_of(batch: Any) -> PoissonLikelihood:
    found = batch[0] if isinstance(batch, (tuple, list)) else batch
    likelihood = found["likelihood"] if isinstance(found, dict) else found
    if not isinstance(likelihood, PoissonLikelihood):
        raise TypeError(f"Completing takes batches with a PoissonLikelihood, got {type(likelihood).__name__}")
    return likelihood
