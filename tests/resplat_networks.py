"""Narrow ReSplat networks with random weights, and a few context views for them."""

import functools

import torch

from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape, UpdateShape
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.views import PinholeCameras, Views

NARROW = ReSplatShape(
    width=32,
    num_depths=16,
    unet_width=32,
    num_transformer_layers=2,
    attention_width=8,
    num_blocks=1,
    update=UpdateShape(state_width=32, attention_width=8, num_blocks=1),
)
NARROW_FINE = ReSplatShape(
    width=32,
    feature_downsample=4,
    latent_downsample=2,
    gaussians_per_cell=4,
    num_depths=16,
    unet_width=32,
    num_transformer_layers=2,
    attention_width=8,
    num_blocks=1,
    update=UpdateShape(state_width=32, attention_width=8, num_blocks=1),
)
"""The layout for RE10K: a Gaussian per pixel."""
OPTIONS = {"near": 0.5, "far": 20.0, "neighbours": 8, "update_neighbours": 4}


@functools.cache
def _random_tensors(network, *arguments):
    """Drawing the 22 million numbers of even the smallest image transformer takes a while."""
    torch.manual_seed(0)
    return network(*arguments).state_dict()


def _random(network, *arguments):
    with torch.device("meta"):
        built = network(*arguments)
    tensors = _random_tensors(network, *arguments)
    built.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return built


def initializer(shape=NARROW, **options):
    model = _random(InitialModel, shape, ReSplatConfig())
    model.config = ReSplatConfig(**OPTIONS | options)
    return ReSplatInitializer(model)


def rule(shape=NARROW, **options):
    return ReSplatRule(_random(ReSplatUpdateNetwork, shape), ReSplatConfig(**OPTIONS | options))


def context(num_views=3, height=64, width=64, seed=0):
    """Smooth random photographs from cameras that look about the same way."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num_views, 3, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    skew = 0.1 * torch.randn(num_views, 3, 3, generator=generator, dtype=torch.float64)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(num_views, 1, 1)
    viewmats[:, :3, :3] = torch.linalg.matrix_exp(skew - skew.mT)
    viewmats[:, :3, 3] = 0.5 * torch.randn(num_views, 3, generator=generator, dtype=torch.float64)
    K = torch.tensor([[0.9 * width, 0, 0.49 * width], [0, 1.1 * height, 0.52 * height], [0, 0, 1]])
    cameras = PinholeCameras(viewmats.float(), K.repeat(num_views, 1, 1), width, height)
    return Views(cameras, images.permute(0, 2, 3, 1).contiguous())


def moved(views, scale=1.0, seed=0):
    """The same photographs in a world that is turned, moved and scaled, and what was done to it."""
    generator = torch.Generator().manual_seed(seed)
    skew = 2 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.matrix_exp(skew - skew.T)
    translation = torch.randn(3, generator=generator, dtype=torch.float64)
    # x_new = scale R x + t, so that x_cam = V x becomes scale x_cam = V R^T (x_new - t) + scale t_V.
    viewmats = views.cameras.viewmats.double().clone()
    viewmats[:, :3, :3] = viewmats[:, :3, :3] @ rotation.T
    viewmats[:, :3, 3] = scale * viewmats[:, :3, 3] - viewmats[:, :3, :3] @ translation
    cameras = PinholeCameras(viewmats.float(), views.cameras.Ks, views.cameras.width, views.cameras.height)
    return Views(cameras, views.images), rotation.float(), translation.float()
