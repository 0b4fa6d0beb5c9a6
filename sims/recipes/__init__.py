"""Recipes: pages of TOML that say what a training set holds."""

from .recipe import Recipe, RecipeSource, ReconstructionTable, load_recipe, parse_recipe, recipe_names
from .recipe_file import RecipeError, Table, complain, decode

__all__ = [
    "Recipe",
    "RecipeError",
    "RecipeSource",
    "ReconstructionTable",
    "Table",
    "complain",
    "decode",
    "load_recipe",
    "parse_recipe",
    "recipe_names",
]
