"""Posed pinhole cameras and images, and the one door between OpenGL and OpenCV cameras.

nerfstudio keeps camera-to-world matrices in OpenGL axes (x right, y up, z back). Everything in
this package beyond the plugin works with camera-from-world matrices in OpenCV axes (x right,
y down, z forward), as gsplat and COLMAP do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def opencv_from_opengl(camera_to_worlds: Float[Tensor, "v 3 4"]) -> Float[Tensor, "v 4 4"]:
    """Camera-from-world matrices (OpenCV axes) from camera-to-world matrices (OpenGL axes)."""
    rotation = camera_to_worlds[:, :3, :3] * camera_to_worlds.new_tensor([1.0, -1.0, -1.0])
    viewmats = torch.eye(4, dtype=rotation.dtype, device=rotation.device).repeat(len(rotation), 1, 1)
    viewmats[:, :3, :3] = rotation.mT
    viewmats[:, :3, 3:] = -rotation.mT @ camera_to_worlds[:, :3, 3:4]
    return viewmats


def opengl_from_opencv(viewmats: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 3 4"]:
    """Camera-to-world matrices (OpenGL axes) from camera-from-world matrices (OpenCV axes)."""
    rotation = viewmats[:, :3, :3].mT
    centres = -rotation @ viewmats[:, :3, 3:]
    return torch.cat([rotation * viewmats.new_tensor([1.0, -1.0, -1.0]), centres], dim=2)


@dataclass(frozen=True)
class PinholeCameras:
    """V distortion-free cameras of one image size."""

    viewmats: Float[Tensor, "v 4 4"]
    """Camera-from-world, OpenCV axes, scene units."""
    Ks: Float[Tensor, "v 3 3"]
    """Intrinsics in pixels; the centre of the top-left pixel is (0.5, 0.5)."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""

    def __post_init__(self) -> None:
        v = self.viewmats.shape[0]
        if self.viewmats.shape != (v, 4, 4) or self.Ks.shape != (v, 3, 3):
            raise ValueError(
                f"viewmats have shape {tuple(self.viewmats.shape)} and Ks {tuple(self.Ks.shape)}; "
                "[v, 4, 4] and [v, 3, 3] are needed."
            )
        if self.width < 1 or self.height < 1:
            raise ValueError(f"The image size is {self.width} x {self.height}; both must be at least 1 pixel.")

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def __getitem__(self, index: Int[Tensor, " m"] | slice) -> PinholeCameras:
        return PinholeCameras(self.viewmats[index], self.Ks[index], self.width, self.height)

    def to(self, *args, **kwargs) -> PinholeCameras:
        """Move or cast the matrices, as ``torch.Tensor.to``."""
        return PinholeCameras(self.viewmats.to(*args, **kwargs), self.Ks.to(*args, **kwargs), self.width, self.height)

    @property
    def centres(self) -> Float[Tensor, "v 3"]:
        """Camera centres in the world frame, scene units."""
        return opengl_from_opencv(self.viewmats)[:, :, 3]


@dataclass(frozen=True)
class Views:
    """Cameras with their photographs."""

    cameras: PinholeCameras
    images: Float[Tensor, "v h w 3"]
    """sRGB, 0 to 1."""
    masks: Float[Tensor, "v h w 1"] | None = None
    """1 where the photograph counts in the loss, 0 where it does not; None counts everywhere."""

    def __post_init__(self) -> None:
        expected = (len(self.cameras), self.cameras.height, self.cameras.width)
        for name, tensor, channels in (("images", self.images, 3), ("masks", self.masks, 1)):
            if tensor is not None and tuple(tensor.shape) != (*expected, channels):
                raise ValueError(f"{name} have shape {tuple(tensor.shape)}; the cameras say {(*expected, channels)}.")

    def __len__(self) -> int:
        return len(self.cameras)
