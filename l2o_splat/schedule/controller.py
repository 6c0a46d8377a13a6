"""The slow decisions of a run as functions of what is known of it: 40 numbers (ours).

A map that is linear in a few statistics of the run, and bounded. It is found by trying whole runs
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
from l2o_splat.growth.choice import SplitPreference
from l2o_splat.weights.format import Weights, WeightsCard, WeightsError

NUMBERS: dict[str, tuple[str, ...]] = {
    **{field: ("mean", "share") for field in FIELDS},
    "rates": ("slope", "density", "views", "budget"),
    "forgetting": ("mean", "share", "slope", "budget"),
    "forgetting_squares": ("mean",),
    "views": ("mean", "share", "density", "views", "budget"),
    "growth": ("mean",),
    "sharpness": ("mean", "density"),
    "averages": ("mean",),
    "dropout": ("mean", "share", "views", "budget"),
    "first_event": ("mean",),
    "last_event": ("mean",),
    "split_error": ("mean",),
    "split_visibility": ("mean", "share"),
    "split_opacity": ("mean",),
}
"""What is controlled, and the statistics that it depends on. The mean counts always; ``rates`` are all six fields. What
begins with ``split`` is an exponent of what Gaussians are split by."""
NAMES = tuple(f"{output}.{statistic}" for output, statistics in NUMBERS.items() for statistic in statistics)
"""Names of the numbers, in the order of :attr:`Controller.numbers`."""

LARGEST_FACTOR = 4.0
"""Everything that is controlled is multiplied by at most this, or divided by it."""
LARGEST_EXPONENT = 1.0
"""Exponents that are 0 without a controller stay within plus and minus this."""
LARGEST_STATISTIC = 2.0
"""Statistics are clamped to plus and minus so many widths, so that nothing is extrapolated to unusual scenes."""

_USUAL = {
    "share": (0.5, 0.3),
    "slope": (-0.1, 0.1),
    "density": (-2.5, 0.6),
    "views": (3.2, 0.5),
    "budget": (4.6, 1.2),
}
"""Centre and width of each statistic, roughly as on photographs of half a megapixel in half a minute."""


@dataclass(frozen=True)
class RunStatistics:
    """What is known of a run before a step; None stands for what nobody can know yet."""

    share: float
    """Of the budget that is spent, 0 to 1."""
    slope: float | None = None
    """By how much a recent average of the log loss lies above a longer one; negative while a scene improves."""
    density: float | None = None
    """Log of the number of Gaussians at the start per pixel of a photograph."""
    views: float | None = None
    """Log of the number of training views."""
    budget: float | None = None
    """Log of the number of steps at full size that the whole budget would hold."""

    def in_widths(self, name: str) -> float:
        """A statistic in widths around its usual value, clamped; what is not known is as usual, 0."""
        if name == "mean":
            return 1.0
        value, (usual, width) = getattr(self, name), _USUAL[name]
        return 0.0 if value is None else min(max((value - usual) / width, -LARGEST_STATISTIC), LARGEST_STATISTIC)


class Gains(NamedTuple):
    """Factors of a step's rates and of what it forgets."""

    rates: dict[str, float]
    """Of the rate of each field."""
    forgetting: float
    """Of 1 - beta1, the share of the newest gradient in the momentum."""
    forgetting_squares: float
    """Of 1 - beta2, the share of the newest square in the second moments."""


@dataclass(frozen=True, eq=False)
class Controller:
    """A map from statistics to factors; with zeros all factors are exactly 1."""

    numbers: Float[np.ndarray, " d"]
    """In the order of ``NAMES``, float64; each is the logarithm of a factor, per width of its statistic."""

    @classmethod
    def neutral(cls) -> Self:
        """The controller that changes nothing."""
        return cls(np.zeros(len(NAMES)))

    def frozen(self) -> Controller:
        """The same without the responses to the run: what is gained by constants."""
        return Controller(np.where(IS_CONSTANT, self.numbers, 0.0))

    @property
    def responds(self) -> bool:
        """Whether anything depends on the run; without, it is a set of constants."""
        return bool(self.numbers[~IS_CONSTANT].any())

    @property
    def watches_loss(self) -> bool:
        """Whether it makes use of the slope of the loss, which must then be read in every step."""
        return any(number for name, number in zip(NAMES, self.numbers, strict=True) if name.endswith(".slope"))

    def _logarithm(self, output: str, statistics: RunStatistics) -> float:
        first = NAMES.index(f"{output}.{NUMBERS[output][0]}")
        return sum(
            float(self.numbers[first + place]) * statistics.in_widths(name)
            for place, name in enumerate(NUMBERS[output])
        )

    def factor(self, output: str, statistics: RunStatistics) -> float:
        """Factor of one of ``NUMBERS`` other than the rates."""
        return _bounded(self._logarithm(output, statistics))

    def gains(self, statistics: RunStatistics) -> Gains:
        """Factors of a step."""
        together = self._logarithm("rates", statistics)
        return Gains(
            {field: _bounded(together + self._logarithm(field, statistics)) for field in FIELDS},
            self.factor("forgetting", statistics),
            self.factor("forgetting_squares", statistics),
        )

    def split_preference(self, statistics: RunStatistics) -> SplitPreference:
        """What an event of growth splits Gaussians by; neutral numbers leave the mean error alone."""
        visibility, opacity = (
            LARGEST_EXPONENT * math.tanh(self._logarithm(output, statistics) / LARGEST_EXPONENT)
            for output in ("split_visibility", "split_opacity")
        )
        return SplitPreference(self.factor("split_error", statistics), visibility, opacity)

    @property
    def digest(self) -> str:
        """Short hash of the numbers, for fingerprints."""
        return hashlib.sha256(self.numbers.tobytes()).hexdigest()[:16]

    @classmethod
    def from_weights(cls, weights: Weights) -> Self:
        """The controller that weights hold.

        Raises:
            WeightsError: If they are of another system, or are no controller of this version.
        """
        tensors, names = weights.require("controller").tensors, weights.card.architecture.get("numbers")
        if tensors.keys() != {"numbers"} or names != list(NAMES) or tensors["numbers"].shape != (len(NAMES),):
            raise WeightsError(
                f"The controller from {weights.card.source} has other numbers than the {len(NAMES)} of this version; "
                "train it again with 'l2o train-controller'."
            )
        return cls(tensors["numbers"].double().numpy())

    def to_weights(self, card: WeightsCard) -> Weights:
        """The numbers for saving."""
        return Weights({"numbers": torch.from_numpy(self.numbers)}, card)


IS_CONSTANT: np.ndarray = np.array([name.endswith(".mean") for name in NAMES])
"""Which of the numbers count whatever the run is like."""


def _bounded(logarithm: float) -> float:
    """The factor; as steep as the exponential at 0, so that the numbers are logarithms of factors."""
    limit = math.log(LARGEST_FACTOR)
    return math.exp(limit * math.tanh(logarithm / limit))
