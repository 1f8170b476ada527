"""Training and distillation of LiDAR scene completion models."""
