"""What every record leaves: a line per evaluation, the newest and the best weights with their training record."""

import json
from types import SimpleNamespace

import pytest
import torch

from l2o_splat.training.record import TrainingRecord, changed_from
from l2o_splat.training.statistics import IterationReport, StepStatistics
from l2o_splat.weights import Weights, WeightsCard, load_weights


class SmallRecord(TrainingRecord):
    """A record of one number."""

    unit = "turns"

    def show(self, trainer, report):
        self.shown = trainer.iteration

    def particulars(self, trainer, report):
        return {"quality": report.validation["psnr"]}

    def weights(self, trainer, training):
        card = WeightsCard("learn2splat", {}, source="a test", licence="Apache-2.0", training=training)
        return Weights({"number": torch.tensor([float(trainer.iteration)])}, card)


def trainer():
    options = SimpleNamespace(iterations=4)
    return SimpleNamespace(
        iteration=0, seconds=7.26, best=-1e9, options=options, plain_options=lambda: {"iterations": 4}
    )


def test_the_newest_and_the_best_weights_are_kept(tmp_path):
    record, training = SmallRecord(tmp_path / "run"), trainer()
    for psnr in (20.0, None, 22.0, 21.0):
        training.iteration += 1
        record(training, IterationReport(StepStatistics(0.5), None if psnr is None else {"psnr": psnr}))
        assert record.shown == training.iteration
    assert training.best == 22.0
    lines = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    assert [(line["iteration"], line["psnr"]) for line in lines] == [(1, 20.0), (3, 22.0), (4, 21.0)]
    assert lines[0] == {"iteration": 1, "seconds": 7.3, "gradient_norm": 0.5, "psnr": 20.0}
    for name, iteration in (("best", 3), ("last", 4)):
        weights = load_weights(tmp_path / "run" / f"{name}.safetensors", "learn2splat")
        assert weights.tensors["number"].tolist() == [iteration]
        recorded = weights.card.training
        assert recorded["iterations"] == iteration and recorded["curve"] == lines[: iteration - 1]
        assert recorded["options"] == {"iterations": 4} and recorded["hours"] == pytest.approx(0.002)
        assert recorded["quality"] == {"best": 22.0, "last": 21.0}[name]
        assert {"command", "commit", "machine", "date"} <= recorded["environment"].keys()


def test_the_outcome_says_whether_the_training_is_done(tmp_path):
    record, training = SmallRecord(tmp_path), trainer()
    training.iteration = 3
    assert record.outcome(training) == f"Saved; the same command goes on after 3 turns: {tmp_path}/best.safetensors"
    training.iteration = 4
    assert record.outcome(training) == f"Trained after 4 turns: {tmp_path}/best.safetensors"


def test_only_changed_options_are_recorded():
    assert changed_from({"a": 1, "b": 2}, {"a": 1, "b": 3}) == {"b": 3}
