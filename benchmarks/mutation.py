"""Mutation test of objectives, trainer and diffusion: random small changes of the code, each of which some test should notice.

    pip install --target /tmp/mutation --no-deps cosmic-ray==8.7.0 parso==0.8.7 stevedore==5.10.0
    PYTHONPATH=/tmp/mutation python benchmarks/mutation.py [--count 200] [--seed 0]

cosmic-ray makes the mutants. Of each module's places that can be changed, a random sample is drawn in proportion to their number, with one
random change each; changes of `|` are left out, because it is used in annotations. A mutant is loaded in a child process that runs the tests of
its module until one fails; no file is changed. Writes benchmarks/results/mutation.md, after every mutant, and resumes.
"""

import argparse
import contextlib
import datetime
import difflib
import importlib.machinery
import importlib.util
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import cosmic_ray.plugins
import lightning_fabric  # noqa: F401  libraries are imported before the children are forked, which saves seconds each
import numba  # noqa: F401
import omegaconf  # noqa: F401
import pytest
import scipy.spatial  # noqa: F401
import torch
from cosmic_ray.ast import Visitor, get_ast
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).parents[1]
CORE, TRAINING = ROOT / "ros2_ws/src/lidar_completion/lidar_completion", ROOT / "training/lidar_completion_training"
OBJECTIVE_TESTS = [
    f"tests/training/test_{name}.py"
    for name in ("direct", "direct_union", "objectives_others", "objectives_distillation", "cell_preference", "known_space", "precision")
]  # fmt: skip
TESTS = {
    **{path: OBJECTIVE_TESTS for path in sorted((TRAINING / "objectives").glob("*.py"))},
    **{
        TRAINING / f"{name}.py": ["tests/training/test_schedule.py", "tests/training/test_resume.py", "tests/training/test_trainer.py"]
        for name in ("trainer", "learning_rate", "schedule", "state")
    },
    **{
        CORE / f"{name}.py": ["tests/core/test_diffusion.py", "tests/core/test_samplers.py", "tests/core/test_completer.py"]
        for name in ("diffusion", "samplers")
    },
}  # fmt: skip
LEFT_OUT = ("NoOp", "VariableReplacer", "VariableInserter", "_BitOr_")
TIMEOUT_S = 240


class Places(Visitor):
    """Finds the places where operators can change a module: for each line and column, the operators and their occurrences there."""

    def __init__(self, operators: dict[str, Any]) -> None:
        self.operators, self.counts = operators, Counter()
        self.found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)

    def visit(self, node: Any) -> Any:
        for name, operator in self.operators.items():
            for start, _ in operator.mutation_positions(node):
                self.found[start].append((name, self.counts[name]))
                self.counts[name] += 1
        return node


def places(source: str) -> list[list[tuple[str, int]]]:
    """The operators and their occurrences at each place in the source that can be changed."""
    names = [name for name in cosmic_ray.plugins.operator_names() if not any(each in name for each in LEFT_OUT)]
    visitor = Places({name: cosmic_ray.plugins.get_operator(name)() for name in names})
    visitor.walk(get_ast(source))
    return [visitor.found[place] for place in sorted(visitor.found)]


def sample(count: int, seed: int) -> list[tuple[Path, str, int]]:
    """Module, operator and occurrence of `count` mutants."""
    generator = random.Random(seed)
    everywhere = [(path, changes) for path in TESTS for changes in places(path.read_text())]
    chosen = generator.sample(everywhere, count)
    return [(path, *generator.choice(changes)) for path, changes in chosen]


def difference(path: Path, source: str, mutated: str) -> str:
    """The changed lines."""
    lines = difflib.unified_diff(source.splitlines(), mutated.splitlines(), lineterm="", n=0)
    return "\n".join(line for line in lines if line[:3] not in ("---", "+++") and line[:2] != "@@")


def outcome(path: Path, mutated: str) -> str:
    """`detected`, `timeout` or `survived`: what the tests of a module do with its mutated source."""
    child = os.fork()
    if not child:
        os.setsid()
        os._exit(run_tests(path, mutated))
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "survived" if os.waitstatus_to_exitcode(status) == 0 else "detected"
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def run_tests(path: Path, mutated: str) -> int:
    """Load the mutated source in place of a module and run its tests."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    package = path.parents[1] if path.parent.name != "objectives" else path.parents[2]
    parts = path.relative_to(package).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    class Loader(importlib.machinery.SourceFileLoader):
        def get_code(self, fullname: str) -> object:
            return compile(mutated, str(path), "exec")

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> object:
            if name != module:
                return None
            return importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path)))

    sys.meta_path.insert(0, Finder())
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(str(ROOT / test) for test in TESTS[path])]))


def report(results: list[dict[str, str]], options: argparse.Namespace) -> str:
    counts = Counter(result["outcome"] for result in results)
    by_module: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        by_module[result["module"]][result["outcome"]] += 1
    rows = [f"| {name} | {found.total()} | {found['survived']} |" for name, found in sorted(by_module.items())]
    survivors = [
        f"{r['module']}, {r['operator']}\n```\n{r['difference']}\n```" for r in results if r["outcome"] == "survived"
    ]
    return "\n\n".join(
        [
            f"# Mutation test, {datetime.date.today()}",
            f"cosmic-ray, {len(results)} mutants, seed {options.seed}: {counts['detected']} detected, {counts['timeout']} ended by the "
            f"time limit of {TIMEOUT_S} s, {counts['survived']} survived.",
            "\n".join(["| module | mutants | survived |", "|---|---|---|", *rows]),
            "## Survivors",
            *survivors,
        ]
    ) + "\n"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("runs/mutation.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    options.log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in options.log.read_text().splitlines()] if options.log.is_file() else []
    for path, operator, occurrence in sample(options.count, options.seed)[len(done) :]:
        source = path.read_text()
        mutated = mutate_code(source, cosmic_ray.plugins.get_operator(operator)(), occurrence)
        start = time.monotonic()
        result = {
            "module": path.relative_to(ROOT).as_posix(),
            "operator": operator.removeprefix("core/"),
            "difference": difference(path, source, mutated),
            "outcome": outcome(path, mutated),
            "seconds": round(time.monotonic() - start, 1),
        }
        done.append(result)
        with options.log.open("a") as log:
            log.write(json.dumps(result) + "\n")
        print(f"{len(done)} {result['outcome']} {result['seconds']} s {result['module']}", flush=True)
        (ROOT / "benchmarks/results/mutation.md").write_text(report(done, options))


if __name__ == "__main__":
    main()
