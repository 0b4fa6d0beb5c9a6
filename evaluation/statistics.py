"""Paired comparisons over subjects: tests, corrections for many of them, intervals, and who is best.

The unit of observation is the subject. What one subject has several of (realisations, lesions, seeds of a training) is
first averaged within the subject, or, where the seeds are to count, enters as a random effect beside the subjects
(`seed_interval`, `paired_over_seeds`). NaN is never left out in silence: it is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtr, stdtrit

from .sections import Interval

Test = Literal["t", "wilcoxon", "permutation"]
EXACT = 16
"""The most subjects for which a permutation test goes through all signs: 65,536 of them."""


# ---- intervals -------------------------------------------------------------------------------------------------------


def t_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Return the mean of independent values with Student's interval, mean +- t s / sqrt(n).

    The limits are NaN for one value.

    Raises ValueError for no values, NaN, and a level outside of 0 to 1.
    """
    x = _values(values, "t_interval")
    _check_level(level)
    mean, n = float(x.mean()), x.size
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stdtrit(n - 1, 0.5 + level / 2) * x.std(ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], float] = np.mean,
    level: float = 0.95,
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Return a statistic with its bias-corrected and accelerated bootstrap interval.

    Args:
        values : (n,), or (n, k), of which whole rows (subjects) are drawn.
        statistic : of the values; called as statistic(values), of the shape of `values`.

    The limits are NaN for less than two values, and both the value where the statistic is the same in all resamples.

    Raises ValueError for no values, NaN, a level outside of 0 to 1, and fewer than 100 resamples.

    Source: Efron 1987.
    """
    x = _values(values, "bootstrap_interval", dimensions=(1, 2))
    _check_level(level)
    if n_resamples < 100:
        raise ValueError(f"bootstrap_interval needs 100 resamples or more, got {n_resamples}")
    value, n = float(statistic(x)), len(x)
    if n < 2:
        return Interval(value, math.nan, math.nan, n)
    random = np.random.default_rng(seed)
    drawn = np.sort([float(statistic(x[random.integers(0, n, n)])) for _ in range(n_resamples)])
    if drawn[0] == drawn[-1]:
        return Interval(value, value, value, n)
    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / n_resamples
    bias = ndtri(np.clip(below, 0.5 / n_resamples, 1 - 0.5 / n_resamples))
    left_out = np.array([float(statistic(np.delete(x, i, axis=0))) for i in range(n)])
    away = left_out.mean() - left_out
    spread = np.sum(away**2)
    acceleration = float(np.sum(away**3) / (6 * spread**1.5)) if spread > 0 else 0.0
    z = bias + ndtri(np.array([0.5 - level / 2, 0.5 + level / 2]))
    shares = ndtr(bias + z / (1 - acceleration * z))
    low, high = np.quantile(drawn, shares)
    return Interval(value, float(min(low, high)), float(max(low, high)), n)


def proportion_interval(n_successes: int, n: int, level: float = 0.95) -> Interval:
    """Return a proportion with its exact (Clopper-Pearson) interval.

    Raises ValueError for n < 1, and successes that are not between 0 and n.
    """
    if n < 1 or not 0 <= n_successes <= n:
        raise ValueError(f"proportion_interval needs 0 <= successes <= n with n > 0, got {n_successes} of {n}")
    _check_level(level)
    tail = (1 - level) / 2
    low = float(betaincinv(n_successes, n - n_successes + 1, tail)) if n_successes else 0.0
    high = float(betaincinv(n_successes + 1, n - n_successes, 1 - tail)) if n_successes < n else 1.0
    return Interval(n_successes / n, low, high, n)


# ---- tests of pairs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What a test of pairs found.

    Args:
        difference : mean of first - second over the subjects, with Student's interval.
        p : of no difference, two-sided.
        test : that gave it.
    """

    difference: Interval
    p: float
    test: Test


def compare_paired(
    first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray, test: Test = "permutation"
) -> Comparison:
    """Return the difference of two methods over the same subjects, and the p of there being none, two-sided.

    Args:
        first, second : a number of each subject, in the same order.
        test : "t", Student's of the differences; "wilcoxon", of their signed ranks (exact for up to 50 subjects without
            ties and zeros); "permutation" of their signs, exact for up to `EXACT` subjects.

    p is 1 where all differences are 0, and NaN for one subject.

    Raises ValueError for numbers that do not pair, NaN, and another test.
    """
    a, b = _values(first, "compare_paired"), _values(second, "compare_paired")
    if a.size != b.size:
        raise ValueError(f"compare_paired: {a.size} numbers do not pair with {b.size}; the same subjects in both?")
    tests: dict[str, Callable[[np.ndarray], float]] = {
        "t": _t_test,
        "wilcoxon": _wilcoxon,
        "permutation": sign_flip_p,
    }
    if test not in tests:
        raise ValueError(f"unknown test '{test}'; choose from {', '.join(tests)}")
    d = a - b
    p = math.nan if d.size < 2 else 1.0 if not d.any() else tests[test](d)
    return Comparison(t_interval(d), float(p), test)


def _t_test(d: np.ndarray) -> float:
    spread = d.std(ddof=1)
    if spread == 0:
        return 0.0
    return float(2 * stdtr(d.size - 1, -abs(d.mean()) / (spread / math.sqrt(d.size))))


def _wilcoxon(d: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    return float(wilcoxon(d).pvalue)


def sign_flip_p(differences: np.ndarray, *, n_flips: int = 100_000, seed: int = 0) -> float:
    """Return the two-sided p of a mean of 0, by giving the differences all signs.

    Exact for up to `EXACT` differences: the share of the 2^n means that are as far from 0 as the one found, or farther.
    For more, (k + 1) / (n_flips + 1) of random signs, which is never too small.

    Source: Fisher 1935; Phipson and Smyth 2010 for random signs.
    """
    d = _values(differences, "sign_flip_p")
    found = abs(d.sum()) * (1 - 1e-12)
    if d.size <= EXACT:
        sums = np.zeros(1)
        for one in d:
            sums = np.concatenate([sums + one, sums - one])
        return float(np.mean(np.abs(sums) >= found))
    random, as_far, left = np.random.default_rng(seed), 0, n_flips
    while left:
        n = min(left, 10_000)
        signs = random.integers(0, 2, (n, d.size), dtype=np.int8) * 2.0 - 1
        as_far += int(np.sum(np.abs(signs @ d) >= found))
        left -= n
    return (as_far + 1) / (n_flips + 1)


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return p values corrected for their number after Holm, in their order; they bound the family-wise error.

    NaN, of tests that could not be done, stays NaN and does not count.

    Raises ValueError for values outside of 0 to 1.

    Source: Holm 1979.
    """
    given = np.asarray(p, float)
    if given.ndim != 1 or np.any((given < 0) | (given > 1)):
        raise ValueError(f"holm takes p values between 0 and 1, got {given}")
    out = np.full(given.shape, math.nan)
    known = np.flatnonzero(~np.isnan(given))
    order = known[np.argsort(given[known], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return out


# ---- rankings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rank:
    """A method in a ranking.

    Args:
        place : 1 for the best mean; methods of equal mean share one.
        mean : over the subjects.
        behind : mean difference to the best; None for the best itself.
        p : of no difference to the best, after Holm; None for the best itself.
        is_among_best : whether the best is not distinguishable from it.
    """

    name: str
    place: int
    mean: Interval
    behind: Interval | None
    p: float | None
    is_among_best: bool


def ranking(
    values: Mapping[str, Sequence[float] | np.ndarray],
    *,
    smaller_is_better: bool = True,
    test: Test = "permutation",
    level: float = 0.05,
) -> list[Rank]:
    """Return the methods from the best mean to the worst, each compared with the best over the same subjects.

    A method is among the best where the test of pairs against the best, corrected after Holm for the number of methods,
    does not reject at `level`. That does not show that they are equal: with few subjects few differences can be seen,
    and with n subjects the permutation test cannot give a p below 2 / 2^n. As the best was picked by the same numbers,
    p is a little too small for methods close to it.

    Args:
        values : numbers of each method, one for each subject, in the same order.

    Raises ValueError for no methods, and as `compare_paired` does.
    """
    if not values:
        raise ValueError("ranking needs a method or more")
    sign = 1.0 if smaller_is_better else -1.0
    arrays = {name: _values(numbers, f"ranking, {name}") for name, numbers in values.items()}
    names = sorted(arrays, key=lambda name: sign * arrays[name].mean())
    best, rest = names[0], names[1:]
    found = {name: compare_paired(arrays[name], arrays[best], test) for name in rest}
    corrected = dict(zip(rest, holm([found[name].p for name in rest]))) if rest else {}
    ranks: list[Rank] = []
    for i, name in enumerate(names):
        mean = t_interval(arrays[name])
        place = ranks[-1].place if ranks and ranks[-1].mean.value == mean.value else i + 1
        if name == best:
            ranks.append(Rank(name, place, mean, None, None, True))
        else:
            p = float(corrected[name])
            ranks.append(Rank(name, place, mean, found[name].difference, p, not p < level))
    return ranks


# ---- seeds of trainings ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedEffect:
    """What varies in the numbers of a method that was trained several times: subjects, and seeds.

    Args:
        mean : over all, with the interval of `seed_interval`.
        seeds : the mean over the subjects for each seed.
        between_seeds : the standard deviation of a training's effect, estimated; 0 where the seeds differ by no more
            than chance.
    """

    mean: Interval
    seeds: tuple[float, ...]
    between_seeds: float


def seed_interval(values: Sequence[Sequence[float]] | np.ndarray, level: float = 0.95) -> SeedEffect:
    """Return the mean of a method that was trained with several seeds, for another training and other subjects.

    The model: value = mean + subject + seed + rest, subjects and seeds both random. Then
    var(mean) = var_subject / n + var_seed / k + var_rest / (n k), estimated by the mean squares of the two-way table,
    (MS_subject + MS_seed - MS_rest) / (n k), where a component that would be negative counts as 0; degrees of freedom
    are Satterthwaite's. With one seed it is Student's interval over the subjects, and says nothing of other trainings.

    Args:
        values : (seeds, subjects).

    Source: Satterthwaite 1946; Searle, Casella and McCulloch 1992, ch. 4.
    """
    table = _values(values, "seed_interval", dimensions=(2,))
    _check_level(level)
    k, n = table.shape
    means = tuple(float(m) for m in table.mean(1))
    if k == 1:
        return SeedEffect(t_interval(table[0], level), means, 0.0)
    mean = float(table.mean())
    ms_seed = n * table.mean(1).var(ddof=1)
    if n == 1:
        return SeedEffect(Interval(mean, math.nan, math.nan, 1), means, 0.0)
    ms_subject = k * table.mean(0).var(ddof=1)
    rest = table - table.mean(0) - table.mean(1)[:, None] + mean
    ms_rest = np.sum(rest**2) / ((n - 1) * (k - 1))
    between = math.sqrt(max(0.0, (ms_seed - ms_rest) / n))
    parts = [(ms_subject, n - 1)] if ms_seed <= ms_rest else [(ms_subject, n - 1), (ms_seed, k - 1)]
    if ms_seed > ms_rest:
        parts.append((-ms_rest, (n - 1) * (k - 1)))
    variance = sum(ms for ms, _ in parts) / (n * k)
    if variance <= ms_rest / (n * k):  # neither subjects nor seeds show beyond the rest
        parts, variance = [(ms_rest, (n - 1) * (k - 1))], ms_rest / (n * k)
    if variance == 0:
        return SeedEffect(Interval(mean, mean, mean, n), means, between)
    freedom = sum(ms for ms, _ in parts) ** 2 / sum(ms**2 / df for ms, df in parts)
    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(variance)
    return SeedEffect(Interval(mean, mean - half, mean + half, n), means, between)


def paired_over_seeds(
    first: Sequence[Sequence[float]] | np.ndarray, second: Sequence[Sequence[float]] | np.ndarray
) -> Comparison:
    """Return the difference of two methods, either of which may have been trained with several seeds.

    Subjects pair, seeds do not. Each method's seeds are averaged within a subject, so subjects are compared with the
    test of signs; the interval has the seeds of both methods as random effects: the variance of the mean difference
    over the subjects, plus between_seeds^2 / k of each, with Satterthwaite's degrees of freedom.

    Args:
        first, second : (seeds, subjects); the numbers of seeds may differ.
    """
    a, b = (_values(x, "paired_over_seeds", dimensions=(2,)) for x in (first, second))
    found = compare_paired(a.mean(0), b.mean(0))
    n, d = a.shape[1], a.mean(0) - b.mean(0)
    if n < 2:
        return found
    parts = [(d.var(ddof=1) / n, n - 1)]
    for one in (a, b):
        between = seed_interval(one).between_seeds
        if between > 0:
            parts.append((between**2 / len(one), len(one) - 1))
    variance = sum(v for v, _ in parts)
    if variance == 0:
        return found
    freedom = variance**2 / sum(v**2 / df for v, df in parts)
    half = float(stdtrit(freedom, 0.975)) * math.sqrt(variance)
    mean = float(d.mean())
    return Comparison(Interval(mean, mean - half, mean + half, n), found.p, found.test)


def _values(values: object, who: str, dimensions: tuple[int, ...] = (1,)) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim not in dimensions or x.size == 0:
        raise ValueError(f"{who} takes numbers of shape {_shapes(dimensions)}, at least one, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{who}: {int((~np.isfinite(x)).sum())} of {x.size} numbers are NaN or infinite")
    return x


def _shapes(dimensions: tuple[int, ...]) -> str:
    return " or ".join({1: "(n,)", 2: "(n, k)"}[d] for d in dimensions)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1, got {level}")
