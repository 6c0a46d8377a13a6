"""The first stage: what batches hold, that the loss goes down, and that a stopped run ends as a whole one."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from l2o_splat.initializer_training.batches import Batch, draw_batch, fixed_batch, recoloured, turned
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.data import SceneData
from l2o_splat.initializer_training.initial_stage import RASTER, InitialStage, with_median_depths
from l2o_splat.initializer_training.losses import depth_loss, rank_correlation
from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializer_training.options import InitializerTrainingOptions, Losses
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.scenes import StoredSource
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.nets.resplat.encoder import resize
from l2o_splat.scenes.capture import Points
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.evaluation import mean_psnr
from l2o_splat.training.options import Schedule
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.weights import load_weights
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def capture():
    return SOURCE.capture(0)


def stage() -> InitialStage:
    return InitialStage(new_initial_model(SHAPE, CONFIG, seed=0), Losses())


def disagreement(batch: Batch, factor: float) -> float:
    """Median difference of colours between the first context view and the target, seen through scaled depths."""
    cameras, target = batch.context.cameras, batch.target.cameras
    y, x = torch.meshgrid(torch.arange(cameras.height) + 0.5, torch.arange(cameras.width) + 0.5, indexing="ij")
    rays = torch.stack([x, y, torch.ones_like(x)], dim=2) @ torch.linalg.inv(cameras.Ks[0]).T
    viewmat, other = cameras.viewmats[0], target.viewmats[0]
    world = (rays * factor * batch.depths[0][..., None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    seen = (world @ other[:3, :3].T + other[:3, 3]) @ target.Ks[0].T
    place = seen[..., :2] / seen[..., 2:] / torch.tensor([target.width, target.height]) * 2 - 1
    inside = (seen[..., 2] > 0) & (place.abs() < 0.95).all(dim=2)
    image = batch.target.images[0].permute(2, 0, 1)[None]
    found = torch.nn.functional.grid_sample(image, place[None], align_corners=False)[0].permute(1, 2, 0)
    return float((found - batch.context.images[0]).abs().mean(dim=2)[inside].median())


@pytest.mark.parametrize("change", [None, "flip_probability", "turn_probability", "recolour_probability"])
def test_depths_of_a_batch_are_those_of_its_views(capture, change):
    """Through its exact depth a pixel shows the colour that the other view has there, in changed captures too."""
    chances = {name: float(name == change) for name in ("flip_probability", "turn_probability", "recolour_probability")}
    found = []
    for seed in range(6):
        batch = draw_batch(capture, replace(BATCH, **chances), np.random.default_rng(seed), CPU)
        assert 2 <= len(batch.context) <= 3 and len(batch.target) == 1
        found.append([disagreement(batch, factor) for factor in (1.0, 0.6, 1.6)])
    exact, nearer, farther = np.mean(found, axis=0)
    assert exact < 0.8 * nearer and exact < 0.8 * farther


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_turned_photographs_show_points_where_they_were(capture, quarters):
    views, depths = turned(capture.views, capture.depths, quarters)
    height, width = capture.depths.shape[1:]
    assert (views.cameras.width, views.cameras.height) == ((width, height) if quarters == 2 else (height, width))
    for view in (0, 3):
        (x, y), (u, v) = (
            cameras.project(capture.points.xyz)[0][view].T for cameras in (capture.views.cameras, views.cameras)
        )
        expected = {1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[quarters]
        torch.testing.assert_close(torch.stack([u, v]), torch.stack(expected), atol=0.05, rtol=1e-3)
    # The pixel in row 2 and column 5 goes with them.
    row, column = {1: (width - 6, 2), 2: (height - 3, width - 6), 3: (5, height - 3)}[quarters]
    assert torch.equal(views.images[:, row, column], capture.views.images[:, 2, 5])
    assert torch.equal(depths[:, row, column], capture.depths[:, 2, 5])


def test_points_take_the_colours_of_recoloured_photographs(capture):
    pixels = capture.views.images[0, 0]
    views, points = recoloured(capture.views, Points(torch.zeros_like(pixels), pixels), np.random.default_rng(0))
    assert torch.equal(points.rgb, views.images[0, 0]) and not torch.equal(views.images, capture.views.images)


def test_without_renders_the_depth_network_alone_is_trained(capture):
    network = stage().network
    trained = InitialStage(network, Losses(rendered=0.0))
    batch, rng = fixed_batch(capture, 3, CPU), np.random.default_rng(0)
    loss, terms = trained.loss(batch, rng)
    loss.backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, _ in network.named_parameters() if name.startswith("depth_predictor.")}
    whole = InitialStage(network, Losses()).loss(batch, rng)[1]
    assert terms.depth_error == pytest.approx(whole.depth_error, rel=1e-5)
    assert terms.image_error is None and terms.numbers().keys() == {"depth_error"}


def test_the_loss_of_one_scene_goes_down_and_its_depths_become_right(capture):
    trained, batch = stage(), fixed_batch(capture, 3, CPU)
    rng = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(trained.network.parameters(), lr=3e-3)
    before = trained.evaluate(trained.network, [batch])
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss, _ = trained.loss(batch, rng)
        loss.backward()
        assert all(parameter.grad is not None for parameter in trained.network.parameters())
        torch.nn.utils.clip_grad_norm_(trained.network.parameters(), 0.5)
        optimizer.step()
        losses.append(float(loss.detach()))
    after = trained.evaluate(trained.network, [batch])
    assert losses[-1] < 0.6 * losses[0]
    assert after["depth_log_error"] < 0.6 * before["depth_log_error"] and after["depth_rank"] > 0.8
    assert after["psnr_context"] > before["psnr_context"] + 1


def test_exact_depths_cost_least(capture):
    """The depth loss falls when the prediction comes nearer to the truth."""
    batch = fixed_batch(capture, 3, CPU)
    network = stage().network
    shown = ReSplatInitializer(network).show(batch.context, 1.0, batch.depth_range)
    with torch.no_grad():
        found = network(shown.images, shown.cameras)
    near, far = shown.cameras.near, shown.cameras.far
    low, high = (limit.log()[:, None, None, None] for limit in (near, far))
    exact = (batch.depths[:, None] * shown.frame.scale).log().clamp(low, high)
    candidates = SHAPE.num_depths
    coarse = resize(exact, tuple(found.probability.shape[2:]))
    place = ((coarse - low) / (high - low) * (candidates - 1)).round().long().clamp(max=candidates - 1)
    sharp = torch.full_like(found.probability, 1e-4).scatter(1, place, 1.0)

    def cost(weight: float) -> float:
        depth = (weight * exact + (1 - weight) * found.depth.log()).exp()
        probability = weight * sharp + (1 - weight) * found.probability
        mixed = replace(found, depth=depth, probability=probability)
        return float(depth_loss(Losses().depth, mixed, exact.exp(), shown.images, near, far))

    costs = [cost(weight) for weight in (0.0, 0.5, 1.0)]
    assert costs[0] > costs[1] > costs[2] and costs[2] < 0.5 * costs[0]


def test_flat_depths_keep_what_each_view_shows(capture):
    """Moved along its ray and scaled with its depth, a Gaussian looks the same from its own camera."""
    batch = fixed_batch(capture, 2, CPU)
    scene = ReSplatInitializer(stage().network)(batch.context, 1.0, batch.depth_range)
    flat = with_median_depths(scene)
    per_view = len(flat) // 2
    viewmat = batch.context.cameras.viewmats[0]
    depth = flat.means[:per_view] @ viewmat[2, :3] + viewmat[2, 3]
    assert depth.std() < 1e-4 * depth.mean()
    own = replace(scene.context, cameras=scene.context.cameras[:1], images=scene.context.images[:1])
    part = slice(0, per_view)
    assert abs(mean_psnr(flat[part], own, RASTER) - mean_psnr(scene.gaussians[part], own, RASTER)) < 0.5


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    a, b = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert rank_correlation(a, a.exp()) == pytest.approx(1)


TRAINING = InitializerTrainingOptions(iterations=4, batch=BATCH, averaging=0.5)


def make_trainer(folder: Path, scenes: Path, options: InitializerTrainingOptions = TRAINING) -> InitializerTrainer:
    fabric = pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    source = StoredSource(SOURCE, scenes, 3)
    validation = [fixed_batch(source.capture(0), 3, CPU)]
    schedule = Schedule(evaluate_every=2, save_every=2, workers=0)
    single = fabric.Fabric(accelerator="cpu", devices=1)
    return InitializerTrainer(single, stage(), source, validation, options, schedule, folder, {})


def test_stopped_by_sigterm_and_resumed_it_ends_bit_for_bit_the_same(tmp_path):
    scenes = tmp_path / "scenes"
    whole = make_trainer(tmp_path / "whole", scenes)
    whole.run(InitializerRecord(tmp_path / "whole", CONFIG, []))

    def stop(trainer, report):
        if trainer.iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    make_trainer(tmp_path / "parts", scenes).run(stop)
    resumed = make_trainer(tmp_path / "parts", scenes)
    seen = []
    resumed.run(lambda trainer, report: seen.append(trainer.iteration))
    assert seen == [4]
    for mine, theirs in zip(whole.average.state_dict().values(), resumed.average.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ResumeError, match="trained with other options"):
        make_trainer(tmp_path / "parts", scenes, replace(TRAINING, learning_rate=1e-4)).run(stop)
    # The record's weights are those of the average, in half precision, and say how they were trained.
    weights = load_weights(tmp_path / "whole" / "last.safetensors", "resplat")
    start = ReSplatInitializer.from_weights(weights)
    assert start.model.shape == replace(SHAPE, update=None) and start.config == CONFIG
    name = "gaussian_head.0.weight"
    assert torch.equal(start.model.state_dict()[name], whole.average.module.state_dict()[name].half().float())
    assert [line["iteration"] for line in weights.card.training["curve"]] == [2, 4]


def test_stored_captures_are_those_of_the_source(tmp_path):
    stored = StoredSource(SOURCE, tmp_path, 2)
    first, again, direct = stored.capture(1), stored.capture(3), SOURCE.capture(1)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(first.views.images, again.views.images) and torch.equal(first.depths, direct.depths)
    assert torch.equal(first.points.xyz, direct.points.xyz)
    assert (first.views.images - direct.views.images).abs().max() <= 0.5 / 255 + 1e-6


def test_a_depth_network_can_be_joined_with_the_rest_of_other_weights(tmp_path):
    """The command takes each part from the weights named for it, with the views that the depth network compares."""
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    still = InitializerTrainingOptions(iterations=1, learning_rate=1e-12, weight_decay=0.0, batch=BATCH)
    data = SceneData(captures=1, folder=tmp_path / "scenes", options=SOURCE.options, validation_captures=1)
    schedule = Schedule(evaluate_every=1, save_every=1, workers=0)
    for seed, (name, references) in enumerate({"depth": 2, "rest": 1}.items()):
        behaviour = replace(CONFIG, reference_views=references)
        training = replace(still, seed=seed)
        TrainInitializer(
            tmp_path / name, training=training, shape=SHAPE, behaviour=behaviour, data=data, schedule=schedule
        ).run()
    depth, rest = (str(tmp_path / name / "best.safetensors") for name in ("depth", "rest"))
    TrainInitializer(
        tmp_path / "joined", weights=rest, depth_weights=depth, training=still, data=data, schedule=schedule
    ).run()
    joined = load_weights(tmp_path / "joined" / "best.safetensors", "resplat")
    depth, rest = (load_weights(weights, "resplat") for weights in (depth, rest))
    for name, tensor in joined.tensors.items():
        source = depth if name.startswith("encoder.depth_predictor.") else rest
        assert torch.equal(tensor, source.tensors[name]), name
    assert ReSplatInitializer.from_weights(joined).config.reference_views == 2
    assert len(joined.card.training["before"]) == 2


def test_scenes_larger_than_what_networks_see_are_refused_before_any_work(tmp_path):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    data = SceneData(folder=tmp_path / "scenes", options=replace(SOURCE.options, sizes=((64, 288),)))
    training = TrainInitializer(tmp_path / "out", shape=SHAPE, behaviour=replace(CONFIG, longer_side=224), data=data)
    with pytest.raises(
        TrainingError, match="images of 288 pixels, .* reduce views to 224; .* --behaviour.longer-side 288"
    ):
        training.run()
    assert not (tmp_path / "scenes").exists()
