"""Diagnostics: counts, the most severe of several conditions, and the typed records behind the key-value pairs."""

import dataclasses
import math
from collections import Counter

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from lidar_completion_ros.diagnostics import LATENCY_WINDOW, Situation, SweepLog, classify_status
from lidar_completion_ros.status import NodeReport, NodeStatus, SweepCounts, SweepLabel, diagnostic_status

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


LABEL = SweepLabel(
    steps=2,
    replication=20,
    points_in=10,
    points_out=30,
    points_completed=20,
    latency_ms=100.0,
    removed={"outside": 3},
    stages_ms={"preprocess": 10.0, "denoise": 50.0, "postprocess": 20.0, "total": 80.0},
)


def label(latency_s=0.1):
    return dataclasses.replace(LABEL, latency_ms=latency_s * 1e3)


def working_log(latency_s=0.1):
    log = SweepLog()
    log.sweep_arrived(1)
    log.sweep_completed(label(latency_s))
    return log


def test_working_node_is_ok():
    assert classify_status(working_log(), {}, ACTIVE) == (DiagnosticStatus.OK, "completing")


def test_failed_configure_is_an_error_in_any_state():
    situation = dataclasses.replace(ACTIVE, state="unconfigured", configure_error="cannot load the model: gone")
    assert classify_status(SweepLog(), {}, situation) == (DiagnosticStatus.ERROR, "cannot load the model: gone")


def test_inactive_node_is_ok():
    assert classify_status(SweepLog(), {}, dataclasses.replace(ACTIVE, state="inactive")) == (
        DiagnosticStatus.OK,
        "inactive",
    )


def test_refused_sweep_is_an_error_then_a_warning_once():
    log = working_log()
    log.sweep_refused("no x field", "no x field: expected x")
    assert classify_status(log, {"no x field": 1}, ACTIVE) == (
        DiagnosticStatus.ERROR,
        "failing: no x field: expected x",
    )
    log.sweep_completed(label())
    assert classify_status(log, {"no x field": 1}, ACTIVE)[0] == DiagnosticStatus.WARN
    assert classify_status(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


def test_failed_inference_is_an_error():
    log = working_log()
    log.inference_failed("RuntimeError: out of memory")
    level, message = classify_status(log, log.troubles(), ACTIVE)
    assert level == DiagnosticStatus.ERROR
    assert "out of memory" in message


@pytest.mark.parametrize(("active_for_s", "level"), [(1.0, DiagnosticStatus.OK), (3.0, DiagnosticStatus.WARN)])
def test_missing_sweeps_are_a_warning_after_the_timeout(active_for_s, level):
    situation = dataclasses.replace(ACTIVE, active_for_s=active_for_s, publishers=0)
    found, message = classify_status(SweepLog(), {}, situation)
    assert found == level
    if level == DiagnosticStatus.WARN:
        assert "/velodyne_points (0 publishers)" in message


@pytest.mark.parametrize(
    ("budget_ms", "level"), [(0.0, DiagnosticStatus.OK), (50.0, DiagnosticStatus.WARN), (150.0, DiagnosticStatus.OK)]
)
def test_latency_over_budget_is_a_warning(budget_ms, level):
    assert classify_status(working_log(0.1), {}, dataclasses.replace(ACTIVE, latency_budget_ms=budget_ms))[0] == level


def test_backward_stamps_are_counted():
    log = SweepLog()
    assert [log.sweep_arrived(stamp) for stamp in (5, 6, 6, 2, 3)] == [False, False, False, True, False]
    assert log.troubles() == Counter({"stamp went backwards": 1})


def test_jump_in_time_keeps_counts_and_clears_figures():
    log = working_log(9.0)
    log.sweep_refused("no x field", "no x field: expected x")
    log.forget_recent()
    assert (log.counts().completed, log.counts().refused) == (1, 1)
    assert math.isnan(log.latency_ms(99))
    assert log.last is None
    assert log.last_fault == ""
    assert classify_status(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


@pytest.mark.parametrize(("working_s", "level"), [(0.0, DiagnosticStatus.OK), (60.0, DiagnosticStatus.ERROR)])
def test_stuck_sweep_is_an_error(working_s, level):
    log = working_log(1.0)
    log.sweep_started()
    log._started_s -= working_s
    found, message = classify_status(log, {}, ACTIVE)
    assert found == level
    assert ("stuck" in message) == (level == DiagnosticStatus.ERROR)


@pytest.mark.parametrize(
    "end",
    [
        lambda log: log.sweep_completed(label()),
        lambda log: log.sweep_refused("no x field", "no x field: expected x"),
        lambda log: log.inference_failed("RuntimeError"),
        lambda log: log.sweep_shed(),
    ],
)
def test_every_outcome_ends_the_work(end):
    log = working_log()
    log.sweep_started()
    assert log.working_s() > 0
    end(log)
    assert log.working_s() == 0


def test_failed_callback_is_a_warning_once():
    log = working_log()
    log.callback_failed()
    level, message = classify_status(log, log.troubles(), ACTIVE)
    assert (level, message) == (DiagnosticStatus.WARN, "since the last report: callback failed (1x)")
    assert log.counts().callbacks_failed == 1


def test_shed_sweeps_count_as_dropped():
    log = SweepLog()
    log.sweep_replaced()
    log.sweep_shed()
    assert (log.counts().dropped, log.counts().shed) == (2, 1)


def test_memory_exhaustion_is_an_error():
    situation = dataclasses.replace(ACTIVE, memory_error="out of memory: replication 5 of 20 fits on cuda")
    assert classify_status(working_log(), {}, situation) == (DiagnosticStatus.ERROR, situation.memory_error)


def test_failed_model_reload_is_a_warning():
    situation = dataclasses.replace(ACTIVE, model_error="cannot load the model x: no such folder; edge stays in use")
    assert classify_status(working_log(), {}, situation) == (DiagnosticStatus.WARN, situation.model_error)


def test_sweep_without_completed_points_is_a_warning_with_reasons():
    log = working_log()
    log.sweep_completed(dataclasses.replace(label(), points_completed=0, removed={"outside": 20, "free_space": 0}))
    level, message = classify_status(log, {}, ACTIVE)
    assert level == DiagnosticStatus.WARN
    assert message == "the newest sweep has no completed points; removed: outside 20"
    log.sweep_completed(label())
    assert classify_status(log, {}, ACTIVE)[0] == DiagnosticStatus.OK


def test_budget_below_the_minimum_workload():
    situation = dataclasses.replace(ACTIVE, latency_budget_ms=50.0, can_meet_budget=False)
    assert "minimum workload" in classify_status(working_log(0.1), {}, situation)[1]


def test_counts_name_every_fault():
    log = working_log(0.2)
    log.sweep_refused("data too short", "data too short: found 3 bytes")
    assert (log.counts().refused, log.counts().faults) == (1, {"data too short": 1})
    assert log.last_fault == "data too short: found 3 bytes"
    assert log.latency_ms(50) == log.latency_ms(99) == pytest.approx(200.0)


def test_silent_publisher_hints_at_qos_and_profile():
    situation = dataclasses.replace(ACTIVE, active_for_s=5.0)
    assert "fast_dds_profile.xml" in classify_status(SweepLog(), {}, situation)[1]
    log = SweepLog(received=3)
    assert "fast_dds_profile.xml" not in classify_status(log, {}, situation)[1]


def test_name_conflict_is_a_warning():
    situation = dataclasses.replace(ACTIVE, name_conflict="2 publishers on /out, of the nodes /a: stop all but one")
    assert classify_status(working_log(), {}, situation) == (DiagnosticStatus.WARN, situation.name_conflict)


COUNTS = SweepCounts(
    received=9, completed=3, dropped=2, shed=1, skipped=1, refused=2, failed=1, faults={"no x field": 2}
)


@pytest.mark.parametrize(
    "record", [LABEL, SweepLabel(), COUNTS, SweepCounts(), NodeStatus(), NodeStatus(state="active")]
)
def test_records_survive_the_conversion_to_key_values(record):
    again = type(record).from_key_values(record.to_key_values())
    assert repr(again) == repr(record)  # NaN is not equal to itself


def test_report_of_a_diagnostic():
    values = {}
    for record in (NodeStatus(state="active"), COUNTS, LABEL):
        values |= record.to_key_values()
    report = NodeReport.of(diagnostic_status("front/lidar_completion: completion", b"\x01", "slow", values))
    assert (report.node, report.level, report.message) == ("front/lidar_completion", 1, "slow")
    assert (report.status.state, report.counts, report.last_sweep) == ("active", COUNTS, LABEL)
    assert COUNTS.finished == 9
    assert NodeReport.of(diagnostic_status("lidar_completion: sweep", b"\x00", "completed", values)) is None
    assert NodeReport.of(DiagnosticStatus(name="camera: completion")) is None


def test_missing_key_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="'steps used'"):
        SweepLabel.from_key_values({"points in": "3"})


def test_latencies_are_those_of_the_newest_sweeps():
    log = SweepLog()
    for latency_s in [9.0] * LATENCY_WINDOW + [0.1] * LATENCY_WINDOW:
        log.sweep_completed(label(latency_s))
    assert log.latency_ms(99) == pytest.approx(100.0)
