"""Every benchmark explains its options before it does any work."""

import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_help_of_a_benchmark(path, monkeypatch, capsys):
    """An option without a working help text, and work or files that come before the options are read, fail here."""
    if path.stem.startswith("node_"):
        pytest.importorskip("rclpy")
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.setattr(sys, "argv", [str(path), "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(path), run_name="__main__")
    assert exit.value.code == 0
    assert f"usage: {path.name}" in capsys.readouterr().out
