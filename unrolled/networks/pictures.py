"""Data as pictures, (N, channels, views, bins[, rows]): views that go on after the last, and other numbers of them."""

from __future__ import annotations

import torch
from torch import Tensor


def wrapped(folded: Tensor, n: int, *, half_turn: bool = False, before: bool = False) -> Tensor:
    """Return data (N, channels, views, bins[, rows]) with n more views, since the turn goes on::

        after a whole turn     view V + k  is view k
        after half a turn      view V + k  is view k with its bins in reverse (position -s)

    Args:
        half_turn : of PET and parallel beams; rows must be direct planes, which are their own mirror image.
        before : n views before the first, too.

    Reversed bins of an even number lack the position of the first; it repeats its neighbour.
    """
    views = folded.shape[2]
    first, last = (-n if before else 0), views + n
    index = torch.arange(first, last, device=folded.device)
    data = folded.index_select(2, index % views)
    if not half_turn:
        return data
    turned = (torch.div(index, views, rounding_mode="floor") % 2 == 1).reshape(-1, *[1] * (folded.ndim - 3))
    return torch.where(turned, reversed_bins(data), data)


def reversed_bins(folded: Tensor) -> Tensor:
    """Return data (N, channels, views, bins, ...) with bin k where -k was; bin n // 2 is the middle."""
    flipped = folded.flip(3)
    if folded.shape[3] % 2:
        return flipped
    return torch.cat([flipped[:, :, :, :1], flipped[:, :, :, :-1]], 3)


def resampled_views(folded: Tensor, n: int, *, half_turn: bool = False) -> Tensor:
    """Return data (N, channels, views, bins, ...) at n equal steps of the same turn, interpolated linearly.

    Views are intensities of the same scale before and after; the last goes over into the first.
    """
    views = folded.shape[2]
    if n == views:
        return folded
    data = wrapped(folded, 1, half_turn=half_turn)
    place = torch.arange(n, device=folded.device) * (views / n)
    low = place.floor().long()
    weight = (place - low).to(folded.dtype).reshape(-1, *[1] * (folded.ndim - 3))
    return (1 - weight) * data.index_select(2, low) + weight * data.index_select(2, low + 1)


def centred_bins(folded: Tensor, n: int) -> Tensor:
    """Return data (N, channels, views, bins, ...) with n bins: zeros are added, or bins left out, at both ends."""
    bins = folded.shape[3]
    before = n // 2 - bins // 2
    after = n - bins - before
    pad = [0, 0] * (folded.ndim - 4) + [before, after]
    return torch.nn.functional.pad(folded, pad)
