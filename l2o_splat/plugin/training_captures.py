"""Captures for training that nerfstudio's dataparsers read: all in memory, in the conventions of this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig, DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from l2o_splat.plugin.capture_checks import CaptureError
from l2o_splat.plugin.datamanager import L2ODataManager, L2ODataManagerConfig
from l2o_splat.plugin.dataparsers import dataparser_config
from l2o_splat.plugin.photographs import pinhole_cameras, stored_photographs
from l2o_splat.plugin.protocol_split import use_protocol_split
from l2o_splat.scenes.capture import Capture, Points
from l2o_splat.views import PinholeCameras, Views


def read_training_capture(
    data: Path | None,
    dataparser: Sequence[str],
    scale: float = 1.0,
    hold_out: bool = False,
    need_points: bool = True,
) -> Capture:
    """Read a capture as a method of nerfstudio would see it: its world frame, its undistorted images.

    The folder is only read. Images with an alpha channel are put on black.

    Args:
        data: Folder of the capture; None if the dataparser needs none.
        dataparser: Name of nerfstudio's dataparser and its options, as on the command line.
        scale: Factor by which images and cameras are scaled, above 0 and at most 1.
        hold_out: Leave out the views that ``l2o bench`` holds out: every 8th in the order of file names.
        need_points: Refuse a capture without points; otherwise it is read, and its points are empty.

    Raises:
        CaptureError: If the capture cannot be read, has no points that are needed, or has images of several sizes.
        SystemExit: If there is no such dataparser or option; tyro has printed what is wrong.
    """
    if not 0 < scale <= 1:
        raise CaptureError(f"The scale is {scale}; a factor above 0 and at most 1 is needed.")
    config = dataparser_config(dataparser)
    use_protocol_split(config, "all")
    if data is not None:
        config.data = Path(data)
    names_points = _names_points(config)
    if need_points and not names_points:
        raise _no_points(config.data)
    if hasattr(config, "load_3D_points"):
        config.load_3D_points = names_points
    manager = L2ODataManagerConfig(dataparser=config, camera_res_scale_factor=scale).setup(
        device="cpu",
        test_mode="test",  # Reads images at their first use.
    )
    points = _points(manager.train_dataparser_outputs, config.data)
    if need_points and not len(points):
        raise _no_points(config.data)
    return Capture(_views(manager, hold_out, config.data), points)


def _names_points(config: DataParserConfig) -> bool:
    """False for a ``transforms.json`` without points: nerfstudio would ask to rewrite it."""
    if not isinstance(config, NerfstudioDataParserConfig):
        return True
    path = config.data if config.data.suffix == ".json" else config.data / "transforms.json"
    return not path.is_file() or "ply_file_path" in json.loads(path.read_text(encoding="utf-8"))


def _points(outputs: DataparserOutputs, data: Path) -> Points:
    xyz, rgb = (outputs.metadata.get(f"points3D_{name}") for name in ("xyz", "rgb"))
    if xyz is None or len(xyz) == 0:
        return Points(torch.zeros(0, 3), torch.zeros(0, 3))
    if not torch.isfinite(xyz).all():
        raise CaptureError(f"Points of {data} hold NaN or infinite numbers; repair them or take them out.")
    return Points(xyz.float(), rgb.float() / 255)


def _no_points(data: Path) -> CaptureError:
    return CaptureError(
        f"{data} holds no structure-from-motion points, from which training scenes start; add points (`l2o photos` "
        "makes them) or leave the capture out."
    )


def _views(manager: L2ODataManager, hold_out: bool, data: Path) -> Views:
    """Return the views in the order of file names."""
    datasets = [manager.train_dataset] if hold_out else [manager.train_dataset, manager.eval_dataset]
    _check_one_size([dataset.cameras for dataset in datasets], data)
    images = [manager.cached_train] if hold_out else [manager.cached_train, manager.cached_eval]
    # Check again, because undistorting crops.
    _check_one_size([dataset.cameras for dataset in datasets], data)
    black = torch.zeros(3)
    parts = [
        stored_photographs(pinhole_cameras(dataset.cameras), loaded, black).views()
        for dataset, loaded in zip(datasets, images, strict=True)
    ]
    names = [name for dataset in datasets for name in dataset.image_filenames]
    order = torch.tensor(sorted(range(len(names)), key=names.__getitem__))
    cameras = PinholeCameras(
        torch.cat([part.cameras.viewmats for part in parts]),
        torch.cat([part.cameras.Ks for part in parts]),
        parts[0].cameras.width,
        parts[0].cameras.height,
    )
    masks = None if parts[0].masks is None else torch.cat([part.masks for part in parts])[order]
    return Views(cameras[order], torch.cat([part.images for part in parts])[order], masks)


def _check_one_size(cameras: Sequence[Cameras], data: Path) -> None:
    sizes = {
        size
        for part in cameras
        for size in zip(part.width.flatten().tolist(), part.height.flatten().tolist(), strict=True)
    }
    if len(sizes) > 1:
        found = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
        raise CaptureError(
            f"The images of {data} have several sizes ({found} pixels); training draws views of one size together: "
            "bring them to one size or leave the capture out."
        )
