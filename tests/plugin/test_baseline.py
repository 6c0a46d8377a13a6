"""ns-train's baseline against the same training written again from scratch.

Only the renderer (and nerfstudio's dataparser, which reads the capture) is shared: the start, the order of
views, the loss and the optimizer loop are written again here, with one plain ``torch.optim.Adam``.
"""

import math

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from l2o_splat.gaussians import Gaussians
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras
from tests.captures import shared_capture
from tests.plugin.captures import method_config, train

STEPS, SCALE, VIEWS = 500, 0.25, 8


def load_split(capture, split):
    outputs = (
        NerfstudioDataParserConfig(data=capture, eval_mode="interval", eval_interval=8, load_3D_points=True)
        .setup()
        .get_dataparser_outputs(split=split)
    )
    images = []
    for path in outputs.image_filenames:
        with Image.open(path) as image:
            size = (int(image.width * SCALE), int(image.height * SCALE))
            images.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255)
    poses = torch.eye(4).repeat(len(images), 1, 1)
    poses[:, :3] = outputs.cameras.camera_to_worlds
    poses[:, :, 1:3] *= -1  # OpenGL to OpenCV axes
    camera = outputs.cameras
    Ks = torch.zeros(len(images), 3, 3)
    for (i, j), value in {(0, 0): camera.fx, (1, 1): camera.fy, (0, 2): camera.cx, (1, 2): camera.cy}.items():
        Ks[:, i, j] = value[:, 0] * SCALE
    Ks[:, 2, 2] = 1
    cameras = PinholeCameras(torch.linalg.inv(poses), Ks, images[0].shape[1], images[0].shape[0])
    return cameras, torch.from_numpy(np.stack(images)), outputs.metadata


def start(points, colours) -> dict[str, torch.Tensor]:
    distances = torch.cdist(points.double(), points.double()).topk(4, largest=False).values[:, 1:]
    spacing = distances.square().mean(dim=1).sqrt().float()
    n = len(points)
    return {
        "means": points.clone(),
        "scales": spacing.log()[:, None].repeat(1, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        "opacities": torch.full((n, 1), math.log(0.1 / 0.9)),
        "features_dc": (colours.float() / 255 - 0.5) * math.sqrt(4 * math.pi),
        "features_rest": torch.zeros(n, 15, 3),
    }


def farthest_point_batches(centres, steps):
    """Batches of farthest views; a pass over all views ends before the next begins."""
    random = np.random.default_rng(0)
    left: list[int] = []
    for _ in range(steps):
        batch: list[int] = []
        if len(left) < VIEWS:
            batch, left = left, list(random.permutation(len(centres)))
        pool = [view for view in left if view not in batch]
        if not batch:
            batch = [pool[int(random.integers(len(pool)))]]
        while len(batch) < VIEWS:
            gaps = [
                min(np.linalg.norm(centres[view] - centres[other]) for other in batch) if view not in batch else -1
                for view in pool
            ]
            batch.append(pool[int(np.argmax(gaps))])
        left = [view for view in left if view not in set(batch) & set(pool)]
        yield batch


def window_matrix(size: int) -> torch.Tensor:
    """Matrix that weighs each run of 11 of ``size`` numbers with the Gaussian window."""
    offsets = torch.arange(size)[None] - torch.arange(size - 10)[:, None] - 5
    weights = torch.exp(-offsets.float().square() / (2 * 1.5**2)) * (offsets.abs() <= 5)
    return weights / weights.sum(dim=1, keepdim=True)


def ssim_term(rendered, photographs):
    down, across = window_matrix(rendered.shape[1]), window_matrix(rendered.shape[2]).T

    def blur(x):
        return down @ x @ across

    x, y = rendered.permute(0, 3, 1, 2), photographs.permute(0, 3, 1, 2)
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y, cov = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2, blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return (1 - similarity).reshape(len(rendered), -1).mean(dim=1).sum()


def train_again(capture) -> float:
    cameras, photographs, metadata = load_split(capture, "train")
    parameters = {
        name: torch.nn.Parameter(value)
        for name, value in start(metadata["points3D_xyz"], metadata["points3D_rgb"]).items()
    }
    centres = torch.linalg.inv(cameras.viewmats)[:, :3, 3].numpy().astype(np.float64)
    extent = 1.1 * np.linalg.norm(centres - centres.mean(axis=0), axis=1).max()
    rates = {"means": 1.6e-4 * extent, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "features_dc": 2.5e-3}
    rates["features_rest"] = 2.5e-3 / 20
    optimizer = torch.optim.Adam(
        [{"params": [value], "lr": rates[name]} for name, value in parameters.items()], eps=1e-15
    )
    for step, views in enumerate(farthest_point_batches(centres, STEPS)):
        optimizer.param_groups[0]["lr"] = rates["means"] * 0.01 ** (step / STEPS)
        rgb = render(Gaussians(**parameters), cameras[torch.tensor(views)], RasterSettings()).rgb
        truth = photographs[views]
        l1 = (rgb - truth).abs().mean(dim=(1, 2, 3)).sum()
        optimizer.zero_grad()
        (0.8 * l1 + 0.2 * ssim_term(rgb, truth)).backward()
        optimizer.step()
    cameras, photographs, _ = load_split(capture, "val")
    with torch.no_grad():
        rgb = render(Gaussians(**parameters), cameras, RasterSettings()).rgb.clamp(0, 1)
    return float((-10 * (rgb - photographs).square().mean(dim=(1, 2, 3)).log10()).mean())


def test_500_steps_on_a_real_capture_match_the_rewritten_loop(tmp_path):
    capture = shared_capture("fern")
    config = method_config(capture, tmp_path, "l2o-adam", steps=STEPS)
    config.pipeline.datamanager.camera_res_scale_factor = SCALE
    config.pipeline.datamanager.views_per_step = VIEWS
    config.optimizers["gaussians"]["optimizer"].horizon = STEPS
    config.steps_per_eval_all_images = STEPS
    trainer = train(config)
    held_out = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    assert held_out > 20
    assert held_out == pytest.approx(train_again(capture), abs=0.05)
