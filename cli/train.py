"""`emrecon train`: networks from a recipe, resumable, on as many processes and GPUs as torchrun starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from emrecon.projectors.core.progress import stage

from . import learned, train_enhancement, train_recipe
from .errors import interruptible
from .outputs import writing
from .printing import plain_console, quietly
from .train_adversarial import critic_loss, groups, with_critic
from .train_data import Pair, batches_of, pairs_of, pattern_of, preparation, training_batches
from .train_recipe import Plan
from .train_shared import check_folder, claim, digest, progress, schedule
from .train_tables import LossTable, TrainingTable

if TYPE_CHECKING:
    import torch

    from emrecon.unrolled.training.loop import Objective, Record, Settings, Validation
    from emrecon.unrolled.training.losses import Criterion
    from emrecon.unrolled.training.transfer import Started

_METRICS = ("nrmse", "psnr", "ssim")
_NOTES = 12  # differences that are printed
SCALE_RULE = (
    "images are divided by count_scale(likelihood), the activity of the uniform image that explains the counts best, "
    "and multiplied by it afterwards; guides may have any unit: the network makes them 5 guide / max |guide|"
)


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a training that comes with emrecon, or a TOML file.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of weights, log and checkpoint; the same command continues.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Samples that `emrecon simulate` has written, instead of the recipe's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Steps of the optimiser (default: the recipe's).")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, max=1024, help="Processes that read or simulate samples; 0 uses this one.")
    ] = 0,
    cache: Annotated[
        bool | None,
        typer.Option(
            "--cache/--no-cache",
            help="Keep simulated samples in `samples` of --out, so that each is made once (default: as the recipe "
            "says, or volumes).",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda where there is one).")] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Begin from trained weights: a file .safetensors, or a name of those that come with emrecon.",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(help="A part of the network that does not learn, such as denoisers.0; may be repeated."),
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Check and print the recipe, then stop.")] = False,
) -> None:
    """Train a network: `emrecon train fbsem-pet --out DIR`, or `torchrun --nproc-per-node 2 -m emrecon.cli.main train`.

    DIR gets weights.safetensors, the weights with the best validation, and their card. Without a recipe, lists
    those that come with emrecon.
    """
    console = plain_console()
    if recipe is None:
        _list(console)
        return
    if out is None and not show:
        raise typer.BadParameter("name the folder to write the weights to", param_hint="--out")
    if device not in (None, "cpu", "cuda"):
        raise typer.BadParameter('must be "cpu" or "cuda"', param_hint="--device")
    learned.require("torch")
    learned.require("safetensors.torch")  # now, and not after hours of training
    if train_enhancement.is_one(recipe):
        made = train_enhancement.load_plan(recipe, folder=data, steps=steps, start=start, freeze=freeze or ())
        train_enhancement.train(made, out, workers, cache, device, console, show=show)
        return
    plan = train_recipe.load_plan(recipe, folder=data, steps=steps, start=start, freeze=freeze or ())
    if show or out is None:
        console.print_json(data=plan.describe())
        return
    learned.torch_device(device or "cpu")
    from emrecon.unrolled.training.distributed import process_group

    wanted = plan.recipe.data.keep if cache is None else cache
    if plan.folder is None and (not plan.source.is_flat if wanted is None else wanted):
        plan = plan.keeping(out / "samples")
    check_folder(plan, out)
    advice = f"the same command goes on from the checkpoint in {out}"
    with interruptible(lambda: advice), process_group(device) as here:
        if here.rank == 0:
            claim(plan, out)
        _train(plan, out, workers, here.device, here.rank, console)


def _train(plan: Plan, out: Path, workers: int, device: torch.device, rank: int, console: Console) -> None:
    import torch

    from emrecon.unrolled import seeded
    from emrecon.unrolled.training.loop import Settings, Validation
    from emrecon.unrolled.training.loop import train as steps_of
    from emrecon.unrolled.training.records import best_row, best_weights
    from emrecon.unrolled.training.weights import count_parameters

    table, network = plan.recipe.training, plan.recipe.network.name
    with seeded(table.seed):
        model = learned.registry()[network](**plan.arguments)
    began = train_recipe.started(plan, model)
    model.to(device)
    network_alone, against = model, plan.recipe.loss.kind == "wasserstein"
    if against:
        model = with_critic(plan, model)
        optimiser: torch.optim.Optimizer = torch.optim.Adam(groups(model, plan), weight_decay=table.weight_decay)
    else:
        optimiser = _optimiser(model, table)
    rates = schedule(optimiser, table)
    settings = Settings(
        table.steps,
        table.validate_every,
        table.clip,
        table.ema,
        None if table.precision == "float32" else getattr(torch, table.precision),
        patience=table.patience,
        seed=table.seed,
        folder=out,
        save_seconds=20.0,
        signature=digest(plan),
    )
    with quietly(False), stage("validation samples"):
        validate = Validation(pairs_of(plan, device, "validation", table.n_validation))
    if rank == 0:
        about = f"{plan.size('train')} samples, batches of {plan.recipe.data.batch_size}, {device}"
        console.print(f"{network}, {count_parameters(network_alone)} parameters, {about}")
        _say_start(console, began, model)
    with progress(console, rank, table.steps) as tell:

        def objective(model: torch.nn.Module, batch: Pair, generator: torch.Generator) -> torch.Tensor:
            if plan.recipe.federated is None:
                tell(rates.last_epoch)
            return loss(model, batch, generator)

        if against:
            loss = critic_loss(plan, model, batches_of(plan, device, workers, table.seed), out)
        else:
            loss = _loss(plan)
        if plan.recipe.federated is not None:
            _federated(plan, model, objective, validate, out, workers, device, tell)
            records: Iterable[Record] = ()
        elif table.first_stages is None:
            batches = batches_of(plan, device, workers, table.seed)
            records = steps_of(model, batches, objective, optimiser, settings, schedule=rates, validate=validate)
        else:
            records = _staged(model, plan, batches_of(plan, device, workers, table.seed), settings, validate)
        speed = None
        for record in records:
            speed = record.samples_per_second, record.data_share
            tell(record.step, loss=record.loss, **{"nrmse": record.metrics["nrmse"]} if record.metrics else {})
    if rank > 0:
        return
    if speed is not None:
        console.print(f"{speed[0]:.3g} samples/s, {speed[1]:.0%} of the time waiting for data")
    trained = out if table.first_stages is None else out / "stage-03-joint"
    row = best_row(trained, _METRICS)
    model.load_state_dict(best_weights(trained))
    model = network_alone  # without the critic
    metrics = {f"validation {name}": row[name] for name in _METRICS} | {"step": row["step"]}
    if all("test" in part.simulation.split and len(part.dataset("test")) for part in plan.each):
        with quietly(False), stage("test"), torch.no_grad():
            test = Validation(pairs_of(plan, device, "test", table.n_validation))
            metrics |= {f"test {name}": value for name, value in test(model.eval()).items()}
    validation = pairs_of(plan, device, "validation", table.n_validation)
    with quietly(False), stage("data fit"):
        metrics |= _fit(model, validation())
    with quietly(False), stage("statistics of the scans"):
        seen = _seen(plan, device)
    _write_weights(plan, out, model, metrics, seen)
    said = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if "nrmse" in name)
    console.print(f"wrote {out / 'weights.safetensors'}, from step {row['step']}: {said}")


def _optimiser(model: torch.nn.Module, table: TrainingTable) -> torch.optim.Optimizer:
    import torch

    learning = [w for w in model.parameters() if w.requires_grad]
    return torch.optim.Adam(learning, table.learning_rate, weight_decay=table.weight_decay)


def _say_start(console: Console, began: Started | None, model: torch.nn.Module) -> None:
    """Say what a network began from, what differs there, and what of it does not learn."""
    if began is None:
        return
    held = sum(w.numel() for w in model.parameters() if not w.requires_grad)
    frozen = f", {held} parameters of which do not learn" if held else ""
    console.print(f"begins from {began.path.name} ({began.card.architecture}){frozen}")
    for note in began.notes[:_NOTES]:
        console.print(f"  differs: {note}")
    if len(began.notes) > _NOTES:
        console.print(f"  and {len(began.notes) - _NOTES} more differences")


def _federated(
    plan: Plan,
    model: torch.nn.Module,
    objective: Objective[Pair],
    validate: Validation,
    out: Path,
    workers: int,
    device: torch.device,
    tell: Callable[..., None],
) -> None:
    """Every recipe a site; the rounds of federated averaging."""
    import torch

    from emrecon.unrolled.training.federated_averaging import Federation, Site, federated

    table, choice = plan.recipe.training, plan.recipe.federated
    assert choice is not None
    sites = [
        Site(name, training_batches(part, preparation(part, device), workers, table.seed), len(part.dataset("train")))
        for name, part in zip(plan.names, plan.parts)
    ]
    federation = Federation(
        table.steps // choice.local_steps,
        choice.local_steps,
        choice.proximal,
        choice.local,
        choice.optimiser,
        table.clip,
        None if table.precision == "float32" else getattr(torch, table.precision),
        seed=table.seed,
        folder=out,
        signature=digest(plan),
    )
    for record in federated(
        model,
        sites,
        objective,
        lambda network: _optimiser(network, table),
        federation,
        schedule_of=lambda optimiser: schedule(optimiser, table),
        validate=validate,
    ):
        mean = sum(record.losses.values()) / len(record.losses)
        tell(record.step, loss=mean, nrmse=record.metrics["nrmse"])


def _staged(
    model: torch.nn.Module,
    plan: Plan,
    batches: Callable[[int], Iterable[Pair]],
    settings: Settings,
    validate: Validation,
) -> Iterator[Record]:
    """SPECTnet's three stages, each with a folder of its own; the loss of the recipe is that of images."""
    from emrecon.unrolled.direct import Direct
    from emrecon.unrolled.training.stages import spectnet_stages, train_stages

    assert isinstance(model, Direct)
    table = plan.recipe.training
    stages = spectnet_stages(
        model,
        batches,
        (*(table.first_stages or (1, 1)), table.steps),
        settings,
        rate=table.learning_rate,
        decay=table.weight_decay,
        loss=_criterion(plan.recipe.loss),
        validate=validate,
        schedule_of=lambda optimiser, steps: schedule(optimiser, table.model_copy(update={"steps": steps})),
    )
    return (found.record for found in train_stages(model, stages))


def _fit(model: torch.nn.Module, cases: Iterable[Pair]) -> dict[str, float]:
    """How well the images of validation scans explain their counts, which the card states."""
    import torch

    from emrecon.unrolled.training.fit import data_fit, fit_metrics

    model.eval()
    explained = getattr(model, "frames_of", lambda image: image)  # of several tracers
    with torch.no_grad():
        fits = [data_fit(explained(model(**arguments)), arguments["likelihood"]).flatten() for arguments, _ in cases]
    return fit_metrics(torch.cat(fits).tolist())


def _seen(plan: Plan, device: torch.device) -> dict[str, object]:
    """What can be measured of validation scans, whose range the card states."""
    from emrecon.unrolled.training.domain import scan_statistics, statistics_range

    if plan.simulation.second is not None:
        return {}  # they are of one image
    n = plan.recipe.training.n_validation
    return statistics_range(
        scan_statistics(**arguments, voxel_size=part.source.simulator.grid.voxel_size)
        for part in plan.each
        for arguments, _ in pairs_of(part, device, "validation", n)()
    )


def _write_weights(
    plan: Plan, out: Path, model: torch.nn.Module, metrics: Mapping[str, float], seen: Mapping[str, object]
) -> None:
    from emrecon.unrolled.training.domain import STATISTICS
    from emrecon.unrolled.training.weights import Card, save_weights

    described = plan.describe()
    card = Card(
        plan.recipe.network.name,
        plan.arguments,
        {
            "guide": plan.recipe.data.guide,
            "level": described["data"]["level"],
            STATISTICS: dict(seen),
            "training": described,
        },
        SCALE_RULE,
        metrics,
        plan.recipe.description,
    )
    with writing():
        save_weights(out / "weights.safetensors", model, card)


def _loss(plan: Plan) -> Objective[Pair]:
    from emrecon.unrolled.training import losses

    table = plan.recipe.loss
    if table.kind == "n2n":
        from emrecon.unrolled.training.noise2noise import ThinnedNoise2Noise

        thinned = ThinnedNoise2Noise(table.share)
        return lambda model, batch, generator: thinned(model, batch[0], generator)
    if table.kind == "completion":
        from emrecon.unrolled.training.completing import Completing

        assert not isinstance(table.share, tuple)
        return Completing(pattern_of(plan)) if table.hides else Completing(share=table.share)
    return losses.Supervised(_criterion(table))


def _criterion(table: LossTable) -> Criterion:
    from emrecon.unrolled.training import losses

    criteria = {"relative-mse": losses.relative_mse, "mse": losses.mse, "l1": losses.l1, "ssim": losses.ssim_loss}
    return criteria[table.kind]


def _list(console: Console) -> None:
    table = Table("training", "network", "steps", "what", box=None)
    for name in train_recipe.recipe_names():
        found = train_recipe.read_recipe(name)
        table.add_row(name, found.network.name, str(found.training.steps), found.description)
    for name in train_enhancement.recipe_names():
        made = train_enhancement.read_recipe(name)
        table.add_row(name, made.network.name, str(made.training.steps), made.description)
    console.print(table)
