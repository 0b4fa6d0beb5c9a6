"""Images beside the image: guides such as MR or CT, whose unit is taken away before a network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from emrecon.projectors.core.arrays import Array, as_real, divide_where, is_torch, to_numpy

IMAGE_AXES = (-3, -2, -1)
"""The axes x, y, z of an image; those before them are items."""

GuideScale = Literal["max", "mean", "none"]
"""How a network takes the unit of its guides away, see `normalised_guide`; "none" leaves them as they are."""

SCALES: tuple[GuideScale, ...] = ("max", "mean", "none")

_OBJECT = 0.1  # voxels below this fraction of the mean are air


def mean_scale(x: Tensor) -> Tensor:
    """Return the mean of ``|x|`` over the object: over voxels where it is above a tenth of the mean of all voxels.

    Args:
        x : (..., x, y, z) -> (..., 1, 1, 1). 0 for an image of zeros. The air around the object hardly changes it.
    """
    size = x.abs()
    seen = size > _OBJECT * size.mean(IMAGE_AXES, keepdim=True)
    return (size * seen).sum(IMAGE_AXES, keepdim=True) / seen.sum(IMAGE_AXES, keepdim=True).clamp(min=1)


def normalised_guide(guide: Tensor, by: str = "max") -> Tensor:
    """Return a guide (..., x, y, z) without units, each image by itself.

    Args:
        by : "max", 5 * guide / max ``|guide|``, as FBSEM-Net has it; "mean", guide / `mean_scale`. Zeros stay zeros.

    Networks do this themselves (`guide_scale`), and twice is as good as once.

    Raises ValueError for another choice.
    """
    if by not in ("max", "mean"):
        raise ValueError(f'normalised_guide: by must be "max" or "mean", got {by!r}')
    scale = guide.abs().amax(IMAGE_AXES, keepdim=True) / 5 if by == "max" else mean_scale(guide)
    return divide_where(guide, scale)


def guide_channels(guide: Array | None, x: Tensor, n: int, who: str, scale: GuideScale = "max") -> Tensor | None:
    """Return n guides of images x as channels without unit, (..., n, x, y, z) with the batch axes of x; None for n = 0.

    Args:
        guide : (..., x, y, z) for one, or (..., n, x, y, z), of any array library; without the batch axes of x it
            serves all items.
        who : the network, for messages.

    Raises TypeError for what is not an array, ValueError for a guide that is missing, not expected, does not fit, or
    holds NaN or infinite values.
    """
    if guide is None and not n:
        return None
    if guide is None:
        raise ValueError(f"{who} was built for {n} guide channels; pass guide=...")
    if not n:
        raise ValueError(f"{who} takes no guide; build it (and the body) with guide_channels")
    if not hasattr(guide, "shape") or not hasattr(guide, "dtype"):
        raise TypeError(f"{who}: a guide must be an array or a tensor, got {type(guide).__name__}")
    given = guide if is_torch(guide) else torch.from_numpy(np.array(as_real(to_numpy(guide))))
    channels = given if n > 1 or given.ndim == x.ndim + 1 else given.unsqueeze(-4)
    wanted = (*x.shape[:-3], n, *x.shape[-3:])
    if not _fits(channels.shape, wanted):
        axes = "(..., x, y, z)" if n == 1 else f"(..., {n}, x, y, z)"
        raise ValueError(
            f"{who}: a guide of {tuple(given.shape)} does not fit an image of {tuple(x.shape)}; it must be {axes}, on "
            "the grid of the image"
        )
    channels = channels.to(device=x.device, dtype=x.dtype)
    if not bool(channels.isfinite().all()):
        raise ValueError(f"{who}: the guide holds NaN or infinite values")
    return (channels if scale == "none" else normalised_guide(channels, scale)).expand(wanted)


def check_scale(scale: str, who: str) -> None:
    """Raise ValueError unless `scale` is one of `SCALES`."""
    if scale not in SCALES:
        raise ValueError(f"{who}: guide_scale must be one of {', '.join(SCALES)}, got {scale!r}")


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether (..., n, x, y, z) broadcasts to the wanted shape along the axes before n."""
    same = tuple(shape[-4:]) == tuple(wanted[-4:]) and len(shape) <= len(wanted)
    return same and all(n in (1, m) for n, m in zip(shape[:-4][::-1], wanted[:-4][::-1]))
