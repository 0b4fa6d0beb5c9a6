"""How good images are: numbers for each subject and each lesion, and bias and deviation over realisations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors.core.arrays import to_numpy

from .sections import Interval
from .statistics import bootstrap_interval

Numbers = dict[str, Any]
MEASURES = ("nrmse", "nrmse_inside", "ssim", "ssim_inside", "psnr", "data_fit")
"""What `scores` gives for each subject."""
_INSIDE = 0.05  # of the largest value: what is taken for the object where a case does not say
_FLAT = 0.02  # contrast below which the truth has no lesion


def scores(images: Any, case: Any) -> Numbers:
    """Return the numbers of a batch of images (B, x, y, z), as JSON holds them.

    Args:
        case : a `Case`; of its fields `truth` and `likelihood` are needed.

    Returns these by name:

    nrmse, ssim, psnr : one for each scan, over the image; nrmse_inside, ssim_inside : over the object.
    data_fit : the deviance of the counts over its expectation (`unrolled.data_fit`); None for lists of events.
    regions : name -> (mean of the image - of the truth) / of the truth; None where a scan has not the region.
    lesions : of each its subject, kind, whether the guide shows it, diameter, and `made` and `true`, the mean in it
    less that in the ring around it, in the image and in the truth, and `around`, the true mean of the ring; the
    kind "none" is what the guide alone shows.
    """
    x, truth = (np.asarray(to_numpy(v), float) for v in (images, case.truth))
    inside = object_of(case)
    return {
        "nrmse": np.asarray(recon.nrmse(x, truth, dimensions=3)).tolist(),
        "nrmse_inside": [float(recon.nrmse(a, t, m)) for a, t, m in zip(x, truth, inside)],
        "ssim": np.asarray(recon.ssim(x, truth, dimensions=3)).tolist(),
        "ssim_inside": [float(recon.ssim(a, t, m)) for a, t, m in zip(x, truth, inside)],
        "psnr": np.asarray(recon.psnr(x, truth, dimensions=3)).tolist(),
        "data_fit": _data_fit(images, case.likelihood),
        "regions": {name: _region(x, truth, masks) for name, masks in (getattr(case, "regions", None) or {}).items()},
        "lesions": [
            _lesion(x, truth, lesion) for lesion in (*getattr(case, "lesions", ()), *getattr(case, "decoys", ()))
        ],
    }


def object_of(case: Any) -> np.ndarray:
    """Return the voxels of the object, booleans (B, x, y, z): those with more than 5 % of the largest true value."""
    truth = np.asarray(to_numpy(case.truth))
    inside: np.ndarray = truth > _INSIDE * truth.max((1, 2, 3), keepdims=True)
    return inside


def _data_fit(images: Any, likelihood: Any) -> list[float | None]:
    from emrecon.unrolled import data_fit

    try:
        return [float(v) for v in data_fit(images, likelihood).reshape(-1)]
    except TypeError:  # events
        return [None] * len(images)


def _region(x: np.ndarray, truth: np.ndarray, masks: Any) -> list[float | None]:
    weights = np.broadcast_to(np.asarray(to_numpy(masks), float), x.shape)
    n = weights.sum((1, 2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        made, true = ((v * weights).sum((1, 2, 3)) / n for v in (x, truth))
        bias = made / true - 1
    return [float(b) if k > 0.5 and math.isfinite(b) else None for b, k in zip(bias, n)]


def _lesion(x: np.ndarray, truth: np.ndarray, lesion: Any) -> Numbers:
    inside, ring = (np.asarray(to_numpy(mask)).astype(bool) for mask in (lesion.mask, lesion.ring))
    made, true = (float(v[lesion.item][inside].mean() - v[lesion.item][ring].mean()) for v in (x, truth))
    return {
        "subject": int(lesion.item),
        "kind": str(lesion.kind),
        "in_guide": bool(lesion.in_guide),
        "diameter": float(lesion.diameter),
        "made": made,
        "true": true,
        "around": float(truth[lesion.item][ring].mean()),
    }


def joined(parts: Sequence[Numbers]) -> Numbers:
    """Return the numbers of several batches as those of one; subjects are counted on."""
    found: Numbers = {name: [] for name in (*MEASURES, "lesions")} | {"regions": {}}
    for part in parts:
        first = len(found["nrmse"])
        for name in MEASURES:
            found[name] += part[name]
        found["lesions"] += [{**one, "subject": one["subject"] + first} for one in part["lesions"]]
        for name in {**found["regions"], **part["regions"]}:
            so_far = found["regions"].setdefault(name, [None] * first)
            so_far += part["regions"].get(name, [None] * len(part["nrmse"]))
    return found


# ---- lesions ---------------------------------------------------------------------------------------------------------


def is_lesion(one: Mapping[str, Any]) -> bool:
    """Whether the truth has the lesion; otherwise the guide alone shows it, or it is too faint to speak of."""
    return one["kind"] in ("hot", "cold") and abs(one["true"]) > _FLAT * abs(one["around"])


def contrast_recovery(lesions: Iterable[Mapping[str, Any]], kind: str, in_guide: bool | None = None) -> Interval | None:
    """Return the mean of made / true over lesions of a kind, with a bootstrap interval over subjects; None without any.

    n is the number of lesions. Lesions of one subject are drawn together, as they are not independent.

    Args:
        kind : "hot" or "cold".
        in_guide : those that the guide shows, or does not show; None: both.
    """
    of_kind = [one for one in lesions if one["kind"] == kind and in_guide in (None, one["in_guide"]) and is_lesion(one)]
    return _by_subject([(one["subject"], one["made"] / one["true"]) for one in of_kind])


def false_transfer(lesions: Iterable[Mapping[str, Any]]) -> Interval | None:
    """Return the root mean square of the contrast made where the guide alone shows a lesion, over the activity around.

    None without any. 0 is perfect; 1 is an image that is twice as bright there.
    """
    found = [one for one in lesions if one["kind"] not in ("hot", "cold") and one["around"] > 0]
    squares = _by_subject([(one["subject"], ((one["made"] - one["true"]) / one["around"]) ** 2) for one in found])
    if squares is None:
        return None
    value, low, high = (math.sqrt(max(v, 0.0)) for v in (squares.value, squares.low, squares.high))
    return Interval(value, low, high, squares.n)


def _by_subject(pairs: Sequence[tuple[int, float]]) -> Interval | None:
    """The mean of numbers with an interval for which whole subjects are drawn."""
    if not pairs:
        return None
    sums: dict[int, list[float]] = {}
    for subject, value in pairs:
        sums.setdefault(subject, [0.0, 0.0])
        sums[subject][0] += value
        sums[subject][1] += 1
    table = np.array(list(sums.values()))
    found = bootstrap_interval(table, lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()), n_resamples=2000)
    return Interval(found.value, found.low, found.high, len(pairs))


# ---- realisations ----------------------------------------------------------------------------------------------------


def bias_and_deviation(images: Any, truth: Any, inside: np.ndarray) -> Numbers:
    """Return bias and standard deviation over realisations of one scan, means over the object and over the true mean.

    Args:
        images : (R, x, y, z), of R >= 2 realisations.
        truth, inside : (x, y, z), the object's voxels.

    bias : the mean of ``|mean over realisations - truth|``; part of it, about sd * sqrt(2 / (pi R)), is noise.
    """
    reference = np.asarray(to_numpy(truth), float)
    many = recon.ensemble_statistics(np.asarray(to_numpy(images), float), reference)
    level = reference[inside].mean()
    return {
        "bias": float(np.abs(many.mean - reference)[inside].mean() / level),
        "sd": float(many.deviation[inside].mean() / level),
        "realisations": many.n_realisations,
    }
