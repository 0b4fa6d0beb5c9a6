"""The input of a network as the unknown: kernel EM as the linear case, monotony, restarts, scale, batches, refusals."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from pet_cases import projector as pet_projector
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.recon import Checkpoint, Iterate, PoissonLikelihood, em_fuse, em_step, mlem, parameterised_em, surrogate
from emrecon.unrolled.methods.iterative_network import IterativeNetwork, NetworkInput, descend, iterative_network
from emrecon.unrolled.methods.plug_and_play import activity_scale, coupling_unit

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
X, Y, Z = np.indices(A.in_shape)
TRUTH = torch.tensor(1.0 + 3 * (X > 3) * (Y > 2) + (Z == 1))
MODEL = AcquisitionModel(A, RNG.uniform(1, 2, A.out_shape), 0.5)
COUNTS = torch.poisson(MODEL(TRUTH), generator=torch.Generator().manual_seed(0))
F = PoissonLikelihood(COUNTS, MODEL)


class Net(torch.nn.Module):
    """Two convolutions with dropout, on images (..., x, y, z)."""

    def __init__(self, seed=0, dtype=torch.float64):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = torch.nn.Sequential(
                torch.nn.Conv3d(1, 4, 3, padding=1, dtype=dtype),
                torch.nn.LeakyReLU(0.2),
                torch.nn.Dropout(0.5),
                torch.nn.Conv3d(4, 1, 3, padding=1, dtype=dtype),
            )

    def forward(self, x, sigma=None, *, guide=None):
        h = x if guide is None else x + guide
        return 0.7 * x + 0.3 * self.body(h.reshape(-1, 1, *x.shape[-3:])).reshape(x.shape)


class Blur(torch.nn.Module):
    """A positive linear network: x = K alpha, as in kernel EM."""

    def forward(self, x, sigma=None, *, guide=None):
        weight = torch.full((1, 1, 3, 3, 1), 1 / 18, dtype=x.dtype)
        weight[0, 0, 1, 1, 0] += 0.5
        return torch.nn.functional.conv3d(x.reshape(-1, 1, *x.shape[-3:]), weight, padding=(1, 1, 0)).reshape(x.shape)


def identity(x):
    return x * 1.0


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


def without_noise():
    """Counts as expected of an image that `Blur` can make, which is then the most likely one, and its value."""
    x = Blur()(TRUTH)
    f = PoissonLikelihood(MODEL(x), MODEL)
    return f, float(f.value(x))


def test_the_parameterisation_is_scale_times_the_network():
    net = Net()
    latent = NetworkInput(net, TRUTH / 2, scale=2.0)
    with torch.no_grad():
        expected = 2 * net.eval()(TRUTH / 2).clamp(min=1e-3)
    torch.testing.assert_close(latent.image(), expected)
    first = NetworkInput.of(net, TRUTH, scale=2.0)
    torch.testing.assert_close(first.alpha, expected / 2)


def test_a_fit_lowers_the_surrogate_and_touches_no_weight():
    net = Net()
    latent = NetworkInput(net, TRUTH.new_ones(A.in_shape))
    weight, before = F.sensitivity, [p.clone() for p in net.parameters()]
    values = [float(surrogate(latent.image(), TRUTH, weight))]
    for steps in (1, 3, 30, 100):
        latent = latent.fit(TRUTH, weight, steps)
        values.append(float(surrogate(latent.image(), TRUTH, weight)))
    assert np.all(np.diff(values) <= 0)
    assert values[-1] < values[0]
    assert net.training
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_a_fit_of_the_identity_finds_the_target():
    start = NetworkInput(identity, torch.ones(A.in_shape, dtype=torch.float64))
    for latent in (start.fit(TRUTH, F.sensitivity, 300), start.fit_squares(TRUTH, 60)):
        assert relative_error(latent.image(), TRUTH) < 1e-3
    published = NetworkInput(identity, 0.5 * torch.ones_like(TRUTH), step=0.1, search=False)
    assert relative_error(published.fit_squares(TRUTH, 100).image(), TRUTH) < 1e-3


def test_the_published_descent_is_projected_nesterov():
    """By hand: momentum (t - 1) / t', a fixed step, never below zero."""
    target = TRUTH - 2
    x = before = torch.full_like(TRUTH, 0.5)
    t = 1.0
    for _ in range(7):
        ahead = (1 + (1 + 4 * t * t) ** 0.5) / 2
        y = (x + (t - 1) / ahead * (x - before)).clamp(min=0)
        before, x, t = x, (y - 0.05 * 2 * (y - target)).clamp(min=0), ahead

    def loss(alpha):
        return ((alpha - target) ** 2).sum((-3, -2, -1), keepdim=True)

    alpha, step = descend(loss, torch.full_like(TRUTH, 0.5), 7, 0.05, search=False)
    torch.testing.assert_close(alpha, x)
    assert step == 0.05


def test_a_step_that_is_far_too_long_is_shortened():
    net = Net(3)
    latent = NetworkInput(net, torch.ones(A.in_shape, dtype=torch.float64), step=1e6)
    values = []
    for _ in range(40):
        values.append(float(((latent.image() - TRUTH) ** 2).sum()))
        latent = latent.fit_squares(TRUTH, 1)
    assert np.all(np.diff(values) <= 0)
    assert values[-1] < 0.5 * values[0]
    assert float(latent.step) < 1e3


@pytest.mark.parametrize("network", [Net(1), Blur()], ids=["network", "linear"])
def test_transfer_never_gets_less_likely(network):
    latent = NetworkInput.of(network, last(mlem(F), 5).image, scale=2.0)
    values = [float(F.value(it.image)) for it in islice(parameterised_em(F, latent, steps=4), 60)]
    assert np.all(np.diff(values) <= 1e-9 * abs(values[0]))
    assert values[-1] < values[0] - 1


def test_with_a_linear_network_it_is_kernel_em_and_finds_what_made_the_data():
    f, best = without_noise()
    latent = NetworkInput.of(Blur(), activity_scale(f) * torch.ones_like(TRUTH))
    begun = float(f.value(latent.image())) - best
    transfer = last(parameterised_em(f, latent, steps=10), 100)
    admm = last(iterative_network(f, latent, rho=5.0), 100)
    for it in (transfer, admm):
        assert 0 <= float(f.value(it.image)) - best < 5e-3 * begun
    assert relative_error(admm.image, admm.state["x"]) < 2e-2


def test_admm_with_the_identity_is_maximum_likelihood_and_pet():
    B = pet_projector("span 3")
    model = AcquisitionModel(B, 20.0, 3.0)
    truth = torch.tensor(RNG.uniform(0.5, 2, B.in_shape))
    f = PoissonLikelihood(torch.poisson(model(truth), generator=torch.Generator().manual_seed(1)), model)
    latent = NetworkInput.of(identity, torch.ones_like(truth))
    it = last(iterative_network(f, latent, rho=coupling_unit(f)), 200)
    assert float(f.value(it.image)) < float(f.value(last(mlem(f), 50).image))


def test_the_first_iteration_by_hand():
    start = last(mlem(F), 3).image
    latent = NetworkInput.of(Net(), start, scale=3.0)
    it = next(iterative_network(F, latent, rho=4.0, em_steps=1, fit_steps=2))
    z0 = latent.image()
    x = em_fuse(em_step(z0, F), z0, F.sensitivity, 4.0)
    after = latent.fit_squares(x, 2)
    assert torch.equal(it.state["x"], x)
    assert torch.equal(it.state["alpha"], after.alpha)
    assert torch.equal(it.image, after.image())
    torch.testing.assert_close(it.state["mu"], x - after.image())


@pytest.mark.parametrize("search", [True, False])
@pytest.mark.parametrize("subsets", [1, 3])
def test_restarts_exactly(search, subsets, tmp_path):
    method = IterativeNetwork(Net(), 7, n_subsets=subsets, fit_steps=3, initial=3, search=search)
    whole = method(F)
    half = last(method.iterates(F), 3)
    assert torch.equal(method(F, half), whole)
    save = Checkpoint(tmp_path / "at.npz")
    save(half)
    assert torch.equal(method(F, save.load(half.image)), whole)
    assert torch.equal(method(F, last(method.iterates(F), 9)), last(method.iterates(F), 9).image)


def test_transfer_as_a_method_restarts_exactly():
    method = IterativeNetwork(Net(), 6, method="transfer", fit_steps=3, initial=3)
    half = last(method.iterates(F), 2)
    assert torch.equal(method(F, half), method(F))
    start = last(mlem(F), 3)
    assert torch.equal(method(F, start), method(F, start.image))


def test_the_default_start_is_that_of_the_paper():
    """alpha = f(EM of 30 updates), in the unit of the network."""
    net = Net()
    unit = activity_scale(F)
    x = last(mlem(F, unit * torch.ones_like(TRUTH)), 30).image
    ours, by_hand = IterativeNetwork(net, 1), NetworkInput.of(net, x, scale=unit)
    rho = 0.1 * coupling_unit(F, unit)
    expected = next(iterative_network(F, by_hand, rho=rho)).image
    assert torch.equal(ours(F), expected)


@pytest.mark.parametrize("method", ["admm", "transfer"])
def test_doubling_counts_doubles_the_image(method):
    recon = IterativeNetwork(Net(), 4, method=method, fit_steps=3, initial=3)
    doubled = PoissonLikelihood(2 * COUNTS, AcquisitionModel(A, MODEL.factors, 1.0))
    torch.testing.assert_close(recon(doubled), 2 * recon(F), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["admm", "transfer"])
def test_items_of_a_batch_go_their_own_way(method):
    recon = IterativeNetwork(Net(), 4, method=method, fit_steps=3, initial=3)
    other = COUNTS.flip(0)
    both = recon(PoissonLikelihood(torch.stack([COUNTS, other]), MODEL))
    for i, counts in enumerate((COUNTS, other)):
        torch.testing.assert_close(both[i], recon(PoissonLikelihood(counts, MODEL)), rtol=1e-8, atol=1e-8)


def test_single_precision_and_guides():
    f = PoissonLikelihood(COUNTS.float(), MODEL)
    net = Net(dtype=torch.float32)
    x = IterativeNetwork(net, 3, initial=3)(f)
    assert x.dtype == torch.float32
    guided = IterativeNetwork(net, 3, initial=3)(f, guide=TRUTH.float())
    assert not torch.equal(guided, x)
    assert IterativeNetwork(net, 2, initial=2)(F).dtype == torch.float64  # a float32 network on float64 data


def test_works_where_the_caller_has_switched_autograd_off():
    method = IterativeNetwork(Net(), 2, initial=2)
    x = method(F)
    assert not x.requires_grad
    with torch.no_grad():
        assert torch.equal(method(F), x)


def test_a_scale_of_ones_own():
    x = IterativeNetwork(Net(), 2, initial=2, scale=lambda likelihood: 3.0)(F)
    assert torch.equal(IterativeNetwork(Net(), 2, initial=2, scale=3.0)(F), x)


def test_refusals():
    net = Net()
    with pytest.raises(TypeError, match="alpha must be a torch tensor"):
        NetworkInput(net, np.ones(A.in_shape))
    with pytest.raises(ValueError, match="alpha must be finite and not negative"):
        NetworkInput(net, -TRUTH)
    for bad in ({"scale": 0.0}, {"step": -1.0}, {"floor": 0.0}):
        with pytest.raises(ValueError, match="must be positive"):
            NetworkInput(net, TRUTH, **bad)
    latent = NetworkInput(net, TRUTH)
    with pytest.raises(ValueError, match="rho must be positive"):
        iterative_network(F, latent, rho=0.0)
    with pytest.raises(ValueError, match="at least one EM step"):
        iterative_network(F, latent, rho=1.0, fit_steps=0)
    with pytest.raises(ValueError, match="start must be finite and not negative"):
        iterative_network(F, latent, Iterate(0, -TRUTH), rho=1.0)
    with pytest.raises(TypeError, match="works on torch tensors"):
        IterativeNetwork(net, 1)(PoissonLikelihood(COUNTS.numpy(), MODEL))
    with pytest.raises(TypeError, match="works on torch tensors"):
        iterative_network(PoissonLikelihood(COUNTS.numpy(), MODEL), latent, rho=1.0)
    for bad in ({"n_iterations": 0}, {"method": "else"}, {"method": "transfer", "search": False}):
        with pytest.raises(ValueError, match="IterativeNetwork"):
            IterativeNetwork(net, **bad)
    with pytest.raises(ValueError, match="lets no gradient through"):
        NetworkInput(lambda x: x.detach(), TRUTH).fit_squares(TRUTH, 1)
    with pytest.raises(ValueError, match=r"<lambda> returned \(6, 6, 3\)"):
        NetworkInput(lambda x: x[:-1], TRUTH).image()
    with pytest.raises(ValueError, match="<lambda> returned NaN"):
        NetworkInput(lambda x: x / 0, 0 * TRUTH).image()
