"""The networks of the study of detection: how they are trained, and the images they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emrecon import recon

from .tasks import Scans

ENHANCED = ("enhanced-mse", "enhanced-gan", "enhanced-n2n")
NETWORKS = (*ENHANCED, "unrolled")
TITLES = {
    "enhanced-mse": "OSEM + network, MSE",
    "enhanced-gan": "OSEM + network, GAN",
    "enhanced-n2n": "OSEM + network, Noise2Noise",
    "unrolled": "Unrolled MAP-EM",
}
PASSES, SUBSETS = 4, 6
_TOGETHER = 40  # scans that a network of projections sees at once


@dataclass(frozen=True)
class Training:
    """How networks are trained.

    Args:
        steps, unrolled_steps : of the enhancing networks, and of the unrolled one.
        batch, unrolled_batch : scans in a step.
        width : channels of the enhancing networks.
        modules : of the unrolled network, whose denoiser is of the same kind.
        adversarial : weight of the discriminator.
    """

    steps: int = 600
    unrolled_steps: int = 120
    batch: int = 16
    unrolled_batch: int = 6
    width: int = 16
    modules: int = 2
    adversarial: float = 0.02


def osem_images(scans: Scans, counts: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return OSEM images of counts (N, ...) and the activity of the uniform images, (N, 1, 1, 1)."""
    from emrecon import unrolled

    images, scales = [], []
    for some in _blocks(len(scans), 100):
        likelihood = scans[some].case(counts[some], level).likelihood
        images.append(recon.run(recon.osem(likelihood, n_subsets=SUBSETS), PASSES))
        scales.append(np.asarray(unrolled.count_scale(likelihood)))
    return np.concatenate(images).astype(np.float32), np.concatenate(scales).astype(np.float32)


def train(
    name: str, scans: Scans, validation: Scans, levels: Sequence[float], seed: int, settings: Training, folder: Path
) -> dict[str, float]:
    """Train a network on scans at all levels, keep its weights in the folder, and return where it was best.

    Targets are OSEM images of all counts (of another half of the same counts for Noise2Noise), as a clinic has them.
    The error of validation is that to the truth. Training goes on from a checkpoint in the folder.
    """
    import torch

    from emrecon import unrolled

    with unrolled.seeded(seed):
        network: Any = _network(name, settings)
        model = network
        if name == "enhanced-gan":
            model = unrolled.WithDiscriminator(network, unrolled.patch_discriminator(2))
    batches, objective, check = _prepared(name, scans, validation, levels, seed, settings)
    n_steps = settings.unrolled_steps if name == "unrolled" else settings.steps
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    choice = unrolled.Settings(
        n_steps, validate_every=max(1, n_steps // 10), clip=1.0, watch="nrmse", seed=seed, folder=folder / "training"
    )
    schedule = unrolled.warmup_cosine(optimiser, n_steps, n_steps // 20)
    step, found = 0, float("nan")
    for record in unrolled.train(
        model, batches, objective, optimiser, choice, schedule=schedule, validate=check, networks=[model]
    ):
        if record.improved:
            step, found = record.step, float(record.metrics["nrmse"])
    return {"best_step": step, "validation_nrmse": found, "parameters": unrolled.count_parameters(network)}


def load(name: str, folder: Path, settings: Training) -> Any:
    """Return a network with the best weights that `train` has kept in a folder, ready for use."""
    from emrecon import unrolled

    network: Any = _network(name, settings)
    model = unrolled.WithDiscriminator(network, unrolled.patch_discriminator(2)) if name == "enhanced-gan" else network
    model.load_state_dict(unrolled.best_weights(folder / "training"))
    return network.eval()


def images_of(name: str, network: Any, scans: Scans, counts: np.ndarray, level: float, osem: Any) -> np.ndarray:
    """Return the images that a network makes of counts, (N, x, y, z).

    Args:
        osem : what `osem_images` made of the same counts, which the enhancing networks start from.
    """
    import torch

    with torch.no_grad():
        if name in ENHANCED:
            return _enhanced(network, osem)
        found = []
        for some in _blocks(len(scans), _TOGETHER):
            case = scans[some].case(counts[some], level, tensors=True)
            found.append(np.asarray(network(case.likelihood)))
        return np.concatenate(found)


def _enhanced(network: Any, osem: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    import torch

    images, scale = (torch.from_numpy(np.ascontiguousarray(part)) for part in osem)
    with torch.no_grad():
        blocks = [network(images[some] / scale[some]) for some in _blocks(len(images), _TOGETHER)]
        return np.asarray(scale * torch.cat(blocks).clamp(min=0))


def _network(name: str, settings: Training) -> Any:
    from emrecon import unrolled

    denoiser = unrolled.NetworkDenoiser(unrolled.SmallCNN(2, widths=(settings.width,) * 3, residual=True), 2)
    # a residual network starts near OSEM, so that few steps are of use
    return unrolled.UnrolledEM(denoiser, settings.modules, initial=(2, SUBSETS)) if name == "unrolled" else denoiser


def _prepared(
    name: str, scans: Scans, validation: Scans, levels: Sequence[float], seed: int, settings: Training
) -> tuple[Callable[[int], Iterable[Any]], Any, Callable[[Any], Mapping[str, float]]]:
    """Batches by epoch, the objective, and the check of a network."""
    import torch

    from emrecon import unrolled

    held = [(level, validation.counts(level, 2)) for level in levels]
    if name == "unrolled":
        full, _ = osem_images(scans, scans.counts(1.0, 1), 1.0)

        def check(model: Any) -> Mapping[str, float]:
            errors = [_error(images_of(name, model, validation, y, level, None), validation) for level, y in held]
            return {"nrmse": float(np.mean(errors))}

        noisy = {level: scans.counts(level, 3) for level in levels}
        return _scan_batches(scans, noisy, full, seed, settings), unrolled.Supervised(_relative), check

    inputs, targets = _pairs(name, scans, levels)
    osem = [osem_images(validation, y, level) for level, y in held]

    def error(model: Any) -> Mapping[str, float]:
        inner = getattr(model, "generator", model)
        errors = [_error(_enhanced(inner, one), validation) for one in osem]
        return {"nrmse": float(np.mean(errors))}

    def batches(epoch: int) -> Iterator[Any]:
        for some in _order(len(inputs), settings.batch, seed, epoch):
            yield torch.from_numpy(inputs[some]), torch.from_numpy(targets[some])

    objective = unrolled.Adversarial(settings.adversarial) if name == "enhanced-gan" else unrolled.Supervised()
    return batches, objective, error


def _pairs(name: str, scans: Scans, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """What goes in and what shall come out, over the scale of what goes in."""
    inputs, targets = [], []
    full = None if name == "enhanced-n2n" else osem_images(scans, scans.counts(1.0, 1), 1.0)[0]
    for level in levels:
        counts = scans.counts(level, 3)
        if full is None:  # two halves of the counts, each seen by a scan of half the time
            first = np.random.default_rng(round(1e6 * level)).binomial(counts.astype(int), 0.5).astype(np.float32)
            (image, scale), (target, _) = (osem_images(scans, y, level / 2) for y in (first, counts - first))
        else:
            (image, scale), target = osem_images(scans, counts, level), full
        inputs.append(image / scale)
        targets.append(target / scale)
    return np.concatenate(inputs), np.concatenate(targets)


def _scan_batches(
    scans: Scans, noisy: Mapping[float, np.ndarray], full: np.ndarray, seed: int, settings: Training
) -> Callable[[int], Iterable[Any]]:
    import torch

    levels = sorted(noisy)

    def batches(epoch: int) -> Iterator[Any]:
        random = np.random.default_rng([seed, epoch, 7])
        for some in _order(len(scans), settings.unrolled_batch, seed, epoch):
            level = levels[int(random.integers(len(levels)))]
            case = scans[some].case(noisy[level][some], level, tensors=True)
            yield case.likelihood, torch.from_numpy(full[some])

    return batches


def _order(n: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    order = np.random.default_rng([seed, epoch]).permutation(n)
    return [order[i : i + size] for i in range(0, max(1, n - size + 1), size)]


def _relative(image: Any, target: Any, weight: Any = None) -> Any:
    from emrecon import unrolled

    return unrolled.relative_mse(image, target, weight)


def _error(images: np.ndarray, scans: Scans) -> float:
    return float(np.mean(np.asarray(recon.nrmse(images, scans.truth, dimensions=3))))


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, n)) for i in range(0, n, size))
