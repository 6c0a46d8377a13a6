"""The second stage: what its gradient reaches, and that it goes on from any start."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import Gaussians
from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.initial_stage import RASTER
from l2o_splat.initializer_training.losses import Losses
from l2o_splat.initializer_training.networks import new_initial_model, new_update_network
from l2o_splat.initializer_training.update_stage import UpdateStage
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.camera_gaussians import CameraGaussians
from l2o_splat.nets.resplat.cells import CellUnits, cells_of_points
from l2o_splat.nets.resplat.config import ReSplatShape
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import render
from l2o_splat.rotations import quaternion_product, quaternions_of
from l2o_splat.weights import Weights, WeightsCard
from tests.initializer_training.networks import CONFIG, SHAPE, SOURCE
from tests.resplat_networks import moved

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batch():
    return fixed_batch(SOURCE.capture(0), 3, CPU)


@pytest.fixture(scope="module")
def initializer():
    return ReSplatInitializer(new_initial_model(SHAPE, CONFIG, seed=0))


def stage(initializer, *starts, steps=(2, 2)) -> UpdateStage:
    return UpdateStage(new_update_network(SHAPE, seed=1), initializer, Losses(), starts, steps)


def test_the_gradient_reaches_the_update_alone_and_earlier_states(initializer, batch):
    trained = stage(initializer, "resplat", steps=(3, 3))
    torch.nn.init.normal_(trained.network.update_head[-1].weight, std=1e-3)
    loss, _ = trained.loss(batch, np.random.default_rng(0))
    loss.backward()
    missing = {name for name, weight in trained.network.named_parameters() if weight.grad is None}
    assert missing == set()
    assert trained.network.update_proj.weight.grad.abs().sum() > 0, "the first state got no gradient"
    assert all(parameter.grad is None for parameter in initializer.parameters())


@pytest.mark.parametrize("start", ["resplat", "points", "random"])
def test_a_few_steps_of_training_make_updates_help(initializer, batch, start):
    trained = stage(initializer, start)
    optimizer = torch.optim.AdamW(trained.network.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    before = trained.evaluate(trained.network, [batch])
    assert before[f"psnr_context_{start}_0"] == pytest.approx(before[f"psnr_context_{start}_2"]), "it moved untrained"
    for _ in range(12):
        optimizer.zero_grad()
        trained.loss(batch, rng)[0].backward()
        torch.nn.utils.clip_grad_norm_(trained.network.parameters(), 0.5)
        optimizer.step()
    after = trained.evaluate(trained.network, [batch])
    # The initial model's colours are those of the photographs already.
    least = 0.05 if start == "resplat" else 0.3
    assert after[f"psnr_context_{start}_2"] > after[f"psnr_context_{start}_0"] + least


def test_shapes_are_read_off_mini_tensors(initializer):
    tensors = initializer.model.state_dict() | new_update_network(SHAPE, 0).state_dict()
    assert ReSplatShape.of(tensors) == SHAPE
    half = {f"encoder.{name}": tensor.half() for name, tensor in tensors.items() if tensor.is_floating_point()}
    card = WeightsCard("resplat", {}, behaviour={"update_starts": "any", "gaussian_units": "cells"})
    rule = ReSplatRule.from_weights(
        Weights(half | {f"encoder.{n}": t for n, t in tensors.items() if not t.is_floating_point()}, card)
    )
    assert rule.network.shape == SHAPE and rule.network.update_proj.weight.dtype == torch.float32


def test_points_belong_to_the_nearest_camera_that_sees_them(batch):
    cameras, grid = batch.context.cameras, (8, 12)
    cell = cells_of_points(batch.points.xyz, cameras, grid)
    view = cell // 96
    local = (
        torch.einsum("vij,pj->vpi", cameras.viewmats[:, :3, :3], batch.points.xyz) + cameras.viewmats[:, None, :3, 3]
    )
    pixels = torch.einsum("vij,vpj->vpi", cameras.Ks, local)
    pixels = pixels[..., :2] / pixels[..., 2:]
    size = torch.tensor([cameras.width, cameras.height])
    seen = (local[..., 2] > 0) & ((pixels >= 0) & (pixels < size)).all(dim=2)
    assert seen.any(dim=0).sum() > 100
    for point in range(len(cell)):
        if not seen[:, point].any():
            continue
        assert seen[view[point], point]
        assert local[view[point], point].norm() <= 1.0001 * local[seen[:, point], point].norm(dim=1).min()
        column, row = (pixels[view[point], point] / 4).long().tolist()
        assert cell[point] % 96 == row * 12 + column


def test_steps_in_cells_are_the_same_at_every_scale(initializer, batch):
    """The same photographs in a world that is turned, moved and seven times larger: the same steps, from any start."""
    network = new_update_network(SHAPE, seed=1)
    torch.nn.init.normal_(network.update_head[-1].weight, std=1e-2)
    rule = ReSplatRule(network, replace(CONFIG, update_starts="any"))
    scale = 7.0
    turned, rotation, translation = moved(batch.context, scale)
    points = stage(initializer, "points").begin("points", batch, 0).gaussians
    there = Gaussians(
        scale * points.means @ rotation.T + translation,
        points.scales + torch.tensor(scale).log(),
        quaternion_product(quaternions_of(rotation), points.quats),
        points.opacities,
        points.features_dc,
        points.features_rest,
    )

    def step(gaussians, views):
        images = render(gaussians, views.cameras, RASTER).rgb
        feedback = Feedback(None, 0, 1.0, RenderedViews(views, images))
        return rule(gaussians, feedback, rule.init_state(gaussians))

    with torch.no_grad():
        (here_delta, here_state), (there_delta, there_state) = step(points, batch.context), step(there, turned)
    assert (here_state["cell"] == there_state["cell"]).float().mean() > 0.99
    expected = scale * here_delta.means @ rotation.T
    close = ((there_delta.means - expected).norm(dim=1) < 0.02 * expected.norm(dim=1) + 1e-4).float().mean()
    assert close > 0.95 and expected.norm(dim=1).mean() > 1e-3


def test_a_step_along_the_view_changes_depth_alone(batch):
    cameras, grid = batch.context.cameras, (8, 12)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(50, 1)
    points = gaussians_from_points(batch.points.xyz[:50], batch.points.rgb[:50])
    cells = cells_of_points(points.means, cameras, grid)
    units = CellUnits.of(CameraGaussians.from_gaussians(points, quats), cameras, cells, grid)
    rows = torch.zeros(50, 59)
    rows[:, 2] = 0.5
    delta = units.step(rows, quats)
    along = torch.einsum("nij,nj->ni", units.rotations, delta.means)
    assert along[:, :2].abs().max() < 1e-5 * along[:, 2].max() and (along[:, 2] > 0.45 * units.unit).all()
    assert (delta.scales == 0).all() and (delta.quats == 0).all()
