"""The structure of the code, read from its imports: packages import only from lower layers, and folders form no circles."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "lidar_completion": ROOT / "ros2_ws/src/lidar_completion/lidar_completion",
    "lidar_completion_ros": ROOT / "ros2_ws/src/lidar_completion_ros/lidar_completion_ros",
    "lidar_completion_evaluation": ROOT / "ros2_ws/src/lidar_completion_evaluation/lidar_completion_evaluation",
    "lidar_completion_synthetic": ROOT / "synthetic/lidar_completion_synthetic",
    "lidar_completion_training": ROOT / "training/lidar_completion_training",
}
# What each package may import. Only evaluation/replay may import the node.
LAYERS = {
    "lidar_completion": set(),
    "lidar_completion_ros": {"lidar_completion"},
    "lidar_completion_evaluation": {"lidar_completion", "lidar_completion_ros", "lidar_completion_synthetic"},
    "lidar_completion_synthetic": set(),
    "lidar_completion_training": {"lidar_completion", "lidar_completion_evaluation", "lidar_completion_synthetic"},
}


def imported_modules(path: Path, package: str) -> set[str]:
    """Full names of the project's modules that a file imports anywhere, lazy imports included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in SOURCES}


def source_files() -> list[tuple[str, str, Path]]:
    """(package, module's folder as a dotted name, file) of every source file."""
    return [
        (name, ".".join([name, *path.relative_to(folder).parts[:-1]]), path)
        for name, folder in SOURCES.items()
        for path in sorted(folder.rglob("*.py"))
    ]


@pytest.mark.parametrize("package", SOURCES)
def test_a_package_imports_only_from_lower_layers(package):
    wrong = {
        f"{path.relative_to(ROOT)} imports {module}"
        for name, folder, path in source_files()
        if name == package
        for module in imported_modules(path, folder)
        if (top := module.split(".")[0]) != package and top not in LAYERS[package]
    }
    assert not wrong


def test_only_the_replay_imports_the_node():
    wrong = {
        str(path.relative_to(ROOT))
        for _, folder, path in source_files()
        if folder.startswith("lidar_completion_evaluation") and "replay" not in folder
        if any(module.split(".")[0] == "lidar_completion_ros" for module in imported_modules(path, folder))
    }
    assert not wrong


def test_folders_do_not_import_each_other_in_circles():
    """A folder is a subpackage; the modules beside a package's subpackages form one folder each."""
    folders = {folder for _, folder, _ in source_files()}
    graph: dict[str, set[str]] = {}

    def place(module: str) -> str:
        """The folder of a module where it lies in a subpackage, the module itself at a package's top level."""
        parts = module.split(".")
        inside = next((".".join(parts[:n]) for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in folders), None)
        return inside or ".".join(parts[:2])

    for name, folder, path in source_files():
        me = folder if folder != name else f"{name}.{path.stem}"
        if path.stem == "__init__" and folder == name:
            continue
        graph.setdefault(me, set()).update(
            place(module) for module in imported_modules(path, folder) if "." in module and place(module) != me
        )
    TopologicalSorter(graph).prepare()
