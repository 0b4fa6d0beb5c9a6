"""When to stop a deep image prior: the variance of a window of images, or counts that were held out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, like, to_numpy
from emrecon.projectors.core.content import counts_key
from emrecon.recon import Iterate, PoissonLikelihood
from emrecon.recon.likelihoods import Likelihood

from ..networks.scaling import counts_of, of_bins


@dataclass(frozen=True, eq=False)
class WindowedVariance:
    """Stop when the variance of the last images has not reached a new minimum for some iterations::

        V_k = mean over voxels of the variance of x_(k - window + 1) ... x_k, over the mean of x_k squared

    The image changes while the network learns the object, little when that is done, and again when it learns noise.

    Args:
        window : images in the variance.
        patience : iterations without a new minimum that end the run.

    `history` holds V of every full window, so a rule serves one run; `best` is the middle iterate of the window with
    the least.

    Raises ValueError for a window of less than 2 and a patience of less than 1.

    Source: Wang et al. 2023, Early stopping for deep image prior, Trans Mach Learn Res.
    """

    window: int = 10
    patience: int = 20
    history: list[float] = field(default_factory=list, init=False, repr=False)
    _seen: deque[Iterate] = field(default_factory=deque, init=False, repr=False)
    _best: list[Iterate] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.window < 2 or self.patience < 1:
            raise ValueError(f"WindowedVariance needs a window of at least 2 and a patience of at least 1, got {self}")

    @property
    def best(self) -> Iterate | None:
        """The middle of the window of least variance, None before the first window is full."""
        return self._best[-1] if self._best else None

    def __call__(self, iterate: Iterate) -> bool:
        self._seen.append(iterate)
        if len(self._seen) < self.window:
            return False
        images = [seen.image for seen in self._seen]
        middle = self._seen[self.window // 2]
        self._seen.popleft()
        return _no_longer_better(_relative_variance(images), middle, self)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Stop when counts that the reconstruction has not seen are no longer explained better.

    Args:
        likelihood : of those counts, the second of what `hold_out` returns.
        patience : iterations without a new least value that end the run.

    `history` holds the value of every iterate seen, so a rule serves one run; `best` is the iterate with the least.

    Raises ValueError for a patience of less than 1.

    Source: cross-validation by counts, as in Coakley 1991, IEEE Trans Nucl Sci 38:9.
    """

    likelihood: Likelihood
    patience: int = 10
    history: list[float] = field(default_factory=list, init=False, repr=False)
    _best: list[Iterate] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"HeldOut patience must be at least 1, got {self.patience}")

    @property
    def best(self) -> Iterate | None:
        """The iterate with the least value, None before the first."""
        return self._best[-1] if self._best else None

    def __call__(self, iterate: Iterate) -> bool:
        value = float(np.sum(to_numpy(self.likelihood.value(iterate.image))))
        return _no_longer_better(value, iterate, self)


def hold_out(
    likelihood: PoissonLikelihood, fraction: float = 0.1, seed: int = 0
) -> tuple[PoissonLikelihood, PoissonLikelihood]:
    """Return the likelihoods of the counts to reconstruct from, and of a fraction of them held out::

        y_v ~ Binomial(y, fraction),  y - y_v:  independent Poisson counts, of means fraction * ybar and the rest

    Factors and background are divided likewise, so both explain the same image.

    Raises ValueError for counts that are not whole numbers and a fraction outside 0 to 1, TypeError for likelihoods
    without counts in bins, such as list-mode.
    """
    of_bins(likelihood, "hold_out", "divide the events of a list instead")
    if not 0 < fraction < 1:
        raise ValueError(f"hold_out fraction must be between 0 and 1, got {fraction}")
    data = counts_of(likelihood)
    counts = to_numpy(data)
    if not np.array_equal(counts, np.rint(counts)):
        raise ValueError("hold_out divides whole counts, and some are not; are they corrected, or means?")
    sequence = np.random.SeedSequence(seed, spawn_key=counts_key(counts))  # other scans are divided in other ways
    drawn = np.random.Generator(np.random.Philox(sequence)).binomial(counts.astype(np.int64), fraction)
    held = like(drawn, data)
    return _share(likelihood, data - held, 1 - fraction), _share(likelihood, held, fraction)


def _share(likelihood: PoissonLikelihood, counts: Array, fraction: float) -> PoissonLikelihood:
    model = likelihood.model
    return PoissonLikelihood(
        counts, replace(model, factors=model.factors * fraction, background=model.background * fraction)
    )


def _no_longer_better(value: float, iterate: Iterate, rule: WindowedVariance | HeldOut) -> bool:
    """Note a value, and whether the least of all lies `patience` back."""
    if value < min(rule.history, default=math.inf):
        rule._best[:] = [iterate]
    rule.history.append(value)
    return len(rule.history) - 1 - int(np.argmin(rule.history)) >= rule.patience


def _relative_variance(images: Sequence[Array]) -> float:
    xp = array_namespace(images[0])
    stack = xp.stack(list(images))
    mean = xp.mean(stack, axis=0)
    square = float(xp.mean(stack[-1, ...] ** 2))
    return float(xp.mean((stack - mean) ** 2)) / square if square > 0 else 0.0
