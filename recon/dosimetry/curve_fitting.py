"""Least squares of sums of exponentials for many curves at once: the search behind `fit_time_activity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

_GRID = {1: 48, 2: 22, 3: 12}
_ROUNDS = 200
_DIFFERENCE = 1e-6  # of logarithms of rates, for slopes
_CURVES_AT_ONCE = 20000


@dataclass(frozen=True)
class CurveModel:
    """A sum of exponentials with rates in increasing order, and amplitudes that are not negative.

    Args:
        terms : for each amplitude the rate that it decays with and the one that it rises with (None: it is there from
            the start), by their places among the rates.
        formula : to be read.
    """

    terms: tuple[tuple[int, int | None], ...]
    formula: str

    @property
    def n_rates(self) -> int:
        """How many rates there are."""
        return 1 + max(max(d, d if r is None else r) for d, r in self.terms)

    @property
    def n_parameters(self) -> int:
        """How many numbers are fitted."""
        return len(self.terms) + self.n_rates

    def basis(self, times: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Return each amplitude's curve, (..., terms, times), for rates (..., n_rates)."""
        decay = np.exp(-rates[..., :, None] * times)
        return np.stack([decay[..., d, :] - (0 if r is None else decay[..., r, :]) for d, r in self.terms], -2)

    def integrals(self, rates: np.ndarray) -> np.ndarray:
        """Return the integral of each amplitude's curve from 0 to infinity, (..., terms)."""
        return np.stack([1 / rates[..., d] - (0 if r is None else 1 / rates[..., r]) for d, r in self.terms], -1)


MODELS: Mapping[str, CurveModel] = {
    "mono": CurveModel(((0, None),), "A exp(-k t)"),
    "bi": CurveModel(((0, None), (1, None)), "A exp(-k t) + B exp(-l t)"),
    "uptake": CurveModel(((0, 1),), "A (exp(-k t) - exp(-u t))"),
    "bi-uptake": CurveModel(((0, 2), (1, 2)), "A exp(-k t) + B exp(-l t) - (A + B) exp(-u t)"),
}
"""The curves by name; k and l are rates of washout, u that of uptake."""


def fit_curves(
    model: CurveModel,
    times: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    slowest: float,
    fastest: np.ndarray,
    precision: float = 1e-9,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (rates (curves, n_rates), amplitudes (curves, terms)) of the weighted least squares fit of every curve.

    Args:
        times : (times,), h.
        values : (curves, times).
        weights : (times,), of the squares.
        slowest, fastest : bounds of the rates, 1/h: one below, and (n_rates,) above; equal ones fix the rates.
        precision : of the rates, relative.

    For each set of rates the amplitudes follow in closed form; rates are sought on a grid first, then by the method of
    Levenberg and Marquardt.
    """
    parts = [
        _fitted(model, times, values[i : i + _CURVES_AT_ONCE], weights, slowest, fastest, precision)
        for i in range(0, len(values), _CURVES_AT_ONCE)
    ]
    return np.concatenate([rates for rates, _ in parts]), np.concatenate([amplitudes for _, amplitudes in parts])


def _fitted(
    model: CurveModel,
    times: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    slowest: float,
    fastest: np.ndarray,
    precision: float,
) -> tuple[np.ndarray, np.ndarray]:
    n, low, high = model.n_rates, np.log(slowest), np.log(fastest)
    if high.max() <= low:
        rates = np.full((len(values), n), slowest)
        return rates, _amplitudes(model.basis(times, rates), values, weights)[0]
    points = np.linspace(low, high.max(), _GRID[n])
    grid = np.array(list(combinations(points, n)))
    grid = grid[(grid <= high + 1e-12).all(1)]
    best, cost = np.zeros((len(values), n)), np.full(len(values), np.inf)
    for start in range(0, len(grid), 64):
        some = grid[start : start + 64]
        basis = model.basis(times, np.exp(some))
        _, costs = _amplitudes(basis[None], values[:, None], weights)
        k = costs.argmin(1)
        found = costs[np.arange(len(values)), k]
        better = found < cost
        best[better], cost[better] = some[k[better]], found[better]
    best = _refined(model, times, values, weights, best, low, high, precision)
    rates = np.exp(best)
    return rates, _amplitudes(model.basis(times, rates), values, weights)[0]


def _refined(
    model: CurveModel,
    times: np.ndarray,
    values: np.ndarray,
    weights: np.ndarray,
    start: np.ndarray,
    low: float,
    high: np.ndarray,
    precision: float,
) -> np.ndarray:
    """Levenberg and Marquardt's steps of the logarithms of rates, with the amplitudes that are best at each of them."""

    def misfit(logs: np.ndarray, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        basis = model.basis(times, np.exp(logs))
        amplitudes, cost = _amplitudes(basis, data, weights)
        return np.sqrt(weights) * (data - (amplitudes[..., None] * basis).sum(-2)), cost

    n, best, damping = model.n_rates, start.copy(), np.full(len(values), 1e-3)
    rows = np.arange(len(values))
    for _ in range(_ROUNDS):
        if not rows.size:
            break
        here, data = best[rows], values[rows]
        residual, cost = misfit(here, data)
        inward = np.where(here + _DIFFERENCE <= high, _DIFFERENCE, -_DIFFERENCE)
        slopes = [
            (misfit(here + inward * (np.arange(n) == i), data)[0] - residual) / inward[:, i : i + 1] for i in range(n)
        ]
        J = np.stack(slopes, -1)
        gradient = -(J * residual[..., None]).sum(1)
        # a rate at a bound stays there while the misfit falls beyond it
        held = ((here <= low + 1e-12) & (gradient < 0)) | ((here >= high - 1e-12) & (gradient > 0))
        J = np.where(held[:, None], 0.0, J)
        gradient = np.where(held, 0.0, gradient)
        square = np.einsum("cti,ctj->cij", J, J)
        size = np.einsum("cii->ci", square)
        scale = np.maximum(size, 1e-12 * size.max(1, keepdims=True) + 1e-300)
        matrix = square + (damping[rows, None] * scale)[:, :, None] * np.eye(n)
        step = np.clip(np.linalg.solve(matrix, gradient[..., None])[..., 0], -1, 1)
        moved = np.clip(np.sort(here + step, -1), low, high)
        better = misfit(moved, data)[1] < cost
        best[rows[better]] = moved[better]
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-12), damping[rows] * 4)
        small = np.abs(moved - here).max(1) < precision
        rows = rows[~small & (damping[rows] < 1e12)]
    return best


def _amplitudes(basis: np.ndarray, values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Amplitudes >= 0 of one or two curves (..., terms, times), and the weighted sum of squares that is left."""
    weighted = basis * weights
    right = (weighted * values[..., None, :]).sum(-1)
    square = (weighted * basis).sum(-1)
    total = (weights * values**2).sum(-1)
    tiny = 1e-300
    alone = np.maximum(right / np.maximum(square, tiny), 0)
    if basis.shape[-2] == 1:
        return alone, total - 2 * alone[..., 0] * right[..., 0] + alone[..., 0] ** 2 * square[..., 0]
    cross = (weighted[..., 0, :] * basis[..., 1, :]).sum(-1)
    s0, s1 = square[..., 0], square[..., 1]
    r0, r1 = right[..., 0], right[..., 1]
    determinant = s0 * s1 - cross**2
    usable = determinant > 1e-12 * s0 * s1
    safe = np.where(usable, determinant, 1.0)
    a, b = (r0 * s1 - r1 * cross) / safe, (r1 * s0 - r0 * cross) / safe
    inside = usable & (a >= 0) & (b >= 0)
    # on the border one amplitude is 0: whichever leaves less
    first = alone[..., 0] * r0 > alone[..., 1] * r1
    a = np.where(inside, a, np.where(first, alone[..., 0], 0.0))
    b = np.where(inside, b, np.where(first, 0.0, alone[..., 1]))
    cost = total - 2 * (a * r0 + b * r1) + a**2 * s0 + 2 * a * b * cross + b**2 * s1
    return np.stack([a, b], -1), cost
