"""The algebra of linear operators: composition, sums, scaling, batches, errors."""

import array_api_strict
import numpy as np
import pytest
import torch
from battery import check_operator, dense

from emrecon.projectors import DenseOperator, Diagonal
from emrecon.projectors.core import divide_where

RNG = np.random.default_rng(0)


def some_operator(n_in=(3, 2), n_out=(4,), seed=0):
    matrix = np.random.default_rng(seed).normal(size=(int(np.prod(n_out)), int(np.prod(n_in))))
    return DenseOperator(matrix, n_in, n_out)


A, B = some_operator(), some_operator(seed=1)
C = some_operator((4,), (5,), seed=2)


@pytest.mark.parametrize(
    "operator",
    [A, A.T, C @ A, (C @ A).T, A + B, A - B, 2 * A, -A, A * 0.5, Diagonal(RNG.normal(size=(3, 2))), A.T @ A],
    ids=repr,
)
def test_every_operator_passes_the_battery(operator):
    check_operator(operator)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (C @ A, lambda: dense(C) @ dense(A)),
        (A + B, lambda: dense(A) + dense(B)),
        (A - B, lambda: dense(A) - dense(B)),
        (-3 * A, lambda: -3 * dense(A)),
        (A.T, lambda: dense(A).T),
        (Diagonal(np.arange(4.0)) @ A, lambda: np.diag(np.arange(4.0)) @ dense(A)),
    ],
)
def test_algebra_is_that_of_matrices(operator, expected):
    np.testing.assert_allclose(dense(operator), expected(), atol=1e-14)


def test_diagonal_broadcasts():
    D = Diagonal(np.array([1.0, 2.0]), shape=(3, 2))
    np.testing.assert_array_equal(D(np.ones((3, 2))), [[1, 2]] * 3)
    with pytest.raises(ValueError, match="do not broadcast"):
        Diagonal(np.ones(3), shape=(3, 2))


def test_operators_follow_strict_arrays():
    x = array_api_strict.asarray(RNG.normal(size=(7, 3, 2)))
    operator = Diagonal(np.ones(5)) @ (2 * (C @ A))
    y = operator(x)
    assert isinstance(y, array_api_strict._array_object.Array)
    np.testing.assert_allclose(np.asarray(y), operator(np.asarray(x)))
    np.testing.assert_allclose(np.asarray(operator.T(y)), operator.T(np.asarray(y)))


def test_precision_follows_the_input():
    assert A(np.ones((3, 2), np.float32)).dtype == np.float32
    assert A(np.ones((3, 2), np.int32)).dtype == np.float32
    assert A(torch.ones(3, 2, dtype=torch.float16)).dtype == torch.float32
    with pytest.raises(TypeError, match="real"):
        A(np.ones((3, 2), complex))


def test_repr_names_the_shapes():
    assert repr(A) == "<DenseOperator (3,2) -> (4,)>"
    assert repr(A.T) == "<DenseOperator.T (4,) -> (3,2)>"
    assert "@" in repr(C @ A)
    assert "2 *" in repr(2 * A)


@pytest.mark.parametrize(
    ("shape", "advice"), [((3,), "add the last axis"), ((2, 3), "another order"), ((4,), "A.T"), ((5, 5), "got")]
)
def test_shape_errors_say_what_to_do(shape, advice):
    with pytest.raises(ValueError, match=advice):
        A(np.ones(shape))


def test_wrong_operands_are_refused():
    with pytest.raises(ValueError, match="cannot compose"):
        _ = A @ C
    with pytest.raises(ValueError, match="cannot add"):
        _ = A + C
    with pytest.raises(TypeError):
        _ = A + 1
    with pytest.raises(TypeError):
        _ = A @ np.ones(3)
    with pytest.raises(TypeError):
        _ = A * "2"
    with pytest.raises(TypeError, match="expects an array"):
        A([[1, 2]])
    with pytest.raises(ValueError, match="expects a matrix"):
        DenseOperator(np.ones((2, 2)), (3,), (2,))


def test_scaled_and_added_projectors_have_subsets():
    from spect_cases import projector

    A = projector("thin", "gaussian")
    x = np.random.default_rng(0).random(A.in_shape)
    both = A + 0.5 * A - 0.25 * A
    np.testing.assert_allclose(both.subset(1, 3)(x), 1.25 * A.subset(1, 3)(x), rtol=1e-12)
    check_operator(A + 0.5 * A)


def test_projectors_for_a_batch_stay_so():
    from spect_cases import projector

    from emrecon.projectors import GaussianBlur

    A = projector("thin", "gaussian", "per item")
    assert A.n_items is not None
    assert (A + A).n_items == (2 * A).n_items == (A @ GaussianBlur(A.grid, 5.0)).n_items == A.n_items


def test_divide_where_is_the_guarded_division_and_says_what_stands_elsewhere():
    a, b = np.array([1.0, 2, 3, 0], np.float32), np.array([2.0, 0, -1, 4], np.float32)
    np.testing.assert_array_equal(divide_where(a, b), a / np.where(b > 0, b, np.ones_like(b)))
    np.testing.assert_array_equal(divide_where(a, b, 7.0), np.array([0.5, 7, 7, 0], np.float32))
    assert divide_where(a, b).dtype == divide_where(a, b, 0.0).dtype == np.float32


@pytest.mark.parametrize("otherwise", [None, 0.0])
def test_divide_where_has_finite_gradients_where_nothing_is_divided(otherwise):
    a, b = torch.tensor([1.0, 2, 0], requires_grad=True), torch.tensor([2.0, 0, 0], requires_grad=True)
    divide_where(a, b, otherwise).sum().backward()
    torch.testing.assert_close(b.grad, torch.tensor([-0.25, 0, 0]))
    assert torch.isfinite(a.grad).all()
    torch.testing.assert_close(a.grad[0], torch.tensor(0.5))
