"""The smoothness term of depth, in closed form."""

import torch

from l2o_splat.initializers.depth_smoothness import depth_smoothness


def test_a_ramp_of_disparity_on_an_even_image():
    disparity = torch.linspace(1, 2, 11).repeat(7, 1)[None, None]
    image = torch.full((1, 3, 7, 11), 0.3)
    torch.testing.assert_close(depth_smoothness(1 / disparity, image), torch.tensor(0.1 / 1.5))
    torch.testing.assert_close(depth_smoothness(5 / disparity, image), torch.tensor(0.1 / 1.5))


def test_steps_count_less_at_edges_of_the_image():
    depth = torch.ones(1, 1, 8, 8)
    assert depth_smoothness(depth, torch.rand(1, 3, 8, 8)) == 0
    depth[..., 4:] = 3.0
    edge = torch.zeros(1, 3, 8, 8)
    edge[..., 4:] = 0.7
    plain, at_edge = depth_smoothness(depth, torch.zeros_like(edge)), depth_smoothness(depth, edge)
    torch.testing.assert_close(at_edge, plain * torch.tensor(-0.7).exp())
