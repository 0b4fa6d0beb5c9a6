"""Scans of which a part is measured: which, what a network of data learns of them, and how far completed data help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from emrecon import recon, unrolled
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import PoissonLikelihood
from emrecon.unrolled.networks.scaling import counts_of
from emrecon.unrolled.training.completing import MergedBins, Pattern, hidden
from emrecon.unrolled.training.thinning import thinned

from .samples import Pair

WIDTHS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""FWHM, bins, of the Gaussians that smooth noisy projections; validation scans choose one."""


@dataclass(frozen=True)
class Part:
    """What of a scan is measured.

    Args:
        measured, whole : titles of the part and of the scan as it is.
        pattern : geometry of the scan -> what stays of it, in trainings and tests; None: of all bins a share of the
            counts.
        share : of the counts.
    """

    measured: str
    whole: str
    pattern: Callable[[Any], Pattern | MergedBins] | None = None
    share: float | None = None

    @property
    def other(self) -> str:
        """What a network is compared with: bins between measured ones, or smoothed ones where all are measured."""
        return "interpolated" if self.share is None else "smoothed"

    def objective(self, geometry: Any) -> unrolled.Completing:
        """Return what a network learns."""
        if self.pattern is None:
            return unrolled.Completing(share=self.share)
        return unrolled.Completing(self.pattern(geometry))

    def of(self, likelihood: PoissonLikelihood, geometry: Any, seed: int) -> tuple[PoissonLikelihood, Tensor, Tensor]:
        """Return the likelihood of what is measured, the counts that are not, and which bins those are in."""
        generator = torch.Generator().manual_seed(seed)
        if self.pattern is None:
            assert self.share is not None
            seen, left = thinned(likelihood, self.share, generator)
            y = self.share / (1 - self.share) * counts_of(left)
            return seen, y, torch.ones_like(y, dtype=torch.bool)
        part, missing = hidden(likelihood, self.pattern(geometry), generator)
        return part, counts_of(likelihood), missing

    def pair(self, pair: Pair, geometry: Any, seed: int) -> Pair:
        """Return the pair of what is measured."""
        arguments, truth = pair
        return {**arguments, "likelihood": self.of(arguments["likelihood"], geometry, seed)[0]}, truth


VIEWS = Part("30 views", "60 measured views", lambda _: unrolled.EvenlySpacedViews(2, shifted=True))
BLOCK = Part("the measured bins", "all bins, measured", lambda sinogram: unrolled.FailedCrystals(sinogram, 12))
COARSE = Part("coarse bins, exact model", "fine bins, measured", lambda _: MergedBins(5))
HALF_THE_COUNTS = Part("half of the counts", "all counts", share=0.5)


def compared(
    models: Mapping[str, unrolled.OnData], part: Part, geometry: Any, pair: Pair, seed: int, width: float | None
) -> dict[str, list[Any]]:
    """Return errors of completed data, and of images of them, of the measured part, and of the whole scan.

    Args:
        width : of the Gaussian, bins, where no bins are hidden.
    """
    full, truth = pair[0]["likelihood"], pair[1]
    seen, y, missing = part.of(full, geometry, seed)
    complete = getattr(seen, "complete", seen.model)
    exact = complete(truth)  # what would have been counted there without noise
    reconstruct = next(iter(models.values())).reconstruct
    found: dict[str, list[Any]] = {}
    with torch.no_grad():
        other = _interpolated(seen) if width is None else smoothed(seen, width)
        data = {part.other: other}
        images = {"measured": reconstruct(seen), "whole": reconstruct(full)}  # type: ignore[operator]
        images[part.other] = reconstruct(PoissonLikelihood(other.clamp(min=0), complete))  # type: ignore[operator]
        for name, model in models.items():
            done = model.completion(seen)
            data[name], images[name] = done.counts, model(seen)
            spread = done.variance if done.spread is None else done.spread
            error = ((y - done.counts) ** 2 / spread * missing).flatten(1).sum(1) / missing.flatten(1).sum(1)
            found[f"projections, {name}: squared error over variance"] = error.tolist()
    for name, counts in data.items():
        off = ((counts - exact) * missing).flatten(1).norm(dim=1) / (exact * missing).flatten(1).norm(dim=1)
        found[f"projections, {name}: nrmse"] = off.tolist()
        found[f"projections, {name}: ssim"] = np.asarray(recon.ssim(counts, exact, dimensions=3)).tolist()
    for name, image in images.items():
        found[f"images, {name}: nrmse"] = np.asarray(recon.nrmse(image, truth, dimensions=3)).tolist()
        found[f"images, {name}: ssim"] = np.asarray(recon.ssim(image, truth, dimensions=3)).tolist()
    return found


def _interpolated(seen: PoissonLikelihood) -> Tensor:
    """The data with what is missing between measured bins, linearly; of coarse bins the fine ones, of the same sums."""
    line = unrolled.Completion(unrolled.DataNet(2, width=1, depth=2), 2)  # its first weights change nothing
    counts: Tensor = line.eval()(seen).counts
    return counts


def smoothed(seen: PoissonLikelihood, width: float) -> Tensor:
    """Return the counts of scans of one row, smoothed along the bins by a Gaussian of this FWHM in bins."""
    return torch.as_tensor(gaussian_filter1d(to_numpy(counts_of(seen)), width / 2.3548, axis=-2))


def best_width(part: Part, geometry: Any, pairs: Sequence[Pair], reconstruct: Any) -> float | None:
    """Return the width of the Gaussian whose data make the best images of validation scans; None where none is used."""
    if part.share is None:
        return None
    errors = dict.fromkeys(WIDTHS, 0.0)
    for seed, (arguments, truth) in enumerate(pairs):
        seen, _, _ = part.of(arguments["likelihood"], geometry, seed)
        for width in WIDTHS:
            image = reconstruct(PoissonLikelihood(smoothed(seen, width), seen.model))
            errors[width] += float(np.mean(np.asarray(recon.nrmse(image, truth, dimensions=3))))
    return min(errors, key=lambda width: errors[width])
