"""Operations of the papers' networks, counted exactly: ``python benchmarks/count_operations.py [--help]``.

Multiplications and additions (2 per multiply-add) of matrix products, convolutions and attention, by torch's own
formulas; they are not carried out. Attention to nearest points, which is made of single operations, is added in closed
form. A backward pass through weights and inputs takes twice as many.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.nets.perceptual_network import Backbone, PerceptualNetwork
from l2o_splat.nets.point_transformer import NeighbourAttention
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import ReSplatConfig, ReSplatShape
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.nets.resplat.update import PARAMETER_WIDTH, ReSplatUpdateNetwork

HEIGHT, WIDTH = 256, 448


class AnyNeighbours(InitialModel):
    """Does not search: how many neighbours there are is all that counts here."""

    def find_neighbours(self, points: Tensor, cameras: ContextCameras, grid: tuple[int, int]) -> Tensor:
        return neighbours(len(points), self.config.neighbours)


def neighbours(points: int, each: int) -> Tensor:
    """Indices of any points."""
    return torch.zeros(points, each, dtype=torch.int64)


class Operations(TorchDispatchMode):
    """Counts the large operations and gives zeros for their results."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            return function(*args, **kwargs)
        shapes = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
        result = function(*shapes[0], **shapes[1])
        self.total += formula(*args, **kwargs, out_val=result)
        return torch.utils._pytree.tree_map_only(
            Tensor, lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype), result
        )


def counted(network: nn.Module, points: int, each: int, *inputs: object) -> float:
    """Operations of a forward pass, in units of 10^9."""
    attention = [part for part in network.modules() if isinstance(part, NeighbourAttention)]
    # A product of query and key, and a sum of values, per point, neighbour and channel.
    gathered = sum(4 * points * each * part.proj.in_features for part in attention)
    # With gradients enabled nothing is shared out to threads, which the counter would not see.
    network.requires_grad_(False)
    with Operations() as operations, torch.enable_grad():
        network(*inputs)
    return (operations.total + gathered) / 1e9


def learn2splat(points: int, each: int = 4) -> float:
    """A query of Learn2Splat's network at its released widths."""
    shape = Learn2SplatNetworkShape()
    network = Learn2SplatNetwork(shape)
    parameters = torch.zeros(points, shape.parameter_width)
    return counted(
        network, points, each, parameters, torch.zeros(points, shape.latent_width), parameters, neighbours(points, each)
    )


def perceptual(backbone: Backbone) -> float:
    """The perceptual network on one image."""
    return counted(PerceptualNetwork(backbone), 0, 0, torch.zeros(1, HEIGHT, WIDTH, 3))


def resplat(shape: ReSplatShape, views: int) -> tuple[float, float | None]:
    """The initial model on some views, and one update of its Gaussians; None without an update network."""
    config = ReSplatConfig()
    poses = torch.eye(4).repeat(views, 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(views)
    intrinsics = torch.tensor([[0.9, 0, 0.5], [0, 1.1, 0.5], [0, 0, 1]]).repeat(views, 1, 1)
    near, far = torch.full((views,), config.near), torch.full((views,), config.far)
    cells = views * HEIGHT * WIDTH // shape.latent_downsample**2
    images = torch.zeros(views, 3, HEIGHT, WIDTH)
    cameras = ContextCameras(poses, intrinsics, near, far)
    initial = counted(AnyNeighbours(shape, config), cells, config.neighbours, images, cameras)
    if shape.update is None:
        return initial, None
    update = ReSplatUpdateNetwork(shape)
    points = cells * shape.gaussians_per_cell
    grid = tuple(side // shape.gaussian_downsample for side in (HEIGHT, WIDTH))
    with Operations() as seen, torch.enable_grad():
        update.requires_grad_(False).update_feature(images, grid)
    rows = [torch.zeros(points, width) for width in (PARAMETER_WIDTH, shape.update.state_width)]
    error = torch.zeros(points, shape.update.shown_width)
    step = counted(update, points, config.update_neighbours, *rows, error, neighbours(points, config.update_neighbours))
    return initial, step + seen.total / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=70_000, help="Gaussians of Learn2Splat's scenes")
    parser.add_argument("--views", type=int, default=8, help="context views of ReSplat")
    parser.add_argument("--models", nargs="+", default=["small"], choices=["small", "base", "large"])
    arguments = parser.parse_args()
    print("| forward pass | GFLOP |\n|---|---|")
    print(f"| learn2splat, a query for {arguments.points} Gaussians | {learn2splat(arguments.points):,.0f} |")
    for backbone in ("vgg19", "vgg16"):
        print(f"| perceptual, {backbone}, an image of {HEIGHT} x {WIDTH} | {perceptual(backbone):,.1f} |", flush=True)
    shapes = {
        "small": ReSplatShape(),
        "base": ReSplatShape(vit="vitb", width=512),
        "large": ReSplatShape(vit="vitl", width=768, update=None),
    }
    for name in arguments.models:
        initial, update = resplat(shapes[name], arguments.views)
        print(f"| resplat {name}, initial model, {arguments.views} views | {initial:,.0f} |", flush=True)
        if update is not None:
            print(f"| resplat {name}, one update | {update:,.0f} |")


if __name__ == "__main__":
    main()
