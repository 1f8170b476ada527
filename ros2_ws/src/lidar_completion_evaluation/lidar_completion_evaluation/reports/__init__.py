"""Reports as self-contained HTML files: page.py writes them, charts.py draws, templates/ has the shared parts."""
