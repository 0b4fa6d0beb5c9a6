"""Engines that take preconditioned gradient steps over subsets: BSREM, SVRG and SAGA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from emrecon.projectors._arrays import Array, array_namespace, like

from .em import Iterate, Likelihood, begin
from .prior import SmoothPrior
from .schedules import (
    BarzilaiBorwein,
    EMPreconditioner,
    Order,
    Preconditioner,
    PriorAware,
    Relaxation,
    StepDown,
    StepSize,
    cofactor,
    herman_meyer,
)

_NOISE = 1e-7  # of the objective: what float32 cannot tell


def gradient_step(x: Array, gradient: Array, diagonal: Array, step: Any = 1.0, upper: float | None = None) -> Array:
    """Return x - step D g, kept between 0 and `upper`.

    x, gradient, diagonal : (..., x, y, z).  step : a number, or an array that broadcasts to them.
    """
    return array_namespace(x).clip(x - step * diagonal * gradient, 0.0, upper)


def bsrem(
    likelihood: Likelihood | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 8,
    *,
    step: StepSize = Relaxation(),
    preconditioner: Preconditioner = EMPreconditioner(),
    order: Order = herman_meyer,
    upper: float | None = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of block-sequential regularised EM, for ever; stop by leaving the loop.

        x <- P[ x - a D(x) (n grad f_k(x) + grad U(x)) ],  D = x / s

    P keeps x between 0 and `upper`. With relaxed steps a it converges to the minimum of f + U.
    prior : U, smooth, or None.  start, n_subsets, order, iteration : as in `osem`.
    step, preconditioner : rules of `recon.schedules`.
    Source: De Pierro & Yamagishi 2001; Ahn & Fessler 2003.
    """
    at, parts = begin(likelihood, start, n_subsets, iteration)
    problem = _Problem(parts, prior, preconditioner, upper)
    return _bsrem(at, problem, step, order)


def _bsrem(at: Iterate, problem: _Problem, step: StepSize, order: Order) -> Iterator[Iterate]:
    iteration, x, n = at.iteration, at.image, len(problem.parts)
    begun = int(at.state.get("begun", iteration))
    while True:
        for i, k in enumerate(order(iteration, n)):
            slope = n * problem.parts[k].gradient(x) + problem.prior_gradient(x)
            x = gradient_step(x, slope, problem.diagonal(x), step(iteration - begun + i / n), problem.upper)
        iteration += 1
        yield Iterate(iteration, x, {"begun": begun})


def svrg(
    likelihood: Likelihood | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 25,
    *,
    step: StepSize = StepDown(),
    preconditioner: Preconditioner = PriorAware(),
    order: Order = cofactor,
    anchor_every: int = 2,
    keep: bool = True,
    upper: float | None = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of variance-reduced gradient steps, for ever; stop by leaving the loop.

        x <- P[ x - a D (n (grad f_k(x) - grad f_k(t)) + grad f(t) + grad U(x)) ]

    The anchor t is the image before every `anchor_every` passes. Its gradients take a pass of their own, which counts,
    is yielded too, and ends with one step by the full gradient; D is that of the anchor. Near the solution the noise
    of the subsets vanishes, so that steps need not shrink.
    prior : U, smooth, or None.  start, n_subsets, order, iteration : as in `osem`. A start from one or two passes of
        `osem` saves time.
    step, preconditioner : rules of `recon.schedules`; `BarzilaiBorwein()` finds the steps itself. Where the objective
        at an anchor is higher than at the one before, the engine goes back there, and halves all steps from then on.
    keep : hold the n gradients of the anchor in memory (n images); otherwise they are computed again, and every
        pass costs two.
    Give the model a little background: where next to nothing is expected a count makes a gradient without bound.
    An iterate remembers its anchor; handed back as `start`, it goes on exactly.
    Source: Johnson & Zhang 2013; Kereta et al. 2021 (in emission tomography); the recipe of the winners of the PETRIC
    challenge 2024.
    """
    if anchor_every < 1:
        raise ValueError(f"svrg anchor_every must be at least 1, got {anchor_every}")
    at, parts = begin(likelihood, start, n_subsets, iteration)
    problem = _Problem(parts, prior, preconditioner, upper)
    return _svrg(at, problem, step, order, anchor_every, keep)


def _svrg(
    at: Iterate, problem: _Problem, step: StepSize, order: Order, anchor_every: int, keep: bool
) -> Iterator[Iterate]:
    iteration, x, n = at.iteration, at.image, len(problem.parts)
    begun, phase = int(at.state.get("begun", iteration)), int(at.state.get("phase", 0))
    anchor = problem.anchor(like(at.state["anchor"], x), keep) if "anchor" in at.state else None
    length: Any = like(at.state["length"], x) if "length" in at.state else 1.0  # halved where the objective rose
    found: Any = like(at.state["found"], x) if "found" in at.state else None  # the step between the last two anchors
    while True:
        if phase == 0 or anchor is None:
            before, anchor = anchor, problem.anchor(x, keep)
            if before is not None:
                anchor, length, found = _guarded(before, anchor, length, step)
            now = length * step(iteration - begun) if found is None else found
            x = gradient_step(anchor.image, anchor.slope, anchor.diagonal, now, problem.upper)
        else:
            for i, k in enumerate(order(iteration, n)):
                slope = n * (problem.parts[k].gradient(x) - anchor.part(k)) + anchor.total + problem.prior_gradient(x)
                now = length * step(iteration - begun + i / n) if found is None else found
                x = gradient_step(x, slope, anchor.diagonal, now, problem.upper)
        iteration, phase = iteration + 1, (phase + 1) % (anchor_every + 1)
        state = {"begun": begun, "phase": phase, "anchor": anchor.image, "length": length}
        yield Iterate(iteration, x, state if found is None else {**state, "found": found})


def _guarded(before: _Anchor, now: _Anchor, length: Any, step: StepSize) -> tuple[_Anchor, Any, Any]:
    """Return the better anchor of each item, by what steps are multiplied from here on, and the step found, if any."""
    xp, worse = array_namespace(now.image), _is_worse(now.value, before.value)
    length = xp.where(worse, length / 2, length * xp.ones_like(now.image[..., :1, :1, :1]))
    if not isinstance(step, BarzilaiBorwein):
        return before.where(worse, now), length, None
    found = step.between(now.image - before.image, now.slope - before.slope, now.diagonal)
    return before.where(worse, now), length, xp.minimum(found, length * step.highest)


def saga(
    likelihood: Likelihood | Sequence[Likelihood],
    prior: SmoothPrior | None = None,
    start: Array | Iterate | None = None,
    n_subsets: int = 25,
    *,
    step: StepSize = StepDown(2.0, 0.7, 12.0),
    preconditioner: Preconditioner = PriorAware(),
    order: Order = cofactor,
    upper: float | None = None,
    iteration: int = 0,
) -> Iterator[Iterate]:
    """Yield an `Iterate` after each pass of SAGA, for ever; stop by leaving the loop.

        x <- P[ x - a D (n (grad f_k(x) - g_k) + sum of all g + grad U(x)) ],  then g_k = grad f_k(x before)

    The table g holds the gradient of each subset as it was met last (n images); the first pass fills it. D is renewed
    before every pass. Where the objective, added up from the subsets as they are met, is higher than in the pass
    before, the engine goes back to where the pass began, fills the table again, and halves all steps from then on.
    Arguments as in `svrg`. An iterate remembers its table; handed back as `start`, it goes on exactly.
    Source: Defazio, Bach & Lacoste-Julien 2014; Kereta et al. 2021 (in emission tomography).
    """
    at, parts = begin(likelihood, start, n_subsets, iteration)
    problem = _Problem(parts, prior, preconditioner, upper)
    return _saga(at, problem, step, order)


def _saga(at: Iterate, problem: _Problem, step: StepSize, order: Order) -> Iterator[Iterate]:
    iteration, x, n = at.iteration, at.image, len(problem.parts)
    xp, begun = array_namespace(x), int(at.state.get("begun", iteration))
    table = [like(part, x) for part in at.state.get("table", ())]
    length: Any = like(at.state["length"], x) if "length" in at.state else xp.ones_like(x[..., :1, :1, :1])
    value: Any = like(at.state["value"], problem.prior_value(x)) if table else None
    while True:
        diagonal, origin, met = problem.diagonal(x), x, problem.prior_value(x)
        if not table:
            anchor = problem.anchor(x, keep=True)
            table, met = list(anchor.parts or ()), anchor.value
            x = gradient_step(x, anchor.slope, diagonal, length * step(iteration - begun), problem.upper)
        else:
            total = sum(table)
            for i, k in enumerate(order(iteration, n)):
                of_part, fresh = problem.parts[k].value_and_gradient(x)
                slope = n * (fresh - table[k]) + total + problem.prior_gradient(x)
                met, total, table[k] = met + of_part, total + (fresh - table[k]), fresh
                x = gradient_step(x, slope, diagonal, length * step(iteration - begun + i / n), problem.upper)
            worse = _is_worse(met, value)
            if bool(xp.any(worse)):  # the table belongs to images that are given up
                x, length, table, met = xp.where(worse, origin, x), xp.where(worse, length / 2, length), [], value
        value = met
        iteration += 1
        kept = {"table": xp.stack(table), "value": value, "length": length} if table else {"length": length}
        yield Iterate(iteration, x, {"begun": begun, **kept})


def _is_worse(now: Any, before: Any) -> Array:
    """Which items' objectives have risen, as booleans (..., 1, 1, 1)."""
    return ~(now <= before + _NOISE * abs(before))[..., None, None, None]


class _Anchor(NamedTuple):
    """An image with its objective, and the gradients there: of the subsets (if kept), of the data, of everything."""

    image: Array
    value: Any
    likelihoods: list[Likelihood]
    parts: list[Array] | None
    total: Array
    slope: Array
    diagonal: Array

    def part(self, k: int) -> Array:
        return self.likelihoods[k].gradient(self.image) if self.parts is None else self.parts[k]

    def where(self, chosen: Array, other: _Anchor) -> _Anchor:
        """Return this anchor for the chosen items of a batch, (..., 1, 1, 1) booleans, and the other for the rest."""
        xp = array_namespace(self.image)
        if not bool(xp.any(chosen)):
            return other
        images = (xp.where(chosen, a, b) for a, b in zip(_images(self), _images(other), strict=True))
        parts = self.parts and [xp.where(chosen, a, b) for a, b in zip(self.parts, other.parts or (), strict=True)]
        image, total, slope, diagonal = images
        value = xp.where(chosen[..., 0, 0, 0], self.value, other.value)
        return _Anchor(image, value, self.likelihoods, parts, total, slope, diagonal)


def _images(anchor: _Anchor) -> tuple[Array, ...]:
    return anchor.image, anchor.total, anchor.slope, anchor.diagonal


@dataclass(frozen=True, eq=False)
class _Problem:
    """What the engines of this file minimise, and the rules they share."""

    parts: list[Likelihood]
    prior: SmoothPrior | None
    preconditioner: Preconditioner
    upper: float | None

    def __post_init__(self) -> None:
        if self.prior is not None and not isinstance(self.prior, SmoothPrior):
            raise TypeError(f"this engine needs a smooth prior, and {self.prior!r} is none; use spdhg or pdhg")
        if self.upper is not None and not self.upper > 0:
            raise ValueError(f"upper must be positive, got {self.upper}")

    def diagonal(self, x: Array) -> Array:
        return self.preconditioner(x, sum(part.sensitivity_like(x) for part in self.parts), self.prior)

    def prior_gradient(self, x: Array) -> Any:
        return 0.0 if self.prior is None else self.prior.gradient(x)

    def prior_value(self, x: Array) -> Any:
        zero = array_namespace(x).sum(0 * x, axis=(-3, -2, -1), dtype=array_namespace(x).float64)
        return zero if self.prior is None else self.prior.value(x)

    def anchor(self, x: Array, keep: bool) -> _Anchor:
        value = self.prior_value(x)
        kept: list[Array] | None = [] if keep else None
        total: Any = 0.0
        for part in self.parts:
            of_part, slope = part.value_and_gradient(x)
            value, total = value + of_part, total + slope
            if kept is not None:
                kept.append(slope)
        return _Anchor(x, value, self.parts, kept, total, total + self.prior_gradient(x), self.diagonal(x))
