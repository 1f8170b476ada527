"""A street and its surroundings, drawn from a seed."""

from .generate import street
from .recipe import RECIPES, STREET_KINDS, WorldRecipe, recipe_of
from .world import World, empty_solids

__all__ = ["RECIPES", "STREET_KINDS", "World", "WorldRecipe", "empty_solids", "recipe_of", "street"]
