"""Collimators and responses against published dimensions and the textbook's formulas."""

import numpy as np
import pytest

from emrecon.projectors import (
    CollimatorResponse,
    GaussianResponse,
    LinearResponse,
    MeasuredResponse,
    ParallelHoleCollimator,
    collimator,
    collimator_named,
    collimators,
)

FWHM = 2 * np.sqrt(2 * np.log(2))
# hole, septa, length (mm), energy (keV), effective length, geometric and system FWHM at 100 mm (mm), efficiency
TABLE = {
    "siemens-lehr": (1.11, 0.16, 24.05, 140.5, 23.31, 5.87, 6.99, 1.17e-4),
    "siemens-me": (2.94, 1.14, 40.64, 208, 38.71, 10.54, 10.99, 2.03e-4),
    "siemens-he": (4.00, 2.00, 59.7, 364, 53.35, 11.50, 11.74, 1.69e-4),
    "ge-lehr": (1.5, 0.20, 35, 140.5, 34.26, 5.88, 7.00, 1.01e-4),
    "ge-megp": (3.0, 1.05, 58, 208, 56.07, 8.35, 8.91, 1.06e-4),
    "ge-hegp": (4.0, 1.80, 66, 364, 59.65, 10.71, 10.96, 1.45e-4),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_collimators(name):
    hole, septa, length, energy, effective, geometric, system, efficiency = TABLE[name]
    found = collimator(name)
    assert (found.hole_diameter, found.septal_thickness, found.hole_length) == (hole, septa, length)
    assert found.hole_shape == "hexagonal"
    assert found.effective_length(energy) == pytest.approx(effective, abs=0.02)
    assert FWHM * found.response(energy, intrinsic_fwhm=0).sigma(100) == pytest.approx(geometric, abs=0.012)
    assert FWHM * found.response(energy).sigma(100) == pytest.approx(system, abs=0.012)
    assert found.efficiency(energy) == pytest.approx(efficiency, rel=0.005)


@pytest.mark.parametrize(
    ("name", "hole", "septa", "length"),
    [("siemens-leap", 1.45, 0.2, 24.05), ("ge-elegp", 2.5, 0.4, 40), ("siemens-ecam-he", 3.4, 2.0, 50.8)],
)
def test_other_published_dimensions(name, hole, septa, length):
    found = collimator(name)
    assert (found.hole_diameter, found.septal_thickness, found.hole_length) == (hole, septa, length)


def test_names():
    assert collimator("SIEMENS-Lehr") == collimator("siemens-lehr")
    for code, name in {"sy-lehr": "siemens-lehr", "SY-HE": "siemens-he", "gi-megp": "ge-megp"}.items():
        assert collimator(code).response(364) == collimator(name).response(364)
    assert len(set(collimators())) == len(collimators()) > 90
    assert all(collimator(name).efficiency(140.5) > 0 for name in collimators())
    for unknown in ("lehr", ""):
        with pytest.raises(ValueError, match=r"unknown collimator.*siemens-lehr"):
            collimator(unknown)


def test_shapes_of_holes_change_the_efficiency_only():
    by_shape = {shape: ParallelHoleCollimator(1.5, 0.2, 35, shape) for shape in ("hexagonal", "round", "square")}
    ratios = {
        shape: np.sqrt(c.efficiency(140) / by_shape["hexagonal"].efficiency(140)) for shape, c in by_shape.items()
    }
    assert ratios["round"] == pytest.approx(0.24 / 0.26)
    assert ratios["square"] == pytest.approx(0.28 / 0.26)
    assert len({c.response(140) for c in by_shape.values()}) == 1


def test_the_intrinsic_resolution_depends_on_energy():
    made = collimator("ge-lehr")
    assert made.response(140).c * FWHM == pytest.approx(3.8)
    assert made.response(4 * 140).c * FWHM == pytest.approx(1.9)
    assert made.response(140, intrinsic_fwhm=3.3).c * FWHM == pytest.approx(3.3)
    assert made.response(140).sigma(0) == pytest.approx(np.hypot(1.5, 3.8) / FWHM)


def test_energies_that_pass_through_are_refused():
    with pytest.raises(ValueError, match="does not collimate 511 keV: its effective length is -"):
        ParallelHoleCollimator(1.5, 0.2, 10).response(511)
    for energy in (0, -5, float("nan")):
        with pytest.raises(ValueError, match="energy must be"):
            collimator("ge-lehr").response(energy)
    with pytest.raises(ValueError, match="unknown material 'cheese'"):
        ParallelHoleCollimator(1.5, 0.2, 35, material="cheese").efficiency(140)
    assert ParallelHoleCollimator(1.5, 0.2, 35, material="tungsten").effective_length(140) > collimator(
        "ge-lehr"
    ).effective_length(140)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, -1, 1), (1, 1, 0), (1, float("nan"), 1), (1, 1, float("inf"))])
def test_collimators_have_dimensions(sizes):
    with pytest.raises(ValueError, match="dimensions must be positive"):
        ParallelHoleCollimator(*sizes)


def test_unknown_shapes_are_refused():
    with pytest.raises(ValueError, match="hole_shape must be one of hexagonal, round, square"):
        ParallelHoleCollimator(1, 1, 1, "star")


def test_gaussian_responses():
    distance = np.array([[0.0, 10], [100, 250]])
    np.testing.assert_allclose(LinearResponse(0.03, 2.0).sigma(distance), 0.03 * distance + 2)
    sigma = CollimatorResponse(0.04, 1.0, 1.5).sigma(distance)
    np.testing.assert_allclose(sigma**2, (0.04 * distance + 1) ** 2 + 1.5**2)
    assert LinearResponse(0, 0).sigma(3) == 0
    for response in (LinearResponse(0, 1), CollimatorResponse(0, 0, 0)):
        assert isinstance(response, GaussianResponse)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_widths_are_not_negative(bad):
    for values in ((bad, 1.0), (1.0, bad)):
        with pytest.raises(ValueError, match="LinearResponse needs slope >= 0"):
            LinearResponse(*values)
    for values in ((bad, 1, 1), (1, bad, 1), (1, 1, bad)):
        with pytest.raises(ValueError, match="CollimatorResponse needs finite"):
            CollimatorResponse(*values)


def test_measured_kernels_are_normalised_and_interpolated():
    kernels = np.random.default_rng(0).random((3, 5, 3))
    response = MeasuredResponse([0, 10, 40], kernels, (2.0, 3.0))
    scaled = kernels / kernels.sum((1, 2), keepdims=True)
    for distance, weights in {
        0: (1, 0, 0),
        10: (0, 1, 0),
        25: (0, 0.5, 0.5),
        37: (0, 0.1, 0.9),
        4: (0.6, 0.4, 0),
    }.items():
        np.testing.assert_allclose(response.kernel(distance), np.tensordot(weights, scaled, 1), atol=1e-15)
    np.testing.assert_allclose(response.kernel(-5), scaled[0])
    np.testing.assert_allclose(response.kernel(1e4), scaled[2])
    assert response.reach == (4.0, 3.0)
    assert not isinstance(response, GaussianResponse)


def test_one_measured_kernel_serves_all_distances():
    response = MeasuredResponse(50, np.ones((1, 3, 3)), 1.0)
    for distance in (0, 50, 90):
        np.testing.assert_allclose(response.kernel(distance), 1 / 9)


@pytest.mark.parametrize(
    ("distances", "kernels", "pixel", "message"),
    [
        ([0, 1], np.ones((3, 3, 3)), 1, r"expects kernels \(2, nu, nz\), got \(3, 3, 3\)"),
        ([0], np.ones((3, 3)), 1, "expects kernels"),
        ([0, 0], np.ones((2, 3, 3)), 1, "must be finite and increase"),
        ([0, np.nan], np.ones((2, 3, 3)), 1, "must be finite and increase"),
        ([], np.ones((0, 3, 3)), 1, "must be finite and increase"),
        ([0], np.ones((1, 4, 3)), 1, "odd sizes"),
        ([0], np.ones((1, 3, 2)), 1, "odd sizes"),
        ([0], np.zeros((1, 3, 3)), 1, "positive sums"),
        ([0], np.full((1, 3, 3), np.nan), 1, "must be finite"),
        ([0], np.ones((1, 3, 3)), 0, "pixel_size positive"),
        ([0], np.ones((1, 3, 3)), np.nan, "pixel_size positive"),
        ([0], np.ones((1, 3, 3)), (1, 2, 3), "pixel_size positive"),
    ],
)
def test_measured_kernels_that_make_no_sense(distances, kernels, pixel, message):
    with pytest.raises(ValueError, match=message):
        MeasuredResponse(distances, kernels, pixel)


@pytest.mark.parametrize(
    ("name", "maker", "model", "ours"),
    [
        ("LEHR", "SIEMENS NM", "Symbia Intevo", "sy-lehr"),
        ("Low Energy High Res", "Siemens", "Encore2", "sy-lehr"),
        ("LE-HR PAR", "SIEMENS", "Symbia T2", "sy-lehr"),
        ("MELP", "SIEMENS NM", "Symbia T", "sy-me"),
        ("MEGP", "SIEMENS", "e.cam", "se-me"),
        ("HE", "SIEMENS", None, "sy-he"),
        ("LEHR", "GE MEDICAL SYSTEMS", "INFINIA", "gi-lehr"),
        ("MEGP", "GE MEDICAL SYSTEMS", "Discovery NM/CT 670", "gi-megp"),
        ("ELEGP", "GE MEDICAL SYSTEMS", "Discovery NM/CT 670", "gi-eleg"),
        ("LEHRS", "GE MEDICAL SYSTEMS", "NM/CT 870 DR", "g8-lhrs"),
        ("LEHR", "GE", "Optima NM/CT 640", "go-lehr"),
        ("CHR", "Philips Medical Systems", "BrightView XCT", "pb-cahr"),
        ("HEGP", "Mediso", "AnyScan SC", "ma-hegp"),
        ("siemens-lehr", None, None, "siemens-lehr"),
        ("SY-ME", "anyone", "anything", "sy-me"),
    ],
)
def test_collimators_by_the_names_in_files(name, maker, model, ours):
    found = collimator_named(name, maker, model)
    assert found == collimator(ours)


@pytest.mark.parametrize(
    ("name", "maker", "model", "words"),
    [
        ("SMARTZOOM", "SIEMENS NM", "Symbia", r"unknown collimator 'SMARTZOOM' of SIEMENS NM \(known: sy-lehr, "),
        ("MEGP", "GE", "Optima NM/CT 640", "unknown collimator 'MEGP'"),
        ("", "SIEMENS", "Symbia", "unknown collimator ''"),
        ("LEHR", None, None, "collimators of an unknown camera are not known; name one of"),
        ("WIDE", "Spectrum Dynamics Medical", "VERITON-CT", "collimators of Spectrum Dynamics Medical VERITON-CT"),
    ],
)
def test_unknown_collimators_say_how_to_give_one(name, maker, model, words):
    with pytest.raises(ValueError, match=words):
        collimator_named(name, maker, model)
