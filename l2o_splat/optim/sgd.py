"""Plain gradient descent with one rate per field: what is left of Adam without its moments."""

from __future__ import annotations

from dataclasses import asdict

from l2o_splat.gaussians import Gaussians
from l2o_splat.optim.adam import Rates
from l2o_splat.optim.rule import Feedback, RuleState, UpdateRule
from l2o_splat.scene import SceneStart

SGD_RATES = Rates(0.06, 16.0, 60.0, 110.0, 12.5, 0.85)
"""About twice gsplat's rates for Adam over the size (root mean square) of the gradients on procedural captures of 2000
Gaussians; three times is stable there, ten times is not."""


class SgdRule(UpdateRule):
    """Gradient descent on all six fields; equal to one ``torch.optim.SGD`` per field. It remembers nothing.

    Args:
        rates: Step per unit of gradient of each field, in the units of each unactivated parameter; that of the means
            is multiplied by the square of the extent of the cameras, so that the size of the scene does not matter.
    """

    def __init__(self, rates: Rates = SGD_RATES) -> None:
        super().__init__()
        self.rates = rates

    @classmethod
    def faster(cls, factor: float) -> SgdRule:
        """The rule with all rates multiplied by a factor."""
        return cls(Rates(**{name: factor * rate for name, rate in asdict(SGD_RATES).items()}))

    @property
    def fingerprint(self) -> str:
        return f"sgd {self.rates}"

    def init_state(self, start: SceneStart) -> RuleState:
        return RuleState()

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        rates = asdict(self.rates)
        rates["means"] *= feedback.scene_extent**2
        return Gaussians(**{name: -rates[name] * gradient for name, gradient in feedback.gradients.items()}), state
