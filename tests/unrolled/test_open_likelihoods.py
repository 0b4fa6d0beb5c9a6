"""A likelihood that a user wrote, Gaussian noise, in methods with networks; what needs counts says so."""

from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from emrecon.projectors import DenseOperator
from emrecon.recon import Iterate
from emrecon.unrolled import (
    DIPRecon,
    Fit,
    HeldOut,
    IterativeNetwork,
    NeuralKEM,
    PlugAndPlayEM,
    UnrolledEM,
    count_scale,
    dip_chain,
    em_update,
    hold_out,
    learned_primal_dual,
    pnp_em,
    poisson_loss,
    thinned,
)

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)
MATRIX = torch.as_tensor(RNG.uniform(0, 1, (40, 16)))
TRUTH = torch.as_tensor(RNG.uniform(0.5, 2, SHAPE))


class Gaussian:
    """f(x) = |A x - y|^2 / 2 with its gradient, a scale of steps and subsets; no base class."""

    def __init__(self, y, matrix):
        self.y, self.matrix = y, matrix
        self.sensitivity = (matrix.T @ matrix.sum(1)).reshape(SHAPE)

    def residual(self, x):
        return self.matrix @ x.reshape(-1) - self.y

    def value(self, x):
        return self.residual(x).square().sum() / 2

    def gradient(self, x):
        return (self.matrix.T @ self.residual(x)).reshape(x.shape)

    def subset(self, k, n):
        return Gaussian(self.y[k::n], self.matrix[k::n])


F = Gaussian(MATRIX @ TRUTH.reshape(-1), MATRIX)
START = torch.ones(SHAPE, dtype=torch.float64)


class Scaled(nn.Module):
    """A denoiser with one weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

    def forward(self, x, sigma=None, *, guide=None):
        return self.weight * x


def error(image):
    return float((image.detach() - TRUTH).norm() / TRUTH.norm())


@pytest.mark.parametrize("form", ["fuse", "gradient", "residual"])
def test_unrolled_networks_differentiate_it(form):
    slopes = []
    for grad in ("full", "checkpoint"):
        net = UnrolledEM(Scaled(), 3, subsets=2, scale=None, form=form, grad=grad).double()
        net(F, START).square().sum().backward()
        slopes.append(float(net.denoisers[0].weight.grad))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-12)
    assert slopes[0] != 0


def test_unrolled_networks_start_where_something_is_seen():
    assert UnrolledEM(Scaled(), 2, scale=None).double()(F).shape == SHAPE


def test_the_step_is_that_of_its_gradient():
    step = START - START / F.sensitivity * F.gradient(START)
    torch.testing.assert_close(em_update(START, F), step.clamp(min=0))
    torch.testing.assert_close(em_update(START, F, "detach"), step.clamp(min=0))


def test_plug_and_play_with_the_identity_comes_near_the_truth():
    *_, last = islice(pnp_em(F, lambda x: x, START, rho=1e-3), 300)
    assert error(last.image) < 0.1
    method = PlugAndPlayEM(lambda x: x, 300, rho=1e-3, relative=False)
    torch.testing.assert_close(method(F, START), last.image)


def test_the_input_of_a_network():
    method = IterativeNetwork(Scaled(), 40, rho=1e-3, relative=False, scale=1.0)
    assert error(method(F, START)) < error(START)


def test_the_weights_of_a_network():
    network = dip_chain(2, 1).double()
    settings = {"n_iterations": 3, "initial_steps": 2, "initial_fit": Fit("adam", 20, 1e-2), "scale": lambda f: 1.0}
    assert error(DIPRecon(network, fit=Fit("adam", 20), **settings)(F)) < 1
    kernel = DenseOperator(0.5 * np.eye(16) + 0.5 / 16, SHAPE, SHAPE)
    method = NeuralKEM(network, kernel=kernel, fit=Fit("adam", 20), **settings)
    last = list(islice(method.iterates(F), 3))[-1]
    torch.testing.assert_close(last.image, kernel(last.state["coefficients"]))


def test_rules_and_losses():
    rule = HeldOut(F, patience=1)
    assert not rule(Iterate(1, START))
    assert rule(Iterate(2, 3 * TRUTH))
    assert float(poisson_loss(START, F)) == pytest.approx(float(F.value(START)))


@pytest.mark.parametrize(
    "call",
    [
        lambda: count_scale(F),
        lambda: UnrolledEM(Scaled(), 2)(F),
        lambda: next(pnp_em(F, lambda x: x, rho=1.0)),
        lambda: PlugAndPlayEM(lambda x: x)(F, START),
        lambda: hold_out(F),
        lambda: thinned(F, 0.5, torch.Generator()),
        lambda: learned_primal_dual()(F),
    ],
)
def test_who_needs_counts_names_what_is_missing(call):
    with pytest.raises(TypeError, match="Gaussian has no model, ratio, counts_like"):
        call()
