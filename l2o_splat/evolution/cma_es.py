"""CMA-ES: a normal distribution that moves to where a function is small, by ranks alone.

After the tutorial of N. Hansen (arXiv 1604.00772), with its default constants and positive weights, and with one
variance per number instead of a whole covariance: d numbers are then learnt (d + 2) / 3 times as fast (sep-CMA-ES, Ros
and Hansen 2008). What is drawn in a generation depends on the distribution, a seed and the number of the generation, so
that a saved distribution goes on exactly; the package needs no file format of another library for that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import numpy as np
from jaxtyping import Float
from typing_extensions import Self


@dataclass(frozen=True, eq=False)
class Distribution:
    """Where candidates are drawn from, and how it came there; float64."""

    mean: Float[np.ndarray, " d"]
    variances: Float[np.ndarray, " d"]
    """Shape of the distribution; its size is ``spread``."""
    spread: float
    """Step size, sigma in the tutorial."""
    spread_path: Float[np.ndarray, " d"]
    """Sum of recent moves of the mean, in which those in opposite directions cancel; its length changes ``spread``."""
    variance_path: Float[np.ndarray, " d"]
    """The same in the units of the numbers, whose variances it raises where it is long."""
    generation: int
    """Updates so far."""

    @classmethod
    def around(cls, mean: Float[np.ndarray, " d"], spread: float) -> Self:
        """A round distribution before the first update."""
        zeros = np.zeros(len(mean))
        return cls(mean.astype(np.float64), np.ones(len(mean)), spread, zeros, zeros, 0)

    def draw(self, count: int, seed: int) -> Float[np.ndarray, "p d"]:
        """The candidates of this generation."""
        normal = np.random.default_rng([seed, self.generation]).standard_normal((count, len(self.mean)))
        return self.mean + self.spread * normal * np.sqrt(self.variances)

    def updated(self, candidates: Float[np.ndarray, "p d"], losses: Float[np.ndarray, " p"]) -> Distribution:
        """The distribution of the next generation.

        Args:
            candidates: As drawn.
            losses: Of each; only their order counts. NaN is worse than any number.

        Raises:
            ValueError: If there are fewer than four candidates, or losses of another number.
        """
        if len(candidates) < 4 or losses.shape != (len(candidates),):
            raise ValueError(
                f"There are {len(candidates)} candidates and losses of shape {losses.shape}; at least four candidates "
                "and a loss for each are needed."
            )
        constants = _Constants.of(len(self.mean), len(candidates))
        ranked = candidates[np.argsort(losses, kind="stable")[: len(constants.weights)]]
        steps = (ranked - self.mean) / self.spread
        move = constants.weights @ steps
        white = move / np.sqrt(self.variances)
        spread_path = _followed(self.spread_path, white, constants.spread_rate, constants.effective)
        length, expected = float(np.linalg.norm(spread_path)), constants.expected_length
        # A path that is long only because the spread is too small must not raise variances.
        faded = 1 - (1 - constants.spread_rate) ** (2 * (self.generation + 1))
        short = length / math.sqrt(faded) < (1.4 + 2 / (len(self.mean) + 1)) * expected
        variance_path = _followed(self.variance_path, move * short, constants.path_rate, constants.effective)
        lost = 0.0 if short else constants.path_rate * (2 - constants.path_rate)
        by_path = variance_path**2 + lost * self.variances
        by_ranks = constants.weights @ steps**2
        kept = 1 - constants.one_rate - constants.ranks_rate
        variances = kept * self.variances + constants.one_rate * by_path + constants.ranks_rate * by_ranks
        return replace(
            self,
            mean=self.mean + self.spread * move,
            variances=variances,
            spread=self.spread * math.exp(constants.spread_rate / constants.damping * (length / expected - 1)),
            spread_path=spread_path,
            variance_path=variance_path,
            generation=self.generation + 1,
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as arrays, for saving."""
        return {entry.name: np.asarray(getattr(self, entry.name)) for entry in fields(self)}

    @classmethod
    def of_arrays(cls, arrays: dict[str, np.ndarray]) -> Self:
        """What :meth:`arrays` made.

        Raises:
            KeyError: If an array is missing.
        """
        values = {entry.name: arrays[entry.name] for entry in fields(cls)}
        return cls(**values | {"spread": float(values["spread"]), "generation": int(values["generation"])})


@dataclass(frozen=True, eq=False)
class _Constants:
    """Defaults of the tutorial (table 1) for a number of dimensions and candidates; both rates of the variances are
    (d + 2) / 3 times as high, since there are fewer of them."""

    weights: Float[np.ndarray, " m"]
    """Weights of the better half of a generation, best first."""
    effective: float
    """Candidates that the weighted mean is worth, mu_eff."""
    spread_rate: float
    damping: float
    path_rate: float
    one_rate: float
    ranks_rate: float
    expected_length: float
    """Expected length of a standard normal vector."""

    @classmethod
    def of(cls, dimensions: int, population: int) -> Self:
        d, half = dimensions, population // 2
        weights = math.log((population + 1) / 2) - np.log(np.arange(1, half + 1))
        weights /= weights.sum()
        mu = float(1 / (weights**2).sum())
        spread_rate = (mu + 2) / (d + mu + 5)
        one_rate = (d + 2) / 3 * 2 / ((d + 1.3) ** 2 + mu)
        return cls(
            weights,
            mu,
            spread_rate,
            damping=1 + 2 * max(0.0, math.sqrt((mu - 1) / (d + 1)) - 1) + spread_rate,
            path_rate=(4 + mu / d) / (d + 4 + 2 * mu / d),
            one_rate=one_rate,
            ranks_rate=min(1 - one_rate, (d + 2) / 3 * 2 * (mu - 2 + 1 / mu) / ((d + 2) ** 2 + mu)),
            expected_length=math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d)),
        )


def _followed(path: np.ndarray, step: np.ndarray, rate: float, effective: float) -> np.ndarray:
    """A path after another step; of unit variance if all steps are random."""
    return (1 - rate) * path + math.sqrt(rate * (2 - rate) * effective) * step
