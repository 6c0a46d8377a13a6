"""The base of rules that stand around another rule and hand everything on to it."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, Moments, Needs, RuleState, UpdateRule
from l2o_splat.scene import SceneKnowledge, SceneStart


class WrappedRule(UpdateRule):
    """Hands needs, binding, state and steps on to ``rule``; subclasses override what they change.

    Feedback goes on whole, so that a rule that gets renders also gets them from inside another one.
    """

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule

    @abstractmethod
    def around(self, rule: UpdateRule) -> UpdateRule:
        """The same wrapper around another rule."""

    @property
    def trained_raster(self) -> dict[str, Any] | None:
        return self.rule.trained_raster

    @property
    def num_steps(self) -> int | None:
        return self.rule.num_steps

    @property
    def needs(self) -> Needs:
        return self.rule.needs

    def bind(self, scene: SceneKnowledge) -> UpdateRule:
        return self.around(self.rule.bind(scene))

    def init_state(self, start: SceneStart) -> RuleState:
        return self.rule.init_state(start)

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        return self.rule(gaussians, feedback, state)

    def work_at(self, step: int) -> str:
        return self.rule.work_at(step)

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        return self.rule.insight(state, step)

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return self.rule.moments(state, field)

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        return self.rule.resize_state(state, source, fresh)
