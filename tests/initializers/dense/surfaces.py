"""Photographs of textured planes in closed form."""

import torch

from l2o_splat.views import PinholeCameras, Views

WIDTH, HEIGHT, FOCAL = 128, 96, 110.0


def cameras(count: int = 6) -> PinholeCameras:
    """In a row along x, looking along z."""
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = -torch.linspace(-0.4, 0.4, count)
    K = torch.tensor([[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]])
    return PinholeCameras(viewmats, K.repeat(count, 1, 1), WIDTH, HEIGHT)


def texture(x, y):
    """sRGB, of waves of several lengths."""
    waves = [torch.sin(7 * x + 4 * y), torch.sin(17 * y - 9 * x), torch.sin(29 * x + 23 * y + 1)]
    return 0.5 + torch.stack([0.25 * waves[0] + 0.1 * w for w in (waves[1], waves[2], waves[1] + waves[2])], dim=-1)


def rays() -> torch.Tensor:
    """``[h, w, 3]`` directions of the pixels' centres, z 1."""
    x = (torch.arange(WIDTH) + 0.5 - WIDTH / 2) / FOCAL
    y = (torch.arange(HEIGHT) + 0.5 - HEIGHT / 2) / FOCAL
    return torch.stack([x.expand(HEIGHT, WIDTH), y[:, None].expand(HEIGHT, WIDTH), torch.ones(HEIGHT, WIDTH)], dim=-1)


def photographed(depth_along) -> tuple[Views, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photographs, depths ``[v h w]``, and sparse points with colours, of a scene of textured surfaces.

    Args:
        depth_along: Depth and offset of the texture, given rays ``[h, w, 3]`` and the camera's x.
    """
    row = cameras()
    images, depths, xyz, rgb = [], [], [], []
    generator = torch.Generator().manual_seed(0)
    for centre in row.centres:
        depth, offset = depth_along(rays(), centre[0])
        places = rays() * depth[..., None] + centre
        images.append(texture(places[..., 0] + offset, places[..., 1]))
        depths.append(depth)
        chosen = torch.randperm(WIDTH * HEIGHT, generator=generator)[:60]
        xyz.append(places.view(-1, 3)[chosen])
        rgb.append(images[-1].view(-1, 3)[chosen])
    return Views(row, torch.stack(images)), torch.stack(depths), torch.cat(xyz), torch.cat(rgb)


def slanted(rays, x):
    """The plane z = 3 + 0.4 x + 0.2 y."""
    return (3 + 0.4 * x) / (1 - 0.4 * rays[..., 0] - 0.2 * rays[..., 1]), 0.0


def step(rays, x):
    """A wall at z = 4, and before its right half one at z = 2.5 with an edge at world x = 0."""
    near = rays[..., 0] * 2.5 + x > 0
    return torch.where(near, 2.5, 4.0), torch.where(near, 0.7, 0.0)
