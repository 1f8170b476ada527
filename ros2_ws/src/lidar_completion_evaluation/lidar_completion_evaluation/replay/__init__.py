"""Plays a bag through the node and evaluates its completions. The only part of this package that imports the node."""
