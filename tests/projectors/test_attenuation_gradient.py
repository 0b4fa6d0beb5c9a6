"""Gradients of what a model is made of besides the image: attenuation maps and factors; and what is constant."""

import pickle

import numpy as np
import pytest
import torch
from spect_cases import OPTIONS, SHAPES, irregular_geometry

from emrecon.projectors import (
    AcquisitionModel,
    DenseOperator,
    Diagonal,
    EffectiveSource,
    GaussianBlur,
    ImageGrid,
    LinearResponse,
    MeasuredBlur,
    MeasuredResponse,
    ParallelBeamGeometry,
    ParallelBeamProjector,
    Resampling,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    SPECTScatterProjector,
    attenuation_factors,
    resample,
)
from emrecon.recon import BowsherWeights, PoissonLikelihood, em_step, kernel_matrix, spect_problem

gradcheck = torch.autograd.gradcheck
RNG = np.random.default_rng(0)


def tensor(*shape, low=0.0, high=1.0):
    return torch.tensor(RNG.uniform(low, high, shape), requires_grad=True)


def system(shape="resampled", options="gaussian"):
    """A grid, and what makes a projector of an attenuation map."""
    slices, rows, pixel, voxel = SHAPES[shape]
    grid = ImageGrid((5, 4, slices), voxel, origin=(-10, -17, -4))
    camera = irregular_geometry((9, rows), pixel)
    return grid, lambda mu: SPECTProjector(grid, camera, mu, **OPTIONS[options])


@pytest.mark.parametrize("options", ["perfect", "gaussian", "direct", "measured", "rays", "rays-gaussian"])
@pytest.mark.parametrize("shape", ["planar", "resampled", "anisotropic"])
def test_the_attenuation_map_gets_its_gradient(shape, options):
    grid, make = system(shape, options)
    x, mu = tensor(*grid.shape), tensor(*grid.shape, high=0.5)
    y = tensor(*make(None).out_shape)
    assert gradcheck(lambda x, mu: make(mu)(x), (x, mu), fast_mode=True)
    assert gradcheck(lambda y, mu: make(mu).T(y), (y, mu), fast_mode=True)


@pytest.mark.parametrize("per_item", [False, True])
def test_batches(per_item):
    grid, make = system("thin")
    x, mu = tensor(2, *grid.shape), tensor(*([2] if per_item else []), *grid.shape, high=0.5)
    assert gradcheck(lambda x, mu: make(mu)(x), (x, mu), fast_mode=True)
    if not per_item:
        nested = tensor(2, 3, *grid.shape)
        assert gradcheck(lambda mu: make(mu)(nested), (mu,), fast_mode=True)


def test_single_precision_and_other_maps():
    grid, make = system("thin")
    x, g = torch.rand(grid.shape), torch.rand(make(None).out_shape)
    mu = (0.5 * torch.rand(grid.shape)).requires_grad_()
    A = make(None).with_attenuation(mu)
    (found,) = torch.autograd.grad((A(x) * g).sum(), mu)
    (double,) = torch.autograd.grad((A(x.double()) * g).sum(), mu)
    assert found.dtype == double.dtype == torch.float32
    torch.testing.assert_close(found, double, rtol=1e-4, atol=1e-5)
    changed = mu.detach().clone()
    changed[2, 1, 1] += 1e-3
    slope = ((make(changed)(x.double()) - make(mu.detach())(x.double())) * g).sum() / 1e-3
    assert found[2, 1, 1] == pytest.approx(float(slope), rel=1e-2)


WRAPPED = {
    "blurred": lambda A: A @ GaussianBlur(A.grid, 6.0),
    "weighted": lambda A: Diagonal(torch.linspace(0.5, 1, 9)[:, None].double(), A.out_shape) @ A,
    "scaled": lambda A: 3.0 * A,
    "added": lambda A: A + 2.0 * A,
    "subset": lambda A: A.subset(1, 3).subset(0, 2),
    "twice transposed": lambda A: A.T.T,
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_what_is_made_of_a_projector_keeps_the_gradient(wrap):
    grid, make = system("thin")
    x, mu = tensor(*grid.shape), tensor(*grid.shape, high=0.5)
    y = tensor(*wrap(make(None)).out_shape)
    assert wrap(make(mu)).has_parameters
    assert gradcheck(lambda x, mu: wrap(make(mu))(x), (x, mu), fast_mode=True)
    assert gradcheck(lambda y, mu: wrap(make(mu)).T(y), (y, mu), fast_mode=True)


def test_likelihoods_and_em_steps():
    grid, make = system("thin")
    mu = tensor(*grid.shape, high=0.5)
    counts = torch.tensor(RNG.poisson(3.0, make(None).out_shape).astype(float))
    x = tensor(*grid.shape, low=0.5)

    def likelihood(mu):
        return PoissonLikelihood(counts, AcquisitionModel(make(mu), 2.0, 0.5))

    assert gradcheck(lambda mu: likelihood(mu).value(x), (mu,), fast_mode=True)
    assert gradcheck(lambda x, mu: em_step(x, likelihood(mu)), (x, mu), fast_mode=True)
    f = likelihood(mu)
    for _ in range(2):  # nothing of one graph is kept for the next
        f.gradient(x).sum().backward()


def test_gradients_of_gradients_by_the_image():
    grid, make = system("thin")
    x, mu = tensor(*grid.shape), tensor(*grid.shape, high=0.5)
    (by_x,) = torch.autograd.grad((make(mu)(x) ** 2).sum(), x, create_graph=True)
    assert torch.autograd.grad(by_x.sum(), (x, mu))[1].abs().sum() > 0
    (by_mu,) = torch.autograd.grad((make(mu)(x) ** 2).sum(), mu, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives by the attenuation map"):
        by_mu.sum().backward()


def test_vmap_and_forward_mode():
    grid, make = system("thin")
    mu, x = tensor(*grid.shape, high=0.5), torch.rand(2, *grid.shape, dtype=torch.float64)
    A = make(mu)
    torch.testing.assert_close(torch.func.vmap(A)(x), A(x))
    _, tangent = torch.func.jvp(A, (x[0],), (2 * x[0],))
    torch.testing.assert_close(tangent, 2 * A(x[0]))
    with pytest.raises(NotImplementedError, match="one map for each item"):
        torch.func.vmap(lambda m: A._differentiable(x[0]) if m is None else _apply(A, x[0], m))(torch.stack([mu, mu]))
    with pytest.raises(NotImplementedError, match="forward derivatives by the attenuation map"):
        torch.func.jvp(lambda m: _apply(A, x[0], m), (mu.detach(),), (mu.detach(),))


def _apply(A, x, mu):
    from emrecon.projectors.spect.autograd import apply_attenuated

    return apply_attenuated(x, mu, A, False)


def test_a_map_that_was_changed_is_noticed():
    grid, make = system("thin")
    mu = tensor(*grid.shape, high=0.5)
    A, x = make(mu), torch.rand(grid.shape, dtype=torch.float64)
    A(x)
    with torch.no_grad():
        mu += 0.01
    with pytest.raises(RuntimeError, match="changed after the projector was made"):
        A(x)
    with pytest.raises(RuntimeError, match="changed after"):
        A.subset(0, 2).T(torch.rand(A.subset(0, 2).out_shape))
    assert A.with_attenuation(mu)(x).requires_grad


def test_copies_have_the_values_only():
    grid, make = system("thin")
    A, x = make(tensor(*grid.shape, high=0.5)), torch.rand(grid.shape, dtype=torch.float64)
    copy = pickle.loads(pickle.dumps(A))
    assert not copy.has_parameters
    torch.testing.assert_close(copy(x), A(x).detach())
    assert not make(torch.rand(grid.shape) / 2).has_parameters
    assert not make(None).has_parameters


def test_attenuation_and_factors_in_pet_and_parallel_beams():
    grid, camera = ImageGrid((5, 4, 1), 4.0), ParallelBeamGeometry(np.arange(0, 180, 30), 9, 4.0)
    A, x, mu = ParallelBeamProjector(grid, camera), tensor(5, 4, 1), tensor(5, 4, 1, high=0.15)
    factors, background = tensor(*A.out_shape, low=0.5), tensor(*A.out_shape)
    assert gradcheck(lambda mu: attenuation_factors(A, mu), (mu,), fast_mode=True)
    model = AcquisitionModel
    assert gradcheck(lambda x, mu, f, b: model(A, f * attenuation_factors(A, mu), b)(x), (x, mu, factors, background))
    assert gradcheck(lambda x, f: model(A, f).adjoint(A(x)), (x, factors), fast_mode=True)


def test_maps_from_another_grid():
    own, grid = ImageGrid((10, 8, 3), 2.0), ImageGrid((5, 4, 3), (4.0, 4.0, 2.0))
    camera, x = SPECTGeometry([0.0, 70.0], 40.0, (8, 3), (4.0, 2.0)), tensor(5, 4, 3)
    mu = tensor(10, 8, 3, high=0.3)
    assert gradcheck(lambda mu: SPECTProjector(grid, camera, resample(mu, own, grid))(x), (mu,), fast_mode=True)
    assert Resampling(own, grid).in_shape == own.shape


GRID, WINDOW = ImageGrid((4, 4, 4), 4.0), (126.0, 155.0)
CONSTANT = {
    "Diagonal": lambda t: Diagonal(t),
    "DenseOperator": lambda t: DenseOperator(t.reshape(8, 8), (8,), (8,)),
    "GaussianBlur": lambda t: GaussianBlur(GRID, t[0, 0, :3]),
    "MeasuredBlur": lambda t: MeasuredBlur(GRID, t[:3, :3, :3]),
    "MeasuredBlur weights": lambda t: MeasuredBlur(GRID, [(t, np.ones((3, 3, 3)))]),
    "MeasuredResponse": lambda t: MeasuredResponse(np.array([0.0]), t[:1, :3, :3], 4.0),
    "BowsherWeights": lambda t: BowsherWeights(t, 3),
    "kernel": lambda t: kernel_matrix(t, 4),
    "scatter": lambda t: SPECTScatterProjector(
        SPECTProjector(GRID, SPECTGeometry([0.0], 40, (4, 4), 4.0), t, LinearResponse(0, 2)),
        EffectiveSource(WINDOW),
    ),
}


@pytest.mark.parametrize("make", CONSTANT.values(), ids=CONSTANT)
def test_what_gets_no_gradient_says_so(make):
    with pytest.raises(ValueError, match="gradient"):
        make(tensor(4, 4, 4, low=0.1))


def test_a_problem_keeps_the_gradient_of_its_map():
    camera = SPECTGeometry.circular(4, 40.0, (6, 3), 4.0)
    scan = Scan(RNG.poisson(20.0, camera.shape).astype(np.float32), camera)
    own = ImageGrid((12, 12, 6), 2.0)
    for shape, grid in (((6, 6, 3), None), (own.shape, own)):
        mu = torch.full(shape, 0.15, requires_grad=True)
        problem = spect_problem(scan, mu=mu, mu_grid=grid, subsets=1)
        (f,) = problem.parts
        f.value(torch.ones((6, 6, 3))).backward()
        assert (mu.grad != 0).any()
