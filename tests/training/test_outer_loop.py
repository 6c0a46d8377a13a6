"""The outer loop on a network of two numbers: its steps, what it skips, and what it resumes from."""

import math
import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from l2o_splat.training.options import OuterOptions, Schedule
from l2o_splat.training.outer_loop import OuterLoop
from l2o_splat.training.saved_state import ResumeError
from l2o_splat.training.statistics import StepStatistics

OPTIONS = OuterOptions(iterations=6, averaging=0.5, learning_rate=0.1, warm_up=0.5, weight_decay=0.0)


class OneProcess:
    """The part of Lightning Fabric that the loop uses, for a single process."""

    global_rank, world_size = 0, 1

    def all_reduce(self, value, reduce_op):
        return value

    def barrier(self):
        pass


@dataclass(frozen=True)
class PullStatistics(StepStatistics):
    pull: float


class Pull(OuterLoop):
    """Pulls two weights upwards, each iteration with a gradient of its own."""

    def __init__(self, folder: Path, options: OuterOptions = OPTIONS, pulls=(1.0,) * 6, width: int = 2) -> None:
        network = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(network.weight)
        super().__init__(OneProcess(), network, options, Schedule(evaluate_every=4, save_every=2), folder)
        self.pulls = pulls

    def captures(self):
        return nullcontext(self.pulls)

    def iterate(self, captures):
        self.optimizer.zero_grad()
        pull = captures[self.iteration]
        if pull == 0:
            self.skip()
            return PullStatistics(math.nan, pull)
        (-pull * self.network.weight.sum()).backward()
        return PullStatistics(self.step(), pull)

    def evaluate(self):
        return {"psnr": float(self.average.module.weight.detach().sum())}

    def dependencies(self):
        return {"pulls": self.pulls, "networks": OneProcess()}


def ignore(loop, report):
    pass


def test_gradients_are_clipped_and_their_norm_is_reported(tmp_path):
    loop, seen = Pull(tmp_path, replace(OPTIONS, clip_norm=0.25), pulls=(2.0,) * 6), []

    def report(loop, report):
        seen.append((report.step.gradient_norm, float(loop.network.weight.grad.norm())))

    loop.run(report)
    for before, after in seen:
        assert before == pytest.approx(2 * math.sqrt(2)) and after == pytest.approx(0.25, rel=1e-4)


def test_gradients_that_are_not_finite_and_skipped_iterations_move_the_rate_alone(tmp_path):
    loop, weights, rates = Pull(tmp_path, pulls=(1.0, math.nan, 0.0, math.inf, 1.0, 1.0)), [], []

    def report(loop, report):
        weights.append(loop.network.weight.detach().clone())
        rates.append(loop.scheduler.get_last_lr()[0])

    loop.run(report)
    assert weights[0].min() > 0
    for still in weights[1:4]:
        assert torch.equal(still, weights[0])
    assert (weights[4] > weights[3]).all() and (weights[5] > weights[4]).all()
    assert len(set(rates)) == 6


def test_it_evaluates_as_scheduled_and_at_the_end(tmp_path):
    seen = []
    Pull(tmp_path).run(lambda loop, report: seen.append(report))
    assert [report.validation is not None for report in seen] == [False, False, False, True, False, True]
    assert seen[0].numbers() == {"gradient_norm": pytest.approx(math.sqrt(2)), "pull": 1.0}
    assert seen[-1].numbers().keys() == {"gradient_norm", "pull", "psnr"}


def test_options_are_plain_and_name_everything_that_the_weights_depend_on(tmp_path):
    found = Pull(tmp_path).plain_options()
    assert found == {
        "iterations": 6,
        "averaging": 0.5,
        "seed": 0,
        "learning_rate": 0.1,
        "warm_up": 0.5,
        "weight_decay": 0.0,
        "clip_norm": 0.5,
        "activation_checkpointing": False,
        "pulls": [1.0] * 6,
        "networks": None,
    }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_resumes_where_it_was(tmp_path, number):
    pulls = (1.0, 2.0, 0.5, 3.0, 1.0, 1.5)
    whole = Pull(tmp_path / "whole", pulls=pulls)
    whole.run(ignore)

    def stop(loop, report):
        if loop.iteration == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    Pull(tmp_path / "parts", pulls=pulls).run(stop)
    assert signal.getsignal(number) is before
    resumed, seen = Pull(tmp_path / "parts", pulls=pulls), []
    resumed.run(lambda loop, report: seen.append(loop.iteration))
    assert seen == [4, 5, 6]
    assert torch.equal(resumed.network.weight, whole.network.weight)
    assert torch.equal(resumed.average.module.weight, whole.average.module.weight)


def test_a_state_of_other_options_or_of_another_network_is_refused_in_one_sentence(tmp_path):
    Pull(tmp_path).run(ignore)
    with pytest.raises(
        ResumeError, match="other options .*'clip_norm': 0.5.* now .*'clip_norm': 0.1.*go on with the same"
    ):
        Pull(tmp_path, replace(OPTIONS, clip_norm=0.1)).run(ignore)
    with pytest.raises(ResumeError, match="saved by another version of the package .*weight.*another folder"):
        Pull(tmp_path, width=3).run(ignore)


def test_a_state_of_another_number_of_processes_is_refused(tmp_path):
    Pull(tmp_path).run(ignore)
    loop = Pull(tmp_path)
    loop.fabric.world_size = 2
    with pytest.raises(ResumeError, match="saved by 1 processes, now there are 2; use as many"):
        loop.run(ignore)


def test_a_half_written_state_is_not_taken_for_a_whole_one(tmp_path):
    Pull(tmp_path).run(ignore)
    states = tmp_path / "states"
    assert [path.name for path in states.iterdir()] == ["iteration-00000006"]
    (states / ".iteration-00000009.partial").mkdir()
    resumed = Pull(tmp_path)
    resumed.run(lambda loop, report: pytest.fail("nothing was left to do"))
    assert resumed.iteration == 6


def test_a_state_without_a_part_is_refused(tmp_path):
    Pull(tmp_path).run(ignore)
    path = tmp_path / "states" / "iteration-00000006" / "shared.pt"
    shared = torch.load(path, weights_only=True)
    del shared["scheduler"]
    torch.save(shared, path)
    with pytest.raises(ResumeError, match="another version of the package .*scheduler"):
        Pull(tmp_path).run(ignore)


def test_a_state_from_before_an_option_was_there_goes_on_with_its_default(tmp_path):
    whole = Pull(tmp_path / "whole")
    whole.run(ignore)

    def stop(loop, report):
        loop.stopping = loop.iteration == 2

    first = Pull(tmp_path / "parts")
    first.plain_options = lambda: {k: v for k, v in Pull.plain_options(first).items() if k != "clip_norm"}
    first.run(stop)
    with pytest.raises(ResumeError, match="clip_norm"):
        Pull(tmp_path / "parts", replace(OPTIONS, clip_norm=0.25)).run(ignore)
    resumed = Pull(tmp_path / "parts")
    resumed.run(ignore)
    assert torch.equal(resumed.network.weight, whole.network.weight)


def test_a_run_goes_on_with_the_same_perceptual_network_alone(tmp_path):
    def loop(used):
        made = Pull(tmp_path)
        made.objective = SimpleNamespace(perceptual="vgg", perceptual_used=used)
        return made

    def stop(loop, report):
        loop.stopping = loop.iteration == 2

    loop("vgg16-substitute").run(stop)
    with pytest.raises(ResumeError, match="'perceptual_network': 'vgg16-substitute'.*now.*'vgg19 "):
        loop("vgg19 (SHA-256 0123)").run(ignore)
    loop("vgg16-substitute").run(ignore)
