"""Fine-tunes a model to one recorded drive, and keeps the result only if no metric gets worse: `lidar-completion-train adapt`.

adapt.py runs the whole command, parts.py splits the drive, stream.py mixes its sweeps with synthetic ones, and verdict.py
decides whether the result is accepted.
"""
