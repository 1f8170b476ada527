"""A street and its surroundings, drawn from a seed.

World frame: metres, z up, origin on the main street's centre line near the middle of the drive.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from . import objects, raycast
from .objects import GROUND_LABELS, SURFACE_TABLE, TERRAIN, Material, Parts, join

CELL_M = 0.2


@dataclass(frozen=True)
class Street:
    """A centre line y = amplitude * (sin(2 pi x / period + phase) - sin(phase)) in its own frame, turned by heading and moved to start (2,)."""

    start: tuple[float, float]
    heading: float
    amplitude: float
    period: float
    phase: float
    half_width: float
    sidewalk: tuple[float, float]  # right (y < 0), left
    kerb: float
    lane: float  # lateral of the car's lane

    def offsets(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Along (...) and lateral (...) metres of world points; lateral is positive on the left."""
        c, s = np.cos(self.heading), np.sin(self.heading)
        dx, dy = x - self.start[0], y - self.start[1]
        along, across = c * dx + s * dy, -s * dx + c * dy
        k = 2 * np.pi / self.period
        angle = along * k + self.phase
        slope = self.amplitude * k * np.cos(angle)
        return along, (across - self.amplitude * (np.sin(angle) - np.sin(self.phase))) / np.sqrt(1 + slope**2)

    def at(self, along: float, lateral: float = 0.0) -> tuple[float, float, float]:
        """World x, y and the street's yaw at a distance along it and to its left."""
        k = 2 * np.pi / self.period
        angle = along * k + self.phase
        bend = np.arctan(self.amplitude * k * np.cos(angle))
        across = self.amplitude * (np.sin(angle) - np.sin(self.phase))
        lx, ly = along - lateral * np.sin(bend), across + lateral * np.cos(bend)
        c, s = np.cos(self.heading), np.sin(self.heading)
        return self.start[0] + c * lx - s * ly, self.start[1] + s * lx + c * ly, self.heading + bend


@dataclass(frozen=True)
class World:
    """What rays can hit, and the drive through it.

    material, label, tone (P,) belong to `solids`; mover_parts, mover_velocity (Q, 2) m/s, mover_thing (Q,): what moves, at time 0, and which parts are one thing. path (K, 4): x, y, z
    of the road under the car and yaw, every half metre of the drive; path_middle: the row of its middle. streets: first the main one.
    """

    seed: int
    ground: raycast.Ground
    solids: raycast.Solids
    material: np.ndarray
    label: np.ndarray
    tone: np.ndarray
    mover_parts: Parts
    mover_velocity: np.ndarray
    mover_thing: np.ndarray
    path: np.ndarray
    path_middle: int
    streets: tuple[Street, ...]
    kind: str
    parameters: dict = field(default_factory=dict)

    def movers_at(self, time_s: float, clear_of: np.ndarray | None = None) -> raycast.Solids:
        """Solids of what moves, at a time in seconds; what would touch a car at clear_of (2,) is put far below the ground."""
        if not len(self.mover_parts):
            return empty_solids()
        matrix = self.mover_parts.to_world.copy()
        matrix[:, :2, 3] += self.mover_velocity * time_s
        if clear_of is not None:
            reach = np.linalg.norm(matrix[:, :2, :3], axis=(1, 2))
            near = np.linalg.norm(matrix[:, :2, 3] - clear_of, axis=1) - reach < 2.0
            matrix[np.isin(self.mover_thing, self.mover_thing[near]), 2, 3] -= 1e3
        return raycast.make_solids(self.mover_parts.shape, matrix, SURFACE_TABLE[self.mover_parts.material, 2])

    def surface(
        self, solid: np.ndarray, points: np.ndarray, moving: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Material (N,) uint8, label (N,) uint16 and tone (N,) float32 of hits: `solid` as `raycast.cast` returns it, points (N, 3)."""
        tables = [self.material, self.label, self.tone]
        if moving:
            parts = self.mover_parts
            tables = [
                np.concatenate(pair) for pair in zip(tables, (parts.material, parts.label, parts.tone), strict=True)
            ]
        hit, ground = solid >= 0, np.flatnonzero(solid == raycast.GROUND)
        if len(tables[0]):
            material, label, tone = (
                np.where(hit, table[np.maximum(solid, 0)], 0).astype(table.dtype) for table in tables
            )
        else:
            material, label, tone = (np.zeros(len(solid), table.dtype) for table in tables)
        material[ground] = self.ground.material_at(points[ground, 0], points[ground, 1])
        label[ground] = GROUND_TABLE[material[ground]]
        tone[ground] = 1.0
        return material, label, tone

    def pose_at(self, along_m: float, height_m: float = 1.73) -> np.ndarray:
        """Pose (4, 4), world from sensor, at a distance in metres from the middle of the drive; pitch and roll follow the road."""
        row = np.clip(self.path_middle + along_m / PATH_STEP_M, 0, len(self.path) - 1.001)
        i, u = int(row), row - int(row)
        x, y, _z, yaw = self.path[i] * (1 - u) + self.path[i + 1] * u
        c, s = np.cos(yaw), np.sin(yaw)
        front, rear = self.ground.height_at([x + 1.4 * c, x - 1.4 * c], [y + 1.4 * s, y - 1.4 * s])
        left, right = self.ground.height_at([x - 0.8 * s, x + 0.8 * s], [y + 0.8 * c, y - 0.8 * c])
        pose = np.eye(4)
        pose[:3, :3] = objects.rotation(yaw, -np.arctan2(front - rear, 2.8), np.arctan2(left - right, 1.6))
        pose[:3, 3] = (x, y, (front + rear + left + right) / 4) + pose[:3, 2] * height_m
        return pose

    @property
    def drive_length_m(self) -> float:
        """Length of the whole path."""
        return (len(self.path) - 1) * PATH_STEP_M


PATH_STEP_M = 0.5
GROUND_TABLE = np.array([GROUND_LABELS.get(m, TERRAIN) for m in Material], dtype=np.uint16)


def empty_solids() -> raycast.Solids:
    """No solids."""
    return raycast.make_solids(np.zeros(0, np.int8), np.zeros((0, 3, 4)), np.zeros(0))


# kind: half width, sidewalk, setback, house width, house depth, house height, gap between houses, and chances along the kerb
KINDS: dict[str, dict] = {
    "inner city": dict(half_width=(3.0, 5.5), sidewalk=(1.2, 3.5), setback=(0.0, 0.6), house=(7, 18), height=(7, 18), gap=(0.0, 0.25), parked=0.55, trees=0.12, fences=0.1),
    "terraces": dict(half_width=(2.8, 5.2), sidewalk=(1.0, 2.8), setback=(1.5, 6.0), house=(6, 14), height=(5, 10), gap=(0.3, 0.5), parked=0.5, trees=0.3, fences=0.75),
    "gardens": dict(half_width=(2.8, 5.0), sidewalk=(0.0, 2.4), setback=(3.0, 11.0), house=(7, 14), height=(3.5, 8), gap=(0.8, 0.8), parked=0.35, trees=0.6, fences=0.8),
    "avenue": dict(half_width=(4.5, 8.0), sidewalk=(2.0, 5.0), setback=(1.0, 14.0), house=(12, 30), height=(8, 20), gap=(0.6, 0.8), parked=0.5, trees=0.8, fences=0.35),
    "country": dict(half_width=(2.4, 4.0), sidewalk=(0.0, 0.0), setback=(6.0, 20.0), house=(7, 16), height=(3.5, 8), gap=(0.9, 4.0), parked=0.04, trees=1.0, fences=0.5),
}  # fmt: skip
KIND_WEIGHTS = {"inner city": 0.27, "terraces": 0.25, "gardens": 0.25, "avenue": 0.13, "country": 0.10}


def street(
    seed: int,
    *,
    kind: str | None = None,
    half_length_m: float = 110.0,
    half_depth_m: float = 75.0,
    traffic: float = 1.0,
) -> World:
    """A street world drawn from a seed.

    kind: one of KINDS, or None to draw it. half_length_m: the world reaches so far to both sides along the main street, half_depth_m
    across. traffic: scales the number of moving things.
    """
    rng = np.random.default_rng([seed, 20240])
    kind = str(rng.choice(list(KIND_WEIGHTS), p=list(KIND_WEIGHTS.values()))) if kind is None else kind
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, found {kind!r}")
    streets = _streets(rng, kind, half_length_m)
    ground = _ground(rng, streets, kind, half_length_m + 10, half_depth_m + 10)
    path, middle = _drive(rng, streets, ground, half_length_m)
    parts, movers, velocity, thing = _furnish(rng, streets, ground, kind, half_length_m, half_depth_m, traffic)
    parts = _clear_of_drive(parts, path)
    solids = raycast.make_solids(parts.shape, parts.to_world, SURFACE_TABLE[parts.material, 2])
    return World(
        seed, ground, solids, parts.material, parts.label, parts.tone, movers, velocity, thing, path, middle, streets, kind,
        dict(kind=kind, half_length_m=half_length_m, half_depth_m=half_depth_m, traffic=traffic),
    )  # fmt: skip


def _streets(rng: np.random.Generator, kind: str, half_length_m: float) -> tuple[Street, ...]:
    """The main street along x, and cross streets."""

    def one(start, heading, bend):
        settings = KINDS[kind]
        sidewalk = rng.uniform(*settings["sidewalk"], 2)
        half_width = rng.uniform(*settings["half_width"])
        lane = (-1 if rng.random() < 0.85 else 1) * min(
            half_width * 0.45, rng.uniform(1.3, 2.0)
        )  # right-hand traffic mostly
        return Street(
            start, heading, rng.normal(0, bend), rng.uniform(90, 260), rng.uniform(0, 2 * np.pi), half_width,
            tuple(float(v) for v in np.where(rng.random(2) < 0.9, sidewalk, 0)), float(rng.uniform(0.04, 0.16)) if kind != "country" else 0.0, lane,
        )  # fmt: skip

    main = one((0.0, 0.0), 0.0, 5.0)
    crossings = []
    x = -half_length_m + rng.uniform(10, 90)
    while x < half_length_m - 10:
        px, py, yaw = main.at(x)
        crossings.append(one((px, py), yaw + rng.choice((-1, 1)) * (np.pi / 2 + rng.normal(0, 0.2)), 3.0))
        x += rng.uniform(35, 150)
    return (main, *crossings)


def _smooth_step(d: np.ndarray, width: float) -> np.ndarray:
    u = np.clip(d / width, 0, 1)
    return u * u * (3 - 2 * u)


def _ground(rng: np.random.Generator, streets, kind: str, half_x: float, half_y: float) -> raycast.Ground:
    """Hills, the crowned carriageway, kerbs, pavements, verges, banks, rough grass, lane markings."""
    nx, ny = int(2 * half_x / CELL_M) + 1, int(2 * half_y / CELL_M) + 1
    x = (np.arange(nx, dtype=np.float32) * CELL_M - half_x)[:, None]
    y = (np.arange(ny, dtype=np.float32) * CELL_M - half_y)[None, :]
    height = _hills(rng, x, y)
    edge = np.full((nx, ny), 1e6, np.float32)  # metres beyond the nearest carriageway's edge, negative on it
    walk = np.zeros((nx, ny), np.float32)
    material = np.full(
        (nx, ny), Material.GRASS if rng.random() < 0.7 or kind == "country" else Material.PAVEMENT, np.uint8
    )
    kerb = np.float32(streets[0].kerb)
    for number, s in enumerate(streets):
        along, lateral = (a.astype(np.float32) for a in s.offsets(x, y))
        if number:  # most cross streets end at the main street
            lateral = np.where(along < -streets[0].half_width * 2, 1e3, lateral) if s.phase < 4.0 else lateral
        beyond = np.abs(lateral) - np.float32(s.half_width)
        nearer = beyond < edge
        edge = np.where(nearer, beyond, edge)
        walk = np.where(nearer, np.where(lateral > 0, s.sidewalk[1], s.sidewalk[0]).astype(np.float32), walk)
        on = beyond < 0
        height += np.where(on, 0.022 * np.minimum(-beyond, s.half_width), 0).astype(np.float32)
        dash = (np.abs(lateral) < 0.12) & (np.mod(along, 9) < 4) & on & (s.half_width > 3)
        material[on] = Material.ASPHALT
        material[dash] = Material.MARKING
        if number == 0:
            bank = rng.normal(0, 0.09, 2) * (2.0 if kind == "country" else 1.0)
            far = np.clip(beyond - 3.0, 0, 12.0)
            height += (far * np.where(lateral > 0, bank[1], bank[0])).astype(np.float32)
    material[(edge >= 0) & (edge < walk)] = Material.PAVEMENT
    lowered = _driveways(rng, x, y)
    height += kerb * _smooth_step(edge, CELL_M) * lowered
    grass = material == Material.GRASS
    rough = gaussian_filter(rng.standard_normal((nx // 2 + 1, ny // 2 + 1), dtype=np.float32), 0.6)
    rough = np.repeat(np.repeat(rough, 2, 0), 2, 1)[:nx, :ny]
    height += rough * np.where(grass, rng.uniform(0.02, 0.09), rng.uniform(0.003, 0.010)).astype(np.float32)
    return raycast.make_ground(height, material, (-half_x, -half_y), CELL_M)


def _hills(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slope = rng.normal(0, (0.02, 0.025))
    height = slope[0] * x + slope[1] * y
    for _ in range(3):
        wave, turn = rng.uniform(50, 200), rng.uniform(0, 2 * np.pi)
        k = 2 * np.pi / wave
        # sin(a + b) from sines of the two axes: cheap on a raster
        a, b = k * np.cos(turn) * x + rng.uniform(0, 6), k * np.sin(turn) * y
        height = height + rng.normal(0, 0.0035 * wave) * (np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b))
    return height.astype(np.float32)


def _driveways(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Factor on the kerb (X, 2 sides of y broadcast): lowered at entrances."""
    factor = np.ones((len(x), 2), np.float32)
    for _ in range(rng.integers(0, 14)):
        at, side = rng.uniform(x.min(), x.max()), rng.integers(0, 2)
        factor[np.abs(x[:, 0] - at) < rng.uniform(1.2, 3), side] = 0.15
    return np.where(y > 0, factor[:, 1:], factor[:, :1])


def _drive(rng: np.random.Generator, streets, ground: raycast.Ground, half_length_m: float) -> tuple[np.ndarray, int]:
    """The car's path (K, 4), in the right or the left lane of the main street; sometimes it turns into a cross street."""
    main = streets[0]
    along = np.arange(-half_length_m + 2, half_length_m - 2, 0.1)
    points = np.array([main.at(a, main.lane + 0.15 * np.sin(a / 23)) for a in along])
    step = np.r_[0, np.cumsum(np.linalg.norm(np.diff(points[:, :2], axis=0), axis=1))]
    s = np.arange(0, step[-1], PATH_STEP_M)
    x, y, yaw = (np.interp(s, step, points[:, i]) for i in range(3))
    if main.lane > 0:  # towards -x, so that the car keeps to the right
        x, y, yaw = x[::-1], y[::-1], yaw[::-1] + np.pi
    return np.column_stack([x, y, ground.height_at(x, y), yaw]), len(s) // 2


def _clear_of_drive(parts: Parts, path: np.ndarray) -> Parts:
    """Without the solids that stand in the car's way."""
    centre, reach = parts.to_world[:, :, 3], np.linalg.norm(parts.to_world[:, :2, :3], axis=(1, 2))
    road = path[::2]
    nearest, at = cKDTree(road[:, :2]).query(centre[:, :2])
    low = centre[:, 2] - road[at, 2]
    blocked = (nearest < 1.25 + np.minimum(reach, 0.6)) & (low < 2.6)
    return parts.chosen(~blocked)


class _Taken:
    """Circles on the ground that are in use."""

    def __init__(self) -> None:
        self.circles: list[tuple[float, float, float]] = []

    def free(self, x: float, y: float, radius: float) -> bool:
        """Whether a circle touches none; it is then taken."""
        if self.circles:
            c = np.asarray(self.circles)
            if np.any(np.hypot(c[:, 0] - x, c[:, 1] - y) < c[:, 2] + radius):
                return False
        self.circles.append((x, y, radius))
        return True


def _furnish(
    rng, streets, ground, kind, half_length_m, half_depth_m, traffic
) -> tuple[Parts, Parts, np.ndarray, np.ndarray]:
    """Everything that stands or moves: static parts, moving parts, their velocity (Q, 2) and thing (Q,)."""
    settings = KINDS[kind]
    static: list[Parts] = []
    movers: list[Parts] = []
    velocity: list[np.ndarray] = []
    houses = _Taken()

    def put(parts: Parts, x: float, y: float, yaw: float) -> None:
        if abs(x) < half_length_m + 5 and abs(y) < half_depth_m + 5:
            static.append(parts.placed(x, y, float(ground.height_at(x, y)), yaw))

    def beyond_streets(x: float, y: float, but: int = -1) -> float:
        return min(
            (abs(s.offsets(x, y)[1]) - s.half_width - s.sidewalk[0] for i, s in enumerate(streets) if i != but),
            default=1e3,
        )

    for number, s in enumerate(streets):
        reach = half_length_m if number == 0 else half_depth_m
        start = -reach if number == 0 or s.phase >= 4.0 else streets[0].half_width + 2
        for side in (-1, 1):
            _houses(rng, settings, s, number, side, start, reach, put, beyond_streets, houses)
            _kerbside(rng, settings, s, number, side, start, reach, put, beyond_streets)
        _traffic(rng, s, start, reach, traffic if kind != "country" else traffic * 0.4, ground, movers, velocity)
    _scatter(rng, kind, half_length_m, half_depth_m, put, beyond_streets, houses)
    thing = np.repeat(np.arange(len(movers)), [len(m) for m in movers])
    return join(*static), join(*movers), np.concatenate([np.zeros((0, 2)), *velocity]), thing


def _houses(rng, settings, s: Street, number, side, start, reach, put, beyond_streets, taken: _Taken) -> None:
    """A row of houses on one side, with gaps, gardens, hedges, fences, sheds, and trees before and between them."""
    walk = s.half_width + s.sidewalk[0 if side < 0 else 1]
    setback = rng.uniform(*settings["setback"])
    turn = 0.0 if side > 0 else np.pi
    along = start + rng.uniform(0, 6)
    height = rng.uniform(*settings["height"])
    fence_style = rng.random()
    while along < reach:
        width = rng.uniform(*settings["house"])
        middle = along + width / 2
        depth = rng.uniform(7, 13)
        back = max(0.0, setback + rng.normal(0, 0.35) * min(setback, 3))
        x, y, yaw = s.at(middle, side * (walk + back))
        cx, cy, _ = s.at(middle, side * (walk + back + depth / 2))
        corners = [s.at(middle + a * width / 2, side * (walk + back + b * depth))[:2] for a in (-1, 1) for b in (0, 1)]
        clear = min(beyond_streets(*c, but=number) for c in corners) > 0.5
        if clear and rng.random() < 0.93 and taken.free(cx, cy, min(width, depth) * 0.45):
            put(objects.building(rng, width, depth, height * rng.uniform(0.85, 1.15)), x, y, yaw + turn)
        elif clear and rng.random() < 0.4:
            put(objects.shed(rng), x, y, yaw + turn)
        if clear and back > 1.2:
            _garden(rng, settings, s, side, middle, width, walk, back, fence_style, put)
        gap = 0.0 if rng.random() > settings["gap"][0] else rng.uniform(1.5, 4 + 6 * settings["gap"][1])
        if gap > 2.5:
            bx, by, byaw = s.at(along + width + gap / 2, side * (walk + back + rng.uniform(0, 4)))
            if beyond_streets(bx, by, but=number) > 1:
                what = rng.random()
                if what < 0.35:
                    put(objects.tree(rng, 0.8), bx, by, 0)
                elif what < 0.6:
                    put(objects.shed(rng), bx, by, byaw + turn)
                elif what < 0.85:
                    put(objects.car(rng), bx, by, byaw + np.pi / 2)
        along += width + gap


def _garden(rng, settings, s, side, middle, width, walk, back, style, put) -> None:
    """Hedge or fence along the pavement, bushes and trees behind it."""
    if rng.random() < settings["fences"]:
        length = width * rng.uniform(0.5, 1.0)
        x, y, yaw = s.at(middle + rng.uniform(-0.2, 0.2) * width, side * (walk + 0.4))
        put(
            objects.hedge(rng, length) if (style < 0.45) ^ (rng.random() < 0.2) else objects.fence(rng, length),
            x,
            y,
            yaw,
        )
    for _ in range(rng.poisson(min(back, 8) * width * 0.02)):
        x, y, _ = s.at(middle + rng.uniform(-0.5, 0.5) * width, side * (walk + rng.uniform(0.8, back)))
        put(objects.bush(rng), x, y, rng.uniform(0, 6))
    if back > 3 and rng.random() < settings["trees"] * 0.7:
        x, y, _ = s.at(middle + rng.uniform(-0.5, 0.5) * width, side * (walk + rng.uniform(1.5, back)))
        put(objects.tree(rng, rng.uniform(0.5, 0.9)), x, y, 0)


def _kerbside(rng, settings, s: Street, number, side, start, reach, put, beyond_streets) -> None:
    """Parked cars on the carriageway's edge; lamps, trees, signs, and small things on the pavement."""
    walk = s.sidewalk[0 if side < 0 else 1]
    parked = np.clip(settings["parked"] + rng.normal(0, 0.3), 0, 0.95)
    inset = s.half_width - 0.95 if s.half_width > 3.6 else s.half_width + rng.uniform(-0.2, 0.6)
    inset = max(inset, side * s.lane + rng.uniform(2.2, 2.6))  # room to pass; half on the pavement in narrow streets
    along = start + rng.uniform(0, 8)
    while along < reach:
        length = 4.5
        if rng.random() < parked:
            kind = rng.choice(["car", "van", "truck"], p=[0.87, 0.11, 0.02])
            x, y, yaw = s.at(along, side * (inset + rng.normal(0, 0.08)))
            if beyond_streets(x, y, but=number) > 3:
                thing = {"car": objects.car, "van": objects.van, "truck": objects.truck}[kind](rng)
                put(thing, x, y, yaw + (np.pi if rng.random() < 0.3 else 0) + rng.normal(0, 0.02))
            length += {"car": 0.0, "van": 1.5, "truck": 5.0}[kind]
        along += length + rng.exponential(1.2) + 0.4
    every = rng.uniform(18, 35)
    for a in np.arange(start + rng.uniform(0, every), reach, every):
        x, y, yaw = s.at(a, side * (s.half_width + 0.4))
        if beyond_streets(x, y, but=number) > 0:
            put(objects.lamp(rng), x, y, yaw + (np.pi if side > 0 else 0))
    if rng.random() < settings["trees"]:
        every = rng.uniform(6, 16)
        for a in np.arange(start + rng.uniform(0, every), reach, every):
            x, y, _ = s.at(
                a + rng.normal(0, 0.8), side * (s.half_width + max(0.6, min(walk * 0.3, 1.2)) + rng.uniform(0, 0.5))
            )
            if beyond_streets(x, y, but=number) > 1 and rng.random() < 0.8:
                put(objects.tree(rng, rng.uniform(0.7, 1.1)), x, y, rng.uniform(0, 6))
    for _ in range(rng.poisson((reach - start) / 14)):
        x, y, yaw = s.at(rng.uniform(start, reach), side * (s.half_width + rng.uniform(0.25, max(walk, 0.8))))
        if beyond_streets(x, y, but=number) > 0:
            what = rng.random()
            if what < 0.3:
                put(objects.sign(rng), x, y, yaw + (0 if side > 0 else np.pi) + rng.normal(0, 0.1))
            elif what < 0.36:
                put(objects.traffic_light(rng), x, y, yaw)
            elif what < 0.40 and walk > 2:
                put(objects.bus_stop(rng), x, y, yaw + (0 if side > 0 else np.pi))
            elif what < 0.5:
                put(objects.bicycle(rng), x, y, yaw + rng.uniform(-0.5, 0.5))
            else:
                put(objects.small_thing(rng), x, y, yaw)
    if rng.random() < 0.12:  # a row of cones or bollards
        a = rng.uniform(start, reach)
        for i in range(int(rng.integers(3, 12))):
            x, y, yaw = s.at(a + 2.0 * i, side * (s.half_width - 0.2))
            put(objects.small_thing(np.random.default_rng(int(rng.integers(9)))), x, y, yaw)


def _traffic(rng, s: Street, start, reach, traffic, ground, movers, velocity) -> None:
    """Cars, lorries, and cyclists in the lanes, pedestrians on the pavements; all with a speed."""

    def put(parts: Parts, along: float, lateral: float, speed: float, way: int) -> None:
        x, y, yaw = s.at(along, lateral)
        yaw += 0 if way > 0 else np.pi
        movers.append(parts.placed(x, y, float(ground.height_at(x, y)), yaw))
        velocity.append(np.tile((speed * np.cos(yaw), speed * np.sin(yaw)), (len(parts), 1)))

    length = max(reach - start, 0)
    for _ in range(rng.poisson(traffic * length / 28)):
        way = int(rng.choice((-1, 1)))
        lane = -way * s.half_width * 0.45
        kind = rng.choice(["car", "truck", "van", "bike"], p=[0.68, 0.07, 0.11, 0.14])
        make = {
            "car": lambda: objects.car(rng, objects.MOVING_CAR), "truck": lambda: objects.truck(rng, objects.MOVING_TRUCK),
            "van": lambda: objects.van(rng, objects.MOVING_OTHER), "bike": lambda: objects.cyclist(rng),
        }[kind]  # fmt: skip
        put(make(), rng.uniform(start, reach), lane, rng.uniform(3, 14) if kind != "bike" else rng.uniform(2, 7), way)
    for _ in range(rng.poisson(traffic * length / 22)):
        side, way = int(rng.choice((-1, 1))), int(rng.choice((-1, 1)))
        lateral = side * (s.half_width + rng.uniform(0.2, max(s.sidewalk[0 if side < 0 else 1], 0.7)))
        put(objects.person(rng), rng.uniform(start, reach), lateral, rng.uniform(0.5, 1.8), way)


def _scatter(rng, kind, half_length_m, half_depth_m, put, beyond_streets, taken: _Taken) -> None:
    """Trees, bushes, and houses behind the rows and in the fields."""
    for _ in range(rng.poisson({"inner city": 6, "country": 30}.get(kind, 16))):
        x, y = rng.uniform(-half_length_m, half_length_m), rng.uniform(-half_depth_m, half_depth_m)
        if beyond_streets(x, y) > 4:
            if rng.random() < 0.25 and taken.free(x, y, 7):
                put(
                    objects.building(rng, rng.uniform(8, 20), rng.uniform(7, 14), rng.uniform(4, 10)),
                    x,
                    y,
                    rng.uniform(0, 6),
                )
            elif taken.free(x, y, 1.0):
                put(objects.tree(rng), x, y, rng.uniform(0, 6))
            else:
                put(objects.bush(rng, 1.3), x, y, rng.uniform(0, 6))
