"""Coordinates that float32 cannot hold, as georeferenced captures (UTM, ECEF) have them.

nerfstudio's dataparsers cast poses and points to float32 before they centre them. Where that would cost precision, an
offset is subtracted in float64 first; it is kept in ``dataparser_transform``, so that scenes find their way back.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs, transform_poses_to_original_space
from nerfstudio.utils.rich_utils import CONSOLE
from scipy.spatial import cKDTree
from torch import Tensor

from l2o_splat.plugin.capture_checks import CaptureError

FAR_FROM_ORIGIN = 100
"""Cameras whose middle is this many times farther from the origin than they are from their middle are centred first."""
SHARE_OF_SPACING = 1e-3
"""So are cameras whose coordinates float32 rounds by more than this share of their spacing..."""
SOMEWHAT_FAR = 10
"""...if their middle is this many times farther away than they reach."""
REFUSED_SHARE = 0.01
"""Share of the spacing that a dataparser's own rounding may take at most."""
OFFSET = "coordinate_offset"
"""Key of the offset in the metadata of a dataparser's outputs: three numbers, units and axes of the capture's file."""


def camera_spacing(centres: Float[np.ndarray, "v 3"]) -> float:
    """Median distance of a camera to the nearest one in another place; 0 if all are in one place."""
    distances = cKDTree(centres).query(centres, k=min(len(centres), 8))[0].reshape(len(centres), -1)
    elsewhere = np.where(distances > 0, distances, np.inf).min(axis=1)
    elsewhere = elsewhere[np.isfinite(elsewhere)]
    return float(np.median(elsewhere)) if len(elsewhere) else 0.0


def float32_rounding(coordinate: float) -> float:
    """By how much float32 may round a coordinate of this size."""
    return float(np.spacing(np.float32(coordinate))) / 2


def large_offset(centres: Float[np.ndarray, "v 3"]) -> Float[np.ndarray, " 3"] | None:
    """What to subtract from all coordinates before they are float32, a short number; None if nothing is."""
    middle = np.median(centres, axis=0)
    distances = np.linalg.norm(centres - middle, axis=1)
    reach, away = float(np.median(distances)) or float(distances.max()), float(np.linalg.norm(middle))
    if reach == 0 or away <= SOMEWHAT_FAR * reach:
        return None
    rounds = float32_rounding(np.abs(middle).max()) > SHARE_OF_SPACING * camera_spacing(centres)
    if away <= FAR_FROM_ORIGIN * reach and not rounds:
        return None
    return np.round(middle, -1 - math.floor(math.log10(reach)))


class CentredOutputs(DataparserOutputs):
    """Outputs whose transform is float64, since it holds the offset."""

    def transform_poses_to_original_space(
        self, poses: Float[Tensor, "v 3 4"], camera_convention: Literal["opengl", "opencv"] = "opencv"
    ) -> Float[Tensor, "v 3 4"]:
        return transform_poses_to_original_space(
            poses.double(), self.dataparser_transform.to(poses.device), self.dataparser_scale, camera_convention
        )


def with_offset(
    outputs: DataparserOutputs, offset: Float[np.ndarray, " 3"], applied: list[list[float]] | None
) -> CentredOutputs:
    """Outputs of a dataparser that saw coordinates less an offset, as those of the whole coordinates.

    Args:
        outputs: Of the dataparser.
        offset: In the coordinates of the file.
        applied: The capture's ``applied_transform`` ``[3, 4]``, which leads from its original coordinates to those of
            the file; None for the identity.
    """
    original = offset if applied is None else np.linalg.solve(np.array(applied, np.float64)[:, :3], offset)
    transform = outputs.dataparser_transform.double()
    transform[:, 3] -= transform[:, :3] @ torch.from_numpy(original)
    fields = vars(outputs) | {
        "dataparser_transform": transform,
        "metadata": {**outputs.metadata, OFFSET: offset.tolist()},
    }
    return CentredOutputs(**fields)


def announce(offset: Float[np.ndarray, " 3"]) -> None:
    """Say what was done to the coordinates."""
    numbers = ", ".join(f"{value:.15g}" for value in offset)
    CONSOLE.log(
        f"The capture's coordinates are too large for float32, so ({numbers}) is subtracted in float64 before "
        "training; dataparser_transforms.json beside config.yml leads from the original coordinates to the scene's."
    )


def check_rounding(outputs: DataparserOutputs, parser: str) -> None:
    """Refuse poses that a dataparser had to round noticeably.

    Raises:
        CaptureError: If float32 cannot hold the original coordinates to a hundredth of the cameras' spacing.
    """
    poses = outputs.transform_poses_to_original_space(outputs.cameras.camera_to_worlds, "opengl")
    centres = poses[:, :, 3].double().numpy()
    spacing, largest = camera_spacing(centres), float(np.abs(centres).max())
    if float32_rounding(largest) > REFUSED_SHARE * spacing:
        raise CaptureError(
            f"The cameras have coordinates up to {largest:.9g}, which {parser} rounds to float32, by up to "
            f"{float32_rounding(largest):.2g}; at most a hundredth of their spacing ({spacing:.2g}) is needed: "
            "subtract an offset from all poses and points, or use nerfstudio-data or colmap, which do that here."
        )
