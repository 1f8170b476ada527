"""Settings of the kinds of street."""

from __future__ import annotations

from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True)
class StreetKind:
    """Ranges (metres) and probabilities of one kind of street.

    probability: share of the worlds. half_width: of the carriageway. setback: from the pavement to the houses. house, height: width
    and height of the houses. gap: probability of a gap between two houses, and a factor on its width. parked: share of the kerb with
    parked cars. trees, fences: probability of a row of trees, and of a fence or hedge before a house.
    """

    probability: float
    half_width: Range
    sidewalk: Range
    setback: Range
    house: Range
    height: Range
    gap: Range
    parked: float
    trees: float
    fences: float


STREET_KINDS: dict[str, StreetKind] = {
    "inner city": StreetKind(
        0.27, half_width=(3.0, 5.5), sidewalk=(1.2, 3.5), setback=(0.0, 0.6), house=(7, 18), height=(7, 18),
        gap=(0.0, 0.25), parked=0.55, trees=0.12, fences=0.1,
    ),
    "terraces": StreetKind(
        0.25, half_width=(2.8, 5.2), sidewalk=(1.0, 2.8), setback=(1.5, 6.0), house=(6, 14), height=(5, 10),
        gap=(0.3, 0.5), parked=0.5, trees=0.3, fences=0.75,
    ),
    "gardens": StreetKind(
        0.25, half_width=(2.8, 5.0), sidewalk=(0.0, 2.4), setback=(3.0, 11.0), house=(7, 14), height=(3.5, 8),
        gap=(0.8, 0.8), parked=0.35, trees=0.6, fences=0.8,
    ),
    "avenue": StreetKind(
        0.13, half_width=(4.5, 8.0), sidewalk=(2.0, 5.0), setback=(1.0, 14.0), house=(12, 30), height=(8, 20),
        gap=(0.6, 0.8), parked=0.5, trees=0.8, fences=0.35,
    ),
    "country": StreetKind(
        0.10, half_width=(2.4, 4.0), sidewalk=(0.0, 0.0), setback=(6.0, 20.0), house=(7, 16), height=(3.5, 8),
        gap=(0.9, 4.0), parked=0.04, trees=1.0, fences=0.5,
    ),
}  # fmt: skip
