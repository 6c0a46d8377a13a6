"""The benchmark of whole steps: every step is timed once on its number of threads, and every moment has its part."""

import argparse
import itertools
from types import SimpleNamespace

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from benchmarks import step as benchmark
from benchmarks import step_process
from l2o_splat.plugin.datamanager import L2ODataManagerConfig
from l2o_splat.scenes.procedural import ProceduralOptions, generate


class Trainer:
    """Takes steps as nerfstudio's does; each lasts a second on one thread, and half a second of the wall on two."""

    def __init__(self):
        self.cpu, self.wall, self.stop_training, self.ended = 0.0, 0.0, False, False

    def train_iteration(self, step):
        self.cpu += 1.0
        self.wall += 1.0 / torch.get_num_threads()

    def _after_train(self):
        self.ended = True

    def train(self):
        for step in itertools.count():
            if self.stop_training:
                break
            self.train_iteration(step)
        self._after_train()


@pytest.fixture
def trainer(monkeypatch):
    trainer, threads = Trainer(), torch.get_num_threads()
    clocks = SimpleNamespace(process_time=lambda: trainer.cpu, perf_counter=lambda: trainer.wall)
    monkeypatch.setattr(step_process, "time", clocks)
    yield trainer
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("steps", "seconds", "expected"), [(3, 0.0, 3), (1, 6.0, 4)])
def test_steps_are_timed_in_turns_on_one_thread_and_on_two(trainer, steps, seconds, expected):
    loop = step_process.TimedLoop(trainer, steps, seconds, sampled_seconds=0.0)
    trainer.train()
    assert loop.cpu_seconds == [1.0] * expected and loop.wall_seconds == [0.5] * expected
    assert trainer.ended and loop.shares == {} and loop.peak_mb > 50


def test_sampled_steps_are_not_timed(trainer):
    loop = step_process.TimedLoop(trainer, 2, 0.0, sampled_seconds=5.0)
    trainer.train()
    assert loop.cpu_seconds == [1.0] * 2 and trainer.cpu > 1 + 4 + 5
    assert tuple(loop.shares) == step_process.PARTS


@pytest.mark.parametrize(
    ("calls", "part"),
    [
        (["threads.py:run", "rendering/cpu.py:composite", "plugin/model.py:show"], "render"),
        (["rendering/cpu.py:composite", "rendering/cpu.py:vjp", "/torch/_tensor.py:backward"], "backward"),
        (["rendering/cpu_scene.py:differentiate", "rendering/rendered_loss.py:forward"], "backward"),
        (["losses/fused.py:view_loss", "rendering/rendered_loss.py:forward"], "loss"),
        (["losses/cpu.py:backward", "/torch/_tensor.py:backward"], "loss"),
        (["/torch/_tensor.py:backward", "/nerfstudio/engine/trainer.py:train_iteration"], "backward"),
        (["nets/gain_network.py:forward", "optim/gain.py:forward", "plugin/trainer.py:train_iteration"], "update"),
        (["views.py:image_of_stored", "views.py:photograph", "rendering/cpu.py:draw"], "photographs"),
        (["views.py:__getitem__", "plugin/datamanager.py:train_photographs"], "rest"),
    ],
)
def test_a_moment_belongs_to_the_innermost_room(calls, part):
    assert step_process.part_of([tuple(call.rsplit(":", 1)) for call in calls]) == part


def steps(cpu, wall, peak=1000.0) -> benchmark.Steps:
    return benchmark.Steps(5000, cpu, wall, peak, {"render": 0.75, "rest": 0.25})


def test_ratios_are_of_the_same_steps():
    """The third step is cheap and the slow processes do not count; the faster tree took more steps."""
    before = [steps([2.0, 4.0, 1.0], [1.0, 2.0, 0.5]), steps([3.0, 3.0, 9.0], [1.0, 2.0, 0.5])]
    now = [steps([1.0, 1.5, 0.5, 7.0], [0.25, 9.0, 0.125, 7.0]), steps([9.0, 9.0, 9.0, 9.0], [0.25, 0.5, 0.125, 7.0])]
    row = benchmark.table_row("4x3", before, now)
    assert row == ["4x3", "5,000", "2.000", "1.000", "**0.50**", "1.000", "0.250", "**0.25**", "1000", "1000"]
    assert benchmark.share_row("4x3", now[0]) == ["4x3", "5,000", "75.0%", "25.0%"]


def test_image_sizes():
    assert benchmark.parse(["--sizes", "48x36"]).sizes == [(48, 36)]
    with pytest.raises(argparse.ArgumentTypeError, match="'48' is no image size; write WIDTHxHEIGHT"):
        benchmark.size_of("48")


def test_a_capture_has_the_number_of_points_that_is_asked_for(tmp_path):
    capture = generate(0, ProceduralOptions(num_views=3, width=24, height=18, num_points=500, trajectory="orbit"))
    for number in (400, 100):
        benchmark.write_capture_with(number, capture, tmp_path / "capture")
        parser = NerfstudioDataParserConfig(
            data=tmp_path / "capture", load_3D_points=True, eval_mode="fraction", train_split_fraction=1.0
        )
        manager = L2ODataManagerConfig(dataparser=parser).setup(device="cpu")
        assert len(manager.train_dataset) == 3
        assert len(manager.train_dataparser_outputs.metadata["points3D_xyz"]) == number
