"""Frames: similarities between the world of a scene and the coordinates that a learned rule or network works in.

Weights are trained on scenes in units of their own, and some networks see a scene in the axes of one of its cameras. A
:class:`Frame` brings Gaussians, gradients and cameras there, and Gaussians and deltas back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.devices import sent_like
from l2o_splat.gaussians import Gaussians
from l2o_splat.rotations import conjugate, harmonics_rotation, quaternion_product, quaternions_of
from l2o_splat.scene import reach
from l2o_splat.views import PinholeCameras, Views

FrameConvention = Literal["raw", "cameras"]
"""How weights expect a capture: in the units it came in, or with its cameras in the unit ball around their mean."""


def _world_origin() -> Tensor:
    return torch.zeros(3, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Frame:
    """``local = scale * rotation^T (world - origin)`` for points.

    Raises:
        ValueError: If the origin is not finite, or the scale not finite and positive.
    """

    rotation: Float[Tensor, "3 3"] | None = None
    """World-from-local axes, float64. None if the local axes are those of the world; quaternions and spherical
    harmonics are then the same on both sides."""
    origin: Float[Tensor, " 3"] = field(default_factory=_world_origin)
    """World point that is the local origin, scene units, float64."""
    scale: float = 1.0
    """Local units per scene unit."""

    def __post_init__(self) -> None:
        origin = self.origin.tolist()
        if not (math.isfinite(self.scale) and self.scale > 0 and all(map(math.isfinite, origin))):
            raise ValueError(
                f"A frame has origin {origin} and scale {self.scale}; a finite origin and a finite positive scale are "
                "needed."
            )

    @classmethod
    def of_view(cls, cameras: PinholeCameras, view: int, scale: float = 1.0) -> Frame:
        """The frame of one camera: x right, y down, z forward, its centre the origin."""
        viewmat = cameras.viewmats[view].double()
        rotation = viewmat[:3, :3].T
        return cls(rotation, -rotation @ viewmat[:3, 3], scale)

    @classmethod
    def of_world(cls, scale: float = 1.0) -> Frame:
        """The world's own axes and origin, in other units."""
        return cls(scale=scale)

    @classmethod
    def from_cameras(
        cls, convention: FrameConvention, camera_centres: Float[Tensor, "v 3"], rescaled_by: float = 1.0
    ) -> Frame:
        """The frame that brings a capture to a convention; it does not turn the axes.

        ``raw`` is the scale that the dataset gives (COLMAP's, say). ``cameras`` moves the mean of the camera
        centres to the origin and scales the farthest camera to distance 1; a capture whose cameras coincide keeps
        its scale.

        Args:
            convention: What the weights expect.
            camera_centres: Centres of the training cameras, scene units.
            rescaled_by: Scene units per unit of the dataset, if the poses were scaled since they were read
                (nerfstudio's ``dataparser_scale``).

        Raises:
            ValueError: If the convention is another one.
        """
        if convention == "raw":
            return cls(scale=1 / rescaled_by)
        if convention != "cameras":
            raise ValueError(f"Scene-frame convention {convention!r} is unknown; 'raw' or 'cameras' is needed.")
        centres = camera_centres.double()
        farthest = reach(centres)
        return cls(origin=centres.mean(dim=0).cpu(), scale=1 / farthest if farthest > 0 else 1.0)

    @property
    def is_identity(self) -> bool:
        """Whether nothing changes: no rotation is given, the origin is the world's and the scale is 1."""
        return self.rotation is None and self.scale == 1 and not any(self.origin.tolist())

    @property
    def inverse(self) -> Frame:
        """The frame whose local coordinates are the world's, seen from this frame as the world."""
        if self.rotation is None:
            return Frame(None, -self.scale * self.origin, 1 / self.scale)
        return Frame(self.rotation.T, -self.scale * self.rotation.T @ self.origin, 1 / self.scale)

    def describe(self) -> str:
        """The frame in one line, as part of a rule's fingerprint.

        Checkpoints hold the fingerprint of their rule, so that the text of frames without rotation stays as it is.
        """
        origin = tuple(self.origin.tolist())
        if self.rotation is None:
            return f"SceneFrame(centre={origin}, scale={self.scale})"
        return f"Frame(rotation={self.rotation.tolist()}, origin={origin}, scale={self.scale})"

    def points_to_local(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points, from the world to this frame."""
        local = self.scale * (points - sent_like(self.origin, points))
        return local if self.rotation is None else local @ sent_like(self.rotation, points)

    def points_to_world(self, points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Points, from this frame to the world."""
        return self._vectors_to_world(points) + sent_like(self.origin, points)

    def to_local(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from the world to this frame."""
        return replace(
            self._turn(gaussians, to_local=True),
            means=self.points_to_local(gaussians.means),
            scales=gaussians.scales + math.log(self.scale),
        )

    def to_world(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from this frame to the world."""
        return replace(
            self._turn(gaussians, to_local=False),
            means=self.points_to_world(gaussians.means),
            scales=gaussians.scales - math.log(self.scale),
        )

    def gradients_to_local(self, gradients: Gaussians) -> Gaussians:
        """Gradients with respect to local parameters, from those with respect to the world's."""
        means = gradients.means / self.scale
        if self.rotation is not None:
            means = means @ sent_like(self.rotation, means)
        # Turning is orthogonal, so that gradients turn as the parameters do.
        return replace(self._turn(gradients, to_local=True), means=means)

    def deltas_to_world(self, deltas: Gaussians) -> Gaussians:
        """Differences of parameters, from this frame to the world."""
        return replace(self._turn(deltas, to_local=False), means=self._vectors_to_world(deltas.means))

    def cameras_to_local(self, cameras: PinholeCameras) -> PinholeCameras:
        """The same cameras in this frame."""
        viewmats = cameras.viewmats.double()
        rotations, moved = viewmats[:, :3, :3], viewmats.clone()
        if self.rotation is not None:
            moved[:, :3, :3] = rotations @ sent_like(self.rotation, viewmats)
        moved[:, :3, 3] = self.scale * (rotations @ sent_like(self.origin, viewmats) + viewmats[:, :3, 3])
        return replace(cameras, viewmats=moved.to(cameras.viewmats.dtype))

    def views_to_local(self, views: Views) -> Views:
        """The same photographs with their cameras in this frame."""
        return replace(views, cameras=self.cameras_to_local(views.cameras))

    @cached_property
    def _quat(self) -> Float[Tensor, " 4"]:
        """The rotation; kept, since a GPU makes the host wait for its eigenvectors."""
        return quaternions_of(self.rotation)

    def _vectors_to_world(self, vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Differences of points, from this frame to the world."""
        scaled = vectors / self.scale
        return scaled if self.rotation is None else scaled @ sent_like(self.rotation, vectors).T

    def _turn(self, gaussians: Gaussians, to_local: bool) -> Gaussians:
        """The same with quaternions and spherical harmonics turned to this frame, or back to the world."""
        if self.rotation is None:
            return gaussians
        rotation = self.rotation.T if to_local else self.rotation
        # One quaternion and its conjugate: quaternions come back from a round trip with the sign they had.
        quat = sent_like(conjugate(self._quat) if to_local else self._quat, gaussians.quats)
        harmonics = sent_like(harmonics_rotation(rotation, gaussians.sh_degree), gaussians.means)[1:, 1:]
        return replace(
            gaussians,
            quats=quaternion_product(quat, gaussians.quats),
            features_rest=torch.einsum("ij,njc->nic", harmonics, gaussians.features_rest),
        )
