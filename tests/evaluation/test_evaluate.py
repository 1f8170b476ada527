import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lidar_completion.model.card import load_card, save_card
from lidar_completion.model.weights import load_model, save_model
from lidar_completion.point_cloud_files import read_points, write_points
from lidar_completion_evaluation.baselines import BASELINES
from lidar_completion_evaluation.evaluate import evaluate
from lidar_completion_evaluation.evaluate_scene import compare, evaluate_scene
from lidar_completion_evaluation.methods import BaselineMethod, ModelMethod, PredictionFolder, baseline_methods
from lidar_completion_evaluation.metrics import MetricError, nearest_distances
from lidar_completion_evaluation.process_group import ProcessGroup
from lidar_completion_evaluation.reports.evaluation import write_report
from lidar_completion_evaluation.results import result_file
from lidar_completion_evaluation.scenes import Scene, SyntheticScenes
from lidar_completion_evaluation.statistics import mean_interval, paired_difference
from lidar_completion_evaluation.summary import summarise, text_table, write_csv
from lidar_completion_evaluation.truth.observed_space import RayRules, observe


@pytest.fixture(scope="module")
def evaluated(source, perfect, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    methods = [*baseline_methods(), PredictionFolder(perfect)]
    evaluate(source, methods, output, progress=False)
    return methods, output, summarise(source, methods, output)


def result_times(output):
    return {path.relative_to(output): path.stat().st_mtime_ns for path in (output / "results").rglob("*.json")}


# --- figures ----------------------------------------------------------------------------------------------------


def test_stored_figures_equal_the_metrics(source, evaluated):
    methods, output, _ = evaluated
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


def test_unknown_space_is_ignored_and_free_space_is_a_violation():
    wall = np.column_stack(
        [np.full(400, 10.0), np.repeat(np.linspace(-4, 4, 20), 20), np.tile(np.linspace(-1, 2.5, 20), 20)]
    )
    wall = wall.astype(np.float32)
    scene = Scene("wall", wall, wall, observe([(np.zeros(3), wall)], [wall], RayRules(half_extent_m=20.0)))
    behind, before = wall * 1.5, wall * 0.5
    good = evaluate_scene(scene, wall).completed
    unseen = evaluate_scene(scene, np.concatenate([wall, behind])).completed
    ghosts = evaluate_scene(scene, np.concatenate([wall, before])).completed
    assert good["cd"] == good["cd_observed"] == good["violations"] == 0
    assert unseen["cd"] > 1
    assert unseen["cd_observed"] == 0
    assert unseen["observed_share"] == pytest.approx(0.5)
    assert unseen["violations"] == 0
    assert ghosts["violations"] == pytest.approx(0.5)
    assert ghosts["cd_observed"] == pytest.approx(ghosts["cd"])
    with pytest.raises(MetricError):
        evaluate_scene(scene, np.zeros((0, 3)))


# --- rows, means and differences -----------------------------------------------------------------------------------


def test_baselines_are_in_every_table_and_a_perfect_method_beats_them(evaluated):
    _, _, summary = evaluated
    assert [row.name for row in summary.rows] == [*BASELINES, "perfect"]
    perfect = summary.rows[-1]
    assert summary.focus is perfect
    paired = summary.against_baseline(perfect)
    assert paired.difference.upper < 0
    assert paired.lower_on == 1.0
    assert perfect.figures["completed"]["cd"].mean < 0.05
    text = text_table(summary)
    assert "best baseline" in text
    assert "perfect" in text.splitlines()[-1]
    rings = text.split("CD by range from the sensor")[1].splitlines()[: len(summary.rows) + 1]
    raw, best = ([float(cell) for cell in line.split()[1:]] for line in (rings[1], rings[-1]))
    assert all(mine < theirs for mine, theirs in zip(best, raw, strict=True))


def test_csv_files_contain_every_figure(evaluated, tmp_path):
    _, _, summary = evaluated
    for file in write_csv(summary, tmp_path):
        rows = list(csv.DictReader(file.open()))
        assert rows
        assert {row["row"] for row in rows} == {row.name for row in summary.rows}
    means = {
        (row["row"], row["section"], row["figure"]): float(row["mean"])
        for row in csv.DictReader((tmp_path / "summary.csv").open())
    }
    assert means["raw", "completed", "cd"] == pytest.approx(summary.rows[0].figures["completed"]["cd"].mean)


def test_report_is_self_contained(evaluated):
    _, output, summary = evaluated
    page = write_report(summary, output).read_text()
    assert page.count("data:image/png;base64,") >= 5
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "perfect" in page
    assert "nan" not in page.lower().split("<svg")[0]


def test_intervals_contain_the_mean_and_shrink_with_scenes():
    random = np.random.default_rng(0)
    few, many = (mean_interval(list(random.normal(1, 0.2, n))) for n in (10, 1000))
    assert few.lower < few.mean < few.upper
    assert many.upper - many.lower < few.upper - few.lower
    assert many.lower < 1 < many.upper
    assert many.upper - many.lower == pytest.approx(2 * 1.96 * 0.2 / np.sqrt(1000), rel=0.15)
    with pytest.raises(ValueError, match="finite"):
        mean_interval([1.0, float("nan")])


def test_paired_differences_use_common_scenes_only():
    paired = paired_difference({"a": 1.0, "b": 2.0, "c": 9.0}, {"a": 2.0, "b": 4.0})
    assert paired.difference.mean == -1.5
    assert paired.lower_on == 1.0
    assert paired_difference({"a": 1.0}, {"b": 1.0}) is None


# --- running ----------------------------------------------------------------------------------------------------


def test_second_run_computes_only_what_is_missing(source, evaluated, perfect):
    methods, output, _ = evaluated
    before = result_times(output)
    evaluate(source, methods, output, progress=False)
    assert result_times(output) == before
    (output / "results/raw/000002.json").unlink()
    evaluate(source, methods, output, progress=False)
    changed = {path for path, stamp in result_times(output).items() if stamp != before[path]}
    assert [str(path) for path in changed] == ["results/raw/000002.json"]


def test_ignores_results_of_other_settings(source, evaluated):
    _, output, _ = evaluated
    other = summarise(source, [BaselineMethod("jittered", seed=5)], output)
    assert not other.rows[0].scenes


def test_each_process_evaluates_its_share(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ProcessGroup, "wait_for_all", lambda self: None)
    for rank in (0, 1):
        group = ProcessGroup(rank, 2)
        evaluate(source, [BaselineMethod("raw")], tmp_path, group=group, pictures=False, progress=False)
        assert len(list((tmp_path / "results/raw").iterdir())) == (2, 3)[rank]


@pytest.mark.slow
def test_worker_processes_give_the_same_figures(source, evaluated, tmp_path):
    _, _, summary = evaluated
    evaluate(source, [BaselineMethod("xy_jittered")], tmp_path, processes=2, pictures=False, progress=False)
    row = summarise(source, [BaselineMethod("xy_jittered")], tmp_path).rows[0]
    # downsampling rounds differently with another number of threads
    assert row.values("cd") == pytest.approx(summary.rows[3].values("cd"), rel=1e-3)


def test_failed_scene_is_listed_and_not_averaged(source, perfect, tmp_path):
    folder = tmp_path / "half"
    for name in source.names:
        points = read_points(perfect / f"{name}.ply").points
        write_points(folder / f"{name}.bin", points if name != "000002" else np.full((5, 3), 900.0))
    methods = [BaselineMethod("raw"), PredictionFolder(folder)]
    evaluate(source, methods, tmp_path / "out", pictures=False, progress=False)
    summary = summarise(source, methods, tmp_path / "out")
    row = summary.rows[-1]
    assert list(row.failed) == ["000002"]
    assert len(row.scenes) == 2
    assert "(1 failed)" in text_table(summary)
    assert "at least one point" in write_report(summary, tmp_path / "out").read_text()


def test_rejects_missing_predictions_before_running(source, perfect, tmp_path):
    write_points(tmp_path / "one/000000.ply", np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"expected a prediction 000002.*found none"):
        evaluate(source, [PredictionFolder(tmp_path / "one")], tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="found 'perfect' twice"):
        evaluate(source, [PredictionFolder(perfect)] * 2, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="folder of predictions, found nothing"):
        PredictionFolder(tmp_path / "nowhere")


def test_model_is_a_row(source, tiny_model, tmp_path):
    methods = [BaselineMethod("raw"), ModelMethod(tiny_model, steps=1, device="cpu")]
    evaluate(source, methods, tmp_path, pictures=False, progress=False)
    row = summarise(source, methods, tmp_path).rows[1]
    assert row.name == "tiny, 1 step"
    assert len(row.scenes) + len(row.failed) == 3
    assert row.scenes


def test_recomputes_damaged_result(source, tmp_path):
    stored = result_file(tmp_path, "raw", source.names[0])
    stored.parent.mkdir(parents=True)
    stored.write_text('{"scene": "cut he')
    evaluate(source, [BaselineMethod("raw")], tmp_path, pictures=False, progress=False)
    assert json.loads(stored.read_text())["completed"]


def test_model_with_options_is_another_row(source, tiny_model, tmp_path):
    methods = [
        ModelMethod(tiny_model, 1, device="cpu", options={"replication": copies}, name=f"{copies} copies")
        for copies in (1, 3)
    ]
    evaluate(source, methods, tmp_path, pictures=False, progress=False)
    rows = summarise(source, methods, tmp_path).rows
    assert [(row.name, row.kind) for row in rows] == [("1 copies", "model"), ("3 copies", "model")]
    few, many = (row.figures["completed"]["points"].mean for row in rows)
    assert few < many
    assert methods[0].settings()["replication"] == 1


def test_model_settings_change_only_with_what_determines_completions(source, tiny_model, tmp_path):
    card, networks = load_model(tiny_model)
    save_model(tmp_path, replace(card, name="copied", description="elsewhere", metrics={"cd": 1}), networks)
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


def test_min_confidence_drops_points(source, tiny_model):
    all_points, none = (ModelMethod(tiny_model, 1, device="cpu", min_confidence=limit) for limit in (0.4, 0.6))
    scene = source.load(0)
    assert len(all_points.complete(scene)) > 0  # the confidence of an uncalibrated model is 0.5
    assert len(none.complete(scene)) == 0
    assert none.settings()["min_confidence"] == 0.6
    assert "min_confidence" not in ModelMethod(tiny_model, 1).settings()


@pytest.mark.slow
def test_tilted_synthetic_scene_keeps_its_ground():
    """The height limits of the rules do not cut the tilted ground."""
    upright = SyntheticScenes(1, "VLP-16").load(0)
    tilted = SyntheticScenes(1, "VLP-16", height_m=1.0, tilt_deg=15.0, every_ring=2, world="town").load(0)
    assert len(tilted.sweep) < 0.8 * len(upright.sweep)
    assert tilted.truth[:, 2].min() < -6.0
    assert len(tilted.truth) > 0.3 * len(upright.truth)
    assert SyntheticScenes(1).describe() != SyntheticScenes(1, tilt_deg=5.0).describe()


def test_evaluates_synthetic_scenes():
    scene = SyntheticScenes(1, "VLP-16", drive_by_m=(-10.0, 10.0)).load(0)
    compared = compare(scene, scene.sweep)
    assert compared.distances.precision(0.2) > 0.9
    assert compared.violating(scene).mean() < 0.01
