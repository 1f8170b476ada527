"""Training, distillation and evaluation of LiDAR scene completion models."""
