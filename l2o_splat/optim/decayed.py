"""A rule whose steps become smaller during a run, as the rates of hand-made rules do."""

from __future__ import annotations

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.optim.wrapped import WrappedRule


class DecayedRule(WrappedRule):
    """Multiplies the steps of another rule by a factor that falls exponentially from 1; what it remembers is its own.

    Args:
        rule: Any rule.
        final_factor: Factor at the horizon and beyond, above 0.
        horizon: Steps over which it falls; in runs with a time budget it falls over the budget instead.

    Raises:
        ValueError: If the factor is not above 0, or the horizon below 1.
    """

    def __init__(self, rule: UpdateRule, final_factor: float, horizon: int) -> None:
        super().__init__(rule)
        if not final_factor > 0 or horizon < 1:
            raise ValueError(
                f"Steps are to decay to {final_factor} over {horizon} steps; a factor above 0 and at least 1 step are "
                "needed."
            )
        self.final_factor, self.horizon = final_factor, horizon

    def around(self, rule: UpdateRule) -> UpdateRule:
        return DecayedRule(rule, self.final_factor, self.horizon)

    @property
    def fingerprint(self) -> str:
        return f"{self.rule.fingerprint} decaying to {self.final_factor} over {self.horizon} steps"

    def factor(self, feedback: Feedback) -> float:
        """Factor of a step."""
        share = feedback.step / self.horizon if feedback.progress is None else feedback.progress
        return self.final_factor ** min(share, 1.0)

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        delta, state = self.rule(gaussians, feedback, state)
        factor = self.factor(feedback)
        return Gaussians(**{name: factor * value for name, value in delta.items()}), state
