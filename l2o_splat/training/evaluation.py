"""Quality of a scene on photographs."""

from __future__ import annotations

import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.metrics import psnr
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import Views


@torch.no_grad()
def mean_psnr(gaussians: Gaussians, views: Views, raster: RasterSettings) -> float:
    """Mean PSNR (dB) over views of renders clamped to 0..1; masked pixels do not count."""
    rendered = render(gaussians, views.cameras, raster).rgb.clamp(0, 1)
    masks = [None] * len(rendered) if views.masks is None else views.masks
    pairs = zip(rendered, views.images, masks, strict=True)
    return sum(psnr(image, photograph, mask) for image, photograph, mask in pairs) / len(rendered)
