"""`emrecon train`: recipes that say what is wrong, likelihoods of samples, going on, ranks, and cards of weights."""

import json
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from cli_cases import emrecon_or_raise as emrecon
from ranks import run_ranks
from recipe_cases import SMALL_PET, SMALL_SPECT

from emrecon.cli import train_recipe
from emrecon.cli.errors import InterruptionError
from emrecon.cli.train_data import held_out, pattern_of, preparation, stacked, training_batches
from emrecon.sims import RecipeError, recipes
from emrecon.sims.datasets import write_dataset
from emrecon.unrolled.training import losses
from emrecon.unrolled.training.loop import Validation
from emrecon.unrolled.training.weights import load_network, read_card

SPECT = SMALL_SPECT.replace("test = 0.2", "validation = 0.1\ntest = 0.1").replace("[24, 24, 1]", "[16, 16, 1]")
SPECT = SPECT.replace("voxel_size = [10.0, 10.0, 10.0]", "voxel_size = [15.0, 15.0, 15.0]")
SPECT = SPECT.replace("bins = [24, 1]\npixel_size = [10.0, 10.0]", "bins = [16, 1]\npixel_size = [15.0, 15.0]")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_curves"),
]
TRAINING = """\
name = "tiny"
description = "for tests"

[data]
recipe = "spect.toml"
batch_size = 2

[network]
name = "mapem-net"
n_modules = 2
width = 2

[training]
steps = 6
learning_rate = 1e-2
validate_every = 2
n_validation = 1
ema = 0.5
"""
GUIDED = TRAINING.replace("spect.toml", "pet.toml").replace("batch_size = 2", 'batch_size = 2\nn = 12\nguide = "guide"')


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "spect.toml").write_text(SPECT, encoding="utf-8")
    (tmp_path / "pet.toml").write_text(SMALL_PET, encoding="utf-8")
    path = tmp_path / "train.toml"
    path.write_text(TRAINING, encoding="utf-8")
    return path


def plan_of(recipe, text=TRAINING, **options):
    recipe.write_text(text, encoding="utf-8")
    return train_recipe.load_plan(str(recipe), **options)


def weights(folder):
    """The numbers of all weights, in a fixed order."""
    network, _ = load_network(folder / "weights.safetensors", train_recipe.learned.registry())
    return torch.cat([w.reshape(-1) for w in network.state_dict().values()]).tolist()


# ---- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", train_recipe.recipe_names())
def test_recipes_of_the_library_can_begin(name):
    plan = train_recipe.load_plan(name)
    assert plan.recipe.name == name
    assert plan.recipe.description


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 6", "stesp = 6", "line 14: training.stesp: unknown key"),
        ("steps = 6", "steps = 0", "line 14: training.steps"),
        ("n_modules = 2", 'n_modules = "2"', "line 10: network.n_modules"),
        (
            'name = "mapem-net"',
            'name = "magic-net"',
            "line 9: network.name: name 'magic-net' is not a known network; choose from mapem",
        ),
        (
            "width = 2",
            "n_dual = 2",
            "line 11: network.n_dual: n_dual is not an option of mapem-net; choose from dimensions",
        ),
        ("width = 2", "subsets = 13", "line 11: network.subsets: subsets must be at most 12"),
        ("width = 2", "dimensions = 3", "line 11: network.dimensions: dimensions = 3 needs volumes"),
        ("batch_size = 2", "batch_size = 9", "line 6: data.batch_size: batch_size is 9, but split 'train' has"),
        (
            "batch_size = 2",
            "level = 0.2",
            "line 6: data.level: level 0.2 is not in the simulation; choose from [0.5, 1.0]",
        ),
        ("batch_size = 2", 'guide = "guide"', "line 6: data.guide: phantoms of kind 'spectnet-brain' have no guide"),
        (
            "batch_size = 2",
            'guide = ["mu", "mu"]',
            "line 6: data.guide: guide must not repeat a name, got ['mu', 'mu']",
        ),
        ("batch_size = 2", 'guide = ["mu", "ct"]', "line 6: data.guide"),
        ("batch_size = 2", 'target = "reconstruction"', "line 6: data.target: target"),
        ('recipe = "spect.toml"', 'recipe = "none.toml"', "line 5: data.recipe: unknown recipe"),
        ('recipe = "spect.toml"', 'folder = "none"', "data"),
        ('recipe = "spect.toml"', "n = 3", "line 4: data.recipe: recipe or folder"),
        ("ema = 0.5", "warmup = 6", "line 18: training.warmup: warmup (6) must be less than steps"),
        ("ema = 0.5", "milestones = [3]", "line 18: training.milestones: milestones must be given"),
        ("ema = 0.5", '\n[loss]\nkind = "l3"', "loss.kind"),
    ],
)
def test_errors_name_the_line(recipe, old, new, message):
    with pytest.raises(RecipeError) as error:
        plan_of(recipe, TRAINING.replace(old, new))
    assert message in str(error.value)
    assert "train.toml" in str(error.value)


def test_what_networks_and_losses_cannot_do(recipe):
    (recipe.parent / "spect.toml").write_text(SPECT + "noise = false\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="splits noisy counts, but the simulation has noise"):
        plan_of(recipe, TRAINING + '\n[loss]\nkind = "n2n"\n')
    (recipe.parent / "spect.toml").write_text(SPECT.replace("views = 12", "vews = 12"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"spect\.toml, line 19: spect\.vews: unknown key"):
        plan_of(recipe)


def test_trainings_are_listed_and_shown(recipe, capsys):
    emrecon("train")
    listed = capsys.readouterr().out
    assert all(name in listed for name in train_recipe.recipe_names())
    emrecon("train", recipe, "--show", "--steps", 7)
    shown = json.loads(capsys.readouterr().out)
    assert shown["training"]["steps"] == 7
    assert shown["simulation"]["spect"]["views"] == 12
    emrecon("train", "fbsem-pet", "--show", "--steps", 60)
    assert json.loads(capsys.readouterr().out)["training"]["warmup"] == 6  # a tenth, where the recipe's is longer
    with pytest.raises(Exception, match="name the folder to write the weights"):
        emrecon("train", recipe)


# ---- likelihoods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["spect", "pet"])
def test_a_batch_is_the_likelihood_of_each_scan(recipe, kind):
    text = TRAINING.replace("batch_size = 2", "batch_size = 2\nfloor = 0.0") if kind == "spect" else GUIDED
    plan = plan_of(recipe, text)
    samples = plan.dataset("train").__getitems__([1, 3])
    arguments, target = preparation(plan, torch.device("cpu"))(stacked(samples))
    likelihood, n = arguments["likelihood"], len(plan.simulation.counts.levels)
    assert ("guide" in arguments) == (kind == "pet")
    for item, number in enumerate((1, 3)):
        simulation = plan.source.simulations(number)[0]  # half of the counts for SPECT, which has two levels
        assert simulation.scan.duration == pytest.approx((0.5 if n == 2 else 1) * plan.source.simulator.duration)
        np.testing.assert_array_equal(likelihood.data[item].numpy(), simulation.scan.counts)
        expected = simulation.model()(simulation.truth)
        np.testing.assert_allclose(likelihood.model(target)[item].numpy(), expected, rtol=2e-3, atol=1e-4)
        np.testing.assert_array_equal(target[item].numpy(), simulation.truth)


def test_several_guides_are_channels_in_their_order(recipe):
    plan = plan_of(recipe, GUIDED.replace('guide = "guide"', 'guide = ["mu", "guide"]'))
    assert plan.arguments["guide_channels"] == 2
    samples = stacked(plan.dataset("train").__getitems__([1, 3]))
    arguments, _ = preparation(plan, torch.device("cpu"))(samples)
    for channel, name in enumerate(("mu", "guide")):
        alone = samples[name].reshape(arguments["guide"][:, 0].shape)
        assert torch.equal(arguments["guide"][:, channel], alone)
    network = train_recipe.learned.registry()["mapem-net"](**plan.arguments)
    with torch.no_grad():
        assert network(**arguments).shape == arguments["guide"][:, 0].shape


def test_no_count_is_inexplicable(recipe):
    plan = plan_of(recipe)
    likelihood = preparation(plan, "cpu").likelihood(stacked(plan.dataset("train").__getitems__([0, 1])))
    least = 1e-3 * likelihood.data.mean((1, 2, 3), keepdim=True)
    assert torch.equal(likelihood.model.background, least.expand_as(likelihood.data))
    assert torch.isfinite(torch.as_tensor(likelihood.value(torch.zeros(2, 16, 16, 1)))).all()


def test_batches_are_those_of_the_epoch_with_any_number_of_workers(recipe):
    plan = plan_of(recipe)
    prepare = preparation(plan, torch.device("cpu"))
    alone, helped = (list(training_batches(plan, prepare, workers, 3)(2)) for workers in (0, 1))
    assert len(alone) == len(helped) == 4
    for (a, x), (b, y) in zip(alone, helped):
        assert torch.equal(a["likelihood"].data, b["likelihood"].data)
        assert torch.equal(x, y)


def test_high_count_images_as_targets(recipe):
    text = (recipe.parent / "pet.toml").read_text() + "levels = [0.1, 1.0]\n\n[reconstruction]\niterations = 2\n"
    (recipe.parent / "pet.toml").write_text(text, encoding="utf-8")
    plan = plan_of(recipe, GUIDED.replace('guide = "guide"', 'target = "reconstruction"'))
    ((_, target),) = held_out(plan, preparation(plan, torch.device("cpu")), "validation", 1)()
    first = plan.source.split["train"]
    np.testing.assert_array_equal(target[0].numpy(), plan.source.samples([first])["reconstruction"][0, 1][..., None])


# ---- trainings -------------------------------------------------------------------------------------------------------


def test_an_interrupted_training_goes_on_to_the_same_weights(recipe, tmp_path, monkeypatch):
    emrecon("train", recipe, "--out", tmp_path / "whole")
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return losses.mse(*arguments)

    recipe.write_text(TRAINING + '\n[loss]\nkind = "l1"\n', encoding="utf-8")
    monkeypatch.setattr(losses, "l1", interrupted)
    with pytest.raises(InterruptionError, match="the same command goes on from the checkpoint"):
        emrecon("train", recipe, "--out", tmp_path / "parts")
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    monkeypatch.setattr(losses, "l1", losses.mse)
    emrecon("train", recipe, "--out", tmp_path / "parts")
    emrecon("train", recipe, "--out", tmp_path / "again")
    assert weights(tmp_path / "parts") == weights(tmp_path / "again") != weights(tmp_path / "whole")


def test_weights_come_with_a_card(recipe, tmp_path):
    recipe.write_text(GUIDED.replace("mapem-net", "em-net"), encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    path = tmp_path / "run" / "weights.safetensors"
    network, card = load_network(path, train_recipe.learned.registry())
    assert card.architecture == "em-net"
    assert dict(card.arguments) == {"n_modules": 2, "width": 2, "dimensions": 2, "guide_channels": 1}
    assert card.data["guide"] == "guide"
    assert card.data["training"]["simulation"]["pet"]["ring"]["sides"] == 8
    assert "count_scale" in card.scale
    assert card.version
    assert card.notes == "for tests"
    rows = json.loads((tmp_path / "run" / "log.json").read_text())
    assert card.metrics["validation nrmse"] == rows[-1]["nrmse"]
    assert card.metrics["data fit"] > 0.5
    assert card.metrics["data fit spread"] >= 0
    seen = card.data["statistics"]
    assert seen["n"] >= 1
    assert seen["guide offset"][0] <= seen["guide offset"][1]
    assert 0 < seen["background"][0] <= seen["background"][1] < 1
    plan = train_recipe.load_plan(str(recipe))
    pairs = held_out(plan, preparation(plan, torch.device("cpu")), "validation", 1)
    with torch.no_grad():
        again = Validation(pairs)(network)["nrmse"]
    assert again == pytest.approx(card.metrics["validation nrmse"], rel=1e-4)


def test_training_helps(recipe, tmp_path):
    text = TRAINING.replace("steps = 6", "steps = 24").replace("validate_every = 2", "validate_every = 8")
    recipe.write_text(text, encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run")
    rows = json.loads((tmp_path / "run" / "log.json").read_text())
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["nrmse"] < rows[0]["nrmse"]


@pytest.mark.parametrize("kind", ["n2n", "ssim"])
def test_other_losses_networks_and_schedules(recipe, tmp_path, kind):
    network = {"n2n": 'name = "osem-varnet"\nsubsets = 3', "ssim": 'name = "lpd"\nn_iterations = 1\nn_primal = 2'}[kind]
    more = {"n2n": 'schedule = "steps"\nmilestones = [1]', "ssim": 'schedule = "constant"\nprecision = "bfloat16"'}[
        kind
    ]
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', network).replace("ema = 0.5", more)
    recipe.write_text(f'{text}\n[loss]\nkind = "{kind}"\n', encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    rows = json.loads((tmp_path / "run" / "log.json").read_text())
    assert np.isfinite(rows[-1]["loss"])
    assert rows[-1]["learning_rate"] == pytest.approx({"n2n": 1e-3, "ssim": 1e-2}[kind])


def test_a_folder_of_samples_is_as_good(recipe, tmp_path):
    emrecon("simulate", tmp_path / "spect.toml", "--out", tmp_path / "set")
    emrecon("train", recipe, "--out", tmp_path / "one", "--steps", 3)
    emrecon("train", recipe, "--out", tmp_path / "two", "--steps", 3, "--data", tmp_path / "set")
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    text = SPECT.replace('"background", "factors", ', "")
    (tmp_path / "spect.toml").write_text(text, encoding="utf-8")
    emrecon("simulate", tmp_path / "spect.toml", "--out", tmp_path / "less")
    with pytest.raises(RecipeError, match="has no field 'background'"):
        emrecon("train", recipe, "--out", tmp_path / "three", "--data", tmp_path / "less")


def test_a_folder_of_another_training_is_refused(recipe, tmp_path):
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 3)  # longer is the same one
    trained, card = weights(tmp_path / "run"), read_card(tmp_path / "run" / "weights.safetensors")
    for name in ("log.json", "best.pt", "weights.safetensors"):  # as after a kill when only the checkpoint was written
        (tmp_path / "run" / name).unlink()
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 3)
    assert weights(tmp_path / "run") == trained
    assert read_card(tmp_path / "run" / "weights.safetensors") == card
    recipe.write_text(TRAINING.replace("width = 2", "width = 3"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"belongs to another training \(network.width is 2 there and 3 here\)"):
        emrecon("train", recipe, "--out", tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match="not the recipe of a training"):
        emrecon("train", recipe, "--out", tmp_path / "run")


def test_missing_packages_are_named(recipe, tmp_path, monkeypatch):
    for package in ("safetensors.torch", "torch"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=r'need \w+: pip install "emrecon\[torch\]"'):
                emrecon("train", recipe, "--out", tmp_path / "run")


def test_two_ranks_train_one_network(recipe, tmp_path):
    said = run_ranks(
        "from emrecon.cli import main, train_recipe",
        "main.main()",
        *("train", recipe, "--out", tmp_path / "run", "--steps", 4, "--device", "cpu"),
    )
    assert said.count("wrote ") == 1
    assert read_card(tmp_path / "run" / "weights.safetensors").architecture == "mapem-net"


class Samples:
    """A set of samples whose description is given."""

    n, samples_per_phantom, batch = 4, 1, 1
    split: ClassVar = {"train": 2, "validation": 2}

    def __init__(self, described):
        self.made = recipes.RecipeSource(recipes.recipe.parse_recipe(SMALL_PET), 4)
        self.fields, self.described = self.made.fields, described

    def describe(self):
        return self.described

    def samples(self, indices):
        return self.made.samples(indices)


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (None, "nothing has no manifest.json"),
        ({"a": 1}, "was not written by `emrecon simulate`"),
        ({"phantom": {"kind": "x"}}, r"a recipe that this version does not know \(.*\); simulate it again"),
    ],
)
def test_samples_of_a_folder_that_cannot_be_used_are_blamed_on_the_option(recipe, tmp_path, described, message):
    folder = tmp_path / "nothing"
    if described is not None:
        write_dataset(Samples(described), folder)
    with pytest.raises(RecipeError, match=f"^--data: .*{message}"):
        train_recipe.load_plan(str(recipe), folder=folder)


def test_a_batch_that_no_split_fills_says_what_would_fit(recipe):
    recipe.write_text(TRAINING.replace("batch_size = 2", "batch_size = 900"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"batch_size is 900, but split 'train' has \d+ samples; use at most \d+"):
        train_recipe.load_plan(str(recipe))


def test_samples_are_kept_where_that_is_asked_for(recipe, tmp_path):
    emrecon("train", recipe, "--out", tmp_path / "a", "--steps", 2, "--cache")
    emrecon("train", recipe, "--out", tmp_path / "b", "--steps", 2)
    assert len(list((tmp_path / "a" / "samples").rglob("*.npz"))) >= 4
    assert not (tmp_path / "b" / "samples").exists()  # slices are simulated again
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


# ---- direct networks -------------------------------------------------------------------------------------------------

DIRECT = {
    "deeppet": "small = true\nsize = 16",
    "automap": "size = 16\nviews = 12\nhidden = 8\nwidth = 2",
    "radon-inversion": "patch = 8\nwidth = 2\ndepth = 1",
    "back-projection": "width = 2\nlevels = 2",
    "fusion": "passes = 1\nsubsets = 2",
}


@pytest.mark.parametrize("name", DIRECT)
def test_direct_networks_are_trained_and_know_their_geometry(recipe, tmp_path, name):
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', f'name = "{name}"\n{DIRECT[name]}')
    recipe.write_text(text, encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    network, card = load_network(tmp_path / "run" / "weights.safetensors", train_recipe.learned.registry())
    assert card.architecture == name
    scan = card.arguments.get("scan")
    assert name in ("back-projection", "fusion") or (scan["views"], scan["shape"]) == (12, [16, 16, 1])
    plan = train_recipe.load_plan(str(recipe))
    (arguments, _), *_ = held_out(plan, preparation(plan, torch.device("cpu")), "validation", 1)()
    with torch.no_grad():
        assert torch.isfinite(network(**arguments)).all()


def test_a_guide_that_a_network_does_not_take_is_refused(recipe):
    text = GUIDED.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', 'name = "deeppet"\nsmall = true\nsize = 24')
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="deeppet takes no guide"):
        train_recipe.load_plan(str(recipe))


def test_stages_are_for_spectnet(recipe):
    recipe.write_text(TRAINING + "first_stages = [2, 2]\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="first_stages are those of spectnet, and the network is mapem-net"):
        train_recipe.load_plan(str(recipe))


def test_spectnet_in_stages_goes_on_where_it_was_stopped(recipe, tmp_path):
    bins, size = "bins = [64, 1]\npixel_size = [3.75, 3.75]", "shape = [64, 64, 1]\nvoxel_size = [3.75, 3.75, 3.75]"
    spect = SPECT.replace("bins = [16, 1]\npixel_size = [15.0, 15.0]", bins)
    spect = spect.replace("shape = [16, 16, 1]\nvoxel_size = [15.0, 15.0, 15.0]", size)
    (tmp_path / "spect.toml").write_text(spect, encoding="utf-8")
    network = 'name = "spectnet"\nsize = 64\ncode = 8\nhidden = 8\nwidth = 2'
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', network)
    text = text.replace("steps = 6", "steps = 2\nfirst_stages = [3, 2]").replace("ema = 0.5\n", "")
    recipe.write_text(text, encoding="utf-8")
    for folder, limits in (("one", [None]), ("two", [1, 4, None])):
        for limit in limits:
            train_until(recipe, tmp_path / folder, limit)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert (tmp_path / "two" / "stage-02-codes" / "checkpoint.pt").exists()


def train_until(recipe, out, n_steps):
    """Run a training, and stop it after so many steps of this call."""
    done = []

    def counted(*arguments, **named):
        if n_steps is not None and len(done) == n_steps:
            raise KeyboardInterrupt
        done.append(0)
        return own(*arguments, **named)

    own = torch.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", counted)
        try:
            emrecon("train", recipe, "--out", out)
        except (InterruptionError, KeyboardInterrupt):
            assert n_steps is not None


@pytest.mark.parametrize("every", [2, 1])
def test_networks_of_data(recipe, tmp_path, every):
    network = 'name = "sinogram-net"\nwidth = 2\ndepth = 2\npasses = 1\nsubsets = 2\nkeep_measured = '
    network += "true" if every > 1 else "false"
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', network)
    recipe.write_text(text + f'\n[loss]\nkind = "completion"\nevery = {every}\n', encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    assert read_card(tmp_path / "run" / "weights.safetensors").architecture == "sinogram-net"
    wrong = text + f'\n[loss]\nkind = "completion"\nevery = {3 - every}\n'
    recipe.write_text(wrong, encoding="utf-8")
    with pytest.raises(RecipeError, match="every must be above 1"):
        train_recipe.load_plan(str(recipe))
    recipe.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match="is for sinogram-net, and only that"):
        train_recipe.load_plan(str(recipe))


def test_fewer_views_of_the_same_recipe(recipe):
    plan = plan_of(recipe, TRAINING.replace("batch_size = 2", "batch_size = 2\nviews = 6"))
    assert plan.source.simulator.geometry.n_views == 6
    assert "views" not in plan_of(recipe).describe()["data"]  # and so trainings of earlier versions go on
    with pytest.raises(RecipeError, match="views are those of a SPECT camera"):
        plan_of(recipe, GUIDED.replace("batch_size = 2", "batch_size = 2\nviews = 6"))


def test_a_critic_and_features_beside_the_error(recipe, tmp_path):
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', 'name = "deeppet"\nsmall = true\nsize = 16')
    text = text.replace("steps = 6", "steps = 3").replace("[network]", '[loss]\nkind = "wasserstein"\n\n[network]')
    recipe.write_text(text, encoding="utf-8")
    for folder, limits in (("one", [None]), ("two", [6, None])):  # the encoder of features takes 3 steps
        for limit in limits:
            train_until(recipe, tmp_path / folder, limit)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    with pytest.raises(RecipeError, match='penalty belongs to kind "wasserstein", and the kind is "mse"'):
        plan_of(recipe, text.replace('"wasserstein"', '"mse"\npenalty = 1.0'))


HIDING = ['hide = "coarse"\nevery = 4', 'hide = "arc"\nn_hidden = 3', 'hide = "bins"\nn_hidden = 2']


@pytest.mark.parametrize("hide", HIDING)
def test_networks_of_data_learn_to_fill_in_what_the_recipe_hides(recipe, hide):
    network = 'name = "sinogram-net"\nnetwork = "lu-net"\nwidth = 2\nlevels = 1\npasses = 1\nsubsets = 2'
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', network)
    plan = plan_of(recipe, text + f'\n[loss]\nkind = "completion"\n{hide}\n')
    (arguments, _), *_ = held_out(plan, preparation(plan, torch.device("cpu")), "validation", 1)()
    model = train_recipe.learned.registry()["sinogram-net"](**plan.arguments)
    assert model.scan["views"] == 12
    assert pattern_of(plan) == pattern_of(plan, moving=False)
    with torch.no_grad():
        assert torch.isfinite(model(**arguments)).all()


@pytest.mark.parametrize(
    ("hide", "said"),
    [
        ('hide = "coarse"\nevery = 5', "every must divide the 16 bins"),
        ('hide = "arc"', "n_hidden must be given"),
        ('hide = "bins"\nn_hidden = 16', "n_hidden must be less than the 16"),
        ('hide = "crystals"\nn_hidden = 2', "is for PET"),
    ],
)
def test_what_cannot_be_hidden_is_refused(recipe, hide, said):
    text = TRAINING.replace('name = "mapem-net"\nn_modules = 2\nwidth = 2', 'name = "sinogram-net"\nwidth = 2')
    with pytest.raises(RecipeError, match=said):
        plan_of(recipe, text + f'\n[loss]\nkind = "completion"\n{hide}\n')


def test_counts_without_noise(recipe):
    (recipe.parent / "spect.toml").write_text(SPECT.replace('"counts"', '"counts", "expected"'), encoding="utf-8")
    text = TRAINING.replace("batch_size = 2", "batch_size = 2\nnoise = false")
    plan = plan_of(recipe, text)
    (arguments, _), *_ = held_out(plan, preparation(plan, torch.device("cpu")), "validation", 1)()
    (noisy, _), *_ = held_out(plan_of(recipe), preparation(plan_of(recipe), torch.device("cpu")), "validation", 1)()
    exact, counted = arguments["likelihood"].data, noisy["likelihood"].data
    assert float((exact - exact.round()).abs().max()) > 0
    assert float(((counted - exact) ** 2 / exact.clamp(min=1e-3)).mean()) == pytest.approx(1, rel=0.5)
