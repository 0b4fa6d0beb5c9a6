"""Trainings of networks that enhance images: their recipes, and how they are run."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from pydantic import Field as Limit
from rich.console import Console

from emrecon.projectors.core.progress import stage
from emrecon.projectors.core.texts import read_text
from emrecon.sims import recipes
from emrecon.sims.datasets import CachedDataset, Dataset, SimulatedDataset
from emrecon.sims.recipes import RecipeError, Table, complain, decode

from . import enhancement_losses, learned
from .enhancement_losses import EnhancementLoss
from .errors import interruptible
from .outputs import writing
from .printing import quietly
from .simulate import reconstruct
from .train_data import stacked, start_worker
from .train_recipe import simulation_of, trained_weights
from .train_shared import check_folder, claim, digest, progress, schedule
from .train_tables import Count, DataTable, Level, Positive, TrainingTable, TransferTable

if TYPE_CHECKING:
    import torch

    from emrecon.unrolled.training.enhancing import ImagePairs

_PREFIX, _METRICS = "enhance_", ("nrmse", "psnr", "ssim")
_SCALE = (
    "images are divided by mean_scale(image), the mean over the object, and multiplied by it afterwards; guides may "
    "have any unit"
)
Beside = Literal["guide", "mu", "ct"]


class ImagesTable(Table):
    """Where reconstructed images come from, and what the network sees of them.

    recipe : of a simulation with a table [reconstruction], by name or as a file (beside this one).
    folder : a data set that `emrecon simulate` has written, with reconstructions, instead of a recipe.
    n : how many samples are simulated (default: the recipe's).
    inputs : levels of counts whose images go in, one or a list (default: the lowest).
    target : "reconstruction", the image of the highest level, or "truth".
    guide : what goes in beside the image: the MR-like "guide", "mu", "ct" in HU, or a list.
    patch : of images of the training, [x, y, z] voxels at a random place; none takes whole images.
    keep : whether simulated samples are kept beside the weights, so that each is made once (default: yes).
    """

    recipe: str | None = None
    folder: str | None = None
    n: Count | None = None
    inputs: Level | tuple[Level, ...] | None = None
    target: Literal["reconstruction", "truth"] = "reconstruction"
    guide: Beside | tuple[Beside, ...] | None = None
    batch_size: Count = 8
    patch: tuple[Count, Count, Count] | None = None
    keep: bool = True

    @property
    def guides(self) -> tuple[str, ...]:
        """What goes into the network beside the image, in its order."""
        return (self.guide,) if isinstance(self.guide, str) else self.guide or ()


class EnhancerTable(Table):
    """A network by name and its options; options that are left out have the values of the network's preset."""

    name: str
    dimensions: Literal[2, 3] | None = None
    lite: bool | None = None
    width: Count | None = None
    widths: tuple[Count, ...] | None = None
    levels: Count | None = None
    depth: Count | None = None
    n: Count | None = None
    n_blocks: Count | None = None
    n_groups: Count | None = None
    n_slices: Count | None = None
    reduction: Count | None = None
    share: Positive | None = None
    heads: Count | None = None
    window: Count | None = None
    norm: Literal["batch", "instance", "group", "none"] | None = None
    noise: bool | None = None
    coordinates: bool | None = None
    shortcuts: bool | None = None
    non_negative: bool | None = None
    steps: Count | None = None
    sampling: Count | None = None
    samples: Count | None = None
    seed: Annotated[int, Limit(ge=0)] | None = None


class EnhancementRecipe(Table):
    """A training of a network of images, as its file describes it."""

    name: str
    description: str = ""
    data: ImagesTable
    network: EnhancerTable
    loss: EnhancementLoss = EnhancementLoss()
    training: TrainingTable
    transfer: TransferTable | None = None


@dataclass(frozen=True, eq=False)
class EnhancementPlan:
    """A training that can begin: its recipe, and the simulation that its images come from."""

    recipe: EnhancementRecipe
    simulation: recipes.Recipe
    folder: Path | None = None
    kept: Path | None = None
    beside: Path = Path()

    @property
    def inputs(self) -> tuple[float, ...]:
        """The levels whose images go in."""
        given = self.recipe.data.inputs
        return (
            (min(self.simulation.counts.levels),) if given is None else given if isinstance(given, tuple) else (given,)
        )

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds the network: the table's options, with dimensions and channels that follow from the data."""
        given = {key: value for key, value in dict(self.recipe.network).items() if key != "name" and value is not None}
        taken, guides = self._taken, self.recipe.data.guides
        if "dimensions" in taken:
            given.setdefault("dimensions", 2 if self.simulation.grid.shape[2] == 1 else 3)
        if "in_channels" in taken:
            given["in_channels"] = 1 + len(guides)
        elif "guide_channels" in taken:
            given["guide_channels"] = len(guides)
        return given

    @cached_property
    def _taken(self) -> set[str]:
        build = enhancers().get(self.recipe.network.name)
        return set() if build is None else learned.options_of(build)

    def pairs(self, device: torch.device | str = "cpu") -> ImagePairs:
        """Return what makes training pairs of samples."""
        make = importlib.import_module("emrecon.unrolled.training.enhancing").ImagePairs
        data, loss = self.recipe.data, self.recipe.loss
        shape, levels = self.simulation.grid.shape, self.simulation.counts.levels
        made: ImagePairs = make(shape, levels, self.inputs, data.guides, data.target, loss.lesions, loss.blur, device)
        return made

    def dataset(self, split: str) -> Dataset | SimulatedDataset | CachedDataset:
        """Return a part of the samples."""
        fields = self.pairs().fields
        if self.folder is not None:
            return Dataset(self.folder, split, fields)
        source = recipes.RecipeSource(
            self.simulation.model_copy(update={"outputs": fields}), self.recipe.data.n or 0, reconstruct
        )
        simulated = SimulatedDataset(source, split, fields)
        return simulated if self.kept is None else CachedDataset(simulated, self.kept)

    @cached_property
    def weights(self) -> Path | None:
        """The file of weights to begin from."""
        return None if self.recipe.transfer is None else trained_weights(self.recipe.transfer.weights, self.beside)

    def describe(self) -> dict[str, Any]:
        """Return every number of the training and of its data, for JSON."""
        table = self.recipe.model_dump(mode="json")
        table["data"] |= {"recipe": None, "folder": None, "inputs": list(self.inputs), "keep": True}
        if self.weights is not None:
            read_card = importlib.import_module("emrecon.unrolled.training.weights").read_card
            table["transfer"] |= {"weights": self.weights.name, "sha256": read_card(self.weights).sha256}
        simulation = self.simulation.model_dump(mode="json")
        return {**table, "simulation": {k: v for k, v in simulation.items() if k not in ("outputs", "batch")}}


def enhancers() -> Mapping[str, Callable[..., Any]]:
    """Return what builds each network; raises ImportError that names the extra where torch is missing."""
    learned.require("torch")
    found: Mapping[str, Callable[..., Any]] = importlib.import_module("emrecon.unrolled.enhancement").ENHANCERS
    return found


def recipe_names() -> tuple[str, ...]:
    """Return the names of the trainings of enhancement that come with the library."""
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(sorted(n[len(_PREFIX) : -5] for n in found if n.startswith(_PREFIX) and n.endswith(".toml")))


def is_one(recipe: str) -> bool:
    """Whether a recipe by name, or of a TOML file, is that of a network which enhances images."""
    if recipe in recipe_names():
        return True
    try:
        found = tomllib.loads(read_text(Path(recipe)))
    except (OSError, ValueError):
        return False  # and whoever reads it in earnest says why
    network = found.get("network")
    return isinstance(network, dict) and network.get("name") in enhancers()


def read_recipe(recipe: str) -> EnhancementRecipe:
    """Return a recipe by name or from a file, typed but not yet checked against data and network."""
    name, text, _ = _text(recipe)
    return decode(text, EnhancementRecipe, name)


def load_plan(
    recipe: str,
    *,
    folder: Path | None = None,
    steps: int | None = None,
    start: str | None = None,
    freeze: Sequence[str] = (),
) -> EnhancementPlan:
    """Return the training of a recipe by name, one of `recipe_names()`, or of a TOML file; as for other trainings."""
    name, text, beside = _text(recipe)
    made = decode(text, EnhancementRecipe, name)
    if steps is not None:
        warmup = made.training.warmup if made.training.warmup < steps else steps // 10
        made = made.model_copy(update={"training": made.training.model_copy(update={"steps": steps, "warmup": warmup})})
    if start is not None or freeze:
        weights = start if start is not None else None if made.transfer is None else made.transfer.weights
        if weights is None:
            raise RecipeError("--freeze is for a training that begins from trained weights; name them by --from")
        weights = str(Path(weights).resolve()) if Path(weights).is_file() else weights
        made = made.model_copy(update={"transfer": TransferTable(weights=weights, freeze=tuple(freeze))})
    own = folder if folder is not None or made.data.folder is None else beside / made.data.folder

    def checked(keys: list[str], build: Callable[[], Any]) -> Any:
        try:
            return build()
        except RecipeError:
            raise
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            raise complain(name, text, keys, error) from error

    named = DataTable(recipe=made.data.recipe)
    simulation = checked(["data"], lambda: simulation_of(named, own, beside))
    plan = EnhancementPlan(made, simulation, own, beside=beside)
    for keys, check in (
        (["data"], _possible_data),
        (["network"], _possible_network),
        (["loss"], lambda plan: enhancement_losses.check(plan.recipe.loss, plan.recipe.network.name)),
    ):
        checked(keys, lambda check=check: check(plan))  # type: ignore[misc]
    return plan


def _text(recipe: str) -> tuple[str, str, Path]:
    if recipe in recipe_names():
        return f"{recipe}.toml", (files(__package__) / f"{_PREFIX}{recipe}.toml").read_text("utf-8"), Path()
    return recipe, read_text(Path(recipe)), Path(recipe).parent


def _possible_data(plan: EnhancementPlan) -> None:
    data, simulation = plan.recipe.data, plan.simulation
    if simulation.reconstruction is None:
        raise ValueError("recipe has no table [reconstruction], and enhancement begins from images")
    if data.n is not None and plan.folder is not None:
        raise ValueError("n sets how many samples are simulated; leave it out for a folder")
    wrong = [level for level in plan.inputs if level not in simulation.counts.levels]
    if wrong:
        raise ValueError(f"inputs {wrong[0]:g} is not in the simulation; choose from {list(simulation.counts.levels)}")
    if data.target == "reconstruction" and max(simulation.counts.levels) in plan.inputs:
        raise ValueError('inputs and target are the same image; choose lower levels, or target = "truth"')
    if "guide" in data.guides and not simulation.phantom.has_guide:
        raise ValueError(f"phantoms of kind {simulation.phantom.kind!r} have no guide")
    if data.patch is not None and any(p > n for p, n in zip(data.patch, simulation.grid.shape)):
        raise ValueError(f"patch {list(data.patch)} is larger than the images, {list(simulation.grid.shape)}")
    for part in ("train", "validation"):
        if part not in simulation.split or not len(plan.dataset(part)):
            raise ValueError(f"split {part!r} of the simulation has no samples")
    n = len(plan.dataset("train"))
    if n < data.batch_size:
        raise ValueError(f"batch_size is {data.batch_size}, but there are {n} samples; use at most {n}")


def _possible_network(plan: EnhancementPlan) -> None:
    name, known = plan.recipe.network.name, enhancers()
    if name not in known:
        raise ValueError(f"name {name!r} is not a known network; choose from {', '.join(known)}")
    taken = learned.options_of(known[name])
    wrong = [key for key in plan.arguments if key not in taken]
    if wrong:
        own = ", ".join(key for key in EnhancerTable.model_fields if key in taken)
        raise ValueError(f"{wrong[0]} is not an option of {name}; choose from {own}")
    if plan.arguments.get("dimensions") == 3 and plan.simulation.grid.shape[2] == 1:
        raise ValueError("dimensions = 3 needs volumes, but the samples have one slice")
    network = known[name](**plan.arguments)
    if network.guide_channels != len(plan.recipe.data.guides):
        raise ValueError(
            f"name {name} takes {network.guide_channels} guides, [data] has {len(plan.recipe.data.guides)}"
        )


# ---- the run ---------------------------------------------------------------------------------------------------------


def train(
    plan: EnhancementPlan,
    out: Path | None,
    workers: int,
    cache: bool | None,
    device: str | None,
    console: Console,
    *,
    show: bool = False,
) -> None:
    """Train the network of a plan into a folder, resumable, on as many processes as there are; or print the plan."""
    if show or out is None:
        console.print_json(data=plan.describe())
        return
    learned.torch_device(device or "cpu")
    from emrecon.unrolled.training.distributed import process_group

    if plan.folder is None and (plan.recipe.data.keep if cache is None else cache):
        plan = replace(plan, kept=out / "samples")
    check_folder(plan, out)
    advice = f"the same command goes on from the checkpoint in {out}"
    with interruptible(lambda: advice), process_group(device) as here:
        if here.rank == 0:
            claim(plan, out)
        _run(plan, out, workers, here.device, here.rank, console)


def _run(plan: EnhancementPlan, out: Path, workers: int, device: torch.device, rank: int, console: Console) -> None:
    import torch

    from emrecon.unrolled import seeded
    from emrecon.unrolled.training.loop import Settings, Validation
    from emrecon.unrolled.training.loop import train as steps_of
    from emrecon.unrolled.training.records import best_row, best_weights
    from emrecon.unrolled.training.weights import count_parameters

    table, name = plan.recipe.training, plan.recipe.network.name
    with seeded(table.seed):
        network = enhancers()[name](**plan.arguments)
        begun = _started(plan, network)
        batches = _batches(plan, device, workers)
        with quietly(False), stage("objective"):
            model, loss = enhancement_losses.objective(plan.recipe.loss, network, batches, plan.recipe.data.patch)
    model.to(device)
    learning = [w for w in model.parameters() if w.requires_grad]
    optimiser = torch.optim.Adam(learning, table.learning_rate, weight_decay=table.weight_decay)
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
        held = _held_out(plan, device, "validation")
    if rank == 0:
        n = len(plan.dataset("train"))
        about = f"{n} samples, batches of {plan.recipe.data.batch_size} x {len(plan.inputs)}, {device}"
        console.print(f"{name}, {count_parameters(network)} parameters, {about}")
        if begun is not None:
            console.print(f"begins from {begun.path.name} ({begun.card.architecture})")
            for text in begun.notes:
                console.print(f"  differs: {text}")
    with progress(console, rank, table.steps) as tell:

        def objective(model: torch.nn.Module, batch: Any, generator: torch.Generator) -> torch.Tensor:
            tell(rates.last_epoch)
            return loss(model, batch, generator)

        for record in steps_of(
            model, batches, objective, optimiser, settings, schedule=rates, validate=Validation(held), networks=[model]
        ):
            tell(record.step, loss=record.loss, nrmse=record.metrics["nrmse"])
    if rank > 0:
        return
    row = best_row(out, _METRICS)
    model.load_state_dict(best_weights(out))
    network.eval()
    metrics = {f"validation {key}": row[key] for key in _METRICS} | {"step": row["step"]}
    metrics |= {f"input {key}": value for key, value in Validation(held)(_Input()).items()}
    if "test" in plan.simulation.split and len(plan.dataset("test")):
        with quietly(False), stage("test"), torch.no_grad():
            found = Validation(_held_out(plan, device, "test"))(network)
            metrics |= {f"test {key}": value for key, value in found.items()}
    _write(plan, out, network, metrics, held)
    said = ", ".join(f"{key} {value:.4g}" for key, value in metrics.items() if "nrmse" in key)
    console.print(f"wrote {out / 'weights.safetensors'}, from step {row['step']}: {said}")


def _started(plan: EnhancementPlan, network: Any) -> Any:
    if plan.weights is None or plan.recipe.transfer is None:
        return None
    transfer, name = importlib.import_module("emrecon.unrolled.training.transfer"), plan.recipe.network.name
    try:
        found = transfer.start_from(
            network,
            plan.weights,
            architecture=name,
            arguments=plan.arguments,
            build=enhancers()[name],
            data=plan.describe(),
        )
        transfer.freeze(network, plan.recipe.transfer.freeze)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--from") from error
    return found


def _batches(plan: EnhancementPlan, device: torch.device, workers: int) -> Callable[[int], Iterable[Any]]:
    from emrecon.sims.datasets.reading import loader
    from emrecon.unrolled.training.loop import by_epoch

    options: dict[str, Any] = {"multiprocessing_context": "spawn", "worker_init_fn": start_worker} if workers else {}
    seed, size = plan.recipe.training.seed, plan.recipe.data.batch_size
    found = loader(plan.dataset("train"), size, workers=workers, seed=seed, drop_last=True, **options)
    if not len(found):
        raise ValueError(f"the samples do not fill a batch of {size} on every rank; reduce batch_size")
    return by_epoch(found, plan.pairs(device))


def _held_out(plan: EnhancementPlan, device: torch.device, split: str) -> Callable[[], Iterator[Any]]:
    """Pairs of the first samples of a part, as a function; they are read or simulated once, now."""
    dataset, size = plan.dataset(split), plan.recipe.data.batch_size
    samples = dataset.__getitems__(range(min(plan.recipe.training.n_validation, len(dataset))))
    batches = [stacked(samples[first : first + size]) for first in range(0, len(samples), size)]
    pairs = plan.pairs(device)
    return lambda: map(pairs, batches)


class _Input:
    """The image as it came, in the place of a network."""

    def __call__(self, x: torch.Tensor, guide: torch.Tensor | None = None) -> torch.Tensor:
        return x


def _write(
    plan: EnhancementPlan, out: Path, network: Any, metrics: Mapping[str, float], held: Callable[[], Iterable[Any]]
) -> None:
    from emrecon.unrolled.training import domain
    from emrecon.unrolled.training.weights import Card, save_weights

    size = plan.simulation.grid.voxel_size
    seen = domain.statistics_range(
        domain.image_statistics(arguments["x"], arguments.get("guide"), voxel_size=size) for arguments, *_ in held()
    )
    data = {
        "guide": plan.recipe.data.guide,
        "level": list(plan.inputs),
        domain.STATISTICS: dict(seen),
        "training": plan.describe(),
    }
    card = Card(plan.recipe.network.name, plan.arguments, data, _SCALE, metrics, plan.recipe.description)
    with writing():
        save_weights(out / "weights.safetensors", network, card)
