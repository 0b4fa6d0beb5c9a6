"""Kernels for the steps of SVRG, trained through the engine."""

import itertools

import numpy as np
import pytest
import torch

from emrecon import recon
from emrecon.projectors import AcquisitionModel, ImageGrid, PETProjector, PETScanner, PETSinogram
from emrecon.sims import poisson
from emrecon.unrolled import SolvedScan, train_kernel_steps
from emrecon.unrolled.training.kernel_steps import unrolled_loss


@pytest.fixture(scope="module")
def solved():
    grid = ImageGrid((12, 10, 3), (8.0, 8.0, 6.0))
    scanner = PETScanner.polygon(sides=12, crystals_per_side=4, radius=120, rings=2, ring_pitch=12.0)
    system = PETProjector(grid, PETSinogram(scanner, n_radial=21))
    x, y, z = grid.coordinates()
    body = (np.hypot(x, 1.2 * y) < 40) * np.ones_like(z)
    hot = (x - 12) ** 2 + y**2 + z**2 < 11**2
    model = AcquisitionModel(system, np.float32(0.2), np.float32(1.0))
    f = recon.PoissonLikelihood(poisson(model((body + 3 * hot).astype(np.float32)), 0), model)
    start = recon.run(recon.osem(f, n_subsets=4), 1)
    prior = 2.0 * recon.RelativeDifference(epsilon=1e-3 * float(start.max()), voxel_size=grid.voxel_size)
    solution = recon.lbfgsb_scipy(f, prior, start, n_iterations=300, tolerance=1e-13)
    inside = body > 0
    return SolvedScan([f.subset(k, 4) for k in range(4)], prior, start, solution, inside, inside & ~hot, [hot])


def test_the_distance_is_one_at_petrics_thresholds(solved):
    level = solved.solution[solved.background].mean()
    image = torch.as_tensor(solved.solution + 0.01 * level)
    assert float(solved.distance(image)) == pytest.approx(np.sqrt((1 + 1 + 4) / 3))
    assert float(solved.distance(torch.as_tensor(solved.solution))) == 0


def test_training_lowers_the_loss_and_keeps_the_solution(solved):
    told = []
    plain = train_kernel_steps([solved], 3, 0)
    learned = train_kernel_steps(
        [solved], 3, 12, rate=0.1, batch=1, about={"of": "a test"}, told=lambda *row: told.append(row)
    )
    with torch.no_grad():
        assert float(unrolled_loss(solved, learned)) < float(unrolled_loss(solved, plain)) - 0.1
    assert [step for step, _ in told] == list(range(12))
    assert learned.about["of"] == "a test"
    assert isinstance(learned.gains, np.ndarray)
    assert learned.gains.std() > 0
    far = recon.run(recon.svrg(list(solved.parts), solved.prior, solved.start, preconditioner=learned), 30)
    assert recon.nrmse(far, solved.solution) < 5e-3


def test_the_first_kernels_are_the_plain_steps_and_the_control_has_numbers(solved):
    plain = train_kernel_steps([solved], 3, 0)
    np.testing.assert_allclose(plain.gains[:, 0, 0], [recon.StepDown()(n) for n in range(3)], rtol=1e-6)
    control = train_kernel_steps([solved], 2, 2, scalar=True)
    assert (control.gains == control.gains[:, :1, :1]).all()
    again = train_kernel_steps([solved], 2, 0, begin=control)
    np.testing.assert_allclose(again.gains, control.gains, rtol=1e-6)
    with pytest.raises(ValueError, match="no scans"):
        train_kernel_steps([], 2, 2)


def test_the_kernels_that_come_with_the_library_serve(solved):
    steps = recon.trained_steps()
    assert steps.n_passes >= 4
    assert steps.about["data"]
    iterates = recon.svrg(list(solved.parts), solved.prior, solved.start, preconditioner=steps)
    images = [iterate.image for iterate in itertools.islice(iterates, steps.n_passes + 20)]
    assert recon.nrmse(images[-1], solved.solution) < 1e-2
