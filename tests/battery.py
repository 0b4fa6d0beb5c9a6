"""Properties that every operator must have, checked on NumPy, torch and (where there is a GPU) CuPy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from emrecon.projectors import DenseOperator, LinearOperator, Projector


class MatrixProjector(DenseOperator, Projector):
    """A matrix where a projector is wanted; it has no subsets."""

    def subset(self, k, n):
        raise NotImplementedError


def dense(operator: LinearOperator) -> np.ndarray:
    """The matrix of an operator, column by column, in float64."""
    n = int(np.prod(operator.in_shape))
    columns = operator(np.eye(n).reshape(n, *operator.in_shape))
    return columns.reshape(n, -1).T


def mismatch(operator: LinearOperator, dtype: str, seed: int = 0, batch: tuple[int, ...] = ()) -> float:
    """|<A x, y> - <x, A' y>| / (|A x| |y|) for signed random x and y."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*batch, *operator.in_shape)).astype(dtype)
    y = rng.normal(size=(*batch, *operator.out_shape)).astype(dtype)
    ax, aty = operator(x).astype(float), operator.T(y).astype(float)
    return abs(np.vdot(ax, y) - np.vdot(x, aty)) / max(np.linalg.norm(ax) * np.linalg.norm(y), 1e-30)


def check_operator(operator: LinearOperator, *, positive: bool = False, gradients: bool = True) -> None:
    """Shapes, linearity, exact transpose, batches, libraries, repeatability, pickling, subsets and derivatives."""
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(2, *operator.in_shape))
    y = rng.normal(size=operator.out_shape)
    ax = operator(x)
    assert ax.shape == operator.out_shape
    assert ax.dtype == np.float64
    assert operator(x.astype(np.float32)).dtype == np.float32
    assert operator.T.T is operator
    np.testing.assert_allclose(operator(2 * x - 3 * z), 2 * ax - 3 * operator(z), atol=1e-12 * np.abs(ax).max())
    _check_transpose(operator, positive)
    if positive:
        check_non_negative(operator)
    _check_batches(operator, rng)
    _check_torch(operator, x, y, gradients)
    assert np.array_equal(operator(x), ax)
    assert np.array_equal(operator.T(y), operator.T(y))
    copy = pickle.loads(pickle.dumps(operator))
    np.testing.assert_array_equal(copy(x), ax)
    if isinstance(operator, Projector):
        check_subsets(operator, x)


def check_subsets(projector: Projector, x: np.ndarray) -> None:
    """Subsets are the views k::n of the whole, and their back projections add up."""
    whole, n = projector(x), min(3, projector.out_shape[0])
    parts = [projector.subset(k, n) for k in range(n)]
    for k, part in enumerate(parts):
        np.testing.assert_allclose(part(x), whole[k::n], rtol=1e-12, atol=1e-12)
    total = sum(part.T(whole[k::n]) for k, part in enumerate(parts))
    np.testing.assert_allclose(total, projector.T(whole), rtol=1e-10, atol=1e-12)


def _check_transpose(operator: LinearOperator, positive: bool) -> None:
    assert mismatch(operator, "float64") < 1e-12
    assert mismatch(operator, "float32") < 1e-5
    if np.prod(operator.in_shape) * np.prod(operator.out_shape) > 1e6:
        return
    matrix = dense(operator)
    np.testing.assert_allclose(matrix, dense(operator.T).T, rtol=1e-12, atol=1e-14 * np.abs(matrix).max())
    if positive:
        assert matrix.min() >= 0


def check_non_negative(operator: LinearOperator, seed: int = 0) -> None:
    """What is nowhere negative stays so, to the last bit: images rich in zeros, in both precisions and directions."""
    rng = np.random.default_rng(seed)
    for apply, shape in ((operator, operator.in_shape), (operator.T, operator.out_shape)):
        for share in (0.02, 0.3, 1.0):
            x = rng.random(shape) * 10.0 ** rng.uniform(-6, 4, shape) * (rng.random(shape) < share)
            x.flat[rng.integers(x.size)] = 1.0
            for values in (x, x.astype(np.float32)):
                low = float(np.min(apply(values)))
                assert low >= 0, f"{apply!r} makes {low:g} of values that are not negative ({values.dtype})"


def _check_batches(operator: LinearOperator, rng: np.random.Generator) -> None:
    for shape in ((2, 3), (1,), (0,)):
        x = rng.normal(size=(*shape, *operator.in_shape))
        y = operator(x)
        assert y.shape == (*shape, *operator.out_shape)
        for index in np.ndindex(shape):
            np.testing.assert_allclose(y[index], operator(x[index]), rtol=1e-12, atol=1e-13)


def _check_torch(operator: LinearOperator, x: np.ndarray, y: np.ndarray, gradients: bool) -> None:
    tensor = torch.tensor(x)
    np.testing.assert_allclose(operator(tensor).numpy(), operator(x), rtol=1e-12, atol=1e-13)
    pair = torch.stack([tensor, -2 * tensor])
    torch.testing.assert_close(torch.func.vmap(operator)(pair), operator(pair))
    _, tangent = torch.func.jvp(operator, (tensor,), (2 * tensor,))
    torch.testing.assert_close(tangent, 2 * operator(tensor))
    leaf = tensor.clone().requires_grad_()
    (operator(leaf) * torch.tensor(y)).sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), operator.T(y), rtol=1e-12, atol=1e-13)
    if gradients:
        assert torch.autograd.gradcheck(operator, (leaf,), fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda t: (operator(t) ** 2).sum(), (leaf,), fast_mode=True)


def check_smooth(prior: Any, x: np.ndarray, *, curvature: bool = True, convex: bool = True) -> None:
    """Value, gradient, Hessian and parabolas of a smooth prior belong together, for all libraries and batches.

    x : (x, y, z) float64, where the prior is smooth; not negative where it must not be.
    """
    rng = np.random.default_rng(2)
    v = rng.normal(size=x.shape) * 0.1 * np.abs(x).max()
    gradient, product = prior.gradient(x), prior.hessian_vector(x, v)
    assert gradient.shape == product.shape == x.shape
    assert gradient.dtype == np.float64
    assert prior.gradient(x.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(_slope(prior.value, x, v), np.vdot(gradient, v), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(_slope(prior.gradient, x, v), product, rtol=1e-4, atol=1e-5 * np.abs(product).max())
    w = rng.normal(size=x.shape)
    assert abs(np.vdot(w, product) - np.vdot(prior.hessian_vector(x, w), v)) <= 1e-9 * np.abs(w * product).sum()
    if convex:
        assert np.vdot(v, product) >= -1e-12 * np.abs(v * product).sum()
    np.testing.assert_allclose(
        prior.gradient(x.astype(np.float32)), gradient, rtol=1e-3, atol=1e-4 * np.abs(gradient).max()
    )
    assert np.array_equal(prior.gradient(x), gradient)
    _check_hessian_diagonal(prior, x, rng)
    if curvature:
        _check_parabolas(prior, x, rng)
    _check_prior_batches(prior, x, rng)
    _check_prior_torch(prior, x, v)
    copy = pickle.loads(pickle.dumps(prior))
    np.testing.assert_array_equal(copy.gradient(x), gradient)


def _slope(function: Any, x: np.ndarray, v: np.ndarray, step: float = 1e-6) -> Any:
    return (function(x + step * v) - function(x - step * v)) / (2 * step)


def _check_hessian_diagonal(prior: Any, x: np.ndarray, rng: np.random.Generator) -> None:
    diagonal = prior.hessian_diagonal(x)
    for _ in range(5):
        index = tuple(rng.integers(n) for n in x.shape)
        unit = np.zeros(x.shape)
        unit[index] = 1
        np.testing.assert_allclose(diagonal[index], prior.hessian_vector(x, unit)[index], rtol=1e-9, atol=1e-12)


def _check_parabolas(prior: Any, x: np.ndarray, rng: np.random.Generator) -> None:
    value, gradient, curvature = prior.value(x), prior.gradient(x), prior.curvature(x)
    assert curvature.min() >= 0
    for scale in (1e-3, 0.1, 1.0, 10.0):
        t = np.abs(x + scale * np.abs(x).max() * rng.normal(size=x.shape))
        above = value + np.vdot(gradient, t - x) + (curvature * (t - x) ** 2).sum() / 2
        assert prior.value(t) <= above + 1e-9 * abs(above)


def _check_prior_batches(prior: Any, x: np.ndarray, rng: np.random.Generator) -> None:
    batch = x * rng.uniform(0.5, 2.0, (2, 3, 1, 1, 1))
    values, gradients = prior.value(batch), prior.gradient(batch)
    assert values.shape == (2, 3)
    assert values.dtype == np.float64
    for index in np.ndindex(2, 3):
        np.testing.assert_allclose(values[index], prior.value(batch[index]), rtol=1e-12)
        np.testing.assert_allclose(gradients[index], prior.gradient(batch[index]), rtol=1e-9, atol=1e-12)


def _check_prior_torch(prior: Any, x: np.ndarray, v: np.ndarray) -> None:
    leaf, w = torch.tensor(x, requires_grad=True), torch.tensor(v)
    np.testing.assert_allclose(float(prior.value(leaf).detach()), prior.value(x), rtol=1e-12)
    prior.value(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), prior.gradient(x), rtol=1e-9, atol=1e-12)
    (again,) = torch.autograd.grad((prior.gradient(leaf) * w).sum(), leaf)
    np.testing.assert_allclose(again.numpy(), prior.hessian_vector(x, v), rtol=1e-9, atol=1e-12)
    pair = torch.stack([leaf.detach(), 2 * leaf.detach()])
    torch.testing.assert_close(torch.func.vmap(prior.value)(pair), prior.value(pair))
    _, tangent = torch.func.jvp(prior.value, (leaf.detach(),), (w,))
    np.testing.assert_allclose(float(tangent), np.vdot(prior.gradient(x), v), rtol=1e-9)


def check_prox(prior: Any, x: np.ndarray, step: float, *, tolerance: float = 1e-4) -> None:
    """The proximal map minimises U(t) + |t - x|^2 / (2 step): no direction leads further down, by brute force."""
    rng = np.random.default_rng(3)
    best = prior.prox(x, step)
    assert best.shape == x.shape

    def cost(t: np.ndarray) -> float:
        return float(prior.value(t)) + float(((t - x) ** 2).sum()) / (2 * step)

    scale = np.abs(x).max()
    directions = [rng.normal(size=x.shape), x - best, np.sign(rng.normal(size=x.shape)), np.ones(x.shape)]
    unit = np.zeros(x.shape)
    unit[tuple(n // 2 for n in x.shape)] = 1
    for direction in (*directions, unit):
        line = minimize_scalar(lambda a, d=direction: cost(best + a * scale * d), bounds=(-1, 1), method="bounded")
        assert cost(best) <= line.fun + tolerance * abs(cost(x) - cost(best)) + 1e-9
    np.testing.assert_allclose(prior.prox(np.stack([x, 2 * x]), step)[0], best, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose(prior.prox(torch.tensor(x), step).numpy(), best, rtol=1e-9, atol=1e-9 * scale)
    np.testing.assert_allclose((2.0 * prior).prox(x, step), prior.prox(x, 2 * step), rtol=1e-9, atol=1e-9 * scale)


def relative_error(a: Any, b: Any) -> float:
    """|a - b| / |b|."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
