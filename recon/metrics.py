"""Numbers that say how good an image is."""

from __future__ import annotations

from typing import Any

from emrecon.projectors._arrays import Array, array_namespace


def nrmse(image: Array, reference: Array, mask: Array | None = None) -> Any:
    """Return |image - reference| / |reference|, over the voxels of `mask` (booleans) where it is given."""
    xp = array_namespace(image)
    if tuple(image.shape) != tuple(reference.shape):
        raise ValueError(f"nrmse compares images of one shape, got {tuple(image.shape)} and {tuple(reference.shape)}")
    if mask is not None:
        image, reference = image[mask], reference[mask]
    return xp.sqrt(xp.sum((image - reference) ** 2) / xp.sum(reference**2))
