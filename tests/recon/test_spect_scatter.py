"""Scatter in a problem of SPECT: windows picked by their limits, and the effective source iterated with the image."""

from dataclasses import replace

import numpy as np
import pytest

from emrecon import recon
from emrecon.projectors import (
    EffectiveSource,
    EnergyWindow,
    ImageGrid,
    LinearResponse,
    SPECTGeometry,
    SPECTProjector,
    SPECTScatterProjector,
    WindowedScan,
    dual_energy_window,
    triple_energy_window,
)

CAMERA = SPECTGeometry.circular(8, 120, (12, 8), 16.0)
GRID = ImageGrid((12, 12, 8), 16.0)
X, Y, Z = GRID.coordinates()
WATER = ((np.hypot(X, Y) < 75) & (abs(Z) < 50)).astype(np.float32)
MU = np.float32(0.1536) * WATER
PEAK, LOWER, UPPER = EnergyWindow(126, 155, "peak"), EnergyWindow(100, 126, "lower"), EnergyWindow(155, 165, "upper")
RNG = np.random.default_rng(0)
COUNTS = [RNG.poisson(mean, CAMERA.shape).astype(np.float32) for mean in (50, 8, 1)]
SCAN = WindowedScan((PEAK, LOWER, UPPER), COUNTS, CAMERA, duration=20.0, radionuclide="Tc-99m")


def background(problem):
    return problem.parts[0].model.background


def problem(scan=SCAN, **options):
    return recon.spect_problem(scan, subsets=1, grid=GRID, **options)


def test_the_triple_window_is_the_default_of_three_windows_and_said():
    found, named = problem(), problem(scatter="tew")
    expected = triple_energy_window(PEAK, (LOWER, COUNTS[1]), (UPPER, COUNTS[2]))
    np.testing.assert_allclose(background(found), expected)
    np.testing.assert_array_equal(background(found), background(named))
    assert "no method was chosen" in found.notes[0]
    assert not any("no method" in note for note in named.notes)
    assert "peak peak (126 to 155 keV)" in named.summary
    assert "tew, lower (100 to 126 keV) and upper (155 to 165 keV)" in named.summary
    np.testing.assert_array_equal(named.parts[0].data, COUNTS[0])


def test_the_dual_window_has_jaszczaks_k_of_counts():
    np.testing.assert_allclose(background(problem(scatter="DEW")), 0.5 * COUNTS[1])
    per_kev = recon.WindowScatter("dew", k=0.6, per_kev=True)
    np.testing.assert_allclose(background(problem(scatter=per_kev)), dual_energy_window(PEAK, (LOWER, COUNTS[1]), 0.6))
    assert "0.5 x counts of lower" in problem(scatter="dew").summary


def test_smoothing_keeps_the_counts_of_views():
    plain, smooth = (background(problem(scatter=recon.WindowScatter(smoothing=fwhm))) for fwhm in (0, 40))
    np.testing.assert_allclose(smooth.sum((1, 2)), plain.sum((1, 2)), rtol=1e-5)
    assert smooth.std() < 0.7 * plain.std()


def test_none_and_an_array_leave_the_windows_unused():
    assert background(problem(scatter="none")) == 0
    assert "scatter windows are not used" in problem(scatter="none").summary
    np.testing.assert_array_equal(background(problem(scatter=0.5 * COUNTS[0])), 0.5 * COUNTS[0])


def test_one_scatter_window():
    two = WindowedScan((PEAK, LOWER), COUNTS[:2], CAMERA, radionuclide="Tc-99m")
    unset = problem(two)
    assert background(unset) == 0
    assert "no scatter is modelled: of the windows beside peak (126 to 155 keV) there is one alone" in unset.notes[-1]
    tew = problem(two, scatter="tew")
    np.testing.assert_allclose(background(tew), COUNTS[1] / LOWER.width * PEAK.width / 2)
    assert "no window lies above the photopeak, so the scatter there is taken as 0" in " ".join(tew.notes)


@pytest.mark.parametrize(
    ("scan", "options", "argument", "message"),
    [
        (SCAN, {"scatter": "tww"}, "scatter", "unknown scatter method 'tww'; choose from tew, dew, esse, none"),
        (SCAN, {"scatter": "dew:lower,upper"}, "scatter", "the dual energy window takes no upper window"),
        (SCAN, {"scatter": "tew:low"}, "scatter", "unknown energy window 'low'"),
        (SCAN, {"scatter": "esse"}, "scatter", "esse needs an attenuation map: mu="),
        (SCAN, {"peak": 300}, "peak", "no windows hold 300 keV"),
        (SCAN.scan("peak"), {"scatter": "tew"}, "scatter", "tew needs counts of other energy windows"),
        (SCAN.scan("peak"), {"peak": "peak"}, "peak", "this scan has one"),
        (
            WindowedScan((PEAK, UPPER), COUNTS[::2], CAMERA, radionuclide="Tc-99m"),
            {"scatter": "dew"},
            "scatter",
            "dew needs a scatter window below peak .*; the windows are peak .*, upper",
        ),
        (
            WindowedScan((PEAK, EnergyWindow(115, 135, "low"), UPPER), COUNTS, CAMERA, radionuclide="Tc-99m"),
            {"scatter": "tew"},
            "scatter",
            "tew has one window only, as low .* overlap the photopeak",
        ),
    ],
)
def test_what_cannot_be_estimated_is_refused(scan, options, argument, message):
    with pytest.raises(recon.ArgumentError, match=message) as error:
        problem(scan, **options)
    assert error.value.argument == argument


def test_the_effective_source_finds_the_scatter_of_the_truth():
    response = LinearResponse(0.03, 3.0)
    A = SPECTProjector(GRID, CAMERA, MU, response)
    S = SPECTScatterProjector(A, EffectiveSource((126, 155), 140.511, 0.0990, n_photons=2000), spacing=16.0)
    truth = (40 * WATER * (1 + (X > 20))).astype(np.float32)
    factors = np.float32(2.0)
    scatter = factors * S.estimate(truth)
    counts = factors * A(truth) + scatter
    scan = replace(SCAN.scan("peak"), counts=counts, factors=2.0)
    options = {"mu": MU, "response": response}
    corrected = problem(scan, scatter=recon.EffectiveScatter(spacing=16.0), **options)
    assert background(corrected).sum() == pytest.approx(scatter.sum(), rel=0.03)
    assert "esse, 140.5 keV, window 126 to 155 keV, resolution 9.9 %, 4 updates" in corrected.summary
    inside = np.hypot(X, Y) < 50
    means = [
        recon.reconstruct(one, iterations=20)[inside & (abs(Z) < 40)].mean()
        for one in (problem(scan, scatter="none", **options), corrected)
    ]
    expected = truth[inside & (abs(Z) < 40)].mean()
    assert abs(means[1] / expected - 1) < 0.03
    assert means[0] / expected > 1.1
