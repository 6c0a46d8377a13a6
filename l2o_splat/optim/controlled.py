"""Adam whose rates and momentum a small controller changes during a run, see :mod:`l2o_splat.optim.controller`."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.adam import AdamOptions, AdamRule, Rates
from l2o_splat.optim.controller import Controller, SceneStatistics
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.optim.wrapped import WrappedRule
from l2o_splat.scene import SceneKnowledge, SceneStart

RECENT, LONGER = 0.8, 0.95
"""Decays of the two running averages of the log loss, whose difference is its slope: over 4 and 19 steps."""


class ControlledRule(WrappedRule):
    """Adam with the gains of a controller on rates and momentum; a neutral controller is Adam, bit for bit.

    The bias correction of a step is that of its own beta1, as if that had been constant.

    State: that of Adam; of the scene ``log_loss [2]`` (float64), a recent and a longer running average of the log of
    the loss, infinite until there is one.

    Args:
        options: Of Adam.
        controller: Its gains multiply the rates and 1 - beta1.
        num_views: Training views; None if it is not known.
    """

    def __init__(self, options: AdamOptions, controller: Controller, num_views: int | None = None) -> None:
        super().__init__(AdamRule(options))
        self.options, self.controller, self.num_views = options, controller, num_views

    def around(self, rule: UpdateRule) -> UpdateRule:
        return ControlledRule(self.options, self.controller, self.num_views)

    def bind(self, scene: SceneKnowledge) -> UpdateRule:
        # Loops that do not know their cameras bind one.
        bound = ControlledRule(self.options, self.controller, len(scene.centres) if len(scene.centres) > 1 else None)
        bound.card = self.card
        return bound

    def init_state(self, start: SceneStart) -> RuleState:
        return replace(super().init_state(start), per_scene={"log_loss": _log_loss(None, start.gaussians.device)})

    @property
    def trained_raster(self) -> dict[str, object] | None:
        return None if self.card is None else self.card.raster

    @property
    def fingerprint(self) -> str:
        return f"controller {self.controller.digest} of [{self.rule.fingerprint}]"

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        rule, scene = self._before(gaussians, feedback, state)
        delta, moved = rule(gaussians, feedback, state)
        return delta, replace(moved, per_scene=scene)

    @torch.no_grad()
    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        rule, scene = self._before(gaussians, feedback, state)
        moved = rule.step_in_place(gaussians, feedback, state)
        return None if moved is None else replace(moved, per_scene=scene)

    def _before(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[AdamRule, dict[str, Tensor]]:
        """Adam with the gains of this step, and the numbers of the scene after it."""
        averages = _averages(feedback, state)
        options, gains = self.options, self.controller.gains(self._statistics(gaussians, feedback, averages))
        rates = Rates(**{name: gains.rates[name] * rate for name, rate in asdict(options.rates).items()})
        rule = AdamRule(replace(options, rates=rates, beta1=1 - gains.forgetting * (1 - options.beta1)))
        return rule, {"log_loss": _log_loss(averages, gaussians.device)}

    def _statistics(
        self, gaussians: Gaussians, feedback: Feedback, averages: tuple[float, float] | None
    ) -> SceneStatistics:
        per_pixel = None if feedback.pixels is None else len(gaussians) / feedback.pixels
        spent = feedback.step / self.options.horizon if feedback.progress is None else feedback.progress
        return SceneStatistics(
            share=min(spent, 1.0),
            loss=None if averages is None else averages[0],
            slope=None if averages is None else averages[0] - averages[1],
            density=math.log(per_pixel) if per_pixel else None,
            views=None if self.num_views is None else math.log(self.num_views),
        )


def _averages(feedback: Feedback, state: RuleState) -> tuple[float, float] | None:
    """Running averages of the log loss, that of the step to come included; None if there was none so far."""
    before = tuple(state["log_loss"].tolist())
    before = None if math.isinf(before[0]) else before
    loss = math.nan if feedback.loss is None else float(feedback.loss)
    if not 0 < loss < math.inf:
        return before
    now = math.log(loss)
    if before is None:
        return now, now
    return RECENT * before[0] + (1 - RECENT) * now, LONGER * before[1] + (1 - LONGER) * now


def _log_loss(averages: tuple[float, float] | None, device: torch.device) -> Float[Tensor, " 2"]:
    """The averages as the state holds them; infinite before there is a loss."""
    return torch.tensor(averages or (math.inf, math.inf), dtype=torch.float64, device=device)
