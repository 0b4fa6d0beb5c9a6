"""Rules that end a run: close enough to a reference, or to the conditions of an optimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from emrecon.projectors.core.arrays import Array, array_namespace, like, require_array, to_numpy

from .engines.em import Iterate
from .metrics.regions import RegionOfInterest, as_region, double


class PetricErrors(NamedTuple):
    """How far an iterate is from the reference, all relative to the reference's mean in the background.

    Args:
        object, background : root mean square errors.
        region : the largest absolute error of a region's mean.
    """

    iteration: int
    object: float
    background: float
    region: float


@dataclass(frozen=True, eq=False)
class PetricRule:
    """Stop when the image has been close to a reference for several evaluations in a row, as the PETRIC challenge does.

    With b the mean of the reference in the background, an iterate is within the thresholds if::

        RMSE over the object      <= object_tolerance x b
        RMSE over the background  <= background_tolerance x b
        |mean of a region - that of the reference| <= region_tolerance x b,  for every region

    Args:
        reference : (..., x, y, z), the converged image; of a batch the largest error of its items counts.
        object_mask, background_mask, regions : `RegionOfInterest`, or booleans or parts of voxels (x, y, z); there may
            be no regions.
        n_in_row : evaluations within the thresholds that end the run.

    `history` holds the errors of every iterate seen, so a rule serves one run; NaN is beyond all thresholds.

    Raises ValueError for tolerances that are not positive, shapes that do not fit, a background without activity, and a
    reference with NaN.
    """

    reference: Array
    object_mask: RegionOfInterest | Array
    background_mask: RegionOfInterest | Array
    regions: Sequence[RegionOfInterest | Array] = ()
    object_tolerance: float = 0.01
    background_tolerance: float = 0.01
    region_tolerance: float = 0.005
    n_in_row: int = 10
    history: list[PetricErrors] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        require_array(self.reference, "PetricRule reference")
        for name in ("object_tolerance", "background_tolerance", "region_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"PetricRule {name} must be positive, got {getattr(self, name)}")
        if self.n_in_row < 1 or self.n_in_row != int(self.n_in_row):
            raise ValueError(f"PetricRule n_in_row must be a whole number, at least 1, got {self.n_in_row}")
        regions = tuple(as_region(region, f"region {k}") for k, region in enumerate(self.regions))
        object.__setattr__(self, "regions", regions)
        object.__setattr__(self, "object_mask", as_region(self.object_mask, "object"))
        object.__setattr__(self, "background_mask", as_region(self.background_mask, "background"))
        level = self.background_mask.mean(self.reference)
        if not bool(array_namespace(level).all(level > 0)):
            raise ValueError(f"PetricRule: the reference's mean in the background is {level}, and must be positive")
        if not self.is_within(self.errors(Iterate(0, self.reference))):  # 0, or NaN; it checks the shapes, too
            raise ValueError("PetricRule: the reference holds NaN or infinite values")

    def __call__(self, iterate: Iterate) -> bool:
        self.history.append(self.errors(iterate))
        row = self.history[-self.n_in_row :]
        return len(row) == self.n_in_row and all(self.is_within(errors) for errors in row)

    def errors(self, iterate: Iterate) -> PetricErrors:
        """Return the errors of one iterate."""
        if tuple(iterate.image.shape) != tuple(self.reference.shape):
            raise ValueError(
                f"PetricRule: an image of shape {tuple(iterate.image.shape)} does not fit a reference of "
                f"{tuple(self.reference.shape)}"
            )
        change = double(iterate.image)
        change = change - like(double(self.reference), change)
        level = like(self.background_mask.mean(self.reference), change)
        squares = [_largest(region.mean(change**2) / level**2) ** 0.5 for region in self._masks]
        means = [_largest(abs(region.mean(change)) / level) for region in self.regions]
        return PetricErrors(iterate.iteration, squares[0], squares[1], float(np.max([0.0, *means])))  # NaN stays

    def is_within(self, errors: PetricErrors) -> bool:
        """Return whether errors are within all thresholds."""
        return (
            errors.object <= self.object_tolerance
            and errors.background <= self.background_tolerance
            and errors.region <= self.region_tolerance
        )

    @property
    def reached(self) -> int | None:
        """The iteration at which the thresholds were met for good: the first of the last row of iterates within them.

        None where the last iterate is not within them.
        """
        first = None
        for errors in reversed(self.history):
            if not self.is_within(errors):
                break
            first = errors.iteration
        return first

    @property
    def _masks(self) -> tuple[RegionOfInterest | Array, RegionOfInterest | Array]:
        return self.object_mask, self.background_mask


class KKT(NamedTuple):
    """How far an image is from the optimum of an objective among images that are not negative; both 0 at the optimum.

    Args:
        product : ``|x g|``.
        negative : ``|min(g, 0)|`` over the voxels with x = 0, where growing must not help.
    """

    product: float
    negative: float


def kkt_residual(x: Array, gradient: Array, start_gradient: Array | None = None, *, seen: Array | None = None) -> KKT:
    """Return the residuals of the Karush-Kuhn-Tucker conditions x g = 0, and g >= 0 where x = 0::

        product = |x g| / (max(x) |g_0|),    negative = |min(g, 0) where x = 0| / |g_0|

    Args:
        x : an image >= 0.
        gradient : g, that of the objective to be minimised, at x.
        start_gradient : g_0, that at the start of the algorithm, which makes both numbers free of units; without it
            they are ``|x g|`` and ``|min(g, 0) where x = 0|``. Norms are Euclidean, over all voxels; a batch is one
            image.
        seen : the voxels that count, as `seen_voxels` returns them (default: all). Those that nothing sees stay at 0
            although a prior would have them grow.

    Raises ValueError for shapes that differ, negative values of x, NaN, and a start that is the optimum already.
    """
    xp = require_array(x, "kkt_residual")
    g = like(gradient, x)
    g_0 = None if start_gradient is None else like(start_gradient, x)
    if seen is not None:
        counted = like(seen, x)
        x, g, g_0 = counted * x, counted * g, None if g_0 is None else counted * g_0
    for other in (g, g_0):
        if other is not None and tuple(other.shape) != tuple(x.shape):
            raise ValueError(f"kkt_residual: a gradient of shape {tuple(other.shape)} does not fit {tuple(x.shape)}")
    if not bool(xp.all(x >= 0)):
        raise ValueError("kkt_residual: the image holds negative values or NaN; x >= 0 is one of the conditions")
    for name, values in (("gradient", g), ("gradient at the start", g_0)):
        if values is not None and not bool(xp.all(xp.isfinite(values))):
            raise ValueError(f"kkt_residual: the {name} holds NaN or infinite values")
    downhill = xp.where((x == 0) & (g < 0), g, xp.zeros_like(g))
    if g_0 is None:
        return KKT(_norm(x * g), _norm(downhill))
    scale = _norm(g_0)
    if not 0 < scale < float("inf"):
        raise ValueError(f"kkt_residual: the gradient at the start has norm {scale:g}; is it the optimum already?")
    largest = _largest(x)
    return KKT(_norm(x / largest * g) / scale if largest else 0.0, _norm(downhill) / scale)


class KKTErrors(NamedTuple):
    """The residuals of an iterate, as `kkt_residual` gives them."""

    iteration: int
    product: float
    negative: float


@dataclass(frozen=True, eq=False)
class KKTRule:
    """Stop when both residuals of `kkt_residual`, against the gradient at the start, are at most `tolerance`.

    Args:
        gradient : f(image), the gradient of the objective; a pass over the data for every iterate.
        start : the image the algorithm starts from; default: the first iterate seen.
        seen : the voxels that count, as for `kkt_residual`.

    `history` holds the residuals of every iterate seen, so a rule serves one run.

    Raises ValueError for a tolerance that is not positive.
    """

    gradient: Callable[[Array], Array]
    tolerance: float
    start: Array | None = None
    seen: Array | None = field(default=None, kw_only=True)
    history: list[KKTErrors] = field(default_factory=list, init=False, repr=False)
    _start_gradient: list[Array] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"KKTRule tolerance must be positive, got {self.tolerance}")

    def __call__(self, iterate: Iterate) -> bool:
        g = self.gradient(iterate.image)
        if not self._start_gradient:
            self._start_gradient.append(g if self.start is None else self.gradient(self.start))
        scale = _norm(self._start_gradient[0])
        # started at the optimum itself there is nothing to compare with, and nothing to do
        if scale == 0 == _norm(g):
            residual = KKT(0.0, 0.0)
        else:
            residual = kkt_residual(iterate.image, g, self._start_gradient[0], seen=self.seen)
        self.history.append(KKTErrors(iterate.iteration, *residual))
        return max(residual) <= self.tolerance


def _norm(x: Array) -> float:
    xp = array_namespace(x)
    return float(to_numpy(xp.sqrt(xp.sum(double(x) ** 2))))


def _largest(x: Array) -> float:
    return float(np.max(to_numpy(x)))
