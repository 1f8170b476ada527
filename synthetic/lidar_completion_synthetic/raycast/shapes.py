"""Constants shared by the plain and the compiled ray casting."""

BOX, CYLINDER, ELLIPSOID, CONE = 0, 1, 2, 3
MISS, GROUND = -1, -2  # what a ray hit if not a solid
BLOCK = 8  # cells on a side of the coarse height blocks that rays can skip
NO_HIT = 1e30
