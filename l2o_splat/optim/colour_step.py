"""Colours in closed form, for the first steps of a rule that follows gradients (ours, not a paper's).

An image is linear in the colours of the Gaussians: C = sum_i w_i c_i. With the curvature kappa of the loss at a pixel,

    loss(c + delta) - loss(c)  <=  sum_i [ s_i delta_i + K_i delta_i^2 / 2 ],
    s_i = sum w_i d loss / d C,    K_i = sum w_i kappa,

for a loss that is quadratic in the image, since sum_i w_i <= 1 lets the square of a pixel's change be shared among the
Gaussians (De Pierro, IEEE TMI 1995). The right side falls apart into one small problem for each Gaussian, and solving
all of them at once never raises the loss. A colour c_iv = sum_k Y_k(direction to view v) f_ik is linear in its
spherical harmonics f_i, so that they solve

    (sum_v K_iv Y_v Y_v^T + lambda_i) delta f_i = -sum_v s_iv Y_v,    lambda_i = ``DAMPING`` max_v K_iv.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from l2o_splat.gaussians import Gaussians
from l2o_splat.harmonics import sh_basis
from l2o_splat.optim.in_place import kernels_can_use
from l2o_splat.optim.rule import Feedback, Needs, RuleState, UpdateRule
from l2o_splat.optim.wrapped import WrappedRule
from l2o_splat.rendering.evidence import LEAST_VISIBILITY, Evidence

STEPS = 30
"""Steps in which the closed form has a share, unless another number is asked for."""
MAX_DEGREE = 1
"""Highest degree of spherical harmonics that moves; the views of a step say little about more."""
DAMPING = 0.05
"""Added curvature of every harmonic, in units of the largest curvature of a view."""
LARGEST_STEP = 1.5
"""No spherical harmonic moves further at once."""


class ColourStepRule(WrappedRule):
    """Blends another rule's step of the colours with the closed form.

    In step t the closed form has the share 1 - t / ``steps``, and the other rule the rest; beyond, and without evidence
    in the feedback, the other rule works as if alone. Its state is the whole state. Fields other than the colours are
    its own throughout.

    Args:
        rule: Moves the Gaussians by gradients.
        steps: Steps in which the closed form has a share.

    Raises:
        ValueError: If there are no steps, the rule gets renders instead of gradients, or it holds Gaussians to a start.
    """

    def __init__(self, rule: UpdateRule, steps: int = STEPS) -> None:
        super().__init__(rule)
        if steps < 1:
            raise ValueError(f"Colours should move in closed form for {steps} steps; at least 1 is needed.")
        if rule.needs.renders or rule.needs.precision:
            raise ValueError(
                "Colours cannot move in closed form beside a rule that gets renders or holds Gaussians to a start; use "
                "a rule that follows gradients alone."
            )
        self.steps = steps

    def around(self, rule: UpdateRule) -> ColourStepRule:
        return ColourStepRule(rule, self.steps)

    @property
    def needs(self) -> Needs:
        needs = self.rule.needs
        return replace(needs, evidence=(*needs.evidence, (0, self.steps, "colours")))

    @property
    def fingerprint(self) -> str:
        return f"[{self.rule.fingerprint}] with colours in closed form for {self.steps} steps"

    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        delta, state = self.rule(gaussians, feedback, state)
        closed = self._closed_form(gaussians, feedback)
        if closed is None:
            return delta, state
        colours, by_rule = _colours(gaussians, closed), _colours(delta, closed)
        # What the other rule's step moves after rounding, as it shows in a step that is taken in place.
        blended = [
            self._blend((colour + step) - colour, step_closed, feedback.step)
            for colour, step, step_closed in zip(colours, by_rule, _parts(closed), strict=True)
        ]
        rest = torch.cat([blended[1], delta.features_rest[:, closed.shape[1] - 1 :]], dim=1)
        return replace(delta, features_dc=blended[0], features_rest=rest), state

    @torch.no_grad()
    def step_in_place(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> RuleState | None:
        closed = self._closed_form(gaussians, feedback)
        if closed is None:
            return self.rule.step_in_place(gaussians, feedback, state)
        if not torch.isfinite(closed).all():
            return None
        colours = _colours(gaussians, closed)
        before = [colour.clone() for colour in colours]
        state = self.rule.step_in_place(gaussians, feedback, state)
        if state is not None:
            for colour, old, step in zip(colours, before, _parts(closed), strict=True):
                colour.copy_(old + self._blend(colour - old, step, feedback.step))
        return state

    def _closed_form(self, gaussians: Gaussians, feedback: Feedback) -> Float[Tensor, "n k 3"] | None:
        """The step of the closed form; None if it has no share in this step."""
        if feedback.step >= self.steps or feedback.evidence is None or feedback.evidence.colours is None:
            return None
        return colour_step(gaussians, feedback.evidence)

    def _blend(self, by_rule: Tensor, closed: Tensor, step: int) -> Tensor:
        share = 1 - step / self.steps
        return (1 - share) * by_rule + share * closed


def _colours(gaussians: Gaussians, closed: Float[Tensor, "n k 3"]) -> tuple[Tensor, Tensor]:
    """The spherical harmonics that the closed form moves, in the memory of the Gaussians."""
    return gaussians.features_dc, gaussians.features_rest[:, : closed.shape[1] - 1]


def _parts(closed: Float[Tensor, "n k 3"]) -> tuple[Tensor, Tensor]:
    return closed[:, 0], closed[:, 1:]


@torch.no_grad()
def colour_step(gaussians: Gaussians, evidence: Evidence, max_degree: int = MAX_DEGREE) -> Float[Tensor, "n k 3"]:
    """The step of the spherical harmonics up to a degree that minimises the bound of the loss, see the module.

    Gaussians that are not seen, with ``LEAST_VISIBILITY``, stay; views without curvature do not count. Without
    harmonics above degree 0 there is no damping.

    Args:
        gaussians: Unactivated scene, in the frame of the evidence.
        evidence: That of the step, with colours.
        max_degree: Highest degree that moves, if it is stored and drawn; 0 or 1.
    """
    colours = evidence.colours
    degree = min(max_degree, colours.sh_degree, gaussians.sh_degree)
    bands = (degree + 1) ** 2
    damping = DAMPING if degree else 0.0
    gradients, curvature = colours.gradients.contiguous(), colours.curvature.contiguous()
    if kernels_can_use(gaussians.means, gradients, curvature, evidence.visibility) and len(gaussians):
        from l2o_splat.optim.colour_kernel import solve

        return solve(
            *(gaussians.means, gradients, curvature, evidence.visibility, colours.centres, degree),
            *(damping, LEAST_VISIBILITY, LARGEST_STEP),
        )
    directions = gaussians.means - colours.centres[:, None]
    directions = directions / directions.norm(dim=2, keepdim=True)
    basis = sh_basis(directions.flatten(0, 1), degree).unflatten(0, directions.shape[:2])
    matrices = torch.einsum("vn,vni,vnj->nij", curvature, basis, basis)
    largest = curvature.amax(dim=0)
    seen = (evidence.visibility >= LEAST_VISIBILITY) & (largest > 0)
    added = torch.where(seen, damping * largest, 1)
    matrices = matrices + added[:, None, None] * torch.eye(bands).to(matrices)
    wanted = torch.einsum("vnc,vni->nic", torch.where(curvature[..., None] > 0, gradients, 0), basis)
    steps = -torch.linalg.solve(matrices, wanted)
    return torch.where(seen[:, None, None], steps.clamp(-LARGEST_STEP, LARGEST_STEP), 0)
