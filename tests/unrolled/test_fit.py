"""The Poisson deviance of an image over its expectation, and the note where a network's image fits worse."""

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from emrecon import projectors, recon, sims
from emrecon.unrolled.training.fit import FIT, SPREAD, data_fit, expected_deviance, fit_metrics, fit_note
from emrecon.unrolled.training.shipped import pretrained
from emrecon.unrolled.training.weights import Card

N = 24
GRID = projectors.ImageGrid((N, N, 1), 8.0)
CAMERA = projectors.SPECTGeometry.circular(n_views=40, radius=150, n_bins=(N, 1), pixel_size=8.0)
MODEL = projectors.AcquisitionModel(projectors.SPECTProjector(GRID, CAMERA), background=0.3)


def scan(level=1.0, batch=3):
    truth = torch.as_tensor(sims.random_ellipses(seed=2).activity(GRID)).expand(batch, -1, -1, -1) * level
    counts = torch.poisson(MODEL(truth), generator=torch.Generator().manual_seed(1))
    return recon.PoissonLikelihood(counts, MODEL), truth


@pytest.mark.parametrize("mean", [1e-6, 1e-3, 0.05, 0.7, 4.0, 59.0, 61.0, 500.0])
def test_the_expectation_is_the_sum_over_all_counts(mean):
    k = np.arange(0, 2000)
    terms = mean - k + k * np.log(np.where(k > 0, k, mean) / mean)
    assert expected_deviance(np.array([mean]))[0] == pytest.approx(
        float((poisson.pmf(k, mean) * terms).sum()), rel=1e-3
    )
    assert expected_deviance(np.zeros(1))[0] == 0


@pytest.mark.parametrize("level", [0.02, 0.3, 10.0])
def test_the_truth_has_one_at_every_level_of_counts(level):
    likelihood, truth = scan(level)
    found = data_fit(truth, likelihood)
    assert found.shape == (3,)
    assert found.numpy() == pytest.approx(np.ones(3), abs=0.15)
    parts = [likelihood.subset(k, 4) for k in range(4)]
    torch.testing.assert_close(data_fit(truth, parts), found)
    if level > 1:  # where there are few counts, no image can be told to be wrong
        assert (data_fit(truth.roll(1, 1), likelihood) > found).all()


def test_a_note_says_what_may_be_wrong():
    likelihood, truth = scan(3.0)
    fits = data_fit(truth, likelihood).tolist()
    card = Card("any", metrics=fit_metrics(fits))
    assert set(card.metrics) == {FIT, SPREAD}
    assert fit_note(card, truth, likelihood) is None
    assert "is the guide aligned" in fit_note(card, truth.roll(3, 1), likelihood)
    assert fit_note(Card("any"), truth, likelihood) is None  # a card that does not say
    assert "worse than expected" in fit_note(Card("any"), truth.roll(3, 1), likelihood)


@pytest.mark.parametrize("name", ["fbsem-net-brain-pet"])
def test_guides_of_any_unit_and_guides_of_somebody_else(name):
    network, card = pretrained(name)
    kind = name.rpartition("-")[2]
    source = sims.RecipeSource(sims.load_recipe(f"brain-{kind}"))
    index = sims.SimulatedDataset(source, "test").numbers[0]
    simulated = source.simulations(index)[0]
    counts, given = torch.from_numpy(simulated.scan.counts), simulated.model()
    background = torch.from_numpy(given.background).clamp(min=1e-3 * float(counts.mean()))
    f = recon.PoissonLikelihood(counts, projectors.AcquisitionModel(given.projector, given.factors, background))
    guide = source.draw(index).image("guide", source.simulator.grid).astype(np.float32)
    truth = torch.from_numpy(simulated.truth)
    with torch.no_grad():
        images = [network(f, guide=g) for g in (guide / guide.max(), 100 * guide, torch.from_numpy(guide))]
        shifted = network(f, guide=np.roll(guide, 2, 0))
    for image in images:
        assert float(recon.nrmse(image, truth)) < 0.16
        torch.testing.assert_close(image, images[0], rtol=1e-3, atol=1e-3 * float(truth.max()))
        assert fit_note(card, image, f) is None
    assert "is the guide aligned" in fit_note(card, shifted, f)
