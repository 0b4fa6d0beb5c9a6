"""Voxels that nothing sees are 0 and stay 0: in every engine, for every likelihood, whatever start and prior say."""

from itertools import islice

import numpy as np
import pytest
import torch

from emrecon import projectors, unrolled
from emrecon.projectors import AcquisitionModel, DenseOperator, ListmodeProjector, PETScanner, PETSinogram
from emrecon.recon import (
    KernelCoefficients,
    KKTRule,
    ListmodeLikelihood,
    PoissonLikelihood,
    Quadratic,
    TotalVariation,
    TransmissionLikelihood,
    bsrem,
    em_step,
    kem,
    kernel_matrix,
    kkt_residual,
    lbfgsb,
    lbfgsb_scipy,
    map_em,
    mlem,
    osem,
    osl,
    ostr,
    parameterised_em,
    pdhg,
    pet_problem,
    run,
    saga,
    seen_voxels,
    spdhg,
    svrg,
)

SHAPE, VIEWS, BINS = (5, 4, 2), 6, 9
RNG = np.random.default_rng(0)
SEEN = np.ones(SHAPE, bool)
SEEN[0] = SEEN[3, 2, 1] = False
TRUTH = SEEN * RNG.uniform(0.5, 2.0, SHAPE)
MATRIX = RNG.uniform(0, 1, (VIEWS, BINS, TRUTH.size)) * SEEN.reshape(-1)
MATRIX[::2, :, 30:33] = 0.0  # seen by some subsets alone
PRIOR = 0.5 * Quadratic()
KERNEL = kernel_matrix(RNG.uniform(0, 1, SHAPE), n_neighbours=6, window=3)


class Dense(DenseOperator, projectors.Projector):
    def __init__(self, matrix):
        self.views = matrix
        super().__init__(matrix.reshape(-1, TRUTH.size), SHAPE, (*matrix.shape[:2], 1))

    def subset(self, k, n):
        return Dense(self.views[k::n])


class Gaussian:
    """A user's own likelihood."""

    def __init__(self, y, matrix):
        self.y, self.matrix = y, matrix
        self.sensitivity = (matrix.T @ matrix.sum(1)).reshape(SHAPE)

    def value(self, x):
        return 0.5 * np.sum((self.matrix @ x.reshape(-1) - self.y) ** 2)

    def gradient(self, x):
        return (self.matrix.T @ (self.matrix @ x.reshape(-1) - self.y)).reshape(x.shape)

    def subset(self, k, n):
        return Gaussian(self.y[k::n], self.matrix[k::n])


A = Dense(MATRIX)
MODEL = AcquisitionModel(A, 3.0, 0.2)
COUNTS = RNG.poisson(MODEL(TRUTH)).astype(float)
F = PoissonLikelihood(COUNTS, MODEL)
OWN = Gaussian(MATRIX.reshape(-1, TRUTH.size) @ TRUTH.reshape(-1), MATRIX.reshape(-1, TRUTH.size))
TRANSMISSION = TransmissionLikelihood(RNG.poisson(50 * np.exp(-A(TRUTH) / 10)).astype(float), 50.0, A)
ONES = np.ones(SHAPE)
ENGINES = {
    "osem": lambda f, x: osem(f, x, 3),
    "mlem": lambda f, x: mlem(f, x),
    "map_em": lambda f, x: map_em(f, PRIOR, x, 3),
    "osl": lambda f, x: osl(f, PRIOR, x, 2),
    "bsrem": lambda f, x: bsrem(f, PRIOR, x, 3),
    "svrg": lambda f, x: svrg(f, PRIOR, x, 3),
    "saga": lambda f, x: saga(f, PRIOR, x, 3),
    "lbfgsb": lambda f, x: lbfgsb(f, PRIOR, x),
}
COUNTED = {
    "pdhg": lambda f, x: pdhg(f, 0.1 * TotalVariation(), x),
    "spdhg": lambda f, x: spdhg(f, 0.1 * TotalVariation(), x, 3),
    "kem": lambda f, x: kem(f, KERNEL, x, 3),
}


def assert_nothing_unseen(image):
    assert not np.asarray(image)[..., ~SEEN].any()
    assert np.asarray(image)[..., SEEN].any()


@pytest.mark.parametrize("start", [None, ONES], ids=["own start", "ones"])
@pytest.mark.parametrize("engine", ENGINES)
def test_unseen_voxels_are_0(engine, start):
    for f in (F, OWN):
        for iterate in islice(ENGINES[engine](f, start), 4):
            assert_nothing_unseen(iterate.image)


@pytest.mark.parametrize("start", [None, ONES], ids=["own start", "ones"])
@pytest.mark.parametrize("engine", COUNTED)
def test_unseen_voxels_are_0_where_counts_are_asked_for(engine, start):
    for iterate in islice(COUNTED[engine](F, start), 4):
        assert_nothing_unseen(iterate.image)


def test_unseen_voxels_are_0_in_the_other_loops():
    assert_nothing_unseen(lbfgsb_scipy(F, PRIOR, ONES, n_iterations=20))
    (iterate,) = islice(parameterised_em(F, KernelCoefficients(KERNEL, ONES)), 1)
    assert_nothing_unseen(iterate.image)
    for mu in (None, 0.1 * ONES):
        assert_nothing_unseen(run(ostr(TRANSMISSION, mu, 2, penalty=PRIOR), 2))


def test_seen_voxels_come_out_as_they_did():
    # the EM update by hand, from ones: what is seen does not know of the rest
    flat, y = MATRIX.reshape(-1, TRUTH.size), COUNTS.reshape(-1)
    x = np.ones(TRUTH.size)
    for _ in range(3):
        back = flat.T @ (y / (3 * flat @ x + 0.2))
        x = np.where(SEEN.reshape(-1), x * back / np.maximum(flat.sum(0), 1e-30), 0.0)
    np.testing.assert_allclose(run(mlem(F, ONES), 3), x.reshape(SHAPE), rtol=1e-12)
    assert abs(run(mlem(F), 200).sum() / TRUTH.sum() - 1) < 0.1


def test_the_mask_is_one_call():
    for f in (F, OWN, [F.subset(k, 3) for k in range(3)], F + PRIOR, TRANSMISSION):
        mask = seen_voxels(f)
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, SEEN)
    assert not seen_voxels(F.subset(0, 2)).reshape(-1)[30:33].any()  # what this part sees
    on_torch = seen_voxels(PoissonLikelihood(torch.from_numpy(COUNTS), MODEL))
    assert torch.equal(on_torch, torch.from_numpy(SEEN))
    np.testing.assert_array_equal(F.ones_image(), SEEN)
    np.testing.assert_array_equal(TRANSMISSION.start_image(), 0.01 * SEEN)


def test_a_blank_of_0_sees_nothing():
    blank = np.full(A.out_shape, 50.0)
    blank[:, 3:] = 0.0
    f = TransmissionLikelihood(np.where(blank > 0, 40.0, 0.0), blank, A)
    np.testing.assert_array_equal(seen_voxels(f), SEEN)
    assert not seen_voxels(TransmissionLikelihood(0 * blank, 0 * blank, A)).any()


def test_list_mode_and_a_grid_wider_than_the_scanner():
    scanner = PETScanner.polygon(sides=8, crystals_per_side=4, radius=60.0, rings=2, ring_pitch=4.0)
    sinogram = PETSinogram(scanner, max_ring_difference=1, n_radial=15)
    grid = projectors.ImageGrid((24, 24, 3), 6.0)
    problem = pet_problem(projectors.Scan(np.ones(sinogram.shape, np.float32), sinogram), grid=grid, subsets=4)
    seen = seen_voxels(problem)
    assert 0 < (~seen).sum() < seen.size
    np.testing.assert_array_equal(problem.start, seen)
    assert not run(osem(problem.parts, np.ones(grid.shape, np.float32)), 1)[~seen].any()
    sensitivity = projectors.PETProjector(grid, sinogram).T(np.ones(sinogram.shape, np.float32))
    events = np.array([[0, 16], [3, 19], [40, 56]])
    f = ListmodeLikelihood(AcquisitionModel(ListmodeProjector(grid, scanner, events), background=0.1), sensitivity)
    np.testing.assert_array_equal(seen_voxels(f), seen)
    assert not run(mlem(f, np.ones(grid.shape, np.float32)), 2)[~seen].any()


def test_a_start_where_nothing_is_seen_is_refused():
    with pytest.raises(ValueError, match="no voxel of the start is seen"):
        osem(F, 1.0 * ~SEEN)


def test_em_step_alone_leaves_them_for_other_subsets():
    x = em_step(ONES, F.subset(0, 2)).reshape(-1)
    np.testing.assert_array_equal(x[30:33], 1.0)


def test_what_a_prior_wants_where_nothing_is_seen_is_no_residual():
    solution = run(lbfgsb(F, PRIOR), 300)
    g, g_0 = (F.gradient(x) + PRIOR.gradient(x) for x in (solution, F.ones_image()))
    assert kkt_residual(solution, g, g_0).negative > 1e-3
    assert max(kkt_residual(solution, g, g_0, seen=seen_voxels(F))) < 1e-3
    rule = KKTRule(lambda x: F.gradient(x) + PRIOR.gradient(x), 1e-3, F.ones_image(), seen=seen_voxels(F))
    run(lbfgsb(F, PRIOR), 300, rule)
    assert max(rule.history[-1][1:]) <= 1e-3


def ones_more(x, sigma=None, *, guide=None):
    """A denoiser that fills every voxel."""
    return x + 1.0


@pytest.mark.parametrize("form", ["fuse", "residual", "gradient"])
def test_networks_leave_unseen_voxels_at_0(form):
    f = PoissonLikelihood(torch.from_numpy(COUNTS), MODEL)
    network = unrolled.UnrolledEM(ones_more, 2, form=form, subsets=2)
    for start in (None, torch.ones(SHAPE, dtype=torch.float64)):
        for image in network(f, start, each=True):
            assert_nothing_unseen(image.detach())


def test_plug_and_play_leaves_unseen_voxels_at_0():
    for iterate in islice(unrolled.pnp_em(F, ones_more, ONES, 2, rho=1.0), 3):
        assert_nothing_unseen(iterate.image)
