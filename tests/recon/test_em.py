"""MLEM and OSEM: restarts, fixed points, monotony, an independent optimiser, gradients, batches and refusals."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from scipy.optimize import minimize
from spect_cases import projector

from emrecon.projectors import AcquisitionModel, DenseOperator, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.recon import Iterate, PoissonLikelihood, em_step, mlem, nrmse, osem

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(0.5, 5, A.in_shape)
MODEL = AcquisitionModel(A, RNG.uniform(0.5, 2, A.out_shape), 0.5)
F = PoissonLikelihood(RNG.poisson(MODEL(TRUTH)), MODEL)


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


@pytest.fixture(scope="module")
def spect():
    """A disc with hot and cold parts seen by 24 views, in float32."""
    grid, camera = ImageGrid((24, 24, 4), 6.0), SPECTGeometry.circular(24, 110, (28, 4), 6.0)
    x, y, z = grid.coordinates()
    body = (np.hypot(x, y) < 60) * np.ones_like(z)
    activity = body + 3 * (np.hypot(x - 25, y) < 15) - (np.hypot(x + 25, y) < 15)
    made = SPECTProjector(grid, camera, 0.15 * body, LinearResponse(0.03, 2.0))
    model = AcquisitionModel(made, 20.0, 0.5)
    counts = np.random.default_rng(3).poisson(model(activity)).astype(np.float32)
    return PoissonLikelihood(counts, model), activity.astype(np.float32)


def test_the_step_is_the_formula():
    y = F.data / MODEL(TRUTH)
    expected = TRUTH * A.T(MODEL.factors * y) / A.T(MODEL.factors)
    assert relative_error(em_step(TRUTH, F), expected) < 1e-12
    gradient_form = TRUTH - TRUTH / F.sensitivity_like(TRUTH) * F.gradient(TRUTH)
    assert relative_error(em_step(TRUTH, F), gradient_form) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_subsets", [1, 3])
def test_ten_and_ten_and_ten_are_thirty(n_subsets, dtype):
    start = np.ones(A.in_shape, dtype)
    whole = last(osem(F, start, n_subsets), 30)
    part = Iterate(0, start)
    for _ in range(3):
        part = last(osem(F, part.image, n_subsets, iteration=part.iteration), 10)
    assert part.iteration == whole.iteration == 30
    assert whole.image.dtype == dtype
    np.testing.assert_array_equal(part.image, whole.image)
    np.testing.assert_array_equal(start, 1)


def test_a_step_at_the_solution_stays():
    exact = PoissonLikelihood(MODEL(TRUTH), MODEL)
    np.testing.assert_allclose(em_step(TRUTH, exact), TRUTH, rtol=1e-12)
    np.testing.assert_allclose(last(osem(exact, TRUTH, 3), 5).image, TRUTH, rtol=1e-11)


def test_one_pass_over_the_subsets_is_one_step_for_each():
    x = np.ones(A.in_shape)
    for k in range(3):
        x = em_step(x, F.subset(k, 3))
    iterate = next(osem(F, np.ones(A.in_shape), 3, iteration=4))
    assert iterate.iteration == 5
    np.testing.assert_array_equal(iterate.image, x)


def test_mlem_never_gets_worse(spect):
    f, activity = spect
    images = [iterate.image for iterate in islice(mlem(f, np.ones_like(activity)), 50)]
    values = np.array([f.value(image.astype(float)) for image in images])
    assert images[-1].dtype == np.float32
    assert np.all(np.diff(values) < 0)
    assert images[-1].min() >= 0
    errors = [nrmse(image, activity) for image in images]
    assert min(errors) < 0.35 < errors[0]


def test_mlem_keeps_the_counts(spect):
    """After a step with background 0, the expected total is the measured one: sum(A x) = sum(y)."""
    f, activity = spect
    clean = PoissonLikelihood(f.model.linear(activity), AcquisitionModel(f.model.projector, 20.0))
    x = em_step(np.ones_like(activity), clean)
    assert clean.model(x).sum(dtype=float) == pytest.approx(clean.data.sum(dtype=float), rel=1e-4)


def test_subsets_are_faster_at_first(spect):
    f, activity = spect
    start = np.ones_like(activity)
    fast, slow = osem(f, start, 6), mlem(f, start)
    for _ in range(3):
        assert f.value(next(fast).image) < f.value(next(slow).image)
    for passes in (1, 3):
        one, many = last(osem(f, start, 6), passes).image, last(mlem(f, start), 6 * passes).image
        assert relative_error(one, many) < 0.1


def test_an_independent_optimiser_finds_the_same_value():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 2, (3, 2, 2)), (4, 5, 2)
    B = DenseOperator(rng.uniform(0, 1, (40, 12)) * (rng.random((40, 12)) < 0.5), x.shape, y)
    f = PoissonLikelihood(rng.poisson(5 * B(x)), AcquisitionModel(B, 5.0, 0.5))
    best = minimize(
        lambda v: (float(f.value(v.reshape(x.shape))), f.gradient(v.reshape(x.shape)).ravel()),
        np.ones(12),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * 12,
        options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9},
    )
    image = last(mlem(f, np.ones(x.shape)), 3000).image
    assert float(f.value(image)) == pytest.approx(best.fun, abs=1e-4)
    assert relative_error(B(image), B(best.x.reshape(x.shape))) < 1e-3
    gradient = f.gradient(image)
    assert np.abs(image * gradient).max() < 1e-2
    assert gradient.min() > -1e-2


def test_torch_is_numpy():
    start = np.ones(A.in_shape)
    expected = last(osem(F, start, 3), 5).image
    image = last(osem(F, torch.tensor(start), 3), 5).image
    assert isinstance(image, torch.Tensor)
    assert relative_error(image, expected) < 1e-12


def test_gradients_flow_through_steps():
    tiny = projector("thin", "gaussian", nx=3, ny=2)
    x = torch.tensor(RNG.uniform(0.5, 2, tiny.in_shape), requires_grad=True)
    background = torch.tensor(RNG.uniform(0.5, 1, tiny.out_shape), requires_grad=True)
    factors = torch.tensor(RNG.uniform(0.5, 1, tiny.out_shape), requires_grad=True)
    counts = RNG.poisson(2.0, tiny.out_shape)

    def two_steps(x, factors, background):
        f = PoissonLikelihood(counts, AcquisitionModel(tiny, factors, background))
        return em_step(em_step(x, f.subset(0, 2)), f.subset(1, 2))

    assert torch.autograd.gradcheck(two_steps, (x, factors, background), fast_mode=True)
    assert torch.autograd.gradgradcheck(two_steps, (x, factors, background), fast_mode=True)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_voxels_that_no_line_crosses_are_0(library):
    grid, camera = ImageGrid((12, 12, 6), 4.0), SPECTGeometry.circular(1, 60, (4, 2), 4.0)
    B = SPECTProjector(grid, camera)
    f = PoissonLikelihood(np.full(B.out_shape, 3.0), AcquisitionModel(B))
    unseen = f.sensitivity == 0
    assert unseen.any()
    assert not unseen.all()
    start = RNG.uniform(1, 2, grid.shape)
    x = np.asarray(last(mlem(f, library(start)), 3).image)
    assert not x[unseen].any()
    assert np.isfinite(x).all()


def test_zeros_stay_zero():
    start = np.where(TRUTH > 2, TRUTH, 0)
    assert not last(mlem(F, start), 3).image[TRUTH <= 2].any()


def test_a_batch_is_a_loop():
    y = RNG.poisson(MODEL(TRUTH), (3, *A.out_shape))
    start = RNG.uniform(0.5, 2, (3, *A.in_shape))
    together = last(osem(PoissonLikelihood(y, MODEL), start, 3), 4).image
    for i in range(3):
        alone = last(osem(PoissonLikelihood(y[i], MODEL), start[i], 3), 4).image
        assert relative_error(together[i], alone) < 1e-12


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_one_attenuation_map_per_item(library):
    B = projector("thin", "gaussian", "per item")
    y = RNG.poisson(5.0, (3, *B.out_shape))
    f = PoissonLikelihood(y, AcquisitionModel(B, background=0.5))
    together = last(osem(f, library(np.ones((3, *B.in_shape))), 3), 4).image
    for i in range(3):
        one = SPECTProjector(B.grid, B.geometry, B.attenuation[i], B.response)
        alone = last(osem(PoissonLikelihood(y[i], AcquisitionModel(one, background=0.5)), np.ones(B.in_shape), 3), 4)
        assert relative_error(together[i], alone.image) < 1e-12


def test_the_default_start_is_ones():
    ones = np.ones(A.in_shape, np.float32)
    np.testing.assert_array_equal(next(mlem(F)).image, next(mlem(F, ones)).image)
    np.testing.assert_array_equal(next(osem(F, n_subsets=3)).image, next(osem(F, ones, 3)).image)
    np.testing.assert_array_equal(next(mlem(F)).image, next(osem(F, n_subsets=1)).image)
    assert next(mlem(F)).image.dtype == np.float32


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("algorithm", [mlem, osem])
def test_starts_that_make_no_sense(algorithm, value):
    start = np.ones(A.in_shape)
    start[3, 3, 1] = value
    with pytest.raises(ValueError, match="start must be finite and not negative"):
        algorithm(F, start)
    with pytest.raises(ValueError, match=r"start of shape \(7, 6\) does not fit images of \(7, 6, 3\)"):
        algorithm(F, start[..., 0])


@pytest.mark.parametrize(("n_subsets", "message"), [(0, "at least 1, got 0"), (-2, "at least 1"), (7, "at most 6")])
def test_numbers_of_subsets_that_make_no_sense(n_subsets, message):
    with pytest.raises(ValueError, match=message):
        osem(F, np.ones(A.in_shape), n_subsets)


def test_a_start_of_zeros_explains_no_counts():
    f = PoissonLikelihood(np.ones(A.out_shape), AcquisitionModel(A))
    with pytest.raises(ValueError, match="zero everywhere"):
        next(mlem(f, np.zeros(A.in_shape)))
