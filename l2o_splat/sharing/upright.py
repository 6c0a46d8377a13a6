"""Which way is up, and the axes in which other programs show a scene right side up.

Splat files name no up axis, so that programs assume one:

* ``y``: y points up, z towards the viewer. three.js, glTF, Unity and Blender's importers, and SPZ by its specification.
* ``y-down``: y points down, z away from the viewer. The files of the original 3DGS code, whose axes are those of
  COLMAP's first camera, and therefore SuperSplat, PlayCanvas, Babylon.js and most web viewers, for PLY and SOG.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.sharing.errors import SharingError
from l2o_splat.views import PinholeCameras

UpAxis = Literal["y", "y-down"]
"""The axis of a file along which the scene's up direction lies: +y or -y."""

COMMON_UP = 0.1
"""The mean of the cameras' unit up directions must be this long to say anything."""


def up_direction(cameras: PinholeCameras) -> Float[Tensor, " 3"]:
    """The mean up direction of photographs, a unit vector in the world frame, as nerfstudio orients captures.

    Raises:
        SharingError: If the photographs have none in common.
    """
    mean = -cameras.viewmats[:, 1, :3].double().mean(dim=0)
    # Written so that NaN is refused.
    if not mean.norm() > COMMON_UP:
        raise SharingError(
            f"The {len(cameras)} photographs have no common upright direction (mean of length {float(mean.norm()):.2f}"
            f", {COMMON_UP} is needed), so that nothing tells which way is up; write the scene as it was trained."
        )
    return mean / mean.norm()


def upright_frame(up: Float[Tensor, " 3"], axis: UpAxis) -> Frame:
    """The frame with the world's origin and scale, in which the up direction is +y, or -y for ``y-down``.

    The world's x axis stays as far as it can, which leaves (x, z, -y) of a world whose z points up. The two frames
    differ by half a turn about z.

    Args:
        up: World frame; any length but 0.
        axis: Where it shall point.
    """
    up = up.double().cpu() / up.double().norm().cpu()
    axes = torch.eye(3, dtype=torch.float64)
    # x, unless up lies along it.
    across = axes[0] if up[0].abs() < 0.9 else axes[2]
    right = across - (across @ up) * up
    right = right / right.norm()
    if axis == "y-down":
        up, right = -up, -right
    return Frame(rotation=torch.stack([right, up, torch.linalg.cross(right, up)], dim=1))
