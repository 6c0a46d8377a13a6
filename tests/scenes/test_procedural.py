"""Procedural captures: the same for the same seed, and geometrically what they claim to be."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from l2o_splat.scenes.composition import ENVIRONMENTS, compose
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.scenes.scene import BOX
from l2o_splat.scenes.trajectories import TRAJECTORIES, camera_path

SMALL = ProceduralOptions(num_views=6, width=64, height=48, num_points=300)
EXACT = ProceduralOptions(num_views=6, width=64, height=48, num_points=300, depth_noise=(0, 0), outliers=0)


def tensors(capture):
    return (
        capture.views.images,
        capture.depths,
        capture.views.cameras.viewmats,
        capture.views.cameras.Ks,
        capture.points.xyz,
        capture.points.rgb,
    )


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


def project(cameras, view: int, xyz):
    """Camera coordinates [p 3] and pixels [p 2] of world points in one view."""
    camera = xyz @ cameras.viewmats[view, :3, :3].mT + cameras.viewmats[view, :3, 3]
    pixels = camera @ cameras.Ks[view].mT
    return camera, pixels[:, :2] / pixels[:, 2:]


def unproject(capture, view: int):
    """World points [h w 3] behind the pixel centres of one view."""
    cameras = capture.views.cameras
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ torch.linalg.inv(cameras.Ks[view]).mT
    camera = rays * capture.depths[view, ..., None]
    return (camera - cameras.viewmats[view, :3, 3]) @ cameras.viewmats[view, :3, :3]


def depths_around(capture, view: int, pixels):
    """Least and greatest depth of the 3x3 pixels around pixel positions [p 2]."""
    depth = capture.depths[view][None, None]
    greatest = torch.nn.functional.max_pool2d(depth, 3, 1, 1)[0, 0]
    least = -torch.nn.functional.max_pool2d(-depth, 3, 1, 1)[0, 0]
    x, y = pixels.long().unbind(1)
    return least[y, x], greatest[y, x]


def within_image(cameras, camera, pixels):
    size = torch.tensor([cameras.width, cameras.height])
    return (camera[:, 2] > 0) & (pixels >= 0).all(1) & (pixels < size).all(1)


def test_a_seed_gives_the_same_capture_whatever_the_threads():
    once = generate(5, SMALL)
    assert same(once, generate(5, SMALL))
    assert same(once, generate(5, SMALL, threads=3))


def test_every_seed_gives_another_capture():
    images = [generate(seed, SMALL).views.images for seed in range(4)]
    for i in range(4):
        for j in range(i):
            assert (images[i] - images[j]).abs().mean() > 0.03


def test_shapes_ranges_and_counts_are_as_asked():
    capture = generate(1, SMALL)
    assert capture.views.images.shape == (6, 48, 64, 3)
    assert capture.depths.shape == (6, 48, 64)
    assert capture.points.xyz.shape == capture.points.rgb.shape == (300, 3)
    for values in tensors(capture):
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
    for values in (capture.views.images, capture.points.rgb):
        assert values.min() >= 0
        assert values.max() <= 1
    assert 0.2 < capture.views.images.mean() < 0.8
    assert capture.views.images.std() > 0.08
    assert (capture.depths > 0).all()


def test_the_angle_of_view_lies_in_the_range():
    options = ProceduralOptions(num_views=2, width=64, height=48, num_points=10, fov_degrees=(50, 55))
    for seed in range(3):
        K = generate(seed, options).views.cameras.Ks[0]
        assert 50 <= 2 * np.degrees(np.arctan(32 / K[0, 0].item())) <= 55
        assert K[0, 0] == K[1, 1]
        assert K[:2, 2].tolist() == [32, 24]


def test_the_ground_has_the_depth_of_its_plane():
    options = ProceduralOptions(num_views=4, width=64, height=48, num_points=10, environment="open", random_world=False)
    capture = generate(2, options)
    cameras = capture.views.cameras
    for view in range(4):
        end = unproject(capture, view)
        assert end[..., 2].min() > -1e-3  # nothing is seen below the ground
        centre = cameras.centres[view]
        direction = end - centre
        down = direction[..., 2] < -1e-3
        # Ray parameter 1 is the surface found; the plane z = 0 is at -centre_z / direction_z.
        plane = -centre[2] / direction[..., 2]
        assert (plane[down] > 1 - 1e-4).all()
        assert ((plane[down] - 1).abs() < 1e-4).float().mean() > 0.1


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_views_agree_on_surface_and_colour(environment):
    options = ProceduralOptions(num_views=8, width=96, height=72, num_points=10, environment=environment)
    capture = generate(4, options)
    cameras = capture.views.cameras
    xyz = unproject(capture, 3).reshape(-1, 3)
    camera, pixels = project(cameras, 4, xyz)
    kept = within_image(cameras, camera, pixels)
    z, pixels = camera[kept, 2], pixels[kept]
    least, greatest = depths_around(capture, 4, pixels)
    assert kept.float().mean() > 0.2
    assert (z < 0.98 * least).float().mean() < 0.005  # nothing floats before what the other view sees
    seen = (z > 0.98 * least) & (z < 1.02 * greatest)
    assert seen.float().mean() > 0.5
    x, y = pixels[seen].long().unbind(1)
    difference = (capture.views.images[4, y, x] - capture.views.images[3].reshape(-1, 3)[kept][seen]).abs()
    assert difference.median() < 0.03


def test_points_lie_on_surfaces_that_two_views_see():
    for seed in range(3):
        capture = generate(seed, EXACT)
        cameras = capture.views.cameras
        sightings = torch.zeros(len(capture.points))
        matched = torch.zeros(len(capture.points), dtype=torch.bool)
        for view in range(len(cameras)):
            camera, pixels = project(cameras, view, capture.points.xyz)
            kept = within_image(cameras, camera, pixels)
            z, pixels = camera[kept, 2], pixels[kept]
            least, greatest = depths_around(capture, view, pixels)
            visible = (z > 0.99 * least) & (z < 1.01 * greatest)
            sightings[kept] += visible
            x, y = pixels.long().unbind(1)
            same_colour = (capture.views.images[view, y, x] == capture.points.rgb[kept]).all(1)
            matched[kept] |= same_colour & visible
        # At a silhouette, the depth maps cannot always tell.
        assert (sightings >= 2).float().mean() > 0.98
        assert matched.float().mean() > 0.98


def test_noise_and_outliers_move_points_along_their_rays():
    exact = generate(7, ProceduralOptions(num_views=6, width=64, height=48, depth_noise=(0, 0), outliers=0))
    noisy = generate(7, ProceduralOptions(num_views=6, width=64, height=48, depth_noise=(0.01, 0.01), outliers=0.1))
    centres = exact.views.cameras.centres
    away = noisy.points.xyz - exact.points.xyz
    rays = exact.points.xyz[:, None] - centres
    # The view a point was found in is the one whose ray it moved along.
    off_ray = torch.linalg.cross(away[:, None].expand_as(rays), rays).norm(dim=2) / rays.square().sum(dim=2)
    off_ray, view = off_ray.min(dim=1)
    assert off_ray.max() < 1e-4
    relative = away.norm(dim=1) / rays.norm(dim=2)[torch.arange(len(view)), view]
    wrong = relative > 0.05
    assert 0.06 < wrong.float().mean() < 0.13
    assert 0.008 < relative[~wrong].square().mean().sqrt() < 0.013


def test_the_world_is_changed_by_a_similarity_alone():
    turned = generate(3, EXACT)
    upright = generate(3, ProceduralOptions(**{**vars(EXACT), "random_world": False}))
    assert torch.equal(turned.views.images, upright.views.images)
    a, b = turned.points.xyz.double(), upright.points.xyz.double()
    scale = torch.pdist(a[:50]) / torch.pdist(b[:50])
    assert scale.std() / scale.mean() < 1e-4
    torch.testing.assert_close(turned.depths, upright.depths * scale.mean().float(), rtol=1e-3, atol=0)
    between = torch.pdist(turned.views.cameras.centres) / torch.pdist(upright.views.cameras.centres)
    torch.testing.assert_close(between, scale.mean().float().expand_as(between), rtol=1e-3, atol=0)


@pytest.mark.parametrize("trajectory", TRAJECTORIES)
def test_cameras_stand_outside_solids_and_within_the_room(trajectory):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rotations, centres = camera_path(trajectory, 12, rng)
        np.testing.assert_allclose(rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (12, 1, 1)), atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(rotations), 1)
        assert (rotations[:, 2, 1] < 0).all()  # the image's down axis points down
        assert len(np.unique(centres.round(4), axis=0)) == 12
        solids = compose(ENVIRONMENTS[seed % 2], centres, rng).solids
        for solid in solids:
            if solid["kind"] >= BOX:
                assert (np.linalg.norm(centres - solid["centre"], axis=1) > solid["bound"] + 0.3).all()
            else:
                unit = (centres - solid["centre"]) @ solid["axes"].T
                # In front of planes (third coordinate) and within the dome (norm).
                assert (unit[:, 2] > 0.3).all() or (np.linalg.norm(unit, axis=1) < 0.5).all()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("num_views", 1, "2 views"),
        ("width", 4, "8 pixels"),
        ("trajectory", "spiral", "spiral"),
        ("environment", "sea", "sea"),
        ("fov_degrees", (70.0, 50.0), "fov_degrees"),
        ("depth_noise", (0.1, 0.0), "depth_noise"),
        ("outliers", 2.0, "outliers"),
    ],
)
def test_options_out_of_range_are_refused(option, value, word):
    with pytest.raises(ValueError, match=word):
        ProceduralOptions(**{option: value})


def test_importing_the_generator_does_not_import_numba():
    code = "import sys, l2o_splat.scenes.procedural; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
