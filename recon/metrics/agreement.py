"""How far two images of one grid agree within a region, in a few numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from emrecon.projectors.core.arrays import Array, to_numpy

from .measures import nrmse, ssim


@dataclass(frozen=True)
class Agreement:
    """What `agreement_of` found, for an image f and its reference t over the voxels of a region.

    Args:
        n_voxels : of the region.
        mean, reference_mean : of f and t.
        bias : (mean f - mean t) / mean t; NaN where the mean of t is 0.
        nrmse : ``|f - t| / |t|``; NaN where t is 0 everywhere.
        ssim : the mean structural similarity; NaN where the reference has no positive value.
        correlation : Pearson's; NaN where an image has one value only.
        scale : what f is multiplied by to be closest to t, <f, t> / <f, f>; NaN where f is 0 everywhere.
        largest_difference : ``max |f - t|``, in the unit of the images.
    """

    n_voxels: int
    mean: float
    reference_mean: float
    bias: float
    nrmse: float
    ssim: float
    correlation: float
    scale: float
    largest_difference: float

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the numbers by name, None for those that are not defined: what JSON can hold."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def agreement_of(image: Array, reference: Array, mask: Array | None = None) -> Agreement:
    """Return how far an image agrees with a reference of the same shape, in float64.

    Args:
        image, reference : (x, y, z).
        mask : booleans of the same shape; default: all voxels. The structural similarity is the mean over the mask, and
            without one, that of `ssim`.

    Raises ValueError for shapes that do not fit, an empty mask, and NaN inside of it.
    """
    f, t = (np.asarray(to_numpy(x), float) for x in (image, reference))
    inside = None if mask is None else np.asarray(to_numpy(mask))
    if f.shape != t.shape or (inside is not None and inside.shape != t.shape):
        shapes = ", ".join(str(x.shape) for x in (f, t, inside) if x is not None)
        raise ValueError(f"agreement_of needs an image, a reference and a mask of one shape, got {shapes}")
    if inside is not None and (inside.dtype != bool or not inside.any()):
        raise ValueError(
            f"agreement_of needs a mask of booleans with a voxel in it, got {inside.dtype}, {inside.sum()} set"
        )
    a, b = (x.ravel() if inside is None else x[inside] for x in (f, t))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("agreement_of: an image holds NaN or infinite values inside of the region")
    return Agreement(
        n_voxels=int(a.size),
        mean=float(a.mean()),
        reference_mean=float(b.mean()),
        bias=_over(a.mean() - b.mean(), b.mean()),
        nrmse=float(nrmse(f, t, inside)) if b.any() else float("nan"),
        ssim=float(ssim(f, t, inside)) if t.max() > 0 and min(t.shape) > 0 else float("nan"),
        correlation=_over(((a - a.mean()) * (b - b.mean())).mean(), a.std() * b.std()),
        scale=_over(float(np.vdot(a, b)), float(np.vdot(a, a))),
        largest_difference=float(np.abs(a - b).max()),
    )


def _over(x: float, y: float) -> float:
    return float(x / y) if y else float("nan")
