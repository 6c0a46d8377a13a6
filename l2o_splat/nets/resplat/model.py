"""ReSplat's initial model (arXiv 2510.08575, section 3.1): posed images in, Gaussians and their features out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import NUMBERS_PER_GAUSSIAN, ReSplatConfig, ReSplatShape, full_precision
from l2o_splat.nets.resplat.depth import DepthFeatures, DepthNetwork
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.nets.resplat.gaussians import CameraGaussians, decode_gaussians
from l2o_splat.nets.resplat.guide import DepthGuide
from l2o_splat.nets.resplat.points import PointNetwork, local_neighbours, rows_from_maps


@dataclass(frozen=True)
class InitialPrediction:
    """What the initial model predicts for a scene."""

    gaussians: CameraGaussians
    features: Float[Tensor, "cells c"]
    """One row per cell of the latent grids, view by view and row by row."""
    depth: Float[Tensor, "v 1 h w"]
    """Camera z, units of the poses; at half the resolution of the images with ``half_resolution_depth``."""
    probability: Float[Tensor, "v d h8 w8"]
    """Probability of each depth candidate."""

    def without_first(self, count: int, num_views: int) -> InitialPrediction:
        """The prediction without its first ``count`` of ``num_views`` views."""
        rows = self.gaussians.pack()
        return InitialPrediction(
            CameraGaussians.unpack(rows[count * (len(rows) // num_views) :]),
            self.features[count * (len(self.features) // num_views) :],
            self.depth[count:],
            self.probability[count:],
        )

    @classmethod
    def joined(cls, parts: list[InitialPrediction]) -> InitialPrediction:
        """Join predictions for different views of one scene, in order."""
        return cls(
            CameraGaussians.unpack(torch.cat([part.gaussians.pack() for part in parts])),
            torch.cat([part.features for part in parts]),
            torch.cat([part.depth for part in parts]),
            torch.cat([part.probability for part in parts]),
        )


class InitialModel(nn.Module):
    """Predicts the depths of all views, one point per cell of a latent grid, then Gaussians by attention among them."""

    def __init__(self, shape: ReSplatShape, config: ReSplatConfig) -> None:
        super().__init__()
        self.shape, self.config = shape, config
        width, m = shape.width, shape.gaussians_per_cell
        rgb = 3 * shape.latent_downsample**2
        self.depth_predictor = DepthNetwork(shape)
        self.gaussian_regressor = nn.Sequential(
            nn.Conv2d(rgb + 2 + shape.feature_width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.proj = nn.Linear(width + rgb + shape.feature_width + 1, width)
        self.pt = PointNetwork(width, shape.attention_width, shape.num_blocks)
        self.gaussian_head = nn.Sequential(
            nn.Linear(width, NUMBERS_PER_GAUSSIAN * m),
            nn.GELU(),
            nn.Linear(NUMBERS_PER_GAUSSIAN * m, NUMBERS_PER_GAUSSIAN * m),
        )

    def forward(
        self,
        images: Float[Tensor, "v 3 h w"],
        cameras: ContextCameras,
        guide: Float[Tensor, "v 3 h w"] | None = None,
    ) -> InitialPrediction:
        """Predict one scene.

        Args:
            images: sRGB, 0 to 1; sides are multiples of ``shape.size_multiple``, no higher than wide.
            cameras: Cameras of the views.
            guide: Depths of the sparse points, see :class:`l2o_splat.nets.resplat.depth.DepthNetwork`.
        """
        grid = (images.shape[2] // self.shape.latent_downsample, images.shape[3] // self.shape.latent_downsample)
        found = self._depth(images, cameras, guide)
        colours = F.pixel_unshuffle(images, self.shape.latent_downsample)
        depth = resize(found.depth, grid)
        match = F.interpolate(found.probability.amax(dim=1, keepdim=True), size=grid, mode="nearest")
        features = self._latent_features(found, images.shape[2:], grid)
        # The released networks take depths as they are; ours must not depend on the unit of length.
        shown_depth = depth.log() if self.config.gaussian_units == "cells" else depth
        regressed = self.gaussian_regressor(torch.cat([colours, shown_depth, match, features], dim=1))
        x = self.proj(rows_from_maps(torch.cat([regressed, colours, features, match], dim=1)))
        with full_precision(images.device):
            neighbours = self.find_neighbours(cameras.unproject(depth[:, 0]).flatten(0, 2), cameras, grid)
        x = x + self.pt(x, neighbours, grid)
        outputs = self.gaussian_head(x)
        with full_precision(images.device):
            gaussians = decode_gaussians(outputs, found.depth, images, grid, cameras, self.config)
        return InitialPrediction(gaussians, x, found.depth, found.probability)

    def add_guide(self, width: int) -> None:
        """Make a model that was trained without sparse points take them, by new layers."""
        self.shape = replace(self.shape, guide_width=width)
        self.depth_predictor.shape = self.shape
        self.depth_predictor.guide = DepthGuide(width)

    def find_neighbours(
        self, points: Float[Tensor, "n 3"], cameras: ContextCameras, grid: tuple[int, int]
    ) -> Int[Tensor, "n k"]:
        """Points that each point attends to."""
        if self.config.local_search:
            return local_neighbours(points, cameras, grid, self.config.neighbours)
        return nearest_neighbours(points, self.config.neighbours)

    def _depth(self, images: Tensor, cameras: ContextCameras, guide: Tensor | None) -> DepthFeatures:
        """Depth, and features at the resolutions that belong to this image size."""
        if not self.config.half_resolution_depth:
            return self.depth_predictor(images, cameras, self.config.reference_views, guide)
        half = resize(images, (images.shape[2] // 2, images.shape[3] // 2))
        guide = None if guide is None else F.interpolate(guide, size=half.shape[2:], mode="nearest")
        found = self.depth_predictor(half, cameras, self.config.reference_views, guide)

        def double(maps: Tensor) -> Tensor:
            return resize(maps, (2 * maps.shape[2], 2 * maps.shape[3]))

        return DepthFeatures(
            depth=found.depth,
            mono=[double(maps) for maps in found.mono],
            cnn=[double(maps) for maps in found.cnn],
            multiview=double(found.multiview),
            probability=double(found.probability),
        )

    def _latent_features(
        self, found: DepthFeatures, size: tuple[int, int], grid: tuple[int, int]
    ) -> Float[Tensor, "v c h w"]:
        """Features of the depth network on the latent grid."""
        sixteenth = (size[0] // 16, size[1] // 16)
        shuffle = 16 // self.shape.latent_downsample
        mono = [F.pixel_shuffle(resize(maps, sixteenth), shuffle) for maps in found.mono]
        others = [*found.cnn, found.multiview]
        if self.shape.latent_downsample == 4:
            others = [resize(maps, grid) for maps in others]
        else:
            # Each pixel of a coarser map holds several cells, so that maps are not enlarged.
            others = [F.pixel_shuffle(maps, 2) if maps.shape[2] < grid[0] else maps for maps in others]
        return torch.cat([*mono, *others], dim=1)
