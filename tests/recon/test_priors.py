"""Priors on pairs: the property battery, brute force over pairs, weights and guides, errors, and the CUDA source."""

import itertools
import math

import numpy as np
import pytest
import torch
from battery import MatrixProjector, check_smooth, relative_error
from cuda_on_host import HostEngine, compiler, cupy_or_skip

from emrecon.projectors import AcquisitionModel
from emrecon.recon import (
    BowsherWeights,
    Huber,
    Hyperbolic,
    LogCosh,
    PoissonLikelihood,
    Quadratic,
    RelativeDifference,
    Similarity,
    bowsher,
    spatial_weights,
)
from emrecon.recon.priors import pair_kernels as kernels
from emrecon.recon.priors import pair_launches as _pairs_gpu

SHAPE = (5, 4, 6)
RNG = np.random.default_rng(0)
X = RNG.uniform(0.5, 3, SHAPE)
KAPPA = RNG.uniform(0.2, 2, SHAPE)
GUIDE = RNG.uniform(0, 1, SHAPE)

POTENTIALS = {
    "quadratic": (Quadratic, {}, lambda a, b: (a - b) ** 2 / 2),
    "log cosh": (LogCosh, {"delta": 0.4}, lambda a, b: 0.16 * math.log(math.cosh((a - b) / 0.4))),
    "huber": (Huber, {"delta": 0.4}, lambda a, b: (a - b) ** 2 / 2 if abs(a - b) < 0.4 else 0.4 * abs(a - b) - 0.08),
    "hyperbolic": (Hyperbolic, {"delta": 0.4}, lambda a, b: 0.16 * (math.sqrt(1 + (a - b) ** 2 / 0.16) - 1)),
    "relative": (
        RelativeDifference,
        {"gamma": 2.0, "epsilon": 0.1},
        lambda a, b: (a - b) ** 2 / (a + b + 2 * abs(a - b) + 0.1),
    ),
}
OPTIONS = {
    "26": {},
    "18, anisotropic": {"neighbours": 18, "voxel_size": (2.0, 4.0, 1.0)},
    "6, kappa": {"neighbours": 6, "kappa": KAPPA},
    "8": {"neighbours": 8},
    "4": {"neighbours": 4},
    "similarity": {"anatomy": Similarity(GUIDE, 0.2), "kappa": KAPPA},
    "bowsher": {"anatomy": BowsherWeights(GUIDE, 4)},
    "bowsher, symmetric": {"anatomy": BowsherWeights(GUIDE, 3, symmetric=True), "neighbours": 18, "kappa": KAPPA},
}
CASES = [(potential, "26") for potential in POTENTIALS] + [("relative", options) for options in OPTIONS]


def make(potential, options):
    kind, own, _ = POTENTIALS[potential]
    return kind(**own, **OPTIONS[options])


def pairs(prior, shape):
    """Every unordered pair of neighbours and its distance weight, from the definition."""
    voxels = list(np.ndindex(shape))
    for j, k in itertools.combinations(voxels, 2):
        step = np.subtract(k, j)
        moved = np.count_nonzero(step)
        flat = prior.neighbours in (4, 8)
        most = {4: 1, 6: 1, 8: 2, 18: 2, 26: 3}[prior.neighbours]
        if np.abs(step).max() == 1 and moved <= most and not (flat and step[2]):
            yield j, k, min(prior.voxel_size) / np.linalg.norm(step * prior.voxel_size)


def choices(prior, shape):
    """Which neighbours a voxel chooses, from the definition."""
    near = {j: [] for j in np.ndindex(shape)}
    for j, k, w in pairs(prior, shape):
        g = np.float32(prior.anatomy.guide)
        near[j].append((abs(g[j] - g[k]), -w, k))
        near[k].append((abs(g[j] - g[k]), -w, j))
    return {j: {k for _, _, k in sorted(found)[: prior.anatomy.n_chosen]} for j, found in near.items()}


def anatomy_weight(prior, j, k, chosen):
    if isinstance(prior.anatomy, Similarity):
        return 1 / (1 + ((prior.anatomy.guide[j] - prior.anatomy.guide[k]) / prior.anatomy.width) ** 2)
    if isinstance(prior.anatomy, BowsherWeights):
        both = (k in chosen[j]) + (j in chosen[k])
        return min(both, 1) if prior.anatomy.symmetric else both / 2
    return 1


@pytest.mark.parametrize(("potential", "options"), CASES)
def test_value_is_the_sum_over_pairs(potential, options):
    prior, psi = make(potential, options), POTENTIALS[potential][2]
    chosen = choices(prior, SHAPE) if isinstance(prior.anatomy, BowsherWeights) else None
    expected = 0.0
    for j, k, w in pairs(prior, SHAPE):
        kappa = 1 if prior.kappa is None else prior.kappa[j] * prior.kappa[k]
        expected += w * kappa * anatomy_weight(prior, j, k, chosen) * psi(X[j], X[k])
    np.testing.assert_allclose(prior.value(X), expected, rtol=1e-12)


@pytest.mark.parametrize(("potential", "options"), CASES)
def test_battery(potential, options):
    check_smooth(make(potential, options), X)


def test_every_pair_counts_once():
    x = np.zeros((2, 2, 2))
    x[0, 0, 0] = 1
    assert Quadratic(neighbours=4).value(x) == pytest.approx(2 / 2)
    assert Quadratic(neighbours=8).value(x) == pytest.approx((2 + np.sqrt(0.5)) / 2)
    assert Quadratic(neighbours=6).value(x) == pytest.approx(3 / 2)
    assert Huber(0.1, neighbours=6).value(x) == pytest.approx(3 * (0.1 - 0.005))
    assert Quadratic(neighbours=26).curvature(np.ones((3, 3, 3)))[1, 1, 1] == pytest.approx(
        2 * (6 + 12 / np.sqrt(2) + 8 / np.sqrt(3))
    )


def test_quadratic_parabolas_touch_in_the_worst_case():
    prior, x = Quadratic(neighbours=4), RNG.normal(size=(5, 4, 3))
    i, j, _ = np.indices(x.shape)
    move = np.where((i + j) % 2, 1.0, -1.0)  # alternate voxels in opposite directions
    above = prior.value(x) + np.sum(prior.gradient(x) * move) + np.sum(prior.curvature(x) * move**2) / 2
    assert above == pytest.approx(prior.value(x + move))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_relative_difference_with_any_gamma(gamma):
    check_smooth(RelativeDifference(gamma, epsilon=0.01), X, curvature=gamma >= 1)


def test_relative_difference_at_zero_and_far_from_it():
    prior = RelativeDifference(2.0, epsilon=1e-3)
    assert prior.value(np.zeros(SHAPE)) == 0
    assert np.all(prior.gradient(np.zeros(SHAPE)) == 0)
    np.testing.assert_allclose(prior.value(1e6 * X) / prior.value(X), 1e6, rtol=1e-2)  # the same at every scale
    small = RelativeDifference(2.0, epsilon=1e-20).hessian_diagonal((1e-18 * X).astype(np.float32))
    assert np.isfinite(small).all()


def test_flat_images_are_those_of_a_slice():
    x = RNG.uniform(0, 1, (3, 9, 7, 1))
    for prior in (RelativeDifference(epsilon=0.1), Quadratic(neighbours=4)):
        stacked = np.concatenate([x, np.zeros_like(x)], -1)
        flat = RelativeDifference(epsilon=0.1, neighbours=8) if prior.neighbours == 26 else prior
        np.testing.assert_allclose(prior.value(x), flat.value(stacked), rtol=1e-12)
        np.testing.assert_allclose(prior.gradient(x)[..., 0], flat.gradient(stacked)[..., 0], rtol=1e-12, atol=1e-14)
    kappa = RNG.uniform(1, 2, (9, 7, 1))
    check_smooth(Huber(0.2, kappa=kappa, anatomy=BowsherWeights(kappa, 3)), x[0])


@pytest.mark.parametrize("shape", [(5, 1, 7), (1, 1, 6), (6, 5, 1), (1, 7, 1)])
@pytest.mark.parametrize("neighbours", [4, 6, 18])
def test_thin_images_against_brute_force(shape, neighbours):
    x, prior = RNG.uniform(0, 1, shape), Quadratic(neighbours=neighbours, voxel_size=(2.0, 3.0, 5.0))
    expected = sum(w * (x[j] - x[k]) ** 2 / 2 for j, k, w in pairs(prior, shape))
    np.testing.assert_allclose(prior.value(x), expected, rtol=1e-12)


def test_memory_order_of_images_and_guides_does_not_matter():
    x, guide = np.asfortranarray(X), np.asfortranarray(GUIDE)
    for anatomy in (Similarity, BowsherWeights):
        plain, turned = (Quadratic(anatomy=anatomy(g, 3), kappa=k) for g, k in ((GUIDE, KAPPA), (guide, KAPPA)))
        np.testing.assert_array_equal(turned.gradient(x), plain.gradient(X))
        if compiler() is not None:
            turned._plans._plans.clear()  # the stand-in for the device has NumPy's arrays, and would find NumPy's plan
            ours = _pairs_gpu.gather_with(turned._cuda_plan, kernels.Slope, X[None], X[None], True, HostEngine())[1]
            np.testing.assert_allclose(ours[0], plain.gradient(X), rtol=1e-12, atol=1e-13)


def test_small_differences_keep_their_digits():
    x = 1 + 1e-3 * RNG.uniform(0, 1, (8, 8, 8))
    for prior in (LogCosh(1.0), Huber(1.0), Hyperbolic(1.0), RelativeDifference(epsilon=0.1)):
        assert relative_error(prior.value(x.astype(np.float32)), prior.value(x.astype(np.float32).astype(float))) < 1e-6
    around = np.array([0.1999, 0.2001]).reshape(2, 1, 1)  # both branches of log cosh
    for t in around.ravel():
        value = LogCosh(1.0).value(np.array([0, t]).reshape(2, 1, 1))
        np.testing.assert_allclose(value, math.log(math.cosh(t)), rtol=1e-10)


def test_hessian_follows_the_image_and_carries_gradients():
    prior, v = RelativeDifference(epsilon=0.1), RNG.normal(size=SHAPE)
    single = prior.hessian_vector(X.astype(np.float32), v)
    assert single.dtype == np.float32
    x, w = torch.tensor(X), torch.tensor(v, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: prior.hessian_vector(x, t), (w,), fast_mode=True)
    jacobian = torch.func.jacrev(prior.gradient)(torch.tensor(X[:2, :2, :2])).reshape(8, 8)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (1, 1, 4), (2, 1, 3)])
def test_thin_images(shape):
    check_smooth(RelativeDifference(epsilon=0.1), RNG.uniform(1, 2, shape))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_the_same_bits_from_any_number_of_threads(monkeypatch, n):
    x = RNG.uniform(0, 1, (6, 9, 33)).astype(np.float32)
    prior = RelativeDifference(epsilon=0.1, kappa=RNG.uniform(1, 2, x.shape))
    monkeypatch.setenv("EMRECON_NUM_THREADS", "1")
    alone = prior.value(x), prior.gradient(x), prior.hessian_vector(x, x[::-1])
    monkeypatch.setenv("EMRECON_NUM_THREADS", str(n))
    several = prior.value(x), prior.gradient(x), prior.hessian_vector(x, x[::-1])
    for a, b in zip(alone, several):
        np.testing.assert_array_equal(a, b)


def test_float32_follows_float64():
    x = RNG.uniform(0, 5, (20, 20, 40))
    for potential in POTENTIALS:
        prior = make(potential, "26")
        assert relative_error(prior.value(x.astype(np.float32)), prior.value(x)) < 1e-6
        assert relative_error(prior.gradient(x.astype(np.float32)), prior.gradient(x)) < 1e-6
    assert prior.value(x.astype(np.float32)).dtype == np.float64


def test_bowsher_smooths_along_the_guide_and_not_across():
    guide = np.zeros((8, 8, 8))
    guide[4:] = 1
    x = guide * 3 + 1
    assert bowsher(guide, 7).value(x) == 0
    assert bowsher(guide, 7, symmetric=True).value(x) == 0
    assert Quadratic().value(x) > 0
    everything = bowsher(guide, 26)
    np.testing.assert_allclose(everything.value(x), Quadratic().value(x))
    assert Quadratic(anatomy=Similarity(guide, 1e-3)).value(x) < 1e-5 * Quadratic().value(x)


def test_algebra():
    first, second = RelativeDifference(epsilon=0.1), Quadratic(neighbours=6)
    both = 2 * first + second * 3
    np.testing.assert_allclose(both.value(X), 2 * first.value(X) + 3 * second.value(X))
    np.testing.assert_allclose(both.gradient(X), 2 * first.gradient(X) + 3 * second.gradient(X))
    np.testing.assert_allclose(both.curvature(X), 2 * first.curvature(X) + 3 * second.curvature(X))
    check_smooth(both, X)
    assert repr(2 * first) == "2 * RelativeDifference(gamma=2, epsilon=0.1, neighbours=26)"
    assert (0 * first).value(X) == 0
    with pytest.raises(ValueError, match="finite and not negative"):
        -1.0 * first
    with pytest.raises(TypeError):
        first * X
    with pytest.raises(TypeError):
        first + 1
    with pytest.raises(ValueError, match="different shapes"):
        Quadratic(kappa=KAPPA) + Quadratic(kappa=np.ones((2, 2, 2)))


def small_likelihood():
    A = MatrixProjector(RNG.uniform(0, 1, (40, X.size)), SHAPE, (5, 8))
    model = AcquisitionModel(A, background=1.0)
    return PoissonLikelihood(RNG.poisson(model(X)).astype(float), model)


def test_likelihood_and_prior_make_an_objective():
    f, prior = small_likelihood(), 0.3 * RelativeDifference(epsilon=0.1)
    whole = f + prior
    v = RNG.normal(size=SHAPE)
    assert whole.value(X) == f.value(X) + prior.value(X)
    np.testing.assert_array_equal(whole.gradient(X), f.gradient(X) + prior.gradient(X))
    np.testing.assert_array_equal(whole.hessian_vector(X, v), f.hessian_vector(X, v) + prior.hessian_vector(X, v))
    twice = whole + Quadratic()
    np.testing.assert_allclose(twice.value(X), whole.value(X) + Quadratic().value(X))


def test_spatial_weights_are_the_rows_of_the_hessian():
    f = small_likelihood()
    unit = np.eye(X.size).reshape(-1, *SHAPE)
    rows = [f.hessian_vector(X, e).sum() for e in unit]
    np.testing.assert_allclose(spatial_weights(f, X).ravel() ** 2, rows, rtol=1e-10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quadratic(neighbours=5), "must be 6, 18, 26"),
        (lambda: Quadratic(voxel_size=(1, 0, 1)), "three positive numbers"),
        (lambda: Quadratic(kappa=-KAPPA), "not be negative"),
        (lambda: Quadratic(kappa=KAPPA[0]), "expects an image"),
        (lambda: Quadratic(kappa=KAPPA * np.nan), "NaN or infinite"),
        (lambda: Quadratic(kappa=KAPPA, anatomy=BowsherWeights(GUIDE[1:])), "differ"),
        (lambda: Huber(0.0), "delta must be positive"),
        (lambda: LogCosh(-1.0), "delta must be positive"),
        (lambda: Hyperbolic(math.inf), "delta must be positive"),
        (lambda: RelativeDifference(-1.0, epsilon=0.1), "gamma must be"),
        (lambda: RelativeDifference(2.0, epsilon=0.0), "a thousandth of the image's maximum"),
        (lambda: BowsherWeights(GUIDE, 0), "n_chosen must be"),
        (lambda: Quadratic(neighbours=6, anatomy=BowsherWeights(GUIDE, 7)), "too many"),
        (lambda: Similarity(GUIDE, 0.0), "width must be positive"),
        (lambda: Quadratic(kappa=KAPPA).value(X[1:]), r"expects images \(\.\.\., 5, 4, 6\), got \(4, 4, 6\)"),
        (lambda: Quadratic().value(X[0, 0]), r"expects images \(\.\.\., x, y, z\), got \(6,\)"),
        (lambda: Quadratic().hessian_vector(X, X[1:]), "differ"),
    ],
)
def test_errors(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_no_parabola_is_said():
    with pytest.raises(NotImplementedError, match="gamma >= 1"):
        RelativeDifference(0.5, epsilon=0.1).curvature(X)
    with pytest.raises(TypeError, match="expects an array"):
        Quadratic().value([[[1.0]]])


@pytest.mark.slow
def test_gradcheck():
    x = torch.tensor(X[:3, :3, :3], requires_grad=True)
    for potential in POTENTIALS:
        prior = make(potential, "26")
        assert torch.autograd.gradcheck(prior.value, (x,), fast_mode=True)
        assert torch.autograd.gradgradcheck(prior.value, (x,), fast_mode=True)
        assert torch.autograd.gradcheck((2 * prior + Quadratic()).curvature, (x,))


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host")
@pytest.mark.parametrize(("potential", "options"), CASES)
def test_cuda_source_on_the_host_equals_the_cpu(potential, options):
    prior, engine = make(potential, options), HostEngine()
    x, v = RNG.uniform(0.5, 3, (2, 3, *SHAPE))
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        x, v = x.astype(dtype), v.astype(dtype)
        own = dtype if potential == "relative" else np.float64  # every kernel of the CPU takes seconds to compile
        for wanted in (kernels.Slope, kernels.Product, kernels.Diagonal, kernels.Above, kernels.Bend):
            prior._plans._plans.clear()
            expected = prior._gather(wanted, x.astype(own), v.astype(own))[1]
            prior._plans._plans.clear()
            got = _pairs_gpu.gather_with(prior._cuda_plan, wanted, x, v, True, engine)[1]
            assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)
        values = _pairs_gpu.gather_with(prior._cuda_plan, kernels.Slope, x, x, False, engine)[0]
        prior._plans._plans.clear()
        assert relative_error(values, prior.value(x)) < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize(("potential", "options"), CASES)
def test_gpu_equals_cpu(potential, options):
    cupy = cupy_or_skip()
    prior, v = make(potential, options), RNG.normal(size=SHAPE)
    x, w = cupy.asarray(X), cupy.asarray(v)
    assert relative_error(prior.value(x).get(), prior.value(X)) < 1e-12
    assert relative_error(prior.gradient(x).get(), prior.gradient(X)) < 1e-12
    assert relative_error(prior.hessian_vector(x, w).get(), prior.hessian_vector(X, v)) < 1e-12
    assert relative_error(prior.curvature(x).get(), prior.curvature(X)) < 1e-12
