"""Attenuation, Hounsfield units and radionuclides against the published tables they are derived from."""

import numpy as np
import pytest
import torch

from emrecon.projectors import hounsfield_to_mu, isotope, isotopes, linear_attenuation, materials
from emrecon.projectors.core.tables import read_table
from emrecon.projectors.physics.compton import klein_nishina_total

ENERGIES = (75, 113, 140.5, 159, 171, 208.4, 245.4, 364.5, 440, 511)
TABLE = {  # 1/cm, interpolated from the NIST tables by hand
    "water": (0.1885, 0.1643, 0.1536, 0.1477, 0.1442, 0.1350, 0.1274, 0.1100, 0.1021, 0.0960),
    "muscle": (0.1965, 0.1711, 0.1599, 0.1537, 0.1501, 0.1405, 0.1326, 0.1145, 0.1062, 0.0998),
    "adipose": (0.1746, 0.1548, 0.1452, 0.1399, 0.1366, 0.1281, 0.1210, 0.1046, 0.0970, 0.0913),
    "bone-cortical": (0.4624, 0.3327, 0.2947, 0.2772, 0.2687, 0.2472, 0.2316, 0.1975, 0.1828, 0.1716),
    "lung": (0.0488, 0.0424, 0.0396, 0.0381, 0.0372, 0.0348, 0.0329, 0.0284, 0.0263, 0.0247),
    "lead": (None, 46.4, 26.92, 19.83, 16.61, 10.34, 7.17, 3.15, 2.26, 1.78),
    "tungsten": (None, 62.8, 36.04, 26.5, 22.2, 13.84, 9.69, 4.39, 3.22, 2.59),
}


@pytest.mark.parametrize("material", TABLE)
def test_linear_attenuation(material):
    for energy, expected in zip(ENERGIES, TABLE[material]):
        if expected is not None:
            assert linear_attenuation(material, energy) == pytest.approx(expected, rel=0.01), energy
    assert material in materials()


def test_density_scales_attenuation():
    assert linear_attenuation("lung", 140.5, density=0.30) == pytest.approx(0.0457, rel=0.01)
    assert linear_attenuation("water", 140.5, density=2) == 2 * linear_attenuation("water", 140.5)


# grams per mole; C5H8O2
HYDROGEN, CARBON, OXYGEN = 1.00794, 12.0107, 15.9994
PMMA = np.array([8 * HYDROGEN, 5 * CARBON, 2 * OXYGEN]) / (8 * HYDROGEN + 5 * CARBON + 2 * OXYGEN)
ELEMENTS = {  # mass attenuation of hydrogen, carbon and oxygen by NIST, cm2/g
    1: (7.217, 2211, 4590),
    10: (0.3854, 2.373, 5.952),
    30: (0.3570, 0.2562, 0.3779),
    60: (0.3260, 0.1753, 0.1907),
    150: (0.2651, 0.1347, 0.1361),
    500: (0.1729, 0.08715, 0.08729),
    2000: (0.08769, 0.04442, 0.04459),
    20000: (0.02153, 0.01575, 0.01770),
}


def per_mass(material, energies):
    density = next(
        float(row["density_g_cm3"])
        for row in read_table("emrecon.projectors.physics", "materials.csv")
        if row["material"] == material
    )
    return np.array([linear_attenuation(material, energy) / density for energy in energies])


def test_acrylic_glass_is_a_mixture_of_its_elements():
    np.testing.assert_allclose(PMMA, (0.080538, 0.599848, 0.319614), rtol=1e-4)  # the composition NIST states
    for energy, elements in ELEMENTS.items():
        assert per_mass("pmma", [energy])[0] == pytest.approx(PMMA @ elements, rel=1e-3), energy


def test_acrylic_glass_agrees_with_the_other_materials():
    """Hydrogen from Klein and Nishina, oxygen from water, carbon from adipose: all the table's energies that matter."""
    rows = [row for row in read_table("emrecon.projectors.physics", "materials.csv") if row["material"] == "pmma"]
    energies = np.array([float(row["energy_kev"]) for row in rows])
    water = [
        float(row["energy_kev"])
        for row in read_table("emrecon.projectors.physics", "materials.csv")
        if row["material"] == "water"
    ]
    np.testing.assert_array_equal(energies, water)
    energies = energies[(energies >= 30) & (energies <= 1000)]
    assert energies.size == 14
    hydrogen = klein_nishina_total(energies) * 6.02214e23 / HYDROGEN
    in_water = 2 * HYDROGEN / (2 * HYDROGEN + OXYGEN)
    oxygen = (per_mass("water", energies) - in_water * hydrogen) / (1 - in_water)
    # adipose of ICRU 44 by mass: H 0.114, C 0.598, and 0.288 of O, N and traces of Na, S and Cl, all taken as oxygen
    carbon = (per_mass("adipose", energies) - 0.114 * hydrogen - 0.288 * oxygen) / 0.598
    ratio = (PMMA @ [hydrogen, carbon, oxygen]) / per_mass("pmma", energies)
    np.testing.assert_allclose(ratio, 1, atol=0.015)
    np.testing.assert_allclose(ratio[energies >= 80], 1, atol=0.002)  # the traces no longer matter
    assert linear_attenuation("pmma", 100) == pytest.approx(1.18 * 0.1641)


def test_the_edge_of_lead():
    """The tabulated coefficients on both sides of the K edge at 88.0045 keV are 1.910 and 7.683 cm2/g."""
    below, at = linear_attenuation("lead", 88.0045 - 1e-6), linear_attenuation("lead", 88.0045)
    assert below == pytest.approx(1.910 * 11.35, rel=1e-4)
    assert at == pytest.approx(7.683 * 11.35, rel=1e-9)


def test_interpolation_is_logarithmic():
    """Water at 100 and 150 keV: 0.1707 and 0.1505 cm2/g."""
    energies = np.geomspace(100, 150, 7)
    values = [linear_attenuation("water", energy) for energy in energies]
    np.testing.assert_allclose(values, np.geomspace(0.1707, 0.1505, 7), rtol=1e-3)


def test_attenuation_errors():
    with pytest.raises(ValueError, match=r"unknown material 'wood'; choose from.*water"):
        linear_attenuation("wood", 140)
    for energy in (0.5, 1e6, -1, float("nan")):
        with pytest.raises(ValueError, match="energy must be 1 to 20000 keV"):
            linear_attenuation("water", energy)
    for density in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="density of water must be positive"):
            linear_attenuation("water", 140, density)


# energy (keV), kVp, scanner: slope below 0, slope above 0, water
HOUNSFIELD = {
    (140, 130, "symbia t16"): (1.6364e-4, 1.0895e-4, 0.1538),
    (140, 120, "optima ct540"): (1.6577e-4, 1.0386e-4, 0.1538),
    (208, 110, "symbia t16"): (1.4351e-4, 7.873e-5, 0.1352),
}


@pytest.mark.parametrize("row", HOUNSFIELD)
def test_published_rows_of_the_hounsfield_table(row):
    below, above, water = HOUNSFIELD[row]
    mu = hounsfield_to_mu(np.array([-500.0, 0, 800]), *row)
    np.testing.assert_allclose(mu, [water - 500 * below, water, water + 800 * above], rtol=1e-9)


@pytest.mark.parametrize("kvp", [80, 100, 110, 120, 130, 140])
@pytest.mark.parametrize("energy", [70, 113, 140.5, 208.366, 364.489, 440.46, 510.999])
def test_air_is_nothing_and_water_is_water(energy, kvp):
    mu = hounsfield_to_mu(np.arange(-1100.0, 3000, 50), energy, kvp)
    assert mu.min() >= 0
    assert np.all(np.diff(mu) >= 0)
    assert hounsfield_to_mu(np.array([-1000.0]), energy, kvp)[0] < 0.003
    assert hounsfield_to_mu(np.zeros(1), energy, kvp)[0] == pytest.approx(linear_attenuation("water", energy), rel=0.01)


def test_between_energies_the_table_is_interpolated():
    hu = np.array([-700.0, 0, 1500])
    low, high = (hounsfield_to_mu(hu, energy, 130, "symbia t16") for energy in (140, 159))
    np.testing.assert_allclose(hounsfield_to_mu(hu, 143.8, 130, "symbia t16"), 0.8 * low + 0.2 * high, rtol=1e-12)


# STIR's ct_slopes.json for GE at 511 keV: mu = first + second HU above 50 HU
@pytest.mark.parametrize(
    ("kvp", "first", "second"), [(140, 0.0980, 5.60e-5), (120, 0.0982, 5.11e-5), (100, 0.0985, 4.56e-5)]
)
def test_annihilation_photons_agree_with_another_table(kvp, first, second):
    hu = np.array([100.0, 500, 1000, 1500])
    np.testing.assert_allclose(hounsfield_to_mu(hu, 510.999, kvp), first + second * hu, rtol=0.015)
    np.testing.assert_allclose(hounsfield_to_mu(np.array([-500.0, 0]), 511, kvp), [0.048, 0.096], rtol=1e-3)


@pytest.mark.parametrize("kvp", [80, 120, 130])
def test_mu_falls_with_energy_without_a_jump(kvp):
    hu, energies = np.array([-800.0, -100, 30, 60, 900]), np.arange(360.0, 512, 0.5)
    mu = np.array([hounsfield_to_mu(hu, energy, kvp) for energy in energies])
    assert np.abs(np.diff(mu[:, 1:], axis=0)).max() < 4e-4
    assert (np.diff(mu[:, 1:], axis=0) < 1e-5).all()
    bone = linear_attenuation("bone-cortical", 440) / linear_attenuation("water", 440)
    assert hounsfield_to_mu(np.array([1800.0]), 440.46, kvp)[0] < bone * 0.1021 * 1.2


def test_all_scanners_together_are_their_mean():
    hu, scanners = np.array([1000.0]), ("symbia t16", "optima ct540")
    each = [hounsfield_to_mu(hu, 140, 80, scanner)[0] for scanner in scanners]
    assert min(each) <= hounsfield_to_mu(hu, 140, 80)[0] <= max(each)


def test_hounsfield_units_of_every_kind():
    hu = np.random.default_rng(0).integers(-1000, 2000, (3, 4, 5)).astype(np.int16)
    mu = hounsfield_to_mu(hu, 140.5)
    assert mu.dtype == np.float32
    np.testing.assert_allclose(mu, hounsfield_to_mu(hu.astype(float), 140.5), rtol=1e-4, atol=1e-7)
    tensor = hounsfield_to_mu(torch.tensor(hu), 140.5)
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(tensor.numpy(), mu, rtol=1e-6, atol=1e-8)
    assert np.isnan(hounsfield_to_mu(np.array([np.nan]), 140.5))[0]  # for the projector to refuse


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((140, 95), "no HU table for 95 kVp.*voltages: 80, 100, 110"),
        ((140, 120, "toaster"), "scanner 'toaster'.*scanners: infinia"),
        ((140, 120, "symbia t16"), "no HU table"),
        ((603, 120), "converted at 70 to 511 keV .*not 603"),
        ((20, 130), "converted at 70 to 511 keV .*not 20"),
    ],
)
def test_what_the_hounsfield_table_does_not_hold(arguments, message):
    with pytest.raises(ValueError, match=message):
        hounsfield_to_mu(np.zeros(1), *arguments)


HALF_LIVES = {
    "Tc-99m": 21624.12,
    "Lu-177": 574300.8,
    "I-131": 192.558 * 3600,
    "I-123": 13.2233 * 3600,
    "In-111": 67.3175 * 3600,
    "Tl-201": 73.0111 * 3600,
    "Ga-67": 78.2711 * 3600,
    "F-18": 6584.04,
    "Ga-68": 4069.8,
    "C-11": 1221.66,
    "N-13": 598.02,
    "O-15": 122.46,
    "Cu-64": 45721,
    "Ge-68": 23410080,
    "Y-90": 230549.76,
}


def test_half_lives():
    assert set(HALF_LIVES) <= set(isotopes())
    for name, seconds in HALF_LIVES.items():
        assert isotope(name).half_life == pytest.approx(seconds, rel=1e-9)


@pytest.mark.parametrize(
    "name", ["Tc-99m", "Tc99m", "tc99m", "99mTc", "^99m^Tc", "TC 99M", "99m-tc", "^99m^Technetium", "technetium-99m"]
)
def test_one_radionuclide_has_many_names(name):
    assert isotope(name) is isotope("Tc-99m")


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("52Mn", "Mn-52"),
        ("Cesium 137", "Cs-137"),
        ("^177^Lutetium", "Lu-177"),
        ("81mKr", "Kr-81m"),
        ("ra223", "Ra-223"),
    ],
)
def test_names_as_files_write_them(written, name):
    assert isotope(written).name == name


# ICRP Publication 107: half-life, a line and its yield
NUCLIDES = {
    "Sm-153": (46.5 * 3600, 103.18, 0.298),
    "Ra-223": (11.43 * 86400, 269.463, 0.139),
    "Ac-225": (10.0 * 86400, 440.46, 0.261),
    "Bi-213": (45.59 * 60, 440.46, 0.261),
    "Tb-161": (6.906 * 86400, 74.567, 0.102),
    "Pb-212": (10.64 * 3600, 238.632, 0.433),
    "Re-188": (17.004 * 3600, 155.041, 0.1561),
    "Ho-166": (26.8 * 3600, 80.574, 0.0671),
    "Xe-133": (5.243 * 86400, 80.997, 0.38),
    "I-124": (4.176 * 86400, 602.72, 0.629),
    "Zr-89": (78.41 * 3600, 909.15, 0.9904),
    "Rb-82": (1.273 * 60, 776.52, 0.1508),
}


@pytest.mark.parametrize("name", NUCLIDES)
def test_published_nuclides(name):
    half_life, energy, share = NUCLIDES[name]
    assert isotope(name).half_life == pytest.approx(half_life, rel=1e-6)
    assert isotope(name).lines[energy] == pytest.approx(share, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "window", "energy"),
    [
        ("Lu-177", (101.7, 124.3), 112.95),
        ("Lu-177", (187.2, 228.8), 208.366),
        ("Lu-177", None, 208.366),
        ("In-111", (154, 188), 171.28),
        ("Ga-67", (268, 332), 300.232),
        ("Ra-223", (75, 95), 84.145),
        ("Ac-225", (196, 240), 218.19),
        ("F-18", (435, 585), 510.999),
        ("Sm-153", None, 103.18),
        ("I-124", None, 510.999),
    ],
)
def test_the_line_inside_the_window_is_imaged(name, window, energy):
    assert isotope(name).energy_in(window) == energy


@pytest.mark.parametrize(
    ("name", "window", "message"),
    [
        ("Y-90", (50, 250), r"no photon line .* 50 to 250 keV .*give the energy"),
        ("Y-90", None, "only bremsstrahlung; give the energy"),
        ("Lu-177", (140, 160), r"Lu-177 has no photon line .*\(its lines: 208.4, 113"),
        ("Tc-99m", (100, 120), "its lines: 140.5"),
    ],
)
def test_windows_without_a_line(name, window, message):
    with pytest.raises(ValueError, match=message):
        isotope(name).energy_in(window)


@pytest.mark.parametrize("name", ["Tc-99", "Xx-1", "", "m"])
def test_unknown_radionuclides(name):
    with pytest.raises(ValueError, match=r"unknown radionuclide.*Tc-99m"):
        isotope(name)


@pytest.mark.parametrize(
    ("name", "energy", "share"),
    [("Tc-99m", 140.511, 0.885), ("Lu-177", 208.366, 0.1038), ("I-131", 364.489, 0.812), ("I-123", 158.97, 0.8325)],
)
def test_main_lines(name, energy, share):
    assert isotope(name).main_energy == energy
    assert isotope(name).lines[energy] == share


@pytest.mark.parametrize(("name", "fraction"), [("F-18", 0.9686), ("Ga-68", 0.8768), ("Cu-64", 0.1752)])
def test_positron_emitters(name, fraction):
    assert isotope(name).positron_fraction == fraction
    assert isotope(name).main_energy == pytest.approx(511, abs=0.01)


def test_decay():
    f18 = isotope("F-18")
    assert f18.decay(0) == 1
    assert f18.decay(6584.04) == pytest.approx(0.5)
    assert f18.decay(-6584.04) == pytest.approx(2)
    for duration in (1.0, 600.0, 36000.0):
        times = (np.arange(10000) + 0.5) / 10000 * duration
        assert f18.mean_decay(duration) == pytest.approx(np.mean([f18.decay(t) for t in times]), rel=1e-7)
    assert f18.mean_decay(0) == 1
    assert f18.mean_decay(1e-9) == pytest.approx(1, abs=1e-12)
