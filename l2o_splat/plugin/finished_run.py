"""A trained scene with its cameras and held-out views, for pages and files that are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from l2o_splat.bench.pictures import HeldOutView, shown_views
from l2o_splat.gaussians import Gaussians
from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.plugin.pipeline import L2OPipeline
from l2o_splat.plugin.saved_scenes import check_run
from l2o_splat.raster_settings import RasterSettings
from l2o_splat.views import PinholeCameras

MEASURES = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class FinishedRun:
    """What a run has left, on the CPU."""

    gaussians: Gaussians
    """World frame, unactivated."""
    cameras: PinholeCameras
    """Those of the training photographs."""
    settings: RasterSettings
    """How the scene is drawn."""
    quality: dict[str, float]
    """Mean of each of ``MEASURES`` that could be measured on the held-out photographs."""
    held_out: list[HeldOutView]
    """Some of them, spread over all."""


def open_finished_run(config: Path) -> FinishedRun:
    """Load a run from its ``config.yml`` and measure it.

    Args:
        config: Path of the file.

    Raises:
        L2OError: If config, checkpoint or capture cannot be used.
    """
    check_run(config)
    _, pipeline, _, _ = eval_setup(config, test_mode="test")
    views = len(pipeline.datamanager.eval_dataset)
    found = pipeline.get_average_eval_image_metrics() if views else {}
    return FinishedRun(
        pipeline.model.gaussians.detach().to("cpu", torch.float32),
        pinhole_cameras(pipeline.datamanager.train_dataset.cameras),
        pipeline.model.raster_settings(),
        {name: found[name] for name in MEASURES if name in found},
        _shown(pipeline, shown_views(views)),
    )


def _shown(pipeline: L2OPipeline, indices: list[int]) -> list[HeldOutView]:
    shown = []
    for index, (camera, batch) in enumerate(pipeline.datamanager.fixed_indices_eval_dataloader):
        if index in indices:
            drawn = pipeline.model.get_outputs_for_camera(camera)
            measured, images = pipeline.model.get_image_metrics_and_images(drawn, batch)
            photograph, image = images["img"].chunk(2, dim=1)
            name = pipeline.datamanager.eval_dataset.image_filenames[index].name
            shown.append(HeldOutView(name, _bytes(photograph), _bytes(image), measured.get("psnr")))
    return shown


def _bytes(image: Float[Tensor, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return (image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()
