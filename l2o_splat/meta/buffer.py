"""Episodes that wait to be gone on with, so that a rule is trained on late steps as well as on early ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from l2o_splat.meta.episode import Episode


@dataclass(frozen=True)
class BufferOptions:
    """Checkpoint buffer of Learn2Splat (arXiv 2605.15760); the defaults are the paper's code."""

    capacity: int = 20
    """Episodes kept; none is gone on with before there are as many."""
    resume_probability: float = 0.7
    """How often a full buffer gives an episode in place of a fresh capture."""
    keep_fresh: float = 0.7
    """How often a fresh episode enters a full buffer after its unroll."""
    keep_resumed: float = 0.99
    """How often a resumed one returns."""


class CheckpointBuffer:
    """First in, first out, with draws in between."""

    def __init__(self, options: BufferOptions) -> None:
        self.options = options
        self.episodes: list[Episode] = []
        self.filled = False
        """Whether there have been as many episodes as the buffer keeps."""

    def draw(self, random: np.random.Generator) -> Episode | None:
        """An episode to go on with, taken out; None asks for a fresh one."""
        if not (self.filled and self.episodes) or random.random() >= self.options.resume_probability:
            return None
        return self.episodes.pop(int(random.integers(len(self.episodes))))

    def offer(self, episode: Episode, resumed: bool, random: np.random.Generator) -> bool:
        """Take an episode in, the oldest going out where there are too many; whether it was taken."""
        chance = self.options.keep_resumed if resumed else self.options.keep_fresh
        if self.filled and random.random() >= chance:
            return False
        self.episodes.append(episode)
        self.filled = self.filled or len(self.episodes) >= self.options.capacity
        del self.episodes[: max(len(self.episodes) - self.options.capacity, 0)]
        return True
