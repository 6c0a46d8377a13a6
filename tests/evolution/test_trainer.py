"""Training a controller: towards smaller errors, and the same after any stop."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from l2o_splat.errors import L2OError
from l2o_splat.evolution import trainer as module
from l2o_splat.evolution.budgeted_run import BudgetedRun
from l2o_splat.evolution.command import TrainController
from l2o_splat.evolution.options import EvolutionOptions, RunOptions
from l2o_splat.evolution.runs import DB, WholeRuns, log_errors_of
from l2o_splat.evolution.trainer import STATE_NAME, ControllerTraining
from l2o_splat.evolution.workers import Workers
from l2o_splat.scenes.split import split_views
from l2o_splat.schedule.controller import IS_CONSTANT, NAMES, Controller
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.training.sources import VALIDATION_SEEDS
from l2o_splat.weights import load_weights

AIM = np.linspace(-0.4, 0.4, len(NAMES))
OPTIONS = EvolutionOptions(generations=6, population=6, scenes=2, validation_scenes=2, validate_every=2)
RANGES = CaptureRanges(short_side=(64, 64), long_side=(72, 80), num_views=(8, 9), num_points=(60, 90))
RUNS = RunOptions(budgets=(3.0, 8.0), read_at=(0.3, 1.0), views_per_step=2, ranges=RANGES)


def closed_form(runs: WholeRuns, numbers: np.ndarray, index: int) -> list[float] | None:
    """A quadratic that differs from scene to scene, in place of whole runs; every fifth scene cannot be used."""
    tilt = 0.1 * np.random.default_rng([runs.seeds[0], index]).standard_normal(len(NAMES))
    error = float(((numbers - AIM) ** 2).sum() + tilt @ numbers)
    return None if index % 5 == 4 else [error + 1, error, error - 1]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "log_errors_of", closed_form)


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
    return Controller.from_weights(load_weights(folder / f"{name}.safetensors")).numbers


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
    validation = WholeRuns(OPTIONS.runs, 0, 2, VALIDATION_SEEDS)
    neutral, best = (
        -DB * np.mean([closed_form(validation, vector, index) for index in range(2)])
        for vector in (np.zeros(len(NAMES)), numbers(tmp_path, "best"))
    )
    at_end = lines[0]["psnr_at_1"] - lines[0]["psnr_at_0.1"]
    assert at_end == pytest.approx(2 * DB, abs=1e-3)
    assert lines[0]["psnr"] == pytest.approx(neutral, abs=1e-3)
    assert best == pytest.approx(max(line["psnr"] for line in lines), abs=1e-3)
    assert best > neutral + 3
    frozen = Controller(numbers(tmp_path, "best")).frozen()
    assert np.array_equal(numbers(tmp_path, "best-frozen"), frozen.numbers)
    card = load_weights(tmp_path / "best.safetensors").card
    assert card.training["options"]["population"] == 6 and card.training["curve"][0]["generation"] == 0


def test_tuned_adam_stays_the_best_where_nothing_is_better(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "log_errors_of", lambda runs, vector, index: [float((vector**2).sum())] * 3)
    train(tmp_path)
    assert np.array_equal(numbers(tmp_path, "best"), np.zeros(len(NAMES)))
    assert not np.array_equal(numbers(tmp_path, "last"), np.zeros(len(NAMES)))


def test_a_training_that_cannot_go_on_says_why(quick, monkeypatch, tmp_path):
    train(tmp_path / "run")
    longer = train(tmp_path / "run", replace(OPTIONS, generations=7))
    assert longer.generation == 7
    with pytest.raises(ResumeError, match="other options .*'seed': 0.*go on with the same ones"):
        train(tmp_path / "run", replace(OPTIONS, seed=1))
    (tmp_path / "run" / STATE_NAME).write_bytes(b"{}")
    with pytest.raises(ResumeError, match="is no state of a controller's training"):
        train(tmp_path / "run")
    monkeypatch.setattr(module, "log_errors_of", lambda *_: None)
    with pytest.raises(L2OError, match="No run can start from any of the scenes 0 to 1"):
        train(tmp_path / "unusable")
    broken = lambda runs, vector, index: [math.nan if vector.any() else 1.0] * 3  # noqa: E731
    monkeypatch.setattr(module, "log_errors_of", broken)
    with pytest.raises(L2OError, match="All controllers of generation 1 diverged"):
        train(tmp_path / "diverged")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RunOptions(budgets=(9.0, 2.0)), "an ascending range"),
        (lambda: RunOptions(read_at=(0.5, 1.5)), "at least one share above 0 and up to 1"),
        (lambda: RunOptions(dense_share=1.5), "from 0 to 1"),
        (lambda: RunOptions(few_share=-0.5), "few_share is -0.5; a number from 0 to 1"),
        (lambda: RunOptions(trajectories=("orbit", "spiral")), "trajectories are .*spiral.*some of"),
        (lambda: RunOptions(imperfection=-1.0), "imperfection is -1.0"),
        (lambda: EvolutionOptions(population=3), "population is 3; at least 4"),
        (lambda: EvolutionOptions(spread=0.0), "spread is 0.0"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(L2OError, match=message):
        make()


def test_constants_alone_can_be_trained_and_another_training_can_begin_with_them(quick, tmp_path):
    train(tmp_path / "constants", replace(OPTIONS, generations=20, numbers="constants"))
    constants = numbers(tmp_path / "constants", "last")
    assert not constants[~IS_CONSTANT].any() and constants[IS_CONSTANT].all()
    begin_with = str(tmp_path / "constants" / "last.safetensors")
    train(tmp_path / "all", replace(OPTIONS, begin_with=begin_with, generations=1))
    assert curve(tmp_path / "all")[0]["psnr"] == curve(tmp_path / "constants")[-1]["psnr"]


def test_runs_are_the_same_in_every_process_and_differ_by_controller():
    runs, faster = WholeRuns(RUNS, 5, 2), np.zeros(len(NAMES))
    faster[NAMES.index("means.mean")] = 0.5
    calls = [(runs, faster, 0), (runs, np.zeros(len(NAMES)), 1)]
    alone = [log_errors_of(*call) for call in calls]
    assert all(len(errors) == 2 and np.isfinite(errors).all() for errors in alone)
    assert alone[0] != runs.log_errors(Controller.neutral(), 0)
    with Workers(1) as workers:
        assert workers.results(log_errors_of, calls) == alone


def test_photographs_are_reduced_as_those_that_they_stand_for():
    """Photographs of 136 x 180 pixels are shown at their size at once; those of four times as many are not."""
    ranges = replace(RANGES, short_side=(136, 136), long_side=(180, 180))
    begun = WholeRuns(replace(RUNS, ranges=ranges), 0, 1).begin(0)
    first = [
        BudgetedRun(begun.start.gaussians, begun.photographs, begun.held_out, 20, 2, Controller.neutral(), 0, stand_for)
        for stand_for in (1.0, 4.0)
    ]
    assert [run.schedule.image_scale(0) for run in first] == [1.0, 0.5]


def test_budgets_are_spread_over_their_range():
    runs = WholeRuns(RUNS, 0, scenes=4)
    budgets = np.log([runs.begin(index).budget for index in range(8)])
    edges = np.linspace(math.log(3), math.log(8), 5)
    for place in range(4):
        assert all(edges[place] <= budgets[index] <= edges[place + 1] for index in (place, place + 4))


def test_a_share_of_the_scenes_starts_on_surfaces_and_photographs_are_more_and_less_imperfect():
    options = replace(RUNS, dense_share=0.5, few_share=0.0, softness=0.0, ranges=replace(RANGES, num_points=(200, 200)))
    runs, counts, differences = WholeRuns(options, 0, 6), set(), []
    for index in range(6):
        begun = runs.begin(index)
        capture = runs.capture(index)
        counts.add(len(begun.start.gaussians) == len(capture.points))
        training, held_out = split_views(capture.views.cameras.centres.numpy(), "all")
        assert torch.equal(begun.held_out.images, capture.views[held_out].images)
        differences.append(float((begun.photographs.views.images - capture.views[training].images).abs().mean()))
    assert counts == {True, False}
    assert 0 < min(differences) < 0.5 * max(differences) < 0.05


def test_a_share_of_the_scenes_has_few_photographs_and_cameras_go_where_they_should():
    ranges = replace(RANGES, num_views=(24, 24))
    runs = WholeRuns(replace(RUNS, few_share=0.5, trajectories=("orbit",), ranges=ranges), 0, 8)
    seen = [runs.begin(index) for index in range(8)]
    counts = {len(begun.photographs.views.images) for begun in seen}
    assert 21 in counts and any(4 <= count <= 12 for count in counts) and not {*range(13, 21)} & counts
    assert all(len(begun.held_out.images) == 3 for begun in seen)
    for begun in seen:
        # Around the subject: each camera looks towards the middle of all of them.
        cameras = begun.photographs.views.cameras
        inwards = cameras.centres.mean(dim=0) - cameras.centres
        assert ((cameras.viewmats[:, 2, :3] * inwards).sum(dim=1) > 0).all()


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
