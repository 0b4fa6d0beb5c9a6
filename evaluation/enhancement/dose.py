"""Dose of networks, of voxel S values and of local absorption against Monte Carlo, by region and set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import sims, unrolled
from emrecon.projectors import ImageGrid
from emrecon.recon.dosimetry import absorbed_dose

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .dose_samples import SETS, Sample, dose_samples
from .images import folder_for
from .mapping import REGIONS
from .training import trained

NUCLIDE = "Y-90"
VOXEL = 4.8  # mm
METHODS = {
    "local": "local absorption over density",
    "water": "voxel S values of water",
    "scaled": "voxel S values over density",
}
NETWORKS = {"dose-unet": "3-D U-Net", "specific-kernels": "specific kernels", "residual-dose": "residual on voxel S"}
MEASURES = {
    "mean": "Mean dose, % off",
    "voxels": "Voxels, mean error in % of the region's mean dose",
    "d2": "D2, % off",
    "d98": "D98, % off",
}
_LEAST = 30  # voxels of a region that is measured


def units(options: Options) -> Sequence[Unit]:
    """Return the work: what kernels make of the samples, and networks that are trained alike."""
    about = {"size": options.size, **_settings(options)}
    made = Unit("dose/classical", lambda folder: _classical(options, folder), arguments=about)
    return [made, *(Unit(f"dose/{name}", _of(options, name), (), about) for name in NETWORKS)]


def _settings(options: Options) -> dict[str, Any]:
    if options.size == "full":
        return {"shape": [24, 24, 20], "train": 48, "validation": 3, "test": 4, "histories": 250_000,
                "test_histories": 1_000_000, "steps": 500, "width": 12, "batch": 2}  # fmt: skip
    return {"shape": [12, 12, 8], "train": 2, "validation": 1, "test": 1, "histories": 2000, "test_histories": 2000,
            "steps": 3, "width": 2, "batch": 1}  # fmt: skip


def _grid(options: Options) -> ImageGrid:
    x, y, z = _settings(options)["shape"]
    return ImageGrid((x, y, z), (VOXEL, VOXEL, VOXEL))


def _samples(options: Options, folder: Path, unit: str, name: str) -> Iterator[Sample]:
    settings = _settings(options)
    part = name if name in ("train", "validation") else "test"
    histories = settings["histories" if part == "train" else "test_histories"]
    where = folder_for(options, folder, unit)
    return dose_samples(where, name, settings[part], _grid(options), NUCLIDE, histories)


def _classical(options: Options, folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name in SETS:
        rows = {key: _empty() for key in METHODS}
        noise = []
        for sample in _samples(options, folder, "dose/classical", name):
            for key in METHODS:
                _add(rows[key], sample, _by_kernel(key, sample, _grid(options)))
            high = sample["dose"] > 0.2 * sample["dose"].max()
            noise.append(100 * float(sample["error"][high].mean() / sample["dose"][high].mean()))
        found[name] = {**rows, "noise": noise}
    return found


def _by_kernel(method: str, sample: Sample, grid: ImageGrid) -> np.ndarray:
    density = None if method == "water" else sample["density"]
    kind = "local" if method == "local" else "kernel"
    return absorbed_dose(sample["activity"], grid, NUCLIDE, density=density, method=kind).image


def _of(options: Options, name: str) -> Callable[[Path], Mapping[str, Any]]:
    unit = f"dose/{name}"

    def run(folder: Path) -> Mapping[str, Any]:
        settings = _settings(options)
        arguments = {"nuclide": NUCLIDE, "voxel_size": VOXEL, "width": settings["width"]}
        with unrolled.seeded(0):
            model = unrolled.DOSE_NETWORKS[name](**arguments)
        train = list(_samples(options, folder, unit, "train"))
        held = [_pair([sample]) for sample in _samples(options, folder, unit, "validation")]
        numbers = trained(
            model,
            _batches(train, settings["batch"]),
            unrolled.Supervised(unrolled.l1),
            unrolled.Validation(held),
            folder / "training",
            settings["steps"],
            rate=2e-3,
            signature=unit,
        )
        scale = "the network scales activities itself; activity in MBq h/mL, density in g/mL, dose in Gy"
        data = f"{len(train)} pieces of simulated torsos, {settings['histories']} histories of Monte Carlo each"
        card = unrolled.Card(name, arguments, data, scale, {"nrmse": numbers["validation"]})
        unrolled.save_weights(folder / "weights.safetensors", model, card)
        found = {part: _tested(model, _samples(options, folder, unit, part), folder, part) for part in SETS}
        return {**numbers, "refusal": _refusal(model, _grid(options)), **found}

    return run


def _tested(model: Any, samples: Iterator[Sample], folder: Path, part: str) -> dict[str, dict[str, list[float]]]:
    rows = _empty()
    for k, sample in enumerate(samples):
        arguments, _ = _pair([sample])
        with torch.no_grad():
            made = model(**arguments).numpy()[0]
        _add(rows, sample, made)
        if part == "test" and k == 0:
            np.savez(folder / "shown.npz", made=made[:, :, made.shape[2] // 2])
    return rows


def _refusal(model: Any, grid: ImageGrid) -> str:
    """What a network says of another nuclide."""
    try:
        model.dose(np.ones(grid.shape), grid, "Lu-177", density=np.ones(grid.shape))
    except ValueError as error:
        return str(error)
    return ""


def _pair(samples: Sequence[Sample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    x, rho, target = (
        torch.as_tensor(np.stack([sample[key] for sample in samples])) for key in ("activity", "density", "dose")
    )
    return {"x": x, "guide": rho}, target


def _batches(samples: Sequence[Sample], size: int) -> Callable[[int], Iterator[Any]]:
    def of_epoch(epoch: int) -> Iterator[Any]:
        random = sims.generator(0, f"order of epoch {epoch}")
        order = random.permutation(len(samples))
        for k in range(max(1, len(samples) // size)):
            arguments, target = _pair([samples[i] for i in order[k * size : (k + 1) * size]])
            axes = [axis - 3 for axis in range(3) if random.random() < 0.5]  # a dose is mirrored as its cause
            yield {key: value.flip(axes) for key, value in arguments.items()}, target.flip(axes)

    return of_epoch


def _empty() -> dict[str, dict[str, list[float]]]:
    return {measure: {region: [] for region in REGIONS} for measure in MEASURES}


def _add(rows: dict[str, dict[str, list[float]]], sample: Sample, made: np.ndarray) -> None:
    """Add how far a dose is from that of Monte Carlo in every region that is large enough."""
    for number, region in enumerate(REGIONS, 1):
        inside = (sample["labels"] == number) & (sample["density"] >= 0.1)
        if inside.sum() < _LEAST or not sample["dose"][inside].mean() > 0:
            continue
        own, true = made[inside].astype(float), sample["dose"][inside].astype(float)
        mass = sample["density"][inside].astype(float)
        rows["mean"][region].append(float(100 * ((own * mass).sum() / (true * mass).sum() - 1)))
        rows["voxels"][region].append(float(100 * np.abs(own - true).mean() / true.mean()))
        for key, share in (("d2", 0.98), ("d98", 0.02)):
            wanted = np.quantile(true, share)
            if wanted > 0.01 * true.mean():  # where hardly anything is, a ratio says nothing
                rows[key][region].append(float(100 * (np.quantile(own, share) / wanted - 1)))


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return tables of every measure and set by region, a picture, and what the networks refuse."""
    classical = results["dose/classical"]
    networks = {name: results[f"dose/{name}"] for name in NETWORKS}
    parts: list[Table | Picture | Text] = []
    for name, said in SETS.items():
        for measure, title in MEASURES.items():
            rows = [(text, *_cells(classical[name][key][measure])) for key, text in METHODS.items()]
            rows += [(text, *_cells(networks[key][name][measure])) for key, text in NETWORKS.items()]
            parts.append(Table(f"{title}: {said}", ("dose", *REGIONS), rows))
    noise = [(said, _mean(classical[name]["noise"])) for name, said in SETS.items()]
    parts.append(Table("Noise of the Monte Carlo where the dose is high, %", ("set", "noise"), noise))
    took = [(text, networks[key]["parameters"], networks[key]["seconds"]) for key, text in NETWORKS.items()]
    parts.append(Table("Trainings", ("network", "parameters", "seconds"), took, varies=True))
    refused = "; ".join(sorted({str(network["refusal"]) for network in networks.values()}))
    text = (
        f"Pieces of torsos with {NUCLIDE}, voxels of {VOXEL:g} mm, and nothing around them, in Gy; the truth is Monte "
        "Carlo in tissue. Errors are those of patients whose piece holds 30 voxels of the region and more. In sets "
        f"whose lungs, bones or water no training has seen, networks are out of distribution. Lu-177 is refused: "
        f"{refused}."
    )
    return [Section("Dose", [*parts, Text("", (text,)), _picture(results, options)])]


def _mean(values: Sequence[float]) -> Interval | float | None:
    if len(values) > 1:
        return t_interval([float(v) for v in values])
    return float(values[0]) if values else None


def _cells(found: Mapping[str, Sequence[float]]) -> list[Interval | float | None]:
    return [_mean(found[region]) for region in REGIONS]


def _picture(results: Results, options: Options) -> Picture:
    import matplotlib.pyplot as plt

    folder = results.folder("dose/classical")
    sample = next(_samples(options, folder, "dose/classical", "test"))
    middle = sample["dose"].shape[2] // 2
    images = {"density, g/mL": sample["density"], "Monte Carlo": sample["dose"]}
    images[METHODS["scaled"]] = _by_kernel("scaled", sample, _grid(options))
    planes = {title: image[:, :, middle] for title, image in images.items()}
    for key, text in NETWORKS.items():
        with np.load(results.folder(f"dose/{key}") / "shown.npz") as file:
            planes[text] = file["made"]
    figure, axes = plt.subplots(2, 3, figsize=(8, 5.6))
    top = float(np.quantile(planes["Monte Carlo"], 0.995))
    for axis, (title, plane) in zip(axes.ravel(), planes.items()):
        axis.imshow(plane.T, origin="lower", vmin=0, vmax=2.0 if title.startswith("density") else top)
        axis.set_title(title, fontsize=8)
        axis.axis("off")
    return Picture.of(figure, f"The first piece of the test, dose up to {top:.3g} Gy")
