"""Options of training a controller. They load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from l2o_splat.meta.options import InnerLoop
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import CaptureRanges


@dataclass(frozen=True)
class RunOptions:
    """The runs that a controller is judged by."""

    budgets: tuple[int, ...] = (20, 50, 100)
    """Lengths of the runs, steps; each scene is optimized afresh for each, and its final errors are averaged."""
    dense_share: float = 0.25
    """Probability that a scene starts from Gaussians on its surfaces instead of one per sparse point."""
    views_per_step: int = 8
    """Views of a step."""
    sh_degree: int = 3
    """Degree of the spherical harmonics."""
    ranges: CaptureRanges = field(default_factory=CaptureRanges)
    """Sizes of the procedural captures."""
    loop: InnerLoop = field(default_factory=InnerLoop)
    """How steps render and compare."""

    def __post_init__(self) -> None:
        if not self.budgets or min(self.budgets) < 1:
            raise TrainingError(f"The budgets of runs are {self.budgets} steps; name at least one, of 1 step or more.")
        if not 0 <= self.dense_share <= 1:
            raise TrainingError(f"The share of dense starts is {self.dense_share}; a number from 0 to 1 is needed.")
        if self.views_per_step < 1:
            raise TrainingError(f"There are {self.views_per_step} views per step; at least 1 is needed.")


@dataclass(frozen=True)
class EvolutionOptions:
    """Everything that the trained numbers depend on."""

    generations: int = 60
    """Updates of the distribution that controllers are drawn from."""
    population: int = 13
    """Controllers drawn in a generation; all of them run the same scenes."""
    scenes: int = 4
    """Scenes of a generation, new ones in each."""
    spread: float = 0.15
    """Standard deviation of each number at first; numbers are logarithms of gains."""
    seed: int = 0
    """Seed of scenes and draws."""
    runs: RunOptions = field(default_factory=RunOptions)
    """The runs that a controller is judged by."""
    validation_scenes: int = 8
    """Scenes, never trained on, on which the best generation is chosen."""
    validate_every: int = 5
    """Generations between such evaluations."""

    def __post_init__(self) -> None:
        least = {"generations": 1, "population": 4, "scenes": 1, "validation_scenes": 1, "validate_every": 1, "seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise TrainingError(f"{name} is {getattr(self, name)}; at least {minimum} is needed.")
        if not self.spread > 0:
            raise TrainingError(f"spread is {self.spread}; a number above 0 is needed.")
