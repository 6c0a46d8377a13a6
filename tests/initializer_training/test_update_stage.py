"""The second stage: what its gradient reaches, and that it goes on from any start."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.gaussians import SH_C0, Gaussians
from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.initial_stage import RASTER
from l2o_splat.initializer_training.networks import FIRST_COLOUR_STEP, new_initial_model, new_update_network
from l2o_splat.initializer_training.options import Losses
from l2o_splat.initializer_training.update_stage import UpdateStage
from l2o_splat.initializers.points import gaussians_from_points
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.config import ReSplatShape
from l2o_splat.nets.resplat.gaussians import CameraGaussians, CellUnits, cells_in_front, cells_of_points
from l2o_splat.optim.resplat import ReSplatRule, front_error
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.rendering import render
from l2o_splat.rotations import quaternion_product, quaternions_of
from l2o_splat.scene import SceneStart
from l2o_splat.views import PinholeCameras
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


def test_an_untrained_update_that_sees_errors_in_front_corrects_colours_by_them(initializer, batch):
    """Nothing but a share of the mean error of colour goes off, in every step, whatever the latent state is."""
    shape = replace(SHAPE, update=replace(SHAPE.update, front_error=True))
    rule = ReSplatRule(new_update_network(shape, seed=1), replace(CONFIG, update_starts="any"))
    scene = initializer(batch.context, 1.0, batch.depth_range)
    gaussians, state = scene.gaussians, rule.init_state(scene)
    for step in range(2):
        with torch.no_grad():
            # The same error everywhere is the mean error of any cells.
            images = scene.context.images + torch.tensor([0.1, -0.2, 0.05])
            feedback = Feedback(None, step, 1.0, RenderedViews(scene.context, images))
            delta, state = rule(gaussians, feedback, state)
        _, front = cells_in_front(gaussians.means, scene.context.cameras, grid_of(scene.context))
        inner = front.any(dim=0) & inside_border(gaussians.means, scene.context)
        assert inner.sum() > 50
        expected = torch.tensor([-0.1, 0.2, -0.05]) * FIRST_COLOUR_STEP / SH_C0
        torch.testing.assert_close(delta.features_dc[inner], expected.expand(int(inner.sum()), 3), atol=1e-3, rtol=0)
        assert (delta.features_dc[~front.any(dim=0)].abs() < 1e-5).all()
        assert delta.means.abs().max() < 1e-6 and delta.opacities.abs().max() < 1e-6


def grid_of(views):
    return views.cameras.height // 4, views.cameras.width // 4


def inside_border(means, views):
    """Whether the stem of the features, which is zero beyond the border, sees a point's surroundings in all views."""
    cells, _ = cells_in_front(means, views.cameras, grid_of(views))
    height, width = grid_of(views)
    row, column = cells % (height * width) // width, cells % width
    return ((row > 0) & (row < height - 1) & (column > 0) & (column < width - 1)).all(dim=0)


def test_what_others_hide_is_not_in_front():
    """Two cameras face each other; of three points on a line each has the one nearest to it in front."""
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, :3, :3] = torch.diag(torch.tensor([-1.0, 1, -1]))
    viewmats[1, 2, 3] = 10.0
    Ks = torch.tensor([[16.0, 0, 16], [0, 16, 8], [0, 0, 1]]).repeat(2, 1, 1)
    cameras = PinholeCameras(viewmats, Ks, 32, 16)
    points = torch.tensor([[0.1, 0.1, 2.0], [0.2, 0.2, 4.0], [0.3, 0.3, 7.0], [0.1, 0.1, -3.0], [0.1, 0.1, 2.1]])
    cells, front = cells_in_front(points, cameras, (4, 8))
    assert front.tolist() == [[True, False, False, False, True], [False, False, True, False, False]]
    # Just right of and below the first camera's centre, and, mirrored, just left of the second one's.
    assert cells[0, 0] == 2 * 8 + 4 and cells[1, 2] == 32 + 2 * 8 + 3
    errors = torch.arange(64.0)[:, None]
    assert front_error(errors, cells, front)[:, 0].tolist() == [20.0, 0.0, 51.0, 0.0, 20.0]
    both = front_error(errors, cells, torch.ones_like(front))
    assert both[2, 0] == (cells[0, 2] + cells[1, 2]) / 2


@pytest.mark.parametrize("front", [False, True])
def test_shapes_are_read_off_mini_tensors(initializer, front):
    shape = replace(SHAPE, update=replace(SHAPE.update, front_error=front))
    assert ReSplatShape.of(initializer.model.state_dict() | new_update_network(shape, 0).state_dict()) == shape
    tensors = initializer.model.state_dict() | new_update_network(SHAPE, 0).state_dict()
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
    pixels, depth = cameras.project(batch.points.xyz)
    seen = cameras.inside(pixels, depth)
    distance = (batch.points.xyz - cameras.centres[:, None]).norm(dim=2)
    assert seen.any(dim=0).sum() > 100
    for point in range(len(cell)):
        if not seen[:, point].any():
            continue
        assert seen[view[point], point]
        assert distance[view[point], point] <= 1.0001 * distance[seen[:, point], point].min()
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
        return rule(gaussians, feedback, rule.init_state(SceneStart(gaussians)))

    with torch.no_grad():
        (here_delta, here_state), (there_delta, there_state) = step(points, batch.context), step(there, turned)
    assert (here_state["cell"] == there_state["cell"]).float().mean() > 0.99
    expected = scale * here_delta.means @ rotation.T
    close = ((there_delta.means - expected).norm(dim=1) < 0.02 * expected.norm(dim=1) + 1e-4).float().mean()
    assert close > 0.95 and expected.norm(dim=1).mean() > 1e-3


def test_late_steps_are_shorter_where_the_weights_say_so(initializer, batch):
    network = new_update_network(SHAPE, seed=1)
    torch.nn.init.normal_(network.update_head[-1].weight, std=1e-2)
    points = gaussians_from_points(batch.points.xyz, batch.points.rgb)
    images = render(points, batch.context.cameras, RASTER).rgb

    def step(decay: float, number: int) -> Gaussians:
        rule = ReSplatRule(network, replace(CONFIG, update_starts="any", step_decay=decay))
        feedback = Feedback(None, number, 1.0, RenderedViews(batch.context, images))
        with torch.no_grad():
            return rule(points, feedback, rule.init_state(SceneStart(points)))[0]

    full = step(1.0, 2)
    assert full.means.abs().max() > 0
    for share, shorter in ((1.0, step(0.5, 0)), (0.25, step(0.5, 2))):
        for name, change in shorter.items():
            torch.testing.assert_close(change, share * getattr(full, name), msg=name)
    with pytest.raises(ValueError, match="step_decay is 0.0; a number above 0"):
        replace(CONFIG, step_decay=0.0)


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
