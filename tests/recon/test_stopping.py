"""Rules that end a run: closeness to a reference, and the conditions of an optimum."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.recon import Iterate, PoissonLikelihood, mlem, run
from emrecon.recon.metrics.regions import RegionOfInterest
from emrecon.recon.stopping import KKT, KKTRule, PetricErrors, PetricRule, kkt_residual

SHAPE = (6, 5, 4)
OBJECT, BACKGROUND, LESION = (np.zeros(SHAPE, bool) for _ in range(3))
OBJECT[1:, 1:, :], BACKGROUND[1:3, 1:, :], LESION[4:, 3:, 1:3] = True, True, True
REFERENCE = 2.0 * OBJECT + 6.0 * LESION
CHANGE = np.random.default_rng(0).normal(size=SHAPE)


def closing_in(steps, change=CHANGE):
    """Iterates whose distance from the reference is change x step."""
    for i, step in enumerate(steps, 1):
        yield Iterate(i, REFERENCE + step * change)


# ---- PETRIC ----------------------------------------------------------------------------------------------------------


def test_the_three_errors():
    rule = PetricRule(REFERENCE, OBJECT, BACKGROUND, [LESION, RegionOfInterest("corner", OBJECT[::-1])])
    errors = rule.errors(Iterate(3, REFERENCE + CHANGE))
    assert errors.iteration == 3
    assert errors.object == pytest.approx(np.sqrt(np.mean(CHANGE[OBJECT] ** 2)) / 2)
    assert errors.background == pytest.approx(np.sqrt(np.mean(CHANGE[BACKGROUND] ** 2)) / 2)
    means = [abs(CHANGE[LESION].mean()), abs(CHANGE[OBJECT[::-1]].mean())]
    assert errors.region == pytest.approx(max(means) / 2)
    assert PetricRule(REFERENCE, OBJECT, BACKGROUND).errors(Iterate(1, REFERENCE + CHANGE)).region == 0


def test_ten_in_a_row_end_the_run():
    rule = PetricRule(REFERENCE, OBJECT, BACKGROUND, [LESION])
    steps = [1, 0.5, 1e-3, *[1e-3] * 4, 1.0, *[1e-3] * 30]
    iterates = closing_in(steps)
    run(iterates, 99, rule)
    assert next(iterates).iteration == 19, "8 was out of it, so 9 to 18 are the first ten"
    assert rule.reached == 9
    assert [errors.iteration for errors in rule.history] == list(range(1, 19))
    curve = np.array([errors.object for errors in rule.history])
    np.testing.assert_allclose(curve / curve[0], steps[:18], rtol=1e-9)


def test_every_threshold_counts():
    rms, mean = np.sqrt(np.mean(CHANGE[OBJECT] ** 2)) / 2, abs(CHANGE[LESION].mean()) / 2
    behind = np.sqrt(np.mean(CHANGE[BACKGROUND] ** 2)) / 2
    image = Iterate(1, REFERENCE + CHANGE)
    loose = {"object_tolerance": 9, "background_tolerance": 9, "region_tolerance": 9}
    for name, value in (("object", rms), ("background", behind), ("region", mean)):
        for factor, stops in ((1.001, True), (0.999, False)):
            limits = loose | {f"{name}_tolerance": factor * value}
            rule = PetricRule(REFERENCE, OBJECT, BACKGROUND, [LESION], n_in_row=1, **limits)
            assert rule(image) is stops
            assert rule.reached == (1 if stops else None)


def test_defaults_are_those_of_the_challenge():
    rule = PetricRule(REFERENCE, OBJECT, BACKGROUND)
    assert (rule.object_tolerance, rule.background_tolerance, rule.region_tolerance) == (0.01, 0.01, 0.005)
    assert rule.n_in_row == 10
    assert rule.reached is None
    inside, outside = PetricErrors(1, 0.01, 0.01, 0.005), PetricErrors(1, 0.01, 0.01, 0.0051)
    assert rule.is_within(inside)
    assert not rule.is_within(outside)


def test_tensors_and_batches():
    rule = PetricRule(REFERENCE, OBJECT, BACKGROUND, [LESION])
    expected = rule.errors(Iterate(1, REFERENCE + CHANGE))
    tensor = torch.tensor(REFERENCE + CHANGE).requires_grad_()
    assert rule.errors(Iterate(1, tensor)) == pytest.approx(expected)
    on_tensors = PetricRule(torch.tensor(REFERENCE), torch.tensor(OBJECT), torch.tensor(BACKGROUND), [LESION])
    assert on_tensors.errors(Iterate(1, tensor)) == pytest.approx(expected)
    batch = PetricRule(np.stack([REFERENCE, 2 * REFERENCE]), OBJECT, BACKGROUND, [LESION])
    worst = batch.errors(Iterate(1, np.stack([REFERENCE + 0.1 * CHANGE, 2 * REFERENCE + 2 * CHANGE])))
    assert worst == pytest.approx(expected)


@pytest.mark.parametrize("where", [OBJECT, LESION], ids=["object", "lesion"])
def test_nan_never_stops(where):
    image = np.where(where & (np.indices(SHAPE).sum(0) == 8), np.nan, REFERENCE)
    assert np.isnan(image).any()
    rule = PetricRule(REFERENCE, OBJECT, BACKGROUND, [BACKGROUND, LESION, BACKGROUND], n_in_row=1)
    assert rule(Iterate(1, image)) is False
    assert math.isnan(rule.history[0].object)
    assert math.isnan(rule.history[0].region)


def test_impossible_rules():
    for name in ("object_tolerance", "background_tolerance", "region_tolerance"):
        for value in (0, -1, math.nan):
            with pytest.raises(ValueError, match=f"PetricRule {name} must be positive"):
                PetricRule(REFERENCE, OBJECT, BACKGROUND, **{name: value})
    with pytest.raises(ValueError, match="n_in_row must be a whole number"):
        PetricRule(REFERENCE, OBJECT, BACKGROUND, n_in_row=0)
    with pytest.raises(ValueError, match="mean in the background is 0"):
        PetricRule(REFERENCE, OBJECT, ~OBJECT)
    with pytest.raises(ValueError, match="'object' holds no voxel"):
        PetricRule(REFERENCE, 0 * OBJECT, BACKGROUND)
    with pytest.raises(ValueError, match=r"images of \(6, 5, 3\), got \(6, 5, 4\)"):
        PetricRule(REFERENCE, OBJECT, BACKGROUND, [LESION[..., 1:]])
    with pytest.raises(ValueError, match="the reference holds NaN"):
        PetricRule(np.where(LESION, np.nan, REFERENCE), OBJECT, BACKGROUND)
    with pytest.raises(ValueError, match=r"shape \(6, 5\) does not fit a reference of \(6, 5, 4\)"):
        PetricRule(REFERENCE, OBJECT, BACKGROUND)(Iterate(1, REFERENCE[..., 0]))


# ---- Karush-Kuhn-Tucker ----------------------------------------------------------------------------------------------


def test_the_residual_by_its_formula():
    x, g, start = np.array([0.0, 0.0, 2.0, 4.0]), np.array([3.0, -0.5, 0.1, -0.2]), np.array([0.0, 3.0, 0.0, 4.0])
    assert kkt_residual(x, g) == pytest.approx(KKT(math.hypot(0.2, 0.8), 0.5))
    assert kkt_residual(x, g, start) == pytest.approx(KKT(math.hypot(0.2, 0.8) / 4 / 5, 0.1))
    assert kkt_residual(torch.tensor(x), torch.tensor(g), start) == pytest.approx(kkt_residual(x, g, start))
    assert kkt_residual(0 * x, g, start) == pytest.approx(KKT(0, math.hypot(0.5, 0.2) / 5))


def test_units_do_not_matter_against_the_start():
    x, g, start = np.abs(CHANGE), CHANGE**2 - 1, CHANGE + 1
    assert kkt_residual(7 * x, 3 * g, 3 * start) == pytest.approx(kkt_residual(x, g, start))


def test_quadratics_with_known_optima():
    """f = |x - c|^2 / 2 for x >= 0 is best at max(c, 0)."""
    c = CHANGE
    optimum = np.maximum(c, 0)
    start = np.ones(SHAPE) - c
    assert kkt_residual(optimum, optimum - c, start) == KKT(0, 0)
    wrong = optimum + 0.01
    assert kkt_residual(wrong, wrong - c, start).product > 1e-3
    missed = np.where(c == c.max(), 0, optimum)
    assert kkt_residual(missed, missed - c, start) == pytest.approx(KKT(0, c.max() / np.linalg.norm(start)))


A = projector("thin", "gaussian")
F = PoissonLikelihood(np.random.default_rng(0).poisson(3.0, A.out_shape).astype(float), AcquisitionModel(A, 1.0, 0.5))


def test_a_solver_of_its_own_satisfies_the_conditions():
    start = np.ones(A.in_shape)
    result = minimize(
        lambda x: (float(F.value(x.reshape(A.in_shape))), F.gradient(x.reshape(A.in_shape)).ravel()),
        start.ravel(),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, None)] * start.size,
        options={"maxiter": 3000, "maxfun": 6000, "ftol": 1e-15, "gtol": 1e-9},
    )
    x = result.x.reshape(A.in_shape)
    residual = kkt_residual(x, F.gradient(x), F.gradient(start))
    assert max(residual) < 1e-5
    assert (x == 0).any(), "both conditions are needed here"


def test_the_rule_ends_a_run():
    rule = KKTRule(F.gradient, 2e-3, F.ones_image())
    image = run(mlem(F), 2000, rule)
    products = [errors.product for errors in rule.history]
    assert 5 < len(products) < 2000
    assert products[-1] <= 2e-3 < products[-2]
    assert products[-1] < products[5] < products[0]
    assert rule.history[-1].iteration == len(products)
    final = kkt_residual(image, F.gradient(image), F.gradient(F.ones_image()))
    assert rule.history[-1][1:] == final


def test_without_a_start_the_first_iterate_is_the_start():
    rule = KKTRule(lambda x: x, 0.3)
    assert rule(Iterate(4, np.full(SHAPE, 2.0))) is False
    assert rule.history[0] == pytest.approx((4, 1.0, 0.0))
    assert rule(Iterate(5, np.full(SHAPE, 0.5))) is True


def test_impossible_conditions():
    x = np.ones(SHAPE)
    for bad in (-x, np.nan * x):
        with pytest.raises(ValueError, match="holds negative values or NaN"):
            kkt_residual(bad, x)
    with pytest.raises(ValueError, match="gradient holds NaN"):
        kkt_residual(x, np.nan * x)
    with pytest.raises(ValueError, match=r"gradient of shape \(5, 4\) does not fit \(6, 5, 4\)"):
        kkt_residual(x, x[0])
    with pytest.raises(ValueError, match="norm 0; is it the optimum already"):
        kkt_residual(x, x, 0 * x)
    for tolerance in (0, -1, math.nan):
        with pytest.raises(ValueError, match="tolerance must be positive"):
            KKTRule(F.gradient, tolerance)


def test_a_start_at_the_optimum_stops():
    assert KKTRule(lambda x: x - 1, 1e-3)(Iterate(0, np.ones((2, 2, 2))))
    with pytest.raises(ValueError, match="gradient at the start holds NaN"):
        kkt_residual(np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.full((2, 2, 2), np.nan))
