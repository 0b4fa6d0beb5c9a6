"""`emrecon train` for networks of images: one command to weights that `emrecon enhance` takes, and what is refused."""

import json
import tomllib
from importlib.resources import files

import numpy as np
import pytest
import torch
from cli_cases import emrecon_or_raise as emrecon

from emrecon import formats, unrolled
from emrecon.cli import enhancement_losses, train_enhancement
from emrecon.cli.enhancement_losses import EnhancementLoss
from emrecon.projectors import ImageGrid
from emrecon.sims import RecipeError, load_recipe

pytestmark = pytest.mark.slow

SIMULATION = """
name = "tiny"
n = 10
outputs = ["truth"]
[grid]
shape = [16, 16, 1]
voxel_size = [24.0, 24.0, 24.0]
[phantom]
kind = "torso"
uptake = "bone-scan"
lesions = [1, 2]
[spect]
views = 4
bins = [16, 1]
pixel_size = [24.0, 24.0]
radius = 250.0
response = [0.04, 2.0]
[counts]
total = 1e4
levels = [1.0, 0.5, 0.25]
[reconstruction]
iterations = 1
[split]
train = 0.4
validation = 0.2
test = 0.4
"""
TRAINING = """
name = "t"
[data]
recipe = "tiny.toml"
guide = "mu"
inputs = [0.5, 0.25]
batch_size = 2
patch = [12, 8, 1]
[network]
name = "u2net"
lite = true
width = 2
norm = "none"
[loss]
l1 = 1.0
ssim = 0.5
sides = 0.5
lesions = 100.0
[training]
steps = 2
validate_every = 2
n_validation = 2
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "tiny.toml").write_text(SIMULATION)
    path = tmp_path / "train.toml"
    path.write_text(TRAINING)
    return path


def test_from_recipe_to_better_image(recipe, tmp_path, capsys):
    emrecon("train", recipe, "--out", tmp_path / "a")
    network, card = unrolled.load_network(tmp_path / "a" / "weights.safetensors", unrolled.ENHANCERS)
    assert card.arguments["in_channels"] == 2
    assert card.data["level"] == [0.5, 0.25]
    assert {"validation nrmse", "input nrmse", "test nrmse"} <= set(card.metrics)
    assert {"noise", "guide correlation", "n"} <= set(card.data["statistics"])
    grid = ImageGrid((16, 16, 2), 24.0)
    image = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    for name in ("x", "mu"):
        formats.write_image(tmp_path / f"{name}.nii.gz", image, grid)
    weights = ("--weights", tmp_path / "a" / "weights.safetensors", "--guide", tmp_path / "mu.nii.gz")
    emrecon("enhance", tmp_path / "x.nii.gz", *weights, "--out", tmp_path / "better.nii.gz")
    with torch.no_grad():
        expected = network(torch.as_tensor(image), guide=torch.as_tensor(image)).clamp(min=0)
    np.testing.assert_allclose(formats.read_image(tmp_path / "better.nii.gz")[0], expected, atol=1e-4)
    emrecon("train", recipe, "--out", tmp_path / "b", "--from", tmp_path / "a" / "weights.safetensors")
    assert "begins from weights.safetensors (u2net)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("inputs = [0.5, 0.25]", "inputs = 0.3", "line 6: data.inputs: inputs 0.3 is not in the simulation"),
        ("inputs = [0.5, 0.25]", "inputs = 1.0", "are the same image"),
        ("patch = [12, 8, 1]", "patch = [17, 8, 1]", "larger than the images"),
        ('guide = "mu"', 'guide = "guide"', "have no guide"),
        ("width = 2", "heads = 2", "heads is not an option of u2net"),
        ("sides = 0.5", 'gan = "hinge"\nsides = 0.5', "sides and gan do not go together"),
        ("lesions = 100.0", "blur = 1.0", "set lesions"),
        ("lesions = 100.0", "conditional = true", "set gan"),
        ("sides = 0.5", 'cycle = "paired"', "do not go together"),
        ('name = "u2net"\nlite = true\n', 'name = "dncnn"\n', "sides are outputs of u2net and coupled-unet"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_line(recipe, old, new, said):
    recipe.write_text(TRAINING.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        train_enhancement.load_plan(str(recipe))


def test_recipes_of_the_library_are_of_their_kind():
    for name in train_enhancement.recipe_names():
        found = train_enhancement.read_recipe(name)
        assert train_enhancement.is_one(name)
        assert found.name == name
        levels = load_recipe(found.data.recipe).counts.levels
        assert set(found.data.inputs or ()) <= set(levels)
        enhancement_losses.check(found.loss, found.network.name)
    assert not train_enhancement.is_one("mapem-pet")
    text = (files("emrecon.cli") / "train_mapem-pet.toml").read_text()
    assert tomllib.loads(text)["network"]["name"] not in train_enhancement.enhancers()


@pytest.mark.parametrize(
    "table",
    [
        {"gan": "wasserstein", "conditional": True, "l1": 1.0},
        {"cycle": "unpaired"},
        {"perceptual": 0.1, "observer": 0.1, "observer_width": 2.0, "charbonnier": 1.0, "sobel": 1.0, "lesions": 9.0},
        {},
    ],
)
def test_objectives_of_a_table(table):
    with unrolled.seeded(0):
        network = unrolled.unet_enhancer(2, width=2, levels=2)
        x = torch.rand(2, 12, 12, 1)
        batch = ({"x": x}, x, torch.ones_like(x)) if "lesions" in table else ({"x": x}, x)
        model, loss = enhancement_losses.objective(
            EnhancementLoss(**table), network, lambda epoch: iter([batch]), (8, 8, 1)
        )
    loss(model, batch, torch.Generator().manual_seed(0)).backward()
    assert all(w.grad is not None for w in network.parameters())
    assert json.dumps(EnhancementLoss(**table).model_dump())


def test_blind_spots_need_no_target(recipe, tmp_path):
    text = TRAINING.partition("[loss]")[0] + "[loss]\nnoise2void = true\nradius = 1.0\n[training]\n"
    text += TRAINING.partition("[training]\n")[2]
    recipe.write_text(text)
    emrecon("train", recipe, "--out", tmp_path / "blind")
    rows = json.loads((tmp_path / "blind" / "log.json").read_text())
    assert np.isfinite(rows[-1]["loss"])
    made, target = torch.rand(2, 12, 12, 1), torch.full((2, 12, 12, 1), torch.nan)
    with unrolled.seeded(0):
        network = unrolled.u2net(lite=True, in_channels=1, width=2, norm="none")
    model, loss = enhancement_losses.objective(EnhancementLoss(noise2void=True), network, lambda epoch: [], None)
    values = [float(loss(model, ({"x": c * made}, target), torch.Generator().manual_seed(0)).detach()) for c in (1, 9)]
    assert values[0] == pytest.approx(values[1], rel=1e-4)  # no target, and no unit
    for old, new, message in (
        ("radius = 1.0", "l1 = 1.0", "l1 and noise2void do not go together"),
        ("noise2void = true\n", "", "radius is of blind spots"),
        ("radius = 1.0", "box = [1, 1, 1]", "box needs two voxels"),
    ):
        recipe.write_text(text.replace(old, new))
        with pytest.raises(RecipeError, match=message):
            emrecon("train", recipe, "--show")
