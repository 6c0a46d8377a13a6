"""What a run does beside its rule: where the scene starts, and what changes during the run. One table a preset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PresetName = Literal["plain", "fast", "paper", "adc"]

Stages = tuple[tuple[float, float], ...]
"""Pairs of a share of the budget and a value that holds from there on; the first share is 0."""


@dataclass(frozen=True)
class Preset:
    """One column of the table; options that are typed win."""

    by_share: Literal["always", "timed", "never"]
    """When rates follow the share of the budget that is spent: in every run, or in those with a time budget alone. In
    the others they count steps."""
    coarse_to_fine: bool = False
    """Train on reduced photographs first, see :mod:`l2o_splat.schedule.resolution`."""
    sh_degrees: Stages = ((0.0, 3),)
    """Highest SH degree that is drawn."""
    views_per_coefficient: float = 0.0
    """Training views that each SH coefficient of a colour channel needs; higher degrees are not drawn, since few
    photographs fit their own noise with them. 0 asks for none."""
    growth: float | None = 1.0
    """Gaussians at the end, as a multiple of those at the start; 1 keeps their number. None makes twice as many, and up
    to four times where photographs have the pixels for it, see :func:`l2o_splat.growth.budget.growth_by_pixels`."""
    adaptive: bool = False
    """Adaptive density control of 3DGS instead, see :mod:`l2o_splat.growth.adc`; it finds the number by itself."""
    rates: float = 1.0
    """Factor of the rates of hand-made rules."""
    max_elongation: float | None = None
    """Longest axis of a Gaussian, as a multiple of its second one; None has no bound."""
    dropout: float | None = 0.0
    """Share of the Gaussians that a step leaves out, see :mod:`l2o_splat.rendering.dropout`; it rises from 0 to this at
    the end. None has more of it the fewer photographs there are, see :func:`dropout_of`."""
    averages: float | None = None
    """Scenes of earlier steps that the scene which is shown and saved is an average over, see
    :mod:`l2o_splat.optim.averaged_scene`; None shows the last one."""
    hand_over_after: int | None = None
    """Steps after which adam-own-scale goes on where the paper's network of learn2splat or the rule proximal began, and
    growth may begin; None leaves the run to these."""


DROPOUT_VIEWS = 2.4
"""Training views, times the root of the share of the Gaussians that is left out."""
MOST_DROPOUT = 0.3
"""Largest share that is left out however few views there are."""

PRESETS: dict[PresetName, Preset] = {
    # One Gaussian per point, photographs at their size, a fixed number of Gaussians.
    "plain": Preset(by_share="timed"),
    # The best picture for the time there is, whatever it takes.
    "fast": Preset(
        by_share="always",
        coarse_to_fine=True,
        sh_degrees=((0.0, 0), (0.07, 1), (0.25, 2), (0.4, 3)),
        views_per_coefficient=2.0,
        growth=None,
        rates=0.6,
        max_elongation=5.0,
        dropout=None,
        averages=4.0,
        hand_over_after=20,
    ),
    # The protocols of the papers, for released weights and for comparisons with published numbers.
    "paper": Preset(by_share="never"),
    # What people use elsewhere, as a baseline: 3DGS's density control, and its SH degrees (one more every 1000 steps)
    # in shares of its run of 30,000 steps.
    "adc": Preset(by_share="timed", sh_degrees=((0.0, 0), (1 / 30, 1), (2 / 30, 2), (3 / 30, 3)), adaptive=True),
}


@dataclass
class ScheduleConfig:
    """What changes during a run. None takes the value of the preset."""

    coarse_to_fine: bool | None = None
    """Train on reduced photographs first."""
    sh_by_share: bool | None = None
    """Let colours depend on the direction of view later, degree by degree, as far as there are views for it."""
    growth: float | None = None
    """Gaussians at the end, as a multiple of those at the start; 1 keeps their number."""
    max_elongation: float | None = None
    """Longest axis of a Gaussian, as a multiple of its second one; inf for no bound."""
    dropout: float | None = None
    """Share of the Gaussians that steps leave out at the end of the run, so that few photographs are not learnt by
    heart; 0 for none."""
    controller: str | None = None
    """Weights of a controller of rates, views, image sizes and growth, see docs/train-controller.md; with the preset
    fast alone. none: the preset as it is. None: constants-mini for adam-own-scale with the preset fast, else none."""


def highest_sh_degree(views: int, views_per_coefficient: float) -> int:
    """The highest of the degrees 0 to 3 for whose coefficients, (degree + 1)^2 a channel, there are views enough."""
    return max((degree for degree in (1, 2, 3) if views_per_coefficient * (degree + 1) ** 2 <= views), default=0)


def dropout_of(views: int) -> float:
    """Share of the Gaussians that the last steps of a run leave out, by its number of training views."""
    return min((DROPOUT_VIEWS / max(views, 1)) ** 2, MOST_DROPOUT)


def value_at(stages: Stages, progress: float) -> float:
    """The value that holds at a share of the budget."""
    return next(value for share, value in reversed(stages) if share <= progress)
