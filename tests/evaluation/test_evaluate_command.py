"""The command `lidar-completion evaluate` on small drives, bags, public checkpoints and the published benchmarks."""

import json

import numpy as np
import pytest
import torch
from street_bag import write_bag
from street_drive import poses_along_x, write_poses
from typer import Typer
from typer.testing import CliRunner

from lidar_completion.model.card import ModelCard
from lidar_completion.model.weights import build_networks
from lidar_completion.networks import Architecture
from lidar_completion.point_cloud_files import write_points
from lidar_completion_evaluation.drives import kitti_360
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate_command import evaluate_command
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap
from lidar_completion_evaluation.truth.rules import merged_sweeps


def result_times(output):
    return {path.relative_to(output): path.stat().st_mtime_ns for path in (output / "results").rglob("*.json")}


@pytest.fixture(scope="module")
def command():
    app = Typer()
    app.command()(evaluate_command)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_prints_tables_and_writes_report(command, drive_folder, perfect, tmp_path):
    done = command(
        "--data",
        drive_folder,
        "--scenes",
        1,
        "--predictions",
        perfect,
        "--output",
        tmp_path,
        "--published",
        "semantic-kitti",
        "--baselines",
        "raw,xy_jittered",
    )
    assert done.exit_code == 0, done.output
    assert "xy_jittered" in done.output
    assert "LiDiff 50 steps (published)" in done.output
    assert (tmp_path / "report.html").exists()
    assert "published" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Files of the published form with random weights: a denoiser with its encoder, and a refiner."""
    folder = tmp_path_factory.mktemp("published")
    card = ModelCard("random", architecture=Architecture(width=0.125), networks=("encoder", "denoiser", "refiner"))
    torch.manual_seed(0)
    networks = build_networks(card)
    for file, prefixes in (
        ("diff.ckpt", {"encoder": "partial_enc", "denoiser": "model"}),
        ("refine.ckpt", {"refiner": "model_refine"}),
    ):
        tensors = {
            f"{prefix}.{name}": value
            for kind, prefix in prefixes.items()
            for name, value in networks[kind].state_dict().items()
        }
        torch.save({"state_dict": tensors}, folder / file)
    return folder


def test_evaluates_public_checkpoints_refined_and_unrefined(command, drive_folder, checkpoints, tmp_path):
    both = f"{checkpoints / 'diff.ckpt'}+{checkpoints / 'refine.ckpt'}"
    shared = ("--data", drive_folder, "--scenes", 1, "--baselines", "raw", "--device", "cpu", "--output", tmp_path)
    models = ("--model", both, "--model", checkpoints / "diff.ckpt", "--steps", "1", "--refinement", "both")
    done = command(*shared, *models, "--no-pictures")
    assert done.exit_code == 0, done.output
    table = done.output.split("\n\n")[2]
    rows = [line.split("  ")[0] for line in table.splitlines()]
    assert rows[-3:] == ["diff+refine, 1 step", "diff+refine, 1 step, unrefined", "diff, 1 step"]
    refined, unrefined = (
        json.loads(next((tmp_path / f"results/{row}").iterdir()).read_text())["completed"]["points"]
        for row in ("diff_refine_1_step", "diff_refine_1_step_unrefined")
    )
    assert refined > 3 * unrefined
    before = result_times(tmp_path)
    assert command(*shared, *models, "--no-pictures").exit_code == 0
    assert result_times(tmp_path) == before  # converted and evaluated once
    lost = command(*shared, "--model", tmp_path / "lost.ckpt")
    assert lost.exit_code == 2
    assert "found no" in lost.output
    assert "lost.ckpt" in lost.output


def test_evaluates_bag_with_odometry(command, tmp_path):
    bag = write_bag(tmp_path / "bag", poses_along_x(4))
    done = command("--data", bag, "--scenes", 1, "--baselines", "raw", "--no-pictures", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/results/raw").is_dir()


CAMERA = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1.0]])  # T_camera_lidar


def thinned(drive, index):
    return drive.read(index).points[::20]


def test_kitti_360_benchmark_on_real_sweeps(command, shared, tmp_path):
    drive, name, root = open_drive(shared / "data/sequences/91", check=False), kitti_360.FIRST_DRIVE, tmp_path / "data"
    lines = []
    for index, pose in enumerate(drive.T_map_sensor[:6]):
        frame = 10 + index
        write_points(root / "data_3d_raw" / name / f"velodyne_points/data/{frame:010d}.bin", thinned(drive, index))
        lines.append(f"{frame} " + " ".join(f"{value:.9g}" for value in (pose @ np.linalg.inv(CAMERA)).ravel()))
    (root / "data_poses" / name).mkdir(parents=True)
    (root / "data_poses" / name / "cam0_to_world.txt").write_text("\n".join(lines) + "\n")
    (root / "calibration").mkdir()
    values = np.linalg.inv(CAMERA)[:3].ravel()
    (root / "calibration/calib_cam_to_velo.txt").write_text(" ".join(f"{value:.9g}" for value in values) + "\n")
    output = tmp_path / "out"
    done = command("--benchmark", "kitti-360", "--data", root, "--scenes", 2, "--baselines", "raw", "--output", output)
    assert done.exit_code == 0, done.output
    assert "LiDiff 50 steps (published)" in done.output
    settings = json.loads((output / "results/raw/0000000011.json").read_text())["settings"]["source"]
    assert settings["rules"]["view_cell_m"] == 10.0
    assert (output / "results/raw/0000000010.json").exists()  # every sweep


@pytest.mark.slow
def test_semantic_kitti_benchmark_on_real_sweeps(command, shared, tmp_path):
    """4,071 sweeps: a short real drive back and forth, with linked files, labels and camera poses."""
    drive, folder = open_drive(shared / "data/sequences/90", check=False), tmp_path / "sequences/08"
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    there = list(range(len(drive)))
    for index in there:
        points = thinned(drive, index)
        write_points(tmp_path / f"{index}.bin", points)
        np.where(points[:, 0] > 0, 40, 252).astype("<u4").tofile(tmp_path / f"{index}.label")
    back_and_forth = (there + there[-2:0:-1]) * 200
    for number, index in enumerate(back_and_forth[:4071]):
        (folder / f"velodyne/{number:06d}.bin").symlink_to(tmp_path / f"{index}.bin")
        (folder / f"labels/{number:06d}.label").symlink_to(tmp_path / f"{index}.label")
    write_poses(folder / "poses.txt", CAMERA @ drive.T_map_sensor[back_and_forth[:4071]] @ np.linalg.inv(CAMERA))
    (folder / "calib.txt").write_text("Tr: " + " ".join(f"{value:.9g}" for value in CAMERA[:3].ravel()) + "\n")
    output = tmp_path / "out"
    done = command("--benchmark", "semantic-kitti-08", "--data", tmp_path, "--scenes", 2, "--output", output)
    assert done.exit_code == 0, done.output
    assert "Distillation-DPO 8 steps, refined (published)" in done.output
    source = json.loads((output / "results/raw/000001.json").read_text())["settings"]["source"]
    assert (source["map"]["sweeps"], source["drop_moving_input"]) == (4071, False)
    assert (output / "results/raw/000000.json").exists()  # every sweep
    here = GroundTruthMap(output / "map.npz").all()
    every = merged_sweeps((drive.read(index), pose) for index, pose in enumerate(drive.T_map_sensor))
    assert 0 < len(here) < len(every)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--data", "nowhere"), "found nothing there"),
        (("--steps", "many", "--model", "x"), "--steps: expected numbers"),
        (("--benchmark", "nuscenes"), "--benchmark: expected one of semantic-kitti-08"),
        (("--predictions", "nowhere"), "folder of predictions"),
        (("--protocol", "mine"), "--protocol: expected one of default, published"),
        (("--refinement", "maybe", "--model", "x"), "--refinement: expected yes, no or both"),
    ],
)
def test_rejects_bad_options(command, drive_folder, tmp_path, arguments, expected):
    arguments = arguments if "--data" in arguments else (*arguments, "--data", drive_folder)
    done = command(*arguments, "--output", tmp_path)
    assert done.exit_code == 2
    assert expected in done.output
