"""Protocols of the standards: photons against closed forms, units that run, and what their report shows."""

import numpy as np
import pytest

from emrecon.evaluation import Options, Results, Table
from emrecon.evaluation.standards import lutetium, pet_counting, spect_camera
from emrecon.evaluation.standards.photons import Source, photon_pairs, vision
from emrecon.evaluation.standards.sections import corrected, recovery_of, sections_of
from emrecon.evaluation.standards.suite import SUITE, units_of
from emrecon.projectors import accepted_fraction

N = 60_000


@pytest.fixture(scope="module")
def detector():
    return vision()


@pytest.mark.slow
def test_photons_of_a_point_in_air_are_counted_as_the_solid_angle_says(detector):
    """Fraction of photons that meet the ring, interact within 20 mm and are counted; no gaps."""
    pairs = photon_pairs(detector, Source(), N, 1)
    cosine = np.linspace(1e-9, 0.999, 4001)
    sine = np.sqrt(1 - cosine**2)
    half = 80 * 3.29114 / 2
    # along its way a photon is in a crystal from the front of the ring to its back, or to its end along the axis
    path = np.minimum(430 / sine, half / cosine) - 410 / sine
    stopped = np.trapezoid(1 - np.exp(-0.087 * np.maximum(path, 0)), cosine)
    real = 1 - detector.scanner.virtual.mean()
    window = accepted_fraction(511.0, detector.energy_window, detector.energy_resolution)
    expected = 2 * stopped * detector.full_energy * window * real
    assert pairs.singles == pytest.approx(expected, rel=0.03)
    assert not pairs.scattered.any()


def test_trues_are_attenuated_by_the_cylinder_and_scatter_is_told_apart(detector):
    bare = photon_pairs(detector, Source(), N, 2, steepest=0.05)
    inside = photon_pairs(detector, Source(), N, 2, cylinder=(101.5, 700.0), steepest=0.05)
    trues = np.sum(~inside.scattered) / len(bare.crystals)
    assert trues == pytest.approx(np.exp(-2 * 10.15 * 0.0945), rel=0.07)
    assert 0.1 < inside.scattered.mean() < 0.5
    assert np.std(bare.difference) == pytest.approx(214 / 2.355, rel=0.1)
    assert bare.n_decays == pytest.approx(N / 0.05)


def test_the_same_seed_gives_the_same_photons(detector):
    first, again = (photon_pairs(detector, Source(), 2000, 3).crystals for _ in range(2))
    assert np.array_equal(first, again)
    with pytest.raises(ValueError, match="steepest"):
        photon_pairs(detector, Source(), 10, 3, steepest=0)


def test_sensitivity_without_metal_is_what_sleeves_are_extrapolated_to(detector, tmp_path):
    places = pet_counting.sensitivity(tmp_path, n=30_000)["places"]
    for found in places.values():
        assert found["system"] == pytest.approx(found["without_metal"], rel=0.15)
        assert sum(found["slices"]) == pytest.approx(found["system"])


def test_the_camera_tests_return_what_was_put_in(tmp_path):
    rotation = spect_camera.rotation(tmp_path)
    for row in rotation["rows"]:
        assert row["offset"] == pytest.approx(row["given"], abs=0.05)
    assert rotation["heads_apart"] == pytest.approx(0.8, abs=0.15)
    losses = spect_camera.count_losses(tmp_path)
    assert losses["rate"] == pytest.approx(losses["closed_form"], rel=5e-3)
    assert losses["highest"] == pytest.approx(losses["highest_closed_form"], rel=5e-3)
    floods = spect_camera.flood(tmp_path)["floods"]
    assert floods["noise alone"]["UFOV"]["integral"] < 1 < floods["tubes of 1.5 %"]["CFOV"]["integral"] < 2


def test_the_report_shows_what_is_done(tmp_path):
    numbers = {}
    for name, measure in (("flood", spect_camera.flood), ("count-losses", spect_camera.count_losses)):
        folder = tmp_path / f"nema-spect/{name}"
        folder.mkdir(parents=True)
        numbers[f"nema-spect/{name}"] = measure(folder)
    options = Options(size="quick")
    assert sections_of(Results({}, tmp_path), options) == []
    (section,) = sections_of(Results(numbers, tmp_path), options)
    assert [part.title for part in section.parts if isinstance(part, Table)] == [
        "Uniformity",
        "Sensitivity and loss of counts, LEHR, Tc-99m",
    ]


@pytest.mark.parametrize("size", ["quick", "full"])
def test_units_have_names_and_arguments_of_their_own(size):
    units = [unit for unit in units_of(Options(size=size)) if not unit.name.startswith("petric")]
    assert SUITE.name == "standards"
    assert len({unit.name for unit in units}) == len(units)
    assert {unit.name.split("/")[0] for unit in units} == {"nema-pet", "nema-spect", "lu-177"}


def test_partial_volume_of_organs_is_corrected_by_volume():
    spheres = {"spheres": [{"diameter": d, "esse": c} for d, c in ((75.0, 0.9), (37.0, 0.7), (10.0, 0.2))]}
    table = recovery_of(spheres, "esse")
    kidney = {"organ": "left kidney", "volume": 150.0, "esse": 500.0, "esse around": 50.0}
    rc = table.coefficient_of_volume(150.0)
    assert corrected(kidney, table, "esse") == pytest.approx(50 + 450 / rc)
    both = {**kidney, "organ": "kidneys", "volume": 300.0}
    assert corrected(both, table, "esse") == pytest.approx(corrected(kidney, table, "esse"))
    assert corrected({**kidney, "volume": 1500.0}, table, "esse") is None
    assert corrected({**kidney, "organ": "marrow"}, table, "esse") is None


def test_the_patient_loses_activity_organ_by_organ():
    early, late = (lutetium.patient_at(hours) for hours in (24.0, 76.0))
    by_name = [{region.name: region.activity for region in body.regions} for body in (early, late)]
    assert by_name[1]["left kidney"] / by_name[0]["left kidney"] == pytest.approx(0.5)
    assert by_name[0]["liver"] == pytest.approx(280)
    assert by_name[0]["lesion 20 mm"] == pytest.approx(6 * 280)
