"""Simulated scans: phantoms with exact line integrals, and counting noise."""

if __name__ != "emrecon.sims":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.sims`")

from .datasets import Batches, Dataset, Field, SimulatedDataset, Source, Written, loader, rank_and_size, write_dataset
from .nema import NEMA_SPHERES, nema_iec_body, nema_layout
from .noise import generator, poisson, scale_to_counts, thin
from .phantoms import EllipseRanges, Phantom, Region, random_brain, random_ellipses, shepp_logan, uniform_cylinder
from .quality import JASZCZAK_MODELS, defrise, derenzo, jaszczak, spect_cylinder
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to
from .simulate import Expectation, Mismatch, Simulation, Simulator, count_levels, item_seed, respiratory_gates
from .simulate_pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, list_events, random_normalisation
from .simulate_spect import SPECTSimulator
from .brain import (Brain, BrainImages, Folded, GuideRecipe, LesionRecipe, Mismatches, random_folded_brain)
from .label_map import (LabelMap, Tissue, VoxelPhantom, brainweb_labels, read_label_map, read_tissues, xcat_labels)

__all__ = [
    "xcat_labels",
    "read_tissues",
    "read_label_map",
    "brainweb_labels",
    "VoxelPhantom",
    "Tissue",
    "LabelMap",
    "random_folded_brain",
    "Mismatches",
    "LesionRecipe",
    "GuideRecipe",
    "Folded",
    "BrainImages",
    "Brain",
    "JASZCZAK_MODELS",
    "NEMA_SPHERES",
    "Batches",
    "Box",
    "ConvolutionScatter",
    "Cylinder",
    "Dataset",
    "EllipseRanges",
    "Ellipsoid",
    "Expectation",
    "Field",
    "HalfSpace",
    "Intersection",
    "Mismatch",
    "Oriented",
    "PETSimulator",
    "Phantom",
    "Randoms",
    "Region",
    "SPECTSimulator",
    "SimulatedDataset",
    "Simulation",
    "Simulator",
    "SingleScatter",
    "Solid",
    "Source",
    "Written",
    "count_levels",
    "defrise",
    "derenzo",
    "generator",
    "item_seed",
    "jaszczak",
    "list_events",
    "loader",
    "nema_iec_body",
    "nema_layout",
    "poisson",
    "random_brain",
    "random_ellipses",
    "random_normalisation",
    "rank_and_size",
    "respiratory_gates",
    "rotation_to",
    "scale_to_counts",
    "shepp_logan",
    "spect_cylinder",
    "thin",
    "uniform_cylinder",
    "write_dataset",
]
