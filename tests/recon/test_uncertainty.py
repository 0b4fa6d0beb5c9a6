"""Maps of uncertainty and point responses against whole matrices, realisations, closed forms and finite differences."""

import numpy as np
import pytest
import torch
from battery import MatrixProjector, dense, relative_error
from pet_cases import likelihoods_of_one_scan

from emrecon.projectors import (
    AcquisitionModel,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    PETProjector,
    PETScanner,
    PETSinogram,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.recon import (
    Huber,
    PenalisedEstimate,
    PoissonLikelihood,
    Quadratic,
    RegionOfInterest,
    RelativeDifference,
    TotalVariation,
    contrast_recovery_map,
    lbfgsb,
    lbfgsb_scipy,
    local_point_response,
    response_widths,
    run,
    standard_deviation_map,
)

GRID = ImageGrid((9, 9, 3), 5.0)
RNG = np.random.default_rng(0)


def spect():
    mu = np.full(GRID.shape, 0.12)
    camera = SPECTGeometry.circular(12, 40, (9, 3), 5.0)
    return SPECTProjector(GRID, camera, mu, LinearResponse(0.03, 2.0))


def pet():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=5, radius=60, rings=3, ring_pitch=5)
    return PETProjector(GRID, PETSinogram(scanner)) @ GaussianBlur(GRID, 6.0)


class Batched(MatrixProjector):
    """A matrix that takes many images at once: realisations in a moment."""

    def _forward_batch(self, x):
        return (x.reshape(len(x), -1) @ self._matrix_like(x).T).reshape(-1, *self.out_shape)

    def _adjoint_batch(self, y):
        return (y.reshape(len(y), -1) @ self._matrix_like(y)).reshape(-1, *self.in_shape)


def activity():
    x, y, _ = np.broadcast_arrays(*GRID.coordinates())
    body = (x / 21) ** 2 + (y / 18) ** 2 < 1
    return body * 1.0 + 2.0 * ((x - 8) ** 2 + y**2 < 30) * body


def scan(A, counts=1.5e5, seed=1):
    """(likelihood, model, truth): counts of a scan, a fifth of them background."""
    truth = activity()
    scale = counts / A(truth).sum()
    model = AcquisitionModel(A, factors=scale, background=0.2 * counts / np.prod(A.out_shape))
    counted = np.random.default_rng(seed).poisson(model(truth)).astype(float)
    return PoissonLikelihood(counted, model), model, truth


def matrices(f, prior, x):
    """F and R of all voxels."""
    A, n = dense(f.model.projector), x.size
    weights = (f.model.factors**2 / f.model(x)).ravel()
    eye = np.eye(n).reshape(n, *x.shape)
    R = prior.hessian_vector(np.broadcast_to(x, eye.shape).copy(), eye).reshape(n, n)
    return A.T @ (weights[:, None] * A), R


PRIOR = 3.0 * Quadratic()


@pytest.fixture(scope="module")
def case():
    f, _, _ = scan(spect())
    x = lbfgsb_scipy(f, PRIOR, n_iterations=100)
    F, R = matrices(f, PRIOR, x)
    free = PenalisedEstimate(f, PRIOR, x).free
    i = np.flatnonzero(free)
    inverse = np.linalg.inv((F + R)[np.ix_(i, i)])
    covariance, response = np.zeros((2, x.size, x.size))
    covariance[np.ix_(i, i)] = inverse @ F[np.ix_(i, i)] @ inverse
    response[i] = inverse @ F[i]
    return f, x, free, covariance, response


def test_the_map_is_that_of_the_whole_matrix(case):
    f, x, free, covariance, _ = case
    expected = np.sqrt(np.diag(covariance)).reshape(x.shape)
    found = standard_deviation_map(f, PRIOR, x)
    assert found.shape == x.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not found[~free].any()
    assert relative_error(standard_deviation_map(f + PRIOR, None, x), expected) < 1e-6
    assert relative_error(standard_deviation_map([f.subset(k, 3) for k in range(3)], PRIOR, x), expected) < 1e-6
    low = standard_deviation_map(f, PRIOR, torch.tensor(x, dtype=torch.float32))
    assert low.dtype == torch.float32
    assert relative_error(low, expected) < 1e-3


@pytest.mark.parametrize("method", ["probing", "sampling"])
def test_estimators_keep_their_word(case, method):
    f, x, free, covariance, _ = case
    expected = np.sqrt(np.diag(covariance)).reshape(x.shape)
    found = PenalisedEstimate(f, PRIOR, x).standard_deviation(method=method, tolerance=0.06)
    off = found.image[free] / expected[free] - 1
    assert found.method == method
    assert found.relative_error <= 0.06
    assert 0.3 * found.relative_error < np.sqrt(np.mean(off**2)) < 1.5 * found.relative_error
    again = standard_deviation_map(f, PRIOR, x, method=method, tolerance=0.06)
    np.testing.assert_array_equal(again, found.image)


def test_masks_filters_and_single_voxels(case):
    f, x, _, covariance, _ = case
    blur = GaussianBlur(GRID, 8.0)
    G = dense(blur)
    expected = np.sqrt(np.diag(G @ covariance @ G.T)).reshape(x.shape)
    assert relative_error(standard_deviation_map(f, PRIOR, x, filter=blur), expected) < 1e-6
    mask = np.zeros(x.shape, bool)
    mask[4, 3:6, 1] = True
    found = standard_deviation_map(f, PRIOR, x, mask=mask)
    np.testing.assert_allclose(found[mask] ** 2, np.diag(covariance)[mask.ravel()], rtol=5e-3)
    assert np.isnan(found[~mask]).all()
    region = RegionOfInterest("middle", mask)
    np.testing.assert_array_equal(standard_deviation_map(f, PRIOR, x, mask=region), found)


def test_regions_and_their_covariance(case):
    f, x, _, covariance, _ = case
    one, two = np.zeros((2, *x.shape))
    one[3:5, 3:6], two[5:7, 3:6, :2] = 1, 0.5
    W = np.stack([w.ravel() / w.sum() for w in (one, two)])
    estimate = PenalisedEstimate(f, PRIOR, x)
    np.testing.assert_allclose(estimate.region_covariance([one, two]), W @ covariance @ W.T, rtol=2e-2)
    np.testing.assert_allclose(estimate.region_deviation([one]) ** 2, [(W @ covariance @ W.T)[0, 0]], rtol=5e-3)


def test_a_batch_has_a_map_per_item(case):
    f, x, _, _, _ = case
    both = np.stack([x, 1.5 * x])
    for method in ("exact", "probing"):
        found = standard_deviation_map(f, PRIOR, both, method=method, tolerance=0.1)
        if method == "exact":
            for image, own in zip(both, found):
                assert relative_error(own, standard_deviation_map(f, PRIOR, image)) < 1e-9
        else:
            assert found.shape == both.shape
            assert relative_error(found, standard_deviation_map(f, PRIOR, both)) < 0.15


@pytest.mark.slow
def test_events_have_the_information_of_their_sinogram():
    binned, listed, _, _ = likelihoods_of_one_scan(False)
    prior = 20.0 * Huber(0.02)
    x = lbfgsb_scipy(binned, prior, n_iterations=60)
    expected, found = (standard_deviation_map(f, prior, x) for f in (binned, listed))
    moved = expected > 0
    ratio = found[moved] / expected[moved]
    assert abs(np.median(ratio) - 1) < 0.1
    drawn = PenalisedEstimate(listed, prior, x).samples(200, np.random.default_rng(0))
    assert abs(np.median(drawn.std(0)[moved] / found[moved]) - 1) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("system", [spect, pet])
def test_the_map_is_what_realisations_show(system):
    """Of the minimiser of 300 scans: the ratio is 0.9 to 1.1 in 90 % of the object, at a sampling error of 4 %."""
    A = system()
    f, model, truth = scan(Batched(dense(A), A.in_shape, A.out_shape))
    prior, n = 60.0 * Quadratic(neighbours=6), 300
    counts = np.random.default_rng(5).poisson(model(truth), (n, *A.out_shape)).astype(np.float32)
    many = PoissonLikelihood(counts, model)
    images = run(lbfgsb(many, prior, np.broadcast_to(truth.astype(np.float32), (n, *truth.shape)).copy()), 16)
    one = run(lbfgsb(f, prior, truth), 30)
    inside = truth > 0
    ratio = standard_deviation_map(f, prior, one)[inside] / images.std(0, ddof=1)[inside]
    assert np.mean(abs(ratio - 1) < 0.1) > 0.9
    assert abs(np.mean(ratio) - 1) < 0.03


def test_curvatures_that_change_within_the_noise_are_averaged():
    """Realisations with much noise and an edge-preserving prior: the ratio is 1, and lower with one curvature alone."""
    A = spect()
    _, model, truth = scan(Batched(dense(A), A.in_shape, A.out_shape), counts=3e5)
    prior, n = 3.0 * RelativeDifference(2.0, epsilon=1e-3, neighbours=6), 200
    start = truth.astype(np.float32) + 0.1
    counts = np.random.default_rng(5).poisson(model(truth), (n, *A.out_shape)).astype(np.float32)
    many = run(lbfgsb(PoissonLikelihood(counts, model), prior, np.broadcast_to(start, (n, *truth.shape)).copy()), 25)
    f = PoissonLikelihood(model(truth).astype(np.float32), model)
    image = run(lbfgsb(f, prior, start), 40)
    inside = truth > 0
    averaged, alone = (
        PenalisedEstimate(f, prior, image, n_averaged=k).standard_deviation().image[inside] for k in (8, 0)
    )
    sample = many.std(0, ddof=1)[inside]
    assert abs(np.mean(averaged / sample) - 1) < 0.04
    assert np.mean(alone / sample) < np.mean(averaged / sample) - 0.02


class Gaussian:
    """f(x) = |A x - y|^2 / 2, without more than the protocol asks for."""

    def __init__(self, y, A):
        self.y, self.A = y, A
        self.sensitivity = A.T(A(A.ones_image()))

    def value(self, x):
        return ((self.A(x) - self.y) ** 2).sum() / 2

    def gradient(self, x):
        return self.A.T(self.A(x) - self.y)

    def subset(self, k, n):
        return Gaussian(self.y[k::n], self.A.subset(k, n))


@pytest.mark.slow
def test_likelihoods_of_ones_own():
    A, prior = spect(), 5.0 * Quadratic()
    x = activity() + 1.0
    f = Gaussian(A(x), A)
    matrix = dense(A)
    R = matrices(PoissonLikelihood(A(x), AcquisitionModel(A)), prior, x)[1]
    inverse = np.linalg.inv(matrix.T @ matrix + R)
    expected = np.sqrt(np.diag(inverse @ matrix.T @ matrix @ inverse)).reshape(x.shape)
    assert relative_error(standard_deviation_map(f, prior, x), expected) < 1e-5
    assert relative_error(standard_deviation_map(f, prior, x, method="probing", tolerance=0.05), expected) < 0.08
    with pytest.raises(ValueError, match="bin by bin"):
        standard_deviation_map(f, prior, x, method="sampling")


def test_the_point_response_is_the_change_of_the_mean(case):
    f, x, _, _, response = case
    voxel = (4, 5, 1)
    found = local_point_response(f, PRIOR, x, voxel)
    column = np.ravel_multi_index(voxel, x.shape)
    np.testing.assert_allclose(found.ravel(), response[:, column], atol=5e-3 * found.max())
    both = local_point_response(f, PRIOR, x, [voxel, (3, 4, 0)])
    assert both.shape == (2, *x.shape)
    assert relative_error(both[0], found) < 0.01
    peaks = contrast_recovery_map(f, PRIOR, x, method="exact")
    assert peaks[voxel] == pytest.approx(found[voxel], rel=0.01)
    near = contrast_recovery_map(f, PRIOR, x, method="probing", tolerance=0.05)
    assert relative_error(near, peaks) < 0.1


def test_the_point_response_by_finite_differences():
    _, model, truth = scan(spect())
    base, prior, voxel = truth + 0.5, 30.0 * Quadratic(), (4, 4, 1)
    more = base.copy()
    more[voxel] += 0.05
    images = [lbfgsb_scipy(PoissonLikelihood(model(x), model), prior, base, tolerance=1e-15) for x in (base, more)]
    f = PoissonLikelihood(model(base), model)
    difference = (images[1] - images[0]) / 0.05
    assert relative_error(local_point_response(f, prior, images[0], voxel), difference) < 0.05
    unit = np.zeros((1, *truth.shape))
    unit[0, *voxel] = 1
    exact = PenalisedEstimate(
        f, prior, images[0], observed=True, solver_tolerance=1e-4
    )  # the prior's bias is in H then
    assert relative_error(exact.response_vector(unit)[0], difference) < 0.01


def test_widths_of_gaussians():
    grid = ImageGrid((25, 22, 9), (2.0, 2.5, 4.0))
    x, y, z = grid.coordinates()
    image = np.exp(-4 * np.log(2) * ((x / 6.0) ** 2 + (y / 7.7) ** 2 + (z / 11.0) ** 2))
    widths = response_widths(image, grid.voxel_size)
    np.testing.assert_allclose(widths, (6.0, 7.7, 11.0), rtol=2e-3)
    tenth = response_widths(image, grid.voxel_size, fraction=0.1)
    assert tenth.x == pytest.approx(6.0 * np.sqrt(np.log(10) / np.log(2)), rel=2e-3)
    unit = np.zeros((9, 9, 1))
    unit[4, 4] = 1
    of_voxel = response_widths(unit, (1.0, 1.0, 1.0))
    assert of_voxel.x == pytest.approx(1.2067, abs=2e-3)
    assert np.isnan(of_voxel.z)
    assert np.isnan(response_widths(np.ones((5, 5, 5)) + unit[:5, :5], (1, 1, 1)).x)


def test_what_cannot_be_is_explained(case):
    f, x, free, _, _ = case
    for options, message in (
        ({"method": "magic"}, "unknown method 'magic'; choose from auto"),
        ({"tolerance": 0}, "tolerance must be between 0 and 1"),
        ({"at_once": 0}, "at_once must be at least 1"),
        ({"mask": np.ones((2, 2, 2))}, "mask of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            standard_deviation_map(f, PRIOR, x, **options)
    with pytest.raises(ValueError, match="does not fit"):
        standard_deviation_map(f, PRIOR, x[:-1])
    with pytest.raises(ValueError, match="finite and not negative"):
        standard_deviation_map(f, PRIOR, -x)
    with pytest.raises(TypeError, match="needs a prior with a gradient"):
        standard_deviation_map(f, TotalVariation(), x)
    with pytest.raises(TypeError, match="takes a likelihood"):
        standard_deviation_map(f.model, PRIOR, x)
    with pytest.raises(RuntimeError, match="prior too weak, or is there none"):
        standard_deviation_map(f, None, x + 1, mask=np.arange(x.size).reshape(x.shape) == 120)
    with pytest.raises(ValueError, match="outside of the image"):
        local_point_response(f, PRIOR, x, (4, 4, 3))
    with pytest.raises(ValueError, match="three whole numbers"):
        local_point_response(f, PRIOR, x, (4.5, 4, 1))
    held = tuple(np.argwhere(~free)[0])
    with pytest.raises(ValueError, match="held at 0"):
        local_point_response(f, PRIOR, x, held)
    with pytest.raises(ValueError, match="fraction must be between"):
        response_widths(x, (1, 1, 1), fraction=1)
