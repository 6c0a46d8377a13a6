import numpy as np
import pytest

from l2o_splat.view_sampling import ViewSampler, farthest_points

CENTRES = np.random.default_rng(0).normal(size=(11, 3))


@pytest.mark.parametrize("strategy", ["fps", "random", "sequential", "neighbors"])
def test_the_same_seed_and_step_give_the_same_views_in_any_order_of_asking(strategy):
    in_order = ViewSampler(CENTRES, 4, strategy, seed=3)
    expected = [in_order.views(step) for step in range(30)]
    jumping = ViewSampler(CENTRES, 4, strategy, seed=3)
    for step in (17, 3, 29, 28, 0):
        assert jumping.views(step) == expected[step]
    assert all(len(set(views)) == 4 for views in expected)


@pytest.mark.parametrize("strategy", ["fps", "random", "sequential"])
def test_no_view_is_left_out_and_all_come_equally_often(strategy):
    sampler = ViewSampler(CENTRES, 4, strategy, seed=0)
    counts = np.bincount(np.concatenate([sampler.views(step) for step in range(110)]), minlength=len(CENTRES))
    assert counts.tolist() == [40] * 11


def test_seeds_differ_and_sequential_goes_in_order():
    assert ViewSampler(CENTRES, 4, "random", 0).views(0) != ViewSampler(CENTRES, 4, "random", 1).views(0)
    sampler = ViewSampler(CENTRES, 4, "sequential", 0)
    assert [sampler.views(step) for step in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]


def test_neighbors_are_the_nearest_cameras_of_the_capture():
    line = np.stack([np.arange(9.0), np.zeros(9), np.zeros(9)], axis=1)
    for step in range(9):
        centre, *others = ViewSampler(line, 3, "neighbors", 5).views(step)
        assert max(abs(other - centre) for other in others) <= 2
        assert {abs(other - centre) for other in others} <= {1, 2}


def test_farthest_points_of_a_line_are_its_ends():
    line = np.stack([np.arange(9.0), np.zeros(9), np.zeros(9)], axis=1)
    assert farthest_points(line, list(range(9)), 3, start=[0]) == [0, 8, 4]


@pytest.mark.parametrize("strategy", ["fps", "random", "sequential", "neighbors"])
def test_more_views_from_some_step_on_change_no_step_before(strategy):
    constant, growing = (ViewSampler(CENTRES, 3, strategy, seed=2) for _ in range(2))
    before = [growing.views(step) for step in range(6)]
    assert len(growing.views(6)) == 3  # Looked ahead, and then decided otherwise.
    growing.change(6, 5)
    growing.change(6, 5)
    growing.change(9, 99)
    assert before == [constant.views(step) for step in range(6)] == [growing.views(step) for step in range(6)]
    assert [len(set(growing.views(step))) for step in range(5, 11)] == [3, 5, 5, 5, 11, 11]
    resumed = ViewSampler(CENTRES, 8, strategy, seed=2)
    resumed.resume(growing.changes)
    assert [resumed.views(step) for step in (8, 6, 2)] == [growing.views(step) for step in (8, 6, 2)]


def test_a_change_of_the_past_is_refused():
    sampler = ViewSampler(CENTRES, 3, "fps", seed=0)
    sampler.change(5, 4)
    with pytest.raises(ValueError, match="2 views from step 3 on were asked for, after a change in step 5"):
        sampler.change(3, 2)


def test_few_views_are_all_seen_in_every_step():
    sampler = ViewSampler(CENTRES[:3], 8, "fps", seed=0)
    assert sampler.views(0) == sampler.views(5) == [0, 1, 2]


@pytest.mark.parametrize("arguments", [(CENTRES[:0], 4, "fps"), (CENTRES, 0, "fps"), (CENTRES, 4, "nearest")])
def test_what_cannot_be_drawn_is_refused(arguments):
    with pytest.raises(ValueError, match="asked for|unknown"):
        ViewSampler(*arguments, seed=0)
