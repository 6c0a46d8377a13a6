"""ReSplat (arXiv 2510.08575): a network that sees renders of the context views proposes each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.devices import Remembered
from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.losses import equal_where_masked
from l2o_splat.nets.knn import nearest_neighbours
from l2o_splat.nets.resplat.cameras import ContextCameras
from l2o_splat.nets.resplat.config import PARAMETER_WIDTH, ReSplatConfig, autocast
from l2o_splat.nets.resplat.gaussians import CameraGaussians, CellUnits, cells_in_front, cells_of_points
from l2o_splat.nets.resplat.points import PATCH, local_neighbours
from l2o_splat.nets.resplat.update import ReSplatUpdateNetwork
from l2o_splat.optim.rule import ContextNeeds, Feedback, Needs, RuleState, UpdateRule, digest_of
from l2o_splat.rotations import quaternions_of
from l2o_splat.scene import SceneKnowledge, SceneStart
from l2o_splat.views import PinholeCameras, Views
from l2o_splat.weights.format import Weights
from l2o_splat.weights.resplat import read_tensors

UNKNOWN = -1
"""Cell of a Gaussian that no view predicted, until views are shown."""


class ReSplatRule(UpdateRule):
    """The recurrent update of ReSplat, for Gaussians that its own initial model has made.

    Nothing is back-propagated through renders: the feedback is how the context views look now, the same views in the
    same order as those the Gaussians come from, and of the same size. With gradients on, the graph that training
    needs is kept, from the delta and the latent state to the weights and the latent states of earlier steps.

    State: ``latent [n 512]`` and ``cell [n]`` (int64), the cell of the context views' grids that each Gaussian was
    predicted from, view by view and row by row. Weights that were trained on other starts too take Gaussians without
    features: each then belongs to the cell that it lies in when the views are first shown.

    Masked pixels of the views are black in photographs and renders alike, so that no error comes from them.

    Args:
        network: Proposes the steps.
        config: Behaviour beyond its tensors.
        scale: Units of the dataset (in which the network works) per scene unit.
    """

    def __init__(self, network: ReSplatUpdateNetwork, config: ReSplatConfig, scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.scale = scale
        self._cells, self._seen_from = Remembered(), Remembered()

    @classmethod
    def from_weights(cls, weights: Weights, **options: Any) -> ReSplatRule:
        """The rule that weights describe.

        Args:
            weights: Of the resplat system, with an update network.
            options: Fields of :class:`ReSplatConfig` that replace those of the weights.

        Raises:
            ValueError: If the weights are of another method or architecture or lack an update, or an option is unknown.
        """
        read = read_tensors(weights, options)
        with torch.device("meta"):
            network = ReSplatUpdateNetwork(read.shape)
        read.load_into(network)
        rule = cls(network, read.config)
        rule.card, rule.trained_raster = weights.card, weights.card.raster
        return rule

    def bind(self, scene: SceneKnowledge) -> ReSplatRule:
        rule = ReSplatRule(self.network, self.config, 1 / scene.rescaled_by)
        rule.card, rule.trained_raster = self.card, self.trained_raster
        return rule

    @property
    def num_steps(self) -> int:
        return self.config.iterations

    @property
    def needs(self) -> Needs:
        config = self.config
        context = ContextNeeds(
            num_views=config.context_views,
            size_multiple=self.network.shape.size_multiple,
            longer_side=config.longer_side,
            fit=config.fit,
            portrait=config.portrait,
            least_views=2,
        )
        return Needs(
            renders=((0, None),),
            context=context,
            features=(self.network.shape.width,),
            own_start=config.update_starts != "any",
        )

    @property
    def fingerprint(self) -> str:
        return f"resplat weights {digest_of(self.network)} {self.config} scale {self.scale}"

    def init_state(self, start: SceneStart) -> RuleState:
        """See :meth:`UpdateRule.init_state`.

        Raises:
            ValueError: If there are no features, or they do not fit the Gaussians or the weights.
        """
        gaussians, features = start.gaussians, start.features
        n, width = len(gaussians), self.network.shape.width
        found = None if features is None else tuple(features.shape)
        if features is None and self.config.update_starts == "any":
            features = torch.zeros(n, width, device=gaussians.device)
            cell = torch.full((n,), UNKNOWN, device=gaussians.device)
        elif found == (n, width):
            cell = torch.arange(n, device=gaussians.device) if start.cell is None else start.cell
        else:
            raise ValueError(
                f"The features have shape {found}; {n} Gaussians and these weights need ({n}, {width}): start the "
                "scene with the initial model of the same weights."
            )
        latent = self.network.state_from_features(features)
        if self.config.uses_bfloat16(gaussians.device):
            latent = latent.bfloat16()
        return RuleState({"latent": latent, "cell": cell})

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        """See :meth:`UpdateRule.forward`.

        Raises:
            ValueError: If the feedback has no renders, or they or the Gaussians do not suit the state.
        """
        if feedback.rendered is None:
            raise ValueError("ReSplat got no renders of its context views; put them into Feedback.rendered.")
        views, cell = feedback.rendered.views, state["cell"]
        side = self.network.shape.gaussian_downsample
        grid = (views.cameras.height // side, views.cameras.width // side)
        if self._cells_known(cell)[0] == UNKNOWN:
            found = cells_of_points(gaussians.means.detach(), views.cameras, grid)
            cell = torch.where(cell == UNKNOWN, found, cell)
        self._check(gaussians, views, cell, grid)
        frame, cameras, camera_quats = self._seen_from(
            lambda: self._frame_and_cameras(views.cameras), views.cameras.viewmats, views.cameras.Ks
        )
        # A graph leads to the weights and earlier states only.
        local = frame.to_local(gaussians.detach())
        view_quats = camera_quats[cell // (grid[0] * grid[1])]
        current = CameraGaussians.from_gaussians(local, view_quats)
        neighbours = self._neighbours(current.means, cameras, grid, cell)
        with autocast(gaussians.device, self.config.uses_bfloat16(gaussians.device)):
            compared = equal_where_masked(feedback.rendered.images, views.images, views.masks)
            rendered, images = (maps.detach().permute(0, 3, 1, 2) for maps in compared)
            errors = self.network.image_error(rendered, images)
            error = errors.index_select(0, cell)
            if self.network.shape.update.front_error:
                error = torch.cat([error, front_error(errors, *cells_in_front(current.means, cameras, grid))], dim=1)
            if self.config.gaussian_units == "cells":
                units = CellUnits.of(current, cameras, cell, grid)
                step, latent = self.network(units.pack(current), state["latent"], error, neighbours)
                delta = units.step(step, view_quats)
            else:
                step, latent = self.network(current.pack(), state["latent"], error, neighbours)
                delta = self._step(step, current, view_quats)
        delta = frame.deltas_to_world(delta)
        if self.config.step_decay < 1:
            share = self.config.step_decay**feedback.step
            delta = delta.map(lambda change: share * change)
        return delta, state.updated(latent=latent, cell=cell)

    def _step(
        self, rows: Float[Tensor, "n d"], current: CameraGaussians, view_quats: Float[Tensor, "n 4"]
    ) -> Gaussians:
        """Deltas from the network's rows, in the units of the networks."""
        delta = CameraGaussians.unpack(rows)
        scales = (current.scales + delta.scales).clamp(min=self.config.scale_min)
        # All but the scales are linear in the network's parameters; a ratio of scales is a difference of logarithms.
        return replace(delta, scales=scales / current.scales).to_gaussians(view_quats)

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """Added Gaussians take latent state and cell from their parents."""
        return state.at(source)

    def _frame_and_cameras(self, cameras: PinholeCameras) -> tuple[Frame, PinholeCameras, Float[Tensor, "v 4"]]:
        """In which the network sees the scene, the cameras there, and their world-from-camera rotations there."""
        if self.config.world == "raw":
            frame = Frame.of_world(self.scale)
        else:
            frame = Frame.of_view(cameras, len(cameras) // 2, self.scale)
        local = frame.cameras_to_local(cameras)
        return frame, local, quaternions_of(local.viewmats[:, :3, :3].mT)

    def _cells_known(self, cell: Int[Tensor, " n"]) -> tuple[int, int, bool]:
        """Lowest and highest cell (``UNKNOWN`` without any), and whether each has exactly one Gaussian, in order."""

        def find() -> tuple[int, int, bool]:
            if not len(cell):
                return 0, UNKNOWN, True
            own = torch.arange(len(cell), device=cell.device)
            lowest, highest, in_order = torch.stack([*cell.aminmax(), (cell == own).all()]).tolist()
            return lowest, highest, bool(in_order)

        return self._cells(find, cell)

    def _neighbours(
        self, means: Float[Tensor, "n 3"], cameras: PinholeCameras, grid: tuple[int, int], cell: Int[Tensor, " n"]
    ) -> Int[Tensor, "n k"]:
        k = self.config.update_neighbours
        if not self.config.update_local_search:
            return nearest_neighbours(means, k)
        if len(cell) != len(cameras) * grid[0] * grid[1] or not self._cells_known(cell)[2]:
            # Local searches go from cell to cell, and some are empty (masked) or hold several Gaussians.
            return nearest_neighbours(means, k)
        return local_neighbours(means, ContextCameras.from_pinhole(cameras, self.config.near, self.config.far), grid, k)

    def _check(self, gaussians: Gaussians, views: Views, cell: Int[Tensor, " n"], grid: tuple[int, int]) -> None:
        multiple, cells = PATCH * self.network.shape.gaussian_downsample, len(views) * grid[0] * grid[1]
        if views.cameras.height % multiple or views.cameras.width % multiple:
            raise ValueError(
                f"The context views have {views.cameras.width} x {views.cameras.height} pixels; these weights need "
                f"multiples of {multiple}: use the views that the initial model was given."
            )
        needed = self._cells_known(cell)[1] + 1
        if len(gaussians) != len(cell) or needed > cells:
            raise ValueError(
                f"There are {len(gaussians)} Gaussians and a state of {len(cell)} from {needed} cells, but "
                f"{len(views)} context views have {cells} cells; use the views that the Gaussians were predicted from."
            )
        width = 11 + 3 * (gaussians.features_rest.shape[1] + 1)
        if width != PARAMETER_WIDTH:
            raise ValueError(f"The Gaussians have SH degree {gaussians.sh_degree}; ReSplat moves those of degree 3.")


def front_error(
    errors: Float[Tensor, "cells e"], cell: Int[Tensor, "v n"], front: Bool[Tensor, "v n"]
) -> Float[Tensor, "n e"]:
    """Mean error of the cells where views have each Gaussian in front; 0 where none does.

    The cell that a Gaussian comes from shows what is wrong there, but not what the Gaussian does to other views, and
    nothing of its own doing where others hide it.
    """
    weights = front / front.sum(dim=0).clamp(min=1)
    total = errors.new_zeros(cell.shape[1], errors.shape[1])
    for cells, shares in zip(cell, weights, strict=True):
        total = total + shares[:, None].to(errors.dtype) * errors.index_select(0, cells)
    return total
