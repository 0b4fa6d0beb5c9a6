"""PDHG and SPDHG: independent solvers, restarts, fixed points, batches, libraries, events, empty bins and refusals."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from pet_cases import GRID, SCANNER, TOF, events_of_every_bin
from scipy.optimize import minimize
from spect_cases import projector

from emrecon.projectors import AcquisitionModel, DenseOperator, ListmodeProjector, PETProjector, PETSinogram
from emrecon.recon import Checkpoint, Iterate, ListmodeLikelihood, PoissonLikelihood, RelativeChange, run
from emrecon.recon.engines.primal_dual import pdhg, spdhg
from emrecon.recon.priors.prior import ProximablePrior
from emrecon.recon.priors.smoothed_variation import SmoothedTotalVariation
from emrecon.recon.priors.total_variation import DirectionalTotalVariation, TotalVariation

pytestmark = pytest.mark.slow

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
X, Y, Z = np.indices(A.in_shape)
TRUTH = 1.0 + 3 * (X > 3) * (Y > 2) + (Z == 1)
MODEL = AcquisitionModel(A, RNG.uniform(1, 2, A.out_shape), 0.5)
F = PoissonLikelihood(RNG.poisson(MODEL(TRUTH)).astype(float), MODEL)
TV = 1.5 * TotalVariation()


class Ridge(ProximablePrior):
    """|x|^2 / 2, whose proximal map is known."""

    def value(self, x):
        return (x**2).sum() / 2

    def prox(self, x, step):
        return x / (1 + step)


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


def total(f, prior, x):
    return float(f.value(x)) + float(prior.value(x) if prior else 0)


def independent_best(f, value, gradient, shape):
    """SciPy's solution with a smooth prior, and its objective."""
    best = minimize(
        lambda v: (
            float(f.value(v.reshape(shape))) + float(value(v.reshape(shape))),
            (f.gradient(v.reshape(shape)) + gradient(v.reshape(shape))).ravel(),
        ),
        np.ones(int(np.prod(shape))),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * int(np.prod(shape)),
        options={"maxiter": 20000, "maxfun": 40000, "ftol": 1e-13, "gtol": 1e-6},
    )
    return best.x.reshape(shape), best.fun


@pytest.fixture(scope="module")
def tv_solution():
    return last(pdhg(F, TV), 2500)


def test_without_a_prior_it_is_maximum_likelihood():
    x, y = (3, 2, 2), (4, 5, 2)
    B = DenseOperator(RNG.uniform(0, 1, (40, 12)) * (RNG.random((40, 12)) < 0.5), x, y)
    f = PoissonLikelihood(RNG.poisson(5 * B(RNG.uniform(0, 2, x))).astype(float), AcquisitionModel(B, 5.0, 0.5))
    best, value = independent_best(f, lambda v: 0, np.zeros_like, x)
    for iterates in (pdhg(f), spdhg(f, n_subsets=1)):
        image = last(iterates, 3000).image
        assert float(f.value(image)) == pytest.approx(value, abs=1e-6)
        np.testing.assert_allclose(image, best, atol=1e-3)


def test_any_prior_with_a_proximal_map():
    prior = 0.7 * (2 * Ridge())
    best, value = independent_best(F, lambda v: 0.7 * (v**2).sum(), lambda v: 1.4 * v, A.in_shape)
    for iterates, n in ((pdhg(F, prior), 600), (spdhg(F, prior, n_subsets=3), 300)):
        image = last(iterates, n).image
        assert relative_error(image, best) < 1e-3
        assert total(F, prior, image) == pytest.approx(value, abs=1e-3)


def test_total_variation_has_the_value_an_independent_solver_tends_to(tv_solution):
    """|D x| is between its smoothed version and that plus epsilon for each voxel."""
    smooth = 1.5 * SmoothedTotalVariation(1e-2)
    x, value = independent_best(F, smooth.value, smooth.gradient, A.in_shape)
    reached = total(F, TV, tv_solution.image)
    assert value - 1e-3 < reached < value + 1.5 * 1e-2 * x.size
    assert reached < total(F, TV, x) + 1e-3
    assert relative_error(tv_solution.image, x) < 2e-2


def test_the_solution_satisfies_the_conditions_of_optimality(tv_solution):
    x, q, gradient = tv_solution.image, tv_solution.state["prior"], tv_solution.state["gradient"]
    np.testing.assert_allclose(tv_solution.state["data_0"], -F.ratio(x), atol=1e-3)
    D = TotalVariation().operator(A.in_shape)
    np.testing.assert_allclose(gradient, F.gradient(x) + D.T(q), atol=0.05)
    assert np.sqrt((q**2).sum(0)).max() <= 1.5 + 1e-12
    assert (q * D(x)).sum() == pytest.approx(TV.value(x), rel=1e-4)
    scale = F.sensitivity.max()
    assert np.abs(gradient[x > 1e-6]).max() < 1e-3 * scale
    assert gradient.min() > -1e-3 * scale


@pytest.mark.parametrize("n_subsets", [1, 3, 6])
def test_spdhg_finds_what_pdhg_finds(tv_solution, n_subsets):
    for seed in (0, 1):
        image = last(spdhg(F, TV, n_subsets=n_subsets, seed=seed), 300).image
        assert relative_error(image, tv_solution.image) < 1e-3


@pytest.mark.parametrize("gamma", [0.05, 1.0])
def test_any_gamma_converges(tv_solution, gamma):
    assert relative_error(last(pdhg(F, TV, gamma=gamma), 2000).image, tv_solution.image) < 3e-3


def test_a_guide():
    prior = DirectionalTotalVariation(TRUTH, eta=0.1)
    exact = last(pdhg(F, prior), 1000).image
    image = last(spdhg(F, prior, n_subsets=3), 400).image
    assert relative_error(image, exact) < 5e-3
    assert total(F, prior, image) == pytest.approx(total(F, prior, exact), abs=0.05)
    plain = last(pdhg(F, TotalVariation()), 1000).image
    assert relative_error(exact, TRUTH) < relative_error(plain, TRUTH)


def test_the_objective_falls_and_subsets_are_faster():
    start = np.ones(A.in_shape)
    values = [total(F, TV, it.image) for it in islice(spdhg(F, TV, n_subsets=6, start=start), 200)]
    slow = [total(F, TV, it.image) for it in islice(pdhg(F, TV, start), 20)]
    best = min(values)
    assert values[19] - best < 0.5 * (slow[19] - best)
    assert values[199] - best < 1e-3 * (total(F, TV, start) - best)
    means = np.array(values).reshape(5, 40).mean(1)
    assert (np.diff(means) < 0).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("algorithm", [pdhg, spdhg])
def test_five_and_five_are_ten(algorithm, dtype):
    options = {} if algorithm is pdhg else {"n_subsets": 3, "seed": 7}
    for prior in (None, TV, 0.2 * Ridge()):
        start = np.ones(A.in_shape, dtype)
        whole = last(algorithm(F, prior, start=start, **options), 10)
        half = last(algorithm(F, prior, start=start, **options), 5)
        kept = half.image.copy()
        resumed = last(algorithm(F, prior, start=half, **options), 5)
        assert isinstance(resumed, Iterate)
        assert resumed.iteration == whole.iteration == 10
        assert whole.image.dtype == dtype
        np.testing.assert_array_equal(resumed.image, whole.image)
        np.testing.assert_array_equal(resumed.state["ahead"], whole.state["ahead"])
        np.testing.assert_array_equal(half.image, kept)
        np.testing.assert_array_equal(start, 1)


def own(iterate):
    """The image that the engine goes on from, also where an earlier one was handed out for it."""
    return iterate.state.get("own") if iterate.state.get("own") is not None else iterate.image


def test_seeds_change_the_order_and_nothing_else(tv_solution):
    one, same, other = (own(last(spdhg(F, TV, n_subsets=3, seed=seed), 4)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    assert next(spdhg(F, TV, n_subsets=3, start=np.ones(A.in_shape), iteration=4)).iteration == 5


def test_a_step_at_the_solution_stays(tv_solution):
    exact = PoissonLikelihood(MODEL(TRUTH), MODEL)
    for iterates in (pdhg(exact, start=TRUTH), spdhg(exact, None, n_subsets=3, start=TRUTH)):
        np.testing.assert_allclose(last(iterates, 5).image, TRUTH, rtol=1e-11)
    moved = last(pdhg(F, TV, tv_solution), 20).image
    assert relative_error(moved, tv_solution.image) < 1e-5


def test_batches_are_loops():
    counts = np.stack([F.data, 30 * F.data[::-1]])
    batch = PoissonLikelihood(counts, MODEL)
    for make in (
        lambda f: pdhg(f, TV),
        lambda f: spdhg(f, TV, n_subsets=3),
        lambda f: spdhg(f, 0.3 * Ridge(), n_subsets=2),
    ):
        images = own(last(make(batch), 6))
        assert images.shape == (2, *A.in_shape)
        for item, image in zip(counts, images):
            np.testing.assert_allclose(own(last(make(PoissonLikelihood(item, MODEL)), 6)), image, rtol=1e-9)
    gamma = np.array([0.5, 0.1])
    images = own(last(spdhg(batch, TV, n_subsets=3, gamma=gamma), 6))
    for item, image, g in zip(counts, images, gamma):
        np.testing.assert_allclose(
            own(last(spdhg(PoissonLikelihood(item, MODEL), TV, n_subsets=3, gamma=g), 6)), image, rtol=1e-9
        )


def test_items_with_physics_of_their_own():
    B = projector("thin", "gaussian", attenuation="per item")
    f = PoissonLikelihood(np.stack([F.data] * 3), AcquisitionModel(B, 1.0, 0.5))
    images = last(spdhg(f, TV, n_subsets=3), 40).image
    assert images.shape == (3, *A.in_shape)
    assert relative_error(images[0], images[1]) > 1e-3
    assert (f.value(images) < f.value(np.ones(images.shape))).all()


def test_torch_follows():
    tensors = PoissonLikelihood(torch.tensor(F.data), MODEL)
    for prior in (None, TV, 0.3 * Ridge()):
        iterate = last(spdhg(tensors, prior, n_subsets=3), 5)
        assert isinstance(iterate.image, torch.Tensor)
        np.testing.assert_allclose(
            iterate.image.numpy(), last(spdhg(F, prior, n_subsets=3), 5).image, rtol=1e-9, atol=1e-12
        )
        resumed = last(spdhg(tensors, prior, n_subsets=3, start=iterate), 2)
        np.testing.assert_array_equal(resumed.image, last(spdhg(tensors, prior, n_subsets=3), 7).image)


def test_scale_does_not_matter():
    """Activity in another unit gives the same image in that unit, with the weight of a prior of degree 1 changed."""
    scaled = PoissonLikelihood(F.data, AcquisitionModel(A, 1e-5 * MODEL.factors, 0.5))
    image = last(spdhg(scaled, 1e-5 * TV, n_subsets=3), 8).image
    np.testing.assert_allclose(1e-5 * image, last(spdhg(F, TV, n_subsets=3), 8).image, rtol=1e-9)


def test_empty_bins_and_lines_that_miss_the_image():
    factors = np.ones(A.out_shape)
    factors[:, :2] = 0  # dead bins with background only
    background = np.where(factors > 0, 0.0, 0.7)
    background[:, 1] = 0  # dead bins with nothing at all
    model = AcquisitionModel(A, factors, background)
    counts = np.random.default_rng(1).poisson(0.3 * model(TRUTH)).astype(float)
    counts[:, 1] = 0
    assert (counts == 0).mean() > 0.05
    for prior in (None, TV):
        for dtype in ("float32", "float64"):
            f = PoissonLikelihood(counts.astype(dtype), model)
            iterate = last(spdhg(f, prior, n_subsets=3), 100)
            exact = last(pdhg(f, prior), 300).image
            assert np.isfinite(iterate.image).all()
            assert total(f, prior, iterate.image) == pytest.approx(total(f, prior, exact), rel=2e-3)


def test_no_counts_at_all_give_an_empty_image():
    for background in (0.0, 0.5):
        empty = PoissonLikelihood(np.zeros(A.out_shape), AcquisitionModel(A, 1.0, background))
        for prior in (None, TV):
            assert last(spdhg(empty, prior, n_subsets=3, start=np.ones(A.in_shape)), 60).image.max() < 1e-6
            assert last(spdhg(empty, prior, n_subsets=3), 3).image.max() == 0


def test_voxels_that_are_not_seen_are_0_whatever_the_prior_says():
    matrix = RNG.uniform(0, 1, (20, 8))
    matrix[:, 3] = 0
    B = DenseOperator(matrix, (2, 2, 2), (20, 1, 1))
    f = PoissonLikelihood(RNG.poisson(10 * B(np.ones((2, 2, 2)))).astype(float), AcquisitionModel(B, 10.0))
    start = np.full((2, 2, 2), 1.7)
    for prior in (None, 100 * TotalVariation()):
        image = last(pdhg(f, prior, start), 20).image
        assert image[0, 1, 1] == 0.0
        assert image[0, 0, 1] > 0.0


def pair(timed):
    """(sinogram likelihood, list-mode likelihood) of the same counts."""
    sinogram, rng = PETSinogram(SCANNER, tof=TOF if timed else None), np.random.default_rng(0)
    B = PETProjector(GRID, sinogram)
    factors, randoms = rng.uniform(0.5, 1.5, B.out_shape), rng.uniform(0.1, 0.3, B.out_shape)
    model = AcquisitionModel(B, factors, randoms)
    counts = rng.poisson(model(rng.uniform(0, 0.1, GRID.shape)))
    bins = np.repeat(np.arange(counts.size), counts.ravel())
    lines = ListmodeProjector(GRID, SCANNER, events_of_every_bin(sinogram)[bins], tof=sinogram.tof)
    own = AcquisitionModel(lines, factors.ravel()[bins], randoms.ravel()[bins])
    return PoissonLikelihood(counts.astype(float), model), ListmodeLikelihood(own, B.T(factors))


@pytest.mark.parametrize("timed", [False, True])
def test_events_give_the_image_of_their_sinogram(timed):
    binned, listed = pair(timed)
    prior = (5.0 if timed else 20.0) * TotalVariation(GRID.voxel_size)
    exact = last(pdhg(binned, prior), 500).image
    for iterates in (pdhg(listed, prior), spdhg(listed, prior, n_subsets=4), spdhg(binned, prior, n_subsets=3)):
        image = last(iterates, 300).image
        assert total(binned, prior, image) == pytest.approx(total(binned, prior, exact), abs=0.05)
        assert relative_error(image, exact) < 1e-2


def test_run_and_its_callbacks_take_the_iterates():
    image = run(spdhg(F, TV, n_subsets=3), 5, RelativeChange(1e-12))
    np.testing.assert_array_equal(image, last(spdhg(F, TV, n_subsets=3), 5).image)


def test_checkpoints_go_on_exactly(tmp_path):
    saved = Checkpoint(tmp_path / "run.npz")
    run(spdhg(F, TV, n_subsets=3, seed=2), 4, saved)
    resumed = last(spdhg(F, TV, n_subsets=3, start=saved.load(), seed=2), 3)
    np.testing.assert_array_equal(resumed.image, last(spdhg(F, TV, n_subsets=3, seed=2), 7).image)


def test_subsets_of_your_own(tv_solution):
    parts = [F.subset(k, 3) for k in (2, 0, 1)]
    assert relative_error(last(spdhg(parts, TV), 300).image, tv_solution.image) < 2e-3
    np.testing.assert_allclose(last(pdhg(parts, TV), 30).image, last(pdhg(F, TV), 30).image, rtol=1e-8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: spdhg(F, TV, n_subsets=0), "at least 1"),
        (lambda: spdhg(F, TV, n_subsets=7), "subset"),
        (lambda: pdhg(F, TV, np.ones((2, 3, 4))), "does not fit"),
        (lambda: pdhg(F, TV, -np.ones(A.in_shape)), "not negative"),
        (lambda: pdhg(F, TV, np.full(A.in_shape, np.nan)), "finite"),
        (lambda: pdhg(F, TV, gamma=0.0), "gamma"),
        (lambda: spdhg(F, TV, n_subsets=3, start=next(pdhg(F, TV))), "duals of 1 subsets"),
        (lambda: pdhg(F, None, next(pdhg(F, TV))), "no prior"),
        (lambda: pdhg(F, DirectionalTotalVariation(np.ones((3, 3, 3)))), "is for images"),
        (lambda: pdhg(PoissonLikelihood(F.data, AcquisitionModel(A, 0.0, 0.5))), "is any voxel seen"),
        (lambda: pdhg(PoissonLikelihood(F.data + 1, AcquisitionModel(A, 1.0 * (Y_BINS > 2)))), "none are expected"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


Y_BINS = np.indices(A.out_shape)[1]


def test_smooth_priors_are_for_other_algorithms():
    with pytest.raises(TypeError, match="smooth priors"):
        spdhg(F, 2 * SmoothedTotalVariation(0.1), n_subsets=3)
    with pytest.raises(TypeError, match="ProximablePrior"):
        pdhg(F, lambda x: x)
