"""Absorbed dose by convolution, density, tables of organs, and the whole calculation, against closed forms."""

import json
import logging
import math

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.projectors.physics import hounsfield_to_mu
from emrecon.recon.dosimetry import (
    absorbed_dose,
    attenuation_to_density,
    hounsfield_to_density,
    organ_doses,
    point_kernel,
    treatment_dose,
    uniform_dose,
    volume_histogram,
    voxel_kernel,
)
from emrecon.recon.dosimetry.dose import convolved
from emrecon.recon.dosimetry.kernel import mirrored

GRID = ImageGrid((20, 18, 16), 4.0)
LN2 = math.log(2)


def ball(grid, radius):
    x, y, z = grid.coordinates()
    return x**2 + y**2 + z**2 < radius**2


def test_a_medium_without_end():
    """D = A E / rho: one MBq h in a gram is 3.6e9 decays of 0.183 MeV of Lu-177."""
    by_hand = 3.6e9 * 0.1832 * 1.602e-13 / 1e-3
    assert uniform_dose("Lu-177", 1.0) == pytest.approx(by_hand, rel=2e-3)
    assert uniform_dose("Y-90", 2.0, density=2.0) == pytest.approx(3.6e9 * 0.933 * 1.602e-13 / 1e-3, rel=5e-3)
    middle = absorbed_dose(np.ones((24, 24, 24)), ImageGrid((24, 24, 24), 10.0), "Y-90").image[12, 12, 12]
    assert middle == pytest.approx(uniform_dose("Y-90", 1.0), rel=3e-3)
    large = absorbed_dose(np.ones((80, 80, 80)), ImageGrid((80, 80, 80), 25.0), "I-131")
    assert large.image[40, 40, 40] == pytest.approx(uniform_dose("I-131", 1.0), rel=3e-3)


@pytest.mark.parametrize("nuclide", ["Lu-177", "I-131"])
def test_a_sphere_in_water(nuclide):
    """The mean dose of a uniform sphere is the integral of the point kernel with the chance to stay inside."""
    grid = ImageGrid((32, 32, 32), 2.0)
    inside = ball(grid, 20.0)
    dose = absorbed_dose(np.where(inside, 3.0, 0.0), grid, nuclide)
    kernel, radius = point_kernel(nuclide), (3 * inside.sum() * grid.voxel_volume / (4 * math.pi)) ** (1 / 3)
    r = np.linspace(0, 2 * radius, 4001)
    middle = (r[1:] + r[:-1]) / 2
    stays = 1 - 3 * middle / (4 * radius) + middle**3 / (16 * radius**3)
    energy = np.diff(kernel.electron_within(r) + kernel.photon_within(r)) @ stays  # keV
    assert dose.image[inside].mean() == pytest.approx(3.0 * 3.6e9 * energy * 1.602e-16 / 1e-3, rel=0.01)


def test_convolution_is_the_sum_over_sources():
    rng = np.random.default_rng(0)
    activity = np.zeros(GRID.shape)
    activity[tuple(rng.integers(0, n, 5) for n in GRID.shape)] = rng.random(5)
    dose = absorbed_dose(activity, GRID, "I-131")
    S = voxel_kernel("I-131", 4.0, half_width=tuple(n - 1 for n in GRID.shape))
    target = (3, 9, 12)
    sources = np.argwhere(activity)
    expected = sum(activity[tuple(p)] * 0.064 * 3600 * S.at(p - np.array(target)) / 1000 for p in sources)
    assert dose.image[target] == pytest.approx(expected, rel=1e-9)
    assert mirrored(S.electrons).shape == S.values.shape
    small = np.zeros((2, 3, 1))
    small[0, 0, 0] = 2.0
    np.testing.assert_allclose(convolved(np.ones(GRID.shape), small), 2.0)


def test_energy_is_conserved():
    activity = np.zeros(GRID.shape)
    activity[10, 9, 8] = 1.0
    dose = absorbed_dose(activity, GRID, "Lu-177")
    decays = 0.064 * 3.6e9
    absorbed = dose.image.sum() * 0.064e-3 / (decays * 0.1832e6 * 1.602e-19)
    assert absorbed == pytest.approx(dose.absorbed, rel=2e-3)
    assert 0.148 / 0.1832 < dose.absorbed < 0.9
    assert dose.total_activity == pytest.approx(0.064)
    assert "Lu-177" in str(dose)


def test_density_divides_the_dose(caplog):
    """Half of the density is twice the dose; air gets none, and it is said how much that leaves out."""
    activity = np.where(ball(GRID, 24), 1.0, 0.0)
    water = absorbed_dose(activity, GRID, "Y-90")
    lung = absorbed_dose(activity, GRID, "Y-90", density=np.full(GRID.shape, 0.5))
    np.testing.assert_allclose(lung.image, 2 * water.image)
    assert lung.absorbed == pytest.approx(water.absorbed)
    assert lung.mass.sum() == pytest.approx(water.mass.sum() / 2)
    density = np.ones(GRID.shape)
    density[:10] = 0.0012
    with caplog.at_level(logging.WARNING):
        half = absorbed_dose(activity, GRID, "Y-90", density=density)
    assert half.image[:10].max() == 0
    assert half.absorbed < 0.6 * water.absorbed
    assert "voxels of air" in caplog.text


def test_electrons_absorbed_where_they_arise():
    activity = np.zeros(GRID.shape)
    activity[10, 9, 8] = 1.0
    local = absorbed_dose(activity, GRID, "Y-90", method="local")
    assert local.image[10, 9, 8] == pytest.approx(uniform_dose("Y-90", 1.0), rel=0.01)
    assert local.image[11, 9, 8] < 0.01 * absorbed_dose(activity, GRID, "Y-90").image[11, 9, 8]


def test_dose_refuses():
    ones = np.ones(GRID.shape)
    with pytest.raises(ValueError, match="does not fit"):
        absorbed_dose(ones[:-1], GRID, "Lu-177")
    with pytest.raises(ValueError, match="cannot be negative"):
        absorbed_dose(-ones, GRID, "Lu-177")
    with pytest.raises(ValueError, match="NaN"):
        absorbed_dose(np.nan * ones, GRID, "Lu-177")
    with pytest.raises(ValueError, match="Hounsfield"):
        absorbed_dose(ones, GRID, "Lu-177", density=40 * ones)
    with pytest.raises(ValueError, match="choose from kernel, local"):
        absorbed_dose(ones, GRID, "Lu-177", method="fast")
    with pytest.raises(ValueError, match="choose from Lu-177"):
        absorbed_dose(ones, GRID, "F-18")


def test_densities_of_tissue():
    hu = np.array([-1000.0, -750.0, -98.0, 0.0, 50.0, 1000.0])
    found = hounsfield_to_density(hu)
    np.testing.assert_allclose(found, [0.0012, 0.26, 0.93, 1.018, 1.05, 1.609], atol=0.005)
    assert (np.diff(hounsfield_to_density(np.linspace(-1000, 3000, 4001))) > 0).all()
    back = attenuation_to_density(hounsfield_to_mu(hu[1:], 208.0), 208.0)
    np.testing.assert_allclose(back, found[1:], atol=0.005)
    with pytest.raises(ValueError, match="Hounsfield"):
        attenuation_to_density(np.array([-1000.0]), 208.0)
    with pytest.raises(ValueError, match="NaN"):
        hounsfield_to_density(np.array([np.nan]))


def a_dose():
    activity = np.where(ball(GRID, 20), 2.0, 0.5)
    return absorbed_dose(activity, GRID, "Lu-177", density=np.full(GRID.shape, 1.05))


def test_table_of_organs(tmp_path):
    dose = a_dose()
    masks = {"tumour": ball(GRID, 12), "all": np.ones(GRID.shape, bool)}
    table = organ_doses(dose, masks, injected=100.0, thresholds=(0.1,))
    tumour = table["tumour"]
    values = dose.image[masks["tumour"]]
    assert tumour.volume == pytest.approx(masks["tumour"].sum() * 0.064)
    assert tumour.mass == pytest.approx(tumour.volume * 1.05)
    assert tumour.mean == pytest.approx(values.mean())
    assert tumour.highest == values.max()
    assert tumour.activity == pytest.approx(2.0 * tumour.volume)
    assert tumour.coefficient == pytest.approx(tumour.activity / 100)
    assert tumour.dose_at[98] <= tumour.dose_at[50] <= tumour.dose_at[2]
    assert tumour.dose_at[50] == pytest.approx(np.median(values))
    assert tumour.volume_above[0.1] == pytest.approx((values >= 0.1).mean())
    histogram = volume_histogram(dose, masks["tumour"], 500)
    assert histogram.shares[0] == 1
    assert histogram.shares[-1] == 0
    assert histogram.volume_above(tumour.dose_at[50]) == pytest.approx(0.5, abs=0.08)
    assert "tumour" in str(table)
    assert len(table) == 2
    table.write(tmp_path / "organs.csv")
    table.write(tmp_path / "organs.json")
    header, first, *_ = (tmp_path / "organs.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(",")))
    assert float(row["mean_gy"]) == tumour.mean
    assert row["uncertainty_gy"] == ""
    assert json.loads((tmp_path / "organs.json").read_text())["organs"][0]["mass_g"] == tumour.mass
    with pytest.raises(ValueError, match=r"csv or \.json"):
        table.write(tmp_path / "organs.txt")
    with pytest.raises(KeyError, match="there are tumour, all"):
        table["liver"]


def test_masks_that_do_not_fit():
    dose = a_dose()
    with pytest.raises(ValueError, match="'liver' is empty"):
        organ_doses(dose, {"liver": np.zeros(GRID.shape, bool)})
    with pytest.raises(ValueError, match="does not fit"):
        organ_doses(dose, {"liver": np.ones((3, 3, 3), bool)})
    with pytest.raises(ValueError, match="label map"):
        organ_doses(dose, {"liver": np.full(GRID.shape, 2)})
    with pytest.raises(ValueError, match="no masks"):
        organ_doses(dose, {})
    with pytest.raises(ValueError, match="injected"):
        organ_doses(dose, {"all": np.ones(GRID.shape, bool)}, injected=0)


@pytest.mark.parametrize("fit", ["voxel", "organ"])
def test_a_treatment_whose_dose_is_known(fit):
    """Two regions of own half-lives: the integrals are A T / ln 2, and the dose is that of their sum."""
    tumour = ball(GRID, 16)
    times = (4.0, 24.0, 96.0)
    start, life = np.where(tumour, 8e5, 1e5), np.where(tumour, 90.0, 45.0)
    images = [start * 2 ** (-t / life) for t in times]
    found = treatment_dose(times, images, GRID, "177Lu", masks={"tumour": tumour}, fit=fit, injected=7400.0)
    activity = start / 1e6 * life / LN2  # MBq h/mL
    expected = absorbed_dose(activity, GRID, "Lu-177")
    np.testing.assert_allclose(found.dose.image, expected.image, rtol=1e-3)
    row = found.organs["tumour"]
    assert row.activity == pytest.approx(0.8 * 90 / LN2 * tumour.sum() * 0.064, rel=1e-3)
    assert row.coefficient == pytest.approx(row.activity / 7400)
    assert row.half_life == pytest.approx(90, rel=1e-3)
    assert row.uncertainty == pytest.approx(0, abs=1e-3)
    assert "Gy" in str(found)


def test_one_scan_with_physical_decay():
    """A(t) exp(lambda t) / lambda: Y-90 after 20 h."""
    tumour = ball(GRID, 16)
    image = np.where(tumour, 1e6, 0.0)
    found = treatment_dose((20.0,), [image], GRID, "Y-90", masks={"liver": tumour}, model="physical")
    half_life = 230549.76 / 3600
    expected = 2 ** (20 / half_life) * half_life / LN2 * tumour.sum() * 0.064
    assert found.organs["liver"].activity == pytest.approx(expected, rel=1e-6)
    shorter = treatment_dose((20.0,), [image], GRID, "Y-90", half_life=40.0)
    assert shorter.dose.total_activity == pytest.approx(2 ** (20 / 40) * 40 / LN2 * tumour.sum() * 0.064, rel=1e-6)


def test_what_a_treatment_says_and_refuses():
    tumour = ball(GRID, 16)
    still = [np.where(tumour, 1e5, 1e3)] * 2
    found = treatment_dose((4.0, 50.0), still, GRID, "Lu-177", masks={"tumour": tumour})
    assert any("as slowly as physical decay" in note for note in found.notes)
    assert any(note.startswith("tumour: ") for note in found.notes)
    overlapping = {"a": tumour, "b": ball(GRID, 20)}
    shared = treatment_dose((4.0, 50.0), still, GRID, "Lu-177", masks=overlapping, fit="organ")
    assert any("overlapping" in note for note in shared.notes)
    with pytest.raises(ValueError, match="2 parameters"):
        treatment_dose((4.0,), still[:1], GRID, "Lu-177")
    with pytest.raises(ValueError, match="one time per image"):
        treatment_dose((4.0,), still, GRID, "Lu-177")
    with pytest.raises(ValueError, match="needs masks"):
        treatment_dose((4.0, 50.0), still, GRID, "Lu-177", fit="organ")
    with pytest.raises(ValueError, match="no activity"):
        treatment_dose((4.0, 50.0), [still[0], np.zeros(GRID.shape)], GRID, "Lu-177")
    with pytest.raises(ValueError, match="automatically"):
        treatment_dose((4.0, 50.0), still, GRID, "Lu-177", model="auto")
    with pytest.raises(ValueError, match="exclude"):
        treatment_dose((4.0, 50.0), still, GRID, "Lu-177", model="physical", half_life=10.0)
