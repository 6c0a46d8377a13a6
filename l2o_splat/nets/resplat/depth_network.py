"""Depth of each context view by comparing the views (DepthSplat, arXiv 2410.13862, with log-depth candidates)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import ReSplatShape
from l2o_splat.nets.resplat.depth_upsampler import DepthUpsampler
from l2o_splat.nets.resplat.image_encoder import ImageEncoder, imagenet_normalised
from l2o_splat.nets.resplat.multiview_transformer import MultiViewTransformer, add_positions
from l2o_splat.nets.resplat.plane_sweep import log_depth_candidates, matching_cost
from l2o_splat.nets.resplat.precision import full_precision
from l2o_splat.nets.resplat.resize import resize
from l2o_splat.nets.resplat.unet import UNet
from l2o_splat.nets.resplat.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class DepthFeatures:
    """Depth and what was found on the way to it."""

    depth: Float[Tensor, "v 1 h w"]
    """Camera z at the resolution of the images, units of the poses."""
    mono: list[Float[Tensor, "v c p q"]]
    """Four outputs of the image transformer on its patch grid."""
    cnn: list[Float[Tensor, "v c h2 w2"]]
    """Maps of the image encoder, fine to coarse."""
    multiview: Float[Tensor, "v c h8 w8"]
    """Maps of the multi-view transformer."""
    probability: Float[Tensor, "v d h8 w8"]
    """Of each depth candidate."""


class DepthNetwork(nn.Module):
    """Features of all views, a plane sweep over them, and the depth of every pixel."""

    def __init__(self, shape: ReSplatShape) -> None:
        super().__init__()
        self.shape = shape
        width, d = shape.unet_width, shape.num_depths
        self.backbone = ImageEncoder(shape.feature_downsample, shape.cnn_widths)
        self.transformer = MultiViewTransformer(shape.view_width, shape.num_transformer_layers)
        self.pretrained = VisionTransformer(shape.vit)
        in_width = d + 2 * shape.view_width + shape.vit_width
        self.regressor = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(in_width, width, 3, padding=1),
                    nn.GroupNorm(8, width),
                    nn.GELU(),
                    UNet(width),
                    nn.Conv2d(width, width, 3, padding=1),
                )
            ]
        )
        self.regressor_residual = nn.ModuleList([nn.Conv2d(in_width, width, 1)])
        self.depth_head = nn.ModuleList(
            [
                nn.Sequential(
                    nn.Conv2d(width, 2 * width, 3, padding=1, padding_mode="replicate"),
                    nn.GELU(),
                    nn.Conv2d(2 * width, d, 3, padding=1, padding_mode="replicate"),
                )
            ]
        )
        self.upsampler = DepthUpsampler(shape.vit, shape.vit_width, shape.cnn_widths, shape.feature_downsample)

    def forward(self, images: Float[Tensor, "v 3 h w"], cameras: ContextCameras, reference_views: int) -> DepthFeatures:
        """Depth of every pixel of all views of one scene.

        Args:
            images: sRGB, 0 to 1; no higher than wide.
            cameras: Of the views.
            reference_views: Number of nearest views that each is compared with.
        """
        height, width = images.shape[2:]
        normalised = imagenet_normalised(images)
        others = cameras.nearest_views(reference_views)
        cnn = self.backbone(normalised)
        multiview = self.transformer(add_positions(cnn[-1]), others)
        mono = self.pretrained(normalised)
        eighth = [resize(maps, (height // 8, width // 8)) for maps in mono]
        candidates = log_depth_candidates(cameras.near, cameras.far, self.shape.num_depths)
        with full_precision(images.device):
            cost = matching_cost(multiview, cameras, others, candidates.exp())
        x = torch.cat([cost, cnn[-1], multiview, resize(eighth[-1], cost.shape[2:])], dim=1)
        x = self.regressor[0](x) + self.regressor_residual[0](x)
        with full_precision(images.device):
            probability = self.depth_head[0](x.float()).softmax(dim=1)
            log_depth = (probability * candidates[:, :, None, None]).sum(dim=1, keepdim=True)
        residual = self.upsampler(eighth, cnn, multiview, log_depth)
        nearest, farthest = (limit.log()[:, None, None, None] for limit in (cameras.near, cameras.far))
        depth = (resize(log_depth, (height, width)) + residual.float()).clamp(nearest, farthest).exp()
        return DepthFeatures(depth, mono, cnn, multiview, probability)
