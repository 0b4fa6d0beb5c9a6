"""Phantoms: solids, and the bodies, brains, hearts and test objects made of them."""

from .anatomy import Head, RealBrain, RealGuide, anatomy_files, random_real_brain, real_head
from .bodies import Lesion, random_torso, torso, with_lesions
from .body_guides import BodyGuide, BodyGuideVariety
from .brain import Brain, BrainImages, GuideRecipe, LesionRecipe, Mismatches, random_folded_brain
from .cardiac import SEGMENTS, Defect, LeftVentricle, bullseye, cardiac_torso, random_cardiac_torso, random_ventricle
from .dixon import WATER_AND_FAT, dixon_images
from .ellipses import EllipseRanges, random_brain, random_ellipses, shepp_logan
from .fields import Lobes, MarkedLesion, Modulated, SmoothField, Spot
from .folds import Folded
from .label_map import LabelMap, Tissue, VoxelPhantom, brainweb_labels, read_label_map, read_tissues, xcat_labels
from .nema import NEMA_SPHERES, nema_iec_body, nema_layout
from .phantom import Phantom, Region, uniform_cylinder
from .quality import JASZCZAK_MODELS, defrise, derenzo, jaszczak, spect_cylinder
from .shapes import Box, Cylinder, Ellipsoid, HalfSpace, Intersection, Oriented, Solid, rotation_to
from .torso_parts import Build
from .varied_brain import BrainVariety, GuideVariety, LesionVariety, VariedBrain, random_varied_brain
from .varied_shapes import ShapeVariety, random_varied_shapes
from .varied_torso import BodyLesions, TorsoVariety, VariedBody, random_varied_torso

__all__ = [
    "RealBrain",
    "RealGuide",
    "Head",
    "anatomy_files",
    "random_real_brain",
    "real_head",
    "WATER_AND_FAT",
    "BodyGuide",
    "BodyGuideVariety",
    "BodyLesions",
    "ShapeVariety",
    "TorsoVariety",
    "VariedBody",
    "random_varied_shapes",
    "random_varied_torso",
    "BrainVariety",
    "GuideVariety",
    "LesionVariety",
    "Lobes",
    "MarkedLesion",
    "Modulated",
    "SmoothField",
    "Spot",
    "VariedBrain",
    "random_varied_brain",
    "JASZCZAK_MODELS",
    "NEMA_SPHERES",
    "SEGMENTS",
    "Box",
    "Brain",
    "BrainImages",
    "Build",
    "Cylinder",
    "Defect",
    "EllipseRanges",
    "Ellipsoid",
    "Folded",
    "GuideRecipe",
    "HalfSpace",
    "Intersection",
    "LabelMap",
    "LeftVentricle",
    "Lesion",
    "LesionRecipe",
    "Mismatches",
    "Oriented",
    "Phantom",
    "Region",
    "Solid",
    "Tissue",
    "VoxelPhantom",
    "brainweb_labels",
    "bullseye",
    "cardiac_torso",
    "dixon_images",
    "defrise",
    "derenzo",
    "jaszczak",
    "nema_iec_body",
    "nema_layout",
    "random_brain",
    "random_cardiac_torso",
    "random_ellipses",
    "random_folded_brain",
    "random_torso",
    "random_ventricle",
    "read_label_map",
    "read_tissues",
    "rotation_to",
    "shepp_logan",
    "spect_cylinder",
    "torso",
    "uniform_cylinder",
    "with_lesions",
    "xcat_labels",
]
