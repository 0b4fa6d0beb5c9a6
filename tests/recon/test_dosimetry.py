"""Voxel S values and their physics: published numbers, conservation of energy, closed forms, Monte Carlo."""

import numpy as np
import pytest

from emrecon.recon.dosimetry import emissions_of, photon_kernel, point_kernel, therapy_nuclides, voxel_kernel
from emrecon.recon.dosimetry.decays import Beta, beta_spectrum
from emrecon.recon.dosimetry.electron_transport import simulate_electrons
from emrecon.recon.dosimetry.photon_transport import simulate_photons
from emrecon.recon.dosimetry.points import electron_share, radiated_energy
from emrecon.recon.dosimetry.stopping import (
    bethe_heitler_stopping,
    bethe_stopping,
    collision_stopping,
    electron_range,
    radiation_yield,
    radiative_stopping,
)

ENERGIES = {"Lu-177": (147.92, 35.10), "Y-90": (933.11, 0.0), "I-131": (191.85, 382.76)}
"""Electrons and photons of ICRP 107, keV per decay."""


@pytest.mark.parametrize("nuclide", therapy_nuclides())
def test_emitted_energy_is_that_of_icrp_107(nuclide):
    found = emissions_of(nuclide)
    electrons, photons = ENERGIES[nuclide]
    assert found.electron_energy == pytest.approx(electrons, rel=0.005)
    assert found.photon_energy == pytest.approx(photons, rel=0.005)
    assert found.beta_yields.sum() == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("beta", "daughter", "mass", "mean"),
    [
        (Beta(498.3, 1.0), 72, 177, 149.135),
        (Beta(606.3, 1.0), 54, 131, 191.529),
        (Beta(2280.1, 1.0, unique=True), 40, 90, 932.991),
        (Beta(806.9, 1.0, unique=True), 54, 131, 283.194),
    ],
)
def test_mean_energies_of_beta_spectra(beta, daughter, mass, mean):
    energies = (np.arange(1000) + 0.5) * beta.endpoint / 1000
    spectrum = beta_spectrum(energies, beta, daughter, mass)
    assert spectrum.sum() == pytest.approx(1.0)
    assert spectrum @ energies == pytest.approx(mean, rel=0.01)
    assert spectrum[-1] < 1e-4 * spectrum.max()


def test_names_of_nuclides():
    assert emissions_of("177Lu") == emissions_of("Lu-177")
    with pytest.raises(ValueError, match="choose from Lu-177, Y-90, I-131"):
        emissions_of("Tc-99m")


def test_stopping_powers():
    np.testing.assert_allclose(collision_stopping([10.0, 100.0, 500.0]), [22560, 4115, 2034], rtol=1e-6)
    np.testing.assert_allclose(bethe_stopping([20.0, 100.0, 500.0]), [13170, 4115, 2034], rtol=1e-3)
    energy = np.linspace(20, 1000, 4000)
    by_hand = np.trapezoid(1 / (collision_stopping(energy) + radiative_stopping(energy)), energy)
    assert electron_range(1000.0) - electron_range(20.0) == pytest.approx(by_hand, rel=1e-3)
    np.testing.assert_allclose(bethe_heitler_stopping(np.array([500.0, 2000.0])), [7.257, 26.78], rtol=0.2)
    with pytest.raises(ValueError, match="1 to 3000 keV"):
        electron_range(4000.0)


@pytest.mark.parametrize("nuclide", therapy_nuclides())
def test_a_point_kernel_keeps_all_energy(nuclide):
    kernel = point_kernel(nuclide)
    assert kernel.electron_energy + kernel.photon_energy == pytest.approx(kernel.emissions.energy)
    within = kernel.electron_within(np.array([0.0, kernel.reach / 2, kernel.reach, 10 * kernel.reach]))
    assert within[0] == 0
    assert within[2] == pytest.approx(kernel.electron_energy)
    assert within[3] == pytest.approx(kernel.electron_energy)
    far = float(kernel.photon_within(np.array(2000.0)))
    assert far == pytest.approx(kernel.photon_energy, rel=1e-6)
    radii = np.linspace(0, 100, 5001)
    by_hand = np.trapezoid(kernel.photon_density(radii), radii)
    assert by_hand == pytest.approx(float(kernel.photon_within(np.array(100.0))), rel=2e-3)
    assert kernel.radiated == pytest.approx(radiated_energy(nuclide), rel=0.15)  # the rest is below 5 keV


def test_the_sphere_that_takes_90_per_cent_of_the_electrons_energy():
    """X90 is about 5.3 mm for Y-90, 0.8 mm for I-131 and 0.6 mm for Lu-177 (Simpkin & Mackie 1990; Cross 1992)."""
    radii = np.linspace(0.001, 1.2, 2400)
    for nuclide, low, high in (("Y-90", 0.50, 0.56), ("I-131", 0.07, 0.10), ("Lu-177", 0.05, 0.07)):
        kernel = point_kernel(nuclide)
        x90 = np.interp(0.9, kernel.electron_within(radii) / kernel.electron_energy, radii)
        assert low < x90 < high


@pytest.mark.parametrize(
    ("nuclide", "side", "place", "value", "tolerance"),
    [
        ("Y-90", 3.0, (0, 0, 0), 1.61, 0.02),
        ("Y-90", 6.0, (0, 0, 0), 3.46e-1, 0.02),
        ("I-131", 3.0, (0, 0, 0), 9.2e-1, 0.02),
        ("I-131", 6.0, (0, 0, 0), 1.29e-1, 0.02),
        ("I-131", 6.0, (5, 5, 5), 6.1e-6, 0.03),
        ("I-131", 3.0, (5, -5, 5), 2.63e-5, 0.1),
    ],
)
def test_s_values_of_mird_pamphlet_17(nuclide, side, place, value, tolerance):
    """Bolch et al. 1999, soft tissue of 1.04 g/mL."""
    kernel = voxel_kernel(nuclide, side, half_width=5, density=1.04)
    assert kernel.at(place) == pytest.approx(value, rel=tolerance)


def test_anisotropic_voxels_agree_with_another_code():
    """DPM gives 1.013 mGy/(MBq s) for Y-90 in voxels of 4 x 4 x 3 mm, and 1.581 for 3 mm."""
    assert voxel_kernel("Y-90", (4, 4, 3), half_width=1, density=1.04).at((0, 0, 0)) == pytest.approx(1.013, rel=0.05)
    assert voxel_kernel("Y-90", 3, half_width=1, density=1.04).at((0, 0, 0)) == pytest.approx(1.581, rel=0.02)


@pytest.mark.parametrize(
    ("nuclide", "voxel"), [("Lu-177", (4.0, 3.0, 5.0)), ("Y-90", (4.42, 4.42, 4.42)), ("I-131", (4.42, 4.42, 4.42))]
)
def test_voxels_keep_the_energy_of_electrons(nuclide, voxel):
    kernel = voxel_kernel(nuclide, voxel)
    octant = kernel.electrons
    octants = np.full(octant.shape, 8.0)
    for axis in range(3):
        front = [slice(None)] * 3
        front[axis] = 0
        octants[tuple(front)] /= 2
    energy = (octant * octants).sum() * kernel.mass / 0.1602176634 * 1000
    assert energy == pytest.approx(point_kernel(nuclide).electron_energy, rel=1e-6)
    assert 0 < kernel.self_fraction < kernel.absorbed_fraction < 1


def test_voxels_keep_the_energy_of_photons():
    """The cube of all voxels absorbs less than the sphere around it and more than the one inside."""
    kernel, point = voxel_kernel("I-131", 10.0, half_width=30), point_kernel("I-131")
    photons = kernel.absorbed_fraction * kernel.emitted * 1000 - point.electron_energy
    inside, around = point.photon_within(np.array([30.5, 30.5 * np.sqrt(3)]))
    assert inside < photons < around
    assert photons == pytest.approx(float(point.photon_within(np.array(30.5 * (6 / np.pi) ** (1 / 3)))), rel=0.02)


def test_small_voxels_add_up_to_large_ones():
    """S of a voxel of 6 mm is the mean over its 27 x 27 pairs of voxels of 2 mm."""
    small, large = (voxel_kernel("I-131", side, half_width=6) for side in (2.0, 6.0))
    offsets = range(-2, 3)
    weights = {-2: 1, -1: 2, 0: 3, 1: 2, 2: 1}
    mean = sum(
        weights[i] * weights[j] * weights[k] * small.at((i, j, k)) for i in offsets for j in offsets for k in offsets
    )
    assert large.at((0, 0, 0)) == pytest.approx(mean / 27**2, rel=1e-3)
    beside = sum(
        weights[i] * weights[j] * weights[k] * small.at((3 + i, j, k))
        for i in offsets
        for j in offsets
        for k in offsets
    )
    assert large.at((1, 0, 0)) == pytest.approx(beside / 27**2, rel=5e-3)


def test_density_scales_lengths():
    """Twice as dense and half as long voxels hold an eighth of the volume, and the same energy of each decay."""
    light, dense = voxel_kernel("Lu-177", 4.0, half_width=2), voxel_kernel("Lu-177", 2.0, half_width=2, density=2.0)
    np.testing.assert_allclose(dense.values * dense.mass, light.values * light.mass, rtol=1e-9)


def test_kernels_refuse():
    with pytest.raises(ValueError, match="positive"):
        voxel_kernel("Lu-177", 0)
    with pytest.raises(ValueError, match="whole numbers"):
        voxel_kernel("Lu-177", 4, half_width=2.5)
    with pytest.raises(ValueError, match="density"):
        voxel_kernel("Lu-177", 4, density=1000)
    with pytest.raises(ValueError, match="reaches"):
        voxel_kernel("Lu-177", 4, half_width=2).at((3, 0, 0))
    assert "Lu-177" in str(voxel_kernel("Lu-177", 4, half_width=1))


def test_photon_kernels_agree_with_a_monte_carlo():
    """Another seed and energies between the table's: absorbed within a sphere, and conserved."""
    for energy in (113.0, 364.5):
        kernel = photon_kernel(energy)
        radii = np.array([0.0, 2.0, 5.0, 10.0, 20.0, 40.0])
        shares = simulate_photons(energy, radii, 40000, 11)
        assert shares.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(np.diff(kernel.share(radii)), shares[:-1], rtol=0.03)
    with pytest.raises(ValueError, match="5 to 2500"):
        photon_kernel(3000.0)


@pytest.mark.slow
def test_electron_kernels_agree_with_a_monte_carlo():
    """Another seed and an energy between the table's."""
    energy, edges = 150.0, np.linspace(0, 1.2, 7)
    shares, beyond, radiated = simulate_electrons(energy, edges * float(electron_range(energy)), 3000, 5)
    assert shares.sum() + beyond + radiated == pytest.approx(1.0)
    assert radiated == pytest.approx(float(radiation_yield(energy)), rel=0.1)
    within = electron_share(edges * float(electron_range(energy)), energy)
    np.testing.assert_allclose(np.cumsum(shares) / shares.sum(), within[1:], atol=0.02)
    with pytest.raises(ValueError, match="2 to 3000"):
        simulate_electrons(1.0, edges, 1, 0)
