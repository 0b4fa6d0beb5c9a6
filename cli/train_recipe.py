"""Recipes of trainings: typed TOML that names data, network, loss and schedule, checked before work begins."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field as Limit
from pydantic import ValidationError

from emrecon.projectors.core.texts import read_text
from emrecon.sims import recipes
from emrecon.sims.datasets import CachedDataset, Dataset, SimulatedDataset
from emrecon.sims.recipes import RecipeError, Table, complain, decode

from . import learned
from .simulate import reconstruct

Positive = Annotated[float, Limit(gt=0)]
Fraction = Annotated[float, Limit(ge=0, lt=1)]
Count = Annotated[int, Limit(ge=1, le=10**9)]
Whole = Annotated[int, Limit(ge=0)]
Guide = Literal["guide", "mu"]


class DataTable(Table):
    """Where samples come from, and what the network sees of them.

    recipe : of a simulation, by name or as a file (beside this one); samples are simulated when they are needed.
    folder : a data set that `emrecon simulate` has written, instead of a recipe.
    n : how many samples are simulated (default: the recipe's).
    level : of counts, one of the recipe's levels (default: the lowest).
    target : "truth" in kBq/mL, or "reconstruction", the recipe's image at its highest level.
    guide : what the network sees beside the image: the MR-like "guide", "mu", or a list of both, in its order.
    noise : False shows the network expected counts instead of Poisson ones, as SPECTnet was trained.
    floor : the least expected background of a bin, as a fraction of the mean counts per bin; it keeps the
        likelihood finite where the model expects no counts.
    """

    recipe: str | None = None
    folder: str | None = None
    n: Count | None = None
    level: Annotated[float, Limit(gt=0, le=1)] | None = None
    target: Literal["truth", "reconstruction"] = "truth"
    guide: Guide | tuple[Guide, ...] | None = None
    batch_size: Count = 8
    noise: bool = True
    floor: Fraction = 1e-3

    @property
    def guides(self) -> tuple[str, ...]:
        """What goes into the network beside the image, in its order."""
        return (self.guide,) if isinstance(self.guide, str) else self.guide or ()


class NetworkTable(Table):
    """A network by name and its options; options that are left out have the values of the network's preset."""

    name: str
    dimensions: Literal[2, 3] | None = None
    n_modules: Count | None = None
    em_steps: Count | None = None
    subsets: Count | None = None
    width: Count | None = None
    depth: Count | None = None
    heads: Count | None = None
    dropout: Fraction | None = None
    channels: Count | None = None
    alpha: float | tuple[float, float] | None = None
    norm: Literal["batch", "instance", "group", "none"] | None = None
    initial: tuple[Whole, Count] | None = None
    tied: bool | None = None
    dual: bool | None = None
    grad: Literal["full", "checkpoint", "detach"] | None = None
    initial_beta: Positive | None = None
    beta_of_each: bool | None = None
    n_iterations: Count | None = None
    n_primal: Count | None = None
    n_dual: Count | None = None
    small: bool | None = None
    size: Count | None = None
    code: Count | None = None
    hidden: Count | None = None
    attenuation: Literal["projector", "guide"] | bool | None = None
    views: Count | None = None
    bins: Count | None = None
    patch: Count | None = None
    margin: Whole | None = None
    maps: Count | None = None
    start: Literal["transpose", "fbp"] | None = None
    n_slices: Count | None = None
    network: Literal["unet", "dilated"] | None = None
    levels: Count | None = None
    keep_measured: bool | None = None
    passes: Count | None = None
    kind: Literal["smoothed", "betas"] | None = None


class LossTable(Table):
    """What is minimised; "n2n" needs no target: the image from one part of the counts predicts the other part.

    share : for "n2n", the probability that a count goes to the part that the network sees.
    every : for "completion", of networks of data: every n-th view is measured and the network predicts the others; 1
        hides counts instead, with `share`, to denoise.
    """

    kind: Literal["relative-mse", "mse", "l1", "ssim", "n2n", "completion"] = "relative-mse"
    share: Annotated[float, Limit(gt=0, lt=1)] = 0.5
    every: Count = 2


class TrainingTable(Table):
    """The loop, by Adam; see `unrolled.train.Settings`.

    schedule : of the learning rate after `warmup` steps, "cosine" down to 0, "steps" that multiply it by `factor` at
        the `milestones`, or "constant".
    first_stages : of SPECTnet: steps of the autoencoder and of data to its codes, before `steps` of both together.
    weight_decay : the factor of the squared weights in the loss, of Adam.
    n_validation : samples of each validation, from the front of that part of the set; the test has as many.
    """

    steps: Count
    learning_rate: Positive = 1e-3
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    warmup: Whole = 0
    milestones: tuple[Count, ...] = ()
    factor: Positive = 0.1
    clip: Positive | None = 1.0
    ema: Fraction | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    validate_every: Count = 500
    n_validation: Count = 32
    patience: Count | None = None
    seed: Whole = 0
    first_stages: tuple[Count, Count] | None = None
    weight_decay: Annotated[float, Limit(ge=0)] = 0.0


class TrainingRecipe(Table):
    """A training, as its file describes it."""

    name: str
    description: str = ""
    data: DataTable
    network: NetworkTable
    loss: LossTable = LossTable()
    training: TrainingTable


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that can begin: its recipe, and the simulation that its data come from.

    kept : the folder where simulated samples are kept for the next epochs; None simulates them again.
    """

    recipe: TrainingRecipe
    simulation: recipes.Recipe
    folder: Path | None = None
    kept: Path | None = None

    @cached_property
    def source(self) -> recipes.RecipeSource:
        """The simulation, with all outputs that the training needs."""
        outputs = {"outputs": self.fields}
        return recipes.RecipeSource(self.simulation.model_copy(update=outputs), self.recipe.data.n or 0, reconstruct)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of a sample that the training reads."""
        data, spect = self.recipe.data, self.simulation.spect is not None
        mu = ("mu",) if spect or "mu" in data.guides else ()
        guide = ("guide",) if "guide" in data.guides else ()
        target = ("reconstruction",) if data.target == "reconstruction" else ()
        counts = "counts" if data.noise else "expected"
        return (counts, "background", "factors", "truth", *mu, *guide, *target)

    def dataset(self, split: str) -> Dataset | SimulatedDataset | CachedDataset:
        """Return a part of the samples."""
        if self.folder is not None:
            return Dataset(self.folder, split, self.fields)
        simulated = SimulatedDataset(self.source, split, self.fields)
        return simulated if self.kept is None else CachedDataset(simulated, self.kept)

    @property
    def level(self) -> float:
        """The part of the counts that the network sees."""
        wanted = self.recipe.data.level
        return min(self.simulation.counts.levels) if wanted is None else wanted

    @property
    def arguments(self) -> dict[str, Any]:
        """What builds the network: the table's options, with dimensions and channels that follow from the data."""
        table = self.recipe.network
        given = {key: value for key, value in dict(table).items() if key != "name" and value is not None}
        taken = self._taken
        if "dimensions" in taken:
            given.setdefault("dimensions", 2 if self.source.is_flat else 3)
        if "scan" in taken:
            given["scan"] = self._scan
        guides = self.recipe.data.guides
        return given | ({"guide_channels": len(guides)} if guides and "guide_channels" in taken else {})

    @cached_property
    def _taken(self) -> set[str]:
        """The options that the network's preset takes; those of the others where the name is unknown."""
        build = learned.registry().get(self.recipe.network.name)
        return {"dimensions", "guide_channels"} if build is None else learned.options_of(build)

    @cached_property
    def _scan(self) -> dict[str, Any]:
        """What a network that learns the geometry of its data is trained on."""
        described = importlib.import_module("emrecon.unrolled.direct").described
        simulator = self.source.simulator
        found: dict[str, Any] = described(simulator.projector(np.zeros(simulator.grid.shape, np.float32)))
        return found

    def describe(self) -> dict[str, Any]:
        """Return every number of the training and of its data, for JSON."""
        data = {**self.recipe.data.model_dump(mode="json"), "recipe": None, "folder": None, "level": self.level}
        table = {**self.recipe.model_dump(mode="json"), "data": data}
        simulation = self.simulation.model_dump(mode="json")
        # what is kept and how many are made together changes no sample
        return {**table, "simulation": {k: v for k, v in simulation.items() if k not in ("outputs", "batch")}}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the trainings that come with the library."""
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(
        sorted(n[len("train_") : -len(".toml")] for n in found if n.startswith("train_") and n[-5:] == ".toml")
    )


def read_recipe(recipe: str) -> TrainingRecipe:
    """Return a recipe by name or from a file, typed but not yet checked against data and network."""
    name, text, _ = _text(recipe)
    return decode(text, TrainingRecipe, name)


def load_plan(recipe: str, *, folder: Path | None = None, steps: int | None = None) -> Plan:
    """Return the training of a recipe by name, one of `recipe_names()`, or of a TOML file.

    folder : of samples, instead of what the recipe says.
    steps : instead of the recipe's; a warmup that is not shorter becomes a tenth of them.

    Raises RecipeError, naming the line, for what is not a recipe or cannot be trained; FileNotFoundError; ImportError
    where torch is missing.
    """
    name, text, beside = _text(recipe)
    made = decode(text, TrainingRecipe, name)
    if steps is not None:
        warmup = made.training.warmup if made.training.warmup < steps else steps // 10
        table = made.training.model_copy(update={"steps": steps, "warmup": warmup})
        made = made.model_copy(update={"training": table})
    by_option = folder is not None
    if folder is None and made.data.folder is not None:
        folder = beside / made.data.folder

    def checked(keys: list[str], build: Callable[[], Any]) -> Any:
        try:
            return build()
        except RecipeError:
            raise  # of the simulation, whose file and line it names
        except (ValueError, TypeError, KeyError, OSError, RuntimeError) as error:
            first = str(error).split(" ")[0].rstrip(":")  # messages of the checks below begin with their key
            own = [first] if [*keys, first] in _tables(made) else []
            if by_option and keys == ["data"] and not _names_one(made.data.model_fields_set, str(error)):
                raise RecipeError(f"--data: {error}") from error
            raise complain(name, text, [*keys, *own], error) from error

    plan = Plan(made, checked(["data"], lambda: _simulation(made.data, folder, beside)), folder)
    for keys, check in _checks(plan):
        checked(keys, check)
    return plan


def _names_one(keys: set[str], message: str) -> bool:
    """Whether a message is about what one of the keys says, not about where the samples come from."""
    return any(re.search(rf"\b{key}\b", message) for key in keys - {"recipe", "folder"})


def _tables(recipe: TrainingRecipe) -> list[list[str]]:
    """All keys of the recipe's tables."""
    tables = {name: value for name, value in dict(recipe).items() if isinstance(value, Table)}
    return [[name, key] for name, table in tables.items() for key in type(table).model_fields]


def _text(recipe: str) -> tuple[str, str, Path]:
    """The name for messages, the text, and the folder that relative paths start from."""
    if recipe in recipe_names():
        return f"{recipe}.toml", (files(__package__) / f"train_{recipe}.toml").read_text("utf-8"), Path()
    path = Path(recipe)
    if not path.exists():
        raise FileNotFoundError(f"unknown training {recipe!r}; name a file, or choose from {', '.join(recipe_names())}")
    return str(path), read_text(path), path.parent


def _simulation(data: DataTable, folder: Path | None, beside: Path) -> recipes.Recipe:
    if folder is not None:
        found = Dataset(folder).recipe
        if "phantom" not in found:
            raise ValueError(f"folder {folder} was not written by `emrecon simulate`, so its geometry is unknown")
        try:
            return recipes.Recipe.model_validate_json(json.dumps(found))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(key) for key in first["loc"])
            raise ValueError(
                f"folder {folder} holds a recipe that this version does not know ({place}: {first['msg']}); simulate "
                "it again"
            ) from error
    if data.recipe is None:
        raise ValueError("recipe or folder must say where the samples come from, or pass --data")
    own = beside / data.recipe
    return recipes.load_recipe(own if own.is_file() else data.recipe)


def _checks(plan: Plan) -> list[tuple[list[str], Callable[[], Any]]]:
    """What has to work before the training begins, with the table to blame."""
    return [
        (["data"], lambda: _possible_data(plan)),
        (["network"], lambda: _possible_network(plan)),
        (["loss"], lambda: _possible_loss(plan)),
        (["training"], lambda: _possible_training(plan.recipe.training)),
        (["training"], lambda: _possible_stages(plan.recipe)),
    ]


def _possible_data(plan: Plan) -> None:
    data, simulation = plan.recipe.data, plan.simulation
    if data.n is not None and plan.folder is not None:
        raise ValueError("n sets how many samples are simulated; leave it out for a folder")
    if plan.level not in simulation.counts.levels:
        raise ValueError(f"level {plan.level:g} is not in the simulation; choose from {list(simulation.counts.levels)}")
    if len(set(data.guides)) < len(data.guides):
        raise ValueError(f"guide must not repeat a name, got {list(data.guides)}")
    if "guide" in data.guides and not simulation.phantom.has_guide:
        raise ValueError(f"phantoms of kind {simulation.phantom.kind!r} have no guide")
    if data.target == "reconstruction" and simulation.reconstruction is None:
        raise ValueError('target "reconstruction" needs a table [reconstruction] in the simulation')
    missing = [part for part in ("train", "validation") if part not in simulation.split]
    if missing:
        raise ValueError(f"the simulation's split needs {missing[0]!r}, but has only {', '.join(simulation.split)}")
    for part in ("train", "validation"):
        n = len(plan.dataset(part))
        if n == 0:
            raise ValueError(f"split {part!r} has no samples")
        if part == "train" and n < data.batch_size:
            raise ValueError(f"batch_size is {data.batch_size}, but split {part!r} has {n} samples; use at most {n}")


def _possible_network(plan: Plan) -> None:
    name, build = plan.recipe.network.name, learned.registry().get(plan.recipe.network.name)
    if build is None:
        raise ValueError(f"name {name!r} is not a known network; choose from {', '.join(learned.NETWORKS)}")
    taken = learned.options_of(build)
    wrong = [key for key in plan.arguments if key not in taken]
    if wrong:
        own = ", ".join(key for key in NetworkTable.model_fields if key in taken)
        raise ValueError(f"{wrong[0]} is not an option of {name}; choose from {own}")
    guides = plan.recipe.data.guides
    if guides and "guide_channels" not in taken and plan.arguments.get("attenuation") != "guide":
        raise ValueError(f"name {name} takes no guide; leave guide out of [data]")
    if plan.arguments.get("dimensions") == 3 and plan.source.is_flat:
        raise ValueError("dimensions = 3 needs volumes, but the samples have one slice")
    network = build(**plan.arguments)
    n = max(learned.n_subsets(network), getattr(network, "initial", (0, 1))[1])
    n_views = plan.source.simulator.geometry.n_views
    if n > n_views:
        raise ValueError(f"subsets must be at most {n_views}, the number of views, got {n}")


def _possible_loss(plan: Plan) -> None:
    kind, name = plan.recipe.loss.kind, plan.recipe.network.name
    if (kind == "completion") != (name == "sinogram-net"):
        raise ValueError(f'kind "completion" is for sinogram-net, and only that; the network is {name}')
    n_views = plan.source.simulator.geometry.n_views
    if kind == "completion" and n_views % plan.recipe.loss.every:
        raise ValueError(f"every must divide the {n_views} views, got {plan.recipe.loss.every}")
    keeps = plan.recipe.network.keep_measured is not False
    if kind == "completion" and keeps != (plan.recipe.loss.every > 1):
        raise ValueError(
            "every must be above 1 for a network that keeps what was measured, and 1 for keep_measured = false"
        )
    if plan.recipe.loss.kind == "n2n" and not plan.simulation.counts.noise:
        raise ValueError('kind "n2n" splits noisy counts, but the simulation has noise = false')


def _possible_stages(recipe: TrainingRecipe) -> None:
    if recipe.training.first_stages is None:
        return
    if recipe.network.name != "spectnet":
        raise ValueError(f"first_stages are those of spectnet, and the network is {recipe.network.name}")
    if recipe.loss.kind == "n2n":
        raise ValueError('first_stages compare images with the truth; kind must not be "n2n"')


def _possible_training(table: TrainingTable) -> None:
    if table.warmup >= table.steps:
        raise ValueError(f"warmup ({table.warmup}) must be less than steps ({table.steps})")
    if list(table.milestones) != sorted(table.milestones):
        raise ValueError(f"milestones must be in rising order, got {list(table.milestones)}")
    if (table.schedule == "steps") != bool(table.milestones):
        raise ValueError('milestones must be given for schedule = "steps", and only for that')
