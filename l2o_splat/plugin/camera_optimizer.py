"""Refinement of the training views' poses, beside the scene and by the same loss.

The camera-to-world matrix of view i is ``pose_i exp(a_i)``, with ``a_i`` in the axes of the camera: a shift in units of
the typical distance from a camera to what it shows, and a turn in radians. In these units all six numbers move pixels
by about as much, so that one rate does for all. The options have nerfstudio's names and, in its viewer, the cameras are
shown where they are now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import tyro
from jaxtyping import Float, Int
from nerfstudio.cameras.camera_optimizers import CameraOptimizer, CameraOptimizerConfig
from nerfstudio.cameras.lie_groups import exp_map_SE3, exp_map_SO3xR3
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.shown_rows import adam_direction, rows_shown
from l2o_splat.views import PinholeCameras

FIRST_DECAY, SECOND_DECAY = 0.9, 0.99
"""Decays of Adam's two averages, per step that shows the view; the second one forgets the blurred start soon."""
FINAL_FACTOR = 0.05
"""Factor of the rate at the end of the run."""
DEPTH_VIEWS = 32
"""Views, at most, that the typical distance is taken from."""


@dataclass
class PoseOptimizerConfig(CameraOptimizerConfig):
    """Refinement of the poses of the training views, for captures whose poses are a little off."""

    _target: type = field(default_factory=lambda: PoseOptimizer)
    mode: Literal["off", "SO3xR3", "SE3"] = "off"
    """How a shift and a turn make a motion, as in nerfstudio; the two differ by less than poses do. off: poses stay."""
    lr: float = 1e-3
    """Rate at the start of the run: radians, and shares of the typical distance from a camera to what it shows. It
    falls to a twentieth of this with the budget."""
    carry_held_out: bool = True
    """Evaluate the views held out after the similarity that leads from the training poses of the capture to the refined
    ones. False leaves them as they were posed."""
    # Nothing pulls the poses back: they go where the photographs say.
    trans_l2_penalty: tyro.conf.Suppress[float] = 0.0
    rot_l2_penalty: tyro.conf.Suppress[float] = 0.0


class PoseOptimizer(CameraOptimizer):
    """The motions of all training views, and the Adam that finds them; in checkpoints.

    All views move, the first one too: photographs say nothing of where scene and cameras are as a whole, and to keep
    one view in its place would bring its error into all others. What holds them is the start of the scene, so that they
    drift together by little. Adam's averages of a view move in the steps that show it alone.
    """

    config: PoseOptimizerConfig

    def __init__(self, config: PoseOptimizerConfig, num_cameras: int, device: torch.device | str, **kwargs) -> None:
        super().__init__(config, num_cameras, device, **kwargs)
        self.register_buffer("first_moment", torch.zeros(num_cameras, 6, device=device))
        self.register_buffer("second_moment", torch.zeros(num_cameras, 6, device=device))
        self.register_buffer("steps", torch.zeros(num_cameras, device=device))
        # Scene units per unit of a shift.
        self.register_buffer("distance", torch.ones((), device=device))

    def set_distance(self, cameras: Sequence[PinholeCameras], gaussians: Gaussians) -> None:
        """Set the unit of shifts to the median depth of the Gaussians, as the median camera sees them.

        Args:
            cameras: Training cameras, one entry per image size.
            gaussians: The scene at its start.
        """
        every = max(sum(map(len, cameras)) // DEPTH_VIEWS, 1)
        depths = []
        for view in [group[v : v + 1] for group in cameras for v in range(len(group))][::every]:
            pixels, depth = view.project(gaussians.means.detach())
            seen = depth[view.inside(pixels, depth)]
            if len(seen):
                depths.append(seen.median())
        if depths:
            self.distance.copy_(torch.stack(depths).median())

    def forward(self, indices: Int[Tensor, " m"]) -> Float[Tensor, "m 3 4"]:
        """Motions of some views, camera from moved camera, OpenGL axes, scene units."""
        shift, turn = self.pose_adjustment[indices].split(3, dim=1)
        exponential = exp_map_SE3 if self.config.mode == "SE3" else exp_map_SO3xR3
        return exponential(torch.cat([shift * self.distance, turn], dim=1))

    def refined(self, cameras: PinholeCameras, indices: Sequence[int]) -> PinholeCameras:
        """Training views' cameras as their poses are now; gradients flow into the motions."""
        motions = self(torch.tensor(indices, device=self.pose_adjustment.device)).to(cameras.viewmats)
        opencv = motions.new_tensor([1.0, -1.0, -1.0])
        inverse = (opencv[:, None] * motions[:, :, :3] * opencv).mT
        shift = cameras.viewmats[:, :3, 3] - opencv * motions[:, :, 3]
        rows = torch.cat([inverse @ cameras.viewmats[:, :3, :3], inverse @ shift[:, :, None]], dim=2)
        return replace(cameras, viewmats=torch.cat([rows, cameras.viewmats[:, 3:]], dim=1))

    @torch.no_grad()
    def refined_poses(self, poses: Float[Tensor, "v 3 4"]) -> Float[Tensor, "v 3 4"]:
        """The same for camera-to-world matrices, OpenGL axes, of all training views, in their dtype."""
        motions = self(torch.arange(len(poses), device=self.pose_adjustment.device)).to(poses)
        axes = poses[:, :, :3]
        return torch.cat([axes @ motions[:, :, :3], axes @ motions[:, :, 3:] + poses[:, :, 3:]], dim=2)

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Move the views that the last loss has shown, by Adam; one that draws NaN stays where it is.

        Args:
            progress: Share of the budget spent before this step.
        """
        gradient, self.pose_adjustment.grad = self.pose_adjustment.grad, None
        if gradient is None:
            return
        moments, decays = (self.first_moment, self.second_moment), (FIRST_DECAY, SECOND_DECAY)
        direction = adam_direction(gradient, rows_shown(gradient), moments, self.steps[:, None], decays)
        self.pose_adjustment.sub_(self.config.lr * FINAL_FACTOR**progress * direction)

    def take_rows(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take as many views as a checkpoint has, before it is loaded."""
        self.num_cameras = len(state[f"{prefix}steps"])
        self.reorder([None] * self.num_cameras)

    def reorder(self, rows: Sequence[int | None]) -> None:
        """Go on with other views, each with its old row, or as at the start where that is None."""
        for name in ("pose_adjustment", "first_moment", "second_moment", "steps"):
            old = getattr(self, name).detach()
            new = [old.new_zeros(old.shape[1:]) if row is None else old[row] for row in rows]
            getattr(self, name).data = torch.stack(new)

    def describe(self) -> str:
        """How far the poses have moved, in words."""
        shift, turn = self.pose_adjustment.detach().split(3, dim=1)
        shift, turn = 100 * shift.norm(dim=1), torch.rad2deg(turn.norm(dim=1))
        return (
            f"The {self.num_cameras} training poses have moved by {float(turn.mean()):.2f} degrees and "
            f"{float(shift.mean()):.2f} % of the distance to the scene on average (at most {float(turn.max()):.2f} and "
            f"{float(shift.max()):.2f} %)."
        )
