"""Engines against the clock: the solution that all of them seek, and when each is within PETRIC's thresholds of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from emrecon import recon

from .petric_scans import Replica

Start = Callable[[Replica, Sequence[recon.PoissonLikelihood]], Iterator[recon.Iterate]]


class Engine(NamedTuple):
    """An engine in the race: what it is called, and how it begins, from a scan and the likelihoods of its subsets."""

    title: str
    begin: Start


class ByMajorisation(recon.ProximablePrior):
    """The proximal map of a smooth prior over images t >= 0, by `n_steps` steps of separable parabolas above it::

        t <- max(0, t - (grad U(t) + (t - x) / step) / (c(t) + 1 / step)),   c the prior's curvature at t

    It lets PDHG and SPDHG minimise the objective of all the other engines, the relative difference prior included.
    """

    def __init__(self, prior: recon.SmoothPrior, n_steps: int = 6) -> None:
        self.prior, self.n_steps = prior, n_steps

    def value(self, x: Any) -> Any:
        """Return U(x)."""
        return self.prior.value(x)

    def prox(self, x: Any, step: Any) -> Any:
        """Return the image t that minimises U(t) + sum (t - x)^2 / (2 step)."""
        t = np.maximum(x, 0)
        for _ in range(self.n_steps):
            slope = self.prior.gradient(t) + (t - x) / step
            t = np.maximum(t - slope / (self.prior.curvature(t) + 1 / step), 0)
        return t

    def __repr__(self) -> str:
        return f"{self.prior!r} by its proximal map"


def _bsrem(decay: float) -> Start:
    return lambda r, parts: recon.bsrem(parts, r.prior, r.start, step=recon.Relaxation(1.0, decay))


ENGINES: Mapping[str, Engine] = {
    "svrg": Engine("SVRG", lambda r, parts: recon.svrg(parts, r.prior, r.start)),
    "svrg-bb": Engine(
        "SVRG, Barzilai-Borwein steps",
        lambda r, parts: recon.svrg(parts, r.prior, r.start, step=recon.BarzilaiBorwein()),
    ),
    "svrg-em": Engine(
        "SVRG, D = x / s",
        lambda r, parts: recon.svrg(parts, r.prior, r.start, preconditioner=recon.EMPreconditioner(1e-3)),
    ),
    "svrg-learned": Engine(
        "SVRG, learned kernels",
        lambda r, parts: recon.svrg(parts, r.prior, r.start, preconditioner=recon.trained_steps()),
    ),
    "saga": Engine("SAGA", lambda r, parts: recon.saga(parts, r.prior, r.start)),
    "bsrem-0.1": Engine("BSREM, 1 / (0.1 k + 1)", _bsrem(0.1)),
    "bsrem-0.3": Engine("BSREM, 1 / (0.3 k + 1)", _bsrem(0.3)),
    "bsrem-1": Engine("BSREM, 1 / (k + 1)", _bsrem(1.0)),
    "lbfgsb": Engine("L-BFGS-B", lambda r, parts: recon.lbfgsb(r.likelihood, r.prior, r.start)),
    "map-em": Engine("MAP-EM (De Pierro)", lambda r, parts: recon.map_em(r.likelihood, r.prior, r.start)),
    "osl": Engine("One step late (Green)", lambda r, parts: recon.osl(r.likelihood, r.prior, r.start)),
    "pdhg": Engine("PDHG", lambda r, parts: recon.pdhg(r.likelihood, ByMajorisation(r.prior), r.start)),
    "spdhg": Engine("SPDHG", lambda r, parts: recon.spdhg(parts, ByMajorisation(r.prior, 2), r.start)),
}
"""The engines of the library that minimise f + U, by short names."""


class Solution(NamedTuple):
    """The image that all engines seek.

    Args:
        image : float64.
        residual : of the Karush-Kuhn-Tucker conditions, against the gradient at the start, see `recon.kkt_residual`.
        change : the largest of PETRIC's errors of the image half way (before L-BFGS-B) against this one, each as a part
            of its threshold.
    """

    image: np.ndarray
    residual: recon.KKT
    change: float


def solve(scan: Replica, n_passes: int = 30, n_iterations: int = 100) -> Solution:
    """Return the minimiser of the scan's objective: SVRG in float32, then SciPy's L-BFGS-B in float64 from there."""
    near = recon.run(recon.svrg(scan.parts(), scan.prior, scan.start), n_passes)
    image = recon.lbfgsb_scipy(
        scan.likelihood, scan.prior, np.asarray(near, float), n_iterations=n_iterations, tolerance=1e-14
    )
    gradient = scan.objective.gradient
    residual = recon.kkt_residual(
        image, gradient(image), gradient(scan.start.astype(float)), seen=recon.seen_voxels(scan.likelihood)
    )
    errors = scan.rule(image).errors(recon.Iterate(0, near))
    return Solution(image, residual, max(errors.object / 0.01, errors.background / 0.01, errors.region / 0.005))


def race(scan: Replica, engine: Engine, reference: np.ndarray, n_passes: float = 40.0) -> dict[str, Any]:
    """Run an engine until PETRIC's thresholds have held for ten iterates, or the passes are used up.

    Returns passes (projections forth and back of all data, counted at the projector: anchors, line searches and looks
    at the objective are in them, and so is the pass of OSEM that made the start), seconds of the clock and of the
    processor at the first of the ten, None where they did not hold; and "curve", one row for each iterate: passes,
    seconds, processor seconds, and the errors of object, background and regions. The clock stands still while errors
    are computed.
    """
    rule, rows = scan.rule(reference), []
    parts = scan.parts()
    for part in [scan.likelihood, *parts]:
        part.value_and_gradient(scan.start)  # plans and compiled code
    recon.Objective(parts[0], scan.prior).gradient(scan.start)
    scan.prior.curvature(scan.start), scan.prior.hessian_diagonal(scan.start)
    scan.tally.halves, (wall, processor), done = 2.0, scan.start_seconds, False
    iterates = engine.begin(scan, parts)
    while scan.tally.passes < n_passes and not done:
        begun = time.perf_counter(), time.process_time()
        iterate = next(iterates)
        wall += time.perf_counter() - begun[0]
        processor += time.process_time() - begun[1]
        done = rule(iterate)
        rows.append([scan.tally.passes, wall, processor, *rule.history[-1][1:]])
    first = len(rows) - rule.n_in_row if done else None
    at = [None] * 3 if first is None else rows[first][:3]
    return {
        "passes": at[0],
        "seconds": at[1],
        "processor seconds": at[2],
        "passes run": rows[-1][0],
        "curve": [[float(f"{value:.5g}") for value in row] for row in rows],
    }
