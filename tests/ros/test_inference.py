"""Memory exhaustion: a smaller workload, then the CPU, and the full workload again when the cause is gone."""

import weakref

import numpy as np
import pytest
import torch
from fake_completer import FakeCompleter

from lidar_completion_ros import inference as inference_module
from lidar_completion_ros.inference import Inference
from lidar_completion_ros.scheduling.memory_limit import MemoryLimit, is_out_of_memory
from lidar_completion_ros.scheduling.workload import WorkLimits, Workload

RETRY_AFTER, SWEEPS_ON_CPU = 3, 4  # shorter than the node's own
LIMITS = WorkLimits(Workload(1, 8))


class Memory:
    """Raises PyTorch's error if more start points are needed than fit."""

    def __init__(self):
        self.capacity = float("inf")

    def __call__(self, start_points):
        if start_points > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. {start_points} start points")


@pytest.fixture
def sweep(street):
    return street(rings=6, columns=60)


@pytest.fixture
def make_inference(tiny_model):
    """An inference whose device has a `Memory`, with or without a CPU to fall back to."""

    def make(fallback=False):
        memory = Memory()
        inference = Inference(
            FakeCompleter(tiny_model, memory),
            LIMITS,
            (lambda: FakeCompleter(tiny_model)) if fallback else None,
            sweeps_on_cpu=SWEEPS_ON_CPU,
            memory_limit=lambda: MemoryLimit(RETRY_AFTER),
        )
        return inference, memory

    return make


def replications(inference, sweep, count):
    return [inference.complete(sweep, {})[1].replication for _ in range(count)]


def test_no_completion_of_the_warm_up_is_held_when_memory_is_released(make_inference, monkeypatch):
    completions, held = [], []
    inference, _ = make_inference()
    complete = inference.completer.complete

    def watched(*given, **options):
        completion = complete(*given, **options)
        completions.append(weakref.ref(completion.points))
        return completion

    monkeypatch.setattr(inference.completer, "complete", watched)
    monkeypatch.setattr(inference_module, "release_memory", lambda: held.extend(each() for each in completions))
    inference.warm_up({})
    assert held == [None]


def test_workload_is_halved_until_it_fits(make_inference, sweep):
    inference, memory = make_inference()
    memory.capacity = 3 * len(sweep)
    completion, done = inference.complete(sweep, {})
    assert done == Workload(1, 2)
    assert len(completion.completed_points) > 0
    assert "replication 2 of 8" in inference.memory_error
    assert "CUDA out of memory" in inference.memory_error


def test_full_workload_returns_when_memory_suffices_again(make_inference, sweep):
    inference, memory = make_inference()
    memory.capacity = 3 * len(sweep)
    inference.complete(sweep, {})
    memory.capacity = float("inf")
    done = replications(inference, sweep, 5 * RETRY_AFTER)
    assert done[0] == 2
    assert done[-1] == 8
    assert done == sorted(done)
    assert inference.memory_error == ""


def test_minimum_workload_that_does_not_fit_is_an_error(make_inference, sweep):
    inference, memory = make_inference()
    memory.capacity = 0
    with pytest.raises(MemoryError, match="not even the minimum workload fits"):
        inference.complete(sweep, {})
    memory.capacity = float("inf")
    assert inference.complete(sweep, {})[1].replication >= 1


def test_cpu_takes_over_and_the_device_is_tried_again(make_inference, sweep):
    inference, memory = make_inference(fallback=True)
    memory.capacity = 0
    completion, done = inference.complete(sweep, {})
    assert done == Workload(1, 8)
    assert len(completion.completed_points) > 0
    assert "out of memory" in inference.memory_error
    inference.set_limits(WorkLimits(Workload(1, 1)))
    replications(inference, sweep, SWEEPS_ON_CPU - 1)
    inference.set_limits(LIMITS)
    memory.capacity = float("inf")
    done = replications(inference, sweep, 5 * RETRY_AFTER)
    assert done[0] == 1, "the device is tried with the minimum workload first"
    assert done[-1] == 8
    assert inference.memory_error == ""


def test_other_errors_are_not_taken_for_memory_exhaustion(make_inference, sweep):
    inference, _ = make_inference()

    def fail(start_points):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    inference.completer.before = fail
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        inference.complete(sweep, {})
    assert inference.memory_error == ""


def test_limits_apply_from_the_next_sweep(make_inference, sweep):
    inference, _ = make_inference()
    assert inference.complete(sweep, {})[1] == Workload(1, 8)
    inference.set_limits(WorkLimits(Workload(2, 3)))
    assert inference.limits.max == Workload(2, 3)
    assert inference.complete(sweep, {})[1] == Workload(2, 3)
    inference.set_limits(WorkLimits(Workload(2, 3), budget_s=1e-6))
    assert inference.complete(sweep, {})[1] == Workload(1, 1)


def test_reset_forgets_cost_and_memory_limit(make_inference, sweep):
    inference, memory = make_inference()
    memory.capacity = 3 * len(sweep)
    inference.complete(sweep, {})
    memory.capacity = float("inf")
    inference.reset()
    assert inference.complete(sweep, {})[1] == Workload(1, 8)
    assert inference.memory_error == ""


def test_failed_retries_become_rarer():
    limit, waits = MemoryLimit(RETRY_AFTER), []
    wanted, fitting = Workload(1, 16), Workload(1, 8)
    limit.exhausted(100, wanted)
    for _ in range(3):
        fitted = 0
        while limit.limited(100, wanted) == fitting:
            limit.fitted(100, wanted)
            fitted += 1
        waits.append(fitted)
        limit.exhausted(100, wanted)
    assert waits[0] == RETRY_AFTER
    assert waits == sorted(waits)


@pytest.mark.parametrize("allocate", [lambda: torch.empty(10**15), lambda: np.empty(10**15)])
def test_real_allocation_failures_are_recognised(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
