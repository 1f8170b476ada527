"""Ego-motion of the sensor and transforms between its frame and others."""
