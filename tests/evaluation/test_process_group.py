"""Map and evaluation on two gloo processes, as torchrun starts them."""

import json
from pathlib import Path

from street_drive import poses_along_x, write_drive
from two_processes import run_twice

from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.methods import BaselineMethod
from lidar_completion_evaluation.process_group import ALONE, ProcessGroup, of_torchrun
from lidar_completion_evaluation.scenes import DriveScenes
from lidar_completion_evaluation.truth.ground_truth_map import build_map

HERE = Path(__file__).parent
FOLDERS = [str(HERE), str(HERE.parent / "fixtures")]
PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from test_process_group import map_and_results
map_and_results(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def map_and_results(drive_folder, output):
    """The map of a drive in batches of two sweeps, and two baselines on every second sweep."""
    drive, group = open_folder(drive_folder), of_torchrun()
    file = build_map(drive, output / "map.npz", moving="keep", batch_sweeps=2, progress=False, group=group)
    rows = [BaselineMethod("raw"), BaselineMethod("jittered")]
    evaluate(DriveScenes(drive, file, every=2), rows, output, group=group, progress=False)
    with group.first_before_others():
        (output / "order.txt").open("a").write("first" if group.is_first else ", second")


def results(output):
    """Every stored result without the time that it took, by its file."""
    return {
        path.relative_to(output): {
            name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"
        }
        for path in (output / "results").rglob("*.json")
    }


def test_two_processes_write_the_files_of_one(tmp_path):
    folder = write_drive(tmp_path / "drive", poses_along_x(6))
    map_and_results(folder, tmp_path / "one")
    (tmp_path / "two").mkdir()
    run_twice(["-c", PROGRAM, str(folder), str(tmp_path / "two"), *FOLDERS])
    assert (tmp_path / "two/map.npz").read_bytes() == (tmp_path / "one/map.npz").read_bytes()
    assert results(tmp_path / "two") == results(tmp_path / "one")
    assert len(results(tmp_path / "one")) == 6
    assert (tmp_path / "two/order.txt").read_text() == "first, second"


def test_one_process_does_everything_and_waits_for_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    group = of_torchrun()
    assert group == ALONE
    group.wait_for_all()
    assert group.is_first
    assert group.share_of([1, 2, 3]) == [1, 2, 3]


def test_processes_of_torchrun_share_the_items(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert of_torchrun().share_of([1, 2, 3]) == [2]
    assert not of_torchrun().is_first


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert ALONE.device("auto") == "auto"
    assert ProcessGroup(3, 4).device("auto") == "cuda:1"
    assert ProcessGroup(3, 4).device("cpu") == "cpu"
