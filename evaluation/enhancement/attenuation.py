"""Attenuation maps of networks, of MLAA and MLACF, and what they make of the activity, also out of distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import recon, sims, unrolled
from emrecon.recon import JointOptions, KnownScale

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .images import folder_for
from .mapping import (
    REGIONS,
    SETS,
    Arrays,
    add_errors,
    case_of,
    cut_map,
    ellipse_map,
    errors,
    pet_image,
    pet_likelihood,
    planes,
    spect_image,
)
from .training import trained

NETWORKS = {
    "emission": "network, uncorrected PET",
    "mr": "network, Dixon MR",
    "truncation": "network, CT cut at 300 mm and PET",
    "windows": "network, photopeak and scatter window (SPECT)",
}
CLASSICAL = {
    "none": "no attenuation",
    "ellipse": "uniform ellipse",
    "cut": "CT cut at 300 mm",
    "mlaa": "MLAA, total known",
    "mlacf": "MLACF, total known",
    "spect-none": "no attenuation (SPECT)",
    "spect-ellipse": "uniform ellipse (SPECT)",
}
_FIRST = {"train": 0, "validation": 20_000, "test": 30_000, "lungs": 30_000, "bones": 30_000}


def units(options: Options) -> Sequence[Unit]:
    """Return the work: the classical maps, and a network of each source, trained alike."""
    about = {"size": options.size, **_settings(options)}
    made = Unit("attenuation/classical", lambda folder: _classical(options, folder), arguments=about)
    return [made, *(Unit(f"attenuation/{name}", _of(options, name), (), about) for name in NETWORKS)]


def _settings(options: Options) -> dict[str, int]:
    if options.size == "full":
        return {
            "train": 96,
            "validation": 8,
            "test": 16,
            "joint": 6,
            "passes": 20,
            "steps": 600,
            "width": 12,
            "batch": 8,
        }
    return {"train": 3, "validation": 1, "test": 1, "joint": 1, "passes": 1, "steps": 4, "width": 2, "batch": 2}


def _arrays(options: Options, folder: Path, unit: str, name: str, modality: str) -> Arrays:
    n = _settings(options)[name if name in ("train", "validation") else "test"]
    seeds = range(_FIRST[name], _FIRST[name] + n)
    place = folder_for(options, folder, unit)
    return planes(place, name, seeds, name, modality)


def _classical(options: Options, folder: Path) -> Mapping[str, Any]:
    settings, found = _settings(options), {}
    for name in SETS:
        pet, spect = (_arrays(options, folder, "attenuation/classical", name, m) for m in ("pet", "spect"))
        n = len(pet["mu"])
        ellipses = [ellipse_map(image, "pet") for image in pet["nac"]]
        spect_ellipses = [ellipse_map(image, "spect") for image in spect["nac"]]
        found[name] = {
            "none": errors(pet, [None] * n, pet_image),
            "ellipse": errors(pet, ellipses, pet_image),
            "cut": errors(pet, [cut_map(mu)[0] for mu in pet["mu"]], pet_image),
            "spect-none": errors(spect, [None] * n, spect_image),
            "spect-ellipse": errors(spect, spect_ellipses, spect_image),
            **_joint(pet, settings["joint"], settings["passes"]),
        }
        if name == "test":
            first = case_of(pet, 0)
            shown = {"mu": first["mu"], "nac": first["nac"], "ellipse": ellipses[0], "water": first["water"]}
            np.savez(folder / "shown.npz", **shown)  # type: ignore[arg-type]
    return found


def _joint(arrays: Arrays, n: int, passes: int) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {name: {r: [] for r in REGIONS} for name in ("mlaa", "mlacf")}
    for k in range(min(n, len(arrays["mu"]))):
        case = case_of(arrays, k)
        reference = pet_image(case, case["mu"])
        known = KnownScale("total", float(reference.sum(dtype=float)))
        options = JointOptions(known=known, body=case["mu"] > 0.01)
        for name, engine in (("mlaa", recon.mlaa), ("mlacf", recon.mlacf)):
            iterates = engine(pet_likelihood(case, None), n_subsets=8, options=options)
            *_, last = islice(iterates, passes)
            add_errors(found[name], case, np.asarray(last.image), reference)
    return found


def _of(options: Options, source: str) -> Any:
    unit, modality = f"attenuation/{source}", "spect" if source == "windows" else "pet"

    def run(folder: Path) -> Mapping[str, Any]:
        settings = _settings(options)
        train, held = (_arrays(options, folder, unit, name, modality) for name in ("train", "validation"))
        with unrolled.seeded(0):
            model = unrolled.attenuation_unet(source, width=settings["width"], levels=3)
        numbers = trained(
            model,
            _batches(train, source, settings["batch"]),
            unrolled.Supervised(unrolled.mse),
            unrolled.Validation([_pair(held, source, np.arange(len(held["mu"])))]),
            folder / "training",
            settings["steps"],
            rate=3e-3,
            signature=unit,
        )
        found: dict[str, Any] = {}
        image: Callable[..., np.ndarray] = spect_image if modality == "spect" else pet_image
        for name in SETS:
            arrays = _arrays(options, folder, unit, name, modality)
            arguments, _ = _pair(arrays, source, np.arange(len(arrays["mu"])))
            maps = unrolled.predicted_attenuation(model, arguments["x"], guide=arguments.get("guide"))
            off = [float(np.abs(m - mu)[mu > 0.01].mean() / mu[mu > 0.01].mean()) for m, mu in zip(maps, arrays["mu"])]
            found[name] = {"activity": errors(arrays, list(maps), image), "map": off}
            if name == "test":
                np.savez(folder / "shown.npz", map=maps[0], mu=arrays["mu"][0])
        return {**numbers, **found}

    return run


def _batches(arrays: Arrays, source: str, size: int) -> Callable[[int], Iterator[Any]]:
    n = len(arrays["mu"])

    def of_epoch(epoch: int) -> Iterator[Any]:
        order = sims.generator(0, f"order of epoch {epoch}").permutation(n)
        for k in range(max(1, n // size)):
            yield _pair(arrays, source, order[k * size : (k + 1) * size])

    return of_epoch


def _pair(arrays: Arrays, source: str, which: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What a network of a source is called with, and the maps."""
    mu = arrays["mu"][which]
    if source == "mr":
        shown = {"x": arrays["water"][which], "guide": arrays["fat"][which]}
    elif source == "windows":
        shown = {"x": arrays["nac"][which], "guide": arrays["window"][which]}
    elif source == "truncation":
        cut = [cut_map(one) for one in mu]
        guide = np.stack([arrays["nac"][which], np.stack([inside for _, inside in cut])], 1)
        shown = {"x": np.stack([one for one, _ in cut]), "guide": guide}
    else:
        shown = {"x": arrays["nac"][which]}
    return {name: torch.as_tensor(np.ascontiguousarray(v)) for name, v in shown.items()}, torch.as_tensor(mu)


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return a table of the activity by region for every set, the error of the maps, and pictures."""
    classical = results["attenuation/classical"]
    networks = {name: results[f"attenuation/{name}"] for name in NETWORKS}
    parts: list[Table | Picture | Text] = []
    for name, said in SETS.items():
        rows = [(text, *_cells(classical[name][key])) for key, text in CLASSICAL.items()]
        rows += [(text, *_cells(networks[key][name]["activity"])) for key, text in NETWORKS.items()]
        note = "Mean over patients of the activity over that with the true map, less 1."
        parts.append(Table(f"Activity, % off: {said}", ("map", *REGIONS), rows, note))
    maps = [
        (text, *(_mean(100 * np.asarray(networks[key][name]["map"])) for name in SETS))
        for key, text in NETWORKS.items()
    ]
    parts.append(Table("Map, mean absolute error in the body, %", ("network", *SETS.values()), maps))
    parts.append(Text("", (_said(classical, networks),)))
    return [Section("Attenuation maps", [*parts, _picture(results)])]


def _mean(values: Sequence[float] | np.ndarray) -> Interval | None:
    return t_interval([float(v) for v in values]) if len(values) > 1 else None


def _cells(found: Mapping[str, Sequence[float]]) -> list[Interval | None]:
    return [_mean(found[region]) for region in REGIONS]


def _said(classical: Mapping[str, Any], networks: Mapping[str, Any]) -> str:
    def worst(found: Mapping[str, Sequence[float]]) -> float:
        return max((abs(float(np.mean(v))) for v in found.values() if len(v)), default=float("nan"))

    shares = [f"{NETWORKS[k]}: {worst(one['test']['activity']):.1f} %" for k, one in networks.items()]
    outside = [f"{worst(one['lungs']['activity']):.1f} %" for one in networks.values()]
    pairs = (("test", "ellipse"), ("test", "mlaa"), ("lungs", "mlaa"))
    ellipse, joint, dense = (worst(classical[name][key]) for name, key in pairs)
    return (
        f"Largest mean error of a region: {', '.join(shares)}; uniform ellipse {ellipse:.1f} %, MLAA {joint:.1f} %. "
        f"With lungs denser than any in training: {', '.join(outside)} in this order, MLAA {dense:.1f} %."
    )


def _picture(results: Results) -> Picture:
    import matplotlib.pyplot as plt

    with np.load(results.folder("attenuation/classical") / "shown.npz") as file:
        shown = {"true map": file["mu"], "uniform ellipse": file["ellipse"]}
    for name in NETWORKS:
        with np.load(results.folder(f"attenuation/{name}") / "shown.npz") as file:
            shown[NETWORKS[name]] = file["map"]
    figure, axes = plt.subplots(2, 3, figsize=(9, 4.4))
    for axis, (name, image) in zip(axes.ravel(), shown.items()):
        axis.imshow(image[..., 0].T, cmap="gray", vmin=0, vmax=0.2 if "SPECT" in name else 0.13)
        axis.set_title(name, fontsize=7)
        axis.set_axis_off()
    return Picture.of(figure, "Attenuation maps of the first patient of the test")
