"""Training a controller: towards smaller errors, and the same after any stop."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from l2o_splat.errors import L2OError
from l2o_splat.evolution import trainer as module
from l2o_splat.evolution.command import TrainController
from l2o_splat.evolution.options import EvolutionOptions, RunOptions
from l2o_splat.evolution.runs import DB, WholeRuns, log_error_of
from l2o_splat.evolution.trainer import STATE_NAME, ControllerTraining
from l2o_splat.evolution.workers import Workers
from l2o_splat.meta.evaluation import Evaluation
from l2o_splat.meta.options import InnerLoop
from l2o_splat.optim.adam import AdamRule, adam_options
from l2o_splat.optim.controller import NUM_NUMBERS, Controller
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.training.sources import VALIDATION_SEEDS, ProceduralSource
from l2o_splat.weights import load_weights
from tests.meta.scenes import CPU

AIM = np.linspace(-0.4, 0.4, NUM_NUMBERS)
OPTIONS = EvolutionOptions(generations=6, population=6, scenes=2, validation_scenes=2, validate_every=2)
RANGES = CaptureRanges(short_side=(32, 32), long_side=(40, 40), num_views=(8, 9), num_points=(60, 90))
RUNS = RunOptions(budgets=(2, 3), dense_share=0.0, views_per_step=2, sh_degree=0, ranges=RANGES)


def closed_form(runs: WholeRuns, numbers: np.ndarray, index: int) -> float | None:
    """A quadratic that differs from scene to scene, in place of whole runs; every fifth scene cannot be used."""
    tilt = 0.1 * np.random.default_rng([runs.seeds[0], index]).standard_normal(NUM_NUMBERS)
    return None if index % 5 == 4 else float(((numbers - AIM) ** 2).sum() + tilt @ numbers)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "log_error_of", closed_form)


def train(folder, options=OPTIONS, say=lambda line: None) -> ControllerTraining:
    folder.mkdir(exist_ok=True)
    with Workers(0) as workers:
        training = ControllerTraining(options, folder, workers, say)
        training.run()
    return training


def curve(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def numbers(folder, name: str) -> np.ndarray:
    return Controller.from_weights(load_weights(folder / f"{name}.safetensors", "controller")).vector


def test_a_stopped_training_goes_on_in_the_same_numbers(quick, tmp_path):
    whole = train(tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(line):
        if line.startswith("Generation 3/"):
            raise StoppedError

    with pytest.raises(StoppedError):
        train(tmp_path / "parts", say=stop)
    # As if it had been killed after writing the curve of a generation that has no state yet.
    with (tmp_path / "parts" / "curve.jsonl").open("a") as file:
        file.write('{"generation": 4, "psnr": 99}\n')
    rest = train(tmp_path / "parts")
    for name, value in whole.distribution.arrays().items():
        assert np.array_equal(rest.distribution.arrays()[name], value), name
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for name in ("best", "last", "best-frozen"):
        assert np.array_equal(numbers(tmp_path / "parts", name), numbers(tmp_path / "whole", name))


def test_training_lowers_the_error_and_keeps_the_best_of_validation(quick, tmp_path):
    train(tmp_path, replace(OPTIONS, generations=60))
    lines = [line for line in curve(tmp_path) if "psnr" in line]
    assert [line["generation"] for line in lines][:3] == [0, 2, 4] and lines[-1]["generation"] == 60
    validation = WholeRuns(OPTIONS.runs, 0, VALIDATION_SEEDS)
    neutral, best = (
        -DB * np.mean([closed_form(validation, vector, index) for index in range(2)])
        for vector in (np.zeros(NUM_NUMBERS), numbers(tmp_path, "best"))
    )
    assert lines[0]["psnr"] == pytest.approx(neutral, abs=1e-3)
    assert best == pytest.approx(max(line["psnr"] for line in lines), abs=1e-3)
    assert best > neutral + 3
    frozen = Controller.of_vector(numbers(tmp_path, "best")).frozen()
    assert np.array_equal(numbers(tmp_path, "best-frozen"), frozen.vector)
    card = load_weights(tmp_path / "best.safetensors").card
    assert card.training["options"]["population"] == 6 and card.training["curve"][0]["generation"] == 0


def test_tuned_adam_stays_the_best_where_nothing_is_better(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "log_error_of", lambda runs, vector, index: float((vector**2).sum()))
    train(tmp_path)
    assert np.array_equal(numbers(tmp_path, "best"), np.zeros(NUM_NUMBERS))
    assert not np.array_equal(numbers(tmp_path, "last"), np.zeros(NUM_NUMBERS))


def test_a_training_that_cannot_go_on_says_why(quick, monkeypatch, tmp_path):
    train(tmp_path / "run")
    longer = train(tmp_path / "run", replace(OPTIONS, generations=7))
    assert longer.generation == 7
    with pytest.raises(ResumeError, match="other options .*'seed': 0.*go on with the same ones"):
        train(tmp_path / "run", replace(OPTIONS, seed=1))
    (tmp_path / "run" / STATE_NAME).write_bytes(b"{}")
    with pytest.raises(ResumeError, match="is no state of a controller's training"):
        train(tmp_path / "run")
    monkeypatch.setattr(module, "log_error_of", lambda *_: None)
    with pytest.raises(L2OError, match="No run can start from any of the scenes 0 to 1"):
        train(tmp_path / "unusable")
    monkeypatch.setattr(module, "log_error_of", lambda runs, vector, index: math.nan if vector.any() else 1.0)
    with pytest.raises(L2OError, match="All controllers of generation 1 diverged"):
        train(tmp_path / "diverged")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunOptions(budgets=()), "name at least one"),
        (lambda: RunOptions(dense_share=1.5), "from 0 to 1"),
        (lambda: EvolutionOptions(population=3), "population is 3; at least 4"),
        (lambda: EvolutionOptions(spread=0.0), "spread is 0.0"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(L2OError, match=message):
        make()


def test_the_error_is_that_of_whole_runs_of_tuned_adam():
    """With the neutral controller: the evaluation of a run of each length, as ``l2o meta-train`` evaluates."""
    capture = ProceduralSource(5, RANGES).capture(0)
    psnr = []
    for steps in RUNS.budgets:
        rule = AdamRule(adam_options("own-scale", steps))
        psnr.append(float(Evaluation((capture,), (steps,), 2, 0, 5).run(rule, InnerLoop(), CPU)))
    runs = WholeRuns(RUNS, 5)
    assert DB * runs.log_error(Controller.neutral(), 0) == pytest.approx(-np.mean(psnr), abs=1e-9)
    faster = np.zeros(NUM_NUMBERS)
    faster[: 7 * 3 : 3] = 0.3
    calls = [(runs, faster, 0), (runs, np.zeros(NUM_NUMBERS), 1)]
    alone = [log_error_of(*call) for call in calls]
    assert alone[0] != runs.log_error(Controller.neutral(), 0)
    with Workers(1) as workers:
        assert workers.results(log_error_of, calls) == alone


def test_a_share_of_the_scenes_starts_on_surfaces():
    runs = WholeRuns(replace(RUNS, dense_share=0.5, ranges=replace(RANGES, num_points=(200, 200))), 0)
    counts = {}
    for index in range(4):
        capture, start = runs.start(index)
        counts[index] = len(start.gaussians) == len(capture.points)
    assert set(counts.values()) == {True, False}


def test_the_command_trains_and_goes_on(quick, tmp_path, capsys):
    command = TrainController(tmp_path, replace(OPTIONS, generations=2), workers=0)
    command.run()
    replace(command, training=replace(OPTIONS, generations=3)).run()
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said if line.startswith("Generation")] == [
        f"Generation {each}" for each in ("0/2", "1/2", "2/2", "3/3")
    ]
    assert said[-1] == f"Trained for 3 generations: {tmp_path / 'best'}.safetensors"
    with pytest.raises(L2OError, match="--workers is -1"):
        replace(command, workers=-1).run()
