"""Networks trained against a discriminator beside those trained by squared errors: noise, fidelity and detection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from emrecon import unrolled

from ..detection import tasks
from ..detection.networks import osem_images
from ..detection.study import judged
from ..detection.tasks import Scans
from ..sections import Interval, Section, Table, Text
from ..statistics import t_interval
from ..suite import Options, Results, Unit
from .images import nrmse
from .training import enhanced, trained

_LEVEL = 0.125  # of all counts
_REALISATIONS = 10
_FIRST = {"train": 0, "validation": 100_000, "test": 200_000}  # seeds of patients
_WEIGHT = 0.05  # of the discriminator's opinion of images over their mean

METHODS: dict[str, str] = {
    "mse": "Squared error",
    "l1-ssim": "L1 + 0.5 SSIM",
    "observer": "Squared error + observer's channels",
    "perceptual": "Squared error + features",
    "pix2pix": "pix2pix (conditional GAN)",
    "ls-gan": "LS-GAN",
    "wgan": "WGAN, gradient penalty",
    "cycle": "cycleGAN, supervised",
    "cycle-unpaired": "cycleGAN, unpaired",
}
"""What one U-Net is trained by: the name of the unit, and for people."""


def units(options: Options) -> Sequence[Unit]:
    """Return the work: scans with and without a lesion, OSEM of them, and one U-Net trained in every way."""
    about = {"size": options.size, "level": _LEVEL, **_settings(options)}
    made = ("adversarial/scans",)
    return [
        Unit(made[0], lambda folder: _simulated(options, folder), arguments=about),
        Unit("adversarial/osem", _osem, made, about),
        *(Unit(f"adversarial/{name}", _of(options, name), made, about) for name in METHODS),
    ]


def _settings(options: Options) -> dict[str, int]:
    if options.size == "quick":
        return {"train": 8, "validation": 4, "test": 12, "steps": 8, "width": 2, "batch": 4}
    return {"train": 160, "validation": 24, "test": 160, "steps": 1200, "width": 12, "batch": 12}


def _simulated(options: Options, folder: Path) -> Mapping[str, Any]:
    """Scans without a lesion, then as many others with one, of other patients in each part and class."""
    task, settings = tasks.bone_lesion(), _settings(options)
    for part, first in _FIRST.items():
        n = settings[part] if part == "test" else settings[part] // 2
        classes = [
            task.scans(range(first + 10_000 * present, first + 10_000 * present + n), bool(present))
            for present in (0, 1)
        ]
        classes[0].followed_by(classes[1]).write(folder / f"{part}.npz")
    return {part: settings[part] for part in _FIRST}


def _scans(folder: Path, part: str) -> Scans:
    return Scans.read(tasks.bone_lesion(), folder.parent / "scans" / f"{part}.npz")


def _low(scans: Scans, seed: int) -> np.ndarray:
    return osem_images(scans, scans.counts(_LEVEL, seed), _LEVEL)[0]


def _osem(folder: Path) -> Mapping[str, Any]:
    scans = _scans(folder, "test")
    return _measured(scans, _low(scans, 4), lambda images: images)


def _of(options: Options, name: str) -> Callable[[Path], Mapping[str, Any]]:
    def run(folder: Path) -> Mapping[str, Any]:
        settings = _settings(options)
        train, held, test = (_scans(folder, part) for part in _FIRST)
        low, full = _low(train, 3), osem_images(train, train.counts(1.0, 1), 1.0)[0]
        model, objective = _built(name, settings["width"], full)
        batches = _batches(low, full, settings["batch"])
        cases = [_pair(_low(held, 3), held.truth)]
        numbers = trained(
            model,
            batches,
            objective,
            unrolled.Validation(cases),
            folder / "training",
            settings["steps"],
            signature=name,
        )
        generator = getattr(model, "generator", model)
        found = _measured(test, _low(test, 4), lambda images: enhanced(generator, images))
        return {**numbers, **found}

    return run


def _built(name: str, width: int, full: np.ndarray) -> tuple[nn.Module, Any]:
    """A network with what trains it, and the objective."""
    with unrolled.seeded(0):
        generator = unrolled.unet_enhancer(2, width=width, levels=3, non_negative=False)
        criteria: dict[str, Callable[..., Any]] = {
            "mse": unrolled.mse,
            "l1-ssim": unrolled.WeightedSum((1.0, unrolled.l1), (0.5, unrolled.ssim_loss)),
            "observer": unrolled.WeightedSum((1.0, unrolled.mse), (0.1, unrolled.ObserverLoss(size=9, width=4.0))),
        }
        if name in criteria:
            return generator, unrolled.Supervised(criteria[name])
        if name == "perceptual":
            loss = unrolled.PerceptualLoss(_encoder(full))
            return generator, unrolled.Supervised(unrolled.WeightedSum((1.0, unrolled.mse), (0.1, loss)))
        conditional = name == "pix2pix"
        discriminator = unrolled.patch_discriminator(2, in_channels=2 if conditional else 1)
        if name.startswith("cycle"):
            back = unrolled.unet_enhancer(2, width=width, levels=3, non_negative=False)
            model = unrolled.CycleGAN(generator, back, discriminator, unrolled.patch_discriminator(2))
            return model, unrolled.CycleConsistent(supervised=10.0 if name == "cycle" else 0.0)
    kind = {"pix2pix": "standard", "ls-gan": "least-squares", "wgan": "wasserstein"}[name]
    objective = unrolled.Adversarial(_WEIGHT, unrolled.l1, kind=kind, conditional=conditional)
    return unrolled.WithDiscriminator(generator, discriminator), objective


def _encoder(full: np.ndarray) -> unrolled.FeatureEncoder:
    images = torch.as_tensor(full)
    encoder = unrolled.FeatureEncoder(2)
    unrolled.train_encoder(encoder, lambda epoch: iter(images.split(16)), 40 if len(full) < 20 else 200)
    return encoder


def _pair(low: np.ndarray, target: np.ndarray) -> tuple[Any, torch.Tensor]:
    x, t = torch.as_tensor(low), torch.as_tensor(np.asarray(target, np.float32))
    scale = unrolled.mean_scale(x)
    return {"x": x / scale}, t / scale


def _batches(low: np.ndarray, full: np.ndarray, size: int) -> Callable[[int], Iterator[Any]]:
    def of_epoch(epoch: int) -> Iterator[Any]:
        order = np.random.default_rng([epoch, 11]).permutation(len(low))
        for k in range(max(1, len(order) // size)):
            some = order[k * size : (k + 1) * size]
            yield _pair(low[some], full[some])

    return of_epoch


def _measured(scans: Scans, low: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    """Detection, fidelity, noise of a patient's realisations, and how sharp images are."""
    images = make(low)
    numbers, _ = judged(scans, images)
    one = scans[np.zeros(_REALISATIONS, int)]
    repeats = make(np.concatenate([_low(one[k : k + 1], 100 + k) for k in range(_REALISATIONS)]))
    inside = scans.truth[0] > 0.1 * scans.truth[0].max()
    mean = repeats.mean(0)
    noise = repeats.std(0, ddof=1)[inside].mean() / mean[inside].mean()
    clean = osem_images(one[:1], _LEVEL * one[:1].expected, _LEVEL)[0][0]
    bias = np.abs(mean - clean)[inside].mean() / clean[inside].mean()
    return {
        **{key: numbers[key] for key in ("area", "standard_error", "nrmse", "ssim", "n")},
        "noise": float(noise),
        "bias": float(bias),
        "subjects": {"nrmse": nrmse(images, scans.truth)},
    }


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return one table of detection, fidelity, noise and bias, and who has the lowest noise and who detects worst."""
    rows, numbers = [], {}
    for name, title in {"osem": "OSEM", **METHODS}.items():
        found = numbers[title] = results[f"adversarial/{name}"]
        value, low, high = (float(v) for v in found["area"])
        area = Interval(value, low, high, int(found["n"]))
        error = t_interval([float(v) for v in found["subjects"]["nrmse"]])
        ssim, noise, bias = float(found["ssim"][0]), 100 * float(found["noise"]), 100 * float(found["bias"])
        rows.append((title, area, error, ssim, noise, bias))
    columns = ("trained by", "area under the ROC curve", "NRMSE to the truth", "SSIM", "noise, %", "bias, %")
    note = (
        f"One U-Net after OSEM of {_LEVEL:g} of the counts, bone SPECT, lesions of spine and pelvis; "
        f"{numbers['OSEM']['n']} images of each class, channelised Hotelling observer. Noise: standard deviation over "
        f"{_REALISATIONS} realisations of one patient over the mean. Bias: of their mean against OSEM without noise."
    )
    trained_by = {title: found for title, found in numbers.items() if title != "OSEM"}
    quiet = min(trained_by, key=lambda title: trained_by[title]["noise"])
    worst = min(trained_by, key=lambda title: trained_by[title]["area"][0])
    best = max(numbers, key=lambda title: numbers[title]["area"][0])
    area_of = {title: float(found["area"][0]) for title, found in numbers.items()}
    said = (
        f"Lowest noise: {quiet} ({100 * numbers[quiet]['noise']:.1f} %), with an area of {area_of[quiet]:.3f}. "
        f"Smallest area: {worst} ({area_of[worst]:.3f}). Largest area: {best} ({area_of[best]:.3f}); OSEM has "
        f"{area_of['OSEM']:.3f}."
    )
    table = Table("One network, trained in many ways", columns, rows, note)
    return [Section("Against a discriminator", (table, Text("", (said,))))]
