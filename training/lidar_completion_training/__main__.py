"""python -m lidar_completion_training, which torchrun can start too."""

from lidar_completion_training.command_line import app

if __name__ == "__main__":  # data workers import this too
    app()
