"""Tables and formulas of physics: attenuation, radionuclides, Compton scatter, activity and SUV."""

from .attenuation import hounsfield_to_mu, linear_attenuation, materials
from .body import BodyMask, find_body
from .compton import accepted_fraction, klein_nishina, klein_nishina_total, scattered_energy
from .ct_maps import AttenuationMap, attenuation_from_ct
from .nuclides import Radionuclide, isotope, isotopes
from .quantities import Calibration, attenuation_factors, suv

__all__ = [
    "AttenuationMap",
    "BodyMask",
    "Calibration",
    "Radionuclide",
    "accepted_fraction",
    "attenuation_from_ct",
    "attenuation_factors",
    "find_body",
    "hounsfield_to_mu",
    "isotope",
    "isotopes",
    "klein_nishina",
    "klein_nishina_total",
    "linear_attenuation",
    "materials",
    "scattered_energy",
    "suv",
]
