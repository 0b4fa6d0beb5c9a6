"""Engines take any likelihood, `f + U` as one, and checkpoints of earlier versions."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from spect_cases import projector

from emrecon.projectors import AcquisitionModel, DenseOperator, ImageGrid, ParallelBeamGeometry, ParallelBeamProjector
from emrecon.recon import (
    Checkpoint,
    Iterate,
    KernelCoefficients,
    PoissonLikelihood,
    Quadratic,
    RelativeDifference,
    TotalVariation,
    TransmissionLikelihood,
    bsrem,
    em_step,
    kem,
    kernel_matrix,
    lbfgsb,
    lbfgsb_scipy,
    map_em,
    mlem,
    osem,
    osl,
    ostr,
    parameterised_em,
    pdhg,
    run,
    saga,
    spatial_weights,
    spdhg,
    svrg,
)
from emrecon.recon.engines import State

RNG = np.random.default_rng(0)
SHAPE = (3, 4, 2)
PRIOR = 0.5 * Quadratic()


class Gaussian:
    """f(x) = |A x - y|^2 / 2 as a user writes it: no base class, nothing of this library but an operator."""

    def __init__(self, y, matrix):
        self.y, self.matrix = y, matrix
        self.sensitivity = (matrix.T @ matrix.sum(1)).reshape(SHAPE)

    def residual(self, x):
        return self.matrix @ x.reshape(-1) - self.y

    def value(self, x):
        return 0.5 * np.sum(self.residual(x) ** 2)

    def gradient(self, x):
        return (self.matrix.T @ self.residual(x)).reshape(x.shape)

    def subset(self, k, n):
        return Gaussian(self.y[k::n], self.matrix[k::n])


TRUTH = RNG.uniform(0.5, 2, SHAPE)
MATRIX = RNG.uniform(0, 1, (48, TRUTH.size))
GAUSSIAN = Gaussian(MATRIX @ TRUTH.reshape(-1) + RNG.normal(0, 0.1, 48), MATRIX)
COUNTS = PoissonLikelihood(
    RNG.poisson(projector("thin", "gaussian")(np.full((7, 6, 3), 3.0)) + 1.0).astype(float),
    AcquisitionModel(projector("thin", "gaussian"), 1.0, 1.0),
)


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


@pytest.mark.parametrize(
    ("engine", "n"),
    [
        (lambda f, U: bsrem(f, U, None, 4), 200),
        (lambda f, U: svrg(f, U, None, 4), 100),
        (lambda f, U: saga(f, U, None, 4, step=0.5), 150),
        (lambda f, U: lbfgsb(f, U), 100),
        (lambda f, U: map_em(f, U), 300),
    ],
    ids=["bsrem", "svrg", "saga", "lbfgsb", "map_em"],
)
def test_a_likelihood_of_thirty_lines_is_minimised(engine, n):
    # an independent optimum: the normal equations, for a problem whose solution is positive
    laplace = np.stack([np.ravel(PRIOR.gradient(row.reshape(SHAPE))) for row in np.eye(TRUTH.size)])
    solution = np.linalg.solve(MATRIX.T @ MATRIX + laplace, MATRIX.T @ GAUSSIAN.y).reshape(SHAPE)
    assert solution.min() > 0
    assert relative_error(last(engine(GAUSSIAN, PRIOR), n).image, solution) < 2e-2
    both = last(engine(GAUSSIAN + PRIOR, None), 20).image
    np.testing.assert_allclose(both, last(engine(GAUSSIAN, PRIOR), 20).image, rtol=1e-9, atol=1e-12)


def test_osem_of_another_likelihood_is_the_scaled_gradient_step():
    start = np.full(SHAPE, 1.0)
    expected = np.maximum(start - start / GAUSSIAN.sensitivity * GAUSSIAN.gradient(start), 0)
    np.testing.assert_allclose(next(mlem(GAUSSIAN, start)).image, expected, rtol=1e-6)
    values = [GAUSSIAN.value(it.image) for it in islice(osem(GAUSSIAN, n_subsets=2), 200)]
    assert values[-1] < 0.02 * GAUSSIAN.value(start)
    tensor = torch.full(SHAPE, 1.0, dtype=torch.float64)
    torch_likelihood = Gaussian(torch.from_numpy(GAUSSIAN.y), torch.from_numpy(MATRIX))
    np.testing.assert_allclose(em_step(tensor, torch_likelihood).numpy(), em_step(start, GAUSSIAN), rtol=1e-6)


def test_for_counts_the_scaled_gradient_step_is_expectation_maximisation():
    class Foreign:  # what is asked of any likelihood, and nothing that tells of counts
        value, gradient, sensitivity, subset = COUNTS.value, COUNTS.gradient, COUNTS.sensitivity, COUNTS.subset

    start = np.full((7, 6, 3), 2.0)
    np.testing.assert_allclose(em_step(start, Foreign()), em_step(start, COUNTS), rtol=1e-9)


def test_a_wrapper_is_as_good_as_what_it_wraps():
    class Wrapped:
        def __init__(self, f):
            self._f = f

        def __getattr__(self, name):
            return getattr(self._f, name)

    for engine in (lambda f: osem(f, n_subsets=2), lambda f: svrg(f, PRIOR, None, 2), lambda f: pdhg(f)):
        ours, theirs = (last(engine(f), 3).image for f in (COUNTS, Wrapped(COUNTS)))
        np.testing.assert_array_equal(ours, theirs)


def transmission():
    grid = ImageGrid((12, 12, 1), 10.0)
    A = ParallelBeamProjector(grid, ParallelBeamGeometry.equally_spaced(24, 16, 10.0, 1))
    x, y, _ = grid.coordinates()
    truth = np.where(x**2 + y**2 < 45**2, 0.1, 0.0)
    y = np.random.default_rng(1).poisson(500 * np.exp(-A(truth) / 10) + 5.0).astype(float)
    return TransmissionLikelihood(y, 500.0, A, 5.0), truth


@pytest.mark.parametrize(
    ("engine", "n"),
    [
        (lambda f, U: bsrem(f, U, None, 4), 400),
        (lambda f, U: svrg(f, U, None, 4), 150),
        (lambda f, U: saga(f, U, None, 4, step=0.5), 200),
        (lambda f, U: lbfgsb(f, U), 150),
        (lambda f, U: ostr(f, None, 1, penalty=U), 300),
        (lambda f, U: ostr(f if U is None else f + U, None, 1), 300),
    ],
    ids=["bsrem", "svrg", "saga", "lbfgsb", "ostr", "ostr of an objective"],
)
def test_transmission_scans_run_through_the_engines(engine, n):
    f, truth = transmission()
    prior = 2e3 * Quadratic(neighbours=8)
    found = last(engine(f, prior), n).image
    best = lbfgsb_scipy(f + prior, start=f.start_image(), n_iterations=3000, tolerance=1e-14)
    assert relative_error(found, best) < 2e-2
    assert relative_error(found, truth) < 0.35


def test_the_transmission_hessian_is_the_derivative_of_the_gradient():
    f, truth = transmission()
    v, h = RNG.normal(size=truth.shape), 1e-5
    numeric = (f.gradient(truth + h * v) - f.gradient(truth - h * v)) / (2 * h)
    np.testing.assert_allclose(f.hessian_vector(truth, v), numeric, rtol=1e-4, atol=1e-6 * np.abs(numeric).max())


@pytest.mark.parametrize(
    "engine",
    [
        lambda f, U=None: bsrem(f, U, None, 2),
        lambda f, U=None: svrg(f, U, None, 2),
        lambda f, U=None: saga(f, U, None, 2),
        lambda f, U=None: lbfgsb(f, U),
        lambda f, U=None: map_em(f, U),
        lambda f, U=None: osl(f, U),
    ],
    ids=["bsrem", "svrg", "saga", "lbfgsb", "map_em", "osl"],
)
def test_an_objective_is_a_likelihood_and_its_prior(engine):
    apart, together = last(engine(COUNTS, PRIOR), 3), last(engine(COUNTS + PRIOR), 3)
    np.testing.assert_array_equal(apart.image, together.image)
    both = last(engine(COUNTS + PRIOR, RelativeDifference(2.0, epsilon=0.1)), 3)
    summed = last(engine(COUNTS, PRIOR + RelativeDifference(2.0, epsilon=0.1)), 3)
    np.testing.assert_array_equal(both.image, summed.image)


def test_an_objective_with_a_proximal_map():
    tv = 0.1 * TotalVariation()
    for engine in (pdhg, lambda f, U=None: spdhg(f, U, None, 2)):
        np.testing.assert_array_equal(last(engine(COUNTS + tv), 3).image, last(engine(COUNTS, tv), 3).image)
    with pytest.raises(TypeError, match="pdhg"):
        svrg(COUNTS + tv, n_subsets=2)


def test_engines_without_a_prior_refuse_an_objective_and_say_what_to_do():
    kernel = kernel_matrix(RNG.random((7, 6, 3)), n_neighbours=4, window=3)
    for engine in (
        osem,
        mlem,
        lambda f: kem(f, kernel),
        lambda f: parameterised_em(f, KernelCoefficients(kernel, np.ones((7, 6, 3)))),
    ):
        with pytest.raises(TypeError, match=r"objective\.likelihood"):
            engine(COUNTS + PRIOR)


def test_what_is_missing_is_named():
    class Half:
        def value(self, x):
            return 0.0

    with pytest.raises(TypeError, match="Half has no gradient, sensitivity, subset"):
        osem(Half())
    with pytest.raises(TypeError, match="Gaussian has no model, ratio, counts_like"):
        pdhg(GAUSSIAN)
    with pytest.raises(TypeError, match="kem takes a likelihood of Poisson counts"):
        kem(GAUSSIAN, kernel_matrix(TRUTH, n_neighbours=4, window=3))
    with pytest.raises(TypeError, match="hessian_vector"):
        spatial_weights(GAUSSIAN, TRUTH)
    with pytest.raises(TypeError):
        Half() + PRIOR


def test_states_are_typed_and_keep_their_names():
    state = last(svrg(COUNTS, PRIOR, None, 2), 2).state
    assert isinstance(state, State)
    assert state.phase == state["phase"] == 2
    watched = {"begun", "length", "first", "lowest"}
    assert set(state) == watched | {"phase", "anchor"}
    assert set(last(saga(COUNTS, PRIOR, None, 2), 1).state) == watched | {"phase", "anchor", "table"}
    assert set(last(bsrem(COUNTS, PRIOR, None, 2), 1).state) == watched
    assert set(last(lbfgsb(COUNTS, PRIOR), 1).state) == {"root", "moves", "turns"}
    assert set(last(spdhg(COUNTS, None, None, 2), 1).state) == {
        *("data_0", "data_1", "gradient", "ahead", "first", "lowest")
    }
    assert set(last(osem(COUNTS, n_subsets=2), 1).state) == {"first", "lowest"}  # of few views: watched


def test_checkpoints_of_version_0_1_still_load(tmp_path):
    whole = last(svrg(COUNTS, PRIOR, None, 2), 5)
    at = last(svrg(COUNTS, PRIOR, None, 2), 3)
    with (tmp_path / "old.npz").open("wb") as stream:  # as 0.1.0 wrote them: an array for each entry of a dict
        np.savez(
            stream,
            iteration=np.int64(at.iteration),
            image=at.image,
            signature=np.str_(""),
            state_begun=np.asarray(0),
            state_phase=np.asarray(at.state["phase"]),
            state_anchor=at.state["anchor"],
            state_length=at.state["length"],
        )
    saved = Checkpoint(tmp_path / "old.npz").load()
    np.testing.assert_array_equal(last(svrg(COUNTS, PRIOR, saved, 2), 2).image, whole.image)


def test_the_iterate_of_another_engine_is_refused_unless_it_is_an_image_alone():
    strange = last(saga(COUNTS, PRIOR, None, 2), 1)
    for engine in (
        lambda at: lbfgsb(COUNTS, PRIOR, at),
        lambda at: bsrem(COUNTS, PRIOR, at, 2),
        lambda at: pdhg(COUNTS, None, at),
    ):
        with pytest.raises(ValueError, match=r"another engine.*start\.image"):
            next(engine(strange))
    assert last(svrg(COUNTS, PRIOR, last(osem(COUNTS, n_subsets=2), 3), 2), 1).iteration == 4
    assert run(lbfgsb(COUNTS, PRIOR, Iterate(7, np.ones((7, 6, 3)))), 1).shape == (7, 6, 3)


def test_dense_operators_serve_too():
    A = DenseOperator(MATRIX, SHAPE, (48,))
    assert relative_error(A(TRUTH), MATRIX @ TRUTH.reshape(-1)) < 1e-12
