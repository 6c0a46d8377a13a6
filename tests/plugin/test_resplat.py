"""ReSplat through nerfstudio's own trainer, with narrow random networks."""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from nerfstudio.plugins.registry import discover_methods
from nerfstudio.scripts.exporter import ExportGaussianSplat
from nerfstudio.utils.eval_utils import eval_setup
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerElement
from PIL import Image

from l2o_splat.gaussians import FIELDS
from l2o_splat.initializers.context_views import choose_context, choose_evenly, depth_range
from l2o_splat.initializers.resplat import ReSplatInitializer
from l2o_splat.metrics import psnr
from l2o_splat.nets.gain_network import GainNetwork
from l2o_splat.nets.gain_shape import GainNetworkShape
from l2o_splat.nets.learn2splat_network import Learn2SplatNetwork, Learn2SplatNetworkShape
from l2o_splat.optim.gain import GainRule
from l2o_splat.optim.joint_optimizer import JointOptimizer
from l2o_splat.optim.learn2splat import Learn2SplatRule
from l2o_splat.optim.resplat import ReSplatRule
from l2o_splat.optim.rule import Feedback, RenderedViews
from l2o_splat.plugin.photographs import pinhole_cameras
from l2o_splat.plugin.run_plan import resolve
from l2o_splat.plugin.trainer import EFFECTIVE_NAME
from l2o_splat.ply import read_ply
from l2o_splat.rendering import RasterSettings, render
from l2o_splat.scene import SceneKnowledge
from l2o_splat.scenes.capture import write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.plugin.captures import (
    HEIGHT,
    WIDTH,
    edit_transforms,
    last_checkpoint,
    look_at_origin,
    method_config,
    train,
    write_tiny_capture,
)
from tests.plugin.console import printed, refuse
from tests.resplat_networks import NARROW, OPTIONS, initializer, rule

RASTER = {"rasterize_mode": "antialiased", "eps2d": 0.1, "image_rules": "1.5"}
PER_VIEW = 256
"""Gaussians per context view: images of the capture are enlarged to 64 x 64."""


@pytest.fixture(scope="module")
def tensors():
    parts = initializer().model.state_dict() | rule().network.state_dict()
    return {f"encoder.{name}": tensor for name, tensor in parts.items()}


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
    """Path of weights that were trained with 3 context views."""
    path = tmp_path_factory.mktemp("weights") / "narrow"
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge"}, dict(RASTER))
    save_weights(path, Weights(tensors, card))
    return str(path)


def resplat_config(capture, output, weights, steps=4, **options):
    config = method_config(capture, output, "resplat", steps)
    optimizer, context = config.optimizers["gaussians"]["optimizer"], config.pipeline.initialization.context
    optimizer.weights = weights
    for name, value in options.items():
        setattr(context if hasattr(context, name) else optimizer, name, value)
    return config


@torch.no_grad()
def by_hand(weights, datamanager, steps):
    """The scene that the library makes of the same photographs, without nerfstudio's trainer."""
    loaded = load_weights(weights)
    outputs = datamanager.train_dataparser_outputs
    scale = outputs.dataparser_scale
    indices = choose_context(outputs.cameras.camera_to_worlds[:, :3, 3], 3)
    scene = ReSplatInitializer.from_weights(loaded)(datamanager.train_views(indices, torch.zeros(3)), scale)
    update = ReSplatRule.from_weights(loaded).bind(SceneKnowledge(scene.context.cameras.centres, scale))
    gaussians, state = scene.gaussians, update.init_state(scene)
    for step in range(steps):
        images = render(gaussians, scene.context.cameras, RasterSettings(**RASTER)).rgb
        delta, state = update(gaussians, Feedback(None, step, 1.0, RenderedViews(scene.context, images)), state)
        gaussians = gaussians.zip_map(torch.add, delta)
    return gaussians


def test_the_method_takes_as_many_steps_as_its_weights_are_made_for(tensors, tmp_path):
    config = discover_methods()[0]["resplat"]
    assert config.pipeline.initialization.source == "resplat"
    assert resolve(config).num_steps == 4
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge", "iterations": 2}, dict(RASTER))
    save_weights(tmp_path / "two", Weights(tensors, card))
    two = copy.deepcopy(config)
    two.optimizers["gaussians"]["optimizer"].weights = str(tmp_path / "two")
    assert resolve(two).num_steps == 2 and two.max_num_iterations is None
    two.max_num_iterations = 3
    assert resolve(two).num_steps == 3


def test_training_is_the_initial_model_and_its_updates(tiny_capture, tmp_path, weights, capsys):
    trainer = train(resplat_config(tiny_capture, tmp_path / "out", weights))
    model, datamanager = trainer.pipeline.model, trainer.pipeline.datamanager
    assert datamanager.train_dataparser_outputs.dataparser_scale != 1, "units and frame are not tested"
    expected = by_hand(weights, datamanager, 4)
    assert len(expected) == 3 * PER_VIEW
    for name in FIELDS:
        assert getattr(model.gaussians, name).detach().equal(getattr(expected, name)), name
    assert not by_hand(weights, datamanager, 3).means.equal(expected.means)
    text = printed(capsys)
    assert "ReSplat starts from 3 of 7 training views, and its weights were trained with 3: 001.png," in text
    assert "The initial model took" in text and "for 3 views of 64 x 64 pixels" in text
    assert re.search(r"An update takes [\d.]+ s for 768 Gaussians", text)


def test_nothing_is_back_propagated(tiny_capture, tmp_path, weights):
    model = train(resplat_config(tiny_capture, tmp_path / "out", weights, steps=1)).pipeline.model
    with_gradient = {name for name, tensor in model.gauss_params.items() if tensor.grad is not None}
    assert with_gradient == {"means"} and not model.means.grad.any()


def test_resuming_equals_an_uninterrupted_run_bit_for_bit(tiny_capture, tmp_path, weights):
    whole = resplat_config(tiny_capture, tmp_path / "whole", weights, steps=4)
    train(whole)
    first = resplat_config(tiny_capture, tmp_path / "first", weights, steps=3)
    train(first)
    second = resplat_config(tiny_capture, tmp_path / "second", weights, steps=1)
    second.load_dir = first.get_checkpoint_dir()
    train(second)
    uninterrupted, resumed = (torch.load(last_checkpoint(run), weights_only=True) for run in (whole, second))
    for name in FIELDS:
        key = f"_model.gauss_params.{name}"
        assert resumed["pipeline"][key].equal(uninterrupted["pipeline"][key]), name
    state, expected = (
        saved["optimizers"]["gaussians"]["state"][0]["per_gaussian"] for saved in (resumed, uninterrupted)
    )
    assert state.keys() == expected.keys() == {"latent", "cell"}
    assert all(state[name].equal(expected[name]) for name in state)


def test_evaluation_viewer_and_export_need_only_the_checkpoint(tiny_capture, tmp_path, weights):
    config = resplat_config(tiny_capture, tmp_path / "out", weights, steps=2)
    trainer = train(config)
    parse_object(trainer.pipeline, ViewerElement, "pipeline")
    camera, _ = trainer.pipeline.datamanager.fixed_indices_eval_dataloader[0]
    evaluated = trainer.pipeline.model.get_outputs_for_camera(camera)["rgb"]
    # The weights may be gone.
    text = (config.get_base_dir() / "config.yml").read_text()
    (config.get_base_dir() / "config.yml").write_text(text.replace(weights, "gone"))
    assert "gone" in (config.get_base_dir() / "config.yml").read_text()
    _, pipeline, _, _ = eval_setup(config.get_base_dir() / "config.yml")
    assert pipeline.model.get_outputs_for_camera(camera)["rgb"].equal(evaluated)
    settings = pipeline.model.raster_settings()
    assert settings == RasterSettings(**RASTER)
    ExportGaussianSplat(load_config=config.get_base_dir() / "config.yml", output_dir=tmp_path / "ply").main()
    scene = read_ply(tmp_path / "ply/splat.ply")
    redrawn = render(scene, pinhole_cameras(camera), settings).rgb[0].clamp(0, 1)
    assert psnr(redrawn, evaluated) > 60


def test_adam_finishes_with_gradients(tiny_capture, tmp_path, weights):
    finish = {"finish_with": "adam", "finish_after": 2}
    whole = resplat_config(tiny_capture, tmp_path / "whole", weights, steps=5, **finish)
    trainer = train(whole)
    model = trainer.pipeline.model
    assert all(tensor.grad.any() for tensor in model.gauss_params.values())
    learned = by_hand(weights, trainer.pipeline.datamanager, 2)
    # Three steps of Adam at a rate for colours of 0.0025.
    moved = (model.features_dc.detach() - learned.features_dc).abs()
    assert 0 < moved.max() < 3.1 * 0.0025
    first = resplat_config(tiny_capture, tmp_path / "first", weights, steps=3, **finish)
    train(first)
    second = resplat_config(tiny_capture, tmp_path / "second", weights, steps=2, **finish)
    second.load_dir = first.get_checkpoint_dir()
    assert train(second).pipeline.model.gaussians.pack().equal(model.gaussians.pack())


def test_learn2splat_finishes_with_weights_of_its_own(tiny_capture, tmp_path, weights):
    options = {"finish_with": "learn2splat", "finish_after": 1, "finish_weights": "random:0"}
    trainer = train(resplat_config(tiny_capture, tmp_path / "out", weights, steps=2, **options))
    optimizer = trainer.optimizers.optimizers["gaussians"]
    assert optimizer.inner_step == 2 and "learn2splat weights" in optimizer.rule.fingerprint
    assert {name.split(".")[0] for name in optimizer.rule_state} == {"second"}


def test_other_rules_start_from_the_same_scene(tiny_capture, tmp_path, weights):
    config = method_config(tiny_capture, tmp_path / "out", "learn2splat", steps=1)
    config.pipeline.initialization.source = "resplat"
    config.pipeline.initialization.weights = weights
    network = Learn2SplatNetwork(Learn2SplatNetworkShape(feature_width=NARROW.width)).reset_to_adam(0)
    card = WeightsCard("learn2splat", {})
    save_weights(tmp_path / "l2s", Weights(network.plain_tensors(), card))
    config.optimizers["gaussians"]["optimizer"].weights = str(tmp_path / "l2s")
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    model = trainer.pipeline.model
    assert model.num_points == 3 * PER_VIEW and model.raster_settings() == RasterSettings(**RASTER)
    start = trainer.pipeline._start
    assert start.features.shape == (3 * PER_VIEW, NARROW.width)
    seeded = Learn2SplatRule.from_weights(load_weights(tmp_path / "l2s"))
    assert seeded.init_state(start)["latent"].equal(seeded.network.latent_from_features(start.features))
    trainer.train()
    by_hand = JointOptimizer(model.gauss_params, seeded)
    by_hand.bind(SceneKnowledge(torch.zeros(1, 3)), start)
    assert by_hand._start.features is start.features
    # Weights with a projection of another width, or without any, start without features.
    for other in (
        Learn2SplatRule(Learn2SplatNetwork(Learn2SplatNetworkShape())),
        GainRule(GainNetwork(GainNetworkShape())),
    ):
        assert other.needs.select(start).features is None


@pytest.mark.parametrize("source", ["resplat", "auto", "random"])
def test_the_weights_of_the_package_go_on_from_every_start(tiny_capture, tmp_path, source):
    """Nothing is named: neither weights nor a range of depths."""
    config = method_config(tiny_capture, tmp_path / "out", "resplat", steps=2)
    config.pipeline.initialization.source = source
    config.pipeline.initialization.num_points = 300 if source == "random" else None
    trainer = train(config)
    optimizer, model = trainer.optimizers.optimizers["gaussians"], trainer.pipeline.model
    assert optimizer.inner_step == 2 and not model.gaussians.count_non_finite()
    cells = optimizer.rule_state["cell"]
    assert (cells >= 0).all() and len(cells) == model.num_points
    assert cells.equal(torch.arange(len(cells))) == (source == "resplat")


def test_windows_take_more_views_than_the_weights_were_trained_with(tiny_capture, tmp_path, weights):
    config = resplat_config(tiny_capture, tmp_path / "out", weights, steps=1, num_views=7, views_at_once=3)
    assert train(config).pipeline.model.num_points == 7 * PER_VIEW
    refuse(
        resplat_config(tiny_capture, tmp_path / "refused", weights, num_views=7),
        "7 context views at once are more than 2 times the 3 .*views-at-once 3, or at most 6 views",
    )


def test_too_many_views_for_weights_of_eight(tmp_path, weights):
    capture = write_tiny_capture(tmp_path / "capture", num_views=38)
    (tmp_path / "eight.safetensors").symlink_to(f"{weights}.safetensors")
    card = json.loads(Path(f"{weights}.json").read_text())
    card["behaviour"]["context_views"] = 8
    (tmp_path / "eight.json").write_text(json.dumps(card))
    config = resplat_config(capture, tmp_path / "out", str(tmp_path / "eight"), num_views=33)
    refuse(config, "33 context views at once are more than 2 times the 8 .* at most 16 views")


def test_views_can_be_chosen_evenly_and_depths_by_points(tiny_capture, tmp_path, weights, capsys):
    options = {"choice": "uniform", "depth_range": "points", "num_views": 4}
    pipeline = train(resplat_config(tiny_capture, tmp_path / "out", weights, steps=1, **options)).pipeline
    text = printed(capsys)
    assert "4 of 7 training views, and its weights were trained with 3: 001.png, 003.png, 005.png, 007.png." in text
    views = pipeline.datamanager.train_views(choose_evenly(7, 4), torch.zeros(3))
    near, far = depth_range(pipeline.datamanager.train_dataparser_outputs.metadata["points3D_xyz"], views.cameras)
    assert f"Depths between {near.min():.3g} and {far.max():.3g} scene units" in text
    edit_transforms(tiny_capture, lambda meta: meta.pop("ply_file_path"))
    config = resplat_config(tiny_capture, tmp_path / "refused", weights, depth_range="points")
    refuse(config, "no structure-from-motion points, from which the range of depths comes")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weights": "random:0"}, "are of learn2splat; resplat weights are needed here"),
        ({"num_views": 1}, "1 context view was asked for; .* at least 2"),
        ({"num_views": 8}, "8 context views were asked for, and the capture has 7 training views"),
        ({"fit": "squeeze"}, "have 48 x 36 pixels .* need at least 64 x 64: use larger images, or 'enlarge'"),
        ({"finish_weights": "random:0"}, "finish-weights names random:0, which only learn2splat after resplat uses"),
        ({"finish_with": "adam"}, "needs both"),
    ],
)
def test_options_that_do_not_go_together(tiny_capture, tmp_path, weights, options, expected):
    refuse(resplat_config(tiny_capture, tmp_path / "out", **{"weights": weights} | options), expected)


def test_starts_and_rules_that_do_not_go_together(tiny_capture, tmp_path, weights):
    config = resplat_config(tiny_capture, tmp_path / "out", weights)
    config.pipeline.initialization.source = "diff3r"
    refuse(config, "resplat updates scenes of its own initial model or of points, and .*source is diff3r")
    config.pipeline.initialization.source = "auto"
    refuse(config, "was trained on scenes of its own initial model only")
    config.optimizers["gaussians"]["optimizer"].rule = "adam"
    refuse(config, "no rule of this run .adam. has weights")
    config.optimizers["gaussians"]["optimizer"].weights = None
    config.pipeline.initialization.weights = weights
    refuse(config, "initialization.weights names .*source is auto, which needs none")
    config = resplat_config(tiny_capture, tmp_path / "out", weights)
    config.pipeline.initialization.num_points = 100
    refuse(config, "num-points is 100 and pad False, but ReSplat makes a fixed number")
    config = resplat_config(tiny_capture, tmp_path / "out", weights)
    config.pipeline.model.sh_degree = 2
    refuse(config, "The Gaussians have SH degree 3, the model 2")


def test_weights_of_another_layout(tiny_capture, tmp_path, tensors):
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": 3, "fit": "enlarge"}, dict(RASTER))
    no_update = {name: tensor for name, tensor in tensors.items() if not name.startswith("encoder.update_")}
    save_weights(tmp_path / "initial", Weights(no_update, card))
    refuse(
        resplat_config(tiny_capture, tmp_path / "out", str(tmp_path / "initial")), "no update network.* another rule"
    )
    depth = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.depth_predictor.depth_head")}
    save_weights(tmp_path / "depth", Weights(depth, card))
    refuse(resplat_config(tiny_capture, tmp_path / "out", str(tmp_path / "depth")), "of the depth network alone")
    other = {name: tensor for name, tensor in tensors.items() if ".pretrained.blocks." not in name}
    save_weights(tmp_path / "other", Weights(other, card))
    refuse(
        resplat_config(tiny_capture, tmp_path / "out", str(tmp_path / "other")),
        r"'depth_predictor.pretrained.blocks.0.*' from .* has shape none \(it is missing\)",
    )


def test_views_of_different_sizes(tiny_capture, tmp_path, weights):
    Image.new("RGB", (WIDTH, HEIGHT + 4)).save(tiny_capture / "images/003.png")

    def own_intrinsics(meta):
        for frame in meta["frames"]:
            frame |= {key: meta[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
        for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
            meta.pop(key)
        meta["frames"][3]["h"] = HEIGHT + 4

    edit_transforms(tiny_capture, own_intrinsics)
    config = resplat_config(tiny_capture, tmp_path / "out", weights)
    refuse(config, "training views have 2 sizes \\(6 of 48 x 36, 1 of 48 x 40 pixels\\)")


def test_one_training_view(tmp_path, weights):
    capture = write_tiny_capture(tmp_path / "capture", num_views=2)
    refuse(resplat_config(capture, tmp_path / "out", weights), "only one training view")


def test_cameras_that_look_away_from_each_other(tiny_capture, tmp_path, weights):
    def turn_around(meta):
        for index, frame in enumerate(meta["frames"]):
            # On a circle, looking outwards, each in a direction of its own.
            angle = 2 * math.pi * index / 9
            pose = look_at_origin([3 * math.cos(angle), 3 * math.sin(angle), 0.3])
            pose[:3, [0, 2]] *= -1
            frame["transform_matrix"] = pose.tolist()

    edit_transforms(tiny_capture, turn_around)
    refuse(
        resplat_config(tiny_capture, tmp_path / "out", weights),
        "3 of 3 context views look away from all others \\(00.\\.png is the first\\)",
    )


@pytest.fixture(scope="module")
def textured_capture(tmp_path_factory):
    """A capture whose points views recognise by their colours."""
    options = ProceduralOptions(num_views=9, width=96, height=80, num_points=800, trajectory="walk", environment="room")
    folder = tmp_path_factory.mktemp("textured") / "capture"
    write_capture(folder, generate(1, options))
    return folder


def guarded_config(capture, output, weights, steps):
    config = resplat_config(capture, output, weights, steps, finish_with="adam-own-scale", finish_after=2)
    config.preset = "fast"
    return config


def test_a_prediction_that_points_contradict_is_given_up_for_them(textured_capture, tmp_path, weights, capsys):
    """A random network knows no depths: the run is that of tuned Adam from the points, and resumes as such."""
    whole = guarded_config(textured_capture, tmp_path / "whole", weights, steps=5)
    trainer = train(whole)
    told = r"differ from those of the sparse points by [\d.]+ % in the median.*from the points"
    assert re.search(told, printed(capsys))
    tuned = method_config(textured_capture, tmp_path / "tuned", "l2o-adam-tuned", steps=5)
    tuned.preset = "fast"
    expected = train(tuned).pipeline.model.gaussians.pack()
    assert trainer.pipeline.model.gaussians.pack().equal(expected)
    effective = json.loads((whole.get_base_dir() / EFFECTIVE_NAME).read_text())
    assert effective["start"] == "sfm" and effective["rules"] == ["adam-own-scale"]
    first = guarded_config(textured_capture, tmp_path / "first", weights, steps=3)
    train(first)
    second = guarded_config(textured_capture, tmp_path / "second", weights, steps=2)
    second.load_dir = first.get_checkpoint_dir()
    capsys.readouterr()
    assert train(second).pipeline.model.gaussians.pack().equal(expected)
    assert "ReSplat starts from" not in printed(capsys)


def test_other_presets_keep_the_prediction(textured_capture, tmp_path, weights):
    config = guarded_config(textured_capture, tmp_path / "out", weights, steps=3)
    config.preset = "paper"
    optimizer = train(config).optimizers.optimizers["gaussians"]
    assert "resplat" in optimizer.rule.fingerprint
