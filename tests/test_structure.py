"""The structure of the code, read from the sources: imports go to lower layers only, and files and functions are short."""

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


# ---- lengths ----

SOURCE_LINES, TEST_LINES, FUNCTION_LINES = 400, 500, 50
SOURCE_FOLDERS = ("ros2_ws/src", "synthetic", "training", "demo", "launch")
# The only exceptions: what is longer, how many lines it may have, and why.
LONG_FUNCTIONS = {
    # A Triton kernel is compiled as one function, and each of its 24 arguments has a line of its own.
    "ros2_ws/src/lidar_completion/lidar_completion/sparse/convolution_triton.py:_convolve_block": 57,
    # The signature has a line for each of the 31 command-line options, which typer reads from it.
    "ros2_ws/src/lidar_completion_evaluation/lidar_completion_evaluation/evaluate_command.py:evaluate_command": 60,
}


def python_files(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


def definition(path: Path, name: str) -> ast.AST:
    """The first function or class of this name in a file."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    nodes = ast.walk(ast.parse(path.read_text()))
    return next(node for node in nodes if isinstance(node, kinds) and node.name == name)


@pytest.mark.parametrize(("folders", "limit"), [(SOURCE_FOLDERS, SOURCE_LINES), (("tests", "benchmarks"), TEST_LINES)])
def test_files_are_short(folders, limit):
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files(*folders)}
    assert lines
    assert {path: count for path, count in lines.items() if count > limit} == {}


def test_functions_are_short():
    long = [
        (f"{path.relative_to(ROOT)}:{node.name}", length(node))
        for path in python_files(*SOURCE_FOLDERS)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > FUNCTION_LINES
    ]
    assert [(name, lines) for name, lines in long if lines > LONG_FUNCTIONS.get(name, 0)] == []
    assert {name for name, _ in long} == LONG_FUNCTIONS.keys(), "remove exceptions that nothing needs any more"


def test_node_and_pipeline_stay_short():
    assert length(definition(SOURCES["lidar_completion_ros"] / "node.py", "CompletionNode")) <= 200
    assert length(definition(SOURCES["lidar_completion"] / "completer.py", "complete")) <= 30
