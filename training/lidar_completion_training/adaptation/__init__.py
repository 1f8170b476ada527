"""Fine-tunes a model to one recorded drive, and keeps the result only if it is better: `lidar-completion-train adapt`.

parts.py splits the drive, stream.py mixes its sweeps with synthetic ones, verdict.py compares figures, adapt.py does it all.
"""
