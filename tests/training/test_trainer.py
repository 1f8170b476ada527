"""The trainer: killed runs, several processes, failures, exports and logs, on small scenes."""

import csv
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import pytest
import torch
from small_wall import SHORT_RUN, wall
from two_processes import run_twice

from lidar_completion.model.weights import load_model
from lidar_completion_training import trainer as training
from lidar_completion_training.curves import draw_curves, running_mean
from lidar_completion_training.errors import CurvesError, RecipeError, TrainingError
from lidar_completion_training.export import export_to
from lidar_completion_training.learning_rate import learning_rate
from lidar_completion_training.processes import launch_fabric
from lidar_completion_training.recipe_files import load_recipe
from lidar_completion_training.runs import run_name
from lidar_completion_training.state import changed_entries, load_state
from lidar_completion_training.stream import Sample, from_workers
from lidar_completion_training.trainer import Trainer
from lidar_completion_training.training_log import TrainingLog, read_log

SMALL = [*SHORT_RUN, "data.sensor=VLP-16"]
TRAIN = [sys.executable, "-m", "lidar_completion_training", "direct", "--threads", "1"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def walls(monkeypatch):
    """Replace the stream by small walls, which are cheap to make."""

    def sample(number: int) -> Sample:
        return wall(number, 4000, (20.0, 0.1, 4.0), (4.0, 5.0, -1.7))

    monkeypatch.setattr(
        training, "samples", lambda recipe, first, step=1, **_: map(sample, itertools.count(first, step))
    )


def train(folder: Path, *entries: str, minutes: float | None = None) -> Trainer:
    trainer = Trainer(load_recipe(None, [*SMALL, *entries]), folder)
    trainer.run(minutes, progress=False)
    return trainer


@pytest.mark.slow  # half a minute: part of `make smoke`
def test_killed_run_resumes_bit_for_bit(tmp_path):
    entries = [*SMALL, "iterations=9", "save_every=4"]
    command = [*TRAIN, "--run", str(tmp_path / "killed"), *entries]
    with (tmp_path / "out.txt").open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: rows_of(tmp_path / "killed") >= 6, process)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert load_state(tmp_path / "killed")["iteration"] == 4
    assert rows_of(tmp_path / "killed") < 9
    # in new processes: threads left by other tests change how sums are rounded
    for run in ("killed", "whole"):
        subprocess.run([*TRAIN, "--run", str(tmp_path / run), *entries], check=True, capture_output=True)
    assert_same_state(tmp_path / "killed", tmp_path / "whole")
    assert (tmp_path / "killed" / "log.csv").read_text() == (tmp_path / "whole" / "log.csv").read_text()


def wait_until(condition, process: subprocess.Popen, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.02)


def rows_of(run: Path) -> int:
    path = run / "log.csv"
    return len(read_log(path)) if path.is_file() else 0


def assert_same_state(one: Path, other: Path) -> None:
    one, other = load_state(one), load_state(other)
    assert one["iteration"] == other["iteration"]
    for part in ("networks", "average"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), (part, name)


def test_stopping_after_minutes_keeps_the_state(tmp_path, walls):
    assert train(tmp_path / "enough", "iterations=2", minutes=60.0).iteration == 2
    assert train(tmp_path / "pieces", minutes=0.0).iteration == 0
    train(tmp_path / "pieces")
    train(tmp_path / "whole")
    assert_same_state(tmp_path / "pieces", tmp_path / "whole")


@pytest.mark.slow  # half a minute: part of `make smoke`; the test below shows the exchange itself
def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    entries = ["optimiser.kind=sgd", "optimiser.learning_rate=0.05", "iterations=3"]
    train(tmp_path / "one", "global_batch=2", *entries, "data.workers=2")  # the same number of workers in all
    run_twice(
        [
            "-m",
            "lidar_completion_training",
            *TRAIN[3:],
            "--run",
            str(tmp_path / "two"),
            *SMALL,
            *entries,
            "data.workers=1",
            "global_batch=2",
        ]
    )
    one, two = load_state(tmp_path / "one")["networks"], load_state(tmp_path / "two")["networks"]
    fresh = Trainer(load_recipe(None, SMALL), tmp_path).objective.networks.state_dict()
    for name in fresh:
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # averaged, not updated in turn
            moved = (one[name] - fresh[name]).abs().max()
            assert (one[name] - two[name]).abs().max() <= 1e-6 + 1e-3 * moved, name
    for mine, theirs in zip(
        read_log(tmp_path / "one" / "log.csv"), read_log(tmp_path / "two" / "log.csv"), strict=True
    ):
        assert mine == pytest.approx(theirs, rel=1e-3)


EXCHANGE = """
from types import SimpleNamespace

import torch
from lidar_completion_training import processes

fabric = processes.launch_fabric(device="cpu")
rank = fabric.global_rank
norm = torch.nn.BatchNorm1d(1)
norm.running_mean.fill_(2.0 + 2.0 * rank)
both, first, early, none = parameters = torch.nn.ParameterList(torch.zeros(1) for _ in range(4))


def losses(sweep):  # `first` is used by process 0 alone, `early` by process 1 in its first sweep alone, `both` twice in a loss
    used = [both[0] * (0.5 + rank), both[0] * (0.5 + rank)]
    if rank == 0:
        used.append(first[0] * 2.0)
    if rank == 1 and sweep == 0:
        used.append(early[0] * 8.0)
    return {"model": torch.stack(used).sum()}, {"sweep": float(sweep)}


losses = processes.averaged_losses(fabric, SimpleNamespace(networks=torch.nn.ModuleDict({"all": parameters}), losses=losses))
for step in range(2):
    parameters.zero_grad(set_to_none=True)
    with processes.without_averaging(losses):
        (losses(0)[0]["model"] / 2).backward()
    assert both.grad.item() == 0.5 + rank
    (losses(1)[0]["model"] / 2).backward()
    assert both.grad.item() == 2.0
    assert first.grad.item() == 1.0
    assert early.grad.item() == 2.0
    assert none.grad is None
processes.average_buffers(fabric, [norm])
assert norm.running_mean.item() == 3.0
assert processes.average_numbers(fabric, {"loss": 1.0 + rank}) == {"loss": 1.5}
"""


def test_processes_average_gradients_buffers_and_numbers(tmp_path):
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    run_twice([str(tmp_path / "exchange.py")])


class RunsCode:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_state_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"iteration": 0, "networks": RunsCode(), "average": {}}, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: damaged"):
        load_state(tmp_path)
    assert not Path("ran").exists()


def test_batch_gradient_is_mean_over_sweeps(tmp_path, walls):
    def gradients(batch: int, first: int) -> torch.Tensor:
        trainer = Trainer(load_recipe(None, [*SMALL, f"global_batch={batch}"]), tmp_path)
        trainer.state.samples = first
        for place, sample in enumerate(islice(training.samples(trainer.recipe.data, first), batch)):
            trainer.accumulate(place, sample)
        return torch.cat([p.grad.flatten() for p in trainer.objective.networks.parameters() if p.grad is not None])

    both = gradients(2, 0)
    assert torch.allclose(both, (gradients(1, 0) + gradients(1, 1)) / 2, atol=1e-5 * float(both.abs().max()))


@pytest.mark.parametrize(
    ("precision", "reason"), [("16-mixed", "needs a GPU"), ("bf16-mixed", "needs a GPU"), ("8", "one of")]
)
def test_rejects_unusable_precision(tmp_path, precision, reason):
    fabric = launch_fabric(device="cpu")
    with pytest.raises(RecipeError, match=reason):
        Trainer(load_recipe(None, [*SMALL, f"precision={precision}"]), tmp_path, fabric)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_stays_close_to_float32(tmp_path, walls, precision):
    train(tmp_path / "full")
    mixed = train(tmp_path / "mixed", f"precision={precision}")
    assert next(mixed.objective.networks.parameters()).dtype == torch.float32
    one, other = (read_log(tmp_path / name / "log.csv") for name in ("full", "mixed"))
    assert [row["model_loss"] for row in one] == pytest.approx([row["model_loss"] for row in other], rel=0.1)


def test_reports_out_of_memory(tmp_path, walls, monkeypatch):
    train(tmp_path)
    monkeypatch.setattr(training, "samples", lambda *_, **__: (torch.empty(10**15) for _ in range(1)))
    with pytest.raises(TrainingError, match=r"out of memory.*fewer points.*state\.pt holds iteration 4"):
        train(tmp_path, "iterations=6")


def test_reports_divergence_and_keeps_last_state(tmp_path, walls):
    train(tmp_path)
    with pytest.raises(TrainingError, match=r"(nan|inf|finite).*learning_rate.*state\.pt holds iteration 4"):
        train(
            tmp_path, "iterations=20", "save_every=50", "optimiser.learning_rate=1e25", "optimiser.warm_up_iterations=0"
        )
    assert all(bool(torch.isfinite(value).all()) for value in load_state(tmp_path)["networks"].values())
    train(tmp_path, "iterations=6")
    assert load_state(tmp_path)["iteration"] == 6


def test_reports_killed_data_worker(tmp_path):
    def kill_worker() -> None:
        while rows_of(tmp_path) < 1:
            time.sleep(0.02)
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_worker, daemon=True)
    killer.start()
    with pytest.raises(TrainingError, match=r"data worker died.*data\.workers.*state\.pt holds iteration"):
        train(tmp_path, "data.workers=1", "iterations=2000", "save_every=1")
    killer.join()


@pytest.mark.parametrize("error", [EOFError, ConnectionResetError, ConnectionRefusedError])
def test_reports_data_worker_that_dies_during_transfer(tmp_path, monkeypatch, error):
    """Its socket closes in the middle of a transfer, a moment too short to kill it in."""

    def closed():
        yield wall()
        raise error

    monkeypatch.setattr(training, "samples", lambda recipe, first, step=1, **_: from_workers(closed()))
    with pytest.raises(TrainingError, match=r"data worker died.*data\.workers.*no state was saved"):
        train(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"not a state", [1, 2], {"iteration": 3}], ids=repr)
def test_rejects_damaged_state(tmp_path, content):
    if isinstance(content, bytes):
        (tmp_path / "state.pt").write_bytes(content)
    else:
        torch.save(content, tmp_path / "state.pt")
    with pytest.raises(TrainingError, match=r"state\.pt: damaged"):
        train(tmp_path)


def test_rejects_state_of_another_network(tmp_path, walls):
    train(tmp_path)
    with pytest.raises(TrainingError, match=r"state\.pt: does not fit this recipe"):
        train(tmp_path, "architecture.own_channels=[]")


def test_reports_changed_settings_on_resume(tmp_path, walls, capsys):
    train(tmp_path)
    train(tmp_path, "iterations=5")
    assert "resumed with" not in capsys.readouterr().out
    train(tmp_path, "iterations=6", "optimiser.learning_rate=0.001")
    assert "resumed with optimiser.learning_rate 0.001; it was 0.002 until 5" in capsys.readouterr().out


def test_draws_pictures_during_training(tmp_path, walls):
    train(tmp_path, "picture_every=2", "iterations=2")
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["000002.png"]
    assert (tmp_path / "pictures" / "000002.png").read_bytes().startswith(b"\x89PNG")


def test_exports_averaged_weights(tmp_path, walls):
    trainer = train(tmp_path / "run", "name=small")
    export_to(tmp_path / "run", tmp_path / "model")
    card, networks = load_model(tmp_path / "model")
    assert card.name == "small"
    assert "synthetic" in card.training_data
    for name, value in networks["denoiser"].named_parameters():
        average = trainer.state.average["denoiser"].get_parameter(name)
        assert torch.allclose(value, average, rtol=1e-3, atol=1e-5)
    with pytest.raises(TrainingError, match=r"nowhere.*no such file"):
        export_to(tmp_path / "nowhere", tmp_path / "model")
    shared = export_to(tmp_path / "run", tmp_path / "nothing_more", base=tmp_path / "model")
    assert (shared.base, shared.base_sha256) == ("model", card.sha256)
    assert (tmp_path / "nothing_more" / shared.weights).stat().st_size < 1000


def test_log_drops_incomplete_row_and_adds_columns(tmp_path):
    log = TrainingLog(tmp_path)
    for iteration in range(1, 4):
        log.append(iteration, {"loss": 1.0 / iteration})
    log.append(4, {"loss": 0.25, "late": 7.0})
    with log.path.open("a") as file:
        file.write("5,0.1")
    log = TrainingLog(tmp_path)
    log.cut(4)
    log.append(5, {"loss": 0.125, "late": 8.0})
    with log.path.open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["iteration", "loss", "late"]
    assert rows[1:] == [
        ["1", "1", ""],
        ["2", "0.5", ""],
        ["3", "0.333333", ""],
        ["4", "0.25", "7"],
        ["5", "0.125", "8"],
    ]
    log.cut(0)
    assert not log.path.exists()


def test_draws_curves_of_several_runs(tmp_path):
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        log = TrainingLog(tmp_path / run)
        for iteration in range(1, 200):
            log.append(iteration, {"loss": 1 / iteration, **({"extra": 1.0} if run == "a" else {})})
    draw_curves([tmp_path / "a", tmp_path / "b"], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000
    with pytest.raises(CurvesError, match="loss, extra"):
        draw_curves([tmp_path / "a"], tmp_path / "curves.png", ["accuracy"])
    with pytest.raises(CurvesError, match="no such log"):
        draw_curves([tmp_path / "c"], tmp_path / "curves.png")
    assert running_mean(torch.arange(5.0).numpy(), 2).tolist() == [0.5, 1.5, 2.5, 3.5]


def test_learning_rate_warms_up_and_decays():
    settings = load_recipe(None, ["optimiser.warm_up_iterations=10", "optimiser.learning_rate=2.0"]).optimiser
    rates = [learning_rate(settings, i, 100) for i in range(101)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[55] == pytest.approx(1.0 + settings.final_fraction)  # halfway down the cosine
    assert max(rates) == pytest.approx(2.0)
    assert rates[100] == pytest.approx(2.0 * settings.final_fraction)
    settings.decay, settings.step_iterations = "steps", 40
    assert [learning_rate(settings, i, 100) for i in (39, 40, 80)] == [2.0, 1.0, 0.5]


def test_changed_entries_are_named():
    assert changed_entries({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}) == {"b.c": (2, 4)}


def test_run_name_drops_number():
    assert [run_name(Path(name)) for name in ("03_diffusion_dpo.yaml", "teacher.yaml")] == ["diffusion_dpo", "teacher"]
