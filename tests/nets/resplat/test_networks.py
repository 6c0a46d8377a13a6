"""Networks whose numbers the golden fixtures hold; here, what they do with sizes and orders that these lack."""

import pytest
import torch

from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.depth import DepthNetwork
from l2o_splat.nets.resplat.encoder import Windows, input_size
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ErrorFeatures, ReSplatUpdateNetwork
from tests.resplat_networks import NARROW, NARROW_FINE, context

RELEASED = {
    "small": (ReSplatShape(), 76_632_094, 842),
    "base": (ReSplatShape(vit="vitb", width=512), 223_980_854, 842),
    "large": (ReSplatShape(vit="vitl", width=768, update=None), 559_511_033, 869),
    "base RE10K": (
        ReSplatShape(vit="vitb", width=512, feature_downsample=4, latent_downsample=2, gaussians_per_cell=4),
        222_146_030,
        842,
    ),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes(name):
    """Numbers and tensors of the released layouts, and the layout read off the tensors."""
    shape, numbers, tensors = RELEASED[name]
    with torch.device("meta"):
        state = InitialModel(shape, ReSplatConfig()).state_dict()
        if shape.update is not None:
            state |= ReSplatUpdateNetwork(shape).state_dict()
    assert (sum(tensor.numel() for tensor in state.values()), len(state)) == (numbers, tensors)
    assert ReSplatShape.of(state) == shape


def test_shapes_that_do_not_exist_are_refused():
    for options, message in [
        ({"vit": "vitg"}, "'vitg'"),
        ({"feature_downsample": 8, "latent_downsample": 2}, "8 and 4, 4 and 4, or 4 and 2"),
        ({"gaussians_per_cell": 2}, "gaussians_per_cell is 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            ReSplatShape(**options)
    with pytest.raises(ValueError, match="no tensor 'depth_predictor.pretrained.cls_token' among the 1 given"):
        ReSplatShape.of({"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="no update network"):
        ReSplatUpdateNetwork(ReSplatShape(update=None))
    with pytest.raises(ValueError, match="near is 3"):
        ReSplatConfig(near=3, far=2)
    with pytest.raises(ValueError, match="fit is 'pad'"):
        ReSplatConfig(fit="pad")


def test_input_sizes_of_the_image_transformer():
    """Those the paper's settings lead to."""
    assert input_size(256, 448) == (252, 448) and input_size(512, 960) == (294, 560)


def test_windows_are_cut_and_joined():
    maps = torch.arange(2 * 8 * 12).view(2, 8, 12, 1)
    for shifted in (False, True):
        windows = Windows(8, 12, 2, shifted)
        tokens = windows.cut(maps)
        assert tokens.shape == (2, 4, 24, 1) and windows.join(tokens).equal(maps)
    first = Windows(8, 12, 2, False).cut(maps)[0, 0, :, 0]
    assert first.equal(maps[0, :4, :6, 0].flatten())
    mask = windows.mask(maps.device)
    assert (mask[0] == 0).all() and (mask[3] != 0).any(), "only windows at the end hold tokens from both sides"
    with pytest.raises(ValueError, match="cannot be cut into 4 x 4"):
        Windows(8, 10, 4, False)


@pytest.mark.parametrize("shape", [NARROW, NARROW_FINE])
def test_the_order_of_two_views_does_not_matter(shape):
    torch.manual_seed(0)
    network = DepthNetwork(shape)
    views = context(2, 64, 128)
    cameras = ContextCameras.from_pinhole(views.cameras, 0.5, 20.0)
    images = views.images.permute(0, 3, 1, 2)
    swapped = ContextCameras(cameras.poses.flip(0), cameras.intrinsics.flip(0), cameras.near, cameras.far)
    with torch.no_grad():
        depth = network(images, cameras, 2).depth
        other = network(images.flip(0), swapped, 2).depth
    assert depth.shape == (2, 1, 64, 128) and depth.min() >= 0.5 and depth.max() <= 20.001
    torch.testing.assert_close(other.flip(0), depth, rtol=1e-3, atol=1e-3)


def test_statistics_of_the_error_features_never_change():
    features = ErrorFeatures().train()
    before = {name: tensor.clone() for name, tensor in features.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    maps = features(images, (16, 16))
    assert maps.shape == (2, 256, 16, 16) and not maps.requires_grad
    assert all(tensor.equal(before[name]) for name, tensor in features.state_dict().items())
    # The first 64 channels are the first convolution alone: linear up to the normalisation of the images.
    half = features(images / 2, (16, 16)), features(torch.zeros_like(images), (16, 16))
    torch.testing.assert_close(2 * half[0][:, :64] - half[1][:, :64], maps[:, :64], rtol=1e-4, atol=1e-4)
