"""Out of memory: less work, then the CPU, and back to all of it when the cause is gone."""

import numpy as np
import pytest
import torch

from lidar_completion.completer import SceneCompleter
from lidar_completion_ros import inference as inference_module
from lidar_completion_ros import memory
from lidar_completion_ros.deadline import Choice
from lidar_completion_ros.inference import Inference
from lidar_completion_ros.memory import MemoryLimit, is_out_of_memory

TRIAL_AFTER, SWEEPS_ON_CPU = 3, 4  # here: the node's own are longer


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(memory, "TRIAL_AFTER", TRIAL_AFTER)
    monkeypatch.setattr(inference_module, "SWEEPS_ON_CPU", SWEEPS_ON_CPU)


class Small(torch.nn.Module):
    """A network in a memory that holds only so many points."""

    def __init__(self, network):
        super().__init__()
        self.network, self.holds, self.asked = network, float("inf"), 0

    def forward(self, cloud, *others):
        self.asked = len(cloud.point_row)
        if len(cloud.point_row) > self.holds:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {len(cloud.point_row)} points")
        return self.network(cloud, *others)


@pytest.fixture
def sweep(street):
    return street(rings=6, columns=60)


@pytest.fixture
def make_inference(tiny_model):
    """An inference whose denoiser is `Small`, with or without a CPU to fall back to."""

    def make(fallback=False):
        completer = SceneCompleter.load(tiny_model)
        small = completer.networks["denoiser"] = Small(completer.networks["denoiser"])
        return Inference(completer, (lambda: SceneCompleter.load(tiny_model)) if fallback else None), small

    return make


def complete(inference, sweep, replication=8):
    return inference.complete(sweep, inference.wish(1, replication, 0.0), {})


def test_work_that_does_not_fit_is_halved_and_the_sweep_is_completed(make_inference, sweep):
    inference, small = make_inference()
    complete(inference, sweep)
    small.holds = small.asked // 3
    completion, done = complete(inference, sweep)
    assert done == Choice(1, 2)
    assert len(completion.completed_points) > 0
    assert "replication 2 of 8" in inference.trouble
    assert "CUDA out of memory" in inference.trouble


def test_all_work_is_done_again_when_the_cause_is_gone(make_inference, sweep):
    inference, small = make_inference()
    complete(inference, sweep)
    small.holds = small.asked // 3
    complete(inference, sweep)
    small.holds = float("inf")
    done = [complete(inference, sweep)[1].replication for _ in range(5 * TRIAL_AFTER)]
    assert done[0] == 2
    assert done[-1] == 8
    assert done == sorted(done)
    assert inference.trouble == ""


def test_what_does_not_fit_at_all_is_told_and_the_next_sweep_gets_its_chance(make_inference, sweep):
    inference, small = make_inference()
    small.holds = 0
    with pytest.raises(MemoryError, match="no work at all fits"):
        complete(inference, sweep)
    small.holds = float("inf")
    assert complete(inference, sweep)[1].replication >= 1


def test_a_device_that_holds_nothing_is_replaced_by_the_cpu_and_tried_again(make_inference, sweep):
    inference, small = make_inference(fallback=True)
    small.holds = 0
    completion, done = complete(inference, sweep)
    assert done == Choice(1, 8)
    assert len(completion.completed_points) > 0
    assert "out of memory" in inference.trouble
    for _ in range(SWEEPS_ON_CPU - 1):
        complete(inference, sweep, replication=1)
    small.holds = float("inf")
    done = [complete(inference, sweep)[1].replication for _ in range(5 * TRIAL_AFTER)]
    assert done[0] == 1, "the device is tried with the least work first"
    assert done[-1] == 8
    assert inference.trouble == ""


def test_another_fault_is_no_lack_of_memory(make_inference, sweep):
    inference, _ = make_inference()
    inference.completer.networks["denoiser"] = torch.nn.Linear(1, 1)
    with pytest.raises(Exception, match=r"(?i)argument|forward|takes"):
        complete(inference, sweep)
    assert inference.trouble == ""


def test_a_failed_trial_makes_the_next_one_wait_longer():
    limit, waits = MemoryLimit(), []
    wanted, least = Choice(1, 16), Choice(1, 8)
    limit.exhausted(100, wanted)
    for _ in range(3):
        fitted = 0
        while limit.limited(100, wanted) == least:
            limit.fitted(100, wanted)
            fitted += 1
        waits.append(fitted)
        limit.exhausted(100, wanted)
    assert waits[0] == TRIAL_AFTER
    assert waits == sorted(waits)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_a_real_lack_of_memory_is_known(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
