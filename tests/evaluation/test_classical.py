"""Classical methods on a toy task: better than where they begin, batches equal to single scans, guides used."""

import numpy as np
import pytest
import torch
from evaluation_cases import GRID, Case, Task

from emrecon import recon
from emrecon.evaluation.classical import CLASSICAL, DEEP_PRIORS, method_named
from emrecon.evaluation.single import grid_of, scale_of, scans_of
from emrecon.projectors import AcquisitionModel, SPECTGeometry, SPECTProjector

CASE = Task().cases("test", range(2), seed=1)


def middle(method):
    return {name: values[len(values) // 2] for name, values in method.grid.items()}


def after(method, case, n=4, **settings):
    return next(images for k, images in method.images(case, **settings) if k >= n)


@pytest.mark.parametrize("name", CLASSICAL)
def test_methods_come_nearer_to_the_truth_and_treat_scans_alone(name):
    method = method_named(name)
    settings = middle(method)
    image = after(method, CASE, **settings)
    assert image.shape == CASE.truth.shape
    assert bool((image >= 0).all())
    start = scale_of(CASE) * CASE.likelihood.ones_image()
    assert bool((recon.nrmse(image, CASE.truth, dimensions=3) < recon.nrmse(start, CASE.truth, dimensions=3)).all())
    alone = torch.cat([after(method, one, **settings) for one in scans_of(CASE)])
    assert float(recon.nrmse(alone, image)) < 0.03  # betas are in units of the batch


@pytest.mark.parametrize("name", [name for name, method in CLASSICAL.items() if not method.sees_guide])
def test_methods_without_a_guide_do_not_look_at_it(name):
    method = method_named(name)
    without = Case(CASE.likelihood, CASE.truth, None)
    assert torch.equal(after(method, without, 2, **middle(method)), after(method, CASE, 2, **middle(method)))


def test_guided_methods_need_a_guide():
    for name, method in CLASSICAL.items():
        if method.sees_guide:
            with pytest.raises(ValueError, match="needs a guide"):
                after(method_named(name), Case(CASE.likelihood, CASE.truth, None), **middle(method))


def test_a_guide_helps_where_it_is_right():
    case = Case(CASE.likelihood, CASE.truth, CASE.truth)
    for guided, blind in (("map-bowsher", "map-rdp"), ("map-dtv", "map-tv")):
        errors = [
            float(recon.nrmse(after(method_named(name), case, 8, **middle(CLASSICAL[name])), case.truth))
            for name in (guided, blind)
        ]
        assert errors[0] < errors[1]


def test_several_guides_and_numpy_scans():
    two = torch.stack([CASE.guide, CASE.guide.roll(1, 1)], 1)
    image = after(method_named("kem"), Case(CASE.likelihood, CASE.truth, two), n_neighbours=12)
    assert image.shape == CASE.truth.shape
    f = CASE.likelihood
    model = AcquisitionModel(f.model.projector, f.model.factors.numpy(), f.model.background.numpy())
    plain = Case(recon.PoissonLikelihood(f.data.numpy(), model), CASE.truth.numpy(), CASE.guide.numpy())
    for name in ("osem-gaussian", "map-bowsher"):
        made = after(method_named(name), plain, **middle(CLASSICAL[name]))
        assert isinstance(made, np.ndarray)
        assert np.allclose(made, after(method_named(name), CASE, **middle(CLASSICAL[name])), atol=1e-3)


def test_batches_with_own_attenuation_are_taken_apart():
    geometry = SPECTGeometry.circular(n_views=6, radius=60, n_bins=(20, 1), pixel_size=4.0)
    mu = torch.stack([0.1 * CASE.truth[0].bool(), 0.02 * CASE.truth[1].bool()]).float()
    projector = SPECTProjector(GRID, geometry, attenuation=mu.numpy())
    model = AcquisitionModel(projector, 1.0, 0.5)
    case = Case(recon.PoissonLikelihood(model(CASE.truth), model), CASE.truth, None)
    for i, scan in enumerate(scans_of(case)):
        assert torch.allclose(scan.likelihood.model(scan.truth), model(CASE.truth)[i : i + 1], rtol=1e-5)
    assert grid_of(case) == GRID


@pytest.mark.parametrize("name", DEEP_PRIORS)
def test_deep_image_priors_have_a_network_for_each_scan(name, monkeypatch):
    from emrecon import unrolled
    from emrecon.evaluation import deep

    monkeypatch.setattr(deep, "_FIRST", {"initial_fit": unrolled.Fit("adam", 3, 1e-2), "initial_steps": 2})
    method = method_named(name)
    assert (method.kind, method.sees_guide) == ("deep image prior", True)
    image = after(method, CASE, 1, **middle(method))
    assert image.shape == CASE.truth.shape
    assert not image.requires_grad


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="unknown method 'mlem'; choose from osem, osem-gaussian"):
        method_named("mlem")
