"""Writes a report from a template: one HTML file that contains its pictures, charts and styles."""

from __future__ import annotations

import base64
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, select_autoescape

from lidar_completion.files import atomic_write

TEMPLATES = files("lidar_completion_evaluation") / "reports" / "templates"


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Render reports/templates/TEMPLATE.html.j2 with the content into `path`, atomically; returns the path."""
    environment = Environment(
        loader=FunctionLoader(lambda name: (TEMPLATES / name).read_text()),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(f"{template}.html.j2").render(**content)
    with atomic_write(path) as partial:
        partial.write_text(page)
    return path


def png_url(png: bytes) -> str:
    """A PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def png_file_url(path: Path) -> str | None:
    """A PNG file as a data URL; None if there is no such file."""
    return png_url(path.read_bytes()) if path.exists() else None
