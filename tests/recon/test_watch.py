"""No engine hands out an image that is much worse than the best one before it."""

from itertools import islice, pairwise

import numpy as np
import pytest

from emrecon import sims
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    LinearResponse,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import (
    Checkpoint,
    KernelCoefficients,
    MedianRoot,
    PoissonLikelihood,
    RelativeDifference,
    TotalVariation,
    TransmissionLikelihood,
    bsrem,
    em_step,
    kem,
    kernel_matrix,
    lbfgsb,
    map_em,
    mlem,
    osem,
    osl,
    ostr,
    parameterised_em,
    pdhg,
    run,
    saga,
    spdhg,
    svrg,
)
from emrecon.recon.engines.watch import Watch

pytestmark = pytest.mark.slow

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


def kernel_of(f):
    """A kernel that follows the back projection of the counts."""
    image = f.model.adjoint(np.asarray(f.data, np.float32))
    return kernel_matrix(image, f.model.projector.grid, n_neighbours=6, window=3)


TV = 3e-3 * TotalVariation()
OTHERS = {  # the engines that know no objective, and those that never rise by their construction
    "mlem": lambda f, prior, start, n: mlem(f, start),
    "osem": lambda f, prior, start, n: osem(f, start, n),
    "map_em": lambda f, prior, start, n: map_em(f, prior, start),
    "map_em of subsets": lambda f, prior, start, n: map_em(f, prior, start, n),
    "osl": lambda f, prior, start, n: osl(f, prior, start, n),
    "lbfgsb": lambda f, prior, start, n: lbfgsb(f, prior, start),
    "pdhg": lambda f, prior, start, n: pdhg(f, TV, start, gamma=0.02),
    "spdhg": lambda f, prior, start, n: spdhg(f, TV, start, n),
    "kem": lambda f, prior, start, n: kem(f, kernel_of(f), np.maximum(start, 1e-3 * start.max()), n),
}
WILD = {"osem": (21, 27, 1111), "osl": (1019, 1078), "spdhg": (41, 51), "kem": (1111,)}  # which rose, unwatched


def objective_of(engine, f, prior):
    prior = TV if engine.endswith("pdhg") else None if engine in ("mlem", "osem", "kem") else prior
    return lambda x: float(f.value(x) + (0.0 if prior is None else prior.value(x)))


@pytest.mark.parametrize("engine", OTHERS)
def test_other_engines_rise_no_further_than_is_said_either(engine):
    for seed in (*range(6), *WILD.get(engine, ())):
        f, prior, n_subsets, start = random_problem(seed)
        if prior is None and engine in ("map_em", "map_em of subsets", "osl"):
            continue
        objective = objective_of(engine, f, prior)
        begun = kernel_of(f)(np.maximum(start, 1e-3 * start.max())) if engine == "kem" else start
        first = lowest = objective(begun)
        for iterate in islice(OTHERS[engine](f, prior, start, n_subsets), 10):
            value = objective(iterate.image)
            assert value <= lowest + 0.0105 * (first - lowest) + 3e-7 * abs(lowest), f"seed {seed}, {iterate.iteration}"
            lowest = min(lowest, value)


@pytest.mark.parametrize("n_subsets", [4, 6])
def test_a_start_better_than_the_cycle_of_the_subsets_is_kept(n_subsets):
    f, _, _, _ = random_problem(1)
    start = run(mlem(f), 100)
    best = f.value(start)
    plain = start
    for k in range(n_subsets):
        plain = em_step(plain, f.subset(k, n_subsets))
    assert f.value(plain) > best  # what is here to be kept from
    assert all(f.value(at.image) <= best + 1e-6 * abs(best) for at in islice(osem(f, start, n_subsets), 4))


@pytest.mark.parametrize(("engine", "seed"), [("osem", 1111), ("osl", 1078), ("spdhg", 41), ("kem", 1111)])
def test_a_run_that_takes_images_back_goes_on_exactly(engine, seed, tmp_path):
    f, prior, n_subsets, start = random_problem(seed)
    whole = list(islice(OTHERS[engine](f, prior, start, n_subsets), 6))
    again, saved = None, Checkpoint(tmp_path / "run.npz")
    for expected in whole:
        if engine == "kem" and again is not None:
            engine_from_there = kem(f, kernel_of(f), again, n_subsets)
        else:
            engine_from_there = OTHERS[engine](f, prior, start if again is None else again, n_subsets)
        saved(next(engine_from_there))
        again = saved.load()
        assert again.iteration == expected.iteration
        np.testing.assert_array_equal(again.image, expected.image)
        assert set(again.state) == set(expected.state)
        np.testing.assert_array_equal(again.state["lowest"], expected.state["lowest"])
    shown = [start, *(at.image for at in whole)]
    assert engine == "kem" or any(np.array_equal(one, two) for one, two in pairwise(shown))


def test_what_is_watched_and_what_is_not():
    f, _, _, start = random_problem(2)
    assert not next(osem(f, start, 6)).state  # five views a subset
    assert next(osem(f, start, 10)).state
    assert not next(osl(f, MedianRoot(), start, 10)).state  # no objective
    assert not next(mlem(f, start)).state
    first = next(osem(f, start, 10))
    assert next(svrg(f, None, first, 6)).iteration == 2  # another engine takes it as an image
    old = first._replace(state={})  # an iterate of before images were taken back
    assert next(osem(f, old, 10)).iteration == 2


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


def transmission_problem(seed):
    """A small transmission scan of few views, few counts, and a start of water."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 13))
    grid, lines = ImageGrid((n, n, 1), 8.0), ParallelBeamGeometry.equally_spaced(12, n_bins=n + 4, bin_size=8.0)
    x, y, _ = grid.coordinates()
    mu = (0.1 * (np.hypot(x, y) < 3 * n) + 0.1 * (np.hypot(x - n, y) < n)).astype(np.float32)
    A, blank = ParallelBeamProjector(grid, lines), float(10 ** rng.uniform(0.7, 2.5))
    f = TransmissionLikelihood(sims.poisson(blank * np.exp(-A(mu) / 10) + 0.5, seed=seed), blank, A, 0.5)
    return f, run(ostr(f), 60) if seed % 2 else np.full(grid.shape, rng.choice([0.0, 0.1, 0.3]), np.float32)


@pytest.mark.parametrize("options", [{"n_subsets": 12}, {"n_subsets": 4}, {"n_subsets": 1, "curvature": "precomputed"}])
def test_transmission_rises_no_further_than_is_said(options):
    taken = 0
    for seed in range(8):
        f, start = transmission_problem(seed)
        first = lowest = float(f.value(start))
        whole, again = list(islice(ostr(f, start, **options), 8)), None
        for iterate in whole:
            value = float(f.value(iterate.image))
            assert value <= lowest + 0.0105 * (first - lowest) + 3e-7 * abs(lowest), f"seed {seed}, {iterate.iteration}"
            lowest = min(lowest, value)
            taken += "own" in iterate.state
            again = next(ostr(f, start if again is None else again, **options))
            np.testing.assert_array_equal(again.image, iterate.image)
    assert taken or options["n_subsets"] == 1


def test_a_latent_of_few_views_hands_out_no_worse_image():
    f, _, n_subsets, start = random_problem(1111)
    begun = KernelCoefficients(kernel_of(f), np.maximum(start, 1e-3 * start.max()))
    first = lowest = float(f.value(begun.image()))
    for _, image, _ in islice(parameterised_em(f, begun, n_subsets), 8):
        value = float(f.value(image))
        assert value <= lowest + 0.0105 * (first - lowest) + 3e-7 * abs(lowest)
        lowest = min(lowest, value)
