"""Without clean images: Noise2Noise on thinned counts, Noise2Void and the deep image prior against clean targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from emrecon import recon, unrolled
from emrecon.projectors.core.files import atomic_stream
from emrecon.unrolled.training.noise2noise import stacked_pairs
from emrecon.unrolled.training.stages import finished

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import compare_paired, t_interval
from ..suite import Options, Results, Unit, folder_of, numbers_of
from ..tasks import Task, task_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TASKS = {"pet": "brain-pet", "spect": "brain-spect"}
"""Brains with an MR, whose structure does not give the activity away."""

LEVEL = 0.1
"""The part of the task's counts that a scan has: about 80,000 for PET and 40,000 for SPECT in a slice."""

PASSES, SUBSETS = 4, 6
_TOGETHER = 12  # scans that are reconstructed at once
_LIMIT = 0.5  # dB, of Noise2Noise from supervised

Pair = tuple[dict[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Size:
    """How much of everything a run does.

    Args:
        n_train, n_validation, n_test : scans.
        steps, batch, width : of the trainings; channels of the network.
        repeats : divisions of each scan in training and in use.
        n_dip, dip_iterations : images that deep image priors are fitted to, and for how long.
    """

    n_train: int
    n_validation: int
    n_test: int
    steps: int
    batch: int
    width: int
    repeats: int
    n_dip: int
    dip_iterations: int


SIZES = {"full": Size(24, 2, 16, 300, 8, 16, 2, 8, 20), "quick": Size(4, 2, 2, 6, 2, 2, 1, 2, 2)}


@dataclass(frozen=True)
class Entry:
    """A way to train, and the images that are made with what it trained.

    Args:
        kind : "supervised", "n2n" or "n2v".
        folds : of Noise2Noise.
        radius : of the blind spots of Noise2Void; None for that of the measured correlation.
        tasks : where it is tried.
    """

    name: str
    title: str
    kind: str
    folds: int = 2
    radius: float | None = 0.0
    tasks: tuple[str, ...] = ("pet",)


ENTRIES = (
    Entry("supervised", "Supervised, noise-free images of the same scans", "supervised", tasks=("pet", "spect")),
    Entry("n2n", "Noise2Noise, halves", "n2n", tasks=("pet", "spect")),
    Entry("n2n-4", "Noise2Noise, three quarters against one", "n2n", folds=4, tasks=("pet", "spect")),
    Entry("n2v", "Noise2Void", "n2v"),
    Entry("n2v-ball", "Noise2Void, neighbours hidden", "n2v", radius=None),
)
DIP = "dip"
USES = {"": "whole scan", "parts": "parts averaged"}


def units(options: Options) -> Sequence[Unit]:
    """Return the work of a run."""
    size = SIZES[options.size]
    about = asdict(size)
    found = []
    for task in TASKS:
        folds = {"folds": _folds_of(task), "level": LEVEL}
        found.append(Unit(f"clean/{task}/images", _images_unit(task, options), (), {**about, **folds}))
        for entry in ENTRIES:
            if task in entry.tasks:
                name = f"clean/{task}/{entry.name}"
                found.append(
                    Unit(name, _trained_unit(task, entry, options), (f"clean/{task}/images",), about | asdict(entry))
                )
    found.append(Unit(f"clean/pet/{DIP}", _dip_unit(options), ("clean/pet/images",), about))
    return found


def _folds_of(task: str) -> list[int]:
    """The divisions of the counts that the entries of a task need; halves always."""
    return sorted({entry.folds for entry in ENTRIES if task in entry.tasks})


# ---- images ----------------------------------------------------------------------------------------------------------


def _images_unit(task: str, options: Options) -> Callable[[Path], Mapping[str, Any]]:
    def run(folder: Path) -> Mapping[str, Any]:
        size = SIZES[options.size]
        work = options.work or folder_of(folder, f"clean/{task}/images", "samples")
        family = task_named(TASKS[task], work)
        numbers: dict[str, Any] = {}
        for part, n in (("train", size.n_train), ("validation", size.n_validation), ("test", size.n_test)):
            arrays = _made(family, part, n, size.repeats, _folds_of(task))
            with atomic_stream(folder / f"{part}.npz") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
            if part == "train":
                halves = [torch.as_tensor(arrays[f"seen-2-{k}"]) for k in range(2)]
                numbers["noise radius"] = unrolled.noise_radius(*halves)
            if part == "test":
                numbers |= {"subjects": _scores(arrays["full"], arrays)}
        return numbers

    return run


def _made(task: Task, part: str, n: int, repeats: int, folds: Sequence[int]) -> dict[str, np.ndarray]:
    """OSEM images (N, x, y, z) of all counts, without noise, and of divisions of the counts, with their scales."""
    blocks = [_block(task, part, range(k, min(k + _TOGETHER, n)), repeats, folds) for k in range(0, n, _TOGETHER)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _block(task: Task, part: str, which: range, repeats: int, all_folds: Sequence[int]) -> dict[str, np.ndarray]:
    reconstruct = unrolled.OSEMPasses(PASSES, SUBSETS)
    case = task.cases(part, list(which), seed=17, level=LEVEL)
    assert isinstance(case.likelihood, recon.PoissonLikelihood)
    expected = torch.as_tensor(np.asarray(task.store().read(part, list(which))["expected"], np.float32))
    exact = recon.PoissonLikelihood(LEVEL * expected.reshape(case.likelihood.data.shape), case.likelihood.model)
    assert case.guide is not None
    found = {"truth": case.truth, "guide": case.guide, "full": reconstruct(case.likelihood)}
    found |= {"clean": reconstruct(exact), "scale": torch.as_tensor(unrolled.count_scale(case.likelihood))}
    for folds in all_folds:
        for repeat in range(repeats if folds == 2 else 1):
            generator = torch.Generator().manual_seed(1000 * which[0] + 10 * folds + repeat)
            pairs = unrolled.leave_one_out(case.likelihood, folds, generator)
            others = [reconstruct(other) for _, other in pairs]
            for k, (seen, _) in enumerate(pairs):
                own = folds * repeat + k
                found[f"other-{folds}-{own}"] = others[k]
                found[f"seen-{folds}-{own}"] = others[1 - k] if folds == 2 else reconstruct(seen)
                found[f"scale-{folds}-{own}"] = torch.as_tensor(unrolled.count_scale(seen))
    return {name: np.asarray(values, np.float32) for name, values in found.items()}


def _arrays(own: Path, unit: str, task: str, part: str) -> dict[str, np.ndarray]:
    with np.load(folder_of(own, unit, f"clean/{task}/images") / f"{part}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _scores(images: np.ndarray, arrays: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """PSNR to the noise-free image and to the truth, dB, and NRMSE to the truth, of each test scan."""
    n = len(images)
    x, clean, truth = (torch.as_tensor(a[:n]) for a in (images, arrays["clean"], arrays["truth"]))
    return {
        "psnr": np.asarray(recon.psnr(x, clean, dimensions=3)).tolist(),
        "psnr to truth": np.asarray(recon.psnr(x, truth, dimensions=3)).tolist(),
        "nrmse": np.asarray(recon.nrmse(x, truth, dimensions=3)).tolist(),
    }


# ---- trainings -------------------------------------------------------------------------------------------------------


def _trained_unit(task: str, entry: Entry, options: Options) -> Callable[[Path], Mapping[str, Any]]:
    unit = f"clean/{task}/{entry.name}"

    def run(folder: Path) -> Mapping[str, Any]:
        size = SIZES[options.size]
        data = _arrays(folder, unit, task, "train")
        radius = entry.radius
        if radius is None:
            radius = max(1.0, float(numbers_of(folder, unit, f"clean/{task}/images")["noise radius"]))
        model = network(size.width)
        batches, objective = _learned(entry, data, size, radius)
        about = trained_alike(model, batches, objective, folder / "training", size.steps, unit)
        test = _arrays(folder, unit, task, "test")
        images = _in_use(model, entry, test)
        with atomic_stream(folder / "images.npz") as stream:
            np.savez(stream, **{name or "whole": made for name, made in images.items()})  # type: ignore[arg-type]
        subjects = {
            f"{use}{', ' * bool(use)}{name}": values
            for use, made in images.items()
            for name, values in _scores(made, test).items()
        }
        return {"subjects": subjects, "radius": radius, **about}

    return run


def network(width: int) -> unrolled.Enhancer:
    """Return the network of all entries, with the first weights of seed 0."""
    with unrolled.seeded(0):
        body = unrolled.SmallCNN(2, widths=(width,) * 3, residual=True)
        return unrolled.NetworkDenoiser(body, 2)


def trained_alike(
    model: nn.Module,
    batches: Callable[[int], Any],
    objective: Any,
    folder: Path,
    steps: int,
    signature: str,
    average: float | None = 0.99,
) -> dict[str, Any]:
    """Train a network, or go on, give it the weights of the last step, averaged if so, and return what it took.

    Adam, warm-up and cosine, gradients clipped. Nothing chooses among weights, so that no clean image is needed.
    """
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    settings = unrolled.Settings(
        steps, max(1, steps // 4), 1.0, average, watch="loss", folder=folder, signature=signature, pictures=False
    )
    schedule = unrolled.warmup_cosine(optimiser, steps, steps // 20)
    seconds = 0.0
    run = unrolled.train(model, batches, objective, optimiser, settings, schedule=schedule, networks=[])
    for record in finished(run, model, folder, "last"):
        seconds = record.seconds
    model.eval()
    return {"steps": steps, "parameters": unrolled.count_parameters(model), "seconds": seconds}


def _learned(entry: Entry, data: Mapping[str, np.ndarray], size: Size, radius: float) -> tuple[Any, Any]:
    """The batches and the objective of a training; nothing of what is clean but for the supervised one."""
    scaled = data["full"] / data["scale"]
    if entry.kind == "supervised":
        pairs = _tensors(scaled, data["clean"] / data["scale"])
        return _batches(pairs, size.batch), unrolled.Supervised(unrolled.mse)
    if entry.kind == "n2v":
        singles = _batches(_tensors(scaled, scaled), size.batch)
        # a ball around every voxel that is asked for leaves less to take, so that fewer are asked for
        edge = 8 if radius == 0 else 12
        objective = unrolled.Noise2Void((edge, edge, 1), radius=radius)
        return (lambda epoch: (given for given, _ in singles(epoch))), objective
    pairs = []
    for k in _divisions(data, entry.folds):
        scale = data[f"scale-{entry.folds}-{k}"]
        seen, other = (data[f"{name}-{entry.folds}-{k}"] / scale for name in ("seen", "other"))
        pairs += _tensors(seen, other)
    return _batches(pairs, size.batch), unrolled.Supervised(unrolled.mse)


def _divisions(data: Mapping[str, np.ndarray], folds: int) -> list[int]:
    return [k for k in range(len(data)) if f"seen-{folds}-{k}" in data]


def _tensors(images: np.ndarray, targets: np.ndarray) -> list[Pair]:
    return [({"x": torch.as_tensor(x)}, torch.as_tensor(t)) for x, t in zip(images, targets)]


def _batches(pairs: Sequence[Pair], size: int) -> Callable[[int], Iterator[Pair]]:
    def of_epoch(epoch: int) -> Iterator[Pair]:
        order = np.random.default_rng((3, epoch)).permutation(len(pairs))
        for k in range(0, len(pairs) - size + 1, size):
            yield stacked_pairs([pairs[i] for i in order[k : k + size]])

    return of_epoch


def _in_use(model: nn.Module, entry: Entry, test: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The images of the test scans, by use: of the whole scan, and of parts of it averaged."""

    def enhanced(images: np.ndarray, scale: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            made = model(torch.as_tensor(images / scale)).clamp(min=0).numpy()
        return np.asarray(scale * made, np.float32)

    found = {"": enhanced(test["full"], test["scale"])}
    if entry.kind == "n2n":
        name = f"-{entry.folds}-"
        parts = [enhanced(test[f"seen{name}{k}"], test[f"scale{name}{k}"]) for k in _divisions(test, entry.folds)]
        found["parts"] = np.mean(parts, 0)
    return found


# ---- deep image prior ------------------------------------------------------------------------------------------------


def _dip_unit(options: Options) -> Callable[[Path], Mapping[str, Any]]:
    unit = f"clean/pet/{DIP}"

    def run(folder: Path) -> Mapping[str, Any]:
        size = SIZES[options.size]
        prior = unrolled.ConditionalDIP(unrolled.dip_chain(2, norm="none"), fit=unrolled.Fit("adam", 10, 5e-3))
        held, test = (_arrays(folder, unit, "pet", part) for part in ("validation", "test"))
        found: dict[str, Any] = {"subjects": {}}
        for name, guided in (("with MR", True), ("of noise", False)):
            own = (
                prior
                if guided
                else unrolled.ConditionalDIP(unrolled.dip_chain(2, 8, norm="none"), fit=prior.fit, channels=8)
            )
            tried = _followed(own, held, min(2, size.n_validation), size.dip_iterations, guided)
            errors = [np.mean(_scores(images, held)["psnr"]) for images in tried]
            stop = int(np.argmax(errors))
            images = _followed(own, test, size.n_dip, stop + 1, guided)[-1]
            found["subjects"] |= {f"{name}, {key}": values for key, values in _scores(images, test).items()}
            found[f"iterations {name}"] = stop + 1
            with atomic_stream(folder / f"{name.replace(' ', '-')}.npz") as stream:
                np.savez(stream, images=images)
        return found

    return run


def _followed(
    prior: unrolled.ConditionalDIP, data: Mapping[str, np.ndarray], n: int, iterations: int, guided: bool
) -> list[np.ndarray]:
    """The images (n, x, y, z) after every iteration."""
    runs = []
    for k in range(n):
        guide = data["guide"][k] if guided else None
        steps = prior.iterates(torch.as_tensor(data["full"][k]), guide=guide)
        runs.append([np.asarray(next(steps).image) for _ in range(iterations)])
    return [np.stack([images[i] for images in runs]) for i in range(iterations)]


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return what the report shows."""
    return [_noise2noise(results), _others(results), _pictures(results)]


def _rows(results: Results, task: str) -> Iterator[tuple[str, Mapping[str, Sequence[float]], str]]:
    """Title, numbers of subjects, and how they are named, of everything that was tried on a task."""
    yield "OSEM, as it is", results[f"clean/{task}/images"]["subjects"], ""
    for entry in ENTRIES:
        if task in entry.tasks:
            subjects = results[f"clean/{task}/{entry.name}"]["subjects"]
            for use, said in USES.items():
                ending = f"{use}, " if use else ""
                if f"{ending}psnr" in subjects:
                    yield (f"{entry.title}, {said}" if entry.kind == "n2n" else entry.title), subjects, ending


def _table(results: Results, task: str, title: str) -> Table:
    reference = results[f"clean/{task}/supervised"]["subjects"]
    rows: list[tuple[Any, ...]] = []
    for name, subjects, ending in _rows(results, task):
        psnr, truth = subjects[f"{ending}psnr"], subjects[f"{ending}psnr to truth"]
        test = compare_paired(psnr, reference["psnr"])
        own = name == ENTRIES[0].title
        rows.append(
            (
                name,
                t_interval(psnr),
                None if own else test.difference,
                None if own else test.p,
                t_interval(truth),
                None if own else compare_paired(truth, reference["psnr to truth"]).difference,
            )
        )
    columns = ("method", "PSNR, dB", "less supervised, dB", "p", "PSNR to the truth, dB", "less supervised, dB ")
    note = (
        "PSNR to the image that the same reconstruction makes without noise, which the supervised network has learned "
        "from; and to the simulated activity. Means over test scans with 95 % intervals; p: signs of the differences."
    )
    return Table(title, columns, rows, note)


def _noise2noise(results: Results) -> Section:
    tables = [_table(results, task, f"{task.upper()}, brains") for task in TASKS]
    said = []
    for task in TASKS:
        for entry in ENTRIES:
            if entry.kind == "n2n" and task in entry.tasks:
                found = [_difference(results, task, entry.name, ending) for ending in ("parts, ", "")]
                verdict = "within" if found[0].value >= -_LIMIT else "not within"
                said.append(
                    f"{task.upper()}, {entry.title}: used on parts that are averaged {found[0].value:+.2f} dB "
                    f"({found[0].low:+.2f} to {found[0].high:+.2f}) from supervised, {verdict} {_LIMIT} dB; on the "
                    f"whole scan at once {found[1].value:+.2f} dB."
                )
    said.append(
        "What halves lack is the noise that they have more: a network that sees three quarters of the counts is nearer "
        "to one that sees all, though its targets are noisier."
    )
    return Section("Without clean images: Noise2Noise on thinned counts", (Text("", said), *tables))


def _difference(results: Results, task: str, name: str, ending: str) -> Interval:
    first, second = (results[f"clean/{task}/{unit}"]["subjects"] for unit in (name, "supervised"))
    return compare_paired(first[f"{ending}psnr"], second["psnr"]).difference


def _others(results: Results) -> Section:
    radius = results["clean/pet/images"]["noise radius"]
    numbers = results[f"clean/pet/{DIP}"]
    rows = []
    for name in ("with MR", "of noise"):
        own = {key: numbers["subjects"][f"{name}, {key}"] for key in ("psnr", "psnr to truth")}
        n = len(own["psnr"])
        reference = results["clean/pet/supervised"]["subjects"]
        noisy = results["clean/pet/images"]["subjects"]
        rows.append(
            (
                f"Conditional deep image prior {name}",
                numbers[f"iterations {name}"],
                t_interval(own["psnr"]),
                compare_paired(own["psnr"], reference["psnr"][:n]).difference,
                compare_paired(own["psnr"], noisy["psnr"][:n]).difference,
                t_interval(own["psnr to truth"]),
            )
        )
    columns = ("method", "iterations", "PSNR, dB", "less supervised, dB", "less OSEM, dB", "PSNR to the truth, dB")
    table = Table("PET: networks that are fitted to each image alone", columns, rows)
    said = (
        f"Noise of neighbouring voxels of these OSEM images is correlated up to {radius:g} voxels: Noise2Void, which "
        "assumes independent voxels, keeps noise that it can guess from the neighbours of a voxel; hiding them costs "
        "detail. Deep image priors stop where images of two validation scans were best, for which clean images are "
        "needed: they are shown at their best.",
    )
    return Section("Noise2Void and deep image priors, as they are", (Text("", said), table))


def _pictures(results: Results) -> Section:
    with np.load(results.folder("clean/pet/images") / "test.npz", allow_pickle=False) as file:
        shown = {"truth": file["truth"][0], "OSEM without noise": file["clean"][0], "OSEM": file["full"][0]}
    for entry in ENTRIES:
        with np.load(results.folder(f"clean/pet/{entry.name}") / "images.npz", allow_pickle=False) as file:
            shown[entry.name] = file["parts" if "parts" in file.files else "whole"][0]
    with np.load(results.folder(f"clean/pet/{DIP}") / "with-MR.npz", allow_pickle=False) as file:
        shown["dip, with MR"] = file["images"][0]
    return Section("Images", (Picture.of(grid_of(shown), "The first test scan of PET", "One window for all."),))


def grid_of(shown: Mapping[str, np.ndarray], columns: int = 5) -> Figure:
    """Return the middle slices of images beside one another, in one window."""
    from matplotlib.figure import Figure

    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    top = float(np.quantile(next(iter(shown.values())), 0.999))
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes, shown.items()):
        axis.imshow(image[..., image.shape[-1] // 2].T, cmap="gray_r", vmin=0, vmax=top)
        axis.set_title(name, fontsize=8)
    return figure
