"""Dosimetry of radionuclide therapy: voxel S values, time-activity curves, absorbed dose, and tables of organs.

The core: `treatment_dose` from images at several times to the dose and the organs' table; `fit_time_activity`,
`absorbed_dose` and `organ_doses` are its steps, `voxel_kernel` the physics of all.
"""

from .curve_fitting import MODELS, CurveModel
from .curves import TimeActivityFit, VoxelFits, fit_time_activity, fit_voxels
from .decays import Emissions, emissions_of, therapy_nuclides
from .density import attenuation_to_density, hounsfield_to_density
from .dose import DoseMap, DoseMethod, absorbed_dose, uniform_dose
from .kernel import VoxelSValues, voxel_kernel
from .media import MEDIA, media_of
from .monte_carlo import MonteCarloDose, simulated_dose
from .organs import DoseVolumeHistogram, OrganDose, OrganTable, organ_doses, volume_histogram
from .points import photon_kernel, point_kernel
from .treatment import Treatment, treatment_dose

__all__ = [
    "MEDIA",
    "MODELS",
    "DoseMap",
    "DoseMethod",
    "CurveModel",
    "DoseVolumeHistogram",
    "Emissions",
    "MonteCarloDose",
    "OrganDose",
    "OrganTable",
    "TimeActivityFit",
    "Treatment",
    "VoxelFits",
    "VoxelSValues",
    "absorbed_dose",
    "attenuation_to_density",
    "volume_histogram",
    "emissions_of",
    "fit_time_activity",
    "fit_voxels",
    "hounsfield_to_density",
    "media_of",
    "organ_doses",
    "photon_kernel",
    "point_kernel",
    "simulated_dose",
    "therapy_nuclides",
    "treatment_dose",
    "uniform_dose",
    "voxel_kernel",
]
