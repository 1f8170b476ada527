import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from street_bag import write_bag
from street_drive import a_street, poses_along_x, write_drive, write_poses
from typer import Typer
from typer.testing import CliRunner

from lidar_completion.model.card import ModelCard, load_card, save_card
from lidar_completion.model.weights import build_networks, load_model, save_model
from lidar_completion.networks import Architecture
from lidar_completion.point_cloud_files import read_points, write_points
from lidar_completion_evaluation import evaluate as evaluation
from lidar_completion_evaluation.drives import kitti_360
from lidar_completion_evaluation.drives.drive import transform
from lidar_completion_evaluation.drives.folder import open_folder
from lidar_completion_evaluation.drives.open import open_drive
from lidar_completion_evaluation.evaluate import ModelMethod, PredictionFolder, TrivialMethod, trivial_methods
from lidar_completion_evaluation.evaluate_command import evaluate_command
from lidar_completion_evaluation.evaluate_scene import judge
from lidar_completion_evaluation.metrics import MetricError, nearest_distances
from lidar_completion_evaluation.report import write_report
from lidar_completion_evaluation.scenes import DriveScenes, Scene, SyntheticScenes
from lidar_completion_evaluation.statistics import mean_interval, paired_difference
from lidar_completion_evaluation.summary import summarise, text_table, write_csv
from lidar_completion_evaluation.truth.ground_truth_map import GroundTruthMap, build_map, merged_sweeps
from lidar_completion_evaluation.truth.observed_space import RayRules, observe


@pytest.fixture(scope="module")
def drive_folder(tmp_path_factory):
    """Six sweeps, each of which has every third point of the street: the others make the truth."""

    def part(index):
        return a_street()[index % 3 :: 3]

    return write_drive(tmp_path_factory.mktemp("evaluate") / "street", poses_along_x(6), street=part)


@pytest.fixture(scope="module")
def source(drive_folder, tmp_path_factory):
    drive = open_folder(drive_folder)
    file = build_map(drive, tmp_path_factory.mktemp("map") / "map.npz", moving="keep", progress=False)
    return DriveScenes(drive, file, every=2, rays=RayRules(voxel_size_m=0.4))


@pytest.fixture(scope="module")
def perfect(source, tmp_path_factory):
    """A folder of predictions of a method that knows the street."""
    folder = tmp_path_factory.mktemp("predictions") / "perfect"
    for name, index in zip(source.names, source.indices, strict=True):
        pose = source.drive.T_map_sensor[index]
        write_points(folder / f"{name}.ply", transform(np.linalg.inv(pose), a_street()))
    return folder


@pytest.fixture(scope="module")
def judged(source, perfect, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    methods = [*trivial_methods(), PredictionFolder(perfect)]
    evaluation.evaluate(source, methods, output, progress=False)
    return methods, output, summarise(source, methods, output)


def results(output):
    return {path.relative_to(output): path.stat().st_mtime_ns for path in (output / "results").rglob("*.json")}


# --- figures ----------------------------------------------------------------------------------------------------


def test_the_stored_figures_are_those_of_the_metrics(source, judged):
    methods, output, _ = judged
    scene = source.load(1)
    completed = methods[3].complete(scene)
    stored = json.loads((output / "results/xy_jittered" / f"{scene.name}.json").read_text())
    window = np.linalg.norm(completed, axis=1) < 50
    window &= (completed[:, 2] > -4) & (completed[:, 2] < 4.4)
    distances = nearest_distances(completed[window], scene.truth)
    assert stored["completed"]["cd"] == pytest.approx(distances.chamfer)
    assert stored["completed"]["f_0.2"] == pytest.approx(distances.f_score(0.2))
    both = nearest_distances(np.concatenate([completed[window], scene.sweep]), scene.truth)
    assert stored["with_measured"]["cd"] == pytest.approx(both.chamfer)
    assert stored["with_measured"]["points"] == window.sum() + len(scene.sweep)


def test_unknown_space_is_neither_rewarded_nor_punished_and_free_space_is_a_violation():
    wall = np.column_stack(
        [np.full(400, 10.0), np.repeat(np.linspace(-4, 4, 20), 20), np.tile(np.linspace(-1, 3, 20), 20)]
    )
    wall = wall.astype(np.float32)
    scene = Scene("wall", wall, wall, observe([(np.zeros(3), wall)], [wall], RayRules(half_extent_m=20.0)))
    behind, before = wall * 1.5, wall * 0.5
    good = judge(scene, wall)["completed"]
    unseen = judge(scene, np.concatenate([wall, behind]))["completed"]
    ghosts = judge(scene, np.concatenate([wall, before]))["completed"]
    assert good["cd"] == good["cd_observed"] == good["violations"] == 0
    assert unseen["cd"] > 1
    assert unseen["cd_observed"] == 0
    assert unseen["observed_share"] == pytest.approx(0.5)
    assert unseen["violations"] == 0
    assert ghosts["violations"] == pytest.approx(0.5)
    assert ghosts["cd_observed"] == pytest.approx(ghosts["cd"])
    with pytest.raises(MetricError):
        judge(scene, np.zeros((0, 3)))


# --- rows, means, differences -----------------------------------------------------------------------------------


def test_the_trivial_rows_stand_in_every_table_and_a_good_method_beats_them(judged):
    _, _, summary = judged
    assert [row.name for row in summary.rows] == ["raw", "jittered", "interpolated", "xy_jittered", "perfect"]
    perfect = summary.rows[-1]
    assert summary.focus is perfect
    paired = summary.against_trivial(perfect)
    assert paired.difference.upper < 0
    assert paired.lower_on == 1.0
    assert perfect.figures["completed"]["cd"].mean < 0.05
    text = text_table(summary)
    assert "best trivial" in text
    assert "perfect" in text.splitlines()[-1]
    rings = text.split("CD by range from the sensor")[1].splitlines()[: len(summary.rows) + 1]
    raw, best = ([float(cell) for cell in line.split()[1:]] for line in (rings[1], rings[-1]))
    assert all(mine < theirs for mine, theirs in zip(best, raw, strict=True))


def test_csv_files_hold_every_figure(judged, tmp_path):
    _, _, summary = judged
    for file in write_csv(summary, tmp_path):
        rows = list(csv.DictReader(file.open()))
        assert rows
        assert {row["row"] for row in rows} == {row.name for row in summary.rows}
    means = {
        (row["row"], row["section"], row["figure"]): float(row["mean"])
        for row in csv.DictReader((tmp_path / "summary.csv").open())
    }
    assert means["raw", "completed", "cd"] == pytest.approx(summary.rows[0].figures["completed"]["cd"].mean)


def test_the_report_is_one_file_with_pictures(judged):
    _, output, summary = judged
    page = write_report(summary, output).read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "perfect" in page
    assert "nan" not in page.lower().split("<svg")[0]


def test_intervals_hold_the_mean_and_shrink_with_scenes():
    random = np.random.default_rng(0)
    few, many = (mean_interval(list(random.normal(1, 0.2, n))) for n in (10, 1000))
    assert few.lower < few.mean < few.upper
    assert many.upper - many.lower < few.upper - few.lower
    assert many.lower < 1 < many.upper
    assert many.upper - many.lower == pytest.approx(2 * 1.96 * 0.2 / np.sqrt(1000), rel=0.15)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, float("nan")])


def test_paired_differences_use_the_common_scenes_only():
    paired = paired_difference({"a": 1.0, "b": 2.0, "c": 9.0}, {"a": 2.0, "b": 4.0})
    assert paired.difference.mean == -1.5
    assert paired.lower_on == 1.0
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


# --- running ----------------------------------------------------------------------------------------------------


def test_a_second_run_judges_nothing_again_and_a_new_row_only_itself(source, judged, perfect):
    methods, output, _ = judged
    before = results(output)
    evaluation.evaluate(source, methods, output, progress=False)
    assert results(output) == before
    (output / "results/raw/000002.json").unlink()
    evaluation.evaluate(source, methods, output, progress=False)
    changed = {path for path, stamp in results(output).items() if stamp != before[path]}
    assert [str(path) for path in changed] == ["results/raw/000002.json"]


def test_results_of_other_settings_are_not_mixed_in(source, judged):
    _, output, _ = judged
    other = summarise(source, [TrivialMethod("jittered", seed=5)], output)
    assert not other.rows[0].scenes


def test_shards_together_are_the_whole(source, judged, tmp_path):
    _, _, summary = judged
    for part in (0, 1):
        evaluation.evaluate(source, [TrivialMethod("raw")], tmp_path, shard=(part, 2), pictures=False, progress=False)
        stored = summarise(source, [TrivialMethod("raw")], tmp_path).rows[0].scenes
        assert len(stored) == (2, 3)[part]
    assert {name: result["completed"] for name, result in stored.items()} == {
        name: result["completed"] for name, result in summary.rows[0].scenes.items()
    }


@pytest.mark.slow
def test_worker_processes_give_the_same_figures(source, judged, tmp_path):
    _, _, summary = judged
    evaluation.evaluate(source, [TrivialMethod("xy_jittered")], tmp_path, processes=2, pictures=False, progress=False)
    row = summarise(source, [TrivialMethod("xy_jittered")], tmp_path).rows[0]
    # the thinning breaks ties by rounding, which differs with the number of threads
    assert row.values("cd") == pytest.approx(summary.rows[3].values("cd"), rel=1e-3)


def test_a_scene_that_fails_is_shown_and_not_averaged(source, perfect, tmp_path):
    folder = tmp_path / "half"
    for name in source.names:
        points = read_points(perfect / f"{name}.ply").points
        write_points(folder / f"{name}.bin", points if name != "000002" else np.full((5, 3), 900.0))
    methods = [TrivialMethod("raw"), PredictionFolder(folder)]
    evaluation.evaluate(source, methods, tmp_path / "out", pictures=False, progress=False)
    summary = summarise(source, methods, tmp_path / "out")
    row = summary.rows[-1]
    assert list(row.failed) == ["000002"]
    assert len(row.scenes) == 2
    assert "(1 failed)" in text_table(summary)
    assert "at least one point" in write_report(summary, tmp_path / "out").read_text()


def test_missing_predictions_are_refused_before_anything_runs(source, perfect, tmp_path):
    write_points(tmp_path / "one/000000.ply", np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"expected a prediction 000002.*found none"):
        evaluation.evaluate(source, [PredictionFolder(tmp_path / "one")], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="found 'perfect' twice"):
        evaluation.evaluate(source, [PredictionFolder(perfect)] * 2, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="folder of predictions, found nothing"):
        PredictionFolder(tmp_path / "nowhere")


def test_a_model_is_a_row(source, tiny_model, tmp_path):
    methods = [TrivialMethod("raw"), ModelMethod(tiny_model, steps=1, device="cpu")]
    evaluation.evaluate(source, methods, tmp_path, pictures=False, progress=False)
    row = summarise(source, methods, tmp_path).rows[1]
    assert row.name == "tiny, 1 step"
    assert len(row.scenes) + len(row.failed) == 3
    assert row.scenes


def test_a_damaged_result_is_computed_again(source, tmp_path):
    stored = evaluation.result_file(tmp_path, "raw", source.names[0])
    stored.parent.mkdir(parents=True)
    stored.write_text('{"scene": "cut he')
    evaluation.evaluate(source, [TrivialMethod("raw")], tmp_path, pictures=False, progress=False)
    assert json.loads(stored.read_text())["completed"]


def test_a_model_with_options_is_another_row(source, tiny_model, tmp_path):
    methods = [
        ModelMethod(tiny_model, 1, device="cpu", options={"replication": copies}, name=f"{copies} copies")
        for copies in (1, 3)
    ]
    evaluation.evaluate(source, methods, tmp_path, pictures=False, progress=False)
    rows = summarise(source, methods, tmp_path).rows
    assert [(row.name, row.kind) for row in rows] == [("1 copies", "model"), ("3 copies", "model")]
    few, many = (row.figures["completed"]["points"].mean for row in rows)
    assert few < many
    assert methods[0].settings()["replication"] == 1


def test_a_model_is_judged_again_only_where_something_decides_otherwise(source, tiny_model, tmp_path):
    card, networks = load_model(tiny_model)
    save_model(tmp_path, replace(card, name="copied", description="elsewhere", metrics={"told": 1}), networks)
    at_two = ModelMethod(tiny_model, 2).settings()
    assert ModelMethod(tmp_path, 2).settings() == at_two
    save_card(tmp_path, replace(load_card(tmp_path), pipeline=replace(card.pipeline, steps=2)))
    assert ModelMethod(tmp_path).settings() == at_two
    save_card(tmp_path, replace(load_card(tmp_path), pipeline=replace(card.pipeline, replication=7)))
    assert ModelMethod(tmp_path, 2).settings() != at_two
    with torch.no_grad():
        next(networks["denoiser"].parameters()).add_(1)
    save_model(tmp_path, card, networks)
    assert ModelMethod(tmp_path, 2).settings() != at_two


def test_doubted_points_can_be_left_out(source, tiny_model):
    all_points, none = (ModelMethod(tiny_model, 1, device="cpu", min_confidence=least) for least in (0.4, 0.6))
    scene = source.load(0)
    assert len(all_points.complete(scene)) > 0  # an uncalibrated model says 0.5
    assert len(none.complete(scene)) == 0
    assert none.settings()["min_confidence"] == 0.6
    assert "min_confidence" not in ModelMethod(tiny_model, 1).settings()  # as stored results have it


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command():
    app = Typer()
    app.command()(evaluate_command)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_prints_the_table_and_names_the_report(command, drive_folder, perfect, tmp_path):
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


def test_public_checkpoints_are_judged_refined_and_unrefined(command, drive_folder, checkpoints, tmp_path):
    both = f"{checkpoints / 'diff.ckpt'}+{checkpoints / 'refine.ckpt'}"
    shared = ("--data", drive_folder, "--scenes", 1, "--no-pictures", "--device", "cpu", "--output", tmp_path)
    models = ("--model", both, "--model", checkpoints / "diff.ckpt", "--steps", "1", "--refinement", "both")
    done = command(*shared, *models)
    assert done.exit_code == 0, done.output
    table = done.output.split("\n\n")[1]
    rows = [line.split("  ")[0] for line in table.splitlines()]
    assert rows[-3:] == ["diff+refine, 1 step", "diff+refine, 1 step, unrefined", "diff, 1 step"]
    refined, unrefined = (
        json.loads(next((tmp_path / f"results/{row}").iterdir()).read_text())["completed"]["points"]
        for row in ("diff_refine_1_step", "diff_refine_1_step_unrefined")
    )
    assert refined > 3 * unrefined
    before = results(tmp_path)
    assert command(*shared, *models).exit_code == 0
    assert results(tmp_path) == before  # converted once, judged once
    lost = command(*shared, "--model", tmp_path / "lost.ckpt")
    assert lost.exit_code == 2
    assert "found no" in lost.output
    assert "lost.ckpt" in lost.output


def test_a_bag_with_odometry_is_judged(command, tmp_path):
    bag = write_bag(tmp_path / "bag", poses_along_x(4))
    done = command("--data", bag, "--scenes", 1, "--no-pictures", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/results/raw").is_dir()


CAMERA = np.array([[0, -1, 0, 0.1], [0, 0, -1, -0.2], [1, 0, 0, -0.3], [0, 0, 0, 1.0]])  # T_camera_lidar


def thinned(drive, index):
    return drive.read(index).points[::20]


def test_the_kitti_360_benchmark_runs_on_real_sweeps_in_its_layout(command, shared, tmp_path):
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
    done = command("--benchmark", "kitti-360", "--data", root, "--scenes", 2, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "LiDiff 50 steps (published)" in done.output
    settings = json.loads((tmp_path / "out/results/raw/0000000011.json").read_text())["settings"]["source"]
    assert settings["rules"]["view_cell_m"] == 10.0
    assert settings["every"] == 1


@pytest.mark.slow
def test_the_semantic_kitti_benchmark_runs_on_real_sweeps_in_its_layout(command, shared, tmp_path):
    """A sequence of 4,071 sweeps: a short real drive to and fro, its files linked, with labels and camera poses."""
    drive, folder = open_drive(shared / "data/sequences/90", check=False), tmp_path / "sequences/08"
    (folder / "velodyne").mkdir(parents=True)
    (folder / "labels").mkdir()
    there = list(range(len(drive)))
    for index in there:
        points = thinned(drive, index)
        write_points(tmp_path / f"{index}.bin", points)
        np.where(points[:, 0] > 0, 40, 252).astype("<u4").tofile(tmp_path / f"{index}.label")
    to_and_fro = (there + there[-2:0:-1]) * 200
    for number, index in enumerate(to_and_fro[:4071]):
        (folder / f"velodyne/{number:06d}.bin").symlink_to(tmp_path / f"{index}.bin")
        (folder / f"labels/{number:06d}.label").symlink_to(tmp_path / f"{index}.label")
    write_poses(folder / "poses.txt", CAMERA @ drive.T_map_sensor[to_and_fro[:4071]] @ np.linalg.inv(CAMERA))
    (folder / "calib.txt").write_text("Tr: " + " ".join(f"{value:.9g}" for value in CAMERA[:3].ravel()) + "\n")
    output = tmp_path / "out"
    done = command("--benchmark", "semantic-kitti-08", "--data", tmp_path, "--scenes", 2, "--output", output)
    assert done.exit_code == 0, done.output
    assert "Distillation-DPO 8 steps, refined (published)" in done.output
    source = json.loads((output / "results/raw/000001.json").read_text())["settings"]["source"]
    assert (source["sweeps"], source["every"], source["drop_moving_input"]) == (4071, 1, False)
    here = GroundTruthMap(output / "map.npz").all()
    every = merged_sweeps((drive.read(index), pose) for index, pose in enumerate(drive.T_map_sensor))
    assert 0 < len(here) < len(every)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--data", "nowhere"), "found nothing there"),
        (("--shard", "4/4"), "--shard: expected K/N"),
        (("--steps", "many", "--model", "x"), "--steps: expected numbers"),
        (("--benchmark", "nuscenes"), "--benchmark: expected one of semantic-kitti-08"),
        (("--predictions", "nowhere"), "folder of predictions"),
        (("--refinement", "maybe", "--model", "x"), "--refinement: expected yes, no or both"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(command, drive_folder, tmp_path, arguments, expected):
    arguments = arguments if "--data" in arguments else (*arguments, "--data", drive_folder)
    done = command(*arguments, "--output", tmp_path)
    assert done.exit_code == 2
    assert expected in done.output


@pytest.mark.slow
def test_synthetic_scenes_are_judged():
    scene = SyntheticScenes(1).load(0)
    figures = judge(scene, scene.sweep)["completed"]
    assert figures["precision_0.2"] > 0.9
    assert figures["violations"] < 0.01
