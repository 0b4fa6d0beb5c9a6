"""Networks trained alike: the same batches with the same noise, as many steps, as many tries of the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emrecon import recon, unrolled
from emrecon.sims import generator
from emrecon.unrolled.training.records import best_weights

from ..tuning import Settings, tune
from .bank import bank_of, epochs, in_batches
from .networks import Network

Pair = tuple[dict[str, Any], torch.Tensor]

VALIDATION = 500_000
"""The seed of the counts of validation scans."""

_CLIP, _EMA = 1.0, 0.98


@dataclass(frozen=True)
class Budget:
    """What every network gets; none is trained on anything before.

    Args:
        steps, batch_size : of a training.
        trials : settings that are tried; of a network learning rates, each with `trial_steps` steps of the first seed.
            What is not trained gets as many.
        rates : that are tried first.
        n_validation : scans that choose the rate and the best weights.
    """

    steps: int = 320
    batch_size: int = 8
    trials: int = 8
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3)
    trial_steps: int = 48
    n_validation: int = 24


def batches_of(task: Any, inputs: Callable[[Any], dict[str, Any]], size: int, seed: int, steps: int) -> Any:
    """Return epoch -> batches of (arguments, target).

    The order is that of the seed, and the noise that of scan and epoch: all networks see the same. No scan is seen
    twice with the same noise.
    """
    bank = bank_of(task, epochs(int(task.n_train), size, steps))

    def of_epoch(epoch: int) -> Iterator[Pair]:
        order = generator(seed, f"order of epoch {epoch}").permutation(int(task.n_train))
        for which in in_batches(list(order), size):
            scans = bank.batch(which, epoch)
            yield inputs(scans), scans.truth

    return of_epoch


def validation_of(task: Any, inputs: Callable[[Any], dict[str, Any]], n: int, size: int = 12) -> list[Pair]:
    """Return the first n validation scans as (arguments, target)."""
    n = min(n, int(task.n_validation))
    cases = [task.cases("validation", list(range(k, min(k + size, n))), seed=VALIDATION + k) for k in range(0, n, size)]
    return [(inputs(case), case.truth) for case in cases]


def train_network(
    task: Any, network: Network, budget: Budget, folder: Path, *, seed: int, rate: float, steps: int | None = None
) -> tuple[nn.Module, dict[str, float]]:
    """Train a network, or go on, and return it in eval mode with the weights of its best validation, and that row.

    Loss: the relative squared error to the truth. Adam, warm-up and cosine, gradients clipped, averaged weights.
    """
    steps = network.longer * budget.steps if steps is None else steps
    model = network.build(seed, task_dimensions(task))
    optimiser = torch.optim.Adam(parameter_groups(model, network.fast, rate), rate)
    settings = unrolled.Settings(
        steps, validate_every=max(1, steps // 4), clip=_CLIP, ema=_EMA, seed=seed, folder=folder, signature=network.name
    )
    found: dict[str, float] = {}
    for record in unrolled.train(
        model,
        batches_of(task, network.inputs, budget.batch_size, seed, budget.steps),
        unrolled.Supervised(unrolled.relative_mse),
        optimiser,
        settings,
        schedule=unrolled.warmup_cosine(optimiser, steps, steps // 10),
        validate=unrolled.Validation(validation_of(task, network.inputs, budget.n_validation)),
        networks=[],
    ):
        found["nrmse of the last step"] = float(record.metrics["nrmse"])
    model.load_state_dict(best_weights(folder))
    return model.eval(), found


def parameter_groups(model: nn.Module, fast: str, rate: float) -> list[dict[str, Any]]:
    """Return the groups of an optimiser: what is named `fast` learns ten times as fast."""
    quick = [w for name, w in model.named_parameters() if fast and fast in name]
    known = {id(w) for w in quick}
    others = [w for w in model.parameters() if id(w) not in known]
    return [{"params": others}] + ([{"params": quick, "lr": 10 * rate}] if quick else [])


def try_rates(task: Any, network: Network, budget: Budget, folder: Path) -> dict[str, Any]:
    """Return the learning rate of the least validation error after short trainings, with all that were tried.

    Rates beyond those of the budget are tried until the best lies inside, as far as the number of trials goes. A
    training that diverges counts as the worst.
    """
    pairs = validation_of(task, network.inputs, budget.n_validation)

    def evaluate(settings: Settings, _: tuple[int, ...]) -> dict[int, float]:
        rate = float(settings["rate"])
        own = folder / f"rate-{rate:g}"
        model, _row = train_network(task, network, budget, own, seed=0, rate=rate, steps=budget.trial_steps)
        return {budget.trial_steps: mean_error(model, pairs)}

    tuned = tune(evaluate, {"rate": budget.rates}, (budget.trial_steps,), budget=budget.trials)
    return {"rate": tuned.settings["rate"], "tuned": tuned.as_dict()}


def mean_error(model: nn.Module, pairs: list[Pair]) -> float:
    """Return the mean NRMSE of a model's images."""
    with torch.no_grad():
        found = [recon.nrmse(model(**arguments), target, dimensions=3) for arguments, target in pairs]
    return float(torch.cat(found).mean())


def task_dimensions(task: Any) -> int:
    """Return 2 for tasks of slices, 3 of volumes."""
    return 2 if int(task.shape[2]) == 1 else 3


def train_denoiser(task: Any, budget: Budget, folder: Path) -> nn.Module:
    """Return the denoiser of plug-and-play: truths with white noise of many strengths, and their guides.

    It gets as many steps of the same batches as every network.
    """
    with unrolled.seeded(0):
        body = unrolled.DnCNN(task_dimensions(task), 2, depth=6, width=24, non_negative=True)
        network = unrolled.NetworkDenoiser(body, task_dimensions(task), guide_channels=1)
        model = unrolled.ScaleEquivariant(network)
    base = batches_of(task, lambda case: {"guide": case.guide}, budget.batch_size, 0, budget.steps)

    def noisy(epoch: int) -> Iterator[Pair]:
        random = torch.Generator().manual_seed(epoch)
        for arguments, truth in base(epoch):
            strength = 0.5 * torch.rand((len(truth), 1, 1, 1), generator=random) * unrolled.mean_scale(truth)
            yield {"x": truth + strength * torch.randn(truth.shape, generator=random), **arguments}, truth

    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    settings = unrolled.Settings(
        budget.steps, validate_every=budget.steps, clip=_CLIP, ema=_EMA, folder=folder, watch="loss"
    )
    loss = unrolled.Supervised(unrolled.relative_mse)
    schedule = unrolled.warmup_cosine(optimiser, budget.steps, budget.steps // 10)
    for _ in unrolled.train(model, noisy, loss, optimiser, settings, schedule=schedule, networks=[]):
        pass
    model.load_state_dict(best_weights(folder))
    return model.eval()


def saved(folder: Path, model: nn.Module, network: Network, about: Mapping[str, Any]) -> int:
    """Write weights and card into a unit's folder, and return the number of parameters."""
    metrics = {name: float(value) for name, value in about.get("metrics", {}).items()}
    card = unrolled.Card(
        network.architecture,
        network.all_arguments(int(about["dimensions"])),
        {name: value for name, value in about.items() if name not in ("metrics", "dimensions")},
        "images are divided by count_scale(likelihood) before the network and multiplied by it afterwards",
        metrics,
        f"{network.title}, of the benchmark `learned`. Not for patients. Apache-2.0.",
    )
    return unrolled.save_weights(folder / "weights.safetensors", model, card).parameters


def loaded(folder: Path, network: Network, dimensions: int) -> nn.Module:
    """Return a trained network from a unit's folder."""
    model = network.build(0, dimensions)
    unrolled.load_weights(folder / "weights.safetensors", model, architecture=network.architecture)
    return model.eval()
