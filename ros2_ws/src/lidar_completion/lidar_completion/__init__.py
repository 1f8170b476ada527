"""Completion of sparse LiDAR sweeps into dense scenes."""
