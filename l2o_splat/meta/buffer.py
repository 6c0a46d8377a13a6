"""Checkpoint buffer: episodes that are resumed later, so that a rule is trained on late steps as well as early ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from l2o_splat.gaussians import FIELDS, Gaussians
from l2o_splat.meta.episode import Episode
from l2o_splat.meta.options import BufferOptions
from l2o_splat.optim.migration import two_parts
from l2o_splat.optim.rule import RuleState


class CheckpointBuffer:
    """Episodes, first in, first out; any of them may be drawn in between."""

    def __init__(self, options: BufferOptions) -> None:
        self.options = options
        self.episodes: list[Episode] = []
        """Oldest first."""
        self.filled = False
        """Whether the buffer was full once."""

    def draw(self, random: np.random.Generator) -> Episode | None:
        """Take out an episode to resume; None asks for a fresh one."""
        if not (self.filled and self.episodes) or random.random() >= self.options.resume_probability:
            return None
        return self.episodes.pop(int(random.integers(len(self.episodes))))

    def offer(self, episode: Episode, resumed: bool, random: np.random.Generator) -> bool:
        """Add an episode, in place of the oldest one if the buffer is full; return whether it was added."""
        chance = self.options.keep_resumed if resumed else self.options.keep_fresh
        if self.filled and random.random() >= chance:
            return False
        self.episodes.append(episode)
        self.filled = self.filled or len(self.episodes) >= self.options.capacity
        del self.episodes[: max(len(self.episodes) - self.options.capacity, 0)]
        return True

    def clear(self) -> None:
        """Forget all episodes; none is resumed before the buffer is full again."""
        self.episodes, self.filled = [], False

    def to_state(self) -> dict[str, Any]:
        """Tensors and numbers to restore the buffer from: where each episode stands, without its photographs."""
        episodes = [
            {
                "index": episode.index,
                "step": episode.step,
                "gaussians": {name: value.cpu() for name, value in episode.gaussians.items()},
                "per_gaussian": {name: rows.cpu() for name, rows in episode.state.per_gaussian.items()},
                "per_scene": {name: value.cpu() for name, value in episode.state.per_scene.items()},
            }
            for episode in self.episodes
        ]
        return {"filled": self.filled, "episodes": episodes}

    def restore(self, saved: dict[str, Any], start: Callable[[int], Episode]) -> None:
        """Fill the buffer as it was saved.

        Args:
            saved: What :meth:`to_state` returned.
            start: Starts the episode of a capture's index, on the device.
        """
        self.filled = saved["filled"]
        self.episodes = [_resumed(start(entry["index"]), entry) for entry in saved["episodes"]]


def _resumed(start: Episode, entry: dict[str, Any]) -> Episode:
    device = start.gaussians.means.device
    gaussians = Gaussians(**{name: entry["gaussians"][name].to(device) for name in FIELDS})
    # States of version 0.1.0 did not keep numbers of the scene apart.
    parts = two_parts(entry["state"]) if "state" in entry else entry
    per_gaussian, per_scene = (
        {name: value.to(device) for name, value in parts[part].items()} for part in ("per_gaussian", "per_scene")
    )
    return replace(start, gaussians=gaussians, state=RuleState(per_gaussian, per_scene), step=entry["step"])
