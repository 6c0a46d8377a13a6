"""Plane sweep: how well the views agree at each of many depths of each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.nets.resplat.cameras import ContextCameras

SAMPLES_AT_ONCE = 1 << 26
"""Numbers of one warped block of feature maps; bounds the memory (256 MB in float32)."""
SMALLEST_DEPTH = 1e-3
"""Depths behind or near the camera are clamped to this before the division, scene units."""


def log_depth_candidates(near: Float[Tensor, " v"], far: Float[Tensor, " v"], count: int) -> Float[Tensor, "v d"]:
    """Depths at even steps of their logarithm, from near to far inclusive, scene units."""
    steps = torch.linspace(0, 1, count, device=near.device)
    return near.log()[:, None] + steps * (far / near).log()[:, None]


def matching_cost(
    features: Float[Tensor, "v c h w"],
    cameras: ContextCameras,
    reference_views: Int[Tensor, "v m"],
    depths: Float[Tensor, "v d"],
) -> Float[Tensor, "v d h w"]:
    """Correlation of each view's features with those that its reference views have at every candidate depth.

    A pixel with whole-number coordinates (x, y) is lifted to each depth and looked up in the reference view, both with
    the intrinsics of the view itself, as the released weights were trained; views of one camera do not notice.

    Args:
        features: One map per view.
        cameras: Poses and intrinsics of the views.
        reference_views: Views that each view is compared with; the costs of several are averaged.
        depths: Candidates of each view (camera z), scene units.

    Returns:
        Sum over channels of the products divided by the root of the number of channels; 0 outside the images.
    """
    features = features.float()
    channels, height, width = features.shape[1:]
    scale = features.new_tensor([width, height, 1.0])[:, None]
    intrinsics = cameras.intrinsics * scale
    y, x = torch.meshgrid(
        torch.arange(height, device=features.device), torch.arange(width, device=features.device), indexing="ij"
    )
    pixels = torch.stack([x, y, torch.ones_like(x)]).to(features.dtype).flatten(1)
    rays = torch.linalg.inv(intrinsics) @ pixels
    from_world = torch.linalg.inv(cameras.poses)
    at_once = max(1, SAMPLES_AT_ONCE // features[0].numel())
    costs = []
    for view, references in enumerate(reference_views.tolist()):
        total = 0
        for reference in references:
            relative = from_world[reference] @ cameras.poses[view]
            parts = [
                _correlate(features[view], features[reference], intrinsics[view], relative, rays[view], part)
                for part in depths[view].split(at_once)
            ]
            total = total + torch.cat(parts)
        costs.append(total / len(references))
    return torch.stack(costs) / channels**0.5


def _correlate(
    own: Float[Tensor, "c h w"],
    other: Float[Tensor, "c h w"],
    intrinsics: Float[Tensor, "3 3"],
    relative: Float[Tensor, "4 4"],
    rays: Float[Tensor, "3 n"],
    depths: Float[Tensor, " d"],
) -> Float[Tensor, "d h w"]:
    """Sum over channels of the products of one view's features with those found in another one."""
    height, width = own.shape[1:]
    points = (relative[:3, :3] @ rays)[None] * depths[:, None, None] + relative[:3, 3:]
    projected = intrinsics @ points
    pixels = projected[:, :2] / projected[:, 2:].clamp(min=SMALLEST_DEPTH)
    last = pixels.new_tensor([width - 1, height - 1])[:, None]
    grid = (2 * pixels / last - 1).transpose(1, 2)
    own = own.flatten(1)
    if height * width <= len(own) * len(depths):
        # Looking up and summing over channels may change places; all pairs of pixels are fewer numbers here.
        products = (own.T @ other.flatten(1)).view(-1, 1, height, width)
        grid = grid.transpose(0, 1)[:, :, None]
        found = F.grid_sample(products, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        return found[:, 0, :, 0].T.unflatten(1, (height, width))
    found = F.grid_sample(other[None], grid[None], mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    return (own[:, None] * found).sum(dim=0).unflatten(1, (height, width))
