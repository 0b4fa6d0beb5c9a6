"""The Poisson likelihood against scipy.stats, finite differences and autograd; batches, subsets and refusals."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from battery import relative_error
from scipy.stats import poisson
from spect_cases import projector

from emrecon.projectors import AcquisitionModel, ImageGrid, Scan, SPECTGeometry, SPECTProjector
from emrecon.recon import PoissonLikelihood

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
X, V = RNG.random(A.in_shape), RNG.normal(size=A.in_shape)
FACTORS, BACKGROUND = RNG.uniform(0.5, 2, A.out_shape), RNG.uniform(0.1, 1, A.out_shape)
MODEL = AcquisitionModel(A, FACTORS, BACKGROUND)
COUNTS = RNG.poisson(MODEL(X)).astype(float)
F = PoissonLikelihood(COUNTS, MODEL)


def test_the_value_is_poissons():
    other = RNG.random(A.in_shape)
    expected = poisson.logpmf(COUNTS, MODEL(X)).sum() - poisson.logpmf(COUNTS, MODEL(other)).sum()
    assert F.value(other) - F.value(X) == pytest.approx(expected, rel=1e-10)
    assert F.value(X) == pytest.approx((MODEL(X) - COUNTS * np.log(MODEL(X))).sum(), rel=1e-12)


def test_the_value_is_summed_in_float64():
    value = F.value(X.astype(np.float32))
    assert value.dtype == np.float64
    assert value == pytest.approx(F.value(X), rel=1e-6)
    assert F.value(torch.tensor(X, dtype=torch.float32)).dtype == torch.float64


def test_the_gradient_by_finite_differences_and_autograd():
    step = 1e-5
    difference = (F.value(X + step * V) - F.value(X - step * V)) / (2 * step)
    assert np.vdot(F.gradient(X), V) == pytest.approx(difference, rel=1e-7)
    x = torch.tensor(X, requires_grad=True)
    F.value(x).backward()
    assert relative_error(x.grad, F.gradient(X)) < 1e-12
    assert torch.autograd.gradcheck(F.value, (x,), fast_mode=True)


def test_the_hessian_by_finite_differences_and_autograd():
    step = 1e-5
    difference = (F.gradient(X + step * V) - F.gradient(X - step * V)) / (2 * step)
    assert relative_error(F.hessian_vector(X, V), difference) < 1e-7
    _, exact = torch.autograd.functional.hvp(F.value, torch.tensor(X), torch.tensor(V))
    assert relative_error(F.hessian_vector(X, V), exact) < 1e-12
    assert np.vdot(V, F.hessian_vector(X, V)) > 0


def test_the_sensitivity_is_the_back_projection_of_the_factors():
    assert relative_error(F.sensitivity, A.T(FACTORS)) < 1e-14
    assert F.sensitivity is F.sensitivity
    assert F.sensitivity_like(X.astype(np.float32)).dtype == np.float32
    unseen = PoissonLikelihood(COUNTS, AcquisitionModel(A, 0.0, BACKGROUND))
    assert not unseen.sensitivity.any()


def test_gradients_of_factors_include_the_sensitivity():
    """Twice, and after a look without gradients: nothing of one graph may be kept for the next."""
    factors = torch.tensor(FACTORS, requires_grad=True)
    f, x, weights = (
        PoissonLikelihood(COUNTS, AcquisitionModel(A, factors, BACKGROUND)),
        torch.tensor(X),
        torch.tensor(V),
    )
    with torch.no_grad():
        f.gradient(x)
    for _ in range(2):
        factors.grad = None
        (f.gradient(x) * weights).sum().backward()
        expected = A(V) * (1 - COUNTS * BACKGROUND / MODEL(X) ** 2)  # of n (1 - y / (n A x + r)) by n
        assert relative_error(factors.grad, expected) < 1e-12


def test_inference_mode_leaves_nothing_behind():
    f = PoissonLikelihood(COUNTS, MODEL)
    with torch.inference_mode():
        f.gradient(torch.tensor(X))
    x = torch.tensor(X, requires_grad=True)
    (f.gradient(x) * torch.tensor(V)).sum().backward()
    assert relative_error(x.grad, F.hessian_vector(X, V)) < 1e-12


@pytest.mark.parametrize("n", [2, 3, 6])
def test_subsets_add_up(n):
    parts = [F.subset(k, n) for k in range(n)]
    assert sum(part.value(X) for part in parts) == pytest.approx(F.value(X), rel=1e-12)
    assert relative_error(sum(part.gradient(X) for part in parts), F.gradient(X)) < 1e-12
    assert relative_error(sum(part.sensitivity for part in parts), F.sensitivity) < 1e-12
    np.testing.assert_array_equal(parts[1].data, COUNTS[1::n])


def test_torch_is_numpy():
    x, v = torch.tensor(X), torch.tensor(V)
    for data in (COUNTS, torch.tensor(COUNTS)):
        f = PoissonLikelihood(data, MODEL)
        assert float(f.value(x)) == pytest.approx(F.value(X), rel=1e-12)
        assert relative_error(f.gradient(x), F.gradient(X)) < 1e-12
        assert relative_error(f.hessian_vector(x, v), F.hessian_vector(X, V)) < 1e-12
        assert type(f.sensitivity) is type(data)


def test_a_batch_has_a_value_per_item():
    x, y = RNG.random((2, 3, *A.in_shape)), RNG.poisson(3.0, (3, *A.out_shape))
    f = PoissonLikelihood(y, MODEL)
    values, gradients, curvatures = f.value(x), f.gradient(x), f.hessian_vector(x, x)
    assert values.shape == (2, 3)
    for i, j in np.ndindex(2, 3):
        alone = PoissonLikelihood(y[j], MODEL)
        assert values[i, j] == pytest.approx(alone.value(x[i, j]), rel=1e-12)
        assert relative_error(gradients[i, j], alone.gradient(x[i, j])) < 1e-12
        assert relative_error(curvatures[i, j], alone.hessian_vector(x[i, j], x[i, j])) < 1e-12
    np.testing.assert_array_equal(f.subset(1, 3).data, y[:, 1::3])
    assert f.value(np.zeros((0, 3, *A.in_shape))).shape == (0, 3)


def test_one_attenuation_map_per_item():
    B = projector("thin", "gaussian", "per item")
    x, y = RNG.random((3, *B.in_shape)), RNG.poisson(3.0, (3, *B.out_shape))
    f = PoissonLikelihood(y, AcquisitionModel(B, background=1.0))
    for i in range(3):
        one = SPECTProjector(B.grid, B.geometry, B.attenuation[i], B.response)
        alone = PoissonLikelihood(y[i], AcquisitionModel(one, background=1.0))
        assert f.value(x)[i] == pytest.approx(alone.value(x[i]), rel=1e-12)
        assert relative_error(f.gradient(x)[i], alone.gradient(x[i])) < 1e-12


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32])
def test_counts_of_every_type(dtype):
    f = PoissonLikelihood(COUNTS.astype(dtype), MODEL)
    assert f.value(X) == pytest.approx(F.value(X), rel=1e-12)
    assert f.gradient(X.astype(np.float32)).dtype == np.float32
    assert f.sensitivity.dtype == np.float32


def test_a_scan_is_its_counts():
    scan = Scan(COUNTS, A.geometry, background=BACKGROUND, factors=FACTORS)
    f = PoissonLikelihood(scan, scan.model(A))
    assert f.data is COUNTS
    assert f.value(X) == F.value(X)


def far_away():
    """A camera of which some bins see nothing."""
    return SPECTProjector(ImageGrid((4, 4, 2), 4.0), SPECTGeometry.circular(3, 50, (16, 2), 4.0))


def test_nothing_expected_and_nothing_measured_is_fine():
    B = far_away()
    x, inside = np.ones(B.in_shape), B(np.ones(B.in_shape)) > 0
    assert not inside.all()
    f = PoissonLikelihood(np.where(inside, 2.0, 0.0), AcquisitionModel(B))
    expected = B(x)[inside]
    assert f.value(x) == pytest.approx((expected - 2 * np.log(expected)).sum(), rel=1e-12)
    tensor = torch.tensor(x, requires_grad=True)
    f.value(tensor).backward()
    for gradient in (f.gradient(x), tensor.grad.numpy(), f.hessian_vector(x, x)):
        assert np.isfinite(gradient).all()
    assert relative_error(tensor.grad, f.gradient(x)) < 1e-12


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_counts_where_none_are_expected_are_an_error(library):
    B = far_away()
    x, inside = np.ones(B.in_shape), B(np.ones(B.in_shape)) > 0
    f = PoissonLikelihood(np.ones(B.out_shape), AcquisitionModel(B))
    message = f"counts were measured in {(~inside).sum()} of {inside.size} bins where none are expected.*background=0"
    for method in (f.value, f.gradient, f.ratio):
        with pytest.raises(ValueError, match=message):
            method(library(x))
    f.value(RNG.random((0, *B.in_shape)))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (COUNTS - 5, ValueError, "PoissonLikelihood: [0-9]+ counts are negative"),
        (np.where(COUNTS > 2, np.nan, COUNTS), ValueError, "PoissonLikelihood: [0-9]+ counts are NaN"),
        (COUNTS[:-1], ValueError, r"data of shape \(5, 9, 3\) do not fit <SPECTProjector \(7,6,3\) -> \(6,9,3\)>"),
        (COUNTS[0], ValueError, "do not fit"),
        (COUNTS * 1j, TypeError, "must be real numbers"),
        (COUNTS.tolist(), TypeError, "expects an array"),
    ],
)
def test_data_that_make_no_sense(data, error, message):
    with pytest.raises(error, match=message):
        PoissonLikelihood(data, MODEL)


def test_likelihoods_are_values():
    f = PoissonLikelihood(COUNTS, MODEL)
    x = torch.tensor(X)
    f.gradient(x)
    other = replace(f, data=COUNTS + 1)
    assert relative_error(other.gradient(x), PoissonLikelihood(COUNTS + 1, MODEL).gradient(X)) < 1e-12
    copy = pickle.loads(pickle.dumps(f))
    assert not copy._plans["sensitivity"]._plans
    assert copy.value(X) == f.value(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_an_error(value):
    A = projector("thin", "gaussian", "none")
    f = PoissonLikelihood(np.ones(A.out_shape), AcquisitionModel(A, background=0.1))
    x = np.ones(A.in_shape)
    x[3, 3, 1] = value
    for method in (f.value, f.gradient, f.ratio, lambda image: f.hessian_vector(image, image)):
        with pytest.raises(ValueError, match="negative, NaN or infinite"), np.errstate(all="ignore"):
            method(x)
