"""The noise of early-stopped OSEM against realisations and whole Jacobians; bootstrap of sinograms and of events."""

import numpy as np
import pytest
import torch
from battery import MatrixProjector, dense, relative_error
from pet_cases import likelihoods_of_one_scan

from emrecon.projectors import AcquisitionModel, GaussianBlur, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector
from emrecon.recon import (
    IteratedEstimate,
    ListmodeLikelihood,
    PoissonLikelihood,
    bootstrap,
    bootstrap_counts,
    bootstrap_statistics,
    ensemble_statistics,
    osem,
    realisations,
    run,
)

GRID = ImageGrid((7, 7, 2), 6.0)
CAMERA = SPECTGeometry.circular(8, 40, (7, 2), 6.0)


class Matrix(MatrixProjector):
    """A matrix with subsets that takes many images at once."""

    def subset(self, k, n):
        views = self.matrix.reshape(*self.out_shape, -1)[k::n]
        return Matrix(views.reshape(-1, views.shape[-1]), self.in_shape, views.shape[:-1])

    def _forward_batch(self, x):
        return (x.reshape(len(x), -1) @ self._matrix_like(x).T).reshape(-1, *self.out_shape)

    def _adjoint_batch(self, y):
        return (y.reshape(len(y), -1) @ self._matrix_like(y)).reshape(-1, *self.in_shape)


@pytest.fixture(scope="module")
def case():
    A = SPECTProjector(GRID, CAMERA, None, LinearResponse(0.03, 2.0))
    x, y, _ = np.broadcast_arrays(*GRID.coordinates())
    truth = ((x / 18) ** 2 + (y / 16) ** 2 < 1) + 2.0 * (x**2 + (y - 6) ** 2 < 40)
    model = AcquisitionModel(Matrix(dense(A), A.in_shape, A.out_shape), 30.0, 4.0)
    return PoissonLikelihood(np.random.default_rng(1).poisson(model(truth)).astype(float), model), truth


def test_propagation_is_the_jacobian_of_osem(case):
    f, _ = case
    estimate = IteratedEstimate(f, None, 2, 3)
    np.testing.assert_allclose(estimate.image, run(osem(f, None, 2), 3), rtol=1e-12)
    rng = np.random.default_rng(2)
    change = rng.normal(size=f.data.shape) * 1e-4
    images = [run(osem(PoissonLikelihood(f.data + s * change, f.model), None, 2), 3) for s in (1, -1)]
    moved = estimate._forth([change[None, k::2] for k in range(2)])[0]
    assert relative_error(moved, (images[0] - images[1]) / 2) < 1e-5
    v = rng.normal(size=(1, *GRID.shape))
    back = estimate._back(v)
    assert sum(np.vdot(u[0], change[k::2]) for k, u in enumerate(back)) == pytest.approx(np.vdot(v, moved), rel=1e-9)


def test_deviations_of_osem_are_what_realisations_show(case):
    f, truth = case
    n, blur = 400, GaussianBlur(GRID, 8.0)
    counts = np.random.default_rng(3).poisson(f.model(truth), (n, *f.data.shape)).astype(float)
    images = run(osem(PoissonLikelihood(counts, f.model), None, 2), 4)
    regions = [truth > 2, truth > 0]
    for operator in (None, blur):
        estimate = IteratedEstimate(f, None, 2, 4)
        shown = images if operator is None else operator(images)
        whole = estimate if operator is None else estimate.filtered(operator)
        ratio = whole.standard_deviation(method="exact").image[truth > 0] / shown.std(0, ddof=1)[truth > 0]
        assert np.mean(abs(ratio - 1) < 0.1) > 0.85  # of the image of one scan
        assert abs(ratio.mean() - 1) < 0.04
        means = np.stack([shown[:, region].mean(1) for region in regions])
        np.testing.assert_allclose(whole.region_deviation(regions), means.std(1, ddof=1), rtol=0.12)
        found = whole.region_covariance(regions)
        assert found[0, 1] / np.sqrt(found[0, 0] * found[1, 1]) == pytest.approx(np.corrcoef(means)[0, 1], abs=0.1)
    drawn = IteratedEstimate(f, None, 2, 4, counts="measured").samples(400, np.random.default_rng(0))
    assert abs(np.median(drawn.std(0)[truth > 0] / images.std(0)[truth > 0]) - 1) < 0.06
    probed = IteratedEstimate(f, None, 2, 4).standard_deviation(method="probing", tolerance=0.05)
    exact = IteratedEstimate(f, None, 2, 4).standard_deviation(method="exact")
    assert relative_error(probed.image, exact.image) < 0.08


def test_bootstrap_of_counts_has_its_moments():
    y = np.array([0.0, 3, 50, 200])
    for kind, variance, more in (
        ("poisson", y, {}),
        ("multinomial", y * (1 - y / y.sum()), {}),
        ("binomial", 0.25 * 0.75 * y, {"fraction": 0.25}),
        ("expected", y + 1, {"expected": y + 1}),
    ):
        drawn = bootstrap_counts(y, 4000, kind=kind, **more)
        mean = 0.25 * y if kind == "binomial" else y + (kind == "expected")
        np.testing.assert_allclose(drawn.mean(0), mean, atol=5 * np.sqrt(variance.max() / 4000) + 1e-9)
        np.testing.assert_allclose(drawn.var(0), variance, rtol=0.12, atol=1e-9)
        if kind == "multinomial":
            assert (drawn.sum(1) == y.sum()).all()
    tensors = bootstrap_counts(torch.tensor(y), 3, seed=4)
    np.testing.assert_array_equal(tensors, bootstrap_counts(y, 5, seed=4)[:3])
    np.testing.assert_array_equal(bootstrap_counts(y, 5, seed=4)[2:], bootstrap_counts(y, 3, seed=4, first=2))


def test_weights_of_events_are_counts():
    _, listed, _, _ = likelihoods_of_one_scan(False)
    n = listed.model.projector.out_shape[0]
    weights = np.random.default_rng(0).integers(0, 3, (2, n)).astype(float)
    f = ListmodeLikelihood(listed.model, listed.sensitivity, weights)
    x = np.full((2, *listed.image_shape), 0.1)
    lists = [np.repeat(np.arange(n), w.astype(int)) for w in weights]
    gradient, values = f.gradient(x), f.value(x)
    ratio = 1 / listed.model(x[0])
    for k, events in enumerate(lists):
        assert values[k] == pytest.approx((listed.sensitivity * x[0]).sum() + np.log(ratio[events]).sum(), rel=1e-12)
        again = np.bincount(events, minlength=n) * ratio
        np.testing.assert_allclose(gradient[k], listed.sensitivity - listed.model.adjoint(again), atol=1e-9)
    parts = [f.subset(k, 3) for k in range(3)]
    np.testing.assert_allclose(sum(part.gradient(x) for part in parts), gradient, atol=1e-9)
    assert f.total_counts(x).ravel().tolist() == weights.sum(1).tolist()
    assert f.ones_image().shape == x.shape
    once = ListmodeLikelihood(listed.model, listed.sensitivity, np.ones(n))
    np.testing.assert_allclose(run(osem(once, None, 2), 1), run(osem(listed, None, 2), 1), rtol=1e-9)
    with pytest.raises(ValueError, match="weights of shape"):
        ListmodeLikelihood(listed.model, listed.sensitivity, weights[:, :-1])
    with pytest.raises(ValueError, match="weights must be finite"):
        ListmodeLikelihood(listed.model, listed.sensitivity, -weights)


def test_bootstrap_images_show_the_noise(case):
    f, truth = case

    def reconstruct(g):
        return run(osem(g, None, 2), 3)

    for kind, image in (("poisson", None), ("multinomial", None), ("expected", truth)):
        found = bootstrap_statistics(reconstruct, f, 150, truth, at_once=64, kind=kind, image=image)
        expected = IteratedEstimate(f, None, 2, 3).standard_deviation(method="exact").image
        assert abs(np.median(found.deviation[truth > 0] / expected[truth > 0]) - 1) < 0.12
    few, many = (list(realisations(reconstruct, f, 5, at_once=n)) for n in (2, 5))
    np.testing.assert_allclose(few, many, rtol=1e-6)


def test_bootstrap_of_events_is_that_of_their_sinogram():
    binned, listed, _, _ = likelihoods_of_one_scan(False)

    def reconstruct(g):
        return run(osem(g, None, 1), 3)

    start = np.ones(binned.image_shape)
    ones, others = (
        ensemble_statistics(realisations(reconstruct, f, 60, kind="multinomial"), start) for f in (binned, listed)
    )
    assert abs(np.median(ones.deviation / others.deviation) - 1) < 0.15
    half = bootstrap(listed, 2, kind="binomial", fraction=0.5)
    assert half.total_counts(start[None]).ravel().mean() == pytest.approx(
        listed.model.projector.out_shape[0] / 2, rel=0.2
    )
    assert relative_error(run(osem(half, None, 1), 1).mean(), run(osem(listed, None, 1), 1).mean()) < 0.1


def test_what_cannot_be_drawn_is_explained(case):
    f, truth = case
    for arguments, message in (
        ({"kind": "magic"}, "unknown kind 'magic'; choose from poisson"),
        ({"kind": "expected"}, "an image belongs to the kind"),
        ({"image": truth}, "an image belongs to the kind"),
        ({"fraction": 0}, "fraction must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            bootstrap(f, 2, **arguments)
    with pytest.raises(ValueError, match="no whole numbers"):
        bootstrap_counts(f.data + 0.5, 2, kind="multinomial")
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_counts(f.data, 0)
    with pytest.raises(ValueError, match="a batch of shape"):
        bootstrap(bootstrap(f, 2), 2)
    with pytest.raises(TypeError, match="takes a PoissonLikelihood"):
        bootstrap(f.model, 2)
    with pytest.raises(ValueError, match="unknown counts"):
        IteratedEstimate(f, counts="both")
    with pytest.raises(ValueError, match="n_iterations must be"):
        IteratedEstimate(f, n_iterations=0)
    _, listed, _, _ = likelihoods_of_one_scan(False)
    with pytest.raises(ValueError, match="is for sinograms"):
        bootstrap(listed, 2, kind="expected")
