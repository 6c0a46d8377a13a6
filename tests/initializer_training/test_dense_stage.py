"""The stage that trains the head of the dense start."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.initializer_training.batches import fixed_batch
from l2o_splat.initializer_training.command import TrainInitializer
from l2o_splat.initializer_training.data import SceneData, SceneOptions
from l2o_splat.initializer_training.dense_stage import DenseStage
from l2o_splat.initializer_training.options import InitializerTrainingOptions, Losses, RefinementOptions
from l2o_splat.initializer_training.scenes import DepthSource
from l2o_splat.initializers.dense import DenseHead
from l2o_splat.scenes.capture import Points
from l2o_splat.training.errors import TrainingError, UnusableCaptureError
from l2o_splat.training.options import Schedule
from l2o_splat.weights import load_weights
from tests.initializer_training.networks import BATCH

SCENES = SceneOptions(sizes=((64, 96),), portrait_share=0.0, num_views=(6, 6), num_points=(800, 800))

REFINEMENT = RefinementOptions(steps=(6, 6), rates="own-scale", first_share=0.2)


@pytest.fixture(scope="module")
def batch():
    return fixed_batch(DepthSource(0, SCENES).capture(0), 4, torch.device("cpu"), range_of_points=False)


def test_a_few_steps_of_training_make_better_images_before_and_after_the_refinement(batch):
    torch.manual_seed(0)
    stage = DenseStage(DenseHead(), Losses(), REFINEMENT)
    before = stage.evaluate(stage.network, [batch])
    assert before["psnr_0"] == pytest.approx(before["psnr_0_untrained"], abs=1e-3)
    optimizer = torch.optim.Adam(stage.network.parameters(), lr=5e-3)
    for _ in range(25):
        optimizer.zero_grad()
        stage.loss(batch, np.random.default_rng(0))[0].backward()
        assert all(parameter.grad is not None for parameter in stage.network.parameters())
        torch.nn.utils.clip_grad_norm_(stage.network.parameters(), 0.5)
        optimizer.step()
    after = stage.evaluate(stage.network, [batch])
    assert after["psnr_0"] > before["psnr_0"] + 0.3 and after["psnr_6"] > before["psnr_6"] + 0.1


def test_a_scene_whose_views_agree_on_nothing_is_left_out(batch):
    few = replace(batch, points=Points(batch.points.xyz[:3], batch.points.rgb[:3]))
    with pytest.raises(UnusableCaptureError, match="3 points"):
        DenseStage(DenseHead(), Losses(), REFINEMENT).loss(few, np.random.default_rng(0))


@pytest.mark.parametrize("other", [{"through_optimization": True}, {"preset": "paper-diff3r"}])
def test_options_of_other_trainings_are_refused(tmp_path, other):
    with pytest.raises(TrainingError, match="head of this package"):
        TrainInitializer(out=tmp_path, stage="dense", **other).run()


def test_the_command_trains_a_head_that_loads_and_goes_on(tmp_path, capsys):
    pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")

    def command(out, weights=None):
        return TrainInitializer(
            out=tmp_path / out,
            stage="dense",
            weights=weights,
            refinement=REFINEMENT,
            training=InitializerTrainingOptions(iterations=2, batch=BATCH),
            data=SceneData(captures=2, options=SCENES, validation_captures=1, folder=tmp_path / "scenes"),
            schedule=Schedule(evaluate_every=2, save_every=2, workers=0),
        )

    command("first").run()
    first = load_weights(tmp_path / "first" / "best", "dense")
    assert first.card.raster == {} and first.card.training["iterations"] == 2
    DenseHead.from_weights(first)
    command("second", str(tmp_path / "first" / "best")).run()
    second = load_weights(tmp_path / "second" / "best", "dense")
    assert [record["iterations"] for record in second.card.training["before"]] == [2]
    assert not torch.equal(first.tensors["layers.0.weight"], second.tensors["layers.0.weight"])
