"""The initial stage: trains depths and Gaussians of context views by renders of target views, and by exact depths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializer_training.batches import Batch
from l2o_splat.initializer_training.losses import depth_loss, rank_correlation
from l2o_splat.initializer_training.options import Losses
from l2o_splat.initializers.resplat import InitialScene, ReSplatInitializer
from l2o_splat.nets.resplat.config import autocast
from l2o_splat.nets.resplat.model import InitialModel
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.objective import Objective
from l2o_splat.training.statistics import Statistics
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights.format import System

RASTER = RasterSettings("antialiased", 0.1)
"""Rasterization with which the released weights were trained."""


@dataclass(frozen=True)
class InitialTerms(Statistics):
    """Terms of the loss of the initial model."""

    image_error: float | None
    """Weighted error of rendered views; None if only depths are trained."""
    depth_error: float
    """Weighted error of depths."""


@dataclass
class InitialStage:
    """Trains the initial model."""

    system: ClassVar[System] = "resplat"
    raster: ClassVar[RasterSettings] = RASTER
    network: InitialModel
    losses: Losses

    @property
    def objective(self) -> Objective:
        return self.losses.images

    def backbone(self) -> Iterable[nn.Parameter]:
        """Those of the image transformer."""
        return self.network.depth_predictor.pretrained.parameters()

    def heaviest(self) -> InitialStage:
        """Itself: all steps are alike."""
        return self

    def loss(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, InitialTerms]:
        """Loss with a graph to the network, and its terms.

        The scene stays in the frame of the networks, into which the cameras are brought.
        """
        shown = ReSplatInitializer(self.network).show(batch.context, 1.0, batch.depth_range, points=batch.shown_points)
        exact = None if batch.depths is None else batch.depths[:, None] * shown.frame.scale
        near, far = shown.cameras.near, shown.cameras.far
        device = shown.images.device
        half = autocast(device, self.network.config.uses_bfloat16(device))
        if not self.losses.rendered:
            references = self.network.config.reference_views
            with half:
                seen = self.network.depth_predictor(shown.images, shown.cameras, references, shown.guide)
            depth = depth_loss(self.losses.depth, seen, exact, shown.images, near, far)
            return depth, InitialTerms(None, float(depth.detach()))
        with half:
            found = self.network(shown.images, shown.cameras, shown.guide)
        gaussians = shown.gaussians(found)
        target, context = (shown.frame.views_to_local(views) for views in (batch.target, shown.views))
        error = self.losses.rendered * shared_error(gaussians, target, context, self.losses)
        depth = depth_loss(self.losses.depth, found, exact, shown.images, near, far)
        return error + depth, InitialTerms(float(error.detach()), float(depth.detach()))

    @torch.no_grad()
    def evaluate(self, network: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
        """PSNR of target and context views, the same with flat depths, and the quality of depths if they are known."""
        initializer = ReSplatInitializer(network)
        rows = []
        for batch in batches:
            scene = initializer(batch.context, 1.0, batch.depth_range, points=batch.shown_points)
            flat = with_median_depths(scene)
            row = {
                "psnr": mean_psnr(scene.gaussians, batch.target, RASTER),
                "psnr_context": mean_psnr(scene.gaussians, scene.context, RASTER),
                "psnr_median_depth": mean_psnr(flat, batch.target, RASTER),
            }
            rows.append(row if batch.depths is None else row | _depth_quality(scene.depth, batch.depths))
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    def tensors(self, network: nn.Module) -> dict[str, Tensor]:
        """Tensors of the initial model, without the prefix of the released names."""
        return network.state_dict()


def _depth_quality(found: Float[Tensor, "v h w"], exact: Float[Tensor, "v h w"]) -> dict[str, float]:
    ranks = [rank_correlation(one.flatten(), other.flatten()) for one, other in zip(found, exact, strict=True)]
    return {
        "depth_rank": float(np.mean(ranks)),
        "depth_log_error": float((found.log() - exact.log()).abs().mean()),
    }


def shared_error(
    gaussians: Gaussians, target: Views, context: Views, losses: Losses, raster: RasterSettings = RASTER
) -> Tensor:
    """Errors of target and context views, added by their shares."""
    parts = ((1 - losses.context_share, target), (losses.context_share, context))
    return sum(share * view_error(gaussians, views, losses, raster) for share, views in parts if share)


def view_error(gaussians: Gaussians, views: Views, losses: Losses, raster: RasterSettings = RASTER) -> Tensor:
    """Mean error of rendered views."""
    rendered = render(gaussians, views.cameras, raster).rgb
    return losses.images.error(rendered, views.images, views.masks) / len(views)


def with_median_depths(scene: InitialScene) -> Gaussians:
    """The Gaussians moved along their rays to the median depth of their view, and scaled with their depth.

    The quality that is lost by this is the worth of the depths.
    """
    cameras: PinholeCameras = scene.context.cameras
    per_view = len(scene.gaussians) // len(cameras)
    centres = cameras.centres.repeat_interleave(per_view, dim=0)
    axes = cameras.viewmats[:, 2, :3].repeat_interleave(per_view, dim=0)
    rays = scene.gaussians.means - centres
    depth = (rays * axes).sum(dim=1)
    median = depth.view(len(cameras), per_view).median(dim=1).values.repeat_interleave(per_view)
    ratio = (median / depth)[:, None]
    return replace(scene.gaussians, means=centres + rays * ratio, scales=scene.gaussians.scales + ratio.log())
