"""A street and its surroundings, drawn from a seed."""

from .generate import street
from .recipe import STREET_KINDS
from .world import World, empty_solids

__all__ = ["STREET_KINDS", "World", "empty_solids", "street"]
