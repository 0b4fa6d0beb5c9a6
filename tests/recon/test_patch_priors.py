"""Non-local and median root priors: against sums over all pairs, at borders, and in one-step-late EM."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from battery import check_smooth, relative_error
from scipy import ndimage

from emrecon import projectors, recon, sims
from emrecon.recon.priors.pairs import Hyperbolic, Quadratic
from emrecon.recon.priors.patches import MedianRoot, MedianRootSurrogate, NonLocal, by_steps

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(8)
SHAPE = (6, 5, 7)
X, GUIDE = RNG.random(SHAPE) + 0.2, RNG.random(SHAPE)
POTENTIALS = [("quadratic", None), ("huber", 0.3), ("hyperbolic", 0.2), ("lange", 0.2)]
GUIDED = [False, True]


def prior(potential, delta, guided, guide=GUIDE, width=0.3, **options):
    fixed = {"guide": guide, "width": width} if guided else {}
    return NonLocal(potential=potential, delta=delta, **fixed, **options)


def psi(potential, delta, t):
    """The textbook's formulas, for torch."""
    return {
        "quadratic": lambda: t**2 / 2,
        "huber": lambda: torch.where(t.abs() <= delta, t**2 / 2, delta * t.abs() - delta**2 / 2),
        "hyperbolic": lambda: delta**2 * (torch.sqrt(1 + (t / delta) ** 2) - 1),
        "lange": lambda: delta**2 * (t.abs() / delta - torch.log(1 + t.abs() / delta)),
    }[potential]()


def flat(voxels, shape):
    """Places of voxels in a flat image, those outside moved to its border."""
    return np.ravel_multi_index(np.moveaxis(np.clip(voxels, 0, np.array(shape) - 1), -1, 0), shape)


def all_pairs(x, prior):
    """U(x) by its definition: every unordered pair of voxels once, with all the voxels of their patches."""
    shape = tuple(x.shape)
    j, k = np.moveaxis(np.array(list(itertools.combinations(list(np.ndindex(shape)), 2))), 1, 0)
    near = (np.abs(k - j) <= np.array(prior.window) // 2).all(-1)
    j, k = j[near], k[near]
    weight = np.ones(len(j))
    if prior.inverse_distance:
        weight = min(prior.voxel_size) / np.linalg.norm((k - j) * prior.voxel_size, axis=-1)
    reach = [p // 2 if n > 1 else 0 for p, n in zip(prior.patch, shape)]
    patch = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    a, b = (voxel[:, None] + patch for voxel in (j, k))
    if prior.guide is not None:
        g = prior.guide.ravel()
        weight = weight * np.exp(-np.mean((g[flat(a, shape)] - g[flat(b, shape)]) ** 2, 1) / (2 * prior.width**2))
        difference = x.ravel()[flat(j, shape)] - x.ravel()[flat(k, shape)]
    else:
        inside = torch.tensor(((a >= 0) & (a < shape) & (b >= 0) & (b < shape)).all(-1))
        square = inside * (x.ravel()[flat(a, shape)] - x.ravel()[flat(b, shape)]) ** 2
        difference = torch.sqrt(square.sum(1) / len(patch))
    return (torch.tensor(weight) * psi(prior.potential, prior.delta, difference)).sum()


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize(("potential", "delta"), POTENTIALS)
def test_battery(potential, delta, guided):
    check_smooth(prior(potential, delta, guided, window=(5, 3, 5)), X)
    check_smooth(2.5 * prior(potential, delta, guided, inverse_distance=True, voxel_size=(1, 2, 3), window=3), X)


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize("patch", [1, 3, (3, 1, 5)])
def test_against_all_pairs(guided, patch):
    x, v = torch.tensor(X[:3, :4, :3]), torch.tensor(RNG.normal(size=(3, 4, 3)))
    for potential, delta in POTENTIALS:
        U = prior(potential, delta, guided, GUIDE[:3, :4, :3], window=(3, 5, 3), patch=patch, inverse_distance=True,
                  voxel_size=(2.0, 1.5, 3.0))  # fmt: skip
        leaf = x.clone().requires_grad_()
        value = all_pairs(leaf, U)
        (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
        (product,) = torch.autograd.grad((gradient * v).sum(), leaf)
        np.testing.assert_allclose(U.value(x), value.item(), rtol=1e-9)
        np.testing.assert_allclose(U.gradient(x), gradient.detach(), rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(U.hessian_vector(x, v), product, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", [(18, 17, 3), (20, 3, 1), (1, 20, 3), (2, 2, 2), (1, 1, 1)])
def test_whole_images_step_by_step(shape):
    x, v, guide = RNG.random((2, *shape)), RNG.normal(size=(2, *shape)), RNG.random(shape)
    some = POTENTIALS if x[0].size < 100 else POTENTIALS[1:2]  # large images are about slabs and borders
    for (potential, delta), guided in itertools.product(some, GUIDED):
        U = prior(potential, delta, guided, guide, window=(5, 7, 5))
        for wanted in range(5):
            expected = by_steps(U, wanted, x, v)
            scale = 1e-12 + np.abs(expected).max()
            np.testing.assert_allclose(U._gather(wanted, x, v), expected, rtol=1e-8, atol=1e-9 * scale)
            again = by_steps(U, wanted, torch.tensor(x), torch.tensor(v))
            np.testing.assert_allclose(again.numpy(), expected, rtol=1e-10, atol=1e-12 * scale)


@pytest.mark.parametrize("guided", GUIDED)
def test_any_number_of_threads_gives_the_same(guided, monkeypatch):
    x = RNG.random((2, 35, 20, 6)).astype(np.float32)
    U = prior("hyperbolic", 0.2, guided, x[1] ** 2)

    def everything():
        return [U.value(x), U.gradient(x), U.curvature(x), U.hessian_vector(x, x[::-1]), U.hessian_diagonal(x)]

    results = []
    for n in (1, 2, 5):
        monkeypatch.setenv("EMRECON_NUM_THREADS", str(n))
        results.append(everything())
    for result in results[1:]:
        for a, b in zip(result, results[0]):
            np.testing.assert_array_equal(a, b)


def test_single_precision():
    x = RNG.random((2, 20, 18, 12)) + 5
    hounsfield = 1000 * RNG.random(x.shape[1:]) - 1000
    for U in (prior("lange", 0.2, False), prior("hyperbolic", 0.2, True, hounsfield, 150.0)):
        single, v = x.astype(np.float32), RNG.normal(size=x.shape)
        np.testing.assert_allclose(U.value(single), U.value(x), rtol=1e-5)
        for a, b in [
            (U.gradient(single), U.gradient(x)),
            (U.curvature(single), U.curvature(x)),
            (U.hessian_vector(single, v.astype(np.float32)), U.hessian_vector(x, v)),
            (U.hessian_diagonal(single), U.hessian_diagonal(x)),
        ]:
            assert a.dtype == np.float32
            assert relative_error(a, b) < 1e-5


@pytest.mark.parametrize("guided", GUIDED)
def test_patches_of_one_voxel_and_guides_without_contrast_are_pairs_of_neighbours(guided):
    size = (2.0, 3.0, 2.5)
    options = {"window": 3, "patch": 3 if guided else 1, "inverse_distance": True, "voxel_size": size}
    for mine, theirs in [
        (prior("quadratic", None, guided, np.ones(SHAPE), **options), Quadratic(voxel_size=size)),
        (prior("hyperbolic", 0.2, guided, np.ones(SHAPE), **options), Hyperbolic(0.2, voxel_size=size)),
    ]:
        np.testing.assert_allclose(mine.value(X), theirs.value(X), rtol=1e-10)
        np.testing.assert_allclose(mine.gradient(X), theirs.gradient(X), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(mine.curvature(X), theirs.curvature(X), rtol=1e-9)


def test_at_borders_pairs_end():
    U = prior("quadratic", None, True, np.ones(SHAPE), window=(3, 5, 7))
    neighbours = ndimage.convolve(np.ones(SHAPE), np.ones((3, 5, 7)), mode="constant") - 1
    np.testing.assert_allclose(U.hessian_diagonal(X), neighbours, rtol=1e-10)


@pytest.mark.parametrize("guided", GUIDED)
@pytest.mark.parametrize(("potential", "delta"), POTENTIALS)
def test_uniform_images(potential, delta, guided):
    U, flat, v = prior(potential, delta, guided), np.full(SHAPE, 3.0), RNG.normal(size=SHAPE)
    assert U.value(flat) == 0
    np.testing.assert_array_equal(U.gradient(flat), 0)
    assert np.isfinite(U.hessian_vector(flat, v)).all()
    assert (U.hessian_diagonal(flat) > 0).all()
    assert (U.curvature(flat) > 0).all()


def test_edges_of_the_guide_cost_nothing():
    edge = np.where(np.arange(12)[:, None, None] < 6, 1.0, 5.0) * np.ones((12, 8, 8))
    elsewhere = edge.transpose(1, 0, 2)[:8].repeat(2, 0)[:12, :8]
    same, other = (prior("quadratic", None, True, guide, 0.3) for guide in (edge, elsewhere))
    assert same.value(edge) < 1e-3 * other.value(edge)


def test_mirrored_images():
    for guided in GUIDED:
        U, mirrored = (prior("lange", 0.2, guided, guide) for guide in (GUIDE, GUIDE[::-1, :, ::-1]))
        np.testing.assert_allclose(mirrored.gradient(X[::-1, :, ::-1])[::-1, :, ::-1], U.gradient(X), rtol=1e-9)
        turned = prior("lange", 0.2, guided, GUIDE.transpose(1, 2, 0))
        np.testing.assert_allclose(turned.value(X.transpose(1, 2, 0)), U.value(X), rtol=1e-10)


def test_guides_of_any_library_and_empty_batches():
    U, tensor = prior("huber", 0.3, True), prior("huber", 0.3, True, torch.tensor(GUIDE))
    np.testing.assert_array_equal(tensor.gradient(X), U.gradient(X))
    assert U.gradient(np.zeros((0, *SHAPE))).shape == (0, *SHAPE)
    assert U.value(np.zeros((0, *SHAPE))).shape == (0,)
    assert repr(U) == "NonLocal(huber, delta=0.3, guide, width=0.3, window=7x7x7, patch=3x3x3)"
    assert repr(prior("quadratic", None, False)) == "NonLocal(quadratic, window=7x7x7, patch=3x3x3)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"potential": "cubic", "delta": 1.0}, "must be one of quadratic, huber"),
        ({"delta": None}, "delta is for all potentials but 'quadratic'"),
        ({"potential": "quadratic", "delta": 1.0}, "delta is for all potentials but"),
        ({"delta": 0.0}, "delta must be positive"),
        ({"delta": np.nan}, "delta must be positive"),
        ({"delta": 1.0, "guide": GUIDE}, "belong together"),
        ({"delta": 1.0, "width": 1.0}, "belong together"),
        ({"delta": 1.0, "guide": GUIDE, "width": 0.0}, "width must be positive"),
        ({"delta": 1.0, "guide": GUIDE, "width": -1.0}, "width must be positive"),
        ({"delta": 1.0, "guide": GUIDE[0], "width": 1.0}, r"must be an image \(x, y, z\), got shape \(5, 7\)"),
        ({"delta": 1.0, "guide": np.where(GUIDE > 0.5, np.nan, 0), "width": 1.0}, "NaN or infinite"),
        ({"delta": 1.0, "window": 4}, "window must be odd"),
        ({"delta": 1.0, "window": (3, 3)}, "window must be odd"),
        ({"delta": 1.0, "window": 1}, "more than one voxel"),
        ({"delta": 1.0, "patch": 0}, "patch must be odd"),
        ({"delta": 1.0, "patch": 2.5}, "patch must be odd"),
        ({"delta": 1.0, "voxel_size": (1, 1)}, "three positive numbers"),
        ({"delta": 1.0, "voxel_size": (1, 1, 0)}, "three positive numbers"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NonLocal(**options)


def test_images_that_do_not_fit():
    U = prior("huber", 0.3, True)
    with pytest.raises(ValueError, match=r"expects images \(\.\.\., 6, 5, 7\), got \(6, 5, 8\)"):
        U.value(np.zeros((6, 5, 8)))
    with pytest.raises(TypeError, match="expects an array"):
        NonLocal(delta=1.0, guide=GUIDE.tolist(), width=1.0)


# ---- the median root -----------------------------------------------------------------------------------------------


def test_median_by_hand():
    M, padded = MedianRoot(size=(3, 1, 3)).median(X), np.pad(X, 1, mode="edge")
    for i, j, k in [(0, 0, 0), (2, 3, 4), (5, 4, 6)]:
        assert M[i, j, k] == np.median(padded[i : i + 3, j + 1, k : k + 3])
    gradient = MedianRoot(size=(3, 1, 3)).gradient(X)
    np.testing.assert_allclose(gradient, X / M - 1, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [3, (5, 3, 1)])
def test_the_surrogate_has_everything(size):
    surrogate = MedianRoot(size=size).at(X)
    np.testing.assert_array_equal(surrogate.gradient(X), MedianRoot(size=size).gradient(X))
    check_smooth(surrogate, X)
    assert repr(surrogate) == "MedianRootSurrogate(6x5x7)"


def test_batches_and_tensors():
    U, batch = MedianRoot(), RNG.random((2, 3, *SHAPE)).astype(np.float32)
    gradient = U.gradient(batch)
    assert gradient.dtype == np.float32
    for index in np.ndindex(2, 3):
        np.testing.assert_array_equal(gradient[index], U.gradient(batch[index]))
    np.testing.assert_array_equal(U.gradient(torch.tensor(batch, requires_grad=True)).detach().numpy(), gradient)
    np.testing.assert_array_equal(U.at(torch.tensor(batch[0, 0])).gradient(batch[0, 0]), gradient[0, 0])
    np.testing.assert_array_equal((0.5 * U).gradient(batch), 0.5 * gradient)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(U)).gradient(batch), gradient)


def test_zeros():
    zeros = np.zeros(SHAPE)
    np.testing.assert_array_equal(MedianRoot().gradient(zeros), 0)
    single = zeros.copy()
    single[2, 2, 2] = 4
    expected = zeros.copy()
    expected[2, 2, 2] = 1e6
    np.testing.assert_allclose(MedianRoot().gradient(single), expected)
    assert MedianRoot().at(zeros).value(zeros) == 0


def test_monotone_images_are_left_alone():
    edge = np.where(np.arange(10) < 5, 1.0, 4.0)[:, None, None] * np.ones((10, 6, 6))
    np.testing.assert_array_equal(MedianRoot().gradient(edge), 0)


def test_one_step_late():
    grid = projectors.ImageGrid((24, 24, 1), 4.0)
    A = projectors.ParallelBeamProjector(grid, projectors.ParallelBeamGeometry.equally_spaced(24, 24, 4.0))
    truth = sims.Phantom((sims.Region("disc", sims.Cylinder((0, 0, 0), 36, np.inf), 1.0),)).activity(grid)
    f = recon.PoissonLikelihood(sims.poisson(A(truth), seed=1), projectors.AcquisitionModel(A, background=0.5))
    spread = {}
    for beta in (0.0, 0.3):
        x, prior = A.ones_image(), beta * MedianRoot()
        for _ in range(30):
            x = x * (f.sensitivity - f.gradient(x)) / (f.sensitivity * (1 + prior.gradient(x)))
        assert np.isfinite(x).all()
        inside = x[ndimage.binary_erosion(truth > 0.99, np.ones((5, 5, 1)))]
        spread[beta] = inside.std() / inside.mean()
    assert spread[0.3] < 0.5 * spread[0.0]


def test_median_root_errors():
    with pytest.raises(NotImplementedError, match="at"):
        MedianRoot().value(X)
    with pytest.raises(NotImplementedError, match="no Hessian"):
        MedianRoot().hessian_vector(X, X)
    with pytest.raises(ValueError, match="size must be odd"):
        MedianRoot(size=2)
    with pytest.raises(ValueError, match="floor must be between"):
        MedianRoot(floor=0.0)
    with pytest.raises(ValueError, match="expects one image"):
        MedianRoot().at(X[None])
    with pytest.raises(ValueError, match="differ"):
        MedianRootSurrogate(X, X[1:])
    with pytest.raises(ValueError, match="positive"):
        MedianRootSurrogate(X, 0 * X)
    with pytest.raises(ValueError, match="NaN"):
        MedianRootSurrogate(X * np.nan, X)


@pytest.mark.gpu
def test_on_a_gpu():
    pytest.importorskip("cupy")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x = RNG.random((2, 20, 18, 5))
    on_device = torch.tensor(x, device="cuda")
    for guided in GUIDED:
        U = prior("lange", 0.2, guided, x[1])
        np.testing.assert_allclose(U.gradient(on_device).cpu().numpy(), U.gradient(x), rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(U.value(on_device).cpu().numpy(), U.value(x), rtol=1e-10)
    np.testing.assert_array_equal(MedianRoot().gradient(on_device).cpu().numpy(), MedianRoot().gradient(x))
