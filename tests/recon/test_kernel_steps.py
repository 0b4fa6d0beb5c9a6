"""Learned kernels in place of step sizes: positive definite, the fixed points of the plain engine, the right scale."""

import itertools

import numpy as np
import pytest

from emrecon import recon
from emrecon.projectors import AcquisitionModel, ImageGrid, PETProjector, PETScanner, PETSinogram
from emrecon.projectors.core.errors import FormatError
from emrecon.recon.engines.kernel_steps import kernel
from emrecon.sims import poisson

GRID = ImageGrid((14, 12, 3), (8.0, 8.0, 6.0))


def scan(scale=1.0, unit=1.0, dtype=np.float64):
    """A small PET scan; `scale` times the counts (without new noise), activity in another unit."""
    scanner = PETScanner.polygon(sides=12, crystals_per_side=4, radius=120, rings=2, ring_pitch=12.0)
    system = PETProjector(GRID, PETSinogram(scanner, n_radial=23))
    x, y, z = GRID.coordinates()
    body = (np.hypot(x, 1.2 * y) < 45) + 3.0 * ((x - 15) ** 2 + y**2 + z**2 < 12**2) - (np.hypot(x + 20, y) < 10)
    expected = 0.2 * system(np.maximum(body, 0.0)) + 1.0
    counts = scale * poisson(expected, 0)
    model = AcquisitionModel(
        system, (0.2 * scale / unit * np.ones_like(expected)).astype(dtype), scale * np.ones_like(expected)
    )
    f = recon.PoissonLikelihood(counts.astype(dtype), model)
    start = recon.run(recon.osem(f, f.ones_image().astype(dtype) * unit, 4), 1)
    prior = 2.0 * scale / unit * recon.RelativeDifference(epsilon=1e-3 * float(start.max()), voxel_size=GRID.voxel_size)
    return f, prior, start


def steps(n=3, seed=0):
    random = np.random.default_rng(seed)
    return recon.KernelSteps(np.exp(random.normal(0, 0.3, (n, 2, 6))), np.exp(random.normal(0.4, 0.2, n)))


@pytest.mark.parametrize("shape", [(4, 3, 3), (5, 4, 1)])
def test_the_eigenvalues_of_a_kernel_lie_between_its_gains(shape):
    gains = np.array([0.4, 1.0, 2.5, 0.7, 3.0, 1.5])
    basis = np.eye(np.prod(shape)).reshape(-1, *shape)
    dense = kernel(basis, gains).reshape(len(basis), -1)
    np.testing.assert_allclose(dense, dense.T, atol=1e-14)
    values = np.linalg.eigvalsh(dense)
    assert values.min() > 0.4
    assert values.max() < 3.0


def test_a_kernel_has_its_gains_at_the_corners_of_the_band():
    """Far from the edges waves of frequency 0 or Nyquist are multiplied by their gain."""
    gains, signs = np.array([0.4, 1.0, 2.5, 0.7, 3.0, 1.5]), (-1.0) ** np.arange(7)
    for fx, fy, fz in itertools.product((0, 1), repeat=3):
        wave = signs[:, None, None] ** fx * signs[:, None] ** fy * signs**fz
        answer = kernel(wave, gains)[3, 3, 3] / wave[3, 3, 3]
        assert answer == pytest.approx(gains[fx + fy + 3 * fz])


def test_the_metric_is_positive_definite_where_something_is_seen():
    f, prior, start = scan()
    metric = steps().metric(start, np.where(start > start.mean(), f.sensitivity, 0.0), prior, 0)
    random = np.random.default_rng(1)
    a, b = (random.normal(size=start.shape) for _ in range(2))
    assert np.sum(a * metric(b)) == pytest.approx(np.sum(b * metric(a)))
    assert np.sum(a * metric(a)) > 0
    assert not metric(a)[start <= start.mean()].any()


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_an_optimum_stays_exactly(library):
    """x g = 0 and g >= 0 where x = 0: neither the voxels that are held nor their neighbours move."""
    f, prior, start = scan()
    random = np.random.default_rng(2)
    x = np.where(random.uniform(size=start.shape) < 0.5, 0.0, start)
    g = np.where(x == 0, random.uniform(0, 5, start.shape), 0.0)
    s = f.sensitivity_like(x)
    if library == "torch":
        torch = pytest.importorskip("torch")
        x, g, s = (torch.as_tensor(v) for v in (x, g, s))
    metric = steps().metric(x, s, prior, 0)
    assert bool((metric.step(x, g) == x).all())
    assert bool((metric.step(x, 0 * g) == x).all())
    assert not bool((metric.step(x, -g) == x).all())
    high = float(x.max())
    assert bool((metric.step(0 * x + high, -abs(g), 1.0, high) == high).all())


def test_the_engine_stays_at_the_solution_and_finds_it():
    f, prior, start = scan()
    solution = recon.lbfgsb_scipy(f, prior, start, n_iterations=400, tolerance=1e-15)
    stays = recon.run(recon.svrg(f, prior, solution, 4, preconditioner=steps()), 6)
    assert recon.nrmse(stays, solution) < 1e-4
    found = recon.run(recon.svrg(f, prior, start, 4, preconditioner=steps()), 40)
    assert recon.nrmse(found, solution) < 4e-3
    assert recon.nrmse(recon.run(recon.saga(f, prior, start, 4, preconditioner=steps()), 40), solution) < 4e-3


def test_the_mean_step_over_the_subsets_goes_downhill():
    f, prior, start = scan()
    whole, parts = f + prior, [f.subset(k, 4) for k in range(4)]
    metric = steps().metric(start, f.sensitivity, prior, 0)
    free = [4 * part.gradient(start) + prior.gradient(start) for part in parts]
    mean = sum(metric(g) for g in free) / 4
    np.testing.assert_allclose(mean, metric(whole.gradient(start)), atol=1e-10)
    assert np.sum(mean * whole.gradient(start)) > 0
    values = [whole.value(metric.step(start, whole.gradient(start), length)) for length in (0.0, 0.05, 0.1)]
    assert values[0] > values[1] > values[2]


def test_steps_scale_with_counts_and_with_the_unit_of_the_activity():
    plain, more, other = (
        recon.run(recon.svrg(*scan(**how), 4, preconditioner=steps()), 4)
        for how in ({}, {"scale": 8.0}, {"unit": 50.0})
    )
    np.testing.assert_allclose(more, plain, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(other, 50 * plain, rtol=1e-8, atol=1e-8)


def test_without_kernels_the_engine_is_the_plain_one():
    f, prior, start = scan()
    none = recon.KernelSteps(np.ones((0, 2, 6)), np.ones(0))
    plain = recon.run(recon.svrg(f, prior, start, 4), 4)
    np.testing.assert_array_equal(recon.run(recon.svrg(f, prior, start, 4, preconditioner=none), 4), plain)


def test_equal_gains_are_steps_by_the_prior_aware_diagonal():
    """Where no voxel is held at 0 (the plain engine lets those speak to nobody either)."""
    f, prior, start = scan()
    x, g = np.maximum(start, 0.2), (f + prior).gradient(start)
    same = recon.KernelSteps(np.full((1, 2, 6), 0.7), np.array([1.5]))
    diagonal = recon.PriorAware(1.5, 1e-3)(x, f.sensitivity, prior)
    expected = recon.gradient_step(x, g, diagonal, 0.7)
    np.testing.assert_allclose(same.metric(x, f.sensitivity, prior, 0).step(x, g), expected, rtol=1e-10, atol=1e-12)


def test_a_run_goes_on_exactly():
    f, prior, start = scan(dtype=np.float32)
    learned = steps(5)
    at = next(itertools.islice(recon.svrg(f, prior, start, 4, preconditioner=learned), 2, None))
    rest = recon.run(recon.svrg(f, prior, at, 4, preconditioner=learned), 3)
    np.testing.assert_array_equal(rest, recon.run(recon.svrg(f, prior, start, 4, preconditioner=learned), 6))


@pytest.mark.slow
def test_numpy_and_torch_agree_and_gradients_reach_the_gains():
    torch = pytest.importorskip("torch")
    f, prior, start = scan()
    learned = steps(3)
    gains = torch.tensor(learned.gains, requires_grad=True)
    by_torch = recon.KernelSteps(gains, torch.tensor(learned.weights))
    image = recon.run(recon.svrg(f, prior, torch.as_tensor(start), 4, preconditioner=by_torch), 3)
    expected = recon.run(recon.svrg(f, prior, start, 4, preconditioner=learned), 3)
    np.testing.assert_allclose(image.detach().numpy(), expected, rtol=1e-9, atol=1e-10)
    (image**2).sum().backward()
    assert bool((gains.grad != 0).all())


def test_shapes_signs_and_engines_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="gains"):
        recon.KernelSteps(np.ones((2, 6)), np.ones(2))
    with pytest.raises(ValueError, match="positive"):
        recon.KernelSteps(-np.ones((2, 2, 6)), np.ones(2))
    f, prior, start = scan()
    with pytest.raises(TypeError, match="svrg"):
        recon.bsrem(f, prior, start, preconditioner=steps())


def test_files_of_steps(tmp_path):
    path = tmp_path / "steps.json"
    steps().save(path)
    again = recon.KernelSteps.load(path)
    np.testing.assert_allclose(again.gains, steps().gains, atol=1e-5)
    path.write_text('{"format": "emrecon-kernel-steps", "gains": [1]}')
    with pytest.raises(FormatError, match=r"steps\.json"):
        recon.KernelSteps.load(path)
    path.write_text("{}")
    with pytest.raises(FormatError, match="not a file of learned steps"):
        recon.KernelSteps.load(path)
