"""Paths of this package's files and of the shipped models, in the source tree or in share/ after colcon or pip."""

from __future__ import annotations

from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

DEFAULT_MODEL = "edge"
PROFILE = "fast_dds_profile.xml"
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE"


def config_file(name: str) -> Path:
    """A file of this package's config folder. Raises FileNotFoundError."""
    return _file("config", name)


def launch_file(name: str) -> Path:
    """One of the launch files. Raises FileNotFoundError."""
    return _file("launch", name)


def model_folder(model: str) -> Path:
    """The folder of a model: a path as it is, the name of a shipped model, or the default model if `model` is empty."""
    path = Path(model).expanduser()
    if model and (path.exists() or len(path.parts) > 1):
        return path
    name = model or DEFAULT_MODEL
    core = find_spec("lidar_completion")  # not imported, which takes a second
    shipped = [folder / "models" / name for folder in model_roots(Path(__file__), Path((core and core.origin) or "/"))]
    return next((folder for folder in shipped if folder.is_dir()), shipped[0] if not model else path)


def use_shared_memory_profile(environment: MutableMapping[str, str]) -> None:
    """Set this package's Fast DDS profile in `environment` unless another one is set. Call it before rclpy.init."""
    environment.setdefault(PROFILE_VARIABLE, str(config_file(PROFILE)))


def model_roots(here: Path, core: Path) -> list[Path]:
    """Folders that may hold the folder `models`, for a file of this package and one of lidar_completion.

    The core package installs the models. colcon gives each package its own prefix unless it is run with --merge-install.
    """
    here, core = here.resolve(), core.resolve()
    checkout = [parent for parent in here.parents if (parent / "ros2_ws").is_dir()]
    return [*checkout, *(parent / "share" / "lidar_completion" for parent in (*core.parents, *here.parents))]


def _file(folder: str, name: str) -> Path:
    here = Path(__file__).resolve()
    installed = [parent / "share" / "lidar_completion_ros" for parent in here.parents]
    candidates = [place / folder / name for place in (here.parents[1], *installed)]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{name}: not in the folder {folder} of lidar_completion_ros; reinstall the package")
    return found
