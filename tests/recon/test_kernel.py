"""Kernels and kernel EM: neighbours by brute force, exact transposes, the composed matrix, monotony and restarts."""

import pickle
from dataclasses import dataclass, replace
from itertools import islice

import array_api_strict
import numpy as np
import pytest
import torch
from battery import check_operator, dense, relative_error
from pet_cases import GRID, SCANNER, TOF, events_of_every_bin
from scipy.sparse import csr_array, eye_array
from spect_cases import projector

from emrecon.projectors import (
    AcquisitionModel,
    DenseOperator,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    ListmodeProjector,
    PETProjector,
    PETSinogram,
    Projector,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import ListmodeLikelihood, PoissonLikelihood, em_step, mlem, osem
from emrecon.recon.engines.kernel_em import kem, kem_step
from emrecon.recon.engines.parameterised import KernelCoefficients, parameterised_em, surrogate
from emrecon.recon.kernels.matrix import (
    KernelOperator,
    SpatioTemporalKernel,
    hybrid_kernel,
    hypr_kernel,
    kernel_matrix,
    temporal_kernel,
)

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
SHAPE = A.in_shape
RNG = np.random.default_rng(0)
GUIDE = RNG.random(SHAPE)
TRUTH = RNG.uniform(0.5, 5, SHAPE)
MODEL = AcquisitionModel(A, RNG.uniform(0.5, 2, A.out_shape), 0.5)
F = PoissonLikelihood(RNG.poisson(MODEL(TRUTH)), MODEL)
K = kernel_matrix(GUIDE, n_neighbours=9, window=5)
IDENTITY = KernelOperator(eye_array(GUIDE.size), SHAPE)
FRAMES = np.array([10.0, 10.0, 20.0, 60.0])


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


def brute_force(features, n_neighbours, window, sigma=1.0, spatial_sigma=np.inf, size=(1, 1, 1), mask=None):
    """The matrix by its definition, all pairs of voxels."""
    shape = features.shape[1:]
    mask = np.ones(shape, bool) if mask is None else mask
    voxels = np.argwhere(np.ones(shape, bool))
    values = features.reshape(len(features), -1)
    scale = np.atleast_1d(sigma)[:, None] * values[:, mask.ravel()].std(1, keepdims=True)
    out = np.zeros((len(voxels), len(voxels)))
    for i, r in enumerate(voxels):
        if not mask.ravel()[i]:
            out[i, i] = 1
            continue
        allowed = mask.ravel() & (np.abs(voxels - r) <= np.array(window) // 2).all(1)
        distance = (((voxels - r) * size) ** 2).sum(1)
        d = (((values - values[:, i : i + 1]) / scale) ** 2).sum(0) + distance / spatial_sigma**2
        chosen = np.lexsort((distance, d, ~allowed))[: min(n_neighbours, allowed.sum())]
        out[i, chosen] = np.exp(-d[chosen] / 2)
    return out / out.sum(1, keepdims=True)


# ---- the matrix ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"n_neighbours": 9, "window": (5, 3, 3)},
        {"n_neighbours": 200, "window": (5, 5, 3)},
        {"n_neighbours": 12, "window": (5, 5, 3), "sigma": (0.5, 2.0)},
        {"n_neighbours": 12, "window": (7, 7, 7), "spatial_sigma": 5.0, "size": (4.0, 5.0, 2.0)},
        {"n_neighbours": 20, "window": (99, 99, 99), "mask": GUIDE > 0.3},
    ],
)
def test_neighbours_and_weights_are_those_of_the_definition(options):
    features, given = np.stack([GUIDE, RNG.normal(size=SHAPE)]), dict(options)
    grid = ImageGrid(SHAPE, given.pop("size")) if "size" in given else None
    matrix = kernel_matrix(features, grid, **given).matrix.toarray()
    np.testing.assert_allclose(matrix, brute_force(features, **options), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mask", [None, GUIDE > 0.3])
@pytest.mark.parametrize("spatial_sigma", [None, 1.5])
def test_the_tree_finds_what_a_window_of_the_whole_image_finds(mask, spatial_sigma):
    features = np.stack([GUIDE, RNG.normal(size=SHAPE)])
    options = {"n_neighbours": 10, "spatial_sigma": spatial_sigma, "mask": mask}
    whole = kernel_matrix(features, window=99, **options)
    np.testing.assert_allclose(dense(kernel_matrix(features, window=None, **options)), dense(whole), atol=1e-6)


@pytest.mark.parametrize("window", [7, None])
def test_where_nothing_tells_voxels_apart_the_nearest_are_neighbours(window):
    guide = np.zeros((21, 9, 1))
    guide[:3] = 1  # ties are many, and each voxel must be among its own neighbours
    kernel = kernel_matrix(guide, n_neighbours=9, window=window)
    matrix = kernel.matrix.toarray()
    assert (matrix.diagonal() > 0).all()
    row = matrix[12 * 9 + 4].reshape(21, 9)
    np.testing.assert_allclose(row[11:14, 3:6], 1 / 9, rtol=1e-6)
    assert (kernel.n_neighbours == 9).all()


def test_patches_compare_surroundings():
    rows = kernel_matrix(GUIDE, n_neighbours=9, window=5, patch=3).matrix
    padded = np.pad(GUIDE, 1, mode="edge") / GUIDE.std()
    patches = np.stack([padded[i : i + 7, j : j + 6, k : k + 3] for i, j, k in np.ndindex(3, 3, 3)]).reshape(27, -1)
    i = 3 * 18 + 2 * 3 + 1
    chosen = rows[[i]].indices
    expected = np.exp(-((patches[:, chosen] - patches[:, [i]]) ** 2).mean(0) / 2)
    np.testing.assert_allclose(rows[[i]].data, expected / expected.sum(), rtol=1e-5)
    flat = kernel_matrix(GUIDE[:, :, :1], n_neighbours=5, window=5, patch=3)
    assert (flat.n_neighbours == 5).all()


@pytest.mark.parametrize("libraries", [lambda x: x, torch.tensor, lambda x: [x], lambda x: np.stack([x])])
def test_features_come_in_any_form(libraries):
    np.testing.assert_array_equal(dense(kernel_matrix(libraries(GUIDE), n_neighbours=9, window=5)), dense(K))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kernel_is_an_operator(dtype):
    kernel = KernelOperator(K.matrix.astype(dtype), SHAPE)
    check_operator(kernel, positive=True)
    np.testing.assert_allclose(kernel(np.ones(SHAPE)), 1, rtol=1e-6)
    matrix = kernel.matrix.toarray()
    np.testing.assert_allclose(dense(kernel), matrix, rtol=1e-12)
    assert np.abs(matrix - matrix.T).max() > 0.01  # the transpose is not the kernel
    assert kernel.T.T is kernel


def test_rows_of_many_blocks_and_threads(monkeypatch):
    guide = RNG.random((31, 30, 12))
    kernel, x = kernel_matrix(guide, n_neighbours=11, window=5), RNG.random((3, *guide.shape))
    expected = kernel.matrix @ x.reshape(3, -1).T, kernel.matrix.T @ x.reshape(3, -1).T
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("EMRECON_NUM_THREADS", threads)
        again = kernel_matrix(guide, n_neighbours=11, window=5)
        np.testing.assert_array_equal(again.matrix.data, kernel.matrix.data)
        results.append((again(x), again.T(x)))
    for (forward, back), other in zip(results, results[1:] + results[:1]):
        np.testing.assert_allclose(forward.reshape(3, -1).T, expected[0], rtol=1e-12)
        np.testing.assert_allclose(back.reshape(3, -1).T, expected[1], rtol=1e-12)
        np.testing.assert_array_equal(forward, other[0])
        np.testing.assert_array_equal(back, other[1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gather_for_devices_is_the_same_matrix(dtype):
    """Arrays of a strict library take the way that CuPy arrays and CUDA tensors take."""
    kernel = kernel_matrix(GUIDE, n_neighbours=9, window=5, mask=GUIDE > 0.3)
    x = RNG.normal(size=(2, *SHAPE)).astype(dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for operator in (kernel, kernel.T):
        y = operator(array_api_strict.asarray(x))
        assert isinstance(y, array_api_strict._array_object.Array)
        assert str(y.dtype).endswith(dtype)
        np.testing.assert_allclose(np.asarray(y), operator(x), rtol=tolerance, atol=tolerance)


def test_memory_is_said():
    kernel = kernel_matrix(GUIDE, n_neighbours=9, window=5)
    entries = GUIDE.size * 9
    assert kernel.nbytes == 2 * (8 * entries + 8 * (GUIDE.size + 1))
    assert "9.0 per voxel" in str(kernel)
    assert "0.02" in str(kernel)
    few = kernel_matrix(GUIDE, n_neighbours=9, window=5, mask=GUIDE > 0.8)
    assert few.nbytes < kernel.nbytes / 2
    kernel.T(GUIDE)
    assert len(pickle.dumps(kernel)) < 0.7 * kernel.nbytes  # the transpose is made again


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (np.ones(SHAPE), {}, "feature 0 is constant"),
        (np.full(SHAPE, np.nan), {}, "NaN or infinite"),
        (GUIDE[0], {}, "must be"),
        (GUIDE, {"mask": GUIDE[0] > 0}, "mask of shape"),
        (GUIDE, {"mask": GUIDE < 0}, "mask is empty"),
        (GUIDE, {"window": 4}, "window must be odd"),
        (GUIDE, {"patch": 0}, "patch must be odd"),
        (GUIDE, {"n_neighbours": 0}, "at least 1, got 0"),
        (GUIDE, {"sigma": -1.0}, "sigma must be positive"),
        (GUIDE, {"sigma": (1.0, 2.0)}, "one for each of 1"),
        (GUIDE, {"spatial_sigma": 0.0}, "spatial_sigma must be positive"),
        (GUIDE, {"grid": ImageGrid((2, 2, 2), 1.0)}, "the grid's are"),
    ],
)
def test_guides_that_make_no_sense(features, options, message):
    with pytest.raises(ValueError, match=message):
        kernel_matrix(features, **options)
    with pytest.raises(TypeError, match="expects an array"):
        kernel_matrix("MR")


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(GUIDE.size) * 2, "sum to one"),
        (np.eye(5), "needs a matrix"),
        (np.eye(GUIDE.size) - 1e-9, "not negative"),
        (np.eye(GUIDE.size) * np.nan, "finite"),
    ],
)
def test_matrices_that_are_no_kernels(matrix, message):
    with pytest.raises(ValueError, match=message):
        KernelOperator(csr_array(matrix), SHAPE)


# ---- further kernels -------------------------------------------------------------------------------------------------


def test_a_hybrid_kernel_is_the_product_on_the_same_neighbours():
    image = RNG.random(SHAPE)
    hybrid = hybrid_kernel(K, image, sigma=0.7)
    difference = (image.ravel()[:, None] - image.ravel()) / (0.7 * image.std())
    expected = dense(K) * np.exp(-(difference**2) / 2)
    np.testing.assert_allclose(dense(hybrid), expected / expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(hybrid.n_neighbours, K.n_neighbours)
    both = kernel_matrix([GUIDE, image], n_neighbours=400, window=5, sigma=(1.0, 0.7))
    wide = hybrid_kernel(kernel_matrix(GUIDE, n_neighbours=400, window=5), image, 0.7)
    np.testing.assert_allclose(dense(wide), dense(both), rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="does not fit"):
        hybrid_kernel(K, image[1:])


def test_hypr_keeps_the_composite_and_is_row_normalised_for_relative_images():
    grid = ImageGrid(SHAPE, 4.0)
    blur, c = GaussianBlur(grid, 9.0), RNG.uniform(0.1, 4, SHAPE)
    kernel = hypr_kernel(c, blur)
    check_operator(kernel, positive=True)
    np.testing.assert_allclose(kernel(c), c, rtol=1e-12)
    x = RNG.random(SHAPE)
    np.testing.assert_allclose(kernel(x), c * blur(x) / blur(c), rtol=1e-12)
    np.testing.assert_allclose((dense(kernel) * c.ravel() / c.ravel()[:, None]).sum(1), 1, rtol=1e-12)
    c[2:4] = 0
    assert (hypr_kernel(c, GaussianBlur(grid, 0.0))(x)[2:4] == 0).all()
    with pytest.raises(ValueError, match="not negative"):
        hypr_kernel(-c, blur)
    with pytest.raises(ValueError, match="does not fit"):
        hypr_kernel(c[1:], blur)


def test_a_spatio_temporal_kernel_is_a_kronecker_product():
    temporal = temporal_kernel(np.cumsum(FRAMES) - FRAMES / 2, sigma=20.0, n_neighbours=3)
    small = kernel_matrix(GUIDE[:4, :3, :2], n_neighbours=5, window=3)
    kernel = SpatioTemporalKernel(temporal, small)
    check_operator(kernel, positive=True)
    np.testing.assert_allclose(dense(kernel), np.kron(temporal, dense(small)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(kernel(np.ones(kernel.in_shape)), 1, rtol=1e-6)
    assert "4 frames" in str(kernel)
    for matrix, message in ((np.eye(3)[:2], "frames, frames"), (2 * np.eye(3), "sum to one")):
        with pytest.raises(ValueError, match=message):
            SpatioTemporalKernel(matrix, small)


def test_temporal_kernels():
    times = np.array([5.0, 15.0, 30.0, 70.0])
    kernel = temporal_kernel(times, 10.0)
    expected = np.exp(-(np.subtract.outer(times, times) ** 2) / 200)
    np.testing.assert_allclose(kernel, expected / expected.sum(1, keepdims=True), rtol=1e-12)
    assert (np.count_nonzero(temporal_kernel(times, 50.0, 2), 1) == 2).all()
    np.testing.assert_array_equal(temporal_kernel(np.zeros(3), 1.0, 1), np.eye(3))
    assert temporal_kernel(RNG.random((6, 20)), 1.0, 3).shape == (6, 6)
    for features, sigma, message in ((times * np.nan, 1, "finite"), (times, 0, "sigma must be positive")):
        with pytest.raises(ValueError, match=message):
            temporal_kernel(features, sigma)


# ---- kernel EM -------------------------------------------------------------------------------------------------------


class Composed(Projector):
    """A K as one dense projector, of which EM is kernel EM."""

    def __init__(self, matrix, in_shape, out_shape):
        self.dense = DenseOperator(matrix, in_shape, out_shape)
        self.in_shape, self.out_shape = in_shape, out_shape

    def _forward(self, x):
        return self.dense._forward(x)

    def _adjoint(self, y):
        return self.dense._adjoint(y)

    def subset(self, k, n):
        raise NotImplementedError


@pytest.fixture(scope="module")
def spect():
    """A disc with hot and cold parts seen by 24 views, in float32, and a guide that shows them."""
    grid, camera = ImageGrid((24, 24, 4), 6.0), SPECTGeometry.circular(24, 110, (28, 4), 6.0)
    x, y, z = grid.coordinates()
    body = (np.hypot(x, y) < 60) * np.ones_like(z)
    activity = body + 3 * (np.hypot(x - 25, y) < 15) - (np.hypot(x + 25, y) < 15)
    model = AcquisitionModel(SPECTProjector(grid, camera, 0.15 * body, LinearResponse(0.03, 2.0)), 20.0, 0.5)
    counts = np.random.default_rng(3).poisson(model(activity)).astype(np.float32)
    kernel = kernel_matrix(activity + np.random.default_rng(4).normal(0, 0.1, grid.shape), n_neighbours=20)
    return PoissonLikelihood(counts, model), kernel, activity.astype(np.float32)


@pytest.mark.parametrize("n_subsets", [1, 3])
def test_the_identity_gives_osem_bit_for_bit(n_subsets):
    for kernel, classic in islice(zip(kem(F, IDENTITY, None, n_subsets), osem(F, None, n_subsets)), 5):
        assert kernel.iteration == classic.iteration
        np.testing.assert_array_equal(kernel.image, classic.image)
        np.testing.assert_array_equal(kernel.state["coefficients"], classic.image)


def test_kernel_em_is_em_of_the_composed_matrix():
    composed = Composed(dense(A) @ dense(K), SHAPE, A.out_shape)
    f = PoissonLikelihood(F.data, AcquisitionModel(composed, MODEL.factors, MODEL.background))
    ours, expected = last(kem(F, K, np.ones(SHAPE)), 10), last(mlem(f, np.ones(SHAPE)), 10)
    np.testing.assert_allclose(ours.state["coefficients"], expected.image, rtol=1e-10)
    np.testing.assert_array_equal(ours.image, K(ours.state["coefficients"]))
    np.testing.assert_array_equal(
        kem_step(np.ones(SHAPE), F, K), last(kem(F, K, np.ones(SHAPE)), 1).state["coefficients"]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_subsets", [1, 3])
def test_three_and_four_are_seven(n_subsets, dtype):
    start = np.ones(SHAPE, dtype)
    whole, part = last(kem(F, K, start, n_subsets), 7), last(kem(F, K, start, n_subsets), 3)
    rest = last(kem(F, K, part, n_subsets), 4)
    assert rest.iteration == whole.iteration == 7
    assert whole.image.dtype == dtype
    np.testing.assert_array_equal(rest.image, whole.image)
    np.testing.assert_array_equal(rest.state["coefficients"], whole.state["coefficients"])


def test_kernel_em_never_gets_worse_and_is_less_noisy_than_mlem(spect):
    f, kernel, activity = spect
    images = [iterate.image for iterate in islice(kem(f, kernel), 50)]
    values = np.array([f.value(image.astype(float)) for image in images])
    assert images[-1].dtype == np.float32
    assert (np.diff(values) <= 1e-7 * np.abs(values[0])).all()
    assert relative_error(images[-1], activity) < 0.6 * relative_error(last(mlem(f), 50).image, activity)


@pytest.mark.parametrize("timed", [False, True])
def test_events_and_sinograms_agree(timed):
    sinogram = PETSinogram(SCANNER, tof=TOF if timed else None)
    B, rng = PETProjector(GRID, sinogram), np.random.default_rng(0)
    model = AcquisitionModel(B, 1.0, 0.2)
    counts = rng.poisson(model(rng.uniform(0, 0.1, GRID.shape)))
    bins = np.repeat(np.arange(counts.size), counts.ravel())
    lines = ListmodeProjector(GRID, SCANNER, events_of_every_bin(sinogram)[bins], tof=sinogram.tof)
    events = ListmodeLikelihood(AcquisitionModel(lines, 1.0, 0.2), B.T(np.ones(B.out_shape)))
    kernel = kernel_matrix(rng.random(GRID.shape), n_neighbours=8, window=3)
    start = np.ones(GRID.shape)
    expected = last(kem(PoissonLikelihood(counts.astype(float), model), kernel, start), 4)
    np.testing.assert_allclose(last(kem(events, kernel, start), 4).image, expected.image, rtol=1e-9)
    assert last(kem(events, kernel), 2).image.shape == GRID.shape
    parts = [PoissonLikelihood(counts.astype(float), model).subset(k, 3) for k in range(3)]
    whole = last(kem(PoissonLikelihood(counts.astype(float), model), kernel, start, 3), 2)
    np.testing.assert_array_equal(last(kem(parts, kernel, start), 2).image, whole.image)


def test_batches_and_tensors():
    counts = RNG.poisson(MODEL(TRUTH), size=(2, *A.out_shape)).astype(float)
    together = last(kem(PoissonLikelihood(counts, MODEL), K), 4)
    for item, image in zip(counts, together.image):
        np.testing.assert_allclose(image, last(kem(PoissonLikelihood(item, MODEL), K), 4).image, rtol=1e-10)
    tensors = last(kem(PoissonLikelihood(torch.tensor(counts), MODEL), K), 4)
    np.testing.assert_allclose(tensors.image.numpy(), together.image, rtol=1e-12)


@pytest.mark.parametrize("durations", [1.0, FRAMES[:, None, None, None]])
def test_all_frames_of_a_dynamic_scan(durations):
    activity = TRUTH * np.array([1.0, 2.0, 3.0, 2.0])[:, None, None, None]
    model = AcquisitionModel(A, durations, 0.5)
    counts = RNG.poisson(model(activity)).astype(float)
    f, kernel = PoissonLikelihood(counts, model), SpatioTemporalKernel(temporal_kernel(np.arange(4.0), 1.0), K)
    start = np.ones(kernel.in_shape)
    ours = last(kem(f, kernel, start), 5)
    stacked = np.kron(np.eye(4), dense(A))
    composed = Composed(stacked @ dense(kernel), kernel.in_shape, (4, *A.out_shape))
    expected = PoissonLikelihood(
        counts, AcquisitionModel(composed, durations * np.ones((4, *A.out_shape)), model.background)
    )
    np.testing.assert_allclose(ours.state["coefficients"], last(mlem(expected, start), 5).image, rtol=1e-9)
    values = [np.sum(f.value(it.image)) for it in islice(kem(f, kernel), 10)]
    assert (np.diff(values) < 0).all()


def test_what_nothing_is_known_about_keeps_its_value():
    matrix = dense(A).reshape(-1, *SHAPE)
    matrix[:, :4] = 0  # only x >= 4 is seen
    blind = Composed(matrix.reshape(-1, GUIDE.size), SHAPE, A.out_shape)
    f = PoissonLikelihood(F.data, AcquisitionModel(blind, 1.0, 0.5))
    kernel = kernel_matrix(GUIDE, n_neighbours=9, window=3)
    start = RNG.uniform(0.5, 2, SHAPE)
    ours = last(kem(f, kernel, start), 4).state["coefficients"]
    np.testing.assert_array_equal(ours[:3], start[:3])  # a neighbour of x = 4 may be at x = 3
    assert (ours[4:] != start[4:]).all()


def test_a_hybrid_kernel_goes_on_from_the_coefficients(spect):
    f, kernel, activity = spect
    first = last(kem(f, kernel), 5)
    hybrid = hybrid_kernel(kernel, first.image)
    image = last(kem(f, hybrid, first), 20).image
    assert f.value(image) < f.value(first.image)
    assert relative_error(image, activity) < relative_error(last(mlem(f), 25).image, activity)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_starts_that_make_no_sense(value):
    start = np.ones(SHAPE)
    start[3, 3, 1] = value
    with pytest.raises(ValueError, match="finite and not negative"):
        kem(F, K, start)
    with pytest.raises(ValueError, match=r"\(7, 6\) does not fit images"):
        kem(F, K, start[..., 0])


def test_calls_that_make_no_sense():
    with pytest.raises(ValueError, match="does not fit images"):
        kem(F, kernel_matrix(GUIDE[:4]))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        kem(F, K, None, 0)
    with pytest.raises(ValueError, match="at most 6"):
        kem(F, K, None, 7)
    with pytest.raises(ValueError, match="empty list"):
        kem([], K)
    with pytest.raises(ValueError, match="needs data"):
        kem(F, SpatioTemporalKernel(np.eye(3), K))


# ---- parameterisations -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_subsets", [1, 3])
def test_one_step_of_the_coefficients_is_kernel_em(n_subsets):
    start = KernelCoefficients(K, np.ones(SHAPE))
    ours, expected = last(parameterised_em(F, start, n_subsets), 6), last(kem(F, K, np.ones(SHAPE), n_subsets), 6)
    assert ours.iteration == 6
    np.testing.assert_allclose(ours.image, expected.image, rtol=1e-10)
    np.testing.assert_allclose(ours.parameterisation.coefficients, expected.state["coefficients"], rtol=1e-10)
    np.testing.assert_array_equal(start.coefficients, 1)


def test_parameterised_em_goes_on_exactly():
    start = KernelCoefficients(K, np.ones(SHAPE, np.float32))
    whole, part = last(parameterised_em(F, start, steps=3), 7), last(parameterised_em(F, start, steps=3), 3)
    rest = last(parameterised_em(F, part.parameterisation, steps=3, iteration=3), 4)
    assert rest.iteration == 7
    np.testing.assert_array_equal(rest.image, whole.image)


def test_more_steps_come_nearer_to_the_image_of_em():
    start = KernelCoefficients(K, np.ones(SHAPE))
    target, weight = em_step(start.image(), F), F.sensitivity_like(GUIDE)
    values = [surrogate(start.fit(target, weight, steps).image(), target, weight) for steps in (1, 2, 4, 20)]
    assert (np.diff([surrogate(start.image(), target, weight), *values]) < 0).all()
    assert surrogate(target, target, weight) < values[-1]


def test_the_surrogate_lies_above_the_likelihood_and_touches_it():
    x = RNG.uniform(0.5, 3, SHAPE)
    target, weight = em_step(x, F), F.sensitivity_like(x)
    gap = surrogate(x, target, weight) - F.value(x)
    for _ in range(20):
        other = x * RNG.uniform(0.3, 3, SHAPE)
        assert surrogate(other, target, weight) - F.value(other) >= gap - 1e-9 * abs(gap)
    leaf = torch.tensor(x, requires_grad=True)
    surrogate(leaf, torch.tensor(target), torch.tensor(weight)).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), F.gradient(x), rtol=1e-9, atol=1e-9)
    x[0] = target[0] = 0
    assert np.isfinite(surrogate(x, target, weight))


@dataclass(frozen=True)
class Softplus:
    """x = log(1 + exp(latent)), a parameterisation that torch fits."""

    latent: torch.Tensor

    def image(self):
        return torch.nn.functional.softplus(self.latent)

    def fit(self, target, weight, steps):
        latent = self.latent.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([latent], max_iter=steps, line_search_fn="strong_wolfe")

        def loss():
            optimiser.zero_grad()
            value = surrogate(torch.nn.functional.softplus(latent), target, weight)
            value.backward()
            return value

        optimiser.step(loss)
        return replace(self, latent=latent.detach())


def test_a_parameterisation_of_tensors_never_gets_worse():
    f = PoissonLikelihood(torch.tensor(F.data.astype(float)), MODEL)
    start = Softplus(torch.zeros(SHAPE, dtype=torch.float64))
    values = [float(f.value(it.image)) for it in islice(parameterised_em(f, start, steps=4), 12)]
    assert (np.diff(values) < 0).all()
    expected = float(F.value(last(mlem(F, np.ones(SHAPE)), 12).image))
    assert values[-1] == pytest.approx(expected, rel=0.02)


def test_parameterisations_that_make_no_sense():
    with pytest.raises(ValueError, match="does not fit images"):
        parameterised_em(F, Softplus(torch.zeros(3, 3, 3)))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        parameterised_em(F, KernelCoefficients(K, GUIDE), steps=0)
    with pytest.raises(ValueError, match="not negative"):
        KernelCoefficients(K, -GUIDE)
    with pytest.raises(ValueError, match="do not fit"):
        KernelCoefficients(K, GUIDE[1:])
