"""The acquisition model: its formula, transpose, gradients, subsets, precision and refusals."""

import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from spect_cases import projector

from emrecon.projectors import AcquisitionModel

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
X, FACTORS, BACKGROUND = RNG.random(A.in_shape), RNG.random(A.out_shape), RNG.random(A.out_shape)


@pytest.mark.parametrize("factors", [1.0, 2, np.float64(0.5), np.float32(0.5), np.array(3), FACTORS, FACTORS[:, :1]])
@pytest.mark.parametrize("background", [0.0, 3, np.int64(2), BACKGROUND, BACKGROUND[0], BACKGROUND[:, :1, :1]])
def test_formula(factors, background):
    model = AcquisitionModel(A, factors, background)
    np.testing.assert_allclose(model(X), factors * A(X) + background, rtol=1e-14)
    np.testing.assert_allclose(model.linear(X), factors * A(X), rtol=1e-14)
    assert model(X.astype(np.float32)).dtype == np.float32
    assert model.adjoint(BACKGROUND.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("factors", [2.0, FACTORS, FACTORS[:, :1, :1], FACTORS[0]])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1)])
def test_the_adjoint_is_the_transpose_of_the_linear_part(factors, batch):
    model = AcquisitionModel(A, factors, background=7.0)
    x, y = RNG.normal(size=(*batch, *A.in_shape)), RNG.normal(size=(*batch, *A.out_shape))
    forward, back = model.linear(x), model.adjoint(y)
    assert back.shape == x.shape
    assert np.vdot(forward, y) == pytest.approx(np.vdot(x, back), abs=1e-12 * np.abs(forward).sum() * np.abs(y).max())


def test_factors_per_item_make_a_batch():
    factors = RNG.random((2, *A.out_shape))
    np.testing.assert_allclose(AcquisitionModel(A, factors)(X), factors * A(X))


@pytest.mark.parametrize("shape", [A.out_shape, (6, 1, 1), (1, 9, 3)])
def test_gradients_reach_factors_and_background(shape):
    factors, background = (torch.tensor(RNG.random(shape), requires_grad=True) for _ in range(2))
    weights = RNG.normal(size=A.out_shape)
    model = AcquisitionModel(A, factors, background)
    (model(torch.tensor(X)) * torch.tensor(weights)).sum().backward()
    axes = tuple(i for i, n in enumerate(shape) if n == 1)
    np.testing.assert_allclose(factors.grad.numpy(), (weights * A(X)).sum(axes, keepdims=True), rtol=1e-10)
    np.testing.assert_allclose(background.grad.numpy(), weights.sum(axes, keepdims=True), rtol=1e-10)


def test_gradcheck_of_everything_at_once():
    x, factors, background = (torch.tensor(v, requires_grad=True) for v in (X, FACTORS, BACKGROUND))
    assert torch.autograd.gradcheck(
        lambda *v: AcquisitionModel(A, *v[1:])(v[0]), (x, factors, background), fast_mode=True
    )
    y = torch.tensor(BACKGROUND, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, y: AcquisitionModel(A, f).adjoint(y), (factors, y), fast_mode=True)


def test_torch_factors_meet_numpy_images():
    expected = AcquisitionModel(A, FACTORS, BACKGROUND)(X)
    model = AcquisitionModel(A, torch.tensor(FACTORS), torch.tensor(BACKGROUND))
    np.testing.assert_allclose(model(X), expected, rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numpy_factors_meet_torch_images(dtype):
    model = AcquisitionModel(A, FACTORS, BACKGROUND)
    y = model(torch.tensor(X, dtype=dtype))
    assert y.dtype == dtype
    np.testing.assert_allclose(y.numpy(), model(X), rtol=1e-5)


def test_inference_mode_leaves_nothing_behind():
    model = AcquisitionModel(A, FACTORS, BACKGROUND)
    with torch.inference_mode():
        model(torch.tensor(X))
    x = torch.tensor(X, requires_grad=True)
    model(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), model.adjoint(np.ones(A.out_shape)), rtol=1e-12)


@pytest.mark.parametrize("factors", [2.0, FACTORS, FACTORS[:, :1, :1], FACTORS[0], FACTORS[:1], torch.tensor(FACTORS)])
def test_subsets_slice_what_has_a_view_axis(factors):
    model = AcquisitionModel(A, factors, factors)
    for k in range(3):
        np.testing.assert_allclose(model.subset(k, 3)(X), model(X)[k::3], rtol=1e-14)
    back = sum(model.subset(k, 3).adjoint(BACKGROUND[k::3]) for k in range(3))
    np.testing.assert_allclose(back, model.adjoint(BACKGROUND), rtol=1e-12)


def test_subsets_of_a_batch_of_backgrounds():
    background = RNG.random((2, *A.out_shape))
    part = AcquisitionModel(A, background=background).subset(1, 4)
    np.testing.assert_array_equal(part.background, background[:, 1::4])
    assert AcquisitionModel(A, background=background[:, :1]).subset(1, 4).background.shape == (2, 1, 9, 3)
    with pytest.raises(ValueError, match="does not exist"):
        AcquisitionModel(A).subset(3, 3)


@pytest.mark.parametrize("name", ["factors", "background"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-1.0, "must be finite and not negative, got -1.0"),
        (float("nan"), "must be finite and not negative, got nan"),
        (np.inf, "must be finite and not negative, got inf"),
        (-FACTORS, "must be finite and not negative everywhere"),
        (np.where(FACTORS > 0.99, np.nan, 1), "must be finite and not negative everywhere"),
        (torch.tensor(-FACTORS), "must be finite and not negative everywhere"),
        (np.ones((5, 9, 3)), r"of shape \(5, 9, 3\) does not broadcast to \(6, 9, 3\)"),
        (np.ones((2, 9)), r"of shape \(2, 9\) does not broadcast"),
    ],
)
def test_wrong_values_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"AcquisitionModel {name} {message}"):
        AcquisitionModel(A, **{name: value})


@pytest.mark.parametrize("value", [[1.0, 2.0], "2", None])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="background must be a number or an array"):
        AcquisitionModel(A, background=value)


def test_models_are_values():
    model = AcquisitionModel(A, FACTORS, BACKGROUND)
    x = torch.tensor(X)
    with pytest.raises(FrozenInstanceError):
        model.factors = 1
    model(x)
    twice = replace(model, factors=2 * FACTORS)
    np.testing.assert_allclose(twice.linear(x).numpy(), 2 * model.linear(X), rtol=1e-14)
    np.testing.assert_allclose(model.linear(x).numpy(), model.linear(X), rtol=1e-14)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy(X), model(X))


def test_a_scale_is_one_number_for_each_item():
    from spect_cases import projector

    A, rng = projector("thin", "gaussian"), np.random.default_rng(0)
    x, y = rng.random((3, *A.in_shape)), rng.random((3, *A.out_shape))
    model = AcquisitionModel(A, 2.0, 0.0, np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1))
    assert np.vdot(model.linear(x), y) == pytest.approx(np.vdot(x, model.adjoint(y)))
    for i in range(3):
        np.testing.assert_allclose(model.subset(0, 2).linear(x)[i], (i + 1) * 2 * A.subset(0, 2)(x[i]), rtol=1e-12)
    np.testing.assert_array_equal(model.linear(x[0])[2], 3 * model.linear(x[0])[0])  # one image for all items
    for wrong in (x[:1], x[:2]):
        with pytest.raises(ValueError, match="scale is for a batch of"):
            model.linear(wrong)
