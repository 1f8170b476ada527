"""`lidar-completion-train adapt`: the split, the mixture, the verdict, and the whole command on the shipped sample."""

from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from small_wall import wall
from street_drive import poses_along_x
from typer.testing import CliRunner

from lidar_completion.model.card import load_card
from lidar_completion.model.weights import load_model
from lidar_completion_evaluation.drives.drive import Drive, DriveError
from lidar_completion_evaluation.drives.open import DriveOptions, open_drive
from lidar_completion_evaluation.scenes import DriveScenes
from lidar_completion_training.adaptation import adapt as adaptation
from lidar_completion_training.adaptation import stream
from lidar_completion_training.adaptation.parts import split
from lidar_completion_training.adaptation.verdict import CONTROL, CRITERIA, HELD_BACK, rises, table
from lidar_completion_training.command_line import app
from lidar_completion_training.configuration import DataRecipe
from lidar_completion_training.errors import AdaptationRefused, RecipeError
from lidar_completion_training.trainer import Trainer
from lidar_completion_training.training_log import read_log

SAMPLE = Path(__file__).parents[2] / "samples/street"


# ---- split ----


class Straight(Drive):
    def read(self, index):
        raise NotImplementedError


def straight(sweeps: int, step_m: float = 1.0) -> Drive:
    return Straight("straight", tuple(map(str, range(sweeps))), poses_along_x(sweeps, step_m, 0.0))


def test_a_long_drive_has_a_gap_of_one_hundred_metres():
    parts = split(straight(1000))
    assert (parts.training, parts.held_back, parts.apart_m) == (701, 800, 100.0)
    assert "overlap" not in parts.describe()
    assert parts.of_training(straight(1000)).names[-1] == "700"


def test_a_short_drive_leaves_out_a_fifth_and_says_that_surroundings_overlap():
    parts = split(straight(20))
    assert (parts.training, parts.held_back) == (12, 16)
    assert "within 5 m" in parts.describe()
    assert "overlap" in parts.describe()


def test_a_drive_that_comes_back_says_that_surroundings_overlap():
    drive = straight(1000)
    poses = drive.T_map_sensor.copy()
    poses[800:, 0, 3] -= 790  # the last fifth passes where the drive began
    assert "overlap" in split(replace(drive, T_map_sensor=poses)).describe()


def test_a_drive_of_four_sweeps_is_refused():
    with pytest.raises(DriveError, match="longer drive"):
        split(straight(4))


# ---- mixture ----


class Walls:
    """A source of two scenes."""

    names = ("0", "1")

    def load(self, index):
        return index


@pytest.fixture
def mixed(monkeypatch):
    """Makes a stream whose samples are text: "synthetic n", or "drive n" for a sweep of the drive."""

    class Synthetic:
        def __init__(self, recipe, first_sample):
            self.first_sample = first_sample

        def __iter__(self):
            return (f"synthetic {number}" for number in count(self.first_sample))

    monkeypatch.setattr(stream, "SyntheticStream", Synthetic)
    monkeypatch.setattr(stream.AdaptationStream, "_sweep", lambda self, index: f"drive {index}")
    return lambda first, share=0.5: stream.AdaptationStream(DataRecipe(workers=0), first, 1, Walls(), share)


def test_half_of_the_samples_are_sweeps_of_the_drive(mixed):
    found = list(islice(mixed(0), 8))
    assert [each for each in found if each.startswith("synthetic")] == [f"synthetic {n}" for n in range(4)]
    drive = [each for each in found if each.startswith("drive")]
    assert sorted(drive[:2]) == sorted(drive[2:]) == ["drive 0", "drive 1"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 1.0])
def test_a_resumed_mixture_goes_on_where_it_stopped(mixed, share):
    whole = list(islice(mixed(0, share), 30))
    assert sum(each.startswith("drive") for each in whole) == 30 * share
    for first in range(1, 12):
        assert list(islice(mixed(first, share), 30 - first)) == whole[first:]


def test_a_mixture_needs_one_process_and_one_worker():
    with pytest.raises(RecipeError, match="workers"):
        stream.AdaptationStream(DataRecipe(workers=2), 0, 1, Walls(), 0.5)


# ---- verdict ----


def figures(cd: float, ghost: float, free: float) -> dict[str, float]:
    return {"cd": cd, "ghost_rate": ghost, "violations": free}


BEFORE = {HELD_BACK: figures(0.17, 0.02, 0.01), CONTROL: figures(0.2, 0.02, 0.01)}


def test_better_figures_are_accepted():
    assert rises(BEFORE, {HELD_BACK: figures(0.16, 0.02, 0.01), CONTROL: figures(0.19, 0.01, 0.009)}) == []
    assert rises(BEFORE, BEFORE) == []


@pytest.mark.parametrize("part", [HELD_BACK, CONTROL])
@pytest.mark.parametrize("figure", CRITERIA)
def test_a_figure_that_rises_beyond_its_tolerance_is_named(part, figure):
    allowed = CRITERIA[figure].tolerance[part]
    risen = {each: dict(BEFORE[each]) for each in BEFORE}
    risen[part][figure] += allowed + 1e-4
    [found] = rises(BEFORE, risen)
    assert CRITERIA[figure].heading in found
    assert part in found
    risen[part][figure] -= 2e-4
    assert rises(BEFORE, risen) == []


def test_the_table_shows_each_figure_before_and_after():
    after = {HELD_BACK: figures(0.1234, 0.0321, 0.01), CONTROL: figures(0.2, 0.02, 0.01)}
    lines = table(BEFORE, after).splitlines()
    assert len(lines) == 1 + 2 * len(CRITERIA)
    assert lines[1].split()[-2:] == ["0.1700", "0.1234"]
    assert lines[2].split()[-2:] == ["2.00", "3.21"]


# ---- the whole command ----

FEW_STEPS = (
    "iterations=4",
    "save_every=1",
    "data.workers=0",
    "direct.queries=500",
    "optimiser.warm_up_iterations=1",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model) -> adaptation.AdaptSettings:
    """Adaptation of a tiny model to the shipped sample."""
    folder = tmp_path_factory.mktemp("adapt")
    return adaptation.AdaptSettings(
        SAMPLE,
        Path(model),
        folder,
        folder / "mine",
        DriveOptions(poses=SAMPLE / "poses.txt"),
        moving="keep",
        control_scenes=1,
        device="cpu",
        overrides=FEW_STEPS,
    )


@pytest.fixture
def cheap_synthetic_data(settings, monkeypatch):
    """Walls instead of synthetic sweeps, and the first sweep of the drive instead of synthetic test scenes."""

    class Walls:
        def __init__(self, recipe, first_sample):
            self.first_sample = first_sample

        def __iter__(self):
            return map(wall, count(self.first_sample))

    def control(scenes, sensor):
        assert (scenes, sensor) == (1, "HDL-64E")
        return DriveScenes(open_drive(SAMPLE, settings.options), settings.folder / "map.npz", every=6)

    monkeypatch.setattr(stream, "SyntheticStream", Walls)
    monkeypatch.setattr(adaptation, "SyntheticScenes", control)


def tolerate(monkeypatch, rise: float) -> None:
    """Let every figure rise by so much."""
    for name, criterion in CRITERIA.items():
        monkeypatch.setitem(CRITERIA, name, replace(criterion, tolerance=dict.fromkeys(criterion.tolerance, rise)))


@pytest.mark.usefixtures("cheap_synthetic_data")
def test_adapt_resumes_accepts_and_refuses(settings, monkeypatch, capsys):
    """One test, because each part goes on from the files of the one before."""
    tolerate(monkeypatch, 10.0)
    step, taken = Trainer.step, []

    def interrupted(trainer, batch):
        taken.append(trainer.iteration)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adaptation.adapt(settings)
    assert not settings.output.exists()

    before, after = adaptation.adapt(settings)
    assert taken == [0, 1, 2, 2, 3]
    assert [row["iteration"] for row in read_log(settings.folder / "run/log.csv")] == [1, 2, 3, 4]
    assert before != after
    card, start = load_card(settings.output), load_card(settings.model)
    assert (card.name, card.seen, card.pipeline) == ("mine", start.seen, start.pipeline)
    assert card.training_data.startswith(start.training_data)
    assert "4 sweeps of street" in card.training_data
    assert card.metrics["adaptation"]["after"] == after
    adapted, original = (load_model(folder)[1]["denoiser"].state_dict() for folder in (settings.output, settings.model))
    assert any(not torch.equal(adapted[name], original[name]) for name in adapted)
    assert "4 of 6 sweeps for training, the last 1 for evaluation" in capsys.readouterr().out

    tolerate(monkeypatch, -10.0)
    refused = replace(settings, output=settings.folder / "refused")
    with pytest.raises(AdaptationRefused) as error:
        adaptation.adapt(refused)
    assert taken == [0, 1, 2, 2, 3]  # everything was there already
    assert not refused.output.exists()
    assert "not accepted" in load_card(settings.folder / "candidate").description
    for part in (HELD_BACK, CONTROL, *(criterion.heading for criterion in CRITERIA.values()), "candidate"):
        assert part in str(error.value)

    verdicts = iter([["CD rose"], []])  # the whole change is refused, half of it is accepted
    monkeypatch.setattr(adaptation, "rises", lambda *_: next(verdicts))
    half = replace(settings, output=settings.folder / "half")
    adaptation.adapt(half)
    assert load_card(half.output).metrics["adaptation"]["share_of_change"] == 0.5
    for name, value in load_model(half.output)[1]["denoiser"].state_dict().items():
        if value.is_floating_point():
            expected = (original[name] + adapted[name]) / 2
            torch.testing.assert_close(value, expected, rtol=2e-3, atol=1e-4)  # stored in float16


def test_a_refusal_ends_the_command_with_an_error(monkeypatch, tmp_path):
    def refuse(settings):
        assert (settings.model, settings.output) == (Path("models/edge"), tmp_path / "model")
        raise AdaptationRefused("CD rose")

    monkeypatch.setattr(adaptation, "adapt", refuse)
    found = CliRunner().invoke(app, ["adapt", "my_drive", "--model", "edge", "--folder", str(tmp_path)])
    assert found.exit_code == 1
    assert "CD rose" in str(found.exception or found.output)
