"""Context cameras in the form that ReSplat's networks use."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from l2o_splat.views import PinholeCameras


@dataclass(frozen=True)
class ContextCameras:
    """Poses and intrinsics of the context views."""

    poses: Float[Tensor, "v 4 4"]
    """World-from-camera, OpenCV axes; world frame and unit of length are those of the networks."""
    intrinsics: Float[Tensor, "v 3 3"]
    """In units of the image size: the first row is divided by the width, the second by the height."""
    near: Float[Tensor, " v"]
    """Nearest depth considered (camera z), units of the poses."""
    far: Float[Tensor, " v"]
    """Farthest depth considered."""

    @classmethod
    def from_pinhole(
        cls, cameras: PinholeCameras, near: float | Float[Tensor, " #v"], far: float | Float[Tensor, " #v"]
    ) -> ContextCameras:
        """Convert cameras; near and far are the same for all views, or one per view."""
        size = cameras.Ks.new_tensor([cameras.width, cameras.height, 1.0])[:, None]
        depth = cameras.Ks.new_ones(len(cameras))
        return cls(torch.linalg.inv(cameras.viewmats), cameras.Ks / size, near * depth, far * depth)

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, index: slice) -> ContextCameras:
        return ContextCameras(self.poses[index], self.intrinsics[index], self.near[index], self.far[index])

    def relative_to(self, view: int) -> ContextCameras:
        """The cameras in the frame of one of them, whose pose becomes the identity."""
        return replace(self, poses=torch.linalg.inv(self.poses[view]) @ self.poses)

    def nearest_views(self, count: int) -> Int[Tensor, "v m"]:
        """For each view the ``count`` nearest other views in any order, or all others if there are fewer.

        Raises:
            ValueError: If there is only one view.
        """
        v = len(self)
        if v < 2:
            raise ValueError("There is 1 context view; depths are found by comparing views, so give at least 2.")
        centres = self.poses[:, :3, 3]
        distance = (centres[:, None] - centres[None]).square().sum(dim=2)
        distance.fill_diagonal_(torch.inf)
        if v - 1 <= count:
            # In the order of the views, as the released weights were trained.
            others = ~torch.eye(v, dtype=torch.bool, device=centres.device)
            return torch.arange(v, device=centres.device).expand(v, v)[others].view(v, v - 1)
        return distance.argsort(dim=1)[:, :count]

    def unproject(
        self, depth: Float[Tensor, "v h w"], offset: Float[Tensor, "v h w 2"] | None = None
    ) -> Float[Tensor, "v h w 3"]:
        """World points at given depths, for the pixels of a grid over each image.

        Args:
            depth: Camera z of each pixel, units of the poses.
            offset: Added to the centres of the grid's pixels; x and y, in units of the image size.
        """
        height, width = depth.shape[1:]
        x = (torch.arange(width, device=depth.device) + 0.5) / width
        y = (torch.arange(height, device=depth.device) + 0.5) / height
        position = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).expand(len(depth), -1, -1, -1)
        if offset is not None:
            position = position + offset
        position = torch.cat([position, torch.ones_like(position[..., :1])], dim=3)
        direction = torch.einsum("vij,vhwj->vhwi", torch.linalg.inv(self.intrinsics), position)
        direction = direction / direction[..., 2:]
        direction = torch.einsum("vij,vhwj->vhwi", self.poses[:, :3, :3], direction)
        return self.poses[:, None, None, :3, 3] + direction * depth[..., None]
