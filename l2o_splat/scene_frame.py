"""The one door between scene units and the units a learned rule was trained in.

A scene frame is a similarity without rotation: quaternions, opacities and spherical harmonics are
the same on both sides, positions are moved and scaled, log-scales are shifted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians

FrameConvention = Literal["raw", "cameras"]
"""How weights expect a capture: in the units it came in, or with its cameras in the unit ball around their mean."""


def scene_extent(camera_centres: Float[Tensor, "v 3"]) -> float:
    """1.1 x the largest distance of a camera from the mean of all (as gsplat's trainer), scene units."""
    return 1.1 * _reach(camera_centres)


def _reach(camera_centres: Tensor) -> float:
    return float((camera_centres - camera_centres.mean(dim=0)).norm(dim=1).max())


@dataclass(frozen=True)
class SceneCameras:
    """What a rule may know of the cameras of a scene."""

    centres: Float[Tensor, "v 3"]
    """Centres of the training cameras, scene units."""
    rescaled_by: float = 1.0
    """Scene units per unit of the dataset (nerfstudio's ``dataparser_scale``)."""

    @property
    def extent(self) -> float:
        """:func:`scene_extent`, or 1 where all cameras are in one place."""
        return scene_extent(self.centres) or 1.0


@dataclass(frozen=True)
class SceneFrame:
    """``training = scale * (scene - centre)`` for points; frozen, so that a resumed run uses the same one."""

    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Point of the scene that becomes the origin, scene units."""
    scale: float = 1.0
    """Training units per scene unit."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and all(map(math.isfinite, self.centre))):
            raise ValueError(
                f"A scene frame has centre {self.centre} and scale {self.scale}; a finite centre and a "
                "finite positive scale are needed."
            )

    @classmethod
    def from_cameras(
        cls, convention: FrameConvention, camera_centres: Float[Tensor, "v 3"], rescaled_by: float = 1.0
    ) -> SceneFrame:
        """The frame that brings a capture to a convention.

        ``raw`` is the scale that the dataset gives (of COLMAP, say). ``cameras`` moves the mean of the camera
        centres to the origin and scales the farthest camera to distance 1; it does not turn the axes. A
        capture whose cameras coincide keeps its scale.

        Args:
            convention: What the weights expect.
            camera_centres: Of the training cameras, scene units.
            rescaled_by: Scene units per unit of the dataset, if the poses were scaled since they were read
                (nerfstudio's ``dataparser_scale``).

        Raises:
            ValueError: For another convention.
        """
        if convention == "raw":
            return cls(scale=1 / rescaled_by)
        if convention != "cameras":
            raise ValueError(f"Scene-frame convention {convention!r} is unknown; 'raw' or 'cameras' is needed.")
        centre = camera_centres.double().mean(dim=0)
        reach = _reach(camera_centres.double())
        return cls(tuple(centre.tolist()), 1 / reach if reach > 0 else 1.0)

    @property
    def is_identity(self) -> bool:
        return self == SceneFrame()

    def to_training(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from scene to training units."""
        centre = gaussians.means.new_tensor(self.centre)
        return replace(
            gaussians, means=(gaussians.means - centre) * self.scale, scales=gaussians.scales + math.log(self.scale)
        )

    def to_scene(self, gaussians: Gaussians) -> Gaussians:
        """Parameters, from training to scene units."""
        centre = gaussians.means.new_tensor(self.centre)
        return replace(
            gaussians, means=gaussians.means / self.scale + centre, scales=gaussians.scales - math.log(self.scale)
        )

    def gradients_to_training(self, gradients: Gaussians) -> Gaussians:
        """Gradients with respect to training-unit parameters; only those of the means have another unit."""
        return replace(gradients, means=gradients.means / self.scale)

    def deltas_to_scene(self, deltas: Gaussians) -> Gaussians:
        """Differences of parameters, from training to scene units."""
        return replace(deltas, means=deltas.means / self.scale)
