"""Depths of surfaces that are known in closed form, and of what the procedural ray caster draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from l2o_splat.initializers.dense.depths import estimate_depths
from l2o_splat.initializers.dense.matching import matched
from l2o_splat.initializers.dense.neighbours import neighbours
from l2o_splat.initializers.dense.observations import sight
from l2o_splat.initializers.dense.working_views import working_views
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.views import Views
from tests.initializers.dense.surfaces import photographed, slanted, step


def estimated(views, xyz, rgb):
    small = working_views([views])
    sightings = sight(small, xyz.double().numpy(), rgb.numpy())
    return estimate_depths(small, sightings, neighbours(small, sightings))


def truth(depths, size):
    """Nearest of the true depths, as there is no mean of two surfaces."""
    rows, columns = (
        np.arange(small) * full // small + full // small // 2
        for small, full in zip(size, depths.shape[1:], strict=True)
    )
    return depths.numpy()[:, rows[:, None], columns]


def away_from_points(capture, shape, pixels=2):
    small = working_views([capture.views])
    sightings = sight(small, capture.points.xyz.double().numpy(), capture.points.rgb.numpy())
    free = np.ones(shape, bool)
    for v in range(len(small)):
        places, _ = sightings.in_view(v)
        free[v, places[:, 1], places[:, 0]] = False
    return np.stack([distance_transform_edt(view) > pixels for view in free])


def test_a_slanted_plane_is_found_to_a_hundredth():
    views, depths, xyz, rgb = photographed(slanted)
    found = estimated(views, xyz, rgb)
    error = np.abs(found.inverse * truth(depths, found.inverse.shape[1:]) - 1)
    assert found.trusted.mean() > 0.85
    # Pixel centres of the two grids differ by half a full pixel: 0.2 % of depth here.
    assert np.median(error[found.trusted]) < 0.007 and np.quantile(error[found.trusted], 0.95) < 0.025


def test_nothing_hangs_between_two_walls():
    views, depths, xyz, rgb = photographed(step)
    found = estimated(views, xyz, rgb)
    z = 1 / found.inverse[found.trusted]
    assert found.trusted.mean() > 0.75
    assert ((z > 2.6) & (z < 3.85)).mean() < 0.02
    right = np.abs(found.inverse * truth(depths, found.inverse.shape[1:]) - 1) < 0.03
    assert right[found.trusted].mean() > 0.95


@pytest.mark.parametrize("trajectory", ["walk", "grid"])
def test_solids_of_the_ray_caster_have_their_depths(trajectory):
    options = ProceduralOptions(
        num_views=12, width=128, height=96, num_points=1500, trajectory=trajectory, environment="room"
    )
    capture = generate(1, options)
    found = estimated(capture.views, capture.points.xyz, capture.points.rgb)
    right = np.abs(found.inverse * truth(capture.depths, found.inverse.shape[1:]) - 1) < 0.05
    assert found.trusted.mean() > 0.4
    # The points themselves keep their depths, whether views agree or not.
    apart = away_from_points(capture, found.trusted.shape)
    assert right[found.trusted].mean() > 0.85 and right[~found.trusted & apart].mean() < 0.5


def test_depths_do_not_depend_on_what_masks_hide():
    views, _, xyz, rgb = photographed(slanted)
    masks = torch.ones(*views.images.shape[:3], 1)
    masks[:, :, 80:] = 0
    results = []
    for hidden in (0.0, torch.nan):
        images = torch.where(masks > 0, views.images, hidden)
        results.append(estimated(Views(views.cameras, images, masks), xyz, rgb))
    assert np.array_equal(results[0].inverse, results[1].inverse)
    assert not results[0].trusted[:, :, 40:].any() and results[0].trusted[:, :, :36].mean() > 0.8


def test_points_keep_their_depths_where_views_share_little():
    """Two views of which each sees the edge of what the other sees: nothing else says what lies in between."""
    views, _, xyz, rgb = photographed(slanted)
    own = xyz[:60]  # Seen by the first view.
    apart = Views(views.cameras[[0, 5]], views.images[[0, 5]].roll(64, dims=2))
    apart.images[0] = views.images[0]
    found = estimated(apart, own, rgb[:60])
    small = working_views([apart])
    places, inverse = sight(small, own.double().numpy(), rgb[:60].numpy()).in_view(0)
    error = np.abs(found.inverse[0, places[:, 1], places[:, 0]] / inverse - 1)
    assert len(places) > 40 and np.median(error) < 0.005 and error.max() < 0.05


def test_depths_stay_near_the_range_that_they_start_from_where_views_share_nothing():
    """The camera of another view is in the image, where a plane through that camera would look like any place."""
    views, _, _, _ = photographed(slanted)
    ahead = views.cameras.viewmats.clone()
    ahead[:, 0, 3], ahead[:, 2, 3] = 0, -torch.linspace(0, 0.3, len(ahead))
    noise = torch.rand(views.images.shape, generator=torch.Generator().manual_seed(0))
    small = working_views([Views(replace(views.cameras, viewmats=ahead), noise)])
    start = np.full(small.grey.shape[1:], 1 / 3, np.float32)
    for v in range(len(small)):
        found = matched(small, v, np.delete(np.arange(len(small)), v), start)
        assert found.min() > 1 / 8 and found.max() < 1 / 1.2
