"""Simulated scans: phantoms with exact line integrals, and counting noise."""

if __name__ != "emrecon.sims":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.sims`")

from .nema import NEMA_SPHERES, nema_iec_body, nema_layout
from .noise import generator, poisson, scale_to_counts, thin
from .phantoms import Phantom, Region, random_brain, shepp_logan, spect_cylinder, uniform_cylinder
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to
from .simulate import Expectation, Mismatch, Simulation, Simulator, count_levels, item_seed, respiratory_gates
from .simulate_pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, list_events, random_normalisation
from .simulate_spect import SPECTSimulator

__all__ = [
    "NEMA_SPHERES",
    "Box",
    "ConvolutionScatter",
    "Cylinder",
    "Ellipsoid",
    "Expectation",
    "HalfSpace",
    "Intersection",
    "Mismatch",
    "Oriented",
    "PETSimulator",
    "Phantom",
    "Randoms",
    "Region",
    "SPECTSimulator",
    "Simulation",
    "Simulator",
    "SingleScatter",
    "Solid",
    "count_levels",
    "generator",
    "item_seed",
    "list_events",
    "nema_iec_body",
    "nema_layout",
    "poisson",
    "random_brain",
    "random_normalisation",
    "respiratory_gates",
    "rotation_to",
    "scale_to_counts",
    "shepp_logan",
    "spect_cylinder",
    "thin",
    "uniform_cylinder",
]
