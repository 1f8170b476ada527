"""Playing a bag through the node, and judging what it answers. The only part of this package that needs the node."""
