"""Height field of a street: hills, crowned carriageway, kerbs, pavements, verges, banks, rough grass, lane markings."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .. import raycast
from ..objects import Material
from .centre_line import Street
from .recipe import StreetKind

CELL_M = 0.2
CROWN = 0.022  # cross slope of the carriageway


def draw_ground(
    rng: np.random.Generator,
    streets: tuple[Street, ...],
    kind: StreetKind,
    half_x: float,
    half_y: float,
    relief: float = 1.0,
    banks: float = 1.0,
) -> raycast.Ground:
    """Height field over [-half_x, half_x] x [-half_y, half_y] metres. relief, banks: factors on hills and on banks beside the street."""
    nx, ny = int(2 * half_x / CELL_M) + 1, int(2 * half_y / CELL_M) + 1
    x = (np.arange(nx, dtype=np.float32) * CELL_M - half_x)[:, None]
    y = (np.arange(ny, dtype=np.float32) * CELL_M - half_y)[None, :]
    height = _hills(rng, x, y, relief)
    meadow = rng.random() < 0.7 or kind.rural
    material = np.full((nx, ny), Material.GRASS if meadow else Material.PAVEMENT, np.uint8)
    edge, walk = _lay_streets(rng, streets, banks * (2.0 if kind.rural else 1.0), x, y, height, material)
    material[(edge >= 0) & (edge < walk)] = Material.PAVEMENT
    lowered = _driveways(rng, x, y)
    height += np.float32(streets[0].kerb) * _smooth_step(edge, CELL_M) * lowered
    height += _roughness(rng, material == Material.GRASS)
    return raycast.make_ground(height, material, (-half_x, -half_y), CELL_M)


def _lay_streets(
    rng: np.random.Generator,
    streets: tuple[Street, ...],
    banks: float,
    x: np.ndarray,
    y: np.ndarray,
    height: np.ndarray,
    material: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Writes carriageways and banks into height and material (X, Y).

    Returns the distance beyond the edge of the nearest carriageway (negative on it) and the width of its pavement, (X, Y) metres.
    """
    edge = np.full(height.shape, 1e6, np.float32)
    walk = np.zeros(height.shape, np.float32)
    for number, s in enumerate(streets):
        along, lateral = (a.astype(np.float32) for a in s.offsets(x, y))
        if number and s.is_one_sided:
            lateral = np.where(along < -streets[0].half_width * 2, 1e3, lateral)
        beyond = np.abs(lateral) - np.float32(s.half_width)
        nearer = beyond < edge
        edge = np.where(nearer, beyond, edge)
        walk = np.where(nearer, np.where(lateral > 0, s.sidewalk[1], s.sidewalk[0]).astype(np.float32), walk)
        on = beyond < 0
        height += np.where(on, CROWN * np.minimum(-beyond, s.half_width), 0).astype(np.float32)
        dash = (np.abs(lateral) < 0.12) & (np.mod(along, 9) < 4) & on & (s.half_width > 3)
        material[on] = Material.ASPHALT
        material[dash] = Material.MARKING
        if number == 0:
            bank = rng.normal(0, 0.09, 2) * banks
            far = np.clip(beyond - 3.0, 0, 12.0)
            height += (far * np.where(lateral > 0, bank[1], bank[0])).astype(np.float32)
    return edge, walk


def _roughness(rng: np.random.Generator, grass: np.ndarray) -> np.ndarray:
    """Small-scale height noise (X, Y) float32, larger on grass."""
    nx, ny = grass.shape
    rough = gaussian_filter(rng.standard_normal((nx // 2 + 1, ny // 2 + 1), dtype=np.float32), 0.6)
    rough = np.repeat(np.repeat(rough, 2, 0), 2, 1)[:nx, :ny]
    return rough * np.where(grass, rng.uniform(0.02, 0.09), rng.uniform(0.003, 0.010)).astype(np.float32)


def _smooth_step(d: np.ndarray, width: float) -> np.ndarray:
    u = np.clip(d / width, 0, 1)
    return u * u * (3 - 2 * u)


def _hills(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, relief: float) -> np.ndarray:
    """Uniform slope plus three waves, times relief, (X, Y) float32."""
    slope = rng.normal(0, (0.02, 0.025))
    height = slope[0] * x + slope[1] * y
    for _ in range(3):
        wave, turn = rng.uniform(50, 200), rng.uniform(0, 2 * np.pi)
        k = 2 * np.pi / wave
        # sin(a + b) from the sines of each axis is cheap on a raster
        a, b = k * np.cos(turn) * x + rng.uniform(0, 6), k * np.sin(turn) * y
        height = height + rng.normal(0, 0.0035 * wave) * (np.sin(a) * np.cos(b) + np.cos(a) * np.sin(b))
    return (height * relief).astype(np.float32)


def _driveways(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Factor (X, Y) on the kerb height: lower at driveways."""
    factor = np.ones((len(x), 2), np.float32)
    for _ in range(rng.integers(0, 14)):
        at, side = rng.uniform(x.min(), x.max()), rng.integers(0, 2)
        factor[np.abs(x[:, 0] - at) < rng.uniform(1.2, 3), side] = 0.15
    return np.where(y > 0, factor[:, 1:], factor[:, :1])
