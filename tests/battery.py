"""Properties that every operator must have, checked on NumPy, torch and (where there is a GPU) CuPy."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import torch
from emrecon.projectors import LinearOperator, Projector


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
        assert matrix.min() >= -1e-20


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


def relative_error(a: Any, b: Any) -> float:
    """|a - b| / |b|."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
