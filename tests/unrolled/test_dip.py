"""Deep image prior: fits that never get worse, ADMM, restart, scale, where to stop, and what it is worth."""

from itertools import islice

import numpy as np
import pytest
import torch
from dip_cases import MR, QUICK, TRUTH, F, one_thread, scan, small_network, take
from pet_cases import SCANNER, events_of_every_bin
from pet_cases import projector as pet_projector
from scipy.ndimage import gaussian_filter
from spect_cases import projector as spect_projector
from torch import nn

from emrecon.projectors import AcquisitionModel, ListmodeProjector
from emrecon.recon import (
    Checkpoint,
    Iterate,
    ListmodeLikelihood,
    PoissonLikelihood,
    RelativeChange,
    nrmse,
    osem,
    parameterised_em,
    run,
    surrogate,
)
from emrecon.unrolled.methods.dip import DIPRecon, Fit, NetworkWeights, default_network, fixed_noise, run_network
from emrecon.unrolled.methods.stopping import HeldOut, WindowedVariance, hold_out


@pytest.fixture(autouse=True, scope="module")
def threads():
    with one_thread():
        yield


FITS = [Fit("lbfgs", 1, max_iterations=5), Fit("lbfgs", 2, max_iterations=4, line_search=False), Fit("adam", 10, 3e-3)]


# ---- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [*FITS, Fit("adam", 3, 1e3), Fit("lbfgs", 1, 1e4, line_search=False)])
def test_a_fit_never_raises_its_loss(fit):
    target = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)

    def loss(theta):
        return ((theta - target) ** 4).sum() + torch.sin(5 * theta).sum()

    weights, memory = torch.zeros(3, dtype=torch.float64), {}
    for _ in range(5):
        before = loss(weights)
        weights, memory = fit(loss, weights, memory)
        assert loss(weights) <= before


def test_lbfgs_and_adam_find_a_minimum():
    target = torch.linspace(-1, 2, 5, dtype=torch.float64)
    for fit in (Fit("lbfgs", 3), Fit("adam", 2000, 1e-2)):
        weights, _ = fit(lambda theta: ((theta - target) ** 2).sum(), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(weights, target, atol=1e-3, rtol=0)


def test_adam_goes_on_as_one_fit_of_all_steps():
    def loss(theta):
        return ((theta - 1) ** 2).sum()

    at, memory = torch.zeros(4), {}
    for _ in range(2):
        at, memory = Fit("adam", 10, 1e-2)(loss, at, memory)
    whole, _ = Fit("adam", 20, 1e-2)(loss, torch.zeros(4))
    assert torch.equal(at, whole)


def test_a_fit_that_fails_is_tried_with_a_smaller_rate():
    def loss(theta):
        return theta.abs().sum()

    weights, memory = Fit("adam", 2, 1.0)(loss, torch.full((2,), 1e-3))
    assert torch.equal(weights, torch.full((2,), 1e-3))
    assert memory == {"rate": 0.5}
    for _ in range(12):
        weights, memory = Fit("adam", 2, 1.0)(loss, weights, memory)
    assert weights.abs().sum() < 2e-3


# ---- the parameterisation --------------------------------------------------------------------------------------------


def test_the_image_is_that_of_the_network_and_the_network_stays():
    network = small_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    latent = NetworkWeights(network, MR, 3.0)
    expected = 3 * nn.functional.softplus(network(MR.permute(2, 0, 1)[None])[:, 0].permute(1, 2, 0), beta=10)
    network.load_state_dict(before)  # which the line above has changed
    torch.testing.assert_close(latent.image(), expected.detach(), atol=1e-4, rtol=1e-5)
    later = latent.fit(TRUTH, torch.ones(()), 3).fit_squares(TRUTH, 2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not torch.equal(later.image(), latent.image())


@pytest.mark.parametrize("fitting", FITS)
def test_a_fit_never_raises_the_surrogate(fitting):
    latent = NetworkWeights(small_network(), MR, float(TRUTH.mean()), fitting)
    rng = np.random.default_rng(0)
    for _ in range(6):
        weight, target = (torch.as_tensor(rng.uniform(0, 2, MR.shape)) for _ in range(2))
        target = target * TRUTH.mean()
        after = latent.fit(target, weight, 2)
        values = [surrogate(at.image().double(), target, weight) for at in (latent, after)]
        assert values[1] <= values[0] + 1e-9 * values[0].abs()
        latent = after


@pytest.mark.parametrize("fitting", [Fit("adam", rate=3e-3), Fit("adam", rate=0.5), Fit("lbfgs", max_iterations=4)])
def test_optimisation_transfer_is_monotone(fitting):
    latent = NetworkWeights(small_network(), MR, float(TRUTH.mean()), fitting)
    values = [float(F.value(latent.image()))]
    values += [float(F.value(it.image)) for it in islice(parameterised_em(F, latent, steps=5), 35)]
    assert np.diff(values).max() <= 1e-7 * abs(values[0])
    assert values[-1] < values[0] - 10


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (6, 5, 1)), (2, (6, 5, 4)), (3, (6, 5, 4)), (None, (6, 5, 4))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slices_and_volumes(dimensions, shape, dtype):
    z = fixed_noise(shape, channels=2, seed=3).to(dtype)
    latent = NetworkWeights(small_network(dimensions or 3, channels=2), z, dimensions=dimensions)
    made = latent.fit_squares(torch.ones(shape), 2).image()
    assert made.shape == shape
    assert made.dtype == dtype
    assert (made > 0).all()
    one = NetworkWeights(small_network(dimensions or 3, channels=2), z[None], dimensions=dimensions)
    assert torch.equal(one.image(), latent.image()[None])


def test_frozen_weights_stay():
    network = small_network()
    network[0].weight.requires_grad_(False)
    latent = NetworkWeights(network, MR)
    assert latent.theta.numel() == sum(p.numel() for p in network.parameters()) - network[0].weight.numel()
    assert latent.fit_squares(TRUTH, 2).image().shape == MR.shape


def test_no_global_random_numbers():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second = small_network(seed=7), small_network(seed=7)
    assert torch.equal(fixed_noise((3, 3, 1), 2, 4), fixed_noise((3, 3, 1), 2, 4))
    DIPRecon(first, n_iterations=1, fit=FITS[0], **QUICK)(F, guide=MR)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters()))
    assert not torch.equal(first[0].weight, small_network(seed=8)[0].weight)


# ---- DIPRecon --------------------------------------------------------------------------------------------------------


def test_network_and_image_come_together():
    recon = DIPRecon(small_network(), fit=Fit("lbfgs", 2, max_iterations=5), **QUICK)
    residuals = [float((it.state["x"] - it.image).norm()) for it in islice(recon.iterates(F, guide=MR), 25)]
    assert np.mean(residuals[-5:]) < 0.2 * residuals[0]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("saved", [False, True])
def test_it_goes_on_bit_for_bit(fit, saved, tmp_path):
    recon = DIPRecon(small_network(), fit=fit, n_subsets=2, **QUICK)
    whole = take(recon.iterates(F, guide=MR), 4)
    half = take(recon.iterates(F, guide=MR), 2)
    if saved:
        keep = Checkpoint(tmp_path / "at.npz")
        keep(half)
        half = keep.load(MR)
    again = take(recon.iterates(F, half, guide=MR), 2)
    assert again.iteration == whole.iteration == 4
    assert torch.equal(again.image, whole.image)
    assert all(torch.equal(again.state[name], whole.state[name]) for name in ("x", "mu", "weights"))


@pytest.mark.parametrize("factor", [2.0, 1000.0])
def test_counts_and_background_doubled_double_the_image(factor):
    f, _, mr = scan(n=20, dtype=torch.float64)  # L-BFGS makes much of rounding
    more = PoissonLikelihood(factor * f.data, AcquisitionModel(f.model.projector, 1.0, factor * f.model.background))
    recon = DIPRecon(small_network(), n_iterations=3, fit=FITS[0], **QUICK)
    torch.testing.assert_close(recon(more, guide=mr), factor * recon(f, guide=mr), rtol=1e-5, atol=0)


def test_rho_in_units_of_its_own():
    s = F.sensitivity_like(MR)
    recon = DIPRecon(small_network(), n_iterations=2, rho=0.3, fit=FITS[0], **QUICK)
    rho = 0.3 * float(s.sum() / (s > 0).sum()) / recon._unit(F)
    same = DIPRecon(small_network(), n_iterations=2, rho=rho, relative=False, fit=FITS[0], **QUICK)
    torch.testing.assert_close(same(F, guide=MR), recon(F, guide=MR), rtol=1e-4, atol=1e-6)


def test_a_start_image_noise_for_a_guide_and_a_batch_of_one():
    start = take(osem(F, n_subsets=4), 3).image
    recon = DIPRecon(small_network(), n_iterations=2, fit=FITS[0], initial_fit=Fit("adam", 20, 1e-2))
    image = recon(F, start)
    assert image.shape == MR.shape
    one = PoissonLikelihood(F.data[None], F.model)
    torch.testing.assert_close(recon(one, start[None])[0], image)
    with torch.inference_mode():
        torch.testing.assert_close(recon(F, start), image)


@pytest.mark.parametrize("system", ["spect", "pet", "list-mode"])
def test_every_system_in_three_dimensions(system):
    rng = np.random.default_rng(0)
    projector = spect_projector("thin", "gaussian") if system == "spect" else pet_projector("span 1")
    if system == "list-mode":
        everything = pet_projector("TOF")
        events = events_of_every_bin(everything.sinogram)[rng.integers(0, 500, 300)]
        lines = ListmodeProjector(everything.grid, SCANNER, events, tof=everything.sinogram.tof)
        ones = torch.ones(everything.out_shape)
        f = ListmodeLikelihood(AcquisitionModel(lines, 1.0, 0.5), everything.T(ones))
    else:
        y = torch.as_tensor(rng.poisson(3.0, projector.out_shape).astype(np.float32))
        f = PoissonLikelihood(y, AcquisitionModel(projector, 1.0, 0.5))
    image = DIPRecon(small_network(3), n_iterations=2, fit=FITS[0], **QUICK)(f)
    assert image.shape == f.model.projector.in_shape
    assert image.isfinite().all()


def test_the_default_network():
    image = DIPRecon(n_iterations=1, initial_steps=3, initial_fit=Fit("adam", 2, 1e-3), fit=FITS[0])(F, guide=MR)
    assert image.shape == MR.shape
    network, again = default_network(3, 2, seed=1), default_network(3, 2, seed=1)
    theta, other = (nn.utils.parameters_to_vector(n.parameters()).detach() for n in (network, again))
    assert torch.equal(theta, other)
    assert run_network(network, theta, torch.rand(1, 2, 9, 16, 10)).shape == (1, 1, 9, 16, 10)


@pytest.mark.slow
def test_it_beats_filtered_osem():
    """Against the best pass and the best filter of OSEM, chosen by the truth; this one stops at a number."""
    first = {"initial_steps": 10, "initial_fit": Fit("adam", 60, 1e-2)}
    network, errors = small_network(width=8, depth=4), []
    admm = DIPRecon(network, n_iterations=20, rho=1.0, fit=Fit("lbfgs", 1, max_iterations=8), **first)
    for seed in (1, 2, 3):
        f, truth, mr = scan(seed=seed)
        passes = [it.image.numpy() for it in islice(osem(f, n_subsets=4), 12)]
        filtered = [gaussian_filter(x, (w, w, 0)) for x in passes for w in np.arange(0.5, 2, 0.1)]
        best = min(nrmse(x, truth.numpy()) for x in filtered)
        errors.append((nrmse(admm(f, guide=mr).numpy(), truth.numpy()), best))
    made, best = np.mean(errors, 0)
    assert made < best


# ---- where to stop ---------------------------------------------------------------------------------------------------


def sequence(values):
    """Iterates 1, 2, ... of images that are full of these values."""
    return (Iterate(i, torch.full((2, 2, 1), float(value))) for i, value in enumerate(values, 1))


def test_the_windowed_variance_has_its_least_where_the_images_rest():
    values = [*np.linspace(1, 10, 10), *10 * [10.0], *10 + np.arange(1, 30)]
    rule = WindowedVariance(window=4, patience=5)
    last = run(sequence(values), 99, rule)
    assert float(last[0, 0, 0]) < 15
    assert 10 <= rule.best.iteration <= 20
    assert min(rule.history) == 0
    assert rule.history[0] == pytest.approx(np.var(values[:4]) / values[3] ** 2)


def test_relative_change_ends_a_run():
    assert float(run(sequence(1 - 0.5 ** np.arange(1, 30)), 99, RelativeChange(1e-3))[0, 0, 0]) < 0.9999


def test_held_out_counts_end_a_run_at_the_image_that_explains_them():
    projector = spect_projector("thin", "gaussian")
    truth = torch.full(projector.in_shape, 4.0)
    f = PoissonLikelihood(AcquisitionModel(projector, 1.0, 1.0)(truth), AcquisitionModel(projector, 1.0, 1.0))
    levels = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    rule = HeldOut(f, patience=3)
    last = run((Iterate(v, torch.full(projector.in_shape, float(v))) for v in levels), 99, rule)
    assert float(last.max()) == 7
    assert rule.best.iteration == 4
    assert len(rule.history) == 7


def test_the_best_iterate_is_returned():
    train, check = hold_out(F, 0.3, seed=2)
    rule = HeldOut(check, patience=2)
    recon = DIPRecon(small_network(width=12), n_iterations=8, rho=0.1, fit=Fit("lbfgs", 3, max_iterations=8), **QUICK)
    image = recon(train, guide=MR, callbacks=[rule], progress=True)
    assert torch.equal(image, rule.best.image)
    assert rule.history[rule.best.iteration - 1] == min(rule.history)


def test_counts_are_held_out_exactly():
    train, check = hold_out(F, 0.25, seed=3)
    assert torch.equal(train.data + check.data, F.data)
    assert (check.data == check.data.round()).all()
    assert (train.data >= 0).all()
    assert float(check.data.sum() / F.data.sum()) == pytest.approx(0.25, abs=0.01)
    torch.testing.assert_close(train.model(TRUTH) + check.model(TRUTH), F.model(TRUTH))
    assert torch.equal(hold_out(F, 0.25, seed=3)[1].data, check.data)
    assert not torch.equal(hold_out(F, 0.25, seed=4)[1].data, check.data)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Fit("sgd"), "lbfgs"),
        (lambda: Fit(steps=0), "positive"),
        (lambda: Fit(rate=-1.0), "positive"),
        (lambda: DIPRecon(rho=0.0), "rho"),
        (lambda: DIPRecon(n_iterations=0), "at least one"),
        (lambda: NetworkWeights(small_network(), MR, 0.0), "scale"),
        (lambda: NetworkWeights(small_network(), MR, dimensions=1), "2 or 3"),
        (lambda: NetworkWeights(small_network(), MR[0]), "must be a tensor"),
        (lambda: NetworkWeights(small_network(), torch.ones(2, 1, 8, 8, 1)), "batch of 2"),
        (lambda: NetworkWeights(small_network(), MR, weights=torch.ones(3)), "weights for this network"),
        (lambda: NetworkWeights(nn.ReLU(), MR), "no weights"),
        (lambda: NetworkWeights(nn.Sequential(small_network(), nn.Dropout(0.1)), MR), "dropout"),
        (lambda: NetworkWeights(nn.Conv2d(1, 2, 1), MR), "one channel"),
        (lambda: NetworkWeights(small_network(), MR * torch.nan), "NaN"),
        (lambda: NetworkWeights(small_network(), MR).fit_squares(torch.ones(2, *MR.shape), 1), "one image"),
        (lambda: DIPRecon(small_network())(PoissonLikelihood(torch.stack([F.data, F.data]), F.model)), "batch of 2"),
        (lambda: DIPRecon(small_network())(F, guide=MR[1:]), "guide of shape"),
        (lambda: DIPRecon(small_network())(F, guide=torch.ones(2, 1, *MR.shape)), "one scan"),
        (lambda: DIPRecon(small_network())(F, guide=MR / 0), "guide holds"),
        (lambda: DIPRecon(small_network())(F, Iterate(3, TRUTH)), "own iterates"),
        (lambda: WindowedVariance(window=1), "window"),
        (lambda: HeldOut(F, 0), "patience"),
        (lambda: hold_out(F, 1.0), "between 0 and 1"),
        (lambda: hold_out(PoissonLikelihood(F.data + 0.5, F.model)), "whole"),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_what_is_no_network_no_tensor_and_no_histogram():
    with pytest.raises(TypeError, match="torch module"):
        NetworkWeights(lambda x: x, MR)
    with pytest.raises(TypeError, match="torch tensors"):
        DIPRecon(small_network())(PoissonLikelihood(F.data.numpy(), F.model))
    with pytest.raises(TypeError, match="hold_out needs counts in bins"):
        hold_out(ListmodeLikelihood(F.model, F.sensitivity))
