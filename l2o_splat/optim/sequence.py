"""One rule after another: a learned rule for the first steps, another to finish, say."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Bool, Float, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, FeedbackKind, RuleState, UpdateRule
from l2o_splat.scene import SceneKnowledge


class SequencedRule(UpdateRule):
    """Uses ``first`` for ``switch_after`` steps and ``second`` from then on.

    The second rule starts afresh at the switch: its state is initialized on the Gaussians as they are,
    and its steps count from zero, so that its rates decay over its own horizon. The state of the first
    is dropped. Changes in the number of Gaussians reach whichever rule is at work.
    """

    def __init__(self, first: UpdateRule, second: UpdateRule, switch_after: int) -> None:
        super().__init__()
        if switch_after < 1:
            raise ValueError(f"The second rule should follow after {switch_after} steps; at least 1 is needed.")
        self.first = first
        self.second = second
        self.switch_after = switch_after
        self.trained_raster = first.trained_raster

    def in_scene(self, scene: SceneKnowledge) -> UpdateRule:
        return SequencedRule(self.first.in_scene(scene), self.second.in_scene(scene), self.switch_after)

    def feedback_at(self, step: int) -> FeedbackKind:
        if step < self.switch_after:
            return self.first.feedback_at(step)
        return self.second.feedback_at(step - self.switch_after)

    @property
    def fingerprint(self) -> str:
        return f"[{self.first.fingerprint}] for {self.switch_after} steps, then [{self.second.fingerprint}]"

    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n f"] | None = None) -> RuleState:
        return prefixed("first", self.first.init_state(gaussians, features))

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        if feedback.step < self.switch_after:
            delta, state = self.first(gaussians, feedback, own_state("first", state))
            return delta, prefixed("first", state)
        own = own_state("second", state) or self.second.init_state(gaussians)
        late = replace(feedback, step=feedback.step - self.switch_after)
        delta, own = self.second(gaussians, late, own)
        return delta, prefixed("second", own)

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        resized: RuleState = {}
        for prefix, rule in (("first", self.first), ("second", self.second)):
            if own := own_state(prefix, state):
                resized |= prefixed(prefix, rule.resize_state(own, source, fresh))
        return resized


def prefixed(prefix: str, state: RuleState) -> RuleState:
    """A rule's state under names that begin with ``prefix.``, as part of a larger one."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def own_state(prefix: str, state: RuleState) -> RuleState:
    """The part of a state that :func:`prefixed` made, under its own names."""
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}
