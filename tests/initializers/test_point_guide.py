"""What sparse points say about the depths of views, and what networks with a guide make of it."""

from dataclasses import replace

import pytest
import torch

from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializers.context_views import depth_range
from l2o_splat.initializers.point_guide import point_guide
from l2o_splat.initializers.resplat import ReSplatInitializer
from tests.initializer_training.networks import CONFIG, SHAPE
from tests.initializers.dense.surfaces import HEIGHT, WIDTH, photographed, slanted


@pytest.fixture(scope="module")
def plane():
    return photographed(slanted)


def log_error(found, depths):
    return (found.log() - depths.log()).abs()


@pytest.mark.parametrize("scale", [1, 2])
def test_depths_are_those_of_the_surface_at_any_size(plane, scale):
    views, depths, xyz, rgb = plane
    size = (HEIGHT // scale, WIDTH // scale)
    depth, nearness, agreed = point_guide(views, xyz, rgb, size).unbind(1)
    true = torch.nn.functional.avg_pool2d(depths[:, None], scale)[:, 0]
    assert depth.shape == (len(views), *size)
    assert log_error(depth, true).median() < 0.01
    assert 0.5 < agreed.mean() <= 1 and set(agreed.unique().tolist()) <= {0.0, 1.0}
    assert nearness.min() >= 0 and nearness.max() == 1


def test_colours_may_be_integers(plane):
    views, _, xyz, rgb = plane
    of_floats = point_guide(views, xyz, (rgb * 255).round() / 255, (48, 64))
    of_integers = point_guide(views, xyz, (rgb * 255).round().to(torch.uint8), (48, 64))
    assert torch.equal(of_floats, of_integers)


def test_views_that_see_no_point_know_no_depth(plane):
    views, _, xyz, rgb = plane
    far_away = xyz.clone()
    far_away[:, 2] = -5  # Behind all cameras.
    guide = point_guide(views, far_away, rgb, (48, 64))
    assert not guide.any()


@pytest.mark.parametrize("unit", [1.0, 7.0])
def test_a_network_with_a_guide_finds_the_depths_of_the_points_in_any_unit(plane, unit):
    """Untrained, so that its own depths are hardly better than guesses."""
    views, depths, xyz, rgb = plane
    viewmats = views.cameras.viewmats.clone()
    viewmats[:, :3, 3] *= unit
    views = replace(views, cameras=replace(views.cameras, viewmats=viewmats))
    initializer = ReSplatInitializer(new_initial_model(SHAPE, CONFIG, seed=0))
    near_far = depth_range(xyz * unit, views.cameras)
    guided = initializer(views, 1.0, near_far, points=(xyz * unit, rgb)).depth / unit
    alone = initializer(views, 1.0, near_far).depth / unit
    found, before = (float(log_error(depth, depths).median()) for depth in (guided, alone))
    assert found < 0.3 * before and found < 0.03


def test_windows_of_views_take_their_own_part_of_the_guide(plane):
    views, _, xyz, rgb = plane
    model = new_initial_model(SHAPE, CONFIG, seed=0)
    near_far = depth_range(xyz, views.cameras)
    whole = ReSplatInitializer(model)(views, 1.0, near_far, points=(xyz, rgb)).depth
    model.config = replace(CONFIG, views_at_once=4)
    parts = ReSplatInitializer(model)(views, 1.0, near_far, points=(xyz, rgb)).depth
    assert log_error(parts, whole).median() < 0.01
