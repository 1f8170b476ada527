"""Poles, masts, signs and traffic lights. Arms point to +y, which is placed towards the street."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX, CYLINDER
from .materials import OTHER_OBJECT, POLE, SIGN, Material
from .solids import Parts, join, rotation, solids, tube


def pole(rng: np.random.Generator) -> Parts:
    """Plain pole, 1-10 m high, 4-30 cm in diameter: flag poles, posts, columns of awnings."""
    height = float(np.exp(rng.uniform(0, np.log(10))))
    radius = rng.uniform(0.02, 0.06) * (1 + 0.15 * height)
    material = (Material.METAL, Material.WOOD, Material.FACADE)[int(rng.integers(3))]
    return tube((0, 0, -0.2), (rng.normal(0, 0.02) * height, 0, height), radius, material, POLE)


def utility_pole(rng: np.random.Generator) -> Parts:
    """Wooden pole with one or two crossarms along y and, sometimes, a transformer."""
    height, radius = rng.uniform(6, 11), rng.uniform(0.09, 0.16)
    parts = [tube((0, 0, -0.3), (0, 0, height), radius, Material.WOOD, POLE)]
    for level in range(int(rng.integers(0, 3))):
        half = (0.05, rng.uniform(0.6, 1.3), 0.06)
        parts.append(solids(BOX, (0, 0, height - 0.4 - 0.9 * level), half, Material.WOOD, POLE))
    if rng.random() < 0.2:
        drum = (0.25, 0, height - 1.8)
        parts.append(solids(CYLINDER, drum, (0.22, 0.22, 0.45), Material.METAL, POLE))
    return join(*parts)


def tram_mast(rng: np.random.Generator) -> Parts:
    """Mast with a horizontal arm over the street and a brace above it."""
    height, radius, reach = rng.uniform(6.5, 8.5), rng.uniform(0.08, 0.16), rng.uniform(2.5, 6.0)
    arm_z = rng.uniform(5.6, height - 0.5)
    return join(
        tube((0, 0, -0.2), (0, 0, height), radius, Material.METAL, POLE),
        tube((0, 0, arm_z), (0, reach, arm_z + 0.1), 0.035, Material.METAL, POLE),
        tube((0, 0, height), (0, reach * 0.8, arm_z + 0.1), 0.02, Material.METAL, POLE),
    )


def arm_lamp(rng: np.random.Generator) -> Parts:
    """Lamp mast with one or two arms and lamp heads, sometimes with a sign or a bin."""
    height, radius, reach = rng.uniform(3.5, 10), rng.uniform(0.05, 0.11), rng.uniform(0.4, 2.5)
    parts = [tube((0, 0, -0.2), (0, 0, height), radius, Material.METAL, POLE)]
    for side in (1, -1) if rng.random() < 0.3 else (1,):
        parts.append(tube((0, 0, height - 0.1), (0, side * reach, height + 0.25), 0.035, Material.METAL, POLE))
        head = (0, side * (reach + 0.2), height + 0.25)
        parts.append(solids(BOX, head, (0.14, 0.35, 0.06), Material.PLASTIC, POLE))
    if rng.random() < 0.25:
        parts.append(_board(rng, rng.uniform(2.0, 2.8), radius + 0.02))
    if rng.random() < 0.2:
        parts.append(solids(CYLINDER, (radius + 0.2, 0, 1.0), (0.18, 0.18, 0.35), Material.PLASTIC, OTHER_OBJECT))
    return join(*parts)


def sign_post(rng: np.random.Generator) -> Parts:
    """Post with one to three boards, 1.2-3.5 m high."""
    count, z = int(rng.integers(1, 4)), rng.uniform(1.2, 2.4)
    boards = []
    for _ in range(count):
        boards.append(_board(rng, z, 0.05))
        z += rng.uniform(0.45, 0.75)
    post = tube((0, 0, -0.1), (0, 0, z - 0.2), rng.uniform(0.025, 0.05), Material.METAL, POLE)
    return join(post, *boards)


def large_sign(rng: np.random.Generator) -> Parts:
    """Direction sign or billboard on two posts."""
    half_w, half_h, low = rng.uniform(0.6, 2.2), rng.uniform(0.3, 1.2), rng.uniform(0.3, 2.2)
    top = low + 2 * half_h
    posts = [tube((0, s * half_w * 0.7, -0.2), (0, s * half_w * 0.7, top), 0.05, Material.METAL, POLE) for s in (-1, 1)]
    face = (Material.REFLECTIVE, Material.FACADE)[int(rng.random() < 0.4)]
    return join(*posts, solids(BOX, (0.08, 0, low + half_h), (0.02, half_w, half_h), face, SIGN))


def signal_mast(rng: np.random.Generator) -> Parts:
    """Traffic light with heads on the mast and on an arm over the street."""
    height, reach = rng.uniform(4.8, 6.2), rng.uniform(2.0, 6.0)
    heads = [(0.15, 0, 2.7), (0.15, reach, height - 0.3)]
    return join(
        tube((0, 0, -0.1), (0, 0, height), 0.09, Material.METAL, POLE),
        tube((0, 0, height - 0.1), (0, reach, height + 0.1), 0.05, Material.METAL, POLE),
        solids(BOX, heads, (0.12, 0.16, 0.45), Material.PLASTIC, SIGN),
    )


def delineator(rng: np.random.Generator) -> Parts:
    """Reflector post of a country road."""
    height = rng.uniform(0.8, 1.1)
    post = solids(BOX, (0, 0, height / 2), (0.04, 0.06, height / 2), Material.PLASTIC, POLE)
    return join(post, solids(BOX, (0.045, 0, height - 0.2), (0.005, 0.04, 0.08), Material.REFLECTIVE, POLE))


def advertising_column(rng: np.random.Generator) -> Parts:
    """Round column with a cap."""
    radius, height = rng.uniform(0.45, 0.75), rng.uniform(2.4, 3.4)
    column = solids(CYLINDER, (0, 0, height / 2), (radius, radius, height / 2), Material.FACADE, OTHER_OBJECT)
    cap = solids(CYLINDER, (0, 0, height), (radius * 1.1, radius * 1.1, 0.1), Material.METAL, OTHER_OBJECT)
    return join(column, cap)


def _board(rng: np.random.Generator, z: float, out: float) -> Parts:
    """Sign board facing +x: round, a square standing on its corner, or rectangular."""
    kind, size = int(rng.integers(3)), rng.uniform(0.2, 0.4)
    if kind == 0:
        turn = rotation(0, np.pi / 2)
        return solids(CYLINDER, (out, 0, z), (size, size, 0.01), Material.REFLECTIVE, SIGN, turn)
    half = (0.01, size, size * (1.0 if kind == 1 else rng.uniform(0.3, 1.2)))
    turn = rotation(0, 0, np.pi / 4 if kind == 1 else 0)
    return solids(BOX, (out, 0, z), half, Material.REFLECTIVE, SIGN, turn)
