"""Gradient engines never hand out an image that is much worse than the best one before it."""

from itertools import islice

import numpy as np
import pytest

from emrecon import sims
from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.recon import (
    PoissonLikelihood,
    RelativeDifference,
    TotalVariation,
    bsrem,
    lbfgsb,
    map_em,
    mlem,
    osem,
    osl,
    pdhg,
    run,
    saga,
    spdhg,
    svrg,
)
from emrecon.recon.engines.watch import Watch

ENGINES = {"svrg": svrg, "saga": saga, "bsrem": bsrem}


def random_problem(seed):
    """Likelihood, prior, number of subsets and start of a small scan: few counts or many, from ones or from OSEM."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 14))
    grid, camera = ImageGrid((n, n, 1), 6.0), SPECTGeometry.circular(30, 90, (n, 1), 6.0)
    x, y, _ = grid.coordinates()
    edge = 2.5 * n
    body = 1.0 * (np.hypot(x, y) < edge)
    (a, b), size = rng.uniform(-0.5, 0.5, 2) * edge, rng.uniform(0.15, 0.4) * edge
    activity = (rng.integers(2) * body + rng.uniform(1, 8) * (np.hypot(x - a, y - b) < size)).astype(np.float32)
    response = LinearResponse(0.04, 2.0) if rng.random() < 0.5 else None
    A = SPECTProjector(grid, camera, 0.15 * body if rng.random() < 0.5 else None, response)
    counts = 10 ** rng.uniform(3, 6)
    model = AcquisitionModel(A, counts / A(activity).sum(), background=10 ** rng.uniform(-2, 0))
    f = PoissonLikelihood(sims.poisson(model(activity), seed=seed), model)
    prior = None if seed % 3 == 0 else 3e-6 * counts * RelativeDifference(2.0, epsilon=1e-3 * float(activity.max()))
    n_subsets = int(rng.choice([4, 6, 10, 15, 25, 30]))
    return f, prior, n_subsets, next(osem(f, n_subsets=6)).image if seed % 2 else f.ones_image()


@pytest.mark.parametrize("engine", ENGINES)
def test_no_image_is_much_worse_than_the_best_before_it(engine):
    for seed in range(10):
        f, prior, n_subsets, start = random_problem(seed)

        def objective(x, f=f, prior=prior):
            return float(f.value(x) + (0.0 if prior is None else prior.value(x)))

        first = lowest = objective(start)
        for iterate in islice(ENGINES[engine](f, prior, start, n_subsets), 12):
            value = objective(iterate.image)
            assert value <= lowest + 0.011 * (first - lowest) + 3e-7 * abs(lowest), f"seed {seed}, {iterate.iteration}"
            lowest = min(lowest, value)
        assert lowest < first, f"seed {seed}"


FEW_VIEWS = 7  # subsets of the 30 views from which on one holds less than five
OTHERS = {  # engines that nobody watches: how they begin, and the share of the fall by which they may rise
    "mlem": (lambda f, prior, start, n: mlem(f, start), 0.0),
    "osem": (lambda f, prior, start, n: osem(f, start, n), 0.1),
    "map_em": (lambda f, prior, start, n: map_em(f, prior, start), 0.0),
    "map_em of subsets": (lambda f, prior, start, n: map_em(f, prior, start, n), 0.1),
    "osl": (lambda f, prior, start, n: osl(f, prior, start, n), 0.1),
    "lbfgsb": (lambda f, prior, start, n: lbfgsb(f, prior, start), 0.0),
    "pdhg": (lambda f, prior, start, n: pdhg(f, prior, start=start), 0.25),
    "spdhg": (lambda f, prior, start, n: spdhg(f, prior, start=start, n_subsets=n), 0.25),
}


@pytest.mark.parametrize("engine", OTHERS)
def test_engines_that_nobody_watches_rise_no_further_than_is_said(engine):
    make, share = OTHERS[engine]
    for seed in range(10):
        f, prior, n_subsets, start = random_problem(seed)
        prior = 3e-3 * TotalVariation() if engine.endswith("pdhg") else None if engine in ("mlem", "osem") else prior
        if prior is None and engine in ("map_em", "map_em of subsets", "osl"):
            continue

        def objective(x, f=f, prior=prior):
            return float(f.value(x) + (0.0 if prior is None else prior.value(x)))

        first = lowest = objective(start)
        for iterate in islice(make(f, prior, start, n_subsets), 12):
            value = objective(iterate.image)
            most = share if n_subsets >= FEW_VIEWS or engine.endswith("pdhg") else min(share, 0.01)
            assert value <= lowest + (most + 1e-3) * (first - lowest) + 3e-7 * abs(lowest), f"seed {seed}"
            lowest = min(lowest, value)


@pytest.mark.parametrize("engine", [svrg, saga])
def test_voxels_that_a_long_first_step_empties_come_back(engine):
    f, prior, _, _ = random_problem(4)
    solution = run(lbfgsb(f, prior), 100)
    found = run(engine(f, prior, n_subsets=15), 20)
    assert not ((found < 1e-4 * solution.max()) & (solution > 0.02 * solution.max())).any()


def test_the_objective_is_asked_only_where_the_image_moved():
    x, asked = np.ones((2, 3, 3, 3)), []

    def objective(image):
        asked.append(image)
        return image.sum(axis=(-3, -2, -1))

    watch = Watch(np.array([100.0, 100.0]), np.array([27.0, 27.0]))
    worse, same = watch.look(objective, x * 1.0005, x, np.ones_like(x))
    assert not worse.any()
    assert same is watch
    assert not asked
    after = x * np.array([1.02, 2.0]).reshape(2, 1, 1, 1)  # 27.54 and 54, where 27 + 1 % of 73 may be met
    worse, after_it = watch.look(objective, after, x, np.ones_like(x))
    np.testing.assert_array_equal(worse.ravel(), [False, True])
    np.testing.assert_array_equal(after_it.lowest, [27.0, 27.0])
    worse, after_it = watch.look(objective, 0.5 * after, x, np.ones_like(x))
    np.testing.assert_allclose(after_it.lowest, [13.77, 27.0])


def test_an_image_without_an_objective_is_worse():
    def nothing_explains(image):
        raise ValueError("counts were measured where none are expected")

    x = np.ones((3, 3, 3))
    worse, _ = Watch(np.float64(1.0), np.float64(0.0)).look(nothing_explains, 2 * x, x, x)
    assert worse.all()
