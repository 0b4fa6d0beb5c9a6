"""Scatter of a network in SPECT against energy windows (TEW) and the effective source (ESSE): activity by region."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import recon, sims, unrolled
from emrecon.projectors import EffectiveSource, EnergyWindow, ImageGrid, SPECTGeometry, WindowedScan
from emrecon.unrolled.corrections import attenuation_lines

from ..kept import kept
from ..sections import Interval, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .images import folder_for
from .mapping import REGIONS, Arrays, add_errors, case_of, labels, patient, stacked
from .training import trained

GRID = ImageGrid((34, 24, 9), (16.0, 16.0, 16.0))
CAMERA = SPECTGeometry.circular(24, 290, (36, 9), 16.0)
WINDOWS = (EnergyWindow(126.5, 154.6, "peak"), EnergyWindow(112.0, 126.5, "lower"), EnergyWindow(154.6, 161.0, "upper"))
METHODS = {"none": "no correction", "tew": "triple energy window", "esse": "effective source"}
NETWORK = "13 layers in two paths"
SETS = {"test": "as in training", "lungs": "lungs of 0.45 g/mL", "bones": "bones 30 % denser"}
_FIRST = {"train": 0, "validation": 20_000, "test": 30_000, "lungs": 31_000, "bones": 32_000}
_COUNTS, _DURATION, _NUCLIDE = 5e6, 20.0, "Tc-99m"


def units(options: Options) -> Sequence[Unit]:
    """Return the work: classical corrections, and a network."""
    about = {"size": options.size, **_settings(options)}
    made = Unit("scatter_spect/classical", lambda folder: _classical(options, folder), arguments=about)
    return [made, Unit("scatter_spect/network", lambda folder: _network(options, folder), arguments=about)]


def _settings(options: Options) -> dict[str, int]:
    if options.size == "full":
        return {"train": 24, "validation": 2, "test": 4, "steps": 400, "width": 12}
    return {"train": 2, "validation": 1, "test": 1, "steps": 3, "width": 2}


def _simulator() -> sims.SPECTSimulator:
    scatter = EffectiveSource(WINDOWS[0].limits, 140.511)
    return sims.SPECTSimulator(GRID, CAMERA, duration=_DURATION, scatter=scatter, windows=WINDOWS[1:])


def _arrays(options: Options, folder: Path, unit: str, name: str) -> Arrays:
    n = _settings(options)[name if name in ("train", "validation") else "test"]
    path = folder_for(options, folder, unit) / f"scatter-spect-{name}-{n}.npz"
    return kept(path, lambda: stacked([_scan(_FIRST[name] + k, name) for k in range(n)]))


def _scan(seed: int, kind: str) -> dict[str, np.ndarray]:
    """Counts in three windows, the true scatter of the photopeak, and what is known."""
    body = patient(seed, kind, "bone-scan")
    simulator = _simulator()
    expected = simulator.expect([body]).with_counts(_COUNTS)
    inside = list(simulator.expected_in_windows(expected).values())
    counts = np.stack([np.asarray(e.measure([seed + k])[0], np.float32) for k, e in enumerate(inside)])
    mu = np.asarray(expected.mu[0], np.float32)
    found = {"counts": counts, "scatter": np.asarray(expected.scatter[0], np.float32), "mu": mu}
    found |= {"factor": np.asarray(np.ravel(expected.factors)[0], np.float32), "labels": labels(body, GRID)}
    return found | {"lines": attenuation_lines(CAMERA, mu, GRID)}


def _image(case: Arrays, scatter: np.ndarray | str) -> np.ndarray:
    """The OSEM image of the photopeak with expected scatter, or with that of a method by name."""
    scan = WindowedScan(WINDOWS, tuple(case["counts"]), CAMERA, float(case["factor"]), _DURATION, _NUCLIDE)
    named = scatter if isinstance(scatter, str) else "none"
    more = 1e-3 if isinstance(scatter, str) else scatter + np.float32(1e-3)
    problem = recon.spect_problem(
        scan, mu=case["mu"], scatter=named, background=more, peak="peak", grid=GRID, subsets=6
    )
    return np.asarray(recon.reconstruct(problem, "osem", 3), np.float32)


def _classical(options: Options, folder: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = {}
    for name in SETS:
        arrays = _arrays(options, folder, "scatter_spect/classical", name)
        rows: dict[str, dict[str, list[float]]] = {key: {r: [] for r in REGIONS} for key in METHODS}
        for k in range(len(arrays["mu"])):
            case = case_of(arrays, k)
            reference = _image(case, case["scatter"])
            for key in METHODS:
                add_errors(rows[key], case, _image(case, key), reference)
        found[name] = rows
    return found


def _network(options: Options, folder: Path) -> Mapping[str, Any]:
    unit, settings = "scatter_spect/network", _settings(options)
    train, held = (_arrays(options, folder, unit, part) for part in ("train", "validation"))
    with unrolled.seeded(0):
        model = unrolled.scatter_preset("two-paths", half_turn=False, width=settings["width"])
    numbers = trained(
        model,
        _batches(train),
        unrolled.Supervised(unrolled.relative_mse),
        unrolled.Validation([_pair(held, np.arange(len(held["mu"])))]),
        folder / "training",
        settings["steps"],
        rate=3e-3,
        signature=unit,
    )
    found: dict[str, Any] = {}
    for part in SETS:
        arrays = _arrays(options, folder, unit, part)
        rows: dict[str, list[float]] = {r: [] for r in REGIONS}
        for k in range(len(arrays["mu"])):
            case = case_of(arrays, k)
            with torch.no_grad():
                scatter = model(**_pair(arrays, np.array([k]))[0]).numpy()[0]
            add_errors(rows, case, _image(case, scatter), _image(case, case["scatter"]))
        found[part] = rows
    return {**numbers, **found}


def _batches(arrays: Arrays) -> Callable[[int], Iterator[Any]]:
    def of_epoch(epoch: int) -> Iterator[Any]:
        for k in sims.generator(0, f"order of epoch {epoch}").permutation(len(arrays["mu"])):
            yield _pair(arrays, np.array([k]))

    return of_epoch


def _pair(arrays: Arrays, which: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    shown = {"emission": arrays["counts"][which, 0], "attenuation": arrays["lines"][which]}
    return {key: torch.as_tensor(v) for key, v in shown.items()}, torch.as_tensor(arrays["scatter"][which])


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return a table of the activity by region for every set."""
    classical, network = results["scatter_spect/classical"], results["scatter_spect/network"]
    parts: list[Table | Text] = []
    for name, said in SETS.items():
        rows = [(text, *_cells(classical[name][key])) for key, text in METHODS.items()]
        rows.append((NETWORK, *_cells(network[name])))
        note = "Mean over patients of the activity over that with the true scatter, less 1."
        parts.append(Table(f"Activity, % off: {said}", ("scatter", *REGIONS), rows, note))
    text = (
        "The scatter of these scans is that of effective sources on finer voxels: the effective source is at an "
        "advantage, since data and correction share their model of scatter."
    )
    return [Section("Scatter of SPECT", [*parts, Text("", (text,))])]


def _cells(found: Mapping[str, Sequence[float]]) -> list[Interval | None]:
    return [t_interval([float(v) for v in found[r]]) if len(found[r]) > 1 else None for r in REGIONS]
