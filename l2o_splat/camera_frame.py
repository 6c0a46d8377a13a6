"""The frame of one camera, in which networks see a scene whose own axes mean nothing to them.

Other than a :class:`l2o_splat.scene_frame.SceneFrame` it also turns the axes, and with them quaternions and spherical
harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.rotations import conjugate, harmonics_rotation, quaternion_product, quaternions_of
from l2o_splat.views import PinholeCameras


@dataclass(frozen=True)
class CameraFrame:
    """``local = scale * rotation^T (world - origin)`` for points; the fields are in float64."""

    rotation: Float[Tensor, "3 3"]
    """World-from-local axes."""
    origin: Float[Tensor, " 3"]
    """World point that is the local origin, scene units."""
    scale: float = 1.0
    """Local units per scene unit."""

    @classmethod
    def of_view(cls, cameras: PinholeCameras, view: int, scale: float = 1.0) -> CameraFrame:
        """The frame of one camera: x right, y down, z forward, its centre the origin."""
        viewmat = cameras.viewmats[view].double()
        rotation = viewmat[:3, :3].T
        return cls(rotation, -rotation @ viewmat[:3, 3], scale)

    @classmethod
    def of_world(cls, device: torch.device, scale: float = 1.0) -> CameraFrame:
        """The world's own axes and origin."""
        return cls(
            torch.eye(3, dtype=torch.float64, device=device), torch.zeros(3, dtype=torch.float64, device=device), scale
        )

    def cameras_to_local(self, cameras: PinholeCameras) -> PinholeCameras:
        """The same cameras in the local frame."""
        viewmats = cameras.viewmats.double()
        moved = viewmats.clone()
        moved[:, :3, :3] = viewmats[:, :3, :3] @ self.rotation
        moved[:, :3, 3] = self.scale * (viewmats[:, :3, :3] @ self.origin + viewmats[:, :3, 3])
        return replace(cameras, viewmats=moved.to(cameras.viewmats.dtype))

    def to_local(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from the world to this frame."""
        origin, rotation = self.origin.to(gaussians.means.dtype), self.rotation.to(gaussians.means.dtype)
        turned = self._turn(gaussians, self.rotation.T)
        return replace(
            turned,
            means=self.scale * (gaussians.means - origin) @ rotation,
            scales=gaussians.scales + math.log(self.scale),
        )

    def to_world(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from this frame to the world."""
        origin, rotation = self.origin.to(gaussians.means.dtype), self.rotation.to(gaussians.means.dtype)
        turned = self._turn(gaussians, self.rotation)
        return replace(
            turned,
            means=gaussians.means / self.scale @ rotation.T + origin,
            scales=gaussians.scales - math.log(self.scale),
        )

    def deltas_to_world(self, deltas: Gaussians) -> Gaussians:
        """Differences of parameters, from this frame to the world."""
        rotation = self.rotation.to(deltas.means.dtype)
        return replace(self._turn(deltas, self.rotation), means=deltas.means / self.scale @ rotation.T)

    def _turn(self, gaussians: Gaussians, rotation: Float[Tensor, "3 3"]) -> Gaussians:
        """Quaternions and spherical harmonics after a rotation of everything."""
        quat = quaternions_of(self.rotation)
        # One quaternion and its conjugate: quaternions come back from a round trip with the sign they had.
        quat = (quat if rotation is self.rotation else conjugate(quat)).to(gaussians.quats.dtype)
        harmonics = harmonics_rotation(rotation, gaussians.sh_degree).to(gaussians.means.dtype)[1:, 1:]
        return replace(
            gaussians,
            quats=quaternion_product(quat, gaussians.quats),
            features_rest=torch.einsum("ij,njc->nic", harmonics, gaussians.features_rest),
        )
