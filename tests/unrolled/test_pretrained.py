"""Networks that come with the library: small, complete, and better than OSEM on scans that they were not trained on."""

import pytest
import torch

from emrecon import recon, unrolled
from emrecon.projectors import AcquisitionModel
from emrecon.sims import RecipeSource, SimulatedDataset, load_recipe, recipe_names
from emrecon.unrolled.training.shipped import pretrained, pretrained_names, pretrained_path
from emrecon.unrolled.training.weights import card_path, count_parameters, read_card

pytest.importorskip("safetensors.torch")
NAMES = ("fbsem-net-brain-pet", "fbsem-net-brain-spect", "mapem-net-brain-pet", "mapem-net-brain-spect")


def test_all_weights_together_are_small():
    assert pretrained_names() == NAMES
    paths = [path for name in NAMES for path in (pretrained_path(name), card_path(pretrained_path(name)))]
    assert sum(path.stat().st_size for path in paths) < 2_000_000


def given(table):
    """A table without what is None: options that came after the weights have no value in their cards."""
    return {k: given(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}


@pytest.mark.parametrize("name", NAMES)
def test_names_say_architecture_and_recipe(name):
    network, card = pretrained(name)
    assert not network.training
    assert name.startswith(card.architecture)
    assert card == read_card(pretrained_path(name))
    assert card.parameters == count_parameters(network) > 10_000
    simulation = card.data["training"]["simulation"]
    assert name == f"{card.architecture}-{simulation['name'].removeprefix('evidence-')}"
    assert given(simulation) == given(load_recipe(simulation["name"]).model_dump(mode="json"))
    assert simulation["name"] in recipe_names()
    assert card.data["guide"] == "guide"
    assert card.scale


def test_unknown_names_list_those_that_there_are():
    for ask in (pretrained, pretrained_path):
        with pytest.raises(ValueError, match=f"unknown trained network 'unet'; choose from {', '.join(NAMES)}"):
            ask("unet")


@pytest.mark.parametrize("name", NAMES)
def test_networks_improve_on_osem_of_a_scan_that_was_held_out(name):
    network, card = pretrained(name)
    if card.notes == "untrained stand-in":
        pytest.skip(card.notes)
    source = RecipeSource(load_recipe(card.data["training"]["simulation"]["name"]))
    index = SimulatedDataset(source, "test").numbers[0]
    simulation = source.simulations(index)[0]
    counts, given = torch.from_numpy(simulation.scan.counts), simulation.model()
    background = torch.from_numpy(given.background).clamp(min=1e-3 * float(counts.mean()))
    f = recon.PoissonLikelihood(counts, AcquisitionModel(given.projector, given.factors, background))
    guide = unrolled.normalised_guide(torch.from_numpy(source.draw(index).image("guide", source.simulator.grid)))
    with torch.no_grad():
        image = network(f, guide=guide.float())
        passes = [it.image for it, _ in zip(recon.osem(f, n_subsets=6), range(8))]
    truth = torch.from_numpy(simulation.truth)
    osem = min(float(recon.nrmse(x, truth)) for x in passes)
    assert float(recon.nrmse(image, truth)) < 0.5 * osem
