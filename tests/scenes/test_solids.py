"""Ray-solid intersections against the implicit description of every solid."""

import numpy as np
import pytest

from l2o_splat.scenes import raycast
from l2o_splat.scenes.scene import BOX, DOME, ELLIPSOID, FRUSTUM, LIGHT, PLANE, TORUS
from l2o_splat.scenes.solids import FAR, unit_normal
from l2o_splat.scenes.stage import Stage, random_rotation

NO_CAMERAS = np.full((1, 3), 1e6)
LIGHT_FROM_ABOVE = np.array(((0, 0, 1), *[(1, 1, 1)] * 4, 1e3, 1e4), LIGHT)[()]


def inside(kind: int, shape: float, u: np.ndarray) -> np.ndarray:
    """Whether unit coordinates [..., 3] lie within the solid."""
    ring = np.hypot(u[..., 0], u[..., 1])
    if kind == BOX:
        return np.abs(u).max(axis=-1) < 1
    if kind == ELLIPSOID:
        return np.linalg.norm(u, axis=-1) < 1
    if kind == FRUSTUM:
        return (np.abs(u[..., 2]) < 1) & (ring < 1 + (shape - 1) * (u[..., 2] + 1) / 2)
    return np.hypot(ring - (1 - shape), u[..., 2]) < shape


SHAPES = [(BOX, 0.0), (ELLIPSOID, 0.0), (FRUSTUM, 1.0), (FRUSTUM, 0.4), (FRUSTUM, 0.0), (TORUS, 0.2), (TORUS, 0.4)]


def one_solid(kind: int, shape: float, rng: np.random.Generator) -> np.ndarray:
    stage = Stage(NO_CAMERAS, rng)
    half_size = np.full(3, 0.7) if kind == TORUS else rng.uniform(0.4, 1.2, 3)
    assert stage.add(kind, rng.normal(0, 0.3, 3), half_size, 0, rotation=random_rotation(rng), shape=shape)
    return stage.scene(LIGHT_FROM_ABOVE).solids


def rays_towards(solids: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    origins = rng.normal(size=(count, 3))
    origins *= 4 / np.linalg.norm(origins, axis=1, keepdims=True)
    directions = solids["centre"] + rng.normal(0, 0.5, (count, 3)) - origins
    return origins, directions / np.linalg.norm(directions, axis=1, keepdims=True)


def cast(solids: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    distances = np.empty(len(origins))
    raycast.cast(solids, origins, directions, distances)
    return distances


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_rays_stop_where_the_implicit_solid_begins(kind, shape):
    rng = np.random.default_rng(kind + int(10 * shape))
    solids = one_solid(kind, shape, rng)
    origins, directions = rays_towards(solids, 1000, rng)
    found = cast(solids, origins, directions)
    steps = np.linspace(0, 8, 2001)
    along = origins[:, None] + steps[None, :, None] * directions[:, None]
    within = inside(kind, shape, (along - solids["centre"]) @ solids["axes"][0].T)
    entered = within.any(axis=1)
    first = steps[within.argmax(axis=1)]
    spacing = steps[1]
    assert 100 < entered.sum() < 1000
    # A hit lies at most one spacing before the first sample within. Grazing rays may pass between two samples.
    gap = first[entered] - found[entered]
    assert ((gap < -1e-4) | (gap > spacing + 1e-4)).sum() <= 2
    assert (found[~entered] < FAR).sum() <= 5


@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_normals_are_across_the_surface_and_face_the_ray(kind, shape):
    rng = np.random.default_rng(3)
    solids = one_solid(kind, shape, rng)
    origins, directions = rays_towards(solids, 300, rng)
    distances = cast(solids, origins, directions)
    axes = solids["axes"][0]
    slopes = []
    for origin, direction, distance in zip(origins, directions, distances, strict=True):
        if distance > 100:
            continue
        side = np.cross(direction, [1.0, 0, 0])
        side /= np.linalg.norm(side)
        shifted = [origin + 1e-4 * side, origin + 1e-4 * np.cross(direction, side)]
        ends = [
            o + d * direction
            for o, d in zip(shifted, cast(solids, np.array(shifted), np.array([direction] * 2)), strict=True)
        ]
        point = origin + distance * direction
        tangents = [end - point for end in ends]
        if max(np.linalg.norm(tangent) for tangent in tangents) > 3e-4:
            continue  # an edge, or a grazing ray
        normal = axes.T @ np.array(unit_normal(kind, shape, *(axes @ (point - solids["centre"][0]))))
        normal /= np.linalg.norm(normal)
        assert normal @ direction < 0
        slopes.append(max(abs(normal @ tangent) / np.linalg.norm(tangent) for tangent in tangents))
    # Where neighbouring rays fall on both sides of an edge, their difference is no tangent.
    assert len(slopes) > 50
    assert (np.array(slopes) < 0.02).mean() > 0.95


def test_planes_and_the_dome_have_their_closed_forms():
    rng = np.random.default_rng(0)
    origins = rng.uniform(0.5, 2, (200, 3))
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stage = Stage(NO_CAMERAS, rng)
    stage.enclose(PLANE, (0, 0, 0), np.eye(3), 1.0, 0)
    down = directions[:, 2] < 0
    expected = np.where(down, -origins[:, 2] / directions[:, 2], FAR)
    np.testing.assert_allclose(cast(stage.scene(LIGHT_FROM_ABOVE).solids, origins, directions), expected, rtol=1e-12)
    stage = Stage(NO_CAMERAS, rng)
    stage.enclose(DOME, (0, 0, 0), np.eye(3), 9.0, 0)
    ends = origins + cast(stage.scene(LIGHT_FROM_ABOVE).solids, origins, directions)[:, None] * directions
    np.testing.assert_allclose(np.linalg.norm(ends, axis=1), 9.0, rtol=1e-12)


def test_the_nearest_of_several_solids_is_seen():
    rng = np.random.default_rng(1)
    each = [one_solid(kind, shape, rng) for kind, shape in SHAPES]
    origins, directions = rays_towards(each[0], 500, rng)
    alone = np.stack([cast(solid, origins, directions) for solid in each])
    np.testing.assert_array_equal(cast(np.concatenate(each), origins, directions), alone.min(axis=0))


def test_a_stage_refuses_solids_near_cameras():
    stage = Stage(np.array([[0.0, 0.0, 1.0], [3.0, 0.0, 1.0]]), np.random.default_rng(0))
    assert not stage.add(BOX, (3.0, 0.5, 1.0), (0.2, 0.2, 0.2), 0)
    assert stage.add(BOX, (3.0, 2.0, 1.0), (0.2, 0.2, 0.2), 0)
    assert len(stage.scene(LIGHT_FROM_ABOVE).solids) == 1
