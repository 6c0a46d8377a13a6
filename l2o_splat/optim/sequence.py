"""One rule after another: a learned rule for the first steps, another to finish, say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from l2o_splat.budget.pace import share_of_rest
from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, Moments, Needs, RuleState, UpdateRule, nested_moments
from l2o_splat.scene import SceneKnowledge, SceneStart

_BEGUN = "second_begun"
"""Number of the scene: share of the budget that was spent when the second rule took over; absent in runs without."""


class SequencedRule(UpdateRule):
    """Uses ``first`` for ``switch_after`` steps and ``second`` from then on.

    The second rule starts afresh at the switch: its state is initialized on the Gaussians as they are, and its steps
    count from zero, so that its rates decay over its own horizon. Where rates follow the budget instead, what is left
    of it at the switch is the second rule's whole one. The state of the first is dropped. Changes in the number of
    Gaussians reach whichever rule is at work.
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
        name, rule, feedback, inner, own = self._at_work(gaussians, feedback, state)
        delta, inner = rule(gaussians, feedback, inner)
        return delta, inner.nested(name) | own

    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        name, rule, feedback, inner, own = self._at_work(gaussians, feedback, state)
        inner = rule.step_in_place(gaussians, feedback, inner)
        return None if inner is None else inner.nested(name) | own

    def _at_work(
        self, gaussians: Gaussians, feedback: Feedback, state: RuleState
    ) -> tuple[str, UpdateRule, Feedback, RuleState, RuleState]:
        """Which rule is at work, with the feedback and the state as it sees them, and what this rule remembers."""
        if feedback.step < self.switch_after:
            return "first", self.first, feedback, state.part("first"), RuleState()
        inner, own = state.part("second"), _own_part(state)
        if not inner:
            inner = self.second.init_state(SceneStart(gaussians))
            if feedback.progress is not None:
                own = RuleState(per_scene={_BEGUN: torch.tensor(feedback.progress, dtype=torch.float64)})
        progress = feedback.progress
        if progress is not None and own:
            progress = share_of_rest(progress, own[_BEGUN].item())
        seen = replace(feedback, step=feedback.step - self.switch_after, progress=progress)
        return "second", self.second, seen, inner, own

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
        resized = _own_part(state)
        for prefix, rule in (("first", self.first), ("second", self.second)):
            if part := state.part(prefix):
                resized |= rule.resize_state(part, source, fresh).nested(prefix)
        return resized


def _own_part(state: RuleState) -> RuleState:
    """What the sequence itself remembers."""
    return RuleState(per_scene={_BEGUN: state[_BEGUN]}) if _BEGUN in state else RuleState()
