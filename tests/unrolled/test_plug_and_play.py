"""Plug-and-play EM, denoisers as priors, and local linear fits: known solutions, restarts, scale, batches, refusals."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error
from pet_cases import listmode
from pet_cases import projector as pet_projector
from scipy import ndimage
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.recon import (
    Checkpoint,
    EMPreconditioner,
    Iterate,
    ListmodeLikelihood,
    PoissonLikelihood,
    ProximablePrior,
    Quadratic,
    TotalVariation,
    bsrem,
    herman_meyer,
    lbfgsb,
    map_em,
    mlem,
    osem,
    osl,
    saga,
    spdhg,
    svrg,
)
from emrecon.unrolled.methods.denoising_priors import LearnedGradient, RegularisationByDenoising
from emrecon.unrolled.methods.local_linear import (
    DnCNNWithLocalLinearFitting,
    LocalLinearFitting,
    kim_llf,
    local_linear_fit,
)
from emrecon.unrolled.methods.plug_and_play import (
    Growing,
    PlugAndPlayEM,
    ProximalDenoiser,
    activity_scale,
    coupling_unit,
    denoised,
    matched_sigma,
    pnp_em,
)

A = projector("thin", "gaussian")  # (7, 6, 3) -> (6, 9, 3)
RNG = np.random.default_rng(0)
X, Y, Z = np.indices(A.in_shape)
TRUTH = 1.0 + 3 * (X > 3) * (Y > 2) + (Z == 1)
MODEL = AcquisitionModel(A, RNG.uniform(1, 2, A.out_shape), 0.5)
COUNTS = RNG.poisson(MODEL(TRUTH)).astype(float)
F = PoissonLikelihood(COUNTS, MODEL)
U = Quadratic()
WIDTH = 0.05  # of the linear denoiser; its eigenvalues are 1 - WIDTH * (0 to about 24)


class Ridge(ProximablePrior):
    """w |x|^2 / 2, whose proximal map is known."""

    def __init__(self, weight=1.0):
        self.weight = weight

    def value(self, x):
        return self.weight * (x**2).sum() / 2

    def prox(self, x, step):
        return x / (1 + self.weight * step)


class Smoother(torch.nn.Module):
    """A convolution, as a network is: channels inside, dropout while it learns, float32."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.conv = torch.nn.Conv3d(1, 1, 3, padding=1, bias=False, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 54)
            self.conv.weight[0, 0, 1, 1, 1] += 0.5
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x, sigma=None, *, guide=None):
        return self.drop(self.conv(x.reshape(-1, 1, *x.shape[-3:]))).reshape(x.shape)


def linear(x):
    """x - t U'(x): symmetric and linear, and with it RED is t U."""
    return x - WIDTH * U.gradient(x)


def smooth(x):
    return ndimage.gaussian_filter(x, [0] * (x.ndim - 3) + [0.7, 0.7, 0.4], mode="constant")


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


@pytest.fixture(scope="module")
def quadratic_solution():
    return last(lbfgsb(F, 2.0 * U), 150).image


# ---- plug-and-play EM


@pytest.fixture(scope="module")
def tv_solution():
    return last(spdhg(F, 1.5 * TotalVariation(), n_subsets=3), 150).image


@pytest.mark.parametrize(("rho", "em_steps"), [(20.0, 1), (8.0, 3)])
def test_with_a_proximal_map_it_is_maximum_a_posteriori(rho, em_steps, tv_solution):
    D = ProximalDenoiser(1.5 * TotalVariation(tolerance=1e-3))
    it = last(pnp_em(F, D, rho=rho, sigma=matched_sigma, em_steps=em_steps), 200)
    assert relative_error(it.image, tv_solution) < 1e-2
    assert relative_error(it.state["z"], tv_solution) < 1e-2


def test_a_smooth_proximal_map_and_pet():
    B = pet_projector("span 3")
    model = AcquisitionModel(B, 20.0, 3.0)
    f = PoissonLikelihood(RNG.poisson(model(RNG.uniform(0.5, 2, B.in_shape))).astype(float), model)
    unit = coupling_unit(f)
    ridge = Ridge(0.3 * unit)
    iterates = pnp_em(f, ProximalDenoiser(ridge), rho=0.3 * unit, sigma=matched_sigma)
    x = last(iterates, 500).image
    slope = f.gradient(x) + ridge.weight * x
    s = f.sensitivity
    assert np.abs(slope[x > 1e-3]).max() < 1e-3 * s.max()
    assert slope.min() > -1e-3 * s.max()


def test_without_the_dual_variable_its_fixed_point_is_that_of_red(quadratic_solution):
    """grad f + rho (x - D(x)) = 0, for a D that is no proximal map of anything known to the loop."""
    x = last(pnp_em(F, linear, rho=2.0 / WIDTH, dual=False, em_steps=1), 600).image
    assert relative_error(x, quadratic_solution) < 1e-3


def test_half_quadratic_splitting_with_a_growing_coupling():
    ridge = Ridge(2.0)
    best = last(pnp_em(F, ProximalDenoiser(ridge), rho=2.0, sigma=matched_sigma), 300).image
    rho = Growing(0.1, 1.05, 1e4)
    it = last(pnp_em(F, ProximalDenoiser(ridge), rho=rho, sigma=matched_sigma, dual=False, em_steps=3), 200)
    assert relative_error(it.image, it.state["z"]) < 1e-2
    assert relative_error(it.image, best) < 2e-2
    assert not it.state["mu"].any()


def test_sigma_falls_as_the_coupling_grows():
    told = []

    def listening(x, sigma):
        told.append(sigma)
        return x

    last(pnp_em(F, listening, rho=Growing(1.0, 4.0, 16.0), sigma=2.0), 4)
    np.testing.assert_allclose(told, [2.0, 1.0, 0.5, 0.5])
    last(pnp_em(F, listening, rho=4.0, sigma=matched_sigma), 1)
    assert told[-1] == 0.5


def test_the_solution_stays_where_it_is(quadratic_solution):
    x, rho = quadratic_solution, 2.0 / WIDTH
    step = next(pnp_em(F, linear, Iterate(9, x, {"z": linear(x), "mu": 0 * x}), rho=rho, dual=False))
    assert relative_error(step.image, x) < 1e-5
    D = ProximalDenoiser(Ridge(2.0))
    best = last(pnp_em(F, D, rho=2.0, sigma=matched_sigma), 400)
    again = next(pnp_em(F, D, best, rho=2.0, sigma=matched_sigma))
    assert relative_error(again.image, best.image) < 1e-5


def test_the_identity_without_a_dual_variable_is_em_held_back():
    x = last(pnp_em(F, lambda x: x, rho=1.0, em_steps=1), 600).image
    assert float(F.value(x)) < float(F.value(last(mlem(F), 100).image))


@pytest.mark.parametrize("subsets", [1, 3])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_restarts_exactly(subsets, library, tmp_path):
    f = F if library == "numpy" else PoissonLikelihood(torch.tensor(COUNTS), MODEL)
    D = ProximalDenoiser(Ridge(3.0))
    options = {"rho": Growing(0.5, 1.3), "sigma": matched_sigma, "order": herman_meyer}
    whole = last(pnp_em(f, D, None, subsets, **options), 6)
    half = last(pnp_em(f, D, None, subsets, **options), 2)
    save = Checkpoint(tmp_path / "at.npz")
    save(half)
    for at in (half, save.load(half.image)):
        again = last(pnp_em(f, D, at, subsets, **options), 4)
        assert again.iteration == whole.iteration == 6
        for one, other in ((again.image, whole.image), *((again.state[k], whole.state[k]) for k in ("z", "mu"))):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def test_subsets_arrive_near_the_solution(quadratic_solution):
    x = last(pnp_em(F, linear, None, 3, rho=2.0 / WIDTH, dual=False), 60).image
    assert relative_error(x, quadratic_solution) < 0.2


def test_libraries_and_batches_agree():
    both = np.stack([COUNTS, 2 * COUNTS])
    unit = coupling_unit(PoissonLikelihood(both, MODEL))
    assert unit.shape == (2, 1, 1, 1)
    D = ProximalDenoiser(Ridge())
    of = {}
    for name, data in (("numpy", both), ("torch", torch.tensor(both))):
        f = PoissonLikelihood(data, MODEL)
        of[name] = np.asarray(last(pnp_em(f, D, None, 2, rho=unit, sigma=matched_sigma), 8).image)
    np.testing.assert_allclose(of["torch"], of["numpy"], rtol=1e-10)
    for i in range(2):
        f = PoissonLikelihood(both[i], MODEL)
        alone = last(pnp_em(f, D, None, 2, rho=coupling_unit(f), sigma=matched_sigma), 8).image
        np.testing.assert_allclose(of["numpy"][i], alone, rtol=1e-10)


def test_single_precision_stays_single():
    f = PoissonLikelihood(COUNTS.astype(np.float32), MODEL)
    for D in (ProximalDenoiser(Ridge(np.float64(0.5))), smooth, Smoother()):
        sigma = matched_sigma if isinstance(D, ProximalDenoiser) else None
        it = last(pnp_em(f, D, rho=np.float64(0.3) * coupling_unit(f), sigma=sigma), 2)
        assert it.image.dtype == it.state["z"].dtype == np.float32


def test_networks_run_frozen_in_evaluation_mode_on_any_array():
    network = Smoother()
    images = []
    for data in (COUNTS, torch.tensor(COUNTS)):
        f = PoissonLikelihood(data, MODEL)
        images.append(np.asarray(last(pnp_em(f, network, rho=5.0), 5).image))
        assert images[-1].dtype == np.float64
    np.testing.assert_allclose(images[1], images[0], rtol=1e-6)
    assert network.training
    assert network.drop.training
    assert network.conv.weight.grad is None
    leaf = torch.tensor(COUNTS)
    start = torch.ones(A.in_shape, dtype=torch.float64, requires_grad=True)
    it = next(pnp_em(PoissonLikelihood(leaf, MODEL), network, start, rho=5.0))
    assert not it.image.requires_grad
    assert torch.is_grad_enabled()


def test_a_guide_reaches_the_denoiser():
    def guided(x, sigma=None, *, guide=None):
        return guide * 1.0

    x = last(pnp_em(F, guided, rho=1e9, dual=False, guide=TRUTH), 3).image
    np.testing.assert_allclose(x, TRUTH, rtol=1e-3)
    np.testing.assert_allclose(PlugAndPlayEM(guided, 3, rho=1e6, dual=False)(F, guide=TRUTH), TRUTH, rtol=1e-2)


def test_list_mode():
    B = listmode(True)
    f = ListmodeLikelihood(AcquisitionModel(B, 1.0, 0.1), np.ones(B.in_shape))
    x = last(pnp_em(f, smooth, None, 2, rho=coupling_unit(f)), 5).image
    assert np.isfinite(x).all()
    assert activity_scale(f) == pytest.approx(200 / x.size)


def test_activity_scale_and_the_unit_of_the_coupling():
    exact = PoissonLikelihood(MODEL(TRUTH), MODEL)
    s = F.sensitivity
    assert activity_scale(exact) == pytest.approx((s * TRUTH).sum() / s.sum())
    assert coupling_unit(exact, 2.0) == pytest.approx(s[s > 0].mean() / 2)
    assert coupling_unit(exact) == pytest.approx(s[s > 0].mean() / activity_scale(exact))
    parts = [exact.subset(k, 3) for k in range(3)]
    assert activity_scale(parts) == pytest.approx(activity_scale(exact))
    assert coupling_unit(parts) == pytest.approx(coupling_unit(exact))
    nothing = PoissonLikelihood(0 * COUNTS, MODEL)
    assert activity_scale(nothing) > 0


def test_doubling_counts_doubles_the_image():
    method = PlugAndPlayEM(smooth, 12, rho=Growing(0.05, 1.2), n_subsets=3)
    x = method(F)
    doubled = PoissonLikelihood(2 * COUNTS, AcquisitionModel(A, MODEL.factors, 1.0))
    np.testing.assert_allclose(method(doubled), 2 * x, rtol=1e-12)
    told = []

    def listening(x, sigma):
        told.append(sigma)
        return x

    for f in (F, doubled):
        PlugAndPlayEM(listening, 1, sigma=0.1)(f)
    assert told[1] == pytest.approx(2 * told[0])
    assert told[0] == pytest.approx(0.1 * activity_scale(F))


def test_as_a_reconstructor_it_is_the_loop():
    method = PlugAndPlayEM(smooth, 6, rho=3.0, relative=False)
    x = method(F)
    np.testing.assert_array_equal(x, last(pnp_em(F, smooth, rho=3.0), 6).image)
    half = last(method.iterates(F), 4)
    np.testing.assert_array_equal(method(F, half), x)
    np.testing.assert_array_equal(method(F, last(method.iterates(F), 9)), last(method.iterates(F), 9).image)
    begun = last(osem(F, None, 3), 8)
    np.testing.assert_array_equal(method(F, begun), method(F, begun.image))
    np.testing.assert_array_equal(
        PlugAndPlayEM(smooth, 3)(F), last(pnp_em(F, smooth, rho=0.1 * coupling_unit(F)), 3).image
    )


def test_a_denoiser_that_helps():
    blocks = np.where(TRUTH > 2.5, 4.5, 1.4)
    few = PoissonLikelihood(np.random.default_rng(1).poisson(0.3 * MODEL(blocks)) / 0.3, MODEL)
    plain = last(mlem(few), 200).image
    x = PlugAndPlayEM(ProximalDenoiser(3.0 * TotalVariation(tolerance=1e-3)), 30, rho=0.3, sigma=matched_sigma)(few)
    assert relative_error(x, blocks) < 0.7 * relative_error(plain, blocks)


class Odd:
    """A denoiser that returns what it was made with."""

    def __init__(self, result):
        self.result = result

    def __call__(self, x, sigma=None, *, guide=None):
        return self.result(x)


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda x: x[:-1], ValueError, r"denoiser Odd returned \(6, 6, 3\) for an image of \(7, 6, 3\)"),
        (lambda x: x[None], ValueError, "no channel axis"),
        (lambda x: x * np.nan, ValueError, "Odd returned NaN or infinite values in 126 of 126 voxels"),
        (lambda x: "image", TypeError, "Odd must return an array, but returned str"),
    ],
)
def test_denoisers_that_return_something_else(result, error, message):
    with pytest.raises(error, match=message):
        next(pnp_em(F, Odd(result), rho=1.0))
    with pytest.raises(error, match="Odd"):
        RegularisationByDenoising(Odd(result)).gradient(TRUTH)


def test_refusals():
    for rho in (0.0, -1.0, np.nan, np.array([1.0, 0.0])):
        with pytest.raises(ValueError, match="rho must be positive"):
            pnp_em(F, smooth, rho=rho)
    with pytest.raises(ValueError, match="em_steps must be at least 1"):
        pnp_em(F, smooth, rho=1.0, em_steps=0)
    with pytest.raises(ValueError, match="start must be finite and not negative"):
        pnp_em(F, smooth, -TRUTH, rho=1.0)
    with pytest.raises(ValueError, match="PlugAndPlayEM n_iterations must be at least 1"):
        PlugAndPlayEM(smooth, 0)
    with pytest.raises(ValueError, match="Growing needs"):
        Growing(1.0, 0.5)
    with pytest.raises(ValueError, match="needs a sigma; give sigma=matched_sigma"):
        next(pnp_em(F, ProximalDenoiser(Ridge()), rho=1.0))
    with pytest.raises(NotImplementedError, match="needs torch tensors"):
        RegularisationByDenoising(linear, conservative=True).hessian_vector(TRUTH, TRUTH)
    with pytest.raises(ValueError, match="lets no gradient through"):
        RegularisationByDenoising(lambda x: x.detach(), conservative=True).hessian_vector(
            torch.tensor(TRUTH), torch.tensor(TRUTH)
        )


# ---- denoisers and networks in the place of a prior


def red(weight=2.0):
    """Regularisation by a linear denoiser that is exactly weight * Quadratic()."""
    return RegularisationByDenoising(linear, weight / WIDTH, lipschitz=1.0, conservative=True)


def test_red_of_a_symmetric_linear_denoiser_is_a_quadratic_prior():
    x = RNG.uniform(0, 3, (2, *A.in_shape))
    np.testing.assert_allclose(red().gradient(x), 2 * U.gradient(x), atol=1e-10)
    np.testing.assert_allclose(red().value(x), 2 * U.value(x), rtol=1e-10)
    np.testing.assert_allclose((3 * red()).gradient(x), 6 * U.gradient(x), atol=1e-10)
    np.testing.assert_allclose((red() + U).value(x), 3 * U.value(x), rtol=1e-10)
    leaf, v = torch.tensor(x, requires_grad=True), torch.tensor(RNG.normal(size=x.shape))
    network = RegularisationByDenoising(Smoother(torch.float64), 2.0, conservative=True)
    hessian = network.hessian_vector(leaf.detach(), v)
    h = 1e-4
    slope = (network.gradient(leaf.detach() + h * v) - network.gradient(leaf.detach() - h * v)) / (2 * h)
    torch.testing.assert_close(hessian, slope, rtol=1e-6, atol=1e-8)
    network.value(leaf).sum().backward()
    torch.testing.assert_close(leaf.grad, network.gradient(leaf.detach()))


ENGINES = {
    "map_em": lambda f, prior: last(map_em(f, prior), 400),
    "bsrem": lambda f, prior: last(bsrem(f, prior, None, 1, step=1.0), 400),
    "svrg": lambda f, prior: last(svrg(f, prior, None, 3), 130),
    "saga": lambda f, prior: last(saga(f, prior, None, 3), 130),
    "lbfgsb": lambda f, prior: last(lbfgsb(f, prior), 60),
}


@pytest.mark.parametrize("engine", ENGINES)
def test_red_in_all_engines(engine, quadratic_solution):
    assert relative_error(ENGINES[engine](F, red()).image, quadratic_solution) < 1e-2


def test_red_and_a_learned_gradient_one_step_late():
    """One-step-late EM swings with this prior, and so the same way with either form of it."""
    paths = [last(osl(F, prior, None, 3), 5).image for prior in (0.2 * U, red(0.2), LearnedGradient(U.gradient, 0.2))]
    for path in paths[1:]:
        np.testing.assert_allclose(path, paths[0], rtol=1e-6)


def test_map_em_falls_with_the_stated_constant():
    values = [float((F + red()).value(it.image)) for it in islice(map_em(F, red()), 60)]
    assert np.all(np.diff(values) <= 1e-9 * np.abs(values[:-1]))


def test_red_without_a_value_has_a_gradient_only():
    prior = RegularisationByDenoising(smooth, 3.0)
    for iterates in (osl(F, prior, None, 3), map_em(F, prior), bsrem(F, prior, None, 3)):
        assert np.isfinite(last(iterates, 5).image).all()
    np.testing.assert_allclose(prior.curvature(TRUTH), 6.0)
    for ask in (prior.value, lambda x: prior.hessian_vector(x, x)):
        with pytest.raises(NotImplementedError, match=r"smooth, beta=3.*conservative=True.*use osl, bsrem or map_em"):
            ask(TRUTH)
    with pytest.raises(NotImplementedError, match="no value"):
        last(svrg(F, prior, None, 3), 4)
    assert not prior._curvature_transposed(TRUTH, TRUTH).any()


def test_red_of_tensors_is_red_of_arrays():
    f = PoissonLikelihood(torch.tensor(COUNTS), MODEL)
    network = Smoother(torch.float64)
    x, t = (last(osl(g, RegularisationByDenoising(network, 3.0), None, 3), 10).image for g in (F, f))
    np.testing.assert_allclose(t.numpy(), x, rtol=1e-10)


def test_a_learned_gradient(quadratic_solution):
    def network(x):
        return U.gradient(x)

    plain = LearnedGradient(network, 2.0)
    x = last(bsrem(F, 0.05 * plain, None, 1, preconditioner=EMPreconditioner()), 5).image
    assert float((F + 0.1 * U).value(x)) < float((F + 0.1 * U).value(np.ones_like(x)))
    for ask in (plain.value, plain.curvature, plain.hessian_diagonal, lambda x: plain.hessian_vector(x, x)):
        with pytest.raises(NotImplementedError, match="LearnedGradient"):
            ask(TRUTH)
    steep = LearnedGradient(network, 2.0, lipschitz=1.2 / WIDTH, potential=U.value)
    for iterates, n in ((map_em(F, steep), 400), (svrg(F, steep, None, 3), 130), (lbfgsb(F, steep), 60)):
        assert relative_error(last(iterates, n).image, quadratic_solution) < 1e-2
    x, v = torch.tensor(TRUTH), torch.tensor(RNG.normal(size=TRUTH.shape))
    torch.testing.assert_close(steep.hessian_vector(x, v), 2 * U.hessian_vector(x, v))
    with pytest.raises(ValueError, match="LearnedGradient beta must be finite and not negative"):
        LearnedGradient(network, -1.0)


# ---- local linear fitting


def brute_fit(x, p, at, least_squares):
    near = tuple(slice(max(i - 2, 0), i + 3) for i in at)
    a, b = x[near].ravel(), p[near].ravel()
    if least_squares:
        return np.polyfit(b, a, 1)
    q = (a * b).sum() / (b * b).sum()
    return q, a.mean() - q * b.mean()


@pytest.mark.parametrize("fit", ["slope first", "least squares"])
def test_the_local_fit_is_that_of_each_window(fit):
    x, p = RNG.uniform(0, 3, (2, 2, *A.in_shape))
    q, b = local_linear_fit(x, p, 5, fit)
    for at in ((0, 0, 0), (3, 3, 1), (6, 5, 2), (1, 4, 0)):
        expected = brute_fit(x[1], p[1], at, fit == "least squares")
        np.testing.assert_allclose((q[(1, *at)], b[(1, *at)]), expected, rtol=1e-8, atol=1e-10)
    t = local_linear_fit(torch.tensor(x), torch.tensor(p), 5, fit)
    np.testing.assert_allclose(t[0].numpy(), q, rtol=1e-12)


def test_the_local_fit_of_a_linear_relation_is_exact_also_in_single_precision():
    p = RNG.uniform(1, 3, A.in_shape)
    q, b = local_linear_fit(2 * p - 1, p, 5, "least squares")
    np.testing.assert_allclose(q, 2, rtol=1e-9)
    np.testing.assert_allclose(b, -1, rtol=1e-8)
    for fit in ("slope first", "least squares"):
        q, b = local_linear_fit(np.full((6, 6, 1), 3, np.float32), np.full((6, 6, 1), 3, np.float32), 5, fit)
        np.testing.assert_allclose(q * 3 + b, 3, rtol=1e-5)
        q, b = local_linear_fit(np.ones((4, 4, 1)), np.zeros((4, 4, 1)), 5, fit)
        np.testing.assert_array_equal(q, 1)
        np.testing.assert_array_equal(b, 1)


def test_llf_with_the_identity_finds_maximum_likelihood():
    values = [float(F.value(it.image)) for it in islice(kim_llf(F, lambda x: x, None, 1), 200)]
    assert np.all(np.diff(values) <= 1e-6 * np.abs(values[0]))
    assert values[-1] < float(F.value(last(mlem(F), 20).image))


@pytest.mark.parametrize("fit", ["slope first", "least squares"])
def test_llf_settles_where_data_fit_and_network_balance(fit):
    fitting = LocalLinearFitting(beta=0.5, gamma=0.5, fit=fit)
    it = last(kim_llf(F, smooth, last(mlem(F), 5).image, 1, fitting=fitting), 500)
    x, q, b, f = it.image, it.state["slope"], it.state["offset"], smooth(it.image)
    drawn = (0.5 * q * (x - b) + 0.5 * (f + it.state["dual"])) / (0.5 * q * q + 0.5)
    np.testing.assert_allclose(drawn, f, atol=2e-3)
    h = A.T(MODEL.factors * MODEL.linear(np.ones_like(x)) / np.maximum(COUNTS, 1))
    balance = F.gradient(x) / h + 0.5 * (x - q * drawn - b)
    assert np.abs(balance[x > 1e-3]).max() < 5e-3
    assert it.state["dual"].any()


def test_a_step_of_llf_by_hand():
    x = np.asarray(last(mlem(F), 5).image)
    f = smooth(x)
    drawn = (0.04 * x + 0.1 * f) / 0.14
    h = MODEL.adjoint(MODEL.linear(np.ones_like(x)) / np.maximum(COUNTS, 1))
    expected = np.maximum(x - (F.gradient(x) / h + 0.04 * (x - drawn)) / 1.18, 0)
    it = next(kim_llf(F, smooth, x, 1))
    np.testing.assert_allclose(it.image, expected, rtol=1e-10)
    np.testing.assert_allclose(it.state["dual"], f - drawn, atol=1e-10)
    q, b = local_linear_fit(x, drawn)
    np.testing.assert_array_equal(it.state["slope"], q)
    np.testing.assert_array_equal(it.state["offset"], b)


def test_the_term_of_the_networks_gradient():
    f = PoissonLikelihood(torch.tensor(COUNTS), MODEL)
    network = Smoother(torch.float64)
    x = last(mlem(f), 5).image
    without, wanted = (
        next(kim_llf(f, network, x, 1, fitting=LocalLinearFitting(network_gradient=on))).image for on in (False, True)
    )
    cleaned = denoised(network, x).detach()
    left = (0.04 * x + 0.1 * cleaned) / 0.14 - cleaned
    with torch.no_grad():
        transposed = denoised(network, left)  # the kernel is symmetric
    torch.testing.assert_close(wanted - without, 0.1 * transposed / 1.18, rtol=1e-8, atol=1e-12)
    with pytest.raises(NotImplementedError, match="needs torch tensors"):
        next(kim_llf(F, smooth, None, 1, fitting=LocalLinearFitting(network_gradient=True)))


def test_llf_as_a_method_restarts_and_scales():
    method = DnCNNWithLocalLinearFitting(smooth, n_subsets=3)
    x = method(F)
    half = last(method.iterates(F), 2)
    assert set(half.state) == {"slope", "offset", "dual"}
    np.testing.assert_array_equal(method(F, half), x)
    start = last(osem([F.subset(k, 3) for k in range(3)], activity_scale(F) * np.ones(A.in_shape)), 2).image
    np.testing.assert_array_equal(method(F, start), x)
    np.testing.assert_array_equal(method(F, Iterate(7, start)), x)
    some = PoissonLikelihood(np.maximum(COUNTS, 1), MODEL)
    doubled = PoissonLikelihood(2 * np.maximum(COUNTS, 1), AcquisitionModel(A, MODEL.factors, 1.0))
    np.testing.assert_allclose(method(doubled), 2 * method(some), rtol=1e-9)
    both = PoissonLikelihood(np.stack([COUNTS, COUNTS[::-1]]), MODEL)
    np.testing.assert_allclose(method(both)[0], x, rtol=1e-9)
    t = method(PoissonLikelihood(torch.tensor(COUNTS), MODEL))
    assert t.shape == A.in_shape
    assert relative_error(x, TRUTH) < relative_error(last(osem(F, None, 3), 4).image, TRUTH)


def test_llf_refusals():
    B = listmode(False)
    f = ListmodeLikelihood(AcquisitionModel(B, 1.0, 0.1), np.ones(B.in_shape))
    with pytest.raises(TypeError, match="needs counts in bins"):
        kim_llf(f, smooth, None, 1)
    for bad in ({"window": 4}, {"gamma": 0.0}, {"beta": -1.0}, {"fit": "cubic"}):
        with pytest.raises(ValueError, match="LocalLinearFitting"):
            LocalLinearFitting(**bad)
    with pytest.raises(ValueError, match="NaN"):
        next(kim_llf(F, lambda x: x * np.nan, None, 1))
