"""How many Gaussians there are after each event."""

import math

import pytest
import torch

from l2o_splat.growth import budget
from l2o_splat.growth.budget import (
    MOST_EVENTS,
    GrowthOptions,
    bytes_per_gaussian,
    count_at,
    event_shares,
    free_bytes,
    views_looked_at,
    within_memory,
)
from tests.rendering.scenes import random_scene


def test_the_number_grows_by_the_same_factor_at_every_event():
    options = GrowthOptions(factor=32, events=5)
    assert [count_at(event, 100, options) for event in range(5)] == [200, 400, 800, 1600, 3200]


@pytest.mark.parametrize("final_count", [None, 50, 777, 100_000])
def test_counts_never_fall_and_end_at_the_budget(final_count):
    options = GrowthOptions(factor=2, final_count=final_count)
    counts = [777, *(count_at(event, 777, options) for event in range(options.events + 3))]
    assert counts == sorted(counts)
    assert counts[-1] == {None: 1554, 50: 777}.get(final_count, final_count)


def test_events_are_spread_evenly_and_none_is_in_the_last_third():
    assert event_shares(GrowthOptions(events=3, first_share=0.1, last_share=0.5)) == pytest.approx((0.1, 0.3, 0.5))
    assert event_shares(GrowthOptions(events=1, first_share=0.2)) == (0.2,)
    assert max(event_shares(GrowthOptions())) <= 2 / 3
    with pytest.raises(ValueError, match="2/3"):
        GrowthOptions(last_share=0.7)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 0.5},
        {"factor": math.nan},
        {"final_count": 0},
        {"events": 0},
        {"events": 6},
        {"first_share": 0.0},
        {"first_share": 0.6, "last_share": 0.5},
    ],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(ValueError):
        GrowthOptions(**wrong)


def test_growth_past_memory_ends_where_half_of_it_is_used():
    options = GrowthOptions(factor=10)
    limited, sentence = within_memory(options, start=1000, gaussian_bytes=2048, free=4 * 2**20)
    assert limited.count_at_end(1000) == 2024
    assert "2,024" in sentence and "10,000" in sentence
    assert within_memory(options, start=1000, gaussian_bytes=2048, free=2**30) == (options, None)
    starved, _ = within_memory(options, start=1000, gaussian_bytes=2048, free=0)
    assert starved.count_at_end(1000) == 1000


def test_bytes_of_a_gaussian_follow_its_harmonics_and_the_views_of_a_step():
    low, _ = random_scene(n=2, degree=0)
    high, _ = random_scene(n=2, degree=3)
    assert bytes_per_gaussian(high, 8) - bytes_per_gaussian(low, 8) == 45 * 4 * budget.ROWS_IN_MEMORY
    assert bytes_per_gaussian(low, 8) > bytes_per_gaussian(low, 1)


def test_free_memory_is_that_of_the_machine():
    assert 2**20 < free_bytes(torch.device("cpu")) < 2**44


def test_short_runs_look_at_fewer_views():
    looked_at = [views_looked_at(budget) for budget in (1, 200, 400, 800, 1e6)]
    assert looked_at == [4, 4, 8, 16, 16]
    # All events together show no more than a tenth of the views that the steps could.
    assert all(MOST_EVENTS * views_looked_at(budget) <= 0.1 * budget + MOST_EVENTS for budget in range(200, 2000, 50))
