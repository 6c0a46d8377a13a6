"""Cameras as chunks store them: 18 numbers a frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.scenes.chunks.errors import ChunkError
from l2o_splat.views import PinholeCameras

ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R^T - 1 of a matrix R that is taken for a rotation."""


def cameras_of_rows(rows: Float[Tensor, "f 18"], width: int, height: int, scene: str) -> PinholeCameras:
    """Cameras of the frames of a scene, in the world frame of the chunk.

    A row is fx, fy, cx, cy (in units of image width, height, width, height), two numbers that mean nothing, and the
    3 x 4 matrix from world to camera row by row, OpenCV axes (RealEstate10K, Zhou et al. 2018).

    Args:
        rows: One for each frame.
        width: Width of the images, pixels.
        height: Height of the images, pixels.
        scene: How errors name the scene.

    Raises:
        ChunkError: A row holds NaN or infinite numbers, a focal length that is not positive, or no rotation.
    """
    check_rows(rows, scene)
    viewmats = torch.eye(4).repeat(len(rows), 1, 1)
    viewmats[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    Ks = torch.eye(3).repeat(len(rows), 1, 1)
    Ks[:, 0, 0], Ks[:, 0, 2] = rows[:, 0] * width, rows[:, 2] * width
    Ks[:, 1, 1], Ks[:, 1, 2] = rows[:, 1] * height, rows[:, 3] * height
    return PinholeCameras(viewmats, Ks, width, height)


def rows_of_cameras(cameras: PinholeCameras) -> Float[Tensor, "f 18"]:
    """The rows from which :func:`cameras_of_rows` makes the cameras again."""
    rows = torch.zeros(len(cameras), 18)
    rows[:, 0], rows[:, 2] = cameras.Ks[:, 0, 0] / cameras.width, cameras.Ks[:, 0, 2] / cameras.width
    rows[:, 1], rows[:, 3] = cameras.Ks[:, 1, 1] / cameras.height, cameras.Ks[:, 1, 2] / cameras.height
    rows[:, 6:] = cameras.viewmats[:, :3].reshape(-1, 12)
    return rows


def check_rows(rows: Float[Tensor, "f 18"], scene: str) -> None:
    """Refuse rows that are no cameras, see :func:`cameras_of_rows`."""
    rotations = rows[:, 6:].reshape(-1, 3, 4)[:, :, :3]
    off = (rotations @ rotations.mT - torch.eye(3)).abs().amax(dim=(1, 2))
    damages = {
        "NaN or infinite numbers": ~torch.isfinite(rows).all(dim=1),
        "a focal length that is not positive": (rows[:, :2] <= 0).any(dim=1),
        "no rotation in its world-to-camera matrix": ~(off <= ROTATION_TOLERANCE)
        | (torch.linalg.det(rotations.nan_to_num(0, 0, 0)) <= 0),
    }
    for damage, frames in damages.items():
        if frames.any():
            number, more = int(frames.nonzero()[0]), int(frames.sum()) - 1
            raise ChunkError(
                f"The camera of frame {number} of {scene} has {damage}{f' ({more} more frames too)' if more else ''}; "
                "prepare the scene again or leave it out."
            )
