"""The plane sweep finds surfaces where they are."""

import pytest
import torch

from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.depth import log_depth_candidates, matching_cost

HEIGHT, WIDTH, CHANNELS = 24, 32, 64


def cameras_beside_each_other(v):
    poses = torch.eye(4).repeat(v, 1, 1)
    poses[:, 0, 3] = torch.linspace(0, 0.6, v)
    poses[:, 1, 3] = torch.linspace(0, -0.3, v)
    intrinsics = torch.tensor([[0.9, 0, 0.5], [0, 1.2, 0.5], [0, 0, 1]]).repeat(v, 1, 1)
    return ContextCameras(poses, intrinsics, torch.full((v,), 0.5), torch.full((v,), 20.0))


def features_of_plane(cameras, depth):
    """Random waves painted on the plane z = depth, as each view's whole-number pixels see them."""
    generator = torch.Generator().manual_seed(0)
    frequency = 4 / depth * torch.randn(CHANNELS // 2, 2, generator=generator)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    K = cameras.intrinsics * torch.tensor([WIDTH, HEIGHT, 1.0])[:, None]
    rays = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(K), torch.stack([x, y, torch.ones_like(x)], 2).float())
    points = rays[..., :2] * depth + cameras.poses[:, None, None, :2, 3]
    angle = torch.einsum("vhwi,ci->vchw", points, frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@pytest.mark.parametrize("v", [2, 4])
@pytest.mark.parametrize("depth", [1.5, 3.0, 8.0])
def test_a_fronto_parallel_plane_is_found(v, depth):
    cameras = cameras_beside_each_other(v)
    candidates = log_depth_candidates(cameras.near, cameras.far, 64)
    features = features_of_plane(cameras, depth)
    cost = matching_cost(features, cameras, cameras.nearest_views(2), candidates.exp())
    found = candidates.exp().gather(1, cost.argmax(dim=1).flatten(1)).view(v, HEIGHT, WIDTH)
    # How far the match is off in the nearest other view, pixels. Near the borders the match may lie outside of it.
    spacing = (cameras.poses[1, :3, 3] - cameras.poses[0, :3, 3]).norm()
    off = 0.9 * WIDTH * spacing * (1 / found - 1 / depth).abs()
    assert off[:, 6:-6, 12:-12].max() < 0.75
    assert (off < 0.75).float().mean() > 0.4


def test_candidates_are_even_in_the_logarithm():
    candidates = log_depth_candidates(torch.tensor([0.01, 1.0]), torch.tensor([100.0, 16.0]), 5)
    torch.testing.assert_close(candidates.exp()[0], torch.tensor([0.01, 0.1, 1, 10, 100]))
    torch.testing.assert_close(candidates.exp()[1], torch.tensor([1.0, 2, 4, 8, 16]))


def test_a_match_outside_the_image_counts_nothing():
    cameras = cameras_beside_each_other(2)
    cameras.poses[1, 0, 3] = 1e4
    cost = matching_cost(torch.ones(2, 4, 8, 8), cameras, cameras.nearest_views(1), torch.full((2, 3), 2.0))
    assert (cost == 0).all()
    cameras.poses[1] = cameras.poses[0]
    cost = matching_cost(torch.ones(2, 4, 8, 8), cameras, cameras.nearest_views(1), torch.full((2, 3), 2.0))
    torch.testing.assert_close(cost, torch.full((2, 3, 8, 8), 2.0))
