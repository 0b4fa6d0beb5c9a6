"""Derivatives of the EM step: against dense autograd, by image, factors and background, and what they keep."""

import numpy as np
import pytest
import torch

from emrecon.projectors import AcquisitionModel, DenseOperator
from emrecon.projectors.core.operator import Projector
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood, em_fuse, em_step
from emrecon.recon.engines.autograd import em_update, plain_step


class Dense(Projector):
    """A matrix as a projector, of images (4, 3, 1) and 5 views of 4 bins."""

    def __init__(self, matrix):
        self.matrix = matrix
        self.operator = DenseOperator(matrix, (4, 3, 1), (len(matrix) // 4, 4))
        self.in_shape, self.out_shape = self.operator.in_shape, self.operator.out_shape

    def _forward(self, x):
        return self.operator._forward(x)

    def _adjoint(self, y):
        return self.operator._adjoint(y)

    def subset(self, k, n):
        return Dense(self.matrix.reshape(-1, 4, 12)[k::n].reshape(-1, 12))


def problem(seed=0, batch=(2,)):
    rng = np.random.default_rng(seed)
    matrix = rng.uniform(0, 1, (20, 12)) * (rng.uniform(size=(20, 12)) > 0.3)
    matrix[:, 5] = 0  # a voxel that nothing sees
    counts = torch.as_tensor(rng.poisson(3, (*batch, 5, 4)).astype(float))
    leaf = {
        "x": torch.as_tensor(rng.uniform(0.5, 2, (*batch, 4, 3, 1))),
        "factors": torch.as_tensor(rng.uniform(0.5, 1.5, (5, 4))),
        "background": torch.as_tensor(rng.uniform(0.1, 1, (*batch, 5, 4))),
    }
    return torch.as_tensor(matrix), counts, {name: value.requires_grad_() for name, value in leaf.items()}


def dense_step(matrix, counts, x, factors, background):
    flat = x.reshape(-1, 12)
    ybar = (flat @ matrix.T).reshape(-1, 5, 4) * factors + background
    s = matrix.T @ factors.reshape(-1)
    back = (counts / ybar * factors).reshape(-1, 20) @ matrix
    m = torch.where(s > 0, back / torch.where(s > 0, s, 1), 1)
    return (flat * m).reshape(x.shape)


def likelihood_of(matrix, counts, factors, background):
    return PoissonLikelihood(counts, AcquisitionModel(Dense(matrix.numpy()), factors, background))


@pytest.mark.parametrize("keep", [True, False])
def test_gradients_equal_those_of_dense_autograd(keep):
    matrix, counts, leaf = problem()
    weight = torch.as_tensor(np.random.default_rng(1).normal(size=leaf["x"].shape))
    expected = torch.autograd.grad((dense_step(matrix, counts, **leaf) * weight).sum(), list(leaf.values()))
    x, factors, background = leaf.values()
    made = em_update(x, likelihood_of(matrix, counts, factors, background), keep)
    torch.testing.assert_close(made, dense_step(matrix, counts, **leaf), rtol=1e-12, atol=0)
    found = torch.autograd.grad((made * weight).sum(), list(leaf.values()))
    for a, b in zip(found, expected):
        assert (a - b).abs().max() < 1e-9 * b.abs().max()


def test_second_derivatives():
    matrix, counts, leaf = problem(batch=())

    def step(x, factors, background):
        return em_step(x, likelihood_of(matrix, counts, factors, background))

    assert torch.autograd.gradcheck(step, tuple(leaf.values()))
    assert torch.autograd.gradgradcheck(step, tuple(leaf.values()))


def test_list_mode_and_broadcast_factors():
    matrix, _, leaf = problem(batch=())
    rng = np.random.default_rng(2)
    sensitivity = torch.as_tensor(matrix.sum(0).reshape(4, 3, 1))
    factors, background = (torch.as_tensor(rng.uniform(0.5, 1, (5, 1))).requires_grad_() for _ in range(2))
    model = AcquisitionModel(Dense(matrix.numpy()), factors, background)
    likelihood = ListmodeLikelihood(model, sensitivity)
    leaves = [leaf["x"], factors, background]
    weight = torch.as_tensor(rng.normal(size=(4, 3, 1)))
    expected = torch.autograd.grad((plain_step(leaf["x"], likelihood) * weight).sum(), leaves)
    found = torch.autograd.grad((em_step(leaf["x"], likelihood) * weight).sum(), leaves)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("keep", [True, False])
def test_a_step_keeps_one_array_of_the_size_of_the_data(keep):
    matrix, counts, leaf = problem()
    x, factors, background = leaf.values()
    likelihood = likelihood_of(matrix, counts, factors.detach(), background.detach())
    likelihood.sensitivity_like(x)
    sizes = []

    def pack(tensor):
        sizes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        em_update(x, likelihood, keep)
    data = [shape for shape in sizes if shape == tuple(counts.shape)]
    given = 1  # the background is an input, held anyway
    assert len(data) - given == (1 if keep else 0)


def test_steps_without_gradients_keep_nothing():
    matrix, counts, leaf = problem()
    x, factors, background = (value.detach() for value in leaf.values())
    made = em_step(x, likelihood_of(matrix, counts, factors, background))
    assert made.grad_fn is None
    torch.testing.assert_close(made, dense_step(matrix, counts, x, factors, background), rtol=1e-12, atol=0)


def test_differentiable_data_and_scale():
    matrix, counts, leaf = problem()
    x, factors, background = (value.detach() for value in leaf.values())
    counts = counts.clone().requires_grad_()
    scale = torch.tensor([1.0, 2.0], dtype=torch.float64).reshape(2, 1, 1).requires_grad_()
    model = AcquisitionModel(Dense(matrix.numpy()), factors, background, scale)
    made = em_step(x, PoissonLikelihood(counts, model))
    by_counts, by_scale = torch.autograd.grad(made.sum(), [counts, scale])
    assert by_counts.abs().sum() > 0
    assert by_scale.abs().sum() > 0


@pytest.mark.parametrize("beta", [1e-12, 1e-4, 1.0, 1e10, 1e20, 1e30])
def test_gradients_of_the_fusion_survive_any_strength_in_single_precision(beta):
    def gradients(dtype):
        values = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (1.0, 2.0, 1.5, beta)]
        em_fuse(*values).backward()
        return [float(v.grad) for v in values]

    np.testing.assert_allclose(gradients(torch.float32), gradients(torch.float64), rtol=1e-5, atol=1e-38)
