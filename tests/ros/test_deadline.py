"""The latency controller on simulated machines: it meets the budget, does not oscillate, and reacts to load."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lidar_completion_ros.scheduling.deadline import Deadline
from lidar_completion_ros.scheduling.stage_cost import StageCost
from lidar_completion_ros.scheduling.workload import WorkLimits, Workload, workloads

POINTS = 125_000
MAX = Workload(steps=2, replication=20)


def machine(random, points, workload, load=1.0, noise=0.05):
    """Seconds of the stages on a simulated machine: 0.09 s for the minimum workload, 0.73 s at replication 20, 1.35 s with two steps."""
    starts = points * workload.replication
    seconds = {
        "preprocess": 0.002 + 8e-8 * points,
        "denoise": 0.03 + 1.1e-7 * points + workload.steps * 2.5e-7 * starts,
        "postprocess": 0.003 + 8e-9 * starts,
        "messages": 0.002 + 4e-9 * starts,
    }
    factor = load * float(np.exp(random.normal(0, noise)))
    return {stage: each * factor for stage, each in seconds.items()}


def warmed_up(budget_s, random):
    """A deadline after the node's warm-up, with synthetic sweeps of another size."""
    deadline = Deadline(WorkLimits(MAX, budget_s))
    for workload in (Workload(1, 5), Workload(1, MAX.replication), MAX):
        deadline.warmed_up(16_000, workload, machine(random, 16_000, workload))
    return deadline


def drive(budget_s, sweeps, load=lambda index: 1.0, points=lambda index: POINTS, noise=0.05, seed=0):
    """Workload levels (sweeps,) and seconds (sweeps,) of a drive under control of the deadline."""
    random = np.random.default_rng(seed)
    deadline, levels, seconds = warmed_up(budget_s, random), [], []
    for index in range(sweeps):
        workload = deadline.choose(points(index))
        stages = machine(random, points(index), workload, load(index), noise)
        deadline.observe(points(index), workload, stages, sum(stages.values()))
        levels.append(deadline.workloads.index(workload))
        seconds.append(sum(stages.values()))
    return np.array(levels), np.array(seconds)


def changes(levels):
    return int((np.diff(levels) != 0).sum())


def reached(levels, wanted):
    """Number, from 1, of the first sweep with at least this level; inf if there is none."""
    return next((place for place, level in enumerate(levels, 1) if level >= wanted), np.inf)


def test_workloads_ascend_to_the_maximum():
    found = workloads(Workload(3, 20))
    assert found[0] == Workload(1, 1)
    assert found[-3:] == [Workload(1, 20), Workload(2, 20), Workload(3, 20)]
    assert found == sorted(set(found))
    assert workloads(Workload(1, 1)) == [Workload(1, 1)]


@pytest.mark.parametrize("noise", [0.02, 0.15])
@pytest.mark.parametrize("budget_s", [0.2, 0.3, 0.5, 1.0, 2.0])
def test_99_percent_of_sweeps_meet_the_budget_without_oscillation(budget_s, noise):
    levels, seconds = drive(budget_s, 500, noise=noise)
    assert np.percentile(seconds, 99) <= budget_s
    assert changes(levels) <= (10 if noise < 0.1 else 60)


@pytest.mark.parametrize("budget_s", [0.3, 0.5])
@pytest.mark.parametrize("slowed", [0.02, 0.05])
def test_rare_slow_sweeps_stay_within_the_1_percent(slowed, budget_s):
    """Another process takes the core occasionally: visible neither in the median nor in the scatter, only in late sweeps."""
    slow = np.random.default_rng(5).random(2000) < slowed
    _, seconds = drive(budget_s, 2000, load=lambda index: 2.0 if slow[index] else 1.0, noise=0.08)
    assert np.percentile(seconds, 99) <= budget_s


@pytest.mark.parametrize("budget_s", [0.3, 0.5, 1.0, 2.0])
def test_budget_is_used(budget_s):
    """Two levels above the chosen workload would not fit."""
    levels, _ = drive(budget_s, 300, noise=0.02)
    random, found = np.random.default_rng(1), workloads(MAX)
    better = found[min(levels[-1] + 2, len(found) - 1)]
    assert levels[-1] == len(found) - 1 or sum(machine(random, POINTS, better, noise=0).values()) > 0.8 * budget_s


def test_load_step_is_met_within_3_sweeps_and_recovered_within_10():
    levels, seconds = drive(0.5, 300, load=lambda index: 2.2 if 100 <= index < 190 else 1.0)
    before = np.median(levels[50:100])
    assert (seconds[103:190] <= 0.5).all()
    assert levels[200:210].min() >= before - 1


@pytest.mark.parametrize(("quiet", "loaded"), [(0.03, 0.15), (0.05, 0.3), (0.1, 0.3), (0.1, 0.5)])
def test_recovery_from_a_noisy_load_within_10_sweeps(quiet, loaded):
    """A loaded machine has several times the jitter of an idle one; the wider margin must end with the load."""
    recovered, moves = [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        deadline, levels = warmed_up(0.5, random), []
        for index in range(300):
            under_load = 100 <= index < 190
            workload = deadline.choose(POINTS)
            stages = machine(random, POINTS, workload, 2.2 if under_load else 1.0, loaded if under_load else quiet)
            deadline.observe(POINTS, workload, stages, sum(stages.values()))
            levels.append(deadline.workloads.index(workload))
        usual = np.median(levels[50:100])
        recovered.append([reached(levels[190:], usual - less) for less in (1, 2)])
        moves.append(changes(levels[205:]))
    nearly, roughly = np.array(recovered).T
    assert np.median(nearly) <= 10, nearly
    assert (roughly <= 10).sum() >= 8, roughly
    assert np.median(moves) <= 5, moves


def test_larger_sweeps_are_predicted():
    """The size is known before the work starts, so not even the first large sweep is late."""
    _, seconds = drive(0.5, 300, points=lambda index: 60_000 if index < 150 else POINTS)
    assert (seconds[150:] <= 0.5).all()


def test_alternating_sizes_do_not_cause_oscillation():
    levels, seconds = drive(0.5, 1000, points=lambda index: (60_000, POINTS)[index % 2])
    assert np.percentile(seconds, 99) <= 0.5
    assert changes(levels) <= 20


def test_rare_outliers_do_not_reduce_the_workload():
    levels, seconds = drive(0.5, 1000, load=lambda index: 3.0 if index % 200 == 199 else 1.0)
    undisturbed, _ = drive(0.5, 1000)
    assert (seconds > 0.5).mean() <= 0.01
    assert levels.mean() >= undisturbed.mean() - 2


def test_impossible_budget_gives_the_minimum_workload():
    deadline, random = warmed_up(0.02, np.random.default_rng(0)), np.random.default_rng(0)
    for _ in range(5):
        workload = deadline.choose(POINTS)
        stages = machine(random, POINTS, workload)
        deadline.observe(POINTS, workload, stages, sum(stages.values()))
    assert workload == Workload(1, 1)
    assert not deadline.can_be_met(POINTS)


def test_starts_with_the_minimum_workload_without_warm_up():
    assert Deadline(WorkLimits(Workload(4, 20), 0.5)).choose(POINTS) == Workload(1, 1)


def test_diagnostics_can_be_read_from_another_thread():
    deadline, random, faults = warmed_up(0.5, np.random.default_rng(0)), np.random.default_rng(0), []

    def ask():
        try:
            for _ in range(300):
                deadline.values()
                deadline.can_be_met(POINTS)
        except Exception as fault:
            faults.append(fault)

    asking = threading.Thread(target=ask)
    asking.start()
    while asking.is_alive():
        workload = deadline.choose(POINTS)
        stages = machine(random, POINTS, workload)
        deadline.observe(POINTS, workload, stages, sum(stages.values()))
    assert faults == []


def test_new_limits_keep_the_learned_cost():
    random = np.random.default_rng(0)
    deadline = warmed_up(2.0, random)
    for _ in range(50):
        workload = deadline.choose(POINTS)
        stages = machine(random, POINTS, workload)
        deadline.observe(POINTS, workload, stages, sum(stages.values()))
    deadline.set_limits(WorkLimits(MAX, 0.3))
    assert sum(machine(random, POINTS, deadline.choose(POINTS)).values()) <= 0.3


def test_stale_sweep_is_shed_but_never_two_in_a_row():
    random = np.random.default_rng(0)
    deadline = warmed_up(0.5, random)
    for _ in range(30):
        workload = deadline.choose(POINTS)
        stages = machine(random, POINTS, workload)
        deadline.observe(POINTS, workload, stages, sum(stages.values()))
    assert not deadline.should_shed(POINTS, age_s=0.01)
    assert deadline.should_shed(POINTS, age_s=0.3)
    assert not deadline.should_shed(POINTS, age_s=0.3), "the second in a row is completed"
    assert deadline.should_shed(POINTS, age_s=0.3)
    deadline.set_limits(WorkLimits(Workload(1, 1), 0.02))
    assert not deadline.should_shed(POINTS, age_s=0.01), "a fresh sweep would be late as well"


@settings(max_examples=20, deadline=None)
@given(
    budget_s=st.floats(0.25, 3.0),
    speed=st.floats(0.2, 2.0),
    noise=st.floats(0.0, 0.2),
    ramp=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
)
def test_late_sweeps_are_rare_on_any_machine_that_can_meet_the_budget(budget_s, speed, noise, ramp, seed):
    """The load grows slowly by the factor 1 + ramp; 2 % of 400 sweeps may be late if the minimum workload fits well."""
    floor = 0.1 * speed * (1 + ramp) * np.exp(3 * noise)
    levels, seconds = drive(budget_s, 400, load=lambda index: speed * (1 + ramp * index / 400), noise=noise, seed=seed)
    if floor < budget_s:
        assert (seconds > budget_s).sum() <= 8
    assert levels.min() >= 0


@given(
    st.lists(st.tuples(st.floats(1, 1e8, allow_nan=False), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=50)
)
def test_learned_cost_stays_positive_and_grows_with_work(measurements):
    cost = StageCost()
    for units, seconds in measurements:
        cost.learn(units, seconds)
    assert np.isfinite([cost.fixed_s, cost.per_unit_s]).all()
    assert cost.fixed_s > 0
    assert cost.per_unit_s > 0


def test_fixed_and_proportional_cost_are_separated():
    random, cost = np.random.default_rng(0), StageCost()
    for units in itertools.islice(itertools.cycle([1e5, 1e6, 2e6]), 300):
        cost.learn(units, (0.05 + 1e-7 * units) * float(np.exp(random.normal(0, 0.02))))
    assert cost.seconds(1e5) == pytest.approx(0.06, rel=0.15)
    assert cost.seconds(2e6) == pytest.approx(0.25, rel=0.15)
