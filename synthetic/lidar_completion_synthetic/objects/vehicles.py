"""Cars, vans and trucks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..raycast import BOX, CYLINDER, ELLIPSOID
from .materials import CAR, OTHER_VEHICLE, TRUCK, Material
from .solids import Parts, join, panel, rotation, solids

CAR_KINDS = {
    # length, width, height, bonnet length, boot length, windscreen run, rear window run
    "hatchback": (3.9, 1.70, 1.48, 0.85, 0.05, 0.75, 0.35),
    "saloon": (4.6, 1.80, 1.45, 1.15, 0.75, 0.80, 0.65),
    "estate": (4.6, 1.80, 1.50, 1.10, 0.05, 0.80, 0.30),
    "city": (3.3, 1.60, 1.50, 0.55, 0.03, 0.60, 0.20),
    "suv": (4.6, 1.88, 1.72, 1.05, 0.08, 0.70, 0.35),
    "people carrier": (4.7, 1.85, 1.75, 0.75, 0.05, 0.95, 0.25),
}
PAINT_TONES = (0.12, 0.3, 0.6, 1.0, 1.5)  # black, which returns few echoes, to white
PAINT_PROBABILITIES = (0.25, 0.2, 0.2, 0.2, 0.15)


class CarShape(NamedTuple):
    """Dimensions of a car body in metres: x along the car, z above the ground."""

    length: float
    half_width: float
    height: float
    clearance: float
    waist: float
    nose: float
    boot: float
    cabin_front: float
    cabin_rear: float
    roof_front: float
    roof_rear: float

    @property
    def front(self) -> float:
        return self.length / 2

    @property
    def rear(self) -> float:
        return -self.length / 2

    @property
    def roof_middle(self) -> float:
        return (self.roof_front + self.roof_rear) / 2


def car(rng: np.random.Generator, label: int = CAR) -> Parts:
    """Passenger car: body, bonnet, cabin with glass, seats, wheels, number plates."""
    shape = _car_shape(rng)
    radius = rng.uniform(0.29, 0.35)
    axle = shape.length * 0.19
    wheels = _wheels(shape.front - axle, shape.rear + axle, shape.half_width, radius, label)
    parts = join(
        _car_body(shape, label), *_car_sheets(shape, label), *_car_sides(shape, label), _car_seats(shape, label), wheels,
        _car_details(shape, label),
    )  # fmt: skip
    return parts.toned(_paint(rng), Material.PAINT)


def _car_shape(rng: np.random.Generator) -> CarShape:
    kind = CAR_KINDS[rng.choice(list(CAR_KINDS))]
    length, width, height, bonnet, boot, run, back_run = np.array(kind) * rng.uniform(0.95, 1.06, 7)
    clearance = rng.uniform(0.16, 0.24)
    waist = height * rng.uniform(0.56, 0.64)
    nose = waist - rng.uniform(0.08, 0.22)
    front, rear = length / 2, -length / 2
    cabin_front, cabin_rear = front - bonnet, rear + boot
    return CarShape(
        length, width / 2, height, clearance, waist, nose, boot, cabin_front, cabin_rear, cabin_front - run,
        cabin_rear + back_run,
    )  # fmt: skip


def _car_body(c: CarShape, label: int) -> Parts:
    """Lower body, doors up to the waist line, roof, bumpers."""
    boxes = solids(
        BOX,
        [
            (0, 0, (c.clearance + c.nose) / 2),
            ((c.cabin_front + c.cabin_rear) / 2, 0, (c.nose + c.waist) / 2),
            (c.roof_middle, 0, c.height - 0.03),
        ],
        [
            (c.length / 2 - 0.08, c.half_width, (c.nose - c.clearance) / 2),
            ((c.cabin_front - c.cabin_rear) / 2, c.half_width * 0.98, (c.waist - c.nose) / 2),
            ((c.roof_front - c.roof_rear) / 2, c.half_width * 0.80, 0.03),
        ],
        Material.PAINT,
        label,
    )
    bumpers = solids(
        ELLIPSOID,
        [(c.front - 0.25, 0, (c.clearance + c.nose) / 2), (c.rear + 0.25, 0, (c.clearance + c.nose) / 2)],
        [(0.27, c.half_width * 0.97, (c.nose - c.clearance) * 0.55)] * 2,
        Material.PAINT,
        label,
    )
    return join(boxes, bumpers)


def _car_sheets(c: CarShape, label: int) -> list[Parts]:
    """Bonnet, windscreen, rear window, boot lid."""
    glass = c.half_width * 0.90
    roof = c.height - 0.03
    sheets = [
        panel((c.front - 0.15, c.nose - 0.02), (c.cabin_front, c.waist), c.half_width * 0.93, Material.PAINT, label),
        panel((c.cabin_front, c.waist), (c.roof_front, roof), glass * 0.95, Material.CAR_GLASS, label),
        panel((c.cabin_rear, c.waist), (c.roof_rear, roof), glass * 0.92, Material.CAR_GLASS, label),
    ]
    if c.boot > 0.3:
        lid = (c.rear + 0.1, c.waist - 0.05), (c.cabin_rear, c.waist)
        sheets.append(panel(*lid, c.half_width * 0.92, Material.PAINT, label))
    return sheets


def _car_sides(c: CarShape, label: int) -> list[Parts]:
    """Side windows, then the posts between them."""
    tilt = np.arctan2(c.half_width * 0.97 - c.half_width * 0.80, c.height - c.waist)
    y, z = c.half_width * 0.885, (c.waist + c.height) / 2
    half = ((c.roof_front - c.roof_rear) / 2, 0.015, (c.height - c.waist) / 2 - 0.03)
    glass = [
        solids(BOX, (c.roof_middle, s * y, z), half, Material.CAR_GLASS, label, rotation(0, 0, s * tilt))
        for s in (-1, 1)
    ]
    posts_x = np.array([c.roof_front, c.roof_middle + 0.1, c.roof_rear])
    posts = [
        solids(
            BOX,
            [(x, s * y, z) for x in posts_x],
            (0.05, 0.03, half[2]),
            Material.PAINT,
            label,
            rotation(0, 0, s * tilt),
        )
        for s in (-1, 1)
    ]
    return [*glass, *posts]


def _car_seats(c: CarShape, label: int) -> Parts:
    seats_x = (c.roof_front - 0.65, max(c.roof_rear + 0.35, c.roof_front - 1.55))
    centre = [(x, s * 0.36, c.waist - 0.05) for x in seats_x for s in (-1, 1)]
    return solids(BOX, centre, (0.10, 0.24, 0.32), Material.CLOTH, label, rotation(0, -0.2))


def _car_details(c: CarShape, label: int) -> Parts:
    """Number plates and wing mirrors."""
    mirror_y = c.half_width + 0.08
    details = solids(
        BOX,
        [
            (c.front, 0, 0.42),
            (c.rear, 0, 0.6),
            (c.cabin_front - 0.25, mirror_y, c.waist + 0.05),
            (c.cabin_front - 0.25, -c.half_width - 0.08, c.waist + 0.05),
        ],
        [(0.02, 0.26, 0.06), (0.02, 0.26, 0.06), (0.07, 0.10, 0.07), (0.07, 0.10, 0.07)],
        Material.PLATE,
        label,
    )
    details.material[2:] = Material.PLASTIC
    return details


def van(rng: np.random.Generator, label: int = OTHER_VEHICLE) -> Parts:
    """Delivery van or camper."""
    length, width, height = rng.uniform(4.6, 6.2), rng.uniform(1.85, 2.1), rng.uniform(1.9, 2.7)
    half_w, nose, floor = width / 2, rng.uniform(0.95, 1.2), 0.3
    snout = rng.uniform(0.5, 0.9)
    cargo_front = length / 2 - snout - 0.6
    body = solids(
        BOX,
        [
            ((cargo_front - length / 2) / 2, 0, (floor + height) / 2),
            (length / 2 - (snout + 0.6) / 2, 0, (floor + nose) / 2),
        ],
        [
            ((cargo_front + length / 2) / 2, half_w, (height - floor) / 2),
            ((snout + 0.6) / 2, half_w * 0.97, (nose - floor) / 2),
        ],
        Material.PAINT,
        label,
    )
    screen = panel(
        (length / 2 - snout * 0.6, nose), (cargo_front, height - 0.1), half_w * 0.9, Material.CAR_GLASS, label
    )
    windows = solids(
        BOX,
        [(cargo_front - 0.5, s * half_w, height * 0.72) for s in (-1, 1)],
        (0.4, 0.02, 0.25),
        Material.WINDOW,
        label,
    )
    plate = solids(BOX, [(-length / 2, 0, 0.6), (length / 2, 0, 0.5)], (0.02, 0.26, 0.06), Material.PLATE, label)
    wheels = _wheels(length * 0.33, -length * 0.33, half_w, 0.34, label)
    return join(body, screen, windows, plate, wheels).toned(_paint(rng), Material.PAINT)


def truck(rng: np.random.Generator, label: int = TRUCK) -> Parts:
    """Truck with a cab and a box body or a flat bed."""
    length, width, height = rng.uniform(6, 11), rng.uniform(2.2, 2.5), rng.uniform(2.8, 3.7)
    cab, half_w = rng.uniform(1.6, 2.2), width / 2
    cargo_rear, cargo_front = -length / 2, length / 2 - cab - 0.15
    bed_top = height if rng.random() < 0.75 else 1.5
    body = solids(
        BOX,
        [
            (length / 2 - cab / 2, 0, 0.45 + (height * 0.85 - 0.45) / 2),
            ((cargo_rear + cargo_front) / 2, 0, (1.0 + bed_top) / 2),
            (0, 0, 0.8),
        ],
        [
            (cab / 2, half_w * 0.97, (height * 0.85 - 0.45) / 2),
            ((cargo_front - cargo_rear) / 2, half_w, (bed_top - 1.0) / 2),
            (length / 2 - 0.2, half_w * 0.4, 0.15),
        ],
        Material.PAINT,
        label,
    )
    glass = solids(BOX, [(length / 2, 0, height * 0.62)], [(0.02, half_w * 0.85, 0.35)], Material.WINDOW, label)
    wheels = _wheels(length / 2 - 1.1, -length / 2 + 1.3, half_w, 0.5, label)
    return join(body, glass, wheels).toned(_paint(rng), Material.PAINT)


def bus(rng: np.random.Generator, label: int = OTHER_VEHICLE) -> Parts:
    """City bus or coach with rows of windows."""
    length, half_w, height = rng.uniform(9, 13), 1.27, rng.uniform(2.9, 3.6)
    body = solids(BOX, (0, 0, (0.3 + height) / 2), (length / 2, half_w, (height - 0.3) / 2), Material.PAINT, label)
    x = np.arange(-length / 2 + 1.0, length / 2 - 0.8, 1.5)
    sides = np.concatenate([np.column_stack([x, 0 * x + s * half_w, 0 * x + height * 0.62]) for s in (-1, 1)])
    windows = solids(BOX, sides, (0.65, 0.015, 0.45), Material.WINDOW, label)
    ends = [(s * length / 2, 0, height * 0.6) for s in (-1, 1)]
    screens = solids(BOX, ends, (0.015, half_w * 0.9, 0.6), Material.WINDOW, label)
    wheels = _wheels(length * 0.3, -length * 0.28, half_w, 0.48, label)
    return join(body, windows, screens, wheels).toned(_paint(rng), Material.PAINT)


def trailer(rng: np.random.Generator, label: int = OTHER_VEHICLE) -> Parts:
    """Caravan or box trailer with a drawbar."""
    half_l, half_w, height = rng.uniform(1.0, 2.8), rng.uniform(0.7, 1.1), rng.uniform(1.0, 2.6)
    body = solids(BOX, (0, 0, (0.5 + height) / 2), (half_l, half_w, (height - 0.5) / 2), Material.PAINT, label)
    bar = solids(BOX, (half_l + 0.5, 0, 0.5), (0.5, 0.05, 0.05), Material.METAL, label)
    return join(body, bar, _wheels(0.0, 0.0, half_w, 0.32, label)).toned(_paint(rng), Material.PAINT)


def _wheels(front: float, rear: float, half_width: float, radius: float, label: int) -> Parts:
    """Four wheels with axles at x = front and rear."""
    centre = [(x, s * (half_width - 0.09), radius) for x in (front, rear) for s in (-1, 1)]
    return solids(CYLINDER, centre, (radius, radius, 0.11), Material.RUBBER, label, rotation(0, 0, np.pi / 2))


def _paint(rng: np.random.Generator) -> float:
    """Tone of a vehicle's paint."""
    return float(rng.choice(PAINT_TONES, p=PAINT_PROBABILITIES))
