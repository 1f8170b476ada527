"""Camera positions that every 3-D view offers, in the sensor frame (x forward, z up, metres)."""

# name: (eye, target)
PRESETS = {
    "behind": ((-14.0, 0.0, 9.0), (12.0, 0.0, -1.0)),
    "above": ((-0.01, 0.0, 75.0), (0.0, 0.0, 0.0)),
    "driver": ((0.0, 0.0, 0.2), (10.0, 0.0, -0.4)),
    "side": ((2.0, -28.0, 10.0), (2.0, 0.0, -1.0)),
}
