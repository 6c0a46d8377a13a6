"""A rule that works in training units on a scene that stays in its own."""

from __future__ import annotations

from dataclasses import replace

from l2o_splat.frame import Frame
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.optim.wrapped import WrappedRule
from l2o_splat.scene import SceneStart


class FramedRule(WrappedRule):
    """Shows another rule the scene in the units it was trained in, and brings its deltas back to scene units."""

    def __init__(self, rule: UpdateRule, frame: Frame) -> None:
        super().__init__(rule)
        self.frame = frame

    def around(self, rule: UpdateRule) -> UpdateRule:
        # A rule that knows its own frame has brought it along, and two frames would scale the scene twice.
        return rule if isinstance(rule, FramedRule) else FramedRule(rule, self.frame)

    @property
    def fingerprint(self) -> str:
        return f"{self.rule.fingerprint} in {self.frame.describe()}"

    def init_state(self, start: SceneStart) -> RuleState:
        return self.rule.init_state(replace(start, gaussians=self.frame.to_local(start.gaussians)))

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if self.frame.is_identity:
            return self.rule(gaussians, feedback, state)
        deltas, state = self.rule(self.frame.to_local(gaussians), self._framed(feedback), state)
        return self.frame.deltas_to_world(deltas), state

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        if self.frame.is_identity:
            return self.rule.step_in_place(gaussians, feedback, state)
        return super().step_in_place(gaussians, feedback, state)

    def _framed(self, feedback: Feedback) -> Feedback:
        gradients, rendered, evidence = feedback.gradients, feedback.rendered, feedback.evidence
        if rendered is not None:
            rendered = replace(rendered, views=self.frame.views_to_local(rendered.views))
        if evidence is not None and evidence.colours is not None:
            centres = self.frame.points_to_local(evidence.colours.centres)
            evidence = replace(evidence, colours=replace(evidence.colours, centres=centres))
        return replace(
            feedback,
            gradients=None if gradients is None else self.frame.gradients_to_local(gradients),
            scene_extent=feedback.scene_extent * self.frame.scale,
            rendered=rendered,
            evidence=evidence,
        )
