"""Starts from sparse points and places that a network predicts between them."""

import json
from dataclasses import replace

import pytest
import torch

from l2o_splat.gaussians import SH_C0
from l2o_splat.initializers.joined_points import joined_points
from l2o_splat.plugin.starts import FEW_POINTS, PLACES
from l2o_splat.plugin.trainer import EFFECTIVE_NAME
from l2o_splat.scene import SceneStart
from l2o_splat.scenes.capture import write_capture
from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.weights import Weights, WeightsCard, load_weights, save_weights
from tests.plugin.captures import method_config, train
from tests.plugin.console import printed
from tests.resplat_networks import OPTIONS, initializer, rule
from tests.test_ply import make_gaussians

NUM_POINTS = 400
VIEWS = 3
"""Context views."""


def write(folder, num_points):
    options = ProceduralOptions(
        num_views=9, width=96, height=80, num_points=num_points, trajectory="walk", environment="room"
    )
    write_capture(folder, generate(1, options))
    return folder


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return write(tmp_path_factory.mktemp("few") / "capture", NUM_POINTS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of narrow random weights whose networks take the sparse points, trained with 3 context views."""
    model = initializer().model
    model.add_guide(8)
    parts = model.state_dict() | rule().network.state_dict()
    path = tmp_path_factory.mktemp("weights") / "guided"
    card = WeightsCard("resplat", {}, OPTIONS | {"context_views": VIEWS, "fit": "enlarge", "depth_range": "points"})
    save_weights(path, Weights({f"encoder.{name}": tensor for name, tensor in parts.items()}, card))
    return str(path)


def started(capture, output, weights):
    config = method_config(capture, output, "l2o-adam-tuned", steps=1)
    config.pipeline.initialization.source = "predicted"
    config.pipeline.initialization.weights = weights
    trainer = config.setup()
    trainer.setup()
    return trainer.pipeline.model.gaussians, trainer.pipeline.datamanager.train_dataparser_outputs.metadata


def test_predicted_places_join_points_that_are_few(capture, tmp_path, weights, capsys):
    gaussians, metadata = started(capture, tmp_path, weights)
    assert len(gaussians) == PLACES * VIEWS
    assert torch.equal(gaussians.means[:NUM_POINTS], metadata["points3D_xyz"])
    assert f"{PLACES * VIEWS - NUM_POINTS} predicted places join the {NUM_POINTS} sparse points" in printed(capsys)


def test_many_points_need_no_prediction(tmp_path, weights, capsys):
    gaussians, metadata = started(write(tmp_path / "capture", FEW_POINTS * VIEWS), tmp_path, weights)
    assert torch.equal(gaussians.means, metadata["points3D_xyz"])
    assert "are enough" in printed(capsys)


def test_photographs_that_the_network_cannot_compare_start_from_the_points_alone(tmp_path, weights, capsys):
    options = ProceduralOptions(num_views=9, width=40, height=30, num_points=300, trajectory="walk", environment="room")
    write_capture(tmp_path / "small", generate(1, options))
    card = replace(load_weights(weights).card, behaviour=OPTIONS | {"context_views": VIEWS, "depth_range": "points"})
    save_weights(tmp_path / "squeezing", Weights(load_weights(weights).tensors, card))
    gaussians, metadata = started(tmp_path / "small", tmp_path, str(tmp_path / "squeezing"))
    assert torch.equal(gaussians.means, metadata["points3D_xyz"])
    assert "No places are predicted" in printed(capsys)


def test_a_guided_prediction_of_resplat_gives_way_to_its_places_under_fast(capture, tmp_path, weights, capsys):
    config = method_config(capture, tmp_path, "resplat", steps=3)
    optimizer = config.optimizers["gaussians"]["optimizer"]
    optimizer.weights, optimizer.finish_with, optimizer.finish_after = weights, "adam-own-scale", 2
    config.preset = "fast"
    train(config)
    effective = json.loads((config.get_base_dir() / EFFECTIVE_NAME).read_text())
    assert effective["start"] == "predicted" and effective["rules"] == ["adam-own-scale"]
    assert "predicted places join" in printed(capsys)


def test_places_keep_their_colours_and_never_more_than_are_lacking():
    predicted = make_gaussians(50)
    xyz, rgb = torch.rand(30, 3), torch.randint(256, (30, 3), dtype=torch.uint8)
    places, colours = joined_points(xyz, rgb, SceneStart(predicted), total=40, seed=0)
    assert len(places) == 40 and torch.equal(places[:30], xyz) and torch.equal(colours[:30], rgb / 255)
    for place, colour in zip(places[30:], colours[30:], strict=True):
        row = int((predicted.means == place).all(dim=1).nonzero())
        assert torch.allclose(colour, (SH_C0 * predicted.features_dc[row] + 0.5).clamp(0, 1))
    assert len(joined_points(xyz, rgb, SceneStart(predicted), total=20, seed=0)[0]) == 30
    assert len(joined_points(xyz, rgb, SceneStart(predicted), total=1000, seed=0)[0]) == 80
