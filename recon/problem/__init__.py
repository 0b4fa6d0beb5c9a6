"""From a scan to what an engine needs: likelihoods of subsets, grid and start, with every correction in its place."""

from .batches import fitting, in_batch
from .beds import (
    bed_problems,
    bed_reach,
    beds_problem,
    joined_mu,
    joint_problem,
    labelled,
    notes_on_overlap,
    part_of,
    stitch,
)
from .grids import checked_grid, cubes
from .pet import pet_grid, pet_problem
from .pet_events import EventLists, Listmode
from .pet_scatter import SingleScatter
from .problem import ArgumentError, Problem, digest
from .scatter import EffectiveScatter, WindowScatter
from .spect import spect_problem

__all__ = [
    "ArgumentError",
    "EffectiveScatter",
    "EventLists",
    "Listmode",
    "Problem",
    "SingleScatter",
    "WindowScatter",
    "bed_problems",
    "bed_reach",
    "beds_problem",
    "checked_grid",
    "cubes",
    "digest",
    "fitting",
    "in_batch",
    "joined_mu",
    "joint_problem",
    "labelled",
    "notes_on_overlap",
    "part_of",
    "pet_grid",
    "pet_problem",
    "spect_problem",
    "stitch",
]
