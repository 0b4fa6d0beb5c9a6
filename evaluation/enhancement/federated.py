"""Federated averaging over three sites with different noise, against one pool of all scans and each site alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emrecon import recon, unrolled
from emrecon.projectors.core.files import atomic_stream
from emrecon.unrolled.training.noise2noise import stacked_pairs

from ..sections import Picture, Section, Table, Text
from ..statistics import compare_paired, t_interval
from ..suite import Options, Results, Unit, folder_of
from ..tasks import Case, task_named
from .clean import PASSES, SUBSETS, Pair, grid_of, network, trained_alike

TASK = "brain-pet"
_TOGETHER = 12  # scans that are reconstructed at once


@dataclass(frozen=True)
class Place:
    """A site: its counts, its scanner, and other patients than the others have.

    Args:
        level : the part of the task's counts.
        keys : of the task's recipe, dotted, that the site has otherwise.
    """

    name: str
    title: str
    level: float
    keys: Mapping[str, Any] = field(default_factory=dict)


PLACES = (
    Place("A", "A, 40 % of the counts", 0.4),
    Place("B", "B, 4 % of the counts", 0.04),
    Place("C", "C, 12 % of the counts, 9 mm instead of 5", 0.12, {"pet.resolution": 9.0}),
)


@dataclass(frozen=True)
class Size:
    """How much of everything a run does.

    Args:
        n_train : scans of each site.
        n_test : scans of every site's scanner, of the same patients.
        steps, local_steps, batch : of every training, between averages, and of each site.
        width : channels of the network.
    """

    n_train: int
    n_test: int
    steps: int
    local_steps: int
    batch: int
    width: int


SIZES = {"full": Size(8, 16, 240, 20, 4, 16), "quick": Size(4, 2, 4, 2, 2, 2)}
FEDERATED, POOLED = "federated", "pooled"


def units(options: Options) -> Sequence[Unit]:
    """Return the work of a run."""
    size = SIZES[options.size]
    about = asdict(size)
    scans = [
        Unit(f"federated/scans-{place.name}", partial(_scans, k, options), (), {**about, **asdict(place)})
        for k, place in enumerate(PLACES)
    ]
    names = tuple(unit.name for unit in scans)
    runs: dict[str, Callable[[Path], Mapping[str, Any]]] = {
        FEDERATED: partial(_federated, size),
        POOLED: partial(_pooled, size),
    }
    runs |= {f"only-{place.name}": partial(_alone, size, place.name) for place in PLACES}
    return [*scans, *(Unit(f"federated/{name}", run, names, about) for name, run in runs.items())]


# ---- scans -----------------------------------------------------------------------------------------------------------


def _scans(k: int, options: Options, folder: Path) -> Mapping[str, Any]:
    """OSEM images of a site's scans, with and without noise, over the scale of their counts."""
    place, size = PLACES[k], SIZES[options.size]
    work = options.work or folder_of(folder, f"federated/scans-{place.name}", "samples")
    task = task_named(TASK, work)
    task = replace(task, keys={**task.keys, **place.keys}, name=f"{task.name}{'-' * bool(place.keys)}{_words(place)}")
    mine = range(k * size.n_train, (k + 1) * size.n_train)  # other patients at every site
    for part, which in (("train", mine), ("test", range(size.n_test))):
        blocks = []
        for first in range(0, len(which), _TOGETHER):
            chosen = list(which[first : first + _TOGETHER])
            case = task.cases(part, chosen, seed=29 + k, level=place.level)
            expected = np.asarray(task.store().read(part, chosen)["expected"], np.float32)
            blocks.append(_images(case, place.level * expected))
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        with atomic_stream(folder / f"{part}.npz") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    return {"subjects": _scores(arrays["full"] * arrays["scale"], arrays)}


def _words(place: Place) -> str:
    return "-".join(f"{key.rpartition('.')[2]}-{value:g}" for key, value in place.keys.items())


def _images(case: Case, expected: np.ndarray) -> dict[str, np.ndarray]:
    reconstruct, likelihood = unrolled.OSEMPasses(PASSES, SUBSETS), case.likelihood
    assert isinstance(likelihood, recon.PoissonLikelihood)
    exact = recon.PoissonLikelihood(torch.as_tensor(expected).reshape(likelihood.data.shape), likelihood.model)
    scale = torch.as_tensor(unrolled.count_scale(likelihood))
    found = {"full": reconstruct(likelihood) / scale, "clean": reconstruct(exact) / scale, "scale": scale}
    return {name: np.asarray(values, np.float32) for name, values in {**found, "truth": case.truth}.items()}


def _arrays(own: Path, unit: str, place: str, part: str) -> dict[str, np.ndarray]:
    with np.load(folder_of(own, unit, f"federated/scans-{place}") / f"{part}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _scores(images: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """PSNR to the noise-free image, dB, and NRMSE to the truth, of each test scan."""
    x, scale = torch.as_tensor(images), torch.as_tensor(arrays["scale"])
    clean, truth = scale * torch.as_tensor(arrays["clean"]), torch.as_tensor(arrays["truth"])
    return {
        "psnr": np.asarray(recon.psnr(x, clean, dimensions=3)).tolist(),
        "nrmse": np.asarray(recon.nrmse(x, truth, dimensions=3)).tolist(),
    }


# ---- trainings -------------------------------------------------------------------------------------------------------


def _batches(own: Path, unit: str, place: str, size: int) -> Callable[[int], Iterator[Pair]]:
    """The batches of a site, noisy images and clean ones, in an order of the epoch."""
    data = _arrays(own, unit, place, "train")
    pairs = [({"x": torch.as_tensor(x)}, torch.as_tensor(t)) for x, t in zip(data["full"], data["clean"])]

    def of_epoch(epoch: int) -> Iterator[Pair]:
        order = np.random.default_rng((7, epoch)).permutation(len(pairs))
        for k in range(0, len(pairs) - size + 1, size):
            yield stacked_pairs([pairs[i] for i in order[k : k + size]])

    return of_epoch


def _federated(size: Size, folder: Path) -> Mapping[str, Any]:
    unit = f"federated/{FEDERATED}"
    model = network(size.width)
    sites = [unrolled.Site(p.name, _batches(folder, unit, p.name, size.batch), size.n_train) for p in PLACES]
    federation = unrolled.Federation(
        size.steps // size.local_steps, size.local_steps, clip=1.0, folder=folder / "training", signature=unit
    )
    seconds = 0.0
    for record in unrolled.federated(
        model,
        sites,
        unrolled.Supervised(unrolled.mse),
        lambda own: torch.optim.Adam(own.parameters(), 2e-3),
        federation,
        schedule_of=lambda optimiser: unrolled.warmup_cosine(optimiser, size.steps, size.steps // 20),
        networks_of=lambda own: [],
    ):
        seconds += record.seconds
    about = {"steps": size.steps, "rounds": federation.rounds, "seconds": seconds}
    return {**_tested(model.eval(), folder, unit), **about, "parameters": unrolled.count_parameters(model)}


def _pooled(size: Size, folder: Path) -> Mapping[str, Any]:
    """All scans in one place: every step sees what all sites see in a step of theirs."""
    unit = f"federated/{POOLED}"
    each = [_batches(folder, unit, place.name, size.batch) for place in PLACES]

    def together(epoch: int) -> Iterator[Pair]:
        for pairs in zip(*(batches(epoch) for batches in each)):
            yield {"x": torch.cat([given["x"] for given, _ in pairs])}, torch.cat([target for _, target in pairs])

    return _plain(unit, size, together, folder)


def _alone(size: Size, place: str, folder: Path) -> Mapping[str, Any]:
    unit = f"federated/only-{place}"
    return _plain(unit, size, _batches(folder, unit, place, size.batch), folder)


def _plain(unit: str, size: Size, batches: Callable[[int], Iterator[Pair]], folder: Path) -> Mapping[str, Any]:
    model = network(size.width)
    objective = unrolled.Supervised(unrolled.mse)
    about = trained_alike(model, batches, objective, folder / "training", size.steps, unit, average=None)
    return {**_tested(model, folder, unit), **about}


def _tested(model: nn.Module, folder: Path, unit: str) -> dict[str, Any]:
    """The scores of the test scans of every site; the images of the first are kept."""
    subjects: dict[str, list[float]] = {}
    shown = {}
    for place in PLACES:
        test = _arrays(folder, unit, place.name, "test")
        with torch.no_grad():
            made = test["scale"] * model(torch.as_tensor(test["full"])).clamp(min=0).numpy()
        subjects |= {f"{place.name}: {name}": values for name, values in _scores(made, test).items()}
        shown[place.name] = made[0]
    with atomic_stream(folder / "images.npz") as stream:
        np.savez(stream, **shown)
    return {"subjects": subjects}


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return what the report shows."""
    size = SIZES[options.size]
    names = {FEDERATED: "Federated", POOLED: "Pooled"} | {f"only-{p.name}": f"Only {p.name}" for p in PLACES}
    rows: list[tuple[Any, ...]] = [
        ("OSEM, as it is", *(t_interval(results[f"federated/scans-{p.name}"]["subjects"]["psnr"]) for p in PLACES))
    ]
    rows += [(title, *(t_interval(_psnr(results, name, p.name)) for p in PLACES)) for name, title in names.items()]
    table = Table(
        "PSNR to the image without noise, dB, by the site of the test scans",
        ("trained", *(place.title for place in PLACES)),
        rows,
        f"{size.steps} steps each: at every site, with an average after every {size.local_steps}; of batches of all "
        "sites together; of one site. The same first weights, rates and test patients.",
    )
    tests = []
    for place in PLACES:
        for other, title in ((POOLED, "pooled"), (f"only-{place.name}", f"only {place.name}")):
            found = compare_paired(_psnr(results, FEDERATED, place.name), _psnr(results, other, place.name))
            tests.append((f"{place.name}, federated less {title}", found.difference, found.p))
    paired = Table("Paired differences, dB", ("test scans", "difference", "p"), tests, "p: signs of the differences.")
    foreign = np.mean([_psnr(results, f"only-{p.name}", q.name) for p in PLACES for q in PLACES if p is not q])
    gained = np.mean([_psnr(results, FEDERATED, place.name) for place in PLACES])
    pooled = np.mean([_psnr(results, POOLED, place.name) for place in PLACES])
    said = (
        f"Over all test scans the federated network has {gained:.2f} dB, the pooled one {pooled:.2f} dB; networks of "
        f"one site have {foreign:.2f} dB on the scans of the other two."
    )
    with np.load(results.folder("federated/scans-B") / "test.npz", allow_pickle=False) as file:
        shown = {name: (file[name] * file["scale"])[0] for name in ("clean", "full")}
    shown = {"B, without noise": shown["clean"], "B, OSEM": shown["full"]}
    for name, title in names.items():
        with np.load(results.folder(f"federated/{name}") / "images.npz", allow_pickle=False) as file:
            shown[title] = file["B"]
    picture = Picture.of(grid_of(shown, 4), "The first test scan of site B", "One window for all.")
    return [Section("Sites that share weights and no scans", (Text("", (said,)), table, paired, picture))]


def _psnr(results: Results, name: str, place: str) -> list[float]:
    found: list[float] = results[f"federated/{name}"]["subjects"][f"{place}: psnr"]
    return found
