"""benchmarks/gpu_report.py goes on after failures and lists them; its parts name scripts that exist."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report():
    spec = importlib.util.spec_from_file_location("gpu_report", ROOT / "benchmarks" / "gpu_report.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_report"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gpu_report"]


def test_goes_on_after_a_failed_and_a_hanging_part(report, tmp_path, monkeypatch, capsys):
    chosen = [
        report.Part("breaks", ["-c", "print('before'); raise SystemExit('no such device')"], 60),
        report.Part("hangs", ["-c", "import time; print('began'); time.sleep(60)"], 2),
        report.Part("works", ["-c", "print('fine')"], 60),
    ]
    monkeypatch.setattr(report, "parts", lambda output: chosen)
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--output", str(tmp_path)])
    assert report.main() == 1
    outcomes = json.loads((tmp_path / "report.json").read_text())
    assert [each["ended"] for each in outcomes] == ["failed (1)", "stopped after 2 s", "ok"]
    assert (tmp_path / "works.txt").read_text() == "fine\n"
    shown = capsys.readouterr().out
    assert "no such device" in shown
    assert "fine" not in shown, "the output of parts that ended well stays in their files"


def test_parts_without_time_are_listed(report, tmp_path):
    outcome = report.run(report.Part("late", ["-c", ""], 60), tmp_path, seconds_left=0.0)
    assert outcome.ended == "not started: no time left"


def test_parts_name_files_that_exist(report, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "_answer", lambda code: "90")
    files = [each for part in report.parts(tmp_path) for each in part.arguments if each.endswith((".py", ".npz"))]
    assert files
    assert all((ROOT / each).is_file() for each in files)


def test_unknown_part_is_refused(report, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_report.py", "--output", str(tmp_path), "--only", "gold"])
    with pytest.raises(SystemExit):
        report.main()
