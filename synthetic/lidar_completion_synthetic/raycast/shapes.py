"""Constants shared by the plain and the compiled ray casting."""

BOX, CYLINDER, ELLIPSOID, CONE = 0, 1, 2, 3
MISS, GROUND = -1, -2  # instead of the index of a solid
BLOCK = 8  # side in cells of the coarse height blocks that rays can skip
NO_HIT = 1e30
