"""Where meta-training takes its scenes from.

A source is an endless list: which capture an index gives depends on the source's own options and the index alone. So
a run goes on exactly where it stopped, and processes share a list by taking every n-th index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from l2o_splat.scenes.capture import Capture
from l2o_splat.scenes.procedural import ProceduralCapture, ProceduralOptions, generate

# Seeds below are left to the demo, to tests and to benchmarks (l2o-demo:SEED), which must not be trained on.
TRAINING_SEEDS = range(1_000_000_000, 2_000_000_000)
"""Generator seeds that training takes its scenes from."""
VALIDATION_SEEDS = range(2_000_000_000, 3_000_000_000)
"""Those on which settings and checkpoints are chosen."""
TEST_SEEDS = range(3_000_000_000, 4_000_000_000)
"""Those that are looked at once everything is chosen."""

MIN_SIDE = 32
"""Pixels; five halvings of an image, as perceptual losses do, leave one pixel."""

_SCENES_PER_SEED = 1_000_003
"""Captures after which a series meets the scenes of the next seed; prime, so that seeds differ in short ranges too."""


class Source(Protocol):
    """An endless list of captures."""

    def capture(self, index: int) -> Capture:
        """The capture of an index (0, 1, ...): the same one whenever, and in whatever process, it is asked for."""
        ...

    def prepare(self) -> None:
        """Do once what every process would otherwise do, before several of them make captures; nothing for most."""


@dataclass(frozen=True)
class CaptureRanges:
    """What procedural captures are drawn from, uniformly; both ends are included."""

    short_side: tuple[int, int] = (64, 80)
    """Pixels; images are portrait or landscape with equal chance."""
    long_side: tuple[int, int] = (96, 128)
    """Pixels."""
    num_views: tuple[int, int] = (9, 28)
    """Photographs."""
    num_points: tuple[int, int] = (500, 5000)
    """Sparse points."""

    def __post_init__(self) -> None:
        least = {"short_side": MIN_SIDE, "long_side": MIN_SIDE, "num_views": 2, "num_points": 1}
        for name, minimum in least.items():
            low, high = getattr(self, name)
            if not minimum <= low <= high:
                raise ValueError(f"{name} is {(low, high)}; an ascending range from at least {minimum} is needed.")

    def draw(self, rng: np.random.Generator) -> ProceduralOptions:
        """Draw the options of one capture."""

        def between(ends: tuple[int, int]) -> int:
            return int(rng.integers(ends[0], ends[1], endpoint=True))

        short, long, views, points = map(between, (self.short_side, self.long_side, self.num_views, self.num_points))
        width, height = (short, long) if rng.random() < 0.5 else (long, short)
        return ProceduralOptions(num_views=views, width=width, height=height, num_points=points)


@dataclass(frozen=True)
class ProceduralSource(Source):
    """Ray-cast scenes, a new one for every index until ``seeds`` are used up; then they come again."""

    seed: int = 0
    """Another seed begins elsewhere in ``seeds``; the first million captures of two seeds have no scene in common."""
    ranges: CaptureRanges = CaptureRanges()
    """Sizes of the captures."""
    seeds: range = TRAINING_SEEDS
    """Generator seeds; a shorter range gives a finite set of scenes."""

    def __post_init__(self) -> None:
        if self.seed < 0 or not self.seeds or min(self.seeds[0], self.seeds[-1]) < 0:
            raise ValueError(
                f"seed is {self.seed} and seeds are {self.seeds}; numbers that are not negative are needed for both."
            )

    def generator_seed(self, index: int) -> int:
        """The seed whose scene an index shows."""
        return self.seeds[(self.seed * _SCENES_PER_SEED + index) % len(self.seeds)]

    def capture(self, index: int) -> ProceduralCapture:
        seed = self.generator_seed(index)
        # A stream of its own: the generator's are spawned from the bare seed.
        return generate(seed, self.ranges.draw(np.random.default_rng([seed, 0])))

    def prepare(self) -> None:
        """Compile the ray caster; later processes find the machine code on disk."""
        generate(0, ProceduralOptions(num_views=2, width=8, height=8, num_points=1))


@dataclass(frozen=True)
class CapturesSource(Source):
    """Captures of real places, in turn: index i gives number i modulo their count."""

    captures: Sequence[Capture | Callable[[], Capture]]
    """Loaded captures, or functions that load one when it is first asked for (and may be pickled, for worker
    processes). What is loaded stays in memory."""
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
    """Every index draws one of several sources, which then gives its capture of the same index."""

    parts: Sequence[tuple[float, Source]]
    """Weights, of any sum, and sources. Of two mixtures within each other, each needs a seed of its own."""
    seed: int = 0
    """Another seed draws other sources."""

    def __post_init__(self) -> None:
        weights = [weight for weight, _ in self.parts]
        if not weights or not all(0 < weight < np.inf for weight in weights) or self.seed < 0:
            raise ValueError(
                f"The weights are {weights} and the seed {self.seed}; at least one source, positive weights and a seed "
                "that is not negative are needed."
            )

    def part(self, index: int) -> int:
        """Which of the sources an index comes from."""
        shares = np.cumsum([weight for weight, _ in self.parts])
        drawn = np.random.default_rng([self.seed, index]).random() * shares[-1]
        return int(np.searchsorted(shares[:-1], drawn, side="right"))

    def capture(self, index: int) -> Capture:
        return self.parts[self.part(index)][1].capture(index)

    def prepare(self) -> None:
        for _, source in self.parts:
            source.prepare()
