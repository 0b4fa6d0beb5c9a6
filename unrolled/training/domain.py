"""What a scan looks like to a network: statistics that a scan and its guide have, and the ranges that training saw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from emrecon.projectors.core.arrays import divide_where
from emrecon.recon.likelihoods import Likelihood, sensitivity_like

from ..enhancement import noise_level
from ..networks.guides import IMAGE_AXES, mean_scale
from ..networks.scaling import count_scale, counts_of, of_bins, over_ranks
from .weights import Card

STATISTICS = "statistics"
"""The key of a card's `data` that holds name -> [low, high] of `scan_statistics` in training, and "n", of how many."""

_UPDATES = 12  # of EM, for the image that is looked at
_QUANTILES = 0.005, 0.995
_MARGIN = 0.25  # of the width of a range, on either side, within which a value is not worth a note
_LEAST_MARGIN = 0.1  # of the size of the values, where training saw about one value alone
_REACH = 4  # voxels by which a guide is moved to find where it fits
_TELLING = 0.2  # eta^2 below which a guide shows too little to tell where it lies
_BINS = 24  # of a guide's intensity
_OBJECT = 0.1  # of the largest values: below lies air

_UNITS = {"counts per voxel": "", "guide offset": " mm"}
_WORDS = {
    "counts per voxel": "counts per voxel that is seen",
    "background": "share of scatter and randoms in the counts",
    "noise": "standard deviation of the noise over the mean of the object",
    "object": "share of the field of view that holds activity",
    "variation": "standard deviation over mean of the activity in the object",
    "guide correlation": "correlation of guide and activity in the object",
    "guide agreement": "share of the activity's variance that the guide's intensity explains",
    "guide offset": "distance by which the guide would have to move to fit the activity best",
}


def scan_statistics(
    likelihood: Likelihood | Sequence[Likelihood],
    guide: Tensor | None = None,
    *,
    voxel_size: Sequence[float] = (1.0, 1.0, 1.0),
) -> dict[str, Tensor]:
    """Return what can be measured of each scan without knowing the truth, name -> (...), float64.

    Looked at is the image x of 12 updates of MLEM from a uniform image::

        counts per voxel    all counts over the number of voxels that are seen
        background          expected scatter and randoms over all counts
        object              share of the seen voxels whose x is above a tenth of a high value (its 99th percentile)
        variation           standard deviation of x over its mean, in the object
        guide correlation   Pearson's, of x and guide, in the object
        guide agreement     eta^2 = var( E[x | guide] ) / var( x ) over the seen voxels, by 24 bins of the guide
        guide offset        where eta^2 of the guide moved along one axis after the other is largest, by a parabola
                            through the best of +-4 voxels and its neighbours; its length in mm, and 0 where eta^2 stays
                            below 0.2, so that the guide does not tell

    A guide that does not belong to the scan or is not aligned with it lowers eta^2 and has an offset; another tracer
    changes correlation and variation.

    Args:
        likelihood : of counts in bins, torch, batched or not; a list is one of subsets.
        guide : (..., x, y, z), or (..., n, x, y, z) for several, whose names then begin with "guide 1", "guide 2", ...
        voxel_size : mm; offsets have its unit.

    Raises TypeError for likelihoods without counts in bins, such as list-mode.

    Source: eta^2 is the correlation ratio of Roche et al. 1998, as a measure of registration.
    """
    parts = list(likelihood) if isinstance(likelihood, Sequence) else [likelihood]
    with torch.no_grad():
        counts, background = _counted(parts)
        x, seen = _image(parts)
        high = _high(x, seen)
        body = seen & (x > _OBJECT * high)
        n = seen.sum(IMAGE_AXES).clamp(min=1)
        found = {
            "counts per voxel": counts / n,
            "background": background / counts.clamp(min=1),
            "object": body.sum(IMAGE_AXES) / n,
            "variation": _spread(x, body) / _mean(x, body)[..., 0, 0, 0].clamp(min=1e-30),
        }
        for name, one in _guides(guide, x):
            found |= {f"{name} {what}": value for what, value in _of_guide(x, one, seen, body, voxel_size).items()}
    return {name: value.double() for name, value in found.items()}


def image_statistics(
    image: Tensor, guide: Tensor | None = None, *, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)
) -> dict[str, Tensor]:
    """Return what can be measured of each image and its guide, name -> (...), float64, as `scan_statistics` of scans::

        noise       `noise_level` over the mean of the object: it tells the counts
        object      share of the voxels above a tenth of a high value (the 99th percentile)
        variation   standard deviation over mean, in the object
        guide ...   as of `scan_statistics`

    They are the same at every scale of the image.

    Args:
        image : (..., x, y, z).
        guide : (..., x, y, z), or (..., n, x, y, z) for several.
        voxel_size : mm; offsets have its unit.
    """
    with torch.no_grad():
        everywhere = torch.ones_like(image, dtype=torch.bool)
        high = _high(image, everywhere)
        body = image > _OBJECT * high
        n = math.prod(image.shape[-3:])
        mean = mean_scale(image)[..., 0, 0, 0].clamp(min=1e-30)
        found = {
            "noise": noise_level(image)[..., 0, 0, 0] / mean,
            "object": body.sum(IMAGE_AXES) / n,
            "variation": _spread(image, body) / _mean(image, body)[..., 0, 0, 0].clamp(min=1e-30),
        }
        for name, one in _guides(guide, image):
            of_guide = _of_guide(image, one, everywhere, body, voxel_size)
            found |= {f"{name} {what}": value for what, value in of_guide.items()}
    return {name: value.double() for name, value in found.items()}


def statistics_range(statistics: Iterable[Mapping[str, Tensor]]) -> dict[str, object]:
    """Return what a card keeps of the `scan_statistics` of many scans: their 0.5 % and 99.5 % quantiles, and "n"."""
    parts = list(statistics)
    if not parts:
        raise ValueError("statistics_range needs the statistics of at least one scan")
    joined = {name: torch.cat([part[name].reshape(-1) for part in parts]).cpu().numpy() for name in parts[0]}
    kept: dict[str, object] = {
        name: [float(f"{edge:.4g}") for edge in np.quantile(values, _QUANTILES)] for name, values in joined.items()
    }
    return {**kept, "n": len(next(iter(joined.values())))}


def scan_notes(card: Card, statistics: Mapping[str, Tensor]) -> list[str]:
    """Return a note for every statistic of a scan that lies outside of the range of the card's training.

    Outside is beyond a quarter of the range's width on either side. A card without ranges gives no notes.
    Of several items the one that is farthest outside is named.
    """
    ranges = card.data.get(STATISTICS) if isinstance(card.data, dict) else None
    if not isinstance(ranges, dict):
        return []
    notes = (_note(name, values, ranges.get(name)) for name, values in statistics.items())
    return [note for note in notes if note is not None]


def _note(name: str, values: Tensor, known: object) -> str | None:
    if not (isinstance(known, list) and len(known) == 2):
        return None
    low, high = float(known[0]), float(known[1])
    margin = max(_MARGIN * (high - low), _LEAST_MARGIN * max(abs(low), abs(high)))
    beyond = torch.maximum(low - margin - values, values - high - margin)
    if not bool((beyond > 0).any()):
        return None
    value = float(values.reshape(-1)[int(beyond.argmax())])
    key = name if name in _WORDS else " ".join(("guide", name.rpartition(" ")[2]))
    unit = _UNITS.get(key, "")
    which = "" if name == key else f" ({name.rpartition(' ')[0]})"
    return (
        f"outside of what the network was trained on: the {_WORDS[key]}{which} is {value:.3g}{unit}, and was "
        f"{low:.3g} to {high:.3g}{unit} in training"
    )


# ---- measuring -------------------------------------------------------------------------------------------------------


def _counted(parts: Sequence[Likelihood]) -> tuple[Tensor, Tensor]:
    """All counts and the background of each item."""
    counts = background = torch.zeros(())
    for part in parts:
        known = of_bins(part, "scan_statistics", "single events have no background of bins")
        y = torch.as_tensor(counts_of(known))
        axes = tuple(range(-len(known.model.projector.out_shape), 0))
        counts = counts + over_ranks(part, y.double().sum(axes))
        own = torch.as_tensor(known.model.background).double().expand(y.shape).sum(axes)
        background = background + over_ranks(part, own)
    return counts, background


def _image(parts: Sequence[Likelihood]) -> tuple[Tensor, Tensor]:
    """The image after some updates of MLEM over all parts, and which voxels are seen."""
    unit = torch.as_tensor(count_scale(parts[0]))
    s = torch.stack([torch.as_tensor(sensitivity_like(part, unit)) for part in parts]).sum(0)
    seen = (s > 0).expand(*unit.shape[:-3], *s.shape[-3:])
    x = unit * seen
    for _ in range(_UPDATES):
        gradient = torch.stack([part.gradient(x) for part in parts]).sum(0)
        x = (x - divide_where(x, s, 0.0) * gradient).clamp(min=0)
    return x, seen


def _guides(guide: Tensor | None, x: Tensor) -> list[tuple[str, Tensor]]:
    """Names and images of the guides, each (..., x, y, z)."""
    if guide is None:
        return []
    given = torch.as_tensor(guide).to(x)
    channels = given.unbind(-4) if given.ndim > x.ndim else (given,)
    names = ["guide"] if len(channels) == 1 else [f"guide {k}" for k in range(1, len(channels) + 1)]
    return [(name, one.expand(x.shape)) for name, one in zip(names, channels)]


def _of_guide(x: Tensor, guide: Tensor, seen: Tensor, body: Tensor, voxel_size: Sequence[float]) -> dict[str, Tensor]:
    """Correlation, agreement and offset of a guide."""
    dx, dg = (v - _mean(v, body) for v in (x, guide))
    both, own, its = ((a * b * body).sum(IMAGE_AXES) for a, b in ((dx, dg), (dx, dx), (dg, dg)))
    bins = (guide / _high(guide, seen).clamp(min=1e-30) * (_BINS - 1)).clamp(0, _BINS - 1).round().long()
    offset, agreement = torch.zeros_like(own), _explained(x, bins, seen)
    best = agreement
    for axis, size in zip(IMAGE_AXES, voxel_size):
        if x.shape[axis] > 2 * _REACH:
            move, value = _peak(x, bins, seen, axis)
            offset, best = offset + (size * move) ** 2, torch.maximum(best, value)
    return {
        "correlation": divide_where(both, (own * its).sqrt()),
        "agreement": agreement,
        "offset": torch.where(best > _TELLING, offset.sqrt(), torch.zeros_like(offset)),
    }


def _peak(x: Tensor, bins: Tensor, seen: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """By how many voxels the guide must move along an axis to explain most, and how much that is."""
    moves = range(-_REACH, _REACH + 1)
    values = torch.stack([_explained(x, bins.roll(move, axis), seen) for move in moves], -1)
    best = values.argmax(-1, keepdim=True).clamp(1, 2 * _REACH - 1)
    left, middle, right = (values.gather(-1, best + k)[..., 0] for k in (-1, 0, 1))
    bend = (left - 2 * middle + right).clamp(max=-1e-12)
    return best[..., 0] - _REACH + (0.5 * (left - right) / bend).clamp(-1, 1), values.amax(-1)


def _explained(x: Tensor, bins: Tensor, seen: Tensor) -> Tensor:
    """The correlation ratio: the share of the variance of x that its means over the bins of the guide have."""
    flat, which, inside = (v.flatten(-3) for v in (x.double(), bins, seen.double()))
    empty = torch.zeros((*flat.shape[:-1], _BINS), dtype=flat.dtype, device=flat.device)
    n, sums = empty.scatter_add(-1, which, inside), empty.scatter_add(-1, which, flat * inside)
    total, number = sums.sum(-1), n.sum(-1).clamp(min=1)
    between = divide_where(sums**2, n).sum(-1) - total**2 / number
    whole = (flat**2 * inside).sum(-1) - total**2 / number
    return divide_where(between, whole)


def _high(x: Tensor, where: Tensor) -> Tensor:
    """The 99th percentile of each item, (..., 1, 1, 1), that one hot voxel does not move."""
    values = torch.where(where, x, torch.zeros_like(x)).flatten(-3)
    k = max(1, round(0.01 * values.shape[-1]))
    return values.topk(k, -1).values[..., -1][..., None, None, None]


def _mean(x: Tensor, where: Tensor) -> Tensor:
    return (x * where).sum(IMAGE_AXES, keepdim=True) / where.sum(IMAGE_AXES, keepdim=True).clamp(min=1)


def _spread(x: Tensor, where: Tensor) -> Tensor:
    n = where.sum(IMAGE_AXES).clamp(min=1)
    return (((x - _mean(x, where)) ** 2 * where).sum(IMAGE_AXES) / n).sqrt()
