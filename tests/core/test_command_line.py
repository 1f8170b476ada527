"""The command `lidar-completion`, in process."""

import json

import numpy as np
import pytest
from tiny_channels import TINY_CHANNELS
from typer.testing import CliRunner

from lidar_completion.command_line import app
from lidar_completion.model.card import ModelCard, Pipeline
from lidar_completion.model.weights import build_networks, save_model
from lidar_completion.networks import Architecture
from lidar_completion.point_cloud_files import read_points, write_points

run = CliRunner().invoke


@pytest.fixture
def sweep(tmp_path):
    points = np.random.default_rng(0).uniform(-20, 20, (3000, 3)).astype(np.float32)
    write_points(tmp_path / "sweep.npz", points)
    return tmp_path / "sweep.npz"


def test_complete_writes_measured_and_completed_points(sweep, tiny_model, tmp_path):
    result = run(app, ["complete", str(sweep), "--model", str(tiny_model), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    done, measured = read_points(tmp_path / "out" / "sweep.pcd").points, read_points(sweep).points
    assert np.array_equal(done[: len(measured)], measured)
    assert len(done) > len(measured)


@pytest.mark.parametrize("suffix", [".pcd", ".ply", ".bin", ".npy", ".npz"])
def test_writes_every_format(tiny_model, tmp_path, suffix):
    points = np.random.default_rng(0).uniform(-20, 20, (3000, 3)).astype(np.float32)
    write_points(tmp_path / "sweep.bin", points, intensity=np.arange(3000, dtype=np.float32))
    options = ["--model", str(tiny_model), "--output", str(tmp_path / "out"), "--suffix", suffix]
    result = run(app, ["complete", str(tmp_path / "sweep.bin"), *options, "--max-points", "3100"])
    assert result.exit_code == 0, result.output
    assert "removed" in result.output
    done = read_points(tmp_path / "out" / f"sweep{suffix}")
    assert len(done.points) == 3100
    if suffix != ".npy":
        np.testing.assert_array_equal(done.intensity[:3000], np.arange(3000))


def test_the_filter_can_be_disabled(sweep, tiny_model, tmp_path):
    options = ["complete", str(sweep), "--model", str(tiny_model), "--output", str(tmp_path / "out")]
    assert "free_space" in run(app, options).output
    assert "free_space" not in run(app, [*options, "--no-free-space-filter"]).output
    assert "+ 0 completed" in run(app, [*options, "--min-confidence", "0.6"]).output  # not calibrated: all say 0.5


def test_refiner_can_be_disabled(sweep, tmp_path):
    card = ModelCard(
        name="refined",
        architecture=Architecture(own_channels=TINY_CHANNELS, voxel_size_m=0.5),
        pipeline=Pipeline(downsample_voxel_m=0.5, replication=2),
        networks=("encoder", "denoiser", "refiner"),
    )
    save_model(tmp_path / "refined", card, build_networks(card))
    options = ["complete", str(sweep), "--model", str(tmp_path / "refined"), "--output", str(tmp_path / "out")]
    completed = []
    for flag in ("--no-refine", "--refine"):
        assert run(app, [*options, flag, "--no-free-space-filter"]).exit_code == 0
        completed.append(len(read_points(tmp_path / "out" / "sweep.pcd").points) - len(read_points(sweep).points))
    assert completed[1] > 3 * completed[0] > 0  # of six, some lie under the ground


def test_reports_a_broken_sweep_and_completes_the_others(sweep, tiny_model, tmp_path):
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"123")
    arguments = ["complete", str(broken), str(sweep), "--model", str(tiny_model), "--output", str(tmp_path / "out")]
    result = run(app, arguments)
    assert result.exit_code == 2
    assert "broken.bin" in result.output
    assert (tmp_path / "out" / "sweep.pcd").is_file()


def test_rejects_a_missing_model(sweep, tmp_path):
    result = run(app, ["complete", str(sweep), "--model", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert str(tmp_path / "none") in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "a_file"], "a_file: cannot be created"),
        (["--device", "meta"], "not one of auto, cpu"),
        (["--guidance", "nan"], "--guidance"),
        (["--seed", "-1"], "--seed"),
        (["--suffix", "xyz"], "--suffix"),
    ],
)
def test_rejects_unusable_options(sweep, tiny_model, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    result = run(app, ["complete", str(sweep), "--model", str(tiny_model), *options])
    assert result.exit_code == 2
    assert message in result.output


def test_inspect_prints_the_card(tiny_model):
    result = run(app, ["inspect", str(tiny_model)])
    assert result.exit_code == 0
    card = json.loads(result.output[: result.output.rindex("}") + 1])
    assert card["name"] == "tiny"


def test_other_packages_add_their_commands():
    assert {"bag", "evaluate"} <= {command.name for command in app.registered_commands}


def test_convert_rejects_other_files(tmp_path):
    (tmp_path / "some.ckpt").write_bytes(b"no checkpoint")
    result = run(app, ["convert", str(tmp_path / "some.ckpt"), "--output", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "some.ckpt" in result.output
