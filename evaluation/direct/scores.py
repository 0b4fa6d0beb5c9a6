"""What is measured of images: errors of regions, lesions invented and lost, and whether the data give them away."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from emrecon import recon
from emrecon.unrolled import data_fit

_VOXELS = 4  # of a lesion that is counted
_HOT = 2.0  # times the background
_WRONG = 1.0  # times the mean activity


def region_errors(image: torch.Tensor, truth: torch.Tensor) -> dict[str, list[float | None]]:
    """Return the mean absolute errors in hot regions and in the background of SPECTnet's phantoms, one for each item.

    In units of the background's activity, the median of the truth inside the body: hot is above 2, background within
    0.5 of 1; voxels in between, at borders, belong to neither.

    Args:
        image, truth : (B, x, y, z).
    """
    found: dict[str, list[float | None]] = {"hot": [], "background": []}
    for x, t in zip(np.asarray(image, float), np.asarray(truth, float)):
        unit = float(np.median(t[t > 0.05 * t.max()]))
        error, level = np.abs(x - t) / unit, t / unit
        regions = {"hot": level > _HOT, "background": np.abs(level - 1) < 0.5}
        for name, inside in regions.items():
            found[name].append(float(error[inside].mean()) if inside.any() else None)
    return found


def false_lesions(image: torch.Tensor, truth: torch.Tensor) -> dict[str, list[int]]:
    """Return how many lesions each image has invented and lost.

    A lesion is four voxels or more that hang together and are wrong by more than the mean activity of the object: too
    much is invented, too little is lost.
    """
    found: dict[str, list[int]] = {"invented": [], "lost": []}
    for x, t in zip(np.asarray(image, float), np.asarray(truth, float)):
        unit = float(t[t > 0].mean()) if (t > 0).any() else 1.0
        difference = ndimage.gaussian_filter((x - t) / unit, [0.7, 0.7, 0.0])
        for name, sign in (("invented", 1), ("lost", -1)):
            labels, n = ndimage.label(sign * difference > _WRONG)
            sizes = ndimage.sum_labels(np.ones_like(labels), labels, range(1, n + 1))
            found[name].append(int((np.asarray(sizes) >= _VOXELS).sum()))
    return found


def scores(image: torch.Tensor, truth: torch.Tensor, likelihood: Any) -> dict[str, list[Any]]:
    """Return all numbers of a batch of images, lists with one number for each item.

    nrmse, ssim, invented, lost; fit : the Poisson deviance of the data from the image over what chance makes, about 1.
    """
    x, t = torch.as_tensor(image), torch.as_tensor(truth)
    return {
        "nrmse": np.asarray(recon.nrmse(x, t, dimensions=3)).tolist(),
        "ssim": np.asarray(recon.ssim(x, t, dimensions=3)).tolist(),
        "fit": data_fit(x.to(torch.float32), likelihood).tolist(),
        **false_lesions(x, t),
    }


def joined(parts: list[dict[str, list[Any]]]) -> dict[str, list[Any]]:
    """Return the numbers of several batches behind one another."""
    return {name: [value for part in parts for value in part[name]] for name in parts[0]} if parts else {}


def edge_width(image: np.ndarray, truth: np.ndarray, voxel: float) -> float | None:
    """Return the FWHM, mm, of the Gaussian that takes the truth nearest to the mean image; None where none fits better.

    Args:
        image, truth : (x, y, z), the mean over realisations, so that noise does not count.
    """
    widths = np.arange(0, 6 * voxel + 0.25, 0.5)
    t = np.asarray(truth, float)
    errors = [
        float(((ndimage.gaussian_filter(t, [w / voxel / 2.3548, w / voxel / 2.3548, 0]) - image) ** 2).sum())
        for w in widths
    ]
    best = int(np.argmin(errors))
    return float(widths[best]) if best < len(widths) - 1 else None
