"""Simulated scans: phantoms, acquisitions with counting noise, and training data at scale."""

if __name__ != "emrecon.sims":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.sims`")

from .brain import Brain, BrainImages, Folded, GuideRecipe, LesionRecipe, Mismatches, random_folded_brain
from .cardiac import SEGMENTS, Defect, LeftVentricle, bullseye, cardiac_torso, random_cardiac_torso
from .datasets import Batches, Dataset, Field, SimulatedDataset, Source, Written, loader, rank_and_size, write_dataset
from .label_map import LabelMap, Tissue, VoxelPhantom, brainweb_labels, read_label_map, read_tissues, xcat_labels
from .nema import NEMA_SPHERES, nema_iec_body, nema_layout
from .noise import generator, poisson, scale_to_counts, thin
from .phantoms import EllipseRanges, Phantom, Region, random_brain, random_ellipses, shepp_logan, uniform_cylinder
from .quality import JASZCZAK_MODELS, defrise, derenzo, jaszczak, spect_cylinder
from .recipe_file import RecipeError
from .recipes import Recipe, RecipeSource, load_recipe, parse_recipe, recipe_names
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to
from .simulate import Expectation, Mismatch, Simulation, Simulator, count_levels, item_seed, respiratory_gates
from .simulate_pet import ConvolutionScatter, PETSimulator, Randoms, SingleScatter, list_events, random_normalisation
from .simulate_spect import SPECTSimulator
from .torso import Build, Lesion, random_torso, torso, with_lesions

__all__ = [
    "JASZCZAK_MODELS",
    "NEMA_SPHERES",
    "SEGMENTS",
    "Batches",
    "Box",
    "Brain",
    "BrainImages",
    "Build",
    "ConvolutionScatter",
    "Cylinder",
    "Dataset",
    "Defect",
    "EllipseRanges",
    "Ellipsoid",
    "Expectation",
    "Field",
    "Folded",
    "GuideRecipe",
    "HalfSpace",
    "Intersection",
    "LabelMap",
    "LeftVentricle",
    "Lesion",
    "LesionRecipe",
    "Mismatch",
    "Mismatches",
    "Oriented",
    "PETSimulator",
    "Phantom",
    "Randoms",
    "Recipe",
    "RecipeError",
    "RecipeSource",
    "Region",
    "SPECTSimulator",
    "SimulatedDataset",
    "Simulation",
    "Simulator",
    "SingleScatter",
    "Solid",
    "Source",
    "Tissue",
    "VoxelPhantom",
    "Written",
    "brainweb_labels",
    "bullseye",
    "cardiac_torso",
    "count_levels",
    "defrise",
    "derenzo",
    "generator",
    "item_seed",
    "jaszczak",
    "list_events",
    "load_recipe",
    "loader",
    "nema_iec_body",
    "nema_layout",
    "parse_recipe",
    "poisson",
    "random_brain",
    "random_cardiac_torso",
    "random_ellipses",
    "random_folded_brain",
    "random_normalisation",
    "random_torso",
    "rank_and_size",
    "read_label_map",
    "read_tissues",
    "recipe_names",
    "respiratory_gates",
    "rotation_to",
    "scale_to_counts",
    "shepp_logan",
    "spect_cylinder",
    "thin",
    "torso",
    "uniform_cylinder",
    "with_lesions",
    "write_dataset",
    "xcat_labels",
]
