"""The scans of a batch: one by one, for methods that know one scan or guide at a time; and what they begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from emrecon.projectors import AcquisitionModel, ImageGrid
from emrecon.projectors.core.arrays import array_namespace, like
from emrecon.recon import PoissonLikelihood

from .methods import Images

SUBSETS = 6


class Single(NamedTuple):
    """A scan as a batch of one: what a reconstruction is given, and the truth."""

    likelihood: Any
    truth: Any
    guide: Any
    grid: ImageGrid


def scans_of(case: Any) -> list[Single]:
    """Return the scans of a batch, each as a batch of one.

    Raises TypeError for a likelihood of several scans that is not one of counts in bins.
    """
    n = len(case.truth)
    if n == 1:
        return [Single(case.likelihood, case.truth, case.guide, grid_of(case))]
    if not isinstance(case.likelihood, PoissonLikelihood):
        raise TypeError(
            f"a {type(case.likelihood).__name__} of {n} scans cannot be taken apart; give one scan at a time"
        )
    return [_scan(case, i) for i in range(n)]


def _scan(case: Any, i: int) -> Single:
    one, model = slice(i, i + 1), case.likelihood.model
    axes = len(model.projector.out_shape)
    factors, background, scale = (_of_item(x, one, axes) for x in (model.factors, model.background, model.scale))
    own = AcquisitionModel(_projector(model.projector, one), factors, background, scale)
    guide = None if case.guide is None else case.guide[one]
    return Single(PoissonLikelihood(case.likelihood.data[one], own), case.truth[one], guide, grid_of(case))


def _of_item(value: Any, one: slice, axes: int) -> Any:
    """An item's part of what has a leading axis of items."""
    return value[one] if getattr(value, "ndim", 0) > axes and len(value) > 1 else value


def _projector(projector: Any, one: slice) -> Any:
    mu = getattr(projector, "attenuation", None)
    return projector.with_attenuation(mu[one]) if mu is not None and mu.ndim == 4 and len(mu) > 1 else projector


def one_by_one(case: Any, run: Callable[[Single], Images]) -> Images:
    """Yield the images of a batch from runs on its single scans, which go on together."""
    return _together(run(scan) for scan in scans_of(case))


def _together(runs: Iterable[Images]) -> Images:
    for parts in zip(*runs):
        images = [image for _, image in parts]
        yield parts[0][0], array_namespace(images[0]).concat(images)


def grid_of(case: Any) -> ImageGrid:
    """Return the grid of a case's images: its own, or that of its projector."""
    grid: ImageGrid | None = getattr(case, "grid", None)
    return case.likelihood.model.projector.grid if grid is None else grid


def subsets_of(case: Any, n: int = SUBSETS) -> int:
    """Return how many subsets the views allow, at most n."""
    views = case.likelihood.model.projector.out_shape[0] if hasattr(case.likelihood, "data") else n
    return max(1, min(n, int(views)))


def scale_of(case: Any) -> Any:
    """Return the activity of a uniform image with the measured counts above background, (B, 1, 1, 1).

    At least a hundredth of that with all counts.
    """
    f, truth = case.likelihood, case.truth
    xp = array_namespace(truth)
    axes = tuple(range(-len(f.model.projector.out_shape), 0))
    y = f.counts_like(like(f.data, truth))
    counted = xp.sum(y, axis=axes)
    behind = xp.sum(xp.zeros_like(y) + like(f.model.background, truth), axis=axes)
    seen = xp.sum(f.sensitivity_like(truth), axis=(-3, -2, -1))
    counts = xp.where(counted - behind > 0.01 * counted, counted - behind, 0.01 * counted)
    return xp.where(counts > 0, counts / seen, xp.ones_like(counts))[..., None, None, None]


def start_of(case: Any) -> Any:
    """Return the uniform image that EM begins with."""
    return scale_of(case) * case.likelihood.ones_image()
