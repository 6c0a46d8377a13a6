"""Points of the views, and which of them are neighbours."""

import pytest
import torch

from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.points import local_neighbours
from tests.resplat_networks import context

GRID = (6, 9)


def cameras_and_points(v=3):
    views = context(v)
    cameras = ContextCameras.from_pinhole(views.cameras, 0.5, 20.0)
    depth = 3 + torch.rand(v, *GRID, generator=torch.Generator().manual_seed(2))
    return views.cameras, cameras, depth, cameras.unproject(depth)


def test_points_project_to_the_centres_of_their_pixels():
    pinhole, _, depth, points = cameras_and_points()
    for view in range(3):
        viewmat, K = pinhole.viewmats[view], pinhole.Ks[view]
        projected = (points[view] @ viewmat[:3, :3].T + viewmat[:3, 3]) @ K.T
        torch.testing.assert_close(projected[..., 2], depth[view])
        pixels = projected[..., :2] / projected[..., 2:]
        x = (torch.arange(GRID[1]) + 0.5) / GRID[1] * pinhole.width
        y = (torch.arange(GRID[0]) + 0.5) / GRID[0] * pinhole.height
        torch.testing.assert_close(pixels, torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2), rtol=0, atol=1e-3)


@pytest.mark.parametrize("v", [2, 3])
def test_windows_that_cover_everything_give_the_nearest_of_all(v):
    _, cameras, _, points = cameras_and_points(v)
    points = points.flatten(0, 2)
    exact = nearest_neighbours(points, 6)
    own = torch.arange(len(points))[:, None]
    others = exact[exact != own].view(-1, 5)
    found = local_neighbours(points, cameras, GRID, 5, radius=40, cross_radius=40)
    assert found.sort(dim=1).values.equal(others.sort(dim=1).values)


def test_small_windows_stay_near():
    _, cameras, _, points = cameras_and_points(2)
    found = local_neighbours(points.flatten(0, 2), cameras, GRID, 3, radius=1, cross_radius=0)
    rows = torch.arange(2 * 6 * 9)
    view, row, column = found // 54, found % 54 // 9, found % 9
    same = view == (rows // 54)[:, None]
    near = ((row - (rows % 54 // 9)[:, None]).abs() <= 1) & ((column - (rows % 9)[:, None]).abs() <= 1)
    assert near[same].all() and ((~same).sum(dim=1) <= 1).all() and (~same).any()
    assert not (found == rows[:, None]).any(), "a point is its own neighbour though there are others"


def test_missing_candidates_are_the_point_itself():
    _, cameras, _, points = cameras_and_points(2)
    found = local_neighbours(points.flatten(0, 2), cameras, GRID, 9, radius=1, cross_radius=0)
    corner = found[0]
    assert (corner == 0).sum() >= 5 and len(set(corner.tolist()) - {0}) >= 3


def test_nearest_views():
    poses = torch.eye(4).repeat(5, 1, 1)
    poses[:, 0, 3] = torch.tensor([0.0, 1, 3, 3.5, 10])
    ones = torch.ones(5)
    cameras = ContextCameras(poses, poses[:, :3, :3], ones, ones)
    assert [set(row) for row in cameras.nearest_views(2).tolist()] == [{1, 2}, {0, 2}, {1, 3}, {1, 2}, {2, 3}]
    assert cameras.nearest_views(9).tolist()[1] == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="1 context view"):
        ContextCameras(poses[:1], poses[:1, :3, :3], ones[:1], ones[:1]).nearest_views(2)
