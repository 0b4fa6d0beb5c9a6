"""Recipes of trainings: typed TOML that names data, network, loss and schedule, checked before work begins."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from emrecon.projectors.core.texts import read_text
from emrecon.sims import recipes
from emrecon.sims.datasets import CachedDataset, Dataset, SimulatedDataset
from emrecon.sims.recipes import RecipeError, Table, complain, decode

from . import learned
from .simulate import reconstruct
from .train_tables import DataTable, NetworkTable, TrainingRecipe, TrainingTable, TransferTable

_NEW = ("hide", "n_hidden", "perceptual", "adversarial", "penalty", "critic_rate")
"""Keys of [loss] that trainings of earlier versions do not have."""
_OTHER_PHANTOMS = 1_000_003
"""What a seed is moved by for every time that a recipe is named again."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A training that can begin: its recipe, and the simulation that its data come from.

    kept : the folder where simulated samples are kept for the next epochs; None simulates them again.
    beside : the folder that relative paths start from.
    parts : a training of each recipe, where the data have several; the plan itself is then only of all together.
    """

    recipe: TrainingRecipe
    simulation: recipes.Recipe
    folder: Path | None = None
    kept: Path | None = None
    beside: Path = Path()
    parts: tuple[Plan, ...] = ()

    @property
    def each(self) -> tuple[Plan, ...]:
        """The training of each recipe; this one where there is one."""
        return self.parts or (self,)

    @property
    def names(self) -> list[str]:
        """A name for each recipe, such as its site has."""
        found: list[str] = []
        for part in self.each:
            own = re.sub(r"[^A-Za-z0-9._+-]+", "-", f"{part.simulation.name}-{part.level:g}").strip("-.") or "site"
            found.append(own if own not in found else f"{own}-{len(found) + 1}")
        return found

    def size(self, split: str) -> int:
        """Return how many samples a part of all sets has."""
        return sum(len(part.dataset(split)) for part in self.each)

    def keeping(self, folder: Path) -> Plan:
        """Return the plan whose simulated samples are kept in a folder."""
        parts = tuple(replace(part, kept=folder / name) for part, name in zip(self.parts, self.names))
        return replace(self, kept=folder, parts=parts)

    @cached_property
    def weights(self) -> Path | None:
        """The file of weights to begin from."""
        table = self.recipe.transfer
        return None if table is None else trained_weights(table.weights, self.beside)

    @cached_property
    def source(self) -> recipes.RecipeSource | recipes.TwoTracerSource:
        """The simulation, with all outputs that the training needs; that of the first recipe of several."""
        if self.parts:
            return self.parts[0].source
        outputs = {"outputs": self.fields}
        n = self.recipe.data.n or 0
        assert isinstance(n, int)
        return recipes.source_of(self.simulation.model_copy(update=outputs), n, reconstruct)

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
        """The part of the counts that the network sees; that of the first recipe of several."""
        if self.parts:
            return self.parts[0].level
        wanted = self.recipe.data.level
        assert not isinstance(wanted, tuple)
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
        source = self.source
        if "weights" in taken and isinstance(source, recipes.TwoTracerSource):
            given["weights"] = [list(row) for row in source.weights]
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
        levels = [part.level for part in self.each]
        level = levels if self.parts else levels[0]
        own = self.recipe.data.model_dump(mode="json", exclude={"keep"})  # which changes no sample
        data = {**own, "recipe": None, "folder": None, "level": level}
        table = {**self.recipe.model_dump(mode="json"), "data": data}
        for name in ("transfer", "federated"):  # which trainings of earlier versions do not have
            if table[name] is None:
                del table[name]
        if data["views"] is None:
            del data["views"]
        table["loss"] = {
            k: v for k, v in table["loss"].items() if k not in _NEW or k in self.recipe.loss.model_fields_set
        }
        if self.weights is not None:
            digest = importlib.import_module("emrecon.unrolled.training.weights").read_card(self.weights).sha256
            table["transfer"] |= {"weights": self.weights.name, "sha256": digest}
        # what is kept and how many are made together changes no sample
        made = [part.simulation.model_dump(mode="json") for part in self.each]
        simulations = [{k: v for k, v in one.items() if k not in ("outputs", "batch")} for one in made]
        return {**table, "simulation": simulations if self.parts else simulations[0]}


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


def load_plan(
    recipe: str,
    *,
    folder: Path | None = None,
    steps: int | None = None,
    start: str | None = None,
    freeze: Sequence[str] = (),
) -> Plan:
    """Return the training of a recipe by name, one of `recipe_names()`, or of a TOML file.

    folder : of samples, instead of what the recipe says.
    steps : instead of the recipe's; a warmup that is not shorter becomes a tenth of them.
    start, freeze : weights to begin from and parts that do not learn, instead of the recipe's.

    Raises RecipeError, naming the line, for what is not a recipe or cannot be trained; FileNotFoundError; ImportError
    where torch is missing.
    """
    name, text, beside = _text(recipe)
    made = decode(text, TrainingRecipe, name)
    if steps is not None:
        warmup = made.training.warmup if made.training.warmup < steps else steps // 10
        table = made.training.model_copy(update={"steps": steps, "warmup": warmup})
        made = made.model_copy(update={"training": table})
    started_by_option = start is not None or bool(freeze)
    if started_by_option:
        made = made.model_copy(update={"transfer": _transfer(made.transfer, start, freeze)})
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
            if started_by_option and keys == ["transfer"]:
                raise RecipeError(f"{'--from' if start is not None else '--freeze'}: {error}") from error
            raise complain(name, text, [*keys, *own], error) from error

    plan = checked(["data"], lambda: _plan_of(made, folder, beside))
    assert isinstance(plan, Plan)
    for keys, check in _checks(plan):
        checked(keys, check)
    return plan


def _plan_of(recipe: TrainingRecipe, folder: Path | None, beside: Path) -> Plan:
    """The plan of one set of samples, or of several."""
    if folder is not None:
        if isinstance(recipe.data.recipe, tuple):
            raise ValueError("recipe lists several sets, and a folder holds one; leave one of them out")
        return Plan(recipe, simulation_of(recipe.data, folder, beside), folder, beside=beside)
    tables = recipe.data.each()
    if not isinstance(recipe.data.recipe, tuple):
        return Plan(recipe, simulation_of(recipe.data, None, beside), beside=beside)
    seen: dict[str | None, int] = {}
    parts = []
    for table in tables:
        simulation = simulation_of(table, None, beside)
        again = seen[str(table.recipe)] = seen.get(str(table.recipe), -1) + 1
        simulation = simulation.model_copy(update={"seed": simulation.seed + again * _OTHER_PHANTOMS})
        parts.append(Plan(recipe.model_copy(update={"data": table}), simulation, beside=beside))
    return Plan(recipe, parts[0].simulation, beside=beside, parts=tuple(parts))


def _transfer(table: TransferTable | None, start: str | None, freeze: Sequence[str]) -> TransferTable:
    """The recipe's table with what the options say."""
    weights = start if start is not None else None if table is None else table.weights
    if start is not None and Path(start).is_file():
        weights = str(Path(start).resolve())  # and not one of this name beside the recipe
    if weights is None:
        raise RecipeError("--freeze is for a training that begins from trained weights; name them by --from")
    return TransferTable(weights=weights, freeze=tuple(freeze) or (() if table is None else table.freeze))


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


def trained_weights(name: str, beside: Path) -> Path:
    """Return the file of weights that a recipe begins from: one beside it, any other, or a name.

    Raises ValueError for a name that is not known, FileNotFoundError for a file that is not there.
    """
    own = beside / name
    transfer = importlib.import_module("emrecon.unrolled.training.transfer")
    found: Path = transfer.weights_path(own if own.is_file() else name)
    return found


def simulation_of(data: DataTable, folder: Path | None, beside: Path) -> recipes.Recipe:
    """Return the simulation that samples come from: that of a folder, or of a recipe by name or beside the training's.

    Raises ValueError for a folder that was not simulated, and where nothing says where samples come from.
    """
    views = getattr(data, "views", None)  # which tables of images do not have
    if folder is not None:
        if views is not None:
            raise ValueError("views are those of the samples in a folder; leave it out")
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
    assert isinstance(data.recipe, str)
    own = beside / data.recipe
    made = recipes.load_recipe(own if own.is_file() else data.recipe)
    if views is None:
        return made
    if made.spect is None:
        raise ValueError(f"views are those of a SPECT camera, and {data.recipe} has none")
    return made.model_copy(update={"spect": made.spect.model_copy(update={"views": views})})


def _checks(plan: Plan) -> list[tuple[list[str], Callable[[], Any]]]:
    """What has to work before the training begins, with the table to blame."""
    found: list[tuple[list[str], Callable[[], Any]]] = []
    for part in plan.each:
        found += [
            (["data"], partial(_possible_data, part)),
            (["network"], partial(_possible_network, part)),
            (["loss"], partial(_possible_loss, part)),
        ]
    return [
        *found,
        (["data"], lambda: _possible_together(plan)),
        (["training"], lambda: _possible_training(plan.recipe.training)),
        (["training"], lambda: _possible_stages(plan.recipe)),
        (["federated"], lambda: _possible_federation(plan)),
        (["transfer"], lambda: started(plan, learned.registry()[plan.recipe.network.name](**plan.arguments))),
    ]


def started(plan: Plan, network: Any) -> Any:
    """Give a network the weights that the plan begins from, leave its frozen parts as they are, and return what it
    began from; None where it begins anew.

    Raises ValueError for weights and names that do not fit.
    """
    table = plan.recipe.transfer
    if table is None or plan.weights is None:
        return None
    transfer = importlib.import_module("emrecon.unrolled.training.transfer")
    name = plan.recipe.network.name
    found = transfer.start_from(
        network,
        plan.weights,
        architecture=name,
        arguments=plan.arguments,
        build=learned.registry()[name],
        data=plan.describe(),
    )
    transfer.freeze(network, table.freeze)
    return found


def _possible_together(plan: Plan) -> None:
    """Whether one network can see all sets."""
    if not plan.parts:
        return
    first, *others = plan.parts
    for part in others:
        if part.source.is_flat != first.source.is_flat:
            raise ValueError("recipe mixes slices and volumes, and a network is made for one of them")
        if part.arguments != first.arguments:
            raise ValueError(
                f"recipe mixes geometries, and {plan.recipe.network.name} learns one; choose a network with the "
                "physics inside"
            )


def _possible_federation(plan: Plan) -> None:
    table, training = plan.recipe.federated, plan.recipe.training
    if table is None:
        return
    if not plan.parts:
        raise ValueError("local_steps are those of several sites: list their recipes in [data], recipe = [...]")
    if training.steps % table.local_steps:
        raise ValueError(f"local_steps must divide the {training.steps} steps, got {table.local_steps}")
    given = training.model_fields_set
    for key, why in (
        ("ema", "the average over sites is not averaged over steps"),
        ("patience", "a federation makes all its rounds"),
        ("first_stages", "a federation has one stage"),
        ("validate_every", "a federation is validated after every round"),
    ):
        if key in given and getattr(training, key) is not None:
            raise ValueError(f"local_steps and {key} of [training] do not go together: {why}; leave {key} out")


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
    if (plan.simulation.second is not None) != (name == "dual-tracer"):
        raise ValueError(f"name {name} and the simulation do not go together: dual-tracer is for scans of two tracers")
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
    if kind == "completion":
        _possible_hiding(plan)
    if name == "dual-tracer" and kind in ("n2n", "wasserstein"):
        raise ValueError(f'kind "{kind}" is for the image of one tracer')
    own = {"perceptual", "adversarial", "penalty", "critic_rate"} & plan.recipe.loss.model_fields_set
    if own and kind != "wasserstein":
        raise ValueError(f'{min(own)} belongs to kind "wasserstein", and the kind is "{kind}"')
    if kind == "wasserstein" and plan.recipe.federated is not None:
        raise ValueError('kind "wasserstein" trains a critic beside the network, which sites do not share')
    share = plan.recipe.loss.share
    if isinstance(share, tuple) and (kind != "n2n" or share[0] > share[1]):
        raise ValueError(f'share is a range, from low to high, for kind "n2n" alone, got {list(share)}')
    if plan.recipe.loss.kind == "n2n" and not plan.simulation.counts.noise:
        raise ValueError('kind "n2n" splits noisy counts, but the simulation has noise = false')


def _possible_hiding(plan: Plan) -> None:
    loss, geometry = plan.recipe.loss, plan.source.simulator.geometry
    n_views, n_bins = geometry.shape[:2]
    if loss.hide in ("views", "coarse"):
        what, n = ("views", n_views) if loss.hide == "views" else ("bins", n_bins)
        if n % loss.every:
            raise ValueError(f"every must divide the {n} {what}, got {loss.every}")
        if loss.hide == "coarse" and loss.every < 2:
            raise ValueError("every must be above 1: so many bins are one coarse bin")
    if (loss.n_hidden is None) != (loss.hide in ("views", "coarse")):
        raise ValueError('n_hidden must be given for hide = "arc", "bins" and "crystals", and only for those')
    if loss.hide == "crystals" and plan.simulation.pet is None:
        raise ValueError('hide = "crystals" is for PET; a failed block of a camera is "bins"')
    if loss.n_hidden is not None:
        crystals = getattr(getattr(geometry, "scanner", None), "n_crystals", 0)
        n = {"arc": n_views, "bins": n_bins, "crystals": crystals}[loss.hide]
        if loss.n_hidden >= n:
            raise ValueError(f"n_hidden must be less than the {n} that there are, got {loss.n_hidden}")
    keeps = plan.recipe.network.keep_measured is not False
    if keeps != loss.hides:
        raise ValueError(
            "every must be above 1 for a network that keeps what was measured, and 1 for keep_measured = false"
        )


def _possible_stages(recipe: TrainingRecipe) -> None:
    if recipe.training.first_stages is None:
        return
    if recipe.network.name != "spectnet":
        raise ValueError(f"first_stages are those of spectnet, and the network is {recipe.network.name}")
    if recipe.loss.kind in ("n2n", "wasserstein"):
        raise ValueError(f'first_stages compare images with the truth; kind must not be "{recipe.loss.kind}"')


def _possible_training(table: TrainingTable) -> None:
    if table.warmup >= table.steps:
        raise ValueError(f"warmup ({table.warmup}) must be less than steps ({table.steps})")
    if list(table.milestones) != sorted(table.milestones):
        raise ValueError(f"milestones must be in rising order, got {list(table.milestones)}")
    if (table.schedule == "steps") != bool(table.milestones):
        raise ValueError('milestones must be given for schedule = "steps", and only for that')
