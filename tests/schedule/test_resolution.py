"""How large the photographs of a step are."""

import itertools

import pytest

from l2o_splat.budget import BudgetClock
from l2o_splat.schedule.presets import PRESETS
from l2o_splat.schedule.resolution import changed_from, image_stages, relative_cost
from l2o_splat.schedule.run_schedule import RunSchedule

PHOTOGRAPH = 640 * 480


@pytest.mark.parametrize("pixels", [100, 130e3, 690e3, 12e6])
@pytest.mark.parametrize("steps", [1, 40, 270, 5000])
def test_sizes_double_from_a_small_one_to_the_full_one(pixels, steps):
    stages = image_stages(pixels, steps)
    shares, scales = zip(*stages, strict=True)
    assert shares[0] == 0 and list(shares) == sorted(shares) and shares[-1] < 1
    assert scales[-1] == 1 and all(large == 2 * small for small, large in itertools.pairwise(scales))
    assert pixels * scales[0] ** 2 >= min(pixels, 8000)


def test_the_full_size_comes_sooner_the_more_steps_there_are():
    begins = [image_stages(PHOTOGRAPH, steps)[-1][0] for steps in (10, 40, 90, 270, 1000, 100_000)]
    assert begins == sorted(begins, reverse=True)
    assert begins[3] == pytest.approx(0.25) and begins[-1] == begins[-2] == 0.12


def test_what_has_begun_stays_when_the_plan_changes():
    stages = ((0.0, 0.125), (0.05, 0.25), (0.2, 0.5), (0.6, 1.0))
    assert changed_from(stages, ((0.0, 0.25), (0.06, 0.5), (0.3, 1.0)), 0.1) == (
        *((0.0, 0.125), (0.05, 0.25)),
        *((0.1, 0.5), (0.3, 1.0)),
    )
    # The present size is never made smaller again.
    assert changed_from(stages, ((0.0, 0.25), (0.5, 0.5), (0.9, 1.0)), 0.3) == (*stages[:3], (0.9, 1.0))


def test_the_cost_of_a_step_is_that_of_pixels_and_gaussians():
    assert relative_cost(1.0, PHOTOGRAPH, 10_000) == 1
    assert relative_cost(0.5, PHOTOGRAPH, 0) == 0.25
    assert relative_cost(0.5, 40_000, 10_000) == pytest.approx((10_000 + 40_000) / 80_000)


def schedule(now, seconds=60.0):
    made = RunSchedule(PRESETS["fast"], seconds, 1, BudgetClock(now=now))
    made.set_capture(40, PHOTOGRAPH, 1000)
    return made


def test_a_schedule_plans_its_sizes_by_what_steps_have_taken_and_goes_on_with_them():
    clock = [0.0]
    run = schedule(lambda: clock[0])
    whole_step = 0.2
    with run.clock.counting():
        run.begin(0)
        before = run.stages
        for step in range(2):
            clock[0] += whole_step * run.cost(run.pace.progress(step))
            run.end_step(step)
        assert run.stages == before
        run.revise(2)
    # 60 s hold 300 steps of 0.2 s at full size.
    assert run.stages[-1] == pytest.approx(image_stages(PHOTOGRAPH, 300)[-1], abs=0.01)
    assert run.stages[0] == before[0]
    again = schedule(lambda: 0.0)
    again.load(run.state(), 2, 1)
    assert again.stages == run.stages
    assert [again.image_scale(step) for step in range(2, 300)] == [run.image_scale(step) for step in range(2, 300)]


def test_a_run_that_counts_steps_knows_its_sizes_from_the_start():
    run = RunSchedule(PRESETS["fast"], None, 90, BudgetClock())
    run.set_capture(40, PHOTOGRAPH, 1000)
    assert run.stages == image_stages(PHOTOGRAPH, 90)
    assert run.image_scale(0) == run.stages[0][1] and run.image_scale(89) == 1
