"""The checkpoint buffer by the paper's rules."""

from dataclasses import replace

import numpy as np

from l2o_splat.meta.buffer import CheckpointBuffer
from l2o_splat.meta.options import BufferOptions
from tests.meta.scenes import episode, small_rule


def episodes(count: int):
    start = episode(small_rule())
    return [replace(start, step=step) for step in range(count)]


def test_nothing_is_resumed_before_the_buffer_was_full():
    buffer, random = CheckpointBuffer(BufferOptions(capacity=3, resume_probability=1.0)), np.random.default_rng(0)
    for entry in episodes(3):
        assert buffer.draw(random) is None
        assert buffer.offer(entry, resumed=False, random=random)
    drawn = buffer.draw(random)
    assert drawn is not None and drawn not in buffer.episodes
    assert buffer.draw(random) is not None  # It stays in use while one is out.


def test_the_oldest_goes_out_first():
    buffer = CheckpointBuffer(BufferOptions(capacity=3, keep_fresh=1.0))
    random = np.random.default_rng(0)
    for entry in episodes(5):
        buffer.offer(entry, resumed=False, random=random)
    assert [entry.step for entry in buffer.episodes] == [2, 3, 4]


def test_a_full_buffer_takes_and_gives_as_often_as_configured():
    options = BufferOptions(capacity=4, resume_probability=0.7, keep_fresh=0.7, keep_resumed=0.99)
    buffer, random = CheckpointBuffer(options), np.random.default_rng(1)
    several = episodes(4)
    for entry in several:
        buffer.offer(entry, resumed=False, random=random)
    taken = {resumed: np.mean([buffer.offer(several[0], resumed, random) for _ in range(2000)]) for resumed in (0, 1)}
    assert abs(taken[0] - 0.7) < 0.04 and abs(taken[1] - 0.99) < 0.01
    resumed = 0
    for _ in range(2000):
        drawn = buffer.draw(random)
        if drawn is not None:
            resumed += 1
            buffer.episodes.append(drawn)
    assert abs(resumed / 2000 - 0.7) < 0.04
