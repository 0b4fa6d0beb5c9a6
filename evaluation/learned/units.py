"""The work of the suite `learned`: settings, trainings, test scans, and the same networks where things change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emrecon import recon, unrolled
from emrecon.projectors.core.files import atomic_stream
from emrecon.unrolled.training.fit import fit_metrics

from ..classical import method_named
from ..deep import plug_and_play
from ..methods import Method
from ..own import own_methods
from ..suite import Options, Unit, folder_of, numbers_of
from ..tasks import Task, task_named
from ..tuning import tune
from .changes import Changed, changes_of
from .networks import NETWORKS, Network
from .scoring import evaluated, held_out_cases, joined, score, with_guide_of_another
from .training import (
    VALIDATION,
    Budget,
    loaded,
    mean_error,
    saved,
    train_denoiser,
    train_network,
    try_rates,
    validation_of,
)

CLASSICAL = ("osem", "osem-gaussian", "map-rdp", "map-bowsher", "kem")
DEEP_PRIORS = ("dip-recon", "dip-ot")
PNP = "pnp"
REFERENCE, CONTROLS = "map-rdp", ("guide-only", "guide-only-long")
TASKS = ("brain-pet", "brain-spect")
SHIPPED = ("fbsem-net", "mapem-net")
MEASURED = 900_000
"""The seed of the counts of scans whose statistics cards state."""
SHOWN = 2
"""Test scans whose images are kept for the report."""


@dataclass(frozen=True)
class Size:
    """How much of everything a run does.

    Args:
        n_train, n_test : scans.
        n_seeds : trainings of each network, at most.
        n_changed : test scans of each change.
        n_measured : training scans whose statistics cards state.
        methods : of all, those that this size has; empty: all.
        tasks : likewise.
    """

    budget: Budget
    n_train: int
    n_test: int
    n_seeds: int
    n_changed: int
    n_measured: int
    methods: tuple[str, ...] = ()
    tasks: tuple[str, ...] = TASKS
    changes: tuple[str, ...] = ()


SIZES = {
    "full": Size(Budget(), 1000, 30, 9, 12, 200),
    "quick": Size(
        Budget(16, 4, 3, (2e-3, 4e-3), 8, 4),
        32,
        6,
        2,
        4,
        16,
        ("osem", "map-rdp", "map-bowsher", "fbsem-net", "post-unet", "counts-only", *CONTROLS),
        ("brain-pet",),
        ("counts-quarter", "guide-2mm", "guide-other"),
    ),
}


@dataclass(frozen=True)
class Work:
    """A task with the size of a run."""

    task: Task
    size: Size
    n_seeds: int
    wanted: tuple[str, ...]
    own: tuple[Method, ...] = ()

    def name(self, *parts: str) -> str:
        """Return the name of a unit."""
        return "/".join((self.task.name, *parts))

    def has(self, name: str) -> bool:
        """Whether a method is wanted; the reference and the control always are."""
        chosen = self.wanted or self.size.methods
        return not chosen or name in chosen or name in (REFERENCE, *CONTROLS)

    @property
    def networks(self) -> list[Network]:
        """The networks that are trained."""
        return [network for network in NETWORKS if self.has(network.name)]

    @property
    def methods(self) -> list[str]:
        """The names of what is tuned and not trained."""
        return [name for name in (*CLASSICAL, *DEEP_PRIORS, PNP) if self.has(name)]

    @property
    def shipped(self) -> list[str]:
        """The names of the weights that come with the library for this kind of scan."""
        return [f"{name}-{self.task.name}" for name in SHIPPED if self.has(f"shipped-{name}")]

    @property
    def changes(self) -> list[Changed]:
        """What changes in the second part."""
        wanted = self.size.changes
        return [c for c in changes_of(self.task) if not wanted or c.change is None or c.name in wanted]

    def seeds_of(self, network: Network) -> list[str]:
        """Return the names of a network's trainings."""
        return [self.name(network.name, f"seed-{k}") for k in range(self.n_seeds)]


def works(options: Options) -> list[Work]:
    """Return the tasks of a run."""
    size = SIZES[options.size]
    wanted = tuple(name for name in options.methods if ":" not in name and not name.endswith(".safetensors"))
    known = {*CLASSICAL, *DEEP_PRIORS, PNP, *(n.name for n in NETWORKS), *(f"shipped-{name}" for name in SHIPPED)}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"unknown method '{unknown[0]}'; choose from {', '.join(sorted(known))}")
    own = tuple(own_methods(options.methods))
    found = []
    for name in size.tasks:
        task = task_named(name, options.work)
        task = replace(task, n_train=min(task.n_train, size.n_train))
        found.append(Work(task, size, min(options.seeds, size.n_seeds), wanted, own))
    return found


def units(options: Options) -> Sequence[Unit]:
    """Return the work of a run."""
    return list(chain.from_iterable(_units(work) for work in works(options)))


def _units(work: Work) -> Iterator[Unit]:
    about = {"budget": asdict(work.size.budget), "n_test": work.size.n_test, "n_train": work.size.n_train}
    changed = {**about, "n_changed": work.size.n_changed, "changes": [change.name for change in work.changes]}
    measured = work.name("statistics")
    yield Unit(measured, lambda folder: _statistics(work, folder), (), changed)
    yield Unit(work.name("scans"), lambda folder: _scans(work, folder), (), about)
    yield from _tuned_units(work, [name for name in work.methods if name in CLASSICAL], about, changed)
    for network in work.networks:
        rate = work.name(network.name, "rate")
        yield Unit(rate, partial(try_rates, work.task, network, work.size.budget), (), about)
        for k, unit in enumerate(work.seeds_of(network)):
            yield Unit(unit, partial(_trained, work, network, k), (rate, measured), about)
        needs = tuple(work.seeds_of(network))
        yield Unit(
            work.name(network.name, "changes"),
            partial(_trained_changes, work, network),
            needs,
            {**changed, "seeds": work.n_seeds},
        )
    yield from _tuned_units(work, [name for name in work.methods if name not in CLASSICAL], about, changed)
    for name in work.shipped:
        yield Unit(work.name(f"shipped-{name}"), partial(_shipped, work, name), (), changed)
    for method in work.own:
        yield Unit(work.name(method.name), partial(_own, work, method), (), changed)


def _tuned_units(
    work: Work, names: Sequence[str], about: Mapping[str, Any], changed: Mapping[str, Any]
) -> Iterator[Unit]:
    if PNP in names:
        yield Unit(work.name("denoiser"), lambda folder: _denoiser(work, folder), arguments=about)
    for name in names:
        needs = (work.name("denoiser"),) if name == PNP else ()
        unit = work.name(name)
        yield Unit(unit, partial(_tuned, work, name), needs, about)
        if name not in DEEP_PRIORS:
            yield Unit(
                work.name(name, "changes"),
                partial(_tuned_changes, work, name),
                (unit,),
                changed,
            )


# ---- what is tuned ---------------------------------------------------------------------------------------------------


def _method(work: Work, name: str, unit: str, folder: Path) -> Method:
    if name != PNP:
        return method_named(name)
    denoiser = train_denoiser(work.task, work.size.budget, folder_of(folder, unit, work.name("denoiser")))
    return plug_and_play(denoiser)


def _denoiser(work: Work, folder: Path) -> Mapping[str, Any]:
    model = train_denoiser(work.task, work.size.budget, folder)
    return {"parameters": unrolled.count_parameters(model)}


def _tuned(work: Work, name: str, folder: Path) -> Mapping[str, Any]:
    """Choose the settings of a method on validation scans, and use them on the test scans."""
    method = _method(work, name, work.name(name), folder)
    n = min(method.n_validation, work.size.budget.n_validation)
    case = work.task.cases("validation", list(range(n)), seed=VALIDATION)

    def evaluate(settings: dict[str, Any], shown: tuple[int, ...]) -> dict[int, float]:
        found = {}
        for iteration, images in method.images(case, **settings):
            if not shown or iteration in shown:
                found[iteration] = float(recon.nrmse(torch.as_tensor(images), case.truth, dimensions=3).mean())
            if shown and iteration >= shown[-1]:
                break
        return found

    tuned = tune(evaluate, method.grid, method.shown, budget=work.size.budget.trials)
    numbers = _tested(work, lambda case: method.at(case, tuned.iteration, **tuned.settings), folder, method.sees_guide)
    return numbers | {
        "tuned": tuned.as_dict(),
        "title": method.title,
        "kind": method.kind,
        "sees guide": method.sees_guide,
    }


def _tested(work: Work, reconstruct: Any, folder: Path, sees_guide: bool) -> dict[str, Any]:
    """The numbers of test scans, those with the guide of another subject, and two images for the report."""
    n = work.size.n_test
    numbers, images = evaluated(reconstruct, held_out_cases(work.task, n), keep=SHOWN)
    _keep(folder, images=images)
    if sees_guide:
        others = (with_guide_of_another(case) for case in held_out_cases(work.task, n))
        numbers["another's guide"] = evaluated(reconstruct, others)[0]["nrmse"]
    return numbers


def _keep(folder: Path, **arrays: Any) -> None:
    with atomic_stream(folder / "shown.npz") as stream:
        shown = {name: np.asarray(values, np.float32) for name, values in arrays.items()}
        np.savez_compressed(stream, **shown)  # type: ignore[arg-type]


def _tuned_changes(work: Work, name: str, folder: Path) -> Mapping[str, Any]:
    unit = work.name(name, "changes")
    tuned = numbers_of(folder, unit, work.name(name))["tuned"]
    method = _method(work, name, unit, folder)
    return {"nrmse": _changed(work, [lambda case: method.at(case, tuned["iteration"], **tuned["settings"])])}


# ---- what is trained -------------------------------------------------------------------------------------------------


def _trained(work: Work, network: Network, seed: int, folder: Path) -> Mapping[str, Any]:
    """Train a network with a seed, keep its weights, and use them on the test scans."""
    task, budget = work.task, work.size.budget
    unit = work.name(network.name, f"seed-{seed}")
    rate = numbers_of(folder, unit, work.name(network.name, "rate"))
    model, last = train_network(task, network, budget, folder, seed=seed, rate=rate["rate"])
    validation = validation_of(task, network.inputs, budget.n_validation)
    metrics = {"validation nrmse": mean_error(model, validation)} | fit_metrics(_fits(model, validation))
    about = {
        "metrics": metrics,
        "dimensions": 2 if task.shape[2] == 1 else 3,
        "guide": "guide" if network.sees_guide else None,
        "statistics": ranges(numbers_of(folder, unit, work.name("statistics")), network.sees_guide),
        "training": {
            "simulation": task.describe(),
            "budget": asdict(budget),
            "seed": seed,
            "learning_rate": rate["rate"],
            "loss": "relative-mse",
            "noise": "drawn anew in every step",
        },
    }
    parameters = saved(folder, model, network, about)

    def reconstruct(case: Any) -> torch.Tensor:
        with torch.no_grad():
            image: torch.Tensor = model(**network.inputs(case))
            return image

    numbers = _tested(work, reconstruct, folder, network.sees_guide)
    return numbers | {
        "parameters": parameters,
        "metrics": metrics,
        "rate": rate,
        "title": network.title,
        "kind": network.kind,
        "sees guide": network.sees_guide,
        **last,
    }


def _fits(model: Any, pairs: Sequence[Any]) -> list[float]:
    with torch.no_grad():
        found = [unrolled.data_fit(model(**arguments), arguments["likelihood"]) for arguments, _ in pairs]
    return [float(value) for value in torch.cat(found)]


def _trained_changes(work: Work, network: Network, folder: Path) -> Mapping[str, Any]:
    unit, dimensions = work.name(network.name, "changes"), 2 if work.task.shape[2] == 1 else 3
    models = [loaded(folder_of(folder, unit, one), network, dimensions) for one in work.seeds_of(network)]
    return {"nrmse": _changed(work, [_applied(network, model) for model in models])}


def _applied(network: Network, model: Any) -> Any:
    def reconstruct(case: Any) -> torch.Tensor:
        with torch.no_grad():
            image: torch.Tensor = model(**network.inputs(case))
            return image

    return reconstruct


def _changed(work: Work, reconstructs: Sequence[Any]) -> dict[str, list[list[float]]]:
    """NRMSE by change, "as trained" first: (seeds, subjects)."""
    found = {}
    for change in work.changes:
        parts: list[list[float]] = [[] for _ in reconstructs]
        for case in change.cases(work.task, work.size.n_changed):
            for part, reconstruct in zip(parts, reconstructs):
                part += np.asarray(recon.nrmse(torch.as_tensor(reconstruct(case)), case.truth, dimensions=3)).tolist()
        found[change.name] = parts
    return found


# ---- what comes with the library, or from the user -------------------------------------------------------------------


def _shipped(work: Work, name: str, folder: Path) -> Mapping[str, Any]:
    """The weights that come with the library, on these scans and where things change."""
    model, card = unrolled.pretrained(name)

    def reconstruct(case: Any) -> torch.Tensor:
        with torch.no_grad():
            image: torch.Tensor = model(case.likelihood, guide=case.guide)
            return image

    numbers = _tested(work, reconstruct, folder, True)
    return numbers | {
        "parameters": card.parameters,
        "title": f"{name}, as it comes with emrecon",
        "kind": "unrolled",
        "sees guide": True,
        "changes": _changed(work, [reconstruct]),
    }


def _own(work: Work, method: Method, folder: Path) -> Mapping[str, Any]:
    numbers = _tested(work, method.at, folder, method.sees_guide)
    about = {"title": method.title, "kind": method.kind, "sees guide": method.sees_guide}
    return numbers | about | {"changes": _changed(work, [method.at])}


def _statistics(work: Work, folder: Path) -> Mapping[str, Any]:
    """What is measured of training scans, whose range goes into cards, and of test scans where things change."""
    del folder
    task, found = work.task, []
    n = min(work.size.n_measured, task.n_train)
    for first in range(0, n, 20):
        case = task.cases("train", list(range(first, min(first + 20, n))), seed=MEASURED)
        found.append(unrolled.scan_statistics(case.likelihood, case.guide, voxel_size=case.voxel_size))
    changed: dict[str, dict[str, list[float]]] = {}
    for change in work.changes:
        own = changed.setdefault(change.name, {})
        for case in change.cases(task, work.size.n_changed):
            made = unrolled.scan_statistics(case.likelihood, case.guide, voxel_size=case.voxel_size)
            for name, values in made.items():
                own.setdefault(name, []).extend(values.tolist())
    return {"range": unrolled.statistics_range(found), "changes": changed}


def ranges(statistics: Mapping[str, Any], sees_guide: bool) -> dict[str, Any]:
    """Return what a card states of `_statistics`; of a network without a guide nothing of guides."""
    return {name: edges for name, edges in statistics["range"].items() if sees_guide or not name.startswith("guide")}


def _scans(work: Work, folder: Path) -> Mapping[str, Any]:
    """What the test scans hold, for the report."""
    cases = list(held_out_cases(work.task, work.size.n_test))
    first = cases[0]
    _keep(folder, truth=first.truth[:SHOWN], guide=first.guide[:SHOWN])
    flat = joined([score(case.truth, case) for case in cases])
    return {
        "subjects": len(flat["nrmse"]),
        "lesions": [{k: one[k] for k in ("subject", "kind", "in guide", "diameter")} for one in flat["lesions"]],
        "counts": [float(v) for case in cases for v in torch.as_tensor(case.likelihood.data).flatten(1).sum(1)],
    }
