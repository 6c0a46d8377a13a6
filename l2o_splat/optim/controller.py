"""What a whole run looks like so far, and how it changes the rates and the momentum of Adam: 27 numbers (ours).

A map that is linear in a few statistics of the scene, and bounded. It is trained on whole runs
(:mod:`l2o_splat.evolution`), since gradients through a few steps are blind to what pays off a hundred steps later
(short-horizon bias, arXiv 1803.02021).
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from typing_extensions import Self

from l2o_splat.gaussians import FIELDS
from l2o_splat.weights.format import Weights, WeightsCard, WeightsError

OUTPUTS = (*FIELDS, "beta1")
"""What is controlled: the rate of each field, and the momentum."""
OWN = ("mean", "share", "slope")
"""Columns of the numbers that each output has for itself; the first counts always."""
SHARED = ("loss", "density", "views")
"""Columns of the numbers that the six rates have in common, and the momentum for itself."""
NUM_NUMBERS = len(OUTPUTS) * len(OWN) + 2 * len(SHARED)

LARGEST_FACTOR = 4.0
"""Rates, and what momentum lacks to 1, are multiplied by at most this, or divided by it."""
LARGEST_STATISTIC = 2.0
"""Statistics are clamped to plus and minus so many widths, so that nothing is extrapolated to unusual scenes."""

_USUAL = {
    "share": (0.5, 0.3),
    "slope": (-0.15, 0.15),
    "loss": (-2.3, 0.7),
    "density": (-1.2, 0.7),
    "views": (2.7, 0.4),
}
"""Centre and width of each statistic, roughly as in runs of 20 to 100 steps on procedural captures; not measured."""


@dataclass(frozen=True)
class SceneStatistics:
    """What is known of a run before a step; None stands for what the training loop does not tell."""

    share: float
    """Of the budget that is spent, 0 to 1."""
    loss: float | None
    """Running average of the log (natural) of the loss."""
    slope: float | None
    """By how much a recent average of the log loss lies above a longer one; negative while a scene improves."""
    density: float | None
    """Log of the number of Gaussians per pixel of a photograph."""
    views: float | None
    """Log of the number of training views."""

    def normalised(self, *names: str) -> Float[np.ndarray, " f"]:
        """Some statistics in widths around their usual values, clamped; unknown ones are as usual, 0."""

        def one(name: str) -> float:
            value, (usual, width) = getattr(self, name), _USUAL[name]
            return 0.0 if value is None else (value - usual) / width

        return np.clip([one(name) for name in names], -LARGEST_STATISTIC, LARGEST_STATISTIC)


class Gains(NamedTuple):
    """Factors for one step, between 1 / ``LARGEST_FACTOR`` and ``LARGEST_FACTOR``."""

    rates: dict[str, float]
    """Of the rate of each field."""
    forgetting: float
    """Of 1 - beta1, the share of the newest gradient in the momentum."""


@dataclass(frozen=True, eq=False)
class Controller:
    """A map from statistics to gains; with zeros all gains are exactly 1."""

    own: Float[np.ndarray, "7 3"]
    """Rows ``OUTPUTS``, columns ``OWN``; float64."""
    shared: Float[np.ndarray, "2 3"]
    """Rows for all rates and for beta1, columns ``SHARED``; float64."""

    @classmethod
    def neutral(cls) -> Self:
        """The controller that changes nothing."""
        return cls.of_vector(np.zeros(NUM_NUMBERS))

    @classmethod
    def of_vector(cls, numbers: Float[np.ndarray, " d"]) -> Self:
        """The controller of its numbers in one row, see :attr:`vector`."""
        own = len(OUTPUTS) * len(OWN)
        return cls(numbers[:own].reshape(len(OUTPUTS), len(OWN)), numbers[own:].reshape(2, len(SHARED)))

    @property
    def vector(self) -> Float[np.ndarray, " d"]:
        """All numbers in one row."""
        return np.concatenate([self.own.ravel(), self.shared.ravel()])

    def frozen(self) -> Controller:
        """The same gains at usual statistics, and at all others too: what is gained without looking at the scene."""
        own = np.zeros_like(self.own)
        own[:, 0] = self.own[:, 0]
        return Controller(own, np.zeros_like(self.shared))

    def gains(self, statistics: SceneStatistics) -> Gains:
        """Gains for a step."""
        rates, momentum = self.shared @ statistics.normalised(*SHARED)
        logs = self.own @ np.concatenate([[1.0], statistics.normalised("share", "slope")])
        logs += np.array([rates] * len(FIELDS) + [momentum])
        # As steep as the identity at 0, so that the numbers are logarithms of gains.
        limit = math.log(LARGEST_FACTOR)
        factors = [math.exp(limit * math.tanh(value / limit)) for value in logs.tolist()]
        return Gains(dict(zip(FIELDS, factors, strict=False)), factors[-1])

    @property
    def digest(self) -> str:
        """Short hash of the numbers, for fingerprints."""
        return hashlib.sha256(self.vector.tobytes()).hexdigest()[:16]

    @classmethod
    def from_weights(cls, weights: Weights) -> Self:
        """The controller that weights hold.

        Raises:
            WeightsError: If they are of another system, or are no controller of this version.
        """
        tensors = weights.require("controller").tensors
        wanted = {"own": (len(OUTPUTS), len(OWN)), "shared": (2, len(SHARED))}
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != wanted:
            raise WeightsError(
                f"The controller from {weights.card.source} has tensors {found}; {wanted} is needed: train it again "
                "with 'l2o train-controller'."
            )
        return cls(*(tensors[name].double().numpy() for name in wanted))

    def to_weights(self, card: WeightsCard) -> Weights:
        """The numbers for saving."""
        return Weights({"own": torch.from_numpy(self.own), "shared": torch.from_numpy(self.shared)}, card)
