"""Whether a result explains its counts: the Poisson deviance against its expectation, and what a card knows of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch

from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon.likelihoods import Likelihood, knows_counts

from ..networks.scaling import counts_of, of_bins, over_ranks
from .weights import Card

FIT, SPREAD = "data fit", "data fit spread"
"""The metrics of a card that `fit_note` reads: mean and standard deviation of `data_fit` on validation scans."""

_SPREADS = 3.0  # standard deviations beyond which a fit is worth a note
_LEAST_SPREAD = 0.01  # of few validation scans chance may leave less
_UNKNOWN = (1.0, 0.05)  # mean and standard deviation for cards that do not say


def data_fit(image: torch.Tensor, likelihood: Likelihood | Sequence[Likelihood]) -> torch.Tensor:
    """Return the Poisson deviance of each item over what it is expected to be, about 1 for an image that is right::

        sum over bins of d(y, ybar) / sum over bins of E[ d(Y, ybar) ],     Y ~ Poisson(ybar),
        d(y, ybar) = ybar - y + y log(y / ybar)

    A guide that does not belong to the scan, other voxels, or a model that is wrong make it larger.

    Args:
        image : (..., x, y, z), in the unit of the likelihood's model.
        likelihood : of counts in bins; a list is one of subsets, which are summed.

    Returns (...), float64, without gradient.

    Raises TypeError for likelihoods without counts in bins, such as list-mode.
    """
    parts = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    found: Any = 0.0
    expected: Any = 0.0
    with torch.no_grad():
        for part in parts:
            counted = of_bins(part, "data_fit", "single events have no deviance of bins")
            ybar = to_numpy(counted.model(image)).astype(float)
            y = to_numpy(counts_of(counted)).astype(float)
            axes = tuple(range(-len(counted.model.projector.out_shape), 0))
            safe = np.maximum(ybar, 1e-12)
            own = (ybar - y + y * np.log(np.where(y > 0, y, safe) / safe)).sum(axes), expected_deviance(ybar).sum(axes)
            found, expected = found + over_ranks(part, own[0]), expected + over_ranks(part, own[1])
    return torch.as_tensor(np.asarray(found / np.maximum(expected, 1e-12)))


def expected_deviance(ybar: np.ndarray) -> np.ndarray:
    """Return E[ ybar - Y + Y log(Y / ybar) ] for Y ~ Poisson(ybar): 1/2 for many counts, -ybar log ybar for few."""
    nodes, values = _table()
    many = 0.5 + 1 / (12 * np.maximum(ybar, nodes[-1]))
    few = np.interp(np.log(np.maximum(ybar, nodes[0])), np.log(nodes), values)
    found: np.ndarray = np.where(ybar > nodes[-1], many, np.where(ybar < nodes[0], 0.0, few))
    return found


def fit_note(card: Card, image: torch.Tensor, likelihood: Likelihood | Sequence[Likelihood]) -> str | None:
    """Return a note where a network's image explains the counts worse than its validation scans were, else None.

    That is, where the `data_fit` of an item is more than 3 standard deviations above the mean that the card states
    ("data fit" and "data fit spread" among its metrics; 1.0 and 0.05 where it does not).
    Also None for list-mode and other data without bins, of which nothing is known.
    """
    parts = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    if not all(knows_counts(part) and part.sensitivity_has_factors for part in parts):
        return None
    worst = float(data_fit(image, parts).max())
    mean, spread = (float(card.metrics.get(name, usual)) for name, usual in zip((FIT, SPREAD), _UNKNOWN))
    if worst <= mean + _SPREADS * max(spread, _LEAST_SPREAD):
        return None
    return (
        f"the image explains the counts worse than expected: deviance {worst:.3f} times that of Poisson counts, and "
        f"{mean:.3f} +- {spread:.3f} in validation; is the guide aligned with the scan, and the scan like those of "
        "the training (voxels, field of view, resolution, counts)?"
    )


def fit_metrics(fits: Sequence[float]) -> dict[str, float]:
    """Return the metrics of a card from the `data_fit` of validation scans."""
    return {FIT: float(np.mean(fits)), SPREAD: float(np.std(fits))}


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """The expectation at means from 1e-9 to 60."""
    nodes = np.geomspace(1e-9, 60, 600)
    k = np.arange(1, 200)
    log_factorial = np.cumsum(np.log(k))
    log_p = k * np.log(nodes)[:, None] - nodes[:, None] - log_factorial
    terms = nodes[:, None] - k + k * np.log(k / nodes[:, None])
    return nodes, np.exp(-nodes) * nodes + (np.exp(log_p) * terms).sum(1)
