"""Scatter of networks against a simulation of single scatter: activity by region, also out of distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import recon, sims, unrolled
from emrecon.projectors import (
    ImageGrid,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    ScatterSampling,
    attenuation_factors,
    photon_histories,
    single_scatter,
)

from ..kept import kept
from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .images import folder_for
from .mapping import REGIONS, Arrays, add_errors, case_of, labels, patient, stacked
from .training import trained

GRID = ImageGrid((34, 24, 9), (16.0, 16.0, 20.0))
LONG = ImageGrid((34, 24, 21), (16.0, 16.0, 20.0))
"""The patient beyond the ends of the scanner, from where photons are scattered into it."""

SINOGRAM = PETSinogram(
    PETScanner.polygon(sides=24, crystals_per_side=4, radius=400, rings=5, ring_pitch=36, energy_resolution=0.12),
    n_radial=41,
)
NETWORKS = {
    "unet": "U-Net, emission and attenuation",
    "two-paths": "13 layers in two paths",
    "with-single": "U-Net with single scatter",
}
METHODS = {"none": "no correction", "sss": "single scatter simulation, tails"}
SETS = {
    "test": "as in training",
    "lungs": "lungs of 0.45 g/mL",
    "bones": "bones 30 % denser",
    "bladder": "hot bladder beyond the end of the scanner",
}
_FIRST = {"train": 0, "validation": 20_000, "test": 30_000, "lungs": 31_000, "bones": 32_000, "bladder": 33_000}
_SAMPLING = ScatterSampling(spacing=40, crystal_spacing=100, ring_spacing=72, voxel_size=20)
_COUNTS, _RANDOMS, _SUBSETS, _PASSES = 2e7, 0.3, 6, 3


def units(options: Options) -> Sequence[Unit]:
    """Return the work: what classical corrections do, and networks, trained alike."""
    about = {"size": options.size, **_settings(options)}
    made = Unit("scatter/classical", lambda folder: _classical(options, folder), arguments=about)
    return [made, *(Unit(f"scatter/{name}", _of(options, name), (), about) for name in NETWORKS)]


def _settings(options: Options) -> dict[str, int]:
    if options.size == "full":
        return {"train": 24, "validation": 2, "test": 4, "histories": 1_000_000, "steps": 400, "width": 12, "batch": 1}
    return {"train": 2, "validation": 1, "test": 1, "histories": 20_000, "steps": 3, "width": 2, "batch": 1}


def _arrays(options: Options, folder: Path, unit: str, name: str) -> Arrays:
    """The scans of a set, made once."""
    settings = _settings(options)
    n = settings[name if name in ("train", "validation") else "test"]
    path = folder_for(options, folder, unit) / f"scatter-{name}-{n}-{settings['histories']}.npz"
    return kept(path, lambda: stacked([_scan(_FIRST[name] + k, name, settings["histories"]) for k in range(n)]))


def _body(seed: int, kind: str) -> sims.Phantom:
    if kind != "bladder":
        return patient(seed, kind, "fdg")
    plain = sims.random_torso(seed, "fdg").moved((0.0, 0.0, 130.0))  # the bladder is 40 mm beyond the end
    regions = (replace(r, activity=8 * (r.activity or 0)) if r.name == "bladder" else r for r in plain.regions)
    return sims.Phantom(tuple(regions))


def _scan(seed: int, kind: str, histories: int) -> dict[str, np.ndarray]:
    """Counts, randoms, scatter (single by simulation, multiple by histories, of all the body), and what is known."""
    body = _body(seed, kind)
    activity, mu = (np.asarray(v, np.float32) for v in (body.activity(LONG), body.attenuation(LONG, 511.0)))
    A = PETProjector(LONG, SINOGRAM)
    trues = np.asarray(attenuation_factors(A, mu) * A(activity))
    single = single_scatter(activity, mu, LONG, SINOGRAM, sampling=_SAMPLING)
    multiple = photon_histories(activity, mu, LONG, SINOGRAM, histories, seed).smoothed(3, 3, 1).multiple
    pairs = SINOGRAM.multiplicity()
    scale = np.float32(_COUNTS / (((trues + single + multiple) * pairs).sum(dtype=float) * (1 + _RANDOMS)))
    randoms = np.full(trues.shape, 1.0, np.float32) * pairs
    randoms *= np.float32(_COUNTS * _RANDOMS / (1 + _RANDOMS) / randoms.sum(dtype=float))
    scatter = scale * (single + multiple) * pairs
    expected = scale * trues * pairs + scatter + randoms
    counts = np.random.default_rng([seed, 3]).poisson(expected).astype(np.float32)
    own = slice((LONG.shape[2] - GRID.shape[2]) // 2, (LONG.shape[2] + GRID.shape[2]) // 2)
    found = {"counts": counts, "randoms": randoms, "scatter": scatter.astype(np.float32), "mu": mu[..., own]}
    found |= {"labels": labels(body, GRID), "scale": np.float32(scale)}
    first = _image(found, None)  # the image that single scatter is simulated of
    own_single = single_scatter(first, found["mu"], GRID, SINOGRAM, sampling=_SAMPLING) * pairs
    lines = PETProjector(GRID, SINOGRAM)(found["mu"]) / 10
    return found | {"single": own_single.astype(np.float32), "lines": np.asarray(lines, np.float32)}


def _image(case: Arrays, scatter: np.ndarray | str | None) -> np.ndarray:
    """The OSEM image with a scatter, that of "sss", or none."""
    scan = Scan(case["counts"], SINOGRAM, background=case["randoms"] + np.float32(1e-4))
    problem = recon.pet_problem(scan, mu=case["mu"], grid=GRID, scatter=scatter, subsets=_SUBSETS)
    return np.asarray(recon.reconstruct(problem, "osem", _PASSES), np.float32)


def _classical(options: Options, folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name in SETS:
        arrays = _arrays(options, folder, "scatter/classical", name)
        rows: dict[str, dict[str, list[float]]] = {key: {r: [] for r in REGIONS} for key in METHODS}
        for k in range(len(arrays["mu"])):
            case = case_of(arrays, k)
            reference = _image(case, case["scatter"])
            add_errors(rows["none"], case, _image(case, None), reference)
            add_errors(rows["sss"], case, _image(case, "sss"), reference)
        found[name] = rows
    return found


def _of(options: Options, name: str) -> Any:
    unit = f"scatter/{name}"

    def run(folder: Path) -> Mapping[str, Any]:
        settings = _settings(options)
        train, held = (_arrays(options, folder, unit, part) for part in ("train", "validation"))
        with_single = name == "with-single"
        options_of_body: dict[str, Any] = {"width": settings["width"]} | ({"levels": 3} if name != "two-paths" else {})
        with unrolled.seeded(0):
            body = "two-paths" if name == "two-paths" else "unet"
            model = unrolled.scatter_preset(body, with_single=with_single, **options_of_body)
        numbers = trained(
            model,
            _batches(train, settings["batch"], with_single),
            unrolled.Supervised(_relative),
            unrolled.Validation([_pair(held, with_single, np.arange(len(held["mu"])))]),
            folder / "training",
            settings["steps"],
            rate=3e-3,
            signature=unit,
        )
        found: dict[str, Any] = {}
        for part in SETS:
            arrays = _arrays(options, folder, unit, part)
            rows: dict[str, list[float]] = {r: [] for r in REGIONS}
            off = []
            for k in range(len(arrays["mu"])):
                case = case_of(arrays, k)
                arguments, _ = _pair(arrays, with_single, np.array([k]))
                with torch.no_grad():
                    scatter = model(**arguments).numpy()[0]
                add_errors(rows, case, _image(case, scatter), _image(case, case["scatter"]))
                off.append(float(scatter.sum() / case["scatter"].sum() - 1))
                if part == "test" and k == 0:
                    profiles = {key: v.sum((0, 2)) for key, v in (("network", scatter), ("true", case["scatter"]))}
                    np.savez(folder / "shown.npz", **profiles)
            found[part] = {"activity": rows, "total": off}
        return {**numbers, **found}

    return run


def _relative(made: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The squared error over the mean square of the target: scans of more counts weigh no more."""
    return ((made - target) ** 2).mean() / (target**2).mean().clamp(min=1e-12)


def _batches(arrays: Arrays, size: int, with_single: bool) -> Callable[[int], Iterator[Any]]:
    n = len(arrays["mu"])

    def of_epoch(epoch: int) -> Iterator[Any]:
        order = sims.generator(0, f"order of epoch {epoch}").permutation(n)
        for k in range(max(1, n // size)):
            yield _pair(arrays, with_single, order[k * size : (k + 1) * size])

    return of_epoch


def _pair(arrays: Arrays, with_single: bool, which: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    emission = np.maximum(arrays["counts"][which] - arrays["randoms"][which], 0)
    shown = {"emission": emission, "attenuation": arrays["lines"][which]}
    if with_single:
        shown["single"] = arrays["single"][which]
    return {key: torch.as_tensor(v) for key, v in shown.items()}, torch.as_tensor(arrays["scatter"][which])


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return a table of the activity by region for every set, the totals of scatter, and profiles."""
    classical = results["scatter/classical"]
    networks = {name: results[f"scatter/{name}"] for name in NETWORKS}
    parts: list[Table | Picture | Text] = []
    for name, said in SETS.items():
        rows = [(text, *_cells(classical[name][key])) for key, text in METHODS.items()]
        rows += [(text, *_cells(networks[key][name]["activity"])) for key, text in NETWORKS.items()]
        note = "Mean over patients of the activity over that with the true scatter, less 1."
        parts.append(Table(f"Activity, % off: {said}", ("scatter", *REGIONS), rows, note))
    totals = [
        (text, *(_mean(100 * np.asarray(networks[key][name]["total"])) for name in SETS))
        for key, text in NETWORKS.items()
    ]
    parts.append(Table("Total scatter, % off", ("network", *SETS.values()), totals))
    text = (
        "The truth is single scatter by simulation and multiple scatter by photon histories of the whole body; the "
        "simulation that is compared sees the image within the scanner, is scaled to the tails, and knows no multiple "
        "scatter. Networks know nothing of what lies beyond the ends but what it does to the sinogram."
    )
    return [Section("Scatter", [*parts, Text("", (text,)), _picture(results)])]


def _mean(values: Sequence[float] | np.ndarray) -> Interval | None:
    return t_interval([float(v) for v in values]) if len(values) > 1 else None


def _cells(found: Mapping[str, Sequence[float]]) -> list[Interval | None]:
    return [_mean(found[region]) for region in REGIONS]


def _picture(results: Results) -> Picture:
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(5, 3.4))
    for key, text in NETWORKS.items():
        with np.load(results.folder(f"scatter/{key}") / "shown.npz") as file:
            axis.plot(file["network"], label=text)
            true = file["true"]
    axis.plot(true, color="black", label="true")
    axis.set_xlabel("radial bin")
    axis.set_ylabel("scatter, counts")
    axis.legend(fontsize=7)
    return Picture.of(figure, "Scatter of the first patient of the test, over views and planes")
