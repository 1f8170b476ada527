"""Diagnostics: what the counts say, and which of several truths is reported."""

import dataclasses
from collections import Counter

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from lidar_completion_ros.diagnostics import LATENCY_WINDOW, Situation, SweepLog, SweepRecord, judge

ACTIVE = Situation(
    state="active",
    configure_error="",
    input_topic="/velodyne_points",
    publishers=1,
    subscribers=1,
    sweep_timeout_s=2.0,
    latency_budget_ms=0.0,
    active_for_s=1.0,
)


def record(latency_s=0.1):
    timings = {"preprocess": 0.01, "denoise": 0.05, "postprocess": 0.02, "total": 0.08}
    return SweepRecord(timings, latency_s, steps=2, points_in=10, points_out=30, points_completed=20)


def working_log(latency_s=0.1):
    log = SweepLog()
    log.arrived(1)
    log.completed_sweep(record(latency_s))
    return log


def test_a_working_node_is_ok():
    assert judge(working_log(), {}, ACTIVE) == (DiagnosticStatus.OK, "completing")


def test_a_failed_configure_is_an_error_in_any_state():
    situation = dataclasses.replace(ACTIVE, state="unconfigured", configure_error="cannot load the model: gone")
    assert judge(SweepLog(), {}, situation) == (DiagnosticStatus.ERROR, "cannot load the model: gone")


def test_an_inactive_node_is_ok_and_says_so():
    assert judge(SweepLog(), {}, dataclasses.replace(ACTIVE, state="inactive")) == (DiagnosticStatus.OK, "inactive")


def test_a_refused_sweep_is_an_error_until_the_next_good_one_and_then_a_warning_once():
    log = working_log()
    log.refused("no x field", "no x field: expected x")
    assert judge(log, {"no x field": 1}, ACTIVE) == (DiagnosticStatus.ERROR, "failing: no x field: expected x")
    log.completed_sweep(record())
    assert judge(log, {"no x field": 1}, ACTIVE)[0] == DiagnosticStatus.WARN
    assert judge(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


def test_a_failed_inference_is_an_error():
    log = working_log()
    log.inference_failed("RuntimeError: out of memory")
    level, message = judge(log, log.troubles(), ACTIVE)
    assert level == DiagnosticStatus.ERROR
    assert "out of memory" in message


@pytest.mark.parametrize(("active_for_s", "level"), [(1.0, DiagnosticStatus.OK), (3.0, DiagnosticStatus.WARN)])
def test_silence_on_the_input_is_a_warning_once_it_lasts(active_for_s, level):
    situation = dataclasses.replace(ACTIVE, active_for_s=active_for_s, publishers=0)
    found, message = judge(SweepLog(), {}, situation)
    assert found == level
    if level == DiagnosticStatus.WARN:
        assert "/velodyne_points (0 publishers)" in message


@pytest.mark.parametrize(
    ("budget_ms", "level"), [(0.0, DiagnosticStatus.OK), (50.0, DiagnosticStatus.WARN), (150.0, DiagnosticStatus.OK)]
)
def test_a_latency_over_the_budget_is_a_warning(budget_ms, level):
    assert judge(working_log(0.1), {}, dataclasses.replace(ACTIVE, latency_budget_ms=budget_ms))[0] == level


def test_stamps_are_counted_when_they_go_backwards():
    log = SweepLog()
    assert [log.arrived(stamp) for stamp in (5, 6, 6, 2, 3)] == [False, False, False, True, False]
    assert log.troubles() == Counter({"stamp went backwards": 1})


def test_a_jump_in_time_leaves_the_counts_and_no_stale_figures():
    log = working_log(9.0)
    log.refused("no x field", "no x field: expected x")
    log.forget_recent()
    values = log.values()
    assert (values["completions out"], values["sweeps refused"]) == ("1", "1")
    assert values["latency p99 ms"] == values["last fault"] == ""
    assert "steps used" not in values
    assert judge(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


@pytest.mark.parametrize(("working_s", "level"), [(0.0, DiagnosticStatus.OK), (60.0, DiagnosticStatus.ERROR)])
def test_a_sweep_whose_work_does_not_end_is_an_error(working_s, level):
    log = working_log(1.0)
    log.began()
    log._began_s -= working_s
    found, message = judge(log, {}, ACTIVE)
    assert found == level
    assert ("stuck" in message) == (level == DiagnosticStatus.ERROR)


@pytest.mark.parametrize(
    "end",
    [
        lambda log: log.completed_sweep(record()),
        lambda log: log.refused("no x field", "no x field: expected x"),
        lambda log: log.inference_failed("RuntimeError"),
        lambda log: log.shed_stale(),
    ],
)
def test_however_a_sweep_ends_nothing_is_in_work_any_more(end):
    log = working_log()
    log.began()
    assert log.working_s() > 0
    end(log)
    assert log.working_s() == 0


def test_a_callback_that_failed_is_a_warning_once():
    log = working_log()
    log.callback_failed()
    level, message = judge(log, log.troubles(), ACTIVE)
    assert (level, message) == (DiagnosticStatus.WARN, "since the last report: callback failed (1x)")
    assert log.values()["callbacks failed"] == "1"


def test_a_shed_sweep_is_one_of_the_dropped():
    log = SweepLog()
    log.replaced()
    log.shed_stale()
    assert (log.values()["sweeps dropped"], log.values()["sweeps shed, too old"]) == ("2", "1")


def test_work_that_memory_does_not_hold_is_an_error_until_it_fits_again():
    situation = dataclasses.replace(ACTIVE, memory_trouble="out of memory: replication 5 of 20 fits on cuda")
    assert judge(working_log(), {}, situation) == (DiagnosticStatus.ERROR, situation.memory_trouble)


def test_a_model_that_could_not_be_loaded_is_a_warning_while_the_old_one_runs():
    situation = dataclasses.replace(ACTIVE, reload_error="model x cannot be loaded, edge goes on: no such folder")
    assert judge(working_log(), {}, situation) == (DiagnosticStatus.WARN, situation.reload_error)


def test_a_sweep_of_which_nothing_was_completed_is_a_warning_that_says_why():
    log = working_log()
    log.completed_sweep(dataclasses.replace(record(), points_completed=0, removed={"outside": 20, "free_space": 0}))
    level, message = judge(log, {}, ACTIVE)
    assert level == DiagnosticStatus.WARN
    assert message == "the newest sweep has no completed point left; taken out: outside 20"
    log.completed_sweep(record())
    assert judge(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


def test_a_budget_below_the_least_work_says_so():
    situation = dataclasses.replace(ACTIVE, latency_budget_ms=50.0, can_meet_budget=False)
    assert "least work" in judge(working_log(0.1), {}, situation)[1]


def test_values_name_every_fault_and_latency():
    log = working_log(0.2)
    log.refused("data too short", "data too short: found 3 bytes")
    values = log.values()
    assert values["sweeps refused"] == "1"
    assert values["refused: data too short"] == "1"
    assert values["last fault"] == "data too short: found 3 bytes"
    assert values["latency p50 ms"] == values["latency p99 ms"] == "200.0"
    assert values["steps used"] == "2"
    assert values["denoise ms"] == "50.0"


def test_latencies_are_those_of_the_last_sweeps():
    log = SweepLog()
    for latency_s in [9.0] * LATENCY_WINDOW + [0.1] * LATENCY_WINDOW:
        log.completed_sweep(record(latency_s))
    assert log.latency_ms(99) == pytest.approx(100.0)
