"""A running average of the scenes that the last steps left, which is better than the last of them.

A step that shows few views leaves the scene a little beside its optimum, in another direction each time; the average
takes this back without smaller steps (Polyak and Juditsky 1992; for deep networks arXiv 1803.05407). It never changes
what is optimized.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import Parameter

from l2o_splat.gaussians import Gaussians

STEPS_PER_STEP = 16
"""Early steps change the scene much; until a run has taken this many times more, the average reaches over less."""


def weight_of_newest(taken: int, steps: float) -> float:
    """Weight of the scene after a step in the average.

    Args:
        taken: Steps before this one.
        steps: Scenes before the newest one that the average reaches over, once enough were taken.
    """
    return 1 / (1 + min(taken / STEPS_PER_STEP, steps))


class AveragedScene:
    """The parameters of a scene and their running average, either of which the parameters can hold.

    Args:
        parameters: By field; they are moved between the calls of :meth:`follow`.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self._parameters = parameters
        self._aside = self._held.map(torch.clone)
        """What the parameters do not hold: the average, or the scene while the average is shown."""
        self.is_shown = False
        """Whether the parameters hold the average."""

    @property
    def _held(self) -> Gaussians:
        return Gaussians.from_mapping({name: parameter.detach() for name, parameter in self._parameters.items()})

    def follow(self, weight: float) -> None:
        """Move the average towards the scene by a share of their difference, 0 to 1."""
        for (_, average), (_, scene) in zip(self._aside.items(), self._held.items(), strict=True):
            average.lerp_(scene, weight) if weight < 1 else average.copy_(scene)

    def show(self, shown: bool) -> None:
        """Let the parameters hold the average, or the scene again; their memory is swapped, nothing is copied."""
        if shown == self.is_shown:
            return
        held, self.is_shown = self._held, shown
        for name, value in self._aside.items():
            self._parameters[name].data = value
        self._aside = held

    def resized(self, gaussians: Gaussians, source: Int[Tensor, " m"]) -> None:
        """The scene is about to become other Gaussians: the average changes from what they come from as they do.

        Args:
            gaussians: The m new Gaussians.
            source: Index that each of them comes from.
        """
        before = self._held.map(lambda value: value[source])
        change = gaussians.zip_map(torch.sub, before)
        self._aside = change.zip_map(lambda moved, average: moved + average[source], self._aside)

    def state(self) -> dict[str, Tensor | bool]:
        """What a checkpoint must hold beside the parameters."""
        return dict(self._aside.items()) | {"is_shown": self.is_shown}

    def load(self, state: Mapping[str, Tensor | bool]) -> None:
        """Go on with the parameters that a checkpoint was written with, and what :meth:`state` gave."""
        like = self._held.means
        self._aside = Gaussians.from_mapping(state).map(lambda value: value.detach().to(like, copy=True))
        self.is_shown = bool(state["is_shown"])
        self.show(False)
