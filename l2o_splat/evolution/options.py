"""Options of training a controller. They load no torch, so that `--help` does not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from l2o_splat.scenes.trajectories import TRAJECTORIES, Trajectory
from l2o_splat.training.errors import TrainingError
from l2o_splat.training.options import CaptureRanges


@dataclass(frozen=True)
class RunOptions:
    """The runs that a controller is judged by: those of the preset fast, each of its own length."""

    budgets: tuple[float, float] = (20.0, 1000.0)
    """Shortest and longest run, in steps at full size with all views; drawn on a logarithmic scale."""
    read_at: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Shares of the budget after which held-out views are compared; what is reported of a run is not its end alone."""
    imperfection: float = 3.0
    """Training photographs of a scene change in light and exposure, are noisy, and have inexact poses: by a factor
    between 0 and this, drawn for each scene, small ones more often than large ones."""
    softness: float = 2.0
    """Photographs of a scene are blurred by a Gaussian of up to so many pixels, since small ones are more detailed,
    pixel by pixel, than those of real captures."""
    trajectories: tuple[Trajectory, ...] = ("orbit", "orbit", "hemisphere", "grid", "walk")
    """Paths of the cameras, drawn with equal probability; one that is named twice is drawn twice as often."""
    few_share: float = 0.25
    """Probability that a scene has few photographs to train on: 4 to 12 of its own, those farthest from each other."""
    dense_share: float = 0.0
    """Probability that a scene starts from Gaussians on its surfaces instead of one per sparse point."""
    views_per_step: int = 8
    """Views of a step, before the controller."""
    stand_for: float = 4.0
    """The photographs stand for ones of so many times as many pixels: the smallest size that they are reduced to in the
    first steps is so many times as small."""
    ranges: CaptureRanges = field(
        default_factory=lambda: CaptureRanges(
            short_side=(132, 150), long_side=(176, 210), num_views=(12, 60), num_points=(800, 3200)
        )
    )
    """Sizes of the procedural captures."""

    def __post_init__(self) -> None:
        if not 1 <= self.budgets[0] <= self.budgets[1]:
            raise TrainingError(f"The budgets of runs are {self.budgets}; an ascending range from 1 on is needed.")
        if not self.read_at or not all(0 < share <= 1 for share in self.read_at):
            raise TrainingError(f"Runs are read at {self.read_at}; at least one share above 0 and up to 1 is needed.")
        for name, share in {"dense_share": self.dense_share, "few_share": self.few_share}.items():
            if not 0 <= share <= 1:
                raise TrainingError(f"{name} is {share}; a number from 0 to 1 is needed.")
        if not self.trajectories or not {*self.trajectories} <= {*TRAJECTORIES}:
            raise TrainingError(f"trajectories are {self.trajectories}; some of {TRAJECTORIES} are needed.")
        for name, most in {"imperfection": self.imperfection, "softness": self.softness}.items():
            if not most >= 0:
                raise TrainingError(f"{name} is {most}; 0 (none) or more is needed.")
        if not self.stand_for >= 1:
            raise TrainingError(f"stand_for is {self.stand_for}; 1 or more is needed.")
        if self.views_per_step < 1:
            raise TrainingError(f"There are {self.views_per_step} views per step; at least 1 is needed.")


@dataclass(frozen=True)
class EvolutionOptions:
    """Everything that the trained numbers depend on."""

    generations: int = 60
    """Updates of the distribution that controllers are drawn from."""
    population: int = 14
    """Controllers drawn in a generation; all of them run the same scenes."""
    scenes: int = 6
    """Scenes of a generation, new ones in each, from the shortest to the longest budget."""
    spread: float = 0.2
    """Standard deviation of each number at first; numbers are logarithms of factors."""
    decay: float = 0.005
    """Log error that each number is charged per unit squared, so that numbers which matter little stay with the
    preset."""
    numbers: Literal["all", "constants"] = "all"
    """constants: only those that do not depend on the run, to see what responses to it are worth."""
    begin_with: str | None = None
    """Weights of a controller that the distribution begins around; None begins with the preset as it is."""
    seed: int = 0
    """Seed of scenes and draws."""
    runs: RunOptions = field(default_factory=RunOptions)
    """The runs that a controller is judged by."""
    validation_scenes: int = 12
    """Scenes, never trained on, on which the best generation is chosen."""
    validate_every: int = 5
    """Generations between such evaluations."""

    def __post_init__(self) -> None:
        least = {"generations": 1, "population": 4, "scenes": 1, "validation_scenes": 1, "validate_every": 1, "seed": 0}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise TrainingError(f"{name} is {getattr(self, name)}; at least {minimum} is needed.")
        if not self.decay >= 0:
            raise TrainingError(f"decay is {self.decay}; 0 (none) or more is needed.")
        if not self.spread > 0:
            raise TrainingError(f"spread is {self.spread}; a number above 0 is needed.")
