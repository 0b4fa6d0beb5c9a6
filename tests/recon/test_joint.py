"""Activity and attenuation together: derivatives, monotony, the scale, cross-talk, restarts, arrays, refusals."""

from itertools import islice

import numpy as np
import pytest
import torch
from battery import relative_error

from emrecon import recon
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    ListmodeProjector,
    PETProjector,
    PETScanner,
    PETSinogram,
    Scan,
    TimeOfFlight,
)
from emrecon.recon import JointLikelihood, JointOptions, KnownScale, PoissonLikelihood, mlaa, mlacf

SCANNER = PETScanner.polygon(sides=8, crystals_per_side=5, radius=200, rings=2, ring_pitch=12)
SINOGRAM = PETSinogram(SCANNER, n_radial=27, tof=TimeOfFlight(7, 50.0, 60.0))
GRID = ImageGrid((10, 9, 3), (26.0, 26.0, 12.0))
X, Y, Z = GRID.coordinates()
BODY = np.broadcast_to((X / 110) ** 2 + (Y / 95) ** 2 < 1, GRID.shape)
ACTIVITY = np.where(BODY, 1.0, 0.0) + 3.0 * ((X > 10) & (X < 70) & (abs(Y) < 30)) * BODY
MU = np.where(BODY, 0.096, 0.0) - 0.07 * ((X < -20) & (X > -80) & (abs(Y) < 40)) * BODY
A, LINES = PETProjector(GRID, SINOGRAM), PETProjector(GRID, SINOGRAM.without_tof())
TRUES = 5 * A(ACTIVITY) * np.exp(-LINES(MU) / 10)[:, :, None]
BACKGROUND = np.full(TRUES.shape, 0.2 * TRUES.mean())
DATA = np.random.default_rng(0).poisson(TRUES + BACKGROUND).astype(float)
F = JointLikelihood(PoissonLikelihood(DATA, AcquisitionModel(A, 5.0, BACKGROUND)))
TOTAL = KnownScale("total", float(ACTIVITY.sum()))
INNER = BODY & (X > 10) & (X < 70) & (abs(Y) < 30)


def last(iterates, n):
    *_, final = islice(iterates, n)
    return final


def noise_free(r=BACKGROUND):
    return PoissonLikelihood(TRUES + r, AcquisitionModel(A, 5.0, r))


def test_the_value_is_the_formula_and_the_gradients_are_its_derivatives():
    ybar = TRUES + BACKGROUND
    np.testing.assert_allclose(F.expected(ACTIVITY, MU), ybar)
    assert F.value(ACTIVITY, MU) == pytest.approx(np.sum(ybar - DATA * np.log(ybar)))
    direction, step = np.random.default_rng(1).normal(size=GRID.shape) * BODY, 1e-5
    by_x, by_mu = F.gradients(ACTIVITY, MU)
    for one, more in ((by_x, (step, 0)), (by_mu, (0, step))):
        up, down = (F.value(ACTIVITY + s * more[0] * direction, MU + s * more[1] * direction) for s in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx(np.sum(one * direction), rel=1e-5)
    parts = [F.subset(k, 2).gradients(ACTIVITY, MU) for k in range(2)]
    for whole, *halves in zip((by_x, by_mu), *parts):
        np.testing.assert_allclose(sum(halves), whole, atol=1e-9 * abs(whole).max())


def test_parabolas_of_mu_lie_above_the_objective():
    start = np.where(BODY, 0.06, 0.0)
    p, lengths = F.trues(ACTIVITY), F.lengths_like(np.ones(GRID.shape))
    gradient, curvature = F.attenuation_terms(p, start, lengths)
    value = F.value(ACTIVITY, start)
    for seed in range(4):
        step = np.random.default_rng(seed).uniform(-0.05, 0.05, GRID.shape) * BODY
        above = value + np.sum(gradient * step + curvature * step**2 / 2)
        assert F.value(ACTIVITY, start + step) <= above


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"known": KnownScale("mu", 0.096, BODY & (X > 80)), "body": BODY},
        {"penalty": 1e4 * recon.Quadratic(neighbours=6), "prior": 0.5 * recon.Quadratic(neighbours=6)},
    ],
)
def test_mlaa_never_rises(options):
    options = JointOptions(**options)
    values = [float(recon.joint_value(F, it, options)) for it in islice(mlaa(F, options=options), 6)]
    assert np.all(np.diff(values) <= 1e-6)


@pytest.mark.parametrize("options", [{}, {"known": TOTAL, "body": BODY}])
def test_mlacf_never_rises(options):
    values = [float(recon.joint_value(F, it)) for it in islice(mlacf(F, options=JointOptions(**options)), 6)]
    assert np.all(np.diff(values) <= 1e-6 * abs(values[0]))


@pytest.mark.parametrize("background", [0.0, BACKGROUND])
def test_factors_minimise_the_objective_of_their_lines(background):
    f = JointLikelihood(PoissonLikelihood(DATA, AcquisitionModel(A, 5.0, background)))
    p, ones = f.trues(ACTIVITY), np.ones(LINES.out_shape)
    a = f.best_factors(p, ones, 20)
    if np.ndim(background) == 0:
        crossed = p.sum(2) > 0
        np.testing.assert_allclose(a[crossed], (DATA.sum(2) / np.where(p.sum(2) > 0, p.sum(2), 1))[crossed])
    best = f.value_of(p, a)
    for factor in (0.98, 1.02):
        line = np.zeros(LINES.out_shape, bool)
        line[3, 13] = True
        assert f.value_of(p, np.where(line, factor * a, a)) > best


def test_the_torso_comes_back_with_time_of_flight_and_a_known_region_and_not_without():
    """Within 5 % in regions from noise-free data; without TOF attenuation shows up in the activity."""
    known, lung = KnownScale("activity", float(ACTIVITY[INNER].mean()), INNER), BODY & (MU < 0.05)
    for engine in (mlaa, mlacf):
        found = last(engine(noise_free(), n_subsets=4, options=JointOptions(known=known, body=BODY)), 40).image
        inner = BODY & ~INNER & (MU > 0.09)
        assert found[inner].mean() == pytest.approx(ACTIVITY[inner].mean(), rel=0.05)
        assert found[lung].mean() == pytest.approx(ACTIVITY[lung].mean(), rel=0.05)
    plain = PETProjector(GRID, SINOGRAM.without_tof())
    y, r = ((values).sum(2) for values in (TRUES, BACKGROUND))
    f = PoissonLikelihood(y + r, AcquisitionModel(plain, 5.0, r))
    options = JointOptions(known=known, body=BODY, without_tof=True)
    without = last(mlaa(f, n_subsets=4, options=options), 25)
    assert abs(without.image[lung].mean() / ACTIVITY[lung].mean() - 1) > 0.1  # the cross-talk


def test_known_mu_and_body_are_kept_and_mu_stays_within_its_bounds():
    held = BODY & (X > 80)
    options = JointOptions(known=KnownScale("mu", 0.1, held), body=BODY, bounds=(0.01, 0.12))
    mu = last(mlaa(F, n_subsets=2, options=options), 3).state["mu"]
    assert np.all(mu[held] == 0.1)
    assert np.all(mu[~BODY] == 0)
    free = BODY & ~held
    assert mu[free].min() >= 0.01
    assert mu[free].max() <= 0.12


def test_the_map_of_factors_explains_them():
    found = recon.attenuation_of_factors(noise_free(), ACTIVITY, 60, options=JointOptions(body=BODY))
    assert relative_error(found, MU) < 0.1


@pytest.mark.parametrize("engine", [mlaa, mlacf])
def test_two_and_two_passes_are_four_and_torch_is_numpy(engine, tmp_path):
    options = JointOptions(known=TOTAL, body=BODY)
    four = last(engine(F, n_subsets=3, options=options), 4)
    keeper = recon.Checkpoint(tmp_path / "run.npz")
    two = last(engine(F, n_subsets=3, options=options), 2)
    keeper(two)
    resumed = last(engine(F, keeper.load(), n_subsets=3, options=options), 2)
    assert resumed.iteration == 4
    np.testing.assert_array_equal(resumed.image, four.image)
    tensors = PoissonLikelihood(torch.tensor(DATA), AcquisitionModel(A, 5.0, torch.tensor(BACKGROUND)))
    found = last(engine(tensors, n_subsets=3, options=options), 4)
    assert isinstance(found.image, torch.Tensor)
    assert relative_error(found.image, four.image) < 1e-10
    batch = PoissonLikelihood(np.stack([DATA, DATA]), AcquisitionModel(A, 5.0, BACKGROUND))
    two_at_once = last(engine(batch, n_subsets=3, options=options), 4)
    np.testing.assert_allclose(two_at_once.image[1], four.image, rtol=1e-10, atol=1e-12)


def test_what_cannot_be_done_is_refused():
    plain = PoissonLikelihood(DATA.sum(2), AcquisitionModel(LINES, 5.0, 1.0))
    for engine in (mlaa, mlacf):
        with pytest.raises(ValueError, match="needs data with time of flight"):
            next(engine(plain))
    with pytest.raises(ValueError, match="mlacf has no map of mu"):
        next(mlacf(F, options=JointOptions(known=KnownScale("mu", 0.1, BODY))))
    with pytest.raises(ValueError, match="another engine"):
        next(mlacf(F, next(mlaa(F))))
    with pytest.raises(ValueError, match="start of shape"):
        next(mlaa(F, np.ones((3, 3, 3))))
    with pytest.raises(ValueError, match="mu must be finite and not negative"):
        next(mlaa(F, None, -MU))
    with pytest.raises(ValueError, match="has shape"):
        next(mlaa(F, options=JointOptions(body=np.ones((2, 2, 2)))))
    lines = ListmodeProjector(GRID, SCANNER, np.array([[0, 20], [1, 22]]))
    listmode = recon.ListmodeLikelihood(AcquisitionModel(lines, 1.0, 1.0), np.ones(GRID.shape))
    with pytest.raises(ValueError, match="takes sinograms of PET"):
        JointLikelihood(listmode)
    for wrong, message in (
        ({"kind": "mean", "value": 1.0}, "unknown kind of KnownScale"),
        ({"kind": "total", "value": -1.0}, "must be a positive number"),
        ({"kind": "mu", "value": 0.1}, "needs a region"),
        ({"kind": "mu", "value": 0.1, "region": np.zeros((2, 2, 2))}, "is empty"),
        ({"kind": "mu", "value": 0.1, "region": np.full((2, 2, 2), 0.5)}, "booleans"),
        ({"kind": "total", "value": 1.0, "region": BODY}, "takes no region"),
    ):
        with pytest.raises(ValueError, match=message):
            KnownScale(**wrong)
    with pytest.raises(ValueError, match="bounds of mu"):
        JointOptions(bounds=(0.2, 0.1))
    with pytest.raises(ValueError, match="not within the bounds"):
        JointOptions(known=KnownScale("mu", 0.5, BODY))
    with pytest.raises(ValueError, match="updates must be"):
        JointOptions(updates=(0, 0))


# ---- by name, on a problem -------------------------------------------------------------------------------------------


def scan(tof=True):
    if tof:
        return Scan(DATA.astype(np.float32), SINOGRAM, background=BACKGROUND, factors=np.float32(5.0))
    return Scan(DATA.sum(2).astype(np.float32), SINOGRAM.without_tof(), background=1.0)


@pytest.mark.parametrize("method", ["mlaa", "mlacf"])
def test_methods_by_name(method):
    seen = []
    problem = recon.pet_problem(scan(), grid=GRID, subsets=3, psf=5.0)
    joint = JointOptions(known=TOTAL, body=BODY)
    image = recon.reconstruct(problem, method, 3, joint=joint, prior="quadratic:0.01", callbacks=[seen.append])
    engine = mlaa if method == "mlaa" else mlacf
    prior = 0.01 * recon.Quadratic(voxel_size=GRID.voxel_size)
    own = last(engine(problem.parts, options=JointOptions(known=TOTAL, body=BODY, prior=prior)), 3)
    np.testing.assert_allclose(image, own.image, rtol=1e-5, atol=1e-6)
    assert ("mu" in seen[-1].state) == (method == "mlaa")
    with_map = recon.pet_problem(scan(), grid=GRID, subsets=3, psf=5.0, mu=MU)
    seen.clear()
    recon.reconstruct(with_map, method, 1, joint=joint, callbacks=[seen.append])
    start = JointLikelihood(problem.parts[0]).survival(MU.astype(np.float32))  # the map is where it starts
    if method == "mlaa":
        assert abs(seen[-1].state["mu"] - MU)[BODY].max() < 0.05
    else:
        assert abs(seen[-1].state["factors"][::3] - start).mean() < 0.1


def test_a_problem_without_tof_is_refused_by_name():
    with pytest.raises(recon.ArgumentError, match="needs data with time of flight") as error:
        recon.reconstruct(recon.pet_problem(scan(tof=False), grid=GRID, subsets=2), "mlaa", 1)
    assert error.value.argument == "method"
    with pytest.raises(recon.ArgumentError, match="for the methods mlaa or mlacf"):
        recon.reconstruct(recon.pet_problem(scan(), grid=GRID, subsets=2), "osem", 1, joint=JointOptions())
