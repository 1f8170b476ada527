"""python -m lidar_completion_training, which torchrun can start too."""

from lidar_completion_training.command_line import app

app()
