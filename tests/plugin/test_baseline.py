"""ns-train's baseline against the same training written again from scratch.

Everything a run starts from (points, cameras, photographs), the order of views, the loss and its gradient, and the
optimizer with its schedule are written again here and compared one by one; then a loop over them, with one plain
``torch.optim.Adam``, must end at the trainer's parameters bit for bit. Only the renderer, and nerfstudio's dataparser,
which reads the capture, are shared.
"""

import math

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.losses import photometric_loss
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.views import PinholeCameras
from tests.captures import shared_capture
from tests.plugin.captures import method_config

LONG_RUN = 500
"""Steps over which the parts that need no renderer are compared."""


def load_split(capture, split, scale):
    outputs = (
        NerfstudioDataParserConfig(data=capture, eval_mode="interval", eval_interval=8, load_3D_points=True)
        .setup()
        .get_dataparser_outputs(split=split)
    )
    images = []
    for path in outputs.image_filenames:
        with Image.open(path) as image:
            size = (int(image.width * scale), int(image.height * scale))
            images.append(np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32) / 255)
    poses = torch.eye(4).repeat(len(images), 1, 1)
    poses[:, :3] = outputs.cameras.camera_to_worlds
    poses[:, :, 1:3] *= -1  # OpenGL to OpenCV axes
    camera = outputs.cameras
    Ks = torch.zeros(len(images), 3, 3)
    for (i, j), value in {(0, 0): camera.fx, (1, 1): camera.fy, (0, 2): camera.cx, (1, 2): camera.cy}.items():
        Ks[:, i, j] = value[:, 0] * scale
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


def farthest_point_batches(centres, views_per_step):
    """Batches of farthest views without end; a pass over all views ends before the next begins."""
    random = np.random.default_rng(0)
    left: list[int] = []
    while True:
        batch: list[int] = []
        if len(left) < views_per_step:
            batch, left = left, list(random.permutation(len(centres)))
        pool = [view for view in left if view not in batch]
        if not batch:
            batch = [pool[int(random.integers(len(pool)))]]
        while len(batch) < views_per_step:
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


def loss_of(rendered, photographs):
    """The training loss; that written again here has the same value and image gradient at every step."""
    loss = photometric_loss(rendered, photographs)
    written_again = 0.8 * (rendered - photographs).abs().mean(dim=(1, 2, 3)).sum()
    written_again = written_again + 0.2 * ssim_term(rendered, photographs)
    torch.testing.assert_close(loss, written_again, rtol=1e-5, atol=0)
    found, expected = (torch.autograd.grad(value, rendered, retain_graph=True)[0] for value in (loss, written_again))
    assert (found - expected).norm() < 5e-5 * expected.norm()
    return loss


class PlainAdam:
    """``torch.optim.Adam`` on the fields, with the rate of the means that decays to a hundredth at the horizon."""

    def __init__(self, parameters, extent, horizon):
        rates = {"means": 1.6e-4 * extent, "scales": 5e-3, "quats": 1e-3, "opacities": 5e-2, "features_dc": 2.5e-3}
        rates["features_rest"] = 2.5e-3 / 20
        groups = [{"params": [value], "lr": rates[name], "name": name} for name, value in parameters.items()]
        self.adam = torch.optim.Adam(groups, eps=1e-15)
        (self.means,) = (group for group in self.adam.param_groups if group["name"] == "means")
        self.first_rate, self.horizon = rates["means"], horizon

    def step(self, step):
        self.means["lr"] = self.first_rate * 0.01 ** min(step / self.horizon, 1.0)
        self.adam.step()


def camera_extent(cameras) -> float:
    centres = cameras.centres.double().numpy()
    return float(1.1 * np.linalg.norm(centres - centres.mean(axis=0), axis=1).max())


def config_of(capture, output, scale, views, steps, horizon):
    config = method_config(capture, output, "l2o-adam", steps=steps)
    config.pipeline.datamanager.camera_res_scale_factor = scale
    config.pipeline.datamanager.views_per_step = views
    config.optimizers["gaussians"]["optimizer"].horizon = horizon
    config.steps_per_eval_all_images = steps
    return config


def set_up(config):
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def copied_parameters(trainer) -> dict[str, torch.nn.Parameter]:
    fields = trainer.pipeline.model.gaussians.detach().items()
    return {name: torch.nn.Parameter(value.clone()) for name, value in fields}


def scene_extent_of(trainer) -> float:
    return trainer.optimizers.optimizers["gaussians"].param_groups[0]["scene_extent"]


def held_out_psnr(parameters, capture, scale) -> float:
    cameras, photographs, _ = load_split(capture, "val", scale)
    with torch.no_grad():
        rgb = render(Gaussians(**parameters), cameras, RasterSettings()).rgb.clamp(0, 1)
    return float((-10 * (rgb - photographs).square().mean(dim=(1, 2, 3)).log10()).mean())


@pytest.mark.parametrize(
    ("scale", "views_per_step", "steps", "horizon", "least_psnr"), [(0.125, 8, 60, 45, 20.0), (0.25, 3, 8, 5, 12.0)]
)
def test_a_run_on_a_real_capture_equals_the_rewritten_loop_bit_for_bit(
    tmp_path, scale, views_per_step, steps, horizon, least_psnr
):
    """Over several passes through the views, and beyond the horizon."""
    capture = shared_capture("fern")
    trainer = set_up(config_of(capture, tmp_path, scale, views_per_step, steps, horizon))
    datamanager, parameters = trainer.pipeline.datamanager, copied_parameters(trainer)
    cameras, photographs, metadata = load_split(capture, "train", scale)
    expected = start(metadata["points3D_xyz"], metadata["points3D_rgb"])
    assert expected.keys() == parameters.keys() == set(FIELDS)
    for name, value in expected.items():
        torch.testing.assert_close(parameters[name].detach(), value, rtol=1e-5, atol=1e-6, msg=name)
    views = datamanager.train_views(list(range(len(photographs))), torch.zeros(3))
    assert (views.cameras.width, views.cameras.height) == (cameras.width, cameras.height)
    torch.testing.assert_close(views.cameras.viewmats, cameras.viewmats, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(views.cameras.Ks, cameras.Ks, rtol=1e-6, atol=0)
    torch.testing.assert_close(views.images, photographs, rtol=0, atol=1e-6)
    assert scene_extent_of(trainer) == pytest.approx(camera_extent(cameras), rel=1e-6)

    trainer.train()
    adam = PlainAdam(parameters, scene_extent_of(trainer), horizon)
    for step, batch in zip(range(steps), farthest_point_batches(cameras.centres.numpy(), views_per_step), strict=False):
        for parameter in parameters.values():
            parameter.grad = None
        rgb = render(Gaussians(**parameters), views.cameras[torch.tensor(batch)], RasterSettings()).rgb
        loss_of(rgb, views.images[batch]).backward()
        adam.step(step)
    for name, value in parameters.items():
        assert trainer.pipeline.model.gauss_params[name].equal(value), name
    held_out = trainer.pipeline.get_average_eval_image_metrics()["psnr"]
    assert held_out > least_psnr
    assert held_out == pytest.approx(held_out_psnr(parameters, capture, scale), abs=1e-3)


def test_views_and_optimizer_of_a_long_run_are_those_of_the_rewritten_loop(tmp_path):
    """Every batch of 500 steps, and every parameter after each of 500 steps on random gradients."""
    capture, horizon = shared_capture("fern"), LONG_RUN - 50
    config = config_of(capture, tmp_path, 0.0625, 8, LONG_RUN, horizon)
    config.pipeline.initialization.num_points = 40
    trainer = set_up(config)
    datamanager, model = trainer.pipeline.datamanager, trainer.pipeline.model
    optimizer, parameters = trainer.optimizers.optimizers["gaussians"], copied_parameters(trainer)
    cameras, photographs, _ = load_split(capture, "train", 0.0625)
    adam = PlainAdam(parameters, scene_extent_of(trainer), horizon)
    generator = torch.Generator().manual_seed(0)
    for step, batch in zip(range(LONG_RUN), farthest_point_batches(cameras.centres.numpy(), 8), strict=False):
        (views,) = datamanager.next_train_views(step, torch.zeros(3))
        torch.testing.assert_close(views.images, photographs[batch], rtol=0, atol=1e-6)
        torch.testing.assert_close(views.cameras.viewmats, cameras.viewmats[batch], rtol=1e-5, atol=1e-6)
        for name, parameter in parameters.items():
            # Of all magnitudes, and none for Gaussians out of sight.
            gradient = torch.randn(parameter.shape, generator=generator) * 10 ** (-step % 7 - 3.0)
            gradient[step % 4 :: 4] = 0
            parameter.grad, model.gauss_params[name].grad = gradient, gradient.clone()
        adam.step(step)
        optimizer.step()
        for name, value in parameters.items():
            assert model.gauss_params[name].equal(value), f"{name} after step {step}"
