"""Mean quality over views, as far as their pixels count."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torchvision.utils import save_image

from l2o_splat.plugin.model import L2OModel


def mean_quality(
    model: L2OModel,
    views: Iterable[tuple[Cameras, dict]],
    prefix: str,
    folder: Path | None = None,
    with_deviations: bool = False,
) -> dict[str, float]:
    """Mean of every measure over the views that have it, under nerfstudio's names; prints which have too few pixels.

    A view that is masked as a whole has no quality, and one without a whole SSIM window no SSIM. What no view has is
    left out, and so is the standard deviation of a single view.

    Args:
        model: Draws the views.
        views: Cameras and photographs in nerfstudio's form.
        prefix: Of the names of saved images.
        folder: Where images are saved; None saves none.
        with_deviations: Whether to add standard deviations, under ``NAME_std``.
    """
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    measured: list[dict[str, float]] = []
    for camera, batch in views:
        begin = time.time()
        outputs = model.get_outputs_for_camera(camera=camera)
        metrics, images = model.get_image_metrics_and_images(outputs, batch)
        _save(images, folder, prefix, len(measured))
        frames_per_second = 1 / (time.time() - begin)
        num_rays = int(camera.height) * int(camera.width)
        measured.append(metrics | {"num_rays_per_sec": num_rays * frames_per_second, "fps": frames_per_second})
    _report_what_is_left_out(measured)
    means: dict[str, float] = {}
    for name in dict.fromkeys(name for metrics in measured for name in metrics):
        values = torch.tensor([metrics[name] for metrics in measured if name in metrics])
        if with_deviations and len(values) > 1:
            deviation, mean = torch.std_mean(values)
            means |= {name: float(mean), f"{name}_std": float(deviation)}
        else:
            means[name] = float(values.mean())
    return means


def _save(images: dict[str, Tensor], folder: Path | None, prefix: str, number: int) -> None:
    if folder is None:
        return
    for name, image in images.items():
        save_image(image.permute(2, 0, 1).cpu(), folder / f"{prefix}_{name}_{number:04d}.png")


def _report_what_is_left_out(measured: list[dict[str, float]]) -> None:
    for name, why in (("psnr", "every pixel is masked"), ("ssim", "every SSIM window touches a masked pixel")):
        missing = sum(name not in metrics for metrics in measured)
        if missing:
            left = "no mean is reported" if missing == len(measured) else "these views are left out of the mean"
            CONSOLE.log(
                f"[bold yellow]{name.upper()}: in {missing} of {len(measured)} views {why}, so {left}; in masks white "
                "counts, black does not."
            )
