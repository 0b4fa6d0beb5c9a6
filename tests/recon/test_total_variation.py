"""Total variation and its relatives: operators, values by hand, proximal maps, smooth versions, guides and refusals."""

import pickle
import tracemalloc

import array_api_strict
import numpy as np
import pytest
import torch
from battery import check_operator, check_prox, check_smooth, relative_error
from scipy.optimize import minimize

from emrecon.recon.priors import image_gradient, smoothed_variation, total_variation
from emrecon.recon.priors.image_gradient import ImageGradient
from emrecon.recon.priors.smoothed_variation import (
    ParallelLevelSets,
    SmoothedDirectionalTotalVariation,
    SmoothedTotalVariation,
)
from emrecon.recon.priors.total_variation import DirectionalTotalVariation, TotalVariation

RNG = np.random.default_rng(0)
SIZE = (1.0, 2.0, 0.5)
X = RNG.uniform(0, 3, (5, 4, 6))
GUIDE = RNG.normal(size=X.shape)
SMOOTH = {
    "tv": SmoothedTotalVariation(0.1, SIZE),
    "dtv": SmoothedDirectionalTotalVariation(GUIDE, 0.1, voxel_size=SIZE),
    "pls": ParallelLevelSets(GUIDE, 0.2, eta=0.5),
    "weighted": 2.5 * ParallelLevelSets(GUIDE, 0.2, voxel_size=SIZE),
}
PROXIMABLE = {
    "isotropic": TotalVariation(tolerance=1e-5),
    "anisotropic": TotalVariation(SIZE, isotropic=False, tolerance=1e-5),
    "directional": DirectionalTotalVariation(GUIDE, 0.2, voxel_size=SIZE, tolerance=1e-5),
}


def without_kernels(patch):
    """From here on the array code runs, as it does on CUDA arrays."""
    for module in (image_gradient, smoothed_variation, total_variation):
        patch.setattr(module, "_on_host", lambda x: False)


@pytest.fixture(params=["kernels", "arrays"])
def way(request, monkeypatch):
    """Everything on the compiled kernels, and again on the array code that CUDA arrays run on."""
    if request.param == "arrays":
        without_kernels(monkeypatch)
    return request.param


@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 3, 1)])
def test_the_gradient_is_an_operator(way, shape):
    check_operator(ImageGradient(shape, (1, 2, 3)))


def test_the_directional_gradient_is_an_operator(way):
    check_operator(PROXIMABLE["directional"].operator(X.shape))


def test_differences_by_hand():
    x = np.zeros((3, 2, 2))
    x[1, 0, 0] = 4
    d = ImageGradient(x.shape, (2.0, 4.0, 1.0))(x)
    assert (d[0, 0, 0, 0], d[0, 1, 0, 0], d[1, 1, 0, 0], d[2, 1, 0, 0]) == (2, -2, -1, -4)
    assert np.abs(d).sum() == 9
    np.testing.assert_array_equal(d[0, -1], 0)
    np.testing.assert_array_equal(d[2, ..., -1], 0)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 1, 2)])
def test_the_norm_bound_holds_and_is_sharp(size):
    D = ImageGradient((12, 11, 10), size)
    x = RNG.normal(size=D.in_shape)
    for _ in range(60):
        x = D.T(D(x / np.linalg.norm(x)))
    assert 0.95 * D.norm_bound**2 < np.linalg.norm(x) <= D.norm_bound**2


def test_values_by_hand(way):
    """A corner of a cube has all three differences; every other voxel of its faces has one or two."""
    x = np.zeros((4, 4, 4))
    x[2:, 2:, 2:] = 3
    inner = 4 * 3  # of each of the three faces, seen from the voxels before it
    assert TotalVariation().value(x) == pytest.approx(3 * inner)
    x = np.zeros((3, 3, 3))
    x[0, 0, 0] = 2
    assert TotalVariation().value(x) == pytest.approx(2 * np.sqrt(3))
    assert TotalVariation(isotropic=False).value(x) == pytest.approx(6)
    assert TotalVariation((1, 2, 2)).value(x) == pytest.approx(2 * np.sqrt(1.5))
    assert (3 * (2 * TotalVariation())).value(x) == pytest.approx(12 * np.sqrt(3))


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_versions(way, name):
    check_smooth(SMOOTH[name], X)


@pytest.mark.parametrize("shape", [(5, 4, 1), (5, 1, 4), (1, 4, 5), (5, 1, 1), (1, 1, 1)])
def test_flat_images(monkeypatch, shape):
    """Kernels and array code agree on images with one slice, row or column."""
    x, v, guide = RNG.uniform(0, 3, (3, 2, *shape))
    results = []
    for arrays in (False, True):
        if arrays:
            without_kernels(monkeypatch)
        for prior in (SmoothedTotalVariation(0.1, SIZE), ParallelLevelSets(guide[0], 0.1, 0.3, SIZE)):
            results.append((prior.value(x), prior.gradient(x), prior.hessian_vector(x, v), prior.curvature(x)))
        results.append((TotalVariation(SIZE).value(x), TotalVariation(SIZE).prox(x, 0.3)))
    for compiled, plain in zip(results[:3], results[3:]):
        for one, other in zip(compiled, plain):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0.05, 0.8])
@pytest.mark.parametrize("name", PROXIMABLE)
def test_proximal_maps(way, name, step):
    check_prox(PROXIMABLE[name], X, step)


def test_the_prox_of_a_step_edge_is_known():
    """Both sides of an edge of one dimension move towards each other by step / length, until they meet."""
    x = np.r_[np.full(6, 1.0), np.full(4, 5.0)].reshape(10, 1, 1)
    for step in (0.3, 3.0):
        t = TotalVariation(tolerance=1e-7, max_iterations=20000).prox(x, step).ravel()
        np.testing.assert_allclose(t, np.r_[np.full(6, 1 + step / 6), np.full(4, 5 - step / 4)], atol=1e-5)
    np.testing.assert_allclose(TotalVariation(tolerance=1e-6).prox(x, 100.0), 2.6, atol=1e-4)
    np.testing.assert_array_equal(TotalVariation().prox(x, 0.0), x)


def test_the_prox_among_images_without_negative_values(way):
    x = X - 1.5
    prior = TotalVariation(nonnegative=True, tolerance=1e-5)
    best = prior.prox(x, 0.4)
    assert best.min() == 0
    cost = lambda t: prior.value(t) + ((t - x) ** 2).sum() / 0.8  # noqa: E731
    clipped = np.maximum(TotalVariation(tolerance=1e-5).prox(x, 0.4), 0)
    assert cost(best) < cost(clipped) - 1e-3
    for seed in range(20):
        other = np.maximum(best + 0.1 * np.random.default_rng(seed).normal(size=x.shape), 0)
        assert cost(best) <= cost(other)


@pytest.mark.parametrize("name", PROXIMABLE)
def test_the_prox_with_a_step_for_each_voxel(way, name):
    prior, steps = PROXIMABLE[name], np.random.default_rng(4).uniform(0.0, 1.0, X.shape)
    steps[:2] = 0
    steps[3:] = np.maximum(steps[3:], 0.05)
    best = prior.prox(X, steps)
    np.testing.assert_array_equal(best[:2], X[:2])
    cost = lambda t: prior.value(t) + ((t - X)[2:] ** 2 / steps[2:]).sum() / 2  # noqa: E731
    for seed in range(30):
        direction = np.random.default_rng(seed).normal(size=X.shape)
        direction[:2] = 0
        for size in (1e-1, 1e-2):
            assert cost(best) <= cost(best + size * direction) + 1e-6
    uniform = prior.prox(X, np.full(X.shape, 0.3))
    np.testing.assert_allclose(uniform, prior.prox(X, 0.3), rtol=1e-9)


@pytest.mark.parametrize("step", [0.02, 0.4])
def test_the_tolerance_is_kept(step):
    exact = TotalVariation(tolerance=1e-7, max_iterations=20000).prox(X, step)
    for tolerance in (1e-2, 1e-4):
        assert relative_error(TotalVariation(tolerance=tolerance).prox(X, step), exact) <= tolerance
    assert relative_error(TotalVariation().prox(X.astype(np.float32), step), exact) < 2e-4


def test_smoothing_tends_to_the_real_thing():
    for smooth, exact in (
        (SmoothedTotalVariation(1e-7, SIZE), TotalVariation(SIZE)),
        (SmoothedDirectionalTotalVariation(GUIDE, 1e-7, 0.3), DirectionalTotalVariation(GUIDE, 0.3)),
    ):
        assert smooth.value(X) == pytest.approx(exact.value(X), rel=1e-5)


def test_the_formulas_of_guides():
    D = ImageGradient(X.shape)
    d, g = D(X), D(GUIDE)
    xi = g / np.sqrt((g**2).sum(0) + 0.3**2)
    across = d - xi * (xi * d).sum(0)
    assert DirectionalTotalVariation(GUIDE, 0.3).value(X) == pytest.approx(np.sqrt((across**2).sum(0)).sum())
    root = np.sqrt((d**2).sum(0) - (xi * d).sum(0) ** 2 + 0.2**2) - 0.2
    assert ParallelLevelSets(GUIDE, 0.2, 0.3).value(X) == pytest.approx(root.sum())


@pytest.mark.parametrize("kind", [DirectionalTotalVariation, SmoothedDirectionalTotalVariation, ParallelLevelSets])
def test_edges_of_the_guide_are_free_and_others_are_not(kind):
    epsilon = {} if kind is DirectionalTotalVariation else {"epsilon": 1e-4}
    x = np.zeros((8, 8, 4))
    x[2:6, 3:7] = 5
    plain = TotalVariation().value(x)
    assert kind(guide=-2 * x, eta=0.01, **epsilon).value(x) < 0.02 * plain
    assert kind(guide=np.zeros(x.shape), eta=0.01, **epsilon).value(x) == pytest.approx(plain, rel=1e-3)
    assert kind(guide=np.zeros(x.shape), **epsilon).value(x) == pytest.approx(plain, rel=1e-3)
    assert kind(guide=np.roll(x, 2, 2), **epsilon).value(x) < 0.02 * plain
    assert kind(guide=np.moveaxis(np.roll(x, 2, 0), 0, 1), **epsilon).value(x) > 0.2 * plain


def test_the_gradient_vanishes_where_the_image_is_flat():
    for prior in SMOOTH.values():
        np.testing.assert_array_equal(prior.gradient(np.full(X.shape, 3.0)), 0)


def test_threads_do_not_change_results(monkeypatch):
    x, results = RNG.normal(size=(7, 5, 9)).astype(np.float32), []
    for n in ("1", "3"):
        monkeypatch.setenv("EMRECON_NUM_THREADS", n)
        prior = SmoothedTotalVariation(0.1)
        results.append((prior.value(x), prior.gradient(x), TotalVariation().prox(x, 0.2)))
    for one, many in zip(*results):
        np.testing.assert_array_equal(one, many)


def test_arguments_are_not_written_and_layouts_do_not_matter():
    x = np.asfortranarray(X)
    x.flags.writeable = False
    prior = DirectionalTotalVariation(np.asfortranarray(GUIDE))
    np.testing.assert_array_equal(prior.prox(x, 0.2), DirectionalTotalVariation(GUIDE).prox(X, 0.2))
    np.testing.assert_array_equal(SMOOTH["dtv"].gradient(x), SMOOTH["dtv"].gradient(X))
    again = pickle.loads(pickle.dumps(prior))
    assert again.value(x) == prior.value(x)


def test_batches_of_the_prox_and_guides_of_torch():
    batch = np.stack([X, 0.1 * X, X[::-1]]).reshape(3, 1, *X.shape)
    prior = DirectionalTotalVariation(torch.tensor(GUIDE, dtype=torch.float64))
    t = prior.prox(batch, 0.3)
    assert prior.value(batch).shape == (3, 1)
    for b in range(3):
        np.testing.assert_array_equal(t[b, 0], prior.prox(batch[b, 0], 0.3))
    assert prior.prox(batch[:0], 0.3).shape == (0, 1, *X.shape)
    assert prior.prox(torch.tensor(X, requires_grad=True), 0.3).dtype == torch.float64


def test_strict_arrays_follow(monkeypatch):
    without_kernels(monkeypatch)
    x, D = array_api_strict.asarray(X), ImageGradient(X.shape, SIZE)
    np.testing.assert_array_equal(np.asarray(D.T(D(x))), D.T(D(X)))
    prior = DirectionalTotalVariation(GUIDE, tolerance=1e-2)
    np.testing.assert_allclose(np.asarray(prior.prox(x, 0.3)), prior.prox(X, 0.3), rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImageGradient((3, 4)), "three sizes"),
        (lambda: ImageGradient((3, 4, 5), (1, 1, 0)), "three positive"),
        (lambda: TotalVariation(2.0), "three positive"),
        (lambda: TotalVariation(tolerance=0), "tolerance"),
        (lambda: SmoothedTotalVariation(0), "epsilon must be positive"),
        (lambda: ParallelLevelSets(GUIDE, np.nan), "epsilon must be positive"),
        (lambda: DirectionalTotalVariation(GUIDE[0]), "finite image"),
        (lambda: DirectionalTotalVariation(GUIDE * np.nan), "finite image"),
        (lambda: DirectionalTotalVariation(GUIDE, eta=-1), "eta"),
        (lambda: DirectionalTotalVariation(GUIDE).value(X[:3]), "expects images"),
        (lambda: DirectionalTotalVariation(GUIDE).operator((3, 3, 3)), "is for images of"),
        (lambda: SMOOTH["pls"].gradient(X[:, :2]), "expects images"),
        (lambda: TotalVariation().prox(X[0], 0.1), "expects images"),
        (lambda: TotalVariation().prox(X, -1.0), "step"),
        (lambda: TotalVariation().prox(X, np.full(X.shape, np.nan)), "steps"),
        (lambda: -1 * TotalVariation(), "weight"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_list_is_no_image():
    with pytest.raises(TypeError, match="expects an array"):
        TotalVariation().value([1, 2])
    with pytest.raises(TypeError, match="guide"):
        DirectionalTotalVariation([[1]])


@pytest.mark.parametrize("kind", [SmoothedTotalVariation, SmoothedDirectionalTotalVariation])
def test_hessian_diagonal_across_slabs(kind):
    rng = np.random.default_rng(5)
    x, guide = rng.uniform(0, 1, (2, 19, 3, 4))
    prior = kind(0.1, (2.0, 1.0, 3.0)) if kind is SmoothedTotalVariation else kind(guide, 0.1)
    diagonal = prior.hessian_diagonal(x)
    for plane in (0, 6, 7, 8, 9, 15, 16, 17, 18):
        unit = np.zeros(x.shape)
        unit[plane, 1, 2] = 1
        np.testing.assert_allclose(diagonal[plane, 1, 2], prior.hessian_vector(x, unit)[plane, 1, 2], rtol=1e-10)


KINDS = {
    "plain": TotalVariation(tolerance=1e-9, max_iterations=12),
    "nonnegative": TotalVariation(SIZE, nonnegative=True, tolerance=1e-9, max_iterations=12),
    "anisotropic": TotalVariation(isotropic=False, tolerance=1e-9, max_iterations=12),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [*KINDS, "directional", "steps"])
def test_the_prox_holds_three_images(monkeypatch, name, dtype):
    monkeypatch.setenv("EMRECON_NUM_THREADS", "1")
    x = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(dtype)
    prior = KINDS.get(name) or TotalVariation(tolerance=1e-9, max_iterations=12)
    if name == "directional":
        prior = DirectionalTotalVariation(x[::-1], tolerance=1e-9, max_iterations=12)
    step = np.full_like(x, 0.3) if name == "steps" else 0.3
    prior.prox(x, step)
    tracemalloc.start()
    result = prior.prox(x, step)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 3.1 * x.nbytes
    assert held < 1.1 * x.nbytes
    assert result.shape == x.shape


def test_threads_do_not_change_the_prox(monkeypatch):
    rng = np.random.default_rng(3)
    for shape in ((17, 6, 5), (17, 6, 1), (2, 3, 4), (1, 5, 4)):
        x, guide, steps = rng.uniform(0, 1, (3, *shape)).astype(np.float32)
        priors = (*KINDS.values(), DirectionalTotalVariation(guide, max_iterations=30))
        results = []
        for n in ("1", "2", "3", "7"):
            monkeypatch.setenv("EMRECON_NUM_THREADS", n)
            results.append([prior.prox(x, step) for prior in priors for step in (0.2, steps)])
        for many in results[1:]:
            np.testing.assert_array_equal(many, results[0])


def _both_ways(monkeypatch, prior, x, step):
    one = prior.prox(x, step)
    with monkeypatch.context() as patch:
        without_kernels(patch)
        return one, prior.prox(x, step)


@pytest.mark.parametrize(("dtype", "close"), [(np.float64, 1e-8), (np.float32, 1e-4)])
def test_kernels_and_array_code_take_the_same_way(monkeypatch, dtype, close):
    """Step by step, over several slabs of planes, and with duals rounded alike."""
    rng = np.random.default_rng(4)
    x, guide, steps = rng.uniform(-0.2, 1, (3, 19, 6, 5)).astype(dtype)
    steps = np.abs(steps)
    for prior in (*KINDS.values(), DirectionalTotalVariation(guide, voxel_size=SIZE, max_iterations=12)):
        for step in (0.2, steps, steps[:, :1, :1], steps[0, 0]):
            np.testing.assert_allclose(*_both_ways(monkeypatch, prior, x, step), rtol=0, atol=close)
    tensors = _both_ways(monkeypatch, KINDS["plain"], torch.tensor(x), torch.tensor(steps))
    np.testing.assert_allclose(*(tensor.numpy() for tensor in tensors), rtol=0, atol=close)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_prox_agrees_with_an_independent_solver(way, nonnegative):
    """The dual of the sum of absolute values has a box for its constraints, which SciPy knows."""
    x = np.random.default_rng(6).normal(0.3, 1, (5, 4, 3))
    D, steps = ImageGradient(x.shape, SIZE), np.random.default_rng(7).uniform(0.1, 1.0, x.shape)

    def image(p):
        t = x - steps * D.T(p.reshape(D.out_shape))
        return np.maximum(t, 0) if nonnegative else t

    def cost(p):
        t = image(p)
        return ((t / steps) * t).sum() / 2, -D(t).ravel()

    n = int(np.prod(D.out_shape))
    options = {"maxiter": 20000, "maxfun": 50000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 40}
    best = minimize(cost, np.zeros(n), jac=True, method="L-BFGS-B", bounds=[(-1, 1)] * n, options=options)
    prior = TotalVariation(SIZE, isotropic=False, nonnegative=nonnegative, tolerance=1e-7, max_iterations=5000)
    assert relative_error(prior.prox(x, steps), image(best.x)) < 1e-6


def test_the_gap_shrinks_with_the_square_of_the_iterations():
    x, prior, gaps = np.random.default_rng(8).uniform(0, 1, (16, 16, 16)), TotalVariation(), []
    for n in (20, 200):
        t = TotalVariation(tolerance=1e-12, max_iterations=n).prox(x, 0.5)
        gaps.append(prior.value(t) - ((x - t) / 0.5 * t).sum())
    assert 0 <= gaps[1] < gaps[0] / 50


def test_steps_of_zero_do_not_keep_the_prox_from_stopping():
    steps = np.full(X.shape, 0.2)
    steps[:3] = 0
    assert np.array_equal(*(TotalVariation(max_iterations=n).prox(X, steps) for n in (900, 5000)))


def test_the_prox_forgets_the_call_before():
    prior, other = TotalVariation(), RNG.normal(size=X.shape)
    first = prior.prox(X, 0.3)
    prior.prox(other, 2.0)
    np.testing.assert_array_equal(prior.prox(X, 0.3), first)


def test_steps_broadcast():
    x, steps = np.stack([X, X[::-1]]), np.random.default_rng(9).uniform(0.1, 1, (2, *X.shape))
    for part in (steps[:, :1, :1, :1], steps[0, :, :1], steps[:, :1], steps[0, 0, 0]):
        whole = TotalVariation().prox(x, np.broadcast_to(part, x.shape))
        np.testing.assert_array_equal(TotalVariation().prox(x, part), whole)


def test_rounding_proves_nothing():
    """In float32 the gap of a packed dual is a sum of what is not negative: it cannot fall below the truth."""
    x = np.where(np.hypot(*np.mgrid[-9:9, -9:9])[..., None] < 6, 1.0, 0.0) + np.zeros((18, 18, 18))
    x = (x + 0.2 * np.random.default_rng(1).normal(size=x.shape)).astype(np.float32)
    exact = TotalVariation(tolerance=1e-7, max_iterations=20000).prox(x.astype(float), 0.05)
    assert relative_error(TotalVariation(tolerance=1e-6, max_iterations=1500).prox(x, 0.05), exact) < 1e-6
