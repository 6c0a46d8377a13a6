"""The update rule: one pure function that moves all parameters of a scene at once."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from l2o_splat.gaussians import Gaussians
from l2o_splat.scene import SceneKnowledge
from l2o_splat.views import Views

RuleState = dict[str, Tensor]
"""What a rule remembers between steps: named tensors of any dtype with one row per Gaussian (``"n ..."``)."""

FeedbackKind = Literal["gradients", "renders"]
"""What a rule looks at in a step: the gradient of the loss, or renders of the context views."""


@dataclass(frozen=True)
class RenderedViews:
    """Photographs beside what the scene looks like from the same cameras."""

    views: Views
    images: Float[Tensor, "v h w 3"]
    """Renders of the present Gaussians, sRGB, not clamped."""

    def __post_init__(self) -> None:
        if self.images.shape != self.views.images.shape:
            raise ValueError(
                f"The renders have shape {tuple(self.images.shape)} and the photographs "
                f"{tuple(self.views.images.shape)}; render the cameras of the photographs."
            )


@dataclass(frozen=True)
class Feedback:
    """What a rule is told about the scene in one inner step."""

    gradients: Gaussians | None
    """Gradient of the step's loss (mean over pixels, sum over views) to every unactivated parameter; None for rules
    that look at renders alone."""
    step: int
    """Inner steps taken before this one."""
    scene_extent: float
    """1.1 x the largest distance of a training camera from their mean, scene units (as gsplat's trainer)."""
    rendered: RenderedViews | None = None
    """The context views, for rules that look at renders; None where nothing was rendered for that."""
    loss: Float[Tensor, ""] | None = None
    """Loss of the step before the update, mean over pixels, mean over views; None where nobody told."""


class UpdateRule(nn.Module):
    """Maps Gaussians and feedback to a delta; hand-designed and learned optimizers alike.

    A rule is pure: it keeps nothing between calls but its own weights. Everything else lives in the
    state it is handed and returns, row-aligned with the Gaussians, so that saving, resuming and
    changing the number of Gaussians work for every rule in the same way.
    """

    trained_raster: dict[str, Any] | None = None
    """``RasterSettings`` the rule was trained with, those that differ from the defaults; None where any will do."""

    def in_scene(self, scene: SceneKnowledge) -> UpdateRule:
        """This rule for scenes whose cameras are known; rules that work in units of their own are framed here."""
        return self

    def feedback_at(self, step: int) -> FeedbackKind:
        """What the rule looks at in its step ``step``, counted from 0; the other kind need not be computed."""
        return "gradients"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name, options and weights hash in one line; a checkpoint resumes only with the same one."""

    @abstractmethod
    def init_state(self, gaussians: Gaussians, features: Float[Tensor, "n f"] | None = None) -> RuleState:
        """The state before the first step.

        Args:
            gaussians: The scene at its start.
            features: What the initializer knows about each Gaussian, for rules that can use it.
        """

    @abstractmethod
    def forward(self, gaussians: Gaussians, feedback: Feedback, state: RuleState) -> tuple[Gaussians, RuleState]:
        """One inner step.

        Returns:
            The delta to *add* to every parameter, and the state for the next step. Neither the
            Gaussians nor the given state are changed.
        """

    def resize_state(self, state: RuleState, source: Int[Tensor, " m"], fresh: Bool[Tensor, " m"]) -> RuleState:
        """The state after the number of Gaussians has changed from n to m.

        Args:
            state: State of the n old Gaussians.
            source: Old index each of the m new Gaussians comes from.
            fresh: True for Gaussians that were added (cloned, split, padded), False for those kept.

        Returns:
            State of the m new Gaussians: kept rows move along, added rows start at zero. Rules whose
            state refers to other rows (neighbour lists) override this.
        """
        resized = {}
        for name, rows in state.items():
            moved = rows[source]
            resized[name] = torch.where(fresh.view(-1, *[1] * (moved.ndim - 1)), torch.zeros_like(moved), moved)
        return resized


def digest_of(network: nn.Module) -> str:
    """Short hash of a network's weights, for fingerprints."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
