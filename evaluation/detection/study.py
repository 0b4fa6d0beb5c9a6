"""The work of the study of detection: scans, images, scores of observers, and fidelity, unit by unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from emrecon import recon
from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.files import atomic_path

from ..classical import method_named
from ..methods import Method
from ..own import is_own, own_methods
from ..suite import Options, Unit, folder_of, numbers_of
from . import networks
from .cnn_observer import CNNObserver
from .networks import Training, osem_images
from .tasks import SEVERITIES, DetectionTask, Scans, bone_lesion, liver_lesion, lung_lesion, myocardial_defect, patches

CLASSICAL = ("osem", "osem-gaussian", "map-rdp")
TITLES = {
    "full": "OSEM, all counts",
    "osem": "OSEM",
    "osem-gaussian": "OSEM + Gaussian",
    "map-rdp": "MAP-RDP",
    **networks.TITLES,
}
_FAMILIES: dict[str, Callable[[], DetectionTask]] = {
    "heart": myocardial_defect,
    "fdg": liver_lesion,
    "bone": bone_lesion,
}
_TASKS: dict[str, tuple[str, Callable[[], DetectionTask]]] = {
    "heart-known": ("heart", lambda: myocardial_defect(8, 0.5)),
    "heart": ("heart", myocardial_defect),
    "liver": ("fdg", liver_lesion),
    "lung": ("fdg", lung_lesion),
    "bone": ("bone", bone_lesion),
}
_MAP_ITERATION = 12
_GRIDS = {"osem-gaussian": ("fwhm", (8.0, 12.0, 18.0, 26.0)), "map-rdp": ("beta", (0.01, 0.03, 0.1, 0.3))}


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Args:
        tasks : their names.
        n_test : images of each class.
        n_train, n_validation : scans of a family, half of them with a lesion.
        levels : parts of all counts.
        seeds : trainings of each network.
        segments : of the myocardium, each with three severities, for the polar maps; and realisations of each.
    """

    tasks: tuple[str, ...]
    n_test: int
    n_train: int
    n_validation: int
    levels: tuple[float, ...]
    seeds: int
    training: Training
    segments: tuple[int, ...]
    realisations: int
    cnn_draws: int
    cnn_steps: int

    @property
    def cnn_level(self) -> float:
        """The level at which the network observes."""
        return self.levels[len(self.levels) // 2]


def size_of(options: Options) -> Size:
    """Return the sizes of "quick" and "full"."""
    if options.size == "quick":
        small = Training(steps=30, unrolled_steps=3, unrolled_batch=4, width=4)
        return Size(("bone",), 16, 8, 4, (0.25, 0.0625), 1, small, (17,), 12, 2, 30)
    levels = (0.5, 0.25, 0.125, 0.0625)
    return Size(tuple(_TASKS), 200, 96, 24, levels, options.seeds, Training(), tuple(range(1, 18)), 120, 6, 400)


def task_named(name: str) -> DetectionTask:
    """Return a task of the study."""
    return _TASKS[name][1]()


def family_of(name: str) -> str:
    """Return whose training scans and networks a task takes."""
    return _TASKS[name][0]


def methods_of(options: Options) -> tuple[list[str], list[Method]]:
    """Return the names of the study's methods that were chosen, and the user's own methods.

    Raises ValueError for an unknown name.
    """
    known = (*CLASSICAL, *networks.NETWORKS)
    own, named = own_methods(options.methods), [name for name in options.methods if not is_own(name)]
    unknown = [name for name in named if name not in known]
    if unknown:
        raise ValueError(f"unknown method '{unknown[0]}'; choose from {', '.join(known)}")
    # OSEM is what others start from and are compared with
    return [name for name in known if not named or name in named or name == "osem"], own


def columns_of(name: str, size: Size) -> list[str]:
    """Return the units of a method's images without that of the task: one for each training."""
    return [f"{name}/seed-{k + 1}" for k in range(size.seeds)] if name in networks.NETWORKS else [name]


def units_of(options: Options) -> list[Unit]:
    """Return the work of the study."""
    size, (chosen, own) = size_of(options), methods_of(options)
    arguments = {"size": asdict(size)}
    units: list[Unit] = []

    def add(name: str, run: Callable[..., Mapping[str, Any]], *given: Any, needs: Sequence[str] = ()) -> None:
        units.append(Unit(name, partial(run, name, size, *given), tuple(needs), arguments))

    for family in dict.fromkeys(map(family_of, size.tasks)):
        scans = f"train-scans/{family}"
        add(scans, _train_scans, family)
        for method in (m for m in _GRIDS if m in chosen):
            add(f"tuned/{family}/{method}", _tuned, family, method, needs=[scans])
        for method in (m for m in networks.NETWORKS if m in chosen):
            for seed, column in enumerate(columns_of(method, size)):
                add(f"trained/{family}/{column}", _trained, family, method, seed, needs=[scans])
    for task in size.tasks:
        family, scans, osem = family_of(task), f"scans/{task}", f"{task}/osem"
        add(scans, _test_scans, task)
        add(osem, _observed_osem, task, needs=[scans])
        for method in chosen:
            if method in _GRIDS:
                add(f"{task}/{method}", _observed, task, method, needs=[scans, f"tuned/{family}/{method}"])
            elif method in networks.NETWORKS:
                for column in columns_of(method, size):
                    needs = [scans, f"trained/{family}/{column}", osem]
                    add(f"{task}/{column}", _observed_network, task, method, column, needs=needs)
        for mine in own:
            add(f"{task}/{mine.name}", _observed_own, task, mine, needs=[scans])
        if task != "heart-known":
            add(f"{task}/cnn", _network_observer, task, needs=[scans, osem, f"train-scans/{family}"])
    for number in size.segments:
        add(f"segments/{number}", _segment, number)
    return units


# ---- scans -----------------------------------------------------------------------------------------------------------


def _train_scans(own: str, size: Size, family: str, folder: Path) -> Mapping[str, Any]:
    makers = {"fdg": (liver_lesion, lung_lesion)}.get(family, (_FAMILIES[family],))
    for part, first, n in (("train", 10_000, size.n_train), ("validation", 20_000, size.n_validation)):
        found = []
        for k, (make, present) in enumerate(product(makers, (False, True))):
            share = range(first + 1000 * k, first + 1000 * k + n // (2 * len(makers)))
            found.append(make().scans(list(share), present))
        found[0].followed_by(*found[1:]).write(folder / f"{part}.npz")
    return {"n_train": size.n_train, "n_validation": size.n_validation}


def _test_scans(own: str, size: Size, name: str, folder: Path) -> Mapping[str, Any]:
    task = task_named(name)
    for first, present in ((1, False), (5001, True)):  # other patients in each class
        task.scans(range(first, first + size.n_test), present).write(folder / f"{_class(present)}.npz")
    return {"n_test": size.n_test, "counts": task.counts, "known": task.known}


def _class(present: bool) -> str:
    return "present" if present else "absent"


def _both(own: str, folder: Path, name: str) -> Scans:
    """The scans of a task, absent before present."""
    at, task = folder_of(folder, own, f"scans/{name}"), task_named(name)
    absent, present = (Scans.read(task, at / f"{_class(present)}.npz") for present in (False, True))
    return absent.followed_by(present)


def _family(own: str, folder: Path, family: str, part: str) -> Scans:
    at = folder_of(folder, own, f"train-scans/{family}")
    return Scans.read(_FAMILIES[family](), at / f"{part}.npz")


# ---- methods ---------------------------------------------------------------------------------------------------------


def _tuned(own: str, size: Size, family: str, method: str, folder: Path) -> Mapping[str, Any]:
    """The setting of the least error on validation scans at each level, and the errors of all."""
    scans, (setting, values) = _family(own, folder, family, "validation"), _GRIDS[method]
    chosen, errors = {}, {}
    for level in size.levels:
        counts = scans.counts(level, 2)
        found = [_error(_images(method, scans, counts, level, {setting: value}), scans) for value in values]
        chosen[f"{level:g}"], errors[f"{level:g}"] = values[int(np.argmin(found))], found
    return {"setting": setting, "values": list(values), "chosen": chosen, "nrmse": errors}


def _trained(own: str, size: Size, family: str, method: str, seed: int, folder: Path) -> Mapping[str, Any]:
    parts = [_family(own, folder, family, part) for part in ("train", "validation")]
    return networks.train(method, parts[0], parts[1], size.levels, seed, size.training, folder)


def _images(method: str, scans: Scans, counts: np.ndarray, level: float, settings: Mapping[str, float]) -> np.ndarray:
    chosen, found = method_named(method), []
    iteration = networks.PASSES if method == "osem-gaussian" else _MAP_ITERATION
    for start in range(0, len(scans), 100):
        some = slice(start, start + 100)
        found.append(np.asarray(chosen.at(scans[some].case(counts[some], level), iteration, **settings)))
    return np.concatenate(found)


def _observed_osem(own: str, size: Size, name: str, folder: Path) -> Mapping[str, Any]:
    scans = _both(own, folder, name)
    found, scores = {}, {}
    for level in (1.0, *size.levels):
        images, scale = osem_images(scans, scans.counts(level, 5), level)
        with atomic_path(folder / f"images-{level:g}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, images=images, scale=scale)
        found[f"{level:g}"], scores[level] = judged(scans, images)
    _keep(folder, scores)
    return {"levels": found}


def _osem(own: str, folder: Path, name: str, level: float) -> tuple[np.ndarray, np.ndarray]:
    with np.load(folder_of(folder, own, f"{name}/osem") / f"images-{level:g}.npz") as stored:
        return stored["images"], stored["scale"]


def _observed(own: str, size: Size, name: str, method: str, folder: Path) -> Mapping[str, Any]:
    scans, tuned = _both(own, folder, name), numbers_of(folder, own, f"tuned/{family_of(name)}/{method}")

    def images(counts: np.ndarray, level: float) -> np.ndarray:
        return _images(method, scans, counts, level, {tuned["setting"]: tuned["chosen"][f"{level:g}"]})

    return _each_level(scans, size, images, folder)


def _observed_network(own: str, size: Size, name: str, method: str, column: str, folder: Path) -> Mapping[str, Any]:
    scans, at = _both(own, folder, name), folder_of(folder, own, f"trained/{family_of(name)}/{column}")
    network = networks.load(method, at, size.training)

    def images(counts: np.ndarray, level: float) -> np.ndarray:
        return networks.images_of(method, network, scans, counts, level, _osem(own, folder, name, level))

    return _each_level(scans, size, images, folder)


def _observed_own(own: str, size: Size, name: str, method: Method, folder: Path) -> Mapping[str, Any]:
    scans = _both(own, folder, name)

    def images(counts: np.ndarray, level: float) -> np.ndarray:
        blocks = [slice(start, start + 40) for start in range(0, len(scans), 40)]
        cases = (scans[some].case(counts[some], level, tensors=True) for some in blocks)
        return np.concatenate([to_numpy(method.at(case)) for case in cases])

    return _each_level(scans, size, images, folder)


def _each_level(
    scans: Scans, size: Size, images: Callable[[np.ndarray, float], np.ndarray], folder: Path
) -> Mapping[str, Any]:
    found, scores = {}, {}
    for level in size.levels:
        found[f"{level:g}"], scores[level] = judged(scans, images(scans.counts(level, 5), level))
    _keep(folder, scores)
    return {"levels": found}


# ---- observers -------------------------------------------------------------------------------------------------------


def judged(scans: Scans, images: np.ndarray, n_channels: int = 6) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what an observer and fidelity say of images (absent first, then as many present), and its scores.

    The area is that of leaving pairs out; scores (of leaving one out), errors and similarities are image by image.
    """
    task, half = scans.task, len(scans) // 2
    cut = patches(images, scans.sites, task.patch)
    absent, present = cut[:half], cut[half:]
    U = task.channels(n_channels)
    observer = recon.ChannelisedHotelling(U)
    area = recon.leave_pair_out_area(observer, absent, present)
    unsure = recon.leave_pair_out_area(recon.ChannelisedHotelling(U, internal_noise=1.0), absent, present)
    one, two = recon.leave_one_out(observer, absent, present)
    exact, tests = recon.snr_interval(absent, present, U), recon.normality(absent, U)
    nrmse, ssim = (np.asarray(measure(images, scans.truth, dimensions=3)) for measure in (recon.nrmse, recon.ssim))
    small = _shown(images, scans)
    numbers = {
        "area": [area.value, area.low, area.high],
        "standard_error": area.standard_error,
        "area_internal_noise": [unsure.value, unsure.low, unsure.high],
        "area_exact": [exact.area.value, exact.area.low, exact.area.high],
        "normal": tests.normal,
        "nrmse": _mean(nrmse),
        "ssim": _mean(ssim),
        "n": half,
    }
    return numbers, {"absent": one, "present": two, "nrmse": nrmse, "ssim": ssim, "shown": small}


def _shown(images: np.ndarray, scans: Scans) -> np.ndarray:
    """Return the middle slice of the last image and of its truth, for pictures, (2, x, y)."""
    k = images.shape[3] // 2
    return np.stack([images[-1, :, :, k], scans.truth[-1, :, :, k]])


def _mean(values: np.ndarray) -> list[float]:
    """Mean, ends of its interval."""
    error = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return [mean, mean - error, mean + error]


def _keep(folder: Path, scores: Mapping[float, Mapping[str, np.ndarray]]) -> None:
    flat = {f"{level:g}/{name}": values for level, parts in scores.items() for name, values in parts.items()}
    with atomic_path(folder / "scores.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **flat)  # type: ignore[arg-type]


def scores_in(folder: Path, level: float) -> dict[str, np.ndarray]:
    """Return what a unit has kept at a level: scores "absent" and "present", "nrmse", "ssim" by image, and "shown"."""
    with np.load(folder / "scores.npz") as stored:
        start = f"{level:g}/"
        return {name.removeprefix(start): stored[name] for name in stored.files if name.startswith(start)}


def _network_observer(own: str, size: Size, name: str, folder: Path) -> Mapping[str, Any]:
    """A network as observer of OSEM images, trained on the training patients, beside Hotelling on the same."""
    level, task = size.cnn_level, task_named(name)
    train, more = (_family(own, folder, family_of(name), part) for part in ("train", "validation"))
    train = train.followed_by(more)
    drawn = [osem_images(train, train.counts(level, 50 + k), level)[0] for k in range(size.cnn_draws)]
    cut = [patches(images, train.sites, task.patch) for images in drawn]
    absent, present = (np.concatenate([part[train.present == wanted] for part in cut]) for wanted in (False, True))
    scans, (images, _) = _both(own, folder, name), _osem(own, folder, name, level)
    tested = patches(images, scans.sites, task.patch)
    half, found = len(scans) // 2, {}
    observers: dict[str, recon.Observer] = {
        "network": CNNObserver(8, 2, steps=size.cnn_steps),
        "hotelling": recon.ChannelisedHotelling(task.channels()),
    }
    scores = {}
    for title, observer in observers.items():
        observer.fit(absent, present)
        scores[title] = observer.scores(tested[:half]), observer.scores(tested[half:])
        area = recon.area_under_curve(*scores[title])
        found[title] = [area.value, area.low, area.high]
    compared = recon.compare_areas(*scores["hotelling"], *scores["network"])
    difference = [compared.difference.value, *compared.difference.interval]
    return {"level": level, **found, "difference": difference, "p": compared.p, "n_train": len(absent), "n": half}


def _segment(own: str, size: Size, number: int, folder: Path) -> Mapping[str, Any]:
    """The area under the curve of each severity of one segment, at a level of the study, OSEM."""
    level, found = size.cnn_level, {}
    for severity in SEVERITIES:
        task = myocardial_defect(number, severity)
        n = size.realisations
        scans = task.scans(range(n), False).followed_by(task.scans(range(n), True))
        images, _ = osem_images(scans, scans.counts(level, 9), level)
        cut = patches(images, scans.sites, task.patch)
        area = recon.leave_pair_out_area(recon.ChannelisedHotelling(task.channels()), cut[:n], cut[n:])
        found[f"{severity:g}"] = [area.value, area.low, area.high]
    return {"level": level, "areas": found, "n": size.realisations}


def _error(images: np.ndarray, scans: Scans) -> float:
    return float(np.mean(np.asarray(recon.nrmse(images, scans.truth, dimensions=3))))
