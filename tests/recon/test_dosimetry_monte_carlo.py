"""The Monte Carlo of doses: energy, water against voxel S values, closed forms, and tissues against tables."""

import numpy as np
import pytest

from emrecon.projectors import ImageGrid
from emrecon.recon.dosimetry import (
    MEDIA,
    absorbed_dose,
    media_of,
    simulated_dose,
    treatment_dose,
    uniform_dose,
)
from emrecon.recon.dosimetry.media import medium
from emrecon.recon.dosimetry.photon_transport import compton_transfer
from emrecon.recon.dosimetry.stopping import ELECTRONS_PER_GRAM


def point(n, voxel):
    grid = ImageGrid((n, n, n), voxel)
    activity = np.zeros(grid.shape)
    activity[n // 2, n // 2, n // 2] = 1.0
    return activity, grid


@pytest.mark.parametrize("nuclide", ["Lu-177", "Y-90", "I-131"])
def test_no_energy_is_lost_and_water_is_that_of_the_kernels(nuclide):
    activity, grid = point(9, 4.0)
    found, kernel = (make(activity, grid, nuclide) for make in (few, absorbed_dose))
    assert found.absorbed + found.escaped == pytest.approx(1, abs=1e-9)
    source = (4, 4, 4)
    assert found.image[source] == pytest.approx(kernel.image[source], rel=0.015, abs=4 * found.error[source])
    beside = [(4 + i, 4 + j, 4 + k) for i, j, k in np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])]
    mine, theirs = (np.mean([d.image[p] for p in beside]) for d in (found, kernel))
    noise = np.mean([found.error[p] for p in beside]) / np.sqrt(6)
    assert mine == pytest.approx(theirs, rel=0.03, abs=4 * noise)


def few(activity, grid, nuclide, **others):
    return simulated_dose(activity, grid, nuclide, histories=8_000, **others)


@pytest.mark.parametrize(("medium_name", "density"), [("water", 1.0), ("bone 100 %", 1.92), ("lung", 0.26)])
def test_a_medium_without_end_gets_the_energy_per_mass(medium_name, density):
    """Of voxels of 600 m hardly anything leaves: D = A E / rho in any tissue."""
    activity, grid = point(3, 600_000.0)
    found = few(activity, grid, "I-131", density=np.full(grid.shape, density), media=medium_name)
    assert found.image[1, 1, 1] == pytest.approx(uniform_dose("I-131", 1.0, density), rel=0.01)


def test_density_alone_does_not_change_a_uniform_dose():
    """Fano's theorem: with activity in proportion to density in one tissue, the dose is the same everywhere."""
    grid = ImageGrid((21, 21, 21), 4.0)
    x, y, z = grid.coordinates()
    density = np.where(x > 0, 0.6, 1.8) + 0.0 * (y + z)
    found = simulated_dose(density, grid, "Y-90", density=density, media="water", histories=40_000)
    for part in (slice(7, 9), slice(9, 10), slice(11, 12), slice(10, 14)):
        inside = (part, slice(6, 15), slice(6, 15))
        mean = (found.image[inside] * density[inside]).sum() / density[inside].sum()
        assert mean == pytest.approx(uniform_dose("Y-90", 1.0), rel=0.03)


def test_betas_reach_farther_in_lung_and_less_far_in_bone():
    activity, grid = point(9, 4.0)
    lung, bone = (few(activity, grid, "Y-90", density=np.full(grid.shape, rho)) for rho in (0.26, 1.92))
    shares = [d.image[4, 4, 4] / d.image.sum() for d in (lung, bone)]
    assert shares[0] < 0.25 < 0.5 < shares[1]
    water = absorbed_dose(activity, ImageGrid(grid.shape, 4.0 * 0.26), "Y-90")
    assert shares[0] == pytest.approx(water.image[4, 4, 4] / water.image.sum(), rel=0.06)


def test_air_gets_no_dose_and_the_seed_decides():
    activity, grid = point(5, 4.0)
    density = np.ones(grid.shape)
    density[:, :, :2] = 0.0
    first, again = (few(activity, grid, "Y-90", density=density, seed=3) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert (first.image[:, :, :2] == 0).all()
    assert first.absorbed + first.escaped == pytest.approx(1, abs=0.01)
    assert "8,000 histories" in str(first)


def test_tissues_of_densities():
    names = [MEDIA[i] for i in media_of(np.array([0.0, 0.26, 0.95, 1.0, 1.05, 1.2, 1.92, 3.0]))]
    assert names == ["lung", "lung", "adipose", "muscle", "muscle", "bone 30 %", "bone 100 %", "bone 100 %"]


def test_absorption_of_bone_is_that_of_nist():
    """mu_en / rho of cortical bone (ICRU 44), Hubbell & Seltzer 1995."""
    energy = np.array([20.0, 40, 60, 100, 200, 500])
    tabulated = np.array([3.601, 0.4507, 0.1400, 0.04585, 0.03003, 0.03073])
    bone = medium("bone 100 %")
    found = bone.absorption(energy) + compton_transfer(energy) * bone.electrons / ELECTRONS_PER_GRAM
    assert found == pytest.approx(tabulated, rel=0.03)
    assert bone.electrons / 6.02214e23 == pytest.approx(0.51478, rel=1e-3)
    assert bone.excitation == pytest.approx(112.0)


def test_a_treatment_takes_it_as_a_method():
    activity, grid = point(5, 4.0)
    images = [1e6 * activity + 1.0]
    found = treatment_dose([24.0], images, grid, "Lu-177", model="physical", method=lambda *a, **k: few(*a, **k))
    kernel = treatment_dose([24.0], images, grid, "Lu-177", model="physical")
    assert found.dose.method == "monte-carlo"
    assert found.dose.image[2, 2, 2] == pytest.approx(kernel.dose.image[2, 2, 2], rel=0.03)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"histories": 3}, "10 histories or more"),
        ({"media": "gold"}, "unknown medium 'gold'; choose from water"),
        ({"media": np.zeros((2, 2, 2), int)}, "do not fit a grid"),
        ({"media": np.full((5, 5, 5), 99)}, "whole numbers from 0"),
        ({"density": np.full((5, 5, 5), 1000.0)}, "are these Hounsfield units"),
        ({"density": np.full((5, 5, 5), -1.0)}, "cannot be negative"),
    ],
)
def test_wrong_input(wrong, match):
    activity, grid = point(5, 4.0)
    with pytest.raises(ValueError, match=match):
        simulated_dose(activity, grid, "Y-90", **wrong)


def test_nothing_to_follow():
    activity, grid = point(5, 4.0)
    with pytest.raises(ValueError, match="nothing to follow"):
        simulated_dose(0 * activity, grid, "Y-90")
    with pytest.raises(ValueError, match="no emissions of Tc-99m"):
        simulated_dose(activity, grid, "Tc-99m")
