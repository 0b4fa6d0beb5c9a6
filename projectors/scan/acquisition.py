"""Expected counts of a scan: factors times line integrals, plus a background."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.arrays import Array, PlanCache, array_namespace, is_numpy, is_torch, like, to_numpy
from ..core.operator import Projector, Shape, broadcasts_to


@dataclass(frozen=True, eq=False)
class AcquisitionModel:
    """The affine map from activity to expected counts, ybar = scale * factors * A(x) + background.

    Args:
        projector : A, from images (..., ``*image``) to (..., ``*views``).
        factors : time x calibration x normalisation (x attenuation, where the projector holds none); dimensionless, a
            number or an array that broadcasts to the data.
        background : expected scatter, randoms and other counts that do not come from A(x); counts, a number or an
            array.
        scale : one number for each item of a batch, (B, 1, ..., 1), such as the time of a frame; dimensionless. It
            is kept apart from the factors so that A'(factors) is back projected only once for all items.

    NumPy factors follow the arrays they meet; torch tensors get gradients.

    Raises ValueError for negative or non-finite factors or background, or shapes that do not fit the data.
    """

    projector: Projector
    factors: Array | float = 1.0
    background: Array | float = 0.0
    scale: Array | float = 1.0
    _plans: dict[str, PlanCache] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("factors", "background", "scale"):
            _check(getattr(self, name), name, self.projector)
            self._plans[name] = PlanCache()
        n = len(self.projector.out_shape)
        if any(size != 1 for size in tuple(getattr(self.scale, "shape", ()))[-n:]):
            raise ValueError(
                f"AcquisitionModel scale must be one number per item, (B, 1, ..., 1), got {np.shape(self.scale)}"
            )

    def __call__(self, x: Array) -> Array:
        y = self.linear(x)
        return y + self._match("background", y)

    def linear(self, x: Array) -> Array:
        """Return scale * factors * A(x), without the background."""
        y = self.projector(x)
        return self._scaled(self._match("factors", y) * y, len(self.projector.out_shape))

    def adjoint(self, y: Array) -> Array:
        """Return scale * A'(factors * y), the transpose of `linear`."""
        x = self.projector.T(self._match("factors", y) * y)
        return self._scaled(x, len(self.projector.in_shape))

    def _scaled(self, values: Array, n_axes: int) -> Array:
        """Return scale * values, for items of n_axes axes."""
        scale = self._match("scale", values)
        if isinstance(scale, float):
            return values if scale == 1 else scale * values
        batch = scale.shape[: scale.ndim - len(self.projector.out_shape)]
        given = tuple(values.shape[: values.ndim - n_axes])
        if given and not broadcasts_to(tuple(batch), given):
            raise ValueError(
                f"AcquisitionModel scale is for a batch of {tuple(batch)} items (such as frames), got {given} items"
            )
        return array_namespace(values).reshape(scale, (*batch, *[1] * n_axes)) * values

    def projected(self, x: Array) -> Array:
        """Return scale * A(x), without factors and background."""
        return self._scaled(self.projector(x), len(self.projector.out_shape))

    def background_like(self, y: Array) -> Array | float:
        """Return the background in the library, device and precision of y, or as a number."""
        return self._match("background", y)

    def subset(self, k: int, n: int) -> AcquisitionModel:
        """Return the model of views k, k + n, ..."""
        axis = -len(self.projector.out_shape)
        factors, background = (take_views(values, k, n, axis) for values in (self.factors, self.background))
        return AcquisitionModel(self.projector.subset(k, n), factors, background, self.scale)

    def _match(self, name: str, y: Array) -> Array | float:
        values = getattr(self, name)
        if isinstance(values, (int, float)):
            return float(values)  # numpy.float64 is a float too, and would make float32 arrays float64
        if is_torch(values):
            return like(values, y)
        if is_numpy(values) and is_numpy(y):
            return values if values.dtype == y.dtype else values.astype(y.dtype, copy=False)
        return self._plans[name].get(y, lambda: like(values, y))


def take_views(values: Any, k: int, n: int, axis: int) -> Any:
    """Return every n-th view of an array from view k on; numbers and arrays without a view axis stay as they are."""
    if isinstance(values, (int, float)) or values.ndim < -axis or values.shape[axis] == 1:
        return values
    return values[(..., slice(k, None, n), *[slice(None)] * (-axis - 1))]


def _check(values: Array | float, name: str, projector: Projector) -> None:
    if isinstance(values, (int, float, np.integer, np.floating)):
        if not (np.isfinite(values) and values >= 0):
            raise ValueError(f"AcquisitionModel {name} must be finite and not negative, got {values}")
        return
    if not hasattr(values, "shape"):
        raise TypeError(f"AcquisitionModel {name} must be a number or an array, got {type(values).__name__}")
    shape: Shape = tuple(values.shape)
    n = len(projector.out_shape)
    if not broadcasts_to(shape[-n:], projector.out_shape):
        raise ValueError(f"AcquisitionModel {name} of shape {shape} does not broadcast to {projector.out_shape}")
    host = to_numpy(values)
    if host.size and not (np.isfinite(host).all() and host.min() >= 0):
        raise ValueError(f"AcquisitionModel {name} must be finite and not negative everywhere")
