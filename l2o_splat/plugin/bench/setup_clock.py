"""Seconds of the parts of setting a run up, timed around the functions that nerfstudio calls."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Literal, ParamSpec, TypeVar

import torch
from nerfstudio.engine.trainer import TrainerConfig

Part = Literal["loading", "pipeline", "start"]
"""``loading``: the capture, decoded and scaled. ``pipeline``: all of the pipeline, loading included. ``start``: the
scene's start, for pipelines that start it after they are built."""

P = ParamSpec("P")
T = TypeVar("T")


class SetupClock:
    """Times what a config builds; create it before ``config.setup()`` and read it after ``trainer.setup()``."""

    def __init__(self, config: TrainerConfig, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self.seconds: Counter[Part] = Counter()
        datamanager, pipeline = config.pipeline.datamanager, config.pipeline
        datamanager._target = self._timed("loading", _loaded(datamanager._target))
        pipeline._target = self._with_timed_start(self._timed("pipeline", pipeline._target))

    @property
    def loading_seconds(self) -> float:
        """Seconds of reading the capture, decoding and scaling its images."""
        return self.seconds["loading"]

    @property
    def initializer_seconds(self) -> float:
        """Seconds of building the pipeline and starting the scene, without loading."""
        return self.seconds["pipeline"] - self.seconds["loading"] + self.seconds["start"]

    def _timed(self, part: Part, function: Callable[P, T]) -> Callable[P, T]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            begin = self._now()
            result = function(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.seconds[part] += self._now() - begin
            return result

        return timed

    def _with_timed_start(self, build: Callable[P, T]) -> Callable[P, T]:
        def with_timed_start(*args: P.args, **kwargs: P.kwargs) -> T:
            pipeline = build(*args, **kwargs)
            # nerfstudio's own pipelines start the scene while they are built.
            if hasattr(pipeline, "start_scene"):
                pipeline.start_scene = self._timed("start", pipeline.start_scene)
            return pipeline

        return with_timed_start


def _loaded(build: Callable[P, T]) -> Callable[P, T]:
    """Build a data manager and load the images that it would otherwise cache at their first use."""

    def build_and_load(*args: P.args, **kwargs: P.kwargs) -> T:
        datamanager = build(*args, **kwargs)
        for split in ("cached_train", "cached_eval"):
            getattr(datamanager, split, None)
        return datamanager

    return build_and_load
