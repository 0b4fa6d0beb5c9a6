"""From a problem to an image in one call: a method by name, its prior, guide and order, and how long it runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy
from emrecon.projectors.core.progress import stage

from .engines.em import Iterate
from .engines.joint import JointOptions
from .engines.schedules import Order
from .kernels.matrix import KernelOperator
from .methods import JointEngine, Method, MethodEngine, Prior, choose, prepare
from .problem.problem import ArgumentError, Problem, on_grid
from .running import Callback, run


def reconstruct(
    problem: Problem,
    method: str = "osem",
    iterations: int = 4,
    *,
    prior: str | Prior | None = None,
    guide: Array | None = None,
    order: str | Order | None = None,
    neighbours: int | None = None,
    kappa: bool = False,
    kernel: str | KernelOperator | None = None,
    start: Array | Iterate | None = None,
    joint: JointOptions | None = None,
    callbacks: Sequence[Callback] = (),
) -> Array:
    """Return the image that a method makes of a problem: the minimum of f(x) + U(x) over x >= 0, or on the way there::

        image = reconstruct(spect_problem(scan, mu=mu), "svrg", iterations=12, prior="rdp:0.5,2")

    Args:
        problem : of `spect_problem` or `pet_problem`; its parts are the subsets.
        method : a name in `METHODS`, "osem" "map-em" "bsrem" "svrg" "saga" "osl" "lbfgsb" "spdhg" "pdhg" "kem", or
            "mlaa" or "mlacf", which find the attenuation too; case and hyphens do not matter. All but OSEM and these
            two start from one pass of OSEM.
        iterations : passes over all data, in all.
        prior : "NAME:BETA,..." with a name in `PRIORS`, such as "rdp:BETA,GAMMA" or "tv:BETA", or a prior times its
            weight, such as `0.1 * RelativeDifference(gamma=2, epsilon=0.01)`. Without the last number an epsilon of rdp
            is 1e-3 of the maximum after the first pass.
        guide : image on the grid, (x, y, z), which the priors bowsher, dtv and non-local and the method kem follow.
        order : of the subsets: "sequential", "staggered", "cofactor", "random", "random:SEED", or an `Order` (default:
            the method's own).
        neighbours : of priors on pairs, 6, 18 or 26 (default).
        kappa : those priors are as strong as the data are, for even resolution (`spatial_weights`).
        kernel : of kem: "K,WINDOW,SIGMA" (default "48,7,1": neighbours, box in voxels, how alike), or a
            `KernelOperator`, which needs no guide.
        start : an image instead of the problem's start, or an `Iterate` to go on from, whose passes count.
        joint : what `mlaa` and `mlacf` are told besides, such as what fixes the scale; see `JointOptions`. The map is
            in the state of the iterates that callbacks see; where the problem has a map, it is the start.
        callbacks : called with every iterate, such as `ProgressBar`, `Log`, `Checkpoint` and stopping rules; see `run`.

    Returns (x, y, z), or (B, x, y, z) for a batch: NumPy, unless the problem's data are of another library.

    Raises ArgumentError (a ValueError; its `argument` is the name), with the nearest known name, for unknown methods,
    priors and orders and for arguments that do not go together; ValueError where counts were measured but none are
    expected.

    To keep the loop in your own hands, take `problem.parts`: `for it in osem(problem.parts, problem.start): ...`.
    """
    if iterations < 1:
        raise ArgumentError("iterations", f"iterations must be at least 1, got {iterations}")
    chosen = choose(
        method,
        prior,
        order=order,
        n_guides=0 if guide is None else 1,
        neighbours=neighbours,
        kappa=kappa,
        kernel=kernel,
    )
    with stage("beginning"):
        engine = _engine(chosen, problem, guide, start, joint)
    if engine.at.iteration >= iterations:
        return engine.at.image
    return run(engine.iterates(), iterations - engine.at.iteration, *callbacks)


def _engine(
    method: Method,
    problem: Problem,
    guide: Array | None,
    start: Array | Iterate | None,
    joint: JointOptions | None,
) -> MethodEngine | JointEngine:
    shown = None if guide is None else to_numpy(on_grid("guide", guide, problem.grid)).astype(np.float32)
    if shown is not None and not np.isfinite(shown).all():
        raise ArgumentError("guide", "guide holds NaN or infinite values")
    if isinstance(start, Iterate):
        return prepare(method, problem, shown, at=start, joint=joint)
    return prepare(method, problem, shown, start, joint=joint)
