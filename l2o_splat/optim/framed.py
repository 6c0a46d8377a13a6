"""A rule that works in training units on a scene that stays in its own."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule


class FramedRule(UpdateRule):
    """Shows another rule the scene in the units it was trained in, and brings its deltas back to scene units."""

    def __init__(self, rule: UpdateRule, frame: Frame) -> None:
        super().__init__()
        self.rule = rule
        self.frame = frame
        self.trained_raster = rule.trained_raster

    @property
    def fingerprint(self) -> str:
        return f"{self.rule.fingerprint} in {self.frame.describe()}"

    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n f"] | None = None) -> RuleState:
        return self.rule.init_state(self.frame.to_local(gaussians), features)

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if self.frame.is_identity:
            return self.rule(gaussians, feedback, state)
        framed = replace(
            feedback,
            gradients=self.frame.gradients_to_local(feedback.gradients),
            scene_extent=feedback.scene_extent * self.frame.scale,
        )
        deltas, state = self.rule(self.frame.to_local(gaussians), framed, state)
        return self.frame.deltas_to_world(deltas), state

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        return self.rule.resize_state(state, source, fresh)
