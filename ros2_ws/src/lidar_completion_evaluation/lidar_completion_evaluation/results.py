"""Stored results of an evaluation: one JSON file per row and scene, valid only for the settings written in it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lidar_completion.files import atomic_write
from lidar_completion_evaluation.evaluate_scene import SceneSettings
from lidar_completion_evaluation.methods import Method
from lidar_completion_evaluation.scenes import SceneSource

RESULT_VERSION = 5  # increase when a figure changes its meaning, so that older results are recomputed


def stored_results(source: SceneSource, method: Method, output: Path, settings: SceneSettings) -> dict[str, dict]:
    """scene -> stored result of one row, for the scenes that were evaluated with exactly these settings."""
    wanted = result_settings(source, method, settings)
    found = ((name, _read(result_file(output, method.name, name))) for name in source.names)
    return {name: result for name, result in found if result is not None and result.get("settings") == wanted}


def store_result(output: Path, row: str, scene: str, result: dict[str, Any]) -> None:
    """Write the result of one row and scene."""
    write_bytes(result_file(output, row, scene), json.dumps({"scene": scene, **result}, allow_nan=False).encode())


def result_settings(source: SceneSource, method: Method, settings: SceneSettings) -> dict[str, Any]:
    """Everything that the figures of a row depend on: method, data, poses, map, rules and protocol."""
    found = {
        "version": RESULT_VERSION,
        "method": method.settings(),
        "source": source.settings(),
        "figures": asdict(settings),
    }
    return json.loads(json.dumps(found))  # as it is read back: tuples become lists


def result_file(output: Path, row: str, scene: str) -> Path:
    """The file of one row and scene."""
    return output / "results" / file_name(row) / f"{scene}.json"


def picture_file(output: Path, row: str, scene: str) -> Path:
    """The picture of one row and scene."""
    return output / "pictures" / file_name(row) / f"{scene}.png"


def file_name(row: str) -> str:
    """The name of a row as a valid file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", row).strip("_")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_write(path) as partial:
        partial.write_bytes(content)


def _read(path: Path) -> dict | None:
    """A stored result; None if there is none or it is damaged."""
    try:
        return json.loads(path.read_text()) if path.exists() else None
    except json.JSONDecodeError:
        return None
