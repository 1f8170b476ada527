"""Things of a street, built of solids: x forward, y left, z up from the ground at 0, metres.

Every function takes a `numpy.random.Generator` and returns `Parts`; no two calls give the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .raycast import BOX, CONE, CYLINDER, ELLIPSOID


class Material(IntEnum):
    """What a surface is made of; decides the echo (`SURFACES`) and the semantic label."""

    ASPHALT = 0
    MARKING = 1
    PAVEMENT = 2
    GRASS = 3
    GRAVEL = 4
    FACADE = 5
    WINDOW = 6
    METAL = 7
    PAINT = 8
    CAR_GLASS = 9
    RUBBER = 10
    PLATE = 11
    FOLIAGE = 12
    BARK = 13
    WOOD = 14
    MESH = 15
    REFLECTIVE = 16
    CLOTH = 17
    PLASTIC = 18


class Surface(NamedTuple):
    """Echo of a material: diffuse reflectivity 0-1, its spread, chance that a ray passes through, chance that a hit gives no return."""

    reflectivity: float
    spread: float
    see_through: float
    lost: float


SURFACES: dict[Material, Surface] = {
    Material.ASPHALT: Surface(0.32, 0.07, 0.0, 0.005),
    Material.MARKING: Surface(0.60, 0.12, 0.0, 0.01),
    Material.PAVEMENT: Surface(0.40, 0.07, 0.0, 0.005),
    Material.GRASS: Surface(0.42, 0.10, 0.0, 0.01),
    Material.GRAVEL: Surface(0.33, 0.06, 0.0, 0.01),
    Material.FACADE: Surface(0.46, 0.11, 0.0, 0.005),
    Material.WINDOW: Surface(0.15, 0.15, 0.0, 0.30),
    Material.METAL: Surface(0.35, 0.15, 0.0, 0.05),
    Material.PAINT: Surface(0.30, 0.15, 0.0, 0.03),
    Material.CAR_GLASS: Surface(0.06, 0.10, 0.55, 0.30),
    Material.RUBBER: Surface(0.10, 0.05, 0.0, 0.10),
    Material.PLATE: Surface(0.99, 0.02, 0.0, 0.0),
    Material.FOLIAGE: Surface(0.42, 0.16, 0.12, 0.02),
    Material.BARK: Surface(0.30, 0.08, 0.0, 0.01),
    Material.WOOD: Surface(0.38, 0.10, 0.0, 0.01),
    Material.MESH: Surface(0.30, 0.10, 0.75, 0.05),
    Material.REFLECTIVE: Surface(0.99, 0.01, 0.0, 0.0),
    Material.CLOTH: Surface(0.35, 0.20, 0.0, 0.02),
    Material.PLASTIC: Surface(0.45, 0.15, 0.0, 0.02),
}
SURFACE_TABLE = np.array([SURFACES[m] for m in Material], dtype=np.float32)  # (materials, 4)

# labels of SemanticKITTI
ROAD, SIDEWALK, PARKING, TERRAIN, BUILDING, FENCE, OTHER_STRUCTURE, OTHER_OBJECT = 40, 48, 44, 72, 50, 51, 52, 99
VEGETATION, TRUNK, POLE, SIGN = 70, 71, 80, 81
CAR, BICYCLE, TRUCK, OTHER_VEHICLE, PERSON = 10, 11, 18, 20, 30
MOVING_CAR, MOVING_BICYCLIST, MOVING_PERSON, MOVING_TRUCK, MOVING_OTHER = 252, 253, 254, 258, 259
GROUND_LABELS = {Material.ASPHALT: ROAD, Material.MARKING: ROAD, Material.PAVEMENT: SIDEWALK}


@dataclass(frozen=True)
class Parts:
    """n solids: shape (n,) int8, to_world (n, 3, 4) float64, material (n,) uint8, label (n,) uint16, tone (n,) float32: factor on the
    material's reflectivity (dark and light paint, plaster, brick)."""

    shape: np.ndarray
    to_world: np.ndarray
    material: np.ndarray
    label: np.ndarray
    tone: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def placed(self, x: float, y: float, z: float, yaw: float) -> Parts:
        """The same thing turned by yaw about z and moved."""
        turn = rotation(yaw)
        matrix = turn @ self.to_world
        matrix[:, :, 3] += (x, y, z)
        return Parts(self.shape, matrix, self.material, self.label, self.tone)

    def toned(self, tone: float, material: Material) -> Parts:
        """The same thing with another tone where it is of this material."""
        return replace(self, tone=np.where(self.material == material, tone, self.tone).astype(np.float32))

    def chosen(self, which: np.ndarray) -> Parts:
        """The solids of a mask or of indices."""
        return Parts(*(getattr(self, f.name)[which] for f in fields(self)))


def rotation(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation (3, 3) = Rz(yaw) Ry(pitch) Rx(roll), radians."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def solids(shape: int, centre, half, material: Material, label: int, turn=None) -> Parts:
    """n solids of one shape: centre (n, 3), half sizes (n, 3) along the own axes, turn (3, 3), (n, 3, 3) or None."""
    centre = np.atleast_2d(np.asarray(centre, dtype=np.float64))
    half = np.broadcast_to(np.asarray(half, dtype=np.float64), centre.shape)
    linear = np.zeros((len(centre), 3, 3))
    linear[:, [0, 1, 2], [0, 1, 2]] = half
    if turn is not None:
        linear = turn @ linear
    return Parts(
        np.full(len(centre), shape, np.int8),
        np.concatenate([linear, centre[:, :, None]], axis=2),
        np.full(len(centre), material, np.uint8),
        np.full(len(centre), label, np.uint16),
        np.ones(len(centre), np.float32),
    )


def join(*parts: Parts) -> Parts:
    """All solids of several things."""
    kept = [p for p in parts if len(p)]
    if not kept:
        return solids(BOX, np.zeros((0, 3)), np.zeros((0, 3)), Material.ASPHALT, 0)
    return Parts(*(np.concatenate([getattr(p, f.name) for p in kept]) for f in fields(Parts)))


def _random_turns(rng: np.random.Generator, count: int) -> np.ndarray:
    """Uniform rotations (count, 3, 3)."""
    q = rng.normal(size=(count, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    return np.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w),
            2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w),
            2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y),
        ],
        axis=1,
    ).reshape(-1, 3, 3)  # fmt: skip


def _wheels(rng: np.random.Generator, front: float, rear: float, half_width: float, radius: float, label: int) -> Parts:
    centre = [(x, s * (half_width - 0.09), radius) for x in (front, rear) for s in (-1, 1)]
    return solids(CYLINDER, centre, (radius, radius, 0.11), Material.RUBBER, label, rotation(0, 0, np.pi / 2))


def _panel(
    corner_low, corner_high, half_width: float, material: Material, label: int, thickness: float = 0.02
) -> Parts:
    """A sheet across the vehicle that leans from (x, z) low to (x, z) high: windscreens, bonnets."""
    (x0, z0), (x1, z1) = corner_low, corner_high
    pitch = -np.arctan2(z1 - z0, x1 - x0)
    half = (np.hypot(x1 - x0, z1 - z0) / 2, half_width, thickness)
    return solids(BOX, ((x0 + x1) / 2, 0, (z0 + z1) / 2), half, material, label, rotation(0, pitch))


CAR_KINDS = {
    # length, width, height, bonnet length, boot length, windscreen run, rear window run
    "hatchback": (3.9, 1.70, 1.48, 0.85, 0.05, 0.75, 0.35),
    "saloon": (4.6, 1.80, 1.45, 1.15, 0.75, 0.80, 0.65),
    "estate": (4.6, 1.80, 1.50, 1.10, 0.05, 0.80, 0.30),
    "city": (3.3, 1.60, 1.50, 0.55, 0.03, 0.60, 0.20),
    "suv": (4.6, 1.88, 1.72, 1.05, 0.08, 0.70, 0.35),
    "people carrier": (4.7, 1.85, 1.75, 0.75, 0.05, 0.95, 0.25),
}


def car(rng: np.random.Generator, label: int = CAR) -> Parts:
    """A passenger car: body, bonnet, cabin with glass, seats, wheels, number plates."""
    kind = CAR_KINDS[rng.choice(list(CAR_KINDS))]
    length, width, height, bonnet, boot, run, back_run = np.array(kind) * rng.uniform(0.95, 1.06, 7)
    half_w, clearance = width / 2, rng.uniform(0.16, 0.24)
    waist = height * rng.uniform(0.56, 0.64)
    nose = waist - rng.uniform(0.08, 0.22)
    front, rear = length / 2, -length / 2
    cabin_front, cabin_rear = front - bonnet, rear + boot
    roof_front, roof_rear = cabin_front - run, cabin_rear + back_run
    middle, glass_half_w = (cabin_front + cabin_rear) / 2, half_w * 0.90
    body = solids(
        BOX,
        [
            (0, 0, (clearance + nose) / 2),  # lower body
            (middle, 0, (nose + waist) / 2),  # doors up to the waist line
            ((roof_front + roof_rear) / 2, 0, height - 0.03),  # roof
        ],
        [
            (length / 2 - 0.08, half_w, (nose - clearance) / 2),
            ((cabin_front - cabin_rear) / 2, half_w * 0.98, (waist - nose) / 2),
            ((roof_front - roof_rear) / 2, half_w * 0.80, 0.03),
        ],
        Material.PAINT,
        label,
    )
    bumpers = solids(
        ELLIPSOID,
        [(front - 0.25, 0, (clearance + nose) / 2), (rear + 0.25, 0, (clearance + nose) / 2)],
        [(0.27, half_w * 0.97, (nose - clearance) * 0.55)] * 2,
        Material.PAINT,
        label,
    )
    sheets = [
        _panel((front - 0.15, nose - 0.02), (cabin_front, waist), half_w * 0.93, Material.PAINT, label),
        _panel((cabin_front, waist), (roof_front, height - 0.03), glass_half_w * 0.95, Material.CAR_GLASS, label),
        _panel((cabin_rear, waist), (roof_rear, height - 0.03), glass_half_w * 0.92, Material.CAR_GLASS, label),
    ]
    if boot > 0.3:
        sheets.append(_panel((rear + 0.1, waist - 0.05), (cabin_rear, waist), half_w * 0.92, Material.PAINT, label))
    tilt = np.arctan2(half_w * 0.97 - half_w * 0.80, height - waist)
    side = ((roof_front + roof_rear) / 2, half_w * 0.885, (waist + height) / 2)
    side_half = ((roof_front - roof_rear) / 2, 0.015, (height - waist) / 2 - 0.03)
    glass = [
        solids(BOX, (side[0], s * side[1], side[2]), side_half, Material.CAR_GLASS, label, rotation(0, 0, s * tilt))
        for s in (-1, 1)
    ]
    posts_x = np.array([roof_front, (roof_front + roof_rear) / 2 + 0.1, roof_rear])
    posts = [
        solids(
            BOX, [(x, s * side[1], side[2]) for x in posts_x], (0.05, 0.03, side_half[2]), Material.PAINT, label,
            rotation(0, 0, s * tilt),
        )
        for s in (-1, 1)
    ]  # fmt: skip
    seats_x = (roof_front - 0.65, max(roof_rear + 0.35, roof_front - 1.55))
    seats = solids(
        BOX, [(x, s * 0.36, waist - 0.05) for x in seats_x for s in (-1, 1)], (0.10, 0.24, 0.32), Material.CLOTH, label,
        rotation(0, -0.2),
    )  # fmt: skip
    radius = rng.uniform(0.29, 0.35)
    wheels = _wheels(rng, front - length * 0.19, rear + length * 0.19, half_w, radius, label)
    small = solids(
        BOX,
        [(front, 0, 0.42), (rear, 0, 0.6), (cabin_front - 0.25, half_w + 0.08, waist + 0.05),
         (cabin_front - 0.25, -half_w - 0.08, waist + 0.05)],
        [(0.02, 0.26, 0.06), (0.02, 0.26, 0.06), (0.07, 0.10, 0.07), (0.07, 0.10, 0.07)],
        Material.PLATE,
        label,
    )  # fmt: skip
    small.material[2:] = Material.PLASTIC
    return join(body, bumpers, *sheets, *glass, *posts, seats, wheels, small).toned(_paint(rng), Material.PAINT)


def _paint(rng: np.random.Generator) -> float:
    """Tone of a vehicle's paint, from black (gives few echoes) to white."""
    return float(rng.choice((0.12, 0.3, 0.6, 1.0, 1.5), p=(0.25, 0.2, 0.2, 0.2, 0.15)))


def van(rng: np.random.Generator, label: int = OTHER_VEHICLE) -> Parts:
    """A delivery van or camper."""
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
    screen = _panel(
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
    wheels = _wheels(rng, length * 0.33, -length * 0.33, half_w, 0.34, label)
    return join(body, screen, windows, plate, wheels).toned(_paint(rng), Material.PAINT)


def truck(rng: np.random.Generator, label: int = TRUCK) -> Parts:
    """A lorry: cab and box body or a flat bed."""
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
    wheels = _wheels(rng, length / 2 - 1.1, -length / 2 + 1.3, half_w, 0.5, label)
    return join(body, glass, wheels).toned(_paint(rng), Material.PAINT)


def person(rng: np.random.Generator, label: int = MOVING_PERSON) -> Parts:
    """A pedestrian in mid-stride."""
    h = rng.uniform(1.5, 1.9)
    swing, lean = rng.uniform(0.05, 0.45), rng.uniform(-0.05, 0.12)
    limbs = []
    for s in (-1, 1):
        leg = rotation(0, s * swing)
        limbs.append(
            solids(
                CYLINDER,
                np.array((0, s * 0.1, 0.47 * h)) - leg[:, 2] * 0.22 * h,
                (0.07, 0.075, 0.24 * h),
                Material.CLOTH,
                label,
                leg,
            )
        )
        arm = rotation(0, -s * swing * 0.8)
        limbs.append(
            solids(
                CYLINDER,
                np.array((0, s * 0.24, 0.8 * h)) - arm[:, 2] * 0.16 * h,
                (0.045, 0.045, 0.17 * h),
                Material.CLOTH,
                label,
                arm,
            )
        )
    trunk = solids(
        ELLIPSOID, [(lean * 0.3, 0, 0.66 * h), (lean * 0.6, 0, 0.93 * h)], [(0.14, 0.23, 0.21 * h), (0.10, 0.09, 0.13)],
        Material.CLOTH, label,
    )  # fmt: skip
    extra = []
    if rng.random() < 0.3:  # bag or rucksack
        extra.append(solids(BOX, (-0.2, rng.uniform(-0.1, 0.1), 0.7 * h), (0.09, 0.15, 0.2), Material.CLOTH, label))
    return join(trunk, *limbs, *extra)


def bicycle(rng: np.random.Generator, label: int = BICYCLE) -> Parts:
    """A bicycle: two rims as thin discs that mostly let rays through, frame tubes, saddle, bars."""
    r = rng.uniform(0.31, 0.35)
    wheel = rotation(0, 0, np.pi / 2)
    rims = solids(CYLINDER, [(0.52, 0, r), (-0.52, 0, r)], (r, r, 0.02), Material.MESH, label, wheel)
    tubes = join(
        _tube((-0.52, 0, r), (-0.15, 0, 0.9), 0.02, Material.METAL, label),
        _tube((-0.15, 0, 0.85), (0.40, 0, 0.85), 0.02, Material.METAL, label),
        _tube((-0.05, 0, 0.30), (0.40, 0, 0.80), 0.02, Material.METAL, label),
        _tube((0.52, 0, r), (0.38, 0, 1.02), 0.02, Material.METAL, label),
        _tube((0.36, -0.28, 1.03), (0.36, 0.28, 1.03), 0.015, Material.METAL, label),
    )
    saddle = solids(ELLIPSOID, (-0.18, 0, 0.95), (0.13, 0.07, 0.04), Material.PLASTIC, label)
    return join(rims, tubes, saddle)


def cyclist(rng: np.random.Generator, label: int = MOVING_BICYCLIST) -> Parts:
    """A rider on a bicycle."""
    h = rng.uniform(0.95, 1.1)
    body = join(
        _tube((-0.18, 0, 0.97), (0.12, 0, 1.45 * h), 0.17, Material.CLOTH, label),
        _tube((0.10, -0.2, 1.40 * h), (0.34, -0.25, 1.06), 0.045, Material.CLOTH, label),
        _tube((0.10, 0.2, 1.40 * h), (0.34, 0.25, 1.06), 0.045, Material.CLOTH, label),
        _tube((-0.15, -0.1, 0.95), (0.10, -0.1, 0.30), 0.07, Material.CLOTH, label),
        _tube((-0.15, 0.1, 0.95), (0.15, 0.1, 0.50), 0.07, Material.CLOTH, label),
        solids(ELLIPSOID, (0.20, 0, 1.63 * h), (0.11, 0.09, 0.13), Material.CLOTH, label),
    )
    return join(bicycle(rng, label), body)


def _tube(start, end, radius: float, material: Material, label: int) -> Parts:
    """A cylinder between two points."""
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    axis = end - start
    length = np.linalg.norm(axis)
    axis = axis / length
    turn = rotation(np.arctan2(axis[1], axis[0]), np.arccos(np.clip(axis[2], -1, 1)))
    return solids(CYLINDER, (start + end) / 2, (radius, radius, length / 2), material, label, turn)


def _clumps(rng: np.random.Generator, centre, size, smallest: float, largest: float) -> Parts:
    """Leaf clumps: flat ellipsoids turned at random at the given centres (n, 3)."""
    count = len(centre)
    radius = rng.uniform(smallest, largest, (count, 1)) * size
    half = radius * np.column_stack([rng.uniform(0.6, 1.2, (count, 2)), rng.uniform(0.15, 0.5, count)])
    return solids(ELLIPSOID, centre, half, Material.FOLIAGE, VEGETATION, _random_turns(rng, count))


def _ball(rng: np.random.Generator, count: int, hollow: float) -> np.ndarray:
    """Points in the unit ball (count, 3), pushed outwards by hollow in [0, 1]."""
    p = rng.normal(size=(count, 3))
    p /= np.linalg.norm(p, axis=1, keepdims=True)
    return p * (hollow + (1 - hollow) * rng.random((count, 1)) ** (1 / 3)) ** 1.0


def tree(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """A broad-leaved tree, a conifer, or a bare tree: trunk, limbs, and a crown of leaf clumps with gaps."""
    height = rng.uniform(4.5, 11) * scale
    trunk_r = height * rng.uniform(0.014, 0.026)
    kind = rng.choice(["broad", "conifer", "bare"], p=[0.72, 0.16, 0.12])
    low = rng.uniform(0.2, 0.45) * height if kind != "conifer" else rng.uniform(0.2, 1.0)
    lean = rng.normal(0, 0.03, 2)
    top = np.array([lean[0] * height, lean[1] * height, height * (0.8 if kind != "broad" else 0.65)])
    trunk = _tube((0, 0, -0.3), top, trunk_r, Material.BARK, TRUNK)
    limbs = []
    for _ in range(rng.integers(3, 7) if kind != "conifer" else 0):
        start = top * rng.uniform(0.4, 1.0)
        out = rng.normal(size=3) * (1, 1, 0.3) + (0, 0, 0.8)
        limbs.append(_tube(start, start + out * height * 0.16, trunk_r * 0.35, Material.BARK, TRUNK))
    if kind == "bare":
        for _ in range(14):
            start = top * rng.uniform(0.5, 1.0) + rng.normal(0, 0.05, 3)
            out = rng.normal(size=3) * (1, 1, 0.4) + (0, 0, 0.7)
            limbs.append(_tube(start, start + out * height * 0.15, trunk_r * 0.15, Material.BARK, VEGETATION))
        return join(trunk, *limbs)
    count = int(rng.integers(130, 320))
    if kind == "conifer":
        level = rng.random(count) ** 1.4
        angle, radius = rng.uniform(0, 2 * np.pi, count), (1 - level) * height * rng.uniform(0.16, 0.24)
        radius = radius * np.sqrt(rng.uniform(0.2, 1, count))
        centre = np.column_stack([radius * np.cos(angle), radius * np.sin(angle), low + level * (height - low)])
    else:
        crown = np.array([rng.uniform(0.22, 0.38), rng.uniform(0.22, 0.38), 0.5]) * (height, height, height - low)
        lobes = _ball(rng, int(rng.integers(2, 6)), 0.3) * crown * 0.55  # a crown is several lobes
        which = rng.integers(0, len(lobes), count)
        centre = lobes[which] + _ball(rng, count, 0.4) * crown * 0.62 + (top[0], top[1], (height + low) / 2)
        centre[:, 2] = np.maximum(centre[:, 2], low * 0.75)
    return join(trunk, *limbs, _clumps(rng, centre, 1.0, 0.12, 0.42))


def bush(rng: np.random.Generator, scale: float = 1.0) -> Parts:
    """A shrub."""
    size = np.array([rng.uniform(0.4, 1.1), rng.uniform(0.4, 1.1), rng.uniform(0.35, 0.9)]) * scale
    centre = _ball(rng, int(rng.integers(25, 80)), 0.3) * size + (0, 0, size[2] * 0.8)
    return _clumps(rng, np.maximum(centre, (-9, -9, 0.05)), 1.0, 0.08, 0.24)


def hedge(rng: np.random.Generator, length: float) -> Parts:
    """A clipped or wild hedge along x: a dense core under a skin of leaf clumps."""
    height, depth = rng.uniform(0.8, 2.2), rng.uniform(0.25, 0.55)
    core = solids(BOX, (0, 0, height * 0.46), (length / 2, depth * 0.75, height * 0.46), Material.FOLIAGE, VEGETATION)
    count = int(length * height * rng.uniform(9, 16))
    x, face = rng.uniform(-length / 2, length / 2, count), rng.random(count)
    y = np.where(face < 0.75, np.sign(rng.normal(size=count)) * depth, rng.uniform(-depth, depth, count))
    z = np.where(face < 0.75, rng.uniform(0.1, height, count), height)
    rough = rng.uniform(0.03, 0.12)
    centre = np.column_stack([x, y, z]) + rng.normal(0, rough, (count, 3))
    return join(core, _clumps(rng, centre, 1.0, 0.08, 0.22))


def fence(rng: np.random.Generator, length: float) -> Parts:
    """A wall, pickets, boards, railings, wire mesh, or a guard rail along x."""
    kind = rng.choice(
        ["wall", "pickets", "boards", "railing", "mesh", "guard rail"], p=[0.3, 0.15, 0.15, 0.15, 0.17, 0.08]
    )
    height = rng.uniform(0.7, 1.7)
    if kind == "wall":
        piers = solids(
            BOX,
            [(x, 0, height * 0.55) for x in (-length / 2, length / 2)],
            (0.2, 0.2, height * 0.55),
            Material.FACADE,
            FENCE,
        )
        return join(
            piers,
            solids(
                BOX,
                (0, 0, height / 2 - 0.2),
                (length / 2, rng.uniform(0.08, 0.2), height / 2 + 0.2),
                Material.FACADE,
                FENCE,
            ),
        )
    post_x = np.arange(-length / 2, length / 2 + 0.1, rng.uniform(1.6, 2.6))
    zero = np.zeros_like(post_x)
    if kind == "guard rail":
        posts = solids(BOX, np.column_stack([post_x, zero, zero + 0.35]), (0.05, 0.05, 0.35), Material.METAL, FENCE)
        return join(posts, solids(BOX, (0, 0.06, 0.6), (length / 2, 0.04, 0.16), Material.METAL, FENCE))
    posts = solids(
        BOX, np.column_stack([post_x, zero, zero + height / 2]), (0.04, 0.04, height / 2), Material.WOOD, FENCE
    )
    if kind == "mesh":
        return join(posts, solids(BOX, (0, 0, height / 2), (length / 2, 0.008, height / 2), Material.MESH, FENCE))
    rails = solids(BOX, [(0, 0, 0.2 * height), (0, 0, 0.85 * height)], (length / 2, 0.02, 0.04), Material.WOOD, FENCE)
    width, gap = {"pickets": (0.04, 0.07), "boards": (0.07, 0.01), "railing": (0.012, 0.11)}[kind]
    x = np.arange(-length / 2, length / 2, 2 * width + gap)
    slats = solids(
        BOX,
        np.column_stack([x, 0 * x + 0.03, 0 * x + height / 2]),
        (width, 0.012, height / 2 - 0.03),
        Material.WOOD,
        FENCE,
    )
    return join(posts, rails, slats)


def lamp(rng: np.random.Generator) -> Parts:
    """A street lamp, often with an arm."""
    height, radius = rng.uniform(4, 9), rng.uniform(0.05, 0.1)
    parts = [
        _tube((0, 0, -0.2), (0, 0, height), radius, Material.METAL, POLE),
        solids(CYLINDER, (0, 0, 0.4), (radius * 1.5, radius * 1.5, 0.4), Material.METAL, POLE),
    ]
    if rng.random() < 0.6:
        parts.append(_tube((0, 0, height), (0, rng.uniform(0.8, 2.2), height + 0.3), 0.04, Material.METAL, POLE))
    return join(*parts)


def sign(rng: np.random.Generator) -> Parts:
    """A traffic sign: round, triangular (a square on its corner), or rectangular, on a post."""
    height = rng.uniform(1.9, 2.8)
    post = _tube((0, 0, -0.1), (0, 0, height + 0.2), 0.035, Material.METAL, POLE)
    kind = rng.integers(0, 3)
    if kind == 0:
        board = solids(CYLINDER, (0.05, 0, height), (0.3, 0.3, 0.01), Material.REFLECTIVE, SIGN, rotation(0, np.pi / 2))
    else:
        half = (0.01, 0.3, 0.3) if kind == 1 else (0.01, rng.uniform(0.2, 0.9), rng.uniform(0.15, 0.45))
        board = solids(
            BOX, (0.05, 0, height), half, Material.REFLECTIVE, SIGN, rotation(0, 0, np.pi / 4 if kind == 1 else 0)
        )
    return join(post, board)


def traffic_light(rng: np.random.Generator) -> Parts:
    """A signal post with its head, sometimes on a mast over the road."""
    post = _tube((0, 0, 0), (0, 0, 3.0), 0.06, Material.METAL, POLE)
    head = solids(BOX, (0.1, 0, 2.6), (0.1, 0.15, 0.42), Material.PLASTIC, SIGN)
    return join(post, head)


def small_thing(rng: np.random.Generator) -> Parts:
    """A bollard, cone, bin, junction box, letter box, bench, or hydrant."""
    kind = rng.choice(["bollard", "cone", "bin", "box", "bench", "dustbin"], p=[0.25, 0.15, 0.15, 0.2, 0.1, 0.15])
    if kind == "bollard":
        h = rng.uniform(0.6, 1.1)
        return solids(CYLINDER, (0, 0, h / 2), (0.07, 0.07, h / 2), Material.METAL, POLE)
    if kind == "cone":
        h = rng.uniform(0.5, 0.8)
        foot = solids(BOX, (0, 0, 0.02), (0.18, 0.18, 0.02), Material.PLASTIC, OTHER_OBJECT)
        return join(foot, solids(CONE, (0, 0, h / 2), (0.16, 0.16, h / 2), Material.PLASTIC, OTHER_OBJECT))
    if kind == "bin":
        return solids(CYLINDER, (0, 0, 0.45), (0.25, 0.25, 0.45), Material.PLASTIC, OTHER_OBJECT)
    if kind == "dustbin":
        count = int(rng.integers(1, 4))
        return solids(
            BOX, [(0.65 * i, 0, 0.53) for i in range(count)], (0.28, 0.33, 0.53), Material.PLASTIC, OTHER_OBJECT
        )
    if kind == "box":
        half = rng.uniform((0.3, 0.15, 0.4), (0.7, 0.25, 0.75))
        return solids(BOX, (0, 0, half[2]), half, Material.METAL, OTHER_OBJECT)
    legs = solids(BOX, [(-0.6, 0, 0.21), (0.6, 0, 0.21)], (0.04, 0.2, 0.21), Material.METAL, OTHER_OBJECT)
    return join(
        legs,
        solids(
            BOX, [(0, 0, 0.44), (0, 0.22, 0.68)], [(0.8, 0.22, 0.025), (0.8, 0.02, 0.16)], Material.WOOD, OTHER_OBJECT
        ),
    )


def building(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """A house whose front lies on y = 0 towards -y: walls, window reveals, doors, balconies, porches, roof, chimney.

    width along x, depth along +y.
    """
    turn_up = solids(
        BOX, (0, depth / 2, height / 2 - 0.5), (width / 2, depth / 2, height / 2 + 0.5), Material.FACADE, BUILDING
    )
    parts = [turn_up, _windows(rng, width, height), _windows_side(rng, width, depth, height)]
    parts.append(_roof(rng, width, depth, height))
    if rng.random() < 0.45:  # balconies
        floors = np.arange(2.7, height - 1.5, rng.uniform(2.7, 3.2))
        columns = np.arange(-width / 2 + 2, width / 2 - 1.9, rng.uniform(3, 6))
        out = rng.uniform(0.7, 1.5)
        for z in floors:
            for x in columns:
                parts.append(
                    solids(
                        BOX,
                        [(x, -out / 2, z), (x, -out, z + 0.5)],
                        [(1.3, out / 2, 0.08), (1.3, 0.03, 0.5)],
                        Material.FACADE,
                        BUILDING,
                    )
                )
    if rng.random() < 0.4:  # bay or porch
        x, w, d, h = (
            rng.uniform(-width / 3, width / 3),
            rng.uniform(0.8, 2.2),
            rng.uniform(0.4, 1.6),
            rng.uniform(2.3, max(2.5, height * 0.8)),
        )
        parts.append(solids(BOX, (x, -d / 2, h / 2), (w, d / 2, h / 2), Material.FACADE, BUILDING))
    if rng.random() < 0.5:  # plinth
        parts.append(
            solids(
                BOX,
                (0, depth / 2, 0.2),
                (width / 2 + 0.06, depth / 2 + 0.06, rng.uniform(0.3, 0.8)),
                Material.FACADE,
                BUILDING,
            )
        )
    if rng.random() < 0.4:  # steps to the door
        x = rng.uniform(-width / 3, width / 3)
        parts.append(
            solids(
                BOX,
                [(x, -0.15 - 0.3 * i, 0.24 - 0.08 * i) for i in range(3)],
                [(0.7, 0.15, 0.25 - 0.08 * i) for i in range(3)],
                Material.PAVEMENT,
                BUILDING,
            )
        )
    for s in (-1, 1):  # drain pipes
        if rng.random() < 0.5:
            parts.append(
                _tube(
                    (s * (width / 2 - 0.2), -0.07, 0),
                    (s * (width / 2 - 0.2), -0.07, height),
                    0.05,
                    Material.METAL,
                    BUILDING,
                )
            )
    return join(*parts).toned(rng.uniform(0.6, 1.4), Material.FACADE)


def _windows(rng: np.random.Generator, width: float, height: float) -> Parts:
    """Windows and doors of the front: frames or sills that stand out, glass that stands 2 cm out of the wall.

    Reveals are built outwards (a pilaster around the glass), since solids are never subtracted.
    """
    spacing, w, h = rng.uniform(1.7, 3.6), rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.85)
    x = np.arange(-width / 2 + spacing * 0.6, width / 2 - w, spacing) + rng.uniform(-0.2, 0.2)
    z = np.arange(rng.uniform(1.4, 2.0), height - 0.8, rng.uniform(2.6, 3.3))
    gx, gz = (a.ravel() for a in np.meshgrid(x, z))
    keep = rng.random(len(gx)) < 0.9
    gx, gz = gx[keep], gz[keep]
    if not len(gx):
        return join()
    zero = np.zeros_like(gx)
    glass = solids(BOX, np.column_stack([gx, zero, gz]), (w, 0.02, h), Material.WINDOW, BUILDING)
    frame = rng.uniform(0.06, 0.2)
    out = rng.uniform(0.03, 0.12)
    sills = solids(
        BOX, np.column_stack([gx, zero, gz - h - 0.04]), (w + 0.1, out + 0.06, 0.04), Material.PAVEMENT, BUILDING
    )
    jambs = [
        solids(BOX, np.column_stack([gx + s * (w + frame), zero, gz]), (frame, out, h), Material.FACADE, BUILDING)
        for s in (-1, 1)
    ]
    shutters = (
        []
        if rng.random() < 0.7
        else [
            solids(
                BOX,
                np.column_stack([gx + s * (w * 1.6 + frame), zero, gz]),
                (w * 0.55, 0.05, h),
                Material.WOOD,
                BUILDING,
            )
            for s in (-1, 1)
        ]
    )
    door_x = rng.uniform(-width / 2 + 1, width / 2 - 1)
    door = solids(BOX, (door_x, 0, 1.05), (0.5, 0.04, 1.05), Material.WOOD, BUILDING)
    return join(glass, sills, *(jambs if rng.random() < 0.7 else []), *shutters, door)


def _windows_side(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    y = np.arange(rng.uniform(1.2, 2.5), depth - 1, rng.uniform(2.5, 5))
    if not len(y) or rng.random() < 0.4:
        return join()
    z = rng.uniform(1.4, 2.0)
    sides = [
        solids(
            BOX, np.column_stack([0 * y + s * width / 2, y, 0 * y + z]), (0.02, 0.45, 0.6), Material.WINDOW, BUILDING
        )
        for s in (-1, 1)
    ]
    return join(*sides)


def _roof(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """Flat with a parapet, or two slopes along x."""
    if rng.random() < 0.35:
        return solids(
            BOX, (0, depth / 2, height + 0.2), (width / 2 + 0.1, depth / 2 + 0.1, 0.25), Material.FACADE, BUILDING
        )
    pitch, eave = rng.uniform(0.35, 0.8), rng.uniform(0.2, 0.7)
    run = depth / 2 + eave
    rise = run * np.tan(pitch)
    half = (width / 2 + 0.2, np.hypot(run, rise) / 2, 0.08)
    base = height - eave * np.tan(pitch)
    front = solids(
        BOX, (0, depth / 2 - run / 2, base + rise / 2), half, Material.FACADE, BUILDING, rotation(0, 0, pitch)
    )
    rear = solids(
        BOX, (0, depth / 2 + run / 2, base + rise / 2), half, Material.FACADE, BUILDING, rotation(0, 0, -pitch)
    )
    chimney = solids(
        BOX, (rng.uniform(-width / 3, width / 3), depth / 2, height + rise), (0.3, 0.3, 0.8), Material.FACADE, BUILDING
    )
    return join(front, rear, chimney)


def shed(rng: np.random.Generator) -> Parts:
    """A garage or shed."""
    width, depth, height = rng.uniform(2.5, 4), rng.uniform(3, 6), rng.uniform(2.1, 2.8)
    walls = solids(
        BOX, (0, depth / 2, height / 2 - 0.3), (width / 2, depth / 2, height / 2 + 0.3), Material.FACADE, BUILDING
    )
    door = solids(BOX, (0, 0, 1.0), (width / 2 - 0.3, 0.03, 1.0), Material.METAL, BUILDING)
    return join(walls, door)


def bus_stop(rng: np.random.Generator) -> Parts:
    """A shelter of glass and posts."""
    posts = [
        _tube((x, y, 0), (x, y, 2.4), 0.04, Material.METAL, OTHER_STRUCTURE) for x in (-1.8, 1.8) for y in (0, 1.3)
    ]
    back = solids(BOX, (0, 1.3, 1.2), (1.8, 0.01, 1.0), Material.CAR_GLASS, OTHER_STRUCTURE)
    roof = solids(BOX, (0, 0.65, 2.45), (2.0, 0.9, 0.06), Material.METAL, OTHER_STRUCTURE)
    return join(*posts, back, roof)
