"""What a capture must fulfil before any long work starts; each fault has a sentence of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from l2o_splat.plugin.errors import PluginError

MODELLED_CAMERAS = {CameraType.PERSPECTIVE.value, CameraType.FISHEYE.value}
"""Camera types whose images are undistorted to a pinhole, which is all that the rasterizer draws."""


class CaptureError(PluginError):
    """The capture cannot be trained on; the message says what was found, what is needed and what to do."""


def check_data_path(path: Path, trained: bool = False) -> None:
    """Refuse a capture that does not exist.

    Args:
        path: The capture.
        trained: Whether it is that of a run that is evaluated or shown.
    """
    if path.exists():
        return
    if trained:
        where = "" if path.is_absolute() else f" in {Path.cwd()}"
        raise CaptureError(
            f"The capture {path} of this run does not exist{where}; put it back, or run the command in the folder in "
            "which the run was started (exporting needs no photographs)."
        )
    raise CaptureError(f"--data {path} does not exist; give the folder of a capture (or no --data for l2o-demo).")


def check_training_split(outputs: DataparserOutputs) -> None:
    """Refuse a capture without images, with fewer than two training views, or with unusable cameras."""
    filenames = outputs.image_filenames
    if len(filenames) == 0:
        raise CaptureError(
            "The capture holds no training images; at least two posed images are needed: check the folder, the "
            "dataparser and its eval split."
        )
    if len(filenames) < 2:
        raise CaptureError(
            f"The capture holds only one training view ({filenames[0].name}); at least two are needed: add "
            "photographs, or hold none out (`nerfstudio-data --eval-mode fraction --train-split-fraction 1` at the end "
            "of the command)."
        )
    check_cameras(outputs)
    check_places(outputs.cameras.camera_to_worlds[:, :3, 3].double().numpy(), "the training split")


ONE_PLACE = 1e-9
"""Cameras no farther apart than this share of their coordinates are in one place."""


def check_places(centres: Float[np.ndarray, "v 3"], capture: str) -> None:
    """Refuse a single camera, and cameras that are all in one place, as in a panorama."""
    if len(centres) == 1:
        raise CaptureError(
            f"{capture} holds only one photograph; at least two are needed, from different places: add photographs."
        )
    if np.ptp(centres, axis=0).max() <= ONE_PLACE * np.abs(centres).max():
        raise CaptureError(
            f"All {len(centres)} cameras of {capture} are in one place, as in a panorama; depth shows only between "
            "photographs from different places: add some, or check the poses."
        )


def check_cameras(outputs: DataparserOutputs) -> None:
    """Refuse missing image files, cameras that are not finite and lenses that cannot be undistorted."""
    missing = [path for path in outputs.image_filenames if not path.exists()]
    if missing:
        raise CaptureError(
            f"{len(missing)} of {len(outputs.image_filenames)} images do not exist, the first is {missing[0]}; "
            "put them there or take their poses out of the capture."
        )
    if not outputs.image_filenames:
        return
    cameras = outputs.cameras
    names = [path.name for path in outputs.image_filenames]
    intrinsics = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=1)
    for what, values in (("pose", cameras.camera_to_worlds.flatten(1)), ("intrinsics", intrinsics)):
        broken = (~torch.isfinite(values).all(dim=1)).nonzero().flatten().tolist()
        if broken:
            # Automatic centring spreads one broken pose to all of them.
            spread = " (automatic centring spreads one broken pose to all)" if len(broken) == len(names) > 1 else ""
            raise CaptureError(
                f"The {what} of {names[broken[0]]} holds NaN or infinite numbers, {len(broken)} of {len(names)} "
                f"cameras in all{spread}; every camera must be finite: repair it or take the image out."
            )
    if (intrinsics[:, :2] <= 0).any():
        raise CaptureError("A camera has a focal length that is not positive; repair its intrinsics.")
    _check_lens(cameras, names)


def _check_lens(cameras: Cameras, names: list[str]) -> None:
    types = cameras.camera_type.flatten().tolist()
    for name, kind in zip(names, types, strict=True):
        if kind not in MODELLED_CAMERAS:
            raise CaptureError(
                f"The camera of {name} is of type {CameraType(kind).name}; the rasterizer draws pinhole images, so "
                "only PERSPECTIVE and FISHEYE can be undistorted: undistort the capture first."
            )
    distortion = cameras.distortion_params
    if distortion is not None:
        fourth = distortion[:, 3] * (cameras.camera_type.flatten() == CameraType.PERSPECTIVE.value)
        if (fourth != 0).any():
            raise CaptureError(
                f"The camera of {names[int(fourth.nonzero()[0])]} has a radial distortion k4, which cannot be "
                "undistorted; use k1, k2, k3, p1, p2, or undistort the capture first."
            )
