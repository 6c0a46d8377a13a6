"""ReSplat's initial model (arXiv 2510.08575) as the start of a scene: context views in, world-space Gaussians out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.initializers.context_views import check_context, fit
from l2o_splat.initializers.point_guide import point_guide
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import ReSplatConfig, autocast
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.nets.resplat.model import InitialModel, InitialPrediction
from l2o_splat.nets.resplat.points import maps_from_rows, rows_from_maps
from l2o_splat.rotations import quaternions_of
from l2o_splat.scene import SceneStart
from l2o_splat.views import Views
from l2o_splat.weights.format import Weights
from l2o_splat.weights.resplat import read_tensors

SparsePoints = tuple[Float[Tensor, "p 3"], Shaped[Tensor, "p 3"]]
"""World positions, scene units, and their colours, sRGB: 0 to 1, or 0 to 255 when integers."""
DepthRange = tuple[float, float] | tuple[Float[Tensor, " v"], Float[Tensor, " v"]]
"""Nearest and farthest depth considered, of all views or of each of them."""


@dataclass(frozen=True, kw_only=True)
class InitialScene(SceneStart):
    """A scene as the initial model sees it: its Gaussians stand in order of their view, row and column.

    Without masks there is one for each cell; with masks, none for cells more than half of whose pixels are masked.
    """

    depth: Float[Tensor, "v h w"]
    """Camera z of every pixel of the context, scene units."""
    grid: tuple[int, int]
    """Rows and columns of cells over each view."""

    def on_grid(self, rows: Float[Tensor, "n c"]) -> Float[Tensor, "cells c"]:
        """One row for every cell of all views, from one for each Gaussian; zeros where a cell has none."""
        cells = len(self.context) * self.grid[0] * self.grid[1]
        if self.cell is None or len(rows) == cells:
            return rows
        whole = rows.new_zeros(cells, rows.shape[1])
        return whole.index_copy(0, self.cell, rows)


@dataclass(frozen=True)
class ShownViews:
    """Context views as the networks see them."""

    views: Views
    """At the size that the networks need, in the world."""
    images: Float[Tensor, "v 3 h w"]
    cameras: ContextCameras
    """In the frame and the units of the networks."""
    frame: Frame
    """From the world to there."""
    guide: Float[Tensor, "v 3 h w"] | None = None
    """Depths of the sparse points, see :data:`l2o_splat.nets.resplat.guide.GUIDE_CHANNELS`, in the units of the
    networks; None without points, and for networks that see none."""

    def gaussians(self, found: InitialPrediction) -> Gaussians:
        """What was predicted, in the frame of the networks."""
        per_view = len(found.gaussians.means) // len(self.cameras)
        view_quats = quaternions_of(self.cameras.poses[:, :3, :3]).repeat_interleave(per_view, dim=0)
        return found.gaussians.to_gaussians(view_quats)


class ReSplatInitializer(nn.Module):
    """Makes a scene from a few posed photographs in one pass of the networks."""

    def __init__(self, model: InitialModel) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_weights(cls, weights: Weights, **options: Any) -> ReSplatInitializer:
        """The initializer that weights describe.

        Args:
            weights: Of the resplat system.
            options: Fields of :class:`ReSplatConfig` that replace those of the weights.

        Raises:
            ValueError: If the weights are of another method or architecture, or an option is unknown.
        """
        read = read_tensors(weights, options)
        with torch.device("meta"):
            model = InitialModel(read.shape, read.config)
        read.load_into(model)
        return cls(model)

    @property
    def config(self) -> ReSplatConfig:
        return self.model.config

    @torch.no_grad()
    def forward(
        self,
        views: Views,
        rescaled_by: float = 1.0,
        depth_range: DepthRange | None = None,
        background: Float[Tensor, " 3"] | float = 0.0,
        points: SparsePoints | None = None,
    ) -> InitialScene:
        """A scene from context views.

        The networks see the background where a pixel is masked, and Gaussians of cells more than half of whose pixels
        are masked are taken out of the scene afterwards, together with their features.

        Args:
            views: At least 2, in the order of the capture, no higher than wide (unless the weights allow portraits),
                of any size.
            rescaled_by: Scene units per unit of the dataset, in which the networks were trained (nerfstudio's
                ``dataparser_scale``).
            depth_range: Nearest and farthest depth considered, scene units, the same for all views or each view's
                own; None takes those of the weights.
            background: Colour of masked pixels, sRGB 0 to 1.
            points: Sparse points of the scene, which networks with a guide take depths from; others ignore them.

        Raises:
            ValueError: If there are too few views, they are too small or higher than wide, masks leave nothing of
                them, or the weights have no range of depths and none is given.
        """
        shown = self.show(views, rescaled_by, depth_range, background, points)
        device = shown.images.device
        with autocast(device, self.config.uses_bfloat16(device)):
            found = self._predict(shown)
        grid = self.grid(shown.views)
        scene = InitialScene(
            gaussians=shown.frame.to_world(shown.gaussians(found)),
            features=self.features_of_gaussians(found.features, shown.images.shape[2:]),
            context=shown.views,
            depth=resize(found.depth, shown.images.shape[2:])[:, 0] / shown.frame.scale,
            grid=grid,
            cell=torch.arange(len(views) * grid[0] * grid[1], device=device),
        )
        return scene if shown.views.masks is None else scene.at(cells_that_count(shown.views, grid))

    def grid(self, views: Views) -> tuple[int, int]:
        """Rows and columns of Gaussians over each view of a size that suits the networks."""
        side = self.model.shape.gaussian_downsample
        return views.cameras.height // side, views.cameras.width // side

    def show(
        self,
        views: Views,
        rescaled_by: float,
        depth_range: DepthRange | None,
        background: Float[Tensor, " 3"] | float = 0.0,
        points: SparsePoints | None = None,
    ) -> ShownViews:
        """Context views as the model takes them; arguments and errors as for :meth:`forward`."""
        shape, config = self.model.shape, self.config
        check_context(views, 2, config.portrait)
        if depth_range is None:
            if config.depth_range == "points":
                raise ValueError(
                    "These weights take the range of depths from each scene's sparse points, and none was given; pass "
                    "what l2o_splat.initializers.context_views.depth_range finds."
                )
            depth_range = config.near * rescaled_by, config.far * rescaled_by
        given = views
        views = fit(views, shape.size_multiple, config.longer_side, config.fit).blanked(background)
        if views.masks is not None and not cells_that_count(views, self.grid(views)).any():
            raise ValueError(
                f"Masks leave nothing of the {len(views)} context views that Gaussians could be predicted from; check "
                "them (white counts, black does not), or choose other views."
            )
        near, far = (torch.as_tensor(limits, dtype=torch.float32, device=views.images.device) for limits in depth_range)
        scale = 1 / float(near.min()) if config.units == "near" else 1 / rescaled_by
        middle = len(views) // 2
        frame = Frame.of_world(scale) if config.world == "raw" else Frame.of_view(views.cameras, middle, scale)
        local = frame.cameras_to_local(views.cameras)
        cameras = ContextCameras.from_pinhole(local, near * scale, far * scale)
        images, guide = views.images.permute(0, 3, 1, 2).contiguous(), None
        if shape.guide_width and points is not None:
            # What is cut off at the borders would shift the depths against the images.
            seen = given if config.fit == "squeeze" else views
            guide = point_guide(seen, *points, images.shape[2:])
            guide = torch.cat([guide[:, :1] * scale, guide[:, 1:]], dim=1)
        return ShownViews(views, images, cameras, frame, guide)

    def _predict(self, shown: ShownViews) -> InitialPrediction:
        """All views together, or window by window."""
        images, cameras, guide = shown.images, shown.cameras, shown.guide
        v, size = len(cameras), self.config.views_at_once
        if size is None or v <= size:
            return self.model(images, cameras, guide)
        parts = []
        for first in range(0, v, size):
            # The last window is filled up with views of the one before, which are not wanted twice.
            start = min(first, v - size)
            window = slice(start, start + size)
            part = self.model(images[window], cameras[window], None if guide is None else guide[window])
            parts.append(part.without_first(first - start, size))
        return InitialPrediction.joined(parts)

    def features_of_gaussians(self, features: Float[Tensor, "cells c"], size: tuple[int, int]) -> Float[Tensor, "n c"]:
        """One row per Gaussian, between those of the cells where cells hold several."""
        shape = self.model.shape
        if shape.gaussians_per_cell == 1:
            return features
        grid = (size[0] // shape.latent_downsample, size[1] // shape.latent_downsample)
        fine = (size[0] // shape.gaussian_downsample, size[1] // shape.gaussian_downsample)
        return rows_from_maps(resize(maps_from_rows(features, grid), fine))


def cells_that_count(views: Views, grid: tuple[int, int]) -> Bool[Tensor, " cells"]:
    """Whether at least half of the pixels of a cell count, view by view and row by row; ``views`` have masks."""
    share = F.adaptive_avg_pool2d(views.counted.to(torch.float32).permute(0, 3, 1, 2), grid)
    return (share >= 0.5).flatten()
