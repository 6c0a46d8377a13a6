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
        iteration=0,
        seconds=7.26,
        best=-1e9,
        unusable=0,
        reason="",
        options=options,
        objective=SimpleNamespace(perceptual_used="vgg16-substitute"),
        plain_options=lambda: {"iterations": 4},
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
        assert recorded["perceptual"] == "vgg16-substitute"
        assert recorded["quality"] == {"best": 22.0, "last": 21.0}[name]
        assert {"command", "commit", "machine", "date"} <= recorded["environment"].keys()


def report(psnr: float) -> IterationReport:
    return IterationReport(StepStatistics(0.5), {"psnr": psnr})


def curve(folder) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [(line["iteration"], line["psnr"]) for line in lines]


@pytest.mark.parametrize("tail", ["", '{"iteration": 4, "ps'])
def test_evaluations_after_the_last_saved_state_are_not_repeated(tmp_path, tail):
    record, training = SmallRecord(tmp_path), trainer()
    for training.iteration in (1, 2, 3):
        record(training, report(20.0 + training.iteration))
    with (tmp_path / "curve.jsonl").open("a") as file:
        file.write(tail)
    # The run was killed, and its last saved state is that of the first iteration.
    resumed, training.iteration = SmallRecord(tmp_path), 2
    resumed(training, IterationReport(StepStatistics(0.5)))
    assert curve(tmp_path) == [(1, 21.0)]
    training.iteration = 3
    resumed(training, report(30.0))
    assert curve(tmp_path) == [(1, 21.0), (3, 30.0)]
    recorded = load_weights(tmp_path / "last.safetensors", "learn2splat").card.training["curve"]
    assert [(line["iteration"], line["psnr"]) for line in recorded] == [(1, 21.0), (3, 30.0)]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_new_run_in_an_old_folder_has_a_curve_of_its_own(tmp_path):
    training = trainer()
    training.iteration = 3
    SmallRecord(tmp_path)(training, report(20.0))
    training.iteration = 1
    SmallRecord(tmp_path)(training, report(25.0))
    assert curve(tmp_path) == [(1, 25.0)]


def test_the_outcome_says_whether_the_training_is_done(tmp_path):
    record, training = SmallRecord(tmp_path), trainer()
    training.iteration = 3
    assert record.outcome(training) == f"Saved; the same command goes on after 3 turns: {tmp_path}/best.safetensors"
    training.iteration = 4
    assert record.outcome(training) == f"Trained after 4 turns: {tmp_path}/best.safetensors"


def test_only_changed_options_are_recorded():
    assert changed_from({"a": 1, "b": 2}, {"a": 1, "b": 3}) == {"b": 3}
