"""Which frames the samplers choose: from the window that the papers say, and no target that was context."""

import numpy as np
import pytest

from l2o_splat.scenes.chunks.errors import ChunkError, TooFewFramesError
from l2o_splat.scenes.chunks.view_index import ViewIndex
from l2o_splat.scenes.chunks.view_samplers import (
    FrameGap,
    bounded_views,
    indexed_views,
    spread_evaluation_views,
    whole_scene_views,
)

WALK = np.stack([np.arange(60.0), np.zeros(60), np.zeros(60)], axis=1)
"""Camera centres of a walk along a line, a step each frame."""


def bounded(seed: int, gap=(20, 30), context=4, target=3, centres=WALK) -> ViewIndex:
    return bounded_views(centres, context, target, gap, np.random.default_rng(seed))


def test_a_window_holds_all_views_and_its_ends_are_context():
    drawn = [bounded(seed) for seed in range(200)]
    for views in drawn:
        assert len(set(views.context)) == 4 and len(set(views.target)) == 3
        assert not set(views.context) & set(views.target)
        assert views.context[0] < min(views.target) and max(views.target) < views.context[-1]
    assert {views.context[-1] - views.context[0] for views in drawn} == set(range(20, 31))
    starts = {views.context[0] for views in drawn}
    assert min(starts) == 0 and max(views.context[-1] for views in drawn) == 59
    assert bounded(7) == bounded(7) != bounded(8)


def test_further_context_views_are_the_farthest_points_between_the_ends():
    assert bounded(0, gap=(30, 30), context=3).context == tuple(np.array([0, 15, 30]) + bounded(0, (30, 30)).context[0])
    # The camera stands still but for one step aside, which is farthest from everything else.
    still = np.zeros((21, 3))
    still[13] = [0.0, 1.0, 0.0]
    assert bounded(0, gap=(20, 20), context=3, centres=still).context == (0, 13, 20)


def test_every_other_frame_of_the_window_is_a_target_equally_often():
    times = np.zeros(60)
    for seed in range(4000):
        times[list(bounded(seed, gap=(10, 10), context=2, target=2, centres=WALK[:11]).target)] += 1
    assert times[0] == times[10] == 0 and times[1:10] == pytest.approx(8000 / 9, rel=0.12)


def test_a_short_video_takes_the_gaps_that_it_has_room_for():
    assert {bounded(seed, (20, 30), centres=WALK[:25]).context[-1] for seed in range(60)} <= set(range(20, 25))
    with pytest.raises(TooFewFramesError, match="20 frames are too few for a gap of 20; 21 are needed"):
        bounded(0, centres=WALK[:20])
    with pytest.raises(ValueError, match="a gap of 6 are needed"):
        bounded(0, gap=(5, 30))
    with pytest.raises(ValueError, match="at least 2 context views"):
        bounded(0, context=1)


def test_gaps_grow_linearly_to_their_final_range():
    gap = FrameGap((20, 30), (24, 45), 10_000)
    assert [gap.at(index) for index in (0, 2500, 4999, 9999, 10_000, 10**6)] == [
        (20, 30),
        (21, 33),
        (21, 37),
        (23, 44),
        (24, 45),
        (24, 45),
    ]
    assert FrameGap((20, 30), (24, 45), 0).at(0) == (24, 45)


def test_the_whole_scene_gives_the_same_spread_pool_and_other_targets():
    first, second = (whole_scene_views(WALK, 5, 6, np.random.default_rng(seed)) for seed in (0, 1))
    assert first.context == second.context and len(first.context) == 5
    assert first.context[0] == 0 and first.context[-1] == 59
    assert set(np.diff(first.context)) <= {14, 15, 16}
    assert first.target != second.target
    assert not set(first.context) & set(first.target)
    few = whole_scene_views(WALK[:20], 64, 6, np.random.default_rng(0))
    assert sorted(few.context + few.target) == list(range(20))
    with pytest.raises(TooFewFramesError, match="7 frames .* 8 are needed"):
        whole_scene_views(WALK[:7], 64, 6, np.random.default_rng(0))


def test_evaluation_views_follow_the_rule_of_the_published_files():
    """Of the 32 frames left of 40, every fourth is a target."""
    views = spread_evaluation_views(WALK[:40], 8, 8)
    rest = [frame for frame in range(40) if frame not in views.context]
    assert views.context[0] == 0 and views.context[-1] == 39 and len(views.context) == 8
    assert views.target == tuple(rest[::4])
    with pytest.raises(TooFewFramesError, match="15 frames .* 16 are needed"):
        spread_evaluation_views(WALK[:15], 8, 8)


def test_views_of_an_index_must_be_there_and_apart():
    assert indexed_views(ViewIndex((9, 2), (4,)), 10, "a") == ViewIndex((9, 2), (4,))
    with pytest.raises(ChunkError, match="names frame 10 of scene a, which has frames 0 to 9"):
        indexed_views(ViewIndex((2,), (10,)), 10, "a")
    with pytest.raises(ChunkError, match="frame 2 of scene a both"):
        indexed_views(ViewIndex((2,), (2, 3)), 10, "a")
