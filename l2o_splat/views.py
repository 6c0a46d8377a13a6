"""Posed pinhole cameras and their photographs, and the conversion between OpenGL and OpenCV cameras.

nerfstudio keeps camera-to-world matrices in OpenGL axes (x right, y up, z back). Everything in
this package outside the plugin works with camera-from-world matrices in OpenCV axes (x right,
y down, z forward), as gsplat and COLMAP do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
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


LEAST_DEPTH = 1e-9
"""Depth (scene units) at which points at or behind a camera are projected."""


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

    def __getitem__(self, index: Int[Tensor, " m"] | list[int] | slice) -> PinholeCameras:
        """The cameras at ``index``, in the order given."""
        return PinholeCameras(self.viewmats[index], self.Ks[index], self.width, self.height)

    def to(self, *args, **kwargs) -> PinholeCameras:
        """Move or cast the matrices, as ``torch.Tensor.to``."""
        return PinholeCameras(self.viewmats.to(*args, **kwargs), self.Ks.to(*args, **kwargs), self.width, self.height)

    @property
    def centres(self) -> Float[Tensor, "v 3"]:
        """Camera centres in the world frame, scene units."""
        return opengl_from_opencv(self.viewmats)[:, :, 3]

    @property
    def focal_lengths(self) -> Float[Tensor, " v"]:
        """Geometric mean of the horizontal and the vertical focal length of each camera, pixels."""
        return (self.Ks[:, 0, 0] * self.Ks[:, 1, 1]).sqrt()

    def depths(self, points: Float[Tensor, "p 3"] | Float[Tensor, "v p 3"]) -> Float[Tensor, "v p"]:
        """Camera z of points, scene units; negative behind a camera.

        Args:
            points: World frame, scene units; the same for all cameras, or each camera's own.
        """
        axes, offsets = self.viewmats[:, 2, :3], self.viewmats[:, 2, 3:]
        if points.ndim == 2:
            return axes @ points.mT + offsets
        return (axes[:, None] * points).sum(dim=2) + offsets

    def project(
        self, points: Float[Tensor, "p 3"] | Float[Tensor, "v p 3"]
    ) -> tuple[Float[Tensor, "v p 2"], Float[Tensor, "v p"]]:
        """Where points appear in every image; :meth:`inside` says whether they are in it.

        The pixels of points that are not in front of a camera are finite but meaningless: they are computed with
        the depth ``LEAST_DEPTH``.

        Args:
            points: World frame, scene units; the same for all cameras, or each camera's own.

        Returns:
            Pixel coordinates x, y, and depths (camera z, scene units).
        """
        columns = "pj" if points.ndim == 2 else "vpj"
        in_camera = torch.einsum(f"vij,{columns}->vpi", self.viewmats[:, :3, :3], points)
        in_camera = in_camera + self.viewmats[:, None, :3, 3]
        depth = in_camera[..., 2]
        homogeneous = torch.einsum("vij,vpj->vpi", self.Ks, in_camera)
        return homogeneous[..., :2] / depth.clamp(min=LEAST_DEPTH)[..., None], depth

    def unproject(
        self, pixels: Float[Tensor, "p 2"] | Float[Tensor, "v p 2"], depth: Float[Tensor, "#v p"]
    ) -> Float[Tensor, "v p 3"]:
        """World points (scene units) behind pixels; the inverse of :meth:`project`.

        Args:
            pixels: Pixel coordinates x, y; the same for all cameras, or each camera's own.
            depth: Camera z of the points, scene units.
        """
        columns = "pj" if pixels.ndim == 2 else "vpj"
        rays = torch.einsum(f"vij,{columns}->vpi", torch.linalg.inv(self.Ks), F.pad(pixels, (0, 1), value=1.0))
        in_camera = rays * depth[..., None]
        return torch.einsum("vji,vpj->vpi", self.viewmats[:, :3, :3], in_camera - self.viewmats[:, None, :3, 3])

    def inside(self, pixels: Float[Tensor, "v p 2"], depth: Float[Tensor, "v p"]) -> Bool[Tensor, "v p"]:
        """Whether pixel coordinates lie in the image, and their points in front of the camera.

        An image holds its left and top edges but not its right and bottom ones: 0 <= x < width, 0 <= y < height and
        depth > 0, so that rounding down always gives a pixel of the image.
        """
        x, y = pixels.unbind(-1)
        return (depth > 0) & (x >= 0) & (x < self.width) & (y >= 0) & (y < self.height)

    def mirrored(self) -> PinholeCameras:
        """The cameras in a mirror: world and camera x axes are negated, so that poses stay rotations.

        A mirrored camera sees the mirrored world exactly as the camera saw the world, left to right.
        """
        negate = self.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0])
        Ks = self.Ks.clone()
        Ks[:, 0, 2] = self.width - Ks[:, 0, 2]
        return PinholeCameras(negate[:, None] * self.viewmats * negate, Ks, self.width, self.height)


class Photographs(Protocol):
    """Cameras of one image size and their photographs, of which one at a time is looked at."""

    @property
    def cameras(self) -> PinholeCameras:
        """The cameras, in the order of the photographs."""

    @property
    def exposures(self) -> Float[Tensor, "v 3 4"] | None:
        """Affine transforms from the colours of the scene to those of each photograph; None compares them as they are,
        see :func:`l2o_splat.rendering.exposure.exposed`."""

    def __len__(self) -> int: ...

    def photograph(self, v: int) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"] | None]:
        """Photograph ``v``, sRGB 0 to 1, and where it counts in the loss; None if it counts everywhere."""

    def views(self) -> Views:
        """All of them together."""


@dataclass(frozen=True)
class Views:
    """Cameras with their photographs, which are :class:`Photographs` that lie in memory together."""

    cameras: PinholeCameras
    images: Float[Tensor, "v h w 3"]
    """sRGB, 0 to 1."""
    masks: Float[Tensor, "v h w 1"] | None = None
    """1 where the photograph counts in the loss, 0 where it does not; None counts everywhere."""
    indices: tuple[int, ...] | None = None
    """Places of the photographs among those that are trained on; None if they have none, or nobody asks."""
    exposures: Float[Tensor, "v 3 4"] | None = None
    """See :class:`Photographs`."""

    def __post_init__(self) -> None:
        expected = (len(self.cameras), self.cameras.height, self.cameras.width)
        for name, tensor, channels in (("images", self.images, 3), ("masks", self.masks, 1)):
            if tensor is not None and tuple(tensor.shape) != (*expected, channels):
                raise ValueError(f"{name} have shape {tuple(tensor.shape)}; the cameras say {(*expected, channels)}.")
        _check_exposures(self.exposures, len(self.cameras))

    def __len__(self) -> int:
        return len(self.cameras)

    def __getitem__(self, index: Int[Tensor, " m"] | list[int] | slice) -> Views:
        """The views at ``index``, in the order given."""
        masks = None if self.masks is None else self.masks[index]
        exposures = None if self.exposures is None else self.exposures[index]
        indices = self.indices
        if indices is not None:
            indices = tuple(torch.tensor(indices, dtype=torch.int64)[index].tolist())
        return Views(self.cameras[index], self.images[index], masks, indices, exposures)

    def to(self, *args, **kwargs) -> Views:
        """Move or cast cameras, images, masks and exposures, as ``torch.Tensor.to``."""
        moved = {
            name: None if getattr(self, name) is None else getattr(self, name).to(*args, **kwargs)
            for name in ("cameras", "images", "masks", "exposures")
        }
        return replace(self, **moved)

    def photograph(self, v: int) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"] | None]:
        """Photograph ``v`` and where it counts, see :class:`Photographs`."""
        return self.images[v], None if self.masks is None else self.masks[v, ..., 0] > 0.5

    def views(self) -> Views:
        """The views themselves."""
        return self

    @property
    def counted(self) -> Bool[Tensor, "v h w 1"] | None:
        """Where masks exceed 0.5, so that the photograph counts; None counts everywhere."""
        return None if self.masks is None else self.masks > 0.5

    def blanked(self, colour: Float[Tensor, " 3"] | float) -> Views:
        """The views with masked pixels, whatever they hold, in one colour; the views themselves without masks."""
        if self.masks is None:
            return self
        colour = torch.as_tensor(colour, dtype=self.images.dtype, device=self.images.device)
        return replace(self, images=torch.where(self.counted, self.images, colour))

    def mirrored(self) -> Views:
        """The views in a mirror: images left to right, cameras as in :meth:`PinholeCameras.mirrored`."""
        masks = None if self.masks is None else self.masks.flip(2)
        return replace(self, cameras=self.cameras.mirrored(), images=self.images.flip(2), masks=masks)


@dataclass(frozen=True)
class StoredPhotographs:
    """:class:`Photographs` as a capture stores them, 8 bits a channel, each made floats only when it is asked for.

    Raises:
        ValueError: If there are not as many photographs, and masks, as cameras.
    """

    cameras: PinholeCameras
    stored: Sequence[UInt8[Tensor, "h w c"] | Float[Tensor, "h w c"]]
    """RGB or RGBA, 0 to 255, or 0 to 1 if they are floats; on any device."""
    masks: Sequence[Bool[Tensor, "h w 1"]] | None
    """True where a photograph counts in the loss; None counts everywhere."""
    background: Float[Tensor, " 3"]
    """Put under photographs with an alpha channel, sRGB 0 to 1; what is handed out is on its device."""
    indices: tuple[int, ...] | None = None
    """See :class:`Views`."""
    exposures: Float[Tensor, "v 3 4"] | None = None
    """See :class:`Photographs`."""

    def __post_init__(self) -> None:
        for name, found in (("photographs", self.stored), ("masks", self.masks)):
            if found is not None and len(found) != len(self.cameras):
                raise ValueError(f"There are {len(found)} {name} of {len(self.cameras)} cameras; give each camera one.")
        _check_exposures(self.exposures, len(self.cameras))

    def __len__(self) -> int:
        return len(self.cameras)

    def photograph(self, v: int) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"] | None]:
        """Photograph ``v`` and where it counts, see :class:`Photographs`."""
        mask = None if self.masks is None else self.masks[v].to(self.background.device)[..., 0]
        return image_of_stored(self.stored[v], self.background), mask

    def views(self) -> Views:
        """All of them as floats, in memory together."""
        images, masks = zip(*(self.photograph(v) for v in range(len(self))), strict=True)
        stacked_masks = None if self.masks is None else torch.stack(masks)[..., None].float()
        return Views(self.cameras, torch.stack(images), stacked_masks, self.indices, self.exposures)


def _check_exposures(exposures: Tensor | None, cameras: int) -> None:
    if exposures is not None and exposures.shape != (cameras, 3, 4):
        raise ValueError(f"exposures have shape {tuple(exposures.shape)}; {(cameras, 3, 4)} is needed.")


def image_of_stored(
    pixels: UInt8[Tensor, "h w c"] | Float[Tensor, "h w c"], background: Float[Tensor, " 3"]
) -> Float[Tensor, "h w 3"]:
    """Stored RGB or RGBA (0 to 255, or 0 to 1 if floats) as sRGB 0 to 1, on the background where it has alpha."""
    image = pixels.to(background.device)
    if image.dtype == torch.uint8:
        # By a tensor: CUDA would multiply by the reciprocal of a number, which rounds otherwise than the CPU.
        image = image.float().div_(torch.full((), 255.0, device=image.device))
    if image.shape[-1] == 4:
        alpha = image[..., 3:]
        image = alpha * image[..., :3] + (1 - alpha) * background
    return image
