"""Counting noise: Poisson counts, statistically independent parts of a measurement, and reproducible random numbers."""

from __future__ import annotations

import math

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, device, dtype_name, like, require_array, to_numpy
from emrecon.projectors.core.content import counts_key

_MOST = 2.0**62  # counts of a bin: what a 64-bit integer holds with room to spare


def generator(seed: int, purpose: str = "", counts: Array | None = None) -> np.random.Generator:
    """Return the random numbers that belong to a seed and a purpose, whatever was drawn before.

    Args:
        seed : a non-negative integer.
        purpose : any text; different ones give independent numbers, so the same seed may serve for a phantom, its noise
            and its thinning.
        counts : whole numbers that are mixed into the seed, so that what is drawn from different scans is independent
            though they share a seed. The same counts give the same numbers in every library and precision.

    Raises ValueError for another seed.

    Source: Philox, a counter-based generator (Salmon et al. 2011).
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"a seed is a non-negative integer, got {seed!r}")
    key = () if counts is None else counts_key(counts)
    sequence = np.random.SeedSequence(int(seed), spawn_key=(*purpose.encode(), *key))
    return np.random.Generator(np.random.Philox(sequence))


def poisson(expected: Array, seed: int, total: float | None = None) -> Array:
    """Return counts drawn from the Poisson distribution, y ~ Poisson(expected).

    Args:
        expected : expected counts >= 0, any shape, NumPy, CuPy or torch.
        seed : a non-negative integer.
        total : scale the expectation first, so that its sum is this number of counts; the factor, which the activity
            has then been multiplied by as well, is `scale_to_counts(expected, total)`.

    Returns counts of the library, device and shape of `expected`, in its dtype where that is float32 or float64;
    integers give 64-bit integers and half precision float32, for counts may be larger than what `expected` can hold.
    The draw itself is done on the host, so one seed gives the same counts everywhere. No gradient passes.

    Noise that is to be independent (of energy windows, frames, repetitions) needs a seed each: the same random numbers
    are behind every draw with one seed.

    Raises ValueError for negative or non-finite expectations, expectations above 4e18, and for a total that is not
    positive.
    """
    values = _expected(expected, "poisson")
    values = values if total is None else scale_to_counts(expected, total) * values
    if values.size and values.max() > _MOST:
        raise ValueError(f"poisson: {values.max():.3g} counts are expected in a bin, which no integer holds")
    return _wide(generator(seed, "poisson").poisson(values), expected)


def scale_to_counts(expected: Array, total: float) -> float:
    """Return the factor by which to multiply expected counts (or the activity) for them to sum to `total`.

    Raises ValueError for negative or non-finite expectations, for a total that is not positive and finite, and where
    nothing is expected at all.
    """
    if not (math.isfinite(total) and total > 0):
        raise ValueError(f"total must be a positive number of counts, got {total}")
    sum_of_expected = float(_expected(expected, "scale_to_counts").sum())
    if sum_of_expected == 0:
        raise ValueError(
            "expected counts are zero everywhere and cannot be scaled; is the activity in the field of view?"
        )
    return float(total) / sum_of_expected


def thin(counts: Array, probability: float, seed: int) -> Array:
    """Return a part of the counts, each event kept with `probability`: z ~ Binomial(y, probability).

    If y is Poisson with mean m, then z and y - z are independent and Poisson with means p m and (1 - p) m: exact pairs
    for training without a noise-free target, and shorter scans out of longer ones.

    Args:
        counts : integers >= 0 of any dtype, NumPy, CuPy or torch.
        seed : a non-negative integer. The counts are mixed into it: parts of different scans are independent with one
            seed, and the same scan is divided in the same way again.

    Returns the same library, device, dtype and shape.

    Raises ValueError for counts that are not non-negative integers (usual cause: corrected or expected counts) and for
    a probability outside 0 to 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be between 0 and 1, got {probability}")
    require_array(counts, "thin")
    values = to_numpy(counts)
    if not np.all(np.isfinite(values)) or np.any(values < 0) or np.any(values != np.floor(values)):
        raise ValueError("thin needs counts, integers >= 0; are these expected or corrected counts?")
    if values.size and values.max() > _MOST:
        raise ValueError(f"thin: {values.max():.3g} counts in a bin are more than an integer holds")
    whole = values.astype(np.int64)
    return like(generator(seed, "thin", whole).binomial(whole, probability), counts)


def _wide(counts: np.ndarray, expected: Array) -> Array:
    """Return counts in the library and on the device of an array, in its dtype where that holds them all."""
    name = dtype_name(expected)
    if name in ("float32", "float64"):
        return like(counts, expected)
    kind = np.float32 if "float" in name else np.int64
    return array_namespace(expected).asarray(counts.astype(kind), device=device(expected))


def _expected(expected: Array, who: str) -> np.ndarray:
    require_array(expected, who)
    if "bfloat16" in str(expected.dtype):  # which NumPy does not know
        expected = array_namespace(expected).astype(expected, array_namespace(expected).float32)
    values = to_numpy(expected).astype(np.float64)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{who}: expected counts hold NaN or infinite values")
    if np.any(values < 0):
        raise ValueError(f"{who}: expected counts go down to {values.min():.4g}; counts cannot be negative")
    return values
