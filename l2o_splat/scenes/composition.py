"""Composition of a procedural scene: what stands where, of which material, in which light.

Simple solids with random textures rather than modelled objects, in the manner of MegaSynth
(arXiv 2412.14166). World frame: z up, floor at z = 0, scene units.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from l2o_splat.scenes.scene import (
    BOX,
    BRICKS,
    CELLS,
    CHECKER,
    DOME,
    ELLIPSOID,
    FRUSTUM,
    LIGHT,
    MARBLE,
    PLAIN,
    PLANE,
    RINGS,
    SPOTS,
    STRIPES,
    TORUS,
    Scene,
)
from l2o_splat.scenes.stage import Stage, random_rotation

Environment = Literal["room", "open"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)

_SKY_RADIUS = 40.0


def compose(environment: Environment, cameras: Float[np.ndarray, "v 3"], rng: np.random.Generator) -> Scene:
    """Draw a scene around the given camera centres.

    Args:
        environment: ``room`` is closed by walls and a ceiling, ``open`` by the sky.
        cameras: Camera centres, which no solid comes near.
        rng: Source of everything random.
    """
    stage = Stage(cameras, rng)
    light = _room(stage) if environment == "room" else _open_ground(stage)
    _SUBJECTS[rng.integers(len(_SUBJECTS))](stage)
    for _ in range(rng.integers(6, 16)):
        _stand(stage, *_around(rng, 1.5, 2.6), 0.0, rng.uniform(0.1, 0.4))
    return stage.scene(light)


# ---------------------------------------------------------------------------------------------
# Surroundings


def _room(stage: Stage) -> np.void:
    rng = stage.rng
    low = np.minimum(stage.cameras.min(axis=0), -2.4) - rng.uniform(0.6, 1.6, 3)
    high = np.maximum(stage.cameras.max(axis=0), 2.4) + rng.uniform(0.6, 1.6, 3)
    ceiling = high[2]
    stage.enclose(PLANE, (0, 0, 0), np.eye(3), 1.0, stage.material((0.6, 1.6), calm=True))
    stage.enclose(PLANE, (0, 0, ceiling), np.diag([1.0, -1.0, -1.0]), 1.0, stage.material((0.5, 1.0), calm=True))
    walls = [stage.material((0.5, 1.4), calm=True, upright=True) for _ in range(2)]
    up = np.array([0.0, 0.0, 1.0])
    extent = min(-low[:2].max(), high[:2].min())
    for axis, sign, edge in ((0, 1.0, low), (0, -1.0, high), (1, 1.0, low), (1, -1.0, high)):
        normal, foot = np.zeros(3), np.zeros(3)
        normal[axis], foot[axis] = sign, edge[axis]
        facing = np.stack([np.cross(up, normal), up, normal], axis=1)
        stage.enclose(PLANE, foot, facing, 1.0, walls[axis])
        for _ in range(rng.integers(0, 4)):
            _on_wall(stage, foot, facing, extent, ceiling)
        if rng.random() < 0.5:
            _against_wall(stage, foot, facing, extent)
    if rng.random() < 0.6:
        half = rng.uniform(1.2, 2.2, 2)
        stage.add(BOX, (0, 0, 0.01), (*half, 0.015), stage.material((0.8, 2.0)), rotation=_yaw(rng))
    sun = rng.uniform(0.7, 1.2)
    fill = rng.uniform(0.3, 0.5)
    return _light(
        direction=_sun_direction(rng, 45, 75),
        sun=sun * np.array([1.0, rng.uniform(0.88, 1.0), rng.uniform(0.7, 0.95)]),
        above=fill * np.array([rng.uniform(0.85, 1.0), 0.95, 1.0]),
        below=fill * rng.uniform(0.5, 0.8) * np.array([1.0, 0.93, 0.85]),
        haze=np.ones(3),
        haze_start=1e3,
        haze_end=1e4,
    )


def _on_wall(stage: Stage, foot, facing, extent: float, ceiling: float) -> None:
    """A framed picture, on the wall that rises from ``foot`` and has the frame ``facing`` (along, up, inward)."""
    rng = stage.rng
    half = rng.uniform(0.25, 0.6, 2)
    centre = foot + facing @ np.array([rng.uniform(-extent, extent), rng.uniform(0.45, 0.75) * ceiling, 0.03])
    picture = stage.material((1.0, 3.0), (CELLS, MARBLE, STRIPES, SPOTS, CHECKER))
    stage.add(BOX, centre, (*half, 0.03), picture, rotation=facing)
    frame = stage.material((2.0, 4.0), (PLAIN, RINGS))
    stage.add(BOX, centre - 0.015 * facing[:, 2], (*(half + 0.06), 0.03), frame, rotation=facing)


def _against_wall(stage: Stage, foot, facing, extent: float) -> None:
    """A cupboard with things on it, at the wall described as in :func:`_on_wall`."""
    rng = stage.rng
    half = np.array([rng.uniform(0.3, 0.9), rng.uniform(0.2, 0.7), rng.uniform(0.15, 0.3)])
    centre = foot + facing @ np.array([rng.uniform(-extent, extent), half[1], half[2] + 0.02])
    material = stage.material((1.0, 3.0), (RINGS, PLAIN, STRIPES, CHECKER, BRICKS))
    if stage.add(BOX, centre, half, material, rotation=facing):
        for place in np.linspace(-0.6, 0.6, rng.integers(1, 4)):
            x, y, _ = centre + facing @ np.array([place * half[0], 0.0, 0.0])
            _stand(stage, x, y, 2 * half[1], rng.uniform(0.08, 0.2))


def _open_ground(stage: Stage) -> np.void:
    rng = stage.rng
    zenith = np.array([0.12, 0.28, 0.65]) * rng.uniform(0.6, 1.3, 3)
    stage.enclose(PLANE, (0, 0, 0), np.eye(3), 1.0, stage.material((0.5, 1.3), calm=True))
    stage.enclose(DOME, (0, 0, 0), np.eye(3), _SKY_RADIUS, stage.clouds(zenith, rng.uniform(0.05, 0.1)))
    for _ in range(rng.integers(2, 7)):
        half = np.array([*rng.uniform(4, 9, 2), rng.uniform(1.5, 5)])
        hill = stage.material((0.3, 0.8), calm=True)
        stage.add(ELLIPSOID, (*_around(rng, 17, 26), -0.2), half, hill, rotation=_yaw(rng))
    trunk, crown = stage.material((1.0, 3.0), (RINGS, PLAIN)), stage.material((1.5, 3.0), (CELLS, SPOTS, MARBLE))
    for _ in range(rng.integers(0, 9)):
        x, y = _around(rng, 5, 12)
        height = rng.uniform(0.8, 2.0)
        stage.add(FRUSTUM, (x, y, height / 2), (0.12, 0.12, height / 2), trunk, shape=0.6)
        if rng.random() < 0.5:
            stage.add(ELLIPSOID, (x, y, height + 0.4), rng.uniform(0.5, 1.0, 3), crown)
        else:
            stage.add(FRUSTUM, (x, y, height + 0.6), (0.8, 0.8, 1.0), crown, shape=0.0)
    for _ in range(rng.integers(0, 6)):
        half = np.array([*rng.uniform(0.5, 1.6, 2), rng.uniform(0.4, 2.2)])
        stage.add(BOX, (*_around(rng, 5.5, 13), half[2]), half, stage.material((0.8, 2.0)), rotation=_yaw(rng))
    sun = rng.uniform(0.85, 1.25)
    fill = rng.uniform(0.3, 0.5)
    return _light(
        direction=_sun_direction(rng, 25, 65),
        sun=sun * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.65, 0.95)]),
        above=fill * np.array([0.8, 0.95, 1.2]),
        below=fill * rng.uniform(0.3, 0.5) * np.array([1.0, 0.95, 0.85]),
        haze=np.array([0.55, 0.62, 0.72]) * rng.uniform(0.8, 1.1, 3),
        haze_start=12.0,
        haze_end=0.95 * _SKY_RADIUS,
    )


# ---------------------------------------------------------------------------------------------
# Subjects


def _plinth(stage: Stage) -> None:
    """Things on a wide block or drum."""
    rng = stage.rng
    half = np.array([*rng.uniform(0.7, 1.2, 2), rng.uniform(0.1, 0.35)])
    if rng.random() < 0.5:
        stage.add(BOX, (0, 0, half[2]), half, stage.material((1.0, 2.5)), rotation=_yaw(rng))
    else:
        half[1] = half[0]
        stage.add(FRUSTUM, (0, 0, half[2]), half, stage.material((1.0, 2.5)), shape=rng.uniform(0.8, 1.0))
    for _ in range(rng.integers(3, 8)):
        x, y = _around(rng, 0.0, 0.6)
        _stand(stage, x, y, 2 * half[2], rng.uniform(0.12, 0.4))


def _table(stage: Stage) -> None:
    """Things on and under a table."""
    rng = stage.rng
    half, height, yaw = rng.uniform(0.6, 1.1, 2), rng.uniform(0.5, 0.8), _yaw(rng)
    top = stage.material((1.0, 2.5), (RINGS, CHECKER, MARBLE, STRIPES))
    stage.add(BOX, (0, 0, height), (*half, 0.04), top, rotation=yaw)
    leg = stage.material((1.0, 3.0), (PLAIN, RINGS, STRIPES))
    for x, y in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        foot = yaw @ np.array([0.88 * x * half[0], 0.88 * y * half[1], height / 2])
        stage.add(FRUSTUM, foot, (0.05, 0.05, height / 2), leg, shape=1.0)
    for _ in range(rng.integers(3, 8)):
        x, y, _ = yaw @ np.array([*(0.75 * half * rng.uniform(-1, 1, 2)), 0.0])
        _stand(stage, x, y, height + 0.04, rng.uniform(0.08, 0.28))
    _stand(stage, 0.0, 0.0, 0.0, 0.2)


def _stacks(stage: Stage) -> None:
    """Towers of blocks and drums, each piece smaller than the one below, something round on top."""
    rng = stage.rng
    for _ in range(rng.integers(3, 6)):
        x, y = _around(rng, 0.2, 1.2)
        size, base = rng.uniform(0.25, 0.5), 0.0
        for _ in range(rng.integers(1, 5)):
            half = np.array([size, size * rng.uniform(0.7, 1.0), size * rng.uniform(0.3, 0.8)])
            kind = BOX if rng.random() < 0.6 else FRUSTUM
            stage.add(kind, (x, y, base + half[2]), half, stage.material((1.0, 4.0)), rotation=_yaw(rng), shape=0.9)
            base += 2 * half[2]
            size *= rng.uniform(0.7, 0.9)
        _stand(stage, x, y, base, 0.7 * size)


def _stairs(stage: Stage) -> None:
    """Steps that wind around a column."""
    rng = stage.rng
    steps, turn = rng.integers(7, 15), rng.uniform(0.3, 0.55) * rng.choice([-1, 1])
    rise, width = rng.uniform(0.1, 0.16), rng.uniform(0.45, 0.7)
    column, start = rng.uniform(0.15, 0.35), rng.uniform(0, 2 * np.pi)
    height = rise * (steps + 3)
    stage.add(FRUSTUM, (0, 0, height / 2), (column, column, height / 2), stage.material((1.0, 3.0)), shape=0.8)
    _stand(stage, 0.0, 0.0, height, column)
    materials = [stage.material((1.0, 3.0)) for _ in range(3)]
    for step in range(steps):
        angle = start + turn * step
        c, s = np.cos(angle), np.sin(angle)
        rotation = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        centre = rotation @ np.array([column + 0.8 * width, 0.0, rise * (step + 0.5)])
        stage.add(BOX, centre, (width, 0.18, rise / 2), materials[step % 3], rotation=rotation)


def _temple(stage: Stage) -> None:
    """Columns in a ring with a lintel ring, something in the middle."""
    rng = stage.rng
    count, radius, height = rng.integers(5, 10), rng.uniform(0.9, 1.3), rng.uniform(0.9, 1.5)
    thick, taper = rng.uniform(0.07, 0.14), rng.uniform(0.6, 1.0)
    stage.add(FRUSTUM, (0, 0, 0.05), (radius + 0.35, radius + 0.35, 0.05), stage.material((1.0, 2.5)), shape=0.95)
    pillar = stage.material((1.5, 4.0))
    for angle in 2 * np.pi * np.arange(count) / count:
        place = (radius * np.cos(angle), radius * np.sin(angle), 0.1 + height / 2)
        stage.add(FRUSTUM, place, (thick, thick, height / 2), pillar, shape=taper)
    outer = radius + thick
    stage.add(TORUS, (0, 0, 0.1 + height), (outer,) * 3, stage.material((1.5, 3.0)), shape=2 * thick / outer)
    _stand(stage, 0.0, 0.0, 0.1, rng.uniform(0.3, 0.5))


def _rings(stage: Stage) -> None:
    """Upright rings and arches among blocks."""
    rng = stage.rng
    for _ in range(rng.integers(2, 5)):
        x, y = _around(rng, 0.0, 1.1)
        outer, sink = rng.uniform(0.35, 0.9), rng.uniform(0.3, 1.0)
        upright = _yaw(rng) @ np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        material = stage.material((1.5, 4.0))
        stage.add(TORUS, (x, y, sink * outer), (outer,) * 3, material, rotation=upright, shape=rng.uniform(0.12, 0.3))
    for _ in range(rng.integers(3, 7)):
        _stand(stage, *_around(rng, 0.0, 1.2), 0.0, rng.uniform(0.15, 0.4))


_SUBJECTS = (_plinth, _table, _stacks, _stairs, _temple, _rings)


# ---------------------------------------------------------------------------------------------
# Pieces


def _stand(stage: Stage, x: float, y: float, base: float, size: float) -> None:
    """One random solid of about the given radius, standing on the height ``base``."""
    rng = stage.rng
    material = stage.material((0.6 / size, 1.6 / size))
    half = size * rng.uniform(0.6, 1.2, 3)
    choice = rng.integers(7)
    if choice <= 1:
        stage.add(BOX, (x, y, base + half[2]), half, material, rotation=_yaw(rng))
    elif choice == 2:
        stage.add(ELLIPSOID, (x, y, base + half[2]), half, material, rotation=_yaw(rng))
    elif choice == 3:
        stage.add(ELLIPSOID, (x, y, base + size), (size,) * 3, material)
    elif choice == 4:
        half[1] = half[0]
        taper = rng.choice([0.0, rng.uniform(0.3, 0.9), 1.0])
        stage.add(FRUSTUM, (x, y, base + 1.3 * half[2]), half * [1, 1, 1.3], material, shape=taper)
    elif choice == 5:
        tube = rng.uniform(0.15, 0.35)
        stage.add(TORUS, (x, y, base + size * tube), (size,) * 3, material, shape=tube)
    else:
        stage.add(BOX, (x, y, base + 0.8 * size), half, material, rotation=random_rotation(rng))


def _around(rng: np.random.Generator, inner: float, outer: float) -> tuple[float, float]:
    """A place uniform over the ring between two radii."""
    radius, angle = np.sqrt(rng.uniform(inner**2, outer**2)), rng.uniform(0, 2 * np.pi)
    return radius * np.cos(angle), radius * np.sin(angle)


def _yaw(rng: np.random.Generator) -> Float[np.ndarray, "3 3"]:
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _sun_direction(rng: np.random.Generator, low: float, high: float) -> Float[np.ndarray, " 3"]:
    """Towards the light, at an elevation between two angles in degrees."""
    elevation, azimuth = np.radians(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def _light(**values) -> np.void:
    return np.array(tuple(values[name] for name in LIGHT.names), LIGHT)[()]
