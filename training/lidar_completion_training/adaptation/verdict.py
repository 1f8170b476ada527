"""Decides whether an adapted model may replace the original: which metrics rose by more than their tolerance."""

from __future__ import annotations

from dataclasses import dataclass

HELD_BACK, CONTROL = "held-back sweeps", "synthetic control"

Figures = dict[str, dict[str, float]]  # part (HELD_BACK, CONTROL) -> metric of the evaluation -> mean


@dataclass(frozen=True)
class Criterion:
    """A metric of the evaluation (lower is better) and how much it may rise on each part, in its own unit before scaling."""

    heading: str
    scale: float
    digits: int
    tolerance: dict[str, float]


CRITERIA = {
    "cd": Criterion("CD m", 1.0, 4, {HELD_BACK: 0.0, CONTROL: 0.001}),
    "ghost_rate": Criterion("farther than 0.5 m from any surface %", 100.0, 2, {HELD_BACK: 0.001, CONTROL: 0.001}),
    "violations": Criterion("in free space %", 100.0, 2, {HELD_BACK: 0.001, CONTROL: 0.001}),
}


def rises(before: Figures, after: Figures) -> list[str]:
    """One line of text for each metric that rose by more than its tolerance; an empty list accepts the model."""
    return [
        f"{criterion.heading} on the {part}: {_number(criterion, before[part][name])} -> "
        f"{_number(criterion, after[part][name])} (may rise by {_number(criterion, allowed)})"
        for name, criterion in CRITERIA.items()
        for part, allowed in criterion.tolerance.items()
        if after[part][name] > before[part][name] + allowed
    ]


def table(before: Figures, after: Figures) -> str:
    """The metrics before and after as a text table, one line per part and metric."""
    lines: list[tuple[str, ...]] = [("", "", "before", "after")]
    for part in before:
        for name, criterion in CRITERIA.items():
            numbers = (_number(criterion, figures[part][name]) for figures in (before, after))
            lines.append((part, criterion.heading, *numbers))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        f"{part:<{widths[0]}}  {heading:<{widths[1]}}  {first:>{widths[2]}}  {second:>{widths[3]}}"
        for part, heading, first, second in lines
    )


def _number(criterion: Criterion, value: float) -> str:
    return f"{criterion.scale * value:.{criterion.digits}f}"
