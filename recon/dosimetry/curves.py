"""Time-activity curves over several scans: fits, time-integrated activity, and how sure they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.grid import FrozenArrays
from emrecon.projectors.physics import isotope

from .curve_fitting import MODELS, CurveModel, fit_curves

_WASHOUT, _UPTAKE = 4.0, 40.0  # most half-lives until the first scan, or between the closest two, that can be told
_VOXEL_PRECISION = 1e-6
_AT_BOUND = 1e-6


@dataclass(frozen=True, eq=False)
class TimeActivityFit(FrozenArrays):
    """A curve through activities at several times.

    Args:
        model : a name of `MODELS`.
        nuclide : its name.
        times, values : h, and the activities that were fitted, of any unit.
        rates, amplitudes : 1/h in increasing order, and those of the terms, as in the model's formula.
        covariance : of (amplitudes, rates), None where there are as many points as parameters and no uncertainties.
        held : for each rate whether it lies at a bound (the physical decay, or the fastest that the times can show) or
            was given, and has no uncertainty of its own.
    """

    model: str
    nuclide: str
    times: np.ndarray
    values: np.ndarray
    rates: np.ndarray
    amplitudes: np.ndarray
    covariance: np.ndarray | None
    held: np.ndarray

    def __call__(self, times: ArrayLike) -> np.ndarray:
        """Return the curve at times in h after injection."""
        t = np.asarray(times, float)
        return np.tensordot(self.amplitudes, MODELS[self.model].basis(t.ravel(), self.rates), 1).reshape(t.shape)

    @property
    def half_lives(self) -> np.ndarray:
        """Effective half-lives in h, the longest first."""
        return math.log(2) / self.rates

    @property
    def integral(self) -> float:
        """The time-integrated activity from injection to infinity, in the unit of the values times hours."""
        return float(self.amplitudes @ MODELS[self.model].integrals(self.rates))

    @property
    def integral_uncertainty(self) -> float | None:
        """One standard deviation of the integral; None where it is not known."""
        if self.covariance is None:
            return None
        model, step = MODELS[self.model], 1e-5
        gradient = list(model.integrals(self.rates))
        for i in range(model.n_rates):
            shift = np.zeros(model.n_rates)
            shift[i] = step * self.rates[i]
            ends = [float(self.amplitudes @ model.integrals(self.rates + s * shift)) for s in (1, -1)]
            gradient.append((ends[0] - ends[1]) / (2 * shift[i]))
        g = np.array(gradient)
        return float(np.sqrt(max(g @ self.covariance @ g, 0.0)))

    @property
    def residuals(self) -> np.ndarray:
        """Values minus the curve."""
        return self.values - self(self.times)

    @property
    def notes(self) -> tuple[str, ...]:
        """What one should know about the fit."""
        found = []
        physical = math.log(2) / _physical_half_life(self.nuclide)
        if abs(self.rates[0] / physical - 1) < 1e-5:
            found.append("the washout is as slow as physical decay, which bounds it")
        washout = {d for d, _ in MODELS[self.model].terms}
        if any(self.held[i] and self.rates[i] > 2 * physical for i in washout) and self.covariance is not None:
            found.append("a washout is held: it was given, or is faster than scans at these times can tell")
        if self.covariance is None:
            found.append("as many points as parameters: the curve passes through them, its uncertainty is not known")
        beyond = 1 - _share_until(self, float(self.times[-1]))
        if beyond > 0.5:
            found.append(f"{beyond:.0%} of the integral lies after the last scan")
        return tuple(found)

    def __str__(self) -> str:
        spread = self.integral_uncertainty
        sure = "" if spread is None else f" +- {spread:.2g}"
        lives = " and ".join(f"{t:.4g}" for t in self.half_lives)
        return f"{self.model} fit of {self.times.size} points: integral {self.integral:.5g}{sure}, half-lives {lives} h"


@dataclass(frozen=True, eq=False)
class VoxelFits(FrozenArrays):
    """Curves through every voxel of several images.

    Args:
        model : a name of `MODELS`.
        integral : (x, y, z) from injection to infinity, in the images' unit times hours.
        half_life : (x, y, z) h, the longest effective one; that of physical decay in voxels without activity.
        n_bounded : voxels whose washout came out as slow as physical decay or slower, and was held there.
        n_fast : voxels whose washout is faster than the scans can tell, and was held at four half-lives until the first
            scan (or between the closest two).
    """

    model: str
    integral: np.ndarray
    half_life: np.ndarray
    n_bounded: int
    n_fast: int


def fit_time_activity(
    times: ArrayLike,
    values: ArrayLike,
    nuclide: str,
    *,
    model: str = "mono",
    uncertainties: ArrayLike | None = None,
    half_life: float | None = None,
) -> TimeActivityFit:
    """Return the least squares fit of a curve to activities at several times, the physical decay in it::

        mono        A exp(-k t)                          2 points or more
        bi          A exp(-k t) + B exp(-l t)            4
        uptake      A (exp(-k t) - exp(-u t))            3
        bi-uptake   A exp(-k t) + B exp(-l t) - (A + B) exp(-u t)    5

    Args:
        times : h after injection, of the middle of each scan; increasing.
        values : activities (or concentrations) at these times, not corrected for decay.
        nuclide : whose physical half-life is the longest that an effective one can be.
        model : one of these, or "auto": of those that the points allow, the one of least corrected Akaike information.
        uncertainties : one standard deviation of every value. Without them all values count the same, and their spread
            comes from the residuals.
        half_life : effective, h, where it is known: only A is fitted, and one point is enough ("mono").

    Amplitudes are not negative. Raises ValueError for too few points, times that do not increase, values that are not
    finite or not positive at all, and half-lives beyond the physical one.

    Source: Glatting et al. 2007; Siegel et al. 1999 (MIRD pamphlet 16).
    """
    t, y, sigma = _points(times, values, uncertainties)
    if half_life is not None:
        return _with_half_life(t, y, sigma, uncertainties is not None, nuclide, model, half_life)
    if model == "auto":
        return _best(t, y, uncertainties, nuclide)
    found = _model(model)
    _check_number(model, found, t.size)
    slowest, fastest = _bounds(t, nuclide, found)
    rates, amplitudes = fit_curves(found, t, y[None], 1 / sigma**2, slowest, fastest)
    return _finished(
        model, nuclide, t, y, sigma, uncertainties is not None, rates[0], amplitudes[0], (slowest, fastest)
    )


def fit_voxels(
    times: ArrayLike, images: Array, nuclide: str, *, model: str = "mono", uncertainties: ArrayLike | None = None
) -> VoxelFits:
    """Return the fit of a curve to every voxel of several images, as `fit_time_activity` does it for one curve.

    Args:
        times : (times,) h after injection; increasing.
        images : (times, x, y, z) concentrations at these times, not corrected for decay; negative values count as they
            are.
        nuclide : whose physical half-life bounds the effective ones.
        model : a name of `MODELS`, or "physical": the physical decay through the values, also of a single image.
        uncertainties : of the images as wholes, (times,).

    Raises ValueError for too few images, other shapes, and values that are not finite.
    """
    stack = np.asarray(to_numpy(images), float)
    t = np.ravel(np.asarray(times, float))
    if stack.ndim != 4 or len(stack) != t.size:
        raise ValueError(f"fit_voxels takes (times, x, y, z) for {t.size} times, got {stack.shape}")
    if not np.isfinite(stack).all():
        raise ValueError("fit_voxels: images hold NaN or infinite values")
    _check_times(t)
    weights = 1 / _uncertainties(uncertainties, t.size) ** 2
    found = _model("mono" if model == "physical" else model)
    slowest, fastest = _bounds(t, nuclide, found)
    if model == "physical":
        fastest = np.array([slowest])
    else:
        _check_number(model, found, t.size)
    shape = stack.shape[1:]
    curves = stack.reshape(t.size, -1).T
    some = (curves > 0).any(1)
    integral, life = np.zeros(len(curves)), np.full(len(curves), math.log(2) / slowest)
    n_bounded = n_fast = 0
    if some.any():
        rates, amplitudes = fit_curves(found, t, curves[some], weights, slowest, fastest, _VOXEL_PRECISION)
        integral[some] = (amplitudes * found.integrals(rates)).sum(-1)
        life[some] = math.log(2) / _slowest_used(found, rates, amplitudes)
        if model != "physical":
            active = amplitudes.sum(1) > 0
            n_bounded = int(((rates[:, 0] < slowest * (1 + 1e-6)) & active).sum())
            n_fast = int(((rates[:, 0] > fastest[0] * (1 - 1e-3)) & active).sum())
    return VoxelFits(model, integral.reshape(shape), life.reshape(shape), n_bounded, n_fast)


def _slowest_used(model: CurveModel, rates: np.ndarray, amplitudes: np.ndarray) -> np.ndarray:
    """The slowest washout whose amplitude is not 0."""
    first = model.terms[0][0]
    if len(model.terms) == 1:
        return rates[:, first]
    return np.where(amplitudes[:, 0] > 0, rates[:, first], rates[:, model.terms[1][0]])


def _finished(
    model: str,
    nuclide: str,
    t: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    known: bool,
    rates: np.ndarray,
    amplitudes: np.ndarray,
    bounds: tuple[float, np.ndarray],
) -> TimeActivityFit:
    if not (amplitudes > 0).any():
        raise ValueError("the fit found no activity: are the values positive, and the times those after injection?")
    held = (rates < bounds[0] * (1 + _AT_BOUND)) | (rates > bounds[1] * (1 - _AT_BOUND))
    covariance = _covariance(MODELS[model], t, y, sigma, known, rates, amplitudes, held)
    return TimeActivityFit(model, isotope(nuclide).name, t, y, rates, amplitudes, covariance, held)


def _covariance(
    model: CurveModel,
    t: np.ndarray,
    y: np.ndarray,
    sigma: np.ndarray,
    known: bool,
    rates: np.ndarray,
    amplitudes: np.ndarray,
    held: np.ndarray,
) -> np.ndarray | None:
    """Of (amplitudes, rates) by the curvature at the fit; rates at bounds and amplitudes of 0 are held."""
    columns = list(model.basis(t, rates))
    for i in range(model.n_rates):
        step = np.zeros(model.n_rates)
        step[i] = 1e-6 * rates[i]
        ends = [np.tensordot(amplitudes, model.basis(t, rates + s * step), 1) for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step[i]))
    jacobian = np.array(columns).T / sigma[:, None]
    used = np.array([True] * len(model.terms) + list(~held))
    free = [i for i in range(jacobian.shape[1]) if used[i] and np.linalg.norm(jacobian[:, i]) > 0]
    spare = t.size - len(free)
    if not known and spare <= 0:
        return None
    curvature = jacobian[:, free].T @ jacobian[:, free]
    scale = np.sqrt(np.diag(curvature))
    inverse = np.linalg.pinv(curvature / np.outer(scale, scale), rcond=1e-12) / np.outer(scale, scale)
    if not known:
        residuals = (y - np.tensordot(amplitudes, model.basis(t, rates), 1)) / sigma
        inverse = inverse * float(residuals @ residuals) / spare
    whole = np.zeros((jacobian.shape[1],) * 2)
    whole[np.ix_(free, free)] = inverse
    return whole


def _with_half_life(
    t: np.ndarray, y: np.ndarray, sigma: np.ndarray, known: bool, nuclide: str, model: str, half_life: float
) -> TimeActivityFit:
    physical = _physical_half_life(nuclide)
    if model != "mono":
        raise ValueError(f'a known half-life belongs to model "mono", not {model!r}')
    if not (math.isfinite(half_life) and 0 < half_life <= physical * (1 + 1e-9)):
        raise ValueError(
            f"an effective half-life of {nuclide} lies between 0 and the physical {physical:.4g} h, got {half_life}"
        )
    rate = math.log(2) / half_life
    bounds = rate, np.array([rate])
    rates, amplitudes = fit_curves(MODELS["mono"], t, y[None], 1 / sigma**2, *bounds)
    return _finished("mono", nuclide, t, y, sigma, known, rates[0], amplitudes[0], bounds)


def _best(t: np.ndarray, y: np.ndarray, uncertainties: ArrayLike | None, nuclide: str) -> TimeActivityFit:
    """The fit of least corrected Akaike information among models with two points more than parameters."""
    sigma = _uncertainties(uncertainties, t.size)
    allowed = [name for name, model in MODELS.items() if t.size >= model.n_parameters + 2]
    fits = [fit_time_activity(t, y, nuclide, model=name, uncertainties=uncertainties) for name in allowed or ["mono"]]

    def information(fit: TimeActivityFit) -> float:
        k, n = MODELS[fit.model].n_parameters + 1, t.size
        squares = max(float(((fit.residuals / sigma) ** 2).sum()), 1e-300)
        return n * math.log(squares / n) + 2 * k + (2 * k * (k + 1) / (n - k - 1) if n > k + 1 else 0.0)

    return min(fits, key=information)


def _share_until(fit: TimeActivityFit, time: float) -> float:
    model = MODELS[fit.model]
    left = [
        math.exp(-fit.rates[d] * time) / fit.rates[d]
        - (0 if r is None else math.exp(-fit.rates[r] * time) / fit.rates[r])
        for d, r in model.terms
    ]
    return 1 - float(fit.amplitudes @ np.array(left)) / fit.integral if fit.integral > 0 else 1.0


def _points(
    times: ArrayLike, values: ArrayLike, uncertainties: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t, y = (np.ravel(np.asarray(v, float)) for v in (times, values))
    if t.size != y.size:
        raise ValueError(f"there are {t.size} times and {y.size} values; give one value per time")
    _check_times(t)
    if not np.isfinite(y).all() or not (y > 0).any():
        raise ValueError(f"activities must be finite, and some positive, got {y.tolist()}")
    return t, y, _uncertainties(uncertainties, t.size)


def _uncertainties(given: ArrayLike | None, n: int) -> np.ndarray:
    if given is None:
        return np.ones(n)
    sigma = np.ravel(np.asarray(given, float))
    if sigma.size != n or not (np.isfinite(sigma).all() and (sigma > 0).all()):
        raise ValueError(f"uncertainties must be {n} positive numbers, got {sigma.tolist()}")
    return sigma


def _check_times(t: np.ndarray) -> None:
    if not (t.size and np.isfinite(t).all() and t[0] >= 0 and (np.diff(t) > 0).all()):
        raise ValueError(f"times must be hours after injection, not negative and increasing, got {t.tolist()}")


def _model(name: str) -> CurveModel:
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
    return MODELS[name]


def _check_number(name: str, model: CurveModel, n: int) -> None:
    if n < model.n_parameters:
        fits = [other for other, m in MODELS.items() if m.n_parameters <= n]
        advice = f"choose {' or '.join(fits)}" if fits else "give a known half-life, or more scans"
        raise ValueError(
            f"model {name!r}, {model.formula}, has {model.n_parameters} parameters and needs as many time points, got "
            f"{n}; {advice}"
        )


def _bounds(t: np.ndarray, nuclide: str, model: CurveModel) -> tuple[float, np.ndarray]:
    """The rate of physical decay, and for each rate the fastest that scans at these times can tell.

    What washes out faster has left no trace, and any amount of it would fit; fast uptake does no harm.
    """
    slowest = math.log(2) / _physical_half_life(nuclide)
    shortest = min([v for v in (t[0], *np.diff(t)) if v > 0], default=1.0)
    decays = {d for d, _ in model.terms}
    most = np.array([_WASHOUT if i in decays else _UPTAKE for i in range(model.n_rates)])
    return slowest, np.maximum(most * math.log(2) / shortest, 4 * slowest)


def _physical_half_life(nuclide: str) -> float:
    """Hours."""
    return isotope(nuclide).half_life / 3600
