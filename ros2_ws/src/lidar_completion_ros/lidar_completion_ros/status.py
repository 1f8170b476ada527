"""What the node reports about itself and about each sweep, as typed records.

The node writes them into DiagnosticStatus key-value pairs; the health check, the bag replay and the benchmarks read them
back. Use the records instead of the keys, which are written for people.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

HARDWARE_ID = "lidar_completion"


def _entry(key: str, default: Any = 0) -> Any:
    """A field of one key-value pair."""
    return field(default=default, metadata={"key": key})


def _entries(pattern: str, kind: Callable[[str], Any]) -> Any:
    """A field of several key-value pairs: `{}` in the key stands for the dictionary's key."""
    return field(default_factory=dict, metadata={"pattern": pattern, "kind": kind})


class KeyValues:
    """Conversion of a dataclass, whose fields are made by `_entry` and `_entries`, to key-value pairs and back."""

    def to_key_values(self) -> dict[str, str]:
        pairs: dict[str, str] = {}
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if "key" in each.metadata:
                pairs[each.metadata["key"]] = _text(value)
            else:
                pairs |= {each.metadata["pattern"].format(name): _text(item) for name, item in value.items()}
        return pairs

    @classmethod
    def from_key_values(cls, pairs: Mapping[str, str]) -> Self:
        """The record in `pairs`; other keys are ignored. Raises ValueError if a key is missing or a value cannot be parsed."""
        values = {}
        for each in fields(cls):  # type: ignore[arg-type]
            if "key" in each.metadata:
                values[each.name] = _parsed(pairs, each.metadata["key"], type(each.default))
            else:
                values[each.name] = _matching(pairs, each.metadata["pattern"], each.metadata["kind"])
        return cls(**values)

    @classmethod
    def from_status(cls, status: DiagnosticStatus) -> Self:
        return cls.from_key_values({pair.key: pair.value for pair in status.values})


@dataclass(frozen=True)
class SweepLabel(KeyValues):
    """How one sweep was completed; published under the stamp of the sweep on ~/debug/sweep."""

    steps: int = _entry("steps used")
    replication: int = _entry("replication used")
    points_in: int = _entry("points in")  # of the message
    missing_returns: int = _entry("missing returns")  # part of points_in: NaN or (0, 0, 0)
    points_out: int = _entry("points out")
    points_completed: int = _entry("points completed")  # part of points_out
    deskewed: bool = _entry("deskewed", False)
    temporal: str = _entry("temporal", "off")  # off, started, used, or why there was no prior
    mounting_warning: str = _entry("mounting warning", "")  # empty: nothing is wrong, or it is not checked
    ground_height_m: float = _entry("sensor above ground m", math.nan)  # NaN: no ground was found
    sensor_roll_deg: float = _entry("sensor roll deg", math.nan)  # relative to the ground
    sensor_pitch_deg: float = _entry("sensor pitch deg", math.nan)
    outside_percent: float = _entry("outside the scene %", math.nan)  # of the sampled points
    levelled: bool = _entry("levelled", False)
    waited_ms: float = _entry("waited ms", 0.0)  # from the arrival of the message to the start of the work
    latency_ms: float = _entry("latency ms", 0.0)  # from the arrival of the message to the publication
    # completed points that were removed, by reason
    removed: dict[str, int] = _entries("removed: {}", int)  # noqa: RUF009 (returns a field)
    # preprocess, denoise, postprocess, total
    stages_ms: dict[str, float] = _entries("stage {} ms", float)  # noqa: RUF009


@dataclass(frozen=True)
class SweepCounts(KeyValues):
    """Sweeps since the node was configured.

    received = completed + dropped + skipped + refused + failed + those waiting or being processed.
    """

    received: int = _entry("sweeps in")
    completed: int = _entry("completions out")
    dropped: int = _entry("sweeps dropped")  # never started: replaced by a newer sweep, or shed
    shed: int = _entry("sweeps shed, too old")  # part of dropped
    skipped: int = _entry("sweeps skipped, no subscriber")
    refused: int = _entry("sweeps refused")
    failed: int = _entry("inference failures")
    callbacks_failed: int = _entry("callbacks failed")
    stamp_jumps: int = _entry("stamps gone backwards")
    deadlines_missed: int = _entry("output deadlines missed")
    # refused sweeps by fault
    faults: dict[str, int] = _entries("refused: {}", int)  # noqa: RUF009

    @property
    def finished(self) -> int:
        """Received sweeps that are neither waiting nor being processed."""
        return self.completed + self.dropped + self.skipped + self.refused + self.failed


@dataclass(frozen=True)
class NodeStatus(KeyValues):
    """The state of the node, on /diagnostics beside its `SweepCounts` and the label of the newest sweep."""

    state: str = _entry("state", "")  # label of the lifecycle state
    model: str = _entry("model", "")
    model_error: str = _entry("model error", "")  # why the newest requested model is not in use
    device: str = _entry("device", "")
    backend: str = _entry("backend", "")
    convolution: str = _entry("convolution", "")  # implementation of the sparse convolution
    precision: str = _entry("precision", "")
    input_topic: str = _entry("input topic", "")
    input_publishers: int = _entry("input publishers")
    output_topic: str = _entry("output topic", "")
    output_subscribers: int = _entry("output subscribers")
    latency_budget_ms: float = _entry("latency budget ms", 0.0)
    max_steps: int = _entry("max steps")
    max_replication: int = _entry("max replication")
    memory: str = _entry("memory", "")  # empty: the full workload fits
    last_fault: str = _entry("last fault", "")
    latency_p50_ms: float = _entry("latency p50 ms", math.nan)  # of the newest sweeps; NaN before the first one
    latency_p95_ms: float = _entry("latency p95 ms", math.nan)
    latency_p99_ms: float = _entry("latency p99 ms", math.nan)


@dataclass(frozen=True)
class NodeReport:
    """One diagnostic of a node, as received."""

    node: str  # full name without the leading slash
    level: int  # 0 OK, 1 WARN, 2 ERROR
    message: str
    status: NodeStatus
    counts: SweepCounts
    last_sweep: SweepLabel | None  # None before the first completion
    values: Mapping[str, str]  # all key-value pairs, to be shown

    @classmethod
    def of(cls, status: DiagnosticStatus) -> NodeReport | None:
        """The report in a DiagnosticStatus, None if it is not one of a completion node."""
        node, _, kind = status.name.partition(": ")
        if status.hardware_id != HARDWARE_ID or kind != "completion":
            return None
        values = {pair.key: pair.value for pair in status.values}
        return cls(
            node=node,
            level=int.from_bytes(status.level, "little"),
            message=status.message,
            status=NodeStatus.from_key_values(values),
            counts=SweepCounts.from_key_values(values),
            last_sweep=SweepLabel.from_key_values(values) if "steps used" in values else None,
            values=values,
        )


def diagnostic_status(name: str, level: bytes, message: str, values: Mapping[str, str]) -> DiagnosticStatus:
    """A DiagnosticStatus of the node; name: `<node>: completion` or `<node>: sweep`."""
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, hardware_id=HARDWARE_ID, values=pairs)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.1f}"
    return str(value)


def _parsed(pairs: Mapping[str, str], key: str, kind: type) -> Any:
    if key not in pairs:
        raise ValueError(f"diagnostic of the node: expected the key {key!r}, found {', '.join(pairs) or 'none'}")
    if kind is bool:
        return pairs[key] == "yes"
    return math.nan if kind is float and not pairs[key] else kind(pairs[key])


def _matching(pairs: Mapping[str, str], pattern: str, kind: Callable[[str], Any]) -> dict[str, Any]:
    prefix, _, suffix = pattern.partition("{}")
    inside = slice(len(prefix), -len(suffix) or None)
    return {
        key[inside]: kind(value)
        for key, value in pairs.items()
        if key.startswith(prefix) and key.endswith(suffix) and len(key) > len(prefix) + len(suffix)
    }
