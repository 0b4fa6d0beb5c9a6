"""Every engine: restarts, fixed points, agreement with SciPy's L-BFGS-B, all kinds of data, batches, tensors."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from cuda_on_host import cupy_or_skip
from pet_cases import likelihoods_of_one_scan
from pet_cases import projector as pet_projector
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.recon import (
    BarzilaiBorwein,
    Checkpoint,
    Constant,
    EMPreconditioner,
    Iterate,
    PoissonLikelihood,
    PriorAware,
    Quadratic,
    RandomOrder,
    RelativeDifference,
    Relaxation,
    StepDown,
    bsrem,
    cofactor,
    gradient_step,
    herman_meyer,
    kkt_residual,
    lbfgsb,
    lbfgsb_scipy,
    map_em,
    osem,
    osl,
    run,
    saga,
    sequential,
    svrg,
)

RNG = np.random.default_rng(0)
PRIOR = 1.5 * RelativeDifference(2.0, epsilon=0.02)


def problem(A, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 5, A.in_shape)
    model = AcquisitionModel(A, scale, 0.5)
    return PoissonLikelihood(rng.poisson(model(truth)).astype(float), model)


F = problem(projector("thin", "gaussian"))
START = np.ones(F.model.projector.in_shape)
SOLUTION = lbfgsb_scipy(F, PRIOR, START, n_iterations=2000, tolerance=1e-15)

ENGINES = {
    "osem": lambda f, prior, start=None: osem(f, start, 3, order=herman_meyer),
    "osem, random": lambda f, prior, start=None: osem(f, start, 3, order=RandomOrder(5)),
    "osl": lambda f, prior, start=None: osl(f, prior, start, 2),
    "map_em": lambda f, prior, start=None: map_em(f, prior, start),
    "bsrem": lambda f, prior, start=None: bsrem(f, prior, start, 3, step=Relaxation(1.0, 0.3)),
    "svrg": lambda f, prior, start=None: svrg(f, prior, start, 3),
    "svrg, steps found": lambda f, prior, start=None: svrg(f, prior, start, 3, step=BarzilaiBorwein()),
    "svrg, nothing kept": lambda f, prior, start=None: svrg(f, prior, start, 3, keep=False, order=sequential),
    "saga": lambda f, prior, start=None: saga(f, prior, start, 3, step=Constant(0.4)),
    "svrg, steps too long": lambda f, prior, start=None: svrg(f, prior, start, 3, step=20.0),
    "saga, steps too long": lambda f, prior, start=None: saga(f, prior, start, 3, step=8, anchor_every=2),
    "lbfgsb": lambda f, prior, start=None: lbfgsb(f, prior, start, memory=4),
}
CONVERGENT = {
    "map_em": 300,
    "bsrem": 300,
    "svrg": 80,
    "svrg, steps found": 80,
    "svrg, steps too long": 150,
    "saga": 100,
    "saga, steps too long": 150,
    "lbfgsb": 60,
}


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("engine", ENGINES)
def test_restarts_are_exact(engine, dtype, tmp_path):
    start = START.astype(dtype)
    whole = last(ENGINES[engine](F, PRIOR, start), 11)
    part, at = start, Checkpoint(tmp_path / "state.npz")
    for n in (1, 3, 2, 5):
        at(last(ENGINES[engine](F, PRIOR, part), n))
        part = at.load(like=start)
    assert part.iteration == whole.iteration == 11
    assert whole.image.dtype == dtype
    np.testing.assert_array_equal(part.image, whole.image)
    np.testing.assert_array_equal(start, 1)


@pytest.mark.parametrize("engine", CONVERGENT)
@pytest.mark.slow
def test_reaches_the_solution_of_scipy(engine):
    found = last(ENGINES[engine](F, PRIOR, START), CONVERGENT[engine]).image
    assert relative_error(found, SOLUTION) < (2e-3 if engine == "bsrem" else 1e-4)
    residual = kkt_residual(found, (F + PRIOR).gradient(found), (F + PRIOR).gradient(START))
    assert max(residual) < 1e-3


@pytest.mark.parametrize("engine", [name for name in CONVERGENT if "too long" not in name])
def test_a_step_at_the_solution_stays(engine):
    # one subset for bsrem: the gradients of its subsets do not vanish at the solution, only their sum does
    iterates = bsrem(F, PRIOR, SOLUTION, 1) if engine == "bsrem" else ENGINES[engine](F, PRIOR, SOLUTION)
    assert relative_error(last(iterates, 3).image, SOLUTION) < 2e-4


@pytest.mark.parametrize("engine", ["svrg", "saga", "lbfgsb", "bsrem"])
def test_without_a_prior(engine):
    exact = PoissonLikelihood(F.model(SOLUTION), F.model)
    found = last(ENGINES[engine](exact, None, 0.5 * SOLUTION + 0.5), 60).image
    assert exact.value(found) < exact.value(0.5 * SOLUTION + 0.5)
    np.testing.assert_allclose(last(ENGINES[engine](exact, None, SOLUTION), 4).image, SOLUTION, rtol=1e-6)


@pytest.mark.parametrize("engine", [name for name in ENGINES if not name.startswith("osem")])
@pytest.mark.parametrize("more", [3, 300])
def test_batches_are_loops(engine, more):
    model, n = F.model, 9
    rng = np.random.default_rng(4)
    both = PoissonLikelihood(rng.poisson(np.stack([F.data, more * F.data])).astype(float), model)
    images = last(ENGINES[engine](both, PRIOR, np.stack([START, START])), n).image
    for i in range(2):
        alone = last(ENGINES[engine](PoissonLikelihood(both.data[i], model), PRIOR, START), n).image
        np.testing.assert_allclose(images[i], alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
def test_tensors_follow(engine):
    image = last(ENGINES[engine](F, PRIOR, torch.tensor(START)), 4).image
    assert isinstance(image, torch.Tensor)
    np.testing.assert_allclose(image.numpy(), last(ENGINES[engine](F, PRIOR, START), 4).image, rtol=1e-9, atol=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ENGINES)
def test_gpu_arrays_follow(engine):
    cupy = cupy_or_skip()
    image = last(ENGINES[engine](F, PRIOR, cupy.asarray(START)), 4).image
    assert isinstance(image, cupy.ndarray)
    np.testing.assert_allclose(image.get(), last(ENGINES[engine](F, PRIOR, START), 4).image, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("case", ["span 3", "TOF"])
@pytest.mark.parametrize("engine", ["svrg", "saga", "bsrem", "map_em", "lbfgsb"])
def test_pet_and_time_of_flight(engine, case):
    f = problem(pet_projector(case))
    start = np.ones(f.model.projector.in_shape)
    whole = f + PRIOR
    found = last(ENGINES[engine](f, PRIOR, start), 6).image
    assert whole.value(found) < whole.value(start)
    assert found.min() >= 0


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("engine", [svrg, saga, bsrem, map_em, osl])
def test_list_mode_equals_the_sinogram(engine, timed):
    sinogram, events, _, _ = likelihoods_of_one_scan(timed)
    x = np.ones(sinogram.model.projector.in_shape)
    by_events, by_bins = (last(engine(f, 0.2 * PRIOR, x, 1), 5).image for f in (events, sinogram))
    np.testing.assert_allclose(by_events, by_bins, rtol=1e-6, atol=1e-9)
    several = last(engine(events, 0.2 * PRIOR, x, 2), 3).image  # subsets of events
    assert np.isfinite(several).all()


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 1.5, 3.0])
def test_default_steps_converge_at_every_count_level(level):
    A, rng = projector("thin", "gaussian"), np.random.default_rng(0)
    truth = rng.uniform(0.5, 5, A.in_shape)
    model = AcquisitionModel(A, level * 2 / A(truth).mean(), 0.3)
    f, prior = (
        PoissonLikelihood(rng.poisson(model(truth)).astype(float), model),
        0.075 * RelativeDifference(epsilon=0.02),
    )
    expected = lbfgsb_scipy(f, prior, START, n_iterations=600, tolerance=1e-14)
    for engine, n in ((svrg, 150), (saga, 300)):
        assert relative_error(last(engine(f, prior, START, 6), n).image, expected) < 2e-3, engine.__name__


def test_tables_belong_to_their_subsets():
    iterate = next(saga(F, PRIOR, START, 3))
    with pytest.raises(ValueError, match="goes on with the subsets it had, 3, not with 2"):
        next(saga(F, PRIOR, iterate, 2))


def test_a_line_search_that_leaves_the_explained_goes_back():
    A = projector("thin", "gaussian")
    truth = np.zeros(A.in_shape)
    truth[2:4, 2:4] = 5
    f = PoissonLikelihood(np.random.default_rng(0).poisson(2 * A(truth)).astype(float), AcquisitionModel(A, 2.0, 0.0))
    values = [(f + PRIOR).value(it.image) for it in islice(lbfgsb(f, PRIOR, START), 20)]
    assert np.all(np.diff(values) <= 0)


def test_own_subsets_are_used():
    parts = [F.subset(k, 3) for k in range(3)]
    for engine in ("svrg", "saga", "bsrem"):
        expected = last(ENGINES[engine](F, PRIOR, START), 3).image
        np.testing.assert_array_equal(last(ENGINES[engine](parts, PRIOR, START), 3).image, expected)


def test_a_start_from_another_engine():
    warm = last(osem(F, START, 3), 2)
    iterate = next(svrg(F, PRIOR, warm, 3))
    assert iterate.iteration == 3
    assert relative_error(last(svrg(F, PRIOR, warm, 3), 60).image, SOLUTION) < 1e-3


def test_interrupted_runs_go_on_as_if_nothing_had_happened(tmp_path):
    """Ctrl-C comes at any moment: between a pass and its checkpoint, or in the middle of a pass."""
    expected = run(svrg(F, PRIOR, START, 3), 9)

    class Interrupting(PoissonLikelihood):
        calls = 0

        def gradient(self, x):
            Interrupting.calls += 1
            if Interrupting.calls == 14:
                raise KeyboardInterrupt
            return super().gradient(x)

    parts = [Interrupting(part.data, part.model) for part in (F.subset(k, 3) for k in range(3))]
    at = Checkpoint(tmp_path / "state.npz")
    with pytest.raises(KeyboardInterrupt):
        run(svrg(parts, PRIOR, START), 9, at)
    saved = at.load()
    assert 0 < saved.iteration < 9
    np.testing.assert_array_equal(run(svrg(parts, PRIOR, saved), 9 - saved.iteration, at), expected)


def test_gradient_step_stays_within_its_bounds():
    x, g = np.array([1.0, 1.0, 1.0]), np.array([5.0, -5.0, 0.5])
    np.testing.assert_array_equal(gradient_step(x, g, np.ones(3), 1.0), [0, 6, 0.5])
    np.testing.assert_array_equal(gradient_step(x, g, np.ones(3), 1.0, 2.0), [0, 2, 0.5])
    capped = last(svrg(F, PRIOR, START, 3, upper=2.0), 5).image
    assert capped.max() <= 2


@pytest.mark.parametrize("order", [sequential, herman_meyer, cofactor, RandomOrder(3)])
@pytest.mark.parametrize("n", [1, 2, 7, 12, 25, 30])
def test_orders_visit_every_subset_once(order, n):
    for iteration in range(4):
        assert sorted(order(iteration, n)) == list(range(n))
    assert list(order(2, n)) == list(order(2, n))


def test_orders_as_published():
    assert list(herman_meyer(0, 8)) == [0, 4, 2, 6, 1, 5, 3, 7]
    assert list(herman_meyer(3, 6)) == [0, 3, 1, 4, 2, 5]
    assert list(cofactor(0, 10)) == [0, 3, 6, 9, 2, 5, 8, 1, 4, 7]
    assert list(cofactor(0, 10)) != list(cofactor(1, 10))
    assert list(RandomOrder(1)(0, 20)) != list(RandomOrder(2)(0, 20))
    assert list(RandomOrder(1)(0, 20)) != list(RandomOrder(1)(1, 20))


def test_step_sizes():
    assert Constant(0.5)(7) == 0.5
    assert Relaxation(2.0, 0.5)(4) == pytest.approx(2 / 3)
    steps = StepDown(3.0, 0.5, 10.0)
    assert (steps(0), steps(10), steps(50)) == pytest.approx((3, 0.5, 0.5))
    assert 0.5 < steps(5) < 3
    rule, change = BarzilaiBorwein(1.0, 0.2, 4.0), RNG.normal(size=(2, 3, 3, 3))
    found = rule.between(change, np.array([2.0, 1e9])[:, None, None, None] * change, np.ones_like(change))
    np.testing.assert_allclose(found.ravel(), [0.5, 0.2])
    assert rule.between(change, -change, np.ones_like(change)).ravel().tolist() == [1.0, 1.0]


def test_preconditioners():
    x, s = np.array([0.0, 2.0, 4.0]).reshape(3, 1, 1), np.array([1.0, 0.0, 2.0]).reshape(3, 1, 1)
    np.testing.assert_allclose(EMPreconditioner(1e-3)(x, s, None).ravel(), [4e-3, 0, 2])
    prior = Quadratic(neighbours=6)
    expected = 4 / (2 + 1.5 * prior.hessian_diagonal(x)[2, 0, 0] * 4)
    np.testing.assert_allclose(PriorAware()(x, s, prior)[2, 0, 0], expected)
    np.testing.assert_array_equal(PriorAware()(x, s, None), EMPreconditioner()(x, s, None))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: svrg(F, PRIOR, -START, 3), "finite and not negative"),
        (lambda: svrg(F, PRIOR, START[:2], 3), "does not fit"),
        (lambda: svrg(F, PRIOR, START, 99), "leave subsets empty"),
        (lambda: svrg(F, PRIOR, START, 3, anchor_every=0), "anchor_every"),
        (lambda: saga([], PRIOR, START), "empty list"),
        (lambda: bsrem(F, PRIOR, START, 3, upper=0.0), "upper must be positive"),
        (lambda: lbfgsb(F, PRIOR, START, memory=0), "memory"),
        (lambda: Relaxation(0.0), "first must be positive"),
        (lambda: StepDown(over=0.0), "over must be positive"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_priors_that_are_not_smooth_are_refused():
    for engine in (svrg, saga, bsrem, lbfgsb):
        with pytest.raises(TypeError, match="needs a prior with a gradient"):
            engine(F, object(), START, **({} if engine is lbfgsb else {"n_subsets": 3}))


def test_misuse_is_explained():
    with pytest.raises(TypeError, match="no place for the prior of an Objective"):
        osem(F + PRIOR, START, 3)
    with pytest.raises(TypeError, match=r"needs a prior with a gradient .*got Objective"):
        svrg(F, F + PRIOR, START, 3)
    with pytest.raises(TypeError, match="start must be an array"):
        osem(F, [1.0, 2.0], 3)
    with pytest.raises(TypeError, match="a number or a rule"):
        svrg(F, PRIOR, START, 3, step="long")
    with pytest.raises(TypeError, match="needs a prior with a gradient, and NoneType"):
        map_em(F, None, START)
    with pytest.raises(ValueError, match="not a batch"):
        lbfgsb_scipy(F, PRIOR, np.stack([START, START]))
    with pytest.raises(ValueError, match="zero everywhere"):
        svrg(F, PRIOR, 0 * START, 3)
    with pytest.raises(ValueError, match="above highest"):
        BarzilaiBorwein(lowest=3.0, highest=1.0)
    with pytest.raises(ValueError, match="weight must be positive"):
        PriorAware(weight=-1.0)


def test_tensors_go_on_from_a_checkpoint(tmp_path):
    at, start = Checkpoint(tmp_path / "state.npz"), torch.tensor(START)
    at(last(svrg(F, PRIOR, start, 3), 4))
    resumed = last(svrg(F, PRIOR, at.load(like=start), 3), 3).image
    assert isinstance(resumed, torch.Tensor)
    np.testing.assert_array_equal(resumed.numpy(), last(svrg(F, PRIOR, start, 3), 7).image.numpy())
    assert not last(svrg(F, PRIOR, start.clone().requires_grad_(), 3), 2).image.requires_grad


def test_rules_are_values():
    for rule in (StepDown(), Relaxation(), BarzilaiBorwein(), RandomOrder(1), PriorAware(), EMPreconditioner()):
        assert pickle.loads(pickle.dumps(rule)) == rule
    assert Iterate(1, START).state == {}
