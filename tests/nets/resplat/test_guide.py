"""The layers that join depths of the sparse points with those of the network."""

import pytest
import torch

from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatShape
from l2o_splat.nets.resplat.guide import FIRST_GATE, DepthGuide
from l2o_splat.nets.resplat.model import InitialModel
from tests.resplat_networks import NARROW, context, initializer

SIZE = (2, 1, 12, 16)


def joined(depth, nearness=1.0, agreed=1.0, own=3.0):
    """What new layers make of depths of points beside a flat depth of the network's own, from 1 to 10."""
    nearest, farthest = torch.zeros(2, 1, 1, 1), torch.full((2, 1, 1, 1), 10.0).log()
    guide = torch.cat([depth, torch.full(SIZE, nearness), torch.full(SIZE, agreed)], dim=1)
    images = torch.rand(2, 3, *SIZE[2:])
    return DepthGuide(8)(torch.full(SIZE, own).log(), guide, images, nearest, farthest).exp()


def test_new_layers_follow_the_points_where_these_are_known_and_the_network_elsewhere():
    depth = torch.full(SIZE, 5.0)
    depth[:, :, :, 8:] = 0
    found = joined(depth)
    share = torch.sigmoid(torch.tensor(FIRST_GATE))
    assert torch.allclose(found[..., :8], 3.0 * (5.0 / 3.0) ** share.expand(found[..., :8].shape))
    assert torch.equal(found[..., 8:], torch.full(SIZE, 3.0).log().exp()[..., 8:])


def test_points_beyond_the_range_of_depths_count_as_its_ends():
    assert joined(torch.full(SIZE, 1000.0)).max() <= 10.0
    assert joined(torch.full(SIZE, 1e-9)).min() >= 1.0


def test_layers_of_a_guide_are_read_from_the_tensors_of_weights():
    model = InitialModel(NARROW, initializer().config)
    assert ReSplatShape.of(model.state_dict()).guide_width == 0
    model.add_guide(8)
    assert model.shape.guide_width == ReSplatShape.of(model.state_dict()).guide_width == 8


@pytest.mark.parametrize("width", [0, 8])
def test_without_points_a_model_with_a_guide_computes_what_it_would_without(width):
    one = initializer().model.eval()
    images, cameras = torch.rand(2, 3, 64, 64), _cameras(one)
    before = one(images, cameras).depth
    if width:
        one.add_guide(width)
    assert torch.equal(one(images, cameras).depth, before)


def _cameras(model):
    return ReSplatInitializer(model).show(context(2), 1.0, (0.5, 20.0)).cameras
