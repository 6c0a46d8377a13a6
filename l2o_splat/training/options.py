"""Options that trainings share. Like all modules of options, this one loads no torch: `--help` needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from l2o_splat.scenes.procedural import ProceduralOptions

MIN_SIDE = 32
"""Shortest side of an image, pixels; perceptual losses halve it five times, to one pixel."""


@dataclass(frozen=True)
class OuterOptions:
    """How long a training runs and how its weights move: AdamW under OneCycle, with a running average.

    Each training adds its own options and sets the defaults of ``iterations`` and ``averaging``.
    """

    iterations: int
    """Updates of the weights."""
    averaging: float
    """Decay of the running average of the weights, which is what is evaluated and kept."""
    seed: int = 0
    """Seed of every random draw; another one draws other scenes and views."""
    learning_rate: float = 1e-3
    """Highest rate of AdamW; OneCycle raises it from near 0 and lowers it again."""
    warm_up: float = 0.03
    """Share of the training in which the rate rises."""
    weight_decay: float = 0.01
    """Weight decay of AdamW."""
    clip_norm: float = 0.5
    """Largest norm of the gradient; a longer gradient is scaled down to it."""
    activation_checkpointing: bool = False
    """Keep only the inputs of the networks' blocks and run these again in the backward pass: less memory, the same
    gradients, more time. A run may go on with it turned on or off."""


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates and saves, and which processes make its captures; the weights do not depend on it."""

    evaluate_every: int = 200
    """Iterations between evaluations on the validation captures."""
    save_every: int = 100
    """Iterations between saved states."""
    workers: int = 1
    """Processes that make captures ahead of time; 0 makes each capture when it is needed."""


@dataclass(frozen=True)
class CaptureRanges:
    """Ranges from which procedural captures are drawn uniformly; both ends are included."""

    short_side: tuple[int, int] = (64, 80)
    """Shorter side of images, pixels; portrait and landscape are equally likely."""
    long_side: tuple[int, int] = (96, 128)
    """Longer side of images, pixels."""
    num_views: tuple[int, int] = (9, 28)
    """Number of photographs."""
    num_points: tuple[int, int] = (500, 5000)
    """Number of sparse points."""

    def __post_init__(self) -> None:
        least = {"short_side": MIN_SIDE, "long_side": MIN_SIDE, "num_views": 2, "num_points": 1}
        for name, minimum in least.items():
            low, high = getattr(self, name)
            if not minimum <= low <= high:
                raise ValueError(f"{name} is {(low, high)}; an ascending range from at least {minimum} is needed.")

    def draw(self, rng: np.random.Generator) -> ProceduralOptions:
        """Draw the options of one capture."""
        from l2o_splat.scenes.procedural import ProceduralOptions

        def between(ends: tuple[int, int]) -> int:
            return int(rng.integers(ends[0], ends[1], endpoint=True))

        short, long, views, points = map(between, (self.short_side, self.long_side, self.num_views, self.num_points))
        width, height = (short, long) if rng.random() < 0.5 else (long, short)
        return ProceduralOptions(num_views=views, width=width, height=height, num_points=points)
