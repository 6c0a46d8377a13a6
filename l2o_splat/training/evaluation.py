"""Quality of a scene on photographs."""

from __future__ import annotations

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.metrics import mean_of_measured, psnr
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.training.errors import TrainingError
from l2o_splat.views import Views


@torch.no_grad()
def mean_psnr(gaussians: Gaussians, views: Views, raster: RasterSettings) -> float:
    """Mean PSNR (dB) over views of renders clamped to 0..1.

    Masked pixels do not count, and neither does a view in which nothing else is left.

    Raises:
        TrainingError: If nothing counts in any view.
    """
    rendered = render(gaussians, views.cameras, raster).rgb.clamp(0, 1)
    masks = [None] * len(rendered) if views.masks is None else views.masks
    pairs = zip(rendered, views.images, masks, strict=True)
    mean = mean_of_measured(psnr(image, photograph, mask) for image, photograph, mask in pairs)
    if mean is None:
        raise TrainingError(
            f"No pixel counts in any of the {len(views)} views that quality is measured on; check their masks (white "
            "counts, black does not), or hold other views out."
        )
    return mean
