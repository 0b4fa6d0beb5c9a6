"""`emrecon train`: from trained weights, with several sets of scans, and over several sites."""

import json

import pytest
import torch
from cli_cases import emrecon_or_raise as emrecon
from recipe_cases import SMALL_SPECT

from emrecon.cli import train_recipe
from emrecon.sims import RecipeError
from emrecon.unrolled.training.weights import load_network, read_card

pytestmark = pytest.mark.slow

SPECT = SMALL_SPECT.replace("test = 0.2", "validation = 0.2").replace("[24, 24, 1]", "[12, 12, 1]")
SPECT = SPECT.replace("voxel_size = [10.0, 10.0, 10.0]", "voxel_size = [20.0, 20.0, 20.0]")
SPECT = SPECT.replace("bins = [24, 1]\npixel_size = [10.0, 10.0]", "bins = [12, 1]\npixel_size = [20.0, 20.0]")
TRAINING = """\
name = "tiny"

[data]
recipe = "spect.toml"
batch_size = 2

[network]
name = "em-net"
n_modules = 2
width = 2

[training]
steps = 4
learning_rate = 1e-2
n_validation = 1
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for name in ("loop", "federated_averaging"):
        monkeypatch.setattr(f"emrecon.unrolled.training.{name}.plot_log", lambda folder: None)
    (tmp_path / "spect.toml").write_text(SPECT, encoding="utf-8")
    other = SPECT.replace("views = 12", "views = 16").replace('name = "small"', 'name = "other"')
    (tmp_path / "other.toml").write_text(other, encoding="utf-8")
    path = tmp_path / "train.toml"
    path.write_text(TRAINING, encoding="utf-8")
    return path


def weights(folder):
    network, _ = load_network(folder / "weights.safetensors", train_recipe.learned.registry())
    return network.state_dict()


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_training_begins_from_weights_and_says_what_differs(recipe, tmp_path, capsys):
    emrecon("train", recipe, "--out", tmp_path / "first", "--steps", 1)
    file = tmp_path / "first" / "weights.safetensors"
    recipe.write_text(TRAINING.replace("spect.toml", "other.toml"), encoding="utf-8")
    name = "denoisers.0"
    options = ("--out", tmp_path / "second", "--from", file, "--freeze", name, "--steps", 2)
    capsys.readouterr()
    emrecon("train", recipe, *options)
    said = " ".join(capsys.readouterr().out.split())
    assert "begins from weights.safetensors (em-net)" in said
    assert "parameters of which do not learn" in said
    assert "differs: simulation.spect.views: 12 there, 16 here" in said
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    stayed = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith(name)} <= stayed != set(before)
    about = read_card(tmp_path / "second" / "weights.safetensors").data["training"]["transfer"]
    assert about == {"weights": file.name, "freeze": [name], "sha256": read_card(file).sha256}
    with pytest.raises(ValueError, match="belongs to another training"):
        emrecon("train", recipe, "--out", tmp_path / "second")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "nothing"), "^--from: unknown weights 'nothing'; name a file"),
        (("--from", "fbsem-net-brain-pet"), "^--from: .*holds weights of 'fbsem-net', the training is of 'em-net'"),
        (("--freeze", "denoisers"), "^--freeze is for a training that begins from trained weights"),
    ],
)
def test_options_that_do_not_fit_are_named(recipe, tmp_path, options, message):
    with pytest.raises(RecipeError, match=message):
        emrecon("train", recipe, "--out", tmp_path / "run", *options)
    table = '\n[transfer]\nweights = "fbsem-net-brain-pet"\n'
    recipe.write_text(TRAINING + table, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"train\.toml, line 18: transfer"):
        emrecon("train", recipe, "--show")


def test_several_sets_take_turns(recipe, tmp_path):
    several = TRAINING.replace('recipe = "spect.toml"', 'recipe = ["spect.toml", "other.toml"]\nlevel = [0.5, 1.0]')
    recipe.write_text(several, encoding="utf-8")
    emrecon("train", recipe, "--out", tmp_path / "run", "--steps", 2)
    card = read_card(tmp_path / "run" / "weights.safetensors")
    assert card.data["level"] == [0.5, 1.0]
    assert [one["spect"]["views"] for one in card.data["training"]["simulation"]] == [12, 16]
    plan = train_recipe.load_plan(str(recipe))
    assert plan.names == ["small-0.5", "other-1"]
    assert plan.size("train") == 16
    for wrong, message in (
        ("level = [0.5]", "level lists 1 numbers for 2 recipes"),
        ("level = [0.5, 0.2]", "level 0.2 is not in the simulation"),
        ("n = [4, 1]", "split 'validation' has no samples|batch_size"),
    ):
        recipe.write_text(several.replace("level = [0.5, 1.0]", wrong), encoding="utf-8")
        with pytest.raises(RecipeError, match=message):
            train_recipe.load_plan(str(recipe))


def test_sites_share_weights(recipe, tmp_path):
    sites = TRAINING.replace('recipe = "spect.toml"', 'recipe = ["spect.toml", "spect.toml"]\nlevel = [0.5, 1.0]')
    sites += "\n[federated]\nlocal_steps = 2\nproximal = 0.01\n"
    recipe.write_text(sites, encoding="utf-8")
    plan = train_recipe.load_plan(str(recipe))
    assert plan.parts[0].simulation.seed != plan.parts[1].simulation.seed
    emrecon("train", recipe, "--out", tmp_path / "run")
    assert [row["step"] for row in json.loads((tmp_path / "run" / "log.json").read_text())] == [2, 4]
    first = weights(tmp_path / "run")
    (tmp_path / "run" / "weights.safetensors").unlink()
    emrecon("train", recipe, "--out", tmp_path / "run")  # all rounds are there
    assert same(first, weights(tmp_path / "run"))
    for old, new, message in (
        ("steps = 4", "steps = 5", "local_steps must divide the 5 steps"),
        ("n_validation = 1", "ema = 0.9", "local_steps and ema"),
        (
            'recipe = ["spect.toml", "spect.toml"]\nlevel = [0.5, 1.0]',
            'recipe = "spect.toml"',
            "local_steps are those of several sites",
        ),
    ):
        recipe.write_text(sites.replace(old, new), encoding="utf-8")
        with pytest.raises(RecipeError, match=message):
            train_recipe.load_plan(str(recipe))
