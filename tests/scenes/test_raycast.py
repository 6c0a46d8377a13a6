"""Rendering: the shortcuts (tiles, shafts) leave out nothing, and light falls where it should."""

import numpy as np
import pytest

from l2o_splat.scenes import raycast
from l2o_splat.scenes.composition import ENVIRONMENTS, compose
from l2o_splat.scenes.scene import ELLIPSOID, LIGHT, PLAIN, PLANE, SHAFT_CELLS, SHAFT_REACH, shafts
from l2o_splat.scenes.stage import Stage
from l2o_splat.scenes.trajectories import camera_path


def render(scene, rotation, centre, focal, width, height):
    image, depth = np.empty((height, width, 3), np.float32), np.empty((height, width), np.float32)
    raycast.render_view(scene, rotation, centre, focal, image, depth)
    return image, depth


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_tiles_see_what_single_rays_see(environment):
    rng = np.random.default_rng(11)
    rotations, centres = camera_path("orbit", 3, rng)
    scene = compose(environment, centres, rng)
    width, height, focal = 61, 43, 40.0  # not whole tiles
    for rotation, centre in zip(rotations, centres, strict=True):
        _, depth = render(scene, rotation, centre, focal, width, height)
        x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
        rays = np.stack([x / focal, y / focal, np.ones_like(x)], axis=-1).reshape(-1, 3)
        length = np.linalg.norm(rays, axis=1)
        distances = np.empty(len(rays))
        raycast.cast(scene.solids, np.tile(centre, (len(rays), 1)), rays @ rotation.T / length[:, None], distances)
        np.testing.assert_allclose(depth.ravel(), distances / length, rtol=1e-6)


def test_shafts_hold_every_sphere_a_point_can_meet():
    rng = np.random.default_rng(0)
    direction = np.array([0.3, -0.5, 0.8])
    direction /= np.linalg.norm(direction)
    centres = rng.uniform(-9, 9, (40, 3))
    radii = np.where(rng.random(40) < 0.2, 0.0, rng.uniform(0.1, 2.5, 40))
    found = shafts(direction, centres, radii)
    listed = 0
    for point in rng.uniform(-8, 8, (2000, 3)):
        column, row = np.floor((found.across @ point + SHAFT_REACH) * SHAFT_CELLS / (2 * SHAFT_REACH)).astype(int)
        within = 0 <= column < SHAFT_CELLS and 0 <= row < SHAFT_CELLS
        cell = row * SHAFT_CELLS + column if within else SHAFT_CELLS**2
        members = found.members[found.starts[cell] : found.starts[cell + 1]]
        offset = centres - point
        aside = np.linalg.norm(offset - (offset @ direction)[:, None] * direction, axis=1)
        assert set(np.nonzero(aside < radii)[0]) <= set(members)
        listed += len(members) if within else 0
    assert listed < 2000 * 15  # and far from all 40


def test_a_ball_casts_its_shadow_away_from_the_sun():
    rng = np.random.default_rng(0)
    stage = Stage(np.array([[0.0, 0.0, 8.0]]), rng)
    grey = stage.material((0.1, 0.2), (PLAIN,), calm=True)
    stage.enclose(PLANE, (0, 0, 0), np.eye(3), 1.0, grey)
    stage.add(ELLIPSOID, (0, 0, 2), (0.5, 0.5, 0.5), grey)
    slanted = np.array([1, 0, 1]) / np.sqrt(2)
    light = np.array((slanted, (1, 1, 1), *[(0.1, 0.1, 0.1)] * 3, 1e3, 1e4), LIGHT)[()]
    down = np.array([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])  # a camera that looks down, x to the right
    image, depth = render(stage.scene(light), down, np.array([0.0, 0.0, 8.0]), 80.0, 97, 97)
    brightness = image.mean(axis=2)
    at = {x: brightness[48, 48 + round(80 * x / 8)] for x in (-2.0, 2.0, -3.5, 3.5)}
    # Seen along the light, the ball at height 2 falls on x = -2.
    assert at[-2.0] < 0.6 * at[2.0]
    assert at[-3.5] == pytest.approx(at[3.5], rel=0.5)
    assert depth[48, 48] == pytest.approx(8 - 2.5, abs=1e-5)
    assert depth[0, 0] == pytest.approx(8.0, abs=1e-5)
