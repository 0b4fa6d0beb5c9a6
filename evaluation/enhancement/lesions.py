"""Small lesions at eight count levels: the weighted residual network against the same network without weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from emrecon import sims, unrolled

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .images import Images, folder_for, nrmse, pairs_of
from .training import enhanced, trained, validation

SECONDS = (30, 45, 60, 120, 180, 240, 300, 420)
WHOLE = 840
"""The eight parts and the whole of the scans, s, as published."""

SMALL = 15.0
"""mm: lesions of less diameter are small; the resolution of the scanner is about 6 mm."""

_WEIGHT, _BLUR = 9.0, 1.0
_AREA = 5.5**2  # mm^2 of a voxel's face
_SMOOTH = 1.0  # of the Gaussian, in voxels, a clinic's filter
_RECIPE = """
name = "enhance-lesions"
description = "Three slices of torso FDG PET with small hot lesions"
n = 1
seed = 41
batch = 8
outputs = ["counts"]
[grid]
shape = [80, 80, 3]
voxel_size = [5.5, 5.5, 5.0]
[phantom]
kind = "varied-torso"
uptake = "fdg"
spread = 1.5
smooth = 0.1
texture = 0.05
slices = [-60.0, 200.0]
[phantom.lesions]
number = [25, 40]
diameter = [9.0, 26.0]
hot = 1.0
hot_ratio = [3.0, 9.0]
[pet]
n_radial = 143
mashing = 4
max_ring_difference = 0
resolution = 5.0
duration = 840.0
scatter_fraction = 0.3
randoms_fraction = 0.25
[pet.ring]
sides = 32
crystals_per_side = 12
radius = 400.0
rings = 3
ring_pitch = 5.0
[counts]
total = [4e6, 8e6]
"""
METHODS = {
    "osem": "OSEM",
    "gaussian": "OSEM and a Gaussian",
    "plain": "network, no weights",
    "weighted": "network, weighted",
}


def images_of(options: Options, folder: Path) -> Images:
    """Return the images of the topic."""
    full = options.size == "full"
    levels = tuple(s / WHOLE for s in (SECONDS if full else SECONDS[::4]))
    sizes = (128, 12, 48) if full else (8, 2, 4)
    return Images(sims.parse_recipe(_RECIPE), sizes, levels, 3, 8, ("lesions",), folder)


def units(options: Options) -> Sequence[Unit]:
    """Return the work: the images, and a network with and one without weights, trained alike."""
    about = {"size": options.size, "weight": _WEIGHT, "blur": _BLUR, **_training(options)}
    made = Unit("lesions/images", lambda folder: _images(options, folder), arguments=about)
    networks = [
        Unit(f"lesions/{name}", _of(options, name), ("lesions/images",), about) for name in ("plain", "weighted")
    ]
    return [made, *networks]


def _training(options: Options) -> dict[str, int]:
    full = options.size == "full"
    return {"steps": 2500 if full else 12, "width": 24 if full else 4, "batch": 12 if full else 4}


def _images(options: Options, folder: Path) -> Mapping[str, Any]:
    images = images_of(options, folder_for(options, folder, "lesions/images"))
    arrays = [images.of(split) for split in ("train", "validation", "test")]
    test = arrays[-1]
    smooth = ndimage.gaussian_filter(test["low"], (0, 0, _SMOOTH, _SMOOTH, 0))
    found = {name: scores(low, test) for name, low in (("osem", test["low"]), ("gaussian", smooth))}
    _keep(folder, "osem", test["low"])
    return {"n": [a["full"].shape[0] for a in arrays], "full": scores(test["full"][None], test), **found}


def _of(options: Options, name: str) -> Any:
    unit = f"lesions/{name}"

    def run(folder: Path) -> Mapping[str, Any]:
        images, settings = images_of(options, folder_for(options, folder, unit)), _training(options)
        arrays, held, test = (images.of(split) for split in ("train", "validation", "test"))
        with unrolled.seeded(0):
            model = unrolled.weighted_residual_cnn(width=settings["width"])
        weight = _weights if name == "weighted" else None
        batches = pairs_of(arrays, "full", weight=weight, size=settings["batch"])
        numbers = trained(
            model,
            batches,
            unrolled.Supervised(unrolled.mse),
            validation(held),
            folder / "training",
            settings["steps"],
            rate=2e-3,
            signature=unit,
        )
        low = np.stack([enhanced(model, some) for some in test["low"]])
        _keep(folder, name, low)
        return {**numbers, **scores(low, test)}

    return run


def _weights(mask: torch.Tensor) -> torch.Tensor:
    return unrolled.lesion_weight(mask, _WEIGHT, _BLUR)


def scores(low: np.ndarray, test: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return what is measured of images (levels, N, x, y, z): by level lists of the relative errors of lesions' maxima,
    with their diameters in mm, and of images the NRMSE and the noise.

    The maximum of a lesion is compared with that of the reconstruction without noise; noise is the standard deviation
    of the difference to that reconstruction over its mean, in the body without the lesions.
    """
    lesions = [lesions_of(mask, clean, _AREA) for mask, clean in zip(test["lesions"], test["clean"])]
    found: dict[str, Any] = {
        "diameter": [d for one in lesions for d, _, _ in one],
        "error": [],
        "nrmse": [],
        "noise": [],
    }
    for images in low:
        pairs = zip(images, lesions)
        found["error"].append([float(x[inside].max() / peak - 1) for x, one in pairs for _, inside, peak in one])
        found["nrmse"].append(nrmse(images, test["clean"]))
        found["noise"].append([_noise(*some) for some in zip(images, test["clean"], test["lesions"])])
    return found


def lesions_of(mask: np.ndarray, clean: np.ndarray, face: float) -> list[tuple[float, np.ndarray, float]]:
    """Return diameter in mm of its largest slice, voxels, and maximum without noise, of each lesion that the middle
    slice shows.

    Args:
        mask, clean : (x, y, z), parts of voxels, and the reconstruction without noise.
        face : mm^2 of a voxel in a slice.
    """
    labels, n = ndimage.label(mask > 0.2)
    found = []
    for k in range(1, n + 1):
        own = labels == k
        area = (mask * own).sum((0, 1)).max() * face
        inside = ndimage.binary_dilation(own, np.ones((3, 3, 1)))
        if area > 20 and own[..., mask.shape[-1] // 2].any():
            found.append((2 * float(np.sqrt(area / np.pi)), inside, float(clean[inside].max())))
    return found


def _noise(x: np.ndarray, clean: np.ndarray, mask: np.ndarray) -> float:
    body = (clean > 0.2 * clean.mean()) & ~ndimage.binary_dilation(mask > 0.05, np.ones((5, 5, 1)))
    return float((x - clean)[body].std() / clean[body].mean())


def _keep(folder: Path, name: str, low: np.ndarray) -> None:
    np.savez(folder / "shown.npz", **{name: low[:, 0, :, :, 1]})  # type: ignore[arg-type]


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return tables by count level: maxima of small and of larger lesions, noise and NRMSE, and images."""
    base = results["lesions/images"]
    numbers: dict[str, Mapping[str, Any]] = {"osem": base["osem"], "gaussian": base["gaussian"]}
    numbers |= {name: results[f"lesions/{name}"] for name in ("plain", "weighted")}
    seconds = SECONDS if options.size == "full" else SECONDS[::4]
    small = np.asarray(base["osem"]["diameter"]) < SMALL
    n_small = f"{int(small.sum())} lesions below {SMALL:g} mm, {int((~small).sum())} above; in {base['n'][2]} scans"
    parts: list[Table | Picture | Text] = [
        _table(f"Maximum of small lesions, % off ({n_small})", numbers, seconds, small),
        _table("Maximum of larger lesions, % off", numbers, seconds, ~small),
        _rows("Noise outside of lesions, %", numbers, seconds, "noise", 100.0),
        _rows("NRMSE to the reconstruction without noise", numbers, seconds, "nrmse", 1.0),
        Text("", (_said(numbers, small, options),)),
    ]
    return [Section("Small lesions at eight count levels", [*parts, _picture(results, seconds)])]


def _mean(values: np.ndarray) -> Interval | None:
    return t_interval([float(v) for v in values]) if len(values) > 1 else None


def _table(title: str, numbers: Mapping[str, Any], seconds: Sequence[int], which: np.ndarray) -> Table:
    rows = [
        (METHODS[name], *(_mean(100 * np.asarray(errors)[which]) for errors in found["error"]))
        for name, found in numbers.items()
    ]
    note = "Mean over lesions of SUVmax over that of the reconstruction without noise, less 1."
    return Table(title, ("method", *(f"{s} s" for s in seconds)), rows, note)


def _rows(title: str, numbers: Mapping[str, Any], seconds: Sequence[int], what: str, unit: float) -> Table:
    rows = [
        (METHODS[name], *(_mean(unit * np.asarray(values)) for values in found[what]))
        for name, found in numbers.items()
    ]
    return Table(title, ("method", *(f"{s} s" for s in seconds)), rows)


def _said(numbers: Mapping[str, Any], small: np.ndarray, options: Options) -> str:
    mean = {
        name: [float(100 * np.asarray(errors)[small].mean()) for errors in numbers[name]["error"]]
        for name in ("plain", "weighted")
    }
    within = sum(abs(error) <= 10 for error in mean["weighted"])
    more = sum(abs(p) > abs(w) for p, w in zip(mean["plain"], mean["weighted"]))
    return (
        f"With weights the mean SUVmax of small lesions is within 10 % at {within} of {len(mean['weighted'])} levels; "
        f"without them it is farther off at {more}."
    )


def _picture(results: Results, seconds: Sequence[int]) -> Picture:
    import matplotlib.pyplot as plt

    names = {"osem": "lesions/images", "plain": "lesions/plain", "weighted": "lesions/weighted"}
    shown = {}
    for name, unit in names.items():
        with np.load(results.folder(unit) / "shown.npz") as file:
            shown[name] = file[name]
    columns = range(0, len(seconds), max(1, len(seconds) // 4))
    figure, axes = plt.subplots(3, len(columns), figsize=(2.2 * len(columns), 6.6), squeeze=False)
    top = float(np.quantile(shown["osem"][-1], 0.999))
    for row, name in zip(axes, names):
        for axis, k in zip(row, columns):
            axis.imshow(shown[name][k].T, cmap="gray_r", vmin=0, vmax=top)
            axis.set_axis_off()
            axis.set_title(f"{METHODS[name]}, {seconds[k]} s", fontsize=7)
    return Picture.of(figure, "The first scan of the test")
