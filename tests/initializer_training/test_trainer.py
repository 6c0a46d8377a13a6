"""The trainer of initializers: unusable captures are skipped, faults are not."""

import json
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from l2o_splat.initializer_training.batches import draw_batch, fixed_batch
from l2o_splat.initializer_training.initial_stage import InitialStage, InitialTerms
from l2o_splat.initializer_training.networks import new_initial_model
from l2o_splat.initializer_training.options import InitializerTrainingOptions, Losses
from l2o_splat.initializer_training.record import InitializerRecord
from l2o_splat.initializer_training.trainer import InitializerTrainer
from l2o_splat.scenes.capture import Points
from l2o_splat.training.errors import TrainingError, UnusableCaptureError
from l2o_splat.training.options import Schedule
from l2o_splat.training.sources import Source
from tests.initializer_training.networks import BATCH, CONFIG, SHAPE, SOURCE

CPU = torch.device("cpu")


def without_points(capture):
    return replace(capture, points=Points(capture.points.xyz[:3], capture.points.rgb[:3]))


def with_few_views(capture):
    return replace(capture, views=capture.views[[0, 1]], depths=capture.depths[:2])


@dataclass(frozen=True)
class SecondUnusable(Source):
    """A capture in turn with one that no step can use."""

    def capture(self, index):
        capture = SOURCE.capture(0)
        return capture if index % 2 == 0 else without_points(capture)


@dataclass(frozen=True)
class NoneUsable(Source):
    """Captures that no step can use."""

    def capture(self, index):
        return without_points(SOURCE.capture(0))


def make_trainer(folder, source=SecondUnusable(), iterations: int = 4) -> InitializerTrainer:
    fabric = pytest.importorskip("lightning_fabric", reason="needs the extra train: pip install 'l2o_splat[train]'")
    stage = InitialStage(new_initial_model(SHAPE, CONFIG, seed=0), Losses(rendered=0.0))
    options = InitializerTrainingOptions(iterations=iterations, batch=BATCH, learning_rate=1e-2)
    schedule = Schedule(evaluate_every=2, save_every=4, workers=0)
    validation = [fixed_batch(SOURCE.capture(0), 2, CPU)]
    single = fabric.Fabric(accelerator="cpu", devices=1)
    return InitializerTrainer(single, stage, source, validation, options, schedule, folder, {})


@pytest.mark.parametrize(
    ("change", "message"), [(without_points, "see .* of the 3 points"), (with_few_views, "2 views")]
)
def test_captures_without_enough_points_or_views_are_unusable(change, message):
    with pytest.raises(UnusableCaptureError, match=message):
        draw_batch(change(SOURCE.capture(0)), BATCH, np.random.default_rng(0), CPU)


def test_an_unusable_capture_leaves_the_weights_as_they_are(tmp_path):
    trainer, reports, weights = make_trainer(tmp_path), [], []
    record = InitializerRecord(tmp_path, CONFIG, [])

    def report(trainer, report):
        reports.append(report)
        weights.append(torch.cat([value.detach().flatten() for value in trainer.network.parameters()]))
        record(trainer, report)

    trainer.run(report)
    assert [torch.equal(before, after) for before, after in pairwise(weights)] == [True, False, True]
    assert [math.isnan(found.step.gradient_norm) for found in reports] == [False, True, False, True]
    assert [len(found.step.terms) for found in reports] == [1, 0, 1, 0]
    assert isinstance(reports[0].step.terms[0], InitialTerms) and reports[0].numbers()["depth_error"] > 0
    assert math.isnan(reports[1].step.numbers()["gradient_norm"]) and len(reports[1].step.numbers()) == 1
    lines = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4] and all(math.isfinite(line["psnr"]) for line in lines)
    assert [line["unusable"] for line in lines] == [1, 2] and trainer.unusable == 2
    assert "NaN" not in (tmp_path / "curve.jsonl").read_text()
    assert "(2 captures could not be used; the last one: The context views see" in record.outcome(trainer)
    resumed = make_trainer(tmp_path)
    resumed.run(lambda *_: None)
    assert resumed.unusable == 2


def test_a_training_that_can_use_no_capture_ends_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("l2o_splat.training.outer_loop.MAX_UNUSABLE", 3)
    trainer = make_trainer(tmp_path, NoneUsable(), iterations=9)
    with pytest.raises(TrainingError, match="None of the last 3 captures could be used. The last one: .*the 3 points"):
        trainer.run(lambda *_: None)
    assert trainer.unusable == 3


def test_a_training_whose_losses_are_never_finite_ends_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("l2o_splat.training.outer_loop.MAX_UNUSABLE", 2)
    trainer = make_trainer(tmp_path)
    loss = trainer.stage.loss

    def broken(batch, rng):
        value, terms = loss(batch, rng)
        return value * math.nan, terms

    trainer.stage.loss = broken
    with pytest.raises(TrainingError, match="None of the last 2 captures"):
        trainer.run(lambda *_: None)


def test_any_other_fault_ends_the_training(tmp_path, monkeypatch):
    def faulty(*_):
        raise ValueError("a bug")

    monkeypatch.setattr("l2o_splat.initializer_training.batches.choose_context", faulty)
    with pytest.raises(ValueError, match="a bug"):
        make_trainer(tmp_path).run(lambda *_: None)
