"""python -m lidar_completion_training: the form that torchrun starts."""

from lidar_completion_training.command_line import app

if __name__ == "__main__":  # data workers import this module, too
    app()
