"""Two tracers in one scan: frames that add up, the same body, and a training that tells them apart."""

import numpy as np
import pytest
import torch
from cli_cases import emrecon_or_raise as emrecon

from emrecon import sims, unrolled
from emrecon.cli import train_recipe
from emrecon.projectors import AcquisitionModel
from emrecon.recon import PoissonLikelihood
from emrecon.sims import RecipeError

pytestmark = pytest.mark.slow

RECIPE = """
name = "two"
n = 10
outputs = ["counts", "expected", "background", "factors", "mu", "truth"]
[grid]
shape = [16, 16, 1]
voxel_size = [42.0, 42.0, 42.0]
[phantom]
kind = "torso"
lesions = [1, 1]
[second]
uptake = "lu-177"
radionuclide = "Ga-68"
delay = 600.0
frames = [600.0, 900.0, 900.0]
share = [0.4, 0.4]
[pet]
n_radial = 23
scatter_fraction = 0.2
randoms_fraction = 0.1
[pet.ring]
sides = 16
crystals_per_side = 3
radius = 480.0
rings = 1
ring_pitch = 42.0
[counts]
total = 1e6
[mismatch]
refine = 1
attenuation = 1.0
shift = [0.0, 0.0, 0.0]
response = 1.0
"""
TRAINING = """
name = "two"
[data]
recipe = "two.toml"
batch_size = 2
[network]
name = "dual-tracer"
start = "transpose"
width = 2
levels = 2
[training]
steps = 2
validate_every = 1
n_validation = 1
"""


@pytest.fixture(scope="module")
def source():
    return sims.source_of(sims.parse_recipe(RECIPE))


@pytest.fixture(scope="module")
def samples(source):
    return {name: torch.as_tensor(values.astype(np.float32)) for name, values in source.samples([0, 1]).items()}


def test_weights_are_the_decay_of_each_tracer_since_its_injection(source):
    weights = np.asarray(source.weights)
    assert weights[0, 1] == 0
    seconds = np.linspace(600, 1500, 100001)
    assert weights[1, 0] == pytest.approx(np.mean(2 ** (-seconds / (109.77 * 60))), rel=1e-3)
    assert weights[1, 1] == pytest.approx(np.mean(2 ** (-(seconds - 600) / (67.7 * 60))), rel=5e-3)


def test_frames_are_the_sum_of_both_tracers(source, samples):
    shape, grid = source.simulator.geometry.shape, source.simulator.grid
    truth = samples["truth"].reshape(2, 2, *grid.shape)
    frames = torch.einsum("fk,bkxyz->bfxyz", torch.tensor(source.weights), truth)
    factors, background = (samples[name].reshape(2, 3, *shape) for name in ("factors", "background"))
    expected = factors * source.simulator.projector(np.zeros(grid.shape, np.float32))(frames) + background
    total = samples["expected"].reshape(2, 3, *shape)
    torch.testing.assert_close(expected.sum((2, 3, 4)), total.sum((2, 3, 4)), rtol=0.02, atol=0)
    assert float(total[0].sum()) == pytest.approx(1e6, rel=1e-4)
    assert not torch.equal(samples["counts"], samples["expected"])


def test_the_body_is_the_same_and_its_uptake_is_not(source):
    one, two = source.bodies(0)
    grid = source.simulator.grid
    assert np.array_equal(one.attenuation(grid, 511.0), two.attenuation(grid, 511.0))
    assert [region.name for region in one.regions] == [region.name for region in two.regions]
    assert [region.activity for region in one.regions] != [region.activity for region in two.regions]


def test_without_noise_decay_alone_separates_what_is_reconstructed(source, samples):
    weights, grid = source.weights, source.simulator.grid
    with unrolled.seeded(0):
        model = unrolled.dual_tracer_net(weights, 2, start="transpose", width=2, levels=2).eval()
    truth = samples["truth"].reshape(2, 2, *grid.shape)
    torch.testing.assert_close(model.linear(model.frames_of(truth)), truth, rtol=1e-3, atol=1e-3)
    prepare = unrolled.Preparation(source.simulator, frames=3)
    arguments, target = prepare(samples)
    likelihood = arguments["likelihood"]
    assert target.shape == (2, 2, 16, 16, 1)
    doubled = AcquisitionModel(likelihood.model.projector, likelihood.model.factors, 2 * likelihood.model.background)
    with torch.no_grad():
        image = model(likelihood)
        again = model(PoissonLikelihood(2 * likelihood.data, doubled))
    assert torch.allclose(again, 2 * image, rtol=0.02, atol=0.02 * float(image.max()))
    with pytest.raises(ValueError, match="takes the 3 frames of a scan together"):
        model(PoissonLikelihood(likelihood.data[:, 0], AcquisitionModel(likelihood.model.projector, background=1.0)))
    with pytest.raises(ValueError, match="weights must be"):
        unrolled.dual_tracer_net([[1, 1], [1, 1]])


def test_two_tracers_are_trained_and_the_command_says_what_it_cannot(tmp_path):
    (tmp_path / "two.toml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "train.toml").write_text(TRAINING, encoding="utf-8")
    emrecon("train", tmp_path / "train.toml", "--out", tmp_path / "run")
    network, card = unrolled.load_network(tmp_path / "run" / "weights.safetensors", train_recipe.learned.registry())
    assert card.architecture == "dual-tracer"
    assert network.weights.shape == (3, 2)
    assert card.metrics["data fit"] > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("delay = 600.0\nframes = [600.0, 900.0, 900.0]", "frames = [600.0]", "frames"),
        ('radionuclide = "Ga-68"\ndelay = 600.0', 'radionuclide = "F-18"', "do not tell the tracers apart"),
        ('kind = "torso"\nlesions = [1, 1]', 'kind = "spectnet-brain"', 'phantoms of kind "torso"'),
        ('"truth"]', '"truth", "labels"]', "no output 'labels'"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(old, new, said):
    with pytest.raises(RecipeError, match=said):
        sims.parse_recipe(RECIPE.replace(old, new))
