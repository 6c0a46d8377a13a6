"""Options that every training has."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Schedule:
    """When a run evaluates and saves, and which processes make its captures; the weights do not depend on it."""

    evaluate_every: int = 200
    """Iterations between evaluations on the validation captures."""
    save_every: int = 100
    """Iterations between saved states."""
    workers: int = 1
    """Processes that make captures ahead of time; 0 makes each capture when it is needed."""
