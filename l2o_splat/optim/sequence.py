"""One rule after another: a learned rule for the first steps, another to finish, say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, Moments, Needs, RuleState, UpdateRule, nested_moments
from l2o_splat.scene import SceneKnowledge, SceneStart


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
        if second.needs.precision:
            raise ValueError(
                "The second rule holds Gaussians near their start, which only a first rule can; swap them."
            )
        self.first = first
        self.second = second
        self.switch_after = switch_after

    @property
    def trained_raster(self) -> dict[str, Any] | None:
        return self.first.trained_raster

    @property
    def needs(self) -> Needs:
        return self.first.needs.then(self.second.needs, self.switch_after)

    def bind(self, scene: SceneKnowledge) -> SequencedRule:
        return SequencedRule(self.first.bind(scene), self.second.bind(scene), self.switch_after)

    @property
    def fingerprint(self) -> str:
        return f"[{self.first.fingerprint}] for {self.switch_after} steps, then [{self.second.fingerprint}]"

    def init_state(self, start: SceneStart) -> RuleState:
        return self.first.init_state(start).nested("first")

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        name, rule, feedback, inner = self._at_work(gaussians, feedback, state)
        delta, inner = rule(gaussians, feedback, inner)
        return delta, inner.nested(name)

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        name, rule, feedback, inner = self._at_work(gaussians, feedback, state)
        inner = rule.step_in_place(gaussians, feedback, inner)
        return None if inner is None else inner.nested(name)

    def _at_work(
        self, gaussians: Gaussians, feedback: Feedback, state: RuleState
    ) -> tuple[str, UpdateRule, Feedback, RuleState]:
        """Which rule is at work, with the feedback and the state as it sees them."""
        if feedback.step < self.switch_after:
            return "first", self.first, feedback, state.part("first")
        inner = state.part("second") or self.second.init_state(SceneStart(gaussians))
        return "second", self.second, replace(feedback, step=feedback.step - self.switch_after), inner

    def work_at(self, step: int) -> str:
        if step < self.switch_after:
            return f"first {self.first.work_at(step)}"
        return f"second {self.second.work_at(step - self.switch_after)}"

    def insight(self, state: RuleState, step: int) -> dict[str, Tensor]:
        if second := state.part("second"):
            return self.second.insight(second, step - self.switch_after)
        return self.first.insight(state.part("first"), step)

    def moments(self, state: RuleState, field: str) -> list[Moments]:
        return nested_moments(state, field, {"first": self.first, "second": self.second})

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        resized = RuleState()
        for prefix, rule in (("first", self.first), ("second", self.second)):
            if part := state.part(prefix):
                resized |= rule.resize_state(part, source, fresh).nested(prefix)
        return resized
