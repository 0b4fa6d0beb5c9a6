"""Samples become likelihoods with their own maps, factors and background, whoever has made or measured them."""

import numpy as np
import pytest
import torch
from recipe_cases import SMALL_SPECT

from emrecon import projectors, recon, sims
from emrecon.unrolled import MeasuredScanner, Preparation

GRID = projectors.ImageGrid((12, 12, 1), 12.0)
CAMERA = projectors.SPECTGeometry.circular(n_views=8, radius=120, n_bins=(12, 1), pixel_size=12.0)
RESPONSE = projectors.LinearResponse(0.03, 2.0)


def measured(n=3):
    """Scans with maps, factors and backgrounds of their own, as arrays."""
    random = np.random.default_rng(0)
    mu = 0.1 * random.random((n, *GRID.shape)).astype(np.float32)
    truth = (20 * random.random((n, *GRID.shape))).astype(np.float32)
    factors = (0.5 + random.random((n, *CAMERA.shape))).astype(np.float32)
    background = random.random((n, *CAMERA.shape)).astype(np.float32)
    models = [
        projectors.AcquisitionModel(projectors.SPECTProjector(GRID, CAMERA, m, RESPONSE), f, b)
        for m, f, b in zip(mu, factors, background)
    ]
    counts = np.stack([random.poisson(model(x)) for model, x in zip(models, truth)]).astype(np.float32)
    return {"counts": counts, "mu": mu, "factors": factors, "background": background, "truth": truth}, models


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_measured_scans_keep_what_belongs_to_them(kind):
    samples, models = measured()
    scanner = MeasuredScanner(GRID, CAMERA, projectors.SPECTProjector(GRID, CAMERA, None, RESPONSE))
    given = samples if kind == "arrays" else {name: torch.from_numpy(v) for name, v in samples.items()}
    arguments, target = Preparation(scanner, guides=("mu",), floor=0.0)(given)
    likelihood = arguments["likelihood"]
    assert torch.equal(target, torch.from_numpy(samples["truth"]))
    assert torch.equal(arguments["guide"], torch.from_numpy(samples["mu"]))
    for item, model in enumerate(models):
        alone = recon.PoissonLikelihood(samples["counts"][item], model)
        np.testing.assert_allclose(likelihood.model(target)[item].numpy(), model(samples["truth"][item]), rtol=1e-4)
        assert float(likelihood.value(target)[item]) == pytest.approx(
            float(alone.value(samples["truth"][item])), rel=1e-4
        )


def test_levels_and_high_count_targets():
    recipe = sims.parse_recipe(SMALL_SPECT)
    source, levels = sims.RecipeSource(recipe), recipe.counts.levels
    samples = source.samples([0, 1])
    low, high = (Preparation(source.simulator, levels, level).likelihood(samples) for level in (0.5, 1.0))
    assert low.data.sum() == samples["counts"][:, 0].sum()
    assert high.data.sum() == samples["counts"][:, 1].sum()
    assert torch.equal(Preparation(source.simulator, levels).likelihood(samples).data, low.data)
    images = {**samples, "truth": np.stack([0 * samples["truth"], samples["truth"]], 1)}  # an axis of levels
    _, target = Preparation(source.simulator, levels)(images)
    assert torch.equal(target, torch.from_numpy(samples["truth"]).reshape(target.shape))
    with pytest.raises(ValueError, match=r"level 0\.3 is not among"):
        Preparation(source.simulator, levels, 0.3)
    with pytest.raises(ValueError, match="no field 'mu'"):
        Preparation(source.simulator, levels)({name: v for name, v in samples.items() if name != "mu"})
