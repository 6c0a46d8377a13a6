"""What counts on the clock."""

import pytest
import torch

from l2o_splat.bench.clock import RunClock, StepTime
from l2o_splat.bench.step_timer import StepTimer


def step(total, first=False):
    return StepTime({"render": total}, first)


def test_the_first_step_counts_as_the_median_of_the_five_after_it():
    run = RunClock(2.0, [step(30.0, first=True), *map(step, (1.0, 5.0, 2.0, 4.0, 3.0, 100.0))])
    assert run.after_each_step() == [2.0, 5.0, 6.0, 11.0, 13.0, 17.0, 20.0, 120.0]
    assert run.now == 120.0
    assert run.compile_seconds == 27.0


def test_a_first_step_that_was_quick_counts_as_it_was():
    run = RunClock(0.0, [step(0.5, first=True), step(1.0)])
    assert run.now == 1.5
    assert run.compile_seconds == 0.0


def test_until_a_second_step_is_known_the_first_counts_nothing():
    run = RunClock(2.0)
    run.add(step(30.0, first=True))
    assert run.now == 2.0
    run.add(step(1.0))
    assert run.now == 4.0


def test_every_process_of_a_resumed_run_has_a_first_step():
    run = RunClock(0.0, [step(9.0, first=True), step(1.0), step(9.0, first=True), step(3.0)])
    assert run.after_each_step() == [0.0, 1.0, 2.0, 5.0, 8.0]
    assert run.compile_seconds == 8.0 + 6.0


def test_a_step_is_split_where_it_is_marked_and_stops_while_nothing_counts():
    times = iter([10.0, 11.0, 13.0, 14.0, 24.0, 25.5])
    timer = StepTimer("cpu", lambda: next(times))
    timer.mark("update")  # Before a step: no effect, and the clock is not read.
    timer.start("render")
    timer.mark("backward")
    timer.mark("update")
    timer.mark(None)
    timer.mark("update")
    assert timer.stop() == pytest.approx({"render": 1.0, "backward": 2.0, "update": 1.0 + 1.5})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_on_a_gpu_time_is_that_of_the_kernels_not_of_their_launch():
    matrix = torch.randn(4096, 4096, device="cuda")
    timer = StepTimer("cuda")
    timer.start("render")
    for _ in range(50):
        matrix @ matrix
    timer.mark("update")
    parts = timer.stop()
    # 50 products of 137 GFLOP take longer than 20 ms on every GPU there is; launching them takes one or two.
    assert parts["render"] > 0.02 > parts["update"]
