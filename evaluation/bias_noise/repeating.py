"""One scan again and again: a case whose items are realisations of the same object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.arrays import array_namespace, like
from emrecon.recon import PoissonLikelihood


def repeated(task: Any, which: int, n: int, *, seed: int = 0, level: float = 1.0, part: str = "test") -> Any:
    """Return a case of n scans of the same object, whose counts and estimated background are drawn anew in each.

    Args:
        task : a `Task`, or what has its `cases`.
        which : the object's number in the part.
        level : the time of the scan over the task's.

    Raises TypeError for scans that are given event by event.
    """
    cases = [task.cases(part, [which], seed=seed + i, level=level) for i in range(n)]
    first = cases[0]
    if not isinstance(first.likelihood, PoissonLikelihood):
        raise TypeError("bias and noise are those of sinograms and projections; give a task that is not event by event")
    xp = array_namespace(first.likelihood.data)
    model = first.likelihood.model
    data = xp.concat([case.likelihood.data for case in cases])
    background = xp.concat([_of_one(case.likelihood.model.background, data, model) for case in cases])
    made = AcquisitionModel(_shared(model.projector), model.factors, background, model.scale)
    return _of_many(first, PoissonLikelihood(data, made), n)


def with_truth(case: Any, truths: Any, n: int = 1, *, seed: int | None = None) -> Any:
    """Return a case of other objects in the same scan, n realisations of each: (objects x n) scans.

    Args:
        case : a case of one object, whose first item's physics and background are taken.
        truths : (objects, x, y, z).
        seed : of the counts; None for data without noise, then n is 1.
    """
    xp = array_namespace(truths)
    model = case.likelihood.model
    background = _of_one(model.background, case.likelihood.data, model)[:1]
    made = AcquisitionModel(_shared(model.projector), _first(model.factors, model), background, model.scale)
    many = xp.concat([truths[i : i + 1] for i in range(len(truths)) for _ in range(n)])
    data = made(many)
    if seed is not None:
        drawn = [np.random.default_rng((seed, i)).poisson(np.asarray(data[i : i + 1])) for i in range(len(data))]
        data = like(np.concatenate(drawn).astype(np.float32), data)
    return replace(_of_many(case, PoissonLikelihood(data, made), len(many)), truth=many)


def _of_many(case: Any, likelihood: PoissonLikelihood, n: int) -> Any:
    """The case with n copies of what belongs to its first item."""
    xp = array_namespace(case.truth)

    def again(values: Any) -> Any:
        return None if values is None else xp.concat([values[:1]] * n)

    regions = {name: again(mask) for name, mask in case.regions.items()}
    mine = [lesion for lesion in case.lesions if lesion.item == 0]
    lesions = tuple(replace(lesion, item=i) for i in range(n) for lesion in mine)
    return replace(
        case,
        likelihood=likelihood,
        truth=again(case.truth),
        guide=again(case.guide),
        mu=again(case.mu),
        regions=regions,
        lesions=lesions,
        decoys=(),
        about=tuple(case.about[:1]) * n,
        scan=None,
    )


def _shared(projector: Any) -> Any:
    """The projector with one attenuation map for all items."""
    mu = getattr(projector, "attenuation", None)
    return projector.with_attenuation(mu[0]) if mu is not None and mu.ndim == 4 else projector


def _of_one(values: Any, data: Any, model: AcquisitionModel) -> Any:
    xp, shape = array_namespace(data), (1, *model.projector.out_shape)
    if isinstance(values, (int, float)):
        return xp.full(shape, float(values), dtype=data.dtype)
    return xp.broadcast_to(values if values.ndim > len(shape) - 1 else values[None], (len(values), *shape[1:]))


def _first(values: Any, model: AcquisitionModel) -> Any:
    axes = len(model.projector.out_shape)
    return values[:1] if getattr(values, "ndim", 0) > axes else values


def masks_of(case: Any) -> dict[str, np.ndarray]:
    """Return the voxels of the object and of every region of the first item, (x, y, z)."""
    truth = np.asarray(case.truth[0])
    found = {"object": truth > 0}
    for name, mask in case.regions.items():
        own = np.asarray(mask[0])
        if own.sum() >= 8 and truth[own].mean() > 0:
            found[name] = own
    return found


def sizes_that_fit(diameters: Sequence[float], depth: float) -> list[float]:
    """Return the diameters of spheres that fit where the nearest other region is `depth` mm away."""
    return [d for d in diameters if d / 2 <= depth]
