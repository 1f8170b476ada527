"""Sweeps and their completions in 3-D: a live view in the browser and a self-contained fragment for HTML reports."""
