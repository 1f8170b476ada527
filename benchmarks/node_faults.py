"""Fuzzing and faults: every test of the list, run and named, with what the fuzzing counted.

    python benchmarks/node_faults.py [--results FILE]

Runs pytest on the tests below, the slow ones too, and writes how each ended to benchmarks/results/node_faults.txt; several minutes.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from shipped_models import ROOT, processor

TESTS = (
    "tests/ros/test_fuzz_messages.py",
    "tests/ros/test_faults.py",
    "tests/ros/test_node_exit.py",
    "tests/ros/test_lifecycle.py",
    "tests/ros/test_running_node.py",
    "tests/ros/test_model_reload.py",
    "tests/ros/test_sensor_motion.py",
    "tests/ros/test_inference.py",
    "tests/ros/test_node_process.py",
    "tests/core/test_public_checkpoints.py",
    "tests/core/test_checkpoints.py",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "node_faults.txt")
    results = parser.parse_args().results
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "not gpu",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            *TESTS,
        ]
        rc = subprocess.run(command, cwd=ROOT).returncode
        cases = list(ElementTree.parse(report).iter("testcase"))
    lines = [
        f"{datetime.date.today()}  {processor()}: {sum(outcome(each) == 'passed' for each in cases)} of {len(cases)} passed"
    ]
    for case in cases:
        lines.append(f"{outcome(case):8} {case.get('classname', '').split('.')[-1]}: {case.get('name')}")
        lines += [f"{'':9}{each.get('name')}: {each.get('value')}" for each in case.iter("property")]
    print("\n".join(lines))
    results.write_text("\n".join(lines) + "\n")
    sys.exit(rc)


def outcome(case: ElementTree.Element) -> str:
    """How a test ended; a skipped one is not one that passed."""
    return next((kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None), "passed")


if __name__ == "__main__":
    main()
