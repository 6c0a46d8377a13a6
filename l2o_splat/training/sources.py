"""Sources of captures for training.

A source is an endless list: the capture of an index depends on the source's options and the index alone. So a stopped
run resumes exactly where it was, and n processes share a source by taking every n-th index each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from l2o_splat.scenes.capture import Capture
from l2o_splat.scenes.procedural import ProceduralCapture, ProceduralOptions, generate
from l2o_splat.scenes.trajectories import Trajectory
from l2o_splat.training.options import CaptureRanges

# Lower seeds belong to the demo, to tests and to benchmarks (l2o-demo:SEED), which must not be trained on.
TRAINING_SEEDS = range(1_000_000_000, 2_000_000_000)
"""Generator seeds of training scenes."""
VALIDATION_SEEDS = range(2_000_000_000, 3_000_000_000)
"""Generator seeds of the scenes on which settings and checkpoints are chosen."""
TEST_SEEDS = range(3_000_000_000, 4_000_000_000)
"""Generator seeds of the scenes that are rendered only after everything is chosen."""


_SCENES_PER_SEED = 1_000_003
"""Captures between the first scenes of two seeds; prime, so that seeds differ in short ranges of scenes too."""


class Source(Protocol):
    """An endless list of captures."""

    def capture(self, index: int) -> Capture:
        """The capture of an index (0, 1, ...), always the same one in every process."""
        ...

    def prepare(self) -> None:
        """Do the work that processes can share, before several of them make captures; most sources have none."""


@dataclass(frozen=True)
class ProceduralSource(Source):
    """Ray-cast scenes, a new one for every index until ``seeds`` are used up; then they repeat."""

    seed: int = 0
    """Where to begin in ``seeds``; the first million captures of two seeds have no scene in common."""
    ranges: CaptureRanges = field(default_factory=CaptureRanges)
    """Sizes of the captures."""
    seeds: range = TRAINING_SEEDS
    """Generator seeds; a shorter range gives a finite set of scenes."""
    # Not in the repr, by which saved states of other trainings know their source.
    trajectories: tuple[Trajectory, ...] | None = field(default=None, repr=False)
    """Paths of the cameras, drawn with equal probability; None leaves them to the generator."""

    def __post_init__(self) -> None:
        if self.seed < 0 or not self.seeds or min(self.seeds[0], self.seeds[-1]) < 0:
            raise ValueError(
                f"seed is {self.seed} and seeds are {self.seeds}; numbers that are not negative are needed for both."
            )

    def generator_seed(self, index: int) -> int:
        """Generator seed of the scene of an index."""
        return self.seeds[(self.seed * _SCENES_PER_SEED + index) % len(self.seeds)]

    def capture(self, index: int) -> ProceduralCapture:
        seed = self.generator_seed(index)
        # Another random stream than the generator's, which are spawned from the bare seed.
        drawn = np.random.default_rng([seed, 0])
        options = self.ranges.draw(drawn)
        if self.trajectories is not None:
            options = replace(options, trajectory=drawn.choice(self.trajectories))
        return generate(seed, options)

    def prepare(self) -> None:
        """Compile the ray caster; other processes find the machine code on disk."""
        generate(0, ProceduralOptions(num_views=2, width=8, height=8, num_points=1))


@dataclass(frozen=True)
class CapturesSource(Source):
    """Captures of real places, in turn: index i gives capture i modulo their number."""

    captures: Sequence[Capture | Callable[[], Capture]]
    """Captures, or functions that load one when it is first asked for (picklable, for worker processes). Loaded
    captures stay in memory."""
    _loaded: dict[int, Capture] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.captures:
            raise ValueError("There are no captures to train on; name at least one.")

    def capture(self, index: int) -> Capture:
        number = index % len(self.captures)
        if number not in self._loaded:
            entry = self.captures[number]
            self._loaded[number] = entry if isinstance(entry, Capture) else entry()
        return self._loaded[number]


@dataclass(frozen=True)
class MixtureSource(Source):
    """Draws one of several sources for every index, and takes that source's capture of the same index."""

    parts: Sequence[tuple[float, Source]]
    """Weights, of any sum, and sources. A mixture inside a mixture needs another seed."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        weights = [weight for weight, _ in self.parts]
        if not weights or not all(0 < weight < np.inf for weight in weights) or self.seed < 0:
            raise ValueError(
                f"The weights are {weights} and the seed {self.seed}; at least one source, positive weights and a seed "
                "that is not negative are needed."
            )

    def part(self, index: int) -> int:
        """Number of the source that an index comes from."""
        shares = np.cumsum([weight for weight, _ in self.parts])
        drawn = np.random.default_rng([self.seed, index]).random() * shares[-1]
        return int(np.searchsorted(shares[:-1], drawn, side="right"))

    def capture(self, index: int) -> Capture:
        return self.parts[self.part(index)][1].capture(index)

    def prepare(self) -> None:
        for _, source in self.parts:
            source.prepare()
