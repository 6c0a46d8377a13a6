"""One scene of a chunk: cameras of all frames, and images that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from l2o_splat.scenes.chunks.camera_rows import cameras_of_rows
from l2o_splat.scenes.chunks.encoded_images import decoded, stored_size
from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.scenes.chunks.resolution import Size, fit_cameras, fit_image
from l2o_splat.views import PinholeCameras, Views


@dataclass(frozen=True)
class ChunkScene:
    """Posed frames of a video."""

    key: str
    """Name of the scene in its data set."""
    cameras: PinholeCameras
    """All frames, at the size of the images; world frame and scene units of the data set."""
    images: Sequence[UInt8[Tensor, " b"]] = field(repr=False)
    """The bytes of a JPEG or PNG file for each frame."""

    @property
    def num_frames(self) -> int:
        """Number of frames; they are counted from 0."""
        return len(self.cameras)

    def decode(self, indices: Sequence[int], size: Size | None = None) -> Views:
        """The views of some frames, in the order given; no other image is decoded.

        Args:
            indices: Frame numbers.
            size: Height and width, pixels, to which the views are reduced and cropped as in the papers
                (:mod:`l2o_splat.scenes.chunks.resolution`); None keeps the size of the images.

        Raises:
            ChunkError: A frame number is beyond the frames, or an image cannot be decoded, is of another size than the
                first of the scene, or is smaller than ``size``.
        """
        beyond = [number for number in indices if not 0 <= number < self.num_frames]
        if beyond:
            raise ChunkError(
                f"Frame {beyond[0]} of scene {self.key} was asked for, which has frames 0 to {self.num_frames - 1}; "
                "use a view index that was made for these chunks, or prepare the whole scene."
            )
        cameras = self.cameras[list(indices)]
        cameras = cameras if size is None else fit_cameras(cameras, size)
        images = np.empty((len(cameras), cameras.height, cameras.width, 3), np.float32)
        for number, pixels in zip(indices, images, strict=True):
            image = decoded(self.images[number], f"frame {number} of scene {self.key}")
            if image.size != (self.cameras.width, self.cameras.height):
                raise ChunkError(
                    f"Frame {number} of scene {self.key} is {image.width} x {image.height} pixels and frame 0 "
                    f"{self.cameras.width} x {self.cameras.height}; prepare the scene at one size or leave it out."
                )
            pixels[:] = np.asarray(image if size is None else fit_image(image, size))
        return Views(cameras, torch.from_numpy(images).div_(255))


def scene_of_entry(entry: Any, chunk: str) -> ChunkScene:
    """The scene in one entry of a chunk.

    Args:
        entry: ``key``, ``cameras`` and ``images`` of a scene; ``timestamps`` are checked, ``url`` is not looked at.
        chunk: How errors name the chunk.

    Raises:
        ChunkError: The entry is no such scene, or one of its cameras is damaged.
    """
    key, rows, images = entry["key"], entry.get("cameras"), entry.get("images")
    scene = f"scene {key} in {chunk}"

    def refuse(found: str, needed: str) -> None:
        raise ChunkError(
            f"{scene[0].upper()}{scene[1:]} has {found}; {needed}: prepare the scene again or leave it out."
        )

    if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.ndim != 2 or rows.shape[1] != 18:
        refuse(f"cameras that are {_kind(rows)}", "a float tensor of shape [frames, 18] is needed")
    if not isinstance(images, list | tuple) or not all(_is_bytes(image) for image in images):
        refuse(f"images that are {_kind(images)}", "a list of 1-dimensional uint8 tensors is needed")
    if not len(rows) == len(images) > 0:
        refuse(f"{len(rows)} cameras and {len(images)} images", "one of each for every frame is needed")
    times = entry.get("timestamps")
    if times is not None and len(times) != len(rows):
        refuse(f"{len(times)} timestamps and {len(rows)} cameras", "one of each for every frame is needed")
    width, height = stored_size(images[0], f"frame 0 of {scene}")
    return ChunkScene(key, cameras_of_rows(rows.float(), width, height, scene), images)


def _is_bytes(image: Any) -> bool:
    return isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 1


def _kind(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"{str(found.dtype).removeprefix('torch.')} of shape {list(found.shape)}"
    if isinstance(found, list | tuple):
        other = next((item for item in found if not _is_bytes(item)), None)
        return f"a list with {_kind(other)}"
    return "missing" if found is None else f"a {type(found).__name__}"
