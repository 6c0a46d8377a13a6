"""The views at the size at which depths are estimated: one grid for all, whatever the photographs' sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from l2o_splat import threads
from l2o_splat.views import Photographs, PinholeCameras

MOST_PIXELS = 3_000_000
"""Pixels of all views together at which depths are estimated, about 4 s of one core."""
REDUCTION = 2
"""Photographs are reduced at least this many times."""
MASKED = 0.5
"""Grey in place of what masks hide."""


@dataclass(frozen=True)
class WorkingViews:
    """Reduced photographs and their cameras, in arrays that kernels read."""

    images: Float[np.ndarray, "v h w 3"]
    """sRGB, 0 to 1; float32."""
    grey: Float[np.ndarray, "v h w"]
    """Mean of the channels."""
    counted: Bool[np.ndarray, "v h w"]
    """False where a mask says that the photograph does not count."""
    Ks: Float[np.ndarray, "v 3 3"]
    """Intrinsics in pixels of this grid; float64."""
    viewmats: Float[np.ndarray, "v 4 4"]
    """Camera-from-world, OpenCV axes, scene units; float64."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def centres(self) -> Float[np.ndarray, "v 3"]:
        """Camera centres, scene units."""
        return -np.einsum("vji,vj->vi", self.viewmats[:, :3, :3], self.viewmats[:, :3, 3])

    def maps(
        self, v: int, others: Int[np.ndarray, " m"]
    ) -> tuple[Float[np.ndarray, "m 3 3"], Float[np.ndarray, "m 3"]]:
        """Where the pixels of view ``v`` appear in others: at pixel coordinates p (x, y, 1) with inverse depth q, a
        point appears at ``maps @ p + offsets * q``, whose last entry is its depth there times q. float32."""
        relative = self.viewmats[others] @ np.linalg.inv(self.viewmats[v])
        maps = self.Ks[others] @ relative[:, :3, :3] @ np.linalg.inv(self.Ks[v])
        offsets = (self.Ks[others] @ relative[:, :3, 3:])[..., 0]
        return maps.astype(np.float32), offsets.astype(np.float32)


def working_views(
    groups: Sequence[Photographs], most_pixels: int = MOST_PIXELS, reduction: float = REDUCTION
) -> WorkingViews:
    """Reduce photographs by area averaging to one grid.

    Args:
        groups: Photographs, one entry per image size.
        most_pixels: Of all views together.
        reduction: Smallest factor by which the sides of the largest group become shorter.
    """
    largest = max(groups, key=len).cameras
    count = sum(len(group) for group in groups)
    factor = min(1 / reduction, math.sqrt(most_pixels / (count * largest.width * largest.height)))
    # Multiples of 8, so that the cells of any level fill the grid.
    width, height = (max(8 * round(size * factor / 8), 16) for size in (largest.width, largest.height))
    pairs = [(group, v) for group in groups for v in range(len(group))]
    reduced = threads.run(lambda i: _reduced(*pairs[i], width, height), len(pairs))
    images, counted = (np.stack(part) for part in zip(*reduced, strict=True))
    cameras = [group.cameras for group in groups]
    Ks = np.concatenate([_intrinsics(camera, width, height) for camera in cameras])
    viewmats = np.concatenate([camera.viewmats.double().cpu().numpy() for camera in cameras])
    return WorkingViews(images, images.mean(axis=3), counted, Ks, viewmats)


def _intrinsics(cameras: PinholeCameras, width: int, height: int) -> Float[np.ndarray, "v 3 3"]:
    scale = np.array([width / cameras.width, height / cameras.height, 1.0])
    return cameras.Ks.double().cpu().numpy() * scale[:, None]


def _reduced(group: Photographs, v: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    image, mask = group.photograph(v)
    size = height, width
    small = F.interpolate(image.cpu().float().permute(2, 0, 1)[None], size=size, mode="area")[0]
    if mask is None:
        counted = torch.ones(size, dtype=torch.bool)
    else:
        counted = F.interpolate(mask.cpu().float()[None, None], size=size, mode="area")[0, 0] > 0.99
        small = torch.where(counted, small, MASKED)
    return small.permute(1, 2, 0).contiguous().numpy(), counted.numpy()
