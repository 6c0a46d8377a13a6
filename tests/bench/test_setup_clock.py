"""What counts as initializer while a run is set up, with stand-ins that take a known time."""

import time
from types import SimpleNamespace

from l2o_splat.plugin.bench.setup_clock import SetupClock


class SlowData:
    """Reads the capture at once, and its images at their first use."""

    def __init__(self, config) -> None:
        time.sleep(0.1)

    @property
    def cached_train(self):
        time.sleep(0.2)
        return []


class Pipeline:
    """Built in 0.05 s beside loading, as nerfstudio's own pipelines."""

    def __init__(self, config, device) -> None:
        self.data = config.datamanager._target(config.datamanager)
        time.sleep(0.05)


class PipelineWithStart(Pipeline):
    """Starts its scene later, in 0.4 s."""

    def start_scene(self, plan) -> str:
        time.sleep(0.4)
        return plan


def set_up(pipeline_type) -> tuple[SetupClock, Pipeline]:
    config = SimpleNamespace(_target=pipeline_type, datamanager=SimpleNamespace(_target=SlowData))
    clock = SetupClock(SimpleNamespace(pipeline=config))
    return clock, config._target(config, device="cpu")


def test_loading_is_not_counted_as_initializer():
    clock, _ = set_up(Pipeline)
    assert clock.loading_seconds >= 0.3
    assert 0.05 <= clock.initializer_seconds < 0.3


def test_a_start_after_the_pipeline_is_built_counts_as_initializer():
    clock, pipeline = set_up(PipelineWithStart)
    before = clock.initializer_seconds
    assert pipeline.start_scene("plan") == "plan"
    assert clock.initializer_seconds - before >= 0.4
    assert clock.loading_seconds < 0.7
