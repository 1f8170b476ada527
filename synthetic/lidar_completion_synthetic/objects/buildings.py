"""Houses and sheds. The front lies on y = 0 and faces -y; solids are only added, so window reveals are built outwards."""

from __future__ import annotations

import numpy as np

from ..raycast import BOX
from .materials import BUILDING, Material
from .solids import Parts, join, rotation, solids, tube


def building(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """House with windows, doors, balconies, porch, roof and chimney. width along x, depth along +y, metres."""
    half = (width / 2, depth / 2, height / 2 + 0.5)
    parts = [
        solids(BOX, (0, depth / 2, height / 2 - 0.5), half, Material.FACADE, BUILDING),
        _windows(rng, width, height),
        _side_windows(rng, width, depth),
        _roof(rng, width, depth, height),
    ]
    if rng.random() < 0.45:
        parts.append(_balconies(rng, width, height))
    parts.append(_attachments(rng, width, depth, height))
    return join(*parts).toned(rng.uniform(0.6, 1.4), Material.FACADE)


def _balconies(rng: np.random.Generator, width: float, height: float) -> Parts:
    """A slab and a parapet on every floor."""
    floors = np.arange(2.7, height - 1.5, rng.uniform(2.7, 3.2))
    columns = np.arange(-width / 2 + 2, width / 2 - 1.9, rng.uniform(3, 6))
    out = rng.uniform(0.7, 1.5)
    centre = [c for z in floors for x in columns for c in ((x, -out / 2, z), (x, -out, z + 0.5))]
    if not centre:
        return join()
    half = [(1.3, out / 2, 0.08), (1.3, 0.03, 0.5)] * (len(centre) // 2)
    return solids(BOX, centre, half, Material.FACADE, BUILDING)


def _attachments(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """Bay or porch, plinth, steps, drain pipes."""
    parts = []
    if rng.random() < 0.4:
        x, w, d = rng.uniform(-width / 3, width / 3), rng.uniform(0.8, 2.2), rng.uniform(0.4, 1.6)
        h = rng.uniform(2.3, max(2.5, height * 0.8))
        parts.append(solids(BOX, (x, -d / 2, h / 2), (w, d / 2, h / 2), Material.FACADE, BUILDING))
    if rng.random() < 0.5:
        half = (width / 2 + 0.06, depth / 2 + 0.06, rng.uniform(0.3, 0.8))
        parts.append(solids(BOX, (0, depth / 2, 0.2), half, Material.FACADE, BUILDING))
    if rng.random() < 0.4:
        x = rng.uniform(-width / 3, width / 3)
        centre = [(x, -0.15 - 0.3 * i, 0.24 - 0.08 * i) for i in range(3)]
        steps = [(0.7, 0.15, 0.25 - 0.08 * i) for i in range(3)]
        parts.append(solids(BOX, centre, steps, Material.PAVEMENT, BUILDING))
    for s in (-1, 1):
        if rng.random() < 0.5:
            x = s * (width / 2 - 0.2)
            parts.append(tube((x, -0.07, 0), (x, -0.07, height), 0.05, Material.METAL, BUILDING))
    return join(*parts)


def _windows(rng: np.random.Generator, width: float, height: float) -> Parts:
    """Windows and a door in the front: sills and jambs protrude, the glass by 2 cm."""
    spacing, w, h = rng.uniform(1.7, 3.6), rng.uniform(0.4, 0.75), rng.uniform(0.5, 0.85)
    x = np.arange(-width / 2 + spacing * 0.6, width / 2 - w, spacing) + rng.uniform(-0.2, 0.2)
    z = np.arange(rng.uniform(1.4, 2.0), height - 0.8, rng.uniform(2.6, 3.3))
    gx, gz = (a.ravel() for a in np.meshgrid(x, z))
    keep = rng.random(len(gx)) < 0.9
    gx, gz = gx[keep], gz[keep]
    if not len(gx):
        return join()
    zero = np.zeros_like(gx)

    def boxes(dx: float, dz: float, half: tuple[float, float, float], material: Material) -> Parts:
        return solids(BOX, np.column_stack([gx + dx, zero, gz + dz]), half, material, BUILDING)

    frame = rng.uniform(0.06, 0.2)
    out = rng.uniform(0.03, 0.12)
    glass = boxes(0, 0, (w, 0.02, h), Material.WINDOW)
    sills = boxes(0, -h - 0.04, (w + 0.1, out + 0.06, 0.04), Material.PAVEMENT)
    jambs = [boxes(s * (w + frame), 0, (frame, out, h), Material.FACADE) for s in (-1, 1)]
    shutters = []
    if rng.random() >= 0.7:
        shutters = [boxes(s * (w * 1.6 + frame), 0, (w * 0.55, 0.05, h), Material.WOOD) for s in (-1, 1)]
    door_x = rng.uniform(-width / 2 + 1, width / 2 - 1)
    door = solids(BOX, (door_x, 0, 1.05), (0.5, 0.04, 1.05), Material.WOOD, BUILDING)
    return join(glass, sills, *(jambs if rng.random() < 0.7 else []), *shutters, door)


def _side_windows(rng: np.random.Generator, width: float, depth: float) -> Parts:
    y = np.arange(rng.uniform(1.2, 2.5), depth - 1, rng.uniform(2.5, 5))
    if not len(y) or rng.random() < 0.4:
        return join()
    z = rng.uniform(1.4, 2.0)
    half = (0.02, 0.45, 0.6)
    sides = [np.column_stack([0 * y + s * width / 2, y, 0 * y + z]) for s in (-1, 1)]
    return join(*(solids(BOX, centre, half, Material.WINDOW, BUILDING) for centre in sides))


def _roof(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """Flat roof with a parapet, or a gable roof with its ridge along x and a chimney."""
    if rng.random() < 0.35:
        half: tuple[float, ...] = (width / 2 + 0.1, depth / 2 + 0.1, 0.25)
        return solids(BOX, (0, depth / 2, height + 0.2), half, Material.FACADE, BUILDING)
    pitch, eave = rng.uniform(0.35, 0.8), rng.uniform(0.2, 0.7)
    run = depth / 2 + eave
    rise = run * np.tan(pitch)
    half = (width / 2 + 0.2, np.hypot(run, rise) / 2, 0.08)
    z = height - eave * np.tan(pitch) + rise / 2
    slopes = [
        solids(BOX, (0, depth / 2 + s * run / 2, z), half, Material.FACADE, BUILDING, rotation(0, 0, -s * pitch))
        for s in (-1, 1)
    ]
    chimney = (rng.uniform(-width / 3, width / 3), depth / 2, height + rise)
    return join(*slopes, solids(BOX, chimney, (0.3, 0.3, 0.8), Material.FACADE, BUILDING))


def shed(rng: np.random.Generator) -> Parts:
    """Garage or shed."""
    width, depth, height = rng.uniform(2.5, 4), rng.uniform(3, 6), rng.uniform(2.1, 2.8)
    half = (width / 2, depth / 2, height / 2 + 0.3)
    walls = solids(BOX, (0, depth / 2, height / 2 - 0.3), half, Material.FACADE, BUILDING)
    return join(walls, solids(BOX, (0, 0, 1.0), (width / 2 - 0.3, 0.03, 1.0), Material.METAL, BUILDING))


def stepped_building(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """House whose upper floors are set back, or with a lower annex beside it."""
    low = height * rng.uniform(0.4, 0.75)
    if rng.random() < 0.5 or width < 7.0:
        base = solids(
            BOX, (0, depth / 2, low / 2 - 0.5), (width / 2, depth / 2, low / 2 + 0.5), Material.FACADE, BUILDING
        )
        back = rng.uniform(1.0, min(3.0, depth / 3))
        upper = building(rng, max(width * rng.uniform(0.6, 0.95), 3.0), depth - back, height).placed(0, back, 0, 0)
        return join(base, _windows(rng, width, low), upper)
    split = min(width * rng.uniform(0.5, 0.75), width - 3.0)
    main = building(rng, split, depth, height).placed((split - width) / 2, 0, 0, 0)
    forward = rng.uniform(-1.5, 3.0)
    annex = building(rng, width - split, depth * 0.6, max(low, 2.6)).placed(split / 2, forward, 0, 0)
    return join(main, annex)


def hall(rng: np.random.Generator, width: float, depth: float, height: float) -> Parts:
    """Industrial hall or warehouse: bare walls, gates, a loading ramp, pilasters."""
    half = (width / 2, depth / 2, height / 2 + 0.5)
    parts = [solids(BOX, (0, depth / 2, height / 2 - 0.5), half, Material.FACADE, BUILDING)]
    gates = np.arange(-width / 2 + 4, width / 2 - 3.9, rng.uniform(6, 14))
    if len(gates):
        centre = np.column_stack([gates, 0 * gates, 0 * gates + 2.0])
        parts.append(solids(BOX, centre, (1.8, 0.08, 2.0), Material.METAL, BUILDING))
    if rng.random() < 0.4:
        parts.append(solids(BOX, (0, -1.2, 0.3), (width / 3, 1.2, 0.6), Material.PAVEMENT, BUILDING))
    x = np.arange(-width / 2, width / 2 + 0.1, rng.uniform(4, 8))
    centre = np.column_stack([x, 0 * x, 0 * x + height / 2])
    parts.append(solids(BOX, centre, (0.15, 0.2, height / 2), Material.FACADE, BUILDING))
    if rng.random() < 0.3:
        canopy = (rng.uniform(-width / 4, width / 4), -2.0, rng.uniform(3.2, 4.5))
        parts.append(solids(BOX, canopy, (rng.uniform(3, 8), 2.0, 0.12), Material.METAL, BUILDING))
    return join(*parts).toned(rng.uniform(0.5, 1.5), Material.FACADE)
