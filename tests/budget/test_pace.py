"""The share of a budget that is spent before each step, and the clock."""

import itertools

import pytest

from l2o_splat.budget import BudgetClock, CountedPace, TimedPace
from l2o_splat.budget.pace import restored


def flat(progress):
    return 1.0


def test_steps_that_cost_the_same_spend_the_same():
    pace = TimedPace(flat, share=0.1)
    assert [pace.progress(step) for step in (0, 1, 5, 10, 50)] == pytest.approx([0, 0.1, 0.5, 1, 1])


def test_a_run_at_the_measured_pace_ends_when_its_time_is_up():
    def cost(progress):
        return 0.25 if progress < 0.5 else 1.0

    pace, seconds = TimedPace(cost, share=1 / 7), 100.0
    pace.revise(1, seconds_left=99.0, seconds_per_cost=4.0)
    spent = 1 + sum(4.0 * cost(pace.progress(step)) for step in range(1, 1 + pace.steps_left(1)))
    assert seconds <= spent < seconds + 4.0


def test_a_revision_changes_nothing_before_it_and_never_jumps():
    pace = TimedPace(flat, share=0.02)
    before = [pace.progress(step) for step in range(11)]
    pace.revise(10, seconds_left=20.0, seconds_per_cost=1.0)
    assert pace.progress(10) == before[10]
    assert pace.progress(11) - pace.progress(10) == pytest.approx((1 - before[10]) / 20)
    assert all(a <= b for a, b in itertools.pairwise(pace.progress(step) for step in range(10, 60)))
    with pytest.raises(ValueError, match="from step 10 on"):
        pace.progress(9)


def test_a_late_run_ends():
    pace = TimedPace(flat, share=0.001)
    pace.revise(5, seconds_left=-1.0, seconds_per_cost=1.0)
    assert pace.progress(6) == 1 and pace.steps_left(6) == 0


@pytest.mark.parametrize("pace", [CountedPace(30), CountedPace(30, 10, 0.25), TimedPace(flat, 0.03, 4, 0.125)])
def test_a_restored_pace_goes_on_bit_for_bit(pace):
    again = restored(pace.state(), flat)
    assert [again.progress(step) for step in range(10, 60)] == [pace.progress(step) for step in range(10, 60)]


def test_counted_steps():
    assert [CountedPace(4).progress(step) for step in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert CountedPace(10, 20, 0.5).progress(25) == 0.75
    with pytest.raises(ValueError, match="at least 1"):
        CountedPace(0)


def test_the_clock_counts_what_it_is_told_to():
    time = iter(range(0, 1000, 10))
    clock = BudgetClock(now=lambda: float(next(time)))
    assert clock.spent == 0
    with clock.counting(), clock.left_out():  # Begins at 0, stands still from 10 to 20.
        pass
    assert clock.spent == 20  # Ends at 30.
    with clock.left_out():
        pass
    assert clock.spent == 20
    clock.resume(5.0)
    assert clock.spent == 5
