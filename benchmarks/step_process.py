"""What some steps of one run cost; ``benchmarks/step.py`` starts it with ``PYTHONPATH`` set to each of two trees.

The run is that of ``ns-train METHOD --vis tensorboard --data CAPTURE nerfstudio-data --eval-mode fraction
--train-split-fraction 1``. A step lasts from the begin of one iteration of nerfstudio's loop to the begin of the next,
so that logging and everything else of the loop is part of it. The result is printed as JSON in the last line.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from types import FrameType

import torch
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.plugins.registry import discover_methods

import l2o_splat

PACKAGE = Path(l2o_splat.__file__).parent
PARTS = ("render", "loss", "backward", "update", "photographs", "rest")
"""Where the time of a step goes."""
DIFFERENTIATING = ("backward", "vjp", "differentiate", "gradients")
"""Functions in which a renderer goes backward."""
SAMPLE_SECONDS = 0.002
"""Time between two looks at what runs."""
MOST_STEPS = 1000
"""Steps that a run is given; it is stopped long before."""


def part_of(frames: Sequence[tuple[str, str]]) -> str:
    """The part that a moment belongs to.

    Args:
        frames: File, relative to the package, and function of every call that is active, the innermost first.
    """
    backward = any(function in DIFFERENTIATING for _, function in frames)
    for file, function in frames:
        room = file.split("/")[0].removesuffix(".py")
        if room == "losses":
            return "loss"
        if room == "rendering":
            return "backward" if backward else "render"
        if room in ("optim", "nets"):
            return "update"
        if room == "views" and function in ("photograph", "image_of_stored", "views"):
            return "photographs"
    return "backward" if backward else "rest"


def active_calls(frame: FrameType | None) -> list[tuple[str, str]]:
    """File and function of a frame and of those that called it, as :func:`part_of` wants them."""
    calls = []
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        inside = file.is_relative_to(PACKAGE)
        calls.append((str(file.relative_to(PACKAGE)) if inside else str(file), frame.f_code.co_name))
        frame = frame.f_back
    return calls


class Sampler:
    """Looks again and again at what the thread that made it does, and counts the parts, until it is stopped."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._watched, self._ended = threading.get_ident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        """The share of each part."""
        self._ended.set()
        self._thread.join()
        return {part: self.counts[part] / max(self.counts.total(), 1) for part in PARTS}

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.counts[part_of(active_calls(sys._current_frames()[self._watched]))] += 1


class TimedLoop:
    """Takes the time of a trainer's steps: one to warm up, then in turns on one thread and on two, then some sampled.

    Args:
        trainer: Set up.
        steps: How many on one thread at least, and as many on two.
        seconds: How long to go on with them at least.
        sampled_seconds: How long steps on one thread are sampled afterwards; 0 samples none.
    """

    def __init__(self, trainer: Trainer, steps: int, seconds: float, sampled_seconds: float) -> None:
        self.trainer, self.least_steps, self.seconds, self.sampled_seconds = trainer, steps, seconds, sampled_seconds
        self.cpu_seconds: list[float] = []
        """Processor time of each step on one thread."""
        self.wall_seconds: list[float] = []
        """Time on the wall of each step on two threads."""
        self.peak_mb: float | None = None
        """Most memory that the process had by the end of the timed steps; None before."""
        self.shares: dict[str, float] = {}
        """Share of each part; empty if no steps were sampled."""
        self._begun: list[tuple[float, float]] = []
        """Processor time and time on the wall at the begin of each step."""
        self._sampler: Sampler | None = None
        self._sampled_until = 0.0
        self._take_step, self._after_train = trainer.train_iteration, trainer._after_train
        trainer.train_iteration, trainer._after_train = self._step, self._end

    def _step(self, step: int):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        now = time.process_time(), time.perf_counter()
        if self.peak_mb is not None:
            self.trainer.stop_training = now[1] > self._sampled_until
            return self._take_step(step)
        self._begun.append(now)
        taken = len(self._begun) - 2  # The first step warms up.
        if taken >= 1:
            # Steps with an odd number were on one thread, the others on two.
            which, times = ((0, self.cpu_seconds), (1, self.wall_seconds))[(taken - 1) % 2]
            times.append(now[which] - self._begun[-2][which])
        torch.set_num_threads(1 if taken % 2 == 0 else 2)
        if taken >= 2 * self.least_steps and taken % 2 == 0 and now[1] - self._begun[1][1] >= self.seconds:
            self.peak_mb = peak_megabytes()
            self._sampled_until = now[1] + self.sampled_seconds
            if self.sampled_seconds:
                self._sampler = Sampler()
            self.trainer.stop_training = not self.sampled_seconds
        return self._take_step(step)

    def _end(self) -> None:
        if self._sampler is not None:
            self.shares = self._sampler.stop()
        self._after_train()


def peak_megabytes() -> float:
    """Most memory that this process has had (Linux)."""
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def config_of(method: str, capture: Path, output: Path, views: int, device: str) -> TrainerConfig:
    """What ``ns-train`` makes of the command above."""
    config = deepcopy(discover_methods()[0][method])
    data = config.pipeline.datamanager
    config.data = data.data = capture
    data.views_per_step = views
    data.dataparser.eval_mode, data.dataparser.train_split_fraction = "fraction", 1.0
    config.output_dir, config.timestamp, config.vis = output, "run", "tensorboard"
    config.max_num_iterations = MOST_STEPS
    config.machine.device_type = device
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("--method", default="l2o-adam")
    parser.add_argument("--views", type=int, default=8, help="views per step")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=int, default=3, help="steps on one thread at least, and as many on two")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to go on with them at least")
    parser.add_argument("--sampled-seconds", type=float, default=0.0, help="how long to look where the time goes")
    options = parser.parse_args()
    # tensorboard may still write.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as output:
        config = config_of(options.method, options.capture, Path(output), options.views, options.device)
        config.get_base_dir().mkdir(parents=True)
        trainer = config.setup(local_rank=0, world_size=1)
        trainer.setup()
        loop = TimedLoop(trainer, options.steps, options.seconds, options.sampled_seconds)
        trainer.train()
    found = {"package": str(PACKAGE), "gaussians": trainer.pipeline.model.num_points}
    found |= {name: getattr(loop, name) for name in ("cpu_seconds", "wall_seconds", "peak_mb", "shares")}
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
