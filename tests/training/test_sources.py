"""Which capture an index gives: the same one always, and never one that another split shows."""

from functools import partial
from itertools import pairwise

import pytest
import torch

from l2o_splat.scenes.procedural import ProceduralOptions, generate
from l2o_splat.training.options import CaptureRanges
from l2o_splat.training.sources import (
    TEST_SEEDS,
    TRAINING_SEEDS,
    VALIDATION_SEEDS,
    CapturesSource,
    MixtureSource,
    ProceduralSource,
)

SMALL = CaptureRanges(short_side=(32, 36), long_side=(40, 48), num_views=(2, 3), num_points=(20, 40))


def tiny(seed: int):
    return generate(seed, ProceduralOptions(num_views=2, width=8, height=8, num_points=4))


def test_an_index_gives_the_same_capture_in_any_order():
    forward = [ProceduralSource(1, SMALL).capture(index) for index in range(3)]
    source = ProceduralSource(1, SMALL)
    for index in (2, 0, 1, 2):
        again = source.capture(index)
        assert torch.equal(again.views.images, forward[index].views.images)
        assert torch.equal(again.points.xyz, forward[index].points.xyz)
        assert torch.equal(again.views.cameras.viewmats, forward[index].views.cameras.viewmats)


def test_captures_lie_within_the_ranges_and_reach_their_ends():
    source = ProceduralSource(0, SMALL)
    captures = [source.capture(index) for index in range(24)]
    sizes = [(c.views.cameras.width, c.views.cameras.height) for c in captures]
    assert all(32 <= min(size) <= 36 and 40 <= max(size) <= 48 for size in sizes)
    assert {width < height for width, height in sizes} == {True, False}
    assert {len(capture.views) for capture in captures} == {2, 3}
    assert all(len(capture.points) <= 40 for capture in captures)
    assert len({len(capture.points) for capture in captures}) > 5


def test_splits_never_share_a_seed_whatever_the_index():
    splits = [TRAINING_SEEDS, VALIDATION_SEEDS, TEST_SEEDS]
    indices = [0, 1, 999_999, 10**9 - 1, 10**9, 10**12 + 7]
    for seeds in splits:
        for seed in (0, 1, 7, 5000):
            drawn = {ProceduralSource(seed, seeds=seeds).generator_seed(index) for index in indices}
            assert all((number in other) == (other is seeds) for number in drawn for other in splits)
    # The demo and benchmarks name their scenes by small numbers.
    assert min(seeds.start for seeds in splits) >= 10**9


def test_a_seed_shows_every_scene_once_before_any_comes_again():
    seeds = range(100, 120)
    series = [[ProceduralSource(seed, seeds=seeds).generator_seed(i) for i in range(40)] for seed in (0, 1)]
    for drawn in series:
        assert sorted(drawn[:20]) == list(seeds)
        assert drawn[20:] == drawn[:20]
    assert series[0] != series[1]
    first, second = ({ProceduralSource(seed).generator_seed(i) for i in range(1000)} for seed in (0, 1))
    assert first.isdisjoint(second)


def test_preparing_compiles_all_that_a_capture_needs():
    from l2o_splat.scenes import raycast

    source = MixtureSource([(1.0, ProceduralSource(0, SMALL))])
    source.prepare()
    for index in range(4):
        source.capture(index)
    for kernel in (raycast.render_view, raycast.cast, raycast.count_sightings):
        assert len(kernel.signatures) == 1


def test_sizes_that_no_loss_can_see_are_refused():
    with pytest.raises(ValueError, match="short_side is \\(31, 80\\)"):
        CaptureRanges(short_side=(31, 80))
    with pytest.raises(ValueError, match="num_views is \\(5, 4\\)"):
        CaptureRanges(num_views=(5, 4))
    with pytest.raises(ValueError, match="seed is -1"):
        ProceduralSource(-1)


def test_real_captures_come_in_turn_and_are_loaded_once():
    loaded = []

    def load():
        loaded.append(1)
        return tiny(1)

    here = tiny(0)
    source = CapturesSource([here, load])
    assert source.capture(0) is here and source.capture(4) is here
    assert not loaded
    assert source.capture(1) is source.capture(7)
    assert len(loaded) == 1
    with pytest.raises(ValueError, match="no captures"):
        CapturesSource([])


def test_a_mixture_draws_its_sources_by_weight_and_index_alone():
    first, second = CapturesSource([tiny(0)]), CapturesSource([partial(tiny, 1), partial(tiny, 2)])
    mixture = MixtureSource([(3.0, first), (1.0, second)], seed=4)
    parts = [mixture.part(index) for index in range(4000)]
    assert sum(parts) / len(parts) == pytest.approx(0.25, abs=0.02)
    # Drawn, not dealt in a pattern: the source of an index says nothing about the next.
    after_second = [after for before, after in pairwise(parts) if before == 1]
    assert sum(after_second) / len(after_second) == pytest.approx(0.25, abs=0.06)
    assert parts[100:120] == [MixtureSource(mixture.parts, seed=4).part(index) for index in range(100, 120)]
    assert parts != [MixtureSource(mixture.parts, seed=5).part(index) for index in range(4000)]
    for index in range(12):
        assert mixture.capture(index) is (first, second)[parts[index]].capture(index)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [float("inf")], [float("nan"), 1.0]])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="positive weights"):
        MixtureSource([(weight, ProceduralSource()) for weight in weights])
