"""PSNR of a scene on photographs."""

import math

import pytest
import torch

from l2o_splat.rendering import RasterSettings, render
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.views import Views
from tests.meta.scenes import episode, small_rule


def test_it_is_the_mean_over_views_of_clamped_renders_and_ignores_masked_pixels():
    made = episode(small_rule())
    cameras, raster = made.target.cameras, RasterSettings()
    with torch.no_grad():
        rendered = render(made.gaussians, cameras, raster).rgb.clamp(0, 1)
    differences = torch.tensor([0.1, 0.01, 0.001])[:, None, None, None]
    photographs = torch.where(rendered < 0.5, rendered + differences, rendered - differences)
    assert mean_psnr(made.gaussians, Views(cameras, photographs), raster) == pytest.approx(40, abs=1e-2)
    masks = torch.ones(*photographs.shape[:3], 1)
    masks[:, :5] = 0
    spoiled = photographs.clone()
    spoiled[:, :5] = 1 - rendered[:, :5].round()
    assert mean_psnr(made.gaussians, Views(cameras, spoiled, masks), raster) == pytest.approx(40, abs=1e-2)
    assert not math.isclose(mean_psnr(made.gaussians, Views(cameras, spoiled), raster), 40, abs_tol=1)


def test_a_view_that_is_masked_as_a_whole_is_left_out():
    made = episode(small_rule())
    cameras, images = made.target.cameras, made.target.images.clone()
    masks = torch.ones(*images.shape[:3], 1)
    masks[1] = 0
    images[1] = float("nan")
    kept = [view for view in range(len(cameras)) if view != 1]
    expected = mean_psnr(made.gaussians, made.target[kept], RasterSettings())
    assert mean_psnr(made.gaussians, Views(cameras, images, masks), RasterSettings()) == pytest.approx(expected)
    with pytest.raises(TrainingError, match="No pixel counts in any of the 3 views"):
        mean_psnr(made.gaussians, Views(cameras, images, torch.zeros_like(masks)), RasterSettings())
