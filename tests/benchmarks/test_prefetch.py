"""The benchmark of prefetching: waits are told apart from steps."""

import time

import pytest

from benchmarks.prefetch import Reading, measure, sources
from l2o_splat.training.prefetch import Prefetched


def slow(seconds):
    while True:
        time.sleep(seconds)
        yield None


def test_waits_are_those_of_the_counted_steps_alone():
    reading = measure(Prefetched(slow(0.02)), steps=3, step_seconds=0.0, warm_up=2)
    assert reading.waited_ms >= 20 and reading.captures_per_second <= 50 and reading.starves
    assert not measure(Prefetched(iter([None] * 9)), steps=3, step_seconds=0.001, warm_up=2).starves
    assert not Reading(0.05, 1.0, 1.0).starves and Reading(0.2, 1.0, 1.0).starves


def test_stored_captures_are_those_of_the_folder(tmp_path):
    with pytest.raises(KeyError):
        sources(tmp_path, 2, large=False)["other"]
    source = sources(tmp_path, 2, large=False)["stored"]()
    assert source.count == 2 and source.folder == tmp_path / "stored"
