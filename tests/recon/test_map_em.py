"""em_fuse against its published forms and derivatives, De Pierro's MAP-EM, and one step late."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import MatrixProjector, relative_error
from pet_cases import projector as pet_projector
from scipy.optimize import brentq
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.recon import (
    Huber,
    PoissonLikelihood,
    Quadratic,
    RelativeDifference,
    em_fuse,
    em_step,
    map_em,
    map_em_step,
    mlem,
    osl,
    osl_step,
    positive_root,
)

A = projector("thin", "gaussian")
RNG = np.random.default_rng(0)
TRUTH = RNG.uniform(0.5, 5, A.in_shape)
MODEL = AcquisitionModel(A, RNG.uniform(0.5, 2, A.out_shape), 0.5)
F = PoissonLikelihood(RNG.poisson(MODEL(TRUTH)), MODEL)

N = 400
X_EM, Z, S = RNG.uniform(0, 5, N), RNG.normal(1, 2, N), RNG.uniform(0.05, 20, N)


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


def published(x, z, s, beta):
    """The five forms in which the same root is printed."""
    t, g = z - s / beta, beta / s
    return {
        "IterCNN": (-(s - beta * z) + np.sqrt((s - beta * z) ** 2 + 4 * beta * s * x)) / (2 * beta),
        "DIPRecon, MAPEM-Net": t / 2 + np.sqrt(t**2 + 4 * x * s / beta) / 2,
        "FBSEM-Net": 2 * x / ((1 - g * z) + np.sqrt((1 - g * z) ** 2 + 4 * g * x)),
        "BCD-Net": _bcd(x, z, s, beta / 2),
        "De Pierro": brent(x, z, s, beta),
    }


def _bcd(x, u, s, half):
    a, b, c = 2 * half, (s - 2 * half * u) / 2, s * x
    return (-b + np.sqrt(b**2 + a * c)) / a


def brent(x, z, s, beta):
    """The zero of the derivative s (1 - x_em / t) + beta (t - z), by bisection."""
    return np.array(
        [
            brentq(lambda t, a=a, b=b, c=c: c * (t - a) + beta * t * (t - b), 1e-300, 1e3, xtol=1e-14, rtol=1e-14)
            for a, b, c in zip(x, z, s, strict=True)
        ]
    )


@pytest.mark.parametrize("beta", [0.3, 1.0, 5.0])
def test_equals_the_published_forms(beta):
    ours = em_fuse(X_EM, Z, S, beta)
    for name, other in published(X_EM, Z, S, beta).items():
        np.testing.assert_allclose(ours, other, atol=4e-13, rtol=1e-12, err_msg=name)


def test_limits():
    np.testing.assert_allclose(em_fuse(X_EM, Z, S, 1e-14), X_EM, rtol=1e-12)
    np.testing.assert_allclose(em_fuse(X_EM, Z, S, 1e14), np.maximum(Z, 0), atol=1e-5)
    np.testing.assert_allclose(em_fuse(X_EM, Z, 0 * S, 2.0), np.maximum(Z, 0), rtol=1e-14)
    np.testing.assert_allclose(em_fuse(X_EM, Z, S, 0.0), X_EM, rtol=1e-14)
    assert np.all(em_fuse(0 * X_EM, -np.abs(Z), S, 1.0) == 0)
    np.testing.assert_allclose(em_fuse(X_EM, X_EM, S, 3.0), X_EM, rtol=1e-12)  # where both agree, nothing moves


@pytest.mark.parametrize("ratio", [1e2, 1.0, 1e-2, 1e-4, 1e-6, 1e-8])
def test_float32_keeps_its_digits(ratio):
    x, z, s = (values.astype(np.float32) for values in (X_EM, Z, S))
    exact = em_fuse(*(values.astype(float) for values in (x, z, s)), ratio * s.astype(float))
    single = em_fuse(x, z, s, (ratio * s).astype(np.float32))
    assert single.dtype == np.float32
    assert np.abs(single - exact).max() < 2e-6


@pytest.mark.parametrize("size", [1e-21, 1e15])
def test_float32_at_any_size(size):
    s = (size * S).astype(np.float32)
    for beta in (1e-4 * s, s, 1e4 * s):
        exact = em_fuse(X_EM.astype(np.float32).astype(float), Z, s.astype(float), beta.astype(float))
        single = em_fuse(X_EM.astype(np.float32), Z.astype(np.float32), s, beta)
        assert np.abs(single - exact).max() < 1e-5


@pytest.mark.parametrize("ratio", [1e-8, 1e-6, 1e-3, 1.0, 1e4])
def test_float32_derivatives_keep_their_digits(ratio):
    def derivatives(dtype):
        leaves = [torch.tensor(v.astype(np.float32), dtype=dtype) for v in (X_EM + 0.1, Z, S, ratio * S)]
        for leaf in leaves:
            leaf.requires_grad_()
        em_fuse(*leaves).sum().backward()
        return [leaf.grad.double().numpy() for leaf in leaves]

    for single, exact in zip(derivatives(torch.float32), derivatives(torch.float64), strict=True):
        assert relative_error(single, exact) < 2e-5


def test_is_the_minimiser():
    x = em_fuse(X_EM, Z, S, 0.7)

    def cost(t):
        return S * (t - X_EM * np.log(t)) + 0.35 * (t - Z) ** 2

    for factor in (0.999, 1.001):
        assert np.all(cost(x) <= cost(factor * x))


def test_derivatives():
    tensors = [torch.tensor(values[:6], requires_grad=True) for values in (X_EM + 0.1, Z, S)]
    beta = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(em_fuse, (*tensors, beta))
    assert torch.autograd.gradgradcheck(em_fuse, (*tensors, beta))
    np.testing.assert_allclose(em_fuse(*tensors, beta).detach(), em_fuse(X_EM[:6] + 0.1, Z[:6], S[:6], 0.7))
    x, z, s = (t.detach() for t in tensors)
    value, tangent = torch.func.jvp(lambda t: em_fuse(t, z, s, 0.7), (x,), (torch.ones_like(x),))
    again = torch.func.jacrev(lambda t: em_fuse(t, z, s, 0.7))(x).sum(1)
    torch.testing.assert_close(tangent, again)
    torch.testing.assert_close(torch.func.vmap(em_fuse, in_dims=(0, 0, 0, None))(x, z, s, beta.detach()), value)


def test_derivatives_where_nothing_is_seen_are_finite():
    x = torch.zeros(3, requires_grad=True)
    em_fuse(x, torch.tensor([-1.0, 0.0, 1.0]), torch.zeros(3), torch.tensor(1.0)).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_numbers_and_arrays_follow_the_tensor():
    z = torch.tensor(Z, dtype=torch.float32)
    fused = em_fuse(torch.tensor(X_EM), z, S, 0.5)
    assert fused.dtype == torch.float64
    assert em_fuse(X_EM.astype(np.float32), z, S.astype(np.float32), 0.5).dtype == torch.float32
    with pytest.raises(TypeError, match="em_fuse expects an array"):
        em_fuse([1.0], Z, S, 1.0)


def test_root_without_a_solution_is_zero():
    a, b, c = np.zeros(3), np.array([0.0, 2.0, 0.0]), np.array([0.0, 4.0, 0.0])
    np.testing.assert_array_equal(positive_root(a, b, c), [0, 2, 0])


def test_a_quadratic_prior_towards_a_target_is_em_fuse():
    """A prior whose surrogate is exact: the MAP-EM step is the closed form."""

    class Towards(Quadratic):
        def _gradient(self, x):
            return 3.0 * (x - TRUTH)

        def _curvature(self, x):
            return 3.0 * np.ones_like(x)

    x = np.full(A.in_shape, 2.0)
    fused = em_fuse(em_step(x, F), TRUTH, F.sensitivity_like(x), 3.0)
    np.testing.assert_allclose(map_em_step(x, F, Towards()), fused, rtol=1e-12)


def noisy(system, seed=1):
    """A likelihood of float32 counts with an uneven truth."""
    rng = np.random.default_rng(seed)
    model = AcquisitionModel(system, 2.0, 0.5)
    return PoissonLikelihood(rng.poisson(model(rng.uniform(0.5, 5, system.in_shape))).astype(np.float32), model)


LIKELIHOODS = {"SPECT": F, "PET": noisy(pet_projector("span 3")), "TOF": noisy(pet_projector("TOF"))}


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize(
    "prior", [None, 2.0 * Quadratic(), Huber(0.3) * 5.0, 4.0 * RelativeDifference(2.0, epsilon=0.01)], ids=repr
)
def test_never_gets_worse(kind, prior):
    f = LIKELIHOODS[kind]
    start, whole = np.ones(f.model.projector.in_shape, np.float32), f if prior is None else f + prior
    values = []
    for iterate in islice(mlem(f, start) if prior is None else map_em(f, prior, start), 25):
        assert iterate.image.dtype == np.float32
        values.append(whole.value(iterate.image.astype(float)))
    assert np.all(np.diff(values) <= 1e-9 * abs(values[-1]))
    assert values[-1] < values[0]


def test_without_a_prior_it_is_mlem():
    for method in (map_em, osl):
        ours = last(method(F, 0.0 * Quadratic(), np.ones(A.in_shape)), 5).image
        np.testing.assert_allclose(ours, last(mlem(F, np.ones(A.in_shape)), 5).image, rtol=1e-10)


def test_one_step_late_is_its_formula():
    prior, x = 0.5 * Quadratic(), np.full(A.in_shape, 2.0) + RNG.uniform(0, 1, A.in_shape)
    s = F.sensitivity_like(x)
    expected = x / (s + prior.gradient(x)) * F.model.adjoint(F.ratio(x))
    assert (prior.gradient(x) > -0.9 * s).all()
    np.testing.assert_allclose(osl_step(x, F, prior), expected, rtol=1e-10)
    strong = osl_step(x, F, 1e6 * Quadratic())
    assert np.isfinite(strong).all()
    assert strong.min() >= 0


def test_one_step_late_and_map_em_agree_where_the_prior_is_weak():
    prior = 0.02 * Quadratic()
    one, other = (last(method(F, prior, np.ones(A.in_shape)), 300).image for method in (map_em, osl))
    assert relative_error(one, other) < 1e-4


def test_a_subset_gets_its_share_of_the_prior():
    prior, x, part = 0.7 * Quadratic(), np.full(A.in_shape, 2.0) + RNG.uniform(0, 1, A.in_shape), F.subset(1, 3)
    s, slope, c = part.sensitivity_like(x), prior.gradient(x) / 3, prior.curvature(x) / 3
    first = next(map_em([part, part, part], prior, x)).image
    again = x
    for _ in range(3):
        again = map_em_step(again, part, prior, 1 / 3)
    np.testing.assert_array_equal(first, again)
    root = positive_root(c, s + slope - c * x, s * em_step(x, part))
    np.testing.assert_allclose(map_em_step(x, part, prior, 1 / 3), root, rtol=1e-12)
    late = x / np.maximum(s + slope, 0.1 * s) * part.model.adjoint(part.ratio(x))
    np.testing.assert_allclose(osl_step(x, part, prior, 1 / 3), late, rtol=1e-10)


def test_voxels_that_nothing_is_known_of_keep_their_value():
    matrix = RNG.uniform(0, 1, (6, 8))
    matrix[:, 3] = 0
    system = MatrixProjector(matrix, (2, 2, 2), (2, 3))
    f = PoissonLikelihood(np.full((2, 3), 4.0), AcquisitionModel(system, 1.0, 0.1))
    kappa, x = np.ones((2, 2, 2)), np.full((2, 2, 2), 2.0)
    kappa.ravel()[3] = 0
    for step in (map_em_step, osl_step):
        assert step(x, f, Quadratic(kappa=kappa)).ravel()[3] == 2


def test_priors_without_parabolas_are_refused_in_words():
    with pytest.raises(NotImplementedError, match="use bsrem, svrg or saga"):
        next(map_em(F, RelativeDifference(0.0, epsilon=0.1), np.ones(A.in_shape)))


@pytest.mark.slow
@pytest.mark.parametrize("prior", [2.0 * Quadratic(), Huber(0.3) * 5.0, 4.0 * RelativeDifference(2.0, epsilon=0.1)])
def test_gradients_flow_through_the_step(prior):
    x = torch.tensor(TRUTH, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: map_em_step(t, F, prior), (x,), fast_mode=True)
    (slope,) = torch.autograd.grad(map_em_step(x, F, prior).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="not differentiable that often"):
        slope.square().sum().backward()
