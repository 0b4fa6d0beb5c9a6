"""How good images are: a number for each subject, and one for each lesion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from emrecon import recon

Numbers = dict[str, Any]
_TEST = 77  # the seed of the counts of test scans
_CHUNK = 10
_LEAST = 10  # voxels of a region
_MOST = 100  # batches that are kept in memory
_kept: dict[tuple[Any, ...], Any] = {}


def score(images: torch.Tensor, case: Any) -> Numbers:
    """Return the numbers of a batch of images (B, x, y, z), JSON-able.

    nrmse, ssim : a list, one for each scan.
    regions : name -> (mean in the image - in truth) / in truth, of every scan that has 10 voxels of the region, else
        None.
    lesions : of each its subject, kind, whether the guide shows it, its diameter, and the mean in it minus that in the
        ring around it, `made` in the image and `true` in truth, and `around`, the ring's mean in truth.
    decoys : the same of what only the guide shows.
    """
    x, truth = torch.as_tensor(images), torch.as_tensor(case.truth)
    return {
        "nrmse": np.asarray(recon.nrmse(x, truth, dimensions=3)).tolist(),
        "ssim": np.asarray(recon.ssim(x, truth, dimensions=3)).tolist(),
        "regions": {name: _region(x, truth, masks) for name, masks in case.regions.items()},
        "lesions": [_lesion(x, truth, lesion) for lesion in case.lesions],
        "decoys": [_lesion(x, truth, lesion) for lesion in case.decoys],
    }


def _region(x: torch.Tensor, truth: torch.Tensor, masks: Any) -> list[float | None]:
    inside = torch.as_tensor(np.asarray(masks)).to(x.dtype).expand(x.shape)
    n = inside.flatten(1).sum(1)
    made, true = ((v * inside).flatten(1).sum(1) / n.clamp(min=1e-6) for v in (x, truth))
    return [float(m / t - 1) if k >= _LEAST and t > 0 else None for m, t, k in zip(made, true, n)]


def _lesion(x: torch.Tensor, truth: torch.Tensor, lesion: Any) -> Numbers:
    inside, ring = (torch.as_tensor(np.asarray(mask)).bool() for mask in (lesion.mask, lesion.ring))
    made, true = (float(v[lesion.item][inside].mean() - v[lesion.item][ring].mean()) for v in (x, truth))
    return {
        "subject": int(lesion.item),
        "kind": lesion.kind,
        "in guide": bool(lesion.in_guide),
        "diameter": float(lesion.diameter),
        "made": made,
        "true": true,
        "around": float(truth[lesion.item][ring].mean()),
    }


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Return the numbers of several batches as those of one; subjects are counted on."""
    found: Numbers = {"nrmse": [], "ssim": [], "regions": {}, "lesions": [], "decoys": []}
    for part in parts:
        first = len(found["nrmse"])
        found["nrmse"] += part["nrmse"]
        found["ssim"] += part["ssim"]
        for name, values in part["regions"].items():
            found["regions"].setdefault(name, [None] * first).extend(values)
        for key in ("lesions", "decoys"):
            found[key] += [{**one, "subject": one["subject"] + first} for one in part[key]]
        for values in found["regions"].values():
            values.extend([None] * (len(found["nrmse"]) - len(values)))
    return found


def held_out_cases(task: Any, n: int, *, change: str | None = None) -> Iterator[Any]:
    """Yield the first n test scans in batches; their counts are the same for every method."""
    named = {} if change is None else {"change": change}
    for first in range(0, n, _CHUNK):
        which = tuple(range(first, min(first + _CHUNK, n)))
        key = (task.name, str(task.work), which, change)
        if key not in _kept:
            if len(_kept) >= _MOST:
                _kept.clear()
            _kept[key] = task.cases("test", list(which), seed=_TEST, **named)
        yield _kept[key]


def evaluated(
    reconstruct: Callable[[Any], torch.Tensor], cases: Iterator[Any], keep: int = 0
) -> tuple[Numbers, torch.Tensor | None]:
    """Return the numbers of a method on cases with its seconds for one scan, and the first `keep` images."""
    parts: list[Numbers] = []
    kept: list[torch.Tensor] = []
    seconds, n = 0.0, 0
    for case in cases:
        begun = time.perf_counter()
        images = torch.as_tensor(reconstruct(case)).detach()
        seconds, n = seconds + time.perf_counter() - begun, n + len(images)
        parts.append(score(images, case))
        kept.append(images[: max(0, keep - sum(len(made) for made in kept))])
    numbers = joined(parts)
    return numbers | {"seconds": seconds / max(n, 1)}, torch.cat(kept) if keep else None


def with_guide_of_another(case: Any) -> Any:
    """Return the case with the guides of the scans before, in a circle: each belongs to somebody else."""
    from dataclasses import replace

    return replace(case, guide=case.guide.roll(1, 0))


def contrasts(lesions: Sequence[Mapping[str, Any]], kind: str, in_guide: bool) -> np.ndarray:
    """Return (subject, contrast in the image, contrast in truth) of the lesions of a kind, (n, 3)."""
    found = [
        (one["subject"], one["made"] / one["around"], one["true"] / one["around"])
        for one in lesions
        if one["kind"] == kind and one["in guide"] == in_guide and one["around"] > 0
    ]
    return np.array(found, float).reshape(-1, 3)
