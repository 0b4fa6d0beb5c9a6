"""The networks of the suite `learned`, their controls, and that all are trained alike."""

import numpy as np
import pytest
import torch
from learned_suite_cases import ToyTask

from emrecon import unrolled
from emrecon.evaluation.learned.networks import NETWORKS, network_named
from emrecon.evaluation.learned.training import Budget, batches_of, parameter_groups, train_network, try_rates

TASK = ToyTask()
SMALL = Budget(2, 4, 2, (1e-3, 2e-3), 2, 4)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_every_network_makes_an_image_and_follows_the_counts(network):
    case = TASK.cases("test", [0, 1], seed=1)
    model = network.build().eval()
    with torch.no_grad():
        image = model(**network.inputs(case))
    assert image.shape == case.truth.shape
    assert bool(torch.isfinite(image).all())
    assert network.sees_guide == (network.name != "counts-only")


def test_guide_only_sees_the_sum_of_the_counts_and_not_where_they_are():
    network = network_named("guide-only")
    case = TASK.cases("test", [0, 1], seed=1)
    model = network.build().eval()
    elsewhere = unrolled_of(case.likelihood.data.flip(2), case)
    twice = unrolled_of(2 * case.likelihood.data, case, 2.0)
    with torch.no_grad():
        image = model(case.likelihood, guide=case.guide)
        torch.testing.assert_close(model(elsewhere, guide=case.guide), image, rtol=0.05, atol=0.02)
        torch.testing.assert_close(model(twice, guide=case.guide), 2 * image, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(model(case.likelihood, guide=case.guide.roll(1, 0)), image, rtol=0.05)


def unrolled_of(counts, case, level=1.0):
    from emrecon import projectors, recon

    model = case.likelihood.model
    return recon.PoissonLikelihood(
        counts, projectors.AcquisitionModel(model.projector, model.factors, level * model.background)
    )


def test_all_networks_see_the_same_batches_with_the_same_noise():
    seen = [batches_of(TASK, network.inputs, 4, 1, 4) for network in NETWORKS[:2]]
    for epoch in (0, 1):
        for (first, truth), (second, same) in zip(*(batches(epoch) for batches in seen)):
            torch.testing.assert_close(first["likelihood"].data, second["likelihood"].data, rtol=0, atol=0)
            torch.testing.assert_close(truth, same, rtol=0, atol=0)
    (a, _), (b, _) = next(iter(seen[0](0))), next(iter(batches_of(TASK, NETWORKS[0].inputs, 4, 2, 4)(0)))
    assert not torch.equal(a["likelihood"].data, b["likelihood"].data)


@pytest.mark.slow
def test_a_training_that_was_cut_off_goes_on_exactly(tmp_path):
    network = network_named("guide-only")
    whole, _ = train_network(TASK, network, SMALL, tmp_path / "whole", seed=1, rate=1e-3)
    train_network(TASK, network, SMALL, tmp_path / "parts", seed=1, rate=1e-3)
    again, _ = train_network(TASK, network, SMALL, tmp_path / "parts", seed=1, rate=1e-3)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight, rtol=0, atol=0)
    other, _ = train_network(TASK, network, SMALL, tmp_path / "other", seed=2, rate=1e-3)
    assert not torch.equal(next(iter(other.parameters())), next(iter(whole.parameters())))


def test_every_network_gets_as_many_trials(tmp_path):
    found = try_rates(TASK, network_named("guide-only"), SMALL, tmp_path)
    assert len(found["tuned"]["trials"]) == SMALL.trials
    assert found["rate"] in [trial["settings"]["rate"] for trial in found["tuned"]["trials"]]


def test_the_thresholds_of_bcd_net_learn_faster():
    network = network_named("bcd-net")
    groups = parameter_groups(network.build(), network.fast, 1e-3)
    assert [group.get("lr") for group in groups] == [None, pytest.approx(1e-2)]
    assert {p.numel() for p in groups[1]["params"]} == {32}
    assert sum(len(group["params"]) for group in groups) == len(list(network.build().parameters()))


def test_all_networks_are_small():
    sizes = [unrolled.count_parameters(network.build()) for network in NETWORKS]
    assert max(sizes) < 130_000
    assert np.ptp([unrolled.count_parameters(network_named(n).build()) for n in ("post-unet", "guide-only")]) == 0
    with pytest.raises(ValueError, match="unknown network 'x'; choose from guide-only, guide-only-long, fbsem-net"):
        network_named("x")
