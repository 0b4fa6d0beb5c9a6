"""Simulated scans: phantoms with exact line integrals, and counting noise."""

if __name__ != "emrecon.sims":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.sims`")

from .nema import NEMA_SPHERES, nema_iec_body, nema_layout
from .noise import generator, poisson, scale_to_counts, thin
from .phantoms import Phantom, Region, random_brain, shepp_logan, spect_cylinder, uniform_cylinder
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to

__all__ = [
    "NEMA_SPHERES",
    "Box",
    "Cylinder",
    "Ellipsoid",
    "HalfSpace",
    "Intersection",
    "Oriented",
    "Phantom",
    "Region",
    "Solid",
    "generator",
    "nema_iec_body",
    "nema_layout",
    "poisson",
    "random_brain",
    "rotation_to",
    "scale_to_counts",
    "shepp_logan",
    "spect_cylinder",
    "thin",
    "uniform_cylinder",
]
