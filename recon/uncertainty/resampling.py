"""Realisations of the noise without another scan: bootstrap of sinograms and events, and images of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, like, require_array, to_numpy

from ..likelihoods.listmode import ListmodeLikelihood
from ..likelihoods.poisson import PoissonLikelihood
from ..metrics.measures import Ensemble, ensemble_statistics

KINDS = ("poisson", "multinomial", "expected", "binomial")

Reconstruct = Callable[[Any], Array]
"""What makes images (n, x, y, z) of a likelihood of n realisations: `lambda f: run(osem(f, n_subsets=4), 5)`, say."""


def bootstrap_counts(
    counts: Array,
    n: int,
    *,
    kind: str = "poisson",
    expected: Array | None = None,
    fraction: float = 0.5,
    seed: int = 0,
    first: int = 0,
) -> Array:
    """Return n realisations of counts, (n, ``*counts``), in the library of the counts, float32.

    Args:
        counts : y, measured, of any shape; whole numbers, except for "poisson".
        kind : what is drawn, and what that assumes of a bin:

            "poisson"      Poisson(y): the counts stand for what is expected. Mean y, variance y; bins without counts
                           stay empty, and structure of the noise in y is in the mean of the realisations.
            "multinomial"  so many events as were measured, drawn from them with replacement: the nonparametric
                           bootstrap of events that were sorted into these bins. As "poisson", with the total kept.
            "expected"     Poisson(ybar), ybar = `expected`, such as the model of an image: the parametric bootstrap. It
                           assumes that the model is right, and takes the image for the object.
            "binomial"     every event is kept with the probability `fraction`: a scan that is shorter by it, which is
                           Poisson where y is. Realisations share events: their variance given y is
                           fraction (1 - fraction) y, not that of scans, fraction y.
        expected : ybar, for "expected" alone.
        seed, first : realisation i = first, first + 1, ... depends on the seed and on i alone, so that parts of a list
            of realisations are the same as the whole.

    Raises ValueError for unknown kinds, counts that are negative or not whole, and fractions that are not 0 to 1.

    Source: Efron 1979; Haynor & Woods 1989; Buvat 2002; Dahlbom 2002.
    """
    require_array(counts, "bootstrap_counts")
    host = np.asarray(to_numpy(counts), float)
    _check(host, n, kind, fraction)
    if (expected is not None) != (kind == "expected"):
        raise ValueError('expected counts belong to the kind "expected", and to no other')
    mean = host if expected is None else np.broadcast_to(np.asarray(to_numpy(expected), float), host.shape)
    drawn = np.stack([_drawn(mean, kind, fraction, np.random.default_rng((seed, i))) for i in range(first, first + n)])
    xp = array_namespace(counts)
    return xp.asarray(drawn, dtype=xp.float32, device=counts.device)


def bootstrap(
    likelihood: PoissonLikelihood | ListmodeLikelihood,
    n: int,
    *,
    kind: str = "poisson",
    image: Array | None = None,
    fraction: float = 0.5,
    seed: int = 0,
    first: int = 0,
) -> Any:
    """Return the likelihood of n realisations of its data, as one batch, whose images are (n, x, y, z).

    Args:
        likelihood : of one scan. Events get weights, how often each is drawn: with "multinomial" as many as were
            measured are drawn with replacement, the nonparametric bootstrap of list-mode data; with "poisson" each
            independently, so that their number varies as that of a scan; "binomial" keeps each with the probability
            `fraction` (its sensitivity and background are scaled along).
        kind, fraction, seed, first : as in `bootstrap_counts`.
        image : for "expected", whose model is drawn from; not for events.

    Raises TypeError for other likelihoods, ValueError for batches and as `bootstrap_counts`.
    """
    if isinstance(likelihood, ListmodeLikelihood):
        return _of_events(likelihood, n, kind, fraction, seed, first)
    if not isinstance(likelihood, PoissonLikelihood):
        raise TypeError(f"bootstrap takes a PoissonLikelihood or a ListmodeLikelihood, got {type(likelihood).__name__}")
    if likelihood.data.ndim > len(likelihood.model.projector.out_shape):
        raise ValueError(f"bootstrap takes the data of one scan, got a batch of shape {tuple(likelihood.data.shape)}")
    if (image is not None) != (kind == "expected"):
        raise ValueError('an image belongs to the kind "expected", and to no other')
    expected = None if image is None else likelihood.model(image)
    data = bootstrap_counts(likelihood.data, n, kind=kind, expected=expected, fraction=fraction, seed=seed, first=first)
    return PoissonLikelihood(data, _shortened(likelihood.model, fraction) if kind == "binomial" else likelihood.model)


def realisations(
    reconstruct: Reconstruct,
    likelihood: PoissonLikelihood | ListmodeLikelihood,
    n: int,
    *,
    at_once: int = 32,
    kind: str = "poisson",
    image: Array | None = None,
    fraction: float = 0.5,
    seed: int = 0,
) -> Iterator[Array]:
    """Yield the images (x, y, z) of n realisations, `at_once` of which are reconstructed in one batch.

    Args:
        reconstruct : likelihood of a batch -> images (B, x, y, z), such as
            ``lambda f: recon.run(recon.osem(f, n_subsets=4), 5)``.

    The other arguments are those of `bootstrap`. The images do not depend on `at_once`.
    """
    for first in range(0, n, at_once):
        some = min(at_once, n - first)
        batch = bootstrap(likelihood, some, kind=kind, image=image, fraction=fraction, seed=seed, first=first)
        images = reconstruct(batch)
        if images.shape[0] != some or images.ndim != 4:
            raise ValueError(f"reconstruct must return {some} images (x, y, z), got shape {tuple(images.shape)}")
        yield from (images[i, ...] for i in range(some))


def bootstrap_statistics(
    reconstruct: Reconstruct,
    likelihood: PoissonLikelihood | ListmodeLikelihood,
    n: int,
    reference: Array,
    **options: Any,
) -> Ensemble:
    """Return mean and standard deviation of every voxel over bootstrap realisations.

    Args:
        reference : what bias is relative to: the image of the data themselves, or the truth where it is known.
        options : of `realisations`.

    The relative error of a standard deviation from n realisations is 1 / sqrt(2 (n - 1)).
    """
    return ensemble_statistics(realisations(reconstruct, likelihood, n, **options), reference)


def _of_events(
    likelihood: ListmodeLikelihood, n: int, kind: str, fraction: float, seed: int, first: int
) -> ListmodeLikelihood:
    if likelihood.weights is not None:
        raise ValueError("bootstrap takes events that count once each: this likelihood has weights already")
    if kind == "expected":
        raise ValueError('the kind "expected" is for sinograms: events that were not measured cannot be drawn')
    events = np.ones(likelihood.model.projector.out_shape)
    _check(events, n, kind, fraction)
    drawn = [_drawn(events, kind, fraction, np.random.default_rng((seed, i))) for i in range(first, first + n)]
    weights = like(np.stack(drawn), likelihood.sensitivity)
    if kind != "binomial":
        return ListmodeLikelihood(likelihood.model, likelihood.sensitivity, weights)
    model = _shortened(likelihood.model, fraction)
    return ListmodeLikelihood(model, fraction * likelihood.sensitivity, weights)


def _shortened(model: Any, fraction: float) -> Any:
    """The model of a scan that is shorter: factors and background by the same part."""
    return replace(model, factors=fraction * model.factors, background=fraction * model.background)


def _drawn(mean: np.ndarray, kind: str, fraction: float, generator: np.random.Generator) -> np.ndarray:
    if kind in ("poisson", "expected"):
        return generator.poisson(mean).astype(np.float32)
    whole = np.rint(mean).astype(np.int64)
    if kind == "binomial":
        return generator.binomial(whole, fraction).astype(np.float32)
    total = int(whole.sum())
    if total == 0:
        return np.zeros(mean.shape, np.float32)
    chosen = generator.multinomial(total, (whole / total).ravel())
    return chosen.reshape(mean.shape).astype(np.float32)


def _check(counts: np.ndarray, n: int, kind: str, fraction: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; choose from {', '.join(KINDS)}")
    if n < 1 or n != int(n):
        raise ValueError(f"n must be a whole number of realisations, at least 1, got {n}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ValueError("counts must be finite and not negative")
    if kind in ("multinomial", "binomial") and not np.array_equal(counts, np.rint(counts)):
        raise ValueError(f'counts that are no whole numbers are not events, which "{kind}" draws; use "poisson"')
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0, up to 1, got {fraction}")
