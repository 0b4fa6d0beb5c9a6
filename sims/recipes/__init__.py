"""Recipes: TOML files that describe training sets, and the samples that they make."""

from .recipe import (
    RecipeSource,
    load_recipe,
    parse_recipe,
    recipe_names,
    recipe_titles,
    simulator_of,
    split_of,
)
from .recipe_file import RecipeError, Table, complain, decode
from .second_tracer import frame_weights
from .tables import OUTPUTS, Recipe, ReconstructionTable, SecondTable
from .two_tracers import TwoTracerSource, source_of

__all__ = [
    "OUTPUTS",
    "Recipe",
    "RecipeError",
    "RecipeSource",
    "ReconstructionTable",
    "SecondTable",
    "Table",
    "TwoTracerSource",
    "complain",
    "decode",
    "frame_weights",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
    "recipe_titles",
    "simulator_of",
    "source_of",
    "split_of",
]
